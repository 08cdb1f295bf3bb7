"""What the clinician's pages read: the queue, one case, the last verdict. Nothing here writes."""

from __future__ import annotations

from collections.abc import Callable
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
    Subquery,
    Value,
    When,
)
from django.http import Http404
from django.utils import timezone

from reviews.filters import BLIND, EVERYTHING, PLAIN, RISK, Filters
from reviews.models import Adjudication, Draft, Label, Lease, Review, Skip, Why
from triage import policy as dial
from triage import sampling
from triage.access import Workplace
from triage.models import QUEUE_ORDERS, Case, Explanation, Note, Policy, Prediction

PAGE = 30
UNDO = 10
SPECIALTIES = 60
BLIND_ORDER = "wait"
STOOD = ("label", "credibility", "runner_up", "typicality")
SKIPPED_FOR = timedelta(hours=12)


def drafts(user: Any) -> QuerySet[Draft]:
    return Draft.objects.filter(reader=user)


def pending(place: Workplace, user: Any, policy: Policy) -> QuerySet[Prediction]:
    """What waits for ``user``: the policy asks for it, its exact notes have no label, it is not set aside, and they have
    not read it yet."""
    closing = _reading(Q(reader=user) | Q(why=Why.INFORMATION))
    disputed = Exists(Adjudication.objects.filter(**SAME_NOTES, closed_at=None))
    return _asked(place, policy).alias(closing=closing).filter(~disputed, closing=None)


def unread(place: Workplace, policy: Policy) -> QuerySet[Prediction]:
    """What waits and is read with the model's view: of ``pending``, neither drawn nor read by anybody, for any reader."""
    read = Exists(Review.objects.filter(**SAME_NOTES, withdrawn_at=None))
    return _asked(place, policy).filter(~sampling.drawn(policy), ~read)


def read_blind(place: Workplace, user: Any, policy: Policy) -> QuerySet[Prediction]:
    """What waits and ``user`` reads without the model's view: of ``pending``, drawn, or read before by another."""
    waiting = pending(place, user, policy).alias(before=_reading(~Q(reader=user)))
    return waiting.filter(sampling.drawn(policy) | Q(before__isnull=False))


def _asked(place: Workplace, policy: Policy) -> QuerySet[Prediction]:
    waiting = dial.standing(place.site, place.protocol).filter(labelled=False)
    return waiting.filter(sampling.to_read(policy))


SAME_NOTES = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256")}


def _reading(which: Q) -> Subquery:
    """Some standing reading of the same notes. A scalar, so that few rows cost few looks into the index, not all readings."""
    return Subquery(Review.objects.filter(which, **SAME_NOTES, withdrawn_at=None).values("pk")[:1])


def _setting_aside() -> list[QuerySet[Any]]:
    """What keeps a case from readers: a lead must judge, or somebody asked for more information."""
    asked = Review.objects.filter(withdrawn_at=None, why=Why.INFORMATION)
    return [Adjudication.objects.filter(closed_at=None), asked]


def set_aside(prediction: Prediction) -> bool:
    """Whether the case waits for a lead, or for more information, on the notes the prediction read."""
    same = {"case": prediction.case_id, "notes_sha256": prediction.notes_sha256}
    return any(rows.filter(**same).exists() for rows in _setting_aside())


def ordered(predictions: QuerySet[Prediction], order: str = RISK) -> QuerySet[Prediction]:
    """In the queue's order; equals by case."""
    return predictions.order_by(*KEYS[order], "case_id")


def held_by_others(user: Any) -> QuerySet[Lease, Any]:
    return Lease.objects.filter(until__gt=timezone.now()).exclude(reader=user).values("case")


def skipped(user: Any) -> QuerySet[Skip, Any]:
    """Cases ``user`` passed over lately."""
    return Skip.objects.filter(reader=user, at__gt=timezone.now() - SKIPPED_FOR).values("case")


def queue_page(
    place: Workplace,
    user: Any,
    policy: Policy,
    covered: Q,
    filters: Filters = PLAIN,
    hits: Hits | None = None,
) -> list[Any]:
    """Up to PAGE + 1 rows of the queue after the case ``filters.after``; the one too many says that there is more.

    Which ones is read from the index alone, the rest for those only. covered: those whose reason stays hidden.
    hits: narrows ordered predictions to those whose notes a search finds.
    """
    order = order_of(filters)
    rows = group(place, user, policy, filters)
    chosen: list[int] = []
    for part in _parts(order, policy, _last(place, filters.after, covered if order in TELLING else None)):
        waiting, room = ordered(rows.filter(part), order), PAGE + 1 - len(chosen)
        chosen += hits(waiting, room) if hits else waiting.values_list("pk", flat=True)[:room]
        if len(chosen) > PAGE:
            break
    found = {row.pk: row for row in _rows(chosen, policy, covered)}
    return [found[pk] for pk in chosen if pk in found]


