"""The REST API: notes in, the queue and its figures, exports out. By key only (``triage.tokens``), never by session.

A key works at its own site; anywhere else the answer is 404, as if nothing were there. Errors are ``{"message": …}``.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any

from django.conf import settings
from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext as _
from ninja import NinjaAPI, Schema
from ninja.errors import HttpError, ValidationError
from ninja.openapi.docs import Swagger
from ninja.security import HttpBearer

from mlcore.errors import DataError
from reviews import export_views, exports, selectors, visibility
from triage import audit, intake, policy, tokens
from triage.access import Workplace, workplace
from triage.models import Case, ImportRun, Prediction, Token

SHOWN = 200
PAGE = 100
PIECE = 1 << 16
JSON = "application/json"
ENDINGS = {
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "application/fhir+ndjson": "ndjson",
    "application/fhir+json": "json",
    "text/csv": "csv",
}
REFUSALS = frozenset({401, 403, 404, 422})


class Api(NinjaAPI):
    """Answers that no cache keeps."""

    def create_response(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().create_response(request, *args, **kwargs)
        add_never_cache_headers(response)
        return response


class Key(HttpBearer):
    """The user of a live key acts; with what scope and where, each operation asks of ``_place``."""

    def authenticate(self, request: HttpRequest, token: str) -> Token | None:
        found = tokens.find(token)
        if found:
            request.user = found.user
        return found


api = Api(
    title="Centinela",
    version="1",
    description="Research prototype. Send a key of yours as «Authorization: Bearer ctl_…».",
    urls_namespace="api",
    auth=Key(),
    docs=Swagger(settings={"validatorUrl": None, "deepLinking": False}),
)


class Told(Schema):
    message: str


class Refused(Schema):
    line: int
    reason: str
    remedy: str


class Duplicate(Schema):
    line: int
    patient: str


class Import(Schema):
    """``rejected`` and ``duplicates`` show the first 200; the figures count all. ``skipped``: entered in error."""

    id: int
    file_sha256: str
    at: datetime
    lines: int
    notes_new: int
    notes_known: int
    lines_rejected: int
    labels_ignored: int
    skipped: int
    rejected: list[Refused]
    duplicates: list[Duplicate]


class Counts(Schema):
    """Cases of the workplace, and those that wait for the key's owner under the policy in force."""

    policy_version: int
    total: int
    scored: int
    waiting_to_be_scored: int
    quarantined: int
    waiting_for_a_reader: int


class Waiting(Schema):
    """``reason`` and ``urgency`` are null where the key's owner is to read the case without the model's view."""

    case: int
    patient_id: str
    specialty: str
    written_at: date | None
    urgency: float | None
    reason: str | None


class Figures(Schema):
    """A case as its standing prediction has it, under the policy in force; without the model's view where the key's owner
    would read it so."""

    case: int
    patient_id: str
    status: str
    release: str | None = None
    release_sha256: str | None = None
    policy_version: int
    alpha: float
    typicality_floor: float
    outcome: str | None = None
    label: str | None = None
    labels: list[str]
    probabilities: list[float] | None = None
    p_values: list[float] | None = None
    distances: list[float] | None = None
    credibility: float | None = None
    runner_up: float | None = None
    typicality: float | None = None
    urgency: float | None = None


class NoteOut(Schema):
    note_id: str
    written_at: date | None
    specialty: str
    text: str


class Wish(Schema):
    form: str
    with_notes: bool = False


class Export(Schema):
    id: int
    status: str
    form: str
    with_notes: bool
    rows: int
    total: int
    size: int
    sha256: str
    expires_at: str | None
    failure: str


def _place(request: HttpRequest, site: str, protocol: str, scope: str, *, lead: bool = False) -> Workplace:
    """The workplace, where the key's site and scope and its owner's membership now all allow it."""
    token: Token = request.auth  # type: ignore[attr-defined]
    if token.site.slug != site:
        raise Http404
    place = workplace(request, site, protocol)
    if scope not in token.scopes:
        raise HttpError(
            403, _("This key may not do that: it lacks the scope «%(scope)s».") % {"scope": scope}
        )
    if lead and not place.is_lead:
        raise HttpError(403, _("Your role at this site is reader: only leads and admins do this."))
    tokens.used(token)
    return place


# In


@api.post(
    "{slug:site}/{slug:protocol}/notes", response={201: Import, REFUSALS: Told}, summary="Deliver notes"
)
def deliver(request: HttpRequest, site: str, protocol: str) -> Any:
    """The body is a file as the import page takes it; its Content-Type says which: application/x-ndjson (JSONL), text/csv,
    application/fhir+json (a Bundle), application/fhir+ndjson, or application/json (a record, or a list of them).
    It may be compressed with gzip (no Content-Encoding needed). Valid lines land, the others are told. Scope: import."""
    place = _place(request, site, protocol, Token.Scope.IMPORT, lead=True)
    with TemporaryFile() as file:
        ending = _spool(request, file)
        try:
            run = intake.receive(place.site, place.protocol, file, f"API.{ending}", request.user)
        except DataError as error:
            raise HttpError(422, intake.told(error)) from None
    return 201, _import(run)


