"""Many predictions of one case: Monte Carlo dropout, and a deep ensemble over folds calibrated out of fold.

Section 3.4 of Morales-Sánchez et al. 2026; Gal & Ghahramani 2016; Lakshminarayanan et al. 2017.

Cross-conformal p-values (Vovk 2015), class by class. Member m never saw fold m: neither in training, nor for its
temperature or centroids. It ranks a new case among the cases of fold m alone, and the counts of the M members are
pooled: p_c = (1 + sum over m of #{fold m, class c: at least as strange}) / (n_c + 1).

What this promises. Within a member the ranks are split-conformal, so its own p-value is valid. The pooled p-value is
an affine function of their average weighted by fold size, and twice an average of p-values is a p-value however they
depend on each other (Rüschendorf 1982; Vovk & Wang 2020, section 3). So for each class c and alpha, in finite samples
and for any training whatever, P(p_c <= alpha | class c) <= 2 alpha + 2 (1 - alpha) (M - 1) / (n_c + M): the guarantee
of CV+ (Barber, Candès, Ramdas & Tibshirani 2021, theorem 4), with n_c for n. Near 1 - alpha is what is observed, but it
is not promised, and where n_c is small beside M / alpha the promise is empty: guaranteed_coverage tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp

from mlcore import calibrate, conformal, decision
from mlcore.calibrate import Calibration, Floats, Scores
from mlcore.errors import CalibrationError


class Averaged(NamedTuple):
    """What S predictions say of n cases, float64.

    logits, probabilities: (n, K), of the mean of their probabilities; logits are its logarithm. entropy: (n,) of that
    mean, in nats. mutual_information: (n,) that entropy less the mean of theirs, in nats: how far they disagree.
    """

    logits: Floats
    probabilities: Floats
    entropy: Floats
    mutual_information: Floats

    @property
    def epistemic(self) -> Floats:
        """(n, K) the entropy in every column: what Calibration takes where it says distances (section 3.4, MC dropout)."""
        return np.repeat(self.entropy[:, None], self.probabilities.shape[1], axis=1)


def average(logits: ArrayLike, temperatures: ArrayLike = 1.0) -> Averaged:
    """The mean prediction of (S, n, K) logits: passes of MC dropout, or members of an ensemble.

    temperatures: one, or (S,). To calibrate MC dropout, give `logits` and `epistemic` of what is returned to
    Calibration.fit and apply as logits and distances, with a temperature fitted on `logits` of other cases.
    Raises CalibrationError for logits that are not finite or not three-dimensional.
    """
    z = _stack(logits, "logits")
    log_q = log_softmax(z / np.reshape(np.asarray(temperatures, dtype=np.float64), (-1, 1, 1)), axis=2)
    mean = logsumexp(log_q, axis=0) - np.log(len(z))
    q = np.exp(mean)
    of_mean = decision.entropy(q)
    disagreement = np.maximum(of_mean - decision.entropy(np.exp(log_q)).mean(axis=0), 0.0)
    return Averaged(mean, q, of_mean, disagreement)


@dataclass(frozen=True)
class CrossConformal:
    """What new cases of a fold ensemble are ranked against, by class and then by member.

    labels: K names. temperatures: (M,), each divides its member's logits. scores[c][m]: ascending nonconformity of the
    cases of class c in fold m, as member m sees them. distances[c][m]: ascending, how far the correctly classified
    among them lie from member m's centroids of c.
    """

    labels: tuple[str, ...]
    temperatures: Floats
    scores: list[list[Floats]]
    distances: list[list[Floats]]

    @classmethod
    def fit(
        cls,
        labels: Sequence[str],
        truth: ArrayLike,
        fold: ArrayLike,
        logits: ArrayLike,
        distances: ArrayLike,
        temperatures: ArrayLike,
    ) -> CrossConformal:
        """Calibrate on every case out of its fold.

        truth: (n,) in 0 … K - 1. fold: (n,) in 0 … M - 1, the member that never saw the case. logits, distances:
        (n, K) of that member, its own centroids. temperatures: (M,). A case counts as correctly classified as in
        Calibration.fit, ranked among all others' out-of-fold scores. Raises CalibrationError for what
        Calibration.fit refuses, for fewer than two members, and for a fold that is no member's.
        """
        t = np.asarray(temperatures, dtype=np.float64)
        member = _members(fold, t)
        scaled = _scaled(logits, member, t)
        y = np.asarray(truth)
        Calibration.fit(labels, scaled, distances, y, 1.0)
        q = calibrate.probabilities(scaled, 1.0)
        strange, far = conformal.nonconformity(q), np.asarray(distances, dtype=np.float64)
        pooled = [np.sort(strange[y == c, c]) for c in range(len(labels))]
        correct = calibrate.leave_one_out_labels(strange, q, pooled, y) == y
        scores, kept = [], []
        for c in range(len(labels)):
            folds = [(y == c) & (member == m) for m in range(len(t))]
            scores.append([np.sort(strange[rows, c]) for rows in folds])
            kept.append([np.sort(far[rows & correct, c]) for rows in folds])
        return cls(tuple(labels), t, scores, kept)

    def apply(self, logits: ArrayLike, distances: ArrayLike) -> Scores:
        """Scores of n new cases from every member's (M, n, K) logits and (M, n, K) distances.

        p-values and typicality are pooled over members; a mean of ranks is calmer than one rank, so the more members
        disagree, the fewer familiar cases the typicality floor takes (it promises no more than it aims at). probabilities and distances are means over members, logits
        the logarithm of the former. Where no calibration case of the label was correctly classified, typicality is 0.
        Raises CalibrationError for numbers that are not finite or of another shape.
        """
        z, d = _stack(logits, "logits"), _stack(distances, "distances")
        shape = (len(self.temperatures), len(self.labels))
        if z.shape != d.shape or (z.shape[0], z.shape[2]) != shape:
            raise CalibrationError(
                f"Logits {z.shape} and distances {d.shape} must be of {shape[0]} members and {shape[1]} labels."
            )
        mean = average(z, self.temperatures)
        each = [calibrate.probabilities(own, t) for own, t in zip(z, self.temperatures, strict=True)]
        strange = conformal.nonconformity(each)
        p = np.column_stack(
            [conformal.pooled_p(strange[..., c], known) for c, known in enumerate(self.scores)]
        )
        ranking = decision.rank(p, mean.probabilities)
        far = d.mean(axis=0)
        rows = np.arange(len(far))
        typicality = self._typicality(d[:, rows, ranking.label], ranking.label)
        own = far[rows, ranking.label]
        return Scores(mean.logits, mean.probabilities, p, far, *ranking, own, typicality)

    def _typicality(self, distance: Floats, label: NDArray[np.int64]) -> Floats:
        typicality = np.zeros(len(label))
        for c, known in enumerate(self.distances):
            if any(map(len, known)):
                typicality[label == c] = conformal.pooled_p(distance[:, label == c], known)
        return typicality

    @property
    def pooled(self) -> Calibration:
        """The out-of-fold scores of all members as one calibration, at temperature 1: for reading off, not for ranking.

        Members' scores are compared as if one model had given them, which is exact only as far as they agree.
        """
        scores, distances = (
            [np.sort(np.concatenate(members)) for members in classes]
            for classes in (self.scores, self.distances)
        )
        return Calibration(self.labels, 1.0, scores, distances)

    def held_out_scores(
        self, truth: ArrayLike, fold: ArrayLike, logits: ArrayLike, distances: ArrayLike
    ) -> Scores:
        """Scores of the calibration cases as if they were new, from the one member that never saw each.

        Arguments as given to fit. Each case is ranked against all others' out-of-fold scores: `pooled` tells what
        that leaves open.
        """
        scaled = _scaled(logits, _members(fold, self.temperatures), self.temperatures)
        return self.pooled.held_out_scores(scaled, distances, truth)

    def held_out(
        self, truth: ArrayLike, fold: ArrayLike, logits: ArrayLike, distances: ArrayLike
    ) -> dict[str, NDArray[np.generic]]:
        """Of held_out_scores, and with the same arguments: truth, label, credibility, runner_up, typicality, each (n,);
        p_values (n, K)."""
        scaled = _scaled(logits, _members(fold, self.temperatures), self.temperatures)
        return self.pooled.held_out(scaled, distances, truth)

    @property
    def counts(self) -> dict[str, int]:
        """Calibration cases of each label, over all folds."""
        return self.pooled.counts

    def limits(self) -> dict[str, dict[str, float]]:
        """As Calibration.limits, over all folds: what the pooled ranks can resolve, not what they promise."""
        return self.pooled.limits()

    def thresholds(self, alpha: float, floor: float) -> dict[str, dict[str, float]]:
        """As Calibration.thresholds, of the out-of-fold scores together: where a case stands on which members agree."""
        return self.pooled.thresholds(alpha, floor)

    def guaranteed_coverage(self, alpha: float) -> dict[str, float]:
        """For each label, the least chance that a new case of it has it in its prediction set, as the module states.

        0 where nothing is promised. Raises DataError for alpha outside (0, 1).
        """
        return {
            label: guaranteed_coverage(alpha, n, len(self.temperatures)) for label, n in self.counts.items()
        }

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays from which from_arrays makes the same calibration again, bit for bit."""
        arrays: dict[str, NDArray[np.generic]] = {
            "cross.labels": np.frombuffer("\n".join(self.labels).encode(), dtype=np.uint8),
            "cross.temperatures": self.temperatures,
        }
        for name in ("scores", "distances"):
            for c, members in enumerate(getattr(self, name)):
                arrays[f"cross.{name}.{c}"] = np.concatenate(members)
                arrays[f"cross.{name}.{c}.ends"] = np.cumsum([len(known) for known in members])
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> CrossConformal:
        """The calibration in to_arrays' arrays, others ignored. Raises CalibrationError when one is missing."""
        try:
            labels = tuple(arrays["cross.labels"].tobytes().decode().split("\n"))
            temperatures = arrays["cross.temperatures"].astype(np.float64)
            scores, distances = (
                [
                    np.split(
                        arrays[f"cross.{name}.{c}"].astype(np.float64), arrays[f"cross.{name}.{c}.ends"][:-1]
                    )
                    for c in range(len(labels))
                ]
                for name in ("scores", "distances")
            )
        except KeyError as missing:
            raise CalibrationError(
                f"The ensemble's calibration lacks the array {missing}: train the ensemble again."
            ) from None
        return cls(labels, temperatures, scores, distances)


