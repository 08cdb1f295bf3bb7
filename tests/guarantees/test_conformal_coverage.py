"""The promises of the calibration, by simulation: per-class coverage, typicality, and what fails without the care."""

from functools import partial

import numpy as np
import pytest

from mlcore import conformal, decision, metrics
from mlcore.calibrate import Calibration, fit_temperature
from mlcore.distance import MultiCentroid

ALPHAS = (0.01, 0.02, 0.05, 0.1)


def left_out(random, n, repeats, at_once=50):
    """(repeats, at_once) p-values of new cases, each row against its own n calibration scores."""
    rows = []
    for _ in range(repeats):
        calibration = np.sort(random.normal(size=n))
        rows.append(conformal.rank_p(random.normal(size=at_once), calibration))
    return np.array(rows)


def levels(n, repeats, seed):
    """For each alpha: the rate of being left out, its exact value floor(alpha (n + 1)) / (n + 1), and four standard errors."""
    p, found = left_out(np.random.default_rng(seed), n, repeats), []
    for alpha in ALPHAS:
        of_each = (p <= alpha).mean(axis=1)
        exact = np.floor(alpha * (n + 1) + 1e-9) / (n + 1)
        found.append((of_each.mean(), exact, 4 * of_each.std() / np.sqrt(repeats)))
    return np.array(found).T


@pytest.mark.parametrize("n", [19, 30, 100, 400])
def test_a_class_is_left_out_at_exactly_the_promised_rate(n):
    rate, exact, tolerance = levels(n, repeats=2000, seed=n)
    assert (abs(rate - exact) <= tolerance).all()
    assert (exact <= ALPHAS).all()


def test_the_plain_quantile_would_break_the_promise():
    """What the exact rank mends: a threshold at the 1 - alpha quantile of 100 scores leaves out more than alpha."""
    random = np.random.default_rng(1)
    rates = [
        (random.normal(size=50) > np.quantile(random.normal(size=100), 0.99)).mean() for _ in range(2000)
    ]
    assert np.mean(rates) > 0.015


def draw(random, n, share=0.15):
    """Cases of two overlapping classes: embeddings of unequal spread, one direction carrying the label, and logits."""
    truth = (random.random(n) < share).astype(int)
    x = 0.3 * random.normal(size=(n, 64)) * np.arange(1, 65) ** -0.7
    x[:, 0] += 3.0
    x[:, 1] += np.where(truth == 1, 0.6, -0.6)
    margin = 4 * x[:, 1] + 0.5 * random.normal(size=n)
    return x, np.column_stack([-margin, margin]) * 2, truth


def pipeline(random, n_train, n_calibration, n_new):
    """A distance fitted on one sample, a temperature on a second, a calibration on a third; scores of a fourth."""
    x, _, truth = draw(random, n_train)
    distance = MultiCentroid().fit(x, truth, 2)
    _, logits, truth = draw(random, n_train)
    temperature = fit_temperature(logits, truth)
    x, logits, truth = draw(random, n_calibration)
    calibration = Calibration.fit(("no", "yes"), logits, distance.distances(x), truth, temperature)
    x, logits, truth = draw(random, n_new)
    return calibration.apply(logits, distance.distances(x)), truth


def pipelines(repeats, seed):
    """For each alpha and class the share left out, less four standard errors; the veto's share, less the same, and bare."""
    random = np.random.default_rng(seed)
    missed = {(alpha, c): [] for alpha in ALPHAS for c in range(2)}
    atypical = []
    for _ in range(repeats):
        scores, truth = pipeline(random, 300, 1000, 1000)
        for alpha, c in missed:
            missed[alpha, c].append((scores.p_values[truth == c, c] <= alpha).mean())
        right = scores.label == truth
        atypical.append((scores.typicality[right] <= 0.01).mean())
        settled = decision.decide(scores.credibility, scores.runner_up, scores.typicality, 0.01, 0.01) == 0
        assert np.array_equal(
            settled, ((scores.p_values > 0.01).sum(axis=1) == 1) & (scores.typicality > 0.01)
        )

    def surely(rates):
        return np.mean(rates) - 4 * np.std(rates) / np.sqrt(repeats)

    return {at: surely(rates) for at, rates in missed.items()}, surely(atypical), np.mean(atypical)


def test_every_class_keeps_its_promise_through_the_whole_pipeline():
    missed, atypical, bare = pipelines(repeats=30, seed=1)
    assert all(rate <= alpha for (alpha, _), rate in missed.items()), missed
    assert atypical <= 0.01 and bare > 0.003


@pytest.mark.campaign
@pytest.mark.parametrize("n", [10, 19, 30, 49, 99, 100, 250, 400, 1000])
def test_a_class_is_left_out_at_exactly_the_promised_rate_campaign(n):
    rate, exact, tolerance = levels(n, repeats=40_000, seed=n)
    assert (abs(rate - exact) <= tolerance).all()
    assert (exact <= ALPHAS).all()


@pytest.mark.campaign
def test_every_class_keeps_its_promise_through_the_whole_pipeline_campaign():
    missed, atypical, bare = pipelines(repeats=1000, seed=2)
    assert all(rate <= alpha for (alpha, _), rate in missed.items()), missed
    assert atypical <= 0.01 and bare > 0.003


def test_ranks_among_the_cases_that_placed_the_centroids_would_veto_too_many():
    """What holding calibration out mends: in-sample distances are too short, a 1 % veto takes several times as many."""
    random = np.random.default_rng(3)
    rates = []
    for _ in range(20):
        x, _, truth = draw(random, 300)
        distance = MultiCentroid().fit(x, truth, 2)
        inside = np.sort(distance.distances(x)[truth == 0, 0])
        x, _, truth = draw(random, 1000)
        rates.append((conformal.rank_p(distance.distances(x)[truth == 0, 0], inside) <= 0.01).mean())
    assert np.mean(rates) > 0.02


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """Percentile bootstrap of a share of 200 cases: 95 % nominal, some percent less in samples of this size."""
    random, held, everyone = np.random.default_rng(4), 0, np.ones(200, dtype=bool)
    for seed in range(200):
        hit = random.random(200) < 0.3
        found = metrics.bootstrap(
            {"share": (partial(metrics.share, hit, everyone), everyone)}, 200, replicates=300, seed=seed
        )["share"]
        held += found.low <= 0.3 <= found.high
    assert 0.89 <= held / 200 <= 0.99
