"""What the clinician's pages read: the queue, one case, the last verdict. Nothing here writes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import Case as When_
from django.db.models import (
    Count,
    Exists,
    F,
    OuterRef,
    Q,
    QuerySet,
    Value,
    When,
)
from django.http import Http404
from django.utils import timezone

from reviews.models import Adjudication, Draft, Label, Lease, Review, Skip, Why
from triage import policy as dial
from triage import sampling
from triage.access import Workplace
from triage.models import Case, Explanation, Note, Policy, Prediction

PAGE = 30
UNDO = 10
SKIPPED_FOR = timedelta(hours=12)


def drafts(user: Any) -> QuerySet[Draft]:
    return Draft.objects.filter(reader=user)


def pending(place: Workplace, user: Any, policy: Policy) -> QuerySet[Prediction]:
    """What waits for ``user``: the policy asks for it, its exact notes have no label, it is not set aside, and they have
    not read it yet."""
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256")}
    read = Review.objects.filter(**same, withdrawn_at=None, reader=user)
    waiting = dial.standing(place.site, place.protocol).filter(labelled=False)
    aside = [Exists(rows.filter(**same)) for rows in _setting_aside()]
    return waiting.filter(sampling.to_read(policy), ~Exists(read), *(~one for one in aside))


def _setting_aside() -> list[QuerySet[Any]]:
    """What keeps a case from readers: a lead must judge, or somebody asked for more information."""
    asked = Review.objects.filter(withdrawn_at=None, why=Why.INFORMATION)
    return [Adjudication.objects.filter(closed_at=None), asked]


def set_aside(prediction: Prediction) -> bool:
    """Whether the case waits for a lead, or for more information, on the notes the prediction read."""
    same = {"case": prediction.case_id, "notes_sha256": prediction.notes_sha256}
    return any(rows.filter(**same).exists() for rows in _setting_aside())


def ordered(predictions: QuerySet[Prediction]) -> QuerySet[Prediction]:
    """The most urgent first; equals by case."""
    return predictions.order_by("-urgency", "case_id")


def held_by_others(user: Any) -> QuerySet[Lease, Any]:
    return Lease.objects.filter(until__gt=timezone.now()).exclude(reader=user).values("case")


def skipped(user: Any) -> QuerySet[Skip, Any]:
    """Cases ``user`` passed over lately."""
    return Skip.objects.filter(reader=user, at__gt=timezone.now() - SKIPPED_FOR).values("case")


def queue_page(
    place: Workplace, user: Any, policy: Policy, covered: Q, after: int | None = None
) -> list[Any]:
    """Up to PAGE + 1 rows of the queue after the case ``after``; the one too many says that there is more.

    Which ones is read from the index alone, the rest for those only. covered: those whose reason stays hidden.
    """
    waiting = ordered(pending(place, user, policy).filter(_beyond(place, after)))
    chosen = Prediction.objects.filter(pk__in=list(waiting.values_list("pk", flat=True)[: PAGE + 1]))
    rows = ordered(chosen).annotate(
        reason=_reason(policy, covered),
        pseudonym=F("case__patient__pseudonym"),
        held_until=F("case__lease__until"),
        holder=F("case__lease__reader"),
        first_name=F("case__lease__reader__first_name"),
        last_name=F("case__lease__reader__last_name"),
        username=F("case__lease__reader__username"),
    )
    named = rows.values_list("case_id", "at", "specialty", *rows.query.annotation_select, named=True)
    return list(named)


def _reason(policy: Policy, covered: Q) -> When_:
    return When_(When(covered, then=Value("")), default=dial.outcome(policy.alpha, policy.typicality_floor))


def _beyond(place: Workplace, after: int | None) -> Q:
    """Keyset: past the case ``after`` in the queue's order. A case that no longer stands starts at the top."""
    last = dial.standing(place.site, place.protocol).filter(case=after).first() if after else None
    if last is None:
        return Q()
    return Q(urgency__lte=last.urgency) & (Q(urgency__lt=last.urgency) | Q(case__gt=last.case_id))


def counts(place: Workplace, user: Any, policy: Policy, covered: Q) -> dict[str, int]:
    """How many wait for ``user``, by reason; "" for those whose reason stays hidden."""
    reasons = pending(place, user, policy).annotate(reason=_reason(policy, covered))
    found = dict(reasons.values_list("reason").annotate(Count("pk")).order_by())
    return {reason: found.get(reason, 0) for reason in (*dial.OUTCOMES[1:], "")}


def done_today(place: Workplace, user: Any, policy: Policy) -> dict[str, int]:
    """The verdicts of ``user`` since midnight, by what the policy says of their cases."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    read = Prediction.objects.filter(
        site=place.site,
        protocol=place.protocol,
        reviews__reader=user,
        reviews__at__gte=midnight,
        reviews__withdrawn_at=None,
    ).annotate(reason=dial.outcome(policy.alpha, policy.typicality_floor))
    return dict(read.values_list("reason").annotate(Count("pk")).order_by())


def _mine(place: Workplace, user: Any) -> QuerySet[Review]:
    return Review.objects.filter(reader=user, case__site=place.site, case__protocol=place.protocol)


def recent_reviews(place: Workplace, user: Any) -> QuerySet[Review]:
    """The last ten verdicts of ``user``, withdrawn ones included: what may still be undone."""
    return _mine(place, user).order_by("-at", "-pk")[:UNDO]


def last_verdict(place: Workplace, user: Any) -> Review | None:
    """The verdict that Z takes back, if it is among the last ten."""
    recent = recent_reviews(place, user).select_related("case__patient", "prediction")
    return next((review for review in recent if review.withdrawn_at is None), None)


def find_case(place: Workplace, case: int) -> Case:
    """The case, or 404 when it is not of this workplace."""
    found = (
        Case.objects.filter(pk=case, site=place.site, protocol=place.protocol)
        .select_related("patient")
        .first()
    )
    if found is None:
        raise Http404
    return found


def standing_prediction(case: Case) -> Prediction | None:
    found = Prediction.objects.filter(case=case, current=True)
    return found.select_related("case__patient", "release").first()


def reason(prediction: Prediction, policy: Policy) -> str:
    """The outcome of the prediction under the policy, by the one rule."""
    rule = dial.outcome(policy.alpha, policy.typicality_floor)
    return Prediction.objects.filter(pk=prediction.pk).values_list(rule, flat=True).get()


def own_review(prediction: Prediction, user: Any) -> Review | None:
    """The standing verdict of ``user`` on the notes the prediction read."""
    same = Review.objects.filter(case=prediction.case_id, notes_sha256=prediction.notes_sha256)
    return same.filter(reader=user, withdrawn_at=None).first()


def lease_of(case: int) -> Lease | None:
    """The lease that counts now; an expired one does not."""
    return Lease.objects.filter(case=case, until__gt=timezone.now()).select_related("reader").first()


def notes_of(prediction: Prediction) -> list[Note]:
    """The notes as the prediction read them: an explanation counts them in this order."""
    found = Note.objects.in_bulk(prediction.note_ids)
    return [found[pk] for pk in prediction.note_ids]


def explanation(prediction: Prediction, method: str) -> Explanation | None:
    return Explanation.objects.filter(prediction=prediction, method=method).first()


def labels(place: Workplace) -> dict[int, int]:
    """Case → its standing label, for cases whose label was given for the notes their prediction read."""
    standing = Label.objects.filter(
        withdrawn_at=None,
        case__site=place.site,
        case__protocol=place.protocol,
        case__predictions__current=True,
        case__predictions__notes_sha256=F("notes_sha256"),
    )
    return dict(standing.values_list("case", "label"))
