"""A certified predictive value: the most a dial may automate with the errors among what it says held below a rate.

Class-conditional coverage bounds how many suspects are missed of all suspects; it says nothing of how many of those
called negative are suspects. That predictive value is certified here by fixed-sequence testing, after conformal triage
(Angelopoulos et al., medRxiv 2024.02.09.24302543; Learn then Test, arXiv 2110.01052): alphas are tested in an order fixed
beforehand, each at the full level, until the first that fails; with confidence 1 - delta no alpha that passed is wrong.

The order. A case is automatic <=> runner_up <= alpha < credibility. The label's rivals must all have p-values of at most
alpha, so that a smaller alpha asks for more and settles fewer cases, the clearest: of suspects at most a share alpha can
be called negative. Safest first is ascending. Alphas that settle so few cases that they could not pass with one error (where
no alpha could, with none) are passed over, not failed; which they are is read from how many cases are settled, never from
what they truly are. That choice costs nothing when those counts come from other cases (`expected`); from the labelled
cases' own counts it costs nothing as long as errors do not grow rarer as alpha grows.

The test of «at most a share r of the settled cases are wrong», for cases drawn independently with known weights:

- where all weigh the same, the exact binomial tail (its bound is Clopper and Pearson's); all cases, or, when weights
  follow from propensities alone, which hang on nothing unseen, those settled on the side;
- else an e-value by betting (Waudby-Smith & Ramdas 2024, arXiv 2010.09686). With Z_i = u_i (wrong_i - r), u_i the weight
  over the heaviest there may be, and 0 for a case not settled on the side, the mean of Z is >= 0 unless the claim holds.
  A constant bet gives the wealth prod (1 - lambda Z_i), of expectation at most 1 then; its mean over a few bets, those
  best against true rates of BETS times r, has it too, needs no order of the cases, and p = 1 / wealth.

Cases drawn class by class in fixed numbers, as a release's held-out ones, are weighted by the classes' known prevalence.
Where these weights differ the binomial is not right for them, the e-value is: class means m_c with sum n_c m_c >= 0 give
prod (1 - lambda m_c)^n_c <= (1 - lambda sum n_c m_c / n)^n <= 1. Two assumptions stay: the prevalence is the site's, and
their leave-one-out ranks are taken as independent of each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv

from mlcore import decision
from mlcore.conformal import effective_size
from mlcore.decision import AUTOMATIC
from mlcore.errors import DataError
from mlcore.metrics import is_target

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Side = Literal["negative", "positive"]

BETS = np.array([0.0, 0.1, 0.25, 0.5, 0.75])
MOST_READS = 10_000_000
ALIKE = 12


class Labelled(NamedTuple):
    """Cases whose truth is known, each (n,): the numbers that decide, the label given, the true one, and the weight.

    weight: of any unit, the number of cases each stands for: 1 over its propensity to be labelled, or prevalence over
    share drawn.
    """

    credibility: Floats
    runner_up: Floats
    typicality: Floats
    label: NDArray[np.int64]
    truth: NDArray[np.int64]
    weight: Floats


class Sample(NamedTuple):
    """The settled cases of a side: weights over the heaviest there may be, (n,) in (0, 1], and which are wrong.

    even: whether they are independent draws of one weight, so that a count tells all.
    """

    weight: Floats
    wrong: Bools
    even: bool


@dataclass(frozen=True)
class Row:
    """What the labelled cases say of one alpha.

    automatic: weighted share of all cases that are automatic. n, wrong, effective: settled cases of the side, how many
    of them err, their effective size. seen: weighted share in error; upper: its upper confidence bound; nan and 1 for no
    case. p: against «more than the rate err». method: «binomial» or «betting». tested: whether the sequence came here.
    reads_at_best, reads_as_seen: further audit reads with which this alpha alone would pass, should none of them err or
    should they err as seen; 0 when it passes, None where no number would do.
    """

    alpha: float
    automatic: float
    n: int
    wrong: int
    effective: float
    seen: float
    upper: float
    p: float
    method: Literal["binomial", "betting"]
    tested: bool
    passed: bool
    reads_at_best: int | None
    reads_as_seen: int | None


@dataclass(frozen=True)
class Certificate:
    """alpha: the one that automates most of those that passed, None when none did. rows: one for each alpha, ascending."""

    side: Side
    rate: float
    confidence: float
    alpha: float | None
    rows: tuple[Row, ...]

    @property
    def nearest(self) -> Row | None:
        """Of the rows up to the one that failed, that which fewest further audit reads would let pass, at best."""
        failed = next((i for i, row in enumerate(self.rows) if row.tested and not row.passed), len(self.rows))
        near = [row for row in self.rows[: failed + 1] if row.reads_at_best]
        return min(near, key=lambda row: row.reads_at_best or 0, default=None)


def certify(
    cases: Labelled,
    alphas: Sequence[float],
    rate: float,
    *,
    targets: Collection[int],
    floor: float,
    side: Side = "negative",
    confidence: float = 0.95,
    by_propensity: bool = False,
    heaviest: float | None = None,
    expected: ArrayLike | None = None,
    mix: ArrayLike | None = None,
) -> Certificate:
    """The alpha that automates most while, with this confidence, at most `rate` of what it settles on a side is wrong.

    side: "negative" for automatic cases given no target label, wrong when they truly are of one; "positive" for those
    given one, wrong when they truly are of none. alphas: (m,) ascending in (0, 1), chosen without sight of the truth.
    targets: label indices. by_propensity: whether weights are 1 over what the policy made the chance to be read, and so
    known before the truth; leave it out for cases drawn by class. heaviest: the largest weight any case could have had; the largest there is when not given,
    which is right when propensities take few values. expected: (m,) how many of the labelled cases one expects settled on
    the side, from cases not among them; their own counts when not given. mix: a share, or (m,), of further audit reads
    that fall on the side; its weighted share among these cases when not given.

    Raises DataError for numbers outside their ranges, no cases, lengths that differ.
    """
    w = _checked(cases, alphas, rate, confidence, heaviest)
    level = 1 - confidence
    everyone = w.sum()
    automatic = [_automatic(cases, alpha, floor) for alpha in alphas]
    on_side = is_target(cases.label, targets) == (side == "positive")
    wrong = is_target(cases.truth, targets) != is_target(cases.label, targets)
    alike = bool((w == w[0]).all())
    samples = [_sample(w, wrong, rows & on_side, alike, by_propensity) for rows in automatic]
    shares = [sample.weight.sum() / everyone for sample in samples] if mix is None else mix
    p = [p_value(sample, rate) for sample in samples]
    passed = sequence(p, _able(samples, rate, level, expected, float(w.mean())), level)
    rows = tuple(
        _row(alpha, float(w[settled].sum() / everyone), sample, p_at, at, rate, level, float(share))
        for alpha, settled, sample, p_at, at, share in zip(
            alphas, automatic, samples, p, passed, np.broadcast_to(shares, len(samples)), strict=True
        )
    )
    best = max((row for row in rows if row.passed), key=lambda row: row.automatic, default=None)
    return Certificate(side, rate, confidence, best.alpha if best else None, rows)


def sequence(p: Sequence[float], able: Sequence[bool], level: float) -> list[tuple[bool, bool]]:
    """(tested, passed) of hypotheses in their order: from the first able one on, until one has p > level.

    able: whether a hypothesis could pass at all, known without its data's truth.
    """
    start = next((i for i, yes in enumerate(able) if yes), len(p))
    stop = next((i for i in range(start, len(p)) if p[i] > level), len(p))
    return [(start <= i <= stop, start <= i < stop) for i in range(len(p))]


def p_value(sample: Sample, rate: float) -> float:
    """p-value in [0, 1] of «more than a share `rate` of such cases are wrong»; small ones speak against it."""
    return _p(*_grouped(sample), rate, sample.even)


def upper_bound(sample: Sample, level: float) -> float:
    """The rate above which every rate is rejected at the level: an upper bound of confidence 1 - level; 1 for no case."""
    n, wrong = len(sample.wrong), int(sample.wrong.sum())
    if wrong == n:
        return 1.0
    if sample.even:
        return float(betaincinv(wrong + 1, n - wrong, 1 - level))
    right, errors = _grouped(sample)

    def short(rate: float) -> float:
        return _log_wealth(right, errors, rate) + log(level)

    low, high = 1e-12, 1 - 1e-12
    return float(brentq(short, low, high)) if short(high) > 0 else 1.0


def further_cases(sample: Sample, rate: float, level: float, error: float) -> int | None:
    """How many more settled cases of weight 1, a share `error` of them wrong, would make the sample pass; None: no number."""
    right, wrong = _grouped(sample)

    def after(more: int) -> float:
        further = [np.array([[1.0, more * share]]) for share in (1 - error, error)]
        return _p(np.vstack([right, further[0]]), np.vstack([wrong, further[1]]), rate, sample.even)

    if after(0) <= level:
        return 0
    few, more = 0, 1
    while after(more) > level:
        few, more = more, 2 * more
        if error >= rate or more > MOST_READS:
            return None
    while more - few > 1:
        middle = (few + more) // 2
        few, more = (few, middle) if after(middle) <= level else (middle, more)
    return more


def _grouped(sample: Sample) -> tuple[Floats, Floats]:
    """The distinct weights of the right and of the wrong cases, and how many have each: two (g, 2)."""
    right, wrong = (
        np.column_stack(np.unique(sample.weight[rows], return_counts=True)).astype(np.float64)
        for rows in (~sample.wrong, sample.wrong)
    )
    return right, wrong


def _p(right: Floats, wrong: Floats, rate: float, even: bool) -> float:
    """p-value of right and wrong cases, (g, 2) of weight and number, which may be broken."""
    if not even:
        return float(np.exp(-max(_log_wealth(right, wrong, rate), 0.0)))
    n, errors = right[:, 1].sum(), wrong[:, 1].sum()
    return float(betainc(n, errors + 1, 1 - rate)) if n else 1.0


def _log_wealth(right: Floats, wrong: Floats, rate: float) -> float:
    """Logarithm of the mean wealth of the BETS after right and wrong cases, (g, 2) of weight and number."""
    bets = 1 - BETS
    gains = np.log1p(bets * right[:, :1] * rate / (1 - rate)).T @ right[:, 1]
    erred = wrong[wrong[:, 1] > 0]
    with np.errstate(divide="ignore"):
        lost = (erred[:, 1:] * np.log1p(-bets * erred[:, :1])).sum(axis=0)
    return float(np.logaddexp.reduce(gains + lost) - log(len(BETS)))


def _sample(w: Floats, wrong: Bools, rows: Bools, alike: bool, by_propensity: bool) -> Sample:
    mine = w[rows]
    return Sample(mine, wrong[rows], alike or (by_propensity and bool((mine == mine[:1]).all())))


def _able(
    samples: Sequence[Sample], rate: float, level: float, expected: ArrayLike | None, usual: float
) -> list[bool]:
    """Whether each alpha would pass with one error of weight 1; where none would, whether with none.

    usual: the weight of a case only expected.
    """
    if expected is not None:
        numbers = np.floor(np.asarray(expected, dtype=np.float64)).astype(np.int64)
        samples = [
            Sample(np.full(n, usual), np.zeros(n, dtype=bool), sample.even)
            for n, sample in zip(numbers, samples, strict=True)
        ]
    groups = [_grouped(sample._replace(wrong=np.zeros_like(sample.wrong)))[0] for sample in samples]
    able = [
        [
            _p(group, np.array([[1.0, errors]]), rate, sample.even) <= level
            for group, sample in zip(groups, samples, strict=True)
        ]
        for errors in (1.0, 0.0)
    ]
    return able[0] if any(able[0]) else able[1]


def _row(
    alpha: float,
    automatic: float,
    sample: Sample,
    p: float,
    at: tuple[bool, bool],
    rate: float,
    level: float,
    share: float,
) -> Row:
    n = len(sample.weight)
    seen = float(sample.weight @ sample.wrong / sample.weight.sum()) if n else float("nan")
    reads = [_reads(further_cases(sample, rate, level, error), share) for error in (0.0, seen if n else 0.0)]
    return Row(
        float(alpha),
        automatic,
        n,
        int(sample.wrong.sum()),
        effective_size(sample.weight),
        seen,
        upper_bound(sample, level),
        p,
        "binomial" if sample.even else "betting",
        *at,
        *reads,
    )


def _reads(further: int | None, share: float) -> int | None:
    """Audit reads among which so many cases of the side are to be expected."""
    if further is None or (further and not share):
        return None
    return ceil(further / share) if further else 0


def _checked(
    cases: Labelled, alphas: Sequence[float], rate: float, confidence: float, heaviest: float | None
) -> Floats:
    """(n,) weights over the heaviest."""
    w = np.asarray(cases.weight, dtype=np.float64)
    if not len(w) or any(np.shape(column) != w.shape for column in cases):
        raise DataError("A certificate needs labelled cases, with every number for each: give some.")
    if not (0 < rate < 1 and 0 < confidence < 1):
        raise DataError(f"The rate {rate} and the confidence {confidence} must lie between 0 and 1.")
    if not len(alphas) or (np.diff(alphas) <= 0).any():
        raise DataError("The alphas to be tested must be given, each larger than the one before.")
    most = w.max() if heaviest is None else heaviest
    if not ((w > 0) & (w <= most)).all():
        raise DataError(f"Weights must be above 0 and at most the heaviest, {most}: mend them.")
    return w / most


class Budget(NamedTuple):
    """alpha: the smallest whose reading fits, None when none does. hours: (m,) of reading a week at each alpha."""

    alpha: float | None
    hours: Floats


def by_budget(
    alphas: Sequence[float],
    deferred_share: ArrayLike,
    cases_per_week: float,
    minutes: float,
    hours: float,
    audit_rate: float = 0.0,
) -> Budget:
    """The most careful alpha that a reading budget affords.

    alphas: (m,) ascending; deferred_share: (m,) of cases deferred at each. minutes: of a reader for a case. hours: to be
    had in a week. audit_rate: share of automatic cases that is read too. Raises DataError for numbers that are not.
    """
    share = np.asarray(deferred_share, dtype=np.float64)
    numbers = np.array([cases_per_week, minutes, hours])
    sane = (np.isfinite(numbers) & (numbers >= 0)).all() and 0 <= audit_rate <= 1
    if share.shape != (len(alphas),) or not ((share >= 0) & (share <= 1)).all() or not sane:
        raise DataError(
            "A budget needs a deferred share in 0 to 1 for each alpha, and cases, minutes and hours from 0 up."
        )
    needed: Floats = (share + audit_rate * (1 - share)) * cases_per_week * minutes / 60
    fits = np.flatnonzero(needed <= hours)
    return Budget(float(alphas[fits[0]]) if len(fits) else None, needed)


class Priced(NamedTuple):
    """alpha: of least expected cost, the smallest of equals; cost: at it; costs: (m,) at each; deferring: of reading all."""

    alpha: float
    cost: float
    costs: Floats
    deferring: float


def by_cost(
    cases: Labelled, alphas: Sequence[float], floor: float, cost_automatic: ArrayLike, cost_defer: ArrayLike
) -> Priced:
    """The alpha with the least weighted mean cost of a case; the smallest of those alike to ALIKE decimals.

    alphas: (m,) ascending. cost_automatic: (K, K) by truth and label given; cost_defer: (K,) by truth; the presets of
    Table B1 are `mlcore.metrics.REALITIES`. Raises DataError for labels without a cost and where certify does.
    """
    w = _checked(cases, alphas, 0.5, 0.5, None)
    settled, read = np.asarray(cost_automatic, dtype=np.float64), np.asarray(cost_defer, dtype=np.float64)
    if not np.isin([cases.label, cases.truth], range(len(read))).all():
        raise DataError(
            f"Costs are known for labels 0 to {len(read) - 1} only: leave out cases of unknown truth."
        )
    automatic, deferred = settled[cases.truth, cases.label], read[cases.truth]
    costs = np.array(
        [w @ np.where(_automatic(cases, alpha, floor), automatic, deferred) / w.sum() for alpha in alphas]
    )
    best = int(np.round(costs, ALIKE).argmin())
    return Priced(float(alphas[best]), float(costs[best]), costs, float(w @ deferred / w.sum()))


def _automatic(cases: Labelled, alpha: float, floor: float) -> Bools:
    decisions = decision.decide(cases.credibility, cases.runner_up, cases.typicality, alpha, floor)
    settled: Bools = decisions == AUTOMATIC
    return settled
