"""Which readings pair up and what is left out; the readers against the model; what the page says of it."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone, translation
from django.utils.translation import override
from sklearn.metrics import cohen_kappa_score

from mlcore.metrics import Interval
from reviews import agreement, agreement_page
from reviews.lead_forms import PeriodForm
from reviews.models import Adjudication
from tests import factories
from tests.reviews.conftest import url
from triage import policy
from triage.models import AuditEvent, Membership

pytestmark = pytest.mark.django_db
START = timezone.make_aware(datetime(2026, 3, 2, 9))


@pytest.fixture
def people(site, reader):
    others = [get_user_model().objects.create_user(name) for name in ("lectora-b", "lectora-c")]
    Membership.objects.bulk_create([Membership(user=user, site=site, role="reader") for user in others])
    return [reader, *others]


def read(place, *verdicts, numbers=(0.6, 0.3, 0.5), model=1, lot=0.5, at=START, evidence=()):
    """A case and its readings, a minute apart: (user, label, facts)."""
    prediction = factories.prediction(
        factories.case(place.site, place.protocol, "Fiebre y muguet oral."), *numbers, label=model, lot=lot
    )
    for i, (user, label, *facts) in enumerate(verdicts):
        marks = [
            {"note": prediction.note_ids[0], "start": a, "end": b, "label": ""}
            for a, b in (evidence[i] if evidence else ())
        ]
        more = {"at": at + timedelta(minutes=i), "evidence": marks} | (facts[0] if facts else {})
        factories.review(prediction, user, label, **more)
    return prediction


def taken_back(**facts):
    return {"withdrawn_at": START + timedelta(days=1)} | facts


def found(place, since=None, until=None):
    groups = agreement.groups(agreement.readings(place, until))
    return groups, *agreement.pairs(groups, since)


def test_a_pair_is_the_first_two_standing_readings_of_the_same_notes(place, people):
    a, b, c = people
    read(place, (a, 1), (b, 0), (c, 1))
    read(place, (a, 1))
    read(place, (b, None), (c, 1))
    read(place, (a, 1), (b, 0), (c, 1, {"mode": "adjudication"}))
    _, pairs, anew = found(place)
    assert anew == 0
    assert [(p.first.reader, p.first.label, p.second.reader, p.second.label) for p in pairs] == [
        (a.pk, 1, b.pk, 0),
        (b.pk, None, c.pk, 1),
        (a.pk, 1, b.pk, 0),
    ]
    assert [pair.labelled for pair in pairs] == [True, False, True]


def test_other_notes_and_other_sites_do_not_pair(place, people, other_site):
    a, b, _ = people
    prediction = read(place, (a, 1))
    factories.review(prediction, b, 1, notes_sha256="of more notes")
    foreign = factories.prediction(factories.case(other_site, place.protocol), 0.6, 0.3, 0.5)
    factories.review(foreign, a, 1)
    factories.review(foreign, b, 1)
    assert found(place)[1:] == ([], 0)


def test_a_verdict_given_anew_is_no_independent_reading(place, people):
    """Once a verdict stands its reader sees the model's label and the others' words."""
    a, b, _ = people
    read(place, (a, 0, taken_back()), (b, 1), (a, 1))
    read(place, (a, 0, taken_back()), (b, 1))
    groups, pairs, anew = found(place)
    assert (pairs, anew) == ([], 1)
    assert agreement.counts(groups, 2).tolist() == []


def test_the_period_is_that_of_the_second_reading(place, people):
    a, b, _ = people
    read(place, (a, 1, {"at": START}), (b, 1, {"at": START + timedelta(days=3)}))
    for since, until, expected in (
        (date(2026, 3, 3), None, 1),
        (date(2026, 3, 6), None, 0),
        (None, date(2026, 3, 5), 1),
        (None, date(2026, 3, 4), 0),
    ):
        assert len(found(place, since, until)[1]) == expected, (since, until)


@pytest.fixture
def crowd(place, people):
    """Sixty cases over three months, read by changing pairs who agree on most."""
    random = np.random.default_rng(4)
    given = []
    for i in range(60):
        first, second = (people[at] for at in random.permutation(3)[:2])
        label = int(random.integers(2))
        other = label if random.random() < 0.8 else 1 - label
        at = START + timedelta(days=31 * (i // 20), minutes=i)
        read(
            place,
            (first, label),
            (second, other),
            at=at,
            evidence=([(0, 6)], [(0, 6)] if i % 2 else [(0, 9)]),
        )
        given.append((first.pk, label, second.pk, other))
    return given


def test_kappa_by_month_and_by_readers_are_those_of_the_cases_in_them(place, crowd):
    _, pairs, _ = found(place)
    whole = agreement.kappa(pairs, 2)
    assert (whole.n, whole.value) == (
        60,
        pytest.approx(cohen_kappa_score([row[1] for row in crowd], [row[3] for row in crowd])),
    )
    months = agreement.by_month(pairs, 2)
    assert [(month, kappa.n) for month, kappa in months] == [
        (date(2026, 3, 1), 20),
        (date(2026, 4, 1), 20),
        (date(2026, 5, 1), 20),
    ]
    part = crowd[20:40]
    expected = cohen_kappa_score([row[1] for row in part], [row[3] for row in part])
    assert months[1][1].value == pytest.approx(expected)
    matrix = agreement.by_readers(pairs, 2)
    assert sum(kappa.n for kappa in matrix.values()) == 60 and len(matrix) == 3
    two = frozenset(crowd[0][::2])
    ours = [
        (row[1], row[3]) if row[0] == min(two) else (row[3], row[1])
        for row in crowd
        if {row[0], row[2]} == two
    ]
    assert matrix[two].value == pytest.approx(cohen_kappa_score(*zip(*ours, strict=True)))


def test_the_confusion_counts_every_pair_undecided_ones_last(place, people):
    a, b, _ = people
    read(place, (a, 1), (b, 0))
    read(place, (a, 1), (b, None))
    read(place, (a, 0), (b, 0))
    assert agreement.confusion(found(place)[1], 2).tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_spans_are_compared_where_both_marked(place, people):
    a, b, _ = people
    read(place, (a, 1), (b, 1), evidence=([(0, 6)], [(0, 6), (9, 15)]))
    read(place, (a, 1), (b, 1), evidence=([(0, 6)], []))
    read(place, (a, 1), (b, 1))
    spans, one = agreement.spans(found(place)[1])
    assert (spans["exact"].value, spans["exact"].n, one) == (pytest.approx(2 / 3), 1, 1)
    assert spans["overlap"].value == pytest.approx(12 / 18)


def test_automatic_and_second_readings_and_blind_protocols_stay_out_of_the_comparison(place, people):
    """Assisted against blind is a comparison by lot: first readings of deferred cases, those drawn against the rest."""
    a, b, _ = people
    policy.turn(place.site, place.protocol, alpha=0.02, floor=0.01, audit_rate=0.2, reason="-", author=None, base_version=1)  # fmt: skip
    read(place, (a, 1), (b, 0, {"mode": "blind"}))
    read(place, (a, 1, {"mode": "blind"}), lot=0.1)
    read(place, (a, 0, {"mode": "blind"}), lot=0.1)
    read(place, (a, 1, {"mode": "blind"}), lot=0.3)
    read(place, (a, 1, {"mode": "blind"}), lot=0.1, numbers=(0.9, 0.001, 0.5))
    read(place, (a, None))
    bias = agreement.bias(found(place)[0])
    assert (bias.assisted.value, bias.assisted.n) == (1.0, 1)
    assert (bias.blind.value, bias.blind.n) == (0.5, 2)


def test_a_verdict_taken_back_for_good_is_not_counted(place, people):
    """One given anew is: as it was first given."""
    a, b, _ = people
    read(place, (a, 1))
    read(place, (a, 0, taken_back()))
    assert agreement.bias(found(place)[0]).assisted.n == 1
    read(place, (a, 0, taken_back()), (b, 1))
    read(place, (a, 0, taken_back()), (a, 1))
    assisted = agreement.bias(found(place)[0]).assisted
    assert (assisted.n, assisted.value) == (3, pytest.approx(2 / 3))


def test_verdicts_changed_after_the_reveal_are_told_by_where_they_went(place, people):
    a, b, _ = people
    read(place, (a, 0, taken_back()), (a, 1))
    read(place, (a, 1, taken_back()), (a, 0))
    read(place, (a, 1, taken_back()), (a, 1))
    read(place, (a, 0, taken_back()), (b, 1))
    read(place, (a, 0))
    bias = agreement.bias(found(place)[0])
    assert (bias.towards, bias.away, bias.neither) == (1, 1, 0)
    assert (bias.before.value, bias.before.n) == (pytest.approx(3 / 5), 5)
    assert bias.after.value == pytest.approx(3 / 5)
    assert bias.change.value == 0


def test_planted_automation_bias_is_found_and_its_absence_is_not_made_up(place, people):
    policy.turn(place.site, place.protocol, alpha=0.02, floor=0.01, audit_rate=0.5, reason="-", author=None, base_version=1)  # fmt: skip
    a, *_ = people
    random = np.random.default_rng(2)
    for i in range(120):
        blind = i % 2 == 0
        same = random.random() < (0.55 if blind else 0.95)
        mode = {"mode": "blind" if blind else "assisted"}
        read(place, (a, int(same), mode), lot=0.1 if blind else 0.9)
    bias = agreement.bias(found(place)[0])
    assert bias.difference.low > 0.1
    with translation.override("en"):
        assert "more often" in agreement_page._leans(bias.difference)
        assert "holds zero" in agreement_page._leans(Interval(0.1, -0.1, 0.3, 40))


# ---------- The page


def page(place, **period):
    form = PeriodForm(period)
    assert form.is_valid()
    with override("en"):
        return agreement_page.page(place, form)


def test_few_cases_give_no_figure(place, people):
    a, b, _ = people
    for _ in range(9):
        read(place, (a, 1), (b, 1))
    assert all(figure["few"] and figure["n"] == 9 for _, _, figure in page(place)["overall"])
    read(place, (a, 1), (b, 1))
    shown = {name: figure for name, _, figure in page(place)["overall"]}
    assert shown["Same label"]["value"] == "100\u00a0%" and not shown["Same label"]["few"]
    assert shown["Cohen's κ"]["none"]


def test_every_figure_comes_with_its_n_and_interval(place, crowd, lead, signed_in):
    shown = page(place)
    for _, _, figure in shown["overall"]:
        assert figure["n"] == 60 and "–" in figure["interval"]
    assert shown["drift"]["n"] == [20, 20, 20]
    client = signed_in(lead)
    html = client.get(url("agreement", place), HTTP_ACCEPT_LANGUAGE="en").content.decode()
    assert html.count("n = 60") >= 4 and 'id="drift"' in html
    assert "lectora-b" in html
    assert client.get(url("agreement", place) + "?since=2026-05-01&until=2026-03-01").status_code == 400
    assert "n = 20" in client.get(url("agreement", place) + "?since=2026-05-01").content.decode()


def test_an_empty_page_says_what_to_do(place, lead, signed_in):
    html = signed_in(lead).get(url("agreement", place)).content.decode()
    assert url("reading-settings", place) in html.split("<main")[1]


def test_causes_are_counted_where_the_judgement_stands(place, people, lead):
    a, b, _ = people
    for cause, gone in (("slip", None), ("slip", START), ("criteria", None)):
        prediction = read(place, (a, 1), (b, 0))
        review = factories.review(prediction, lead, 1, mode="adjudication", withdrawn_at=gone)
        Adjudication.objects.create(
            case=prediction.case, prediction=prediction, notes_sha256=prediction.notes_sha256,
            closed_at=START, cause=cause, review=review,
        )  # fmt: skip
    assert agreement.causes(place, None, None) == {"slip": 1, "criteria": 1}
    assert agreement.causes(place, date(2026, 4, 1), None) == {}


# ---------- How the protocol is read


def settings(place, client, **changes):
    sent = {"reading": "assisted", "double_share": "0,2", "reason": "Formación.", "was_reading": "assisted", "was_double_share": "0.0"}  # fmt: skip
    return client.post(url("reading-settings", place), sent | changes)


def test_an_admin_sets_the_share_with_a_reason_and_it_is_in_the_trail(place, admin, signed_in):
    assert settings(place, signed_in(admin)).status_code == 302
    place.protocol.refresh_from_db()
    assert place.protocol.double_share == 0.2
    event = AuditEvent.objects.get(verb="protocol.reading")
    assert event.details == {
        "old": {"reading": "assisted", "double_share": 0.0},
        "new": {"reading": "assisted", "double_share": 0.2},
        "reason": "Formación.",
    }
    html = signed_in(admin).get(url("reading-settings", place)).content.decode()
    assert "Formación." in html and 'value="0,2"' in html


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"reason": " "}, 400),
        ({"double_share": "1,5"}, 400),
        ({"double_share": "mucho"}, 400),
        ({"reading": "x"}, 400),
        ({"was_double_share": "0.5"}, 409),
        ({"double_share": "0"}, 409),
    ],
)
def test_a_refusal_changes_nothing_and_keeps_what_was_typed(place, admin, signed_in, change, status):
    refused = settings(place, signed_in(admin), **change)
    assert refused.status_code == status
    place.protocol.refresh_from_db()
    assert (
        place.protocol.double_share == 0 and not AuditEvent.objects.filter(verb="protocol.reading").exists()
    )
    if "reason" not in change:
        assert "Formación." in refused.content.decode()


def test_a_lead_reads_the_settings_and_cannot_change_them(place, lead, signed_in):
    client = signed_in(lead)
    assert client.get(url("reading-settings", place)).status_code == 200
    assert settings(place, client).status_code == 403


def test_a_setting_of_several_sites_wants_an_admin_of_all_and_an_event_in_each_trail(
    place, admin, other_site, signed_in
):
    policy.current(other_site, place.protocol)
    assert settings(place, signed_in(admin)).status_code == 403
    Membership.objects.create(user=admin, site=other_site, role="admin")
    assert settings(place, signed_in(admin)).status_code == 302
    events = AuditEvent.objects.filter(verb="protocol.reading")
    assert set(events.values_list("site", flat=True)) == {place.site.pk, other_site.pk}
