"""What the dial's instruments say: a certificate in words, the price of errors, which cases change hands."""

from __future__ import annotations

import math
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from mlcore import metrics
from mlcore.certify import Row, Side
from reviews import instrument
from reviews.explained import decimals
from reviews.instrument import Audit, Calibrated, Certified, Chosen
from reviews.instrument_forms import CertifyForm, MatrixForm, TriedForm
from reviews.listing import REASONS
from reviews.wording import setting
from triage import policy as dial
from triage.access import Workplace
from triage.models import Policy

PRESETS = {
    "Zero-Cost Deferral (Maximum Caution)": gettext_lazy("Reading costs nothing (greatest caution)"),
    "Extreme Epidemiological (Resource-Rich)": gettext_lazy("Epidemiological extreme (ample means)"),
    "Default Baseline (Preventative Medicine)": gettext_lazy("Preventive medicine (the paper's default)"),
    "Symmetric Control (Classification Baseline)": gettext_lazy("Symmetric control (plain classification)"),
    "High Admin Burden (Resource-Constrained)": gettext_lazy("Heavy administrative burden (scarce means)"),
}
PROTOCOL, OWN = "protocol", "own"
OUTCOMES = {
    **REASONS,
    dial.AUTOMATIC: gettext_lazy("Automatic"),
    dial.HELD: gettext_lazy("Automatic but for the hold"),
}


def page(place: Workplace, asked: CertifyForm, matrix: MatrixForm) -> dict[str, Any]:
    """The certificates of a valid form, the prices, and the minutes of a read; of one that is not, without certificates."""
    today = dial.current(place.site, place.protocol)
    valid = asked.is_valid()
    rate = asked.cleaned_data["per_thousand"] / 1000 if valid else 0.0
    floor = asked.cleaned_data["floor"] if valid else today.typicality_floor
    own, known = instrument.audit(place), instrument.calibrated(place)
    side: Side = asked.cleaned_data["side"] if valid else "negative"
    found = instrument.certified(place, own, known, rate, floor, side) if valid else []
    return {
        "place": place,
        "policy": today,
        "form": asked,
        "floor": floor,
        "matrix": matrix,
        "cells": _cells(place, matrix),
        "certificates": [_certificate(place, one, own, known, rate, side) for one in found],
        "target": _target(place),
        "prices": _prices(place, own, known, today, floor, matrix),
    }


def _target(place: Workplace) -> str:
    names = dict(zip(place.protocol.labels, place.protocol.label_names, strict=True))
    return ", ".join(names[target] for target in place.protocol.targets)


def _certificate(
    place: Workplace, found: Certified, own: Audit, known: Calibrated | None, rate: float, side: Side
) -> dict[str, Any]:
    certificate = found.certificate
    best = next((r for r in certificate.rows if r.alpha == certificate.alpha), None) if certificate else None
    site = found.of == "site"
    return {
        "name": _("This site's audit sample") if site else _("Calibration cases of the release"),
        "basis": _of_audit(own) if site else _of_calibration(found.n, known),
        "alpha": best.alpha if best else None,
        "said": _promise(place, best, rate, side) if best else _not_yet(found, own),
        "reading": _read_at(best) if best else "",
        "rows": [_row(row) for row in certificate.rows] if certificate else [],
    }


def _promise(place: Workplace, best: Row, rate: float, side: Side) -> str:
    words = {"n": _thousandth(rate), "target": _target(place), "alpha": setting(best.alpha)}
    if side == "negative":
        sentence = _(
            "With 95 %% confidence at most %(n)s in 1,000 automatic cases not called «%(target)s» truly are: α = %(alpha)s."
        )
    else:
        sentence = _(
            "With 95 %% confidence at most %(n)s in 1,000 automatic cases called «%(target)s» are not: α = %(alpha)s."
        )
    return sentence % words


def _read_at(best: Row) -> str:
    return _(
        "At it %(share)s %% of these cases are automatic. On this side %(n)s are, %(wrong)s of them wrong: at most %(upper)s in 1,000."
    ) % {
        "share": decimals(100 * best.automatic, 0),
        "n": number_format(best.n, use_l10n=True, force_grouping=True),
        "wrong": best.wrong,
        "upper": _thousandth(best.upper),
    }


def _not_yet(found: Certified, own: Audit) -> str:
    """Why nothing is certified, and what would be needed."""
    if found.of == "calibration":
        near = found.certificate.nearest if found.certificate else None
        if near is None:
            return _("Not with these data: even the smallest α settles too many of them wrongly.")
        return ngettext(
            "Not with these data; %(n)s more such case at best, none of them wrong.",
            "Not with these data; %(n)s more such cases at best, none of them wrong.",
            near.reads_at_best or 0,
        ) % {"n": _whole(near.reads_at_best or 0)}
    if not own.rate:
        return _("Not with these data. Nothing is drawn at random: give the dial an audit rate first.")
    if found.reads is None:
        return _(
            "Not with these data: no case of this side is automatic at any α, or too many err at the smallest."
        )
    needed = ngettext(
        "Not with these data; %(n)s more audit read at best, were it right",
        "Not with these data; %(n)s more audit reads at best, were none of them wrong",
        found.reads,
    ) % {"n": _whole(found.reads)}
    if found.weeks is None:
        return needed + "."
    weeks = max(math.ceil(found.weeks), 1)
    return (
        needed
        + ": "
        + ngettext("about %(n)s week at today's rate.", "about %(n)s weeks at today's rate.", weeks)
        % {"n": _whole(weeks)}
    )


