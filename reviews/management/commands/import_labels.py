from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from mlcore.errors import DataError
from reviews import reading_in
from reviews.management.commands.export_labels import _protocol
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    help = "Reads an export (jsonl with notes) back in, with all it speaks of; releases it names are never active."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--site", required=True, help="the slug in the file; made where it is missing")
        parser.add_argument("--protocol", required=True)

    def handle(self, *, file: Path, site: str, protocol: str, **options: Any) -> None:
        try:
            lines = file.open("rb")
        except OSError as error:
            raise DataError(f"{file} cannot be opened ({error.strerror}): check the path.") from None
        with lines:
            new, known = reading_in.read(lines, site, _protocol(protocol))
        self.stdout.write(f"{new} labels read from {file}, {known} stood here already.")
