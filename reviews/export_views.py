"""The pages where labels go out: exports asked for and fetched, webhooks kept."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from mlcore.errors import DataError
from reviews import exports, ranges, rows, webhooks
from reviews.formats import FORMS
from reviews.models import ExportRun, Webhook
from triage.access import Workplace, for_leads, lead_only, workplace

HINTS = {
    "jsonl": ("JSON Lines", gettext_lazy("exact; with the notes it can be read in again")),
    "csv": (
        "CSV",
        gettext_lazy("for spreadsheets; text that a spreadsheet might run begins with an apostrophe"),
    ),
    "datasets": ("Hugging Face datasets", gettext_lazy("a zipped folder for load_from_disk")),
    "brat": ("brat", gettext_lazy("the notes that have marked passages, with them; needs the text")),
    "fhir": ("FHIR R4", gettext_lazy("NDJSON of Observation and Provenance, without text or names")),
}
LEADS = gettext_lazy("Labels are exported by leads and administrators")
ADMINS = gettext_lazy("Webhooks are kept by administrators")


class ExportForm(forms.Form):
    form = forms.ChoiceField(choices=[(name, name) for name in FORMS], initial="jsonl")
    with_notes = forms.BooleanField(required=False)

    def clean(self) -> dict[str, Any]:
        asked = super().clean() or {}
        if "form" in asked and (reason := exports.refusal(asked["form"], asked["with_notes"])):
            raise forms.ValidationError(_(reason))
        return asked


@require_http_methods(["GET", "HEAD", "POST"])
@for_leads(LEADS)
def export(request: HttpRequest, place: Workplace) -> HttpResponse:
    form = ExportForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        exports.ask(place, request.user, form.cleaned_data["form"], form.cleaned_data["with_notes"])
        return redirect("reviews:export", place.site.slug, place.protocol.slug)
    page = {
        "place": place,
        "form": form,
        "forms": [(name, *HINTS[name]) for name in FORMS],
        "chosen": form["form"].value() or "jsonl",
        "labels": rows.count(place.protocol, [place.site]),
        "runs": [_shown(run, request.user) for run in exports.asked(place)],
        "past": exports.past(place),
    }
    return render(request, "reviews/export.html", page, status=400 if form.errors else 200)


def _shown(run: ExportRun, user: Any) -> dict[str, Any]:
    state = "over" if run.status == "ready" and exports.expired(run) else run.status
    return {
        "run": run,
        "state": state,
        "mine": run.by_id == user.pk,
        "name": HINTS[run.form][0],
        "fetchable": run.by_id == user.pk and exports.fetchable(run),
    }


@require_safe
def export_status(request: HttpRequest, site: str, protocol: str, run: int) -> JsonResponse:
    return JsonResponse(status_of(_run(request, site, protocol, run)))


def status_of(run: ExportRun) -> dict[str, Any]:
    """What page and API tell of an export."""
    return {
        "id": run.pk,
        "status": "expired" if exports.expired(run) else run.status,
        "form": run.form,
        "with_notes": run.with_notes,
        "rows": run.rows,
        "total": run.total,
        "size": run.size,
        "sha256": run.sha256,
        "expires_at": run.expires_at and run.expires_at.isoformat(),
        "failure": run.failure,
    }


@require_safe
def export_file(request: HttpRequest, site: str, protocol: str, run: int) -> HttpResponseBase:
    return send(request, _run(request, site, protocol, run))


def send(request: HttpRequest, run: ExportRun) -> HttpResponseBase:
    """The file, or the part asked for; recorded first. 404 where there is none (any more)."""
    if not exports.fetchable(run):
        raise Http404
    etag = f'"{run.sha256}"'
    wanted = ranges.asked(request, run.size, etag)
    name = f"{run.site.slug}-{run.protocol.slug}.{FORMS[run.form].ending}"
    kind = FORMS[run.form].content_type
    response = ranges.respond(exports.path_of(run), wanted, etag=etag, name=name, content_type=kind)
    if request.method == "GET" and response.status_code < 300:
        exports.record_fetch(run, request.user, wanted[0] if wanted else 0)
    return response


@require_POST
def export_retry(request: HttpRequest, site: str, protocol: str, run: int) -> HttpResponse:
    exports.again(_run(request, site, protocol, run))
    return redirect("reviews:export", site, protocol)


def _run(request: HttpRequest, site: str, protocol: str, run: int) -> ExportRun:
    """An export of one's own, as long as one may export."""
    return run_of(workplace(request, site, protocol), request.user, run)


def run_of(place: Workplace, user: Any, run: int) -> ExportRun:
    if not place.is_lead:
        raise Http404
    mine = ExportRun.objects.select_related("site", "protocol", "by")
    return get_object_or_404(mine, pk=run, site=place.site, protocol=place.protocol, by=user)


# Webhooks


@require_http_methods(["GET", "HEAD", "POST"])
def hooks(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    """The secret made by a POST stands on its answer and nowhere else."""
    place = workplace(request, site, protocol)
    if not place.is_admin:
        return lead_only(request, place, ADMINS)
    made, error, url = None, "", request.POST.get("url", "").strip()
    if request.method == "POST":
        try:
            made = webhooks.add(place, request.user, url)
        except DataError as refused:
            error = refused.told(_)
    found = Webhook.objects.filter(site=place.site, protocol=place.protocol).order_by("pk")
    shown = [(hook, hook.deliveries.select_related("label").order_by("-pk")[:5]) for hook in found]
    page = {"place": place, "hooks": shown, "made": made, "error": error, "url": "" if made else url}
    return render(request, "reviews/webhooks.html", page, status=422 if error else 200)


@require_POST
def hook(request: HttpRequest, site: str, protocol: str, hook: int) -> HttpResponse:
    """on, off, send a test, or delete it."""
    place = workplace(request, site, protocol)
    if not place.is_admin:
        raise Http404
    found = get_object_or_404(
        Webhook.objects.select_related("site", "protocol"), pk=hook, site=place.site, protocol=place.protocol
    )
    action = request.POST.get("action")
    if action in ("on", "off"):
        webhooks.switch(found, request.user, action == "on")
    elif action == "test":
        answer, failure = webhooks.send_test(found, request.user)
        good = answer is not None and answer < 300
        say = messages.success if good else messages.error
        say(request, _("The test was answered with %(answer)s.") % {"answer": answer or failure})
    elif action == "remove":
        webhooks.remove(found, request.user)
        messages.success(request, _("Deleted: nothing is told to %(url)s any more.") % {"url": found.url})
    return redirect("reviews:webhooks", site, protocol)
