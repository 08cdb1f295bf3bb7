"""What readers have done, what waits and since when, and the hours it will take at today's dial. Counted in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from django.core.cache import cache
from django.db.models import (
    Aggregate,
    Count,
    Exists,
    FloatField,
    Max,
    Min,
    OuterRef,
    Q,
    QuerySet,
    Value,
    When,
)
from django.db.models import Case as When_
from django.utils import timezone
from scipy.stats import binom

from reviews.models import Adjudication, Review, Why
from triage import dial as dialling
from triage import policy as dial
from triage import sampling
from triage.access import Workplace
from triage.models import Case, Policy, Prediction, Protocol, Site

PERIODS = (1, 7, 30)
TIMED_LEAST = 10
SECOND, BLIND = "second", "blind"


class Median(Aggregate):
    """The middle of the values, as PostgreSQL interpolates it."""

    name = "Median"
    template = "percentile_cont(0.5) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()


class Done(NamedTuple):
    """Standing verdicts of a period. median: seconds of the ``timed`` ones, None without any; last: the latest."""

    verdicts: int = 0
    undecided: int = 0
    adjudicated: int = 0
    median: float | None = None
    timed: int = 0
    last: datetime | None = None


class Waiting(NamedTuple):
    """Cases that wait, and since when the oldest of them does."""

    cases: int = 0
    oldest: datetime | None = None


class Forecast(NamedTuple):
    """Hours of reading at the median verdict. None where too little is known.

    queue: to read what waits now. week: for what arrives in a week at today's dial; ``arriving`` cases, ``read`` of them.
    """

    seconds: float | None
    timed: int
    readings: float
    queue: float | None
    week: float | None
    read: float | None
    arriving: dialling.Arrivals


def since(days: int) -> datetime:
    """Midnight ``days`` - 1 days ago: 1 is today."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=days - 1)


def _verdicts(place: Workplace, days: int) -> QuerySet[Review]:
    standing = Review.objects.filter(case__site=place.site, case__protocol=place.protocol, withdrawn_at=None)
    return standing.filter(at__gte=since(days))


def _measures() -> dict[str, Aggregate]:
    reading, timed = ~Q(mode=Review.Mode.ADJUDICATION), Q(seconds__gt=0)
    return {
        "verdicts": Count("pk", filter=reading),
        "undecided": Count("pk", filter=reading & Q(label=None)),
        "adjudicated": Count("pk", filter=~reading),
        "median": Median("seconds", filter=reading & timed),
        "timed": Count("pk", filter=reading & timed),
        "last": Max("at"),
    }


def by_reader(place: Workplace, days: int) -> dict[int, Done]:
    """Each person's verdicts of the last ``days`` days, today included."""
    rows = _verdicts(place, days).values("reader").annotate(**_measures()).order_by()
    return {row.pop("reader"): Done(**row) for row in rows}


def total(place: Workplace, days: int) -> Done:
    return Done(**_verdicts(place, days).aggregate(**_measures()))


def of_reader(place: Workplace, user: Any, days: int) -> Done:
    return Done(**_verdicts(place, days).filter(reader=user).aggregate(**_measures()))


PACE_DAYS, PACE_SECONDS, PACE_TAIL = 30, 600, 0.0125


def pace(site: Site, protocol: Protocol) -> dialling.Pace | None:
    """The median reading of the last month at a site, None where fewer than TIMED_LEAST were timed; asked for every ten
    minutes."""
    return cache.get_or_set(f"pace:{site.pk}:{protocol.pk}", lambda: _pace(site, protocol), PACE_SECONDS)


def _pace(site: Site, protocol: Protocol) -> dialling.Pace | None:
    """The interval goes from the k-th reading to the k-th last: fewer than k lie below the median with a chance of PACE_TAIL
    at most, whatever the distribution."""
    standing = Review.objects.filter(
        case__site=site, case__protocol=protocol, withdrawn_at=None, seconds__gt=0
    )
    timed = standing.exclude(mode=Review.Mode.ADJUDICATION).filter(at__gte=since(PACE_DAYS))
    seconds = np.sort(np.fromiter(timed.values_list("seconds", flat=True), dtype=float))
    if len(seconds) < TIMED_LEAST:
        return None
    k = int(binom.ppf(PACE_TAIL, len(seconds), 0.5))
    return dialling.Pace(float(np.median(seconds)), float(seconds[k - 1]), float(seconds[-k]), len(seconds))


def _same() -> dict[str, OuterRef]:
    return {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256")}


def queue(place: Workplace, policy: Policy) -> QuerySet[Prediction]:
    """What waits for a reader, whoever it is: asked for by the policy, without a label, not set aside."""
    aside = (
        Adjudication.objects.filter(**_same(), closed_at=None),
        Review.objects.filter(**_same(), withdrawn_at=None, why=Why.INFORMATION),
    )
    waiting = dial.standing(place.site, place.protocol).filter(labelled=False)
    return waiting.filter(sampling.to_read(policy), *(~Exists(rows) for rows in aside))


def waiting(place: Workplace, policy: Policy) -> dict[str, Waiting]:
    """What waits, by why: the reason of deferral, «blind» for the sample, «second» for a second reader."""
    read = Exists(Review.objects.filter(**_same(), withdrawn_at=None))
    why = When_(
        When(read, then=Value(SECOND)),
        When(sampling.drawn(policy), then=Value(BLIND)),
        default=dial.outcome_under(policy),
    )
    rows = queue(place, policy).annotate(waits=why).values("waits").order_by()
    found = rows.annotate(cases=Count("pk"), oldest=Min("at"))
    return {row["waits"]: Waiting(row["cases"], row["oldest"]) for row in found}


def elsewhere(place: Workplace) -> dict[str, Waiting]:
    """What waits for a lead, for more information, and to be scored."""
    here = {"case__site": place.site, "case__protocol": place.protocol}
    current = Exists(Prediction.objects.filter(**_same(), current=True))
    lead = Adjudication.objects.filter(**here, closed_at=None)
    asked = Review.objects.filter(current, **here, withdrawn_at=None, why=Why.INFORMATION)
    unscored = Case.objects.filter(
        site=place.site, protocol=place.protocol, status__in=["pending", "claimed"]
    )
    return {
        "lead": Waiting(**lead.aggregate(cases=Count("pk"), oldest=Min("opened_at"))),
        "information": Waiting(**asked.aggregate(cases=Count("case", distinct=True), oldest=Min("at"))),
        "unscored": Waiting(**unscored.aggregate(cases=Count("pk"), oldest=Min("pending_since"))),
    }


def together(rows: Sequence[Waiting]) -> Waiting:
    dates = [row.oldest for row in rows if row.oldest]
    return Waiting(sum(row.cases for row in rows), min(dates, default=None))


def forecast(place: Workplace, policy: Policy, waits: dict[str, Waiting], done: Done) -> Forecast:
    """``waits`` as from ``waiting``; ``done``: the verdicts whose median is taken, of whoever reads here.

    Of cases not yet read, the share drawn for two readers is read twice.
    """
    twice = 1 + place.protocol.double_share
    readings = sum(row.cases * (1 if why == SECOND else twice) for why, row in waits.items())
    arriving = dialling.arrivals(place.site, place.protocol, policy)
    hours = done.median / 3600 if done.median and done.timed >= TIMED_LEAST else None
    read = twice * arriving.read / arriving.weeks if arriving.enough else None
    return Forecast(
        seconds=done.median,
        timed=done.timed,
        readings=readings,
        queue=None if hours is None else readings * hours,
        week=None if hours is None or read is None else read * hours,
        read=read,
        arriving=arriving,
    )
