"""The words of whole groups of cases against those of calibration (paper, Figures 2 and C1): what that page says."""

from __future__ import annotations

from datetime import date
from typing import Any

from django.forms import Form
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from mlcore import cohort
from reviews import selectors
from reviews.explained import decimals, signed
from reviews.pages import towards
from triage import cohorts
from triage.access import Workplace

SHOWN = 20
LEAST = cohort.LEAST_CASES
MIXED = 0.2
SIGNS = {"right": "automatic", "wrong": "automatic"}
NAMES = {
    "right": gettext_lazy("Automatic, right"),
    "wrong": gettext_lazy("Automatic, wrong"),
    "ambiguous": gettext_lazy("Ambiguous"),
    "novel": gettext_lazy("Without precedent"),
    "atypical": gettext_lazy("Atypical"),
}


def page(place: Workplace, form: Form) -> dict[str, Any]:
    """The chosen group's words, its n, and the n of the others in the same period.

    A word of fewer cases than LEAST might name one of them, so it is counted and not shown, as in the calibration words.
    """
    chosen, labels = form.cleaned_data, selectors.labels(place)
    found = cohorts.words(place.site, place.protocol, labels=labels, **chosen)
    kept = cohort.kept(found.rows, LEAST)
    rows = [_row(row) for row in kept[:SHOWN]]
    return _around(place, form, labels) | {
        "found": found,
        "missing": found.members - found.explained,
        "more": max(len(kept) - SHOWN, 0),
        "rare": len(found.rows) - len(kept),
        "least": LEAST,
        "rows": rows,
        "name": NAMES[chosen["cohort"]],
        "figure": {
            "words": [row["word"] for row in rows],
            "scores": [row["value"] for row in rows],
            "baseline": [row["usual"] for row in rows] if found.baseline is not None else None,
            "signs": [row["sign"] for row in rows],
        },
    }


def refused(place: Workplace, form: Form) -> dict[str, Any]:
    """The page without figures, for a choice that could not be read."""
    return {"place": place, "form": form, "found": None, "groups": [], "towards": towards(place.protocol)}


def _around(place: Workplace, form: Form, labels: dict[int, int]) -> dict[str, Any]:
    period = {name: form.cleaned_data[name] for name in ("since", "until")}
    return {
        "place": place,
        "form": form,
        "towards": towards(place.protocol),
        "groups": [
            {
                "cohort": name,
                "name": NAMES[name],
                "sign": SIGNS.get(name, name),
                "n": cohorts.members(place.site, place.protocol, name, labels, **period).count(),
                "query": _query(cohort=name, **period),
                "current": name == form.cleaned_data["cohort"],
            }
            for name in cohorts.COHORTS
        ],
    }


def _query(**chosen: str | date | None) -> str:
    return urlencode({name: str(value) for name, value in chosen.items() if value})


def _row(row: Any) -> dict[str, Any]:
    return {
        "word": row.word,
        "value": row.score,
        "usual": row.baseline,
        "score": decimals(row.score, 3),
        "baseline": decimals(row.baseline, 3),
        "sign": _sign(row.direction),
        "margin": signed(row.margin),
        "distance": signed(row.distance),
        "cases": row.cases,
    }


def _sign(direction: float) -> str:
    """Which way a word pulls in most of its cases; «mixed» where the cases disagree."""
    if abs(direction) < MIXED:
        return "mixed"
    return "toward" if direction > 0 else "away"


def ask(place: Workplace, **chosen: Any) -> int:
    """Have the explanations worked out that cases of the group do not have yet; how many."""
    return cohorts.ask(place.site, place.protocol, labels=selectors.labels(place), **chosen)


def asked(n: int) -> str:
    if not n:
        return _("Every case of this group has its words, or they were asked for already.")
    return ngettext(
        "The words of %(n)d case are being worked out. Load the page again to see them counted.",
        "The words of %(n)d cases are being worked out. Load the page again to see them counted.",
        n,
    ) % {"n": n}
