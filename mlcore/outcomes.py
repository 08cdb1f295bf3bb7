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


def covered(spec: ProtocolSpec, truth: Ints, scores: Scores, alpha: float) -> Metrics:
    """For each label, how often it is in the prediction sets of its own cases; at least 1 - alpha is the aim."""
    sets = conformal.prediction_set(scores.p_values, alpha)
    return {
        f"set_coverage/{name}": (partial(metrics.share, sets[:, c], truth == c), truth == c)
        for c, name in enumerate(spec.labels)
    }


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
