from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlcore.errors import DataError
from reviews import replay
from triage.management.command import SentenceCommand
from triage.models import Protocol, Site

NAMES = {
    "predictions": "predictions from stored logits and distances",
    "decisions": "outcomes under the policy of their time",
    "reviews": "outcomes of what was read, under its policy",
    "propensities": "propensities of labels",
}
SHOWN = 20


class Command(SentenceCommand):
    help = "Computes every stored decision again and names each that comes out otherwise (exit code 1)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--site", help="one site's slug; every site without it")
        parser.add_argument("--protocol", help="one protocol's slug; every protocol without it")
        parser.add_argument(
            "--json", type=Path, help="also write the counts, and the ids that differ, to this file"
        )

    def handle(self, *, site: str | None, protocol: str | None, json: Path | None, **options: Any) -> None:
        sites, protocols = _known(Site, site), _known(Protocol, protocol)
        start = time.monotonic()
        found = replay.everything(sites, protocols)
        seconds = time.monotonic() - start
        self._tell(found, seconds)
        if json:
            json.write_text(_document(found, seconds), encoding="utf-8")
        if any(check.differ for check in found.values()):
            sys.exit(1)

    def _tell(self, found: dict[str, replay.Check], seconds: float) -> None:
        self.stdout.write(f"{'':<46}{'computed':>12}{'the same':>12}{'left out':>12}")
        for name, check in found.items():
            same = check.checked - check.differ
            self.stdout.write(f"{NAMES[name]:<46}{check.checked:>12,}{same:>12,}{check.left_out:>12,}")
        for name, check in found.items():
            if check.differ:
                ids = ", ".join(map(str, check.ids[:SHOWN]))
                more = f" and {check.differ - SHOWN} more" if check.differ > SHOWN else ""
                self.stdout.write(f"{NAMES[name]} differ: {ids}{more}")
        checked = sum(check.checked for check in found.values())
        same = checked - sum(check.differ for check in found.values())
        share = f"{100 * same / checked:.10g} %" if checked else "nothing stored yet"
        self.stdout.write(f"computed again and the same: {share}, in {seconds:.1f} s")


def _known(model: type[Site] | type[Protocol], slug: str | None) -> list[Any]:
    rows = model._default_manager.order_by("slug")
    found = list(rows.filter(slug=slug) if slug else rows)
    if slug and not found:
        known = ", ".join(rows.values_list("slug", flat=True)) or "none yet"
        raise DataError(f"{model.__name__} {slug!r} is not known: use one of {known}.")
    return found


def _document(found: dict[str, replay.Check], seconds: float) -> str:
    figures = {name: asdict(check) for name, check in found.items()}
    return json.dumps({"name": "replay", "seconds": round(seconds, 1), **figures}, indent=2) + "\n"
