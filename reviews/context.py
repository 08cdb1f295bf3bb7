"""What the clinician's side adds to the frame of every page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from reviews import alarms
from reviews.models import Adjudication
from triage.access import Workplace

ALARMED = ("reviews:queue", "triage:dial")


def waiting_for_leads(request: HttpRequest) -> dict[str, Any]:
    """``disagreements``: how many cases wait for a lead; ``alarmed``: whether nobody has seen an alarm of the watch.

    Counted only where the frame shows it: the latter above the queue and the dial.
    """
    place: Workplace | None = getattr(request, "workplace", None)
    if place is None or not place.is_lead:
        return {}
    here = {"case__site": place.site, "case__protocol": place.protocol}
    shown = request.resolver_match and request.resolver_match.view_name in ALARMED
    return {
        "disagreements": Adjudication.objects.filter(**here, closed_at=None).count,
        "alarmed": alarms.unseen(place) if shown else False,
    }
