"""Exports: asked for, written by a worker, fetched by who asked, gone after a week. The trail has each of these.

A file appears whole or not at all, and only once the event that says what is in it is committed.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from mlcore.errors import DataError
from reviews import jobs
from reviews.formats import FORMS, MUST, NEVER
from reviews.models import ExportRun
from reviews.rows import count, rows, snapshot
from triage import audit, claims
from triage.access import Workplace
from triage.background import Entry
from triage.models import AuditEvent, Protocol, Site

log = logging.getLogger(__name__)
DAYS = 7
TOLD_EVERY = 2000


@dataclass
class Written:
    """What an export came to: rows by site, and the size and digest of the whole file."""

    rows: Counter[str] = field(default_factory=Counter)
    size: int = 0
    sha256: str = ""


def refusal(form: str, with_notes: bool) -> str:
    """Why the form cannot be had with, or without, the text of the notes; empty when it can (a gettext id)."""
    if form not in FORMS:
        return f"There is no form {form!r}: use one of {', '.join(FORMS)}."
    if with_notes and FORMS[form].notes == NEVER:
        return "This form never carries the text of the notes: leave the notes out, or choose JSON Lines."
    if not with_notes and FORMS[form].notes == MUST:
        return "This form is made of the notes themselves: include their text, or choose another form."
    return ""


def write(
    target: IO[bytes],
    protocol: Protocol,
    sites: Sequence[Site],
    form: str,
    *,
    with_notes: bool = False,
    tell: Callable[[int], None] = lambda _: None,
) -> Written:
    """Write the export as the database is now; ``tell`` hears how many rows are written, every few thousand."""
    written, chosen = Written(), FORMS[form]
    with snapshot():
        found = rows(protocol, sites, with_notes=with_notes, named=chosen.named)
        chosen.write(target, _counted(found, written.rows, tell), protocol)
    target.flush()
    target.seek(0)
    written.sha256 = hashlib.file_digest(target, "sha256").hexdigest()
    written.size = target.tell()
    return written


def _counted(
    found: Iterator[dict[str, Any]], by_site: Counter[str], tell: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(found, 1):
        by_site[row["site"]] += 1
        if number % TOLD_EVERY == 0:
            tell(number)
        yield row


def record(
    written: Written, protocol: Protocol, sites: Sequence[Site], form: str, *, with_notes: bool, actor: Any
) -> None:
    """The disclosure, at each site: form, rows, digest, and whether text goes along."""
    for site in sites:
        details = {
            "form": form,
            "rows": written.rows[site.slug],
            "sha256": written.sha256,
            "with_notes": with_notes,
        }
        audit.record("labels.export", protocol, site=site, actor=actor, details=details)


def to_path(path: Path, protocol: Protocol, sites: Sequence[Site], form: str, *, with_notes: bool) -> Written:
    """The export at ``path``, whole or not at all. DataError where that is a folder or a device."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not an ordinary file: choose another --output.")
    with _appearing(path) as (file, appear):
        written = write(file, protocol, sites, form, with_notes=with_notes)
        with transaction.atomic():
            record(written, protocol, sites, form, with_notes=with_notes, actor=None)
            appear()
    return written


