"""Temperature, then everything a calibration holds: what p-values and typicality are ranked against.

Temperature scaling: Guo et al. 2017. Typicality: the rank form of section 3.1's class-specific distance
thresholds (Morales-Sánchez et al. 2026); a floor of 0.01 is the paper's 99th percentile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from mlcore import conformal, decision
from mlcore.errors import CalibrationError, gettext_noop

Floats = NDArray[np.float64]

COLDEST, HOTTEST = 0.05, 20.0
BIAS_SPREAD = 2.0
MINIMUM_CASES = 2


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature in [COLDEST, HOTTEST] that minimises the mean NLL of (n, K) logits for (n,) labels.

    Fit it on cases that calibrate nothing else. Raises CalibrationError for logits that are not finite, for labels that
    are not one a row in 0 … K - 1, and for cases of one class only, which any cold enough temperature fits.
    """
    z, y = finite(logits, "logits"), np.asarray(labels)
    if not len(z) or y.shape != (len(z),) or not np.isin(y, range(z.shape[1])).all():
        raise CalibrationError(
            f"A temperature needs a label in 0 to {z.shape[1] - 1} for each of {len(z)} cases."
        )
    if len(np.unique(y)) < 2:
        raise CalibrationError(
            gettext_noop("A temperature needs cases of two classes at least: all given are of one.")
        )
    rows = np.arange(len(z))

    def nll(log_temperature: float) -> float:
        return -float(log_softmax(z / np.exp(log_temperature), axis=1)[rows, y].mean())

    bounds = (float(np.log(COLDEST)), float(np.log(HOTTEST)))
    return float(np.exp(minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-8}).x))


def fit_bias(logits: ArrayLike, labels: ArrayLike) -> tuple[float, Floats]:
    """Temperature T and (K,) biases b, of sum 0, for which softmax(z / T + b) of (n, K) logits tells (n,) labels best.

    Bias-corrected temperature scaling (Alexandari et al. 2020, section 3): where training drew classes otherwise than they
    come, the mean probability of each is its share of these cases again. Minimises the NLL with a normal prior of standard
    deviation BIAS_SPREAD on each bias, for classes of a handful of cases. Raises CalibrationError as fit_temperature does.
    """
    start = np.log(fit_temperature(logits, labels))
    z, y = finite(logits, "logits"), np.asarray(labels)
    n, k = z.shape
    truth = np.eye(k)[y]

    def loss(at: Floats) -> tuple[float, Floats]:
        scaled = z / np.exp(at[0])
        log_p = log_softmax(scaled + at[1:], axis=1)
        off = np.exp(log_p) - truth
        own = np.append(-(off * scaled).sum(), off.sum(axis=0) + at[1:] / BIAS_SPREAD**2)
        nll = -log_p[np.arange(n), y].sum() + (at[1:] ** 2).sum() / (2 * BIAS_SPREAD**2)
        return float(nll / n), own / n

    edges = [(float(np.log(COLDEST)), float(np.log(HOTTEST))), *[(None, None)] * k]
    found = minimize(loss, np.append(start, np.zeros(k)), jac=True, method="L-BFGS-B", bounds=edges).x
    return float(np.exp(found[0])), found[1:] - found[1:].mean()


def probabilities(logits: ArrayLike, temperature: float) -> Floats:
    """(n, K) softmax of (n, K) logits over a temperature."""
    scaled: Floats = softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return scaled


