"""Mondrian (class-conditional) conformal p-values by exact rank.

Vovk, Gammerman & Shafer 2005, chapter 4; section 3.1 of Morales-Sánchez et al. 2026. With exchangeable cases,
P(p_y <= alpha | true class y) <= alpha for every class and alpha, in finite samples.
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


def p_values(scores: ArrayLike, calibration: Sequence[Floats]) -> Floats:
    """(n, K) p-values in (0, 1]: (1 + #{calibration of class c at least as strange}) / (n_c + 1).

    scores: (n, K) nonconformity. calibration: for each class its calibration scores, ascending. Ties count as
    at least as strange. Raises DataError for scores that are not finite or of another width.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(calibration) or not np.isfinite(scores).all():
        raise DataError(f"Scores of shape {scores.shape} must be finite, with {len(calibration)} columns.")
    return np.column_stack(
        [rank_p(column, known) for column, known in zip(scores.T, calibration, strict=True)]
    )


def rank_p(values: Floats, calibration: Floats) -> Floats:
    """(n,) exact-rank p-values against ascending calibration values; large values get small ones."""
    return (1 + _at_least(values, calibration)) / (len(calibration) + 1)


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


def threshold(calibration: Floats, level: float) -> float:
    """The largest value with rank_p above a level in (0, 1): rank_p(v) > level <=> v <= threshold.

    calibration: (n,) ascending. It is the ceil((1 - level) (n + 1))-th smallest, infinity where n is too small
    for any rank to reach down to the level. Raises DataError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise DataError(f"The level is {level}: it must lie between 0 and 1.")
    n = len(calibration)
    above = int(((1 + n - np.arange(n + 1)) / (n + 1) > level).sum())
    return float(calibration[above - 1]) if above <= n else float("inf")


def rank_p_of_member(values: Floats, calibration: Floats) -> Floats:
    """As rank_p for (n,) values that stand in the calibration themselves: each is ranked against the others.

    Taking a value out turns (1 + #{>= v}) / (n + 1), which counts it, into #{>= v} / n.
    """
    n = len(calibration)
    return (n - np.searchsorted(calibration, values, side="left")) / n


def minimum_n(alpha: float) -> int:
    """Calibration cases a class needs before any case can be excluded from it at alpha: ceil(1 / alpha) - 1.

    Exact in floating point: the smallest n with 1 / (n + 1) <= alpha. Raises DataError outside 0 < alpha < 1.
    """
    if not 0 < alpha < 1:
        raise DataError(f"alpha is {alpha}: it must lie between 0 and 1.")
    near = int(1 / alpha)
    return next(n for n in range(max(near - 2, 0), near + 2) if 1 / (n + 1) <= alpha)


def prediction_set(p: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """(n, K) membership of each class in the prediction set {c : p_c > alpha}."""
    return np.asarray(p, dtype=np.float64) > alpha
