"""The import pages: choose a file, see what landed, fetch what was refused."""

from __future__ import annotations

from itertools import islice
from typing import Any

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.defaultfilters import filesizeformat
from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext
from django.views.decorators.http import require_GET, require_http_methods

from mlcore.errors import DataError
from triage import intake as intake_
from triage.access import Workplace, workplace
from triage.models import ImportRun

RECENT = 20
SHOWN = 200
NO_FILE = (gettext_noop("No file came with the form."), gettext_noop("Choose one and send it again."))
TOO_LARGE = (
    gettext_noop("The file is larger than an upload may be, %(limit)s."),
    gettext_noop("Split it, or import it on the server with manage.py import_notes."),
)


class UploadForm(forms.Form):
    file = forms.FileField(required=False, allow_empty_file=True)


@require_http_methods(["GET", "POST"])
def intake(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    form, status = UploadForm(), 200
    if request.method == "POST":
        form = UploadForm(request.POST, request.FILES)
        run, status = _receive(request, place, form)
        if run:
            return redirect("triage:intake-result", site, protocol, run.pk)
    return render(request, "triage/intake.html", _intake_page(place, form), status=status)


def _receive(request: HttpRequest, place: Workplace, form: UploadForm) -> tuple[ImportRun | None, int]:
    if not place.is_lead:
        form.add_error(None, _("Your role here is reader: only leads and admins of this site import notes."))
        return None, 403
    try:
        return _run(request, place), 302
    except DataError as error:
        form.add_error("file", intake_.told(error))
        return None, 413 if hasattr(request, "upload_too_large") else 422


def _run(request: HttpRequest, place: Workplace) -> ImportRun:
    if hasattr(request, "upload_too_large"):
        raise intake_.FileRefused(TOO_LARGE, limit=filesizeformat(settings.UPLOAD_MAX_BYTES))
    upload = request.FILES.get("file")
    if upload is None:
        raise intake_.FileRefused(NO_FILE)
    return intake_.receive(place.site, place.protocol, upload.file, upload.name, request.user)


def _intake_page(place: Workplace, form: UploadForm) -> dict[str, Any]:
    runs = ImportRun.objects.filter(site=place.site, protocol=place.protocol).select_related("by")
    return {
        "form": form,
        "may_import": place.is_lead,
        "max_bytes": settings.UPLOAD_MAX_BYTES,
        "imports": runs.order_by("-at", "-pk")[:RECENT],
        "progress": intake_.progress(place.site, place.protocol),
    }


@require_GET
def intake_progress(request: HttpRequest, site: str, protocol: str) -> JsonResponse:
    place = workplace(request, site, protocol)
    return JsonResponse(intake_.progress(place.site, place.protocol))


@require_GET
def intake_result(request: HttpRequest, site: str, protocol: str, run: int) -> HttpResponse:
    place = workplace(request, site, protocol)
    found = _run_of(place, run)
    context = {
        "run": found,
        "nothing_new": _nothing_new(found),
        "skipped": intake_.skipped(found),
        "progress": intake_.progress(place.site, place.protocol),
        "rejected": list(islice(intake_.rejected(found), SHOWN)),
        "duplicates": list(islice(intake_.duplicates(found), SHOWN)),
    }
    return render(request, "triage/intake_result.html", context)


def _run_of(place: Workplace, run: int) -> ImportRun:
    runs = ImportRun.objects.select_related("by")
    return get_object_or_404(runs, pk=run, site=place.site, protocol=place.protocol)


def _nothing_new(run: ImportRun) -> str:
    """The sentence for a file that brought no note which was not here, with the day of the import that did."""
    if run.notes_new or not run.notes_known:
        return ""
    latest = intake_.latest_earlier(run)
    day = date_format(localtime(latest)) if latest else "—"
    sentence = ngettext(
        "Nothing new: the note was already here (import of %(day)s).",
        "Nothing new: all %(count)d notes were already here (import of %(day)s).",
        run.notes_known,
    )
    return sentence % {"count": run.notes_known, "day": day}


@require_GET
def intake_rejected(request: HttpRequest, site: str, protocol: str, run: int) -> HttpResponse:
    found = _run_of(workplace(request, site, protocol), run)
    response = HttpResponse(
        "\ufeff",
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="rejected-{found.pk}.csv"'},
    )
    intake_.write_rejected(found, response)
    return response
