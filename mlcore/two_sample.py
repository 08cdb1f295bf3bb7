"""Two-sample checks: what differs between the cases of a week and those of a reference window, in numbers and in mix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import xlogy

from mlcore.lines import Floats, line

Integers = NDArray[np.int64]

WEEKS = 53  # a year never has more ISO weeks
DRAWS = 49_999  # of the Monte-Carlo test; its smallest p-value is 1 / (DRAWS + 1)
EXPECTED = (
    20.0  # below this expected count anywhere, chi-squared tables are not trusted so far out in the tail
)
RARE = 5  # levels seen fewer times in both windows together are pooled
SEED = 20_260_101


@dataclass(frozen=True)
class Sample:
    """The cases of one window: name -> (n,) numbers, name -> (n,) labels of a category. Lengths may differ by name."""

    numbers: Mapping[str, ArrayLike] = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Medians:
    """Medians, and the point where the windows differ most: the share of cases at or below `at`, then and now."""

    reference: float
    now: float
    at: float
    share_reference: float
    share_now: float


@dataclass(frozen=True)
class Share:
    """The level of a category whose share of the cases moved most (rather up than down), then and now, in 0..1."""

    level: str
    reference: float
    now: float


@dataclass(frozen=True)
class Check:
    """One comparison of a week with its reference. adjusted: p after Holm and for the year's weeks, at most 1."""

    name: str
    n_now: int
    n_reference: int
    statistic: float
    p: float
    adjusted: float
    flagged: bool
    effect: Medians | Share


def week_checks(
    now: Sample, reference: Sample, rate: float = 0.05, weeks: int = WEEKS, seed: int = SEED
) -> tuple[Check, ...]:
    """What differs between a week and a reference window, each finding with its size.

    Numbers by Kolmogorov-Smirnov, categories by the G test with Williams' correction (Monte-Carlo with both margins fixed where counts are
    small). Holm (1979) across the checks; every week may spend rate / weeks (Bonferroni, valid although all weeks
    share one reference), so at most a share `rate` of years without change has any flag, and the tenth year is watched
    as keenly as the first. Cases are taken as independent: of several notes of one patient, give one. A name that
    either window lacks, or has no case of, is not checked. Raises DataError for numbers that are not finite.
    """
    found = [_moved(name, *pair) for name, pair in _both(now.numbers, reference.numbers)]
    random = np.random.default_rng(seed)
    found += [_mixed(name, *pair, random) for name, pair in _both(now.categories, reference.categories)]
    holm = _holm([row.p for row in found])
    adjusted = [min(1.0, p * weeks) for p in holm]
    return tuple(
        Check(row.name, row.n_now, row.n_reference, row.statistic, row.p, p, p <= rate, row.effect)
        for row, p in zip(found, adjusted, strict=True)
    )


@dataclass(frozen=True)
class _Found:
    name: str
    n_now: int
    n_reference: int
    statistic: float
    p: float
    effect: Medians | Share


def _both(now: Mapping[str, Any], reference: Mapping[str, Any]) -> Iterable[tuple[str, tuple[Any, Any]]]:
    for name in now:
        if name in reference and len(now[name]) and len(reference[name]):
            yield name, (now[name], reference[name])


def _moved(name: str, now: ArrayLike, reference: ArrayLike) -> _Found:
    """Ties make Kolmogorov-Smirnov cautious, never rash."""
    x, y = line(name, now), line(name, reference)
    exact = len(x) * len(y) <= 1_000_000 and max(len(x), len(y)) <= 10_000
    test = stats.ks_2samp(x, y, method="exact" if exact else "asymp")
    at = float(test.statistic_location)
    effect = Medians(
        float(np.median(y)), float(np.median(x)), at, float((y <= at).mean()), float((x <= at).mean())
    )
    return _Found(name, len(x), len(y), float(test.statistic), float(test.pvalue), effect)


def _mixed(name: str, now: Sequence[str], reference: Sequence[str], random: np.random.Generator) -> _Found:
    new, old = Counter(now), Counter(reference)
    levels = sorted({*new, *old})
    table = np.array([[count[one] for one in levels] for count in (new, old)], dtype=np.int64)
    statistic, p = _g_test(_pooled(table), random)
    then, today = table[1] / table[1].sum(), table[0] / table[0].sum()
    moved = (today - then).round(9)
    most = max(range(len(levels)), key=lambda one: (abs(moved[one]), moved[one]))
    effect = Share(str(levels[most]), float(then[most]), float(today[most]))
    return _Found(name, int(table[0].sum()), int(table[1].sum()), statistic, p, effect)


def _pooled(table: Integers) -> Integers:
    """(2, levels) counts, with the rare levels added up in a last column."""
    rare = table.sum(axis=0) < RARE
    if not rare.any():
        return table
    return np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])


def _g_test(table: Integers, random: np.random.Generator) -> tuple[float, float]:
    """G of a (2, levels) table and its p-value, from chi-squared or, with a small expected count, from DRAWS tables."""
    totals, n = table.sum(axis=0), table.sum(axis=1)
    expected = np.outer(n, totals) / n.sum()
    g = float(_g(table[0], expected, totals))
    if len(totals) == 1:
        return g, 1.0
    if expected.min() >= EXPECTED:
        return g, float(stats.chi2.sf(g / _williams(n, totals), len(totals) - 1))
    drawn = random.multivariate_hypergeometric(totals, int(n[0]), size=DRAWS, method="marginals")
    as_far = int((_g(drawn, expected, totals) >= g - 1e-9).sum())
    return g, (1 + as_far) / (DRAWS + 1)


def _g(first: Integers, expected: Floats, totals: Integers) -> Floats:
    """G = 2 sum O ln(O / E) for tables given by their first rows, (..., levels)."""
    g: Floats = 2 * sum(
        xlogy(row, row / e).sum(axis=-1) for row, e in zip((first, totals - first), expected, strict=True)
    )
    return g


def _williams(n: Integers, totals: Integers) -> float:
    """What Williams (1976) divides G by, whose tail is otherwise heavier than chi-squared's."""
    whole = n.sum()
    rows, columns = (whole / n).sum() - 1, (whole / totals).sum() - 1
    return float(1 + rows * columns / (6 * whole * (len(totals) - 1)))


def _holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    order, worst = np.argsort(p), 0.0
    adjusted = [0.0] * len(p)
    for step, at in enumerate(order):
        worst = max(worst, (len(p) - step) * p[at])
        adjusted[at] = min(1.0, worst)
    return adjusted
