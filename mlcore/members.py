"""The models of a study, trained side by side and stored: what each says of every training and test case.

Every model is one step with a file of its own. A step whose file carries the step's fingerprint (data, folds, config,
versions) is not run again, so that a study killed anywhere goes on where it stopped, to the same figures.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mlcore import baseline, folds, pool, train
from mlcore.distance import INERTIA_GAIN, MultiCentroid
from mlcore.encoder import Encoder
from mlcore.errors import DataError
from mlcore.metrics import REPLICATES
from mlcore.mil import Kind
from mlcore.protocols import ProtocolSpec
from mlcore.records import Record, labels_array
from mlcore.train import COMPACT, TrainConfig

Ints = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[np.generic]]
Progress = Callable[[str, int, int], None]

FORMAT = 1
ENSEMBLES: tuple[Kind, ...] = ("baseline", "standard", "spectral")
SINGLES: tuple[Kind, ...] = ("standard", "spectral")
GAINS = (0.01, 0.02, 0.05, 0.1)
STUDY = "study.json"
YARDSTICK_FOLDS = 5


@dataclass(frozen=True)
class StudyConfig:
    """What decides a study, besides its data.

    folds: members of an ensemble. passes: of MC dropout. replicates: of the bootstrap. reduced: made by `quick`.
    """

    encoder: str = COMPACT
    folds: int = 10
    passes: int = 20
    replicates: int = REPLICATES
    reduced: bool = False
    seed: int = 13
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        """Raises DataError for a setting that cannot be used."""
        for name, least in (("folds", 2), ("passes", 2), ("replicates", 1)):
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}: it must be at least {least}.")

    @classmethod
    def quick(cls, encoder: str = COMPACT) -> StudyConfig:
        """Small but honest: three folds, small and briefly trained encoders."""
        return cls(encoder=encoder, folds=3, replicates=200, reduced=True, train=TrainConfig.quick())


@dataclass(frozen=True)
class Cohort:
    """The labelled cases of a study: those to train and calibrate on, and those that are only read."""

    spec: ProtocolSpec
    training: list[Record]
    test: list[Record]

    @cached_property
    def labels(self) -> Ints:
        """(n,) of the training cases."""
        return labels_array(self.training)

    @cached_property
    def truth(self) -> Ints:
        """(m,) labels of the test cases."""
        return labels_array(self.test)

    @cached_property
    def groups(self) -> list[str]:
        """(n,) whom each training case belongs to; a group stays in one fold."""
        return group_names(self.training)

    def check(self, folds: int) -> None:
        """Raises DataError for unusable cases, too few of them or of their groups, and for a group on both sides."""
        train.check(self.training, self.spec, "in the training file")
        train.check(self.test, self.spec, "in the test file")
        for c, name in enumerate(self.spec.labels):
            n = len({g for g, y in zip(self.groups, self.labels, strict=True) if y == c})
            if n < max(train.LEAST_CASES, folds):
                raise DataError(
                    f"The training file has {n} independent case(s) labelled {name}: {folds} folds need at least "
                    f"{max(train.LEAST_CASES, folds)} of each label."
                )
        both = set(self.groups) & set(group_names(self.test))
        if both:
            raise DataError(
                f"{len(both)} case(s) or group(s) stand in the training and the test file: take them out of one."
            )


def group_names(records: Sequence[Record]) -> list[str]:
    """The group of each record, its own id where it names none."""
    return [record.group or record.patient_id for record in records]


class Step(NamedTuple):
    """One thing computed and stored once: a fold's member, a single model (fold -1), or the yardstick."""

    kind: str
    architecture: Kind | Literal[""] = ""
    fold: int = -1

    @property
    def name(self) -> str:
        """What its files are called."""
        if self.kind == "member":
            return f"{self.architecture}-{self.fold + 1:02}"
        return f"{self.architecture}-{self.kind}" if self.architecture else self.kind


YARDSTICK = Step("yardstick")


