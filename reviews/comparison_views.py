"""The page where a release in shadow is compared with the active one."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from reviews import comparison
from triage import background
from triage.access import Workplace, for_leads
from triage.models import Release

DEEPEST = 10_000  # pages


@require_http_methods(["GET", "HEAD", "POST"])
@for_leads(gettext_lazy("Releases are shown to leads and administrators"))
def compared(request: HttpRequest, place: Workplace) -> HttpResponse:
    """?release= the challenger's id, ?page= of the cases they see differently. POST: have a worker compare them anew."""
    if "release" not in request.GET:
        return redirect("triage:releases", place.site.slug, place.protocol.slug)
    asked, page = _number(request, "release"), max(_number(request, "page", 1), 1)
    mine = Release.objects.filter(protocol=place.protocol)
    challenger, champion = get_object_or_404(mine, pk=asked), mine.filter(active=True).first()
    if champion is None or champion == challenger or page > DEEPEST:
        raise Http404
    if request.method == "POST":
        comparison.ask(place, challenger, by=request.user)
        return redirect(request.get_full_path())
    facts = comparison.compare(place, request.user, challenger, page)
    return render(
        request,
        "reviews/comparison.html",
        facts
        | {"place": place, "champion": champion, "challenger": challenger}
        | {"mark": background.page_mark(place, request.user) if facts["work"] and facts["work"].open else ""},
    )


def _number(request: HttpRequest, name: str, default: int = 0) -> int:
    said = request.GET.get(name, str(default))
    if not (said.isascii() and said.isdigit() and len(said) < 16):
        raise Http404
    return int(said)
