"""What the readings of a case come to: one label, a second reader, a lead, or a wait for more information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db.models import QuerySet
from django.utils import timezone

from reviews import webhooks
from reviews.models import Adjudication, Label, Review, Why
from triage import audit, policy, sampling
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

    A lead's adjudication settles it. One reading drawn for a second reader waits for it; two such that agree, the later one
    blind, are a label, any other two go to a lead: who had seen the model's view or the other verdict when they read, or
    read anew, agrees with nobody. Otherwise the first reading with a label settles the case, and UNDECIDED_MOST without one
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
        if len({reading.reader_id for reading in readings}) < 2:
            return Outcome()
        agreed = None not in labels and len(set(labels)) == 1 and _independent(readings)
        return Outcome(labels[0], AGREED) if agreed else Outcome(disputed=True)
    given = [label for label in labels if label is not None]
    if given:
        return Outcome(given[0], SINGLE)
    return Outcome(disputed=len(labels) >= UNDECIDED_MOST)


def _independent(readings: Sequence[Review]) -> bool:
    """Whether somebody other than the first reader read blind."""
    first, *later = readings
    return any(r.mode == Review.Mode.BLIND and r.reader_id != first.reader_id for r in later)


def standing(prediction: Prediction) -> QuerySet[Review]:
    """The readings that count for the notes of a prediction, the earliest first."""
    same = Review.objects.filter(case=prediction.case_id, notes_sha256=prediction.notes_sha256)
    return same.filter(withdrawn_at=None).order_by("at", "pk")


class Known(NamedTuple):
    """What is stored of the readings of some notes: those that stand, whether one was ever drawn for a second reader, and
    the adjudication that is open."""

    standing: list[Review]
    drawn: bool
    disputed: Adjudication | None

    @property
    def set_aside(self) -> bool:
        """Whether the case waits for a lead, or for more information."""
        return self.disputed is not None or any(r.why == Why.INFORMATION for r in self.standing)


def known(prediction: Prediction, every: Sequence[Review] | None = None) -> Known:
    """every: all readings of the notes, those taken back too, the earliest first, where they are at hand."""
    same = {"case": prediction.case_id, "notes_sha256": prediction.notes_sha256}
    if every is None:
        every = list(Review.objects.filter(**same).order_by("at", "pk"))
    disputed = Adjudication.objects.filter(**same, closed_at=None).first() if every else None
    return Known([r for r in every if not r.withdrawn_at], any(r.double for r in every), disputed)


def settle(prediction: Prediction, now: Known | None = None) -> Label | None:
    """Make label and adjudication of a case what its readings come to; the label that stands, if one does.

    Within the transaction that changed the readings, the prediction locked. now: the readings after the change.
    """
    now = now or known(prediction)
    found = outcome(now.standing, now.drawn)
    label = _label(prediction, found, now.standing)
    if now.disputed and not found.disputed:
        now.disputed.closed_at = timezone.now()
        now.disputed.save(update_fields=["closed_at"])
    elif found.disputed and not now.disputed:
        opened = Adjudication.objects.create(
            case_id=prediction.case_id, prediction=prediction, notes_sha256=prediction.notes_sha256
        )
        audit.record("adjudication.open", opened, site=prediction.site, details={"case": prediction.case_id})
    return label


def _label(prediction: Prediction, found: Outcome, readings: Sequence[Review]) -> Label | None:
    """``prediction.labelled`` is the database's own word for whether a label stands (migration 0003)."""
    current = _standing_label(prediction) if prediction.labelled else None
    same = current and (current.label, current.provenance) == (found.label, found.provenance)
    if same and current.review in readings:
        return current
    if current:
        current.withdrawn_at = timezone.now()
        current.save(update_fields=["withdrawn_at"])
        webhooks.tell(prediction, current, "withdrawn")
    if found.label is None:
        return None
    label = Label.objects.create(
        case_id=prediction.case_id,
        review=_behind(found, readings),
        notes_sha256=prediction.notes_sha256,
        label=found.label,
        provenance=found.provenance,
        propensity=propensity(prediction, readings[0]),
    )
    webhooks.tell(prediction, label, "given")
    return label


def _standing_label(prediction: Prediction) -> Label:
    same = {"case": prediction.case_id, "notes_sha256": prediction.notes_sha256}
    return Label.objects.select_related("review").get(**same, withdrawn_at=None)


def _behind(found: Outcome, readings: Sequence[Review]) -> Review:
    """The reading that made the label: the lead's, the first that gave it, or of two that agree the second."""
    if found.provenance == ADJUDICATED:
        return next(reading for reading in readings if reading.mode == Review.Mode.ADJUDICATION)
    giving = [reading for reading in readings if reading.label == found.label]
    return giving[-1] if found.provenance == AGREED else giving[0]


def propensity(prediction: Prediction, first: Review) -> float:
    """With what probability the policy of a case's first reading sent it to a reader."""
    read = prediction if first.prediction_id == prediction.pk else first.prediction
    return sampling.propensity(policy.outcome_of(read, first.policy), first.policy)
