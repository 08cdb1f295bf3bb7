"""Learn when a release should leave a case to a second model, and write down what that is worth; needs no database."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlcore import bundle, deferral, deferral_report, protocols, records
from mlcore.calibrate import Calibration, Scores
from mlcore.errors import BundleError, DataError
from mlcore.protocols import ProtocolSpec
from mlcore.records import Labelled, Record
from mlcore.train import note_digests
from triage.management.command import SentenceCommand, make_folder

CASES_AT_ONCE = 64
LLM = "llm"
NO_LLM = (
    "No language model is configured for learn_to_defer: name the folder of a second release as --secondary."
)
Mask = NDArray[np.bool_]
Digests = NDArray[np.generic]


@dataclass(frozen=True)
class Release:
    """An opened bundle. learned, calibrated: digests of the notes it learned and came calibrated with."""

    name: str
    sha256: str
    spec: ProtocolSpec
    scorer: Any
    learned: Digests
    calibrated: Digests

    @classmethod
    def open(cls, folder: Path) -> Release:
        """The bundle in a folder. Raises BundleError for one that cannot be used here."""
        sha256 = bundle.verify(folder)
        card = bundle.read_card(folder)
        spec = protocols.get(str(card.get("protocol")))
        if list(card.get("labels", [])) != list(spec.labels):
            raise BundleError(
                f"{folder} was trained for other labels than {spec.slug} has now: train it again."
            )
        arrays = bundle.load_arrays(folder)
        if not {"learned.notes", "calibrated.notes"} <= set(arrays):
            raise BundleError(
                f"{folder} does not tell which notes it learned, so no case can be called new to it: train it again."
            )
        from mlcore.scorer import Scorer

        scorer = Scorer.load(folder, verify=False)
        learned, calibrated = arrays["learned.notes"], arrays["calibrated.notes"]
        return cls(folder.resolve().name, sha256, spec, scorer, learned, calibrated)

    def scores(self, cases: Sequence[Record]) -> Scores:
        """Of labelled cases; those it came calibrated with are ranked against the others only."""
        parts = []
        with tqdm(total=len(cases), desc=self.name, unit="case", file=sys.stderr) as bar:
            for start in range(0, len(cases), CASES_AT_ONCE):
                some = cases[start : start + CASES_AT_ONCE]
                parts.append(self.scorer.score_records([case.texts for case in some])[0])
                bar.update(len(some))
        whole = Scores(*(np.concatenate([getattr(part, of.name) for part in parts]) for of in fields(Scores)))
        return as_new(self.scorer.calibration, whole, self.met(cases), records.labels_array(cases))

    def met(self, cases: Sequence[Record]) -> Mask:
        """(n,) whether the release came calibrated with each case: with every note of it."""
        return np.array([np.isin(note_digests([case]), self.calibrated).all() for case in cases], dtype=bool)


@dataclass(frozen=True)
class Opinions:
    """A second model. ask: (n,) labels of cases, NO_OPINION where it has none. learned, calibrated: as a Release's."""

    name: str
    sha256: str
    ask: Callable[[Sequence[Record]], NDArray[np.int64]]
    learned: Digests
    calibrated: Digests


class Command(SentenceCommand):
    """`manage.py learn_to_defer --primary FOLDER --secondary FOLDER|llm --train FILE --test FILE --report FOLDER`."""

    help = "Learn when a release should defer to a second model (L2D-Clinical); writes report.html, metrics.json, router.json."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--primary", type=Path, required=True, help="folder that `train` wrote")
        parser.add_argument("--secondary", required=True, help="folder that `train` wrote, or llm")
        parser.add_argument(
            "--train", type=Path, required=True, help="labelled cases; those neither learned teach"
        )
        parser.add_argument("--test", type=Path, required=True, help="labelled cases to judge on")
        parser.add_argument("--report", type=Path, required=True, help="folder to write into")
        budget = deferral.BUDGET
        parser.add_argument(
            "--budget", type=float, default=budget, help=f"most that is deferred, 0 to 1 ({budget})"
        )
        parser.add_argument("--metric", choices=("target", "macro"), help="F1 of (target; macro for K > 2)")
        parser.add_argument(
            "--aim", choices=("errs", "helps"), default="errs", help="what is predicted (errs)"
        )
        parser.add_argument(
            "--sure",
            type=float,
            default=deferral.SURE,
            help=f"share of resamples in which the gain must stand; 0 takes the tuned threshold as it is ({deferral.SURE})",
        )

    def handle(self, **options: Any) -> None:
        if options["secondary"] == LLM:
            raise DataError(NO_LLM)
        make_folder(options["report"])
        first = Release.open(options["primary"])
        second = _opinions(options["secondary"], first.spec)
        spec, on = first.spec, deferral.metric(first.spec, options["metric"])
        train, test = tied(*(records.labelled(options[name], spec) for name in ("train", "test")))
        fresh = _fresh(train, test, [first.learned, second.learned], options["train"].name)
        judged = _judged(test, first, second, options["test"].name)
        names, learning = _cases(first, second, _of(train, fresh))
        weights = deferral.as_stream(records.labels_array(train), fresh)
        asked = (options["budget"], options["aim"], options["sure"])
        learned = deferral.fit(names, learning.weighing(weights), on, *asked)
        about = {
            "protocol": spec.slug,
            "primary": first.name,
            "primary_sha256": first.sha256,
            "secondary": second.name,
            "secondary_sha256": second.sha256,
            "train": options["train"].name,
            "train_cases": len(train),
            "train_cases_new_to_both": int(fresh.sum()),
            "test": options["test"].name,
            "test_cases": int(judged.sum()),
            "test_cases_left_out": int((~judged).sum()),
        }
        tested = _cases(first, second, _of(test, judged))[1]
        result = deferral_report.Result(spec, on, options["budget"], learned, tested, about)
        self._tell(result, deferral_report.write(result, options["report"]), options["report"])

    def _tell(self, result: deferral_report.Result, figures: dict[str, Any], folder: Path) -> None:
        facts = result.learned.facts
        self.stdout.write(
            f"Learned on the {facts['n']} of {figures['train_cases']} cases of {figures['train']} that neither model learned; "
            f"judged on {figures['test_cases']} of {figures['test']} ({figures['test_cases_left_out']} left out as known)."
        )
        self.stdout.write(deferral_report.text_table(figures))
        gain, there = figures["gain"], figures["oracle_gain"]
        right = figures["right_where_first_errs"]
        self.stdout.write(
            f"Gain {_told(gain)} of the oracle's {_told(there)}; the second is right in {_told(right)} of the {right['n']} test "
            "cases where the first errs."
        )
        if figures["reason"]:
            self.stdout.write(figures["reason"])
        self.stdout.write(f"Written to {folder}: report.html, metrics.json, table.csv, router.json")


