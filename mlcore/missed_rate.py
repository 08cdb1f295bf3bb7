"""How many cases automation misses, estimated from the random audit sample, against alpha.

Clopper & Pearson (1934) where every case had the same chance of audit, a betting interval about the Horvitz-Thompson
estimate where not. Facts come back; the sentences are written where they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import brentq
from scipy.special import logsumexp, xlogy

from mlcore.errors import DataError, gettext_noop
from mlcore.lines import Floats, uniform

WITHIN, ABOVE, UNTOLD = "within", "above", "cannot be told yet"
EQUAL, UNEQUAL = "clopper-pearson", "horvitz-thompson-betting"
NOT_DRAWN, WAITING = -1, -2  # in place of a true class
STAKES_UP = np.linspace(0.05, 1.0, 20)  # of the most that may be staked against «the rate is this high»
STAKES_DOWN = np.geomspace(0.1, 50.0, 20)  # times the smallest propensity, against «the rate is this low»
MOST_READS = 10_000_000
TINY = 1e-9
UNBELIEVABLE = 1e-6  # chance of the number drawn, below which the propensity cannot be what is stored


@dataclass(frozen=True)
class Stratum:
    """Automatic cases drawn for audit with one propensity, and what reading found.

    automatic: how many there are; read: drawn and read; missed: of those, the missed ones; waiting: drawn, not yet read.
    """

    propensity: float
    automatic: int
    read: int
    missed: int
    waiting: int = 0


@dataclass(frozen=True)
class Missed:
    """The share of automatic cases that were missed, its interval, and how it stands to alpha.

    verdict: WITHIN (high <= alpha), ABOVE (low > alpha) or UNTOLD. unaudited: automatic cases with propensity 0, left
    out because nothing can be said of them. more_reads: audit reads that would make it WITHIN at today's observed rate,
    None unless it is UNTOLD or where no number would. rate, low, high: nan, 0, 1 where nothing is read.
    """

    automatic: int
    unaudited: int
    read: int
    missed: int
    waiting: int
    rate: float
    low: float
    high: float
    alpha: float
    verdict: str
    method: str
    more_reads: int | None


def strata(
    given: ArrayLike, truth: ArrayLike, propensity: ArrayLike, label: int, kept: bool = False
) -> tuple[Stratum, ...]:
    """The strata of one label, from (n,) arrays over ALL automatic cases.

    given: class that automation gave. truth: class found by the audit, NOT_DRAWN or WAITING. propensity: with what
    probability the case was to be drawn. Only cases given another label count, and missed are those that truly are of
    it; with kept, only cases given the label, and missed are those that truly are of another.
    Raises DataError for arrays of unequal length.
    """
    given, truth = np.asarray(given), np.asarray(truth)
    propensity = uniform("propensities", propensity, len(given))
    if len(truth) != len(given):
        raise DataError(f"{len(truth)} true classes for {len(given)} automatic cases: give one for each.")
    chosen = (given == label) == kept
    wrong = (truth >= 0) & ((truth != label) == kept)
    rows = []
    for pi in np.unique(propensity[chosen]):
        here = chosen & (propensity == pi)
        read, missed, waiting = (int((here & mask).sum()) for mask in (truth >= 0, wrong, truth == WAITING))
        rows.append(Stratum(float(pi), int(here.sum()), read, missed, waiting))
    return tuple(rows)


def missed_rate(rows: Sequence[Stratum], alpha: float, confidence: float = 0.95) -> Missed:
    """The share of automatic cases that are missed, with an interval that holds at least the confidence.

    One propensity: Clopper & Pearson (1934) on the reads. Several: the Horvitz-Thompson estimate with `weighted_interval`.
    Cases drawn and not read yet count as right in the lower bound and as missed in the upper one, so that the order in
    which readers take them cannot mislead. Raises DataError for counts that cannot be, or, with several propensities, that
    these do not explain; and for alpha or confidence outside (0, 1).
    """
    for row in rows:
        _check(row)
    if not (0 < alpha < 1 and 0 < confidence < 1):
        raise DataError(f"alpha {alpha} and confidence {confidence} must lie between 0 and 1.")
    audited = [row for row in rows if row.propensity > 0]
    equal = len({row.propensity for row in audited}) <= 1
    rate, low, high = (_equal if equal else _unequal)(audited, confidence)
    verdict = WITHIN if high <= alpha else ABOVE if low > alpha else UNTOLD
    automatic, read, missed, waiting = _totals(audited)
    more = _more_reads(rate, read, alpha, confidence) if verdict == UNTOLD else None
    unaudited = sum(row.automatic for row in rows) - automatic
    method = EQUAL if equal else UNEQUAL
    return Missed(automatic, unaudited, read, missed, waiting, rate, low, high, alpha, verdict, method, more)


def _check(row: Stratum) -> None:
    drawn = row.read + row.waiting
    if not 0 <= row.propensity <= 1 or not 0 <= row.missed <= row.read <= drawn <= row.automatic:
        raise DataError(f"The counts {row} cannot be: 0 <= missed <= read <= read + waiting <= automatic.")
    if row.propensity == 0 and drawn:
        raise DataError(
            f"{drawn} cases were drawn with propensity 0: store the propensity they were drawn with."
        )


def _check_drawn(rows: Sequence[Stratum]) -> None:
    for row in rows:
        drawn = row.read + row.waiting
        chance = stats.binom.cdf(
            [drawn, row.automatic - drawn], row.automatic, [row.propensity, 1 - row.propensity]
        )
        if chance.min() < UNBELIEVABLE:
            raise DataError(
                gettext_noop(
                    "%(drawn)s of %(automatic)s cases were drawn, which a propensity of %(propensity)s does not explain: "
                    "count all that were drawn (read or waiting), with the propensity they were drawn with."
                ),
                drawn=drawn,
                automatic=row.automatic,
                propensity=row.propensity,
            )


def _totals(rows: Sequence[Stratum]) -> tuple[int, int, int, int]:
    automatic, read = sum(row.automatic for row in rows), sum(row.read for row in rows)
    return automatic, read, sum(row.missed for row in rows), sum(row.waiting for row in rows)


def _equal(rows: Sequence[Stratum], confidence: float) -> tuple[float, float, float]:
    _, read, missed, waiting = _totals(rows)
    drawn = read + waiting
    rate = missed / read if read else np.nan
    return (
        rate,
        clopper_pearson(missed, drawn, confidence)[0],
        clopper_pearson(missed + waiting, drawn, confidence)[1],
    )


def _unequal(rows: Sequence[Stratum], confidence: float) -> tuple[float, float, float]:
    if not sum(row.read + row.waiting for row in rows):
        return np.nan, 0.0, 1.0
    _check_drawn(rows)
    n, smallest = sum(row.automatic for row in rows), min(row.propensity for row in rows)
    found = [(row.propensity, row.missed) for row in rows]
    at_worst = [(row.propensity, row.missed + row.waiting) for row in rows]
    rate = sum(count / pi for pi, count in found) / n if any(row.read for row in rows) else np.nan
    low = weighted_interval(found, n, smallest, confidence)[0]
    return rate, low, weighted_interval(at_worst, n, smallest, confidence)[1]


def clopper_pearson(found: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of a share; (0, 1) for n = 0."""
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, found, n - found + 1)) if found else 0.0
    high = float(stats.beta.isf(tail, found + 1, n - found)) if found < n else 1.0
    return low, high


