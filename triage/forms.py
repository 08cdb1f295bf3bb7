"""What an admin types at the dial; a decimal comma and a decimal point both count."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class EitherDecimal(forms.FloatField):
    """A number typed with a comma or a point, whatever the page's language."""

    widget = forms.TextInput

    def to_python(self, value: object) -> float | None:
        return super().to_python(value.replace(",", ".") if isinstance(value, str) else value)


class SettingForm(forms.Form):
    """What divides the cases, and how many of the automatic ones are read."""

    alpha = EitherDecimal(
        label=_("Risk tolerance, α"),
        validators=[
            MinValueValidator(
                0.001, _("α is at least 0.001: smaller values need more calibration cases than exist.")
            ),
            MaxValueValidator(0.5, _("α is at most 0.5.")),
        ],
    )
    floor = EitherDecimal(
        label=_("Typicality floor"),
        validators=[
            MinValueValidator(0, _("The typicality floor is at least 0 (nothing is vetoed).")),
            MaxValueValidator(0.5, _("The typicality floor is at most 0.5.")),
        ],
    )
    audit_rate = EitherDecimal(
        label=_("Audit rate"),
        required=False,
        validators=[
            MinValueValidator(0, _("The audit rate is a share: at least 0 (no automatic case is read).")),
            MaxValueValidator(1, _("The audit rate is a share: at most 1 (every automatic case is read).")),
        ],
    )


class PreviewForm(SettingForm):
    """With ``hours`` the α is asked for, not given. automate: "0" for automation on hold."""

    hours = EitherDecimal(required=False, validators=[MinValueValidator(0, _("Hours are 0 or more."))])
    automate = forms.TypedChoiceField(
        required=False, choices=[("0", "0"), ("1", "1")], coerce=lambda value: value == "1", empty_value=None
    )

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.fields["alpha"].required = not data.get("hours")


class ReasonForm(forms.Form):
    """Why, and on top of which version."""

    reason = forms.CharField(label=_("Reason"), max_length=1000, widget=forms.Textarea(attrs={"rows": 3}))
    base_version = forms.IntegerField(widget=forms.HiddenInput)


class ActionForm(ReasonForm):
    """One step that types no settings: automation on hold, the hold lifted, the scheduled version cancelled."""

    action = forms.ChoiceField(choices=[(name, name) for name in ("hold", "lift", "cancel")])


class TurnForm(ReasonForm):
    """What every turn carries: why, on top of which version, and from when on."""

    AHEAD = timedelta(days=366)

    starts_at = forms.DateTimeField(
        label=_("Start"),
        required=False,
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
        error_messages={"invalid": _("Write day and hour, or leave it empty to start now.")},
    )

    def clean_starts_at(self) -> datetime | None:
        start = self.cleaned_data["starts_at"]
        if start and start <= timezone.now():
            raise forms.ValidationError(_("This start has passed. Leave it empty to start now."))
        if start and start > timezone.now() + self.AHEAD:
            raise forms.ValidationError(_("This start is more than a year ahead. Choose an earlier one."))
        return start


class DialForm(SettingForm, TurnForm):
    """A turn. The boxes count where the page had them (``boxes``); what a page did not show stays as it is."""

    BOXES = ("second_approver", "hold_on_alarm")

    boxes = forms.BooleanField(required=False)
    second_approver = forms.BooleanField(label=_("Turns need a second administrator"), required=False)
    hold_on_alarm = forms.BooleanField(label=_("An alarm puts automation on hold"), required=False)

    def clean(self) -> dict[str, Any]:
        typed = super().clean() or {}
        if not typed.pop("boxes", False):
            typed |= dict.fromkeys(self.BOXES)
        return typed


class ReturnForm(TurnForm):
    version = forms.IntegerField()


class ProposalForm(forms.Form):
    """What becomes of a proposal; declining says why."""

    decision = forms.ChoiceField(choices=[(name, name) for name in ("approve", "decline", "withdraw")])
    remark = forms.CharField(required=False, max_length=1000)

    def clean(self) -> dict[str, Any]:
        typed = super().clean() or {}
        if typed.get("decision") == "decline" and not typed.get("remark"):
            self.add_error("remark", _("Say why, so that whoever proposed it can do better."))
        return typed
