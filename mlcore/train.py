"""Training of a release: what is learned on, what is held out, what is sealed (paper, section 3.3.2).

`fit_model` trains one model, for a release or as a member of an ensemble; `train` adds calibration and the bundle.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from torch import Tensor

from mlcore import bundle, chunks, compact, folds, mil, tfidf
from mlcore.calibrate import MINIMUM_CASES, Calibration
from mlcore.chunks import Window
from mlcore.distance import MultiCentroid
from mlcore.encoder import Encoder
from mlcore.errors import DataError, ModelError
from mlcore.loop import (
    METRICS,
    Checkpoint,
    Clock,
    Epoch,
    Floats,
    Ints,
    Material,
    Progress,
    TrainConfig,
    chosen,
    encode_cases,
    optimise,
    reason,
    spread,
)
from mlcore.protocols import ProtocolSpec
from mlcore.records import Record, labels_array
from mlcore.scorer import case_distances

__all__ = [
    "COMPACT",
    "METRICS",
    "Clock",
    "Model",
    "Outputs",
    "TrainConfig",
    "fit_model",
    "share_out",
    "train",
]

COMPACT = "compact"
PARTS = ("fit", "validation", "calibration")
CALIBRATION_SHARE, CALIBRATION_LIMIT, CALIBRATION_CASES = 0.15, 0.4, 130
LEAST_CASES = 20
LEFT_OUT = -1
SAMPLED = 8


def train(
    records: Sequence[Record],
    spec: ProtocolSpec,
    encoder: str | Path,
    output: Path,
    config: TrainConfig | None = None,
    progress: Progress = lambda stage, done, total: None,
    origin: dict[str, Any] | None = None,
    parts: Ints | None = None,
) -> dict[str, Any]:
    """Train, calibrate and seal a bundle in `output`, a new or empty folder; returns its card.

    records: labelled cases; those that may not calibrate only teach. encoder: "compact", "tfidf", a Hugging Face name or
    a folder.
    origin: where the labels are from, for the card. parts: (n,) positions in PARTS where not share_out decides; a case
    LEFT_OUT teaches nothing.
    Fitting, the choice of epoch and temperature, and calibration use disjoint cases, whole groups each.
    Until the bundle is sealed a folder beside it, named with .partial, holds what a killed training goes on from when the
    same call is made again. Under `accelerate launch` every process calls this, and one writes.
    Raises DataError when a class has under LEAST_CASES cases, ModelError when encoder or output cannot be used.
    """
    config = (config or TrainConfig()).of(spec)
    labels = _labels(records, spec)
    check_empty(output)
    clock = Clock(progress)
    groups = [record.group or record.patient_id for record in records]
    counts_as = np.array([record.calibrates for record in records])
    if parts is None:
        parts = share_out(labels, groups, config, len(spec.labels), counts_as > 0)
    fit, validation, held_out = (np.flatnonzero(parts == i) for i in range(len(PARTS)))
    _check_held_out(labels[held_out], spec)
    stream = np.bincount(labels, counts_as, len(spec.labels)) / counts_as.sum()
    partial = output.with_name(f"{output.name}.partial")
    model: Model | tfidf.Model
    if encoder == tfidf.NAME:
        model = tfidf.fit_model(records, labels, groups, spec, config, fit, validation, clock)
    else:
        model = fit_model(
            records, labels, groups, spec, encoder, config, fit, validation, clock, stream, partial
        )
    seen = np.concatenate([fit, validation])
    with clock.stage("calibration"):
        near = _centred(seen, labels, groups, config)
        calibration, arrays = _calibrated(model, records, labels, spec, near, held_out, counts_as)
    if not PartialState().is_main_process:
        return {}
    with clock.stage("saving"):
        model.save(output)
        arrays["learned.notes"] = note_digests(records[i] for i in seen.tolist())
        arrays["calibrated.notes"] = note_digests(records[i] for i in held_out.tolist())
        bundle.save_arrays(output, arrays)
    card = {
        "protocol": spec.slug,
        "language": spec.language,
        "unit": spec.unit,
        "labels": list(spec.labels),
        "targets": list(spec.targets),
        **model.facts(encoder, config),
        "data": _data_card(records, parts, groups, labels, spec) | ({"origin": origin} if origin else {}),
        "epochs": model.epochs,
        "chosen": model.chosen,
        "temperature": model.temperature,
        "calibration": calibration.limits(),
        "seconds": clock.seconds,
        "versions": _versions(),
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    bundle.seal(output, card)
    if partial.exists():
        shutil.rmtree(partial)
    return card


def _calibrated(
    model: Model | tfidf.Model,
    records: Sequence[Record],
    labels: Ints,
    spec: ProtocolSpec,
    near: Ints,
    held_out: Ints,
    counts_as: Floats,
) -> tuple[Calibration, dict[str, npt.NDArray[Any]]]:
    """The calibration by the rows `held_out`, and the bundle's arrays: its own, the distance to the rows `near`, and the
    held-out cases as if they were new."""
    known = model.outputs([records[i].texts for i in near.tolist()])
    distance = MultiCentroid().fit(known.embeddings, labels[near], len(spec.labels))
    new = model.outputs([records[i].texts for i in held_out.tolist()])
    far = case_distances(distance, new.embeddings)
    drawn = counts_as[held_out] if (counts_as[held_out] < 1).any() else None
    calibration = Calibration.fit(spec.labels, new.logits, far, labels[held_out], model.temperature, drawn)
    read_as_new = calibration.held_out(new.logits, far, labels[held_out], drawn)
    read_as_new |= {
        "weight": prevalence_weights(labels, held_out, counts_as),
        "logits": new.logits,
        "distances": far,
        "embedding": new.embeddings.astype(np.float32),
    }
    arrays = {f"held_out.{name}": array for name, array in read_as_new.items()}
    return calibration, arrays | calibration.to_arrays() | distance.to_arrays()


@dataclass
class Outputs:
    """Logits (n, K), embeddings (n, d) and window weights of n cases, float64."""

    logits: Floats
    embeddings: Floats
    weights: list[Floats]


@dataclass
class Model:
    """What fit_model made.

    temperature: divides the logits. epochs: each epoch's figures. chosen: the epoch kept, and why. seconds: of each stage.
    windows: of the cases it was trained on, by their notes, so that they need not be cut again. window: their most tokens.
    """

    encoder: Encoder
    head: mil.Head
    temperature: float
    epochs: list[Epoch]
    chosen: dict[str, Any]
    seconds: dict[str, dict[str, float]]
    windows: dict[tuple[str, ...], list[Window]] = field(default_factory=dict, repr=False)
    window: int = chunks.SIZE

    def outputs(self, cases: Sequence[Sequence[str]]) -> Outputs:
        """Outputs of n cases, each given as its notes in order; a case's do not depend on the others.

        Raises DataError for a case without notes, ModelError for logits that are not finite.
        """
        return Outputs(*mil.predict(self.head, self._vectors(cases)))

    def passes(self, cases: Sequence[Sequence[str]], times: int, seed: int) -> Floats:
        """Logits (times, n, K) of stochastic passes of the head, dropout on; the same for the same seed (section 3.4).

        Window vectors are encoded once. Raises as outputs.
        """
        return mil.passes(self.head, self._vectors(cases), times, seed)

    def save(self, folder: Path) -> None:
        """Write the bundle's encoder and head."""
        self.encoder.save(folder / "encoder")
        mil.save(folder / bundle.HEAD, self.encoder, self.head)

    def facts(self, source: str | Path, config: TrainConfig) -> dict[str, Any]:
        """What the card says of this kind."""
        return {
            "encoder": {"source": str(source), "pooling": self.encoder.pooling, "width": self.encoder.width},
            "head": {"kind": config.head, "hidden": config.hidden},
            "windows": {"size": self.window, "overlap": chunks.OVERLAP, "limit": chunks.LIMIT},
            "config": asdict(config),
        }

    def _vectors(self, cases: Sequence[Sequence[str]]) -> list[Tensor]:
        cut = mil.windows_of(self.head.kind, self.window)
        found = [self.windows.get(tuple(notes)) or cut(notes, self.encoder.tokenizer) for notes in cases]
        return encode_cases(self.encoder, found)


