"""Temperature and calibration: hand-worked, naive twins, and every refusal."""

import numpy as np
import pytest
from scipy.special import softmax

from mlcore import calibrate, conformal, decision
from mlcore.calibrate import Calibration, fit_temperature, leave_one_out_labels, probabilities
from mlcore.errors import CalibrationError

LABELS = ("mild", "grave", "fatal")


def draw(seed, n=240, classes=3, separation=2.0):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), truth] += separation
    distances = np.abs(random.normal(size=(n, classes))) + (truth[:, None] != np.arange(classes))
    return logits, distances, truth


def nll(logits, truth, temperature):
    return -np.log(probabilities(logits, temperature)[np.arange(len(truth)), truth]).mean()


def test_temperature_recovers_the_scale_of_overconfident_logits():
    random = np.random.default_rng(1)
    honest = random.normal(size=(40_000, 3)) * 2
    chances = probabilities(honest, 1.0)
    truth = (random.random((40_000, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert fit_temperature(honest * 2.5, truth) == pytest.approx(2.5, rel=0.03)


def test_temperature_is_the_minimum_of_a_fine_grid():
    logits, _, truth = draw(2)
    grid = np.linspace(0.1, 5, 4901)
    best = grid[np.argmin([nll(logits, truth, t) for t in grid])]
    assert fit_temperature(logits, truth) == pytest.approx(best, abs=1e-3)


def test_probabilities_survive_large_logits():
    assert probabilities([[1e4, -1e4]], 0.5).tolist() == [[1.0, 0.0]]


def test_hand_worked_calibration():
    """Two classes, temperature 1, logits chosen so that the probability of class 1 is easily read off."""
    q = np.array([0.1, 0.2, 0.6, 0.7, 0.9, 0.3])
    truth = np.array([0, 0, 0, 1, 1, 1])
    logits = np.column_stack([np.zeros(6), np.log(q / (1 - q))])
    distances = np.array([[1, 9], [2, 9], [3, 9], [9, 4], [9, 5], [9, 6]], dtype=float)
    fitted = Calibration.fit(("no", "yes"), logits, distances, truth, 1.0)
    assert np.allclose(fitted.scores[0], [0.1, 0.2, 0.6])
    assert np.allclose(fitted.scores[1], [0.1, 0.3, 0.7])
    # Leave-one-out p-values (own, other): case 0 (3/3, 1/4), case 1 (2/3, 1/4), case 2 with q = .6 (1/3, 2/4): wrong;
    # case 3 (2/3, 1/4), case 4 (3/3, 1/4), case 5 with q = .3 (1/3, 2/4): wrong.
    assert fitted.distances[0].tolist() == [1.0, 2.0]
    assert fitted.distances[1].tolist() == [4.0, 5.0]
    found = fitted.apply([[0.0, np.log(0.8 / 0.2)]], [[7.0, 4.5]])
    assert np.allclose(found.p_values, [[1 / 4, 3 / 4]])
    assert (found.label[0], found.distance[0]) == (1, 4.5)
    assert found.credibility[0] == 0.75
    assert found.runner_up[0] == 0.25
    assert found.typicality[0] == 2 / 3  # one of the two kept distances is at least 4.5


def test_leave_one_out_labels_equal_calibrating_without_each_case():
    logits, _, truth = draw(3, n=90, separation=0.7)
    q = probabilities(logits.round(1), 1.3)
    strange = conformal.nonconformity(q)
    scores = [np.sort(strange[truth == c, c]) for c in range(3)]
    found = leave_one_out_labels(strange, q, scores, truth)
    for i in range(len(truth)):
        others = np.arange(len(truth)) != i
        without = [np.sort(strange[others & (truth == c), c]) for c in range(3)]
        p = conformal.p_values(strange[i : i + 1], without)
        assert found[i] == decision.rank(p, q[i : i + 1]).label[0]


def test_held_out_reads_each_case_against_the_others():
    logits, distances, truth = draw(31, n=120, separation=1.0)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.3)
    found = fitted.held_out(logits, distances, truth)
    q = probabilities(logits, 1.3)
    strange = conformal.nonconformity(q)
    assert np.array_equal(found["truth"], truth)
    for i in range(len(truth)):
        others = np.arange(len(truth)) != i
        without = [np.sort(strange[others & (truth == c), c]) for c in range(3)]
        ranking = decision.rank(conformal.p_values(strange[i : i + 1], without), q[i : i + 1])
        label = int(ranking.label[0])
        assert [found[name][i] for name in ranking._fields] == [column[0] for column in ranking]
        familiar = others & (truth == label) & (found["label"] == label)
        own = distances[i, label]
        assert found["typicality"][i] == (1 + (distances[familiar, label] >= own).sum()) / (
            familiar.sum() + 1
        )


def test_held_out_scores_carry_what_held_out_tells_and_the_rest():
    logits, distances, truth = draw(32, n=90)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.3)
    told, scores = fitted.held_out(logits, distances, truth), fitted.held_out_scores(logits, distances, truth)
    assert all(np.array_equal(told[name], getattr(scores, name)) for name in set(told) - {"truth"})
    assert np.array_equal(scores.probabilities, probabilities(logits, 1.3))
    assert np.array_equal(scores.distance, distances[np.arange(90), scores.label])
    as_new = fitted.apply(logits, distances).p_values
    others = truth[:, None] != np.arange(3)
    assert np.array_equal(scores.p_values[others], as_new[others])
    assert (scores.p_values[~others] < as_new[~others]).sum() == (as_new[~others] < 1).sum()


@pytest.mark.parametrize(("alpha", "floor"), [(0.05, 0.02), (0.1, 0.05), (0.001, 0.001)])
def test_thresholds_read_off_what_the_ranks_decide(alpha, floor):
    fitted = Calibration.fit(LABELS, *draw(33), 1.3)
    logits, distances, _ = draw(34, n=400, separation=1.0)
    found, limits = fitted.apply(logits, distances), fitted.thresholds(alpha, floor)
    for c, (label, at) in enumerate(limits.items()):
        assert np.array_equal(found.probabilities[:, c] >= at["probability"], found.p_values[:, c] > alpha)
        given = found.label == c
        assert np.array_equal(found.distance[given] > at["distance"], found.typicality[given] <= floor)
        assert (at["n"], at["correct"]) == (fitted.counts[label], fitted.limits()[label]["correct"])
        assert (at["n"] >= at["minimum_n"]) == (at["probability"] > 0)
        assert (at["correct"] >= at["minimum_correct"]) == np.isfinite(at["distance"])


def test_thresholds_by_hand():
    scores = [np.arange(1, 10) / 10, np.array([0.2, 0.4])]
    fitted = Calibration(("no", "yes"), 1.0, scores, [np.arange(1.0, 10.0), np.empty(0)])
    at = fitted.thresholds(0.1, 0.2)
    assert (at["no"]["probability"], at["no"]["minimum_n"]) == (pytest.approx(0.1), 9)
    assert (at["no"]["distance"], at["no"]["minimum_correct"]) == (8.0, 4)
    assert (at["yes"]["probability"], at["yes"]["distance"]) == (0.0, -np.inf)


def test_the_split_form_promises_one_less_alpha():
    fitted = Calibration.fit(LABELS, *draw(35), 1.0)
    assert fitted.guaranteed_coverage(0.05) == dict.fromkeys(LABELS, 0.95)


def test_apply_equals_a_naive_reading_of_the_definitions():
    logits, distances, truth = draw(4)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.7)
    new_logits, new_distances, _ = draw(5, n=80, separation=1.0)
    found = fitted.apply(new_logits, new_distances)
    for i in range(len(found)):
        q = np.exp(new_logits[i] / 1.7) / np.exp(new_logits[i] / 1.7).sum()
        assert np.allclose(found.probabilities[i], q, rtol=0, atol=1e-12)
        s = 1 - found.probabilities[i]
        p = [(1 + (fitted.scores[c] >= s[c]).sum()) / (len(fitted.scores[c]) + 1) for c in range(3)]
        assert found.p_values[i].tolist() == p
        label = int(found.label[i])
        assert p[label] == max(p) == found.credibility[i]
        assert found.runner_up[i] == sorted(p)[-2]
        own = new_distances[i, label]
        known = fitted.distances[label]
        assert found.distance[i] == own
        assert found.typicality[i] == (1 + (known >= own).sum()) / (len(known) + 1)


