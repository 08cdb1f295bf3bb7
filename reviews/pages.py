"""What the clinician's pages say: figures into words, and nothing of the model's view before its time."""

from __future__ import annotations

import json
from typing import Any

from django.forms import Form
from django.http import QueryDict
from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from reviews import explained, listing, selectors, tints, visibility
from reviews import queue as leases
from reviews.adjudication import name_of, valid_evidence
from reviews.forms import UNDECIDED
from reviews.models import Draft, Review
from reviews.wording import figure, setting, stood, verdict_name
from triage import explaining
from triage import policy as dial
from triage.access import Workplace
from triage.models import Case, Explanation, Policy, Prediction, Protocol

WHY = {
    "ambiguous": gettext_lazy("Deferred: more than one answer fits"),
    "novel": gettext_lazy("Deferred: no answer fits"),
    "atypical": gettext_lazy("Deferred: unlike anything in calibration"),
}
NUMBER = {
    "ambiguous": (gettext_lazy("second answer"), "runner_up"),
    "novel": (gettext_lazy("credibility"), "credibility"),
    "atypical": (gettext_lazy("typicality"), "typicality"),
}
PREPARING = (Explanation.Status.PENDING, Explanation.Status.CLAIMED)
USUAL = Explanation.DEFAULT
OPEN, HELD, MINE, DECIDED, ASIDE, AUTOMATIC = "open", "held", "mine", "decided", "aside", "automatic"


def case(
    place: Workplace,
    user: Any,
    case: Case,
    *,
    after: int | None,
    method: str = USUAL,
    typed: Form | None = None,
    error: str = "",
) -> dict[str, Any]:
    """The whole page. ``typed`` is a refused form, shown again as it was."""
    page = reading(place, user, case, method)
    prediction = page["prediction"]
    if prediction is not None:
        if page["state"] == OPEN:
            leases.give_back_idle(place, user, keep=case.pk)
        page |= _decision(place, user, prediction, page, typed)
    return listing.queue(place, user, after) | page | {"error": error}


def reading(place: Workplace, user: Any, case: Case, method: str = USUAL) -> dict[str, Any]:
    """The middle of the page: why the case was not decided, and its notes. Opening an open case reserves it."""
    prediction = selectors.standing_prediction(case)
    if prediction is None:
        return {"place": place, "case": case, "prediction": None, "explained": False, "failed": False}
    policy = dial.current(place.site, place.protocol)
    reason, review = selectors.reason(prediction, policy), selectors.own_review(prediction, user)
    state = _state(prediction, reason, policy, review, user)
    uncovered = not visibility.blind(place, policy, prediction, user)
    lease = selectors.lease_of(case.pk)
    page = {
        "place": place,
        "case": case,
        "prediction": prediction,
        "policy": policy,
        "state": state,
        "review": review,
        "uncovered": uncovered,
        "lease": lease,
        "held": held_by(lease) if lease else "",
        "mode": visibility.mode(place, policy, prediction, user),
        "reason": _reason(prediction, reason, policy) if uncovered and reason in WHY else None,
        "towards": towards(place.protocol),
    }
    usual = explaining.request(prediction) if page["reason"] else None
    return page | _explained(page, usual, method)


def _explained(page: dict[str, Any], usual: Explanation | None, method: str) -> dict[str, Any]:
    """The notes with their marks, and what is said of them. Until another ``method`` is ready the usual one shows.

    The labels of the nearest calibration cases tell what the model leans to, so they wait for the verdict as it does.
    """
    prediction, towards = page["prediction"], page["towards"]
    asked = selectors.explanation(prediction, method) if usual and method != USUAL else None
    wanted = asked or usual
    shown, sure = (
        next((one for one in (wanted, usual) if _ready(one)), None),
        usual if _ready(usual) else None,
    )
    notes = selectors.notes_of(prediction)
    read = explained.timeline(notes, shown, towards)
    words = sure.words if sure else []
    return {
        "explained": shown is not None,
        "preparing": wanted is not None and wanted.status in PREPARING,
        "failed": wanted is not None and wanted.status == Explanation.Status.FAILED,
        "method": wanted.method if wanted else USUAL,
        "methods": explained.methods(wanted.method if wanted else USUAL, shown),
        "shown": shown,
        "tells_strangeness": shown is not None and any(word["distance"] is not None for word in shown.words),
        "notes": read,
        "span": span(read),
        "strangest": explained.named(tints.strangest(words), notes, shown),
        "pulls": [
            (sign, explained.named(tints.pulls(words, sign), notes, shown)) for sign in ("toward", "away")
        ],
        "told": explained.told(shown, notes, towards),
        "nearest": explained.nearest(sure, page["place"].protocol) if page["review"] else [],
    }


def _ready(explanation: Explanation | None) -> bool:
    return explanation is not None and explanation.status == Explanation.Status.READY


def ask(place: Workplace, user: Any, case: Case, method: str) -> bool:
    """Ask for the words by another method, where the page shows words at all; whether it does."""
    prediction = selectors.standing_prediction(case)
    if prediction is None:
        return False
    policy = dial.current(place.site, place.protocol)
    if visibility.blind(place, policy, prediction, user) or selectors.reason(prediction, policy) not in WHY:
        return False
    explaining.request(prediction, method)
    return True


def _state(prediction: Prediction, reason: str, policy: Policy, review: Review | None, user: Any) -> str:
    if review:
        return MINE
    if prediction.labelled:
        return DECIDED
    if selectors.set_aside(prediction):
        return ASIDE
    if reason == dial.OUTCOMES[0] and prediction.lot >= policy.audit_rate:
        return AUTOMATIC
    return OPEN if leases.hold(prediction.case_id, user) else HELD


