"""What the watch found, in words: on its page and from `manage.py watch`. Reads ``Watch`` and ``Alarm`` alone, no statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, pgettext, pgettext_lazy

from mlcore import errors
from reviews import alarms
from reviews.explained import decimals
from reviews.wording import setting
from triage import policy
from triage.access import Workplace
from triage.models import Alarm, Calibration, Protocol, Release, Site, Watch

SHOWN = 53  # weeks
ENOUGH = 100  # cases, below which quiet streams are said to be few
MOST = 1_000_000  # to 1: evidence beyond it is told as more than that
STREAMS = {
    "doubt": gettext_lazy("How unsure the model is"),
    "distance": gettext_lazy("Distance from what it knows"),
    "length": gettext_lazy("Length of the record"),
}
CHECKS = {
    "distance": pgettext_lazy("weekly check", "Distance"),
    "length": pgettext_lazy("weekly check", "Length, kB"),
    "language": pgettext_lazy("weekly check", "Language"),
    "specialty": pgettext_lazy("weekly check", "Specialty"),
}
LANGUAGES = {
    "es": gettext_lazy("Spanish"),
    "en": gettext_lazy("English"),
    "other": gettext_lazy("neither Spanish nor English"),
}
MORE, LESS = "more", "less"
CHANGED = {
    ("doubt", MORE): gettext_lazy("the model is less sure of its label"),
    ("doubt", LESS): gettext_lazy("the model is surer of its label"),
    ("distance", MORE): gettext_lazy("cases lie farther from those the model knows"),
    ("distance", LESS): gettext_lazy("cases lie nearer to those the model knows"),
    ("length", MORE): gettext_lazy("records are longer"),
    ("length", LESS): gettext_lazy("records are shorter"),
}
SPREAD = {
    "doubt": gettext_lazy("the model is sure of its label in another measure"),
    "distance": gettext_lazy("cases lie at other distances from those the model knows"),
    "length": gettext_lazy("records are of other lengths"),
}
REMEDIES = {
    "doubt": gettext_lazy(
        "Read some of the cases that came since: do they ask something else than those before? If they are to stay, "
        "recalibrate with their labels; until then automation can be put on hold."
    ),
    "distance": gettext_lazy(
        "Read some of the cases that came since, and ask their wards what changed: another template, another kind of "
        "patient. If they are to stay, recalibrate with their labels; until then automation can be put on hold."
    ),
    "length": gettext_lazy(
        "Ask whoever delivers the notes whether records are now cut, joined or repeated. If they are to stay so, "
        "recalibrate with new labels."
    ),
    "language": gettext_lazy(
        "Ask whoever delivers the notes what was added. The release reads the language it was trained on: keep other notes "
        "out, or train with them."
    ),
    "specialty": gettext_lazy(
        "If the new mix is to stay, recalibrate with labels of these cases; until then automation can be put on hold."
    ),
    "missed": gettext_lazy(
        "Put automation on hold, read the missed cases of the audit sample together, then recalibrate, or turn the dial to a "
        "smaller risk."
    ),
}


def page(place: Workplace) -> dict[str, Any]:
    release = Release.objects.filter(protocol=place.protocol, active=True).first()
    weeks = stored(place.site, place.protocol, release)
    found = list(alarms.here(place)[:SHOWN])
    missed = weeks[-1]["missed"] if weeks else None
    dial = policy.current(place.site, place.protocol)
    return {
        "place": place,
        "release": release,
        "looked": weeks[-1]["at"] if weeks else None,
        "until": date.fromisoformat(weeks[-1]["upto"]) if weeks else None,
        "state": state(place.protocol, release, weeks, found),
        "dial": dial,
        "alarms": [_alarm(place.protocol, alarm) for alarm in found],
        "streams": _streams(weeks),
        "plot": _plot(weeks),
        "level": _odds(math.log(weeks[-1]["level"])) if weeks else "",
        "checks": [(name, CHECKS[name]) for name in CHECKS],
        "weeks": [_week(week) for week in reversed(weeks)],
        "missed": missed and _missed(place.protocol, missed),
    }


def stored(site: Site, protocol: Protocol, release: Release | None) -> list[dict[str, Any]]:
    """The last weeks of a release at a site, the earliest first, without the values the streams go on from."""
    rows = Watch.objects.filter(site=site, protocol=protocol, release=release).order_by("-week")[:SHOWN]
    names = ("days", "streams", "checks", "missed", "calibration", "level", "upto")
    found = rows.values_list("week", "at", "facts__sample__n", *(f"facts__{name}" for name in names))
    keys = ("week", "at", "sample", *names)
    return [dict(zip(keys, row, strict=True)) for row in found][::-1]


# In one sentence


def state(
    protocol: Protocol,
    release: Release | None,
    weeks: Sequence[Mapping[str, Any]],
    found: Sequence[Alarm],
) -> list[str]:
    """What is to be known first: what changed and has not been calibrated for since, or that nothing did."""
    if release is None:
        return [
            _("No release is installed for this protocol: nothing is scored, so there is nothing to watch.")
        ]
    if not weeks:
        return [_("Nothing has been looked at yet. The first look comes once cases have been scored.")]
    now = [week for week in weeks if week["calibration"] == weeks[-1]["calibration"]]
    begins = Calibration.objects.get(pk=now[-1]["calibration"]).created_at
    first = now[0]["week"]
    told = [one for one in found if one.release_id == release.pk and one.week >= first and one.at >= begins]
    open_ = [one for one in told if one.kind == Alarm.Kind.STREAM or one.seen_at is None]
    latest = {(one.kind, one.measure): one for one in sorted(open_, key=lambda one: one.week)}
    if latest:
        return [sentence(protocol, one) for one in reversed(latest.values())]
    return [_quiet(now)]


def _quiet(weeks: Sequence[Mapping[str, Any]]) -> str:
    n, days = _cases(weeks), [day for week in weeks for day, _n in week["days"]]
    if not n:
        return _("No case has come in on a whole day yet.")
    figures = {"streams": len(STREAMS), "n": _whole(n), "since": _day(days[0])}
    if n < ENOUGH:
        return _("Too few cases to tell: %(streams)d streams over %(n)s cases since %(since)s.") % figures
    return _("Nothing has changed since %(since)s: %(streams)d streams quiet over %(n)s cases.") % figures


def _cases(weeks: Sequence[Mapping[str, Any]]) -> int:
    return sum(n for week in weeks for _day, n in week["days"])


def sentence(protocol: Protocol, alarm: Alarm) -> str:
    """An alarm in words."""
    tell = {Alarm.Kind.STREAM: _of_stream, Alarm.Kind.CHECK: _of_check}.get(alarm.kind)
    return tell(alarm.measure, alarm.week, alarm.facts) if tell else _of_missed(protocol, alarm)


def _of_stream(measure: str, week: date, facts: Mapping[str, Any]) -> str:
    since = {"since": _day(facts["since"]), "what": _change(measure, facts["before"], facts["now"])}
    if facts["before"] is None:
        return _("Since about %(since)s %(what)s.") % since
    medians = {"before": _number(measure, facts["before"]), "now": _number(measure, facts["now"])}
    return _("Since about %(since)s %(what)s: median %(before)s → %(now)s.") % (since | medians)


def _of_check(measure: str, week: date, facts: Mapping[str, Any]) -> str:
    effect = facts["effect"]
    if "level" in effect:
        level = _level(measure, effect["level"])
        figures = {"week": _day(week), "level": level, "now": _percent(effect["now"])}
        words = _(
            "In the week of %(week)s %(now)s of the cases are «%(level)s», in the reference %(before)s."
        )
        return words % (figures | {"before": _percent(effect["reference"])})
    figures = {"week": _day(week), "what": _change(measure, effect["reference"], effect["now"])}
    medians = {"before": _number(measure, effect["reference"]), "now": _number(measure, effect["now"])}
    return _("In the week of %(week)s %(what)s: median %(before)s → %(now)s.") % (figures | medians)


def _of_missed(protocol: Protocol, alarm: Alarm) -> str:
    facts, label = alarm.facts, _label(protocol, alarm.measure)
    of_class = facts["of_class"]
    if of_class and of_class["verdict"] == "above":
        words = _(
            "Of the cases that truly are «%(label)s», automation gave %(rate)s another label (%(low)s – %(high)s); "
            "α allows %(alpha)s."
        )
        figures = {"rate": of_class["share"], "low": of_class["low"], "high": of_class["high"]}
    else:
        words = _(
            "Of the automatic cases given another label, %(rate)s truly are «%(label)s» (%(low)s – %(high)s); "
            "α allows %(alpha)s."
        )
        figures = {name: facts[name] for name in ("rate", "low", "high")}
    return words % (
        {name: _percent(value) for name, value in figures.items()}
        | {"label": label, "alpha": _percent(facts["alpha"])}
    )


def _change(measure: str, before: float | None, now: float) -> str:
    if before is None or _number(measure, before) == _number(measure, now):
        return str(SPREAD[measure])
    return str(CHANGED[measure, MORE if now > before else LESS])


def sentences(site: Site, protocol: Protocol, found: Sequence[Alarm]) -> list[str]:
    """What the page says first, and what it says of missed cases."""
    release = Release.objects.filter(protocol=protocol, active=True).first()
    weeks = stored(site, protocol, release)
    told = state(protocol, release, weeks, found)
    missed = weeks[-1]["missed"] if weeks else None
    if not missed:
        return told
    shown = _missed(protocol, missed)
    if shown["why"]:
        return [*told, shown["why"]]
    words = _("«%(label)s»: %(missed)s missed of %(read)s read, %(verdict)s.")
    return told + [words % row for row in shown["rows"]]


# Parts of the page


def _alarm(protocol: Protocol, alarm: Alarm) -> dict[str, Any]:
    missed = alarm.kind == Alarm.Kind.MISSED
    return {
        "alarm": alarm,
        "sentence": sentence(protocol, alarm),
        "figures": _figures(alarm),
        "remedy": REMEDIES["missed" if missed else alarm.measure],
        "former": not alarm.release.active,
    }


def _figures(alarm: Alarm) -> str:
    facts = alarm.facts
    if alarm.kind == Alarm.Kind.STREAM:
        figures = {
            "day": _day(facts["day"]),
            "odds": _odds(facts["log_m"]),
            "level": _odds(math.log(facts["level"])),
        }
        counts = {"before": _whole(facts["n_before"]), "since": _whole(facts["n_since"])}
        return _(
            "Raised on %(day)s: evidence %(odds)s, alarm at %(level)s; n = %(before)s before, %(since)s since."
        ) % (figures | counts)
    if alarm.kind == Alarm.Kind.CHECK:
        figures = {
            "now": _whole(facts["n_now"]),
            "reference": _whole(facts["n_reference"]),
            "p": _p(facts["adjusted"]),
        }
        return (
            _("n = %(now)s, reference n = %(reference)s; %(p)s, adjusted for all checks of a year.") % figures
        )
    figures = {"read": _whole(facts["read"]), "n": _whole(facts["automatic"]), "version": facts["version"]}
    return _("%(read)s read of %(n)s automatic cases, under version %(version)s of the dial.") % figures


def _streams(weeks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each stream as it stands, and the highest it ever stood in the weeks shown."""
    if not weeks:
        return []
    now = [week for week in weeks if week["calibration"] == weeks[-1]["calibration"]]
    rows = []
    for name, words in STREAMS.items():
        heights = [height for week in now for _day, height in week["streams"][name]["path"]]
        bets = weeks[-1]["streams"][name]["bets"]
        rows.append(
            {
                "name": words,
                "n": bets["n"],
                "now": _odds(bets["log_m"]),
                "highest": _odds(max(heights, default=0.0)),
            }
        )
    return rows


