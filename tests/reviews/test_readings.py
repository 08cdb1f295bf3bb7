"""What readings of a case come to, by a table and in the database; and with what probability the case came to be read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone

from reviews import adjudication, queue, readings, selectors
from reviews.adjudication import Conflict
from reviews.forms import AdjudicationForm
from reviews.models import Adjudication, Draft, Label, Review
from reviews.readings import Outcome, outcome
from tests import factories
from tests.reviews.conftest import ambiguous, answer, cleaned
from triage import policy, sampling
from triage.models import AuditEvent, Membership, Policy

NOBODY = None


def reading(label, place, *, double=False, why="", mode="", by=None):
    """The first of some people, with the model's view; a later one blind."""
    return SimpleNamespace(
        label=label,
        double=double,
        why=why or ("" if label is not None else "other"),
        mode=mode or ("blind" if place else "assisted"),
        reader_id=place if by is None else by,
    )


WAIT, DISPUTED = Outcome(), Outcome(disputed=True)
TWICE = {"double": True}
LEAD = {"mode": "adjudication"}
ASKS = {"why": "information"}
SAW = {"mode": "assisted"}


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ([], WAIT),
        ([(1, {})], Outcome(1, "single")),
        ([(0, {})], Outcome(0, "single")),
        ([(NOBODY, {})], WAIT),
        ([(NOBODY, {}), (1, {})], Outcome(1, "single")),
        ([(NOBODY, {}), (NOBODY, {})], DISPUTED),
        ([(1, {}), (0, {})], Outcome(1, "single")),
        ([(1, TWICE)], WAIT),
        ([(NOBODY, TWICE)], WAIT),
        ([(1, TWICE), (1, {})], Outcome(1, "agreed")),
        ([(0, TWICE), (0, {})], Outcome(0, "agreed")),
        ([(1, TWICE), (0, {})], DISPUTED),
        ([(1, TWICE), (NOBODY, {})], DISPUTED),
        ([(NOBODY, TWICE), (1, {})], DISPUTED),
        ([(NOBODY, TWICE), (NOBODY, {})], DISPUTED),
        ([(1, {}), (1, TWICE)], Outcome(1, "agreed")),
        ([(1, TWICE), (1, SAW)], DISPUTED),
        ([(1, TWICE | {"mode": "blind"}), (1, SAW)], DISPUTED),
        ([(1, TWICE), (1, SAW), (1, {})], Outcome(1, "agreed")),
        ([(1, TWICE), (1, {"by": 0})], WAIT),
        ([(1, TWICE), (0, {"by": 0})], WAIT),
        ([(NOBODY, ASKS)], WAIT),
        ([(1, TWICE), (NOBODY, ASKS)], WAIT),
        ([(NOBODY, ASKS), (1, {})], WAIT),
        ([(1, TWICE), (0, {}), (1, LEAD)], Outcome(1, "adjudicated")),
        ([(1, TWICE), (0, {}), (0, LEAD)], Outcome(0, "adjudicated")),
        ([(NOBODY, {}), (NOBODY, {}), (1, LEAD)], Outcome(1, "adjudicated")),
        ([(NOBODY, ASKS), (1, LEAD)], Outcome(1, "adjudicated")),
    ],
)
def test_what_readings_come_to(sequence, expected):
    assert outcome([reading(label, i, **facts) for i, (label, facts) in enumerate(sequence)]) == expected


# ---------- In the database

pytestmark = pytest.mark.django_db


@pytest.fixture
def second(site):
    user = get_user_model().objects.create_user("lector-dos")
    Membership.objects.create(user=user, site=site, role="reader")
    return user


@pytest.fixture
def doubled(place):
    """The protocol in which every case gets two readers."""
    place.protocol.double_share = 1.0
    place.protocol.save()
    return place


def decide(place, user, case, verdict):
    assert queue.hold(case.pk, user)
    return adjudication.decide(place, user, case, cleaned(case, user, verdict))