def _spool(request: HttpRequest, file: IO[bytes]) -> str:
    """The body into a file; the ending that says what it is."""
    ending = ENDINGS.get(request.content_type or "")
    if ending is None and request.content_type != JSON:
        known = ", ".join([JSON, *ENDINGS])
        raise HttpError(415, _("The Content-Type is not one that is read: use %(known)s.") % {"known": known})
    most = settings.UPLOAD_MAX_BYTES if ending else settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    taken = 0
    while piece := request.read(PIECE):
        taken += len(piece)
        if taken > most:
            raise HttpError(413, _("The body is larger than it may be, %(most)d bytes.") % {"most": most})
        file.write(piece)
    if ending is None:
        _as_lines(file)
    file.seek(0)
    return ending or "jsonl"


def _as_lines(file: IO[bytes]) -> None:
    file.seek(0)
    try:
        found = json.loads(file.read())
    except (ValueError, RecursionError):
        raise HttpError(422, _("The body is not JSON.")) from None
    file.seek(0)
    file.truncate()
    for record in found if isinstance(found, list) else [found]:
        file.write(json.dumps(record).encode() + b"\n")


@api.get(
    "{slug:site}/{slug:protocol}/imports/{int:run}",
    response={200: Import, REFUSALS: Told},
    summary="A delivery",
)
def imported(request: HttpRequest, site: str, protocol: str, run: int) -> Any:
    """Scope: import."""
    place = _place(request, site, protocol, Token.Scope.IMPORT, lead=True)
    return _import(get_object_or_404(ImportRun, pk=run, site=place.site, protocol=place.protocol))


def _import(run: ImportRun) -> dict[str, Any]:
    run.refresh_from_db()
    names = ("file_sha256", "at", "lines", "notes_new", "notes_known", "lines_rejected", "labels_ignored")
    return {name: getattr(run, name) for name in names} | {
        "id": run.pk,
        "skipped": intake.skipped(run),
        "rejected": list(islice(intake.rejected(run), SHOWN)),
        "duplicates": list(islice(intake.duplicates(run), SHOWN)),
    }


# The queue


@api.get(
    "{slug:site}/{slug:protocol}/queue", response={200: Counts, REFUSALS: Told}, summary="How much waits"
)
def queue(request: HttpRequest, site: str, protocol: str) -> Any:
    """Scope: read."""
    place = _place(request, site, protocol, Token.Scope.READ)
    dial = policy.current(place.site, place.protocol)
    cases = intake.progress(place.site, place.protocol)
    return {
        "policy_version": dial.version,
        "total": cases["total"],
        "scored": cases["scored"],
        "waiting_to_be_scored": cases["waiting"],
        "quarantined": cases["quarantined"],
        "waiting_for_a_reader": selectors.pending(place, request.user, dial).count(),
    }


@api.get(
    "{slug:site}/{slug:protocol}/queue/cases",
    response={200: list[Waiting], REFUSALS: Told},
    summary="What waits",
)
def queue_cases(request: HttpRequest, site: str, protocol: str, after: int = 0) -> Any:
    """A hundred cases that wait for the key's owner, by number; ``after`` is the last one seen. Without text. Scope: read."""
    place = _place(request, site, protocol, Token.Scope.READ)
    dial = policy.current(place.site, place.protocol)
    found = selectors.pending(place, request.user, dial).filter(case__gt=after).order_by("case")
    found = found.annotate(
        outcome=policy.outcome_under(dial),
        covered=ExpressionWrapper(visibility.covered(place, dial, request.user), BooleanField()),
    )
    return [_waits(row) for row in found.select_related("case__patient")[:PAGE]]


def _waits(row: Any) -> dict[str, Any]:
    return {
        "case": row.case_id,
        "patient_id": row.case.patient.pseudonym,
        "specialty": row.specialty,
        "written_at": row.written_at,
        "urgency": None if row.covered else row.urgency,
        "reason": None if row.covered else row.outcome,
    }


