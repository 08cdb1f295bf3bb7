"""Recalibration: what it is made of, what is wanting, every refusal."""

import numpy as np
import pytest

from mlcore import conformal, recalibrate
from mlcore.calibrate import Calibration, probabilities
from mlcore.errors import CalibrationError, DataError

LABELS = ("mild", "grave", "fatal")


def draw(seed, sizes, separation=2.0):
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    logits = random.normal(size=(len(truth), len(sizes)))
    logits[np.arange(len(truth)), truth] += separation
    distances = np.abs(random.normal(size=logits.shape)) + (truth[:, None] != np.arange(len(sizes)))
    return logits, distances, truth


FORMER = Calibration.fit(LABELS, *draw(1, (60, 60, 60)), 1.7)


def test_weights_are_the_least_propensity_over_each():
    assert recalibrate.by_propensity([0.05, 1.0, 0.1], 0.05).tolist() == [1.0, 0.05, 0.5]
    assert recalibrate.by_propensity([0.3] * 3, 0.3).tolist() == [1.0] * 3


@pytest.mark.parametrize(("chance", "least"), [([0.04], 0.05), ([1.1], 0.5), ([np.nan], 0.5), ([0.5], 0.0)])
def test_a_propensity_that_is_none_is_refused(chance, least):
    with pytest.raises(CalibrationError, match="propensity lies outside"):
        recalibrate.by_propensity(chance, least)


def test_the_new_calibration_keeps_labels_and_temperature_and_ranks_against_the_site():
    logits, distances, truth = draw(2, (30, 40, 50), separation=1.5)
    weights = recalibrate.by_propensity(np.where(np.arange(120) % 2, 1.0, 0.5), 0.5)
    found = recalibrate.recalibrate(FORMER, logits, distances, truth, weights, 0.1, 0.1)
    assert (found.labels, found.temperature) == (LABELS, 1.7)
    strange = conformal.nonconformity(probabilities(logits, 1.7))
    new = found.apply(*draw(3, (5, 5, 5))[:2])
    for i, c in np.ndindex(new.p_values.shape):
        heavy = weights[(truth == c) & (strange[:, c] >= 1 - new.probabilities[i, c])].sum()
        assert new.p_values[i, c] == pytest.approx((1 + heavy) / (1 + weights[truth == c].sum()), rel=1e-12)


def test_without_weights_it_is_an_ordinary_calibration():
    cases = draw(4, (30, 40, 50))
    found = recalibrate.recalibrate(FORMER, *cases, None, 0.1, 0.1)
    plain = Calibration.fit(LABELS, *cases, 1.7)
    assert found.weights is None
    assert found.to_bytes() == plain.to_bytes()


def test_what_is_missing_by_hand():
    logits, distances, truth = draw(5, (20, 20, 20), separation=9.0)  # every case is classified correctly
    needs = recalibrate.missing(FORMER, logits, distances, truth, None, 0.04, 0.02, shares=(0.5, 0.3, 0.2))
    assert [(need.n, need.weight, need.correct) for need in needs.values()] == [(20, 20.0, 20.0)] * 3
    # alpha .04 asks for 24 cases, the floor of .02 for 49 correct ones.
    assert [(need.cases, need.reads) for need in needs.values()] == [(29, 58), (29, 97), (29, 145)]
    bare = recalibrate.missing(FORMER, logits, distances, truth, None, 0.04, 0.0, shares=(0.5, 0.3, 0.2))
    assert [(need.cases, need.reads) for need in bare.values()] == [(4, 8), (4, 14), (4, 20)]


def test_light_cases_count_for_less():
    logits, distances, truth = draw(6, (30, 30, 30), separation=9.0)
    weights = np.where(np.arange(90) % 30 < 10, 1.0, 0.1)
    needs = recalibrate.missing(FORMER, logits, distances, truth, weights, 0.05, 0.0)
    for need in needs.values():
        assert need.weight == pytest.approx(12)
        assert need.effective == pytest.approx(12**2 / 10.2)
        assert (need.cases, need.reads) == (7, 21)


def test_misclassified_cases_raise_the_need_of_further_ones():
    logits, distances, truth = draw(7, (60, 60, 60), separation=1.0)
    needs = recalibrate.missing(FORMER, logits, distances, truth, None, 0.1, 0.01)
    fitted = Calibration.fit(LABELS, logits, distances, truth, 1.7)
    for c, need in enumerate(needs.values()):
        right = len(fitted.distances[c])
        assert 0 < right < 60 and need.correct == right
        assert need.cases == int(np.ceil((99 - right) * 60 / right))


def test_a_class_without_any_case_is_missing_not_refused():
    logits, distances, truth = draw(8, (40, 30, 0))
    need = recalibrate.missing(FORMER, logits, distances, truth, None, 0.1, 0.1)["fatal"]
    assert (need.n, need.weight, need.correct, need.cases) == (0, 0.0, 0.0, 9)
    assert need.reads == 9 * 71


def test_what_is_missing_is_enough_once_it_is_there():
    logits, distances, truth = draw(9, (30, 20, 10), separation=9.0)
    needs = recalibrate.missing(FORMER, logits, distances, truth, None, 0.05, 0.02)
    more = draw(10, [need.cases for need in needs.values()], separation=9.0)
    together = [np.concatenate(pair) for pair in zip((logits, distances, truth), more, strict=True)]
    found = recalibrate.recalibrate(FORMER, *together, None, 0.05, 0.02)
    assert all(
        at["minimum_alpha"] <= 0.05 and at["minimum_typicality"] <= 0.02 for at in found.limits().values()
    )
    fewer = [part[:-1] for part in together]
    with pytest.raises(CalibrationError, match="1 more of fatal must be read first"):
        recalibrate.recalibrate(FORMER, *fewer, None, 0.05, 0.02)


def test_too_few_are_refused_with_their_numbers():
    with pytest.raises(
        CalibrationError, match=r"alpha 0\.05 and floor 0\.0: 9 more of grave, 14 more of fatal"
    ):
        recalibrate.recalibrate(FORMER, *draw(11, (30, 10, 5)), None, 0.05, 0.0)


def test_an_alpha_that_is_none_is_refused():
    with pytest.raises(DataError, match="between 0 and 1"):
        recalibrate.missing(FORMER, *draw(12, (5, 5, 5)), None, 0.0, 0.01)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.5, 0.0)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(CalibrationError, match="share above 0"):
        recalibrate.missing(FORMER, *draw(13, (5, 5, 5)), None, 0.1, 0.01, shares)