def tied(train: Labelled, test: Labelled) -> tuple[list[Record], list[Record]]:
    """The records of both files; where neither names groups, near-duplicates share one across the files, too."""
    if not (train.grouped and test.grouped):
        return train.records, test.records
    both = records.tied([*train.records, *test.records])
    return both[: len(train.records)], both[len(train.records) :]


def as_new(calibration: Calibration, scores: Scores, member: Mask, truth: NDArray[np.int64]) -> Scores:
    """The scores with those of the (n,) members of the calibration ranked against its other members.

    A weighted calibration does not tell what a member weighs: its members stay as they are.
    """
    if not member.any() or calibration.weights is not None:
        return scores
    again = calibration.held_out_scores(scores.logits[member], scores.distances[member], truth[member])
    found = {}
    for field in fields(Scores):
        found[field.name] = getattr(scores, field.name).copy()
        found[field.name][member] = getattr(again, field.name)
    return Scores(**found)


def _opinions(secondary: str, spec: ProtocolSpec) -> Opinions:
    """The release in a folder, as a second model. Raises BundleError where it answers another question."""
    release = Release.open(Path(secondary))
    if release.spec != spec:
        raise BundleError(
            f"{secondary} answers {release.spec.slug}, the first model {spec.slug}: name two releases of one protocol."
        )
    return Opinions(
        release.name,
        release.sha256,
        lambda cases: release.scores(cases).label,
        release.learned,
        release.calibrated,
    )


def _cases(
    first: Release, second: Opinions, found: Sequence[Record]
) -> tuple[tuple[str, ...], deferral.Cases]:
    """Names of the features, and the cases as the router takes them."""
    scores, texts = first.scores(found), [case.texts for case in found]
    names, values = deferral.features(first.spec, scores, texts)
    opinions = deferral.labels_of(second.ask(found), texts, len(first.spec.labels))
    groups = [case.group or case.patient_id for case in found]
    return names, deferral.Cases(values, records.labels_array(found), scores.label, opinions, groups)


def _fresh(train: list[Record], test: list[Record], learned: list[Digests], filename: str) -> Mask:
    """(n,) cases of the training file that neither model learned and that share no note or group with a test case."""
    judged_groups = {case.group or case.patient_id for case in test}
    apart = np.array([(case.group or case.patient_id) not in judged_groups for case in train])
    fresh: Mask = deferral.new_to(train, [*learned, note_digests(test)]) & apart
    if not fresh.any():
        raise DataError(
            f"None of the {len(train)} cases of {filename} is new to both models, which are over-confident on what they learned: "
            "give cases neither learned, or train both on this file with the same --seed."
        )
    return fresh


def _judged(test: Sequence[Record], first: Release, second: Opinions, filename: str) -> Mask:
    """(n,) test cases that neither model learned or came calibrated with."""
    known = (first.learned, first.calibrated, second.learned, second.calibrated)
    judged = deferral.new_to(test, known)
    if not judged.any():
        raise DataError(
            f"One model or the other has met every case of {filename}: give test cases neither learned nor calibrated on."
        )
    return judged


def _of(cases: Sequence[Record], rows: Mask) -> list[Record]:
    return [cases[i] for i in np.flatnonzero(rows).tolist()]


def _told(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "undefined"
    low, high = (float("nan") if end is None else end for end in figure["ci"])
    return f"{figure['value']:.3f} ({low:.3f} to {high:.3f})"