TELLING = (RISK, "reason", "specialty")  # orders by what the model made of a case
Hits = Callable[[QuerySet[Prediction], int], list[int]]

# A page with the model's view is ordered as asked. Blind cases come by their wait and hits outside the queue by case,
# because neither says anything of what the model made of them.
KEYS: dict[str, list[str]] = {RISK: ["-urgency"], **QUEUE_ORDERS, "reason": ["-urgency"], "case": []}


def order_of(filters: Filters) -> str:
    return {BLIND: BLIND_ORDER, EVERYTHING: "case"}.get(filters.show, filters.order)


def group(place: Workplace, user: Any, policy: Policy, filters: Filters) -> QuerySet[Prediction]:
    """What the filters leave."""
    if filters.show == EVERYTHING:
        rows = dial.standing(place.site, place.protocol)
    else:
        blind = filters.show == BLIND
        rows = read_blind(place, user, policy) if blind else unread(place, policy)
    if filters.reason:
        rows = rows.annotate(outcome=dial.outcome_under(policy))
        rows = rows.filter(outcome=filters.reason)
    if filters.specialty:
        rows = rows.filter(specialty=filters.specialty)
    if filters.since:
        rows = rows.filter(written_at__gte=filters.since)
    if filters.until:
        rows = rows.filter(written_at__lte=filters.until)
    if filters.waited:
        rows = rows.filter(at__lte=timezone.now() - timedelta(days=filters.waited))
    return rows.filter(_holder(user, filters.held)) if filters.held else rows


def _holder(user: Any, held: str) -> Q:
    leases = Lease.objects.filter(until__gt=timezone.now())
    if held == "nobody":
        return ~Q(case__in=leases.values("case"))
    theirs = leases.filter(reader=user) if held == "me" else leases.exclude(reader=user)
    return Q(case__in=theirs.values("case"))


def _rows(chosen: list[int], policy: Policy, covered: Q) -> QuerySet[Any, Any]:
    rows = Prediction.objects.filter(pk__in=chosen).annotate(
        reason=_reason(policy, covered),
        pseudonym=F("case__patient__pseudonym"),
        held_until=F("case__lease__until"),
        holder=F("case__lease__reader"),
        first_name=F("case__lease__reader__first_name"),
        last_name=F("case__lease__reader__last_name"),
        username=F("case__lease__reader__username"),
    )
    plain = ("pk", "case_id", "at", "written_at", "specialty", "note_ids")
    return rows.values_list(*plain, *rows.query.annotation_select, named=True)


def _reason(policy: Policy, covered: Q) -> When_:
    return When_(When(covered, then=Value("")), default=dial.outcome_under(policy))


def _last(place: Workplace, after: int | None, covered: Q | None) -> Prediction | None:
    """The case a page begins after. One that no longer stands starts at the top, and so does a covered one: where it
    stands in the order would tell of it."""
    if not after:
        return None
    found = dial.standing(place.site, place.protocol).filter(case=after)
    return (found if covered is None else found.exclude(covered)).first()


def _parts(order: str, policy: Policy, last: Prediction | None) -> list[Q]:
    """Keyset: the stretches of the order that lie past ``last``, one after the other, each read along one index.

    Undated cases follow the dated ones. By reason, each reason is a stretch of its own in the order of risk.
    """
    parts = {"date": [Q(written_at__isnull=False), Q(written_at=None)]}.get(order, [Q()])
    here = 0
    if order == "reason":
        parts = [Q(one) for one in _reasons(policy)]
        here = dial.OUTCOMES.index(dial.outcome_of(last, policy)) - 1 if last else 0
    if last is None:
        return parts
    keys = KEYS[order]
    if order == "date" and last.written_at is None:
        here, keys = 1, []
    return [parts[max(here, 0)] & beyond(keys, last), *parts[max(here, 0) + 1 :]]


def _reasons(policy: Policy) -> list[Q]:
    """The reasons as conditions, the first that applies."""
    ambiguous, novel = Q(runner_up__gt=policy.alpha), Q(credibility__lte=policy.alpha)
    atypical, clear = Q(typicality__lte=policy.typicality_floor), ~ambiguous & ~novel
    found = [ambiguous, ~ambiguous & novel, clear & atypical]
    return found if policy.automate else [*found, clear & ~atypical]


