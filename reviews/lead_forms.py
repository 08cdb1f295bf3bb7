"""What the leads' pages may send: a period, and how a protocol is read."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.translation import gettext_lazy as _

from triage.forms import EitherDecimal
from triage.models import Protocol


class PeriodForm(forms.Form):
    """First and last day; a missing day is no limit."""

    since = forms.DateField(required=False)
    until = forms.DateField(required=False)

    def clean(self) -> dict[str, Any]:
        asked = super().clean() or {}
        if asked.get("since") and asked.get("until") and asked["since"] > asked["until"]:
            raise ValidationError(_("The period ends before it begins. Swap the two days."))
        return asked


class ReadingForm(forms.Form):
    """``was_…``: the settings the page was drawn with, so that nobody overwrites what they did not see."""

    reading = forms.ChoiceField(choices=Protocol.Reading.choices)
    double_share = EitherDecimal(
        validators=[
            MinValueValidator(0, _("The share is at least 0: no case gets a second reader.")),
            MaxValueValidator(1, _("The share is at most 1: every case gets a second reader.")),
        ]
    )
    reason = forms.CharField(max_length=1000)
    was_reading = forms.CharField(widget=forms.HiddenInput)
    was_double_share = EitherDecimal(widget=forms.HiddenInput)
