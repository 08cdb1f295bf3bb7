"""Files come in: each note is stored exactly as written, was here already, or its line is refused with the reason.

One file is one transaction, and a site takes one file at a time (its row is locked for it). So a crash leaves nothing
half done, two deliveries cannot deadlock, and of two at once the later one finds, and names, all the earlier brought.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, TextIO

from django.db import reset_queries, transaction
from django.db.models import Count, QuerySet
from django.db.models.functions import Now
from django.utils.translation import gettext, gettext_noop

from mlcore import openfda, records
from mlcore.errors import DataError
from mlcore.protocols import ProtocolSpec
from mlcore.records import Dropped, NoteText, Problem, Record
from triage import audit, fhir, jobs, policy
from triage.models import AuditEvent, Case, ImportLine, ImportRun, Note, Patient, Prediction, Protocol, Site

BATCH_NOTES = 500
BATCH_CHARACTERS = 4_000_000
MOST_REJECTED = 100_000
MOST_LISTED = 500  # of reports without narrative, which never give a file up

OFFICE = (
    gettext_noop("The file is a ZIP archive or an Office document, not text."),
    gettext_noop("Export the table as CSV, or unpack the archive, and send that."),
)
PDF = (
    gettext_noop("The file is a PDF, not text."),
    gettext_noop("Export the notes as JSONL or CSV and send that."),
)
PACKED = (
    gettext_noop("The file is compressed in a way that is not read here."),
    gettext_noop("Send it as it is, or compressed with gzip."),
)
KINDS = {
    b"PK\x03\x04": OFFICE,
    b"PK\x05\x06": OFFICE,
    b"\xd0\xcf\x11\xe0": OFFICE,
    b"%PDF": PDF,
    b"BZh": PACKED,
    b"\xfd7zXZ": PACKED,
    b"7z\xbc\xaf": PACKED,
    b"\x28\xb5\x2f\xfd": PACKED,
}
TOO_LONG = (
    gettext_noop("The %(key)s is longer than %(limit)d characters."),
    gettext_noop("Shorten the %(key)s."),
)
HOPELESS = (
    gettext_noop(
        "More than %(limit)d lines cannot be read (line %(line)d is the first), so nothing was imported."
    ),
    gettext_noop("Check that the right file was chosen."),
)
UNLISTED = (
    gettext_noop("From here on %(more)d more reports have no narrative; they are counted, not listed."),
    gettext_noop("Nothing needs to be done."),
)
KNOWN = gettext_noop("This note was here already: it came with %(file)s.")
TWICE = gettext_noop("This note stands earlier in the same file.")
WHOLE_FILE = (
    records.EMPTY,
    records.BLANK,
    records.DAMAGED,
    records.TOO_DENSE,
    records.TOO_BIG,
    records.LONG_FILE,
    openfda.NOT_OPENFDA,
    openfda.TORN,
    openfda.NO_MEMBER,
    openfda.LOCKED,
    openfda.FULL,
)


class FileRefused(DataError):
    """A file of which nothing could be read."""

    def __init__(self, messages: tuple[str, str], **params: object) -> None:
        self.messages, self.params = messages, params
        super().__init__(" ".join(messages) % params)

    def told(self, translate: Callable[[str], str]) -> str:
        return " ".join(translate(message) % self.params for message in self.messages)


def told(error: DataError) -> str:
    """What is wrong with a file, in the reader's language."""
    return error.told(gettext)


def filled(template: str, params: dict[str, Any]) -> str:
    """A stored message in the reader's language."""
    return gettext(template) % params if template else ""


