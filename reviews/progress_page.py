"""What the progress page says of work done, of what waits, and of the hours it takes."""

from __future__ import annotations

import math
from typing import Any

from django.contrib.auth import get_user_model
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from reviews import progress
from reviews.adjudication import name_of
from reviews.explained import decimals
from reviews.listing import REASONS, age
from triage import policy as dial
from triage.access import Workplace
from triage.context import workplaces
from triage.models import Membership

WAITS = {
    **REASONS,
    progress.BLIND: gettext_lazy("Read blind"),
    progress.SECOND: gettext_lazy("For a second reader"),
    "lead": gettext_lazy("For a lead"),
    "information": gettext_lazy("More information asked for"),
    "unscored": gettext_lazy("To be scored"),
}


def page(place: Workplace, user: Any, days: int) -> dict[str, Any]:
    """What was done, by the leads' choice of days; what waits; and the hours it takes."""
    policy = dial.current(place.site, place.protocol)
    waits, elsewhere = progress.waiting(place, policy), progress.elsewhere(place)
    month = progress.total(place, 30)
    return {
        "place": place,
        "days": days,
        "periods": [{"days": n, "name": _period(n), "current": n == days} for n in progress.PERIODS],
        "period": _period(days),
        "own": [
            {"name": _period(n), "done": _done(progress.of_reader(place, user, n))} for n in progress.PERIODS
        ],
        "team": _team(place, days) if place.is_lead else [],
        "total": _done(progress.total(place, days)),
        "waiting": _waiting(waits, place.is_lead)
        + [
            _waits(why, row)
            for why, row in elsewhere.items()
            if row.cases and (place.is_lead or why != "lead")
        ],
        "waits": sum(row.cases for row in waits.values()),
        "forecast": _forecast(progress.forecast(place, policy, waits, month)),
        "places": _places(user) if place.is_lead else [],
    }


def _period(days: int) -> str:
    return _("Today") if days == 1 else ngettext("%(n)d day", "%(n)d days", days) % {"n": days}


def _done(done: progress.Done) -> dict[str, Any]:
    return done._asdict() | {"seconds": "" if done.median is None else _lasting(done.median)}


def _lasting(seconds: float) -> str:
    """«48 s», «3 min 20 s»."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    return f"{whole // 60}\u00a0min {whole % 60}\u00a0s"


def _team(place: Workplace, days: int) -> list[dict[str, Any]]:
    """Everyone who may read here and everyone who did."""
    found = progress.by_reader(place, days)
    members = set(Membership.objects.filter(site=place.site).values_list("user", flat=True))
    people = get_user_model().objects.filter(pk__in=members | set(found), is_active=True)
    people = people | get_user_model().objects.filter(pk__in=set(found))
    rows = [
        {"name": name_of(one), "done": _done(found.get(one.pk, progress.Done()))} for one in people.distinct()
    ]
    return sorted(rows, key=lambda row: (-row["done"]["verdicts"], row["name"].casefold()))


def _waiting(waits: dict[str, progress.Waiting], lead: bool) -> list[dict[str, Any]]:
    """By reason. Readers see what is read blind as one: second readings are not told apart from the sample."""
    if not lead:
        blind = [waits[why] for why in (progress.BLIND, progress.SECOND) if why in waits]
        waits = {why: row for why, row in waits.items() if why not in (progress.BLIND, progress.SECOND)}
        waits |= {progress.BLIND: progress.together(blind)} if blind else {}
    return [_waits(why, waits[why]) for why in WAITS if why in waits]


def _waits(why: str, row: progress.Waiting) -> dict[str, Any]:
    return {
        "kind": why if why in REASONS else "",
        "name": WAITS[why],
        "cases": row.cases,
        "oldest": row.oldest,
        "age": age(row.oldest) if row.oldest else "",
    }


def _forecast(found: progress.Forecast) -> dict[str, Any]:
    came = found.arriving
    return {
        "enough": found.queue is not None,
        "timed": found.timed,
        "least": progress.TIMED_LEAST,
        "seconds": "" if found.seconds is None else _lasting(found.seconds),
        "readings": round(found.readings),
        "queue": _hours(found.queue),
        "week": _hours(found.week),
        "arrivals_enough": came.enough,
        "arriving": round(came.cases / came.weeks) if came.enough else came.cases,
        "share": decimals(100 * came.read / came.cases, 0) if came.cases else "",
        "weeks": decimals(came.weeks, 0 if came.weeks > 3.95 else 1),
        "n": came.cases,
    }


def _hours(hours: float | None) -> str:
    if hours is None:
        return ""
    if hours < 1:
        return f"{math.ceil(60 * hours)}\u00a0min"
    return f"{decimals(hours, 1 if hours < 10 else 0)}\u00a0h"


def _places(user: Any) -> list[dict[str, Any]]:
    """Every workplace in which ``user`` leads: done in seven days, waiting, oldest."""
    leads = {one.site_id: one for one in user.memberships.filter(role__in=["lead", "admin"])}
    rows = []
    for site, protocol in workplaces(user):
        if site.pk not in leads:
            continue
        place = Workplace(site, protocol, leads[site.pk])
        waits = progress.together(list(progress.waiting(place, dial.current(site, protocol)).values()))
        done = progress.total(place, 7)
        rows.append(
            {"site": site, "protocol": protocol, "done": _done(done), "waiting": waits.cases}
            | {"age": age(waits.oldest) if waits.oldest else "", "oldest": waits.oldest}
        )
    return rows if len(rows) > 1 else []
