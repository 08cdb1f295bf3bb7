"""Averages by hand, the ensemble's calibration against a naive twin, and every refusal."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from mlcore import decision
from mlcore.calibrate import Calibration, fit_temperature, probabilities
from mlcore.conformal import rank_p
from mlcore.errors import CalibrationError, DataError
from mlcore.uncertainty import CrossConformal, average, guaranteed_coverage

LABELS = ("mild", "grave", "fatal")
TEMPERATURES = np.array([0.7, 1.0, 1.4, 2.0])


def draw(seed, n=160, separation=1.5, digits=None):
    """Out-of-fold truth, fold, logits and distances of n cases; few digits make many ties."""
    random = np.random.default_rng(seed)
    truth, fold = random.integers(0, 3, n), random.integers(0, 4, n)
    logits = random.normal(size=(n, 3))
    logits[np.arange(n), truth] += separation
    distances = np.abs(random.normal(size=(n, 3))) + (truth[:, None] != np.arange(3))
    if digits is not None:
        logits, distances = logits.round(digits), distances.round(digits)
    return truth, fold, logits, distances


def fitted(data):
    return CrossConformal.fit(LABELS, *data, TEMPERATURES)


def new(seed, n=40):
    random = np.random.default_rng(seed)
    return random.normal(size=(4, n, 3)).round(1), np.abs(random.normal(size=(4, n, 3))).round(1)


def own_probabilities(data):
    return np.array(
        [probabilities(row[None], TEMPERATURES[m])[0] for row, m in zip(data[2], data[1], strict=True)]
    )


def out_of_fold(data, q):
    """Labels the rule gives each case, ranked against all others' out-of-fold scores, and its p-values."""
    truth = data[0]
    labels, table = [], []
    for i in range(len(truth)):
        others = np.arange(len(truth)) != i
        p = []
        for c in range(3):
            known = 1 - q[others & (truth == c), c]
            p.append((1 + (known >= 1 - q[i, c]).sum()) / (len(known) + 1))
        labels.append(decision.rank([p], q[i : i + 1]).label[0])
        table.append(p)
    return np.array(labels), np.array(table)


def test_average_by_hand():
    q = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
    found = average(np.log(q))
    assert np.allclose(found.probabilities, [[0.7, 0.3]], rtol=0, atol=1e-15)
    assert np.allclose(found.logits, np.log([[0.7, 0.3]]), rtol=0, atol=1e-15)
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    of_each = (-(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) + np.log(2)) / 2
    assert found.entropy[0] == pytest.approx(entropy, abs=1e-15)
    assert found.mutual_information[0] == pytest.approx(entropy - of_each, abs=1e-15)
    assert found.epistemic.tolist() == [[found.entropy[0]] * 2]


def test_each_member_has_its_temperature():
    logits, _ = new(1)
    found = average(logits, TEMPERATURES)
    expected = np.mean([probabilities(z, t) for z, t in zip(logits, TEMPERATURES, strict=True)], axis=0)
    assert np.abs(found.probabilities - expected).max() <= 1e-15


def test_predictions_that_agree_share_no_information():
    found = average(np.repeat([[[3.0, -1.0], [0.0, 0.2]]], 7, axis=0))
    assert np.abs(found.mutual_information).max() <= 1e-15
    assert (found.mutual_information >= 0).all()


def test_members_sure_of_opposite_answers_disagree_fully():
    found = average([[[800.0, -800.0]], [[-800.0, 800.0]]])
    assert found.mutual_information[0] == pytest.approx(np.log(2), abs=1e-12)
    assert np.isfinite(found.logits).all()


def test_monte_carlo_dropout_becomes_scores():
    """Passes of 300 cases: p-values from their mean at a temperature, typicality from the rank of their entropy."""
    truth, _, logits, _ = draw(2, n=300)
    passes = logits + 0.5 * np.random.default_rng(3).normal(size=(20, 300, 3))
    mean, others = average(passes[:, :200]), average(passes[:, 200:])
    temperature = fit_temperature(average(passes[:10, :200]).logits, truth[:200])
    calibration = Calibration.fit(LABELS, mean.logits, mean.epistemic, truth[:200], temperature)
    found = calibration.apply(others.logits, others.epistemic)
    assert np.array_equal(found.distance, others.entropy)
    for i, label in enumerate(found.label):
        assert found.typicality[i] == rank_p(others.entropy[i : i + 1], calibration.distances[label])[0]
    at_one = Calibration.fit(LABELS, mean.logits, mean.epistemic, truth[:200], 1.0)
    again = at_one.apply(others.logits, others.epistemic)
    assert np.abs(again.probabilities - others.probabilities).max() <= 1e-15


