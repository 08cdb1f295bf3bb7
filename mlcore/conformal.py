"""Mondrian (class-conditional) conformal p-values by exact rank.

Vovk, Gammerman & Shafer 2005, chapter 4; section 3.1 of Morales-Sánchez et al. 2026. With exchangeable cases,
P(p_y <= alpha | true class y) <= alpha for every class and alpha, in finite samples.

Calibration cases that were not drawn as new ones are carry weights (Tibshirani et al. 2019, 1 over the propensity to be
drawn; Barber et al. 2023, how far a case is trusted): p = (w(x) + sum of w_i at least as strange) / (w(x) + sum of w_i).
Weights are given in units of the heaviest a new case may be, so in (0, 1], and every new case counts 1. That is never too
little: p grows with w(x). Weights that are all 1 give the exact rank, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlcore.errors import DataError

Floats = NDArray[np.float64]


def nonconformity(probabilities: ArrayLike) -> Floats:
    """(n, K) strangeness of each case as a member of each class, 1 - probability; higher is stranger."""
    return 1.0 - np.asarray(probabilities, dtype=np.float64)


def p_values(
    scores: ArrayLike, calibration: Sequence[Floats], weights: Sequence[Floats] | None = None
) -> Floats:
    """(n, K) p-values in (0, 1]: (1 + #{calibration of class c at least as strange}) / (n_c + 1).

    scores: (n, K) nonconformity. calibration: for each class its calibration scores, ascending; weights: in the same
    order, in (0, 1]. Ties count as at least as strange. Raises DataError for scores that are not finite or of another
    width.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(calibration) or not np.isfinite(scores).all():
        raise DataError(f"Scores of shape {scores.shape} must be finite, with {len(calibration)} columns.")
    each = weights or (None,) * len(calibration)
    return np.column_stack(
        [rank_p(column, known, w) for column, known, w in zip(scores.T, calibration, each, strict=True)]
    )


def rank_p(values: Floats, calibration: Floats, weights: Floats | None = None) -> Floats:
    """(n,) exact-rank p-values against ascending calibration values; large values get small ones.

    weights: of the calibration values, in their order, in (0, 1]; all 1 when not given.
    """
    at_least = _at_least(values, calibration)
    if weights is None:
        return (1 + at_least) / (len(calibration) + 1)
    heavier = _tails(weights)
    p: Floats = (1 + heavier[len(calibration) - at_least]) / (1 + heavier[0])
    return p


def _tails(weights: Floats) -> Floats:
    """(n + 1,) at j the weight of the values from the j-th smallest on, 0 at n."""
    return np.append(np.cumsum(weights[::-1])[::-1], 0.0)


def least_p(calibration: Floats, weights: Floats | None = None) -> float:
    """The smallest p-value a case can have against a calibration, 1 / (1 + what it counts)."""
    return float(1 / ((len(calibration) if weights is None else _tails(weights)[0]) + 1))


def effective_size(weights: ArrayLike) -> float:
    """How many equally weighted cases say as much as these, (sum w)^2 / sum w^2 (Kish 1965); 0 for none.

    (n,) weights of any unit. What the smallest p-value can be is another matter: 1 / (1 + sum) in units of a new case.
    """
    w = np.asarray(weights, dtype=np.float64)
    return float(w.sum() ** 2 / (w**2).sum()) if len(w) else 0.0


def pooled_p(values: ArrayLike, calibrations: Sequence[Floats]) -> Floats:
    """(n,) cross-conformal p-values: (1 + sum over members of #{its own calibration at least as strange}) / (N + 1).

    values: (M, n), each member's strangeness of the same n cases. calibrations: for each member, ascending, the
    strangeness of the cases it never saw; N of them in all. With one member this is rank_p. Vovk 2015.
    """
    counts = [_at_least(own, known) for own, known in zip(np.asarray(values), calibrations, strict=True)]
    p: Floats = (1 + np.sum(counts, axis=0)) / (sum(map(len, calibrations)) + 1)
    return p


def _at_least(values: Floats, calibration: Floats) -> NDArray[np.intp]:
    """(n,) how many calibration values are at least as large; looked up in order, which keeps to the cache."""
    order = np.argsort(values)
    counts = np.empty(len(values), dtype=np.intp)
    counts[order] = len(calibration) - np.searchsorted(calibration, values[order], side="left")
    return counts


def threshold(calibration: Floats, level: float, weights: Floats | None = None) -> float:
    """The largest value with rank_p above a level in (0, 1): rank_p(v) > level <=> v <= threshold.

    calibration: (n,) ascending, weights as for rank_p. Unweighted it is the ceil((1 - level) (n + 1))-th smallest;
    infinity where n is too small for any rank to reach down to the level. Raises DataError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise DataError(f"The level is {level}: it must lie between 0 and 1.")
    n = len(calibration)
    heavier = n - np.arange(n + 1) if weights is None else _tails(weights)
    above = int(((1 + heavier) / (1 + heavier[0]) > level).sum())
    return float(calibration[above - 1]) if above <= n else float("inf")


def rank_p_of_member(
    values: Floats, calibration: Floats, weights: Floats | None = None, own: Floats | float = 1.0
) -> Floats:
    """As rank_p for (n,) values that stand in the calibration themselves: each is ranked against the others.

    weights: of the calibration; own: (n,) those of the values. Taking a value out turns (1 + #{>= v}) / (n + 1), which
    counts it, into #{>= v} / n; it then counts 1, as a new case does, and no longer its own weight.
    """
    heavier = _tails(np.ones(len(calibration)) if weights is None else weights)
    at_least = heavier[np.searchsorted(calibration, values, side="left")]
    p: Floats = (1 + (at_least - own)) / (1 + (heavier[0] - own))
    return p


def minimum_n(alpha: float, weight: float = 0.0) -> int:
    """Calibration cases a class needs before any case can be excluded from it at alpha: ceil(1 / alpha) - 1.

    weight: what the class has already, in cases; then how many more. Exact in floating point: the smallest n >= 0 with
    1 / (1 + weight + n) <= alpha. Raises DataError outside 0 < alpha < 1.
    """
    if not 0 < alpha < 1:
        raise DataError(f"alpha is {alpha}: it must lie between 0 and 1.")
    near = max(int(1 / alpha - weight), 0)
    return next(n for n in range(max(near - 2, 0), near + 2) if 1 / (1 + weight + n) <= alpha)


def prediction_set(p: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """(n, K) membership of each class in the prediction set {c : p_c > alpha}."""
    return np.asarray(p, dtype=np.float64) > alpha
