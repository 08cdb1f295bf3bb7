"""Every figure three ways: by hand, against sklearn, torchmetrics or a naive twin, and weights as repeated cases."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, fbeta_score, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from mlcore import metrics, protocols
from mlcore.errors import DataError

COST = [[0.0, 0.5], [1.0, 0.0]]
DEFER = [0.25, 0.5]


def draw(seed, n=300, digits=None, classes=3):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    score = np.clip(0.25 * truth + 0.5 * random.random(n), 0, 1)
    if digits is not None:
        score = score.round(digits)
    label = np.where(random.random(n) < 0.7, truth, random.integers(0, classes, n))
    return truth, label, random.integers(0, 4, n), score


def figures(truth, label, decisions, score, weights=None):
    """Every metric at once, the last class being the target."""
    cost, defer = np.ones((3, 3)) - np.eye(3), [0.1, 0.2, 0.3]
    return {
        "coverage": metrics.coverage(decisions, weights),
        "tpdr": metrics.tpdr(decisions, truth, [2], weights),
        "share": metrics.share(label == truth, truth > 0, weights),
        "f_beta": metrics.f_beta(truth, label, [2], weights=weights),
        "ece": metrics.ece(score, truth == 2, weights),
        "auroc": metrics.auroc(score, truth == 2, weights),
        "average_precision": metrics.average_precision(score, truth == 2, weights),
        "aurc": metrics.aurc(score, label != truth, weights),
        "e_aurc": metrics.e_aurc(score, label != truth, weights),
        "balanced_ece": metrics.balanced_ece(score, truth == 2, label, weights),
        "macro_f1": metrics.macro_f1(truth, label, 3, weights),
        "weighted_f1": metrics.weighted_f1(truth, label, 3, weights),
        "risk_kappa": metrics.risk_kappa(truth, label, decisions, cost, defer, weights),
    }


@pytest.mark.parametrize("digits", [None, 1])
def test_weights_count_cases_as_often_as_repeating_them(digits):
    data = draw(1, digits=digits)
    counts = np.random.default_rng(2).multinomial(300, np.full(300, 1 / 300), size=4).astype(float)
    weighted = figures(*data, weights=counts)
    for b, row in enumerate(counts):
        repeated = figures(*(np.repeat(column, row.astype(int)) for column in data))
        for name, value in repeated.items():
            assert weighted[name][b] == pytest.approx(float(value), abs=1e-12), name


@pytest.mark.parametrize("digits", [None, 2, 1])
def test_auroc_and_average_precision_equal_sklearn(digits):
    truth, _, _, score = draw(3, digits=digits)
    positive = truth == 2
    assert metrics.auroc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    expected = average_precision_score(positive, score)
    assert metrics.average_precision(score, positive) == pytest.approx(expected, abs=1e-12)


def test_f2_equals_sklearn():
    truth, label, _, _ = draw(4)
    for targets in ([2], [1, 2]):
        expected = fbeta_score(np.isin(truth, targets), np.isin(label, targets), beta=2)
        assert metrics.f_beta(truth, label, targets) == pytest.approx(expected, abs=1e-12)


def test_macro_and_weighted_f1_equal_sklearn():
    truth, label, _, _ = draw(4)
    for name, found in (("macro", metrics.macro_f1), ("weighted", metrics.weighted_f1)):
        assert found(truth, label, 3) == pytest.approx(f1_score(truth, label, average=name), abs=1e-12)


def test_a_label_nowhere_true_nor_given_does_not_lower_the_mean():
    truth, label = [0, 0, 1, 1], [0, 1, 1, 1]
    expected = (2 / 3 + 4 / 5) / 2
    assert metrics.macro_f1(truth, label, 3) == pytest.approx(expected)
    assert metrics.weighted_f1(truth, label, 3) == pytest.approx(expected)


def test_f2_by_hand():
    # 2 hits, 1 miss, 3 false alarms: 5 * 2 / (5 * 2 + 4 * 1 + 3)
    truth, label = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1, 0]
    assert metrics.f_beta(truth, label, [1]) == pytest.approx(10 / 17)


def test_ece_equals_torchmetrics():
    truth, _, _, score = draw(5, n=1000)
    theirs = binary_calibration_error(
        torch.tensor(score, dtype=torch.float64), torch.tensor(truth == 2), n_bins=10
    )
    assert metrics.ece(score, truth == 2) == pytest.approx(float(theirs), abs=1e-6)


def test_ece_by_hand():
    # bin [0, .1): two of .05, none right: gap .1 together; bin [.9, 1]: .95 and 1.0, one right: gap .95
    assert metrics.ece([0.05, 0.05, 0.95, 1.0], [0, 0, 1, 0]) == pytest.approx((0.1 + 0.95) / 4)


def test_a_bin_holds_its_lower_edge():
    # .45 stands in [.4, .5) and wrong, .5 in [.5, .6) and right; in one bin the gaps would cancel
    assert metrics.ece([0.45, 0.5], [0, 1]) == pytest.approx((0.45 + 0.5) / 2)


def test_balanced_ece_is_the_mean_of_each_labels_ece():
    truth, label, _, score = draw(10)
    each = [metrics.ece(score[label == c], (truth == 2)[label == c]) for c in range(3)]
    assert metrics.balanced_ece(score, truth == 2, label) == pytest.approx(np.mean(each), abs=1e-15)


def test_balanced_ece_sees_what_ece_drowns():
    """A label given twice in a hundred, always wrongly at .9: a gap of .9 for it, none for the other."""
    confidence, correct, label = [0.9] * 2 + [0.0] * 98, np.zeros(100), [1] * 2 + [0] * 98
    assert metrics.ece(confidence, correct) == pytest.approx(0.018)
    assert metrics.balanced_ece(confidence, correct, label) == pytest.approx(0.45)
    unweighted = np.repeat([0.0, 1.0], [2, 98])
    assert metrics.balanced_ece(confidence, correct, label, unweighted) == 0


def naive_aurc(wrong):
    errors = np.cumsum(wrong)
    return np.mean(errors / np.arange(1, len(wrong) + 1))


def test_aurc_without_ties_is_the_mean_risk():
    _, label, _, score = draw(6)
    wrong = label == 0
    order = np.argsort(-score)
    assert metrics.aurc(score, wrong) == pytest.approx(naive_aurc(wrong[order]), abs=1e-12)


def test_aurc_with_ties_is_the_expectation_over_every_order():
    confidence, wrong = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1]), np.array([0, 1, 0, 0, 1, 1])
    orders = [naive_aurc(wrong[[0, *middle, 5]]) for middle in permutations([1, 2, 3, 4])]
    assert metrics.aurc(confidence, wrong) == pytest.approx(np.mean(orders), abs=1e-12)


def test_e_aurc_is_zero_for_a_perfect_order_whatever_the_errors():
    wrong = np.repeat([0, 1], [30, 10])
    assert metrics.e_aurc(np.linspace(1, 0, 40), wrong) == pytest.approx(0, abs=1e-12)
    assert metrics.e_aurc(np.linspace(1, 0, 40), np.ones(40)) == pytest.approx(0, abs=1e-12)
    assert metrics.e_aurc(np.linspace(1, 0, 40), np.zeros(40)) == 0


def test_e_aurc_takes_off_what_the_oracle_cannot_avoid():
    truth, label, _, score = draw(11, digits=1)
    wrong = label != truth
    expected = metrics.aurc(score, wrong) - naive_aurc(np.sort(wrong))
    assert metrics.e_aurc(score, wrong) == pytest.approx(expected, abs=1e-12)
    # Four cases, one error second: risks 0, 1/2, 1/3, 1/4; the oracle has 0, 0, 0, 1/4.
    assert metrics.e_aurc([0.9, 0.8, 0.7, 0.6], [0, 1, 0, 0]) == pytest.approx((1 / 2 + 1 / 3) / 4)


def test_no_figure_depends_on_the_order_of_rows():
    data = draw(7, digits=1)
    expected = figures(*data)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(300)
        permuted = figures(*(column[order] for column in data))
        for name, value in expected.items():
            assert float(permuted[name]) == pytest.approx(float(value), abs=1e-12), name


def test_risk_coverage_takes_ties_together():
    covered, risk = metrics.risk_coverage([0.9, 0.5, 0.5, 0.1], [0, 1, 0, 1])
    assert covered.tolist() == [0.25, 0.75, 1.0]
    assert risk.tolist() == [0.0, 1 / 3, 0.5]


def test_risk_kappa_by_hand_with_the_papers_matrix():
    # truth 0: 6 cleared rightly, 1 false alarm, 1 deferred; truth 1: 1 missed, 2 found, 1 deferred
    truth = np.repeat([0, 1], [8, 4])
    label = np.array([0] * 6 + [1, 0] + [0, 1, 1, 0])
    decisions = np.array([0] * 7 + [1] + [0, 0, 0, 3])
    borne = 0.5 * 1 + 0.25 * 1 + 1.0 * 1 + 0.5 * 1
    # margins: rows 8 and 4; columns cleared 7, target 3, deferred 2
    expected = (8 * 3 * 0.5 + 8 * 2 * 0.25 + 4 * 7 * 1.0 + 4 * 2 * 0.5) / 12
    found = metrics.risk_kappa(truth, label, decisions, COST, DEFER)
    assert found == pytest.approx(1 - borne / expected, abs=1e-12)


def test_risk_kappa_equals_a_naive_twin_for_four_classes():
    random = np.random.default_rng(8)
    truth, label, decisions = (
        random.integers(0, 4, 200),
        random.integers(0, 4, 200),
        random.integers(0, 4, 200),
    )
    cost, defer = random.random((4, 4)), random.random(4)
    table = np.zeros((4, 5))
    for t, said, d in zip(truth, label, decisions, strict=True):
        table[t, said if d == 0 else 4] += 1
    costs = np.column_stack([cost, defer])
    chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / 200
    expected = 1 - (table * costs).sum() / (chance * costs).sum()
    assert metrics.risk_kappa(truth, label, decisions, cost, defer) == pytest.approx(expected, abs=1e-12)


def test_the_default_reality_is_the_papers_matrix():
    assert metrics.REALITIES[metrics.DEFAULT_REALITY] == (((0.0, 0.5), (1.0, 0.0)), (0.25, 0.5))
    spec = protocols.HIV_SUSPICION_ES
    assert metrics.REALITIES[metrics.DEFAULT_REALITY] == (spec.cost_automatic, spec.cost_defer)


def test_the_realities_are_those_of_table_b1():
    """FN, FP, deferred negative, deferred positive, in the table's order."""
    found = [
        (*costs.automatic[1][:1], costs.automatic[0][1], *costs.defer) for costs in metrics.REALITIES.values()
    ]
    assert found == [
        (1.0, 1.0, 0.0, 0.0),
        (1.0, 0.25, 0.1, 0.25),
        (1.0, 0.5, 0.25, 0.5),
        (1.0, 1.0, 0.5, 0.5),
        (1.0, 0.75, 0.5, 0.75),
    ]
    assert all(costs.automatic[c][c] == 0 for costs in metrics.REALITIES.values() for c in range(2))


