"""The paper's whole evaluation on one training and one test file (Morales-Sánchez et al. 2026, section 4).

`members` trains and stores; every figure here is computed from what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlcore import backends, conformal, decision, members, metrics, outcomes, report, study_page, tables
from mlcore.backends import FLOOR, Backend
from mlcore.distance import INERTIA_GAIN
from mlcore.members import GAINS, YARDSTICK, Arrays, Cohort, Plan, Progress, Step, StudyConfig
from mlcore.metrics import Floats
from mlcore.outcomes import Metrics
from mlcore.published import ABLATION, ALPHAS, STRICT

PERCENTILES = (90.0, 95.0, 99.0, 99.5, 99.9)


def run(
    cohort: Cohort,
    config: StudyConfig,
    folder: Path,
    jobs: int = 1,
    progress: Progress = lambda step, done, total: None,
) -> dict[str, Any]:
    """The study in a new folder, or in one where it was broken off; returns what metrics.json holds.

    Raises DataError for files that cannot be studied and for a folder that holds something else.
    """
    cohort.check(config.folds)
    plan = Plan(cohort, config, folder)
    members.open_folder(plan)
    members.run(plan, jobs, progress)
    return write(plan)


def write(plan: Plan) -> dict[str, Any]:
    """Every figure from the stored arrays: metrics.json, tables/*.csv, predictions/*.csv and report.html."""
    found = backends.every(plan)
    figures = measure(plan, found)
    folder = plan.folder
    text = json.dumps(figures, ensure_ascii=False, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    for name in ("tables", "predictions"):
        (folder / name).mkdir(exist_ok=True)
    for table in [*tables.of_paper(figures), *tables.beyond(figures)]:
        tables.write_csv(table, folder / "tables" / f"{table.slug}.csv")
    cohort = plan.cohort
    ids = [record.patient_id for record in cohort.test]
    for backend in found:
        path = folder / "predictions" / f"{backend.architecture}-{backend.algorithm}.csv"
        report.write_predictions(cohort.spec, ids, cohort.truth, backend.scores, path)
    page = study_page.write_page(plan, found, figures)
    (folder / "report.html").write_text(page, encoding="utf-8")
    return figures


# The figures.


def measure(plan: Plan, found: Sequence[Backend]) -> dict[str, Any]:
    """Everything metrics.json holds, all figures over the same resamples of the test cases' groups."""
    by_name = {backend.name: backend for backend in found}
    spec = plan.cohort.spec
    yardstick = members.load(plan.path(YARDSTICK))
    named = (
        _of_backends(plan, found)
        | _of_policies(plan, by_name["spectral/cv"])
        | _of_constants(plan)
        | _of_realities(plan, by_name)
        | _against(plan, found, yardstick)
    )
    figures: dict[str, Any] = {"study": _facts(plan), "members": _told(plan)}
    figures |= outcomes.figures(named, members.group_names(plan.cohort.test), plan.config.replicates)
    figures["yardstick"]["threshold"] = float(yardstick["threshold"][0])
    for backend in found:
        at = figures["backends"][backend.architecture][backend.algorithm]
        at |= {
            "calibration": backend.ranks.limits(),
            "threshold": backends.threshold(backend, spec.target_indices),
        }
        for alpha in ALPHAS:
            counts = np.bincount(
                backends.decide(backend.scores, alpha), minlength=len(decision.NAMES)
            ).tolist()
            at["alpha"][repr(alpha)] |= {
                "counts": dict(zip(decision.NAMES, counts, strict=True)),
                "promised": backend.ranks.guaranteed_coverage(alpha),
            }
    return figures


def _facts(plan: Plan) -> dict[str, Any]:
    spec, cohort = plan.cohort.spec, plan.cohort
    mix = {
        name: {label: int((labels == c).sum()) for c, label in enumerate(spec.labels)}
        for name, labels in (("training", cohort.labels), ("test", cohort.truth))
    }
    return {
        **plan.identity,
        "labels": list(spec.labels),
        "targets": list(spec.targets),
        "cases": mix,
        "notes": {
            name: sum(len(record.notes) for record in records)
            for name, records in (("training", cohort.training), ("test", cohort.test))
        },
        "alphas": list(ALPHAS),
        "floor": FLOOR,
        "minimum_n": {repr(alpha): conformal.minimum_n(alpha) for alpha in ALPHAS},
        "intervals": f"95 % percentile bootstrap, {plan.config.replicates} resamples of the cases' groups, seed {metrics.SEED}",
        "versions": members.versions(),
    }


def _told(plan: Plan) -> dict[str, Any]:
    """How each model was trained; not how long it took, so that a study repeated gives the same file."""
    told = {}
    for step in plan.steps:
        if step != YARDSTICK:
            card = members.read_card(plan.path(step))
            told[step.name] = {
                "epochs": card["epochs"],
                "chosen": card["chosen"],
                "centroids": _centroids(plan, step),
            }
    return told


def _centroids(plan: Plan, step: Step) -> dict[str, int]:
    counts = members.load(plan.distances_path(step))[f"centroids.{INERTIA_GAIN}"].tolist()
    return dict(zip(plan.cohort.spec.labels, counts, strict=True))


def _of_backends(plan: Plan, found: Sequence[Backend]) -> Metrics:
    spec, truth = plan.cohort.spec, plan.cohort.truth
    named: Metrics = {}
    for backend in found:
        scores, at = backend.scores, f"backends/{backend.name}"
        called = outcomes.target_score(spec, scores) >= backends.threshold(backend, spec.target_indices)
        named |= _under(f"{at}/overall", outcomes.overall(spec, truth, scores))
        named |= _under(f"{at}/overall", {"f2_threshold": _f2(plan, called)})
        correct = scores.label == truth
        named[f"{at}/veto"] = (partial(metrics.share, scores.typicality <= FLOOR, correct), correct)
        for alpha in ALPHAS:
            named |= _under(f"{at}/alpha/{alpha!r}", outcomes.covered(spec, truth, scores, alpha))
            of_decisions = outcomes.decided(spec, truth, scores, backends.decide(scores, alpha))
            named |= _under(f"{at}/alpha/{alpha!r}", of_decisions)
            lift = _less(of_decisions["clear_f2"], outcomes.overall(spec, truth, scores)["f2"])
            named |= _under(f"{at}/alpha/{alpha!r}", {"clear_f2_lift": lift})
    return named


def _of_policies(plan: Plan, chief: Backend) -> Metrics:
    """Table 3."""
    named: Metrics = {}
    for policy in decision.POLICIES:
        decisions = decision.decide_by(policy, chief.scores, ABLATION, FLOOR, chief.held_out)
        of = outcomes.decided(plan.cohort.spec, plan.cohort.truth, chief.scores, decisions)
        named |= _under(f"policies/{policy}", of)
    return named


def _of_constants(plan: Plan) -> Metrics:
    """Table A1."""
    named: Metrics = {}
    for gain in GAINS:
        scores = backends.ensemble(plan, "spectral", gain).scores
        for percentile in PERCENTILES:
            decisions = backends.decide(scores, ABLATION, round(1 - percentile / 100, 6))
            of = outcomes.decided(plan.cohort.spec, plan.cohort.truth, scores, decisions)
            named |= _under(f"sensitivity/{gain}/{percentile:g}", of)
    return named


def _of_realities(plan: Plan, by_name: dict[str, Backend]) -> Metrics:
    """Table B1, the targets against the rest."""
    targets, truth = plan.cohort.spec.target_indices, plan.cohort.truth
    everyone = np.ones(len(truth), dtype=bool)
    true = metrics.is_target(truth, targets).astype(int)
    named: Metrics = {}
    for architecture in ("standard", "spectral"):
        scores = by_name[f"{architecture}/cv"].scores
        said, decisions = (
            metrics.is_target(scores.label, targets).astype(int),
            backends.decide(scores, STRICT),
        )
        for reality, costs in metrics.REALITIES.items():
            kappa = partial(metrics.risk_kappa, true, said, decisions, *costs)
            named[f"realities/{reality}/{architecture}"] = (kappa, everyone)
    return named


def _against(plan: Plan, found: Sequence[Backend], yardstick: Arrays) -> Metrics:
    """The yardstick, and what each backend has over it on the same resamples."""
    spec, truth = plan.cohort.spec, plan.cohort.truth
    positive, everyone = metrics.is_target(truth, spec.target_indices), np.ones(len(truth), dtype=bool)
    score = yardstick["probabilities"][:, list(spec.target_indices)].sum(axis=1)
    own: Metrics = {
        "auroc": (lambda w: metrics.auroc(score, positive, w), everyone),
        "average_precision": (lambda w: metrics.average_precision(score, positive, w), everyone),
        "f2_threshold": _f2(plan, yardstick["target"]),
    }
    named = _under("yardstick", own)
    for backend in found:
        called = outcomes.target_score(spec, backend.scores) >= backends.threshold(
            backend, spec.target_indices
        )
        theirs = outcomes.overall(spec, truth, backend.scores) | {"f2_threshold": _f2(plan, called)}
        named |= _under(f"ahead/{backend.name}", {key: _less(theirs[key], own[key]) for key in own})
    return named


def _f2(plan: Plan, called: npt.NDArray[np.generic]) -> tuple[metrics.Weighted, npt.NDArray[np.bool_]]:
    positive = metrics.is_target(plan.cohort.truth, plan.cohort.spec.target_indices)
    return partial(_f2_of, positive, called.astype(bool)), np.ones(len(positive), dtype=bool)


def _f2_of(positive: npt.NDArray[np.bool_], called: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    return metrics.f_beta(positive, called, {True}, weights=weights)


def _less(
    one: tuple[metrics.Weighted, npt.NDArray[np.bool_]], other: tuple[metrics.Weighted, npt.NDArray[np.bool_]]
) -> tuple[metrics.Weighted, npt.NDArray[np.bool_]]:
    return (lambda w: one[0](w) - other[0](w)), one[1]


def _under(place: str, named: Metrics) -> Metrics:
    return {f"{place}/{name}": metric for name, metric in named.items()}
