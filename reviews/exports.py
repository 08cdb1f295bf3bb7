"""Labels out: one row a standing label, with everything needed to recompute why the case came to be read.

JSON Lines is the exact form. CSV is the same row made safe for spreadsheets: text that a spreadsheet could run begins
with an apostrophe there, and so does text that began with one; removing one leading apostrophe gives the text back.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from django.db import connection, transaction
from django.db.models import F, QuerySet

from mlcore.errors import DataError
from reviews.models import Label
from triage import audit
from triage import policy as dial
from triage.access import Workplace
from triage.models import AuditEvent, Note, Prediction, Protocol, Site

FORMS = ("jsonl", "csv")
CONTENT_TYPES = {"jsonl": "application/x-ndjson; charset=utf-8", "csv": "text/csv; charset=utf-8"}
CHUNK = 2000
COLUMNS = {
    "site": F("site__slug"),
    "case_id": F("case"),
    "patient_id": F("case__patient__pseudonym"),
    "label": F("reviews__final_label__label"),
    "provenance": F("reviews__final_label__provenance"),
    "propensity": F("reviews__final_label__propensity"),
    "reader": F("reviews__reader__username"),
    "reviewed_at": F("reviews__at"),
    "mode": F("reviews__mode"),
    "comment": F("reviews__comment"),
    "evidence": F("reviews__evidence"),
    "release": F("release__name"),
    "release_sha256": F("release__sha256"),
    "calibration_id": F("calibration"),
    "policy_version": F("reviews__policy__version"),
    "alpha": F("reviews__policy__alpha"),
    "typicality_floor": F("reviews__policy__typicality_floor"),
    "reason": dial.outcome(F("reviews__policy__alpha"), F("reviews__policy__typicality_floor")),
    "model_label": F("label"),
    "p_values": F("p_values"),
    "credibility": F("credibility"),
    "runner_up": F("runner_up"),
    "typicality": F("typicality"),
    "notes": F("note_ids"),
}
# Before a bulk load is analysed the planner takes large tables for empty and would read one once for each row of another.
EVERY_TABLE_ONCE = "SET LOCAL enable_nestloop = off"
RUNNABLE = re.compile(r"[\s\x00-\x1f\x7f\u200b-\u200f\u2060\ufeff]*[=+\-@|%＝＋－＠'\t\r\n]|[\t\r\n]")


@dataclass
class Written:
    """What an export came to: rows by site, and the digest of the whole file."""

    rows: Counter[str] = field(default_factory=Counter)
    sha256: str = ""


def _standing(protocol: Protocol, sites: Sequence[Site]) -> QuerySet[Prediction]:
    """The predictions behind the standing labels, each once, joined to the review and the label."""
    return Prediction.objects.filter(
        protocol=protocol,
        site__in=sites,
        reviews__final_label__isnull=False,
        reviews__final_label__withdrawn_at=None,
    )


def count(protocol: Protocol, sites: Sequence[Site]) -> int:
    standing = Label.objects.filter(case__protocol=protocol, case__site__in=sites, withdrawn_at=None)
    return standing.count()


def rows(protocol: Protocol, sites: Sequence[Site], *, with_notes: bool = False) -> Iterator[dict[str, Any]]:
    """The export, row by row, through a server-side cursor; within a transaction."""
    ordered = _standing(protocol, sites).order_by("reviews__final_label__id")
    found = ordered.values_list(*COLUMNS.values()).iterator(chunk_size=CHUNK)
    with connection.cursor() as cursor:
        cursor.execute(EVERY_TABLE_ONCE)
    while chunk := [dict(zip(COLUMNS, values, strict=True)) for values in islice(found, CHUNK)]:
        notes = _notes(chunk, with_notes)
        for row in chunk:
            yield _row(row, protocol, notes, with_notes)


def _notes(chunk: list[dict[str, Any]], with_notes: bool) -> dict[int, dict[str, Any]]:
    """The notes a chunk speaks of: all of them where they travel along, else those with evidence."""
    needed = {pk for row in chunk if with_notes for pk in row["notes"]}
    needed |= {mark["note"] for row in chunk for mark in row["evidence"]}
    facts = ["pk", "source_id", "written_at", "specialty", *["text"] * with_notes]
    return {note["pk"]: note for note in Note.objects.filter(pk__in=needed).values(*facts)} if needed else {}


def _row(
    row: dict[str, Any], protocol: Protocol, notes: dict[int, dict[str, Any]], with_notes: bool
) -> dict[str, Any]:
    places = {pk: index for index, pk in enumerate(row["notes"])}
    row["evidence"] = [_mark(mark, places[mark["note"]], notes[mark["note"]]) for mark in row["evidence"]]
    row["label"], row["model_label"] = protocol.labels[row["label"]], protocol.labels[row["model_label"]]
    row["reviewed_at"] = row["reviewed_at"].isoformat()
    row["protocol"] = protocol.slug
    row["notes"] = [_note(notes[pk]) for pk in row["notes"]] if with_notes else len(row["notes"])
    return row


def _mark(mark: dict[str, int], index: int, note: dict[str, Any]) -> dict[str, Any]:
    """``note`` counts the case's notes from 0, oldest first; code points [start, end) of its text."""
    found = {"note": index, "note_id": note["source_id"], "start": mark["start"], "end": mark["end"]}
    return found | ({"text": note["text"][mark["start"] : mark["end"]]} if "text" in note else {})