def fit_model(
    records: Sequence[Record],
    labels: Ints,
    groups: Sequence[str],
    spec: ProtocolSpec,
    encoder: str | Path | Encoder,
    config: TrainConfig,
    fit: Ints,
    validation: Ints,
    clock: Clock,
    shares: Floats | None = None,
    folder: Path | None = None,
) -> Model:
    """Train encoder and head on the rows `fit`; epoch and temperature are chosen on the rows `validation`.

    No label or text of another row is read. encoder: "compact", a Hugging Face name, a folder, or a loaded one, which
    stays frozen. groups: (n,) rows of one group stay together in the linear model's folds. shares: (K,) of each class in
    the population, where `fit` was drawn otherwise; those of `fit` when None. folder: keeps a checkpoint after each epoch
    and a frozen encoder's window vectors, so that the same call goes on where a killed one stopped, to the same weights.
    Raises DataError for labels outside the protocol or too few cases of a class, ModelError for an encoder or settings
    that cannot be used.
    """
    _check_rows(labels, groups, spec, fit, validation)
    config = config.of(spec)
    torch.manual_seed(config.seed)
    checkpoint = (
        None
        if folder is None
        else _checkpoint(folder, records, labels, groups, encoder, config, fit, validation)
    )
    with clock.stage("windows"):
        loaded = None if encoder == COMPACT else _loaded(encoder, config, folder)
        texts = (text for i in fit.tolist() for text in records[i].texts)
        tokenizer = loaded.tokenizer if loaded else compact.tokenizer(texts, config.vocabulary)
        cut = mil.windows_of(config.head, config.window)
        cases = {i: cut(records[i].texts, tokenizer) for i in np.concatenate([fit, validation]).tolist()}
    linear = None
    if not loaded or (config.tune and config.tune_distil):
        with clock.stage("linear model"):
            own = [groups[i] for i in fit]
            sequences = [_ids(cases[i]) for i in fit]
            tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
            linear = compact.Linear(sequences, labels[fit], len(spec.labels), tokens, own, config.seed)
    with clock.stage("encoder"):
        teacher = linear.scores if linear else None
        model = loaded or compact.build(tokenizer, cast(compact.Linear, linear), config.width)
        frozen = loaded is not None and config.tune == 0
        vectors = dict(zip(cases, encode_cases(model, list(cases.values())), strict=True)) if frozen else None
        some = fit[::SAMPLED] if not config.drawn else fit[:: max(SAMPLED, len(fit) // config.drawn)]
        sample = [vectors[i] for i in fit] if vectors else encode_cases(model, [cases[i] for i in some])
        head = mil.Head(model.width, len(spec.labels), config.hidden, kind=config.head).to(model.device)
        head.standardise(torch.cat(sample))
        prior = np.bincount(labels[fit], minlength=len(spec.labels)) / len(fit) if shares is None else shares
        head.log_prior.copy_(torch.log(torch.from_numpy(prior).float()))
    own_linear = None if loaded else linear
    data = Material(cases, vectors, own_linear, labels, fit, validation, np.asarray(groups), teacher)
    epochs = optimise(model, head, data, spec, config, clock, checkpoint)
    temperature = chosen(epochs, config.metric)["temperature"]
    windows = {tuple(records[i].texts): found for i, found in cases.items()}
    why = reason(epochs, config, spec)
    return Model(model, head, temperature, epochs, why, clock.seconds, windows, config.window)


def _centred(seen: Ints, labels: Ints, groups: Sequence[str], config: TrainConfig) -> Ints:
    """The learned cases whose embeddings make the centroids: all, or as many of a class as an epoch draws."""
    if not config.drawn:
        return seen
    draw = np.random.default_rng(config.seed)
    return seen[spread(labels[seen], np.asarray(groups)[seen], config.drawn, draw)]


def prevalence_weights(labels: Ints, held_out: Ints, counts_as: Floats | None = None) -> Floats:
    """(n,) weights of the held-out cases, 1 on average, that give each class the share it has in the stream.

    counts_as: (N,) what each of all the cases counts (Record.calibrates); where given, those that may not calibrate say
    nothing of the stream.
    """
    w = np.ones(len(labels)) if counts_as is None else counts_as
    stream = np.bincount(labels, w)
    drawn = np.bincount(labels[held_out], w[held_out], len(stream))
    own = w[held_out] * (stream / drawn)[labels[held_out]]
    weights: Floats = own * (len(held_out) / own.sum())
    return weights


def note_digests(records: Iterable[Record]) -> npt.NDArray[np.uint64]:
    """Of each different note the first 8 bytes of the SHA-256 of its text, ascending: what tells that a model has seen it."""
    texts = {text for record in records for text in record.texts}
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8] for text in texts)
    return np.array(sorted(int.from_bytes(digest) for digest in digests), dtype=np.uint64)


