"""Training of a release: one config, one visible loop, the best epoch kept (paper, section 3.3.2)."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from mlcore import bundle, chunks, compact, folds, losses, mil
from mlcore.calibrate import Calibration, fit_temperature
from mlcore.chunks import Window
from mlcore.distance import MultiCentroid
from mlcore.encoder import Encoder
from mlcore.errors import DataError, ModelError
from mlcore.protocols import ProtocolSpec
from mlcore.records import Record, labels_array
from mlcore.scorer import case_distances

Progress = Callable[[str, int, int], None]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
COMPACT = "compact"
PARTS = ("fit", "validation", "calibration")
CALIBRATION_SHARE, CALIBRATION_LIMIT, CALIBRATION_CASES = 0.15, 0.4, 130
LEAST_CASES = 20
CLIP = 1.0
WARM_UP = 0.1
SAMPLED = 4


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what is trained, besides the data and the encoder.

    learning_rate: of a compact encoder, head_rate: of the head and the token gate. vocabulary, width: size of a compact encoder.
    distil: share of the loss that follows the out-of-fold linear model. masked: share of tokens hidden in training.
    validation: share of each class on which epoch and temperature are chosen.
    """

    seed: int = 13
    epochs: int = 7
    batch: int = 16
    learning_rate: float = 5e-4
    head_rate: float = 2e-3
    weight_decay: float = 0.01
    head: mil.Kind = "spectral"
    hidden: int = 64
    vocabulary: int = 16_000
    width: int = 128
    distil: float = 0.5
    masked: float = 0.3
    validation: float = 0.08

    @classmethod
    def quick(cls) -> TrainConfig:
        """For a demonstration: a few thousand short cases in a minute and a half on two cores."""
        return cls(epochs=2, vocabulary=6_000, width=64, learning_rate=1e-3)


@dataclass
class Clock:
    """Seconds of each stage, wall and processor, beside the caller's progress."""

    progress: Progress
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[Callable[[int], None]]:
        """Time what stands in the block; the value given tells how much of `total` is done."""
        self.progress(name, 0, total)
        wall, cpu = time.perf_counter(), time.process_time()
        yield lambda done: self.progress(name, done, total)
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        self.seconds[name] = {key: round(value, 2) for key, value in took.items()}
        self.progress(name, total, total)


