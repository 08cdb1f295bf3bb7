"""Every stored decision is computed again; one altered figure is named, whatever it is."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest
from django.core.management import call_command
from django.utils import timezone

from mlcore.calibrate import Calibration as Ranks
from reviews import readings, replay
from reviews.models import Label, Review
from tests import factories
from triage import policy
from triage.models import Calibration, Prediction

pytestmark = pytest.mark.django_db
ALL = ("predictions", "decisions", "reviews", "propensities")


@pytest.fixture
def scored(place):
    """Forty cases scored by a real calibration, the first ten read under two policies."""
    random = np.random.default_rng(4)
    truth = np.repeat([0, 1], 60)
    logits, distances = drawn(random, truth)
    ranks = Ranks.fit(place.protocol.labels, logits, distances, truth, 1.3)
    active = factories.release(place.protocol)
    calibration = active.calibration_set.get()
    Calibration.objects.filter(pk=calibration.pk).update(arrays=ranks.to_bytes())
    rows = [score(place, ranks, random, i) for i in range(40)]
    return ranks, rows


def drawn(random, truth):
    lean = np.where(truth == 1, 1.5, -1.5)
    logits = np.column_stack([-lean, lean]) + random.normal(0, 1, (len(truth), 2))
    return logits, random.gamma(4, 1, (len(truth), 2))


def score(place, ranks, random, i):
    logits, distances = drawn(random, np.array([i % 2]))
    found = ranks.apply(logits, distances)
    row = factories.prediction(factories.case(place.site, place.protocol), 1, 0, 0, lot=i / 40)
    for name in ("logits", "distances", "probabilities", "p_values"):
        setattr(row, name, getattr(found, name)[0].tolist())
    row.label = int(found.label[0])
    for name in ("credibility", "runner_up", "typicality"):
        setattr(row, name, float(getattr(found, name)[0]))
    row.save()
    return row


@pytest.fixture
def read(scored, place, reader):
    """The first ten read and labelled, half of them under a second policy that draws and one half on hold."""
    _, rows = scored
    turned = turn(place, audit_rate=0.4)
    held = turn(place, automate=False)
    for i, row in enumerate(rows[:10]):
        factories.review(row, reader, i % 2, policy=held if i > 6 else turned)
        readings.settle(row)
    return rows


def turn(place, **changes):
    now = policy.current(place.site, place.protocol)
    same = {"alpha": 0.05, "floor": now.typicality_floor, "reason": "x", "author": None}
    return policy.turn(place.site, place.protocol, base_version=now.version, **(same | changes))


def found(place):
    return replay.everything([place.site], [place.protocol])


def test_all_of_it_comes_out_the_same(read, place):
    checks = found(place)
    assert {name: (c.checked, c.left_out, c.differ) for name, c in checks.items()} == {
        "predictions": (40, 0, 0),
        "decisions": (40, 0, 0),
        "reviews": (10, 0, 0),
        "propensities": (10, 0, 0),
    }
    assert {label.propensity for label in Label.objects.all()} == {0.4, 1.0}


@pytest.mark.parametrize(
    ("field", "bend"),
    [
        ("p_values", lambda values: [np.nextafter(values[0], 2), values[1]]),
        ("p_values", lambda values: values[:1]),
        ("probabilities", lambda values: [values[0], np.nextafter(values[1], 0)]),
        ("logits", lambda values: [values[0] + 0.5, values[1]]),
        ("logits", lambda values: [float("nan"), values[1]]),
        ("distances", lambda values: [d + 5 for d in values]),
        ("typicality", lambda value: np.nextafter(value, 0)),
        ("credibility", lambda value: np.nextafter(value, 2 if value < 1 else 0)),
        ("label", lambda value: 1 - value),
    ],
)
def test_one_altered_figure_is_named(read, place, field, bend, capsys):
    altered = read[17]
    Prediction.objects.filter(pk=altered.pk).update(**{field: bend(getattr(altered, field))})
    assert found(place)["predictions"].ids == [altered.pk]
    with pytest.raises(SystemExit) as ended:
        call_command("replay")
    assert ended.value.code == 1 and f"differ: {altered.pk}\n" in capsys.readouterr().out


def test_a_calibration_that_was_changed_after_it_scored_is_found_out(read, place):
    random = np.random.default_rng(9)
    truth = np.repeat([0, 1], 60)
    other = Ranks.fit(place.protocol.labels, *drawn(random, truth), truth, 1.3)
    Calibration.objects.update(arrays=other.to_bytes())
    assert found(place)["predictions"].differ > 30


def test_predictions_whose_calibration_is_known_by_its_digest_alone_are_left_out(read, place):
    Calibration.objects.update(arrays=b"sha256:" + b"0" * 64)
    check = found(place)["predictions"]
    assert (check.checked, check.left_out, check.differ) == (0, 40, 0)


def test_the_outcome_of_a_reading_is_that_of_its_own_policy(read, place, monkeypatch):
    """A rule in SQL that is not the reference's is told by the very readings it gets wrong."""
    right = policy.outcome

    def wrong(alpha, floor, automate=True):
        return right(0.9, floor, automate)

    monkeypatch.setattr(policy, "outcome", wrong)
    checks = found(place)
    outcomes = {r.pk: policy.outcome_of(r.prediction, r.policy) for r in Review.objects.all()}
    bent = {r.pk: policy.outcome_of(r.prediction, twin(r.policy)) for r in Review.objects.all()}
    differ = {pk for pk in outcomes if outcomes[pk] != bent[pk]}
    assert differ and set(checks["reviews"].ids) == differ and checks["decisions"].differ > 0


