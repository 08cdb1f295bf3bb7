"""Around the queue: a search is taken in, a view is kept, a case is freed or returned; my work and my team's."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from reviews import adjudication, filters, listing, queue, search, selectors, work
from reviews.adjudication import Conflict
from reviews.filters import Filters, SearchForm, ViewForm
from reviews.models import SavedView
from reviews.requests import sentence
from triage.access import Workplace, lead_only, workplace

VIEWS_MOST = 30


@require_POST
def search_notes(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    """Keep what is searched for in the session and go on to its address, which has a key in its stead."""
    place = workplace(request, site, protocol)
    form = SearchForm(request.POST)
    if not form.is_valid():
        messages.error(request, _too_long(len(request.POST.get("terms", ""))))
        return _queue(place)
    here, terms = _filters(place, form.cleaned_data["query"]), form.cleaned_data["terms"]
    key = search.keep(request.session, terms) if terms else ""
    show = here.show if key or here.show != filters.EVERYTHING else ""
    return _queue(place, here.query(q=key, show=show, after=None))


@require_POST
def save_view(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    """Keep the filters under a name; the same name again holds the new ones. A search is not kept: it ends."""
    place = workplace(request, site, protocol)
    form = ViewForm(request.POST)
    here = _filters(place, request.POST.get("query", "")).query(after=None, q="")
    views = listing.saved_views(place, request.user)
    if not form.is_valid():
        messages.error(request, sentence(form))
    elif views.count() >= VIEWS_MOST:
        messages.error(request, _("There are thirty views already. Delete one first."))
    else:
        name = form.cleaned_data["name"]
        views.update_or_create(
            user=request.user, site=place.site, protocol=place.protocol, name=name, defaults={"query": here}
        )
    return _queue(place, here)


@require_POST
def change_view(request: HttpRequest, site: str, protocol: str, view: int) -> HttpResponse:
    """Rename one of one's own views, or delete it."""
    place = workplace(request, site, protocol)
    found = listing.saved_views(place, request.user).filter(pk=view).first()
    if found is None:
        raise Http404
    if "delete" in request.POST:
        found.delete()
        messages.info(request, _("The view «%(name)s» is deleted.") % {"name": found.name})
        return _queue(place)
    form = ViewForm(request.POST)
    if not form.is_valid():
        messages.error(request, sentence(form))
    elif listing.saved_views(place, request.user).filter(name=form.cleaned_data["name"]).exclude(pk=view):
        messages.error(request, _("Another view has that name. Choose a new one."))
    else:
        SavedView.objects.filter(pk=view).update(name=form.cleaned_data["name"])
    return _queue(place, found.query)


@require_safe
def mine(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    return render(request, "reviews/mine.html", work.mine(place, request.user))


@require_safe
def team(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    if not place.is_lead:
        return lead_only(request, place, _("The team's work is shown to leads and administrators"))
    return render(request, "reviews/team.html", work.team(place))


@require_POST
def release(request: HttpRequest, site: str, protocol: str, case: int) -> HttpResponse:
    """Free a case somebody holds; then back to where it was asked from: the case, or the list."""
    place = workplace(request, site, protocol)
    found = selectors.find_case(place, case)
    if not place.is_lead:
        return lead_only(request, place, _("A case is freed by leads and administrators"))
    freed = queue.release(place, request.user, found)
    said = _("The case is free again; what was typed stays a draft.") if freed else _("Nobody held the case.")
    messages.info(request, said)
    back = request.POST.get("back", "")
    if back == "case":
        return HttpResponseRedirect(reverse("reviews:queue-case", args=[site, protocol, case]))
    if back == "team":
        return HttpResponseRedirect(reverse("reviews:queue-team", args=[site, protocol]))
    return _queue(place, _filters(place, request.POST.get("query", "")).query())


@require_POST
def resume(request: HttpRequest, site: str, protocol: str, review: int) -> HttpResponse:
    """Return a case that rests for more information to the queue."""
    place = workplace(request, site, protocol)
    if not place.is_lead:
        return lead_only(request, place, _("A case is returned by leads and administrators"))
    try:
        adjudication.resume(place, request.user, review)
    except Conflict as conflict:
        messages.error(request, str(conflict))
    else:
        messages.info(
            request, _("The case is back in the queue; what its reader wrote is their draft again.")
        )
    return HttpResponseRedirect(reverse("reviews:queue-team", args=[site, protocol]))


def _too_long(n: int) -> str:
    """A search is never cut: a shorter one would find other cases."""
    most = SearchForm.base_fields["terms"].max_length
    if n <= most:
        return _("The search could not be read. Type it again, on one line.")
    said = _("The search has %(n)d characters; %(most)d are read at most. Nothing was searched: shorten it.")
    return said % {"n": n, "most": most}


def _filters(place: Workplace, query: str) -> Filters:
    return filters.read(QueryDict(query), place.protocol)[0]


def _queue(place: Workplace, query: str = "") -> HttpResponseRedirect:
    address = reverse("reviews:queue", args=[place.site.slug, place.protocol.slug])
    return HttpResponseRedirect(f"{address}?{query}" if query else address)
