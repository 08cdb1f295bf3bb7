"""Score a file of notes with a bundle and write down how well it did, without any database."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import CommandParser

from mlcore import bundle, outcomes, protocols, records, report
from mlcore.calibrate import Scores
from mlcore.errors import BundleError, DataError
from mlcore.protocols import ProtocolSpec
from triage.management.command import SentenceCommand, make_folder

CASES_AT_ONCE = 64


class Command(SentenceCommand):
    """`manage.py evaluate --bundle FOLDER --notes FILE --report FOLDER`."""

    help = "Score a JSONL or CSV file with a bundle; writes report.html, metrics.json and predictions.csv."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--bundle", type=Path, required=True, help="folder that `train` wrote")
        parser.add_argument("--notes", type=Path, required=True, help="JSONL or CSV, gzipped or not")
        parser.add_argument("--report", type=Path, required=True, help="folder to write into")
        parser.add_argument(
            "--alpha", type=float, nargs="+", default=list(report.ALPHAS), help="risk tolerances"
        )
        parser.add_argument(
            "--compare-compat", action="store_true", help="also decide as the paper's published code does"
        )

    def handle(self, **options: Any) -> None:
        folder = Path(options["bundle"])
        alphas = _alphas(options["alpha"])
        make_folder(options["report"])
        sha256 = bundle.verify(folder)
        spec = _protocol(bundle.read_card(folder), folder)
        cases = records.load(options["notes"], spec)
        from mlcore.scorer import Scorer

        scorer = Scorer.load(folder, verify=False)
        if options["compare_compat"]:
            _check_comparable(folder, cases)
        scores, embeddings = self._scored(scorer, [case.texts for case in cases])
        other = {}
        if options["compare_compat"]:
            arrays, temperature = bundle.load_arrays(folder), scorer.calibration.temperature
            other = report.other_ways(scorer.distance, arrays, embeddings, scores, temperature, alphas)
        evaluation = report.Evaluation(
            spec=spec,
            ids=[case.patient_id for case in cases],
            groups=[case.group or case.patient_id for case in cases],
            truth=records.labels_array(cases),
            scores=scores,
            calibration=scorer.calibration,
            bundle=folder.resolve().name,
            sha256=sha256,
            notes=options["notes"].name,
            alphas=alphas,
            other=other,
        )
        self._tell(report.write(evaluation, options["report"]), spec, options["report"])

    def _scored(self, scorer: Any, texts: list[list[str]]) -> tuple[Scores, Any]:
        """Scores of all cases and their embeddings (n, d)."""
        parts, embeddings = [], []
        for start in range(0, len(texts), CASES_AT_ONCE):
            scores, embedded, _ = scorer.score_records(texts[start : start + CASES_AT_ONCE])
            parts.append(scores)
            embeddings.append(embedded)
            self.stderr.write(f"\r{min(start + CASES_AT_ONCE, len(texts))} of {len(texts)} cases", ending="")
        self.stderr.write("")
        return _joined(parts), np.concatenate(embeddings)

    def _tell(self, figures: dict[str, Any], spec: ProtocolSpec, folder: Path) -> None:
        meanings = outcomes.meanings(spec)
        if figures["labelled"] == 0:
            self.stdout.write(
                "The file carries no labels: predictions only, no figures of how good they are."
            )
        for name, figure in figures.get("overall", {}).items():
            if name in meanings:
                self.stdout.write(_line(meanings[name], figure))
        if len(spec.labels) > 2 and "overall" in figures:
            self._tell_labels(figures["overall"])
        for alpha, at in figures["alpha"].items():
            told = ", ".join(f"{name} {count}" for name, count in at["counts"].items())
            self.stdout.write(f"alpha {alpha}: {told}")
            for name, figure in at.items():
                if name in meanings:
                    self.stdout.write("  " + _line(meanings[name], figure))
            for label, figure in at.get("recall", {}).items() if len(spec.labels) > 2 else ():
                self.stdout.write("  " + _line(f"{label} found among automatic cases", figure))
        for alpha, at in figures.get("compat", {}).items():
            self.stdout.write(f"alpha {alpha}, by the choices of the paper's published code:")
            for name in report.COMPARED:
                self.stdout.write("  " + _line(meanings[name], at[name]))
            for label, figure in at["set_coverage"].items():
                self.stdout.write("  " + _line(f"Set holds {label}", figure))
        self.stdout.write(f"Written to {folder}: report.html, metrics.json, predictions.csv")

    def _tell_labels(self, overall: dict[str, Any]) -> None:
        self.stdout.write("Of the likeliest label:")
        named = {f"F1 of {label}": figure for label, figure in overall["f1"].items()}
        named |= {"Macro F1": overall["f1_macro"], "Weighted F1": overall["f1_weighted"]}
        for meaning, figure in named.items():
            self.stdout.write(_line(meaning, figure))


def _alphas(values: list[float]) -> list[float]:
    for alpha in values:
        if not 0 < alpha < 1:
            raise DataError(f"alpha is {alpha}: it must lie between 0 and 1.")
    return sorted(set(values))


def _protocol(card: dict[str, Any], folder: Path) -> ProtocolSpec:
    spec = protocols.get(str(card.get("protocol")))
    same = all(list(card.get(key, [])) == list(getattr(spec, key)) for key in ("labels", "targets"))
    if not same:
        raise BundleError(f"{folder} was trained for other labels than {spec.slug} has now: train it again.")
    return spec


def _check_comparable(folder: Path, cases: list[records.Record]) -> None:
    """Before anything is scored: labels to compare by, and a bundle that holds what its thresholds stand on."""
    if all(case.label is None for case in cases):
        raise DataError(
            "The file carries no labels: leave out --compare-compat, or add a label to each record."
        )
    report.held_out_of(bundle.load_arrays(folder))


def _joined(parts: list[Scores]) -> Scores:
    return Scores(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Scores))
    )


def _line(meaning: str, figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return f"{meaning}: undefined (n = {figure['n']})"
    low, high = (figure[key] if figure[key] is not None else float("nan") for key in ("low", "high"))
    return f"{meaning}: {figure['value']:.3f} ({low:.3f} to {high:.3f}), n = {figure['n']}"
