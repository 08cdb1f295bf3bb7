"""The rule, once: four numbers of a prediction and two of a policy decide. The SQL is tested against this.

    automatic  <=>  runner_up <= alpha < credibility  and  typicality > floor
    deferred, first that applies: ambiguous (runner_up > alpha), novel (credibility <= alpha), atypical

Section 3.1 of Morales-Sánchez et al. 2026, «Global Decision Logic», with the prediction set {c : p_c >
alpha}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from mlcore import conformal
from mlcore.errors import DataError

if TYPE_CHECKING:
    from mlcore.calibrate import Scores

Floats = NDArray[np.float64]

AUTOMATIC, AMBIGUOUS, NOVEL, ATYPICAL = range(4)
NAMES = ("automatic", "ambiguous", "novel", "atypical")
POLICIES = ("aleatoric", "epistemic", "standard", "dual")
UNCERTAIN = 0.10


class Ranking(NamedTuple):
    """label (n,) int64; credibility and runner_up (n,) float64, the largest and second largest p-value."""

    label: NDArray[np.int64]
    credibility: Floats
    runner_up: Floats


def rank(p_values: ArrayLike, probabilities: ArrayLike) -> Ranking:
    """The label with the largest p-value (a tie goes to the higher probability, then the lower index).

    Both (n, K) with K >= 2. Raises DataError for arrays that are not, or hold anything but numbers.
    """
    p = np.asarray(p_values, dtype=np.float64)
    q = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape != q.shape or p.shape[1] < 2 or np.isnan(p).any() or np.isnan(q).any():
        raise DataError(
            f"p-values {p.shape} and probabilities {q.shape} must be numbers of one (n, K) shape."
        )
    ordered = np.sort(p, axis=1)
    largest = p == ordered[:, -1:]
    return Ranking(np.where(largest, q, -np.inf).argmax(axis=1), ordered[:, -1], ordered[:, -2])


def decide(
    credibility: ArrayLike, runner_up: ArrayLike, typicality: ArrayLike, alpha: float, floor: float
) -> NDArray[np.int8]:
    """AUTOMATIC, or the first reason to defer, for each case.

    credibility, runner_up, typicality: (n,) float64 in [0, 1]. alpha: risk tolerance in (0, 1). floor:
    typicality at or below which a case is atypical, in [0, 1). Raises DataError for anything else: a missing
    number must never settle a case.
    """
    if not (0 < alpha < 1 and 0 <= floor < 1):
        raise DataError(f"alpha {alpha} must lie in (0, 1) and the typicality floor {floor} in [0, 1).")
    first, second, typical = (np.asarray(a, dtype=np.float64) for a in (credibility, runner_up, typicality))
    if not all(((a >= 0) & (a <= 1)).all() for a in (first, second, typical)):
        raise DataError(
            "Credibility, runner-up and typicality must be numbers from 0 to 1: score the cases again."
        )
    conditions = [second > alpha, first <= alpha, typical <= floor]
    return np.select(conditions, [AMBIGUOUS, NOVEL, ATYPICAL], AUTOMATIC).astype(np.int8)


def decide_by(
    policy: str, scores: Scores, alpha: float, floor: float, held_out: Scores | None = None
) -> NDArray[np.int8]:
    """(n,) decisions of one policy of the ablation (section 4.3); the label given is scores.label throughout.

    dual: the rule above. aleatoric: its prediction set alone. epistemic: its typicality alone, alpha unused.
    standard: one threshold on total uncertainty, alpha and floor unused. A case is deferred, as AMBIGUOUS, when its
    predictive entropy is above the 90th percentile of held_out, the calibration cases scored as if new: strictly
    above the ceil(0.9 (n + 1))-th smallest, so that at most UNCERTAIN of exchangeable cases is deferred; ties stay.
    Of a fold ensemble a calibration case was read by one member and a new case by all, whose mean is calmer: there
    that share is what is aimed at, not promised.

    Raises DataError for another name, or for the standard policy without held_out.
    """
    if policy not in POLICIES:
        raise DataError(f"The policy {policy!r} is not known: use one of {', '.join(POLICIES)}.")
    if policy == "standard":
        return _total(scores, held_out)
    first, second, typical = scores.credibility, scores.runner_up, scores.typicality
    everyone = np.ones(len(scores))
    if policy == "aleatoric":
        return decide(first, second, everyone, alpha, floor)
    if policy == "epistemic":
        return decide(everyone, np.zeros(len(scores)), typical, alpha, floor)
    return decide(first, second, typical, alpha, floor)


def _total(scores: Scores, held_out: Scores | None) -> NDArray[np.int8]:
    if held_out is None:
        raise DataError("The standard policy needs the calibration cases' held-out scores: give held_out.")
    limit = conformal.threshold(np.sort(entropy(held_out.probabilities)), UNCERTAIN)
    return np.where(entropy(scores.probabilities) > limit, AMBIGUOUS, AUTOMATIC).astype(np.int8)


def entropy(probabilities: ArrayLike) -> Floats:
    """(n,) predictive entropy of (n, K) probabilities in nats, 0 to log K; higher is less certain."""
    h: Floats = entr(np.asarray(probabilities, dtype=np.float64)).sum(axis=-1)
    return h


def urgency(probabilities: ArrayLike, cost_automatic: ArrayLike) -> Floats:
    """(n,) expected cost of passing each case over as the least severe label; read the largest first.

    probabilities: (n, K). cost_automatic: (K, K), rows the truth, columns the label given.
    """
    return np.asarray(probabilities, dtype=np.float64) @ np.asarray(cost_automatic, dtype=np.float64)[:, 0]
