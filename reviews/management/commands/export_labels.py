from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from mlcore.errors import DataError
from reviews import exports
from reviews.formats import FORMS
from triage.management.command import SentenceCommand
from triage.models import Protocol, Site


class Command(SentenceCommand):
    help = "Writes the standing labels of a protocol to a file, with where each came from."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--protocol", required=True)
        parser.add_argument("--site", help="one site's slug; every site without it")
        parser.add_argument("--format", required=True, choices=list(FORMS))
        parser.add_argument("--output", required=True, type=Path)
        parser.add_argument(
            "--with-notes", action="store_true", help="the text of the notes too (jsonl, datasets, brat)"
        )

    def handle(
        self, *, protocol: str, site: str | None, output: Path, with_notes: bool, **options: Any
    ) -> None:
        if reason := exports.refusal(options["format"], with_notes):
            raise DataError(reason)
        asked, sites = _protocol(protocol), _sites(site)
        if not output.parent.is_dir():
            raise DataError(
                f"The folder {output.parent} does not exist: make it, or choose another --output."
            )
        try:
            written = exports.to_path(output, asked, sites, options["format"], with_notes=with_notes)
        except PermissionError as error:
            raise DataError(f"{error.filename} cannot be written: choose another --output.") from error
        self.stdout.write(
            f"{written.rows.total()} labels of {protocol} written to {output} (sha256 {written.sha256})."
        )


def _protocol(slug: str) -> Protocol:
    found = Protocol.objects.filter(slug=slug).first()
    if found is None:
        known = ", ".join(Protocol.objects.order_by("slug").values_list("slug", flat=True))
        raise DataError(f"Protocol {slug!r} is not known: use one of {known}.")
    return found


def _sites(slug: str | None) -> list[Site]:
    sites = Site.objects.order_by("slug")
    found = list(sites.filter(slug=slug) if slug else sites)
    if not found:
        known = ", ".join(sites.values_list("slug", flat=True)) or "none yet"
        raise DataError(f"Site {slug!r} is not known: use one of {known}.")
    return found
