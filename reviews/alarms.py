"""Alarms of the watch: raised once, told to webhooks, answered by a hold where the policy says so, seen by a lead."""

from __future__ import annotations

from datetime import date
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop

from reviews import webhooks
from triage import audit, policy
from triage.access import Workplace
from triage.models import Alarm, Policy, Protocol, Release, Site

HELD = gettext_noop("The watch raised an alarm; see the page «Watch».")


def sound(
    site: Site,
    protocol: Protocol,
    release: Release,
    dial: Policy,
    found: list[tuple[str, str, date, dict[str, Any]]],
) -> list[Alarm]:
    """Write each (kind, measure, week, facts) that is not known yet, and tell it; all of them bring about one hold."""
    new = []
    place = {"site": site, "protocol": protocol, "release": release}
    waiting = Alarm.objects.filter(**place, kind=Alarm.Kind.MISSED, seen_at=None)
    alive = dial.hold_on_alarm and dial.automate
    # What goes on being missed is told once, until somebody has seen it; unless it would have to hold automation again.
    told = set() if alive else set(waiting.values_list("kind", "measure"))
    for kind, measure, week, facts in found:
        if (kind, measure) in told:
            continue
        which = {"kind": kind, "measure": measure, "week": week}
        alarm, fresh = Alarm.objects.get_or_create(**place, **which, defaults={"facts": facts})
        if fresh:
            audit.record("watch.alarm", alarm, site=site, details=which | {"week": week.isoformat()})
            webhooks.tell_alarm(alarm)
            new.append(alarm)
    if dial.hold_on_alarm:
        for alarm in new:
            alarm.held = policy.hold(site, protocol, reason=HELD, alarm=alarm)
    return new


def here(place: Workplace) -> QuerySet[Alarm]:
    """The newest first, those nobody has seen before the others."""
    found = Alarm.objects.filter(site=place.site, protocol=place.protocol)
    return found.select_related("release", "held", "seen_by").order_by(
        F("seen_at").desc(nulls_first=True), "-week", "-pk"
    )


def unseen(place: Workplace) -> bool:
    return Alarm.objects.filter(site=place.site, protocol=place.protocol, seen_at=None).exists()


@transaction.atomic
def see(place: Workplace, user: Any, alarm: int, remark: str) -> Alarm | None:
    """A lead's remark on an alarm, once; None where there is no such alarm, or somebody has seen it already."""
    rows = Alarm.objects.filter(site=place.site, protocol=place.protocol, pk=alarm, seen_at=None)
    found = rows.select_for_update(of=("self",)).first()
    if found is None:
        return None
    found.seen_at, found.seen_by, found.remark = timezone.now(), user, remark
    found.save(update_fields=["seen_at", "seen_by", "remark"])
    details = {"kind": found.kind, "measure": found.measure, "week": found.week.isoformat()}
    audit.record("watch.seen", found, site=place.site, actor=user, details=details)
    return found
