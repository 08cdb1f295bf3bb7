"""What the instruments say is what the rows say: certificates, prices, and the cases that change hands."""

from __future__ import annotations

import uuid
from datetime import timedelta
from math import ceil, log

import numpy as np
import pytest
from django.utils import timezone, translation
from safetensors.numpy import save

from mlcore import certify, metrics
from reviews import instrument, instrument_page
from reviews.instrument_forms import CertifyForm, MatrixForm, TriedForm
from reviews.models import Label, Review
from tests import factories
from tests.reviews.conftest import url
from triage import dial as dialling
from triage import policy
from triage.access import Workplace
from triage.models import Calibration, Membership, Policy, Prediction

pytestmark = pytest.mark.django_db
RATE = 0.25


@pytest.fixture
def place(site, protocol, lead):
    """A site that has drawn a quarter of its cases for ten weeks."""
    begun = timezone.now() - timedelta(weeks=10)
    facts = policy.FIRST | {"audit_rate": RATE, "reason": "x", "at": begun, "starts_at": begun}
    Policy.objects.create(site=site, protocol=protocol, version=1, **facts)
    return Workplace(site, protocol, Membership.objects.get(user=lead))


def today(place):
    return policy.current(place.site, place.protocol)


def stream(place, n, seed=5, clear=0.8):
    """n cases of the last eight weeks: most of them clear and right, lots evenly spread; (predictions, their truth)."""
    random = np.random.default_rng(seed)
    easy = random.random(n) < clear
    runner_up = np.where(easy, random.uniform(0, 0.01, n), random.uniform(0, 0.3, n))
    credibility = np.maximum(runner_up, random.uniform(0.05, 1, n))
    rows = factories.predictions(place.site, place.protocol, credibility, runner_up, random.uniform(0, 1, n))
    label = (random.random(n) < 0.3).astype(int)
    truth = np.where(easy | (random.random(n) < 0.8), label, 1 - label)
    for i, row in enumerate(rows):
        row.label, row.lot, row.urgency = int(label[i]), float(random.random()), float(random.random())
        row.at = timezone.now() - timedelta(weeks=8 * i / n, hours=1)
    Prediction.objects.bulk_update(rows, ["label", "lot", "urgency", "at"])
    return rows, truth


def read_out(place, reader, rows, truth, which):
    """Labels of the cases for which ``which(row)`` holds, each read half an hour after it came."""
    now = today(place)
    read = [(row, int(given)) for row, given in zip(rows, truth, strict=True) if which(row)]
    facts = {"reader": reader, "policy": now, "mode": "blind", "seconds": 40}
    reviews = Review.objects.bulk_create(
        [
            Review(
                case_id=row.case_id,
                prediction=row,
                notes_sha256=row.notes_sha256,
                label=given,
                client_key=uuid.uuid4(),
                at=row.at + timedelta(minutes=30),
                **facts,
            )
            for row, given in read
        ]
    )
    Label.objects.bulk_create(
        [
            Label(
                case_id=row.case_id,
                review=review,
                notes_sha256=row.notes_sha256,
                label=given,
                provenance="single",
                propensity=1.0,
            )
            for (row, given), review in zip(read, reviews, strict=True)
        ]
    )


@pytest.fixture
def audited(place, reader):
    rows, truth = stream(place, 1200)
    read_out(place, reader, rows, truth, lambda row: row.lot < RATE)
    return rows, truth


def test_only_what_was_drawn_certifies_whatever_the_queue_labelled(place, reader):
    rows, truth = stream(place, 400)
    read_out(place, reader, rows, truth, lambda row: row.lot < RATE or row.runner_up > 0.02)
    found = instrument.audit(place)
    drawn = [row for row in rows if row.lot < RATE]
    assert sorted(found.cases.runner_up) == sorted(row.runner_up for row in drawn)
    assert set(found.cases.weight) == {1 / RATE} and found.heaviest == 1 / RATE
    told = dict(zip(found.cases.runner_up, found.cases.truth, strict=True))
    assert all(told[row.runner_up] == given for row, given in zip(rows, truth, strict=True) if row in drawn)


def test_a_week_with_an_unread_case_does_not_count(place, reader):
    rows, truth = stream(place, 400)
    drawn = [row for row in rows if row.lot < RATE]
    read_out(place, reader, rows, truth, lambda row: row.lot < RATE and row != drawn[0])
    found = instrument.audit(place)
    assert found.waiting == 1 and found.open > 0
    assert len(found.cases.truth) == len(drawn) - 1 - found.open


