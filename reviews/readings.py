"""What the readings of a case come to: one label, a second reader, a lead, or a wait for more information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db.models import QuerySet
from django.utils import timezone

from reviews import webhooks
from reviews.models import Adjudication, Label, Review, Why
from triage import audit, sampling
from triage import policy as dial
from triage.models import Prediction

SINGLE, AGREED, ADJUDICATED = Label.Provenance
UNDECIDED_MOST = 2


class Outcome(NamedTuple):
    """label with its provenance once there is one; whether a lead must judge; neither: others go on reading, or wait."""

    label: int | None = None
    provenance: str = ""
    disputed: bool = False


def outcome(readings: Sequence[Review], drawn: bool = False) -> Outcome:
    """The rule, of the standing readings of the same notes, the earliest first.

    A lead's adjudication settles it. One reading drawn for a second reader waits for it; two such that agree are a label,
    any other two go to a lead. Otherwise the first reading with a label settles the case, and UNDECIDED_MOST without one
    go to a lead. A wish for more information leaves everything open. drawn: a reading of these notes that was taken back
    had been drawn for a second reader; the case stays so.
    """
    for reading in readings:
        if reading.mode == Review.Mode.ADJUDICATION:
            return Outcome(reading.label, ADJUDICATED)
    if any(reading.why == Why.INFORMATION for reading in readings):
        return Outcome()
    labels = [reading.label for reading in readings]
    if drawn or any(reading.double for reading in readings):
        if len(labels) < 2:
            return Outcome()
        agreed = None not in labels and len(set(labels)) == 1
        return Outcome(labels[0], AGREED) if agreed else Outcome(disputed=True)
    given = [label for label in labels if label is not None]
    if given:
        return Outcome(given[0], SINGLE)
    return Outcome(disputed=len(labels) >= UNDECIDED_MOST)


def standing(prediction: Prediction) -> QuerySet[Review]:
    """The readings that count for the notes of a prediction, the earliest first."""
    same = Review.objects.filter(case=prediction.case_id, notes_sha256=prediction.notes_sha256)
    return same.filter(withdrawn_at=None).order_by("at", "pk")


def settle(prediction: Prediction) -> Label | None:
    """Make label and adjudication of a case what its readings come to; the label that stands, if one does.

    Within the transaction that changed the readings, the prediction locked.
    """
    readings = list(standing(prediction))
    same = Review.objects.filter(case=prediction.case_id, notes_sha256=prediction.notes_sha256)
    found = outcome(readings, same.filter(double=True).exists())
    label = _label(prediction, found, readings)
    waiting = Adjudication.objects.filter(
        case=prediction.case_id, notes_sha256=prediction.notes_sha256, closed_at=None
    )
    if not found.disputed:
        waiting.update(closed_at=timezone.now())
    elif not waiting.exists():
        opened = Adjudication.objects.create(
            case_id=prediction.case_id, prediction=prediction, notes_sha256=prediction.notes_sha256
        )
        audit.record("adjudication.open", opened, site=prediction.site, details={"case": prediction.case_id})
    return label


def _label(prediction: Prediction, found: Outcome, readings: Sequence[Review]) -> Label | None:
    current = Label.objects.filter(
        case=prediction.case_id, notes_sha256=prediction.notes_sha256, withdrawn_at=None
    ).first()
    same = current and (current.label, current.provenance) == (found.label, found.provenance)
    if same and current.review in readings:
        return current
    if current:
        current.withdrawn_at = timezone.now()
        current.save(update_fields=["withdrawn_at"])
        webhooks.tell(current, "withdrawn")
    if found.label is None:
        return None
    label = Label.objects.create(
        case_id=prediction.case_id,
        review=_behind(found, readings),
        notes_sha256=prediction.notes_sha256,
        label=found.label,
        provenance=found.provenance,
        propensity=propensity(readings[0]),
    )
    webhooks.tell(label, "given")
    return label


def _behind(found: Outcome, readings: Sequence[Review]) -> Review:
    """The reading that made the label: the lead's, the first that gave it, or of two that agree the second."""
    if found.provenance == ADJUDICATED:
        return next(reading for reading in readings if reading.mode == Review.Mode.ADJUDICATION)
    giving = [reading for reading in readings if reading.label == found.label]
    return giving[-1] if found.provenance == AGREED else giving[0]


def propensity(first: Review) -> float:
    """With what probability the policy of a case's first reading sent it to a reader."""
    rule = dial.outcome(first.policy.alpha, first.policy.typicality_floor)
    reason = Prediction.objects.filter(pk=first.prediction_id).values_list(rule, flat=True).get()
    return sampling.propensity(reason, first.policy)