def guaranteed_coverage(alpha: float, n: int, members: int) -> float:
    """1 - 2 alpha - 2 (1 - alpha) (M - 1) / (n + M), or 0: what n pooled calibration cases of a class promise it."""
    conformal.minimum_n(alpha)
    return max(0.0, 1 - 2 * alpha - 2 * (1 - alpha) * (members - 1) / (n + members))


def _stack(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 3 or not len(array) or not np.isfinite(array).all():
        raise CalibrationError(
            f"The {name} of shape {array.shape} must be finite numbers by member, case and label: score again."
        )
    return array


def _members(fold: ArrayLike, temperatures: Floats) -> NDArray[np.int64]:
    member = np.asarray(fold)
    if temperatures.ndim != 1 or len(temperatures) < 2:
        raise CalibrationError(
            f"An ensemble needs two members or more: {temperatures.size} temperature(s) given."
        )
    if not (np.isfinite(temperatures) & (temperatures > 0)).all():
        raise CalibrationError("A member's temperature is not a positive number: train that member again.")
    if not np.isin(member, range(len(temperatures))).all():
        raise CalibrationError(
            f"A case's fold lies outside 0 to {len(temperatures) - 1}: name the member that never saw it."
        )
    return member.astype(np.int64)


def _scaled(logits: ArrayLike, member: NDArray[np.int64], temperatures: Floats) -> Floats:
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or len(z) != len(member):
        raise CalibrationError(f"Logits {z.shape} do not fit {len(member)} cases with a fold.")
    scaled: Floats = z / temperatures[member][:, None]
    return scaled
