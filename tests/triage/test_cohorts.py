"""Groups of cases by outcome and label, their words from explanations, the baseline from calibration cases."""

from __future__ import annotations

import json
from datetime import date, timedelta
from io import BytesIO

import numpy as np
import pytest
from django.utils import timezone

from mlcore import records, train
from mlcore.cohort import aggregate, terms
from mlcore.protocols import get
from tests import factories
from triage import cohorts, explaining, jobs, synthetic
from triage.models import Baseline, Explanation, Prediction

pytestmark = pytest.mark.django_db
TEXT = "Muguet oral. Fiebre y muguet."
PLACES = {"Muguet": (0, 6), "oral": (7, 11), "Fiebre": (13, 19), "muguet": (22, 28)}


def predicted(site, protocol, label, credibility=0.9, runner_up=0.001, typicality=0.9):
    row = factories.prediction(
        factories.case(site, protocol, TEXT), credibility, runner_up, typicality, label=label
    )
    Prediction.objects.filter(pk=row.pk).update(current=True)
    return row


def explained(prediction, **importance):
    words = [
        {
            "note": 0,
            "start": PLACES[w][0],
            "end": PLACES[w][1],
            "importance": i,
            "margin": i,
            "distance": 0.1,
            "sign": "toward",
        }
        for w, i in importance.items()
    ]
    return Explanation.objects.create(prediction=prediction, status="ready", words=words)


@pytest.fixture
def groups(site, protocol):
    """One case of each kind; a label agrees with the second automatic one only."""
    rows = {
        "wrong": predicted(site, protocol, 0),
        "right": predicted(site, protocol, 1),
        "unlabelled": predicted(site, protocol, 1),
        "ambiguous": predicted(site, protocol, 1, runner_up=0.5),
        "novel": predicted(site, protocol, 1, credibility=0.01, runner_up=0.001),
        "atypical": predicted(site, protocol, 1, typicality=0.005),
    }
    labels = {rows["wrong"].case_id: 1, rows["right"].case_id: 1, rows["ambiguous"].case_id: 0}
    return rows, labels


@pytest.mark.parametrize("cohort", cohorts.COHORTS)
def test_each_case_is_in_its_group_alone(site, protocol, groups, cohort):
    rows, labels = groups
    assert list(cohorts.members(site, protocol, cohort, labels)) == [rows[cohort]]


def test_without_labels_nothing_is_right_or_wrong(site, protocol, groups):
    for cohort in ("right", "wrong"):
        assert not cohorts.members(site, protocol, cohort, {}).exists()


def test_a_former_prediction_and_another_site_are_in_no_group(site, other_site, protocol, groups):
    rows, labels = groups
    Prediction.objects.filter(pk=rows["novel"].pk).update(current=False)
    assert not cohorts.members(site, protocol, "novel", labels).exists()
    assert not cohorts.members(other_site, protocol, "atypical", labels).exists()


def test_the_period_counts_both_its_days(site, protocol, groups):
    _, labels = groups
    day = timezone.localdate()
    for since, until, n in (
        (day, day, 1),
        (None, day - timedelta(days=1), 0),
        (day + timedelta(days=1), None, 0),
        (date(2000, 1, 1), None, 1),
    ):
        assert cohorts.members(site, protocol, "novel", labels, since, until).count() == n


def test_words_are_those_of_the_texts_aggregated(site, protocol, groups):
    rows, labels = groups
    more = [predicted(site, protocol, 1, typicality=0.005) for _ in range(2)]
    explained(rows["atypical"], Muguet=0.1, muguet=0.2, Fiebre=0.3)
    explained(more[0], oral=0.4)
    Baseline.objects.create(release=more[0].release, cases=40, words={"muguet": 0.05})
    found = cohorts.words(site, protocol, "atypical", labels)
    assert (found.members, found.explained, found.baseline) == (3, 2, 40)
    hand = aggregate(
        [
            terms([("muguet", 0.1, 0.1, 0.1), ("muguet", 0.2, 0.2, 0.1), ("fiebre", 0.3, 0.3, 0.1)]),
            terms([("oral", 0.4, 0.4, 0.1)]),
        ]
    )
    assert [(r.word, r.score, r.distance) for r in found.rows] == [
        (r.word, r.score, r.distance) for r in hand
    ]
    assert {r.word: r.baseline for r in found.rows} == {"muguet": 0.05, "fiebre": 0.0, "oral": 0.0}


def test_only_the_prepared_method_counts_and_a_release_without_baseline_has_none(site, protocol, groups):
    rows, labels = groups
    explained(rows["novel"], oral=0.4)
    Explanation.objects.update(method="ablation")
    found = cohorts.words(site, protocol, "novel", labels)
    assert (found.members, found.explained, found.rows, found.baseline) == (1, 0, [], None)


def test_asking_waits_behind_everybody(
    site, protocol, groups, monkeypatch, django_capture_on_commit_callbacks
):
    rows, labels = groups
    woken = []
    monkeypatch.setattr(jobs, "wake_explaining", lambda: woken.append(1))
    with django_capture_on_commit_callbacks(execute=True):
        assert cohorts.ask(site, protocol, "right", labels) == 1
        assert cohorts.ask(site, protocol, "right", labels) == 0
    explaining.request(rows["novel"])
    assert [row.prediction for row in explaining.waiting()] == [rows["novel"], rows["right"]]
    assert woken == [1]


@pytest.fixture(scope="module")
def labelled():
    made = synthetic.generate(640, 11, foreign=0, suspects=0.4, prefix="T")
    lines = "\n".join(json.dumps(synthetic.as_record(p, labelled=True), ensure_ascii=False) for p in made)
    return list(records.read(BytesIO(lines.encode()), "cohort.jsonl", get("hiv-suspicion-es")))


def test_calibration_cases_of_the_training_file_are_found_by_its_split(release, labelled):
    cases, weights = cohorts.calibration_of(release, labelled)
    assert len(cases) == sum(release.card["data"]["shares"]["calibration"].values()) < 640
    labels = records.labels_array(labelled)
    by_texts = {tuple(r.texts): r.label for r in labelled}
    drawn = np.array([by_texts[tuple(case)] for case in cases])
    assert np.average(drawn, weights=weights) == pytest.approx(labels.mean())
    assert "calibration" in train.PARTS


def test_of_another_file_all_cases_stand(release, labelled):
    cases, weights = cohorts.calibration_of(release, labelled[:50])
    assert len(cases) == 50 and weights is None
    shuffled = [labelled[-1], *labelled[:-1]]
    assert len(cohorts.calibration_of(release, shuffled)[0]) == 640


def test_the_baseline_keeps_words_that_name_nobody(release, labelled):
    done = []
    kept = cohorts.baseline(release, [r.texts for r in labelled[:12]], progress=done.append)
    assert kept.cases == 12 and done == list(range(1, 13))
    texts = [" ".join(r.texts).lower() for r in labelled[:12]]
    assert kept.words and all(sum(word in text for text in texts) >= 5 for word in kept.words)
    again = cohorts.baseline(release, [r.texts for r in labelled[:6]])
    assert (again.pk, Baseline.objects.count(), again.cases) == (kept.pk, 1, 6)
