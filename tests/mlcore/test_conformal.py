"""p-values: hand-worked, naive twin, crepes; weighted ones against a naive twin and against the exact rank."""

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given
from hypothesis import strategies as st

from mlcore import conformal
from mlcore.errors import DataError


def draw(seed, n=200, classes=3, digits=None):
    """Calibration scores per class and (n, K) scores; few digits make many ties."""
    random = np.random.default_rng(seed)
    calibration = [np.sort(random.random(size)) for size in (5, 60, 131)[:classes]]
    scores = random.random((n, classes))
    if digits is not None:
        return [c.round(digits) for c in calibration], scores.round(digits)
    return calibration, scores


def naive(scores, calibration):
    p = np.empty(scores.shape)
    for i, row in enumerate(scores):
        for c, s in enumerate(row):
            p[i, c] = (1 + sum(1 for a in calibration[c] if a >= s)) / (len(calibration[c]) + 1)
    return p


def test_hand_worked_ranks_with_ties():
    calibration = [np.array([0.1, 0.2, 0.2, 0.5])]
    scores = np.array([[0.05], [0.1], [0.2], [0.3], [0.5], [0.6]])
    assert conformal.p_values(scores, calibration)[:, 0].tolist() == [1.0, 1.0, 0.8, 0.4, 0.4, 0.2]


@pytest.mark.parametrize("digits", [None, 1, 2])
def test_p_values_equal_the_naive_twin(digits):
    calibration, scores = draw(1, digits=digits)
    assert np.array_equal(conformal.p_values(scores, calibration), naive(scores, calibration))


@pytest.mark.parametrize("digits", [None, 1])
def test_p_values_equal_crepes(digits):
    calibration, scores = draw(2, digits=digits)
    theirs = ConformalClassifier()
    classes = np.repeat(np.arange(3), [len(c) for c in calibration])
    theirs.fit(np.concatenate(calibration), bins=classes)
    ours = conformal.p_values(scores, calibration)
    for c in range(3):
        expected = theirs.predict_p(scores[:, [c]], bins=np.full(len(scores), c), smoothing=False)[:, 0]
        assert np.abs(ours[:, c] - expected).max() <= 1e-12


def test_p_values_are_float64_whatever_comes_in():
    calibration, scores = draw(3)
    assert conformal.p_values(scores.astype(np.float32), calibration).dtype == np.float64
    assert conformal.nonconformity(np.array([[0.25, 0.75]], dtype=np.float32)).tolist() == [[0.75, 0.25]]


def test_a_class_without_calibration_can_never_be_excluded():
    assert conformal.p_values(np.array([[0.99]]), [np.array([])]).tolist() == [[1.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    calibration, scores = draw(4)
    scores[3, 1] = bad
    with pytest.raises(DataError, match="finite"):
        conformal.p_values(scores, calibration)


def test_scores_of_another_width_are_refused():
    calibration, scores = draw(5)
    with pytest.raises(DataError, match="3 columns"):
        conformal.p_values(scores[:, :2], calibration)


@pytest.mark.parametrize("digits", [None, 1])
def test_pooled_p_values_equal_the_naive_twin(digits):
    calibrations, values = draw(6, digits=digits)
    found = conformal.pooled_p(values.T, calibrations)
    for i, row in enumerate(values):
        counts = [sum(a >= v for a in known) for v, known in zip(row, calibrations, strict=True)]
        assert found[i] == (1 + sum(counts)) / (5 + 60 + 131 + 1)


def test_one_member_pools_to_its_own_rank():
    (known, *_), values = draw(7, digits=1)
    assert np.array_equal(conformal.pooled_p(values.T[:1], [known]), conformal.rank_p(values[:, 0], known))


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.1, 1 / 6, 0.5, 0.99])
def test_a_threshold_says_what_the_rank_says(digits, level):
    calibration, scores = draw(8, digits=digits)
    for known in calibration:
        limit = conformal.threshold(known, level)
        values = np.concatenate([scores.ravel(), known, [0.0, 1.0]])
        assert np.array_equal(conformal.rank_p(values, known) > level, values <= limit)


def test_threshold_by_hand():
    known = np.arange(1.0, 10.0)  # nine values: the rank of anything above the largest is 1 / 10
    assert conformal.threshold(known, 0.1) == 9.0
    assert conformal.threshold(known, 0.2) == 8.0
    assert conformal.threshold(known, 0.09) == np.inf
    assert conformal.threshold(np.empty(0), 0.5) == np.inf