def judged(place, user, opened, verdict="suspicion", cause="criteria", **changes):
    form = AdjudicationForm(answer(opened.case, user, verdict, cause=cause, **changes), place.protocol)
    assert form.is_valid(), form.errors
    return adjudication.adjudicate(place, user, opened.pk, form.cleaned_data)


def standing(case):
    found = Label.objects.filter(case=case, withdrawn_at=None)
    return [(label.label, label.provenance, label.review.reader_id) for label in found]


def waits_for(place, user):
    now = policy.current(place.site, place.protocol)
    return set(selectors.pending(place, user, now).values_list("case", flat=True))


def test_two_who_agree_make_one_label_that_names_the_second(doubled, reader, second):
    case = ambiguous(doubled)
    decide(doubled, reader, case, "suspicion")
    assert standing(case) == [] and waits_for(doubled, second) == {case.pk}
    assert waits_for(doubled, reader) == set()
    decide(doubled, second, case, "suspicion")
    assert standing(case) == [(1, "agreed", second.pk)]
    assert not Adjudication.objects.exists() and waits_for(doubled, second) == set()


def test_two_who_differ_open_one_case_for_a_lead_and_keep_it_from_readers(doubled, reader, second, lead):
    case = ambiguous(doubled)
    decide(doubled, reader, case, "suspicion")
    decide(doubled, second, case, "non_suspicion")
    opened = Adjudication.objects.get()
    assert (opened.case, opened.closed_at, opened.notes_sha256) == (
        case,
        None,
        case.predictions.get().notes_sha256,
    )
    assert standing(case) == [] and waits_for(doubled, lead) == set()
    assert AuditEvent.objects.filter(verb="adjudication.open").count() == 1


def test_a_lead_judges_and_the_label_keeps_all_of_it(doubled, reader, second, lead):
    case = ambiguous(doubled)
    decide(doubled, reader, case, "suspicion")
    decide(doubled, second, case, "non_suspicion")
    adjudication.save_draft(lead, case, "suspicion", "a medias", [])
    opened = Adjudication.objects.get()
    review = judged(doubled, lead, opened, "suspicion", "overlooked", comment="Lo dice la segunda nota.")
    opened.refresh_from_db()
    assert standing(case) == [(1, "adjudicated", lead.pk)]
    assert (opened.review, opened.cause) == (review, "overlooked") and opened.closed_at
    assert Review.objects.filter(case=case, withdrawn_at=None).count() == 3
    assert not Draft.objects.filter(reader=lead).exists()
    assert AuditEvent.objects.get(verb="adjudication.close").details["cause"] == "overlooked"


def test_the_same_judgement_sent_twice_is_one(doubled, reader, second, lead):
    case = ambiguous(doubled)
    decide(doubled, reader, case, "suspicion")
    decide(doubled, second, case, "non_suspicion")
    opened = Adjudication.objects.get()
    key = "6f1c3c7e-4d5f-4a0e-9a39-0c8f4d0f3c77"
    assert judged(doubled, lead, opened, client_key=key) == judged(doubled, lead, opened, client_key=key)
    with pytest.raises(Conflict):
        judged(doubled, lead, opened)
    assert Label.objects.filter(provenance="adjudicated").count() == 1


def test_nobody_judges_what_they_read(doubled, reader, lead):
    case = ambiguous(doubled)
    decide(doubled, reader, case, "suspicion")
    decide(doubled, lead, case, "non_suspicion")
    with pytest.raises(Conflict):
        judged(doubled, lead, Adjudication.objects.get())
    assert standing(case) == []


def test_a_reading_taken_back_dissolves_the_disagreement_and_one_given_anew_may_open_another(
    doubled, reader, second
):
    case = ambiguous(doubled)
    decide(doubled, reader, case, "suspicion")
    other = decide(doubled, second, case, "non_suspicion")
    adjudication.withdraw(doubled, second, other.pk)
    assert Adjudication.objects.get().closed_at and Adjudication.objects.get().review is None
    assert waits_for(doubled, second) == {case.pk}
    decide(doubled, second, case, "undecided")
    assert Adjudication.objects.filter(closed_at=None).count() == 1
    assert Adjudication.objects.count() == 2