def weighted_interval(
    found: Sequence[tuple[float, int]], n: int, smallest: float, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for the share of n cases that are missed, each case drawn independently with its own known propensity.

    found: (propensity, missed cases read of that propensity) pairs. n: all automatic cases, drawn or not. smallest: the
    smallest propensity among them. Give each case x = 1 / propensity where it was drawn and missed, else 0: its mean is
    1 or 0, the truth, and the rate m is the mean of those. For any stake fixed beforehand E prod(1 + s (x - m)) <= 1, by
    independence and the inequality of the means, so by Markov's inequality the rates against which a fixed mixture of
    stakes wins 2 / (1 - confidence) can be left out, at each end. After Waudby-Smith & Ramdas 2024, section 4, with the
    stakes fixed, since here the cases differ. No assumption on which cases are missed, nor on the sample's size.
    """
    tail, most = np.log(2 / (1 - confidence)), 1 / smallest
    x = np.array([1 / pi for pi, _ in found])
    count = np.array([missed for _, missed in found], dtype=np.float64)

    def won(stakes: Floats, m: float) -> float:
        """Log of the mixture's winnings against rate m, less what is needed to leave m out."""
        per_case = xlogy(count, np.maximum(1 + stakes[:, None] * (x - m), 0)).sum(axis=1)
        rest = xlogy(n - count.sum(), np.maximum(1 - stakes * m, 0))
        return float(logsumexp(per_case + rest) - np.log(len(stakes)) - tail)

    def too_high(m: float) -> float:
        return won(-STAKES_UP / (most - m), m)

    def too_low(m: float) -> float:
        return won(np.minimum(STAKES_DOWN * smallest, 1 / m), m)

    return _crossing(too_low, (0.0, 1.0)), _crossing(too_high, (1.0, 0.0))


def _crossing(won: Callable[[float], float], ends: tuple[float, float]) -> float:
    """The rate at which the winnings, monotone in it, just suffice; ends[0] if they never do, ends[1] if they always do."""
    at_least, at_most = won(TINY), won(1 - TINY)
    if at_least * at_most >= 0:
        return ends[int(at_least > 0)]
    return float(brentq(won, TINY, 1 - TINY, xtol=TINY))


def _more_reads(rate: float, read: int, alpha: float, confidence: float) -> int | None:
    """Further reads at one propensity after which the observed rate would lie within alpha."""
    if not rate < alpha and read:
        return None
    rate = rate if read else 0.0

    def short(n: int) -> bool:
        return clopper_pearson(int(np.ceil(rate * n)), n, confidence)[1] > alpha

    top = max(read, 1)
    while short(top) and top < MOST_READS:
        top *= 2
    if short(top):
        return None
    low = max(top // 2, read)
    while low < top:
        middle = (low + top) // 2
        low, top = (middle + 1, top) if short(middle) else (low, middle)
    return max(top - read, 1)


@dataclass(frozen=True)
class MissedOfClass:
    """Of all true cases of a class, the share that automation gave another label: what alpha bounds."""

    cases: float
    share: float
    low: float
    high: float
    alpha: float
    verdict: str


def missed_share(
    elsewhere: Sequence[Stratum],
    kept: Sequence[Stratum],
    deferred: int,
    unread: int,
    alpha: float,
    confidence: float = 0.95,
) -> MissedOfClass:
    """The share of a class's true cases that automation missed: the quantity that conformal prediction holds below alpha.

    elsewhere: automatic cases given another label, missed = truly of the class. kept: automatic cases given the class,
    missed = truly another. deferred: deferred cases read and found to be of the class; unread: deferred cases not read
    yet, which may be of the class or not. cases: estimated true cases of the class. Each of the two audits is
    estimated at half the error (Bonferroni). Raises DataError as missed_rate does, or for cases never audited.
    """
    half = 1 - (1 - confidence) / 2
    missed, wrong = missed_rate(elsewhere, alpha, half), missed_rate(kept, alpha, half)
    if missed.unaudited or wrong.unaudited:
        raise DataError(
            f"{missed.unaudited + wrong.unaudited} automatic cases had no chance of audit: leave out their weeks."
        )
    right = wrong.automatic * (1 - np.array([wrong.rate if wrong.automatic else 0.0, wrong.high, wrong.low]))
    gone = missed.automatic * np.array([missed.rate if missed.automatic else 0.0, missed.low, missed.high])
    other = deferred + right
    low = _part(gone[1], other[2] + unread)
    high = _part(gone[2], other[1])
    verdict = WITHIN if high <= alpha else ABOVE if low > alpha else UNTOLD
    return MissedOfClass(float(gone[0] + other[0]), _part(gone[0], other[0]), low, high, alpha, verdict)


def _part(part: float, rest: float) -> float:
    return float(part / (part + rest)) if part + rest > 0 else float("nan")
