"""Pages of the project itself: where to go, and whether it lives."""

from __future__ import annotations

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET

from triage import background, registry
from triage.context import workplaces


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
    """Each dependency by name; 503 when one is missing. Workers are named too, but without them the pages go on: 200."""
    found = {"postgres": _postgres(), "queue": _queue()}
    if not found["postgres"]:
        found["releases"] = " ".join(registry.problems())
    facts = found if found["queue"] else found | {"workers": _workers()}
    body = {name: problem or "ok" for name, problem in facts.items()}
    return JsonResponse(body, status=503 if any(found.values()) else 200)


def _postgres() -> str:
    try:
        connection.ensure_connection()
    except DatabaseError:
        return "PostgreSQL does not answer."
    return ""


def _workers() -> str:
    try:
        return background.nobody()
    except redis.RedisError:
        return "The queue does not tell which workers run."


def _queue() -> str:
    try:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2).ping()
    except redis.RedisError:
        return "The queue does not answer; cases wait to be scored."
    return ""
