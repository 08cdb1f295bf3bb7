"""The leads' pages, and everyone's own progress. Thin: parse, authorise, call one function, render."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.forms import Form
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_safe

from reviews import adjudication as judging
from reviews import adjudication_page, agreement_page, comments, progress, progress_page, reading_policy
from reviews.adjudication import Conflict
from reviews.case_views import answered
from reviews.forms import AdjudicationForm, CommentForm
from reviews.lead_forms import PeriodForm, ReadingForm
from reviews.models import Adjudication
from reviews.reading_policy import ReadingMoved
from reviews.requests import check_reader, sentence, wants_json
from reviews.wording import verdict_name
from triage import audit
from triage.access import Workplace, for_leads, governs, sites_using, workplace


@require_safe
@for_leads(gettext_lazy("Disagreements are judged by leads and administrators"))
def adjudications(request: HttpRequest, place: Workplace) -> HttpResponse:
    return render(request, "reviews/adjudications.html", adjudication_page.listed(place, request.user))


@require_http_methods(["GET", "HEAD", "POST"])
@for_leads(gettext_lazy("Disagreements are judged by leads and administrators"))
def adjudicate(request: HttpRequest, place: Workplace, adjudication: int) -> HttpResponse:
    found = adjudication_page.find(place, adjudication)
    if request.method != "POST":
        return _show(request, place, found)
    if "undo" in request.POST:
        return _take_back(request, place, found)
    return _say(request, place, found) if "text" in request.POST else _judge(request, place, found)


def _say(request: HttpRequest, place: Workplace, found: Adjudication) -> HttpResponse:
    """Add to the thread of the case: the script gets the new comment drawn, a plain form the page again."""
    form = CommentForm(request.POST)
    try:
        check_reader(request)
        if not form.is_valid():
            return _refused(request, place, found, 400, sentence(form), said=form)
        said = comments.say(place, request.user, found.case, form.cleaned_data["text"], form.passage())
    except Conflict as conflict:
        return _refused(request, place, found, 409, str(conflict), said=form)
    if wants_json(request):
        return answered(request, place, said)
    return HttpResponseRedirect(f"{request.path}?thread#thread")


def _judge(request: HttpRequest, place: Workplace, found: Adjudication) -> HttpResponse:
    form = AdjudicationForm(request.POST, place.protocol)
    try:
        valid = form.is_valid()
        check_reader(request)
        if not valid:
            return _refused(request, place, found, 400, sentence(form), typed=form)
        review = judging.adjudicate(place, request.user, found.pk, form.cleaned_data)
    except Conflict as conflict:
        now = adjudication_page.find(place, found.pk)
        return _refused(request, place, now, 409, str(conflict), typed=form)
    words = {"case": found.case.patient.pseudonym, "verdict": verdict_name(place.protocol, review.label)}
    messages.success(request, _("%(case)s: saved as «%(verdict)s».") % words)
    following = _next(place, request.user)
    return JsonResponse({"next": following}) if wants_json(request) else HttpResponseRedirect(following)


def _refused(
    request: HttpRequest, place: Workplace, found: Adjudication, status: int, why: str, **form: Form
) -> HttpResponse:
    """Say why, and keep what was typed: the script has it on its page, a plain form gets it back on a new one."""
    if wants_json(request):
        return JsonResponse({"message": why}, status=status)
    return _show(request, place, found, status=status, error=why, **form)


def _show(
    request: HttpRequest, place: Workplace, found: Adjudication, status: int = 200, **kept: Any
) -> HttpResponse:
    """The notes leave for the lead's eyes: drawn, then recorded, then sent."""
    page = adjudication_page.page(place, request.user, found, **kept)
    response = render(request, "reviews/adjudicate.html", page | {"client_key": uuid.uuid4()}, status=status)
    details = {"prediction": found.prediction_id, "mode": "adjudication", "notes": len(page["notes"])}
    audit.record("case.read", found.case, site=place.site, actor=request.user, details=details)
    return response


def _take_back(request: HttpRequest, place: Workplace, found: Adjudication) -> HttpResponse:
    try:
        judging.withdraw(place, request.user, found.review_id or 0)
    except Conflict as conflict:
        messages.error(request, str(conflict))
        return HttpResponseRedirect(request.path)
    messages.info(request, _("Taken back. The case waits for a lead again."))
    return HttpResponseRedirect(_url("reviews:adjudications", place))


def _next(place: Workplace, user: Any) -> str:
    found = adjudication_page.next_open(place, user)
    more = [found] if found else []
    return _url("reviews:adjudications-case" if found else "reviews:adjudications", place, *more)


@require_safe
@for_leads(gettext_lazy("Agreement of readers is shown to leads and administrators"))
def agreement(request: HttpRequest, place: Workplace) -> HttpResponse:
    form = PeriodForm(request.GET)
    if not form.is_valid():
        return render(request, "reviews/agreement.html", agreement_page.refused(place, form), status=400)
    return render(request, "reviews/agreement.html", agreement_page.page(place, form))


@require_safe
def progress_of(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    asked = request.GET.get("days", "")
    days = next((n for n in progress.PERIODS if str(n) == asked), 7)
    return render(request, "reviews/progress.html", progress_page.page(place, request.user, days))


@require_http_methods(["GET", "HEAD", "POST"])
@for_leads(gettext_lazy("How a protocol is read is shown to leads and administrators"))
def reading_settings(request: HttpRequest, place: Workplace) -> HttpResponse:
    form = ReadingForm(request.POST or None)
    status, error = 200, ""
    if request.method == "POST":
        status, error = _set_reading(request, place, form)
        if status == 302:
            return HttpResponseRedirect(request.path)
    place.protocol.refresh_from_db()
    page = {
        "place": place,
        "form": form,
        "error": error,
        "can_save": governs(place, request.user),
        "elsewhere": sites_using(place.protocol).exclude(pk=place.site.pk).exists(),
        "past": reading_policy.past(place),
    }
    return render(request, "reviews/reading_settings.html", page, status=status)


def _set_reading(request: HttpRequest, place: Workplace, form: ReadingForm) -> tuple[int, str]:
    if not governs(place, request.user):
        return 403, _("Only an administrator of every site that uses this protocol changes how it is read.")
    if not form.is_valid():
        return 400, ""
    try:
        reading_policy.change(place, request.user, form.cleaned_data)
    except ReadingMoved as moved:
        return 409, str(moved)
    messages.success(request, _("Saved. It holds for every verdict given from now on."))
    return 302, ""


def _url(name: str, place: Workplace, *more: int) -> str:
    return reverse(name, args=[place.site.slug, place.protocol.slug, *more])