@dataclass(frozen=True)
class Plan:
    """A study in its folder."""

    cohort: Cohort
    config: StudyConfig
    folder: Path

    @cached_property
    def fold(self) -> Ints:
        """(n,) fold of each training case: grouped, stratified."""
        return folds.folds(self.cohort.labels, self.cohort.groups, self.config.folds, self.config.seed)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes this study this study; as study.json holds it."""
        cohort = self.cohort
        return {
            "format": FORMAT,
            "protocol": cohort.spec.slug,
            "training": {"cases": len(cohort.training), "sha256": digest(cohort.training)},
            "test": {"cases": len(cohort.test), "sha256": digest(cohort.test)},
            "encoder": {"source": self.config.encoder, "sha256": train.encoder_digest(self.config.encoder)},
            "folds": {
                "count": self.config.folds,
                "sha1": folds.fingerprint(self.cohort.groups, self.fold),
            },
            "config": {k: v for k, v in asdict(self.config).items() if k not in ("encoder", "replicates")},
        }

    @property
    def steps(self) -> list[Step]:
        """All there is to compute, what takes longest first."""
        members = [Step("member", name, m) for name in ENSEMBLES for m in range(self.config.folds)]
        return [*(Step("single", name) for name in SINGLES), YARDSTICK, *members]

    def path(self, step: Step) -> Path:
        """Where a step's outputs are kept."""
        return self.folder / "members" / f"{step.name}.safetensors"

    def distances_path(self, step: Step) -> Path:
        """Where its distances are kept."""
        return self.folder / "distances" / f"{step.name}.safetensors"

    def fingerprint(self, step: Step) -> str:
        """SHA-256 over everything that decides what the step computes."""
        whole = [self.identity, versions(), list(step)]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def distances_fingerprint(self, step: Step) -> str:
        """The same for its distances."""
        return hashlib.sha256(f"{self.fingerprint(step)} {sorted(gains(step))}".encode()).hexdigest()

    def done(self, step: Step) -> bool:
        """Whether everything of the step is stored and current."""
        if read_fingerprint(self.path(step)) != self.fingerprint(step):
            return False
        current = self.distances_fingerprint(step)
        return step == YARDSTICK or read_fingerprint(self.distances_path(step)) == current


def open_folder(plan: Plan) -> None:
    """Take a new folder, or one that holds this very study. Raises DataError for any other."""
    path = plan.folder / STUDY
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        current = json.loads(json.dumps(plan.identity))
        other = sorted(key for key in held.keys() | current.keys() if held.get(key) != current.get(key))
        if other:
            raise DataError(
                f"{plan.folder} holds another study (other {', '.join(other)}): name a new folder."
            )
        return
    if plan.folder.exists() and not (plan.folder.is_dir() and not any(plan.folder.iterdir())):
        raise DataError(f"{plan.folder} holds something else than a study: name a new folder.")
    for name in ("members", "distances"):
        (plan.folder / name).mkdir(parents=True, exist_ok=True)
    _replace(path, lambda to: to.write_text(json.dumps(plan.identity, indent=2) + "\n", encoding="utf-8"))


# Computing.


def compute(plan: Plan, step: Step) -> None:
    """Run what is missing of a step and store it."""
    if step == YARDSTICK:
        store(plan.path(step), _yardstick(plan), plan.fingerprint(step), {})
        return
    if read_fingerprint(plan.path(step)) != plan.fingerprint(step):
        arrays, card = _fitted(plan, step)
        store(plan.path(step), arrays, plan.fingerprint(step), card)
    far = _distances(plan, step, load(plan.path(step)))
    store(plan.distances_path(step), far, plan.distances_fingerprint(step), {})


def parts(plan: Plan, step: Step) -> tuple[Ints, Ints, Ints]:
    """Positions in the training file that a step fits on, chooses epoch and temperature on, and never sees.

    What it never sees is a member's own fold, or a single model's calibration share.
    """
    labels, groups, config = plan.cohort.labels, plan.cohort.groups, plan.config.train
    if step.kind == "single":
        of = train.share_out(labels, groups, config, len(plan.cohort.spec.labels))
        fit, validation, held_out = (np.flatnonzero(of == part) for part in range(3))
        return fit, validation, held_out
    others = np.flatnonzero(plan.fold != step.fold)
    shares = [1 - config.validation, config.validation]
    of = folds.split(labels[others], [groups[i] for i in others], shares, config.seed + step.fold)
    return others[of == 0], others[of == 1], np.flatnonzero(plan.fold == step.fold)


def _fitted(plan: Plan, step: Step) -> tuple[Arrays, dict[str, Any]]:
    cohort, fit_on = plan.cohort, parts(plan, step)
    head = cast(Kind, step.architecture)
    config = replace(plan.config.train, head=head, seed=plan.config.train.seed + step.fold + 1)
    counts = np.bincount(cohort.labels, minlength=len(cohort.spec.labels))
    model = train.fit_model(
        cohort.training,
        cohort.labels,
        cohort.groups,
        cohort.spec,
        _encoder(plan),
        config,
        *fit_on[:2],
        train.Clock(lambda stage, done, total: None),
        shares=counts / counts.sum(),
    )
    arrays: Arrays = {"temperature": np.array([model.temperature])}
    for name, records in (("training", cohort.training), ("test", cohort.test)):
        outputs = model.outputs([record.texts for record in records])
        arrays |= {f"{name}.logits": outputs.logits, f"{name}.embeddings": outputs.embeddings}
    if step.kind == "single":
        seen = {"validation": fit_on[1], "held_out": fit_on[2]}
        texts = {name: [cohort.training[i].texts for i in rows] for name, rows in seen.items()}
        texts["test"] = [record.texts for record in cohort.test]
        passes = {name: model.passes(cases, plan.config.passes, config.seed) for name, cases in texts.items()}
        arrays |= {f"{name}.passes": drawn for name, drawn in passes.items()}
    return arrays, {"epochs": model.epochs, "chosen": model.chosen, "seconds": model.seconds}


