"""Train a release on labelled notes; needs no database, but to train from the labels in it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mlcore import protocols, records
from mlcore.encoder import POOLINGS
from mlcore.loop import METRICS, TrainConfig
from mlcore.mil import KINDS
from mlcore.train import train
from triage.labelled import SOURCES
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


def layers(text: str) -> int:
    """What `--tune` means: 0 for none, -1 for all, else a number of layers."""
    named = {"none": 0, "all": -1}
    if text in named:
        return named[text]
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither none, all nor a number of layers.")
    return int(text)


class Command(SentenceCommand):
    help = "Train a release on labelled notes: encoder, head, calibration, sealed in one folder."
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--protocol", required=True, help="slug of the question, such as hiv-suspicion-es"
        )
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("--notes", type=Path, help="labelled cases, JSONL or CSV, gzipped or not")
        source.add_argument(
            "--from-labels",
            action="store_true",
            help="the labels given here, with their notes; the random audit sample alone calibrates",
        )
        parser.add_argument(
            "--site", action="append", default=[], help="whose labels (every site's); may be given again"
        )
        parser.add_argument(
            "--encoder", required=True, help="compact (made on the spot), a Hugging Face name, or a folder"
        )
        parser.add_argument("--output", required=True, type=Path, help="a new folder for the bundle")
        usual = TrainConfig()
        parser.add_argument("--head", choices=KINDS, default=usual.head, help=f"architecture ({usual.head})")
        parser.add_argument(
            "--pooling",
            choices=POOLINGS,
            default=usual.pooling,
            help=f"a window's vector from its tokens', with a Hugging Face encoder ({usual.pooling})",
        )
        parser.add_argument(
            "--tune",
            type=layers,
            default=usual.tune,
            help="what learns of a Hugging Face encoder: none, all, or the number of last layers (none)",
        )
        parser.add_argument("--epochs", type=int, default=usual.epochs, help=f"at most ({usual.epochs})")
        parser.add_argument(
            "--metric", choices=METRICS, default=usual.metric, help=f"chooses the epoch ({usual.metric})"
        )
        parser.add_argument(
            "--seed", type=int, default=usual.seed, help=f"of every random draw ({usual.seed})"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        spec = protocols.get(options["protocol"])
        asked = ("head", "pooling", "tune", "epochs", "metric", "seed")
        config = TrainConfig(**{name: options[name] for name in asked})
        cases, origin = self._cases(spec, options)
        card = train(cases, spec, options["encoder"], options["output"], config, Bars(), origin)
        if not card:  # another process of this launch writes the bundle
            return
        kept = next(e for e in card["epochs"] if e["epoch"] == card["chosen"]["epoch"])
        self.stdout.write(
            f"{options['output']}: {card['data']['cases']} cases, epoch {kept['epoch']} of {len(card['epochs'])} kept, "
            f"validation AUROC {kept['validation_auroc']:.3f}, "
            f"{sum(s['cpu'] for s in card['seconds'].values()):.0f} s of processor."
        )

    def _cases(
        self, spec: protocols.ProtocolSpec, options: dict[str, Any]
    ) -> tuple[list[records.Record], dict[str, Any] | None]:
        if options["from_labels"]:
            return SOURCES["labels"](spec.slug, options["site"])
        return records.load_labelled(options["notes"], spec), None
