"""Who sees the model's view and other readers' words, and when. Every page asks here."""

from __future__ import annotations

from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from reviews import readings, selectors
from reviews.models import Comment, Review
from triage import sampling
from triage.access import Workplace
from triage.models import AuditEvent, Policy, Prediction, Protocol


def blind_protocol(protocol: Protocol) -> bool:
    return protocol.reading == Protocol.Reading.BLIND


def read_before(user: Any) -> Exists:
    """Of predictions: another reader's verdict stands on the same notes."""
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256"), "withdrawn_at": None}
    return Exists(Review.objects.filter(**same).exclude(reader=user))


def blind_rows(policy: Policy, user: Any) -> Q:
    """Predictions that ``user`` reads without the model's view, whatever the protocol: drawn, or read before by another."""
    return sampling.drawn(policy) | Q(read_before(user))


def covered(place: Workplace, policy: Policy, user: Any) -> Q:
    """Predictions of which ``user`` sees nothing of the model before their verdict."""
    return Q(pk__isnull=False) if blind_protocol(place.protocol) else blind_rows(policy, user)


def blind(place: Workplace, policy: Policy, prediction: Prediction, user: Any) -> bool:
    """Whether model and other readers stay hidden from ``user``: until their own verdict stands.

    A second reader is blind to both, so is whoever reads a case of the blind sample, so that neither can be told apart.
    """
    if selectors.own_review(prediction, user) is not None:
        return False
    drawn = prediction.lot < policy.audit_rate
    return blind_protocol(place.protocol) or drawn or others(prediction, user).exists()


def uncovered(place: Workplace, policy: Policy, prediction: Prediction, user: Any, held: bool) -> bool:
    """Whether the page shows the model's view. Where a second reader may follow, to who holds the case alone: whoever
    looked at it in another's hands may become that reader."""
    if blind(place, policy, prediction, user):
        return False
    return held or place.protocol.double_share == 0


def others(prediction: Prediction, user: Any) -> QuerySet[Review]:
    """Standing verdicts of others on the notes the prediction read."""
    return readings.standing(prediction).exclude(reader=user)


def mode(place: Workplace, policy: Policy, prediction: Prediction, user: Any) -> str:
    """How a verdict given now would have been read: blind only by who never saw the model's view of these notes."""
    covered_now = blind(place, policy, prediction, user)
    return Review.Mode.BLIND if covered_now and not saw(prediction, user) else Review.Mode.ASSISTED


def saw(prediction: Prediction, user: Any) -> bool:
    """Whether ``user`` was shown the model's view: by an assisted page, or after a verdict they took back."""
    same = {"case": prediction.case_id, "notes_sha256": prediction.notes_sha256}
    if Review.objects.filter(**same, reader=user, withdrawn_at__isnull=False).exists():
        return True
    of_case = {"site": prediction.site_id, "object_type": "triage.case", "object_id": str(prediction.case_id)}
    read = AuditEvent.objects.filter(**of_case, actor=user, verb="case.read")
    scored = list(Prediction.objects.filter(**same).values_list("pk", flat=True))
    return read.filter(details__prediction__in=scored, details__uncovered=True).exists()


def thread(place: Workplace, policy: Policy, prediction: Prediction, user: Any) -> QuerySet[Comment]:
    """The comments on a case that ``user`` may read now: their own alone while they read blind."""
    said = judges_thread(prediction)
    return said.filter(author=user) if blind(place, policy, prediction, user) else said


def judges_thread(prediction: Prediction) -> QuerySet[Comment]:
    """All that was said on the case: for the lead who judges its readings, and has them on the page."""
    said = Comment.objects.filter(case=prediction.case_id, withdrawn_at=None)
    return said.select_related("author").order_by("at", "pk")