def test_cases_that_made_the_calibration_do_not_certify_it(audited, place):
    late = sorted({(row.at - timedelta(days=row.at.weekday())).date().isoformat() for row in audited[0]})
    before = len(instrument.audit(place).cases.truth)
    Calibration.objects.update(made_of={"weeks": [late[0], late[3]]})
    found = instrument.audit(place)
    assert 0 < len(found.cases.truth) < before and found.own == before - len(found.cases.truth)


@pytest.mark.parametrize("side", ["negative", "positive"])
@pytest.mark.parametrize("beyond", [0.0, RATE])
def test_shares_of_the_site_are_those_of_its_rows(audited, place, side, beyond):
    rows = [row for row in Prediction.objects.all() if row.lot >= beyond]
    Prediction.objects.filter(pk=rows[0].pk).update(runner_up=dialling.ALPHAS[7])  # a tie
    rows = [row for row in Prediction.objects.all() if row.lot >= beyond]
    shares = instrument.automatic_shares(place, 0.1, side, beyond)
    for alpha, share in zip(dialling.ALPHAS, shares, strict=True):
        settled = [r for r in rows if r.runner_up <= alpha < r.credibility and r.typicality > 0.1]
        assert share == sum(r.label == (side == "positive") for r in settled) / len(rows)


def test_the_sites_certificate_is_that_of_its_drawn_cases(audited, place):
    own = instrument.audit(place)
    [found] = instrument.certified(place, own, None, 0.05, 0.01, "negative")
    rows, truth = audited
    drawn = [(row, given) for row, given in zip(rows, truth, strict=True) if row.lot < RATE]
    assert found.of == "site" and found.n == len(drawn)
    best = next(row for row in found.certificate.rows if row.alpha == found.certificate.alpha)
    settled = [
        (row, given)
        for row, given in drawn
        if row.runner_up <= best.alpha < row.credibility and row.typicality > 0.01 and row.label == 0
    ]
    assert (best.n, best.wrong) == (len(settled), sum(given for _, given in settled))
    assert best.upper <= 0.05 and best.method == "binomial"


def test_a_rate_out_of_reach_says_how_many_reads_and_weeks_are_missing(audited, place):
    own = instrument.audit(place)
    [found] = instrument.certified(place, own, None, 0.001, 0.01, "negative")
    assert found.certificate.alpha is None
    assert found.reads == found.certificate.nearest.reads_at_best > 1000
    assert found.weeks == found.reads / own.a_week
    [said] = page(place)["certificates"]
    assert "more audit reads at best" in said["said"] and f"{ceil(found.weeks):,}" in said["said"]


def test_without_a_single_label_the_reads_are_those_a_right_sample_needs(place):
    stream(place, 300)
    [found] = instrument.certified(place, instrument.audit(place), None, 0.01, 0.01, "negative")
    most = instrument.automatic_shares(place, 0.01, "negative", 0.0).max()
    assert found.certificate is None and found.n == 0
    assert found.reads == ceil(ceil(log(0.05) / log(0.99)) / most)
    assert found.weeks is None


def page(place, **query):
    with translation.override("en"):
        asked = CertifyForm.asked(query, today(place).typicality_floor)
        return instrument_page.page(place, asked, MatrixForm.asked(query, place.protocol))


def test_without_an_audit_rate_the_sentence_asks_for_one(site, protocol, lead):
    there = Workplace(site, protocol, Membership.objects.get(user=lead))
    factories.predictions(site, protocol, [0.9] * 5, [0.001] * 5, [0.5] * 5)
    [said] = page(there)["certificates"]
    assert "give the dial an audit rate first" in said["said"] and said["alpha"] is None