def _note(note: dict[str, Any]) -> dict[str, Any]:
    written_at = note["written_at"].isoformat() if note["written_at"] else None
    return {
        "note_id": note["source_id"],
        "written_at": written_at,
        "specialty": note["specialty"],
        "text": note["text"],
    }


def write(
    target: IO[bytes],
    protocol: Protocol,
    sites: Sequence[Site],
    form: str,
    *,
    with_notes: bool = False,
    actor: Any = None,
) -> Written:
    """Write the export and record it at each site: form, rows, digest, and whether text went along."""
    written, digest = Written(), hashlib.sha256()
    with transaction.atomic():
        for line in _lines(rows(protocol, sites, with_notes=with_notes), form, written.rows):
            target.write(line)
            digest.update(line)
        written.sha256 = digest.hexdigest()
        for site in sites:
            details = {
                "form": form,
                "rows": written.rows[site.slug],
                "sha256": written.sha256,
                "with_notes": with_notes,
            }
            audit.record("labels.export", protocol, site=site, actor=actor, details=details)
    return written


def _lines(found: Iterator[dict[str, Any]], form: str, by_site: Counter[str]) -> Iterator[bytes]:
    line = io.StringIO(newline="")
    table = csv.DictWriter(line, [*COLUMNS, "protocol"], lineterminator="\r\n")
    if form == "csv":
        table.writeheader()
        yield line.getvalue().encode()
    for row in found:
        by_site[row["site"]] += 1
        line.seek(0)
        line.truncate()
        if form == "csv":
            table.writerow({name: _cell(value) for name, value in row.items()})
        else:
            line.write(json.dumps(row, ensure_ascii=False) + "\n")
        yield line.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return safe(value) if isinstance(value, str) else value


def safe(text: str) -> str:
    """The text as a CSV cell that no spreadsheet runs; an apostrophe more where it might."""
    return f"'{text}" if RUNNABLE.match(text) else text


def exact(cell: str) -> str:
    """The text behind a cell of ``safe``."""
    return cell.removeprefix("'")


def temporary(
    protocol: Protocol, sites: Sequence[Site], form: str, *, with_notes: bool, actor: Any
) -> IO[bytes]:
    """The export in a file that vanishes when closed, ready to be sent; recorded before the first byte leaves."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (the response closes it)
    write(file, protocol, sites, form, with_notes=with_notes, actor=actor)
    file.seek(0)
    return file


def to_path(path: Path, protocol: Protocol, sites: Sequence[Site], form: str, *, with_notes: bool) -> Written:
    """The export at ``path``, whole or not at all. DataError where that is a folder or a device."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not an ordinary file: choose another --output.")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, transaction.atomic():
            written = write(file, protocol, sites, form, with_notes=with_notes)
            file.flush()
            os.fsync(file.fileno())
            Path(name).replace(path)
        return written
    finally:
        Path(name).unlink(missing_ok=True)


def past(place: Workplace) -> QuerySet[AuditEvent]:
    """The latest exports of the workplace."""
    events = AuditEvent.objects.filter(
        site=place.site, object_type="triage.protocol", object_id=str(place.protocol.pk)
    )
    return events.filter(verb="labels.export").select_related("actor").order_by("-pk")[:5]
