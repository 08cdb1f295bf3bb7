"""What the clinician's side adds to the frame of every page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from reviews.models import Adjudication
from triage.access import Workplace


def waiting_for_leads(request: HttpRequest) -> dict[str, Any]:
    """``disagreements``: how many cases wait for a lead; counted only where the frame shows it."""
    place: Workplace | None = getattr(request, "workplace", None)
    if place is None or not place.is_lead:
        return {}
    here = {"case__site": place.site, "case__protocol": place.protocol}
    return {"disagreements": Adjudication.objects.filter(**here, closed_at=None).count}
