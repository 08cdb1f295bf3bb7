"""A verdict becomes a review and a label, once; and can be taken back."""

from __future__ import annotations

import random
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from django.http import Http404
from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from mlcore.errors import CentinelaError
from reviews import queue, readings, selectors, visibility
from reviews.forms import INFORMATION, UNDECIDED
from reviews.models import Adjudication, Draft, Lease, Review, Why
from triage import audit, sampling
from triage.access import Workplace
from triage.models import Case, Note, Policy, Prediction, Protocol

DRAW = random.SystemRandom()

RESCORED = gettext_noop(
    "This case was scored again while the page was open, perhaps over new notes. Reload the page to read it as it is "
    "now; what you typed is kept."
)


class Conflict(CentinelaError):
    """The world moved while the page was open; what was typed is kept."""


class Late(Conflict):
    """Nothing is left to keep: it was sent already."""


@transaction.atomic
def decide(
    place: Workplace, user: Any, case: Case, verdict: dict[str, Any], now: Policy | None = None
) -> Review:
    """Store one verdict (the cleaned data of a VerdictForm). The same ``client_key`` again is the same review.

    ``mode`` and ``policy`` are those the page was drawn with, whatever was set since. now: the policy in force, where it
    is at hand.

    404 outside the workplace; Conflict when the case is not reserved for ``user``, was decided already, or its prediction
    no longer stands.
    """
    _lock(case.pk, place)
    policy = _shown(place, verdict["policy"], now)
    prediction = _locked(case, verdict["prediction"])
    read = _readings(prediction, user, case, verdict)
    if sent_before := _same(case, read, user, verdict):
        return sent_before
    if prediction is None or policy is None:
        raise Conflict(_(RESCORED)) if _reserved(case, user) else _not_reserved(case)
    known = readings.known(prediction, [r for r in read if r.notes_sha256 == prediction.notes_sha256])
    _check_open(prediction, known, user, policy)
    _check_evidence(prediction, verdict["evidence"])
    if not _given_back(case, user):
        raise _not_reserved(case)
    label, why = _answer(place, verdict)
    review = Review.objects.create(
        case_id=case.pk,
        prediction=prediction,
        policy=policy,
        reader=user,
        notes_sha256=prediction.notes_sha256,
        client_key=verdict["client_key"],
        label=label,
        why=why,
        double=not known.standing and DRAW.random() < place.protocol.double_share,
        comment=verdict["comment"],
        evidence=verdict["evidence"],
        mode=_mode(place, user, prediction, policy, verdict["mode"]),
        seconds=verdict["seconds"] or 0,
    )
    readings.settle(
        prediction, known._replace(standing=[*known.standing, review], drawn=known.drawn or review.double)
    )
    details = {
        "case": case.pk,
        "prediction": prediction.pk,
        "policy": verdict["policy"],
        "label": label,
        "why": why,
        "mode": review.mode,
    }
    audit.record("review.submit", review, site=place.site, actor=user, details=details)
    return review


def _mode(place: Workplace, user: Any, prediction: Prediction, policy: Policy, drawn: str) -> str:
    """How the verdict was read: as its page was drawn, unless its reader has seen the model's view since then."""
    if drawn == Review.Mode.BLIND and visibility.saw(prediction, user):
        return Review.Mode.ASSISTED
    return drawn or visibility.mode(place, policy, prediction, user)


def _lock(case: int, place: Workplace) -> None:
    """Whoever changes the readings of a case locks it first: settling looks at all of them, of whatever release.

    404 when it is not of this workplace.
    """
    here = Case.objects.filter(pk=case, site=place.site, protocol=place.protocol)
    if here.select_for_update(no_key=True).values_list("pk").first() is None:
        raise Http404


def _shown(place: Workplace, version: int, now: Policy | None) -> Policy | None:
    """The policy the page was drawn with."""
    if now is not None and now.version == version:
        return now
    return Policy.objects.filter(site=place.site, protocol=place.protocol, version=version).first()


def _readings(prediction: Prediction | None, user: Any, case: Case, verdict: dict[str, Any]) -> list[Review]:
    """Every reading of the notes, taken back or not, and the one that came under the same key, whatever it is of."""
    which = Q(reader=user, client_key=verdict["client_key"])
    if prediction is not None:
        which |= Q(case=case.pk, notes_sha256=prediction.notes_sha256)
    return list(Review.objects.filter(which).order_by("at", "pk"))


def _reserved(case: Case, user: Any) -> bool:
    return Lease.objects.filter(case=case.pk, reader=user).exists()


# The reservation ends, and with it what was noted on the way; where there was none, nothing does.
GIVE_BACK = """
    WITH mine AS (DELETE FROM reviews_lease WHERE case_id = %(case)s AND reader_id = %(reader)s RETURNING case_id),
    skip AS (DELETE FROM reviews_skip USING mine WHERE reviews_skip.case_id = mine.case_id AND reader_id = %(reader)s),
    draft AS (DELETE FROM reviews_draft USING mine WHERE reviews_draft.case_id = mine.case_id AND reader_id = %(reader)s)
    SELECT case_id FROM mine
"""


