"""What automation misses, label by label, as the random audit sample shows it, against α. Workers only: scipy.

Looked at are the predictions that stand and came within the last WEEKS, as today's dial divides them. A case's lot is drawn
independently of what it is, so all cases with a lot below any rate are a random sample at that rate; the rate taken is the
highest audit rate since the case came if everything it drew has been read, else today's. Reads of other cases (of a former
dial, or on hold) are left out: they were chosen. Drawn cases without a label wait, whether or not a reader has had them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

from django.contrib.postgres.fields import ArrayField
from django.db.models import (
    BooleanField,
    Count,
    DateTimeField,
    ExpressionWrapper,
    F,
    FloatField,
    Func,
    IntegerField,
    OuterRef,
    Q,
    Subquery,
    Value,
    When,
)
from django.db.models import Case as When_

from mlcore import two_sample
from mlcore.errors import DataError
from mlcore.missed_rate import ABOVE, Stratum, missed_rate, missed_share
from reviews.models import Label
from triage import policy
from triage.models import Policy, Protocol, Site

WEEKS = 26
CONFIDENCE = 0.95  # of the intervals that are shown
RATE = 0.01  # of quiet years in which any label raises an alarm


class Cell(NamedTuple):
    """``n`` cases that came in one period between turns of the dial, and share everything else, too.

    truth: the label read, None without one. drawn: below the highest audit rate since they came; now: below today's.
    rate: at which the sample of the period is taken (``settled``).
    """

    period: int
    deferred: bool
    label: int
    truth: int | None
    drawn: bool
    now: bool
    n: int
    rate: float = 0.0


def look(
    site: Site, protocol: Protocol, dial: Policy, now: datetime, judge: bool
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The facts of every label, and those of the target labels missed too often for an alarm; none of these unless ``judge``.

    Judged once a week, each of a year's looks at each label at its part of RATE: an interval of 95 % looked at every week
    would find something sooner or later.
    """
    facts = {"alpha": dial.alpha, "version": dial.version, "audit_rate": dial.audit_rate, "weeks": WEEKS}
    cells, rates = counted(site, protocol, dial, now)
    cells = settled(cells, rates, dial.audit_rate)
    strict = 1 - RATE / (two_sample.WEEKS * 2 * len(protocol.targets))
    try:
        rows = [_label(cells, i, dial.alpha, CONFIDENCE) for i in range(len(protocol.labels))]
        sure = [_label(cells, i, dial.alpha, strict) for i in range(len(protocol.labels))]
    except DataError as refused:
        return facts | {"labels": [], "refused": [refused.message, refused.figures]}, {}
    named = [{"label": label} | row for label, row in zip(protocol.labels, rows, strict=True)]
    above = {
        row["label"]: facts | row
        for row, found in zip(named, sure, strict=True)
        if judge and row["label"] in protocol.targets and _above(found)
    }
    return facts | {"labels": named, "refused": None}, above


def _above(row: dict[str, Any]) -> bool:
    return ABOVE in (row["verdict"], row["of_class"] and row["of_class"]["verdict"])


def counted(site: Site, protocol: Protocol, dial: Policy, now: datetime) -> tuple[list[Cell], list[float]]:
    """The cells, and for each period the highest audit rate from it on."""
    turns = _in_force(site, protocol, dial)
    highest = list(accumulate((rate for _, rate in reversed(turns)), max))[::-1]
    starts = [at for at, _ in turns[1:]]
    period = Func(
        F("at"),
        Value(starts, ArrayField(DateTimeField())),
        function="width_bucket",
        output_field=IntegerField(),
    )
    rate = When_(
        *(When(period=i, then=Value(one)) for i, one in enumerate(highest)), output_field=FloatField()
    )
    read = Label.objects.filter(
        case=OuterRef("case"), notes_sha256=OuterRef("notes_sha256"), withdrawn_at=None
    )
    rows = (
        policy.standing(site, protocol)
        .filter(at__gte=now - timedelta(weeks=WEEKS))
        .annotate(
            period=period if starts else Value(0),
            set_aside=_whether(policy.deferred(dial.alpha, dial.typicality_floor)),
            truth=When_(
                When(labelled=True, then=Subquery(read.values("label")[:1])), output_field=IntegerField()
            ),
            drawn=_whether(Q(lot__lt=rate)),
            now=_whether(Q(lot__lt=dial.audit_rate)),
        )
    )
    names = ("period", "set_aside", "label", "truth", "drawn", "now")
    return [Cell(*row) for row in rows.values_list(*names).annotate(n=Count("pk")).order_by()], highest


def _in_force(site: Site, protocol: Protocol, dial: Policy) -> list[tuple[datetime, float]]:
    """(start, audit rate) of every version that ever was in force, the first first: none that a later one started before."""
    turns = Policy.objects.filter(site=site, protocol=protocol, version__lte=dial.version)
    found: list[tuple[datetime, float]] = []
    for at, rate in turns.order_by("-version").values_list("starts_at", "audit_rate"):
        if not found or at < found[-1][0]:
            found.append((at, rate))
    return found[::-1]


def _whether(condition: Q) -> ExpressionWrapper:
    return ExpressionWrapper(condition, output_field=BooleanField())


def settled(cells: Sequence[Cell], highest: Sequence[float], today: float) -> list[Cell]:
    """The cells with ``rate``, at which their period's sample is taken, and ``drawn`` at it.

    It is the highest, unless an automatic case that it drew waits and is not asked for any more.
    """
    unread = {c.period for c in cells if not c.deferred and c.truth is None and c.drawn and not c.now}
    return [
        cell._replace(rate=today, drawn=cell.now)
        if cell.period in unread
        else cell._replace(rate=highest[cell.period])
        for cell in cells
    ]


def _label(cells: Sequence[Cell], label: int, alpha: float, confidence: float) -> dict[str, Any]:
    """Of automatic cases given another label, the share that truly is of this one; and of its true cases, the share so lost.

    The second is what α bounds. It is taken over the periods with an audit alone.
    """
    rows = strata(cells, label)
    found = missed_rate(rows, alpha, confidence)
    return asdict(found) | {
        "rate": _number(found.rate),
        "of_class": _of_class(cells, label, alpha, confidence),
    }


def _of_class(cells: Sequence[Cell], label: int, alpha: float, confidence: float) -> dict[str, Any] | None:
    audited = [cell for cell in cells if cell.rate]
    if not audited:
        return None
    aside = [cell for cell in audited if cell.deferred]
    found = missed_share(
        strata(audited, label),
        strata(audited, label, kept=True),
        sum(cell.n for cell in aside if cell.truth == label),
        sum(cell.n for cell in aside if cell.truth is None),
        alpha,
        confidence,
    )
    told = {name: _number(getattr(found, name)) for name in ("cases", "share", "low", "high")}
    return asdict(found) | told


def strata(cells: Sequence[Cell], label: int, kept: bool = False) -> tuple[Stratum, ...]:
    """As ``mlcore.missed_rate.strata``, from counts."""
    chosen = [cell for cell in cells if not cell.deferred and (cell.label == label) == kept]
    rows = []
    for rate in sorted({cell.rate for cell in chosen}):
        here = [cell for cell in chosen if cell.rate == rate]
        read = [cell for cell in here if cell.drawn and cell.truth is not None]
        missed = sum(cell.n for cell in read if (cell.truth != label) == kept)
        waiting = sum(cell.n for cell in here if cell.drawn and cell.truth is None)
        rows.append(
            Stratum(rate, sum(cell.n for cell in here), sum(cell.n for cell in read), missed, waiting)
        )
    return tuple(rows)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
