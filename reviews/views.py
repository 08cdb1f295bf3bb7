"""Thin: parse, authorise, call one function, render. A page with patient text is drawn, then recorded, then sent."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from reviews import adjudication, filters, groups, listing, pages, queue, search, selectors
from reviews.adjudication import Conflict, Late
from reviews.forms import CohortForm, DraftForm, MethodForm, VerdictForm
from reviews.models import Review
from reviews.requests import check_reader, check_seal, sentence, wants_json
from triage import audit, cohorts
from triage import policy as dial
from triage.access import Workplace, for_leads, workplace
from triage.models import Case


@require_safe
def queue_page(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    page = listing.page(place, request.user, request.GET, request.session)
    response = render(request, "reviews/queue.html", page, status=400 if page["refused"] else 200)
    if page["said"]:
        cases = [row["case"] for row in page["rows"] if row["passage"]]
        details = {"hits": len(page["rows"]), "show": page["filters"].show, "cases": cases}
        audit.record("notes.search", place.protocol, site=place.site, actor=request.user, details=details)
    return response


@require_safe
def next_case(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    """Reserve the most urgent free case and go there; with none left, to the queue."""
    place = workplace(request, site, protocol)
    found = queue.take_next(place, request.user)
    return HttpResponseRedirect(_case_url(place, found) if found else _url("reviews:queue", place))


@require_http_methods(["GET", "HEAD", "POST"])
def case_page(request: HttpRequest, site: str, protocol: str, case: int) -> HttpResponse:
    place = workplace(request, site, protocol)
    if request.method == "POST":
        return _verdict(request, place, Case(pk=case))
    return show_case(request, place, selectors.find_case(place, case))


def _verdict(request: HttpRequest, place: Workplace, case: Case) -> HttpResponse:
    """The case is known by its number alone: ``decide`` looks for it, and locks it, at once."""
    form, now = VerdictForm(request.POST, place.protocol), dial.current(place.site, place.protocol)
    try:
        valid = form.is_valid()
        check_reader(request)
        if not valid:
            return _refused(request, place, case, form, 400, sentence(form))
        check_seal(request.user, case.pk, form.cleaned_data)
        review = adjudication.decide(place, request.user, case, form.cleaned_data, now)
    except Conflict as conflict:
        return _refused(request, place, case, form, 409, str(conflict))
    if review.policy_id != now.pk:
        messages.warning(request, pages.dial_moved(review.policy, now))
    if wants_json(request):
        return JsonResponse({"review": review.pk, "next": _url("reviews:queue-next", place)})
    return HttpResponseRedirect(_url("reviews:queue-next", place))


def _refused(
    request: HttpRequest, place: Workplace, case: Case, form: VerdictForm, status: int, why: str
) -> HttpResponse:
    """Say why, and keep what was typed: the script has it on its page, a plain form gets it back on a new one."""
    found = selectors.find_case(place, case.pk)
    if wants_json(request):
        return JsonResponse({"message": why}, status=status)
    return show_case(request, place, found, typed=form, error=why, status=status)


def show_case(
    request: HttpRequest, place: Workplace, case: Case, status: int = 200, **kept: Any
) -> HttpResponse:
    """The page of a case; ``kept``: refused forms and why, for ``pages.case``."""
    asked = filters.read(request.GET, place.protocol)[0]
    searched = search.named(request.session, asked.q, place.protocol)
    page = pages.case(
        place, request.user, case, asked=asked, method=_method(request), search=searched, **kept
    )
    if page["prediction"] is None:
        return render(request, "reviews/unscored.html", page, status=status)
    response = render(request, "reviews/case.html", page | {"client_key": uuid.uuid4()}, status=status)
    _record_read(request, place, page)
    return response


@require_safe
def reading(request: HttpRequest, site: str, protocol: str, case: int) -> HttpResponse:
    """The marked notes, for a page that was opened before its words were ready; 204 until then."""
    place = workplace(request, site, protocol)
    searched = search.named(request.session, request.GET.get("q", ""), place.protocol)
    page = pages.reading(place, request.user, selectors.find_case(place, case), _method(request), searched)
    if not (page["explained"] or page["failed"]) or page["preparing"]:
        return HttpResponse(status=204)
    response = render(request, "reviews/_reading.html", page)
    _record_read(request, place, page)
    return response


@require_POST
def method(request: HttpRequest, site: str, protocol: str, case: int) -> HttpResponse:
    """Ask for the words by another method; they come through ``reading`` when they are ready."""
    place = workplace(request, site, protocol)
    found = selectors.find_case(place, case)
    form = MethodForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"message": sentence(form)}, status=400)
    chosen = form.cleaned_data["method"]
    if not pages.ask(place, request.user, found, chosen):
        return JsonResponse({"message": _("This page shows no words of the model now.")}, status=409)
    if wants_json(request):
        return JsonResponse({"method": chosen}, status=202)
    return HttpResponseRedirect(f"{_case_url(place, case)}?method={chosen}")


def _record_read(request: HttpRequest, place: Workplace, page: dict[str, Any]) -> None:
    prediction = page["prediction"]
    details = {"prediction": prediction.pk, "mode": page["mode"], "uncovered": page["uncovered"]}
    details["notes"] = len(prediction.note_ids)
    audit.record("case.read", prediction.case, site=place.site, actor=request.user, details=details)


@require_POST
def draft(request: HttpRequest, site: str, protocol: str, case: int) -> HttpResponse:
    place = workplace(request, site, protocol)
    found = selectors.find_case(place, case)
    form = DraftForm(request.POST, place.protocol)
    try:
        check_reader(request)
    except Conflict as conflict:
        return JsonResponse({"message": str(conflict)}, status=409)
    if not form.is_valid():
        return JsonResponse({"message": sentence(form)}, status=400)
    try:
        saved = adjudication.keep_draft(place, request.user, found, form.cleaned_data)
    except Late as late:
        return JsonResponse({"message": str(late)}, status=410)
    return JsonResponse({"saved": saved.saved_at.isoformat()})


@require_POST
def hold(request: HttpRequest, site: str, protocol: str, case: int) -> HttpResponse:
    """The page's heartbeat: renew the lease, and hear whether the world moved; 410 when nothing is left to hold."""
    place = workplace(request, site, protocol)
    found = selectors.find_case(place, case)
    told = pages.heartbeat(place, request.user, found, request.POST)
    return JsonResponse(told, status=410 if told.get("over") else 200)


