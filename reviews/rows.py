"""The rows of an export: one a standing label, with all that tells why the case was read and by whom it was judged.

Nothing in a row depends on numbers this database happened to give: what is pointed at is named by content (digests,
versions, names), so that rows read into another database come out of it the same (``reviews.reading_in``). Readings that
were taken back, and passages of the thread about notes the label was not given for, do not leave.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from typing import Any

import orjson
from django.db import connection, transaction
from django.db.models import CharField, F, Func, QuerySet, TextField
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast

from reviews.models import Adjudication, Comment, Label, Review
from triage import policy as dial
from triage.models import Calibration, Note, Policy, Prediction, Protocol, Site


class Written(Func):
    """A time as ISO 8601 in UTC with microseconds. PostgreSQL writes it far faster than Python reads it and writes it again."""

    template = """to_char(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""
    output_field = CharField()


CHUNK = 1000
ABSENT = b"sha256:"  # what a calibration that is known by its digest alone holds instead of its arrays
OWN = {
    "site": F("site__slug"),
    "patient_id": F("case__patient__pseudonym"),
    "label": F("reviews__final_label__label"),
    "provenance": F("reviews__final_label__provenance"),
    "propensity": F("reviews__final_label__propensity"),
    "labelled_at": Written("reviews__final_label__at"),
    "reader": F("reviews__reader__username"),
    "reviewed_at": Written("reviews__at"),
    "mode": F("reviews__mode"),
    "comment": F("reviews__comment"),
    "evidence": Cast("reviews__evidence", TextField()),
    "reason": dial.outcome(
        F("reviews__policy__alpha"), F("reviews__policy__typicality_floor"), F("reviews__policy__automate")
    ),
}
MODEL = {
    "release": F("release__name"),
    "release_sha256": F("release__sha256"),
    "calibration_sha256": F("calibration"),
    "scored_at": Written("at"),
    "model_label": F("label"),
    "logits": F("logits"),
    "probabilities": F("probabilities"),
    "p_values": F("p_values"),
    "distances": F("distances"),
    "credibility": F("credibility"),
    "runner_up": F("runner_up"),
    "typicality": F("typicality"),
    "urgency": F("urgency"),
    "lot": F("lot"),
}
POLICY = {
    "policy_version": "version",
    "alpha": "alpha",
    "typicality_floor": "typicality_floor",
    "audit_rate": "audit_rate",
    "second_opinion": "second_opinion",
    "automate": "automate",
}
KEYS = {
    "case": F("case"),
    "prediction": F("pk"),
    "review": F("reviews__final_label__review"),
    "policy": F("reviews__policy"),
    "notes_sha256": F("reviews__final_label__notes_sha256"),
    "note": F("case__note"),
    "note_ids": F("note_ids"),
}
COLUMNS = [
    "site",
    "protocol",
    "case_id",
    *list(OWN)[1:],
    *MODEL,
    *POLICY,
    "readings",
    "adjudication",
    "comments",
    "notes",
]
# Before a bulk load is analysed the planner takes large tables for empty and would read one once for each row of another.
EVERY_TABLE_ONCE = "SET LOCAL enable_nestloop = off"
AS_USUAL = "SET LOCAL enable_nestloop = on"


@contextmanager
def snapshot() -> Iterator[None]:
    """A transaction that sees the database as it was when it began, where it is the outermost."""
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def count(protocol: Protocol, sites: Sequence[Site]) -> int:
    standing = Label.objects.filter(case__protocol=protocol, case__site__in=sites, withdrawn_at=None)
    return standing.count()


def rows(
    protocol: Protocol, sites: Sequence[Site], *, with_notes: bool = False, named: bool = False
) -> Iterator[dict[str, Any]]:
    """The export, row by row, through a server-side cursor; within a transaction.

    ``notes`` is their number; with ``named`` what each is known by, with ``with_notes`` their text, the thread and
    the readers' comments too: without it no free text leaves.
    """
    found = _standing(protocol, sites).order_by("reviews__final_label__id")
    columns = OWN | MODEL | KEYS
    values = found.values_list(*columns.values()).iterator(chunk_size=CHUNK)
    with connection.cursor() as cursor:
        cursor.execute(EVERY_TABLE_ONCE)
        first = next(values, None)  # the statement is planned here
        cursor.execute(AS_USUAL)
    found_rows = chain([first] if first else [], values)
    while chunk := [dict(zip(columns, row, strict=True)) for row in islice(found_rows, CHUNK)]:
        yield from _Chunk(protocol, chunk, with_notes, named).rows()


def _standing(protocol: Protocol, sites: Sequence[Site]) -> QuerySet[Prediction]:
    """The predictions behind the standing labels, each once, joined to the review and the label."""
    return Prediction.objects.filter(
        protocol=protocol,
        site__in=sites,
        reviews__final_label__isnull=False,
        reviews__final_label__withdrawn_at=None,
    )


class _Chunk:
    """Some rows and what belongs to them, each kind fetched at once."""

    def __init__(
        self, protocol: Protocol, chunk: list[dict[str, Any]], with_notes: bool, named: bool
    ) -> None:
        self.protocol, self.chunk, self.with_notes, self.named = protocol, chunk, with_notes, named
        cases = [row["case"] for row in chunk]
        self.readings = _readings(cases)
        others = {r.prediction_id for group in self.readings.values() for r in group}
        self.models = _models(others - {row["prediction"] for row in chunk})
        policies = {r.policy_id for group in self.readings.values() for r in group}
        policies |= {row["policy"] for row in chunk}
        self.policies = {p.pk: _policy(p) for p in Policy.objects.filter(pk__in=policies)}
        reviews = [row["review"] for row in chunk]
        self.adjudications = {a.review_id: a for a in Adjudication.objects.filter(review__in=among(reviews))}
        self.threads = _threads(cases) if with_notes else {}
        self.notes = _notes(self._needed(), with_notes)

    def _needed(self) -> set[int]:
        """The notes spoken of: all where they travel along or are named, else those that name a case or hold marks."""
        needed = {row["note"] for row in self.chunk} - {None}
        if self.with_notes or self.named:
            needed |= {pk for row in self.chunk for pk in row["note_ids"]}
        groups = self.readings.values()
        return needed | {mark["note"] for group in groups for r in group for mark in _loaded(r.marks)}

    def rows(self) -> Iterator[dict[str, Any]]:
        yield from map(self._row, self.chunk)

    def _row(self, found: dict[str, Any]) -> dict[str, Any]:
        row = {name: found.get(name) for name in COLUMNS}
        ids = found["note_ids"]
        readings = self.readings[found["case"], found["notes_sha256"]]
        adjudication = self.adjudications.get(found["review"])
        return (
            row
            | self.policies[found["policy"]]
            | _told(found, self.protocol)
            | {
                "protocol": self.protocol.slug,
                "case_id": case_id(row["site"], self.protocol.slug, row["patient_id"], self._own_note(found)),
                "label": self.protocol.labels[row["label"]],
                "comment": row["comment"] if self.with_notes else None,
                "evidence": self._marks(_loaded(row["evidence"]), ids),
                "readings": [self._reading(reading, found) for reading in readings],
                "adjudication": adjudication and _adjudication(adjudication),
                "comments": self._thread(found["case"], ids) if self.with_notes else None,
                "notes": [self.notes[pk] for pk in ids] if self.with_notes or self.named else len(ids),
            }
        )

    def _own_note(self, found: dict[str, Any]) -> dict[str, Any] | None:
        return self.notes[found["note"]] if found["note"] else None

    def _marks(self, marks: list[dict[str, Any]], note_ids: list[int]) -> list[dict[str, Any]]:
        return [mark_of(mark, note_ids.index(mark["note"]), self.notes[mark["note"]]) for mark in marks]

    def _reading(self, review: Any, found: dict[str, Any]) -> dict[str, Any]:
        """One reading; ``model`` and ``policy`` where they are others than those of the row."""
        model = self.models.get(review.prediction_id)
        ids = model["note_ids"] if model else found["note_ids"]
        same_policy = review.policy_id == found["policy"]
        return {
            "final": review.id == found["review"],
            "reader": review.by,
            "mode": review.mode,
            "label": None if review.label is None else self.protocol.labels[review.label],
            "why": review.why,
            "double": review.double,
            "comment": review.comment if self.with_notes else None,
            "evidence": self._marks(_loaded(review.marks), ids),
            "seconds": review.seconds,
            "at": review.written,
            "model": model and {name: model[name] for name in MODEL} | _told(model, self.protocol),
            "policy": None if same_policy else self.policies[review.policy_id],
        }

    def _thread(self, case: int, ids: list[int]) -> list[dict[str, Any]]:
        return [
            {
                "author": said.author.username,
                "text": said.text,
                "note": None if said.note_id is None else ids.index(said.note_id),
                "start": said.start,
                "end": said.end,
                "at": said.at.isoformat(),
            }
            for said in self.threads.get(case, [])
            if said.note_id is None or said.note_id in ids
        ]


def among(ids: Iterable[int]) -> RawSQL:
    """For ``__in``: the ids as one array, which Django and PostgreSQL read faster than as many parameters."""
    return RawSQL("SELECT unnest(%s::bigint[])", [list(ids)])


def _readings(cases: list[int]) -> dict[tuple[int, str], list[Any]]:
    """The standing readings of the cases by their notes, as named rows: models cost twice as much to make."""
    found: dict[tuple[int, str], list[Any]] = defaultdict(list)
    standing = Review.objects.filter(case__in=among(cases), withdrawn_at=None).order_by("pk")
    told = standing.annotate(
        by=F("reader__username"), written=Written("at"), marks=Cast("evidence", TextField())
    )
    columns = [
        field.attname for field in Review._meta.concrete_fields if field.attname not in ("at", "evidence")
    ]
    for review in told.values_list(*columns, "by", "written", "marks", named=True):
        found[review.case_id, review.notes_sha256].append(review)
    return found


def _loaded(marks: str) -> list[dict[str, Any]]:
    return orjson.loads(marks) if marks != "[]" else []


def _models(predictions: set[int]) -> dict[int, dict[str, Any]]:
    """The predictions behind readings that are not the one behind the label."""
    columns = MODEL | {"pk": F("pk"), "note_ids": F("note_ids")}
    values = Prediction.objects.filter(pk__in=predictions).values_list(*columns.values())
    found = [dict(zip(columns, row, strict=True)) for row in values] if predictions else []
    return {row["pk"]: row for row in found}


def _threads(cases: list[int]) -> dict[int, list[Comment]]:
    found: dict[int, list[Comment]] = defaultdict(list)
    for said in (
        Comment.objects.filter(case__in=cases, withdrawn_at=None).select_related("author").order_by("pk")
    ):
        found[said.case_id].append(said)
    return found


def _notes(needed: set[int], with_text: bool) -> dict[int, dict[str, Any]]:
    facts = ["pk", "source_id", "written_at", "specialty", "sha256", *["text"] * with_text]
    found = Note.objects.filter(pk__in=among(needed)).order_by().values(*facts) if needed else []
    return {note.pop("pk"): _note(note) for note in found}


def _note(note: dict[str, Any]) -> dict[str, Any]:
    return {
        "note_id": note["source_id"],
        "written_at": note["written_at"].isoformat() if note["written_at"] else None,
        "specialty": note["specialty"],
        "sha256": note["sha256"],
    } | ({"text": note["text"]} if "text" in note else {})


def mark_of(mark: dict[str, Any], index: int, note: dict[str, Any]) -> dict[str, Any]:
    """``note`` counts the case's notes from 0, oldest first; code points [start, end) of its text."""
    found = {"note": index, "note_id": note["note_id"], "start": mark["start"], "end": mark["end"]}
    found["label"] = mark.get("label", "")
    return found | ({"text": note["text"][mark["start"] : mark["end"]]} if "text" in note else {})


def _told(model: dict[str, Any], protocol: Protocol) -> dict[str, Any]:
    return {
        "calibration_sha256": calibration_sha256(model["calibration_sha256"]),
        "model_label": protocol.labels[model["model_label"]],
    }


def _policy(policy: Policy) -> dict[str, Any]:
    return {name: getattr(policy, column) for name, column in POLICY.items()}


def _adjudication(found: Adjudication) -> dict[str, Any]:
    return {
        "cause": found.cause,
        "opened_at": found.opened_at.isoformat(),
        "closed_at": found.closed_at.isoformat(),
    }


def case_id(site: str, protocol: str, patient: str, note: dict[str, Any] | None) -> str:
    """Names a case in every export and every database: 32 hexadecimal digits of a SHA-256 over what it is of."""
    facts: Iterable[Any] = (site, protocol, patient)
    if note:
        facts = (*facts, note["sha256"], note["written_at"], note["specialty"], note["note_id"])
    return hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()[:32]


def judged(row: dict[str, Any]) -> str:
    """Names what a row with named notes is about: the case, and the exact notes the label was given for."""
    exact = hashlib.sha256("".join(note["sha256"] for note in row["notes"]).encode()).hexdigest()
    return f"{row['case_id']}-{exact[:16]}"


@lru_cache(maxsize=256)
def calibration_sha256(pk: int) -> str:
    """The digest of a calibration's arrays; of one known by its digest alone, that digest."""
    arrays = bytes(Calibration.objects.values_list("arrays", flat=True).get(pk=pk))
    return (
        arrays.removeprefix(ABSENT).decode()
        if arrays.startswith(ABSENT)
        else hashlib.sha256(arrays).hexdigest()
    )
