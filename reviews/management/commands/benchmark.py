from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlcore.errors import CentinelaError
from reviews.benchmarks import queue_figures, scroll_figures
from triage import attribution_benchmarks, benchmarks
from triage.management.command import SentenceCommand


def calibrate_figures() -> benchmarks.Figures:
    from mlcore.benchmarks import calibrate_figures

    return calibrate_figures()


def encode_figures() -> benchmarks.Figures:
    from mlcore.benchmarks import encode_figures

    return encode_figures()


LEAST = 10_000
BENCHMARKS: dict[str, Callable[..., benchmarks.Figures]] = {
    "dial": benchmarks.dial_figures,
    "queue": queue_figures,
    "scoring": benchmarks.scoring_figures,
    "calibrate": calibrate_figures,
    "encode": encode_figures,
    "explain": attribution_benchmarks.explain_figures,
    "openfda": benchmarks.openfda_figures,
    "scroll": scroll_figures,
}


class Command(SentenceCommand):
    help = "Times a part of Centinela in a database of its own and prints a table."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", choices=BENCHMARKS)
        parser.add_argument("--rows", type=int, help="cases in the queue, for «queue»")
        parser.add_argument("--reports", type=int, help="reports in the file, for «openfda»")
        parser.add_argument("--json", type=Path, help="also write {name, figures} to this file")

    def handle(
        self, *, name: str, rows: int | None, reports: int | None, json: Path | None, **options: Any
    ) -> None:
        if rows is not None and (name != "queue" or rows < LEAST):
            raise CentinelaError(f"--rows is for «queue», and at least {LEAST}.")
        if reports is not None and (name != "openfda" or reports < 1):
            raise CentinelaError("--reports is for «openfda», and at least 1.")
        size = {key: n for key, n in (("rows", rows), ("reports", reports)) if n is not None}
        with benchmarks.scratch_database():
            figures = {key: round(value, 3) for key, value in BENCHMARKS[name](**size).items()}
        for key, value in figures.items():
            self.stdout.write(f"{key:<24} {value:>14,.3f}".rstrip("0").rstrip("."))
        if json:
            json.write_text(_document(name, figures), encoding="utf-8")


def _document(name: str, figures: benchmarks.Figures) -> str:
    return json.dumps({"name": name, "figures": figures}, indent=2) + "\n"
