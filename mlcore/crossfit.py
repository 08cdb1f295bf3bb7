"""One release of each of k folds, measured on the fold it never saw, and the one that is kept.

The calibration share is taken first, the same for every fold: it neither fits nor chooses anything, so that the kept
release's calibration promises what any other's does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import PartialState

from mlcore import bundle, folds, metrics
from mlcore.errors import DataError, ModelError
from mlcore.loop import Ints, Progress, TrainConfig
from mlcore.protocols import ProtocolSpec
from mlcore.records import Record, labels_array
from mlcore.scorer import Scorer
from mlcore.train import (
    LEFT_OUT,
    PARTS,
    check,
    check_empty,
    digest,
    encoder_digest,
    note_digests,
    prevalence_weights,
    share_out,
    train,
)

Told = Callable[[int, dict[str, Any]], None]
AT_ONCE = 64
IDENTITY = "folds.json"
KEPT = "kept"


def train_folds(
    records: Sequence[Record],
    spec: ProtocolSpec,
    encoder: str | Path,
    output: Path,
    k: int,
    config: TrainConfig | None = None,
    progress: Progress = lambda stage, done, total: None,
    origin: dict[str, Any] | None = None,
    like: dict[str, Any] | None = None,
    told: Told = lambda fold, figures: None,
) -> dict[str, Any]:
    """Train a release on the others of each of k folds, keep the best in `output`; returns its card.

    Until then the folds stand beside `output` in a folder named with .folds, under a fingerprint of data, split, settings
    and encoder, so that the same call goes on where a killed one stopped, and any other is refused. like: the card of an
    earlier release, whose folds must be the same, row by row. told: called with each fold's number and figures.
    Raises DataError for other folds than those of `like` and for too few groups, ModelError for a folder that holds
    something else; otherwise as train.
    """
    if PartialState().num_processes > 1:
        raise ModelError("Folds are trained by one process: run the command without a launcher.")
    config = (config or TrainConfig()).of(spec)
    check_empty(output)
    check(records, spec, "to train on")
    parts = fold_parts(records, spec, config, k)
    groups = [record.group or record.patient_id for record in records]
    prints = [folds.fingerprint(groups, own) for own in parts]
    _check_like(prints, like)
    working = output.with_name(f"{output.name}.folds")
    identity = {
        "sha256": digest(records),
        "sha1": prints,
        "config": asdict(config),
        "encoder": [str(encoder), encoder_digest(encoder)],
    }
    _open(working, identity)
    table = []
    for fold, own in enumerate(parts, 1):
        folder = working / f"fold-{fold}"
        if not (folder / bundle.SUMS).exists():
            shutil.rmtree(folder, ignore_errors=True)
            train(records, spec, encoder, folder, config, progress, origin, own)
        table.append({"fold": fold, **measure(folder, records, spec, own)})
        told(fold, table[-1])
    kept = best(table, spec)
    folder = working / f"fold-{kept['fold']}"
    card = bundle.read_card(folder) | {
        "folds": {"count": k, "sha1": prints, "table": table, **summary(table), **kept}
    }
    sealed = _sealed(folder, working / KEPT, card, records, parts[kept["fold"] - 1])
    if output.exists():
        output.rmdir()
    sealed.rename(output)
    shutil.rmtree(working)
    return card


def fold_parts(records: Sequence[Record], spec: ProtocolSpec, config: TrainConfig, k: int) -> list[Ints]:
    """For each fold the (n,) part of each case, positions in PARTS; LEFT_OUT are the fold's own, which it is measured on.

    Whole groups, stratified. The calibration share is that of a single release, the same for all folds.
    """
    labels = labels_array(records)
    groups = np.array([record.group or record.patient_id for record in records])
    able = np.array([record.calibrates > 0 for record in records])
    first = share_out(labels, groups.tolist(), config, len(spec.labels), able)
    pool = np.flatnonzero(np.isin(first, [PARTS.index("fit"), PARTS.index("validation")]))
    fold = folds.folds(labels[pool], groups[pool].tolist(), k, config.seed)
    shares = [1 - config.validation, config.validation]
    found = []
    for m in range(k):
        own = first.copy()
        own[pool] = LEFT_OUT
        rest = pool[fold != m]
        own[rest] = folds.split(labels[rest], groups[rest].tolist(), shares, config.seed)
        found.append(own)
    return found


def measure(folder: Path, records: Sequence[Record], spec: ProtocolSpec, parts: Ints) -> dict[str, Any]:
    """F1 of each label, their mean and their mean by prevalence, on the fold a release never saw, by the most probable label.

    Cases of the calibration share are taken class by class, so that a fold holds fewer of some labels than the file: each
    case counts as its label's prevalence in the file asks.
    """
    labels = labels_array(records)
    rows = np.flatnonzero(parts == LEFT_OUT)
    scorer = Scorer.load(folder)
    texts = [records[i].texts for i in rows.tolist()]
    told = np.concatenate(
        [
            scorer.score_records(texts[at : at + AT_ONCE])[0].probabilities.argmax(axis=1)
            for at in range(0, len(texts), AT_ONCE)
        ]
    )
    w = prevalence_weights(labels, rows)
    truth, every = labels[rows], len(spec.labels)
    each = {name: metrics.f_beta(truth, told, {c}, 1.0, w) for c, name in enumerate(spec.labels)}
    return {
        "cases": len(rows),
        "f1": {name: _figure(value) for name, value in each.items()},
        "f1_macro": _figure(metrics.macro_f1(truth, told, every, w)),
        "f1_weighted": _figure(metrics.weighted_f1(truth, told, every, w)),
    }


def best(table: Sequence[dict[str, Any]], spec: ProtocolSpec) -> dict[str, Any]:
    """The fold that is kept, and why: the largest mean F1 of the critical labels, of macro F1 where there is none.

    Of equals the one of larger macro F1, then the earlier.
    """

    def score(row: dict[str, Any]) -> float:
        own = [row["f1"][name] for name in spec.critical]
        return float(np.mean(own)) if own else float(row["f1_macro"])

    kept = max(table, key=lambda row: (score(row), row["f1_macro"], -row["fold"]))
    by = (
        f"F1 of {', '.join(spec.critical)}, which {spec.slug} holds critical" if spec.critical else "macro F1"
    )
    return {
        "fold": kept["fold"],
        "why": f"largest {by} ({score(kept):.4f}), on the fold it never saw, of {len(table)} folds; the largest of "
        "several is more than can be expected of new cases, which the mean over folds tells",
    }


def summary(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over folds of everything in the table."""

    def over(values: list[float]) -> dict[str, float]:
        return {
            "mean": round(float(np.mean(values)), 5),
            "sd": round(float(np.std(values, ddof=1)), 5),
        }

    return {
        "f1": {name: over([row["f1"][name] for row in table]) for name in table[0]["f1"]},
        "f1_macro": over([row["f1_macro"] for row in table]),
        "f1_weighted": over([row["f1_weighted"] for row in table]),
    }