def _plot(weeks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """For each stream its days and the decimal logarithm of its evidence."""
    lines = []
    for name, words in STREAMS.items():
        points = [point for week in weeks for point in week["streams"][name]["path"]]
        heights = [round(height / math.log(10), 3) for _day, height in points]
        lines.append({"name": str(words), "x": [day for day, _height in points], "y": heights})
    if len({day for line in lines for day in line["x"]}) < 2:
        return None
    return {"lines": lines, "alarm": math.log10(weeks[-1]["level"])}


def _week(week: Mapping[str, Any]) -> dict[str, Any]:
    checks = {check["name"]: check for check in week["checks"] or []}
    return {
        "week": week["week"],
        "n": _cases([week]),
        "reference": week["sample"],
        "open": week["checks"] is None,
        "cells": [_cell(name, checks.get(name)) for name in CHECKS],
    }


def _cell(name: str, check: Mapping[str, Any] | None) -> dict[str, Any]:
    if check is None:
        return {"said": ""}
    effect, p = check["effect"], _p(check["adjusted"])
    if "level" in effect:
        said = f"{_level(name, effect['level'])} {_percent(effect['reference'])} → {_percent(effect['now'])}"
    else:
        said = f"{_number(name, effect['reference'])} → {_number(name, effect['now'])}"
    return {"said": said, "p": p, "n": check["n_now"], "flagged": check["flagged"]}


def _missed(protocol: Protocol, facts: Mapping[str, Any]) -> dict[str, Any]:
    """why: what keeps anything from being said. Rows as of the last look."""
    rows = [_row(protocol, row) for row in facts["labels"]]
    automatic = sum(row["automatic"] for row in facts["labels"])
    return {
        "why": _refusal(facts["refused"]) or ("" if automatic else _unsaid(facts)),
        "rows": rows,
        "alpha": setting(facts["alpha"]),
        "version": facts["version"],
        "weeks": facts["weeks"],
        "audit_rate": _percent(facts["audit_rate"]),
        "unaudited": max((row["unaudited"] for row in facts["labels"]), default=0),
    }


def _refusal(stored: list[Any] | str | None) -> str:
    """Message and figures as stored; a look of an older version has stored the sentence, an empty one for none."""
    return errors.told(*stored, _) if isinstance(stored, list) else stored or ""


def _unsaid(facts: Mapping[str, Any]) -> str:
    if facts["audit_rate"]:
        return _("No automatic case has come in yet whose audit could tell what is missed.")
    return _(
        "The audit rate is 0: no automatic case is read, so nobody knows what is missed. An administrator sets it on the dial."
    )


def _row(protocol: Protocol, row: Mapping[str, Any]) -> dict[str, Any]:
    of_class = row["of_class"]
    return {
        "label": _label(protocol, row["label"]),
        "automatic": _whole(row["automatic"]),
        "read": _whole(row["read"]),
        "waiting": _whole(row["waiting"]) if row["waiting"] else "",
        "missed": _whole(row["missed"]),
        "rate": "" if row["rate"] is None else _percent(row["rate"]),
        "interval": _interval(row),
        "verdict": _verdict(row, row["more_reads"]) if row["automatic"] else _("no such case"),
        "above": row["verdict"] == "above",
        "share": of_class and of_class["share"] is not None and _percent(of_class["share"]),
        "share_interval": of_class and _interval(of_class),
        "share_verdict": of_class and _verdict(of_class),
        "share_above": of_class and of_class["verdict"] == "above",
    }


def _verdict(row: Mapping[str, Any], more: int | None = None) -> str:
    if row["verdict"] == "within":
        return _("within α")
    if row["verdict"] == "above":
        return _("more than α allows")
    if more is None:
        return _("cannot be told yet")
    words = ngettext("cannot be told yet: %(n)s more read", "cannot be told yet: %(n)s more reads", more)
    return words % {"n": _whole(more)}


# Figures


def _label(protocol: Protocol, slug: str) -> str:
    return dict(zip(protocol.labels, protocol.label_names, strict=True)).get(slug, slug)


def _level(name: str, level: str) -> str:
    if name == "language":
        return str(LANGUAGES[level])
    return level or pgettext("specialty", "not given")


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f"{_percent(row['low'])} – {_percent(row['high'])}"


def _number(measure: str, value: float) -> str:
    return f"{decimals(value, 1)}\u00a0kB" if measure == "length" else decimals(value, 2)


def _percent(share: float) -> str:
    return f"{decimals(100 * share, 0 if share in (0, 1) or share >= 0.0995 else 1)}\u00a0%"


def _odds(log_m: float) -> str:
    """Evidence as a bet: «37 : 1»."""
    capital = math.exp(min(log_m, 50))
    if capital > MOST:
        return f">\u00a0{_whole(MOST)}\u00a0:\u00a01"
    return f"{_whole(round(capital)) if capital >= 9.95 else decimals(capital, 1)}\u00a0:\u00a01"


def _p(p: float) -> str:
    """«p = 0.04», «p < 0.001»."""
    return (
        f"p\u00a0<\u00a0{decimals(0.001, 3)}"
        if p < 0.001
        else f"p\u00a0=\u00a0{decimals(p, 3 if p < 0.1 else 2)}"
    )


def _whole(n: int) -> str:
    return decimals(n, 0)


def _day(day: str | date) -> str:
    return date_format(date.fromisoformat(day) if isinstance(day, str) else day, "DATE_FORMAT")