def beyond(keys: list[str], last: Prediction) -> Q:
    """Past ``last`` in the order of the keys, a minus for descending, then by case; the first key bounds the index."""
    past = Q(case__gt=last.case_id)
    for key in reversed(keys):
        name, way = key.lstrip("-"), "lt" if key.startswith("-") else "gt"
        value = getattr(last, name)
        past = Q(**{f"{name}__{way}": value}) | Q(**{name: value}) & past
        if key == keys[0]:
            past &= Q(**{f"{name}__{way}e": value})
    return past


def specialties(place: Workplace) -> list[str]:
    """The specialties among what waits, each found by one step along the index."""
    waiting = dial.standing(place.site, place.protocol).filter(labelled=False).order_by("specialty")
    names: list[str] = []
    while len(names) < SPECIALTIES and (name := _following(waiting, names[-1] if names else "")):
        names.append(name)
    return names


def _following(waiting: QuerySet[Prediction], name: str) -> str | None:
    return waiting.filter(specialty__gt=name).values_list("specialty", flat=True).first()


def counts(place: Workplace, user: Any, policy: Policy) -> dict[str, int]:
    """How many wait for ``user``, by reason; "" for those to be read blind, whatever their reason."""
    reasons = unread(place, policy).annotate(reason=dial.outcome_under(policy))
    found = dict(reasons.values_list("reason").annotate(Count("pk")).order_by())
    found[""] = _count_blind(place, user, policy)
    return {reason: found.get(reason, 0) for reason in (*dial.OUTCOMES[1:], "")}


def _count_blind(place: Workplace, user: Any, policy: Policy) -> int:
    """The size of ``read_blind``: along the lots those drawn, from the readings without a label those read before."""
    waiting = pending(place, user, policy)
    alone = Q(double=True) | ~Q(why="")  # what a reading must be to leave its case without a label
    before = Review.objects.filter(alone, **SAME_NOTES, withdrawn_at=None).exclude(reader=user)
    drawn = sampling.drawn(policy)
    return waiting.filter(drawn).count() + waiting.filter(Exists(before)).exclude(drawn).count()


def states(place: Workplace, user: Any, policy: Policy, predictions: list[int]) -> dict[int, str]:
    """Of each prediction: «mine», «decided», «waiting» for ``user``, or "" where nothing is asked of them.

    An automatic case that was drawn waits like any other; one that was not, and one set aside, look the same.
    """
    here = Prediction.objects.filter(pk__in=predictions)
    mine = set(here.alias(own=_reading(Q(reader=user))).exclude(own=None).values_list("pk", flat=True))
    decided = set(here.filter(labelled=True).values_list("pk", flat=True))
    waits = set(pending(place, user, policy).filter(pk__in=predictions).values_list("pk", flat=True))
    known = [("waiting", waits), ("decided", decided), ("mine", mine)]
    return {pk: next((name for name, having in known[::-1] if pk in having), "") for pk in predictions}


def up_to(rows: QuerySet[Any], most: int) -> int:
    """How many rows there are, counting no further than ``most`` + 1."""
    return rows.order_by()[: most + 1].count()


def done_today(place: Workplace, user: Any, policy: Policy) -> dict[str, int]:
    """The readings of ``user`` since midnight, as ``counts`` had them: "" for those read blind."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    read = Prediction.objects.filter(
        site=place.site,
        protocol=place.protocol,
        reviews__reader=user,
        reviews__at__gte=midnight,
        reviews__withdrawn_at=None,
        reviews__mode__in=[Review.Mode.ASSISTED, Review.Mode.BLIND],
    ).annotate(reason=_reason(policy, Q(reviews__mode=Review.Mode.BLIND)))
    return dict(read.values_list("reason").annotate(Count("pk")).order_by())


def _mine(place: Workplace, user: Any) -> QuerySet[Review]:
    return Review.objects.filter(reader=user, case__site=place.site, case__protocol=place.protocol)


def recent_reviews(place: Workplace, user: Any) -> QuerySet[Review]:
    """The last ten verdicts of ``user``, withdrawn ones included: what may still be undone."""
    return _mine(place, user).order_by("-at", "-pk")[:UNDO]


def last_verdict(place: Workplace, user: Any) -> Review | None:
    """The verdict that Z takes back, if it is among the last ten."""
    shown = recent_reviews(place, user).select_related("case__patient", "prediction", "policy")
    recent = shown.only(
        "case",
        "label",
        "why",
        "withdrawn_at",
        "case__patient__pseudonym",
        *(f"prediction__{f}" for f in STOOD),
        "policy__alpha",
        "policy__typicality_floor",
        "policy__automate",
    )
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
