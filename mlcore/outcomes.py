"""What an evaluation comes to: its figures, each a function of how often every case counts, and their intervals.

Section 3.5 of Morales-Sánchez et al. 2026. `truth` holds positions in the protocol's labels; scores and decisions
are of the same cases in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlcore import conformal, metrics
from mlcore.calibrate import Scores
from mlcore.decision import AUTOMATIC
from mlcore.metrics import Floats
from mlcore.protocols import ProtocolSpec

Metrics = dict[str, tuple[metrics.Weighted, NDArray[np.bool_]]]
Ints = NDArray[np.int64]

MEANINGS = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "f2": "F2 with every case decided",
    "ece": "Expected calibration error",
    "balanced_ece": "Class-balanced ECE",
    "aurc": "Area under the risk-coverage curve",
    "e_aurc": "E-AURC, the part of it that a perfect ranking would save",
    "coverage": "Coverage",
    "tpdr": "TPDR",
    "clear_f2": "Clear F2",
    "clear_ece": "Clear ECE",
    "clear_balanced_ece": "Clear class-balanced ECE",
    "npv": "NPV",
    "ppv": "PPV",
    "risk_kappa": "Risk-Kappa",
}


# The same of a protocol with more than two labels, where nothing is called positive or negative.
OF_TARGET = {
    "auroc": "AUROC of {target} against the rest",
    "average_precision": "Average precision of {target}",
    "f2": "F2 of {target} with every case decided",
    "ece": "Expected calibration error of {target}",
    "balanced_ece": "Class-balanced ECE of {target}",
    "tpdr": "TPDR of {target}",
    "clear_f2": "Clear F2 of {target}",
    "clear_ece": "Clear ECE of {target}",
    "clear_balanced_ece": "Clear class-balanced ECE of {target}",
    "npv": "Right among automatic cases not called {target}",
    "ppv": "Right among automatic cases called {target}",
}


def meanings(spec: ProtocolSpec) -> dict[str, str]:
    """What each figure is called: the paper's names where there are two labels, else by the targets' names."""
    if len(spec.labels) == 2:
        return MEANINGS
    named = {name: words.format(target=spec.target_name) for name, words in OF_TARGET.items()}
    return MEANINGS | named


def chosen(scores: Scores, of: NDArray[np.bool_] | NDArray[np.intp]) -> Scores:
    """The scores of some of the cases: a mask, or positions."""
    return Scores(*(getattr(scores, field.name)[of] for field in fields(Scores)))


def target_score(spec: ProtocolSpec, scores: Scores) -> Floats:
    """(n,) probability that a case is one of the targets."""
    found: Floats = scores.probabilities[:, list(spec.target_indices)].sum(axis=1)
    return found


def certainty(scores: Scores) -> Floats:
    """(n,) probability of the label given: what risk-coverage ranks by."""
    found: Floats = scores.probabilities[np.arange(len(scores)), scores.label]
    return found


def overall(spec: ProtocolSpec, truth: Ints, scores: Scores) -> Metrics:
    """What the scores are worth with every case decided."""
    targets = spec.target_indices
    positive, score = metrics.is_target(truth, targets), target_score(spec, scores)
    sure, wrong = certainty(scores), scores.label != truth
    everyone = np.ones(len(truth), dtype=bool)
    named: dict[str, metrics.Weighted] = {
        "auroc": lambda w: metrics.auroc(score, positive, w),
        "average_precision": lambda w: metrics.average_precision(score, positive, w),
        "f2": lambda w: metrics.f_beta(truth, scores.label, targets, weights=w),
        "ece": lambda w: metrics.ece(score, positive, w),
        "balanced_ece": lambda w: metrics.balanced_ece(score, positive, scores.label, w),
        "aurc": lambda w: metrics.aurc(sure, wrong, w),
        "e_aurc": lambda w: metrics.e_aurc(sure, wrong, w),
    }
    return {name: (metric, everyone) for name, metric in named.items()}


def by_label(spec: ProtocolSpec, truth: Ints, scores: Scores) -> Metrics:
    """F1 of each label, their mean, their mean by how often each is true, and F2 of each target, every case decided.

    «f1»: of the likeliest label, as classifiers are scored. «f1_given»: of the label given, that with the largest p-value;
    Mondrian ranks weigh all labels alike, so that it names a rare one far more often.
    """
    found: Metrics = {}
    for key, said in (("f1", scores.probabilities.argmax(axis=1)), ("f1_given", scores.label)):
        found |= _f1(spec, truth, said, key)
    everyone = np.ones(len(truth), dtype=bool)
    return found | {
        f"f2_of/{name}": (partial(_f, truth, scores.label, c, 2.0), everyone)
        for name, c in zip(spec.targets, spec.target_indices, strict=True)
    }


def _f1(spec: ProtocolSpec, truth: Ints, said: Ints, key: str) -> Metrics:
    k, everyone = len(spec.labels), np.ones(len(truth), dtype=bool)
    means = {"macro": metrics.macro_f1, "weighted": metrics.weighted_f1}
    own = {
        f"{key}/{name}": (partial(_f, truth, said, c, 1.0), everyone) for c, name in enumerate(spec.labels)
    }
    return own | {f"{key}_{name}": (partial(mean, truth, said, k), everyone) for name, mean in means.items()}


def _f(truth: Ints, given: Ints, label: int, beta: float, weights: Floats) -> Floats:
    return metrics.f_beta(truth, given, {label}, beta, weights)


def decided(spec: ProtocolSpec, truth: Ints, scores: Scores, decisions: NDArray[np.int8]) -> Metrics:
    """What (n,) decisions are worth: what is automated, what is deferred, what it costs."""
    targets = spec.target_indices
    positive, said = metrics.is_target(truth, targets), metrics.is_target(scores.label, targets)
    score, automatic = target_score(spec, scores), decisions == AUTOMATIC
    everyone = np.ones(len(truth), dtype=bool)
    kappa = partial(metrics.risk_kappa, truth, scores.label, decisions, spec.cost_automatic, spec.cost_defer)
    return {
        "coverage": (partial(metrics.coverage, decisions), everyone),
        "tpdr": (partial(metrics.tpdr, decisions, truth, targets), positive),
        "clear_f2": (
            lambda w: metrics.f_beta(truth, scores.label, targets, weights=w * automatic),
            automatic,
        ),
        "clear_ece": (lambda w: metrics.ece(score, positive, w * automatic), automatic),
        "clear_balanced_ece": (
            lambda w: metrics.balanced_ece(score, positive, scores.label, w * automatic),
            automatic,
        ),
        "npv": (partial(metrics.share, ~positive, automatic & ~said), automatic & ~said),
        "ppv": (partial(metrics.share, positive, automatic & said), automatic & said),
        "risk_kappa": (kappa, everyone),
    }


def decided_by_target(
    spec: ProtocolSpec, truth: Ints, scores: Scores, decisions: NDArray[np.int8]
) -> Metrics:
    """TPDR and clear F2 of each target label by itself."""
    automatic = decisions == AUTOMATIC
    found: Metrics = {}
    for name, c in zip(spec.targets, spec.target_indices, strict=True):
        found[f"tpdr_of/{name}"] = (partial(metrics.tpdr, decisions, truth, {c}), truth == c)
        found[f"clear_f2_of/{name}"] = (partial(_clear_f2, truth, scores.label, c, automatic), automatic)
    return found


def _clear_f2(truth: Ints, given: Ints, label: int, automatic: NDArray[np.bool_], weights: Floats) -> Floats:
    return _f(truth, given, label, 2.0, weights * automatic)


def covered(spec: ProtocolSpec, truth: Ints, scores: Scores, alpha: float) -> Metrics:
    """For each label, how often it is in the prediction sets of its own cases; at least 1 - alpha is the aim."""
    sets = conformal.prediction_set(scores.p_values, alpha)
    return {
        f"set_coverage/{name}": (partial(metrics.share, sets[:, c], truth == c), truth == c)
        for c, name in enumerate(spec.labels)
    }


def held(spec: ProtocolSpec, truth: Ints, scores: Scores, alpha: float) -> Metrics:
    """For each true label, how often the prediction sets of its cases hold each label: what it is confused with.

    «in_set/Death/Injury»: share of the true deaths whose set at alpha holds «Injury». The diagonal is set_coverage.
    """
    sets = conformal.prediction_set(scores.p_values, alpha)
    return {
        f"in_set/{true}/{name}": (partial(metrics.share, sets[:, c], truth == t), truth == t)
        for t, true in enumerate(spec.labels)
        for c, name in enumerate(spec.labels)
    }


def recalls(
    spec: ProtocolSpec, truth: Ints, scores: Scores, decisions: NDArray[np.int8]
) -> dict[str, dict[str, float | None]]:
    """Of each watched label: share of the automatic cases truly of it that were given it, and how many were missed.

    value, low, high, n, missed; the interval is Clopper and Pearson's, 95 %, as misses are few or none where it matters:
    it takes cases as independent. None for a label of which no case is automatic.
    """
    automatic, found = decisions == AUTOMATIC, {}
    for label in spec.watched:
        own = automatic & (truth == spec.labels.index(label))
        n, right = int(own.sum()), int((own & (scores.label == truth)).sum())
        low, high = stats.binomtest(right, n).proportion_ci(method="exact") if n else (None, None)
        found[label] = {
            "value": right / n if n else None,
            "low": low,
            "high": high,
            "n": n,
            "missed": n - right,
        }
    return found


def figures(
    named: Mapping[str, tuple[metrics.Weighted, NDArray[np.bool_]]],
    groups: Sequence[str],
    replicates: int = metrics.REPLICATES,
) -> dict[str, Any]:
    """Each metric as {value, low, high, n}, a name with slashes as dictionaries in dictionaries.

    groups: (n,) whom each case belongs to. Whole groups are resampled, and every call with the same groups draws the
    same resamples. What cannot be said is None.
    """
    members = np.unique(np.asarray(groups), return_inverse=True)[1]
    resampled = {name: (partial(_by_group, metric, members), mask) for name, (metric, mask) in named.items()}
    drawn = metrics.bootstrap(resampled, int(members.max()) + 1, replicates)
    found: dict[str, Any] = {}
    for name, interval in drawn.items():
        *place, last = name.split("/")
        at = found
        for step in place:
            at = at.setdefault(step, {})
        at[last] = {key: _finite(value) for key, value in interval._asdict().items()}
    return found


def _by_group(metric: metrics.Weighted, members: NDArray[np.intp], weights: Floats) -> Floats:
    return metric(weights[..., members])


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