def test_deferral_that_costs_nothing_leaves_the_errors_alone():
    truth, label = np.repeat([0, 1], [6, 4]), np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0])
    decisions = np.repeat([0, 1], [9, 1])
    # Borne 1 + 1; by chance 6 * 3 / 10 of the false alarms and 4 * 6 / 10 of the misses.
    found = metrics.risk_kappa(
        truth, label, decisions, *metrics.REALITIES["Zero-Cost Deferral (Maximum Caution)"]
    )
    assert found == pytest.approx(1 - 2 / (1.8 + 2.4), abs=1e-12)


@pytest.mark.parametrize(("truth", "label"), [([0, -1], [0, 1]), ([0, 1], [0, 2])])
def test_risk_kappa_refuses_labels_without_a_cost(truth, label):
    with pytest.raises(DataError, match="labels 0 to 1 only"):
        metrics.risk_kappa(truth, label, [0, 0], COST, DEFER)


def test_risk_kappa_of_a_faultless_automation_is_one():
    truth = np.array([0, 0, 1, 1])
    assert metrics.risk_kappa(truth, truth, np.zeros(4), COST, DEFER) == 1


def test_coverage_and_tpdr_by_hand():
    decisions, truth = [0, 1, 2, 3, 0], [1, 1, 1, 0, 0]
    assert metrics.coverage(decisions) == 0.4
    assert metrics.tpdr(decisions, truth, [1]) == pytest.approx(2 / 3)


