"""The queue is what the rule defers and nobody has settled; a case is never in two readers' hands."""

import threading
from datetime import date, timedelta

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.utils import timezone

from mlcore import decision
from reviews import adjudication, queue, selectors, visibility, work
from reviews.filters import Filters
from reviews.models import Draft, Label, Lease, Review
from tests import factories
from tests.reviews.conftest import ambiguous, cleaned
from triage import policy
from triage.access import Workplace
from triage.models import AuditEvent, Calibration, Membership, Policy, Prediction


@pytest.fixture
def crowd(place):
    """300 cases with ties in every number and in urgency; the rule's boundaries among them."""
    random = np.random.default_rng(11)
    steps = np.array([0.001, 0.01, 0.02, 0.05, 0.3, 1.0])
    first, second = np.sort(random.choice(steps, (300, 2)), axis=1).T[::-1]
    urgency = list(random.choice([0.1, 0.2, 0.2 + 2**-54, 0.7], 300))
    return factories.predictions(
        place.site, place.protocol, first, second, random.choice(steps, 300), urgency
    )


def everything(place, user, **asked):
    """All rows that the filters leave, page after page."""
    shown, filters = [], Filters(**asked)
    while True:
        now = policy.current(place.site, place.protocol)
        rows = selectors.queue_page(place, user, now, visibility.covered(place, now, user), filters)
        shown += rows[: selectors.PAGE]
        if len(rows) <= selectors.PAGE:
            return shown
        filters = filters._replace(after=shown[-1].case_id)


@pytest.mark.django_db
def test_the_queue_is_what_a_plain_reading_of_the_rule_says(place, reader, lead, crowd):
    """The naive twin: every standing prediction through mlcore.decision, labels and own verdicts taken off by hand."""
    settled = {p.case_id for p in crowd[:100:3]}
    undecided = {p.case_id for p in crowd[1:100:3]}
    of_others = {p.case_id for p in crowd[2:100:3]} | {crowd[110].case_id}
    for prediction in crowd[:100]:
        who = lead if prediction.case_id in settled | of_others else reader
        review = verdict(place, prediction, who)
        if prediction.case_id in settled:
            label(prediction, review)
    Prediction.objects.filter(pk__in=[p.pk for p in crowd[100:110]]).update(current=False)
    old_notes = crowd[110]
    label(old_notes, verdict(place, old_notes, lead), notes_sha256="of other notes")
    taken_back = crowd[111]
    label(
        taken_back,
        verdict(place, taken_back, reader, withdrawn_at=timezone.now()),
        withdrawn_at=timezone.now(),
    )

    names = [decision.NAMES[code] for code in codes(crowd, 0.02, 0.01)]
    gone = settled | undecided | {p.case_id for p in crowd[100:110]}
    expected = sorted(
        (
            (-p.urgency, p.case_id, name)
            for p, name in zip(crowd, names, strict=True)
            if p.case_id not in gone and name != "automatic"
        )
    )
    alone = [row for row in expected if row[1] not in of_others]
    rows = everything(place, reader)
    assert [(row.case_id, row.reason) for row in rows] == [(case, name) for _, case, name in alone]
    before = {(case, "") for _, case, _ in expected if case in of_others}
    assert {(row.case_id, row.reason) for row in everything(place, reader, show="blind")} == before and before
    counts = selectors.counts(place, reader, policy.current(place.site, place.protocol))
    reasons = {kind: sum(name == kind for *_, name in alone) for kind in (*decision.NAMES[1:], policy.HELD)}
    assert counts == reasons | {"": len(before)}


def codes(predictions, alpha, floor):
    numbers = np.array([[p.credibility, p.runner_up, p.typicality] for p in predictions]).T
    return decision.decide(*numbers, alpha, floor)


def verdict(place, prediction, who, **facts):
    import uuid

    return Review.objects.create(
        case_id=prediction.case_id,
        prediction=prediction,
        policy=policy.current(place.site, place.protocol),
        reader=who,
        notes_sha256=prediction.notes_sha256,
        client_key=uuid.uuid4(),
        mode="assisted",
        why="other",
        **facts,
    )


def label(prediction, review, **facts):
    facts = {"notes_sha256": prediction.notes_sha256} | facts
    return Label.objects.create(
        case_id=prediction.case_id, review=review, label=1, provenance="single", propensity=1.0, **facts
    )


def waiting(place, user):
    return {row.case_id for show in ("", "blind") for row in everything(place, user, show=show)}


