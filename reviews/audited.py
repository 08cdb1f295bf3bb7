"""The random audit sample of a workplace: the cases drawn by their lot alone, and what readers made of them.

A case was drawn if its lot lies below every audit rate in force from its arrival to its first reading, or to now where
nobody has read it: whatever the dial was turned to meanwhile and whatever the model said of it, the chance of that is the
lowest of those rates, for automatic and deferred cases alike (not ``Label.propensity``, which is 1 for a deferred one).
Before anybody read here, a turn could not send one kind of case to readers before another: those policies do not count.
A hold raises no rate: while it lasts the drawn are read in another order than the rest, so that when it ends who was read
hangs on the lot. But a week that lay within a hold whole, and whose every case has a label, is a census: each counts at 1.

Cases that are read sooner are not like those that wait, so one week counts only when every case drawn of those that arrived
in it has a label. A case is its notes as they are now; drawn over earlier notes, it is another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import accumulate, groupby
from typing import Any

from django.db.models import Min, OuterRef, QuerySet, Subquery
from django.utils import timezone

from reviews.models import Label, Review
from triage import policy
from triage.models import Policy, Prediction, Protocol, Site

LATELY = timedelta(weeks=4)
WEEK = timedelta(weeks=1)
TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Drawn:
    """A case of the sample. rate: its chance to be drawn. label: None without a standing one; read: when first, if it was."""

    prediction: int
    case: int
    note_ids: list[int]
    rate: float
    arrived: date
    label: int | None
    read: datetime | None

    @property
    def week(self) -> date:
        """Its Monday."""
        return self.arrived - timedelta(days=self.arrived.weekday())


@dataclass(frozen=True)
class Sample:
    """closed: cases of the weeks that count, in order of arrival. open: the others. lately: how many of the sample were
    first read in the last ``weeks``."""

    closed: list[Drawn]
    open: list[Drawn]
    lately: int
    weeks: float

    @property
    def unread(self) -> int:
        return sum(case.read is None for case in self.open)

    @property
    def unsettled(self) -> int:
        """Read, and still without a label: at a lead, or resting until more is known."""
        return sum(case.read is not None and case.label is None for case in self.open)

    @property
    def labelled_in_open(self) -> int:
        return sum(case.label is not None for case in self.open)

    @property
    def open_weeks(self) -> int:
        return len({case.week for case in self.open})

    @property
    def a_week(self) -> float | None:
        """Audit reads a week of late; None where it cannot be told: none was read, or the sample is younger than a week."""
        return self.lately / self.weeks if self.lately and self.weeks >= 1 else None


def sample(site: Site, protocol: Protocol, since: date | None = None) -> Sample:
    """The audit sample of the cases that stand; since: of those alone that arrived on that day or later."""
    dials = _Dials(site, protocol)
    drawn = [case for case in _drawn(site, protocol, dials) if since is None or case.arrived >= since]
    counted = _census(site, protocol, dials)
    drawn = [case for case in drawn if case.week not in counted]
    drawn += [case for week in counted.values() for case in week if since is None or case.arrived >= since]
    drawn.sort(key=lambda case: (case.arrived, case.case))
    waits = {case.week for case in drawn if case.label is None}
    now = timezone.now()
    begun = max(dials.drawing_since or now, now - LATELY)
    return Sample(
        closed=[case for case in drawn if case.week not in waits],
        open=[case for case in drawn if case.week in waits],
        lately=sum(case.read is not None and case.read >= begun for case in drawn),
        weeks=(now - begun) / WEEK,
    )


class _Dials:
    """The audit rates of a workplace over time."""

    def __init__(self, site: Site, protocol: Protocol) -> None:
        here = Policy.objects.filter(site=site, protocol=protocol).order_by("version")
        rows = list(here.values_list("starts_at", "audit_rate", "version", "automate"))
        # A version written after another that had yet to start replaced it: it began no later.
        starts = list(accumulate((start for start, *_ in reversed(rows)), min))[::-1]
        first = Review.objects.filter(case__site=site, case__protocol=protocol).aggregate(at=Min("at"))["at"]
        self.starts, self.first = starts, first or timezone.now()
        self.rates, self.versions = [row[1] for row in rows], [row[2] for row in rows]
        self.held = [not row[3] for row in rows]
        self.most = max(self.rates, default=0.0)
        drawing = [start for start, rate in zip(starts, self.rates, strict=True) if rate]
        self.drawing_since = min(drawing, default=None)

    def holds(self) -> Iterator[tuple[date, date]]:
        """(first, last) Monday of the whole weeks of each hold."""
        ends = [*self.starts[1:], timezone.now()]
        for held, spans in groupby(zip(self.held, self.starts, ends, strict=True), key=lambda span: span[0]):
            times = [moment for _, *span in spans for moment in span]
            first, last = (timezone.localdate(moment - TICK) for moment in (times[0], times[-1] + TICK))
            first += timedelta(days=7 - first.weekday())
            last -= timedelta(days=7 + last.weekday())
            if held and first <= last:
                yield first, last

    def rate(self, arrived: datetime, version: int | None) -> float:
        """The lowest rate from the arrival of a case to the policy (its version) of its first reading, or to now."""
        begin = bisect_right(self.starts, max(arrived, self.first))
        read = bisect_right(self.versions, version) if version else bisect_right(self.starts, timezone.now())
        return min(self.rates[max(min(begin, read) - 1, 0) : max(begin, read, 1)])


def _census(site: Site, protocol: Protocol, dials: _Dials) -> dict[date, list[Drawn]]:
    """Of the weeks that lay within a hold whole, those whose every case has a label: Monday → its cases."""
    weeks: dict[date, list[Drawn]] = defaultdict(list)
    for first, last in dials.holds():
        begin, end = (timezone.make_aware(datetime.combine(day, time())) for day in (first, last + WEEK))
        rows = _rows(site, protocol).filter(at__gte=begin, arrived__gte=begin, arrived__lt=end)
        for pk, case, notes, _lot, arrived, _version, read, given in rows.iterator():
            found = Drawn(pk, case, notes, 1.0, timezone.localdate(arrived), given, read)
            weeks[found.week].append(found)
    return {week: cases for week, cases in weeks.items() if all(case.label is not None for case in cases)}


def _drawn(site: Site, protocol: Protocol, dials: _Dials) -> Iterator[Drawn]:
    for pk, case, notes, lot, arrived, version, read, given in (
        _rows(site, protocol).filter(lot__lt=dials.most).iterator()
    ):
        rate = dials.rate(arrived, version)
        if lot < rate:
            yield Drawn(pk, case, notes, rate, timezone.localdate(arrived), given, read)


def _rows(site: Site, protocol: Protocol) -> QuerySet[Prediction, Any]:
    """Of each case that stands (prediction, case, notes, lot, arrival, version and time of its first reading, label)."""
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256")}
    readings = Review.objects.filter(**same, withdrawn_at=None).order_by("at", "pk")
    label = Label.objects.filter(**same, withdrawn_at=None).values("label")
    came = Prediction.objects.filter(**same).order_by().values("case").annotate(at=Min("at")).values("at")
    return (
        policy.standing(site, protocol)
        .annotate(
            arrived=Subquery(came),
            version=Subquery(readings.values("policy__version")[:1]),
            read=Subquery(readings.values("at")[:1]),
            given=Subquery(label),
        )
        .order_by("arrived", "case")
        .values_list("pk", "case", "note_ids", "lot", "arrived", "version", "read", "given")
    )


def weeks_of(cases: Sequence[Drawn]) -> list[str]:
    """First and last Monday, ISO; nothing where there is no case."""
    return [cases[0].week.isoformat(), cases[-1].week.isoformat()] if cases else []
