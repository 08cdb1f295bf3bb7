"""What the queue's address asks for: which cases, in which order, from where on. Checked once, written back the same."""

from __future__ import annotations

from datetime import date
from typing import Any, NamedTuple

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from triage.models import Protocol

REASONS = {
    "ambiguous": gettext_lazy("Ambiguous"),
    "novel": gettext_lazy("Without precedent"),
    "atypical": gettext_lazy("Atypical"),
    "held": gettext_lazy("Automation on hold"),
}
BLIND, EVERYTHING = "blind", "all"
ORDERS = {
    "risk": gettext_lazy("risk"),
    "wait": gettext_lazy("longest wait"),
    "date": gettext_lazy("date of the last note"),
    "specialty": gettext_lazy("specialty"),
    "reason": gettext_lazy("reason"),
}
RISK = next(iter(ORDERS))
HOLDERS = {
    "me": gettext_lazy("me"),
    "others": gettext_lazy("somebody else"),
    "nobody": gettext_lazy("nobody"),
}
DAYS_MOST = 3650


class Filters(NamedTuple):
    """The fields of a FilterForm as they are applied; the defaults are the plain queue.

    show: "" what is read with the model's view, BLIND, or EVERYTHING that a search finds. q: the key of a search, never
    its words. after: the case after which the page begins.
    """

    show: str = ""
    order: str = RISK
    reason: str = ""
    specialty: str = ""
    since: date | None = None
    until: date | None = None
    waited: int | None = None
    held: str = ""
    q: str = ""
    after: int | None = None

    def query(self, **changes: Any) -> str:
        """The part of an address that says this, with some of it changed."""
        said = self._replace(**changes)
        return urlencode(
            {name: value for name, value in said._asdict().items() if value != PLAIN._asdict()[name]}
        )

    @property
    def narrow(self) -> bool:
        """Whether anything but group, order and place was asked for."""
        return self._replace(show="", order=RISK, after=None) != PLAIN


PLAIN = Filters()


def _options(names: dict[str, Any], empty: Any) -> list[tuple[str, Any]]:
    return [("", empty), *names.items()]


class FilterForm(forms.Form):
    """A protocol that is read blind offers no reason. Its labels begin the sentences that refuse a value."""

    show = forms.ChoiceField(
        required=False, choices=[(name, name) for name in ("", BLIND, EVERYTHING)], label="show"
    )
    order = forms.ChoiceField(required=False, choices=list(ORDERS.items()), label=gettext_lazy("Order"))
    reason = forms.ChoiceField(
        required=False, choices=_options(REASONS, gettext_lazy("every reason")), label=gettext_lazy("Reason")
    )
    specialty = forms.CharField(required=False, max_length=80, label=gettext_lazy("Specialty"))
    since = forms.DateField(required=False, label=gettext_lazy("Last note from"))
    until = forms.DateField(required=False, label=gettext_lazy("Last note to"))
    waited = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=DAYS_MOST,
        label=gettext_lazy("Days waiting"),
    )
    held = forms.ChoiceField(
        required=False,
        choices=_options(HOLDERS, gettext_lazy("anyone")),
        label=gettext_lazy("Held by"),
    )
    q = forms.CharField(required=False, max_length=16, label="q")
    after = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1, label="after")

    def __init__(self, data: Any, protocol: Protocol) -> None:
        super().__init__(data)
        if protocol.reading == Protocol.Reading.BLIND:
            self.fields["reason"].choices = []
            self.fields["order"].choices = [(name, ORDERS[name]) for name in ORDERS if name != "reason"]

    def clean(self) -> dict[str, Any]:
        asked = super().clean() or {}
        if asked.get("since") and asked.get("until") and asked["since"] > asked["until"]:
            raise ValidationError(_("The period ends before it begins. Swap the two days."))
        return asked


def read(query: QueryDict, protocol: Protocol) -> tuple[Filters, list[str]]:
    """The filters an address asks for, and a sentence for each that cannot be; what cannot be is left out.

    Neither reason nor order count among cases to be read blind: both would tell of the model.
    """
    form = FilterForm(query, protocol)
    form.is_valid()
    refused = [_sentence(form, name, str(error)) for name, errors in form.errors.items() for error in errors]
    asked = {name: value for name, value in form.cleaned_data.items() if value not in ("", None)}
    if form.non_field_errors():
        asked.pop("since", None), asked.pop("until", None)
    if asked.get("show"):
        asked.pop("reason", None), asked.pop("order", None)
    return Filters(**asked), refused


def _sentence(form: forms.Form, name: str, error: str) -> str:
    if name not in form.fields:
        return error
    return _("%(field)s: %(error)s This filter was left out.") % {
        "field": form.fields[name].label,
        "error": error,
    }


class SearchForm(forms.Form):
    """Words for the notes, and the filters beside which they were typed."""

    terms = forms.CharField(required=False, max_length=200)
    query = forms.CharField(required=False, max_length=500)


class ViewForm(forms.Form):
    """A name for the filters as they are."""

    name = forms.CharField(
        max_length=60,
        error_messages={
            "required": gettext_lazy("Give the view a name, then save it."),
            "max_length": gettext_lazy("The name is too long: 60 characters at most."),
        },
    )
