"""Train a release on labelled notes; needs no database, but to train from the labels in it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mlcore import bundle, protocols, records
from mlcore.crossfit import lines as crossfit_lines
from mlcore.crossfit import train_folds
from mlcore.encoder import POOLINGS
from mlcore.errors import DataError
from mlcore.loop import METRICS, TrainConfig
from mlcore.losses import LOSSES
from mlcore.mil import KINDS
from mlcore.train import train
from triage.labelled import SOURCES
from triage.management.command import SentenceCommand

NUMBERS = (
    ("--epochs", "epochs", "planned"),
    ("--most-epochs", "most_epochs", "as many while the metric still improves, where more than planned"),
    ("--patience", "patience", "epochs in a row without a better metric before it stops"),
    (
        "--batch",
        "batch",
        "cases a step; gradients of its parts are accumulated where they do not fit at once",
    ),
    ("--drawn", "drawn", "at most so many cases of a class an epoch; 0 halves the commonest class"),
    ("--validation", "validation", "share of each class that chooses the epoch and fits the temperature"),
    ("--window", "window", "tokens of a window at most, fewer where the encoder reads fewer"),
    ("--head-rate", "head_rate", "learning rate of the head"),
    ("--rate", "tune_rate", "learning rate of a Hugging Face encoder that is tuned"),
    ("--weight-decay", "weight_decay", "of every weight that learns"),
    ("--distil", "tune_distil", "share of a tuned encoder's loss that follows an out-of-fold linear model"),
    ("--seed", "seed", "of every random draw"),
)


CHOICES = (
    ("--head", "head", KINDS, "architecture"),
    ("--pooling", "pooling", POOLINGS, "a window's vector from its tokens', with a Hugging Face encoder"),
    (
        "--metric",
        "metric",
        METRICS,
        "chooses the epoch: the critical labels' F1 where the protocol has any, else the loss",
    ),
    ("--loss", "loss", LOSSES, "adjusted by the classes' priors, or weighted by their inverse frequency"),
)
ASKED = ("tune", "unbiased", "tune_words", "tune_dropout", *(name for _, name, *_ in (*CHOICES, *NUMBERS)))


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


def _kept(card: dict[str, Any]) -> str:
    """What was chosen, and what it came to on cases it was not fitted on."""
    chosen, epochs = card["chosen"], card["epochs"]
    if not epochs:
        return f"strength {chosen['strength']:g} kept, {chosen['metric']} {chosen['value']:.3f} out of fold"
    kept = next(e for e in epochs if e["epoch"] == chosen["epoch"])
    return f"epoch {kept['epoch']} of {len(epochs)} kept, validation AUROC {kept['validation_auroc']:.3f}"


def _check_folds(options: dict[str, Any]) -> None:
    if options["folds"] is None and options["folds_of"]:
        raise DataError(
            "--folds-of compares folds and there are none: give --folds with it, or leave it out."
        )
    if options["folds"] is not None and options["from_labels"]:
        raise DataError(
            "--folds cannot go with --from-labels, of which the audit sample alone tells how often each label is true: "
            "leave --folds out, or give a file with --notes."
        )


class Command(SentenceCommand):
    help = "Train a release on labelled notes: encoder, head, calibration, sealed in one folder."
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--protocol", required=True, help="slug of the question, such as hiv-suspicion-es"
        )
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument(
            "--notes", type=Path, help="labelled cases, JSONL, CSV or openFDA JSON, packed or not"
        )
        source.add_argument(
            "--from-labels",
            action="store_true",
            help="the labels given here, with their notes; the random audit sample alone calibrates",
        )
        parser.add_argument(
            "--site", action="append", default=[], help="whose labels (every site's); may be given again"
        )
        parser.add_argument(
            "--encoder",
            required=True,
            help="compact (made on the spot), tfidf (a linear model), a Hugging Face name, or a folder",
        )
        parser.add_argument("--output", required=True, type=Path, help="a new folder for the bundle")
        usual = TrainConfig()
        for option, name, known, told in CHOICES:
            parser.add_argument(
                option, dest=name, choices=known, help=f"{told} ({getattr(usual, name) or 'by the protocol'})"
            )
        parser.add_argument(
            "--tune",
            type=layers,
            help="what learns of a Hugging Face encoder: none, all, or the number of last layers (none; 4 for "
            "maude-severity-en)",
        )
        parser.add_argument(
            "--tune-words",
            action=argparse.BooleanOptionalAction,
            help="with --tune all: whether the token vectors learn too (they do)",
        )
        parser.add_argument(
            "--unbiased",
            action=argparse.BooleanOptionalAction,
            help="whether each class's bias is fitted with the temperature (it is not; it is for maude-severity-en)",
        )
        parser.add_argument(
            "--tune-dropout",
            action=argparse.BooleanOptionalAction,
            help="whether dropout of a tuned encoder stays on (it does; not for maude-severity-en)",
        )
        for option, name, told in NUMBERS:
            default = getattr(usual, name)
            parser.add_argument(option, dest=name, type=type(default), help=f"{told} ({default})")
        parser.add_argument(
            "--folds",
            type=int,
            help="train a release on the others of each of so many folds, measure it on its own, keep the best by the "
            "protocol's critical labels",
        )
        parser.add_argument(
            "--folds-of",
            type=Path,
            help="with --folds: a release trained before, whose folds must be the same",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        _check_folds(options)
        spec = protocols.get(options["protocol"])
        usual = TrainConfig.usual(spec, options["encoder"])
        config = replace(usual, **{name: options[name] for name in ASKED if options[name] is not None})
        cases, origin = self._cases(spec, options)
        what = (cases, spec, options["encoder"], options["output"])
        if options["folds"] is None:
            card = train(*what, config, Bars(), origin)
        else:
            like = bundle.read_card(options["folds_of"]) if options["folds_of"] else None
            card = train_folds(*what, options["folds"], config, Bars(), origin, like)
            self.stdout.write("\n".join(crossfit_lines(card)))
            self.stdout.write(f"Fold {card['folds']['fold']} is kept: {card['folds']['why']}.")
        if not card:  # another process of this launch writes the bundle
            return
        self.stdout.write(
            f"{options['output']}: {card['data']['cases']} cases, {_kept(card)}, "
            f"{sum(s['cpu'] for s in card['seconds'].values()):.0f} s of processor."
        )

    def _cases(
        self, spec: protocols.ProtocolSpec, options: dict[str, Any]
    ) -> tuple[list[records.Record], dict[str, Any] | None]:
        if options["from_labels"]:
            return SOURCES["labels"](spec.slug, options["site"])
        found = records.labelled(options["notes"], spec)
        dropped = found.without_narrative + found.without_label
        if dropped:
            self.stdout.write(
                f"{dropped} reports are left out: {found.without_label} of no known event type, "
                f"{found.without_narrative} without a narrative."
            )
        return found.records, found.card()