@pytest.mark.parametrize("who", ["reader", "second"])
def test_an_agreed_label_falls_with_either_reading(doubled, reader, second, who):
    case = ambiguous(doubled)
    given = {
        "reader": decide(doubled, reader, case, "suspicion"),
        "second": decide(doubled, second, case, "suspicion"),
    }
    adjudication.withdraw(doubled, given[who].reader, given[who].pk)
    assert standing(case) == []


@pytest.mark.parametrize("drawn", ["", "blind"])
@pytest.mark.parametrize("who", ["reader", "second"])
def test_a_reading_given_anew_after_the_reveal_is_assisted_and_agrees_with_nobody(
    doubled, reader, second, who, drawn
):
    """Even from a page that was drawn blind before the reveal, and left open."""
    case = ambiguous(doubled)
    given = {user.username: decide(doubled, user, case, "suspicion") for user in (reader, second)}
    assert [given[user.username].mode for user in (reader, second)] == ["assisted", "blind"]
    again = {"reader": reader, "second": second}[who]
    adjudication.withdraw(doubled, again, given[again.username].pk)
    anew = adjudication.decide(doubled, again, case, cleaned(case, again, mode=drawn))
    assert anew.mode == "assisted" and standing(case) == []
    assert Adjudication.objects.filter(closed_at=None).count() == 1
    assert waits_for(doubled, reader) == set() == waits_for(doubled, second)


def test_a_first_reading_given_anew_before_the_second_still_finds_agreement(doubled, reader, second):
    case = ambiguous(doubled)
    adjudication.withdraw(doubled, reader, decide(doubled, reader, case, "non_suspicion").pk)
    decide(doubled, reader, case, "suspicion")
    assert decide(doubled, second, case, "suspicion").mode == "blind"
    assert standing(case) == [(1, "agreed", second.pk)]


def test_a_judgement_taken_back_opens_the_case_again_and_holds_the_readers_to_theirs(
    doubled, reader, second, lead
):
    case = ambiguous(doubled)
    first = decide(doubled, reader, case, "suspicion")
    decide(doubled, second, case, "non_suspicion")
    review = judged(doubled, lead, Adjudication.objects.get())
    with pytest.raises(Conflict):
        adjudication.withdraw(doubled, reader, first.pk)
    adjudication.withdraw(doubled, lead, review.pk)
    assert standing(case) == []
    again = Adjudication.objects.get(closed_at=None)
    judged(doubled, lead, again, "non_suspicion", "slip")
    assert standing(case) == [(0, "adjudicated", lead.pk)]


def test_a_wish_for_information_rests_the_case_until_it_is_taken_back_or_new_notes_come(
    place, reader, second
):
    case = ambiguous(place)
    asked = decide(place, reader, case, "information")
    assert waits_for(place, second) == set() == waits_for(place, reader)
    adjudication.withdraw(place, reader, asked.pk)
    assert waits_for(place, second) == {case.pk}
    asked = decide(place, reader, case, "information")
    case.predictions.update(notes_sha256="of more notes")
    assert waits_for(place, second) == {case.pk}


def test_undecided_twice_goes_to_a_lead_undecided_once_to_another_reader(place, reader, second):
    case = ambiguous(place)
    decide(place, reader, case, "undecided")
    assert waits_for(place, second) == {case.pk} and not Adjudication.objects.exists()
    decide(place, second, case, "undecided")
    assert Adjudication.objects.filter(closed_at=None).count() == 1


def test_the_share_of_second_readers_is_drawn_as_verdicts_come(place, reader, monkeypatch):
    place.protocol.double_share = 0.3
    place.protocol.save()
    draws = iter([0.29, 0.3, 0.0, 0.99])
    monkeypatch.setattr(adjudication, "DRAW", SimpleNamespace(random=lambda: next(draws)))
    drawn = [decide(place, reader, ambiguous(place), "suspicion").double for _ in range(4)]
    assert drawn == [True, False, True, False]


# ---------- Propensity