def receive(
    site: Site,
    protocol: Protocol,
    source: BinaryIO,
    file_name: str,
    by: Any,
    progress: Callable[[ImportRun], object] = lambda run: None,
) -> ImportRun:
    """Store a delivery and leave its cases waiting to be scored. ``source`` is read from its start, more than once.

    progress is called after every batch with what the run has so far, nothing of it committed yet. DataError when nothing of it could be read; nothing is stored then.
    """
    _check_kind(source, file_name)
    digest = hashlib.file_digest(source, "sha256").hexdigest()
    source.seek(0)
    items = _read(source, file_name, _AnyLabel(**vars(protocol.spec)))
    with transaction.atomic():
        Site.objects.select_for_update(no_key=True).get(pk=site.pk)
        run = ImportRun.objects.create(
            site=site, protocol=protocol, file_name=_storable(file_name), file_sha256=digest, by=by
        )
        run.skipped = run.dropped = run.unlisted_from = 0
        for batch in _batches(items):
            _land(run, batch)
            progress(run)
            reset_queries()  # with DEBUG on Django would keep every statement, notes and all
        _refuse_unreadable(run)
        _tell_unlisted(run)
        run.save()
        _ask_again(run)
        policy.current(site, protocol)
        audit.record("notes.import", run, site=site, actor=by, details=_figures(run))
        transaction.on_commit(jobs.wake_scoring, robust=True)
    return run


def _read(source: BinaryIO, file_name: str, spec: ProtocolSpec) -> Iterator[Record | Problem]:
    reported = openfda.is_openfda(source, file_name)
    source.seek(0)
    known = not reported and fhir.is_fhir(source, file_name)
    source.seek(0)
    return (fhir if known else records).read(source, file_name, spec)


@dataclass(frozen=True)
class _AnyLabel(ProtocolSpec):
    """Labels in a delivery are ignored, so an unknown one must not cost the line."""

    def label_index(self, value: object) -> int:
        return 0


def _check_kind(source: BinaryIO, file_name: str) -> None:
    start = source.read(8)
    source.seek(0)
    for magic, messages in KINDS.items():
        if start.startswith(magic) and not (messages is OFFICE and file_name.lower().endswith(".zip")):
            raise FileRefused(messages)


def _storable(file_name: str) -> str:
    return file_name.encode(errors="replace").decode().replace("\0", "?")[:200]


def _figures(run: ImportRun) -> dict[str, Any]:
    names = ("file_sha256", "lines", "notes_new", "notes_known", "lines_rejected", "labels_ignored")
    figures = {"protocol": run.protocol.slug} | {name: getattr(run, name) for name in names}
    return figures | ({"skipped": run.skipped} if run.skipped else {})


# Lines


def _batches(items: Iterable[Record | Problem]) -> Iterator[list[Record | Problem]]:
    """Bounded by notes and by characters, so that memory stays flat whatever the file."""
    batch: list[Record | Problem] = []
    notes = characters = 0
    for item in map(_fitting, items):
        batch.append(item)
        notes += len(item.notes) if isinstance(item, Record) else 1
        characters += sum(map(len, item.texts)) if isinstance(item, Record) else 0
        if notes >= BATCH_NOTES or characters >= BATCH_CHARACTERS:
            yield batch
            batch, notes, characters = [], 0, 0
    if batch:
        yield batch


def _fitting(item: Record | Problem) -> Record | Problem:
    """The record, or a Problem where a field is longer than its column."""
    if isinstance(item, Problem):
        return item
    fields = [("patient_id", Patient, "pseudonym", item.patient_id)]
    for note in item.notes:
        fields += [
            ("specialty", Note, "specialty", note.specialty),
            ("note_id", Note, "source_id", note.note_id),
        ]
    for key, model, column, value in fields:
        limit = model._meta.get_field(column).max_length
        if len(value) > limit:
            return Problem(item.line, *TOO_LONG, {"key": key, "limit": limit})
    return item


def _land(run: ImportRun, batch: list[Record | Problem]) -> None:
    skipped = [item for item in batch if isinstance(item, fhir.Skipped)]
    problems = [i for i in batch if isinstance(i, Problem) and not isinstance(i, fhir.Skipped)]
    arrived = [item for item in batch if isinstance(item, Record)]
    run.lines += len(batch)
    run.skipped += len(skipped)
    run.labels_ignored += sum(record.label is not None for record in arrived)
    _reject(run, problems)
    _store(run, arrived)