def test_hand_worked_pooled_ranks():
    """Two members, two classes, temperature 1, probabilities of class 1 chosen to be read off."""
    q = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.7])
    truth, fold = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1])
    logits = np.column_stack([np.zeros(6), np.log(q / (1 - q))])
    distances = np.array([[1, 9], [2, 9], [3, 9], [9, 4], [9, 5], [9, 6]], dtype=float)
    ensemble = CrossConformal.fit(("no", "yes"), truth, fold, logits, distances, [1.0, 1.0])
    assert [known.tolist() for known in ensemble.distances[0]] == [[1.0, 2.0], [3.0]]
    assert [len(known) for known in ensemble.scores[1]] == [1, 2]
    # Member 0 says .15, member 1 says .25: of class 0, one of two of fold 0 (.2) and one of one of fold 1 (.3).
    said = np.array([[[0.0, np.log(0.15 / 0.85)]], [[0.0, np.log(0.25 / 0.75)]]])
    found = ensemble.apply(said, [[[1.5, 7.0]], [[3.5, 7.0]]])
    assert found.p_values.tolist() == [[(1 + 1 + 1) / 4, (1 + 0 + 0) / 4]]
    assert found.typicality[0] == (1 + 1 + 0) / 4
    assert found.distance[0] == 2.5
    assert np.allclose(found.probabilities, [[0.8, 0.2]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("digits", [None, 1])
def test_apply_equals_a_naive_reading_of_the_definitions(digits):
    data = draw(4, digits=digits)
    truth, fold, _, distances = data
    q = own_probabilities(data)
    correct = out_of_fold(data, q)[0] == truth
    logits, far = new(5)
    found = fitted(data).apply(logits, far)
    for i in range(logits.shape[1]):
        each = np.array([probabilities(logits[m, i][None], TEMPERATURES[m])[0] for m in range(4)])
        assert np.abs(found.probabilities[i] - each.mean(axis=0)).max() <= 1e-15
        p = []
        for c in range(3):
            counts = [(1 - q[(fold == m) & (truth == c), c] >= 1 - each[m, c]).sum() for m in range(4)]
            p.append((1 + sum(counts)) / ((truth == c).sum() + 1))
        assert found.p_values[i].tolist() == p
        label = found.label[i]
        assert (p[label], sorted(p)[-2]) == (found.credibility[i], found.runner_up[i])
        own = correct & (truth == label)
        counts = [(distances[own & (fold == m), label] >= far[m, i, label]).sum() for m in range(4)]
        assert found.typicality[i] == (1 + sum(counts)) / (own.sum() + 1)
        assert found.distance[i] == pytest.approx(far[:, i, label].mean(), abs=1e-15)
        assert np.allclose(found.distances[i], far[:, i].mean(axis=0), rtol=0, atol=1e-15)
    assert np.allclose(found.logits, np.log(found.probabilities), rtol=0, atol=1e-12)


@pytest.mark.parametrize("digits", [None, 1])
def test_held_out_reads_each_case_by_the_member_that_never_saw_it(digits):
    data = draw(6, digits=digits)
    truth, _, _, distances = data
    q = own_probabilities(data)
    labels, p = out_of_fold(data, q)
    found = fitted(data).held_out_scores(*data)
    assert np.array_equal(found.p_values, p)
    assert np.array_equal(found.label, labels)
    assert np.abs(found.probabilities - q).max() <= 1e-15
    for i, label in enumerate(labels):
        familiar = (np.arange(len(truth)) != i) & (truth == label) & (labels == label)
        assert found.typicality[i] == (1 + (distances[familiar, label] >= distances[i, label]).sum()) / (
            familiar.sum() + 1
        )
    kept = fitted(data).held_out(*data)
    assert list(kept) == ["truth", "label", "credibility", "runner_up", "typicality", "p_values"]
    assert np.array_equal(kept["typicality"], found.typicality)


def test_one_answer_from_every_member_ranks_as_one_model():
    """Members that agree are one split calibration of all folds together."""
    truth, fold, logits, distances = draw(7)
    same = np.full(4, 1.3)
    ensemble = CrossConformal.fit(LABELS, truth, fold, logits, distances, same)
    single = Calibration.fit(LABELS, logits, distances, truth, 1.3)
    new_logits, new_distances = (table[0] for table in new(8))
    found = ensemble.apply([new_logits] * 4, [new_distances] * 4)
    expected = single.apply(new_logits, new_distances)
    assert np.array_equal(found.p_values, expected.p_values)
    assert np.array_equal(found.typicality, expected.typicality)
    assert ensemble.limits() == single.limits()
    assert ensemble.counts == single.counts
    assert ensemble.thresholds(0.05, 0.02) == single.thresholds(0.05, 0.02)


def test_a_fold_without_a_class_is_none_the_less_a_fold():
    truth, fold, logits, distances = draw(9)
    fold[(truth == 2) & (fold == 3)] = 0
    ensemble = fitted((truth, fold, logits, distances))
    assert len(ensemble.scores[2][3]) == len(ensemble.distances[2][3]) == 0
    assert np.isfinite(ensemble.apply(*new(10)).p_values).all()


def test_a_label_never_given_rightly_vouches_for_nothing():
    ensemble = fitted(draw(11))
    bare = CrossConformal(LABELS, TEMPERATURES, ensemble.scores, [[np.empty(0)] * 4] * 3)
    assert bare.apply(*new(12)).typicality.tolist() == [0.0] * 40


def test_arrays_bring_the_calibration_back_bit_for_bit():
    truth, fold, logits, distances = draw(13)
    fold[(truth == 1) & (fold == 0)] = 2
    ensemble = fitted((truth, fold, logits, distances))
    again = CrossConformal.from_arrays(load(save({**ensemble.to_arrays(), "other": np.ones(1)})))
    assert again.labels == ensemble.labels
    first, second = ensemble.apply(*new(14)), again.apply(*new(14))
    for name in first.__dataclass_fields__:
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert again.limits() == ensemble.limits()


def test_missing_arrays_are_named():
    with pytest.raises(CalibrationError, match=r"cross\.labels"):
        CrossConformal.from_arrays({})


def test_the_guarantee_by_hand():
    # alpha .05, 190 cases, 10 members: 1 - .1 - 2 * .95 * 9 / 200
    assert guaranteed_coverage(0.05, 190, 10) == pytest.approx(1 - 0.1 - 0.0855, abs=1e-15)
    assert guaranteed_coverage(0.4, 30, 10) == 0.0
    counts = fitted(draw(15)).counts
    found = fitted(draw(15)).guaranteed_coverage(0.1)
    assert found == {label: guaranteed_coverage(0.1, n, 4) for label, n in counts.items()}
    with pytest.raises(DataError, match="between 0 and 1"):
        guaranteed_coverage(1.0, 100, 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    truth, fold, logits, distances = draw(16)
    ensemble = fitted((truth, fold, logits, distances))
    new_logits, new_distances = new(17)
    for table in (logits, distances):
        table[3, 1], kept = bad, table[3, 1]
        with pytest.raises(CalibrationError, match="not finite"):
            fitted((truth, fold, logits, distances))
        table[3, 1] = kept
    for table in (new_logits, new_distances):
        table[2, 3, 1], kept = bad, table[2, 3, 1]
        with pytest.raises(CalibrationError, match="must be finite"):
            ensemble.apply(new_logits, new_distances)
        table[2, 3, 1] = kept
    with pytest.raises(CalibrationError, match="must be finite"):
        average(np.full((2, 3, 2), bad))


def test_shapes_that_differ_are_refused():
    truth, fold, logits, distances = draw(18)
    ensemble = fitted((truth, fold, logits, distances))
    new_logits, new_distances = new(19)
    with pytest.raises(CalibrationError, match="4 members and 3 labels"):
        ensemble.apply(new_logits[:3], new_distances[:3])
    with pytest.raises(CalibrationError, match="4 members and 3 labels"):
        ensemble.apply(new_logits, new_distances[..., :2])
    with pytest.raises(CalibrationError, match="do not fit 159 cases"):
        fitted((truth[:-1], fold[:-1], logits, distances))
    with pytest.raises(CalibrationError, match="must be finite numbers by member"):
        average(np.zeros((3, 2)))


@pytest.mark.parametrize("member", [-1, 4, 0.5])
def test_a_fold_of_no_member_is_refused(member):
    truth, fold, logits, distances = draw(20)
    fold = fold.astype(float)
    fold[0] = member
    with pytest.raises(CalibrationError, match="outside 0 to 3"):
        fitted((truth, fold, logits, distances))


@pytest.mark.parametrize(
    ("temperatures", "told"), [([1.0], "two members"), ([1.0, 0.0, 1.0, 1.0], "positive number")]
)
def test_temperatures_that_are_none_are_refused(temperatures, told):
    with pytest.raises(CalibrationError, match=told):
        CrossConformal.fit(LABELS, *draw(21), temperatures)


def test_one_class_too_few_cases_and_foreign_labels_are_refused():
    truth, fold, logits, distances = draw(22)
    with pytest.raises(CalibrationError, match=r"0 calibration case\(s\) of grave"):
        fitted((np.zeros_like(truth), fold, logits, distances))
    lonely = np.where(np.cumsum(truth == 2) > 1, truth % 2, truth)
    with pytest.raises(CalibrationError, match=r"Only 1 calibration case\(s\) of fatal"):
        fitted((lonely, fold, logits, distances))
    truth[0] = 3
    with pytest.raises(CalibrationError, match="outside 0 to 2"):
        fitted((truth, fold, logits, distances))
