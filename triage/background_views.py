"""The page of background work, and what stops a task or begins it again."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe

from mlcore.errors import DataError
from triage import background, tasks
from triage.access import Workplace, for_leads, workplace


@require_safe
@for_leads(gettext_lazy("Background work is shown to leads and administrators"))
def background_page(request: HttpRequest, place: Workplace) -> HttpResponse:
    return render(request, "triage/background.html", background.page(place, request.user))


@require_safe
def background_status(request: HttpRequest, site: str, protocol: str) -> JsonResponse:
    place = workplace(request, site, protocol)
    if not place.is_lead:
        raise Http404
    return JsonResponse(background.status(place, request.user))


@require_POST
def background_task(request: HttpRequest, site: str, protocol: str, task: int) -> HttpResponse:
    """cancel, by who may; retry, by who may ask for it."""
    place = workplace(request, site, protocol)
    found = get_object_or_404(background.here(place), pk=task)
    name, action = found.get_kind_display(), request.POST.get("action")
    may = background.may_retry if action == "retry" else background.may
    if not may(place, request.user, found):
        raise Http404
    try:
        if action == "cancel" and tasks.cancel(found, request.user):
            messages.success(request, _("«%(name)s» is being stopped.") % {"name": name})
        elif action == "retry" and tasks.retry(found, request.user):
            messages.success(request, _("«%(name)s» is in line once more.") % {"name": name})
        else:
            messages.warning(request, _("«%(name)s» had ended or changed meanwhile.") % {"name": name})
    except DataError as refusal:
        messages.warning(request, refusal.told(_))
        return redirect("triage:releases", site, protocol)
    return redirect("triage:background", site, protocol)
