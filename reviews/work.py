"""My work and my team's: drafts, skipped cases and verdicts of one reader; who holds and who decided what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models import Count, Exists, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext as _

from reviews import selectors
from reviews.adjudication import name_of
from reviews.models import Adjudication, Draft, Label, Lease, Review, Skip, Why
from reviews.wording import verdict_name
from triage.access import Workplace
from triage.models import Prediction

DAYS = 7
MOST = 100


def mine(place: Workplace, user: Any) -> dict[str, Any]:
    """What ``user`` began, passed over and decided of late; of others' readings nothing but that a label stands."""
    here = {"case__site": place.site, "case__protocol": place.protocol, "reader": user}
    drafts = Draft.objects.filter(**here).order_by("-saved_at")
    skipped = Skip.objects.filter(**here, at__gt=timezone.now() - selectors.SKIPPED_FOR).order_by("-at")
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256")}
    verdicts = (
        Review.objects.filter(**here, withdrawn_at=None, at__gt=timezone.now() - timedelta(days=DAYS))
        .annotate(
            settled=Exists(Label.objects.filter(**same, withdrawn_at=None)),
            stands=Exists(Prediction.objects.filter(**same, current=True)),
        )
        .order_by("-at", "-pk")
    )
    return {
        "place": place,
        "days": DAYS,
        "drafts": drafts.select_related("case__patient")[:MOST],
        "skipped": skipped.select_related("case__patient")[:MOST],
        "verdicts": [_verdict(place, review) for review in verdicts.select_related("case__patient")[:MOST]],
    }


def _verdict(place: Workplace, review: Any) -> dict[str, Any]:
    return {
        "case": review.case_id,
        "pseudonym": review.case.patient.pseudonym,
        "verdict": verdict_name(place.protocol, review.label, review.why),
        "at": review.at,
        "becomes": _becomes(review),
    }


def _becomes(review: Any) -> str:
    """Whether others agree shows only once a label stands: until then somebody else judges it, whoever that is."""
    if review.settled:
        return _("label stands")
    if not review.stands:
        return _("new notes or a new score since")
    if review.why == Why.INFORMATION:
        return _("rests until more is known")
    return _("somebody else will judge it too")


def team(place: Workplace) -> dict[str, Any]:
    """Who holds which case, who decided how many today, and what waits for a lead."""
    here = {"case__site": place.site, "case__protocol": place.protocol}
    leases = Lease.objects.filter(**here, until__gt=timezone.now()).order_by("until")
    return {
        "place": place,
        "leases": leases.select_related("case__patient", "reader")[:MOST],
        "today": _today(place),
        "adjudications": Adjudication.objects.filter(**here, closed_at=None).count(),
        "resting": resting(place).select_related("case__patient", "reader").order_by("at")[:MOST],
    }


def _today(place: Workplace) -> list[dict[str, Any]]:
    """Every reader of the site, the busiest first."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    given = Q(
        reviews__at__gte=midnight,
        reviews__withdrawn_at=None,
        reviews__case__site=place.site,
        reviews__case__protocol=place.protocol,
    )
    members = get_user_model().objects.filter(memberships__site=place.site)
    counted = members.annotate(n=Count("reviews", filter=given, distinct=True))
    return [{"name": name_of(user), "n": user.n} for user in counted.order_by("-n", "username")[:MOST]]


def resting(place: Workplace) -> Any:
    """The readings for which a case rests: more information was asked for, and no new notes came since."""
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256"), "current": True}
    asked = Review.objects.filter(case__site=place.site, case__protocol=place.protocol, withdrawn_at=None)
    return asked.filter(Exists(Prediction.objects.filter(**same)), why=Why.INFORMATION)
