"""The page where a release in shadow is compared with the active one."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from reviews import comparison
from reviews.lead_views import for_leads
from triage.access import Workplace
from triage.models import Release

DEEPEST = 10_000  # pages


@require_safe
@for_leads(gettext_lazy("Releases are shown to leads and administrators"))
def compared(request: HttpRequest, place: Workplace) -> HttpResponse:
    """?release= the challenger's id, ?page= of the cases they see differently."""
    if "release" not in request.GET:
        return redirect("triage:releases", place.site.slug, place.protocol.slug)
    asked, page = _number(request, "release"), max(_number(request, "page", 1), 1)
    mine = Release.objects.filter(protocol=place.protocol)
    challenger, champion = get_object_or_404(mine, pk=asked), mine.filter(active=True).first()
    if champion is None or champion == challenger or page > DEEPEST:
        raise Http404
    facts = comparison.compare(place, request.user, challenger, page)
    return render(
        request,
        "reviews/comparison.html",
        facts | {"place": place, "champion": champion, "challenger": challenger},
    )


def _number(request: HttpRequest, name: str, default: int = 0) -> int:
    said = request.GET.get(name, str(default))
    if not (said.isascii() and said.isdigit() and len(said) < 16):
        raise Http404
    return int(said)