@contextmanager
def _appearing(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """A file (0600) beside ``path`` and the function that puts it there; without that call nothing remains."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w+b") as file:

            def appear() -> None:
                file.flush()
                os.fsync(file.fileno())
                Path(name).replace(path)

            yield file, appear
    finally:
        Path(name).unlink(missing_ok=True)


# Asked for on a page or through the API, written by a worker


def ask(place: Workplace, user: Any, form: str, with_notes: bool) -> ExportRun:
    """Put an export in line. DataError where the form cannot be had so."""
    if reason := refusal(form, with_notes):
        raise DataError(reason)
    run = ExportRun.objects.create(
        site=place.site, protocol=place.protocol, by=user, form=form, with_notes=with_notes
    )
    details = {"protocol": place.protocol.slug, "form": form, "with_notes": with_notes}
    audit.record("export.ask", run, site=place.site, actor=user, details=details)
    transaction.on_commit(jobs.wake_exports, robust=True)
    return run


def again(run: ExportRun) -> bool:
    """Put a failed export in line once more; whether it was one."""
    failed = ExportRun.objects.filter(pk=run.pk, status="failed")
    transaction.on_commit(jobs.wake_exports, robust=True)
    return bool(failed.update(status="pending", attempts=0, failure="", rows=0))


def path_of(run: ExportRun) -> Path:
    return settings.EXPORTS_DIR / f"{run.pk}.{FORMS[run.form].ending}"


def fetchable(run: ExportRun) -> bool:
    """Whether its file can be had now."""
    return run.status == "ready" and not expired(run) and path_of(run).is_file()


def expired(run: ExportRun) -> bool:
    return run.expires_at is not None and run.expires_at <= timezone.now()


def record_fetch(run: ExportRun, user: Any, first_byte: int) -> None:
    """A download, or the rest of one: what was taken, from where on."""
    details = {"form": run.form, "with_notes": run.with_notes, "sha256": run.sha256, "from": first_byte}
    audit.record("labels.fetch", run, site=run.site, actor=user, details=details)


def drain(seconds: float = math.inf) -> int:
    """Write what waits, none begun after ``seconds``; how many were written."""
    done, until = 0, time.monotonic() + seconds
    with claims.held() as number:
        while time.monotonic() < until and (runs := claims.take(waiting(), number, batch=1)):
            done += sum(_attempt(run, number) for run in runs)
    return done


def waiting() -> QuerySet[ExportRun]:
    pending = ExportRun.objects.filter(status="pending").select_related("site", "protocol", "by")
    return pending.order_by("asked_at", "pk")


def _attempt(run: ExportRun, number: int) -> int:
    mine = ExportRun.objects.filter(pk=run.pk, status="claimed", claim=number)
    try:
        return _write(run, mine)
    except Exception as error:
        log.exception("export %d failed", run.pk)
        claims.give_back(mine, "failed", f"{type(error).__name__} while it was written")
        return 0


def _write(run: ExportRun, mine: QuerySet[ExportRun]) -> int:
    """The snapshot ends before the event is written: the trail's chain must be read as it is then."""
    settings.EXPORTS_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    sites = [run.site]
    mine.update(total=count(run.protocol, sites), rows=0)
    with _appearing(path_of(run)) as (file, appear), _progress(run) as tell:
        written = write(file, run.protocol, sites, run.form, with_notes=run.with_notes, tell=tell)
        with transaction.atomic():
            done = mine.update(
                status="ready",
                claim=None,
                claimed_at=None,
                rows=written.rows.total(),
                total=written.rows.total(),
                size=written.size,
                sha256=written.sha256,
                ready_at=timezone.now(),
                expires_at=timezone.now() + timedelta(days=DAYS),
            )
            if done:
                asked = {"with_notes": run.with_notes, "actor": run.by}
                record(written, run.protocol, sites, run.form, **asked)
                appear()
    return done


@contextmanager
def _progress(run: ExportRun) -> Iterator[Callable[[int], None]]:
    """Says how far it is through a connection of its own: what the snapshot writes nobody would see until it ends."""
    other = connections.create_connection(DEFAULT_DB_ALIAS)

    def tell(written: int) -> None:
        with other.cursor() as cursor:
            cursor.execute("UPDATE reviews_exportrun SET rows = %s WHERE id = %s", [written, run.pk])

    try:
        yield tell
    finally:
        other.close()


def reconcile() -> int:
    """Give back what dead workers held, remove files whose time is over; how many exports wait."""
    claims.release_abandoned(ExportRun, "failed")
    _sweep()
    return waiting().count()


def _sweep() -> None:
    """Every file that is neither a live export's nor being written goes. Listed first: what is written later is not seen."""
    files = list(settings.EXPORTS_DIR.iterdir()) if settings.EXPORTS_DIR.is_dir() else []
    live = Q(status="ready", expires_at__gt=timezone.now()) | Q(status="claimed")
    keep = tuple(path_of(run).name for run in ExportRun.objects.filter(live)) if files else ()
    for path in files:
        if not (keep and path.name.removeprefix(".").startswith(keep)):
            path.unlink(missing_ok=True)


def asked(place: Workplace, most: int = 10) -> QuerySet[ExportRun]:
    """The latest exports asked for at the workplace, the newest first."""
    runs = ExportRun.objects.filter(site=place.site, protocol=place.protocol).select_related("by")
    return runs.order_by("-asked_at", "-pk")[:most]


def at_work(place: Workplace) -> list[Entry]:
    """The latest exports, as the page of background work shows them."""
    states = {"pending": "waiting", "claimed": "running", "ready": "done", "failed": "failed"}
    url = reverse("reviews:export", args=[place.site.slug, place.protocol.slug])
    return [
        Entry(
            key=f"export-{run.pk}",
            name=_("export of labels"),
            state=states[run.status],
            asked_at=run.asked_at,
            by=run.by,
            ended_at=run.ready_at,
            done=run.rows,
            total=run.total,
            failure=run.failure,
            url=url,
        )
        for run in asked(place)
    ]


def past(place: Workplace) -> QuerySet[AuditEvent]:
    """The latest disclosures of the workplace, those of the command line too."""
    events = AuditEvent.objects.filter(
        site=place.site, object_type="triage.protocol", object_id=str(place.protocol.pk)
    )
    return events.filter(verb="labels.export").select_related("actor").order_by("-pk")[:5]
