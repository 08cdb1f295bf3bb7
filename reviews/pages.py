"""What the clinician's pages say: figures into words, and nothing of the model's view before its time."""

from __future__ import annotations

import json
from typing import Any

from django.forms import Form
from django.http import QueryDict
from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop, ngettext

from reviews import comments, explained, listing, selectors, tints, visibility
from reviews import queue as leases
from reviews import search as searching
from reviews.adjudication import choice, name_of, valid_evidence
from reviews.filters import PLAIN, Filters
from reviews.forms import INFORMATION, REASONS, UNDECIDED
from reviews.models import Adjudication, Draft, Lease, Review, Why
from reviews.requests import seal
from reviews.search import Search
from reviews.wording import checked, figure, setting, stood, verdict_name
from triage import explaining
from triage import policy as dial
from triage.access import Workplace
from triage.models import Case, Explanation, Note, Policy, Prediction, Protocol

WHY = {
    "ambiguous": gettext_lazy("Deferred: more than one answer fits"),
    "novel": gettext_lazy("Deferred: no answer fits"),
    "atypical": gettext_lazy("Deferred: unlike anything in calibration"),
    "held": gettext_lazy("Deferred: automation is on hold"),
}
NUMBER = {
    "ambiguous": (gettext_lazy("second answer"), "runner_up"),
    "novel": (gettext_lazy("credibility"), "credibility"),
    "atypical": (gettext_lazy("typicality"), "typicality"),
    "held": (gettext_lazy("credibility"), "credibility"),
}
PREPARING = (Explanation.Status.PENDING, Explanation.Status.CLAIMED)
USUAL = Explanation.DEFAULT
HITS_MOST = 500
OPEN, HELD, MINE, DECIDED, ASIDE, AUTOMATIC = "open", "held", "mine", "decided", "aside", "automatic"


def case(
    place: Workplace,
    user: Any,
    case: Case,
    *,
    asked: Filters = PLAIN,
    method: str = USUAL,
    search: Search | None = None,
    typed: Form | None = None,
    said: Form | None = None,
    error: str = "",
) -> dict[str, Any]:
    """The whole page. ``typed`` and ``said`` are a refused verdict and a refused comment, shown again as they were."""
    page = reading(place, user, case, method, search) | {"results_query": asked.query()}
    prediction = page["prediction"]
    if prediction is not None:
        if page["state"] == OPEN:
            leases.give_back_idle(place, user, keep=case.pk)
        page |= _decision(place, user, prediction, page, typed) | _thread(place, user, prediction, page, said)
    return listing.queue(place, user, asked) | page | {"error": error}


def reading(
    place: Workplace, user: Any, case: Case, method: str = USUAL, search: Search | None = None
) -> dict[str, Any]:
    """The middle of the page: why the case was not decided, and its notes. Opening an open case reserves it.

    search: the one the case was opened from, whose words are marked.
    """
    prediction = selectors.standing_prediction(case)
    if prediction is None:
        return {"place": place, "case": case, "prediction": None, "explained": False, "failed": False}
    policy = dial.current(place.site, place.protocol)
    reason, review = dial.outcome_of(prediction, policy), selectors.own_review(prediction, user)
    state = _state(prediction, reason, policy, review, user)
    uncovered = visibility.uncovered(place, policy, prediction, user, held=state != HELD)
    mode = visibility.mode(place, policy, prediction, user)
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
        "mode": mode,
        "seal": seal(user, case.pk, prediction.pk, policy.version, mode),
        "reason": _reason(prediction, reason, policy) if uncovered and reason in WHY else None,
        "hold": listing.hold(place, policy),
        "check": checked(place.protocol, prediction) if review and reason == dial.OUTCOMES[0] else "",
        "towards": towards(place.protocol),
    }
    usual = explaining.request(prediction) if page["reason"] else None
    return page | _explained(page, usual, method, search)


def _explained(
    page: dict[str, Any], usual: Explanation | None, method: str, search: Search | None
) -> dict[str, Any]:
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
    hits = _hits(notes, search) if search else {}
    read = explained.timeline(notes, shown, towards, hits)
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
        "searched": search.said if search else "",
        "hits": sum(map(len, hits.values())),
        "span": span(read),
        "strangest": explained.named(tints.strangest(words), notes, shown),
        "pulls": [
            (sign, explained.named(tints.pulls(words, sign), notes, shown)) for sign in ("toward", "away")
        ],
        "told": explained.told(shown, notes, towards),
        "nearest": explained.nearest(sure, page["place"].protocol) if page["review"] else [],
    }


