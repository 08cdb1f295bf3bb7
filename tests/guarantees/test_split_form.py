"""The split form by simulation, one new case of each class a draw: coverage in its binomial band, and the veto's rate."""

import numpy as np
import pytest
from scipy.stats import binom

from mlcore.calibrate import Calibration
from mlcore.distance import MultiCentroid

ALPHAS = (0.01, 0.05, 0.1)
LABELS = ("no", "yes")
WIDTH = 16


def cases(random, n):
    """n cases of each of two overlapping classes: embeddings, logits that are too sure, truth."""
    truth = np.repeat([0, 1], n)
    x = random.normal(size=(2 * n, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.5 + 3 * np.eye(WIDTH)[0]
    x[:, 1] += np.where(truth == 1, 0.8, -0.8)
    margin = 4 * x[:, 1] + random.normal(size=2 * n)
    return x, np.column_stack([-margin, margin]), truth


def covered(n, draws, seed):
    """How many of the draws' new cases of each class are in their prediction set at each alpha."""
    random, kept = np.random.default_rng(seed), np.zeros((2, len(ALPHAS)), dtype=int)
    for _ in range(draws):
        x, logits, truth = cases(random, n + 1)
        new = np.array([n, 2 * n + 1])
        known = np.setdiff1d(np.arange(2 * n + 2), new)
        far = np.abs(x[:, :2])
        calibration = Calibration.fit(LABELS, logits[known], far[known], truth[known], 1.7)
        p = calibration.apply(logits[new], far[new]).p_values
        kept += p[[0, 1], [0, 1]][:, None] > np.array(ALPHAS)
    return kept


def bands(n, draws):
    """Of each alpha: the least count that is promised, and the band around the exact chance, 1 - floor(alpha (n + 1)) / (n + 1);
    to one in ten thousand."""
    alphas = np.array(ALPHAS)
    exact = 1 - np.floor(alphas * (n + 1) + 1e-9) / (n + 1)
    assert (exact >= 1 - alphas).all()
    promised = binom.ppf(1e-4, draws, 1 - alphas)
    return promised, binom.ppf(1e-4, draws, exact), binom.ppf(1 - 1e-4, draws, exact)


@pytest.mark.parametrize("n", [30, 100, 400])
def test_each_class_is_covered_as_promised(n):
    counts, (promised, least, most) = covered(n, draws=1000, seed=n), bands(n, draws=1000)
    assert (counts >= promised).all()
    assert ((counts >= least) & (counts <= most)).all()


def vetoes(draws, seed, n=350, share=10):
    """Share of correct new cases of each class found atypical at .01, with about 300 correct calibration cases of each.

    Centroids are fitted on cases of their own, once for every `share` draws.
    """
    random, found = np.random.default_rng(seed), [[], []]
    for i in range(draws):
        if i % share == 0:
            x, _, truth = cases(random, n)
            distance = MultiCentroid().fit(x, truth, 2)
        (x, logits, truth), (new, new_logits, new_truth) = cases(random, n), cases(random, 200)
        calibration = Calibration.fit(LABELS, logits, distance.distances(x), truth, 1.7)
        scores = calibration.apply(new_logits, distance.distances(new))
        for c in range(2):
            right = (scores.label == c) & (new_truth == c)
            found[c].append((scores.typicality[right] <= 0.01).mean())
    return [float(np.mean(rates)) for rates in found]


def test_the_veto_takes_one_in_a_hundred_familiar_cases():
    for rate in vetoes(draws=100, seed=1):
        assert 0.005 <= rate <= 0.015


@pytest.mark.campaign
@pytest.mark.parametrize("n", [30, 100, 400])
def test_each_class_is_covered_as_promised_campaign(n):
    counts, (promised, least, most) = covered(n, draws=5_000, seed=n + 1), bands(n, draws=5_000)
    assert (counts >= promised).all()
    assert ((counts >= least) & (counts <= most)).all()


@pytest.mark.campaign
def test_the_veto_takes_one_in_a_hundred_familiar_cases_campaign(capsys):
    rates = vetoes(draws=1000, seed=2)
    with capsys.disabled():
        print(
            f"\nveto of correct familiar cases at a floor of .01, 300 a class: {rates[0]:.4f}, {rates[1]:.4f}"
        )
    for rate in rates:
        assert 0.005 <= rate <= 0.015
