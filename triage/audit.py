"""The trail: every change and every disclosure is one event, in the transaction of what it describes."""

from __future__ import annotations

from typing import Any

from django.db import connection
from django.db.models import Model

from triage.models import AuditEvent, Site


def record(
    verb: str, subject: Model, *, site: Site | None, actor: Any = None, details: dict[str, Any] | None = None
) -> AuditEvent:
    """Append one event. ``actor`` None is the system itself; ``details`` hold figures, never text of a note."""
    return AuditEvent.objects.create(
        site=site,
        actor=actor,
        verb=verb,
        object_type=subject._meta.label_lower,
        object_id=str(subject.pk),
        details=details or {},
    )


def broken() -> list[int]:
    """Ids of the events whose digest or link to the event before does not hold, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id FROM (
                SELECT event.id, event.previous, event.digest, audit_digest(event) AS expected,
                       lag(event.digest, 1, ''::bytea) OVER (PARTITION BY event.site_id ORDER BY event.id) AS before
                FROM triage_auditevent AS event
            ) AS chain
            WHERE digest <> expected OR previous <> before ORDER BY id
            """
        )
        return [row[0] for row in cursor.fetchall()]
