"""Beside the verdict: passing a case over, and what is said about it."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_POST

from reviews import comments, queue, selectors
from reviews.adjudication import Conflict
from reviews.forms import CommentForm
from reviews.models import Comment
from reviews.requests import check_reader, sentence, wants_json
from reviews.views import show_case
from triage.access import Workplace, workplace
from triage.models import Case


@require_POST
def skip(request: HttpRequest, site: str, protocol: str, case: int) -> HttpResponse:
    """Pass the case over and go to the next; what was typed stays a draft."""
    place = workplace(request, site, protocol)
    queue.skip(place, request.user, selectors.find_case(place, case))
    following = reverse("reviews:queue-next", args=[site, protocol])
    return JsonResponse({"next": following}) if wants_json(request) else HttpResponseRedirect(following)


@require_POST
def say(request: HttpRequest, site: str, protocol: str, case: int) -> HttpResponse:
    """Add to the thread: the script gets the new comment drawn, a plain form the page again."""
    place = workplace(request, site, protocol)
    found = selectors.find_case(place, case)
    form = CommentForm(request.POST)
    try:
        check_reader(request)
        if not form.is_valid():
            return _refused(request, place, found, form, 400, sentence(form))
        said = comments.say(place, request.user, found, form.cleaned_data["text"], form.passage())
    except Conflict as conflict:
        return _refused(request, place, found, form, 409, str(conflict))
    return answered(request, place, said) if wants_json(request) else _thread(request, place, found.pk)


def answered(request: HttpRequest, place: Workplace, said: Comment) -> JsonResponse:
    """A comment for the script: its number, and how it is drawn."""
    notes = [said.note] if said.note else []
    [item] = comments.shown([said], notes, request.user)
    html = render_to_string("reviews/_comment.html", {"item": item, "place": place}, request)
    return JsonResponse({"comment": said.pk, "html": html})


def _refused(
    request: HttpRequest, place: Workplace, case: Case, form: CommentForm, status: int, why: str
) -> HttpResponse:
    """Say why, and keep the words."""
    if wants_json(request):
        return JsonResponse({"message": why}, status=status)
    return show_case(request, place, case, said=form, error=why, status=status)


@require_POST
def unsay(request: HttpRequest, site: str, protocol: str, comment: int) -> HttpResponse:
    place = workplace(request, site, protocol)
    withdrawn = comments.withdraw(place, request.user, comment)
    if wants_json(request):
        return JsonResponse({"comment": withdrawn.pk})
    return _thread(request, place, withdrawn.case_id)


def _thread(request: HttpRequest, place: Workplace, case: int) -> HttpResponse:
    """Back to the thread: on the page of the case, or that of the disagreement it was written on."""
    judged = request.POST.get("adjudication", "")
    name, number = ("adjudications-case", int(judged)) if judged.isdecimal() else ("queue-case", case)
    address = reverse(f"reviews:{name}", args=[place.site.slug, place.protocol.slug, number])
    return HttpResponseRedirect(f"{address}?thread#thread")
