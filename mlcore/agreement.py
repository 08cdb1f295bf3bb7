"""How far readers agree, beyond chance on labels and on the passages they mark; each figure with its n and interval.

The figures come from scikit-learn (Cohen), statsmodels (Fleiss, Wilson, Newcombe) and krippendorff; the replicates of their
bootstrap intervals are drawn here, many at once, over cases: cases alike in every count are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlcore.errors import DataError
from mlcore.metrics import REPLICATES, SEED, Interval

Floats = NDArray[np.float64]
Span = tuple[int, int, int]
Statistic = Callable[[Floats], Floats]


def confusion(first: ArrayLike, second: ArrayLike, k: int) -> NDArray[np.int64]:
    """(k, k) cases by the label of the first reader (rows) and of the second (columns).

    first, second: (n,) labels of the same cases. Raises DataError for labels outside 0 … k - 1 or unlike lengths.
    """
    rows, columns = _labels(first, k), _labels(second, k)
    if rows.shape != columns.shape:
        raise DataError("Two readers are compared on the same cases: give one label of each for every case.")
    return np.bincount(k * rows + columns, minlength=k * k).reshape(k, k)


def _labels(labels: ArrayLike, k: int) -> NDArray[np.int64]:
    found = np.asarray(labels, dtype=np.int64)
    if found.size and (found.min() < 0 or found.max() >= k):
        raise DataError(f"Labels are counted from 0 to {k - 1}: leave out cases a reader did not label.")
    return found


def cohen(first: ArrayLike, second: ArrayLike, k: int, seed: int = SEED) -> Interval:
    """Cohen's kappa of two readings a case (Cohen 1960): 1 agreement, 0 what the readers' own habits give by chance.

    first, second: (n,) labels 0 … k - 1. NaN where chance alone would agree always (one label given, or no case).
    """
    from sklearn.metrics import cohen_kappa_score

    table = confusion(first, second, k)
    if not np.isfinite(_cohen(table.astype(np.float64))):
        return Interval(np.nan, np.nan, np.nan, int(table.sum()))
    value = float(cohen_kappa_score(np.asarray(first), np.asarray(second), labels=list(range(k))))
    cells = np.eye(k * k).reshape(k * k, k, k)
    return _interval(value, lambda w: _cohen(np.tensordot(w, cells, 1)), table.ravel(), seed)


def _cohen(table: Floats) -> Floats:
    n = table.sum(axis=(-2, -1))
    observed = _ratio(np.trace(table, axis1=-2, axis2=-1), n)
    expected = _ratio((table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1), n * n)
    return _ratio(observed - expected, 1 - expected)


def cohen_by_steps(first: ArrayLike, second: ArrayLike, k: int, seed: int = SEED) -> Interval:
    """Cohen's kappa with linear weights, for ordered labels (Cohen 1968): two steps apart disagree twice as much as one.

    first, second: (n,) labels 0 … k - 1, in their order. NaN where chance alone would never disagree.
    """
    from sklearn.metrics import cohen_kappa_score

    table = confusion(first, second, k)
    if not np.isfinite(_by_steps(table.astype(np.float64))):
        return Interval(np.nan, np.nan, np.nan, int(table.sum()))
    labels = list(range(k))
    value = float(cohen_kappa_score(np.asarray(first), np.asarray(second), labels=labels, weights="linear"))
    cells = np.eye(k * k).reshape(k * k, k, k)
    return _interval(value, lambda w: _by_steps(np.tensordot(w, cells, 1)), table.ravel(), seed)


def _by_steps(table: Floats) -> Floats:
    steps = np.abs(np.subtract.outer(np.arange(table.shape[-1]), np.arange(table.shape[-1])))
    chance = table.sum(axis=-1)[..., :, None] * table.sum(axis=-2)[..., None, :]
    expected = _ratio((chance * steps).sum(axis=(-2, -1)), table.sum(axis=(-2, -1)))
    return 1 - _ratio((table * steps).sum(axis=(-2, -1)), expected)


def fleiss(counts: ArrayLike, seed: int = SEED) -> Interval:
    """Fleiss' kappa (Fleiss 1971): whichever readers read, chance is how often each label is given at all.

    counts: (n, K) readings of each case by label. Raises DataError unless every case was read equally often, twice or more.
    """
    from statsmodels.stats.inter_rater import fleiss_kappa

    rows = _rows(counts)
    read = rows.sum(axis=1)
    if len(rows) and (read[0] < 2 or (read != read[0]).any()):
        raise DataError("Fleiss' kappa needs cases read equally often, twice or more: leave out the others.")
    patterns, times = _patterns(rows)
    if not np.isfinite(_fleiss(times, patterns)):
        return Interval(np.nan, np.nan, np.nan, len(rows))
    return _interval(float(fleiss_kappa(rows)), lambda w: _fleiss(w, patterns), times, seed)


def _fleiss(times: Floats, patterns: Floats) -> Floats:
    m = patterns[0].sum() if len(patterns) else np.nan
    agreed = (patterns * (patterns - 1)).sum(axis=1) / (m * (m - 1))
    observed = _ratio(times @ agreed, times.sum(axis=-1))
    shares = _ratio(times @ patterns, (m * times.sum(axis=-1))[..., None])
    expected = (shares**2).sum(axis=-1)
    return _ratio(observed - expected, 1 - expected)


def krippendorff(counts: ArrayLike, seed: int = SEED) -> Interval:
    """Krippendorff's alpha of labels without order (Krippendorff 2004, ch. 11): any number of readings a case, any missing.

    counts: (n, K) readings of each case by label; a case read once tells nothing, and n counts those read more often.
    """
    return _krippendorff(counts, "nominal", _alpha, seed)


def krippendorff_ordinal(counts: ArrayLike, seed: int = SEED) -> Interval:
    """Krippendorff's alpha of ordered labels (Krippendorff 2004, ch. 11): a disagreement weighs by how many readings lie
    between its two labels.

    counts: (n, K) readings of each case by label, in the labels' order; as for krippendorff otherwise.
    """
    return _krippendorff(counts, "ordinal", _ordinal, seed)


def _krippendorff(
    counts: ArrayLike,
    level: Literal["nominal", "ordinal"],
    statistic: Callable[[Floats, Floats], Floats],
    seed: int,
) -> Interval:
    from krippendorff import alpha

    rows = _rows(counts)
    rows = rows[rows.sum(axis=1) > 1]
    if np.count_nonzero(rows.sum(axis=0)) < 2:
        return Interval(np.nan, np.nan, np.nan, len(rows))
    patterns, times = _patterns(rows)
    value = float(alpha(value_counts=rows, level_of_measurement=level))
    return _interval(value, lambda w: statistic(w, patterns), times, seed)


def _ordinal(times: Floats, patterns: Floats) -> Floats:
    """1 - observed / expected disagreement; two labels are as far apart as the readings from the one to the other, half of
    their own: counted in each resample."""
    k = patterns.shape[1]
    paired = patterns[:, :, None] * patterns[:, None, :] - patterns[:, :, None] * np.eye(k)
    observed = np.tensordot(times, paired / (patterns.sum(axis=1) - 1)[:, None, None], 1)
    totals = times @ patterns
    middle = np.cumsum(totals, axis=-1) - totals / 2
    apart = (middle[..., :, None] - middle[..., None, :]) ** 2
    by_chance = totals[..., :, None] * totals[..., None, :]
    expected = _ratio((by_chance * apart).sum(axis=(-2, -1)), totals.sum(axis=-1) - 1)
    return 1 - _ratio((observed * apart).sum(axis=(-2, -1)), expected)


def _alpha(times: Floats, patterns: Floats) -> Floats:
    """1 - observed / expected disagreement; within a case of m readings each pair weighs 1 / (m - 1)."""
    read = patterns.sum(axis=1)
    differing = (read**2 - (patterns**2).sum(axis=1)) / (read - 1)
    totals = times @ patterns
    n = totals.sum(axis=-1)
    expected = _ratio(n**2 - (totals**2).sum(axis=-1), n - 1)
    return 1 - _ratio(times @ differing, expected)


def span_f1(
    first: Sequence[Collection[Span]], second: Sequence[Collection[Span]], seed: int = SEED
) -> dict[str, Interval]:
    """How far two readers mark the same passages: F1 over all cases together, 1 the same, 0 nothing shared.

    first, second: for each case the passages (note, start, end) in code points. «exact»: passages with both ends alike.
    «overlap»: code points marked, however often. A case in which neither marked anything counts in n and changes nothing.
    """
    if len(first) != len(second):
        raise DataError("Two readers are compared on the same cases: give the marks of both for every case.")
    return {
        "exact": _f1([set(one) for one in first], [set(one) for one in second], seed),
        "overlap": _f1([_points(one) for one in first], [_points(one) for one in second], seed),
    }


def _points(spans: Collection[Span]) -> set[tuple[int, int]]:
    return {(note, at) for note, start, end in spans for at in range(start, end)}


Marked = set[Span] | set[tuple[int, int]]


def _f1(first: Sequence[Marked], second: Sequence[Marked], seed: int) -> Interval:
    rows = [[2 * len(a & b), len(a) + len(b)] for a, b in zip(first, second, strict=True)]  # type: ignore[operator]
    patterns, times = _patterns(np.array(rows, dtype=np.float64).reshape(-1, 2))

    def f1(w: Floats) -> Floats:
        return _ratio(w @ patterns[:, 0], w @ patterns[:, 1])

    return _interval(float(f1(times)), f1, times, seed)


def share(part: int, whole: int) -> Interval:
    """A share of independent cases with its Wilson 95 % interval (Wilson 1927)."""
    from statsmodels.stats.proportion import proportion_confint

    if not whole:
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = proportion_confint(part, whole, method="wilson")
    return Interval(part / whole, float(low), float(high), whole)


def difference(first: tuple[int, int], second: tuple[int, int]) -> Interval:
    """Share of the first group less that of the second, each (part, whole), with Newcombe's 95 % interval (1998, method 10)."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    whole = first[1] + second[1]
    if not first[1] or not second[1]:
        return Interval(np.nan, np.nan, np.nan, whole)
    low, high = confint_proportions_2indep(*first, *second, method="newcomb", compare="diff")
    return Interval(first[0] / first[1] - second[0] / second[1], float(low), float(high), whole)


