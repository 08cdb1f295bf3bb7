"""The choices of the paper's published code behind one name, to show what each correction here is worth.

Never a policy to run: REPRODUCED says which of that code's errors it makes on purpose, NOT_REPRODUCED which it spares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve

from mlcore import calibrate, conformal, decision
from mlcore.distance import MultiCentroid, normalise
from mlcore.errors import CalibrationError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COMPAT = "compat"
QUANTILE = 0.99
FEWEST_DISTANCES = 2

REPRODUCED = (
    "Each class's threshold is the plain quantile of its scores at 1 - alpha, without the n + 1: too many are left out.",
    "Thresholds compare in the order of probabilities: a case may be settled as another label than the likeliest.",
    "The distance multiplies by the diagonal of the precision alone: cases that break a correlation pass unseen.",
    "The veto's threshold is the 0.99 quantile of the correct single-label cases, a plain quantile again.",
    "A class with fewer than two such cases is never vetoed.",
)
NOT_REPRODUCED = (
    "Its centroids are not fitted on the cases that set the thresholds, unless the caller fits them so.",
    "Its search for a plateau of thresholds and its clamp against empty sets are left out: neither is in the paper.",
    "Its ensemble's thresholds from single members, its encoder's positions and its cleaning of text lie elsewhere.",
)


@dataclass(frozen=True)
class Compat:
    """What its thresholds are: class_thresholds, distance_thresholds (K,), over a distance's diagonal_ (d,)."""

    distance: MultiCentroid
    temperature: float
    diagonal: Floats
    class_thresholds: Floats
    distance_thresholds: Floats

    def decide(self, embeddings: ArrayLike, logits: ArrayLike) -> tuple[NDArray[np.int8], Ints]:
        """Decisions (n,) as in decision.NAMES, and labels (n,), of (n, d) embeddings and (n, K) logits.

        A case of one label in its set whose distance to the likeliest class is at most that class's threshold is
        automatic and gets the label in its set; any other gets the likeliest.
        """
        likeliest, inside = _sets(logits, self.temperature, self.class_thresholds)
        far = diagonal_distances(self.distance, self.diagonal, embeddings, likeliest)
        size = inside.sum(axis=1)
        conditions = [size > 1, size == 0, far > self.distance_thresholds[likeliest]]
        reasons = [decision.AMBIGUOUS, decision.NOVEL, decision.ATYPICAL]
        decisions = np.select(conditions, reasons, decision.AUTOMATIC).astype(np.int8)
        return decisions, np.where(size == 1, inside.argmax(axis=1), likeliest)


def fit(
    distance: MultiCentroid,
    embeddings: ArrayLike,
    logits: ArrayLike,
    truth: ArrayLike,
    alpha: float,
    temperature: float = 1.0,
) -> Compat:
    """Thresholds at alpha from n held-out cases: (n, d) embeddings, (n, K) logits, (n,) truth in 0 … K - 1.

    distance: fitted, its centroids and covariance are used as they are. Raises CalibrationError when a class has no
    case, a label is none, or logits are not finite, DataError for alpha outside (0, 1).
    """
    conformal.minimum_n(alpha)
    y = np.asarray(truth, dtype=np.int64)
    q = calibrate.probabilities(calibrate.finite(logits, "logits"), temperature)
    classes = range(q.shape[1])
    if not np.isin(y, classes).all() or set(y.tolist()) != set(classes):
        raise CalibrationError(
            f"Held-out cases must be of classes 0 to {len(classes) - 1}, some of each: check the labels."
        )
    plain = np.array([np.quantile(conformal.nonconformity(q)[y == c, c], 1 - alpha) for c in classes])
    likeliest, inside = _sets(logits, temperature, plain)
    diagonal = np.diag(cho_solve((distance.cholesky_, True), np.eye(len(distance.cholesky_))))
    far = diagonal_distances(distance, diagonal, embeddings, likeliest)
    clear = (likeliest == y) & (inside.sum(axis=1) == 1)
    limits = [_limit(far[clear & (likeliest == c)]) for c in classes]
    return Compat(distance, temperature, diagonal, plain, np.array(limits))


def diagonal_distances(
    distance: MultiCentroid, diagonal: Floats, embeddings: ArrayLike, label: Ints
) -> Floats:
    """(n,) distance to the nearest centroid of each case's label, by the (d,) diagonal of the precision alone."""
    x, far = normalise(embeddings), np.empty(len(label))
    for c, centroids in enumerate(distance.centroids_):
        own = label == c
        squares = [((x[own] - centroid) ** 2) @ diagonal for centroid in centroids]
        far[own] = np.sqrt(np.min(squares, axis=0))
    return far


def _sets(logits: ArrayLike, temperature: float, thresholds: Floats) -> tuple[Ints, NDArray[np.bool_]]:
    q = calibrate.probabilities(calibrate.finite(logits, "logits"), temperature)
    return q.argmax(axis=1), conformal.nonconformity(q) <= thresholds


def _limit(distances: Floats) -> float:
    if len(distances) < FEWEST_DISTANCES:
        return float("inf")
    return float(np.quantile(distances, QUANTILE, method="higher"))