def share_out(
    labels: Ints,
    groups: Sequence[str],
    config: TrainConfig,
    classes: int,
    may_calibrate: npt.NDArray[np.bool_] | None = None,
) -> Ints:
    """(n,) part of each case, positions in PARTS.

    Of each class, calibration takes CALIBRATION_SHARE, or what makes CALIBRATION_CASES of it up to CALIBRATION_LIMIT:
    Mondrian ranks are taken within a class, so that shares may differ between classes. may_calibrate: (n,) where given,
    it takes as many of those that may, or all there are; the others of their groups are LEFT_OUT, and teach nothing.
    """
    counts = np.bincount(labels, minlength=classes)
    calibration = np.clip(CALIBRATION_CASES / counts, CALIBRATION_SHARE, CALIBRATION_LIMIT)
    validation = np.full(classes, config.validation)
    if may_calibrate is None or may_calibrate.all():
        return folds.split(
            labels, groups, [1 - validation - calibration, validation, calibration], config.seed
        )
    held = _drawn(labels, groups, may_calibrate, calibration * counts, config.seed)
    members = np.unique(np.asarray(groups), return_inverse=True)[1]
    apart = np.isin(members, members[held])
    parts = np.where(held, PARTS.index("calibration"), LEFT_OUT)
    taught = np.flatnonzero(~apart)
    parts[taught] = folds.split(
        labels[taught],
        [groups[i] for i in taught.tolist()],
        [1 - config.validation, config.validation],
        config.seed,
    )
    return parts


