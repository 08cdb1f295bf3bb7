from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from triage import services
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    help = "Shows or stops the embedded PostgreSQL and Valkey; the data stays."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=["status", "stop"])

    def handle(self, *, what: str, **options: Any) -> None:
        for name, word in (services.stop() if what == "stop" else services.status()).items():
            self.stdout.write(f"{name}: {word}")
