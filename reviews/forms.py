"""What a page may send: a verdict, a draft, the wish for another method, for the words of a group."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from reviews.models import Adjudication, Why
from triage.cohorts import COHORTS
from triage.models import Explanation, Protocol

UNDECIDED = "undecided"
INFORMATION = "information"
REASONS = [choice for choice in Why.choices if choice[0] != Why.INFORMATION]
EVIDENCE_MOST = 200


class EvidenceField(forms.JSONField):
    """[{note, start, end, label}]: a note's id, code points of its text, and a label of the protocol or none."""

    labels: tuple[str, ...] = ()

    def clean(self, value: Any) -> list[dict[str, Any]]:
        marks = super().clean(value) or []
        if (
            not isinstance(marks, list)
            or len(marks) > EVIDENCE_MOST
            or not all(_is_mark(mark) and mark.get("label", "") in ("", *self.labels) for mark in marks)
        ):
            raise ValidationError(
                _("The marked evidence could not be read. Reload the page and mark it again.")
            )
        places = ("note", "start", "end")
        return [{key: mark[key] for key in places} | {"label": mark.get("label", "")} for mark in marks]


def _is_mark(mark: Any) -> bool:
    if not isinstance(mark, dict) or not {"note", "start", "end"} <= mark.keys():
        return False
    numbers = [mark["note"], mark["start"], mark["end"]]
    return (
        all(type(number) is int and 0 <= number < 2**31 for number in numbers) and mark["start"] < mark["end"]
    )


class DraftForm(forms.Form):
    """``reader`` is whom the page was drawn for: nobody saves under another name after signing in anew. ``client_key``: of
    the verdict that is being written."""

    reader = forms.IntegerField()
    client_key = forms.UUIDField(required=False)
    verdict = forms.ChoiceField(required=False)
    why = forms.ChoiceField(required=False, choices=REASONS)
    cause = forms.ChoiceField(required=False, choices=Adjudication.Cause.choices)
    comment = forms.CharField(required=False, strip=False, max_length=10_000)
    evidence = EvidenceField(required=False)

    def __init__(self, data: Any, protocol: Protocol) -> None:
        super().__init__(data)
        answers = (*protocol.labels, UNDECIDED, INFORMATION)
        self.fields["verdict"].choices = [(value, value) for value in answers]
        self.fields["evidence"].labels = tuple(protocol.labels)


class VerdictForm(DraftForm):
    client_key = forms.UUIDField()
    prediction = forms.IntegerField()
    policy = forms.IntegerField()
    seal = forms.CharField(required=False)
    seconds = forms.IntegerField(required=False, min_value=0, max_value=24 * 3600)
    mode = forms.ChoiceField(required=False, choices=Protocol.Reading.choices)

    def __init__(self, data: Any, protocol: Protocol) -> None:
        super().__init__(data, protocol)
        self.fields["verdict"].required = True
        self.fields["verdict"].error_messages["required"] = _("Choose an answer first, then save.")

    def clean(self) -> dict[str, Any]:
        sent = super().clean() or {}
        if sent.get("verdict") == UNDECIDED and not sent.get("why"):
            raise ValidationError(_("Say why you cannot decide, then save."))
        return sent


class CommentForm(forms.Form):
    """A comment on a case, or on the code points start … end of a note; all three or none."""

    text = forms.CharField(
        max_length=10_000, error_messages={"required": _("Write the comment first, then send it.")}
    )
    note = forms.IntegerField(required=False, min_value=1, max_value=2**31 - 1)
    start = forms.IntegerField(required=False, min_value=0, max_value=2**31 - 1)
    end = forms.IntegerField(required=False, min_value=1, max_value=2**31 - 1)

    def clean(self) -> dict[str, Any]:
        sent = super().clean() or {}
        given = [sent.get(name) for name in ("note", "start", "end")]
        if given != [None] * 3 and (None in given or given[1] >= given[2]):
            raise ValidationError(
                _("The passage could not be read. Select it again; what you typed is kept.")
            )
        return sent

    def passage(self) -> dict[str, int] | None:
        """{note, start, end} of a valid form, if it has them."""
        sent = self.cleaned_data
        return {name: sent[name] for name in ("note", "start", "end")} if sent["note"] else None


class AdjudicationForm(VerdictForm):
    """A lead's label for readings that disagree, and what made them."""

    cause = forms.ChoiceField(
        choices=Adjudication.Cause.choices,
        error_messages={"required": _("Say what made the readings differ, then save.")},
    )

    def __init__(self, data: Any, protocol: Protocol) -> None:
        super().__init__(data, protocol)
        self.fields["verdict"].choices = [(label, label) for label in protocol.labels]
        self.fields["policy"].required = False


class MethodForm(forms.Form):
    method = forms.ChoiceField(choices=Explanation.Method.choices)


class CohortForm(forms.Form):
    """A group of cases and the first and last day on which they were scored; a missing day is no limit."""

    cohort = forms.ChoiceField(choices=[(name, name) for name in COHORTS])
    since = forms.DateField(required=False)
    until = forms.DateField(required=False)

    def clean(self) -> dict[str, Any]:
        asked = super().clean() or {}
        if asked.get("since") and asked.get("until") and asked["since"] > asked["until"]:
            raise ValidationError(_("The period ends before it begins. Swap the two days."))
        return asked
