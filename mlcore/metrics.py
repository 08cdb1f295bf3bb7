"""What a triage is worth: discrimination, calibration, what is automated, what is deferred, what it costs.

Section 3.5 of Morales-Sánchez et al. 2026. Every metric takes optional weights, the number of times each case
counts: (n,) gives one figure, (B, n) gives B, so that a bootstrap is one call. A figure nothing can be said
about is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from mlcore.decision import AUTOMATIC
from mlcore.errors import DataError

Floats = NDArray[np.float64]
Weighted = Callable[[Floats], Floats]

BINS = 10
REPLICATES = 1000
SEED = 2026
CELLS_AT_ONCE = 4_000_000


class Costs(NamedTuple):
    """What risk_kappa is charged: automatic (K, K) by truth and label given, defer (K,) by truth."""

    automatic: tuple[tuple[float, ...], ...]
    defer: tuple[float, ...]


# Table B1: the penalties of a false positive, a deferred negative and a deferred positive; a false negative costs 1.
REALITIES = {
    "Zero-Cost Deferral (Maximum Caution)": Costs(((0.0, 1.0), (1.0, 0.0)), (0.0, 0.0)),
    "Extreme Epidemiological (Resource-Rich)": Costs(((0.0, 0.25), (1.0, 0.0)), (0.1, 0.25)),
    "Default Baseline (Preventative Medicine)": Costs(((0.0, 0.5), (1.0, 0.0)), (0.25, 0.5)),
    "Symmetric Control (Classification Baseline)": Costs(((0.0, 1.0), (1.0, 0.0)), (0.5, 0.5)),
    "High Admin Burden (Resource-Constrained)": Costs(((0.0, 0.75), (1.0, 0.0)), (0.5, 0.75)),
}
DEFAULT_REALITY = "Default Baseline (Preventative Medicine)"


class Interval(NamedTuple):
    """A figure, its percentile bootstrap 95 % interval, and the number of cases it stands on."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(
    metrics: Mapping[str, tuple[Weighted, ArrayLike]],
    cases: int,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> dict[str, Interval]:
    """Each metric with its interval, all over the same resamples of the cases.

    metrics: name -> (function of weights, (cases,) mask of the cases the figure stands on). Resamples on
    which a metric is undefined are left out of its interval.
    """
    random = np.random.default_rng(seed)
    at_once = max(1, CELLS_AT_ONCE // max(cases, 1))
    drawn: dict[str, list[Floats]] = {name: [] for name in metrics}
    for start in range(0, replicates, at_once):
        size = min(at_once, replicates - start)
        weights = random.multinomial(cases, np.full(cases, 1 / cases), size=size).astype(np.float64)
        for name, (metric, _) in metrics.items():
            drawn[name].append(metric(weights))
    whole = np.ones(cases)
    return {
        name: _interval(float(metric(whole)), np.concatenate(drawn[name]), int(np.sum(mask)))
        for name, (metric, mask) in metrics.items()
    }


def _interval(value: float, replicates: Floats, n: int) -> Interval:
    known = replicates[np.isfinite(replicates)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Interval(value, float(low), float(high), n)


def share(part: ArrayLike, whole: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Share of the cases of `whole` that are also of `part`, both (n,) masks."""
    inside = np.asarray(whole, dtype=bool)
    w = _weights(weights, len(inside))
    return _ratio(
        w @ (inside & np.asarray(part, dtype=bool)).astype(np.float64), w @ inside.astype(np.float64)
    )


def coverage(decisions: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Share of (n,) decisions that are automatic."""
    automatic = np.asarray(decisions) == AUTOMATIC
    return share(automatic, np.ones(len(automatic), dtype=bool), weights)


def tpdr(
    decisions: ArrayLike, truth: ArrayLike, targets: Collection[int], weights: ArrayLike | None = None
) -> Floats:
    """True positive deferral rate: share of the true targets that are handed to a reader."""
    return share(np.asarray(decisions) != AUTOMATIC, is_target(truth, targets), weights)


def is_target(labels: ArrayLike, targets: Collection[int]) -> NDArray[np.bool_]:
    """(n,) whether each label is one of the targets."""
    return np.isin(np.asarray(labels), list(targets))


def f_beta(
    truth: ArrayLike,
    predicted: ArrayLike,
    targets: Collection[int],
    beta: float = 2.0,
    weights: ArrayLike | None = None,
) -> Floats:
    """F-beta of the targets against the rest; F2 holds a missed target to be worse than a false alarm."""
    true, said = is_target(truth, targets), is_target(predicted, targets)
    w = _weights(weights, len(true))
    hits, misses, alarms = (w @ mask.astype(np.float64) for mask in (true & said, true & ~said, ~true & said))
    return _ratio((1 + beta**2) * hits, (1 + beta**2) * hits + beta**2 * misses + alarms)


def macro_f1(truth: ArrayLike, predicted: ArrayLike, k: int, weights: ArrayLike | None = None) -> Floats:
    """Mean over the k labels of the F1 of each, a rare label like a common one.

    truth, predicted: (n,) labels 0 … k - 1. A label that is neither true nor given anywhere is left out.
    """
    each = _each_f1(truth, predicted, k, weights)
    known = np.isfinite(each)
    return _ratio(np.where(known, each, 0.0).sum(axis=0), known.sum(axis=0))


def weighted_f1(truth: ArrayLike, predicted: ArrayLike, k: int, weights: ArrayLike | None = None) -> Floats:
    """Mean over the k labels of the F1 of each, weighing as often as the label is true; arguments as for macro_f1."""
    true = np.asarray(truth)
    w = _weights(weights, len(true))
    often = np.stack([w @ (true == c).astype(np.float64) for c in range(k)])
    each = np.nan_to_num(_each_f1(truth, predicted, k, weights))
    return _ratio((often * each).sum(axis=0), often.sum(axis=0))


def _each_f1(truth: ArrayLike, predicted: ArrayLike, k: int, weights: ArrayLike | None) -> Floats:
    return np.stack([f_beta(truth, predicted, {c}, beta=1.0, weights=weights) for c in range(k)])


def ece(confidence: ArrayLike, correct: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Expected calibration error over BINS equal bins, lower is better (Guo et al. 2017).

    confidence: (n,) in [0, 1]; correct: (n,) whether what was claimed with it is so. For a binary question
    these are the probability of the target and whether the case is one.
    """
    claimed = np.asarray(confidence, dtype=np.float64)
    w = _weights(weights, len(claimed))
    gaps = (claimed - np.asarray(correct, dtype=np.float64))[:, None] * _bins(claimed)
    return _ratio(np.abs(w @ gaps).sum(axis=-1), w.sum(axis=-1))


def balanced_ece(
    confidence: ArrayLike, correct: ArrayLike, label: ArrayLike, weights: ArrayLike | None = None
) -> Floats:
    """Mean over the labels given, (n,), of the ECE among the cases given each: a rare label counts like a common one.

    confidence, correct: as for ece. The aim is that of the imbalanced ECE in arXiv 2406.07212, the definition our own.
    Classes are those given, not those true: among the cases of one true class even a perfectly calibrated
    model shows a gap. Labels that weigh nothing are left out.
    """
    given = np.asarray(label)
    w = _weights(weights, len(given))
    each = np.stack([ece(confidence, correct, w * (given == c)) for c in np.unique(given)])
    known = np.isfinite(each)
    return _ratio(np.where(known, each, 0.0).sum(axis=0), known.sum(axis=0))


def _bins(confidence: Floats) -> Floats:
    """(n, BINS) one-hot; each bin holds its lower edge, the last both."""
    edges = np.linspace(0, 1, BINS + 1)
    return np.eye(BINS)[np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, BINS - 1)]


def auroc(score: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Area under the ROC curve: the chance that a positive outscores a negative, a tie counting half."""
    hits, alarms = _by_score(score, positive, weights)
    below = np.cumsum(alarms[..., ::-1], axis=-1)[..., ::-1] - alarms / 2
    return _ratio((hits * below).sum(axis=-1), hits.sum(axis=-1) * alarms.sum(axis=-1))


def average_precision(score: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Precision averaged over the positives as the threshold falls, equal scores taken together."""
    hits, alarms = _by_score(score, positive, weights)
    found = np.cumsum(hits, axis=-1)
    precision = np.nan_to_num(_ratio(found, found + np.cumsum(alarms, axis=-1)))
    return _ratio((hits * precision).sum(axis=-1), hits.sum(axis=-1))


def aurc(confidence: ArrayLike, wrong: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Area under the risk-coverage curve: mean error rate of the j most confident cases over j = 1 … n.

    Equal confidences are taken in every order at once (the expectation over orders), so rows may be permuted.
    Within a block of m cases with e errors after n0 cases with e0, the expected rates sum to
    e + (e0 - e * n0 / m) * (H(n0 + m) - H(n0)), H the harmonic numbers.
    """
    errors, right = _by_score(confidence, wrong, weights)
    size = errors + right
    before = np.cumsum(size, axis=-1) - size
    errors_before = np.cumsum(errors, axis=-1) - errors
    rate = np.nan_to_num(_ratio(errors, size))
    harmonic = digamma(before + size + 1) - digamma(before + 1)
    return _ratio((errors + (errors_before - rate * before) * harmonic).sum(axis=-1), size.sum(axis=-1))


def e_aurc(confidence: ArrayLike, wrong: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """aurc less that of the oracle, which puts the same errors last: 0 is a perfect order (Geifman et al. 2019).

    The oracle's is (e - (n - e) (H(n) - H(n - e))) / n for e errors among n cases, H the harmonic numbers.
    """
    return aurc(confidence, wrong, weights) - aurc(~np.asarray(wrong, dtype=bool), wrong, weights)


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[Floats, Floats]:
    """(distinct,) shares of cases covered and (distinct,) their error rates, from the most confident on."""
    errors, right = _by_score(confidence, wrong, None)
    covered = np.cumsum(errors + right)
    return covered / covered[-1], np.cumsum(errors) / covered


def _by_score(score: ArrayLike, positive: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    """Weights of positives and of the rest at each distinct score, highest first: two (…, distinct)."""
    scores, mask = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=np.float64)
    w = _weights(weights, len(scores))
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    sums = [np.add.reduceat(w[..., order] * side[order], starts, axis=-1) for side in (mask, 1 - mask)]
    return sums[0], sums[1]


def risk_kappa(
    truth: ArrayLike,
    label: ArrayLike,
    decisions: ArrayLike,
    cost_automatic: ArrayLike,
    cost_defer: ArrayLike,
    weights: ArrayLike | None = None,
) -> Floats:
    """1 - cost borne / cost by chance at the same margins: 1 is free of cost, 0 no better than chance.

    truth, label, decisions: (n,). cost_automatic: (K, K) by truth and label given; cost_defer: (K,) by truth.
    Raises DataError for labels outside 0 … K - 1.
    For the paper's matrix W (section 3.5), K = 2: REALITIES[DEFAULT_REALITY]; Table B1 has the other realities.
    """
    costs = np.column_stack([np.asarray(cost_automatic, dtype=np.float64), cost_defer])
    k, actions = costs.shape
    if not np.isin(np.stack([np.asarray(truth), np.asarray(label)]), range(k)).all():
        raise DataError(f"Costs are known for labels 0 to {k - 1} only: leave out cases of unknown truth.")
    action = np.where(np.asarray(decisions) == AUTOMATIC, label, k)
    cells = np.eye(k * actions)[np.asarray(truth) * actions + action]
    w = _weights(weights, len(cells))
    counts = (w @ cells).reshape(*w.shape[:-1], k, actions)
    margins = counts.sum(axis=-1, keepdims=True) * counts.sum(axis=-2, keepdims=True)
    expected = _ratio((margins * costs).sum(axis=(-2, -1)), counts.sum(axis=(-2, -1)))
    kappa: Floats = 1 - _ratio((counts * costs).sum(axis=(-2, -1)), expected)
    return kappa


def _weights(weights: ArrayLike | None, n: int) -> Floats:
    return np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)


def _ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    ratio: Floats = np.divide(
        part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0
    )
    return ratio
