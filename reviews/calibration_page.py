"""What the page of calibrations says: the one in force here, what labels would make now, and the former ones."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from mlcore.errors import CentinelaError
from reviews import recalibration, rows
from triage import policy, registry, rescoring, tasks
from triage.access import Workplace, governs
from triage.models import Calibration, Policy, Release, Task

TASKS = (Task.Kind.RECALIBRATE, Task.Kind.TRAIN)


def page(place: Workplace, user: Any) -> dict[str, Any]:
    release = Release.objects.select_related("protocol").filter(protocol=place.protocol, active=True).first()
    dial = policy.current(place.site, place.protocol)
    facts = {"place": place, "release": release, "policy": dial, "can_act": place.is_admin}
    if release is None:
        return facts
    active = registry.calibration(release, place.site.pk)
    return facts | {
        "active": told(place, active, dial),
        "labels": now(place, dial),
        "former": [
            told(place, row, dial) for row in recalibration.former(place.site, release) if row != active
        ],
        "behind": rescoring.standing(release, place.site).exclude(calibration=active).count(),
        "given": rows.count(place.protocol, [place.site]),
        "can_train": governs(place, user),
        "waiting": [task for kind in TASKS if (task := _open(place, kind))],
    }


def _open(place: Workplace, kind: str) -> dict[str, Any] | None:
    found = recalibration.open_task(place.site, place.protocol, kind)
    if found is None:
        return None
    stage = _(found.stage) if found.stage else _("waits for a worker")
    return {"task": found, "name": found.get_kind_display(), "stage": stage, "state": tasks.state(found)}


def told(place: Workplace, row: Calibration, dial: Policy) -> dict[str, Any]:
    """A calibration and, of each label, what it rests on. ``least``: the smallest α it supports."""
    limits = row.made_of.get("labels", {})
    labels = [
        _label(name, n, typical, limits.get(label, {}), dial)
        for label, name, n, typical in zip(
            place.protocol.labels, place.protocol.label_names, row.counts, row.typical_counts, strict=True
        )
    ]
    return {
        "row": row,
        "own": row.site_id is not None,
        "since": rescoring.since(row, place.site) or row.created_at,
        "labels": labels,
        "cases": sum(row.counts),
    }


def _label(name: str, n: int, typical: int, limits: dict[str, float], dial: Policy) -> dict[str, Any]:
    least = limits.get("minimum_alpha", 1 / (1 + n))
    least_typicality = limits.get("minimum_typicality", 1 / (1 + typical))
    return {
        "name": name,
        "n": n,
        "effective": limits.get("effective", n),
        "least": least,
        "holds": least <= dial.alpha,
        "vetoes": not dial.typicality_floor or least_typicality <= dial.typicality_floor,
        "guaranteed": 100 * (1 - dial.alpha),
    }


def now(place: Workplace, dial: Policy) -> dict[str, Any]:
    """What the labels of the audit sample would make at today's dial, or why that cannot be said."""
    try:
        found = recalibration.labelled(place.site, place.protocol)
        need = recalibration.need(found, place.site, dial)
    except CentinelaError as error:
        return {"error": error.told(_)}
    names = zip(place.protocol.label_names, need.labels.values(), strict=True)
    return {
        "cases": len(found.cases),
        "learned": found.learned,
        "sample": found.sample,
        "a_week": found.sample.a_week,
        "need": need,
        "labels": [{"name": name, **one._asdict()} for name, one in names],
    }