def _reject(run: ImportRun, problems: list[Problem]) -> None:
    run.lines_rejected += len(problems)
    dropped = [problem for problem in problems if isinstance(problem, Dropped)]
    unlisted = dropped[max(0, MOST_LISTED - run.dropped) :]
    run.dropped += len(dropped)
    if unlisted:
        run.unlisted_from = run.unlisted_from or unlisted[0].line
        beyond = {problem.line for problem in unlisted}
        problems = [problem for problem in problems if problem.line not in beyond]
    ImportLine.objects.bulk_create(
        ImportLine(
            run=run,
            line=problem.line,
            kind=ImportLine.Kind.REJECTED,
            reason=problem.template,
            remedy=problem.remedy_template,
            params=dict(problem.params),
        )
        for problem in problems
    )
    if run.lines_rejected - run.dropped > MOST_REJECTED:
        raise FileRefused(HOPELESS, limit=MOST_REJECTED, line=_rejected(run)[0].line)


def _tell_unlisted(run: ImportRun) -> None:
    if run.unlisted_from:
        more = {"more": run.dropped - MOST_LISTED}
        kind, (reason, remedy) = ImportLine.Kind.REJECTED, UNLISTED
        run.remarks.create(line=run.unlisted_from, kind=kind, reason=reason, remedy=remedy, params=more)


def _rejected(run: ImportRun) -> QuerySet[ImportLine]:
    return run.remarks.filter(kind=ImportLine.Kind.REJECTED).order_by("line")


def _refuse_unreadable(run: ImportRun) -> None:
    """When the only thing to say is about the file as a whole, it is said at once and not kept as a line."""
    if not run.lines:
        raise FileRefused(records.EMPTY)
    only = _rejected(run)[0] if run.lines == run.lines_rejected == 1 else None
    if only and (only.reason, only.remedy) in WHOLE_FILE:
        raise FileRefused((only.reason, only.remedy), **only.params)


# Notes and cases


def _store(run: ImportRun, arrived: list[Record]) -> None:
    """New notes in, known ones named, and a case for each patient or note of the batch."""
    patients = _patients(run.site, {record.patient_id for record in arrived})
    candidates = [
        (record, position, _note(run, patients[record.patient_id], note))
        for record in arrived
        for position, note in enumerate(record.notes, 1)
    ]
    here = _stored([note for _, _, note in candidates])
    fresh, remarks = [], []
    for record, position, note in candidates:
        earlier = here.setdefault(_identity(note), note)
        if earlier is note:
            fresh.append(note)
        else:
            remarks.append(_duplicate(run, record, position, earlier))
    Note.objects.bulk_create(fresh)
    ImportLine.objects.bulk_create(remarks)
    run.notes_new += len(fresh)
    run.notes_known += len(remarks)
    _open_cases(run, [here[_identity(note)] for _, _, note in candidates])


def _patients(site: Site, pseudonyms: set[str]) -> dict[str, int]:
    known = Patient.objects.filter(site=site, pseudonym__in=pseudonyms).values_list("pseudonym", "pk")
    ids = dict(known)
    new = [Patient(site=site, pseudonym=pseudonym) for pseudonym in sorted(pseudonyms - ids.keys())]
    return ids | {patient.pseudonym: patient.pk for patient in Patient.objects.bulk_create(new)}


def _note(run: ImportRun, patient_id: int, note: NoteText) -> Note:
    return Note(
        patient_id=patient_id,
        text=note.text,
        sha256=hashlib.sha256(note.text.encode()).hexdigest(),
        written_at=note.written_at,
        specialty=note.specialty,
        source_id=note.note_id,
        run=run,
    )


def _identity(note: Note) -> tuple:
    """What makes two notes the same: the columns of the constraint ``note_once``."""
    return note.patient_id, note.sha256, note.written_at, note.specialty, note.source_id


def _stored(notes: list[Note]) -> dict[tuple, Note]:
    """Those of the notes that are in the database, by identity, without their text."""
    found = Note.objects.filter(
        patient__in={note.patient_id for note in notes}, sha256__in={note.sha256 for note in notes}
    )
    return {_identity(note): note for note in found.defer("text").select_related("run").order_by()}


def _duplicate(run: ImportRun, record: Record, position: int, earlier: Note) -> ImportLine:
    params = {
        "note": position,
        "run": earlier.run_id,
        "file": earlier.run.file_name if earlier.run else "—",
        "at": earlier.run.at.isoformat() if earlier.run else None,
    }
    return ImportLine(
        run=run,
        line=record.line,
        kind=ImportLine.Kind.DUPLICATE,
        pseudonym=record.patient_id,
        reason=TWICE if earlier.run_id == run.pk else KNOWN,
        params=params,
    )


