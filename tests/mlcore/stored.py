"""A study whose models never were: arrays drawn at random stand where training would have stored them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlcore import baseline, members, protocols
from mlcore.records import NoteText, Record

SHARES = {2: [0.8, 0.2], 4: [0.1, 0.4, 0.3, 0.2]}


def cohort(slug: str, n: int, m: int, seed: int = 0) -> members.Cohort:
    """n training and m test cases of one word each."""
    spec, rng = protocols.get(slug), np.random.default_rng(seed)
    shares = SHARES[len(spec.labels)]

    def drawn(count, prefix):
        labels = rng.choice(len(shares), size=count, p=shares)
        return [Record(f"{prefix}{i}", [NoteText("nota")], int(c), i + 1) for i, c in enumerate(labels)]

    return members.Cohort(spec, drawn(n, "T"), drawn(m, "E"))


def study(folder: Path, slug: str = "hiv-suspicion-es", n: int = 600, m: int = 200) -> members.Plan:
    """A plan of three folds with everything stored; logits and embeddings know the label, members disagree a little."""
    plan = members.Plan(cohort(slug, n, m), members.StudyConfig(folds=3, replicates=50), folder)
    members.open_folder(plan)
    rng = np.random.default_rng(1)
    labels = np.concatenate([plan.cohort.labels, plan.cohort.truth])
    classes = len(plan.cohort.spec.labels)
    known = rng.normal(size=(n + m, classes)) + 2.5 * np.eye(classes)[labels]
    places = 1.5 * rng.normal(size=(classes, 2, 6))
    embeddings = places[labels, rng.integers(2, size=n + m)] + rng.normal(size=(n + m, 6))
    for step in plan.steps:
        draw = np.random.default_rng([len(step.architecture), step.fold + 1])
        if step == members.YARDSTICK:
            arrays = _yardstick(plan, np.exp(known + draw.normal(size=known.shape)), n)
        else:
            logits = known + 0.5 * draw.normal(size=known.shape)
            arrays = _model(plan, step, logits, embeddings + 0.1 * draw.normal(size=embeddings.shape), n)
        card = {
            "epochs": [{"epoch": 1, "validation_auroc": 0.9}],
            "chosen": {"epoch": 1},
            "seconds": {"training": {"cpu": 90.0}},
        }
        members.store(plan.path(step), arrays, plan.fingerprint(step), card)
        if step != members.YARDSTICK:
            members.compute(plan, step)
    return plan


def _model(plan, step, logits, embeddings, n):
    arrays = {
        "temperature": np.array([1.1]),
        "training.logits": logits[:n],
        "training.embeddings": embeddings[:n],
        "test.logits": logits[n:],
        "test.embeddings": embeddings[n:],
    }
    if step.kind == "single":
        _, validation, held_out = members.parts(plan, step)
        of = {"validation": validation, "held_out": held_out, "test": np.arange(n, len(logits))}
        draw = np.random.default_rng(9)
        for name, rows in of.items():
            arrays[f"{name}.passes"] = logits[rows] + 0.3 * draw.normal(size=(5, len(rows), logits.shape[1]))
    return arrays


def _yardstick(plan, weights, n):
    q = weights / weights.sum(axis=1, keepdims=True)
    targets = list(plan.cohort.spec.target_indices)
    score = q[:, targets].sum(axis=1)
    threshold = baseline.best_threshold(score[:n], np.isin(plan.cohort.labels, targets))
    return {
        "probabilities": q[n:],
        "target": score[n:] >= threshold,
        "threshold": np.array([threshold]),
        "out_of_fold": q[:n],
    }