@pytest.fixture
def audited(place):
    """A tenth of the automatic cases is drawn."""
    now = policy.current(place.site, place.protocol)
    return policy.turn(
        place.site, place.protocol, alpha=now.alpha, floor=now.typicality_floor, audit_rate=0.1,
        reason="Muestra.", author=None, base_version=1,
    )  # fmt: skip


def settled_automatically(place, lot):
    case = factories.case(place.site, place.protocol)
    factories.prediction(case, 0.9, 0.001, 0.5, lot=lot)
    return case


def test_a_drawn_automatic_case_is_read_blind_and_its_label_carries_the_audit_rate(place, reader, audited):
    drawn, other = settled_automatically(place, 0.0999), settled_automatically(place, 0.1)
    assert waits_for(place, reader) == {drawn.pk}
    assert queue.hold(drawn.pk, reader)
    review = adjudication.decide(place, reader, drawn, cleaned(drawn, reader, policy=2))
    assert review.mode == "blind"
    assert Label.objects.get(case=drawn).propensity == pytest.approx(0.1)
    queue.hold(other.pk, reader)
    with pytest.raises(Conflict):
        adjudication.decide(place, reader, other, cleaned(other, reader, policy=2))


def test_a_deferred_case_is_certain_to_be_read_whether_drawn_or_not(place, reader, audited):
    for lot in (0.05, 0.5):
        case = factories.case(place.site, place.protocol)
        factories.prediction(case, 0.6, 0.3, 0.5, lot=lot)
        queue.hold(case.pk, reader)
        review = adjudication.decide(place, reader, case, cleaned(case, reader, policy=2))
        assert review.mode == ("blind" if lot < 0.1 else "assisted")
        assert Label.objects.get(case=case).propensity == 1.0


def test_the_propensity_is_that_of_the_first_reading_whatever_the_dial_does_after(
    place, reader, second, audited
):
    place.protocol.double_share = 1.0
    place.protocol.save()
    case = settled_automatically(place, 0.01)
    queue.hold(case.pk, reader)
    adjudication.decide(place, reader, case, cleaned(case, reader, policy=2))
    policy.turn(
        place.site,
        place.protocol,
        alpha=0.02,
        floor=0.01,
        audit_rate=0.5,
        reason="Más.",
        author=None,
        base_version=2,
    )
    queue.hold(case.pk, second)
    adjudication.decide(place, second, case, cleaned(case, second, policy=3))
    label = Label.objects.get(case=case, withdrawn_at=None)
    assert (label.provenance, label.propensity) == ("agreed", pytest.approx(0.1))


def test_lots_are_uniform_fixed_and_not_those_of_other_notes():
    lots = [sampling.lot(case, "0" * 64) for case in range(4000)]
    assert lots == [sampling.lot(case, "0" * 64) for case in range(4000)]
    assert all(0 <= lot < 1 for lot in lots)
    assert sum(lot < 0.1 for lot in lots) / 4000 == pytest.approx(0.1, abs=0.015)
    assert sampling.lot(1, "0" * 64) != sampling.lot(1, "1" * 64)


def test_the_share_read_blind_is_the_same_of_automatic_and_deferred_cases(place, audited):
    """What a reader sees of a case drawn tells nothing of why it is read."""
    outcomes = {"automatic": (0.9, 0.001, 0.5), "ambiguous": (0.6, 0.3, 0.5)}
    for numbers in outcomes.values():
        for lot in (0.01, 0.05, 0.2, 0.6):
            factories.prediction(factories.case(place.site, place.protocol), *numbers, lot=lot)
    rule = policy.outcome(audited.alpha, audited.typicality_floor)
    drawn = policy.standing(place.site, place.protocol).filter(sampling.drawn(audited)).annotate(outcome=rule)
    assert sorted(drawn.values_list("outcome", flat=True)) == ["ambiguous"] * 2 + ["automatic"] * 2
    assert Policy.objects.latest("version").audit_rate == 0.1


def test_no_reading_no_label(place):
    case = ambiguous(place)
    assert readings.settle(case.predictions.get()) is None
    assert timezone.now() and standing(case) == []
