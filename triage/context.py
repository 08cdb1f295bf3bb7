"""What every page of a workplace shows around its content."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from triage.access import Workplace
from triage.models import Membership, Policy

PAGES = [
    ("reviews:queue", lambda: _("Queue")),
    ("triage:dial", lambda: _("Dial")),
    ("triage:intake", lambda: _("Import")),
    ("reviews:export", lambda: _("Export")),
]


def workplace(request: HttpRequest) -> dict[str, Any]:
    """``site``, ``protocol``, ``membership``, ``memberships`` and ``nav`` for a page that has a workplace."""
    place: Workplace | None = getattr(request, "workplace", None)
    if place is None:
        return {}
    here = request.resolver_match.view_name if request.resolver_match else ""
    where = [place.site.slug, place.protocol.slug]
    return {
        "site": place.site,
        "protocol": place.protocol,
        "membership": place.membership,
        "memberships": _switches(request, place),
        "nav": [
            {"label": label(), "url": reverse(name, args=where), "current": here.startswith(name)}
            for name, label in PAGES
        ],
    }


def workplaces(user: Any) -> list[tuple[Any, Any]]:
    """(site, protocol) pairs with a policy at a site of which the user is a member, in a stable order."""
    sites = Membership.objects.filter(user=user).values("site")
    policies = Policy.objects.filter(site__in=sites, version=1).select_related("site", "protocol")
    return [(policy.site, policy.protocol) for policy in policies.order_by("site__name", "protocol_id")]


def _switches(request: HttpRequest, place: Workplace) -> list[dict[str, Any]]:
    return [
        {
            "site": site,
            "protocol": protocol,
            "url": reverse("reviews:queue", args=[site.slug, protocol.slug]),
            "current": (site, protocol) == (place.site, place.protocol),
        }
        for site, protocol in workplaces(request.user)
    ]
