"""Who may see what. Another site's objects do not exist: the answer is 404, never 403."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.functional import Promise

from triage.models import Membership, Policy, Protocol, Role, Site

View = Callable[..., HttpResponse]


@dataclass(frozen=True)
class Workplace:
    """Where a request works: the site, the protocol and the reader's membership there."""

    site: Site
    protocol: Protocol
    membership: Membership

    @property
    def is_admin(self) -> bool:
        return self.membership.role == Role.ADMIN

    @property
    def is_lead(self) -> bool:
        return self.membership.role in (Role.LEAD, Role.ADMIN)


def workplace(request: HttpRequest, site: str, protocol: str) -> Workplace:
    """The workplace named in the URL, or 404 when the user is no member or it does not exist."""
    membership = Membership.objects.select_related("site").filter(user=request.user, site__slug=site).first()
    found = Protocol.objects.filter(slug=protocol).first()
    if membership is None or found is None:
        raise Http404
    place = Workplace(membership.site, found, membership)
    request.workplace = place  # type: ignore[attr-defined]
    return place


def sites_using(protocol: Protocol) -> QuerySet[Site]:
    """Where the protocol is in use: what is set for it holds at all of these."""
    used = Policy.objects.filter(protocol=protocol, version=1).values("site")
    return Site.objects.filter(pk__in=used)


def governs(place: Workplace, user: Any) -> bool:
    """Whether the user is an administrator of every site that uses the protocol: who may set what holds at all of them."""
    return place.is_admin and governs_all(place.protocol, user)


def governs_all(protocol: Protocol, user: Any) -> bool:
    """``governs`` where there is no page: an administrator, and of every site that uses the protocol."""
    own = user.memberships.filter(role=Role.ADMIN).values("site")
    return own.exists() and not sites_using(protocol).exclude(pk__in=own).exists()


def lead_only(request: HttpRequest, place: Workplace, what: str | Promise) -> HttpResponse:
    """The page that says to whom ``what`` is open, and whom to ask."""
    return render(request, "reviews/lead_only.html", {"place": place, "what": what}, status=403)


def for_leads(what: str | Promise) -> Callable[[View], View]:
    """The view gets the workplace in place of its names; a reader is told whose page it is."""

    def around(view: View) -> View:
        @wraps(view)
        def asked(request: HttpRequest, site: str, protocol: str, **rest: Any) -> HttpResponse:
            place = workplace(request, site, protocol)
            return view(request, place, **rest) if place.is_lead else lead_only(request, place, what)

        return asked

    return around
