"""Claiming work by a conditional update, and giving back what a dead worker held.

A worker holds a PostgreSQL advisory lock under its claim number for as long as its connection lives, so the death of
the worker frees its claims at once: no timeout, no heartbeat. Attempts are counted as the claim commits, before any
work, so that a crash is counted too. Work that was tried before is claimed alone: a poison case takes nothing with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, reset_queries, transaction
from django.db.models import F, Model, QuerySet
from django.db.models.functions import Now
from django.utils.translation import gettext, gettext_noop

ATTEMPTS = 3
CRASHED = gettext_noop("The worker died each of the %(attempts)d times it read this.")


@contextmanager
def held() -> Iterator[int]:
    """A claim number that is this connection's own until the block ends."""
    number = secrets.randbits(62)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [number])
        try:
            yield number
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [number])


def take(waiting: QuerySet, number: int, batch: int) -> list:
    """Claim up to ``batch`` rows never tried before, else one that was; committed before this returns."""
    reset_queries()  # with DEBUG on Django would keep every statement, vectors and all
    for untried, size in ((True, batch), (False, 1)):
        rows = waiting.filter(attempts=0) if untried else waiting.filter(attempts__gt=0)
        with transaction.atomic():
            chosen = list(rows.select_for_update(skip_locked=True, of=("self",))[:size])
            for row in chosen:
                row.attempts += 1
            waiting.model._base_manager.filter(pk__in=[row.pk for row in chosen]).update(
                status="claimed", claim=number, claimed_at=Now(), attempts=F("attempts") + 1
            )
        if chosen:
            return chosen
    return []


def give_back(rows: QuerySet, failed: str, reason: str) -> int:
    """Claimed rows wait again, or carry ``failed`` and the reason once they were tried often enough."""
    with transaction.atomic():
        locked = list(rows.select_for_update().order_by("pk"))
        spent = [row.pk for row in locked if row.attempts >= ATTEMPTS]
        rows.filter(pk__in=spent).update(status=failed, claim=None, claimed_at=None, failure=reason[:300])
        rows.update(status="pending", claim=None, claimed_at=None)
    return len(locked)


def told(failure: str) -> str:
    """The reason for which a row was set aside, in the language of the page."""
    if failure == CRASHED % {"attempts": ATTEMPTS}:
        return gettext(CRASHED) % {"attempts": ATTEMPTS}
    return gettext(failure)


def release_abandoned(model: type[Model], failed: str) -> int:
    """Give back every row whose claim nobody holds any more."""
    claimed = model._base_manager.filter(status="claimed")
    freed = 0
    for number in claimed.values_list("claim", flat=True).distinct():
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
            if cursor.fetchone()[0]:
                freed += give_back(claimed.filter(claim=number), failed, CRASHED % {"attempts": ATTEMPTS})
    return freed