@dataclass(frozen=True)
class Scores:
    """What is known of n cases, float64 but for label.

    logits, probabilities, p_values, distances: (n, K). label: (n,) int64. credibility, runner_up: (n,) the
    largest and second largest p-value. distance: (n,) to the nearest centroid of label, higher is stranger.
    typicality: (n,) rank p-value of that distance, lower is stranger.
    """

    logits: Floats
    probabilities: Floats
    p_values: Floats
    distances: Floats
    label: NDArray[np.int64]
    credibility: Floats
    runner_up: Floats
    distance: Floats
    typicality: Floats

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Calibration:
    """What new cases are ranked against.

    labels: K names. temperature: divides the logits. scores: for each class its calibration nonconformity,
    ascending. distances: for each class, ascending, how far its correctly classified calibration cases lie
    from its centroids. weights, distance_weights: in the same orders, what each counts beside a new case, in (0, 1]
    (conformal.py); None where each counts 1.
    """

    labels: tuple[str, ...]
    temperature: float
    scores: list[Floats]
    distances: list[Floats]
    weights: list[Floats] | None = None
    distance_weights: list[Floats] | None = None

    @classmethod
    def fit(
        cls,
        labels: Sequence[str],
        logits: ArrayLike,
        distances: ArrayLike,
        truth: ArrayLike,
        temperature: float,
        weights: ArrayLike | None = None,
    ) -> Calibration:
        """Calibrate on cases that fitted neither head, temperature nor centroids.

        logits, distances: (n, K). truth: (n,) in 0 … K - 1. weights: (n,) what each counts beside the heaviest new case
        there may be, in (0, 1]; all 1 when not given. A case counts as correctly classified when the rule of
        decision.py, with the case itself taken out of its class's calibration, labels it with its truth. Raises
        CalibrationError for numbers that are not finite, shapes that differ, weights outside (0, 1], fewer than
        MINIMUM_CASES a class.
        """
        z, d, y = finite(logits, "logits"), finite(distances, "distances"), np.asarray(truth)
        _check(labels, z, d, y, temperature)
        w = check_weights(weights, len(y))
        q = probabilities(z, temperature)
        strange = conformal.nonconformity(q)
        ranked = [_ascending(strange[y == c, c], w[y == c]) for c in range(len(labels))]
        scores, heavy = [s for s, _ in ranked], [u for _, u in ranked]
        given = None if weights is None else heavy
        correct = leave_one_out_labels(strange, q, scores, y, given, w) == y
        rows = [correct & (y == c) for c in range(len(labels))]
        kept = [_ascending(d[row, c], w[row]) for c, row in enumerate(rows)]
        far = None if weights is None else [u for _, u in kept]
        return cls(tuple(labels), float(temperature), scores, [s for s, _ in kept], given, far)

    def apply(self, logits: ArrayLike, distances: ArrayLike) -> Scores:
        """Scores of n new cases from their (n, K) logits and (n, K) distances.

        Stored logits and distances give the stored scores again, bit for bit and whatever the company. Where no
        calibration case of the label was correctly classified, typicality is 0: nothing vouches for it. Raises
        CalibrationError for numbers that are not finite or of another width.
        """
        z, d = finite(logits, "logits"), finite(distances, "distances")
        if z.shape != d.shape or z.shape[1] != len(self.labels):
            raise CalibrationError(
                f"Logits {z.shape} and distances {d.shape} must have {len(self.labels)} columns."
            )
        q = probabilities(z, self.temperature)
        p = conformal.p_values(conformal.nonconformity(q), self.scores, self.weights)
        ranking = decision.rank(p, q)
        own = d[np.arange(len(d)), ranking.label]
        return Scores(z, q, p, d, *ranking, own, self._typicality(own, ranking.label))

    def held_out_scores(
        self, logits: ArrayLike, distances: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None
    ) -> Scores:
        """Scores of the calibration cases as if they were new: each is ranked against the others only.

        logits, distances, truth, weights: as given to fit.
        """
        z, d = finite(logits, "logits"), finite(distances, "distances")
        y = np.asarray(truth, dtype=np.int64)
        if (weights is None) != (self.weights is None):
            raise CalibrationError(
                "Held-out cases are read with the very weights that calibrated: give those."
            )
        w = check_weights(weights, len(y))
        q = probabilities(z, self.temperature)
        p = leave_one_out_p_values(conformal.nonconformity(q), self.scores, y, self.weights, w)
        ranking = decision.rank(p, q)
        own = d[np.arange(len(d)), ranking.label]
        typicality = self._typicality(own, ranking.label)
        for c, known in enumerate(self.distances):
            member = (ranking.label == c) & (y == c)
            typicality[member] = conformal.rank_p_of_member(own[member], known, self._far(c), w[member])
        return Scores(z, q, p, d, *ranking, own, typicality)

    def held_out(
        self, logits: ArrayLike, distances: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """Of held_out_scores, and with the same arguments: truth, label, credibility, runner_up, typicality, each (n,);
        p_values (n, K)."""
        scores = self.held_out_scores(logits, distances, truth, weights)
        kept = ("label", "credibility", "runner_up", "typicality", "p_values")
        return {"truth": np.asarray(truth, dtype=np.int64), **{name: getattr(scores, name) for name in kept}}

    def _typicality(self, distance: Floats, label: NDArray[np.int64]) -> Floats:
        typicality = np.zeros(len(distance))
        for c, known in enumerate(self.distances):
            if len(known):
                typicality[label == c] = conformal.rank_p(distance[label == c], known, self._far(c))
        return typicality

    def _near(self, c: int) -> Floats | None:
        return None if self.weights is None else self.weights[c]

    def _far(self, c: int) -> Floats | None:
        return None if self.distance_weights is None else self.distance_weights[c]

    @property
    def counts(self) -> dict[str, int]:
        """Calibration cases of each label."""
        return {label: len(scores) for label, scores in zip(self.labels, self.scores, strict=True)}

    def limits(self) -> dict[str, dict[str, float]]:
        """For each label n, correct, and the smallest alpha and typicality they can resolve.

        Below minimum_alpha no case can be excluded from the class: «no guarantee at this alpha» for what is
        automated. Of a weighted calibration also weight and correct_weight, what the cases count together beside a new
        one (of these come the two minima), and effective and effective_correct, their effective sizes.
        """
        return {label: self._limits(c) | self._weighted(c) for c, label in enumerate(self.labels)}

    def _limits(self, c: int) -> dict[str, float]:
        return {
            "n": len(self.scores[c]),
            "minimum_alpha": conformal.least_p(self.scores[c], self._near(c)),
            "correct": len(self.distances[c]),
            "minimum_typicality": conformal.least_p(self.distances[c], self._far(c)),
        }

    def _weighted(self, c: int) -> dict[str, float]:
        if self.weights is None or self.distance_weights is None:
            return {}
        near, far = self.weights[c], self.distance_weights[c]
        return {
            "weight": float(near.sum()),
            "correct_weight": float(far.sum()),
            "effective": conformal.effective_size(near),
            "effective_correct": conformal.effective_size(far),
        }

    def thresholds(self, alpha: float, floor: float) -> dict[str, dict[str, float]]:
        """The ranks read off as thresholds, for a person to check on a plane of probability and distance.

        For each label: n, and minimum_n for a guarantee at alpha; probability, at or above which the label is in the
        prediction set (0: always, n is too small); correct, and minimum_correct for a veto at the floor; distance,
        above which a case of the label is atypical (infinity: never; minus infinity: always, nothing vouches for it).
        The two minima count cases of weight 1. Raises DataError for an alpha or a floor outside (0, 1).
        """
        return {
            label: {
                "n": len(scores),
                "minimum_n": conformal.minimum_n(alpha),
                "probability": max(0.0, 1 - conformal.threshold(scores, alpha, self._near(c))),
                "correct": len(distances),
                "minimum_correct": conformal.minimum_n(floor),
                "distance": conformal.threshold(distances, floor, self._far(c))
                if len(distances)
                else -np.inf,
            }
            for c, (label, scores, distances) in enumerate(
                zip(self.labels, self.scores, self.distances, strict=True)
            )
        }

    def guaranteed_coverage(self, alpha: float) -> dict[str, float]:
        """For each label, the least chance that a new case of it has it in its prediction set: 1 - alpha."""
        return dict.fromkeys(self.labels, 1 - alpha)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays from which from_arrays makes the same calibration again, bit for bit."""
        arrays: dict[str, NDArray[np.generic]] = {
            "calibration.labels": np.frombuffer("\n".join(self.labels).encode(), dtype=np.uint8),
            "calibration.temperature": np.array([self.temperature]),
        }
        for c, (scores, distances) in enumerate(zip(self.scores, self.distances, strict=True)):
            arrays |= {f"calibration.scores.{c}": scores, f"calibration.distances.{c}": distances}
        for name in ("weights", "distance_weights"):
            arrays |= {f"calibration.{name}.{c}": w for c, w in enumerate(getattr(self, name) or [])}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Calibration:
        """The calibration in to_arrays' arrays, unweighted where they hold no weights.

        Raises CalibrationError when one is missing.
        """
        try:
            labels = tuple(arrays["calibration.labels"].tobytes().decode().split("\n"))
            temperature = float(arrays["calibration.temperature"].astype(np.float64)[0])

            def each(name: str) -> list[Floats]:
                return [arrays[f"calibration.{name}.{c}"].astype(np.float64) for c in range(len(labels))]

            weights, distance_weights = (
                each(name) if f"calibration.{name}.0" in arrays else None
                for name in ("weights", "distance_weights")
            )
            return cls(labels, temperature, each("scores"), each("distances"), weights, distance_weights)
        except KeyError as missing:
            raise CalibrationError(
                gettext_noop("The calibration lacks the array %(name)s: install the bundle again."),
                name=str(missing),
            ) from None

    def to_bytes(self) -> bytes:
        """The calibration as one safetensors document, for a database column."""
        return save_safetensors({k: np.ascontiguousarray(a) for k, a in self.to_arrays().items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Calibration:
        """The calibration of to_bytes. Raises CalibrationError for anything else."""
        try:
            arrays = load_safetensors(data)
        except (SafetensorError, ValueError):
            raise CalibrationError(
                gettext_noop("The stored calibration cannot be read: install the bundle again.")
            ) from None
        return cls.from_arrays(arrays)


def leave_one_out_labels(
    strange: Floats,
    probabilities: Floats,
    scores: Sequence[Floats],
    truth: NDArray[np.int64],
    weights: Sequence[Floats] | None = None,
    own: Floats | None = None,
) -> NDArray[np.int64]:
    """(n,) labels the rule gives calibration cases, each ranked against the others only.

    Arguments as for leave_one_out_p_values.
    """
    p = leave_one_out_p_values(strange, scores, truth, weights, own)
    return decision.rank(p, probabilities).label


def leave_one_out_p_values(
    strange: Floats,
    scores: Sequence[Floats],
    truth: NDArray[np.int64],
    weights: Sequence[Floats] | None = None,
    own: Floats | None = None,
) -> Floats:
    """(n, K) p-values of calibration cases, each ranked against the others only.

    strange: (n, K). scores: per class its ascending calibration nonconformity, the case's own included; weights: theirs.
    own: (n,) the cases' weights.
    """
    p = conformal.p_values(strange, scores, weights)
    w = np.ones(len(truth)) if own is None else own
    for c, known in enumerate(scores):
        mine = truth == c
        weight = None if weights is None else weights[c]
        p[mine, c] = conformal.rank_p_of_member(strange[mine, c], known, weight, w[mine])
    return p


def check_weights(weights: ArrayLike | None, n: int) -> Floats:
    """(n,) float64 weights, all 1 when not given. Raises CalibrationError for any outside (0, 1]."""
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (n,) or not ((w > 0) & (w <= 1)).all():
        raise CalibrationError(
            f"Each of {n} calibration cases needs a weight above 0 and at most 1, that of the heaviest new case."
        )
    return w


def _ascending(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(values, kind="stable")
    return values[order], weights[order]


def finite(values: ArrayLike, name: str) -> Floats:
    """The (n, K) values as float64. Raises CalibrationError, naming them, unless finite and two-dimensional."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise CalibrationError(
            gettext_noop("The %(name)s hold values that are not finite numbers: train or score again."),
            name=name,
        )
    return array


def _check(labels: Sequence[str], z: Floats, d: Floats, y: NDArray[np.int64], temperature: float) -> None:
    if len(labels) < 2 or z.shape != (len(y), len(labels)) or d.shape != z.shape:
        shapes = f"Logits {z.shape} and distances {d.shape}"
        raise CalibrationError(f"{shapes} do not fit {len(y)} cases of {len(labels)} labels.")
    if not np.isin(y, range(len(labels))).all():
        raise CalibrationError(
            f"A calibration case has a label outside 0 to {len(labels) - 1}: label every case."
        )
    if not (np.isfinite(temperature) and temperature > 0):
        raise CalibrationError(f"The temperature is {temperature}: it must be a positive number.")
    for c, label in enumerate(labels):
        n = int((y == c).sum())
        if n < MINIMUM_CASES:
            raise CalibrationError(
                gettext_noop(
                    "Only %(n)d calibration case(s) of %(label)s: at least %(least)d of each label are needed."
                ),
                n=n,
                label=label,
                least=MINIMUM_CASES,
            )
