from __future__ import annotations

from argparse import ArgumentParser
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from django.core.management.base import no_translations
from django.db.models import Model
from tqdm import tqdm

from mlcore.errors import DataError
from triage import intake
from triage.management.command import SentenceCommand
from triage.models import ImportRun, Protocol, Site

Named = TypeVar("Named", bound=Model)
TOLD = 20


class Command(SentenceCommand):
    help = (
        "Imports notes from a JSONL, CSV or FHIR file (gzip too), or device events as openFDA ships them (.json, .zip); "
        "tells what landed, what was here, what was refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--protocol", required=True)
        parser.add_argument("--site", required=True)
        parser.add_argument(
            "--rejected", type=Path, metavar="FILE.csv", help="write every refused line there"
        )

    @no_translations
    def handle(self, *, file: Path, protocol: str, site: str, rejected: Path | None, **options: Any) -> None:
        place, question = _named(Site, site), _named(Protocol, protocol)
        with _opened(file, "rb") as source, _listing(rejected) as listing:
            size = file.stat().st_size
            with tqdm(total=size, unit="B", unit_scale=True, desc=file.name) as bar:

                def shown(run: ImportRun) -> None:
                    bar.set_postfix(records=f"{run.lines:,}", refresh=False)
                    bar.update(source.tell() - bar.n)

                run = intake.receive(place, question, source, file.name, None, shown)
            self._tell(run)
            if listing:
                intake.write_rejected(run, listing)

    def _tell(self, run: ImportRun) -> None:
        figures = {
            "lines": run.lines,
            "notes new": run.notes_new,
            "notes already here": run.notes_known,
            "lines rejected": run.lines_rejected,
            "labels ignored": run.labels_ignored,
            "skipped, entered in error": run.skipped,
            "cases waiting to be scored": intake.progress(run.site, run.protocol)["waiting"],
        }
        for name, figure in figures.items():
            self.stdout.write(f"{name:<28}{figure:>10,}")
        for row in islice(intake.rejected(run), TOLD):
            self.stdout.write("line {line}: {reason} {remedy}".format(**row))
        if run.lines_rejected > TOLD:
            self.stdout.write(
                f"… and {run.lines_rejected - TOLD:,} more; --rejected FILE.csv writes all of them"
            )


def _named(model: type[Named], slug: str) -> Named:
    found = model._default_manager.filter(slug=slug).first()
    if found is None:
        known = (
            ", ".join(model._default_manager.order_by("slug").values_list("slug", flat=True)) or "none yet"
        )
        raise DataError(f"{model.__name__} {slug!r} is not known; known here: {known}.")
    return found


def _listing(path: Path | None) -> Any:
    return _opened(path, "w", encoding="utf-8-sig", newline="") if path else nullcontext()


def _opened(path: Path, mode: str, **how: Any) -> Any:
    try:
        return path.open(mode, **how)
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened ({error.strerror}): check the path and its permissions."
        ) from None
