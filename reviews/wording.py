"""Figures and verdicts as every page writes them."""

from __future__ import annotations

from django.utils import formats
from django.utils.translation import gettext as _

from reviews.explained import decimals
from reviews.models import Why
from triage.models import Prediction, Protocol


def figure(value: float) -> str:
    """A p-value as the page writes it: two decimals from 0.1 on, three below, «< 0.001» under that."""
    if value < 0.0005:
        return "<\u00a0" + decimals(0.001, 3)
    return decimals(value, 2 if value >= 0.0995 else 3)


def setting(value: float) -> str:
    """α or a floor with the digits it was given, in the page's language."""
    return f"{value:g}".replace(".", formats.get_format("DECIMAL_SEPARATOR"))


def verdict_name(protocol: Protocol, label: int | None, why: str = "") -> str:
    """A label's name, or why there is none."""
    if label is not None:
        return protocol.label_names[label]
    if why == Why.INFORMATION:
        return _("more information needed")
    return _("undecided: %(why)s") % {"why": Why(why).label} if why else _("undecided")


def stood(protocol: Protocol, prediction: Prediction) -> str:
    """What the model leaned to, and how well that fitted. Only ever asked for after the verdict."""
    return _("Had it stood, it would have read «%(label)s» at credibility %(figure)s.") % {
        "label": protocol.label_names[prediction.label],
        "figure": figure(prediction.credibility),
    }


def checked(protocol: Protocol, prediction: Prediction) -> str:
    """The same of a case that was settled automatically and drawn to be read all the same."""
    return _("Settled automatically as «%(label)s» at credibility %(figure)s, and read as a check.") % {
        "label": protocol.label_names[prediction.label],
        "figure": figure(prediction.credibility),
    }
