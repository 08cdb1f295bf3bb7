"""The dial's instruments: pages of their own, and the parts of them that the dial page shows. Thin."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from reviews import instrument_page
from reviews.instrument_forms import CertifyForm, MatrixForm, TriedForm
from triage import policy as dial
from triage.access import Workplace, for_leads

LEADS = gettext_lazy("The dial's instruments are shown to leads and administrators")


@require_safe
@for_leads(LEADS)
def instruments(request: HttpRequest, place: Workplace) -> HttpResponse:
    """With «part» in the address only what the dial page puts in its own."""
    today = dial.current(place.site, place.protocol)
    asked = CertifyForm.asked(request.GET.dict(), today.typicality_floor)
    matrix = MatrixForm.asked(request.GET.dict(), place.protocol)
    page = instrument_page.page(place, asked, matrix)
    wrong = asked.errors or (matrix.is_bound and matrix.errors)
    return _answer(request, "instruments", page, 400 if wrong else 200)


@require_safe
@for_leads(LEADS)
def changes(request: HttpRequest, place: Workplace) -> HttpResponse:
    today = dial.current(place.site, place.protocol)
    tried = TriedForm.asked(request.GET.dict(), today)
    if not tried.is_valid():
        return _answer(request, "changes", {"place": place, "form": tried}, 400)
    page = instrument_page.changes(place, request.user, tried) | {"form": tried}
    return _answer(request, "changes", page, 200)


def _answer(request: HttpRequest, name: str, page: dict[str, object], status: int) -> HttpResponse:
    template = f"reviews/_{name}.html" if "part" in request.GET else "reviews/instrument_pages.html"
    return render(request, template, page | {"shown": f"reviews/_{name}.html", "name": name}, status=status)