def test_every_score_is_float64():
    logits, distances, truth = draw(6)
    fitted = Calibration.fit(LABELS, logits.astype(np.float32), distances, truth, 1.0)
    found = fitted.apply(logits.astype(np.float32), distances.astype(np.float32))
    for name in (
        "logits",
        "probabilities",
        "p_values",
        "distances",
        "credibility",
        "runner_up",
        "typicality",
    ):
        assert getattr(found, name).dtype == np.float64
    assert found.label.dtype == np.int64


def test_limits_tell_what_can_be_resolved():
    logits, distances, truth = draw(7)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.0)
    for c, (label, at) in enumerate(fitted.limits().items()):
        assert label == LABELS[c]
        assert at["n"] == fitted.counts[label] == (truth == c).sum()
        assert at["minimum_alpha"] == 1 / (at["n"] + 1)
        assert 0 < at["correct"] < at["n"]
        assert at["minimum_typicality"] == 1 / (at["correct"] + 1)


def test_a_label_never_given_rightly_vouches_for_nothing():
    fitted = Calibration(("no", "yes"), 1.0, [np.array([0.1, 0.2])] * 2, [np.array([1.0, 2.0]), np.array([])])
    found = fitted.apply([[-5.0, 5.0], [5.0, -5.0]], [[1.0, 1.0], [1.0, 1.0]])
    assert found.label.tolist() == [1, 0]
    assert found.typicality.tolist() == [0.0, 1.0]