def _encoder(plan: Plan) -> str | Encoder:
    """What fit_model is given: one that stays frozen encodes each window once for the whole study."""
    if plan.config.encoder == COMPACT:
        return COMPACT
    encoder = Encoder.load(plan.config.encoder, plan.config.train.pooling)
    encoder.remember(plan.folder / "vectors.bin")
    return encoder


def gains(step: Step) -> tuple[float, ...]:
    """The inertia gains its distances are wanted for: all of Table A1 for the spectral ensemble."""
    return GAINS if step.kind == "member" and step.architecture == "spectral" else (INERTIA_GAIN,)


def _distances(plan: Plan, step: Step, arrays: Arrays) -> Arrays:
    """Distances of held-out and test cases to centroids of the step's own training cases."""
    fit, validation, held_out = parts(plan, step)
    seen, embeddings = np.sort(np.concatenate([fit, validation])), arrays["training.embeddings"]
    found: Arrays = {}
    wanted, classes = gains(step), len(plan.cohort.spec.labels)
    fitted = MultiCentroid.fits(embeddings[seen], plan.cohort.labels[seen], classes, wanted)
    for gain, distance in zip(wanted, fitted, strict=True):
        found[f"held_out.{gain}"] = distance.distances(embeddings[held_out])
        found[f"test.{gain}"] = distance.distances(arrays["test.embeddings"])
        found[f"centroids.{gain}"] = np.array([len(c) for c in distance.centroids_])
    return found


def _yardstick(plan: Plan) -> Arrays:
    texts = (["\n".join(r.texts) for r in records] for records in (plan.cohort.training, plan.cohort.test))
    training, test = texts
    few = plan.fold % YARDSTICK_FOLDS
    found = baseline.run(training, plan.cohort.labels, few, test, plan.cohort.spec.target_indices)
    arrays: Arrays = {
        "probabilities": found.probabilities,
        "target": found.target,
        "threshold": np.array([found.threshold]),
        "strength": np.array([found.strength]),
        "out_of_fold": found.out_of_fold,
    }
    return arrays


def run(plan: Plan, jobs: int, progress: Progress) -> None:
    """Compute every step that is not done, `jobs` processes of one thread each side by side.

    The outcome does not depend on jobs or order. progress: the step that ended, steps done, steps in all. What is done
    stays done, however this ends; see `pool.each`.
    """
    waiting = [step for step in plan.steps if not plan.done(step)]
    done, total = len(plan.steps) - len(waiting), len(plan.steps)
    progress("", done, total)
    if not waiting:
        return
    with closing(pool.each(compute, plan, waiting, jobs)) as ended:
        for step in ended:
            done += 1
            progress(step.name, done, total)


# Stored arrays.


def load(path: Path) -> Arrays:
    """The arrays of a step's file."""
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)


def read_card(path: Path) -> dict[str, Any]:
    """How the model of a step's file was trained."""
    with safe_open(path, framework="numpy") as file:
        card: dict[str, Any] = json.loads(file.metadata()["card"])
    return card


def read_fingerprint(path: Path) -> str:
    """The fingerprint a step's file was stored with; empty for a file that is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get("fingerprint", ""))
    except (OSError, SafetensorError):
        return ""


def store(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]], fingerprint: str, card: Any) -> None:
    """Keep a step's arrays under its fingerprint, with how they came about."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    described = {"fingerprint": fingerprint, "card": json.dumps(card)}
    _replace(path, lambda to: save_file(whole, to, metadata=described))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name first, so that it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    write(part)
    part.replace(path)


def digest(records: Sequence[Record]) -> str:
    """SHA-256 over ids, groups, texts and labels, in order."""
    found = hashlib.sha256()
    for record in records:
        found.update(
            json.dumps([record.patient_id, record.group, record.texts, record.label]).encode() + b"\n"
        )
    return found.hexdigest()


def versions() -> dict[str, str]:
    """Of what computes the figures."""
    packages = ("torch", "transformers", "tokenizers", "scikit-learn", "scipy", "numpy")
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}}