@pytest.mark.parametrize("level", [0, 1, float("nan")])
def test_a_threshold_at_no_level_is_refused(level):
    with pytest.raises(DataError, match="between 0 and 1"):
        conformal.threshold(np.ones(3), level)


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 99), (0.02, 49), (0.05, 19), (0.1, 9), (0.07, 14), (0.5, 1)])
def test_minimum_n_by_hand(alpha, n):
    assert conformal.minimum_n(alpha) == n


@given(st.floats(1e-4, 0.999))
def test_minimum_n_is_the_first_that_can_exclude(alpha):
    n = conformal.minimum_n(alpha)
    assert 1 / (n + 1) <= alpha
    assert n == 0 or 1 / n > alpha


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2, float("nan")])
def test_minimum_n_refuses_what_is_no_alpha(alpha):
    with pytest.raises(DataError, match="between 0 and 1"):
        conformal.minimum_n(alpha)


def test_prediction_set_is_strict_at_alpha():
    p = np.array([[0.05, 0.05000000001, 0.9]])
    assert conformal.prediction_set(p, 0.05).tolist() == [[False, True, True]]


def weigh(calibration, seed=9):
    random = np.random.default_rng(seed)
    return [random.choice([1.0, 0.25, 0.05, 0.3], len(known)) for known in calibration]


@pytest.mark.parametrize("digits", [None, 1, 2])
def test_weighted_p_values_equal_the_naive_twin(digits):
    calibration, scores = draw(10, digits=digits)
    weights = weigh(calibration)
    found = conformal.p_values(scores, calibration, weights)
    for i, row in enumerate(scores):
        for c, s in enumerate(row):
            heavy = sum(w for a, w in zip(calibration[c], weights[c], strict=True) if a >= s)
            assert found[i, c] == pytest.approx((1 + heavy) / (1 + weights[c].sum()), rel=1e-13)


def test_weighted_ranks_by_hand():
    known, weights = np.array([0.1, 0.2, 0.2, 0.5]), np.array([0.5, 1.0, 0.25, 0.25])
    found = conformal.rank_p(np.array([0.05, 0.2, 0.3, 0.6]), known, weights)
    assert found.tolist() == [1.0, 2.5 / 3, 1.25 / 3, 1 / 3]
    assert conformal.least_p(known, weights) == 1 / 3
    member = conformal.rank_p_of_member(np.array([0.2, 0.5]), known, weights, np.array([0.25, 0.25]))
    assert member.tolist() == [2.25 / 2.75, 1 / 2.75]


@pytest.mark.parametrize("digits", [None, 1])
def test_weights_of_one_give_the_exact_rank_bit_for_bit(digits):
    calibration, scores = draw(11, digits=digits)
    ones = [np.ones(len(known)) for known in calibration]
    assert np.array_equal(
        conformal.p_values(scores, calibration, ones), conformal.p_values(scores, calibration)
    )
    for known, one in zip(calibration, ones, strict=True):
        assert np.array_equal(
            conformal.rank_p_of_member(known, known, one, one), conformal.rank_p_of_member(known, known)
        )
        assert conformal.least_p(known, one) == conformal.least_p(known) == 1 / (len(known) + 1)
        assert conformal.threshold(known, 0.1, one) == conformal.threshold(known, 0.1)


@pytest.mark.parametrize("digits", [None, 1])
def test_a_weighted_member_is_ranked_against_the_others(digits):
    calibration, _ = draw(12, digits=digits)
    for known, weights in zip(calibration, weigh(calibration), strict=True):
        found = conformal.rank_p_of_member(known, known, weights, weights)
        for i, value in enumerate(known):
            others = np.arange(len(known)) != i
            alone = conformal.rank_p(np.array([value]), known[others], weights[others])
            assert found[i] == pytest.approx(alone[0], rel=1e-12)


@pytest.mark.parametrize("level", [0.01, 0.05, 1 / 6, 0.5, 0.99])
def test_a_weighted_threshold_says_what_the_weighted_rank_says(level):
    calibration, scores = draw(13, digits=1)
    for known, weights in zip(calibration, weigh(calibration), strict=True):
        limit = conformal.threshold(known, level, weights)
        values = np.concatenate([scores.ravel(), known, [0.0, 1.0]])
        assert np.array_equal(conformal.rank_p(values, known, weights) > level, values <= limit)


@given(st.floats(1e-4, 0.999), st.floats(0, 2000))
def test_how_many_more_cases_a_weight_wants(alpha, weight):
    n = conformal.minimum_n(alpha, weight)
    assert 1 / (1 + weight + n) <= alpha
    assert n == 0 or 1 / (1 + weight + n - 1) > alpha


def test_effective_size_by_hand():
    assert conformal.effective_size([2.0, 2.0, 2.0]) == 3.0
    assert conformal.effective_size([1.0, 3.0]) == 1.6
    assert conformal.effective_size([]) == 0.0