@api.get(
    "{slug:site}/{slug:protocol}/cases/{int:case}",
    response={200: Figures, REFUSALS: Told},
    summary="A case's figures",
)
def case_figures(request: HttpRequest, site: str, protocol: str, case: int) -> Any:
    """What the model makes of a case, where the key's owner may know it now. For leads. Scope: read."""
    place = _place(request, site, protocol, Token.Scope.READ, lead=True)
    found, dial = _case(place, case), policy.current(place.site, place.protocol)
    told = {
        "case": found.pk,
        "patient_id": found.patient.pseudonym,
        "status": found.status,
        "policy_version": dial.version,
        "alpha": dial.alpha,
        "typicality_floor": dial.typicality_floor,
        "labels": place.protocol.labels,
    }
    standing = Prediction.objects.filter(case=found, current=True).select_related("release")
    row = standing.annotate(outcome=policy.outcome_under(dial)).first()
    if row is None or visibility.blind(place, dial, row, request.user):
        return told
    names = ("probabilities", "p_values", "distances", "credibility", "runner_up", "typicality", "urgency")
    return (
        told
        | {name: getattr(row, name) for name in names}
        | {
            "release": row.release.name,
            "release_sha256": row.release.sha256,
            "outcome": row.outcome,
            "label": place.protocol.labels[row.label],
        }
    )


@api.get(
    "{slug:site}/{slug:protocol}/cases/{int:case}/notes",
    response={200: list[NoteOut], REFUSALS: Told},
    summary="A case's notes",
)
def case_notes(request: HttpRequest, site: str, protocol: str, case: int) -> Any:
    """The text as written, oldest first; each call is a disclosure in the trail. Scope: read."""
    place = _place(request, site, protocol, Token.Scope.READ)
    found = _case(place, case)
    notes = [
        {"note_id": n.source_id, "written_at": n.written_at, "specialty": n.specialty, "text": n.text}
        for n in found.notes()
    ]
    details = {"notes": len(notes), "token": request.auth.pk}  # type: ignore[attr-defined]
    audit.record("case.read", found, site=place.site, actor=request.user, details=details)
    return notes


def _case(place: Workplace, case: int) -> Case:
    cases = Case.objects.select_related("patient")
    return get_object_or_404(cases, pk=case, site=place.site, protocol=place.protocol)


# Out


@api.post(
    "{slug:site}/{slug:protocol}/exports", response={202: Export, REFUSALS: Told}, summary="Ask for an export"
)
def ask_export(request: HttpRequest, site: str, protocol: str, wish: Wish) -> Any:
    """``form``: jsonl, csv, datasets, brat or fhir. Written in the background; look again until it is «ready».
    Scope: export."""
    place = _place(request, site, protocol, Token.Scope.EXPORT, lead=True)
    try:
        run = exports.ask(place, request.user, wish.form, wish.with_notes)
    except DataError as error:
        raise HttpError(422, error.told(_)) from None
    run.refresh_from_db()
    return 202, export_views.status_of(run)


@api.get(
    "{slug:site}/{slug:protocol}/exports/{int:run}",
    response={200: Export, REFUSALS: Told},
    summary="An export's state",
)
def export_state(request: HttpRequest, site: str, protocol: str, run: int) -> Any:
    """Scope: export; those asked for by the key's owner."""
    place = _place(request, site, protocol, Token.Scope.EXPORT, lead=True)
    return export_views.status_of(export_views.run_of(place, request.user, run))


@api.get(
    "{slug:site}/{slug:protocol}/exports/{int:run}/file",
    response={200: None, REFUSALS: Told},
    summary="An export's file",
)
def export_file(request: HttpRequest, site: str, protocol: str, run: int) -> Any:
    """The ETag is the SHA-256; Range and If-Range fetch the rest of a broken download. Scope: export."""
    place = _place(request, site, protocol, Token.Scope.EXPORT, lead=True)
    return export_views.send(request, export_views.run_of(place, request.user, run))


# Errors: nothing of a refused request stays


def _say(request: HttpRequest, status: int, message: str) -> HttpResponse:
    if transaction.get_connection().in_atomic_block:
        transaction.set_rollback(True)
    response = api.create_response(request, {"message": message}, status=status)
    if status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


@api.exception_handler(Http404)
def _not_found(request: HttpRequest, error: Http404) -> HttpResponse:
    return _say(request, 404, _("There is nothing here."))


@api.exception_handler(HttpError)
def _refusal(request: HttpRequest, error: HttpError) -> HttpResponse:
    words = _("This key opens nothing: it is unknown, revoked or out of time.")
    return _say(request, error.status_code, words if error.status_code == 401 else str(error))


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    where = ", ".join(".".join(map(str, e["loc"])) for e in error.errors)
    return _say(request, 422, _("The request is not as it should be: look at %(where)s.") % {"where": where})


@api.exception_handler(Exception)
def _unforeseen(request: HttpRequest, error: Exception) -> HttpResponse:
    """Told by Django and our own log, which keep an exception's words out, in DEBUG too."""
    raise error


def urls() -> tuple[list[Any], str, str]:
    """The addresses: operations open to keys alone, the description of them to whoever is signed in."""
    patterns, app, space = api.urls
    for pattern in patterns:
        if pattern.name not in ("openapi-json", "openapi-view", "api-root"):
            pattern.callback.login_required = False
    return patterns, app, space
