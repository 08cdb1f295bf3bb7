"""What an admin types at the dial; a decimal comma and a decimal point both count."""

from __future__ import annotations

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.translation import gettext_lazy as _


class EitherDecimal(forms.FloatField):
    """A number typed with a comma or a point, whatever the page's language."""

    widget = forms.TextInput

    def to_python(self, value: object) -> float | None:
        return super().to_python(value.replace(",", ".") if isinstance(value, str) else value)


class DialForm(forms.Form):
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
    reason = forms.CharField(label=_("Reason"), max_length=1000, widget=forms.Textarea(attrs={"rows": 3}))
    base_version = forms.IntegerField(widget=forms.HiddenInput)
