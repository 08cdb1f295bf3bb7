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
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mlcore import bundle, chunks, compact, folds, losses, mil
from mlcore.calibrate import Calibration, fit_temperature
from mlcore.chunks import Window
from mlcore.distance import MultiCentroid
from mlcore.encoder import Encoder
from mlcore.errors import DataError, ModelError
from mlcore.protocols import ProtocolSpec
from mlcore.records import Record, labels_array

Progress = Callable[[str, int, int], None]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
COMPACT = "compact"
PARTS = ("fit", "validation", "calibration")
CALIBRATION_SHARE, CALIBRATION_LIMIT, CALIBRATION_CASES = 0.15, 0.4, 100
LEAST_CASES = 20
CLIP = 1.0
WARM_UP = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what is trained, besides the data and the encoder.

    learning_rate: of a compact encoder, head_rate: of the head. vocabulary, width: size of a compact encoder.
    distil: share of the loss that follows the out-of-fold linear model. masked: share of tokens hidden in training.
    validation: share of each class on which epoch and temperature are chosen.
    """

    seed: int = 13
    epochs: int = 4
    batch: int = 16
    learning_rate: float = 5e-4
    head_rate: float = 2e-3
    weight_decay: float = 0.01
    head: mil.Kind = "spectral"
    hidden: int = 64
    vocabulary: int = 16_000
    width: int = 128
    distil: float = 0.5
    masked: float = 0.1
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
    parts = share_out(labels, groups, config)
    fit, validation, held_out = (np.flatnonzero(parts == i) for i in range(len(PARTS)))
    trained = encoder == COMPACT

    with clock.stage("windows"):
        loaded = None if encoder == COMPACT else Encoder.load(encoder)
        texts = (text for i in fit for text in records[i].texts)
        tokenizer = loaded.tokenizer if loaded else compact.tokenizer(texts, config.vocabulary)
        cases = [chunks.kept(record.texts, tokenizer) for record in records]
    with clock.stage("linear model"):
        linear = compact.Linear([_ids(cases[i]) for i in fit], labels[fit], len(spec.labels), len(tokenizer))
        teacher = np.zeros((len(labels), len(spec.labels)))
        teacher[fit] = linear.out_of_fold([groups[i] for i in fit], config.seed)
    with clock.stage("encoder"):
        model = loaded or compact.build(tokenizer, linear, config.width)
        vectors = encode_cases(model, cases)
    data = Material(cases, vectors, labels, teacher, fit, validation, log_prior(labels[fit], len(spec.labels)))
    head = mil.Head(model.width, len(spec.labels), config.hidden, kind=config.head).to(model.device)
    head.standardise(torch.cat([vectors[i] for i in fit]))
    head.log_prior.copy_(log_prior(labels, len(spec.labels)))
    with clock.stage("training", config.epochs * -(-len(fit) // config.batch)) as done:
        epochs, chosen = optimise(model, head, data, spec, config, loaded is None, done)
    with clock.stage("calibration"):
        if loaded is None:
            vectors = encode_cases(model, cases)
        logits, embeddings, _ = mil.predict(head, [v.cpu().numpy() for v in vectors])
        seen = np.concatenate([fit, validation])
        distance = MultiCentroid().fit(embeddings[seen], labels[seen], len(spec.labels))
        temperature = fit_temperature(logits[validation], labels[validation])
        far = distance.distances(embeddings[held_out])
        calibration = Calibration.fit(spec.labels, logits[held_out], far, labels[held_out], temperature)
    with clock.stage("saving"):
        model.model.save_pretrained(output / "encoder")
        model.tokenizer.save_pretrained(output / "encoder")
        mil.save(output / bundle.HEAD, model, head)
        save_file({**calibration.to_arrays(), **distance.to_arrays()}, output / bundle.CALIBRATION)
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
        "data": _data_card(records, labels, parts, groups, spec),
        "epochs": epochs,
        "chosen": chosen,
        "temperature": temperature,
        "calibration": calibration.limits(),
        "seconds": clock.seconds,
        "versions": _versions(),
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    bundle.seal(output, card)
    return card


@dataclass
class Material:
    """What training learns from: each case's windows, current vectors, label and linear scores, and the parts."""

    cases: list[list[Window]]
    vectors: list[Tensor]
    labels: Ints
    teacher: Floats
    fit: Ints
    validation: Ints
    log_prior: Tensor


def optimise(
    encoder: Encoder,
    head: mil.Head,
    data: Material,
    spec: ProtocolSpec,
    config: TrainConfig,
    train_encoder: bool,
    done: Callable[[int], None],
) -> tuple[list[dict[str, float]], dict[str, object]]:
    """The loop. Leaves encoder and head as they were after the best epoch; returns each epoch's figures and the choice.

    Loss: logit-adjusted cross-entropy and the distance to the linear model's out-of-fold scores, mixed by distil.
    """
    device = encoder.device
    learned = nn.ModuleList([encoder, head]) if train_encoder else nn.ModuleList([head])
    optimiser = torch.optim.AdamW(_groups(encoder if train_encoder else None, head, config), fused=True)
    batches = -(-len(data.fit) // config.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _rate(s, config.epochs * batches))
    order = np.random.default_rng(config.seed)
    epochs: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for epoch in range(config.epochs):
        learned.train()
        total = 0.0
        for b, rows in enumerate(np.array_split(order.permutation(data.fit), batches)):
            vectors = _vectors(encoder, data, rows, config.masked) if train_encoder else [data.vectors[i] for i in rows]
            logits, _, _ = head(*mil.bag(vectors))  # (batch, K)
            scores = logits - head.log_prior
            truth = torch.as_tensor(data.labels[rows], device=device)
            teacher = torch.as_tensor(data.teacher[rows], dtype=torch.float32, device=device)
            fits = losses.logit_adjusted(scores, truth, data.log_prior)
            loss = (1 - config.distil) * fits + config.distil * losses.distillation(scores, teacher)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned.parameters(), CLIP)
            optimiser.step()
            schedule.step()
            total += loss.item()
            done(epoch * batches + b + 1)
        learned.eval()
        figures = {"epoch": epoch + 1, "loss": total / batches, **_quality(encoder, head, data, spec, train_encoder)}
        epochs.append({k: round(v, 5) for k, v in figures.items()})
        if figures["validation_loss"] == min(e["validation_loss"] for e in epochs):
            best = {name: t.clone() for name, t in learned.state_dict().items()}
    learned.load_state_dict(best)
    ...
