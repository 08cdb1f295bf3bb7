import numpy as np
import torch
from scipy.special import log_softmax, softmax

from mlcore import losses

SCORES = np.random.default_rng(0).normal(size=(6, 3))
LABELS = np.array([0, 2, 1, 1, 0, 2])
PRIOR = np.log([0.7, 0.2, 0.1])
T = lambda a: torch.tensor(a)  # noqa: E731


def test_logit_adjustment_by_its_definition():
    expected = -log_softmax(SCORES + PRIOR, axis=1)[np.arange(6), LABELS].mean()
    assert np.isclose(losses.logit_adjusted(T(SCORES), T(LABELS), T(PRIOR)), expected)


def test_logit_adjustment_by_hand():
    loss = losses.logit_adjusted(T([[0.0, 0.0]]), T([1]), torch.log(T([0.75, 0.25])))
    assert np.isclose(loss, np.log(4))


def test_scores_fitted_with_the_prior_are_balanced():
    """A score that knows nothing of the case must come out equal for all classes, however rare one is."""
    scores = torch.zeros(1, 2, requires_grad=True)
    labels = T(np.repeat([0, 1], [90, 10]))
    losses.logit_adjusted(scores.expand(100, 2), labels, torch.log(T([0.9, 0.1]))).backward()
    np.testing.assert_allclose(scores.grad, 0, atol=1e-6)


def test_distillation_ignores_what_is_common_to_all_classes():
    assert np.isclose(losses.distillation(T(SCORES), T(SCORES + 5)), 0)
    assert np.isclose(losses.distillation(T([[0.0, 2.0]]), T([[0.0, 0.0]])), 2.0)


def test_focal_without_focus_is_cross_entropy_and_by_hand_with_it():
    plain = losses.focal(T(SCORES), T(LABELS), gamma=0.0, smoothing=0.0)
    assert np.isclose(plain, -log_softmax(SCORES, axis=1)[np.arange(6), LABELS].mean())
    assert np.isclose(losses.focal(T([[0.0, 0.0]]), T([0]), gamma=2.0, smoothing=0.0), 0.25 * np.log(2))


def test_r_drop_is_symmetric_and_by_its_definition():
    p, q = softmax(SCORES, axis=1), softmax(SCORES[::-1], axis=1)
    expected = ((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()) / 2 / 6
    assert np.isclose(losses.r_drop(T(SCORES), T(SCORES[::-1].copy())), expected)
    assert np.isclose(losses.r_drop(T(SCORES), T(SCORES)), 0)