def _hits(notes: list[Note], search: Search) -> dict[int, list[tuple[int, int]]]:
    """By the note's place: where the words of a search stand, no more of them than HITS_MOST, the newest note first."""
    forms, left = search.forms(note.text for note in notes), HITS_MOST
    found: dict[int, list[tuple[int, int]]] = {}
    for place in sorted(range(len(notes)), key=lambda i: explained.recency(notes[i])):
        found[place] = searching.places(notes[place].text, forms)[:left]
        left -= len(found[place])
    return found


def _ready(explanation: Explanation | None) -> bool:
    return explanation is not None and explanation.status == Explanation.Status.READY


def ask(place: Workplace, user: Any, case: Case, method: str) -> bool:
    """Ask for the words by another method, where the page shows words at all; whether it does."""
    prediction = selectors.standing_prediction(case)
    if prediction is None:
        return False
    policy = dial.current(place.site, place.protocol)
    if visibility.blind(place, policy, prediction, user) or dial.outcome_of(prediction, policy) not in WHY:
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
    recent = _recent(place, user)
    return {
        "choices": _choices(place.protocol),
        "reasons": [{"value": value, "name": name} for value, name in REASONS],
        "target": place.protocol.targets[0],
        "evidence_json": json.dumps(written["evidence"]),
        "written": written,
        "numbers": _numbers(prediction, policy) if page["uncovered"] else [],
        "verdict": verdict_name(place.protocol, review.label, review.why) if review else "",
        "stood": stood(place.protocol, prediction) if review and not page["check"] else "",
        "becomes": _becomes(prediction, review, page["state"]),
        "others": _others(place, prediction, user) if review and prediction.labelled else [],
        "recent": recent,
        "undoable": review is not None and any(review.pk == one["review"] for one in recent),
        "evidence": _evidence(written["evidence"], page["notes"], place.protocol),
        "first": page["state"] == OPEN and not Review.objects.filter(reader=user).exists(),
    }


def _choices(protocol: Protocol) -> list[dict[str, Any]]:
    """The gravest answer first, as its key 1; those that give no label last."""
    named = list(zip(protocol.labels, protocol.label_names, strict=True))[::-1]
    answers = [
        {"value": label, "name": name, "key": str(key), "label": True}
        for key, (label, name) in enumerate(named, start=1)
    ]
    return [
        *answers,
        {"value": UNDECIDED, "name": _("I cannot decide"), "key": "U", "label": False},
        {"value": INFORMATION, "name": _("More must be known"), "key": "I", "label": False},
    ]


def _draft(prediction: Prediction, user: Any, protocol: Protocol, review: Review | None) -> dict[str, Any]:
    if review:
        words = {"choice": choice(protocol, review), "why": review.why, "comment": review.comment}
        return words | {"evidence": review.evidence, "saved_at": None}
    draft = selectors.drafts(user).filter(case=prediction.case_id).first() or Draft()
    return {
        "choice": draft.choice,
        "why": draft.why,
        "comment": draft.comment,
        "evidence": valid_evidence(prediction, draft.evidence),
        "saved_at": draft.saved_at if draft.pk else None,
    }


def _typed(typed: Form) -> dict[str, Any]:
    sent = {"choice": "verdict", "why": "why", "comment": "comment"}
    words = {name: typed.data.get(field, "") for name, field in sent.items()}
    return words | {"evidence": typed.cleaned_data.get("evidence", []), "saved_at": None}


def _becomes(prediction: Prediction, review: Review | None, state: str) -> str:
    """What happens to a case that has no label yet.

    Whether a reader stands alone so far or somebody reads it otherwise is not told apart: that would give away the other
    reading to whoever may still take theirs back.
    """
    if prediction.labelled or state not in (MINE, ASIDE):
        return ""
    if review and review.why == Why.INFORMATION:
        return _("Stored. The case rests until new notes arrive or a lead returns it.")
    if review:
        return _("Stored. Somebody else will judge it too.")
    if Adjudication.objects.filter(
        case=prediction.case_id, notes_sha256=prediction.notes_sha256, closed_at=None
    ).exists():
        return _("A lead must judge this case. Nothing is asked of you.")
    return _("This case rests until more is known: somebody asked for more information.")