def _drawn(
    labels: Ints, groups: Sequence[str], able: npt.NDArray[np.bool_], wanted: Floats, seed: int
) -> npt.NDArray[np.bool_]:
    """(n,) which of the able cases are held out: of each class as many as wanted, or all where there are fewer."""
    held, rows = able.copy(), np.flatnonzero(able)
    present, counts = np.unique(labels[rows], return_counts=True)
    share = np.minimum(wanted[present] / counts, 1 - 1e-6)
    if (share < 1 - 1e-6).any():
        held[rows] = (
            folds.split(labels[rows], [groups[i] for i in rows.tolist()], [1 - share, share], seed) == 1
        )
    return held


def _labels(records: Sequence[Record], spec: ProtocolSpec) -> Ints:
    check(records, spec, "to train on")
    labels = labels_array(records)
    for c, name in enumerate(spec.labels):
        n = int((labels == c).sum())
        if n < LEAST_CASES:
            raise DataError(
                f"There are {n} cases labelled {name}: training needs at least {LEAST_CASES} of each label."
            )
    return labels


def _check_held_out(labels: Ints, spec: ProtocolSpec) -> None:
    for c, name in enumerate(spec.labels):
        if (n := int((labels == c).sum())) < MINIMUM_CASES:
            raise DataError(
                f"There are {n} cases labelled {name} to calibrate on: at least {MINIMUM_CASES} of each label must have "
                "been drawn at random."
            )


