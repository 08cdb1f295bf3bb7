"""What the pages of disagreements say: what waits for a lead, and one case with its readings beside each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.forms import Form
from django.http import Http404
from django.utils.translation import gettext as _

from reviews import comments, overlay, readings, selectors, visibility
from reviews.adjudication import name_of, valid_evidence
from reviews.listing import REASONS, age
from reviews.models import Adjudication, Review
from reviews.tints import as_written
from reviews.wording import figure, setting, stood, verdict_name
from triage import policy as dial
from triage.access import Workplace
from triage.models import Note, Prediction, Protocol

CLOSED_SHOWN = 20


def _here(place: Workplace) -> QuerySet[Adjudication]:
    return Adjudication.objects.filter(case__site=place.site, case__protocol=place.protocol)


def _open(place: Workplace) -> QuerySet[Adjudication]:
    """Those over the notes as they are now: with new ones the case is read anew."""
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256"), "current": True}
    standing = Exists(Prediction.objects.filter(**same))
    return _here(place).filter(standing, closed_at=None).order_by("opened_at", "pk")


def listed(place: Workplace, user: Any) -> dict[str, Any]:
    """What waits, the oldest first, and what was judged lately."""
    closed = _here(place).filter(review__isnull=False, review__withdrawn_at=None).order_by("-closed_at")
    judged = closed.select_related("case__patient", "review__reader")[:CLOSED_SHOWN]
    return {
        "place": place,
        "open": [
            _row(place, user, one) for one in _open(place).select_related("case__patient", "prediction")
        ],
        "judged": [
            {"pk": one.pk, "pseudonym": one.case.patient.pseudonym, "at": one.closed_at}
            | {"label": verdict_name(place.protocol, one.review.label), "by": name_of(one.review.reader)}
            | {"cause": one.get_cause_display()}
            for one in judged
        ],
    }


def _row(place: Workplace, user: Any, one: Adjudication) -> dict[str, Any]:
    verdicts = list(readings.standing(one.prediction).select_related("reader"))
    own = any(verdict.reader_id == user.pk for verdict in verdicts)
    return {
        "pk": one.pk,
        "pseudonym": one.case.patient.pseudonym,
        "at": one.opened_at,
        "age": age(one.opened_at),
        "why": _differ(verdicts),
        "own": own,
        "verdicts": [
            f"{name_of(verdict.reader)}: {verdict_name(place.protocol, verdict.label, verdict.why)}"
            for verdict in verdicts
            if not own
        ],
    }


def _differ(verdicts: Sequence[Review]) -> str:
    """Why a lead must judge, in words."""
    labels = [verdict.label for verdict in verdicts]
    if all(label is None for label in labels):
        return _("Nobody could decide")
    if None in labels:
        return _("One could not decide")
    if len(set(labels)) == 1:
        return _("The same label, but not read independently")
    return _("Two different labels")


def find(place: Workplace, pk: int) -> Adjudication:
    """The case for a lead, or 404 when it is not of this workplace."""
    found = _here(place).select_related("case__patient", "prediction", "review__reader").filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def next_open(place: Workplace, user: Any) -> int | None:
    """The oldest case that waits and ``user`` may judge: not one they read themselves."""
    for one in _open(place).select_related("prediction"):
        if not readings.standing(one.prediction).filter(reader=user).exists():
            return one.pk
    return None


def page(
    place: Workplace,
    user: Any,
    found: Adjudication,
    typed: Form | None = None,
    said: Form | None = None,
    error: str = "",
) -> dict[str, Any]:
    """One case: the readings beside each other, their evidence over the notes, what was said of it, and the lead's own
    verdict. ``typed`` and ``said``: a refused verdict and a refused comment."""
    prediction = found.prediction
    verdicts = _readings(found)
    own = any(verdict.reader_id == user.pk for verdict in verdicts)
    if own and not found.closed_at:  # they may still take theirs back and read again
        verdicts = [verdict for verdict in verdicts if verdict.reader_id == user.pk]
    notes = selectors.notes_of(prediction)
    written = _typed(typed) if typed else _draft(prediction, user)
    state = "own" if own and not found.closed_at else "closed" if found.closed_at else "open"
    judged = found.review if found.review and not found.review.withdrawn_at else None
    if judged:
        written = _written(place.protocol, judged)
    return {
        "place": place,
        "adjudication": found,
        "case": found.case,
        "prediction": prediction,
        "error": error,
        "state": state,
        "why": _differ(verdicts),
        "readings": [_reading(place, verdict, i, notes) for i, verdict in enumerate(verdicts)],
        "notes": _overlaid(place.protocol, notes, verdicts),
        "choices": _choices(place.protocol),
        "causes": Adjudication.Cause.choices,
        "target": place.protocol.targets[0],
        "written": written,
        "evidence_json": json.dumps(written["evidence"]),
        "judged": judged,
        "verdict": verdict_name(place.protocol, judged.label) if judged else "",
        "thread": comments.shown(list(visibility.judges_thread(prediction)), notes, user),
        "said": comments.typed(said),
        "uncovered": True,
        "model": _model(place, prediction) if judged else None,
        "undoable": judged is not None
        and any(judged == recent for recent in selectors.recent_reviews(place, user)),
    }


def _readings(found: Adjudication) -> list[Review]:
    standing = readings.standing(found.prediction).exclude(mode=Review.Mode.ADJUDICATION)
    return list(standing.select_related("reader")[: len(overlay.LETTERS)])


def _reading(place: Workplace, verdict: Review, i: int, notes: Sequence[Note]) -> dict[str, Any]:
    texts = {note.pk: note for note in notes}
    names = dict(zip(place.protocol.labels, place.protocol.label_names, strict=True))
    return {
        "letter": overlay.LETTERS[i],
        "css": overlay.LETTERS[i].lower(),
        "reader": name_of(verdict.reader),
        "verdict": verdict_name(place.protocol, verdict.label, verdict.why),
        "comment": verdict.comment,
        "mode": verdict.get_mode_display(),
        "seconds": verdict.seconds,
        "at": verdict.at,
        "evidence": [
            {
                "text": as_written(texts[mark["note"]].text[mark["start"] : mark["end"]]),
                "written_at": texts[mark["note"]].written_at,
                "label": names.get(mark.get("label", ""), ""),
            }
            for mark in verdict.evidence
            if mark["note"] in texts
        ],
    }


def _overlaid(protocol: Protocol, notes: Sequence[Note], verdicts: Sequence[Review]) -> list[dict[str, Any]]:
    """The notes, newest first, undated ones last, each with every reader's passages."""
    names = dict(zip(protocol.labels, protocol.label_names, strict=True))
    passages: dict[int, list[overlay.Passage]] = {note.pk: [] for note in notes}
    for i, verdict in enumerate(verdicts):
        for mark in verdict.evidence:
            label = names.get(mark.get("label", ""), "")
            passages.get(mark["note"], []).append(overlay.Passage(mark["start"], mark["end"], i, label))
    ordered = sorted(notes, key=lambda note: note.written_at or date.min, reverse=True)
    return [{"note": note, "html": overlay.html(note.text, passages[note.pk])} for note in ordered]