def train(
    records: Sequence[Record],
    spec: ProtocolSpec,
    encoder: str | Path,
    output: Path,
    config: TrainConfig | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Train, calibrate and seal a bundle in `output`, a new or empty folder; returns its card.

    records: labelled cases. encoder: "compact", a Hugging Face name or a folder; the latter two stay frozen.
    Fitting, the choice of epoch and temperature, and calibration use disjoint cases, whole groups each.
    Raises DataError when a class has under LEAST_CASES cases, ModelError when encoder or output cannot be used.
    """
    config = config or TrainConfig()
    labels = _labels(records, spec)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ModelError(f"{output} is not an empty folder: name a new one for the bundle.")
    clock = Clock(progress)
    torch.manual_seed(config.seed)
    groups = [record.group or record.patient_id for record in records]
    parts = share_out(labels, groups, config, len(spec.labels))
    fit, validation, held_out = (np.flatnonzero(parts == i) for i in range(len(PARTS)))

    with clock.stage("windows"):
        loaded = None if encoder == COMPACT else Encoder.load(encoder)
        texts = (text for i in fit.tolist() for text in records[i].texts)
        tokenizer = loaded.tokenizer if loaded else compact.tokenizer(texts, config.vocabulary)
        cases = [chunks.kept(record.texts, tokenizer) for record in records]
    with clock.stage("linear model"):
        sequences, fit_groups = [_ids(cases[i]) for i in fit], [groups[i] for i in fit]
        linear = compact.Linear(
            sequences, labels[fit], len(spec.labels), len(tokenizer), fit_groups, config.seed
        )
    with clock.stage("encoder"):
        model = loaded or compact.build(tokenizer, linear, config.width)
        vectors = encode_cases(model, cases) if loaded else None
        sample = (
            [vectors[i] for i in fit] if vectors else encode_cases(model, [cases[i] for i in fit[::SAMPLED]])
        )
        head = mil.Head(model.width, len(spec.labels), config.hidden, kind=config.head).to(model.device)
        head.standardise(torch.cat(sample))
        head.log_prior.copy_(log_prior(labels, len(spec.labels)))
    data = Material(cases, vectors, labels, linear, fit, validation)
    epochs = optimise(model, head, data, spec, config, clock)
    with clock.stage("calibration"):
        logits, embeddings, _ = mil.predict(head, vectors or encode_cases(model, cases))
        seen = np.concatenate([fit, validation])
        distance = MultiCentroid().fit(embeddings[seen], labels[seen], len(spec.labels))
        temperature = fit_temperature(logits[validation], labels[validation])
        far = case_distances(distance, embeddings[held_out])
        calibration = Calibration.fit(spec.labels, logits[held_out], far, labels[held_out], temperature)
    with clock.stage("saving"):
        model.save(output / "encoder")
        mil.save(output / bundle.HEAD, model, head)
        read_as_new = calibration.held_out(logits[held_out], far, labels[held_out])
        read_as_new["weight"] = prevalence_weights(labels, held_out)
        arrays = {f"held_out.{name}": array for name, array in read_as_new.items()}
        bundle.save_arrays(output, arrays | calibration.to_arrays() | distance.to_arrays())
    card = {
        "protocol": spec.slug,
        "language": spec.language,
        "unit": spec.unit,
        "labels": list(spec.labels),
        "targets": list(spec.targets),
        "encoder": {"source": str(encoder), "pooling": model.pooling, "width": model.width},
        "head": {"kind": config.head, "hidden": config.hidden},
        "windows": {"size": chunks.SIZE, "overlap": chunks.OVERLAP, "limit": chunks.LIMIT},
        "config": asdict(config),
        "data": _data_card(records, parts, groups, labels, spec),
        "epochs": epochs,
        "chosen": {"epoch": chosen(epochs)["epoch"], "why": "least validation loss at its best temperature"},
        "temperature": temperature,
        "calibration": calibration.limits(),
        "seconds": clock.seconds,
        "versions": _versions(),
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    bundle.seal(output, card)
    return card


def prevalence_weights(labels: Ints, held_out: Ints) -> Floats:
    """(n,) weights of the held-out cases that give each class the share it has among all `labels`."""
    everyone = np.bincount(labels)
    drawn = np.bincount(labels[held_out], minlength=len(everyone))
    weights: Floats = (everyone / len(labels) * len(held_out) / drawn)[labels[held_out]]
    return weights


@dataclass
class Material:
    """What training learns from. vectors: of each case where the encoder is frozen, None where it is trained.

    linear: the linear model of the cases at `fit`, in their order; fit, validation: positions of cases.
    """

    cases: list[list[Window]]
    vectors: list[Tensor] | None
    labels: Ints
    linear: compact.Linear
    fit: Ints
    validation: Ints


def optimise(
    encoder: Encoder, head: mil.Head, data: Material, spec: ProtocolSpec, config: TrainConfig, clock: Clock
) -> list[dict[str, float]]:
    """The loop. Leaves encoder and head as they were after the epoch of least validation loss; every epoch's figures.

    A batch holds cases of one fold of the linear model, and a compact encoder meets it with that fold's channels.
    """
    learned = nn.ModuleList([head] if data.vectors else [head, encoder])
    draw = np.random.default_rng(config.seed)
    drawn = [draw_batches(data, config.batch, draw) for _ in range(config.epochs)]
    steps = sum(len(batches) for batches in drawn)
    prior = log_prior(data.labels[data.fit[np.concatenate(drawn[0])]], len(spec.labels)).to(encoder.device)
    optimiser = torch.optim.AdamW(_rates(encoder, head, config), weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share_of_rate(step, steps))
    epochs: list[dict[str, float]] = []
    with clock.stage("training", steps) as done:
        for batches in drawn:
            learned.train()
            total = 0.0
            for rows in batches:  # positions in data.fit
                fit = data.fit[rows]
                if data.vectors:
                    vectors = [data.vectors[i] for i in fit]
                else:
                    compact.give(encoder, data.linear.fold_channels[data.linear.fold[rows[0]]])
                    vectors = encode_with_gradients(encoder, [data.cases[i] for i in fit], config.masked)
                x, mask = mil.bag(vectors)  # (batch, windows, width), (batch, windows)
                loss = objective(head, x, mask, data.labels[fit], data.linear.scores[rows], prior, config)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(learned.parameters(), CLIP)
                optimiser.step()
                schedule.step()
                total += loss.item()
                done(schedule.last_epoch)
            learned.eval()
            if not data.vectors:
                compact.give(encoder, data.linear.channels)
            figures = {"epoch": len(epochs) + 1, "training_loss": round(total / len(batches), 5)}
            epochs.append({**figures, **quality(encoder, head, data, spec)})
            if epochs[-1] is chosen(epochs):
                best = copy.deepcopy(learned.state_dict())
    learned.load_state_dict(best)
    return epochs


def draw_batches(data: Material, size: int, draw: np.random.Generator) -> list[Ints]:
    """Positions in data.fit for one epoch, in batches of about `size`, each from one fold of the linear model."""
    positions = thinned(data.labels[data.fit], draw)
    fold = data.linear.fold[positions]
    batches = [
        batch
        for f in np.unique(fold)
        for batch in np.array_split(positions[fold == f], -(-(fold == f).sum() // size))
    ]
    return [batches[i] for i in draw.permutation(len(batches))]


def objective(
    head: mil.Head, x: Tensor, mask: Tensor, labels: Ints, linear: Floats, prior: Tensor, config: TrainConfig
) -> Tensor:
    """Loss of a batch: how well labels are met, mixed with how well the linear model's scores are followed.

    spectral: logit-adjusted cross-entropy. standard: label-smoothed focal loss and R-Drop over two passes.
    """
    truth = torch.as_tensor(labels, device=x.device)
    teacher = torch.as_tensor(linear, dtype=torch.float32, device=x.device)
    logits = head(x, mask)[0]  # (batch, K)
    scores = logits - head.log_prior
    if head.kind == "spectral":
        met = losses.logit_adjusted(scores, truth, prior)
    else:
        again = head(x, mask)[0]
        met = (losses.focal(logits, truth) + losses.focal(again, truth)) / 2 + losses.r_drop(logits, again)
    return (1 - config.distil) * met + config.distil * losses.distillation(scores, teacher)


def chosen(epochs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The epoch that is kept: least validation loss, the earlier of equals."""
    return min(epochs, key=lambda epoch: epoch["validation_loss"])


def quality(encoder: Encoder, head: mil.Head, data: Material, spec: ProtocolSpec) -> dict[str, float]:
    """Loss at the best temperature, and AUROC and average precision of the targets, on the validation cases."""
    rows = data.validation
    vectors = (
        [data.vectors[i] for i in rows]
        if data.vectors
        else encode_cases(encoder, [data.cases[i] for i in rows])
    )
    logits, truth = mil.predict(head, vectors)[0], data.labels[rows]
    log_p = log_softmax(logits / fit_temperature(logits, truth), axis=1)
    target = list(spec.target_indices)
    score, positive = np.exp(log_p[:, target]).sum(axis=1), np.isin(truth, target)
    figures = {
        "validation_loss": -log_p[np.arange(len(truth)), truth].mean(),
        "validation_auroc": roc_auc_score(positive, score),
        "validation_average_precision": average_precision_score(positive, score),
    }
    return {name: round(float(value), 5) for name, value in figures.items()}


def encode_cases(encoder: Encoder, cases: Sequence[Sequence[Window]]) -> list[Tensor]:
    """Window vectors (n_i, width) of each case, without gradients."""
    vectors = torch.from_numpy(encoder.encode([w for case in cases for w in case])).to(encoder.device)
    return list(torch.split(vectors, [len(case) for case in cases]))


def encode_with_gradients(encoder: Encoder, cases: Sequence[Sequence[Window]], masked: float) -> list[Tensor]:
    """As encode_cases, to be learned through, with a share of the tokens hidden."""
    vectors = encoder([w for case in cases for w in case], masked)
    return list(torch.split(vectors, [len(case) for case in cases]))


def share_out(labels: Ints, groups: Sequence[str], config: TrainConfig, classes: int) -> Ints:
    """(n,) part of each case, positions in PARTS.

    Of each class, calibration takes CALIBRATION_SHARE, or what makes CALIBRATION_CASES of it up to CALIBRATION_LIMIT:
    Mondrian ranks are taken within a class, so that shares may differ between classes.
    """
    counts = np.bincount(labels, minlength=classes)
    calibration = np.clip(CALIBRATION_CASES / counts, CALIBRATION_SHARE, CALIBRATION_LIMIT)
    validation = np.full(classes, config.validation)
    return folds.split(labels, groups, [1 - validation - calibration, validation, calibration], config.seed)


def thinned(labels: Ints, draw: np.random.Generator) -> Ints:
    """Positions for one epoch in random order: half of the commonest class, but no fewer than all others, and the others."""
    common = labels == np.bincount(labels).argmax()
    kept = max(common.sum() // 2, min(common.sum(), (~common).sum()))
    return draw.permutation(
        np.concatenate([np.flatnonzero(~common), draw.permutation(np.flatnonzero(common))[:kept]])
    )


def log_prior(labels: Ints, classes: int) -> Tensor:
    """(K,) log share of each class."""
    return torch.log(torch.from_numpy(np.bincount(labels, minlength=classes) / len(labels)).float())


def _labels(records: Sequence[Record], spec: ProtocolSpec) -> Ints:
    labels = labels_array(records)
    for c, name in enumerate(spec.labels):
        n = int((labels == c).sum())
        if n < LEAST_CASES:
            raise DataError(
                f"There are {n} cases labelled {name}: training needs at least {LEAST_CASES} of each label."
            )
    return labels


def _rates(encoder: Encoder, head: mil.Head, config: TrainConfig) -> list[dict[str, Any]]:
    gate = [] if encoder.gate is None else list(encoder.gate.parameters())
    parameters = [p for p in encoder.model.parameters() if p.requires_grad]
    return [
        {"params": [*head.parameters(), *gate], "lr": config.head_rate},
        {"params": parameters, "lr": config.learning_rate},
    ]


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def _ids(case: Sequence[Window]) -> Ints:
    return np.array([i for window in case for i in window.ids], dtype=np.int64)


def _data_card(
    records: Sequence[Record], parts: Ints, groups: Sequence[str], labels: Ints, spec: ProtocolSpec
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.patient_id, record.texts, record.label]).encode())
    shares = {
        part: {name: int(((parts == i) & (labels == c)).sum()) for c, name in enumerate(spec.labels)}
        for i, part in enumerate(PARTS)
    }
    return {
        "sha256": digest.hexdigest(),
        "cases": len(records),
        "shares": shares,
        "split_sha1": folds.fingerprint(groups, parts),
    }


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "tokenizers", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}}
