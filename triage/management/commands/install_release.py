from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.db import transaction

from triage import jobs, registry
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    help = (
        "Checks a bundle, copies it and makes it its protocol's active release; cases it has not scored are scored by it. "
        "With --shadow a protocol's second release only waits: to be scored in shadow, compared and promoted on the page."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path)
        parser.add_argument("--shadow", action="store_true", help="install it beside the active release")

    def handle(self, *, folder: Path, shadow: bool, **options: Any) -> None:
        release, new = registry.install(folder, shadow=shadow)
        transaction.on_commit(jobs.wake_scoring, robust=True)
        word = "installed" if new else "was installed before"
        stands = "it is active for" if release.active else "it waits in shadow for"
        self.stdout.write(f"{release.name} ({release.sha256[:12]}) {word}; {stands} {release.protocol.slug}.")
