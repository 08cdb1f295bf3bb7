from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.db import transaction

from triage import jobs, registry
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    help = (
        "Checks a bundle, copies it and makes it its protocol's active release; every case is scored again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path)

    def handle(self, *, folder: Path, **options: Any) -> None:
        release, new = registry.install(folder)
        transaction.on_commit(jobs.wake_scoring, robust=True)
        word = "installed" if new else "was installed before"
        self.stdout.write(
            f"{release.name} ({release.sha256[:12]}) {word}; it is active for {release.protocol.slug}."
        )
