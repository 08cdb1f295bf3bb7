"""Learning to defer to a second model, even a weaker one, where the first is likely to err (L2D-Clinical, arXiv 2604.13285).

    features  →  logistic regression: the chance that the first errs  →  above the threshold, the second's label stands

The method's three steps are the paper's. Ours is the care about what they are learned on: cases neither model learned,
risks out of fold, and a threshold that must show its gain on folds that had no part in choosing it; where it cannot,
nothing is deferred and the reason is said.

Labels are positions 0 … K - 1; of the second, NO_OPINION where it gave none, and then the first's label stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mlcore import cues, decision, folds, metrics
from mlcore.calibrate import Scores
from mlcore.errors import DataError, gettext_noop, told
from mlcore.protocols import ProtocolSpec
from mlcore.records import Record

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Aim = Literal["errs", "helps"]
Seconds = ArrayLike | Callable[[Sequence[Sequence[str]]], ArrayLike]

NO_OPINION = -1
NOBODY, EVERYBODY = 1.0, 0.0  # thresholds
BUDGET = 0.2
BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
FOLDS = 5
LEAST = 10  # patients on either side of what is learned
SURE = 0.9  # share of resamples in which the gain must stand
SLACK = 1e-9
AT_ONCE = 50
SEED = 13


# What is asked.


@dataclass(frozen=True)
class Metric:
    """F1 averaged over sets of labels, each against the rest; sets neither true nor given anywhere are left out."""

    name: str
    of: tuple[frozenset[int], ...]

    def __call__(self, truth: ArrayLike, given: ArrayLike, weights: ArrayLike | None = None) -> Floats:
        """truth, given: (n,) labels. weights: as in metrics.py. NaN where nothing can be said."""
        each = np.stack([metrics.f_beta(truth, given, labels, 1.0, weights) for labels in self.of])
        return _mean_of_known(each)


def metric(spec: ProtocolSpec, name: str | None = None) -> Metric:
    """«target»: F1 of the targets; «macro»: the mean of every label's. The usual one is macro for K > 2, else target.

    Raises DataError for another name.
    """
    name = name or ("macro" if len(spec.labels) > 2 else "target")
    if name not in ("target", "macro"):
        raise DataError(f"The metric {name!r} is not known: use target or macro.")
    if name == "target":
        return Metric(name, (frozenset(spec.target_indices),))
    return Metric(name, tuple(frozenset({c}) for c in range(len(spec.labels))))


def _mean_of_known(each: Floats) -> Floats:
    """Mean over the first axis of what is not NaN."""
    known = np.isfinite(each)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, each, 0.0).sum(axis=0) / np.where(
            known.any(axis=0), known.sum(axis=0), np.nan
        )
    return mean


# What is known of a case.


class Features(NamedTuple):
    """names: d; values: (n, d)."""

    names: tuple[str, ...]
    values: Floats


def features(spec: ProtocolSpec, scores: Scores, cases: Sequence[Sequence[str]]) -> Features:
    """What the router sees of n cases, each given as its notes: the first's scores, and cues.py of its text.

    Nothing of the second is among them: asking it is what the router decides. Entropy in nats; margin: the largest
    probability less the second largest.
    """
    q = scores.probabilities
    ordered = np.sort(q, axis=1)
    found = {f"prob_{label}": q[:, c] for c, label in enumerate(spec.labels)}
    found |= {"entropy": decision.entropy(q), "margin": ordered[:, -1] - ordered[:, -2]}
    found |= {f"p_{label}": scores.p_values[:, c] for c, label in enumerate(spec.labels)}
    found |= {name: getattr(scores, name) for name in ("credibility", "runner_up", "typicality")}
    read = [cues.text_features(notes, spec.language) for notes in cases]
    found |= {name: np.array([of[name] for of in read]) for name in cues.NAMES}
    return Features(tuple(found), np.column_stack(list(found.values())))


def labels_of(second: Seconds, cases: Sequence[Sequence[str]], k: int) -> Ints:
    """(n,) labels of the second for n cases, each given as its notes. second: the labels, or what gives them when asked.

    Raises DataError for anything but one label in 0 … k - 1 or NO_OPINION a case.
    """
    given = np.asarray(second(cases) if callable(second) else second)
    if given.shape != (len(cases),) or not np.isin(given, range(NO_OPINION, k)).all():
        raise DataError(
            f"The second model must give one label in 0 to {k - 1}, or {NO_OPINION} for none, for each of {len(cases)} cases."
        )
    return given.astype(np.int64)


@dataclass(frozen=True)
class Cases:
    """n cases. values: (n, d) features; truth, first, second: (n,) labels; groups: (n,) whom each belongs to.

    weights: (n,) how much each counts, so that all together are as the stream is; 1 each where not given.
    """

    values: Floats
    truth: Ints
    first: Ints
    second: Ints
    groups: Sequence[str]
    weights: Floats = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if not len(self.weights):
            object.__setattr__(self, "weights", np.ones(len(self.truth)))
        if len({len(getattr(self, name)) for name in self.__dataclass_fields__}) != 1:
            raise DataError(
                "Features, truth, both models' labels, groups and weights must be of the same cases."
            )

    def __getitem__(self, rows: Bools) -> Cases:
        return Cases(
            self.values[rows],
            self.truth[rows],
            self.first[rows],
            self.second[rows],
            np.asarray(self.groups)[rows].tolist(),
            self.weights[rows],
        )

    def weighing(self, weights: Floats) -> Cases:
        """The same cases with other weights."""
        return replace(self, weights=weights)

    def after(self, deferred: Bools) -> Ints:
        """(n,) the label that stands where these cases are deferred."""
        return np.where(deferred & (self.second != NO_OPINION), self.second, self.first)

    @property
    def errs(self) -> Bools:
        """(n,) whether the first is wrong."""
        wrong: Bools = self.first != self.truth
        return wrong

    @property
    def helps(self) -> Bools:
        """(n,) whether the second is right where the first is wrong: whom an oracle would defer."""
        mended: Bools = self.errs & (self.second == self.truth)
        return mended


def new_to(records: Sequence[Record], digests: Iterable[NDArray[np.generic]]) -> Bools:
    """(n,) whether no note of a case, nor of one in its group, has one of the digests (train.note_digests)."""
    from mlcore.train import note_digests

    known = np.unique(np.concatenate([np.empty(0, np.uint64), *digests]))
    met = np.array([np.isin(note_digests([record]), known).any() for record in records], dtype=bool)
    groups = np.array([record.group or record.patient_id for record in records])
    return ~np.isin(groups, groups[met])


def as_stream(labels: Ints, drawn: Bools) -> Floats:
    """(m,) weights of the drawn of (n,) cases, 1 on average, that give each label the share it has among all."""
    all_of, some = np.bincount(labels), np.bincount(labels[drawn], minlength=int(labels.max()) + 1)
    each = (all_of / np.maximum(some, 1))[labels[drawn]]
    weights: Floats = each / each.mean()
    return weights


# The threshold.


class Curve(NamedTuple):
    """By falling threshold, from nobody deferred to everybody: threshold, share deferred, metric; each (T,)."""

    threshold: Floats
    share: Floats
    value: Floats


class Choice(NamedTuple):
    """A case is deferred where its risk is above the threshold; share and value are those of the cases it was tuned on."""

    threshold: float
    share: float
    value: float
    before: float


def curve(risk: Floats, cases: Cases, on: Metric) -> Curve:
    """What each threshold on the (n,) risks comes to; equal risks are deferred together.

    Raises DataError for risks outside (0, 1].
    """
    if not ((risk > 0) & (risk <= 1)).all():
        raise DataError("Risks must lie above 0 and not above 1: score the cases again.")
    order = np.argsort(-risk, kind="stable")
    last = np.flatnonzero(np.diff(risk[order], append=-np.inf))
    w, second = cases.weights[order], cases.after(np.ones(len(risk), dtype=bool))[order]
    truth, first = cases.truth[order], cases.first[order]
    each = [
        _f1_by_count(np.isin(truth, c), np.isin(first, c), np.isin(second, c), w, last)
        for c in map(list, on.of)
    ]
    kept = np.append(risk[order][last[:-1] + 1], EVERYBODY)
    share = np.cumsum(w)[last] / w.sum()
    return Curve(np.append(NOBODY, kept), np.append(0.0, share), _mean_of_known(np.stack(each)))


def _f1_by_count(true: Bools, first: Bools, second: Bools, w: Floats, last: NDArray[np.intp]) -> Floats:
    """(1 + len(last),) F1 where the first 0, then last[i] + 1 cases have the second's label instead of the first's."""
    more = w * (second.astype(np.float64) - first)
    hits = np.append(0.0, np.cumsum(more * true)[last]) + (w * (first & true)).sum()
    given = np.append(0.0, np.cumsum(more)[last]) + (w * first).sum()
    total = given + (w * true).sum()
    f1: Floats = np.divide(2 * hits, total, out=np.full(len(total), np.nan), where=total > SLACK)
    return f1


def tune(risk: Floats, cases: Cases, on: Metric, budget: float) -> Choice:
    """The threshold of the highest metric among those that defer at most the budget; of equals the one that defers least."""
    at = curve(risk, cases, on)
    value = np.where(at.share <= budget + SLACK, at.value, -np.inf)
    best = int(np.argmax(value >= value.max() - SLACK))
    return Choice(float(at.threshold[best]), float(at.share[best]), float(at.value[best]), float(at.value[0]))


# The router.


@dataclass(frozen=True)
class Router:
    """A logistic regression on standardised features, and its threshold. Plain numbers: to_dict and back is exact.

    aim: what its risk is the chance of, «errs» (the first is wrong) or «helps» (and the second right).
    mean, scale, coefficients: by feature. A coefficient is the change of the log-odds for one standard deviation more.
    """

    names: tuple[str, ...]
    mean: Floats
    scale: Floats
    coefficients: Floats
    intercept: float
    threshold: float = NOBODY
    aim: Aim = "errs"

    def risk(self, values: Floats) -> Floats:
        """(n,) chances from (n, d) features."""
        found: Floats = expit((values - self.mean) / self.scale @ self.coefficients + self.intercept)
        return found

    def defers(self, values: Floats) -> Bools:
        """(n,) whether each case of (n, d) features is deferred."""
        return self.risk(values) > self.threshold

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        by_name = zip(self.names, self.coefficients, self.mean, self.scale, strict=True)
        return {
            "aim": self.aim,
            "threshold": self.threshold,
            "intercept": self.intercept,
            "features": {
                n: {"coefficient": float(c), "mean": float(m), "scale": float(s)} for n, c, m, s in by_name
            },
        }

    @classmethod
    def from_dict(cls, of: Mapping[str, Any]) -> Router:
        """What to_dict wrote. Raises DataError for anything else."""
        try:
            each = of["features"]
            mean, scale, coefficients = (
                np.array([float(f[key]) for f in each.values()]) for key in ("mean", "scale", "coefficient")
            )
            intercept, threshold = float(of["intercept"]), float(of["threshold"])
            return cls(tuple(each), mean, scale, coefficients, intercept, threshold, of["aim"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError("The router cannot be read: learn it again with learn_to_defer.") from None


def _regression(names: Sequence[str], values: Floats, target: Bools, weights: Floats) -> Router:
    mean, spread = values.mean(axis=0), values.std(axis=0)
    scale = np.where(spread > SLACK, spread, 1.0)
    model = LogisticRegression(max_iter=1000).fit((values - mean) / scale, target, sample_weight=weights)
    return Router(tuple(names), mean, scale, model.coef_[0], float(model.intercept_[0]))


# What is learned.


class Gain(NamedTuple):
    """How much higher the metric is with deferral, its 95 % bootstrap interval, the share of resamples above 0, n."""

    value: float
    low: float
    high: float
    above: float
    n: int


@dataclass(frozen=True)
class Learned:
    """A router and how it was come by.

    choice: the threshold as tuned; router.threshold is it, or NOBODY where `reason` stands. gain: on folds that had no
    part in choosing their threshold. budgets: the threshold as tuned for each of BUDGETS. facts: counts and shares of
    the cases learned on. reason: why nothing is deferred, (message, figures) of errors.told.
    """

    router: Router
    choice: Choice
    gain: Gain | None
    budgets: dict[float, Choice]
    facts: dict[str, float]
    reason: tuple[str, dict[str, Any]] | None

    @property
    def why(self) -> str:
        """The reason in English; empty where something is deferred."""
        return told(*self.reason) if self.reason else ""


NEVER = gettext_noop(
    "Nothing is deferred: where the first model errs (%(errors)d of %(n)d cases) the second is never right, so an oracle "
    "would gain nothing."
)
FEW = gettext_noop(
    "Nothing is deferred: on either side of what is to be learned at least %(least)d patients are needed, and there are "
    "%(seen)d; the first model errs in %(errors)d of %(n)d cases, and the second is right in %(helps)d of them (an oracle "
    "would gain %(oracle).3f of F1)."
)
NO_THRESHOLD = gettext_noop(
    "Nothing is deferred: no threshold within the budget of %(budget).1f %% improves F1 on cases out of fold; the second "
    "model is right in %(helps)d of the %(errors)d cases where the first errs and wrong in %(spoils)d where it does not "
    "(an oracle would gain %(oracle).3f), and the features tell whom to defer with an AUROC of %(auroc).2f."
)
CHANCE = gettext_noop(
    "Nothing is deferred: on folds that had no part in choosing it the threshold changes F1 by %(gain)+.3f (%(low)+.3f to "
    "%(high)+.3f), above 0 in %(above).0f %% of resamples where %(sure).0f %% are asked; the second model is right in "
    "%(helps)d of the %(errors)d cases where the first errs and wrong in %(spoils)d where it does not (an oracle would "
    "gain %(oracle).3f), and the features tell whom to defer with an AUROC of %(auroc).2f."
)


def fit(
    names: Sequence[str],
    cases: Cases,
    on: Metric,
    budget: float = BUDGET,
    aim: Aim = "errs",
    sure: float = SURE,
    seed: int = SEED,
) -> Learned:
    """Learn whom to defer from cases neither model learned.

    budget: at most this share is deferred, of the cases tuned on. aim: what the regression predicts, «errs» as the paper,
    «helps» where the second must be right too. sure: share of resamples in which the cross-fitted gain must be above 0;
    0 takes the tuned threshold as it is, as the paper. Raises DataError for a budget or sure outside [0, 1], and where no
    case is of a label the metric asks for.
    """
    if not (0 <= budget <= 1 and 0 <= sure <= 1):
        raise DataError(f"The budget {budget} and the certainty {sure} must lie between 0 and 1.")
    if not np.isin(cases.truth, [label for labels in on.of for label in labels]).any():
        raise DataError(
            "No case to learn from is of a label F1 is asked of: give some that are, new to both models."
        )
    target = cases.errs if aim == "errs" else cases.helps
    facts = _facts(cases, on) | {"budget": 100 * budget}
    sides = (target, ~target)
    seen = min(len({g for g, of in zip(cases.groups, side, strict=True) if of}) for side in sides)
    if not facts["helps"] or seen < LEAST:
        why = (FEW, facts | {"least": LEAST, "seen": seen}) if facts["helps"] else (NEVER, facts)
        return _nothing(names, cases, on, aim, facts, why)
    fold = folds.folds(target.astype(np.int64), cases.groups, FOLDS, seed)
    risk = _out_of_fold(names, cases, target, fold)
    tuned = {b: tune(risk, cases, on, b) for b in {*BUDGETS, budget}}
    facts["auroc"] = float(metrics.auroc(risk, target, cases.weights))
    gain = _cross_fitted(names, cases, target, fold, on, budget)
    reason = _reason(tuned[budget], gain, facts, sure)
    router = _regression(names, cases.values, target, cases.weights)
    kept = replace(router, threshold=NOBODY if reason else tuned[budget].threshold, aim=aim)
    return Learned(kept, tuned[budget], gain, {b: tuned[b] for b in BUDGETS}, facts, reason)


def _facts(cases: Cases, on: Metric) -> dict[str, float]:
    """Counts of cases; the metric, weighted, of the first, the second and the oracle, and what the oracle gains."""
    everyone = np.ones(len(cases.truth), dtype=bool)
    spoils = ~cases.errs & (cases.second != cases.truth) & (cases.second != NO_OPINION)
    first, second, oracle = (
        float(on(cases.truth, given, cases.weights))
        for given in (cases.first, cases.after(everyone), cases.after(cases.helps))
    )
    counts = {"n": everyone, "errors": cases.errs, "helps": cases.helps, "spoils": spoils}
    return {
        **{name: int(mask.sum()) for name, mask in counts.items()},
        "f1_first": first,
        "f1_second": second,
        "oracle": oracle - first,
        "effective": float(cases.weights.sum() ** 2 / (cases.weights**2).sum()),
    }


def _nothing(
    names: Sequence[str],
    cases: Cases,
    on: Metric,
    aim: Aim,
    facts: dict[str, float],
    reason: tuple[str, dict[str, Any]],
) -> Learned:
    """Where there is nothing to learn from: coefficients of 0, nobody deferred."""
    before = float(on(cases.truth, cases.first, cases.weights))
    choice = Choice(NOBODY, 0.0, before, before)
    d = cases.values.shape[1]
    router = Router(tuple(names), np.zeros(d), np.ones(d), np.zeros(d), 0.0, aim=aim)
    return Learned(router, choice, None, dict.fromkeys(BUDGETS, choice), facts, reason)


def _out_of_fold(names: Sequence[str], cases: Cases, target: Bools, fold: Ints) -> Floats:
    """(n,) risk of each case by the regression that did not see its fold."""
    risk = np.empty(len(fold))
    for own in np.unique(fold):
        out = fold == own
        model = _regression(names, cases.values[~out], target[~out], cases.weights[~out])
        risk[out] = model.risk(cases.values[out])
    return risk


def _cross_fitted(
    names: Sequence[str], cases: Cases, target: Bools, fold: Ints, on: Metric, budget: float
) -> Gain:
    """The gain where each fold is deferred by a regression and a threshold made of the others alone."""
    deferred = np.zeros(len(fold), dtype=bool)
    for own in np.unique(fold):
        out = fold == own
        rest = cases[~out]
        inner = _out_of_fold(names, rest, target[~out], fold[~out])
        threshold = tune(inner, rest, on, budget).threshold
        model = _regression(names, rest.values, target[~out], rest.weights)
        deferred[out] = model.risk(cases.values[out]) > threshold
    return _gain(cases, cases.after(deferred), on)


def _gain(cases: Cases, after: Ints, on: Metric) -> Gain:
    def gained(w: Floats) -> Floats:
        return on(cases.truth, after, w) - on(cases.truth, cases.first, w)

    members = np.unique(np.asarray(cases.groups), return_inverse=True)[1]
    count = int(members.max()) + 1
    random = np.random.default_rng(metrics.SEED)
    drawn = []
    for _ in range(metrics.REPLICATES // AT_ONCE):
        times = random.multinomial(count, np.full(count, 1 / count), size=AT_ONCE)
        drawn.append(gained(times[:, members] * cases.weights))
    found = np.concatenate(drawn)
    low, high = np.nanpercentile(found, [2.5, 97.5])
    value = float(gained(cases.weights))
    return Gain(value, float(low), float(high), float((found > SLACK).mean()), len(cases.truth))


def _reason(
    choice: Choice, gain: Gain, facts: dict[str, float], sure: float
) -> tuple[str, dict[str, Any]] | None:
    if choice.share == 0:
        return NO_THRESHOLD, facts
    if gain.above < sure:
        told_of = {"gain": gain.value, "low": gain.low, "high": gain.high, "above": 100 * gain.above}
        return CHANCE, facts | told_of | {"sure": 100 * sure}
    return None
