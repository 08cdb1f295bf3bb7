"""The training loop: one config, every step visible, the best epoch kept (paper, section 3.3.2)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor, nn

from mlcore import chunks, compact, losses, mil
from mlcore.calibrate import fit_bias, fit_temperature
from mlcore.chunks import Window
from mlcore.encoder import POOLINGS, Encoder, Pooling, fast_bf16
from mlcore.errors import ModelError
from mlcore.protocols import ProtocolSpec

Progress = Callable[[str, int, int], None]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Epoch = dict[str, float]
Metric = Literal[
    "validation_loss", "validation_auroc", "validation_average_precision", "validation_critical_f1"
]
METRICS: tuple[Metric, ...] = get_args(Metric)
CLIP = 1.0
WARM_UP = 0.1
LATE_RATE = 0.1
FINE_TUNED: dict[str, Any] = {
    "tune": 4,
    "tune_dropout": False,
    "unbiased": True,
    "tune_rate": 1.5e-4,
    "tune_distil": 0.1,
    "drawn": 500,
    "epochs": 5,
    "most_epochs": 6,
    "patience": 0,  # F1 of some twenty deaths wavers too much to stop by
    "window": 512,
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what is trained, besides the data and the encoder.

    epochs: planned; training stops after `patience` epochs in a row without a better `metric`, 0 never for that.
    most_epochs: where more than planned, training goes on to as many while the metric improves so (`share_of_rate`).
    metric: chooses the epoch; None is what the protocol asks for (`metric_for`). batch: cases a step. drawn: at most so
    many cases of a class an epoch, of as many groups as there are; 0 draws by `thinned`. loss: «adjusted» by the classes'
    priors, or «weighted» by their inverse frequency. head_rate: learning rate of the head and the token gate. validation:
    share of each class on which epoch and temperature are chosen. window: tokens of a window at most, special ones
    included; fewer where the encoder reads fewer. unbiased: whether each class's bias is fitted with the temperature, so
    that its mean probability on the validation cases is its share of them (`calibrate.fit_bias`).
    Of a Hugging Face encoder. pooling: how a window becomes a vector. tune: 0 keeps it frozen, n lets its last n layers
    learn, -1 the whole of it. tune_rate: its learning rate. tune_words: whether its token vectors learn too where the
    whole of it does. tune_dropout: whether its own dropout stays on in training. tune_distil: share of the loss that follows an out-of-fold linear model of its tokens.
    Of a compact encoder. vocabulary, width: its size. learning_rate: its own. distil: share of the loss that follows the
    out-of-fold linear model. dropped: share of tokens left out in training.
    """

    seed: int = 13
    epochs: int = 4
    most_epochs: int = 0
    patience: int = 3
    metric: Metric | None = None
    batch: int = 16
    drawn: int = 0
    loss: losses.Loss = "adjusted"
    head: mil.Kind = "spectral"
    hidden: int = 64
    head_rate: float = 2e-3
    weight_decay: float = 0.01
    validation: float = 0.08
    window: int = chunks.SIZE
    pooling: Pooling = "mean"
    tune: int = 0
    tune_rate: float = 2e-5
    unbiased: bool = False
    tune_words: bool = True
    tune_dropout: bool = True
    tune_distil: float = 0.0
    vocabulary: int = 32_000
    width: int = 128
    learning_rate: float = 5e-4
    distil: float = 0.5
    dropped: float = 0.5

    def __post_init__(self) -> None:
        """Raises ModelError for a setting that cannot be used."""
        for name, value, least in (
            ("epochs", self.epochs, 1),
            ("most_epochs", self.most_epochs, 0),
            ("patience", self.patience, 0),
            ("batch", self.batch, 1),
            ("drawn", self.drawn, 0),
            ("window", self.window, 2 * chunks.OVERLAP),
            ("tune", self.tune, -1),
        ):
            if value < least:
                raise ModelError(f"{name} is {value}: it must be at least {least}.")
        if not 0 < self.validation <= 0.5:
            raise ModelError(f"validation is {self.validation}: it must lie above 0 and be at most 0.5.")
        if not 0 <= self.tune_distil < 1:
            raise ModelError(f"tune_distil is {self.tune_distil}: it must be at least 0 and below 1.")
        if not all(0 < rate < 1 for rate in (self.head_rate, self.tune_rate, self.learning_rate)):
            raise ModelError("Each learning rate must lie above 0 and below 1.")
        choices: dict[str, tuple[str, ...]] = {
            "head": mil.KINDS,
            "pooling": POOLINGS,
            "metric": METRICS,
            "loss": losses.LOSSES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in (*known, *([None] if name == "metric" else [])):
                raise ModelError(
                    f"There is no {name} {getattr(self, name)!r}: use one of {', '.join(known)}."
                )

    @classmethod
    def usual(cls, spec: ProtocolSpec, encoder: str) -> TrainConfig:
        """What a protocol is trained with where nothing else is asked for: of the severity of device events a Hugging Face
        encoder is fine-tuned (docs/severity.md), all else is as above."""
        if spec.slug != "maude-severity-en" or encoder in ("compact", "tfidf"):
            return cls()
        return cls(**FINE_TUNED)

    @property
    def bound(self) -> int:
        """How many epochs there may be."""
        return max(self.epochs, self.most_epochs)

    def of(self, spec: ProtocolSpec) -> TrainConfig:
        """The same with the metric by which the epoch is chosen: as asked for, or `metric_for` the protocol."""
        return replace(self, metric=self.metric or metric_for(spec))

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
    fit, validation: positions of cases. groups: (n,) of all cases. teacher: (len(fit), K) out-of-fold scores to follow.
    """

    cases: dict[int, list[Window]]
    vectors: dict[int, Tensor] | None
    linear: compact.Linear | None
    labels: Ints
    fit: Ints
    validation: Ints
    groups: npt.NDArray[np.str_] | None = None
    teacher: Floats | None = None


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
    config = config.of(spec)
    accelerator = Accelerator(
        cpu=encoder.device.type == "cpu", mixed_precision="bf16" if fast_bf16() else "no"
    )
    learned = nn.ModuleList([head] if data.vectors else [head, encoder])
    draw = np.random.default_rng(config.seed)
    drawn = [draw_batches(data, config, draw) for _ in range(config.bound)]
    steps = sum(len(batches) for batches in drawn)
    planned = sum(len(batches) for batches in drawn[: config.epochs])
    prior = log_prior(data.labels[data.fit[np.concatenate(drawn[0])]], len(spec.labels)).to(encoder.device)
    optimiser = torch.optim.AdamW(
        _rates(encoder, head, data, config), weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: share_of_rate(step, planned, steps))
    epochs: list[Epoch] = []
    best = copy.deepcopy(learned.state_dict())
    log_prior_of_stream = head.log_prior.clone()
    if state := checkpoint.load() if checkpoint else None:
        epochs, best = state["epochs"], state["best"]
        for part, name in ((learned, "learned"), (optimiser, "optimiser"), (schedule, "schedule")):
            part.load_state_dict(state[name])  # type: ignore[attr-defined]
    with clock.stage("training", steps) as done:
        while len(epochs) < config.bound and not stalled(epochs, config):
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
            if config.unbiased:  # each epoch's biases by themselves, not upon the last one's
                head.log_prior.copy_(log_prior_of_stream)
            epochs.append({**figures, **quality(encoder, head, data, spec, config.unbiased)})
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
    share = config.distil if data.linear else config.tune_distil
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
        teacher = None if data.teacher is None else data.teacher[part]
        loss = objective(head, x, mask, data.labels[fit], teacher, prior, config, share) * (
            len(part) / len(rows)
        )
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


def draw_batches(data: Material, config: TrainConfig, draw: np.random.Generator) -> list[Ints]:
    """Positions in data.fit for one epoch, in batches of about config.batch, each from one fold of the linear model."""
    labels, size = data.labels[data.fit], config.batch
    if config.drawn and data.groups is not None:
        positions = spread(labels, data.groups[data.fit], config.drawn, draw)
    else:
        positions = thinned(labels, draw)
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


def spread(labels: Ints, groups: npt.NDArray[np.str_], most: int, draw: np.random.Generator) -> Ints:
    """Positions for one epoch in random order: of each class all cases, or `most` of them, of as many groups as there are."""
    order = draw.permutation(len(labels))
    pairs = np.unique(
        np.column_stack([labels, np.unique(groups, return_inverse=True)[1]])[order],
        axis=0,
        return_inverse=True,
    )[1]
    place = np.empty(len(order), dtype=np.int64)  # of each case among those of its class and group
    ranked = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[ranked], prepend=-1))
    place[ranked] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    by_place = order[np.argsort(place, kind="stable")]
    return draw.permutation(
        np.concatenate([by_place[labels[by_place] == c][:most] for c in np.unique(labels)])
    )


def objective(
    head: mil.Head,
    x: Tensor,
    mask: Tensor,
    labels: Ints,
    linear: Floats | None,
    prior: Tensor,
    config: TrainConfig,
    share: float = 0.0,
) -> Tensor:
    """Mean loss of some cases: how well labels are met, mixed with how well a linear model's scores are followed.

    share: of the latter. spectral, and the baseline beside it: logit-adjusted cross-entropy, or weighted. standard: label-smoothed focal loss and R-Drop over
    two passes of the head. prior: (K,) log shares of the classes as they are drawn.
    """
    truth = torch.as_tensor(labels, device=x.device)
    logits = head(x, mask)[0]  # (cases, K)
    scores = logits - head.log_prior
    if head.kind == "standard":
        again = head(x, mask)[0]
        met = (losses.focal(logits, truth) + losses.focal(again, truth)) / 2 + losses.r_drop(logits, again)
    else:
        met = losses.OF[config.loss](scores, truth, prior)
    if linear is None:
        return met
    teacher = torch.as_tensor(linear, dtype=torch.float32, device=x.device)
    return (1 - share) * met + share * losses.distillation(scores, teacher)


def chosen(epochs: Sequence[Epoch], metric: Metric | None) -> Epoch:
    """The epoch that is kept: the least validation loss or the largest of another metric, the earlier of equals.

    Critical cases are few and their F1 moves in leaps: of equals there the least loss.
    """
    name = metric or "validation_loss"
    sign = 1 if name == "validation_loss" else -1
    tie = "validation_loss" if name == "validation_critical_f1" else "epoch"
    return min(epochs, key=lambda epoch: (sign * epoch[name], epoch[tie]))


def metric_for(spec: ProtocolSpec) -> Metric:
    """What chooses the epoch where nothing else is asked for: the critical labels' F1 in a protocol that has any."""
    return "validation_critical_f1" if spec.critical else "validation_loss"


def stalled(epochs: Sequence[Epoch], config: TrainConfig) -> bool:
    """Whether the last config.patience epochs brought nothing better."""
    return (
        bool(epochs) and epochs[-1]["epoch"] - chosen(epochs, config.metric)["epoch"] >= config.patience > 0
    )


def reason(epochs: Sequence[Epoch], config: TrainConfig, spec: ProtocolSpec) -> dict[str, Any]:
    """The epoch that is kept and why, for the card."""
    metric = config.metric or "validation_loss"
    best = chosen(epochs, metric)
    which = "least" if metric == "validation_loss" else "largest"
    ended = f"of {len(epochs)} epochs"
    if metric == "validation_critical_f1":
        ended = f"of {', '.join(spec.critical)}, which {spec.slug} holds critical, {ended}"
    if len(epochs) < config.bound:
        ended += f", stopped after {config.patience} without a better one ({config.bound} were allowed)"
    elif config.bound > config.epochs:
        ended += f", all that were allowed ({config.epochs} were planned)"
    if best is epochs[-1]:
        ended += "; the last was the best, so more might be better still"
    return {
        "epoch": int(best["epoch"]),
        "metric": metric,
        "why": f"{which} {metric.replace('_', ' ')} ({best[metric]:.5f}) {ended}",
    }


@torch.no_grad()
def quality(
    encoder: Encoder, head: mil.Head, data: Material, spec: ProtocolSpec, unbiased: bool = False
) -> dict[str, float]:
    """The best temperature, the loss at it, AUROC and average precision of the targets and F1 of the critical labels by
    the most probable one, on the validation cases. unbiased: the head's prior is changed so that each class is told as
    often as it comes; it is fitted on these very cases, which flatters the last figure a little."""
    if data.vectors:
        vectors = [data.vectors[i] for i in data.validation]
    else:
        vectors = encode_cases(encoder, [data.cases[i] for i in data.validation])
    logits, truth = mil.predict(head, vectors)[0], data.labels[data.validation]
    temperature, bias = fit_bias(logits, truth) if unbiased else (fit_temperature(logits, truth), 0.0)
    log_p = log_softmax(logits / temperature + bias, axis=1)
    if unbiased:
        head.log_prior += torch.from_numpy(temperature * bias).to(head.log_prior)
    target = list(spec.target_indices)
    score, positive = np.exp(log_p[:, target]).sum(axis=1), np.isin(truth, target)
    critical = [spec.labels.index(label) for label in spec.critical]
    figures = {
        "validation_loss": -log_p[np.arange(len(truth)), truth].mean(),
        "validation_auroc": roc_auc_score(positive, score),
        "validation_average_precision": average_precision_score(positive, score),
    }
    if critical:
        told = np.isin(log_p.argmax(axis=1), critical)
        figures["validation_critical_f1"] = f1_score(np.isin(truth, critical), told, zero_division=0.0)
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


def share_of_rate(step: int, planned: int, steps: int) -> float:
    """What step `step` has of the full rate: up over the first WARM_UP of the planned steps, then down in a line.

    It ends at 0 where no step may follow the planned ones; else it comes down to LATE_RATE and stays there.
    """
    warm = max(1, round(WARM_UP * planned))
    falling = (planned - step) / max(1, planned - warm)
    return min((step + 1) / warm, falling if steps == planned else max(falling, LATE_RATE))