def change(before: ArrayLike, after: ArrayLike, seed: int = SEED) -> Interval:
    """Share of (n,) yes/no that hold after less before, of the same cases; the interval is bootstrapped over them."""
    then, now = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    moves = now - then
    steps = np.array([-1.0, 0.0, 1.0])
    times = np.array([(moves == step).sum() for step in steps], dtype=np.float64)
    value = float(moves.mean()) if len(moves) else np.nan
    return _interval(value, lambda w: _ratio(w @ steps, w.sum(axis=-1)), times, seed)


def _rows(counts: ArrayLike) -> Floats:
    rows = np.asarray(counts, dtype=np.float64)
    if rows.ndim != 2 or (rows < 0).any():
        raise DataError(
            "Readings are counted by case (rows) and label (columns): give an (n, K) table of counts."
        )
    return rows


def _patterns(rows: Floats) -> tuple[Floats, Floats]:
    """The distinct (P, K) rows, and how many cases each stands for."""
    patterns, times = np.unique(rows, axis=0, return_counts=True)
    return patterns, times.astype(np.float64)


def _interval(value: float, statistic: Statistic, times: ArrayLike, seed: int) -> Interval:
    """``value`` with its percentile bootstrap 95 % interval; ``times``: cases of each pattern the statistic weighs."""
    cases = np.asarray(times, dtype=np.float64)
    n = int(cases.sum())
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0)
    drawn = np.random.default_rng(seed).multinomial(n, cases / n, size=REPLICATES)
    replicates = statistic(drawn.astype(np.float64))
    known = replicates[np.isfinite(replicates)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Interval(value, float(low), float(high), n)


def _ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    ratio: Floats = np.divide(
        part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0
    )
    return ratio
