"""Pages of the project itself: where to go, whether it lives, and the dial."""

from __future__ import annotations

from typing import Any

import redis
from django.conf import settings
from django.contrib import messages
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from triage import dial as dialling
from triage import jobs, policy, registry
from triage.access import Workplace, workplace
from triage.context import workplaces
from triage.forms import DialForm
from triage.models import Policy


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """The queue of the first workplace, or a sentence when there is none."""
    places = workplaces(request.user)
    if not places:
        return render(request, "triage/no_workplace.html")
    site, protocol = places[0]
    return redirect("reviews:queue", site.slug, protocol.slug)


@require_GET
def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok", content_type="text/plain")


@require_GET
def readyz(request: HttpRequest) -> JsonResponse:
    """Each dependency by name; 503 when one is missing."""
    found = {"postgres": _postgres(), "queue": _queue()}
    if not found["postgres"]:
        found["releases"] = " ".join(registry.problems())
    body = {name: problem or "ok" for name, problem in found.items()}
    return JsonResponse(body, status=503 if any(found.values()) else 200)


def _postgres() -> str:
    try:
        connection.ensure_connection()
    except DatabaseError:
        return "PostgreSQL does not answer."
    return ""


def _queue() -> str:
    try:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2).ping()
    except redis.RedisError:
        return "The queue does not answer; cases wait to be scored."
    return ""


@require_http_methods(["GET", "POST"])
def dial(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    today = policy.current(place.site, place.protocol)
    form = DialForm(
        request.POST if request.method == "POST" else None,
        initial={"alpha": today.alpha, "floor": today.typicality_floor, "audit_rate": today.audit_rate},
    )
    status = _turn(request, place, form) if request.method == "POST" else 200
    if status == 302:
        return redirect("triage:dial", site, protocol)
    page = _dial_page(place, form) | {"conflict": status == 409}
    return render(request, "triage/dial.html", page, status=status)


def _turn(request: HttpRequest, place: Workplace, form: DialForm) -> int:
    valid = form.is_valid()
    if not place.is_admin:
        form.add_error(None, _("Only an admin of this site turns the dial."))
        return 403
    today = policy.current(place.site, place.protocol)
    unchanged = {"alpha": today.alpha, "floor": today.typicality_floor}
    if (
        valid
        and form.cleaned_data["audit_rate"] in (None, today.audit_rate)
        and (unchanged.items() <= form.cleaned_data.items())
    ):
        form.add_error(
            None,
            _(
                "Nothing was saved: α, the floor and the audit rate are those in force. Change one of them first."
            ),
        )
    if not form.is_valid():
        return 422
    try:
        turned = policy.turn(place.site, place.protocol, author=request.user, **form.cleaned_data)
    except policy.PolicyMoved:
        return 409
    jobs.wake_after_turn(place.site.pk, place.protocol.pk)
    messages.success(request, _("Saved: version %(version)d is in force.") % {"version": turned.version})
    return 302


def _dial_page(place: Workplace, form: DialForm) -> dict[str, Any]:
    today = policy.current(place.site, place.protocol)
    versions = Policy.objects.filter(site=place.site, protocol=place.protocol).select_related("author")
    names = dict(zip(place.protocol.labels, place.protocol.label_names, strict=True))
    return {
        "form": form,
        "policy": today,
        "versions": versions.order_by("-version"),
        "curve": dialling.curve(place, today.typicality_floor),
        "target_name": ", ".join(names[target] for target in place.protocol.targets),
        "preview_url": reverse("triage:dial-preview", args=[place.site.slug, place.protocol.slug]),
        "can_save": place.is_admin,
    }


@require_GET
def dial_preview(request: HttpRequest, site: str, protocol: str) -> JsonResponse:
    place = workplace(request, site, protocol)
    form = DialForm({**request.GET.dict(), "reason": "-", "base_version": 1})
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=422)
    today = policy.current(place.site, place.protocol)
    chosen = form.cleaned_data
    rate = today.audit_rate if chosen["audit_rate"] is None else chosen["audit_rate"]
    return JsonResponse(dialling.preview(place, today, chosen["alpha"], chosen["floor"], rate))
