"""Train a release on labelled notes; needs no database."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mlcore import protocols, records
from mlcore.train import train
from triage.management.command import SentenceCommand


class Bars:
    """One progress bar a stage, on stderr."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done == 0:
            self.bar = tqdm(total=total, desc=f"{stage:<12}", file=sys.stderr, leave=True)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            if done == total:
                self.bar.close()
                self.bar = None


class Command(SentenceCommand):
    help = "Train a release on labelled notes: encoder, head, calibration, sealed in one folder."
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--protocol", required=True, help="slug of the question, such as hiv-suspicion-es"
        )
        parser.add_argument(
            "--notes", required=True, type=Path, help="labelled cases, JSONL or CSV, gzipped or not"
        )
        parser.add_argument(
            "--encoder", required=True, help="compact (made on the spot), a Hugging Face name, or a folder"
        )
        parser.add_argument("--output", required=True, type=Path, help="a new folder for the bundle")

    def handle(self, *args: Any, **options: Any) -> None:
        spec = protocols.get(options["protocol"])
        cases = records.load_labelled(options["notes"], spec)
        card = train(cases, spec, options["encoder"], options["output"], progress=Bars())
        kept = next(e for e in card["epochs"] if e["epoch"] == card["chosen"]["epoch"])
        self.stdout.write(
            f"{options['output']}: {card['data']['cases']} cases, epoch {kept['epoch']} of {len(card['epochs'])} kept, "
            f"validation AUROC {kept['validation_auroc']:.3f}, "
            f"{sum(s['cpu'] for s in card['seconds'].values()):.0f} s of processor."
        )
