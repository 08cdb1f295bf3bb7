"""The training loop: one config, every step visible, the best epoch kept (paper, section 3.3.2)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from mlcore import compact, losses, mil
from mlcore.calibrate import fit_temperature
from mlcore.chunks import Window
from mlcore.encoder import POOLINGS, Encoder, Pooling, fast_bf16
from mlcore.errors import ModelError
from mlcore.protocols import ProtocolSpec

Progress = Callable[[str, int, int], None]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Epoch = dict[str, float]
Metric = Literal["validation_loss", "validation_auroc", "validation_average_precision"]
METRICS: tuple[Metric, ...] = get_args(Metric)
CLIP = 1.0
WARM_UP = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what is trained, besides the data and the encoder.

    epochs: at most; training stops after `patience` epochs in a row without a better `metric`. batch: cases a step.
    head_rate: learning rate of the head and the token gate. validation: share of each class on which epoch and temperature
    are chosen.
    Of a Hugging Face encoder. pooling: how a window becomes a vector. tune: 0 keeps it frozen, n lets its last n layers
    learn, -1 the whole of it. tune_rate: its learning rate.
    Of a compact encoder. vocabulary, width: its size. learning_rate: its own. distil: share of the loss that follows the
    out-of-fold linear model. dropped: share of tokens left out in training.
    """

    seed: int = 13
    epochs: int = 4
    patience: int = 3
    metric: Metric = "validation_loss"
    batch: int = 16
    head: mil.Kind = "spectral"
    hidden: int = 64
    head_rate: float = 2e-3
    weight_decay: float = 0.01
    validation: float = 0.08
    pooling: Pooling = "mean"
    tune: int = 0
    tune_rate: float = 2e-5
    vocabulary: int = 32_000
    width: int = 128
    learning_rate: float = 5e-4
    distil: float = 0.5
    dropped: float = 0.5

    def __post_init__(self) -> None:
        """Raises ModelError for a setting that cannot be used."""
        for name, value, least in (
            ("epochs", self.epochs, 1),
            ("batch", self.batch, 1),
            ("tune", self.tune, -1),
        ):
            if value < least:
                raise ModelError(f"{name} is {value}: it must be at least {least}.")
        if not 0 < self.validation <= 0.5:
            raise ModelError(f"validation is {self.validation}: it must lie above 0 and be at most 0.5.")
        choices: dict[str, tuple[str, ...]] = {"head": mil.KINDS, "pooling": POOLINGS, "metric": METRICS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ModelError(
                    f"There is no {name} {getattr(self, name)!r}: use one of {', '.join(known)}."
                )

    @classmethod
    def quick(cls) -> TrainConfig:
        """For a demonstration: a few thousand short cases in about a minute on two cores."""
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


@dataclass
class Material:
    """What training learns from.

    cases: windows of each case, by its position. vectors: the same encoded, where the encoder is frozen, else None.
    linear: of the cases at `fit`, in their order, where the encoder is compact, else None. labels: (n,) of all cases.
    fit, validation: positions of cases.
    """

    cases: dict[int, list[Window]]
    vectors: dict[int, Tensor] | None
    linear: compact.Linear | None
    labels: Ints
    fit: Ints
    validation: Ints


@dataclass(frozen=True)
class Checkpoint:
    """What a killed training goes on from: one file, replaced whole after each epoch.

    fingerprint: of data, config and encoder; another one's file is refused.
    """

    file: Path
    fingerprint: str

    def load(self) -> dict[str, Any] | None:
        """What was saved last, None when nothing was. Raises ModelError when it belongs to another training."""
        if not self.file.exists():
            return None
        state: dict[str, Any] = torch.load(self.file, weights_only=True)
        if state.pop("fingerprint") != self.fingerprint:
            raise ModelError(
                f"{self.file} is the checkpoint of a training on other data or with other settings: remove it, or name "
                "another folder."
            )
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file in one move."""
        fresh = self.file.with_suffix(".new")
        torch.save({**state, "fingerprint": self.fingerprint}, fresh)
        fresh.replace(self.file)


def optimise(
    encoder: Encoder,
    head: mil.Head,
    data: Material,
    spec: ProtocolSpec,
    config: TrainConfig,
    clock: Clock,
    checkpoint: Checkpoint | None = None,
) -> list[Epoch]:
    """The loop. Leaves encoder and head as they were after the best epoch by config.metric; every epoch's figures.

    A batch holds cases of one fold of the linear model, and a compact encoder meets it with that fold's channels.
    With several processes (`accelerate launch`) each takes its share of every batch.
    """
    accelerator = Accelerator(
        cpu=encoder.device.type == "cpu", mixed_precision="bf16" if fast_bf16() else "no"
    )
    learned = nn.ModuleList([head] if data.vectors else [head, encoder])
    draw = np.random.default_rng(config.seed)
    drawn = [draw_batches(data, config.batch, draw) for _ in range(config.epochs)]
    steps = sum(len(batches) for batches in drawn)
    prior = log_prior(data.labels[data.fit[np.concatenate(drawn[0])]], len(spec.labels)).to(encoder.device)
    optimiser = torch.optim.AdamW(
        _rates(encoder, head, data, config), weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share_of_rate(step, steps))
    epochs: list[Epoch] = []
    best = copy.deepcopy(learned.state_dict())
    if state := checkpoint.load() if checkpoint else None:
        epochs, best = state["epochs"], state["best"]
        for part, name in ((learned, "learned"), (optimiser, "optimiser"), (schedule, "schedule")):
            part.load_state_dict(state[name])  # type: ignore[attr-defined]
    with clock.stage("training", steps) as done:
        while len(epochs) < config.epochs and not stalled(epochs, config):
            torch.manual_seed((config.seed * config.epochs + len(epochs)) * 4096 + accelerator.process_index)
            learned.train()
            total = 0.0
            for rows in drawn[len(epochs)]:  # positions in data.fit
                optimiser.zero_grad()
                total += gradients(encoder, head, data, rows, prior, config, accelerator)
                nn.utils.clip_grad_norm_(learned.parameters(), CLIP)
                optimiser.step()
                schedule.step()
                done(schedule.last_epoch)
            learned.eval()
            head.settle()
            if data.linear:
                compact.give(encoder, data.linear.channels)
            figures = {
                "epoch": len(epochs) + 1,
                "training_loss": round(total / len(drawn[len(epochs)]), 5),
            }
            epochs.append({**figures, **quality(encoder, head, data, spec)})
            if epochs[-1] is chosen(epochs, config.metric):
                best = copy.deepcopy(learned.state_dict())
            if checkpoint and accelerator.is_main_process:
                states = {"learned": learned, "optimiser": optimiser, "schedule": schedule}
                checkpoint.save(
                    {name: part.state_dict() for name, part in states.items()}  # type: ignore[attr-defined]
                    | {"best": best, "epochs": epochs}
                )
            accelerator.wait_for_everyone()
    learned.load_state_dict(best)
    learned.eval()
    return epochs


def gradients(
    encoder: Encoder,
    head: mil.Head,
    data: Material,
    rows: Ints,
    prior: Tensor,
    config: TrainConfig,
    accelerator: Accelerator,
) -> float:
    """Add the gradients of a batch, positions in data.fit, to the parameters; returns its mean loss.

    The batch goes through in parts of whole cases, as many tokens at a time as the encoder holds with gradients; the sum
    over parts and processes is the whole batch's gradient. Raises ModelError for a loss that is not finite.
    """
    total = torch.zeros((), device=encoder.device)
    if data.linear:
        compact.give(encoder, data.linear.fold_channels[data.linear.fold[rows[0]]])
    for part in parts(encoder, data, rows[accelerator.process_index :: accelerator.num_processes]):
        fit = data.fit[part]
        if data.vectors:
            vectors = [data.vectors[i] for i in fit]
        else:
            with accelerator.autocast() if encoder.large else nullcontext():
                vectors = encode_with_gradients(
                    encoder, [data.cases[i] for i in fit], config.dropped if data.linear else 0.0
                )
        x, mask = mil.bag(vectors)  # (cases, windows, width), (cases, windows)
        linear = data.linear.scores[part] if data.linear else None
        loss = objective(head, x, mask, data.labels[fit], linear, prior, config) * (len(part) / len(rows))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    if accelerator.num_processes > 1:
        _add_up([*head.parameters(), *encoder.parameters()], accelerator)
        total = accelerator.reduce(total, "sum")
    if not torch.isfinite(total):
        raise ModelError(
            "The training loss is no longer a finite number: check the encoder, or lower its rates."
        )
    return float(total)


def _add_up(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    for p in parameters:
        if p.requires_grad:
            p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")


def parts(encoder: Encoder, data: Material, rows: Ints) -> list[Ints]:
    """A batch in parts of whole cases, shortest first, each of about encoder.tokens_with_gradients or one case."""
    if data.vectors or not len(rows):
        return [rows] if len(rows) else []
    sizes = np.array([sum(len(w.ids) for w in data.cases[i]) for i in data.fit[rows]])
    order = np.argsort(sizes, kind="stable")
    part = np.cumsum(sizes[order]) // encoder.tokens_with_gradients
    return [rows[order[part == p]] for p in np.unique(part)]


def draw_batches(data: Material, size: int, draw: np.random.Generator) -> list[Ints]:
    """Positions in data.fit for one epoch, in batches of about `size`, each from one fold of the linear model."""
    positions = thinned(data.labels[data.fit], draw)
    fold = data.linear.fold[positions] if data.linear else np.zeros_like(positions)
    batches = [
        batch
        for f in np.unique(fold)
        for batch in np.array_split(positions[fold == f], -(-(fold == f).sum() // size))
    ]
    return [batches[i] for i in draw.permutation(len(batches))]


def thinned(labels: Ints, draw: np.random.Generator) -> Ints:
    """Positions for one epoch in random order: half of the commonest class, but no fewer than all others, and the others."""
    common = labels == np.bincount(labels).argmax()
    kept = max(common.sum() // 2, min(common.sum(), (~common).sum()))
    return draw.permutation(
        np.concatenate([np.flatnonzero(~common), draw.permutation(np.flatnonzero(common))[:kept]])
    )


def objective(
    head: mil.Head,
    x: Tensor,
    mask: Tensor,
    labels: Ints,
    linear: Floats | None,
    prior: Tensor,
    config: TrainConfig,
) -> Tensor:
    """Mean loss of some cases: how well labels are met, mixed with how well a linear model's scores are followed.

    spectral, and the baseline beside it: logit-adjusted cross-entropy. standard: label-smoothed focal loss and R-Drop over
    two passes of the head. prior: (K,) log shares of the classes as they are drawn.
    """
    truth = torch.as_tensor(labels, device=x.device)
    logits = head(x, mask)[0]  # (cases, K)
    scores = logits - head.log_prior
    if head.kind == "standard":
        again = head(x, mask)[0]
        met = (losses.focal(logits, truth) + losses.focal(again, truth)) / 2 + losses.r_drop(logits, again)
    else:
        met = losses.logit_adjusted(scores, truth, prior)
    if linear is None:
        return met
    teacher = torch.as_tensor(linear, dtype=torch.float32, device=x.device)
    return (1 - config.distil) * met + config.distil * losses.distillation(scores, teacher)


def chosen(epochs: Sequence[Epoch], metric: Metric) -> Epoch:
    """The epoch that is kept: the least validation loss or the largest of another metric, the earlier of equals."""
    sign = 1 if metric == "validation_loss" else -1
    return min(epochs, key=lambda epoch: sign * epoch[metric])


def stalled(epochs: Sequence[Epoch], config: TrainConfig) -> bool:
    """Whether the last config.patience epochs brought nothing better."""
    return (
        bool(epochs) and epochs[-1]["epoch"] - chosen(epochs, config.metric)["epoch"] >= config.patience > 0
    )


def reason(epochs: Sequence[Epoch], config: TrainConfig) -> dict[str, Any]:
    """The epoch that is kept and why, for the card."""
    best = chosen(epochs, config.metric)
    which = "least" if config.metric == "validation_loss" else "largest"
    ended = f"of {len(epochs)} epochs"
    if len(epochs) < config.epochs:
        ended += f", stopped after {config.patience} without a better one ({config.epochs} were allowed)"
    return {
        "epoch": int(best["epoch"]),
        "metric": config.metric,
        "why": f"{which} {config.metric.replace('_', ' ')} ({best[config.metric]:.5f}) {ended}",
    }


def quality(encoder: Encoder, head: mil.Head, data: Material, spec: ProtocolSpec) -> dict[str, float]:
    """The best temperature, the loss at it, and AUROC and average precision of the targets, on the validation cases."""
    if data.vectors:
        vectors = [data.vectors[i] for i in data.validation]
    else:
        vectors = encode_cases(encoder, [data.cases[i] for i in data.validation])
    logits, truth = mil.predict(head, vectors)[0], data.labels[data.validation]
    temperature = fit_temperature(logits, truth)
    log_p = log_softmax(logits / temperature, axis=1)
    target = list(spec.target_indices)
    score, positive = np.exp(log_p[:, target]).sum(axis=1), np.isin(truth, target)
    figures = {
        "validation_loss": -log_p[np.arange(len(truth)), truth].mean(),
        "validation_auroc": roc_auc_score(positive, score),
        "validation_average_precision": average_precision_score(positive, score),
    }
    return {"temperature": temperature} | {name: round(float(value), 5) for name, value in figures.items()}


def encode_cases(encoder: Encoder, cases: Sequence[Sequence[Window]]) -> list[Tensor]:
    """Window vectors (n_i, width) of each case, without gradients."""
    vectors = torch.from_numpy(encoder.encode([w for case in cases for w in case])).to(encoder.device)
    return list(torch.split(vectors, [len(case) for case in cases]))


def encode_with_gradients(
    encoder: Encoder, cases: Sequence[Sequence[Window]], dropped: float
) -> list[Tensor]:
    """As encode_cases, to be learned through, with a share of the tokens left out."""
    vectors = encoder([w for case in cases for w in case], dropped)
    return list(torch.split(vectors, [len(case) for case in cases]))


def log_prior(labels: Ints, classes: int) -> Tensor:
    """(K,) log share of each class."""
    return torch.log(torch.from_numpy(np.bincount(labels, minlength=classes) / len(labels)).float())


def _rates(encoder: Encoder, head: mil.Head, data: Material, config: TrainConfig) -> list[dict[str, Any]]:
    gate = [] if encoder.gate is None else list(encoder.gate.parameters())
    own = [p for p in encoder.model.parameters() if p.requires_grad]
    return [
        {"params": [*head.parameters(), *gate], "lr": config.head_rate},
        {"params": own, "lr": config.learning_rate if data.linear else config.tune_rate},
    ]


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))