def _open_cases(run: ImportRun, notes: list[Note]) -> None:
    """A known note may still be new to this protocol, so every note of the batch counts."""
    of_notes = run.protocol.unit == "note"
    wanted = {(note.patient_id, note.pk if of_notes else None) for note in notes}
    cases = Case.objects.filter(protocol=run.protocol, patient__in={note.patient_id for note in notes})
    missing = wanted - set(cases.filter(note__isnull=not of_notes).values_list("patient", "note"))
    Case.objects.bulk_create(
        Case(protocol=run.protocol, site=run.site, patient_id=patient, note_id=note)
        for patient, note in sorted(missing)
    )


def _ask_again(run: ImportRun) -> None:
    """Patients with a new note wait again under every protocol, and the score without it no longer stands."""
    patients = Note.objects.filter(run=run).values("patient")
    cases = Case.objects.filter(note=None, patient__in=patients)
    list(cases.select_for_update(no_key=True).order_by("pk").values_list("pk"))
    Prediction.objects.filter(case__in=cases, current=True).update(current=False)
    cases.update(
        status=Case.Status.PENDING, pending_since=Now(), claim=None, claimed_at=None, attempts=0, failure=""
    )


# What is shown of a delivery


def progress(site: Site, protocol: Protocol) -> dict[str, int]:
    """How many cases of a workplace there are, are scored, wait, and stand in quarantine."""
    cases = Case.objects.filter(site=site, protocol=protocol)
    counts = dict(cases.values_list("status").annotate(Count("pk")))
    return {
        "total": sum(counts.values()),
        "scored": counts.get(Case.Status.SCORED, 0),
        "waiting": counts.get(Case.Status.PENDING, 0) + counts.get(Case.Status.CLAIMED, 0),
        "quarantined": counts.get(Case.Status.QUARANTINED, 0),
    }


def skipped(run: ImportRun) -> int:
    """How many documents were left out as entered in error; told by the trail."""
    event = AuditEvent.objects.filter(
        object_type="triage.importrun", object_id=str(run.pk), verb="notes.import"
    )
    return next((details.get("skipped", 0) for details in event.values_list("details", flat=True)), 0)


def rejected(run: ImportRun) -> Iterator[dict[str, Any]]:
    """``line``, ``reason`` and ``remedy`` of each refused line, in the reader's language."""
    for remark in _rejected(run).iterator():
        yield {
            "line": remark.line,
            "reason": filled(remark.reason, remark.params),
            "remedy": filled(remark.remedy, remark.params),
        }


def duplicates(run: ImportRun) -> Iterator[dict[str, Any]]:
    """``line``, ``patient`` and the ``earlier`` run of each known note; None where it is the same file."""
    runs = _earlier_runs(run)
    for remark in _known(run).order_by("line", "pk").iterator():
        yield {"line": remark.line, "patient": remark.pseudonym, "earlier": runs.get(remark.params["run"])}


def latest_earlier(run: ImportRun) -> datetime | None:
    """When the last of the imports arrived that had brought this one's notes before."""
    return max((earlier.at for earlier in _earlier_runs(run).values()), default=None)


def _known(run: ImportRun) -> QuerySet[ImportLine]:
    return run.remarks.filter(kind=ImportLine.Kind.DUPLICATE)


def _earlier_runs(run: ImportRun) -> dict[int, ImportRun]:
    ids = set(_known(run).values_list("params__run", flat=True).distinct())
    return ImportRun.objects.select_related("protocol").in_bulk(ids - {run.pk, None})


def write_rejected(run: ImportRun, file: TextIO | Any) -> None:
    """The refused lines as CSV."""
    writer = csv.writer(file)
    writer.writerow([gettext("line"), gettext("reason"), gettext("remedy")])
    writer.writerows([row["line"], harmless(row["reason"]), harmless(row["remedy"])] for row in rejected(run))


def harmless(cell: str) -> str:
    """The cell, quoted where a spreadsheet would take it for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
