"""A simulated year of a hospital, in a database of its own, and its report by month."""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.test.utils import override_settings
from tqdm import tqdm

from mlcore.errors import CentinelaError
from reviews import simulation, simulation_page
from triage import registry
from triage.benchmarks import scratch_database
from triage.management.command import SentenceCommand

LEAST = 2_000


class Command(SentenceCommand):
    """`manage.py simulate_year --report FOLDER`."""

    help = "Simulates a year of a hospital with a drift in month seven; coverage, missed cases, workload, alarms by month."

    def add_arguments(self, parser: ArgumentParser) -> None:
        usual = simulation.Year()
        parser.add_argument(
            "--notes", type=int, default=usual.notes, help=f"notes in the year ({usual.notes:,})"
        )
        parser.add_argument(
            "--drift", type=int, default=usual.drift, help=f"month it begins in, 0: none ({usual.drift})"
        )
        parser.add_argument(
            "--sensitivity", type=float, default=usual.sensitivity, help=f"the readers' ({usual.sensitivity})"
        )
        parser.add_argument(
            "--specificity", type=float, default=usual.specificity, help=f"the readers' ({usual.specificity})"
        )
        parser.add_argument("--report", type=Path, help="folder for report.html and year.json")

    def handle(self, *, report: Path | None, **options: Any) -> None:
        year = simulation.Year(
            **{name: options[name] for name in ("notes", "drift", "sensitivity", "specificity")}
        )
        check(year)
        with (
            tempfile.TemporaryDirectory() as folder,
            scratch_database(),
            override_settings(RELEASES_DIR=Path(folder) / "releases", DEBUG=False),
        ):
            registry.install(simulation.train(Path(folder)))
            with tqdm(total=simulation.WEEKS, desc="weeks", file=sys.stderr) as bar:
                figures = simulation.run(year, lambda done, _total: bar.update(done - bar.n))
        self.stdout.write(simulation_page.table(figures))
        if report:
            report.mkdir(parents=True, exist_ok=True)
            (report / "year.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
            (report / "report.html").write_text(simulation_page.written(figures), "utf-8")
            self.stdout.write(f"{report / 'report.html'}")


def check(year: simulation.Year) -> None:
    if year.notes < LEAST or not 0 <= year.drift <= 12:
        raise CentinelaError(f"--notes must be at least {LEAST}, and --drift from 0 to 12.")
    if not (0 < year.sensitivity <= 1 and 0 < year.specificity <= 1):
        raise CentinelaError("--sensitivity and --specificity are shares: give numbers above 0, up to 1.")