def check_empty(output: Path) -> None:
    """Raises ModelError unless there is nothing, or an empty folder."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ModelError(f"{output} is not an empty folder: name a new one for the bundle.")


def check(records: Sequence[Record], spec: ProtocolSpec, purpose: str) -> None:
    """Raises DataError where there is no case, one has no note, or one's label is none of the protocol's."""
    labels = [record.label for record in records]
    outside = sum(label is None or not 0 <= label < len(spec.labels) for label in labels)
    silent = sum(not record.notes for record in records)
    if not records:
        raise DataError(f"There is no case {purpose}: give a file with labelled cases.")
    if outside:
        raise DataError(
            f"{outside} case(s) {purpose} have no label of {spec.slug}: label every case 0 to {len(spec.labels) - 1}."
        )
    if silent:
        raise DataError(f"{silent} case(s) {purpose} have no note: give each at least one, be it empty.")


def _check_rows(labels: Ints, groups: Sequence[str], spec: ProtocolSpec, fit: Ints, validation: Ints) -> None:
    outside = np.isin(labels[np.concatenate([fit, validation])], range(len(spec.labels)), invert=True).sum()
    if outside:
        raise DataError(
            f"{outside} case(s) have no label of {spec.slug}: label every case 0 to {len(spec.labels) - 1}."
        )
    for rows, least, purpose in ((fit, 2, "to fit on"), (validation, 1, "to choose an epoch on")):
        for c, name in enumerate(spec.labels):
            n = len({groups[i] for i in rows if labels[i] == c})
            if n < least:
                raise DataError(
                    f"There are {n} independent cases labelled {name} {purpose}: at least {least} are needed."
                )


def _loaded(encoder: str | Path | Encoder, config: TrainConfig, folder: Path | None) -> Encoder:
    if isinstance(encoder, Encoder):
        found = encoder
        if config.tune:
            raise ModelError("A loaded encoder stays as it is: give its name or folder to tune it.")
    else:
        found = Encoder.load(encoder, config.pooling)
        if folder is not None and config.tune == 0:
            found.remember(folder / "vectors.bin")
    if found.gate is not None and config.tune == 0:
        raise ModelError(
            "Gates are learned with the encoder: tune at least one layer, or pool by mean or cls."
        )
    found.tune(config.tune, config.tune_words, config.tune_dropout)
    return found


def _checkpoint(
    folder: Path,
    records: Sequence[Record],
    labels: Ints,
    groups: Sequence[str],
    encoder: str | Path | Encoder,
    config: TrainConfig,
    fit: Ints,
    validation: Ints,
) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.concatenate([fit, validation])
    source = encoder.fingerprint() if isinstance(encoder, Encoder) else str(encoder)
    whom = [groups[i] for i in rows.tolist()]
    data = [digest([records[i] for i in rows]), labels[rows].tolist(), whom, len(fit)]
    what = [data, source, encoder_digest(encoder), asdict(config), _versions()]
    return Checkpoint(folder / "checkpoint.pt", hashlib.sha256(json.dumps(what).encode()).hexdigest())


def encoder_digest(encoder: str | Path | Encoder) -> str:
    """SHA-256 over the files of an encoder's folder; empty for anything else."""
    if isinstance(encoder, Encoder) or encoder == COMPACT:
        return ""
    found = hashlib.sha256()
    files = sorted(path for path in Path(encoder).rglob("*") if path.is_file())
    for path in files:
        found.update(f"{path.name}\0".encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest() if files else ""


def _ids(case: Sequence[Window]) -> Ints:
    return np.array([i for window in case for i in window.ids], dtype=np.int64)


def digest(records: Sequence[Record]) -> str:
    """SHA-256 over id, text and label of the records in their order."""
    found = hashlib.sha256()
    for record in records:
        found.update(json.dumps([record.patient_id, record.texts, record.label]).encode())
    return found.hexdigest()


def _data_card(
    records: Sequence[Record], parts: Ints, groups: Sequence[str], labels: Ints, spec: ProtocolSpec
) -> dict[str, Any]:
    shares = {
        part: {name: int(((parts == i) & (labels == c)).sum()) for c, name in enumerate(spec.labels)}
        for i, part in enumerate(PARTS)
    }
    return {
        "sha256": digest(records),
        "cases": len(records),
        "shares": shares,
        "split_sha1": folds.fingerprint(groups, parts),
    }


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "accelerate", "tokenizers", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}}