def test_what_cannot_be_said_is_nan():
    nobody = np.zeros(4, dtype=int)
    assert np.isnan(metrics.auroc([0.1, 0.2, 0.3, 0.4], nobody))
    assert np.isnan(metrics.average_precision([0.1, 0.2, 0.3, 0.4], nobody))
    assert np.isnan(metrics.tpdr(nobody, nobody, [1]))
    assert np.isnan(metrics.f_beta(nobody, nobody, [1]))
    assert np.isnan(metrics.ece([0.1] * 4, nobody, np.zeros(4)))
    assert np.isnan(metrics.balanced_ece([0.1] * 4, nobody, nobody, np.zeros(4)))


def mean_of(values):
    return lambda weights: weights @ values / weights.sum(axis=-1)


def test_bootstrap_is_the_percentile_interval_of_seeded_resamples(monkeypatch):
    values = np.random.default_rng(9).random(50)
    drawn = np.random.default_rng(metrics.SEED).multinomial(50, np.full(50, 1 / 50), size=1000)
    expected = np.percentile(drawn @ values / 50, [2.5, 97.5])
    everyone = np.ones(50, dtype=bool)
    found = metrics.bootstrap({"mean": (mean_of(values), everyone)}, 50)["mean"]
    assert found == pytest.approx((values.mean(), *expected, 50), abs=1e-12)
    monkeypatch.setattr(metrics, "CELLS_AT_ONCE", 500)
    again = metrics.bootstrap({"mean": (mean_of(values), everyone)}, 50)["mean"]
    assert again == pytest.approx(found, abs=1e-12)


def test_bootstrap_leaves_out_resamples_that_say_nothing():
    """One positive of four: about a third of the resamples miss it, the others give AUROC 1."""
    metric = (
        lambda weights: metrics.auroc([0.9, 0.1, 0.2, 0.3], [1, 0, 0, 0], weights),
        np.ones(4, dtype=bool),
    )
    assert metrics.bootstrap({"auroc": metric}, 4)["auroc"] == (1.0, 1.0, 1.0, 4)


def test_bootstrap_of_what_cannot_be_said_is_nan():
    metric = (lambda weights: metrics.auroc([0.9, 0.1], [0, 0], weights), np.ones(2, dtype=bool))
    found = metrics.bootstrap({"auroc": metric}, 2)["auroc"]
    assert np.isnan(found[:3]).all()