def _of_audit(own: Audit) -> str:
    n = len(own.cases.truth)
    told = [
        ngettext(
            "n = %(n)s labelled case of the sample, chosen by nothing but its lot.",
            "n = %(n)s labelled cases of the sample, chosen by nothing but their lot.",
            n,
        )
        % {"n": _whole(n)}
    ]
    if own.waiting:
        told.append(
            ngettext(
                "%(n)s more has no label yet; its week does not count until it has, nor do its %(open)s labelled ones.",
                "%(n)s more have no label yet; their weeks do not count until they have, nor do their %(open)s labelled ones.",
                own.waiting,
            )
            % {"n": _whole(own.waiting), "open": _whole(own.open)}
        )
    if stuck := len(own.stuck.truth):
        told.append(
            ngettext(
                "%(n)s of these was read without a label, or waits since a month: a certificate counts it as wrong.",
                "%(n)s of these were read without a label, or wait since a month: a certificate counts them as wrong.",
                stuck,
            )
            % {"n": _whole(stuck)}
        )
    if own.own:
        told.append(
            ngettext(
                "%(n)s is left out: it made the release or its calibration.",
                "%(n)s are left out: they made the release or its calibration.",
                own.own,
            )
            % {"n": _whole(own.own)}
        )
    return " ".join(told)


def _of_calibration(n: int, known: Calibrated | None) -> str:
    if known and known.from_labels:
        sentence = _(
            "n = %(n)s cases of the calibration made from labels, each ranked against the others. It holds here as far as this site's cases are like them."
        )
    else:
        sentence = _(
            "n = %(n)s cases held out of the training file. It holds here as far as this site's cases are like that file."
        )
    return sentence % {"n": _whole(n)}


def _row(row: Row) -> dict[str, Any]:
    return {
        "alpha": setting(row.alpha),
        "automatic": decimals(100 * row.automatic, 0),
        "n": row.n,
        "wrong": row.wrong,
        "upper": _thousandth(row.upper),
        "passed": row.passed,
        "failed": row.tested and not row.passed,
    }


def _thousandth(rate: float) -> str:
    """A rate as so many in 1,000."""
    each = 1000 * rate
    return decimals(each, 0 if each >= 9.95 or each == round(each) else 1)


def _whole(n: int) -> str:
    return number_format(n, use_l10n=True, force_grouping=True)


def _prices(
    place: Workplace, own: Audit, known: Calibrated | None, today: Policy, floor: float, matrix: MatrixForm
) -> dict[str, Any] | None:
    """On the site's own sample once it is large enough, else on the calibration cases."""
    enough = len(own.cases.truth) >= instrument.OWN_LEAST
    cases = own.cases if enough or known is None else known.cases
    if not len(cases.truth):
        return None
    prices, names = _offered(place, matrix)
    found, of_two = instrument.priced(cases, floor, today, prices), len(place.protocol.labels) == 2
    return {
        "site": cases is own.cases,
        "many": not of_two,
        "n": len(cases.truth),
        "least": instrument.OWN_LEAST,
        "floor": setting(floor),
        "rows": [_price(names[name], chosen, 3 if of_two else 4) for name, chosen in found.items()],
    }


def _offered(place: Workplace, matrix: MatrixForm) -> tuple[dict[str, metrics.Costs], dict[str, Any]]:
    """The presets where there are two labels, the protocol's own matrix if it is none of them, and the one typed."""
    protocol = place.protocol
    prices = dict(metrics.REALITIES) if len(protocol.labels) == 2 else {}
    names: dict[str, Any] = dict(PRESETS)
    mine = metrics.Costs(protocol.spec.cost_automatic, protocol.spec.cost_defer)
    if mine not in prices.values():
        prices[PROTOCOL], names[PROTOCOL] = mine, _("The protocol's own matrix")
    if matrix.is_bound and matrix.is_valid():
        prices[OWN], names[OWN] = matrix.costs(), _("The matrix typed below")
    return prices, names


def _price(name: Any, chosen: Chosen, digits: int) -> dict[str, Any]:
    return {
        "name": name,
        "alpha": chosen.alpha.value,
        "shown": setting(chosen.alpha.value),
        "range": f"{setting(round(chosen.alpha.low, 4))} – {setting(round(chosen.alpha.high, 4))}",
        "cost": decimals(chosen.cost.value, digits),
        "interval": f"{decimals(chosen.cost.low, digits)} – {decimals(chosen.cost.high, digits)}",
        "today": decimals(chosen.today, digits),
        "reading": decimals(chosen.reading_all, digits),
    }


def _cells(place: Workplace, matrix: MatrixForm) -> list[dict[str, Any]]:
    """The fields of the matrix, a row a true label: what settling costs by the label given, then what reading does."""
    names = place.protocol.label_names
    return [
        {
            "name": name,
            "fields": [matrix[f"settled_{i}_{j}"] for j in range(len(names))] + [matrix[f"read_{i}"]],
        }
        for i, name in enumerate(names)
    ]


def changes(place: Workplace, user: Any, tried: TriedForm) -> dict[str, Any]:
    """Which cases change hands under the dial of a valid form."""
    today, chosen = dial.current(place.site, place.protocol), tried.cleaned_data
    then = Policy(alpha=chosen["alpha"], typicality_floor=chosen["floor"], automate=chosen["automate"])
    found = instrument.changing_hands(place, user, today, then, chosen["after"])
    names = place.protocol.label_names
    return {
        "place": place,
        "policy": today,
        "then": then,
        "found": found,
        "n": found.to_automatic + found.to_reader,
        "after": chosen["after"],
        "rows": [
            {
                "case": row.case_id,
                "pseudonym": row.pseudonym,
                "label": names[row.label],
                "now": {"kind": row.now, "name": OUTCOMES[row.now]},
                "then": {"kind": row.then, "name": OUTCOMES[row.then]},
            }
            for row in found.rows
        ],
    }
