"""What every page of a workplace shows around its content."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, OuterRef
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from triage.access import Workplace
from triage.models import Policy, Protocol, Release, Site

BAR, MORE = "bar", "more"  # in the bar itself, or in its menu of what is opened seldom
PAGES = [  # (address, its name, for leads only, where)
    ("reviews:queue", lambda: _("Queue"), False, BAR),
    ("reviews:adjudications", lambda: _("Adjudication"), True, BAR),
    ("reviews:agreement", lambda: _("Agreement"), True, BAR),
    ("reviews:progress", lambda: _("Progress"), False, BAR),
    ("triage:dial", lambda: _("Dial"), False, BAR),
    ("reviews:watch", lambda: _("Watch"), False, MORE),
    ("triage:intake", lambda: _("Import"), True, MORE),
    ("reviews:export", lambda: _("Export"), True, MORE),
    ("reviews:words", lambda: _("Words by group"), True, MORE),
    ("reviews:reading-settings", lambda: _("How it is read"), True, MORE),
    ("reviews:calibrations", lambda: _("Calibrations"), True, MORE),
    ("triage:releases", lambda: _("Releases"), True, MORE),
    ("triage:background", lambda: _("Background work"), True, MORE),
]


ACTIVE = Release.objects.filter(protocol=OuterRef("pk"), active=True)


def workplace(request: HttpRequest) -> dict[str, Any]:
    """``site``, ``protocol``, ``membership``, ``memberships``, ``nav`` and ``nav_more`` for a page that has a workplace."""
    place: Workplace | None = getattr(request, "workplace", None)
    if place is None:
        return {}
    return {
        "site": place.site,
        "protocol": place.protocol,
        "membership": place.membership,
        "memberships": _switches(request, place),
        "nav": _pages(request, place, BAR),
        "nav_more": _pages(request, place, MORE),
    }


def _pages(request: HttpRequest, place: Workplace, part: str) -> list[dict[str, Any]]:
    """What the member may open."""
    here = request.resolver_match.view_name if request.resolver_match else ""
    where = [place.site.slug, place.protocol.slug]
    return [
        {"name": name, "label": label(), "url": reverse(name, args=where), "current": here.startswith(name)}
        for name, label, leads, shown in PAGES
        if shown == part and (place.is_lead or not leads)
    ]


def workplaces(user: Any) -> list[tuple[Any, Any]]:
    """(site, protocol) pairs of the user's sites in a stable order: protocols in use there or with a release.

    Kept with the user, who lives as long as a request.
    """
    if not hasattr(user, "_workplaces"):
        user._workplaces = _workplaces(user)
    return user._workplaces


def _workplaces(user: Any) -> list[tuple[Any, Any]]:
    sites = Site.objects.filter(memberships__user=user).order_by("name")
    opened = Policy.objects.filter(protocol=OuterRef("pk"), version=1, site__memberships__user=user)
    used = ArraySubquery(opened.values("site"))
    protocols = list(Protocol.objects.annotate(ready=Exists(ACTIVE), used=used).order_by("pk"))
    return [(s, p) for s in sites for p in protocols if p.ready or s.pk in p.used]


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
