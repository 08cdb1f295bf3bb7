"""A verdict becomes a review and a label, once; and can be taken back."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import Value
from django.http import Http404
from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from mlcore.errors import CentinelaError
from reviews import queue, selectors
from reviews.forms import UNDECIDED
from reviews.models import Draft, Label, Lease, Review
from triage import audit
from triage import policy as dial
from triage.access import Workplace
from triage.models import Case, Note, Policy, Prediction

DEFERRED_PROPENSITY = 1.0  # the policy sends every deferred case to a reader

RESCORED = gettext_noop(
    "This case was scored again while the page was open, perhaps over new notes. Reload the page to read it as it is "
    "now; what you typed is kept."
)


class Conflict(CentinelaError):
    """The world moved while the page was open; what was typed is kept."""


@transaction.atomic
def decide(place: Workplace, user: Any, case: Case, verdict: dict[str, Any]) -> Review:
    """Store one verdict (the cleaned data of a VerdictForm). The same ``client_key`` again is the same review.

    ``mode`` and ``policy`` are those the page was drawn with, whatever was set since.

    Conflict when the case is not reserved for ``user``, was decided already, or its prediction no longer stands.
    """
    policy = Policy.objects.filter(
        site=place.site, protocol=place.protocol, version=verdict["policy"]
    ).first()
    prediction = _locked(case, verdict["prediction"], policy)
    if known := _same(user, case, verdict):
        return known
    if prediction is not None:
        _check_open(prediction, user)
    given_back, _by_model = Lease.objects.filter(case=case, reader=user).delete()
    if not given_back:
        raise _not_reserved(case)
    if prediction is None:
        raise Conflict(_(RESCORED))
    _check_evidence(prediction, verdict["evidence"])
    label = None if verdict["verdict"] == UNDECIDED else place.protocol.labels.index(verdict["verdict"])
    review = Review.objects.create(
        case=case,
        prediction=prediction,
        policy=policy,
        reader=user,
        notes_sha256=prediction.notes_sha256,
        client_key=verdict["client_key"],
        label=label,
        comment=verdict["comment"],
        evidence=verdict["evidence"],
        mode=verdict["mode"] or place.protocol.reading,
        seconds=verdict["seconds"] or 0,
    )
    if label is not None:
        Label.objects.create(
            case=case,
            review=review,
            notes_sha256=prediction.notes_sha256,
            label=label,
            provenance=Label.Provenance.SINGLE,
            propensity=DEFERRED_PROPENSITY,
        )
    Draft.objects.filter(case=case, reader=user).delete()
    details = {
        "case": case.pk,
        "prediction": prediction.pk,
        "policy": verdict["policy"],
        "label": label,
        "mode": review.mode,
    }
    audit.record("review.submit", review, site=place.site, actor=user, details=details)
    return review


def _same(user: Any, case: Case, verdict: dict[str, Any]) -> Review | None:
    known = Review.objects.filter(reader=user, client_key=verdict["client_key"]).first()
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


def _locked(case: Case, prediction: int, policy: Policy | None) -> Any:
    """The prediction if it still stands, with its ``reason``, locked: nothing unseats it before the verdict is in.

    Locked before the lease, as ``queue.take_next`` does.
    """
    rule = dial.outcome(policy.alpha, policy.typicality_floor) if policy else Value(dial.OUTCOMES[0])
    standing = Prediction.objects.filter(pk=prediction, case=case, current=True).annotate(reason=rule)
    return standing.select_for_update(no_key=True).first()


def _check_open(prediction: Any, user: Any) -> None:
    if prediction.reason == dial.OUTCOMES[0]:
        raise Conflict(
            _(
                "The dial this page was drawn with does not ask for this case. Reload the page; what you typed is kept."
            )
        )
    if prediction.labelled or selectors.own_review(prediction, user):
        raise Conflict(_("This case was decided already. What you typed is kept; go on with the next case."))


def _check_evidence(prediction: Prediction, evidence: list[dict[str, int]]) -> None:
    if valid_evidence(prediction, evidence) != evidence:
        raise Conflict(
            _("A marked passage lies outside the notes. Remove it and mark it again; what you typed is kept.")
        )


def valid_evidence(prediction: Prediction, evidence: list[dict[str, int]]) -> list[dict[str, int]]:
    """The marks that lie within a note the prediction read."""
    if not evidence:
        return []
    texts = dict(Note.objects.filter(pk__in=prediction.note_ids).values_list("pk", "text"))
    return [mark for mark in evidence if mark["end"] <= len(texts.get(mark["note"], ""))]


@transaction.atomic
def withdraw(place: Workplace, user: Any, review: int) -> Review:
    """Take back one of the last ten verdicts of ``user``: its label falls, its words become the draft again.

    404 for a verdict that is not theirs; Conflict when it is withdrawn already or lies further back.
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
    found.withdrawn_at = timezone.now()
    found.save(update_fields=["withdrawn_at"])
    Label.objects.filter(review=found, withdrawn_at=None).update(withdrawn_at=found.withdrawn_at)
    choice = UNDECIDED if found.label is None else place.protocol.labels[found.label]
    save_draft(user, found.case, choice, found.comment, found.evidence)
    queue.hold(found.case_id, user)
    audit.record("review.withdraw", found, site=place.site, actor=user, details={"case": found.case_id})
    return found


def save_draft(user: Any, case: Case, choice: str, comment: str, evidence: list[dict[str, int]]) -> Draft:
    """Keep what is being written; a draft is the reader's own and no event of the trail."""
    words = {"choice": choice, "comment": comment, "evidence": evidence, "saved_at": timezone.now()}
    draft, _created = Draft.objects.update_or_create(case=case, reader=user, defaults=words)
    return draft


def name_of(user: Any) -> str:
    return user.get_full_name() or user.get_username()


def moved(place: Workplace, shown: Policy) -> Policy | None:
    """The policy in force, when it is another than the one shown."""
    now = dial.current(place.site, place.protocol)
    return now if now.version != shown.version else None
