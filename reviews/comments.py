"""What readers say to each other about a case: said, taken back. The trail keeps that it happened, never the words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.forms import Form
from django.http import Http404
from django.utils import timezone
from django.utils.translation import gettext as _

from reviews import selectors
from reviews.adjudication import RESCORED, Conflict, valid_evidence
from reviews.models import Comment
from triage import audit
from triage.access import Workplace
from triage.models import Case, Note


@transaction.atomic
def say(place: Workplace, user: Any, case: Case, text: str, passage: dict[str, int] | None = None) -> Comment:
    """Add to the thread of a case; no lease is asked for. The same words of the same reader said again are one comment.

    passage: {note, start, end}, code points of the note's text. Conflict when the passage lies outside the notes that are shown.
    """
    prediction = selectors.standing_prediction(case)
    if prediction is None:
        raise Conflict(_(RESCORED))
    if passage and not valid_evidence(prediction, [passage]):
        raise Conflict(_("The passage lies outside the notes. Select it again; what you typed is kept."))
    Case.objects.select_for_update(no_key=True).get(pk=case.pk)  # sent twice at once: the second waits
    about = passage or {"note": None, "start": None, "end": None}
    words = {"text": text, "note_id": about["note"], "start": about["start"], "end": about["end"]}
    known = Comment.objects.filter(case=case, author=user, withdrawn_at=None, **words).first()
    if known:
        return known
    comment = Comment.objects.create(case=case, author=user, **words)
    details = {"case": case.pk, "passage": passage is not None}
    audit.record("comment.say", comment, site=place.site, actor=user, details=details)
    return comment


@transaction.atomic
def withdraw(place: Workplace, user: Any, comment: int) -> Comment:
    """Take a comment of one's own back; again changes nothing. 404 for one of somebody else."""
    mine = Comment.objects.filter(author=user, case__site=place.site, case__protocol=place.protocol)
    found = mine.select_for_update(no_key=True).filter(pk=comment).first()
    if found is None:
        raise Http404
    if found.withdrawn_at is None:
        found.withdrawn_at = timezone.now()
        found.save(update_fields=["withdrawn_at"])
        details = {"case": found.case_id}
        audit.record("comment.withdraw", found, site=place.site, actor=user, details=details)
    return found


def typed(refused: Form | None) -> dict[str, str]:
    """What a refused CommentForm was sent with, to be shown again."""
    fields = ("text", "note", "start", "end")
    return {name: refused.data.get(name, "") for name in fields} if refused else {}


def shown(comments: Sequence[Comment], notes: Sequence[Note], user: Any) -> list[dict[str, Any]]:
    """Comments for a page: the words of the passage where its note is among ``notes``, and whether ``user`` wrote it."""
    texts = {note.pk: note.text for note in notes}
    return [
        {
            "comment": comment,
            "quote": texts[comment.note_id][comment.start : comment.end] if comment.note_id in texts else "",
            "elsewhere": comment.note_id is not None and comment.note_id not in texts,
            "mine": comment.author_id == user.pk,
        }
        for comment in comments
    ]
