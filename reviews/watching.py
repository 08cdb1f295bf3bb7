"""Whether what arrives at a site is still what its release was calibrated for, recomputed from rows. Workers only: scipy.

Three martingales bet, case by case, against «nothing changes», on the label given (1 - its probability), its distance and
the length of the record. Each case counts once, by its first prediction of the release. Whole days only, and within a day
in the order of a hash: nights, wards and the order of a file are no change, a case waits at most a day. The streams begin
from nothing (``reference=()``), never from calibration cases: those of a bundle are of another mix, drawn class by class;
those of a site's own calibration are in its stream already. A site's own calibration begins them anew, with a new month of
reference; so does an alarm for its stream, for the changed stream is then what further change is told by.

A week that is over is compared with the first full weeks (four, or more until there are LEAST cases), one case a patient;
language is taken of at most TEXTS cases a week, those of the smallest lots.

A look reads the rows of its week and what former weeks keep in ``Watch.facts``: a day costs what a day brings. Facts are
figures, names of specialties, and never text.
"""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple

import numpy as np
from django.db import connection, transaction
from django.db.models import Exists, Max, OuterRef, Q, QuerySet
from django.utils import timezone
from numpy.typing import NDArray

from mlcore import martingale, two_sample
from mlcore.language import language_of
from reviews import alarms, missed
from reviews.models import Label
from triage import policy, registry
from triage.models import Alarm, Policy, Prediction, Protocol, Release, Site, Watch

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]

MEASURES = ("doubt", "distance", "length")  # the columns of Arrivals.values
RATE = 0.01  # of quiet sites that ever raise a first alarm, over all streams of a release
LEVEL = martingale.level(RATE, len(MEASURES))
WEEKS, LEAST, TEXTS, TEXT = 4, 100, 500, 1000
EVERY = timedelta(hours=1)
SETTLED = timedelta(minutes=10)  # after midnight, until no scoring begun before it is still under way
MARGIN = 10_000  # predictions that may be written between the numbering of a row and its commit
BEGINNING = date(1970, 1, 1)
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
ARRIVALS = """
    SELECT p.id, (p.at AT TIME ZONE %(zone)s)::date AS day, p.lot, c.patient_id, p.specialty,
           1 - p.probabilities[p.label + 1], p.distances[p.label + 1],
           (SELECT coalesce(sum(octet_length(n.text)), 0) / 1000.0 FROM triage_note n WHERE n.id = ANY(p.note_ids))
    FROM triage_prediction p JOIN triage_case c ON c.id = p.case_id
    WHERE p.site_id = %(site)s AND p.protocol_id = %(protocol)s AND p.release_id = %(release)s
      AND p.id > %(after)s AND p.at >= %(since)s AND p.at < %(until)s
      AND NOT EXISTS (SELECT FROM triage_prediction e
                      WHERE e.case_id = p.case_id AND e.release_id = p.release_id AND (e.at, e.id) < (p.at, p.id))
    ORDER BY day, p.notes_sha256 COLLATE "C", p.id
"""
TEXTS_OF = """
    SELECT left(n.text, %(most)s) FROM triage_prediction p
    JOIN triage_note n ON n.id = p.note_ids[cardinality(p.note_ids)] WHERE p.id = ANY(%(ids)s)
"""


class Arrivals(NamedTuple):
    """(n,) cases in order. days: datetime64[D]; values: (n, 3) in the order of MEASURES, length in kB."""

    ids: NDArray[np.int64]
    days: NDArray[np.datetime64]
    lots: Floats
    patients: NDArray[np.int64]
    specialties: NDArray[np.str_]
    values: NDArray[np.float32]

    def at(self, which: NDArray[Any]) -> Arrivals:
        return Arrivals(*(column[which] for column in self))


@dataclass
class Stream:
    """Where one martingale stands, and the number of the first case of its bag, counted from the segment's beginning."""

    bets: martingale.Bets = martingale.START
    start: int = 0


@dataclass
class Segment:
    """What is known of the cases since the streams began: values (n, 3) and their days, in order."""

    values: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, len(MEASURES)), np.float32))
    days: NDArray[np.datetime64] = field(default_factory=lambda: np.empty(0, "datetime64[D]"))
    streams: dict[str, Stream] = field(default_factory=lambda: {name: Stream() for name in MEASURES})
    reference: list[dict[str, Any]] = field(default_factory=list)

    def add(self, facts: Mapping[str, Any]) -> None:
        """A stored week."""
        self.values = np.concatenate([self.values, _unpacked(facts["values"]).reshape(-1, len(MEASURES))])
        days = [day for day, n in facts["days"] for _ in range(n)]
        self.days = np.concatenate([self.days, np.array(days, "datetime64[D]")])
        if facts["sample"]:
            self.reference.append(facts["sample"])