def lines(card: dict[str, Any]) -> list[str]:
    """The table of a card's folds, a line each, then mean ± standard deviation."""
    told, names = card["folds"], card["labels"]
    head = ["fold", *names, "macro", "weighted"]
    rows = [
        [
            str(row["fold"]),
            *(f"{x:.4f}" for x in (*(row["f1"][n] for n in names), row["f1_macro"], row["f1_weighted"])),
        ]
        for row in told["table"]
    ]
    over = [*(told["f1"][name] for name in names), told["f1_macro"], told["f1_weighted"]]
    rows.append(["mean ± sd", *(f"{x['mean']:.4f} ± {x['sd']:.4f}" for x in over)])
    wide = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return ["  ".join(cell.rjust(w) for cell, w in zip(row, wide, strict=True)) for row in [head, *rows]]


def _sealed(fold: Path, kept: Path, card: dict[str, Any], records: Sequence[Record], parts: Ints) -> Path:
    """A copy of the chosen fold's bundle under the card of all folds; the fold's own stays whole, should this be killed.

    The notes that chose it among the folds count as learned: no verdict on it may stand on them.
    """
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(fold, kept)
    seen = np.flatnonzero(parts != PARTS.index("calibration"))
    learned = note_digests(records[i] for i in seen.tolist())
    bundle.save_arrays(kept, bundle.load_arrays(fold) | {"learned.notes": learned})
    bundle.seal(kept, card)
    return kept


def _figure(value: npt.NDArray[np.float64]) -> float:
    return round(float(np.nan_to_num(value).ravel()[0]), 5)


def _check_like(prints: list[str], like: dict[str, Any] | None) -> None:
    if like is None:
        return
    if "folds" not in like:
        raise DataError("The release to compare with was not trained in folds: name another.")
    if like["folds"]["sha1"] != prints:
        raise DataError(
            f"The folds are not those of the release to compare with (SHA-1 {prints[0]} there "
            f"{like['folds']['sha1'][0]}, and so on): give the same cases in the same order, folds, seed and shares."
        )


def _open(working: Path, identity: dict[str, Any]) -> None:
    """Make the folder of the folds, or take one of this very training. Raises ModelError for any other."""
    file, text = working / IDENTITY, json.dumps(identity, sort_keys=True)
    if not working.exists():
        working.mkdir(parents=True)
        file.write_text(text)
    elif not file.exists() or file.read_text() != text:
        raise ModelError(
            f"{working} holds folds of other data, another split, other settings or another encoder: remove it, or name "
            "another folder."
        )