def test_bytes_and_arrays_bring_the_calibration_back_bit_for_bit():
    logits, distances, truth = draw(8)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.234567890123456)
    for again in (Calibration.from_bytes(fitted.to_bytes()), Calibration.from_arrays(fitted.to_arrays())):
        assert (again.labels, again.temperature) == (fitted.labels, fitted.temperature)
        first, second = fitted.apply(logits, distances), again.apply(logits, distances)
        assert np.array_equal(first.p_values, second.p_values)
        assert np.array_equal(first.typicality, second.typicality)


def test_a_calibration_with_an_empty_class_of_distances_survives_the_round_trip():
    fitted = Calibration(("no", "yes"), 1.0, [np.array([0.1])] * 2, [np.array([1.0]), np.array([])])
    assert len(Calibration.from_bytes(fitted.to_bytes()).distances[1]) == 0


@pytest.mark.parametrize("data", [b"", b"not safetensors", b"\x80\x04."])
def test_bytes_of_something_else_are_refused(data):
    with pytest.raises(CalibrationError, match="cannot be read"):
        Calibration.from_bytes(data)


def test_missing_arrays_are_named():
    with pytest.raises(CalibrationError, match=r"calibration\.labels"):
        Calibration.from_arrays({})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_numbers_that_are_not_finite_are_refused(bad, which):
    logits, distances, truth = draw(9)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.0)
    (logits, distances)[which][5, 1] = bad
    for attempt in (
        lambda: Calibration.fit(LABELS, logits, distances, truth, 1.0),
        lambda: fitted.apply(logits, distances),
    ):
        with pytest.raises(CalibrationError, match="not finite"):
            attempt()


def test_temperature_refuses_logits_that_are_not_finite():
    with pytest.raises(CalibrationError, match="not finite"):
        fit_temperature([[np.nan, 1.0]], [0])


@pytest.mark.parametrize("labels", [[0], [0, 2], [0, -1], [0.5, 1]])
def test_temperature_refuses_labels_that_are_none(labels):
    with pytest.raises(CalibrationError, match="a label in 0 to 1 for each of 2 cases"):
        fit_temperature([[0.0, 1.0], [1.0, 0.0]], labels)


@pytest.mark.parametrize(("keep", "told"), [((0, 1), "0 calibration case"), ((0, 0), "0 calibration case")])
def test_an_absent_class_is_named(keep, told):
    logits, distances, truth = draw(10)
    rows = np.isin(truth, keep)
    with pytest.raises(CalibrationError, match=told):
        Calibration.fit(LABELS, logits[rows], distances[rows], truth[rows], 1.0)


