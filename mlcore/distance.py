"""Multi-centroid Mahalanobis distance over L2-normalised embeddings, one shared full covariance.

Section 3.1 of Morales-Sánchez et al. 2026, «Epistemic Control via Geometric Veto»; shrinkage after Chen,
Wiesel, Eldar & Hero 2010 (OAS).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import tee

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, solve_triangular
from sklearn.cluster import KMeans
from sklearn.covariance import OAS
from sklearn.decomposition import PCA

from mlcore.errors import CalibrationError, DataError

Floats = NDArray[np.float64]

INERTIA_GAIN = 0.05
CASES_PER_CENTROID = 50
MINIMUM_CLUSTER = 20
MINIMUM_CASES = 2
PRINCIPAL = 64
STARTS = 10
SEED = 13
NOISE = 1e-24


def normalise(embeddings: ArrayLike) -> Floats:
    """(n, d) rows of length one; a row of zeros stays. Raises DataError unless finite and two-dimensional."""
    x = np.asarray(embeddings, dtype=np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise DataError(
            f"Embeddings of shape {x.shape} must be a table of finite numbers: score the cases again."
        )
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(lengths > 0, lengths, 1.0)


def clusters(x: Floats, gain: float = INERTIA_GAIN) -> NDArray[np.intp]:
    """(n,) cluster of each row of one class's (n, d) points.

    K grows while the next K lowers the k-means inertia by at least `gain` of itself, has no cluster
    under MINIMUM_CLUSTER points, and leaves CASES_PER_CENTROID points a centroid. The means are sought among
    the first PRINCIPAL principal components, which hold the directions between centroids; what they are worth is
    measured in all d dimensions.
    """
    return _grown(x, partitions(x), gain)


def partitions(x: Floats) -> Iterator[NDArray[np.intp]]:
    """(n,) cluster of each row by k-means with 2, 3, … centroids, each worked out only when it is asked for."""
    most = min(len(x) // CASES_PER_CENTROID, len(np.unique(x, axis=0)))
    basis = _principal(x) if most > 1 else x
    for k in range(2, most + 1):
        yield KMeans(k, n_init=STARTS, random_state=SEED).fit(basis).labels_.astype(np.intp)


def _grown(x: Floats, ever_finer: Iterable[NDArray[np.intp]], gain: float) -> NDArray[np.intp]:
    assigned = np.zeros(len(x), dtype=np.intp)
    inertia = _inertia(x, assigned)
    for proposed in ever_finer:
        lower = _inertia(x, proposed)
        if lower > (1 - gain) * inertia or np.bincount(proposed).min() < MINIMUM_CLUSTER:
            break
        assigned, inertia = proposed, lower
    return assigned


def _principal(x: Floats) -> Floats:
    if min(x.shape) <= PRINCIPAL:
        return x
    basis: Floats = PCA(PRINCIPAL, svd_solver="randomized", random_state=SEED).fit_transform(x)
    return basis


def _centroids(x: Floats, assigned: NDArray[np.intp]) -> Floats:
    return np.stack([x[assigned == k].mean(axis=0) for k in range(assigned.max() + 1)])


def _inertia(x: Floats, assigned: NDArray[np.intp]) -> float:
    return float(((x - _centroids(x, assigned)[assigned]) ** 2).sum())


@dataclass
class MultiCentroid:
    """Distance of a case to the nearest centroid of each class.

    centroids_: for each class (K_c, d). cholesky_: (d, d) lower factor of the pooled OAS covariance.
    """

    centroids_: list[Floats] = field(default_factory=list)
    cholesky_: Floats = field(default_factory=lambda: np.empty((0, 0)))

    def fit(
        self, embeddings: ArrayLike, labels: ArrayLike, n_classes: int, gain: float = INERTIA_GAIN
    ) -> MultiCentroid:
        """Fit on (n, d) embeddings with (n,) labels in 0 … n_classes - 1; not on calibration cases.

        gain: what one more centroid must save, see clusters; Table A1 varies it.
        Raises CalibrationError when a class has fewer than MINIMUM_CASES, a label is none of them, or the embeddings do
        not vary.
        """
        (fitted,) = self.fits(embeddings, labels, n_classes, [gain])
        self.centroids_, self.cholesky_ = fitted.centroids_, fitted.cholesky_
        return self

    @classmethod
    def fits(
        cls, embeddings: ArrayLike, labels: ArrayLike, n_classes: int, gains: Sequence[float]
    ) -> list[MultiCentroid]:
        """What fit makes at each of several gains, with k-means run once for all. Arguments and errors as in fit."""
        x, y = normalise(embeddings), np.asarray(labels)
        _check(x, y, n_classes)
        classes = [x[y == c] for c in range(n_classes)]
        shared = [tee(partitions(points), len(gains)) for points in classes]
        fitted = []
        for gain, *paths in zip(gains, *shared, strict=True):
            residuals, centroids = np.empty_like(x), []
            for c, (points, path) in enumerate(zip(classes, paths, strict=True)):
                assigned = _grown(points, path, gain)
                centroids.append(_centroids(points, assigned))
                residuals[y == c] = points - centroids[c][assigned]
            covariance = OAS(store_precision=False, assume_centered=True).fit(residuals).covariance_
            fitted.append(cls(centroids, _cholesky(covariance)))
        return fitted

    def distances(self, embeddings: ArrayLike) -> Floats:
        """(n, K) distance of (n, d) embeddings to each class's nearest centroid; higher is stranger.

        Raises DataError for embeddings that are not finite or of another width.
        """
        x = normalise(embeddings)
        if x.shape[1] != len(self.cholesky_):
            raise DataError(
                f"Embeddings are {x.shape[1]} wide, the distance was fitted on {len(self.cholesky_)}."
            )
        whitened = self._whiten(x)
        return np.column_stack([_nearest(whitened, self._whiten(centroids)) for centroids in self.centroids_])

    def _whiten(self, x: Floats) -> Floats:
        white: Floats = solve_triangular(self.cholesky_, x.T, lower=True).T
        return white

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays from which from_arrays makes the same distance again, bit for bit."""
        arrays: dict[str, NDArray[np.generic]] = {"distance.cholesky": self.cholesky_}
        return arrays | {f"distance.centroids.{c}": centroids for c, centroids in enumerate(self.centroids_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> MultiCentroid:
        """The distance in to_arrays' arrays, others ignored. Raises CalibrationError when one is missing."""
        count = sum(key.startswith("distance.centroids.") for key in arrays)
        try:
            centroids = [
                np.asarray(arrays[f"distance.centroids.{c}"], dtype=np.float64) for c in range(count)
            ]
            return cls(centroids, np.asarray(arrays["distance.cholesky"], dtype=np.float64))
        except KeyError as missing:
            raise CalibrationError(
                f"The calibration lacks the array {missing}: install the bundle again."
            ) from None


def _check(x: Floats, y: NDArray[np.int64], n_classes: int) -> None:
    if y.shape != (len(x),) or not np.isin(y, range(n_classes)).all():
        raise CalibrationError(
            f"{len(x)} embeddings need a label in 0 to {n_classes - 1} each: label every case."
        )
    for c, n in enumerate(np.bincount(y, minlength=n_classes)):
        if n < MINIMUM_CASES:
            raise CalibrationError(
                f"Only {n} case(s) of class {c} to place a centroid by: add labelled cases of it."
            )


def _nearest(x: Floats, centroids: Floats) -> Floats:
    nearest: Floats = np.min([np.linalg.norm(x - centroid, axis=1) for centroid in centroids], axis=0)
    return nearest


def _cholesky(covariance: Floats) -> Floats:
    """Lower factor of the (d, d) covariance of residuals between rows of length one."""
    if not np.trace(covariance) > NOISE * len(covariance):
        raise CalibrationError("The embeddings do not vary: train on more, or more varied, cases.")
    factor: Floats = cholesky(covariance, lower=True)
    return factor