def _given_back(case: Case, user: Any) -> bool:
    """End the reservation of ``user``, their draft and their skip; False where the case was not reserved for them."""
    with connection.cursor() as cursor:
        cursor.execute(GIVE_BACK, {"case": case.pk, "reader": user.pk})
        return cursor.fetchone() is not None


def _answer(place: Workplace, verdict: dict[str, Any]) -> tuple[int | None, str]:
    """The label's index, or why there is none."""
    if verdict["verdict"] == INFORMATION:
        return None, Why.INFORMATION
    if verdict["verdict"] == UNDECIDED:
        return None, verdict["why"]
    return place.protocol.labels.index(verdict["verdict"]), ""


def _same(case: Case, read: list[Review], user: Any, verdict: dict[str, Any]) -> Review | None:
    """Of these readings the one that came under the same key."""
    key = (user.pk, verdict["client_key"])
    known = next((r for r in read if (r.reader_id, r.client_key) == key), None)
    if known and (known.case_id != case.pk or known.withdrawn_at):
        raise Conflict(
            _("You took this verdict back. Reload the page to decide again; what you typed is kept.")
        )
    return known


def _not_reserved(case: Case) -> Conflict:
    lease = selectors.lease_of(case.pk)
    if lease is None:
        return Conflict(
            _(
                "This case is no longer reserved for you. Reload the page to reserve it again; what you typed is kept."
            )
        )
    return Conflict(
        _(
            "%(name)s has held this case since your reservation ran out, until %(time)s. What you typed is kept."
        )
        % {"name": name_of(lease.reader), "time": formats.time_format(timezone.localtime(lease.until), "H:i")}
    )


def _locked(case: Case, prediction: int) -> Prediction | None:
    """The prediction if it still stands, locked: nothing unseats it before the verdict is in. After the case, before the
    lease."""
    standing = Prediction.objects.filter(pk=prediction, case=case.pk, current=True)
    return standing.select_for_update(no_key=True).first()


def _check_open(prediction: Prediction, now: readings.Known, user: Any, policy: Policy) -> None:
    if not sampling.asks(policy, prediction):
        raise Conflict(
            _(
                "The dial this page was drawn with does not ask for this case. Reload the page; what you typed is kept."
            )
        )
    if prediction.labelled or any(review.reader_id == user.pk for review in now.standing):
        raise Conflict(_("This case was decided already. What you typed is kept; go on with the next case."))
    if now.set_aside:
        raise Conflict(
            _(
                "This case was set aside meanwhile, for a lead or until more is known. What you typed is kept; go on with the next case."
            )
        )


def _check_evidence(prediction: Prediction, evidence: list[dict[str, Any]]) -> None:
    if valid_evidence(prediction, evidence) != evidence:
        raise Conflict(
            _("A marked passage lies outside the notes. Remove it and mark it again; what you typed is kept.")
        )