def look(site: Site, protocol: Protocol, today: date | None = None) -> list[Alarm]:
    """Take in what came until the end of the day before ``today``; the alarms that were not known before.

    Writes a Watch for each week it learns of, the last one with the missed cases as they stand now. Raises, tells and, where
    the policy says so, holds, in one transaction; a second look at the same place waits for the first.
    """
    with transaction.atomic():
        _lock(site, protocol, LOCK)
        return _look(site, protocol, today)


def look_where_due() -> int:
    """Look wherever something came since the last look; how many places were looked at. None is looked at twice."""
    return sum(map(_look_if_due, due()))


def due() -> QuerySet[Policy]:
    """First policies of the places to be looked at: a release, and within the hour no look since something came."""
    here = {"site": OuterRef("site"), "protocol": OuterRef("protocol")}
    last = Watch.objects.filter(**here, release__active=True)
    recent, midnight = timezone.now() - EVERY, _midnight(_today())
    places = Policy.objects.filter(version=1).annotate(last=_latest(last))
    scored = Prediction.objects.filter(**here, current=True)
    told = {"case__site": OuterRef("site"), "case__protocol": OuterRef("protocol")}
    news = (
        Q(last__lt=midnight)
        | Exists(scored.filter(at__gt=OuterRef("last")))
        | Exists(Label.objects.filter(**told, at__gt=OuterRef("last")))
    )
    never = Q(last=None) & Exists(scored)
    active = Exists(Release.objects.filter(protocol=OuterRef("protocol"), active=True))
    return places.filter(active).filter(never | Q(last__lt=recent) & news).select_related("site", "protocol")


def _latest(rows: QuerySet[Watch]) -> Any:
    return rows.order_by().values("site").annotate(last=Max("at")).values("last")


def _look_if_due(place: Policy) -> bool:
    """One place that cannot be looked at keeps no other from its look."""
    try:
        with transaction.atomic():
            if not _lock(place.site, place.protocol, TRY_LOCK) or not due().filter(pk=place.pk).exists():
                return False
            _look(place.site, place.protocol)
    except Exception:
        log.exception("%s of %s could not be watched", place.protocol.slug, place.site.slug)
        return False
    return True


def _lock(site: Site, protocol: Protocol, how: str) -> bool:
    """Until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(how, [f"watch {site.pk} {protocol.pk}"])
        return cursor.fetchone()[0] is not False


def _today() -> date:
    return timezone.localdate(timezone.now() - SETTLED)


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time()))


def _look(site: Site, protocol: Protocol, today: date | None = None) -> list[Alarm]:
    release = Release.objects.filter(protocol=protocol, active=True).first()
    if release is None:
        return []
    now = _midnight(today) if today else timezone.now()
    today, dial = today or _today(), policy.current(site, protocol)
    known = {row.week: row for row in Watch.objects.filter(site=site, protocol=protocol, release=release)}
    weeks, found = _weeks(site, protocol, release, known, today)
    week = max(weeks)
    fresh = week not in known
    weeks[week]["missed"], above = missed.look(site, protocol, dial, now, judge=fresh)
    found += [("missed", label, week, facts) for label, facts in above.items()]
    for monday, facts in weeks.items():
        place = {"site": site, "protocol": protocol, "release": release, "week": monday}
        Watch.objects.update_or_create(**place, defaults={"facts": facts, "at": timezone.now()})
    return alarms.sound(site, protocol, release, dial, found)


Found = list[tuple[str, str, date, dict[str, Any]]]  # kind, measure, week, facts of an alarm


def _weeks(
    site: Site, protocol: Protocol, release: Release, known: Mapping[date, Watch], today: date
) -> tuple[dict[date, dict[str, Any]], Found]:
    """The facts of every week that is new or has grown, and what they would raise an alarm for."""
    ranks, begins = _begins(release, site)
    past = sorted(week for week, row in known.items() if row.facts["calibration"] == ranks)
    last = known[past[-1]].facts if past else None
    segment = Segment()
    for week in past[:-1]:
        segment.add(known[week].facts)
    if last:
        segment.streams = {name: _stream(stored) for name, stored in last["streams"].items()}
    monday = past[-1] if past else BEGINNING
    after = last["after"] if last else 0
    came = arrivals(site, protocol, release, after, max(begins, monday), today)
    upto = date.fromisoformat(last["upto"]) if last else BEGINNING
    now = _monday(today - timedelta(days=1))
    mondays = _mondays(came.days)
    weeks, found = {}, []
    before = known[past[-2]].facts if len(past) > 1 else {}
    first = min([now, *past[-1:], *mondays[:1].tolist()])
    for week in (first + timedelta(weeks=i) for i in range((now - first).days // 7 + 1)):
        part = came.at(mondays == np.datetime64(week))
        facts = dict(known[week].facts) if week in past else {}
        if not facts or facts["upto"] < today.isoformat():
            facts, raised = _week(segment, facts, part, week, upto, today)
            facts |= {"calibration": ranks, "after": after}
            found += raised + _checked(facts, before, part, segment, week, today)
        segment.reference += [facts["sample"]] if facts["sample"] else []
        weeks[week], before = facts, facts
        after = max([after, *(part.ids - MARGIN).tolist()])
    return weeks, found


def _begins(release: Release, site: Site) -> tuple[int, date]:
    """The calibration in use and the first whole day of it; the release's first calibration was there from the start."""
    used = registry.calibration(release, site.pk)
    if used.pk == release.calibration_set.order_by("pk").values_list("pk", flat=True)[0]:
        return used.pk, BEGINNING
    return used.pk, timezone.localdate(used.created_at) + timedelta(days=1)


