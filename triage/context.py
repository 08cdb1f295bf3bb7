"""What every page of a workplace shows around its content."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, OuterRef
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from triage.access import Workplace
from triage.models import Policy, Protocol, Release, Site

BAR, MORE = "bar", "more"  # in the bar itself, or in its menu of what is opened seldom
ALL, LEADS, ADMINS = "", "is_lead", "is_admin"  # what a workplace says of its member
PAGES = [  # (address, its name, for whom, where)
    ("reviews:queue", lambda: _("Queue"), ALL, BAR),
    ("reviews:adjudications", lambda: _("Adjudication"), LEADS, BAR),
    ("reviews:agreement", lambda: _("Agreement"), LEADS, BAR),
    ("reviews:progress", lambda: _("Progress"), ALL, BAR),
    ("triage:dial", lambda: _("Dial"), ALL, BAR),
    ("reviews:watch", lambda: _("Watch"), ALL, MORE),
    ("triage:intake", lambda: _("Import"), LEADS, MORE),
    ("reviews:export", lambda: _("Export"), LEADS, MORE),
    ("reviews:webhooks", lambda: _("Webhooks"), ADMINS, MORE),
    ("reviews:words", lambda: _("Words by group"), LEADS, MORE),
    ("reviews:reading-settings", lambda: _("How it is read"), LEADS, MORE),
    ("reviews:calibrations", lambda: _("Calibrations"), LEADS, MORE),
    ("triage:releases", lambda: _("Releases"), LEADS, MORE),
    ("triage:background", lambda: _("Background work"), LEADS, MORE),
]


ACTIVE = Release.objects.filter(protocol=OuterRef("pk"), active=True)


def workplace(request: HttpRequest) -> dict[str, Any]:
    """``demo``; and ``site``, ``protocol``, ``membership``, ``memberships``, ``nav``, ``nav_more`` where a page has a workplace."""
    place: Workplace | None = getattr(request, "workplace", None)
    if place is None:
        return {"demo": settings.DEMO}
    return {
        "demo": settings.DEMO,
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
        for name, label, who, shown in PAGES
        if shown == part and (who == ALL or getattr(place, who))
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
