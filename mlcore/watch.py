"""The watch over what arrives: is it still what was calibrated on, and does automation miss more than was promised?

Three looks at one stream of cases. A conformal test martingale bets, case by case, against «new cases are exchangeable with
the earlier ones» (Vovk, Gammerman & Shafer 2022, part III). A week is compared with a reference window, in numbers and
in mix. The missed cases among automatic ones are estimated from the random audit sample. All three return facts; the
sentences are written where they are shown.

Why the bag grows. P-values of a stream against one fixed calibration set all lean on the same sample: where it lies by
chance a little low, every case looks a little strange, the p-values are not independent, and any martingale on them grows
without end on a stream that never changed. Ranked among the reference *and all earlier cases*, with ties broken by a
random lot, the p-values of exchangeable cases are independent and exactly uniform (same book, proposition 11.1). The
price: after a change the new cases join the bag, so that a shift must be caught while it is new. The weekly checks,
whose reference stands still, catch what the martingale has grown used to.

What is exchangeable. Any order in time breaks it, harmless or not: a case that comes back, batches sorted by ward, nights
and week-ends. Let each case in once, in the order of arrival. Let the strangeness mean the same for the reference as for
the stream: a probability or distance of held-out cases does, one from the cases a model was fitted on does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import logsumexp, xlogy

from mlcore.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

AT_ONCE = 8192  # cases bet on between two looks at memory


# The stream: p-values


def online_p(values: ArrayLike, lots: ArrayLike, reference: ArrayLike = ()) -> Floats:
    """(n,) conformal p-value of each case among the reference and all cases before it; stranger cases get smaller ones.

    values: (n,) any finite strangeness in order of arrival, higher is stranger. lots: (n,) uniform in [0, 1], one a
    case, drawn independently of the values. reference: (m,) the same strangeness of earlier cases, in any order, m may
    be 0. With N cases before it, p = (#{stranger} + lot (1 + #{as strange})) / (N + 1). If reference and stream together
    are exchangeable, the p-values are independent and uniform, however many ties there are. Going on later with
    reference = reference + all values so far gives the numbers that one call would have given.
    Raises DataError for values that are not finite, or lots outside [0, 1] or of another number.
    """
    values, known = _line("values", values), np.sort(_line("reference values", reference))
    lots = _uniform("lots", lots, len(values))
    order, rank = np.unique(values, return_inverse=True)
    up_to = np.searchsorted(known, order, side="right")
    equal = (up_to - np.searchsorted(known, order, side="left"))[rank] + earlier_equal(rank)
    before = len(known) + np.arange(len(values))
    stranger = before - equal - np.searchsorted(known, order, side="left")[rank] - earlier_below(rank)
    p: Floats = (stranger + lots * (1 + equal)) / (before + 1)
    return p


def earlier_equal(rank: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) how many elements before each equal it."""
    order = np.argsort(rank, kind="stable")
    count = np.empty(len(rank), dtype=np.intp)
    count[order] = np.arange(len(rank)) - _first_of_run(rank[order])
    return count


def earlier_below(rank: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) how many elements before each lie below it; rank: (n,) integers from 0. O(n log² n), no loop over cases.

    Bit by bit: among elements that agree in all higher bits, those with a 0 lie below those with a 1.
    """
    count = np.zeros(len(rank), dtype=np.intp)
    for bit in range(int(rank.max(initial=0)).bit_length()):
        order = np.argsort(rank >> bit + 1, kind="stable")
        low = (rank[order] >> bit & 1) == 0
        lows = np.cumsum(low) - low
        count[order] += np.where(low, 0, lows - lows[_first_of_run(rank[order] >> bit + 1)])
    return count


def _first_of_run(ascending: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.searchsorted(ascending, ascending, side="left")


def _line(name: str, values: ArrayLike) -> Floats:
    line = np.asarray(values, dtype=np.float64)
    if line.ndim != 1 or not np.isfinite(line).all():
        raise DataError(
            f"The {name}, of shape {line.shape}, must be one line of finite numbers: correct the scores."
        )
    return line


def _uniform(name: str, values: ArrayLike, n: int | None = None) -> Floats:
    line = _line(name, values)
    if (n is not None and len(line) != n) or ((line < 0) | (line > 1)).any():
        raise DataError(f"The {len(line)} {name} must lie between 0 and 1, one for each case: correct them.")
    return line


# The stream: the martingale

SLOPES = (-1.8, -0.6, 0.6, 1.8)  # bets 1 + e (p - 1/2): on small p-values (e < 0) or large ones
BENDS = (-0.9, 0.6, 1.8)  # bets 1 + e (6 p² - 6 p + 1): on the middle (e < 0) or on both ends at once
JUMPS = (1e-4, 1e-3, 1e-2)  # how readily a bettor changes its bet, per case
STATES = 1 + len(SLOPES) + len(BENDS)
CELLS = STATES * len(JUMPS)
PATIENCE = 100.0  # cases; sets the pace at which capital is put to work


def bets(p: Floats) -> Floats:
    """(n, STATES) what each bet pays on a p-value: densities on [0, 1], so that a fair game pays 1 on average."""
    sloped = [1 + e * (p - 0.5) for e in SLOPES]
    bent = [1 + e * (6 * p * p - 6 * p + 1) for e in BENDS]
    return np.column_stack([np.ones_like(p), *sloped, *bent])


def idle(n: ArrayLike) -> Floats:
    """Share of the capital not yet at work after n cases, 1 / (1 + ln(1 + n / PATIENCE))."""
    share: Floats = 1 / (1 + np.log1p(np.asarray(n, dtype=np.float64) / PATIENCE))
    return share


def _moves() -> Floats:
    """(CELLS + 1, CELLS + 1) column-stochastic: within each jumping rate J, a share J spreads evenly over the bets."""
    blocks = [(1 - j) * np.eye(STATES) + j / STATES for j in JUMPS]
    moves = np.eye(CELLS + 1)
    for at, block in enumerate(blocks):
        moves[at * STATES : (at + 1) * STATES, at * STATES : (at + 1) * STATES] = block
    return moves


MOVES = _moves()
WAKE = np.append(np.full(CELLS, 1 / CELLS), -1.0)


@dataclass(frozen=True)
class Bets:
    """Where the game stands after n cases: log capital, and how it is spread over the bets (last: not yet at work)."""

    n: int = 0
    log_m: float = 0.0
    capital: tuple[float, ...] = (0.0,) * CELLS + (1.0,)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers that JSON keeps exactly."""
        return {"n": self.n, "log_m": self.log_m, "capital": list(self.capital)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Bets:
        """The state that to_json gave. Raises DataError where it was stored by another form of the game."""
        capital = tuple(float(part) for part in stored.get("capital", ()))
        if len(capital) != CELLS + 1 or not {"n", "log_m"} <= stored.keys():
            raise DataError(
                "The stored state of the watch is of another form: compute it anew from the cases."
            )
        return cls(int(stored["n"]), float(stored["log_m"]), capital)


START = Bets()


def advance(state: Bets, p: ArrayLike) -> tuple[Bets, Floats]:
    """The state after (n,) more p-values, and the (n,) natural log of the martingale after each.

    A mixture of Simple Jumpers (Vovk et al. 2021, «Retrain or not retrain», algorithm 1) over three jumping rates, with
    two strengths of slope, and bends for p-values that crowd at both ends or in the middle (degree 2 of arXiv:2606.20859). Their capital
    is put to work little by little (`idle`), which is a mixture over the time of the change: a quiet year costs a late
    alarm only the logarithm of its length, and the martingale never falls below idle(n).
    Raises DataError for p-values outside [0, 1].
    """
    p = _uniform("p-values", p)
    left = idle(state.n + np.arange(len(p) + 1))
    wake = 1 - left[1:] / left[:-1]
    capital, growth = np.array(state.capital), np.empty(len(p))
    for start in range(0, len(p), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        pays = np.column_stack([np.tile(bets(p[part]), len(JUMPS)), np.ones(len(p[part]))])
        capital = _play(capital, pays, wake[part], growth[part])
    log_m = state.log_m + np.cumsum(np.log(growth))
    end = float(log_m[-1]) if len(p) else state.log_m
    return Bets(state.n + len(p), end, tuple(capital.tolist())), log_m


def _play(capital: Floats, pays: Floats, wake: Floats, growth: Floats) -> Floats:
    """The shares of capital after some cases; growth is filled with the factor that each case brought."""
    for i, pay in enumerate(pays):
        capital = (MOVES @ capital + capital[-1] * wake[i] * WAKE) * pay
        growth[i] = total = capital.sum()
        capital /= total
    return capital


def martingale(p: ArrayLike, state: Bets = START) -> Floats:
    """(n,) natural log of the martingale after each p-value; positive: evidence that the stream has changed."""
    return advance(state, p)[1]


def level(rate: float = 0.01, streams: int = 1) -> float:
    """The capital at which to raise the alarm, streams / rate.

    By Ville's inequality at most a share `rate` of sites where nothing ever changes will ever raise one, on whichever
    of their streams (measures watched side by side, each with a martingale of its own), for however long they run.
    Raises DataError for a rate outside (0, 1) or no stream.
    """
    if not 0 < rate < 1 or streams < 1:
        raise DataError(
            f"A false alarm rate of {rate} on {streams} streams: give a rate between 0 and 1, and streams."
        )
    return streams / rate


def alarm_at(log_m: ArrayLike, level: float) -> int | None:
    """Index of the first case at which the martingale, given as (n,) logs, stands at the level or above."""
    reached = np.asarray(log_m, dtype=np.float64) >= np.log(level)
    return int(reached.argmax()) if reached.any() else None


def began_at(p: ArrayLike, alarm: int) -> int:
    """Index of the case from which one constant bet, held up to the alarm, would have won most.

    p: (n,) p-values, from the start of the martingale. An estimate of when the stream changed, to look there first;
    nothing is promised of it.
    """
    won = np.log(bets(_uniform("p-values", p)[: alarm + 1]))[::-1].cumsum(axis=0)
    return alarm - int(won.max(axis=1).argmax())


def alarms(p: ArrayLike, level: float) -> list[int]:
    """Indices of all alarms when the martingale starts again from 1 after each.

    Every new start may raise a false alarm with probability 1 / level. The bag keeps what came before an alarm; to
    accept the changed stream as the new normal, call online_p on the cases after it with an empty reference instead.
    """
    p = _uniform("p-values", p)
    found: list[int] = []
    state, start = START, 0
    while start < len(p):
        state, log_m = advance(state, p[start : start + AT_ONCE])
        hit = alarm_at(log_m, level)
        start += len(log_m) if hit is None else hit + 1
        if hit is not None:
            found.append(start - 1)
            state = START
    return found


# A week against a reference window

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
    x, y = _line(name, now), _line(name, reference)
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


WORDS = {
    "es": "de la el que en los del se las por un con una su para al lo como más sin sobre no y o es",
    "en": "the of and to in is was with for on that by an at from her his this were or not has be",
}
FUNCTION_WORDS = {name: frozenset(words.split()) for name, words in WORDS.items()}
ENOUGH = 0.12  # share of function words below which no language is named


def language_of(text: str) -> str:
    """«es», «en» or «other», by the larger share of that language's commonest function words.

    Crude: right on running prose of a few sentences, «other» on lists, tables, single words and other languages. Two
    Romance languages share many of these words, so Portuguese or Catalan may pass for Spanish.
    """
    words = re.findall(r"[^\W\d_]+", text.lower())
    shares = {
        name: sum(word in known for word in words) / max(len(words), 1)
        for name, known in FUNCTION_WORDS.items()
    }
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= ENOUGH else "other"


# Missed cases among the automatic ones

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
    propensity = _uniform("propensities", propensity, len(given))
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
                f"{drawn} of {row.automatic} cases were drawn, which a propensity of {row.propensity} does not explain: "
                "count all that were drawn (read or waiting), with the propensity they were drawn with."
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
