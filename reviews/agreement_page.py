"""What the agreement page says: each figure with its n and interval, or that there are too few cases for one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
from django.contrib.auth import get_user_model
from django.forms import Form
from django.utils import formats
from django.utils.translation import gettext as _

from mlcore import agreement as measures
from mlcore.metrics import Interval
from reviews import agreement
from reviews.adjudication import name_of
from reviews.explained import decimals
from reviews.models import Adjudication
from triage.access import Workplace
from triage.models import Protocol

FEW = agreement.FEW


def said(found: Interval, digits: int = 2, percent: bool = False) -> dict[str, Any]:
    """A figure as the pages write it. few: too few cases to tell; none: it cannot be computed from these."""
    scale = 100 if percent else 1
    unit = "\u00a0%" if percent else ""

    def written(value: float) -> str:
        return decimals(scale * value, 0 if percent else digits).replace("-", "−")

    none = not math.isfinite(found.value)
    return {
        "n": found.n,
        "few": found.n < FEW,
        "none": none,
        "value": "" if none else written(found.value) + unit,
        "interval": "" if not math.isfinite(found.low) else _range(written(found.low), written(found.high)),
    }


def _range(low: str, high: str) -> str:
    joined = "–" if "−" not in low + high else " … "
    return f"{low}{joined}{high}"


def refused(place: Workplace, form: Form) -> dict[str, Any]:
    """The agreement page without figures, for a period that could not be read."""
    return {"place": place, "form": form, "n": None}


def page(place: Workplace, form: Form) -> dict[str, Any]:
    """Everything about how far readers agree, in the period of a valid PeriodForm."""
    since, until = form.cleaned_data["since"], form.cleaned_data["until"]
    k = len(place.protocol.labels)
    grouped = agreement.groups(agreement.readings(place, until))
    pairs, given_anew = agreement.pairs(grouped, since)
    labelled = [pair for pair in pairs if pair.labelled]
    counts = agreement.counts(grouped, k, since)
    months = agreement.by_month(pairs, k)
    spans, one_marked = agreement.spans(pairs)
    return {
        "place": place,
        "form": form,
        "n": len(pairs),
        "undecided": len(pairs) - len(labelled),
        "given_anew": given_anew,
        "overall": _overall(labelled, counts, k),
        "spans": [
            (_("Same passage, both ends"), said(spans["exact"])),
            (_("Characters marked"), said(spans["overlap"])),
        ],
        "one_marked": one_marked,
        "confusion": _confusion(place.protocol, pairs, k),
        "matrix": _matrix(agreement.by_readers(pairs, k)),
        "months": [{"month": month, "kappa": said(found)} for month, found in months],
        "drift": _drift(months),
        "bias": _bias(agreement.bias(grouped, since)),
        "causes": _causes(agreement.causes(place, since, until)),
    }


def _overall(
    labelled: Sequence[agreement.Pair], counts: Any, k: int
) -> list[tuple[str, str, dict[str, Any]]]:
    same = sum(pair.first.label == pair.second.label for pair in labelled)
    both = measures.fleiss(_twice(labelled, k))
    return [
        (
            _("Same label"),
            _("share of the pairs"),
            said(measures.share(same, len(labelled)), percent=True),
        ),
        (_("Cohen's κ"), _("first reading against second"), said(agreement.kappa(labelled, k))),
        (_("Fleiss' κ"), _("whoever read; chance is how often each label is given"), said(both)),
        (
            _("Krippendorff's α"),
            _("any number of readings a case, labels without order"),
            said(measures.krippendorff(counts)),
        ),
        *(_ordered(labelled, counts, k) if k > 2 else []),
    ]


def _ordered(
    labelled: Sequence[agreement.Pair], counts: Any, k: int
) -> list[tuple[str, str, dict[str, Any]]]:
    """With more than two labels, from the least severe to the gravest, how far apart two readings are counts too."""
    given = [[pair[side].label for pair in labelled] for side in (0, 1)]
    return [
        (
            _("Cohen's κ, linear weights"),
            _("labels in the protocol's order: two steps apart counts twice one step"),
            said(measures.cohen_by_steps(*given, k)),
        ),
        (
            _("Krippendorff's α, ordinal"),
            _("any number of readings a case, labels in the protocol's order"),
            said(measures.krippendorff_ordinal(counts)),
        ),
    ]


def _twice(labelled: Sequence[agreement.Pair], k: int) -> np.ndarray:
    """(n, k) both readings of each pair, by label."""
    rows = [[sum(row.label == label for row in pair) for label in range(k)] for pair in labelled]
    return np.array(rows).reshape(-1, k)


def _confusion(protocol: Protocol, pairs: Sequence[agreement.Pair], k: int) -> dict[str, Any]:
    names = [*protocol.label_names, _("undecided")]
    table = agreement.confusion(pairs, k).tolist()
    rows = [
        {"name": name, "cells": [{"n": n, "same": i == j} for j, n in enumerate(row)]}
        for i, (name, row) in enumerate(zip(names, table, strict=True))
    ]
    return {"names": names, "rows": rows}


def _matrix(found: dict[frozenset[int], Interval]) -> dict[str, Any]:
    """Readers by readers; None where two never read the same case."""
    people = get_user_model().objects.in_bulk({pk for two in found for pk in two})
    ordered = sorted(people.values(), key=lambda person: name_of(person).casefold())
    rows = []
    for row in ordered:
        cells = [found.get(frozenset((row.pk, other.pk))) if row != other else None for other in ordered]
        shown = [
            {"self": row == other, "kappa": said(cell) if cell else None}
            for other, cell in zip(ordered, cells, strict=True)
        ]
        rows.append({"name": name_of(row), "cells": shown})
    return {"names": [name_of(person) for person in ordered], "rows": rows}


def _drift(months: Sequence[tuple[date, Interval]]) -> dict[str, list[Any]] | None:
    """The months that can be drawn: enough pairs, and a kappa."""
    drawn = [(month, found) for month, found in months if found.n >= FEW and math.isfinite(found.value)]
    if len(drawn) < 2:
        return None
    short = formats.get_format("DATE_FORMAT").removeprefix("j ")
    return {
        "months": [month.isoformat() for month, _found in drawn],
        "names": [formats.date_format(month, short) for month, _found in drawn],
        "value": [round(found.value, 4) for _month, found in drawn],
        "low": [round(found.low, 4) for _month, found in drawn],
        "high": [round(found.high, 4) for _month, found in drawn],
        "n": [found.n for _month, found in drawn],
    }


def _bias(found: agreement.Bias) -> dict[str, Any]:
    names = ("assisted", "blind", "difference", "before", "after", "change")
    shown = {name: said(getattr(found, name), percent=True) for name in names}
    enough = not (shown["assisted"]["few"] or shown["blind"]["few"])
    anew = found.towards + found.away + found.neither
    return shown | {
        "enough": enough,
        "verdict": _leans(found.difference) if enough else "",
        "enough_chains": not shown["before"]["few"],
        "anew": anew,
        "towards": found.towards,
        "away": found.away,
        "neither": found.neither,
    }


def _leans(difference: Interval) -> str:
    if difference.low > 0:
        return _("Readers who see the model's view give its label more often than readers who do not.")
    if difference.high < 0:
        return _("Readers who see the model's view give its label less often than readers who do not.")
    return _(
        "The interval of the difference holds zero: at this number of cases no pull towards the model is shown."
    )


def _causes(found: dict[str, int]) -> list[tuple[str, int]]:
    named = [(str(name), found.get(cause, 0)) for cause, name in Adjudication.Cause.choices]
    return [(name, n) for name, n in named if n]
