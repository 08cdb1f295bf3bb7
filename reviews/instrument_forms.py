"""What is asked of the dial's instruments, in the address: a rate to be certified, a matrix of costs, a dial that is tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.translation import gettext_lazy as _

from mlcore.certify import Side
from mlcore.metrics import Costs
from reviews.wording import setting
from triage.forms import DialForm, EitherDecimal
from triage.models import Policy, Protocol

SIDES = {
    "other": _("missed among those settled as something else"),
    "target": _("false among those settled as it"),
}


class CertifyForm(forms.Form):
    """per_thousand: wrong ones allowed in 1,000 automatic cases of the side."""

    per_thousand = EitherDecimal(
        validators=[
            MinValueValidator(
                0.1, _("At least 0.1 in 1,000: fewer can be certified by no data one could gather.")
            ),
            MaxValueValidator(500, _("At most 500 in 1,000.")),
        ]
    )
    side = forms.ChoiceField(choices=list(SIDES.items()))
    floor = DialForm.base_fields["floor"]

    def clean_side(self) -> Side:
        """As certifying has it: positive is what is settled as a target label."""
        return "positive" if self.cleaned_data["side"] == "target" else "negative"

    @classmethod
    def asked(cls, query: Mapping[str, str], floor: float) -> CertifyForm:
        """Of an address; what it does not say is one in 1,000 missed, at today's floor."""
        return cls({"per_thousand": "1", "side": "other", "floor": setting(floor)} | dict(query.items()))


class MatrixForm(forms.Form):
    """Costs of one's own: ``settled_i_j`` of giving label j to a case of label i, ``read_i`` of reading one."""

    def __init__(self, data: Mapping[str, str] | None, protocol: Protocol) -> None:
        super().__init__(data)
        self.k = len(protocol.labels)
        for name, (label, value) in self._cells(protocol).items():
            self.fields[name] = EitherDecimal(
                label=label,
                initial=value,
                error_messages={"required": _("Every cell needs a number.")},
                validators=[
                    MinValueValidator(0, _("A cost is at least 0.")),
                    MaxValueValidator(1_000_000, _("A cost is at most 1,000,000.")),
                ],
            )

    def _cells(self, protocol: Protocol) -> dict[str, tuple[str, float]]:
        names, cells = protocol.label_names, {}
        for i, truth in enumerate(names):
            for j, given in enumerate(names):
                told = _("«%(truth)s» settled as «%(given)s»") % {"truth": truth, "given": given}
                cells[f"settled_{i}_{j}"] = (told, protocol.cost_automatic[i][j])
            cells[f"read_{i}"] = (
                _("«%(truth)s» read by a person") % {"truth": truth},
                protocol.cost_defer[i],
            )
        return cells

    @classmethod
    def asked(cls, query: Mapping[str, str], protocol: Protocol) -> MatrixForm:
        """Bound where the address has a cell of it."""
        cells = {name: value for name, value in query.items() if name.startswith(("settled_", "read_"))}
        return cls(cells or None, protocol)

    def clean(self) -> dict[str, Any]:
        if not self.errors and not any(self.cleaned_data.values()):
            raise forms.ValidationError(
                _("At least one cost must be above 0: at none every α is as good as another.")
            )
        return self.cleaned_data

    def costs(self) -> Costs:
        """Of a valid form."""
        each, given = range(self.k), self.cleaned_data
        rows = tuple(tuple(given[f"settled_{i}_{j}"] for j in each) for i in each)
        return Costs(rows, tuple(given[f"read_{i}"] for i in each))


class TriedForm(forms.Form):
    """A dial that is only tried. automate: «0» for a hold, anything else for none."""

    alpha = DialForm.base_fields["alpha"]
    floor = DialForm.base_fields["floor"]
    automate = forms.CharField(required=False)
    after = forms.IntegerField(required=False, min_value=1)

    @classmethod
    def asked(cls, query: Mapping[str, str], today: Policy) -> TriedForm:
        """Of an address; what it does not say is as today."""
        now = {"alpha": setting(today.alpha), "floor": setting(today.typicality_floor)}
        return cls(now | {"automate": str(int(today.automate))} | dict(query.items()))

    def clean_automate(self) -> bool:
        return self.cleaned_data["automate"] != "0"