@pytest.fixture
def sampled(place, crowd):
    """Three cases of ten are drawn to be read blind; waits, note dates and specialties with ties and gaps."""
    facts = policy.FIRST | {"version": 2, "reason": "r", "audit_rate": 0.3}
    Policy.objects.create(site=place.site, protocol=place.protocol, **facts)
    random, now = np.random.default_rng(5), timezone.now()
    for one in crowd:
        one.lot = random.random()
        one.at = now - timedelta(days=int(random.integers(0, 9)), minutes=1)
        one.specialty = str(random.choice(["", "Digestivo", "Urgencias", "Ñ"]))
        one.written_at = random.choice([None, *(date(2021, 1, day) for day in (1, 2, 3))])
    Prediction.objects.bulk_update(crowd, ["lot", "at", "specialty", "written_at"])
    return crowd


def by_hand(crowd, outcome=None):
    """(prediction, reason) of the deferred cases that nobody drew."""
    names = [decision.NAMES[code] for code in codes(crowd, 0.02, 0.01)]
    return [
        (p, name)
        for p, name in zip(crowd, names, strict=True)
        if name != "automatic" and p.lot >= 0.3 and outcome in (None, name)
    ]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("order", "key"),
    {
        "risk": lambda p, name: -p.urgency,
        "wait": lambda p, name: p.at,
        "date": lambda p, name: (p.written_at is None, p.written_at or date.min),
        "reason": lambda p, name: (decision.NAMES.index(name), -p.urgency),
    }.items(),
)
def test_each_order_is_that_of_a_plain_sort_over_all_pages(place, reader, sampled, order, key):
    expected = sorted(by_hand(sampled), key=lambda row: (key(*row), row[0].case_id))
    assert len(expected) > 3 * selectors.PAGE
    assert [row.case_id for row in everything(place, reader, order=order)] == [p.case_id for p, _ in expected]


@pytest.mark.django_db
def test_by_specialty_each_one_is_together_and_its_most_urgent_first(place, reader, sampled):
    """The database's collation says which specialty comes first."""
    rows, urgency = everything(place, reader, order="specialty"), {p.case_id: p.urgency for p in sampled}
    assert {row.case_id for row in rows} == {p.case_id for p, _ in by_hand(sampled)}
    changes = [row.specialty for i, row in enumerate(rows) if not i or rows[i - 1].specialty != row.specialty]
    assert len(changes) == len(set(changes)) == 4
    for name in changes:
        mine = [(-urgency[row.case_id], row.case_id) for row in rows if row.specialty == name]
        assert mine == sorted(mine)


@pytest.mark.django_db
def test_the_filters_leave_what_a_plain_reading_leaves(place, reader, lead, sampled):
    first, second, *_ = (p.case_id for p, _ in by_hand(sampled))
    queue.hold(first, reader), queue.hold(second, lead)
    Lease.objects.create(
        case_id=sampled[-1].case_id, reader=lead, until=timezone.now() - timedelta(minutes=1)
    )
    old = timezone.now() - timedelta(days=4)
    cases = {
        ("reason", "novel"): lambda p, name: name == "novel",
        ("reason", "atypical"): lambda p, name: name == "atypical",
        ("specialty", "Ñ"): lambda p, name: p.specialty == "Ñ",
        ("since", date(2021, 1, 2)): lambda p, name: p.written_at and p.written_at >= date(2021, 1, 2),
        ("until", date(2021, 1, 2)): lambda p, name: p.written_at and p.written_at <= date(2021, 1, 2),
        ("waited", 4): lambda p, name: p.at <= old,
        ("held", "me"): lambda p, name: p.case_id == first,
        ("held", "others"): lambda p, name: p.case_id == second,
        ("held", "nobody"): lambda p, name: p.case_id not in (first, second),
    }
    for (field, value), passes in cases.items():
        expected = {p.case_id for p, name in by_hand(sampled) if passes(p, name)}
        assert {row.case_id for row in everything(place, reader, **{field: value})} == expected, field
        assert expected, field


@pytest.mark.django_db
def test_neither_order_nor_reason_nor_place_tells_a_drawn_case_from_another_read_blind(
    place, reader, lead, sampled
):
    """Automatic and deferred ones, drawn or read before, in the order of their wait alone."""
    names = [decision.NAMES[code] for code in codes(sampled, 0.02, 0.01)]
    before = by_hand(sampled)[0][0]
    verdict(place, before, lead)
    blind = [p for p in sampled if p.lot < 0.3 or p == before]
    rows = everything(place, reader, show="blind")
    assert [row.case_id for row in rows] == [
        p.case_id for p in sorted(blind, key=lambda p: (p.at, p.case_id))
    ]
    assert {row.reason for row in rows} == {""}
    assert {"automatic", "ambiguous"} <= {names[sampled.index(p)] for p in blind}
    now = policy.current(place.site, place.protocol)
    seen = set(selectors.unread(place, now).values_list("pk", flat=True))
    covered = set(selectors.read_blind(place, reader, now).values_list("pk", flat=True))
    assert seen | covered == set(selectors.pending(place, reader, now).values_list("pk", flat=True))
    assert not seen & covered and selectors.counts(place, reader, now)[""] == len(covered)


