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


RNG = np.random.default_rng(3)
MANY = np.repeat([0, 1, 2, 3], [60, 30, 6, 4])
MADE = torch.from_numpy(RNG.normal(size=(100, 4)))
DRAWN = torch.log(torch.from_numpy(np.bincount(MANY) / 100))


def by_hand(rows):
    """Sum over cases of -log softmax of the truth, times n / (K n_c)."""
    counts, total = np.bincount(MANY), 0.0
    for i in rows:
        z = MADE[i].numpy()
        nll = np.log(np.exp(z).sum()) - z[MANY[i]]
        total += nll * 100 / (4 * counts[MANY[i]])
    return total


def test_the_weighted_loss_weighs_by_inverse_frequency():
    found = losses.weighted(MADE, torch.from_numpy(MANY), DRAWN)
    assert np.isclose(float(found), by_hand(range(100)) / 100)


def test_its_parts_add_up_to_the_batch_whatever_classes_they_hold():
    parts = np.array_split(RNG.permutation(100), 7)
    added = sum(
        float(losses.weighted(MADE[p], torch.from_numpy(MANY[p]), DRAWN)) * len(p) / 100 for p in parts
    )
    assert np.isclose(added, by_hand(range(100)) / 100)


def test_both_losses_for_imbalance_are_least_at_the_likelihood_ratios_not_at_the_posterior():
    """With one and the same text everywhere, scores that tell nothing are best: balance comes from the loss."""
    for loss in losses.OF.values():
        scores = torch.zeros(4, requires_grad=True)
        loss(scores.expand(100, 4).double(), torch.from_numpy(MANY), DRAWN).backward()
        assert torch.allclose(scores.grad, torch.zeros(4), atol=1e-6)