def arrivals(
    site: Site, protocol: Protocol, release: Release, after: int, since: date, until: date
) -> Arrivals:
    """The cases first predicted by the release from ``since`` to the day before ``until``, rows above ``after`` alone."""
    where = {"site": site.pk, "protocol": protocol.pk, "release": release.pk, "after": after}
    when = {"since": _midnight(since), "until": _midnight(until)}
    with connection.cursor() as cursor:
        cursor.execute(ARRIVALS, where | when | {"zone": timezone.get_default_timezone_name()})
        rows = cursor.fetchall()
    columns = list(zip(*rows, strict=True)) or [()] * 8
    values = np.array(columns[5:], dtype=np.float32).T.reshape(-1, len(MEASURES))
    ids, days, lots, patients = columns[:4]
    return Arrivals(
        np.array(ids, np.int64),
        np.array(days, "datetime64[D]"),
        np.array(lots, np.float64),
        np.array(patients, np.int64),
        np.array(columns[4], np.str_),
        values,
    )


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _mondays(days: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Weeks of numpy's days begin on Thursdays: 1970 did."""
    return (days + np.timedelta64(3, "D")).astype("datetime64[W]").astype("datetime64[D]") - np.timedelta64(
        3, "D"
    )


def _week(
    segment: Segment, stored: Mapping[str, Any], part: Arrivals, week: date, upto: date, today: date
) -> tuple[dict[str, Any], Found]:
    """The facts of a week with the days from ``upto`` on, of which the streams are told, and the alarms of these."""
    old = part.days < np.datetime64(upto)
    if old.any():
        segment.values = np.concatenate([segment.values, part.values[old]])
        segment.days = np.concatenate([segment.days, part.days[old]])
    new, found = part.at(~old), []
    segment.values = np.concatenate([segment.values, new.values])
    segment.days = np.concatenate([segment.days, new.days])
    streams = {}
    for j, name in enumerate(MEASURES):
        path = list(stored["streams"][name]["path"]) if stored else []
        stream, log_m, hits = play(segment.values[:, j], new.lots, segment.streams[name])
        segment.streams[name] = stream
        path += [[day, round(height, 4)] for day, height in _highest(new.days, log_m)]
        streams[name] = {"bets": stream.bets.to_json(), "start": stream.start, "path": path}
        found += [("stream", name, _monday(facts.pop("on")), facts) for facts in _told(segment, j, hits)]
    days, counts = np.unique(part.days, return_counts=True)
    until = min(today, week + timedelta(days=7))
    return {
        "upto": until.isoformat(),
        "level": LEVEL,
        "days": [[str(day), int(n)] for day, n in zip(days, counts, strict=True)],
        "values": _packed(part.values),
        "streams": streams,
        "sample": stored["sample"] if stored else None,
        "checks": stored["checks"] if stored else None,
        "missed": stored["missed"] if stored else None,
    }, found


class Hit(NamedTuple):
    """An alarm of a stream: the case at which it rose, the first case of the bag, and the martingale's log there."""

    case: int
    start: int
    log_m: float


def play(values: NDArray[Any], lots: Floats, stream: Stream) -> tuple[Stream, Floats, list[Hit]]:
    """values: (N,) of the segment, of which the last len(lots) are new. The stream after them, its (new,) log, the alarms.

    After an alarm the stream begins from nothing with the next case.
    """
    at, log_m, hits = len(values) - len(lots), np.empty(len(lots)), []
    first = at
    while at < len(values):
        p = martingale.online_p(values[at:], lots[at - first :], values[stream.start : at])
        bets, path = martingale.advance(stream.bets, p)
        hit = martingale.alarm_at(path, LEVEL)
        end = len(values) if hit is None else at + hit + 1
        log_m[at - first : end - first] = path[: end - at]
        if hit is not None:
            hits.append(Hit(at + hit, stream.start, float(path[hit])))
        stream, at = Stream(bets, stream.start) if hit is None else Stream(start=end), end
    return stream, log_m, hits


def _told(segment: Segment, j: int, hits: list[Hit]) -> list[dict[str, Any]]:
    """The facts of a stream's alarms: since about when, and what the medians were before and are since."""
    found = []
    for hit in hits:
        values = segment.values[hit.start : hit.case + 1, j].astype(np.float64)
        p = martingale.online_p(values, np.full(len(values), 0.5))
        began = martingale.began_at(p, len(values) - 1)
        facts = {
            "on": segment.days[hit.case].item(),
            "day": str(segment.days[hit.case]),
            "since": str(segment.days[hit.start + began]),
            "n_before": began,
            "n_since": len(values) - began,
            "before": float(np.median(values[:began])) if began else None,
            "now": float(np.median(values[began:])),
            "log_m": hit.log_m,
            "level": LEVEL,
        }
        found.append(facts)
    return found


def _highest(days: NDArray[np.datetime64], log_m: Floats) -> list[tuple[str, float]]:
    """The height of each day, so that an alarm is seen from which the stream began anew before the day was over."""
    return [(str(day), float(log_m[days == day].max())) for day in np.unique(days)]


def _checked(
    facts: dict[str, Any],
    before: Mapping[str, Any],
    part: Arrivals,
    segment: Segment,
    week: date,
    today: date,
) -> Found:
    """Compare a week that is over with the reference, or make it a part of that; alarms for what was not so the week before.

    A week is full when cases came before it: the first holds whatever stood waiting.
    """
    if today < week + timedelta(days=7) or facts["checks"] is not None:
        return []
    facts["checks"] = []
    first = segment.days[0].item() if len(segment.days) else week
    if week <= first or not len(part.ids):
        return []
    now = sample(part)
    done = len(segment.reference) >= WEEKS and sum(one["n"] for one in segment.reference) >= LEAST
    if not done:
        facts["sample"] = now
        return []
    checks = two_sample.week_checks(_as_sample([now]), _as_sample(segment.reference))
    facts["checks"] = [asdict(check) for check in checks]
    flagged = {check["name"] for check in before.get("checks") or [] if check["flagged"]}
    return [
        ("check", check["name"], week, check)
        for check in facts["checks"]
        if check["flagged"] and check["name"] not in flagged
    ]


def sample(part: Arrivals) -> dict[str, Any]:
    """What a week is compared by: one case a patient, that of the smallest lot."""
    order = np.argsort(part.lots, kind="stable")
    one = part.at(np.sort(order[np.unique(part.patients[order], return_index=True)[1]]))
    few = one.ids[np.argsort(one.lots, kind="stable")[:TEXTS]]
    return {
        "n": len(one.ids),
        "numbers": {name: _packed(one.values[:, MEASURES.index(name)]) for name in ("distance", "length")},
        "categories": {
            "specialty": Counter(one.specialties.tolist()),
            "language": Counter(_languages(few.tolist())),
        },
    }


def _languages(ids: list[int]) -> list[str]:
    """Of the beginning of each prediction's last note."""
    with connection.cursor() as cursor:
        cursor.execute(TEXTS_OF, {"ids": ids, "most": TEXT})
        return [language_of(text) for (text,) in cursor.fetchall()]


def _as_sample(parts: list[dict[str, Any]]) -> two_sample.Sample:
    numbers = {
        name: np.concatenate([_unpacked(one["numbers"][name]) for one in parts])
        for name in parts[0]["numbers"]
    }
    counts = {
        name: sum((Counter(one["categories"][name]) for one in parts), Counter())
        for name in parts[0]["categories"]
    }
    return two_sample.Sample(numbers, {name: sorted(count.elements()) for name, count in counts.items()})


def _stream(stored: Mapping[str, Any]) -> Stream:
    return Stream(martingale.Bets.from_json(stored["bets"]), stored["start"])


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def _unpacked(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4")
