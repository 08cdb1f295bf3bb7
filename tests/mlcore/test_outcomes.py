"""What an evaluation comes to: figures are the metrics' own, and whole groups are resampled."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, fbeta_score

from mlcore import decision, metrics, outcomes, protocols
from mlcore.calibrate import Calibration

SPEC = protocols.MAUDE_SEVERITY_EN


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(3)
    truth = rng.choice(4, size=700, p=[0.1, 0.4, 0.3, 0.2])
    logits = rng.normal(size=(700, 4)) + 3 * np.eye(4)[truth]
    distances = np.abs(rng.normal(size=(700, 4)))
    calibration = Calibration.fit(SPEC.labels, logits[:500], distances[:500], truth[:500], 1.0)
    return truth[500:], calibration.apply(logits[500:], distances[500:])


def test_the_figures_are_the_metrics_own(scored):
    truth, scores = scored
    decisions = decision.decide_by("dual", scores, 0.1, 0.01)
    named = outcomes.overall(SPEC, truth, scores) | outcomes.decided(SPEC, truth, scores, decisions)
    found = outcomes.figures(named, [str(i) for i in range(200)], replicates=20)
    dead, said = truth == 3, scores.label == 3
    sure = scores.probabilities[np.arange(200), scores.label]
    automatic = decisions == decision.AUTOMATIC
    expected = {
        "auroc": metrics.auroc(scores.probabilities[:, 3], dead),
        "e_aurc": metrics.e_aurc(sure, scores.label != truth),
        "balanced_ece": metrics.balanced_ece(scores.probabilities[:, 3], dead, scores.label),
        "clear_f2": metrics.f_beta(truth[automatic], scores.label[automatic], {3}),
        "npv": (~dead)[automatic & ~said].mean(),
        "tpdr": (~automatic)[dead].mean(),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(float(value), abs=1e-12)
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert (found["auroc"]["n"], found["tpdr"]["n"]) == (200, dead.sum())
    assert found["clear_f2"]["n"] == automatic.sum()


def test_sets_are_counted_among_the_cases_of_each_label(scored):
    truth, scores = scored
    found = outcomes.figures(outcomes.covered(SPEC, truth, scores, 0.1), list(map(str, range(200))), 20)
    for c, label in enumerate(SPEC.labels):
        at = found["set_coverage"][label]
        assert at["value"] == pytest.approx((scores.p_values[truth == c, c] > 0.1).mean())
        assert at["n"] == (truth == c).sum()


def test_each_label_has_its_f1_and_each_target_its_own_figures(scored):
    truth, scores = scored
    spec = dataclasses.replace(SPEC, targets=("Injury", "Death"))
    decisions = decision.decide_by("dual", scores, 0.1, 0.01)
    named = outcomes.by_label(spec, truth, scores) | outcomes.decided_by_target(
        spec, truth, scores, decisions
    )
    found = outcomes.figures(named, list(map(str, range(200))), 20)
    likeliest = scores.probabilities.argmax(axis=1)
    assert (likeliest != scores.label).any()
    for key, said in (("f1", likeliest), ("f1_given", scores.label)):
        each = f1_score(truth, said, average=None)
        assert [found[key][label]["value"] for label in SPEC.labels] == pytest.approx(each)
        assert found[f"{key}_macro"]["value"] == pytest.approx(each.mean())
        assert found[f"{key}_weighted"]["value"] == pytest.approx(f1_score(truth, said, average="weighted"))
    automatic = decisions == decision.AUTOMATIC
    for c, target in ((2, "Injury"), (3, "Death")):
        own = truth == c
        assert found["f2_of"][target]["value"] == pytest.approx(fbeta_score(own, scores.label == c, beta=2))
        assert found["tpdr_of"][target]["value"] == pytest.approx((~automatic)[own].mean())
        clear = fbeta_score(own[automatic], (scores.label == c)[automatic], beta=2)
        assert found["clear_f2_of"][target]["value"] == pytest.approx(clear)


def test_what_stands_beside_a_label_in_its_sets(scored):
    truth, scores = scored
    found = outcomes.figures(outcomes.held(SPEC, truth, scores, 0.05), list(map(str, range(200))), 20)
    for t, true in enumerate(SPEC.labels):
        for c, label in enumerate(SPEC.labels):
            share = (scores.p_values[truth == t, c] > 0.05).mean()
            assert found["in_set"][true][label]["value"] == pytest.approx(share)


def test_recall_of_the_critical_label_among_automatic_cases_by_clopper_and_pearson(scored):
    truth, scores = scored
    decisions = decision.decide_by("dual", scores, 0.1, 0.01)
    [(label, found)] = outcomes.recalls(SPEC, truth, scores, decisions).items()
    dead = (truth == 3) & (decisions == decision.AUTOMATIC)
    right = int((dead & (scores.label == 3)).sum())
    n = int(dead.sum())
    assert (label, found["n"], found["missed"]) == ("Death", n, n - right) and n > 10
    assert found["value"] == right / n
    low, high = (stats.beta.ppf(0.025, right, n - right + 1), stats.beta.ppf(0.975, right + 1, n - right))
    assert found["low"] == pytest.approx(low, abs=1e-9)
    assert found["high"] == pytest.approx(high if right < n else 1.0, abs=1e-9)
    nobody = outcomes.recalls(SPEC, truth, scores, np.full(200, decision.AMBIGUOUS, dtype=np.int8))
    assert nobody["Death"] == {"value": None, "low": None, "high": None, "n": 0, "missed": 0}


def test_figures_are_called_by_the_target_where_there_are_more_than_two_labels():
    assert outcomes.meanings(protocols.HIV_SUSPICION_ES) == outcomes.MEANINGS
    named = outcomes.meanings(SPEC)
    assert (named["tpdr"], named["f2"]) == ("TPDR of Death", "F2 of Death with every case decided")
    assert list(named) == list(outcomes.MEANINGS)
    assert not {"NPV", "PPV"} & set(named.values())


def test_names_with_slashes_become_places():
    one = (lambda w: w.sum(axis=-1), np.ones(3, dtype=bool))
    found = outcomes.figures({"a/b/c": one, "a/d": one}, ["x", "y", "z"], 5)
    assert found["a"]["b"]["c"] == found["a"]["d"] == {"value": 3.0, "low": 3.0, "high": 3.0, "n": 3}


def test_whole_groups_are_resampled():
    """Ten groups of ten alike: the interval is that of ten cases, not of a hundred."""
    value = np.repeat(np.arange(10) < 5, 10)
    mean = {"share": (lambda w: metrics.share(value, np.ones(100, bool), w), np.ones(100, bool))}
    grouped = outcomes.figures(mean, [f"g{i // 10}" for i in range(100)], 2000)["share"]
    alone = outcomes.figures(mean, [f"g{i}" for i in range(100)], 2000)["share"]
    naive = np.random.default_rng(1).binomial(10, 0.5, 20000) / 10
    assert [grouped["low"], grouped["high"]] == pytest.approx(np.percentile(naive, [2.5, 97.5]), abs=0.11)
    assert alone["high"] - alone["low"] < 0.25 < grouped["high"] - grouped["low"]


def test_what_cannot_be_said_is_none(scored):
    truth, scores = scored
    nobody = np.full(200, decision.AMBIGUOUS, dtype=np.int8)
    found = outcomes.figures(outcomes.decided(SPEC, truth, scores, nobody), list(map(str, range(200))), 10)
    assert found["clear_f2"] == {"value": None, "low": None, "high": None, "n": 0}
    assert found["coverage"]["value"] == 0


def test_chosen_takes_the_same_cases_of_every_array(scored):
    _, scores = scored
    few = outcomes.chosen(scores, np.array([5, 2]))
    for field in dataclasses.fields(scores):
        assert (getattr(few, field.name) == getattr(scores, field.name)[[5, 2]]).all()