def _others(place: Workplace, prediction: Prediction, user: Any) -> list[tuple[str, str]]:
    """(name, verdict) of whoever else read a settled case."""
    readings = visibility.others(prediction, user).select_related("reader")
    return [(name_of(one.reader), verdict_name(place.protocol, one.label, one.why)) for one in readings]


def _recent(place: Workplace, user: Any) -> list[dict[str, Any]]:
    """The last ten verdicts that still stand, the latest first: each can be taken back."""
    found = selectors.recent_reviews(place, user).select_related("case__patient")
    return [
        {
            "review": review.pk,
            "case": review.case_id,
            "pseudonym": review.case.patient.pseudonym,
            "verdict": verdict_name(place.protocol, review.label, review.why),
        }
        for review in found
        if review.withdrawn_at is None
    ]


def _thread(
    place: Workplace, user: Any, prediction: Prediction, page: dict[str, Any], said: Form | None
) -> dict[str, Any]:
    """What was said about the case, as far as ``user`` may read it now; and a refused comment."""
    notes = [item.note for item in page["notes"]]
    found = visibility.thread(place, page["policy"], prediction, user)
    return {"thread": comments.shown(list(found), notes, user), "said": comments.typed(said)}


def _evidence(
    marks: list[dict[str, Any]], notes: list[explained.ReadNote], protocol: Protocol
) -> list[dict[str, Any]]:
    by_id = {item.note.pk: item.note for item in notes}
    names = dict(zip(protocol.labels, protocol.label_names, strict=True))
    return [
        {
            "text": tints.as_written(by_id[mark["note"]].text[mark["start"] : mark["end"]]),
            "written_at": by_id[mark["note"]].written_at,
            "label": names.get(mark.get("label", ""), ""),
        }
        for mark in marks
        if mark["note"] in by_id
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
    """Renew the lease of an open page; ``notice`` says what changed since it was drawn, if anything did. ``over``: nothing is
    left to do here, and nothing is held."""
    Case.objects.select_for_update(no_key=True).values_list("pk").get(
        pk=case.pk
    )  # a verdict under way comes first
    prediction = selectors.standing_prediction(case)
    if prediction is None or str(prediction.pk) != sent.get("prediction"):
        return {
            "held": False,
            "notice": _(
                "New notes arrived or the case was scored again. Reload the page to read it as it is now; your draft is kept."
            ),
        }
    policy = dial.current(place.site, place.protocol)
    if over := _over(prediction, user):
        Lease.objects.filter(case=case, reader=user).delete()
        return {"held": False, "over": True, "notice": over}
    held = leases.renew(case.pk, user)
    lease = selectors.lease_of(case.pk)
    notice = ""
    if not held:
        notice = held_by(lease) if lease else _(FREED)
    elif str(policy.version) != sent.get("policy"):
        notice = _(
            "The dial moved to version %(now)d while this page was open. Your verdict will be stored under version %(shown)s, the one you were shown."
        ) % {"now": policy.version, "shown": sent.get("policy")}
    return {"held": held, "until": lease.until.isoformat() if lease else "", "notice": notice}


FREED = gettext_noop(
    "This case is no longer reserved for you: a lead freed it. Reload the page to reserve it again; your draft is kept."
)


def _over(prediction: Prediction, user: Any) -> str:
    """Why nobody asks ``user`` for a verdict any more; empty while somebody does."""
    if prediction.labelled or selectors.own_review(prediction, user):
        return _("This case was decided meanwhile. Go on with the next one; your draft is kept.")
    if selectors.set_aside(prediction):
        return _(
            "This case was set aside meanwhile, for a lead or until more is known. Go on with the next one; your draft is kept."
        )
    return ""


def held_by(lease: Any) -> str:
    until = formats.time_format(timezone.localtime(lease.until), "H:i")
    return _("%(name)s holds this case until %(time)s.") % {"name": name_of(lease.reader), "time": until}