def test_a_class_of_one_case_is_named():
    logits, distances, truth = draw(11)
    rows = (truth != 2) | (np.cumsum(truth == 2) == 1) & (truth == 2)
    with pytest.raises(CalibrationError, match=r"Only 1 calibration case\(s\) of fatal"):
        Calibration.fit(LABELS, logits[rows], distances[rows], truth[rows], 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_that_is_none_is_refused(temperature):
    logits, distances, truth = draw(12)
    with pytest.raises(CalibrationError, match="temperature"):
        Calibration.fit(LABELS, logits, distances, truth, temperature)


def test_labels_outside_the_range_are_refused():
    logits, distances, truth = draw(13)
    truth[0] = -1
    with pytest.raises(CalibrationError, match="outside 0 to 2"):
        Calibration.fit(LABELS, logits, distances, truth, 1.0)


def test_shapes_that_differ_are_refused():
    logits, distances, truth = draw(14)
    with pytest.raises(CalibrationError, match="do not fit"):
        Calibration.fit(LABELS, logits, distances[:-1], truth, 1.0)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.0)
    with pytest.raises(CalibrationError, match="3 columns"):
        fitted.apply(logits[:, :2], distances[:, :2])


def weighed(seed, n=120):
    logits, distances, truth = draw(seed, n=n, separation=1.0)
    weights = np.random.default_rng(seed).choice([1.0, 0.5, 0.1], n)
    return logits, distances, truth, weights


def without(i, logits, distances, truth, weights):
    others = np.arange(len(truth)) != i
    return Calibration.fit(LABELS, logits[others], distances[others], truth[others], 1.3, weights[others])


def test_a_weighted_calibration_equals_a_naive_reading_of_the_definitions():
    logits, distances, truth, weights = weighed(40)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.3, weights)
    strange = 1 - probabilities(logits, 1.3)
    correct = fitted.held_out(logits, distances, truth, weights)["label"] == truth
    new_logits, new_distances, _ = draw(41, n=60, separation=1.0)
    found = fitted.apply(new_logits, new_distances)

    def naive(value, known, heavy):
        return (1 + heavy[known >= value].sum()) / (1 + heavy.sum())

    for i, q in enumerate(probabilities(new_logits, 1.3)):
        p = [naive(1 - q[c], strange[truth == c, c], weights[truth == c]) for c in range(3)]
        assert np.allclose(found.p_values[i], p, rtol=1e-12, atol=0)
        label = int(found.label[i])
        familiar = correct & (truth == label)
        typical = naive(new_distances[i, label], distances[familiar, label], weights[familiar])
        assert found.typicality[i] == pytest.approx(typical, rel=1e-12)


def test_weighted_held_out_reads_each_case_against_the_others():
    known = weighed(42)
    logits, distances, truth, weights = known
    found = Calibration.fit(LABELS, logits, distances, truth, 1.3, weights).held_out_scores(*known)
    right = found.label == truth
    for i in range(len(truth)):
        alone = without(i, *known).apply(logits[[i]], distances[[i]])
        assert np.allclose(found.p_values[i], alone.p_values[0], rtol=1e-12, atol=0)
        c = int(found.label[i])
        others = right & (truth == c) & (np.arange(len(truth)) != i)
        heavy = weights[others & (distances[:, c] >= distances[i, c])].sum()
        assert found.typicality[i] == pytest.approx((1 + heavy) / (1 + weights[others].sum()), rel=1e-12)


def test_weights_of_one_change_no_bit():
    logits, distances, truth = draw(43)
    plain = Calibration.fit(LABELS, logits, distances, truth, 1.3)
    ones = Calibration.fit(LABELS, logits, distances, truth, 1.3, np.ones(len(truth)))
    new_logits, new_distances, _ = draw(44, n=90)
    for first, second in (
        (plain.apply(new_logits, new_distances), ones.apply(new_logits, new_distances)),
        (
            plain.held_out_scores(logits, distances, truth),
            ones.held_out_scores(logits, distances, truth, np.ones(240)),
        ),
    ):
        assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))
    assert plain.thresholds(0.05, 0.02) == ones.thresholds(0.05, 0.02)
    assert plain.limits() == {
        label: {k: at[k] for k in plain.limits()[label]} for label, at in ones.limits().items()
    }


