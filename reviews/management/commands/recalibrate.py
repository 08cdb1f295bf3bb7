from __future__ import annotations

from argparse import ArgumentParser
from datetime import date
from typing import Any

from mlcore.errors import DataError, told
from reviews import recalibration
from reviews.management.commands.export_labels import _protocol, _sites
from triage import policy
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    help = "Calibrates the active release on a site's own labels (its random audit sample) and ranks its cases anew."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--site", required=True)
        parser.add_argument("--protocol", required=True)
        parser.add_argument("--reason", default="", help="written beside the calibration and in the trail")
        parser.add_argument(
            "--held-out",
            type=float,
            default=0.0,
            help="what a calibration case the release came with counts beside an audited one, 0 to 1 (0)",
        )
        parser.add_argument(
            "--since",
            type=date.fromisoformat,
            help="YYYY-MM-DD: only cases that arrived on that day or later",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only say what there is and what is missing"
        )

    def handle(self, *, site: str, protocol: str, reason: str, dry_run: bool, **options: Any) -> None:
        [here], asked = _sites(site), _protocol(protocol)
        if not 0 <= options["held_out"] <= 1:
            raise DataError(f"--held-out is {options['held_out']}: give a weight from 0 to 1.")
        if dry_run:
            self._tell(here, asked, options["since"])
            return
        if not reason.strip():
            raise DataError("A calibration is made for a reason: give --reason.")
        weight, since = options["held_out"], options["since"]
        done = recalibration.make(here, asked, by=None, reason=reason, held_out=weight, since=since)
        self.stdout.write(
            f"Calibration {done['calibration']} of {done['cases']} audited cases is in force at {site}: "
            f"{done['moved']} cases ranked anew."
        )

    def _tell(self, site: Any, protocol: Any, since: date | None) -> None:
        dial = policy.current(site, protocol)
        found = recalibration.labelled(site, protocol, since)
        lacking = recalibration.need(found, site, dial)
        for label, one in lacking.labels.items():
            wanting = f"{one.cases} more needed" if one.cases else "enough"
            self.stdout.write(f"{label}: {one.n} audited cases, effective {one.effective:.1f}; {wanting}")
        waits = found.sample
        self.stdout.write(
            f"alpha {dial.alpha:g}, floor {dial.typicality_floor:g}, audit rate {dial.audit_rate:g}; "
            f"{waits.open_weeks} week(s) not read out ({waits.unread} unread, {waits.unsettled} unsettled), "
            f"{found.learned} left out because the release learned from them."
        )
        if lacking.reads:
            self.stdout.write(told(*recalibration.how_long(lacking, found)))