def held_out(n=400, wrong=4):
    """Calibration cases of both labels: clear, but for a few that are clear and wrong."""
    random = np.random.default_rng(8)
    truth = np.repeat([0, 1], n // 2)
    label = truth.copy()
    label[np.r_[:wrong, n // 2 : n // 2 + wrong]] ^= 1
    numbers = {
        "credibility": random.uniform(0.3, 1, n),
        "runner_up": random.uniform(0, 0.15, n),
        "typicality": random.uniform(0, 1, n),
    }
    return {"truth": truth, "label": label, "weight": np.where(truth, 0.4, 1.6), **numbers}


@pytest.fixture
def calibrated(audited):
    arrays = held_out()
    Calibration.objects.update(held_out=save(arrays))
    return arrays


def test_the_calibration_file_certifies_apart_and_says_what_it_assumes(calibrated, place):
    own, known = instrument.audit(place), instrument.calibrated(place)
    site, file = instrument.certified(place, own, known, 0.05, 0.01, "negative")
    alone = certify.certify(
        certify.Labelled(**calibrated), dialling.ALPHAS, 0.05, targets=(1,), floor=0.01, side="negative"
    )
    assert (site.of, file.of) == ("site", "calibration")
    assert repr(file.certificate) == repr(alone) and file.n == 400 and site.n != 400
    told = page(place)["certificates"]
    assert "as far as this site's cases are like that file" in told[1]["basis"]


def test_a_price_chooses_the_alpha_of_least_cost(calibrated):
    cases = certify.Labelled(**calibrated)
    found = instrument.priced(
        cases, 0.01, Policy(alpha=0.03, typicality_floor=0.01, automate=True), metrics.REALITIES
    )
    for name, price in metrics.REALITIES.items():
        twin = certify.by_cost(cases, dialling.ALPHAS, 0.01, *price)
        chosen = found[name]
        assert chosen.alpha.value <= twin.alpha  # the first of equals, however their sums are rounded
        assert chosen.cost.value == pytest.approx(twin.cost)
        assert chosen.reading_all == pytest.approx(twin.deferring)
        assert chosen.cost.low <= chosen.cost.value <= chosen.cost.high
        assert chosen.alpha.low <= chosen.alpha.value <= chosen.alpha.high
    now = certify.by_cost(cases, [0.03], 0.01, *metrics.REALITIES[metrics.DEFAULT_REALITY])
    assert found[metrics.DEFAULT_REALITY].today == pytest.approx(now.cost)


def test_prices_stand_on_the_sites_own_sample_once_it_is_large_enough(calibrated, place, monkeypatch):
    assert page(place)["prices"]["site"] is True
    monkeypatch.setattr(instrument, "OWN_LEAST", 10_000)
    there = page(place)["prices"]
    assert (there["site"], there["n"], len(there["rows"])) == (False, 400, 5)


def test_a_matrix_of_ones_own_is_priced_beside_the_presets(calibrated, place):
    typed = {"settled_0_0": "0", "settled_0_1": "0,5", "settled_1_0": "50", "settled_1_1": "0"}
    *_, own = page(place, **typed, read_0="0.01", read_1="0.01")["prices"]["rows"]
    twin = metrics.Costs(((0.0, 0.5), (50.0, 0.0)), (0.01, 0.01))
    cases = instrument.audit(place).cases
    assert own["alpha"] == pytest.approx(certify.by_cost(cases, dialling.ALPHAS, 0.01, *twin).alpha)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ({"settled_1_0": "-1"}, "at least 0"),
        ({"settled_1_0": "much"}, "number"),
        ({"settled_1_0": "nan"}, "number"),
        ({"settled_1_0": ""}, "Every cell needs a number"),
        (dict.fromkeys(("settled_1_0", "settled_0_1", "read_0", "read_1"), "0"), "At least one cost"),
    ],
)
def test_a_matrix_that_is_none_is_refused_in_a_sentence(signed_in, lead, place, calibrated, cell, sentence):
    whole = {"settled_0_0": "0", "settled_0_1": "1", "settled_1_0": "1", "settled_1_1": "0"}
    query = whole | {"read_0": "1", "read_1": "1"} | cell
    client = signed_in(lead)
    client.cookies["django_language"] = "en"
    answer = client.get(url("dial-instruments", place), query)
    assert answer.status_code == 400 and sentence in answer.content.decode()


def test_four_labels_have_their_own_matrix_and_no_preset(site, lead):
    from triage.models import Protocol

    there = Workplace(site, Protocol.objects.get(slug="maude-severity-en"), Membership.objects.get(user=lead))
    prices, _names = instrument_page._offered(there, MatrixForm(None, there.protocol))
    assert list(prices) == [instrument_page.PROTOCOL] and len(MatrixForm(None, there.protocol).fields) == 20


def now_and_then(place, rows, then):
    """Of each row whether it is automatic now and would be then."""
    now = today(place)
    return [
        (
            policy.outcome_of(row, now) == policy.AUTOMATIC,
            policy.outcome_of(row, then) == policy.AUTOMATIC,
        )
        for row in rows
    ]


@pytest.mark.parametrize(
    "then",
    [
        {"alpha": 0.1, "typicality_floor": 0.01},
        {"alpha": 0.005, "typicality_floor": 0.2},
        {"alpha": 0.02, "typicality_floor": 0.01, "automate": False},
    ],
)
def test_the_cases_that_change_hands_are_those_and_the_covered_are_only_counted(place, lead, then):
    rows, _ = stream(place, 400)
    then = Policy(**then)
    pages, after = [], None
    while True:
        found = instrument.changing_hands(place, lead, today(place), then, after)
        pages += found.rows
        after = found.more
        if not after:
            break
    hands = now_and_then(place, rows, then)
    changed = [row for row, (now, later) in zip(rows, hands, strict=True) if now != later]
    told = [row for row in changed if row.lot >= RATE]
    assert [row.pk for row in pages] == [r.pk for r in sorted(told, key=lambda r: (-r.urgency, r.case_id))]
    assert found.covered == len(changed) - len(told) > 0
    assert found.to_automatic + found.to_reader == len(told) > 20


def test_a_case_one_has_read_oneself_is_told_though_it_was_drawn(place, lead):
    rows, _truth = stream(place, 60)
    then = Policy(alpha=0.02, typicality_floor=0.01, automate=False)
    drawn = [r for r in rows if r.lot < RATE and policy.outcome_of(r, today(place)) == policy.AUTOMATIC]
    assert drawn[0].pk not in {r.pk for r in instrument.changing_hands(place, lead, today(place), then).rows}
    before = instrument.changing_hands(place, lead, today(place), then)
    factories.review(drawn[0], lead, 1, mode="blind")
    after = instrument.changing_hands(place, lead, today(place), then)
    assert (after.covered, after.to_reader) == (before.covered - 1, before.to_reader + 1)


def test_a_blind_protocol_names_nobody(place, lead, protocol):
    stream(place, 60)
    place.protocol.reading = "blind"
    found = instrument.changing_hands(place, lead, today(place), Policy(alpha=0.1, typicality_floor=0.3))
    assert found.rows == [] and found.covered > 0 and found.to_reader == found.to_automatic == 0


@pytest.mark.parametrize("name", ["dial-instruments", "dial-changes"])
def test_readers_are_told_whose_pages_these_are(signed_in, reader, lead, place, audited, name):
    assert signed_in(reader).get(url(name, place)).status_code == 403
    whole = signed_in(lead).get(url(name, place)).content.decode()
    part = signed_in(lead).get(url(name, place), {"part": 1}).content.decode()
    assert "<html" in whole and "<html" not in part and "<form" in part
    assert signed_in(lead).post(url(name, place)).status_code == 405


@pytest.mark.parametrize(
    "query", [{"per_thousand": "0"}, {"side": "left"}, {"floor": "2"}, {"per_thousand": "x"}]
)
def test_what_cannot_be_certified_is_refused_and_kept(signed_in, lead, place, audited, query):
    answer = signed_in(lead).get(url("dial-instruments", place), query)
    assert answer.status_code == 400 and 'role="alert"' in answer.content.decode()
    [typed] = query.values()
    assert f'value="{typed}"' in answer.content.decode() or typed == "left"


@pytest.mark.parametrize(("typed", "certified"), [("target", "positive"), ("other", "negative")])
def test_the_address_names_the_side_as_any_number_of_labels_has_it(typed, certified):
    form = CertifyForm.asked({"side": typed}, 0.01)
    assert form.is_valid() and form.cleaned_data["side"] == certified
    assert not CertifyForm.asked({"side": certified}, 0.01).is_valid()


@pytest.mark.parametrize("query", [{"alpha": "0"}, {"floor": "9"}, {"after": "x"}, {"after": "-4"}])
def test_a_dial_that_cannot_be_tried_is_refused(signed_in, lead, place, audited, query):
    answer = signed_in(lead).get(url("dial-changes", place), query)
    assert answer.status_code == 400 and 'role="alert"' in answer.content.decode()


def test_names_are_escaped_and_a_page_begins_after_a_case(signed_in, lead, place):
    stream(place, 300)
    shown = instrument.changing_hands(place, lead, today(place), Policy(alpha=0.2, typicality_floor=0.01))
    worst = Prediction.objects.get(pk=shown.rows[0].pk).case.patient
    worst.pseudonym = "<script>alert(1)</script>"
    worst.save()
    first = signed_in(lead).get(url("dial-changes", place), {"alpha": "0,2"}).content.decode()
    assert "<script>alert" not in first and "&lt;script&gt;" in first and f"after={shown.more}" in first
    second = signed_in(lead).get(url("dial-changes", place), {"alpha": "0.2", "after": shown.more})
    assert "&lt;script&gt;" not in second.content.decode()


def test_a_hold_stays_a_hold_unless_said_otherwise(place):
    held = policy.hold(place.site, place.protocol, reason="x")
    forms = [TriedForm.asked(query, held) for query in ({}, {"automate": "1"})]
    assert all(form.is_valid() for form in forms)
    assert [form.cleaned_data["automate"] for form in forms] == [False, True]
