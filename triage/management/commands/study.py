"""The paper's whole evaluation on two files of labelled notes; needs no database."""

from __future__ import annotations

import dataclasses
import signal
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mlcore import protocols, records
from mlcore.errors import DataError
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    """`manage.py study --protocol P --train FILE --test FILE --output FOLDER`."""

    help = "Train every model of the paper on one file, evaluate on another; writes report.html, CSVs, metrics.json."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--protocol", required=True, help="slug of the question, such as hiv-suspicion-es"
        )
        parser.add_argument(
            "--train", required=True, type=Path, help="labelled cases to train and calibrate on"
        )
        parser.add_argument("--test", required=True, type=Path, help="labelled cases that are only read")
        parser.add_argument(
            "--output", required=True, type=Path, help="a new folder, or one broken off before"
        )
        parser.add_argument("--encoder", default="compact", help="compact, a Hugging Face name, or a folder")
        parser.add_argument(
            "--folds", type=int, help="members of an ensemble (default 10, or 3 with --quick)"
        )
        parser.add_argument("--jobs", type=int, default=2, help="processes side by side, one thread each")
        parser.add_argument(
            "--quick", action="store_true", help="a small honest run: 3 folds, small encoders, 200 resamples"
        )

    def handle(self, **options: Any) -> None:
        spec = protocols.get(options["protocol"])
        _check(options)
        training, test = (records.load_labelled(options[name], spec) for name in ("train", "test"))
        from mlcore import members, study

        config = members.StudyConfig.quick() if options["quick"] else members.StudyConfig()
        folds = options["folds"] or config.folds
        config = dataclasses.replace(config, encoder=options["encoder"], folds=folds)
        cohort = members.Cohort(spec, training, test)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with tqdm(desc="models", unit="model", file=sys.stderr) as bar:
                figures = study.run(
                    cohort, config, options["output"], options["jobs"], lambda *done: _show(bar, *done)
                )
        except KeyboardInterrupt:
            self.stderr.write("Stopped. The same command goes on where it stopped.")
            sys.exit(130)
        finally:
            signal.signal(signal.SIGTERM, before)
        from mlcore import study_page

        for sentence in study_page.findings(figures):
            self.stdout.write(sentence)
        self.stdout.write(f"Written to {options['output']}: report.html, metrics.json, tables, predictions")


def _check(options: dict[str, Any]) -> None:
    if options["folds"] is not None and not 2 <= options["folds"] <= 50:
        raise DataError(f"--folds is {options['folds']}: an ensemble has 2 to 50 members.")
    if options["jobs"] < 1:
        raise DataError(f"--jobs is {options['jobs']}: at least one process is needed.")


def _show(bar: Any, step: str, done: int, total: int) -> None:
    bar.total = total
    bar.set_postfix_str(step, refresh=False)
    bar.update(done - bar.n)