def valid_evidence(prediction: Prediction, evidence: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The marks that lie within a note the prediction read."""
    if not evidence:
        return []
    texts = dict(Note.objects.filter(pk__in=prediction.note_ids).values_list("pk", "text"))
    return [mark for mark in evidence if mark["end"] <= len(texts.get(mark["note"], ""))]


@transaction.atomic
def withdraw(place: Workplace, user: Any, review: int) -> Review:
    """Take back one of the last ten verdicts of ``user``: its label falls, its words become the draft again.

    404 for a verdict that is not theirs; Conflict when it is withdrawn already, lies further back, or a lead has
    adjudicated since.
    """
    found = (
        Review.objects.select_for_update(of=("self", "case"), no_key=True)  # see migration 0003 for the case
        .select_related("case")
        .filter(pk=review, reader=user, case__site=place.site, case__protocol=place.protocol)
        .first()
    )
    if found is None:
        raise Http404
    if found.withdrawn_at or not any(found == recent for recent in selectors.recent_reviews(place, user)):
        raise Conflict(_("Only your last ten verdicts can be taken back, each once."))
    prediction = Prediction.objects.get(pk=found.prediction_id)
    if Adjudication.objects.filter(review__in=readings.standing(prediction)).exclude(review=found).exists():
        raise Conflict(
            _("A lead has adjudicated this case since. Write to them in the comments of the case.")
        )
    found.withdrawn_at = timezone.now()
    found.save(update_fields=["withdrawn_at"])
    readings.settle(prediction)
    judged = found.mode == Review.Mode.ADJUDICATION
    cause = found.adjudication.cause if judged else ""
    words = choice(place.protocol, found), found.comment, found.evidence, found.why, cause
    save_draft(user, found.case, *words)
    if not judged:
        queue.hold(found.case_id, user)
    audit.record("review.withdraw", found, site=place.site, actor=user, details={"case": found.case_id})
    return found


@transaction.atomic
def resume(place: Workplace, lead: Any, review: int) -> Review:
    """A lead returns a case that rests for more information: that reading is withdrawn, its words are its reader's draft.

    404 outside the workplace; Conflict when nothing rests on it any more.
    """
    found = (
        Review.objects.select_for_update(of=("self", "case"), no_key=True)
        .select_related("case", "reader")
        .filter(pk=review, case__site=place.site, case__protocol=place.protocol)
        .first()
    )
    if found is None:
        raise Http404
    if found.withdrawn_at or found.why != Why.INFORMATION:
        raise Conflict(_("This case was returned already."))
    prediction = Prediction.objects.get(pk=found.prediction_id)
    found.withdrawn_at = timezone.now()
    found.save(update_fields=["withdrawn_at"])
    readings.settle(prediction)
    save_draft(found.reader, found.case, INFORMATION, found.comment, found.evidence)
    details = {"case": found.case_id, "reader": found.reader_id}
    audit.record("review.return", found, site=place.site, actor=lead, details=details)
    return found


def choice(protocol: Protocol, review: Review) -> str:
    """What was chosen for a review: a label, «undecided» or «information»."""
    if review.label is not None:
        return protocol.labels[review.label]
    return INFORMATION if review.why == Why.INFORMATION else UNDECIDED


def save_draft(
    user: Any,
    case: Case,
    choice: str,
    comment: str,
    evidence: list[dict[str, Any]],
    why: str = "",
    cause: str = "",
) -> Draft:
    """Keep what is being written; a draft is the reader's own and no event of the trail."""
    words = {
        "choice": choice,
        "why": why if choice == UNDECIDED else "",
        "cause": cause,
        "comment": comment,
        "evidence": evidence,
        "saved_at": timezone.now(),
    }
    draft, _created = Draft.objects.update_or_create(case=case, reader=user, defaults=words)
    return draft


@transaction.atomic
def keep_draft(place: Workplace, user: Any, case: Case, typed: dict[str, Any]) -> Draft:
    """Keep what a page sends by itself while somebody writes (the cleaned data of a DraftForm).

    Late when the verdict it belongs to was taken meanwhile, or another of theirs stands on these notes.
    """
    _lock(case.pk, place)
    notes = Prediction.objects.filter(case=case, current=True).values("notes_sha256")
    given = Q(client_key=typed["client_key"]) | Q(withdrawn_at=None, notes_sha256__in=notes)
    if Review.objects.filter(given, case=case, reader=user).exists():
        raise Late(_("Your verdict on this case is stored already, so no draft of it is kept any more."))
    words = typed["verdict"], typed["comment"], typed["evidence"], typed["why"], typed["cause"]
    return save_draft(user, case, *words)


@transaction.atomic
def adjudicate(place: Workplace, user: Any, adjudication: int, verdict: dict[str, Any]) -> Review:
    """A lead's label for readings that disagree, with the cause of it (the cleaned data of an AdjudicationForm).

    404 outside the workplace; Conflict when it is closed already, its notes changed, or ``user`` is one of its readers.
    """
    here = Adjudication.objects.filter(pk=adjudication, case__site=place.site, case__protocol=place.protocol)
    case = here.values_list("case", flat=True).first()
    if case is None:
        raise Http404
    _lock(case, place)
    found = here.select_related("case").get()
    if sent_before := _same(found.case, _readings(None, user, found.case, verdict), user, verdict):
        return sent_before
    if found.closed_at:
        raise Conflict(_("This case was adjudicated or taken back meanwhile. Go on with the next one."))
    prediction = Prediction.objects.get(pk=found.prediction_id)
    if not Prediction.objects.filter(case=case, current=True, notes_sha256=found.notes_sha256).exists():
        raise Conflict(
            _(
                "New notes arrived since: the case is read anew with them. What you typed is kept; go on with the next one."
            )
        )
    if readings.standing(prediction).filter(reader=user).exists():
        raise Conflict(_("You are one of the two readers: another lead must adjudicate this case."))
    _check_evidence(prediction, verdict["evidence"])
    review = Review.objects.create(
        case=found.case,
        prediction=prediction,
        policy=readings.standing(prediction)[0].policy,
        reader=user,
        notes_sha256=found.notes_sha256,
        client_key=verdict["client_key"],
        label=place.protocol.labels.index(verdict["verdict"]),
        comment=verdict["comment"],
        evidence=verdict["evidence"],
        mode=Review.Mode.ADJUDICATION,
        seconds=verdict["seconds"] or 0,
    )
    found.review, found.cause, found.closed_at = review, verdict["cause"], timezone.now()
    found.save(update_fields=["review", "cause", "closed_at"])
    readings.settle(prediction)
    Draft.objects.filter(case=found.case, reader=user).delete()
    details = {"case": found.case_id, "label": review.label, "cause": found.cause}
    audit.record("adjudication.close", found, site=place.site, actor=user, details=details)
    return review


def name_of(user: Any) -> str:
    return user.get_full_name() or user.get_username()