@require_POST
def undo(request: HttpRequest, site: str, protocol: str, review: int) -> HttpResponse:
    place = workplace(request, site, protocol)
    try:
        withdrawn = adjudication.withdraw(place, request.user, review)
    except Conflict as conflict:
        if wants_json(request):
            return JsonResponse({"message": str(conflict)}, status=409)
        messages.error(request, str(conflict))
        return HttpResponseRedirect(_url("reviews:queue", place))
    if withdrawn.mode == Review.Mode.ADJUDICATION:
        messages.info(request, _("Taken back. The case waits for a lead again."))
        listed = _url("reviews:adjudications", place)
        return JsonResponse({"next": listed}) if wants_json(request) else HttpResponseRedirect(listed)
    messages.info(request, _("Taken back. Your answer is filled in again, not saved yet."))
    case = _case_url(place, withdrawn.case_id)
    return JsonResponse({"next": case}) if wants_json(request) else HttpResponseRedirect(case)


@require_http_methods(["GET", "HEAD", "POST"])
@for_leads(gettext_lazy("Words by group are shown to leads and administrators"))
def words(request: HttpRequest, place: Workplace) -> HttpResponse:
    """The words of a group of cases; POST has the explanations worked out that its cases do not have yet."""
    form = CohortForm({"cohort": cohorts.COHORTS[0]} | request.GET.dict())
    if not form.is_valid():
        return render(request, "reviews/words.html", groups.refused(place, form), status=400)
    if request.method == "POST":
        asked = groups.ask(place, **form.cleaned_data)
        messages.info(request, groups.asked(asked))
        return HttpResponseRedirect(request.get_full_path())
    page = groups.page(place, form)
    response = render(request, "reviews/words.html", page)
    _record_words(request, place, page)
    return response


def _record_words(request: HttpRequest, place: Workplace, page: dict[str, Any]) -> None:
    """Words of notes leave their notes: a disclosure, with what was chosen and how much was shown."""
    chosen = {name: str(value or "") for name, value in page["form"].cleaned_data.items()}
    details = chosen | {"cases": page["found"].explained, "rows": len(page["rows"])}
    audit.record("words.disclose", place.protocol, site=place.site, actor=request.user, details=details)


def _method(request: HttpRequest) -> str:
    form = MethodForm(request.GET)
    return form.cleaned_data["method"] if form.is_valid() else pages.USUAL


def _url(name: str, place: Workplace) -> str:
    return reverse(name, args=[place.site.slug, place.protocol.slug])


def _case_url(place: Workplace, case: int) -> str:
    return reverse("reviews:queue-case", args=[place.site.slug, place.protocol.slug, case])
