"""Planted strangers: each coordinate's values are familiar, how they go together is not."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mlcore import compat, decision
from mlcore.calibrate import Calibration
from mlcore.distance import MultiCentroid

PAIRS = 40


def planted(random, n=600):
    """Training and new cases of two classes whose coordinates go in pairs, and strangers with the pairing lost."""
    first = random.normal(size=(3 * n, PAIRS))
    second = first + 0.1 * random.normal(size=(3 * n, PAIRS))
    x = np.column_stack([np.full(3 * n, 30.0), first, second])
    truth = np.arange(3 * n) % 2
    x[:, 1] += truth
    x[:, 1 + PAIRS] += truth
    strangers = x[2 * n :].copy()
    for c in range(2):
        own = np.flatnonzero(truth[2 * n :] == c)
        for column in range(1 + PAIRS, 1 + 2 * PAIRS):
            strangers[own, column] = strangers[random.permutation(own), column]
    logits = np.column_stack([-4 * truth + 2.0, 4 * truth - 2.0]) + random.normal(size=(3 * n, 2))
    return x, strangers, logits, truth, n


def full_and_diagonal(random):
    x, strangers, logits, truth, n = planted(random)
    distance = MultiCentroid().fit(x[:n], truth[:n], 2)
    published = compat.fit(distance, x[n : 2 * n], logits[n : 2 * n], truth[n : 2 * n], 0.05)
    every, label = np.concatenate([x[2 * n :], strangers]), np.tile(truth[2 * n :], 2)
    strange = np.repeat([0, 1], n)
    full = distance.distances(every)[np.arange(2 * n), label]
    diagonal = compat.diagonal_distances(distance, published.diagonal, every, label)
    return roc_auc_score(strange, full), roc_auc_score(strange, diagonal)


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_knows_strangers_that_its_diagonal_cannot(seed):
    full, diagonal = full_and_diagonal(np.random.default_rng(seed))
    assert full >= 0.99
    assert 0.4 <= diagonal <= 0.6


def test_the_veto_stops_strangers_that_the_published_choices_let_through():
    """The same logits, sure and right: only the distance can tell, and only in full."""
    x, strangers, logits, truth, n = planted(np.random.default_rng(9))
    calibration_part, new = slice(n, 2 * n), slice(2 * n, 3 * n)
    distance = MultiCentroid().fit(x[:n], truth[:n], 2)
    held_out = x[calibration_part], logits[calibration_part], truth[calibration_part]
    far = distance.distances(held_out[0])
    calibration = Calibration.fit(("no", "yes"), held_out[1], far, held_out[2], 1.0)
    scores = calibration.apply(logits[new], distance.distances(strangers))
    ours = decision.decide_by("dual", scores, 0.05, 0.01)
    theirs = compat.fit(distance, *held_out, 0.05).decide(strangers, logits[new])[0]
    assert (ours == decision.AUTOMATIC).mean() <= 0.05
    assert (theirs == decision.AUTOMATIC).mean() >= 0.8


@pytest.mark.campaign
def test_the_distance_knows_strangers_that_its_diagonal_cannot_campaign(capsys):
    found = np.array([full_and_diagonal(np.random.default_rng(seed)) for seed in range(100)])
    with capsys.disabled():
        print(
            f"\nAUROC of planted strangers, 100 draws: full {found[:, 0].min():.4f} at least, diagonal {found[:, 1].mean():.3f}"
        )
    assert found[:, 0].min() >= 0.99
    assert 0.4 <= found[:, 1].mean() <= 0.6