def test_bytes_bring_the_weights_back_and_old_bytes_have_none():
    logits, distances, truth, weights = weighed(45)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.3, weights)
    again = Calibration.from_bytes(fitted.to_bytes())
    for name in ("weights", "distance_weights"):
        assert all(map(np.array_equal, getattr(again, name), getattr(fitted, name)))
    assert np.array_equal(again.apply(logits, distances).p_values, fitted.apply(logits, distances).p_values)
    plain = Calibration.fit(LABELS, logits, distances, truth, 1.3)
    assert not any("weights" in name for name in plain.to_arrays())
    assert Calibration.from_bytes(plain.to_bytes()).weights is None
    del (arrays := dict(fitted.to_arrays()))["calibration.distance_weights.1"]
    with pytest.raises(CalibrationError, match=r"calibration\.distance_weights\.1"):
        Calibration.from_arrays(arrays)


def test_limits_of_weights_by_hand():
    fitted = Calibration(
        ("no", "yes"),
        1.0,
        [np.array([0.1, 0.2]), np.array([0.3])],
        [np.array([1.0]), np.empty(0)],
        [np.array([1.0, 0.5]), np.array([0.25])],
        [np.array([0.5]), np.empty(0)],
    )
    assert fitted.limits()["no"] == {
        "n": 2,
        "minimum_alpha": 1 / 2.5,
        "correct": 1,
        "minimum_typicality": 1 / 1.5,
        "weight": 1.5,
        "correct_weight": 0.5,
        "effective": 2.25 / 1.25,
        "effective_correct": 1.0,
    }
    assert fitted.limits()["yes"]["minimum_typicality"] == 1
    assert fitted.counts == {"no": 2, "yes": 1}


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.01, np.nan])
def test_a_weight_that_is_none_is_refused(weight):
    logits, distances, truth, weights = weighed(46)
    weights[7] = weight
    with pytest.raises(CalibrationError, match="above 0 and at most 1"):
        Calibration.fit(LABELS, logits, distances, truth, 1.3, weights)


def test_held_out_cases_without_their_weights_are_refused():
    logits, distances, truth, weights = weighed(47)
    for given, asked in ((weights, None), (None, weights)):
        fitted = Calibration.fit(LABELS, logits, distances, truth, 1.3, given)
        with pytest.raises(CalibrationError, match="very weights"):
            fitted.held_out(logits, distances, truth, asked)


@pytest.mark.parametrize("classes", [2, 3, 4, 9])
def test_stored_numbers_are_scored_again_to_the_bit_in_any_company(classes):
    names = tuple(f"label {c}" for c in range(classes))
    fitted = Calibration.fit(names, *draw(48, n=400, classes=classes), 1.7)
    logits, distances, _ = draw(49, n=37, classes=classes)
    together = fitted.apply(logits, distances)
    for i in range(37):
        alone = fitted.apply([logits[i].tolist()], [distances[i].tolist()])
        assert all(
            np.array_equal(getattr(alone, name)[0], getattr(together, name)[i]) for name in vars(alone)
        )


def test_bias_gives_each_class_its_share_again_and_finds_what_was_planted():
    """Labels drawn from softmax(z / 2 + b): logits that know nothing of b, as where training drew classes evenly."""
    rng = np.random.default_rng(5)
    z, planted = rng.normal(size=(20_000, 3)) * 3, np.array([1.0, 0.5, -1.5])
    p = softmax(z / 2 + planted, axis=1)
    y = (rng.random((len(z), 1)) > np.cumsum(p, axis=1)).sum(axis=1)
    temperature, bias = calibrate.fit_bias(z, y)
    np.testing.assert_allclose(bias, planted, atol=0.06)
    assert np.isclose(temperature, 2, atol=0.06) and np.isclose(bias.sum(), 0)
    told = softmax(z / temperature + bias, axis=1).mean(axis=0)
    np.testing.assert_allclose(told, np.bincount(y) / len(y), atol=1e-3)


def test_the_bias_of_a_class_of_two_cases_stays_bounded():
    z = np.concatenate([np.full((50, 2), [9.0, 0.0]), np.full((2, 2), [9.0, 0.0])])
    y = np.repeat([0, 1], [50, 2])
    _, bias = calibrate.fit_bias(z, y)
    assert np.abs(bias).max() < 4 * calibrate.BIAS_SPREAD


def test_a_bias_is_refused_where_a_temperature_is():
    with pytest.raises(CalibrationError, match="cases of two classes at least"):
        calibrate.fit_bias(np.zeros((3, 2)), [1, 1, 1])
