from __future__ import annotations

import sys
from typing import Any

from triage import audit
from triage.management.command import SentenceCommand
from triage.models import AuditEvent


class Command(SentenceCommand):
    help = "Checks the chain of the audit trail; names each altered event by its id (exit code 1)."

    def handle(self, **options: Any) -> None:
        broken = audit.broken()
        for event in broken:
            self.stdout.write(f"event {event} was altered, or the one before it was removed")
        self.stdout.write(f"{AuditEvent.objects.count()} events, {len(broken)} broken")
        if broken:
            sys.exit(1)