@pytest.mark.django_db
def test_next_serves_blind_cases_as_often_as_they_wait_the_longest_waiting_first(
    place, reader, sampled, monkeypatch
):
    now = policy.current(place.site, place.protocol)
    counts = selectors.counts(place, reader, now)
    blind = [row.case_id for row in everything(place, reader, show="blind")]
    seen = [row.case_id for row in everything(place, reader)]
    share = counts[""] / sum(counts.values())
    for drawn, expected in ((share - 1e-9, blind[0]), (share + 1e-9, seen[0])):
        monkeypatch.setattr(queue.DRAW, "random", lambda drawn=drawn: drawn)
        assert queue.take_next(place, reader) == expected


@pytest.mark.django_db
def test_what_was_skipped_comes_last(place, reader):
    urgent, second = ambiguous(place, urgency=0.9), ambiguous(place, urgency=0.8)
    assert queue.take_next(place, reader) == urgent.pk
    queue.skip(place, reader, urgent)
    assert queue.take_next(place, reader) == second.pk
    queue.skip(place, reader, second)
    assert queue.take_next(place, reader) == urgent.pk


@pytest.mark.django_db
def test_a_lead_frees_a_case_and_returns_one_that_rests(place, reader, lead):
    case = ambiguous(place)
    queue.hold(case.pk, reader)
    assert queue.release(place, lead, case) and not queue.release(place, lead, case)
    assert queue.take_next(place, lead) == case.pk
    Lease.objects.all().delete()

    assert queue.take_next(place, reader) == case.pk
    asked = adjudication.decide(
        place, reader, case, cleaned(case, reader, "information", comment="¿Serología?")
    )
    assert queue.take_next(place, lead) is None and work.resting(place).get() == asked
    adjudication.resume(place, lead, asked.pk)
    assert not work.resting(place).exists() and queue.take_next(place, lead) == case.pk
    assert Draft.objects.get(reader=reader).comment == "¿Serología?"
    verbs = list(AuditEvent.objects.filter(actor=lead).values_list("verb", flat=True))
    assert verbs == ["lease.release", "review.return"]
    with pytest.raises(adjudication.Conflict):
        adjudication.resume(place, lead, asked.pk)


def scored_again(former, notes_sha256):
    """A later score of the case, written as scoring does: it knows nothing of labels."""
    case, ranks = former.case, {"counts": [9, 9], "typical_counts": [9, 9], "arrays": b"", "held_out": b""}
    case.predictions.update(current=False)
    row = Prediction.objects.get(pk=former.pk)
    row.pk, row._state.adding, row.current, row.labelled = None, True, True, False
    row.calibration = Calibration.objects.create(release=row.release, active=False, **ranks)
    row.notes_sha256 = notes_sha256
    row.save()


@pytest.mark.django_db
def test_a_label_follows_the_notes_through_withdrawal_and_a_new_score(place, reader, lead):
    """The mark the queue reads is the database's own: a label over the same notes, whoever writes which row."""
    case = ambiguous(place)
    first = case.predictions.get()
    standing = label(first, verdict(place, first, lead))
    assert waiting(place, reader) == set()

    scored_again(first, first.notes_sha256)
    assert waiting(place, reader) == set()
    Label.objects.filter(pk=standing.pk).update(withdrawn_at=timezone.now())
    assert waiting(place, reader) == {case.pk}
    label(first, verdict(place, first, reader, withdrawn_at=timezone.now()))
    assert waiting(place, reader) == set()
    scored_again(first, "of more notes")
    assert waiting(place, reader) == {case.pk}


@pytest.mark.django_db
def test_a_row_names_the_last_dated_note_and_the_holder(place, reader, lead):
    case = ambiguous(place)
    factories.note(case.patient, "Sin fecha.", None, "Archivo")
    Prediction.objects.all().delete()
    factories.prediction(case, 0.6, 0.3, 0.5)
    queue.hold(case.pk, lead)
    [row] = everything(place, reader)
    assert (row.specialty, row.username, row.pseudonym) == ("Urgencias", "jefa", case.patient.pseudonym)