def twin(of):
    return policy.Policy(alpha=0.9, typicality_floor=of.typicality_floor, automate=of.automate)


def test_a_propensity_that_no_policy_gave_is_named(read, place):
    label = Label.objects.filter(propensity=0.4).first()
    Label.objects.filter(pk=label.pk).update(propensity=0.5)
    assert found(place)["propensities"].ids == [label.pk]


def test_a_first_reading_taken_back_later_still_counts_for_its_label(scored, place, reader, lead):
    """A could not decide, B gave the label, then A took the reading back: the label was made when A's stood first."""
    row = next(
        r
        for r in scored[1]
        if policy.outcome_of(r, policy.current(place.site, place.protocol)) == "automatic"
    )
    early = timezone.now() - timedelta(hours=3)
    drew, often = turn(place, alpha=0.02, audit_rate=0.2), turn(place, alpha=0.02, audit_rate=0.3)
    first = factories.review(row, reader, None, policy=drew, at=early)
    second = factories.review(row, lead, 1, policy=often, at=early + timedelta(hours=1))
    label = Label.objects.create(
        case=row.case,
        review=second,
        notes_sha256=row.notes_sha256,
        label=1,
        provenance="single",
        propensity=0.2,
        at=second.at,
    )
    assert found(place)["propensities"].differ == 0
    Review.objects.filter(pk=first.pk).update(withdrawn_at=early + timedelta(hours=2))
    assert found(place)["propensities"].differ == 0
    Label.objects.filter(pk=label.pk).update(
        at=early + timedelta(hours=2) - timedelta(milliseconds=20), propensity=0.3
    )
    assert found(place)["propensities"].differ == 0  # made anew as the first was taken back


def test_the_command_writes_a_table_and_a_document(read, place, tmp_path, capsys):
    to = tmp_path / "replay.json"
    call_command("replay", site="norte", protocol="hiv-suspicion-es", json=to)
    document = json.loads(to.read_text())
    assert document["predictions"] == {"checked": 40, "left_out": 0, "differ": 0, "ids": []}
    assert set(ALL) <= set(document)
    assert "computed again and the same: 100 %" in capsys.readouterr().out


def test_only_what_is_asked_for_is_computed(read, other_site, place):
    assert replay.everything([other_site], [place.protocol])["predictions"].checked == 0