def _reason(prediction: Prediction, reason: str, policy: Policy) -> dict[str, str]:
    name, field = NUMBER[reason]
    return {"kind": reason, "why": WHY[reason], "number": f"{name} {figure(getattr(prediction, field))}"}


def towards(protocol: Protocol) -> str:
    names = dict(zip(protocol.labels, protocol.label_names, strict=True))
    return ", ".join(names[target] for target in protocol.targets)


def _decision(
    place: Workplace, user: Any, prediction: Prediction, page: dict[str, Any], typed: Form | None
) -> dict[str, Any]:
    """The right column: what may be answered, what was typed, and the numbers (never the label before the verdict)."""
    review, policy = page["review"], page["policy"]
    written = _typed(typed) if typed else _draft(prediction, user, place.protocol, review)
    return {
        "choices": _choices(place.protocol),
        "evidence_json": json.dumps(written["evidence"]),
        "written": written,
        "numbers": _numbers(prediction, policy) if page["uncovered"] else [],
        "verdict": verdict_name(place.protocol, review.label) if review else "",
        "stood": stood(place.protocol, prediction) if review else "",
        "undoable": review is not None
        and any(review == recent for recent in selectors.recent_reviews(place, user)),
        "evidence": _evidence(written["evidence"], page["notes"]),
    }


def _choices(protocol: Protocol) -> list[dict[str, str]]:
    """The gravest answer first, as its key 1; «undecided» last."""
    named = list(zip(protocol.labels, protocol.label_names, strict=True))[::-1]
    answers = [
        {"value": label, "name": name, "key": str(key)} for key, (label, name) in enumerate(named, start=1)
    ]
    return [*answers, {"value": UNDECIDED, "name": _("I cannot decide"), "key": "U"}]


def _draft(prediction: Prediction, user: Any, protocol: Protocol, review: Review | None) -> dict[str, Any]:
    if review:
        choice = UNDECIDED if review.label is None else protocol.labels[review.label]
        return {"choice": choice, "comment": review.comment, "evidence": review.evidence, "saved_at": None}
    draft = selectors.drafts(user).filter(case=prediction.case_id).first() or Draft()
    return {
        "choice": draft.choice,
        "comment": draft.comment,
        "evidence": valid_evidence(prediction, draft.evidence),
        "saved_at": draft.saved_at if draft.pk else None,
    }


def _typed(typed: Form) -> dict[str, Any]:
    evidence = typed.cleaned_data.get("evidence", [])
    words = {"choice": typed.data.get("verdict", ""), "comment": typed.data.get("comment", "")}
    return words | {"evidence": evidence, "saved_at": None}


def _evidence(marks: list[dict[str, int]], notes: list[explained.ReadNote]) -> list[dict[str, Any]]:
    by_id = {item.note.pk: item.note for item in notes}
    shown = [(by_id[mark["note"]], mark) for mark in marks if mark["note"] in by_id]
    return [
        {"text": tints.as_written(note.text[mark["start"] : mark["end"]]), "written_at": note.written_at}
        for note, mark in shown
    ]


def _numbers(prediction: Prediction, policy: Policy) -> list[tuple[str, str]]:
    return [
        (_("Credibility"), figure(prediction.credibility)),
        (_("Second answer"), figure(prediction.runner_up)),
        (_("Typicality"), figure(prediction.typicality)),
        (_("Dial"), f"α\u00a0{setting(policy.alpha)}"),
    ]


def span(notes: list[explained.ReadNote]) -> str:
    """«4 notes, March 2019 to May 2021»."""
    count = ngettext("%(n)d note", "%(n)d notes", len(notes)) % {"n": len(notes)}
    dates = sorted(item.note.written_at for item in notes if item.note.written_at)
    if not dates:
        return count
    first, last = (formats.date_format(day, "YEAR_MONTH_FORMAT") for day in (dates[0], dates[-1]))
    if first == last:
        return f"{count}, {last}"
    return _("%(count)s, %(first)s to %(last)s") % {"count": count, "first": first, "last": last}


def dial_moved(shown: Policy, now: Policy) -> str:
    words = {
        "shown": shown.version,
        "alpha": setting(shown.alpha),
        "now": now.version,
        "new": setting(now.alpha),
    }
    return (
        _(
            "The dial moved to version %(now)d (α %(new)s) while the page was open. The verdict was stored under version %(shown)d (α %(alpha)s), the one you were shown."
        )
        % words
    )


def heartbeat(place: Workplace, user: Any, case: Case, sent: QueryDict) -> dict[str, Any]:
    """Renew the lease of an open page; ``notice`` says what changed since it was drawn, if anything did."""
    prediction = selectors.standing_prediction(case)
    if prediction is None or str(prediction.pk) != sent.get("prediction"):
        return {
            "held": False,
            "notice": _(
                "New notes arrived or the case was scored again. Reload the page to read it as it is now; your draft is kept."
            ),
        }
    policy = dial.current(place.site, place.protocol)
    if prediction.labelled or selectors.own_review(prediction, user):
        return {
            "held": False,
            "notice": _("This case was decided meanwhile. Go on with the next one; your draft is kept."),
        }
    held = leases.hold(case.pk, user)
    lease = selectors.lease_of(case.pk)
    notice = ""
    if not held and lease:
        notice = held_by(lease)
    elif str(policy.version) != sent.get("policy"):
        notice = _(
            "The dial moved to version %(now)d while this page was open. Your verdict will be stored under version %(shown)s, the one you were shown."
        ) % {"now": policy.version, "shown": sent.get("policy")}
    return {"held": held, "until": lease.until.isoformat() if lease else "", "notice": notice}


def held_by(lease: Any) -> str:
    until = formats.time_format(timezone.localtime(lease.until), "H:i")
    return _("%(name)s holds this case until %(time)s.") % {"name": name_of(lease.reader), "time": until}