@pytest.mark.django_db
def test_a_lease_is_renewed_by_its_holder_and_taken_only_when_it_lapsed(place, reader, lead):
    case = ambiguous(place)
    assert queue.hold(case.pk, reader)
    Lease.objects.update(until=timezone.now() + timedelta(seconds=5))
    assert queue.hold(case.pk, reader) and not queue.hold(case.pk, lead)
    lease = Lease.objects.get()
    assert timedelta(minutes=14) < lease.until - timezone.now() <= timedelta(minutes=15)
    Lease.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert queue.hold(case.pk, lead) and Lease.objects.get().reader == lead


@pytest.mark.django_db
def test_next_skips_what_others_hold_and_gives_back_what_was_only_looked_at(place, reader, lead):
    urgent, second, third = (ambiguous(place, urgency=u) for u in (0.9, 0.8, 0.7))
    assert queue.take_next(place, lead) == urgent.pk
    assert queue.take_next(place, reader) == second.pk
    queue.hold(third.pk, reader)
    adjudication.save_draft(reader, third, "", "a medias", [])
    assert queue.take_next(place, lead) == urgent.pk
    assert set(Lease.objects.filter(reader=reader).values_list("case", flat=True)) == {second.pk, third.pk}
    queue.give_back_idle(place, reader, keep=urgent.pk)
    assert list(Lease.objects.filter(reader=reader).values_list("case", flat=True)) == [third.pk]


@pytest.mark.django_db
def test_nothing_left_is_none(place, reader):
    ambiguous(place, runner_up=0.001)
    assert queue.take_next(place, reader) is None


def at_once(work, many):
    """Run work(i) in many threads with connections of their own; what each returned, exceptions included."""
    start, answers = threading.Barrier(many), [None] * many

    def run(i):
        try:
            start.wait()
            answers[i] = work(i)
        except Exception as error:
            answers[i] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def colleagues(place, many):
    users = [get_user_model().objects.create(username=f"lector-{i}") for i in range(many)]
    memberships = Membership.objects.bulk_create(
        [Membership(user=u, site=place.site, role="reader") for u in users]
    )
    return [(Workplace(place.site, place.protocol, m), u) for m, u in zip(memberships, users, strict=True)]


@pytest.mark.django_db(transaction=True)
def test_promise_12_readers_who_ask_at_once_never_get_the_same_case(place):
    """Twelve readers pull and decide until nothing is left: every case goes to exactly one of them."""
    n = 120
    factories.predictions(place.site, place.protocol, [0.6] * n, [0.3] * n, [0.5] * n, [0.5] * n)

    def work(i):
        mine = []
        where, user = people[i]
        while (case := queue.take_next(where, user)) is not None:
            mine.append(case)
            found = selectors.find_case(where, case)
            adjudication.decide(where, user, found, cleaned(found, user))
        return mine

    people = colleagues(place, 12)
    taken = at_once(work, 12)
    assert not [error for error in taken if isinstance(error, Exception)]
    cases = [case for mine in taken for case in mine]
    assert len(cases) == len(set(cases)) == n == Label.objects.count()
    assert sum(bool(mine) for mine in taken) > 1


@pytest.mark.django_db(transaction=True)
def test_promise_12_one_free_case_goes_to_one_of_twenty(place):
    ambiguous(place)
    people = colleagues(place, 20)
    for _ in range(5):
        Lease.objects.update(until=timezone.now() - timedelta(seconds=1))
        taken = at_once(lambda i: queue.take_next(*people[i]), 20)
        assert sum(case is not None for case in taken) == 1
        assert not [error for error in taken if isinstance(error, Exception)]


PULL = """
import json, os, sys
import django; django.setup()
from django.db import connections
connections["default"].settings_dict["NAME"] = sys.argv[1]
from django.contrib.auth import get_user_model
from reviews import queue
from triage.access import Workplace
from triage.models import Membership
from triage.models import Protocol
taken = []
for name in sys.argv[2:]:
    user = get_user_model().objects.get(username=name)
    member = Membership.objects.get(user=user)
    taken.append(queue.take_next(Workplace(member.site, Protocol.objects.get(slug="hiv-suspicion-es"), member), user))
print(json.dumps(taken))
"""


@pytest.mark.django_db(transaction=True)
def test_promise_12_across_processes(place):
    """Four processes, five readers each, twenty cases: twenty leases on twenty cases."""
    import json
    import os
    import subprocess
    import sys

    factories.predictions(place.site, place.protocol, [0.6] * 20, [0.3] * 20, [0.5] * 20, [0.5] * 20)
    names = [user.username for _, user in colleagues(place, 20)]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "triage.settings"}
    database = connection.settings_dict["NAME"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PULL, database, *names[i::4]],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    taken = [case for process in running for case in json.loads(process.communicate(timeout=120)[0])]
    assert len(taken) == len(set(taken)) == 20 == Lease.objects.count() and None not in taken
