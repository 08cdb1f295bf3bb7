"""What cases come to under each architecture and way of telling uncertainty, from what `members` stored.

Section 3.4 of Morales-Sánchez et al. 2026: fold ensembles, Monte Carlo dropout, and a single pass with distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from mlcore import baseline, decision, members, metrics, report, tables, train
from mlcore.calibrate import Calibration, Scores, fit_temperature
from mlcore.distance import INERTIA_GAIN
from mlcore.members import Plan, Step
from mlcore.metrics import Floats
from mlcore.mil import Kind
from mlcore.uncertainty import CrossConformal, average

Ints = npt.NDArray[np.int64]
FLOOR = report.FLOOR


@dataclass(frozen=True)
class Backend:
    """One architecture under one way of telling uncertainty, and what cases come to under it.

    ranks: what they are ranked against. scores: of the test cases. held_out: of the calibration cases as if new, their
    truth (n,), and weights (n,) that give each label its share in the training file.
    """

    architecture: str
    algorithm: str
    ranks: Calibration | CrossConformal
    scores: Scores
    held_out: Scores
    truth: Ints
    weights: Floats

    @property
    def name(self) -> str:
        """Its place in metrics.json."""
        return f"{self.architecture}/{self.algorithm}"


def every(plan: Plan) -> list[Backend]:
    """The rows of Tables 2 and D1, in their order."""
    made = {"cv": ensemble, "mc": dropout, "single": deterministic}
    return [made[algorithm](plan, architecture) for architecture, algorithm in tables.BACKENDS]


def ensemble(plan: Plan, architecture: Kind, gain: float = INERTIA_GAIN) -> Backend:
    """The members of all folds, each calibrated on the fold it never saw (section 3.4)."""
    labels, fold, spec = plan.cohort.labels, plan.fold, plan.cohort.spec
    steps = [Step("member", architecture, m) for m in range(plan.config.folds)]
    stored = [members.load(plan.path(step)) for step in steps]
    far = [members.load(plan.distances_path(step)) for step in steps]
    logits, distances = (np.zeros((len(labels), len(spec.labels))) for _ in range(2))
    for m, (own, own_far) in enumerate(zip(stored, far, strict=True)):
        logits[fold == m] = own["training.logits"][fold == m]
        distances[fold == m] = own_far[f"held_out.{gain}"]
    temperatures = np.array([float(own["temperature"][0]) for own in stored])
    ranks = CrossConformal.fit(spec.labels, labels, fold, logits, distances, temperatures)
    scores = ranks.apply(
        np.stack([own["test.logits"] for own in stored]), np.stack([own[f"test.{gain}"] for own in far])
    )
    held_out = ranks.held_out_scores(labels, fold, logits, distances)
    return Backend(architecture, "cv", ranks, scores, held_out, labels, np.ones(len(labels)))


def deterministic(plan: Plan, architecture: Kind) -> Backend:
    """One model in a single pass, split-conformal, with distances: the rows called MD-SN."""
    step = Step("single", architecture)
    stored, far = members.load(plan.path(step)), members.load(plan.distances_path(step))
    held_out = members.parts(plan, step)[2]
    logits = stored["training.logits"][held_out], stored["test.logits"]
    distances = far[f"held_out.{INERTIA_GAIN}"], far[f"test.{INERTIA_GAIN}"]
    return _split(plan, "single", step, logits, distances, float(stored["temperature"][0]))


def dropout(plan: Plan, architecture: Kind) -> Backend:
    """One model over several passes with dropout on, predictive entropy where others have a distance (section 3.4)."""
    step = Step("single", architecture)
    stored = members.load(plan.path(step))
    validation = members.parts(plan, step)[1]
    drawn = {name: average(stored[f"{name}.passes"]) for name in ("validation", "held_out", "test")}
    temperature = fit_temperature(drawn["validation"].logits, plan.cohort.labels[validation])
    logits = drawn["held_out"].logits, drawn["test"].logits
    entropies = drawn["held_out"].epistemic, drawn["test"].epistemic
    return _split(plan, "mc", step, logits, entropies, temperature)


def _split(
    plan: Plan,
    algorithm: str,
    step: Step,
    logits: tuple[ArrayLike, ArrayLike],
    distances: tuple[ArrayLike, ArrayLike],
    temperature: float,
) -> Backend:
    """A single model calibrated on its held-out share. logits, distances: (n, K) of that share and of the test cases."""
    held_out, labels = members.parts(plan, step)[2], plan.cohort.labels
    truth = labels[held_out]
    ranks = Calibration.fit(plan.cohort.spec.labels, logits[0], distances[0], truth, temperature)
    return Backend(
        step.architecture,
        algorithm,
        ranks,
        ranks.apply(logits[1], distances[1]),
        ranks.held_out_scores(logits[0], distances[0], truth),
        truth,
        train.prevalence_weights(labels, held_out),
    )


def decide(scores: Scores, alpha: float, floor: float = FLOOR) -> npt.NDArray[np.int8]:
    """(n,) the dual veto."""
    return decision.decide_by("dual", scores, alpha, floor)


def threshold(backend: Backend, targets: Sequence[int]) -> float:
    """The probability of a target from which calling it one gives the highest F2 on held-out calibration cases."""
    score = backend.held_out.probabilities[:, list(targets)].sum(axis=1)
    return baseline.best_threshold(score, metrics.is_target(backend.truth, targets), backend.weights)