def _choices(protocol: Protocol) -> list[dict[str, Any]]:
    """The gravest answer first, as its key 1."""
    named = list(zip(protocol.labels, protocol.label_names, strict=True))[::-1]
    return [{"value": value, "name": name, "key": key} for key, (value, name) in enumerate(named, start=1)]


def _typed(typed: Form) -> dict[str, Any]:
    evidence = typed.cleaned_data.get("evidence", []) if hasattr(typed, "cleaned_data") else []
    words = {name: typed.data.get(name, "") for name in ("verdict", "cause", "comment")}
    return words | {"evidence": evidence}


def _draft(prediction: Prediction, user: Any) -> dict[str, Any]:
    draft = selectors.drafts(user).filter(case=prediction.case_id).first()
    if draft is None:
        return {"verdict": "", "cause": "", "comment": "", "evidence": []}
    evidence = valid_evidence(prediction, draft.evidence)
    return {"verdict": draft.choice, "cause": draft.cause, "comment": draft.comment, "evidence": evidence}


def _written(protocol: Protocol, judged: Review) -> dict[str, Any]:
    label = protocol.labels[judged.label] if judged.label is not None else ""
    cause = judged.adjudication.cause
    return {"verdict": label, "cause": cause, "comment": judged.comment, "evidence": judged.evidence}


def _model(place: Workplace, prediction: Prediction) -> dict[str, Any]:
    """What the model made of the case, once the lead has decided."""
    policy = dial.current(place.site, place.protocol)
    reason = dial.outcome_of(prediction, policy)
    return {
        "stood": stood(place.protocol, prediction),
        "reason": REASONS.get(reason, _("Automatic")),
        "kind": reason,
        "numbers": [
            (_("Credibility"), figure(prediction.credibility)),
            (_("Second answer"), figure(prediction.runner_up)),
            (_("Typicality"), figure(prediction.typicality)),
            (_("Dial"), f"α\u00a0{setting(policy.alpha)}"),
        ],
    }
