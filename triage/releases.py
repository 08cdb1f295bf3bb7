"""The page of releases: what each was made of and measured, its calibrations, and which one decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from django import forms
from django.db.models import Count, Q
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext, gettext_lazy

from triage import background, dial, promotion, registry, shadow, tasks
from triage.access import Workplace, governs, sites_using
from triage.models import AuditEvent, Calibration, Case, Prediction, Release, Task

ACTIONS = ("shadow", "activate")
WORDS = {
    "loss": gettext_lazy("Loss on the validation cases (log loss, after temperature)"),
    "auroc": gettext_lazy("Area under the ROC curve, on the validation cases"),
    "average_precision": gettext_lazy("Average precision, on the validation cases"),
    "critical_f1": gettext_lazy("F1 of the critical labels, on the validation cases"),
}
DEEPEST = 3  # names of a figure: more would be no table


class Figure(NamedTuple):
    """A figure of a card; low and high are None where the card gives no interval."""

    name: str
    value: float
    low: float | None
    high: float | None
    n: int | None

    @property
    def words(self) -> Any:
        """What it is, in the language of the page; empty for a figure that has no words yet."""
        return WORDS.get(self.name.removeprefix("validation_"), "")


class ReleaseForm(forms.Form):
    """What is done to a release, and why. ``instead_of``: the active release the page showed."""

    release = forms.IntegerField()
    action = forms.ChoiceField(choices=[(name, name) for name in ACTIONS])
    instead_of = forms.IntegerField()
    reason = forms.CharField(max_length=1000, strip=True)


def page(place: Workplace, user: Any) -> dict[str, Any]:
    found = of(place)
    active = next((release for release in found if release.active), None)
    scored = scores(place)
    return {
        "place": place,
        "active": active,
        "releases": [_shown(place, release, scored.get(release.pk, 0)) for release in found],
        "cases": Case.objects.filter(site=place.site, protocol=place.protocol).count(),
        "may": governs(place, user),
        "elsewhere": sites_using(place.protocol).exclude(pk=place.site.pk).exists(),
        "past": past(place),
        "turning": turning(place, user, found),
    }


def turning(place: Workplace, user: Any, found: list[Release]) -> dict[str, Any] | None:
    """The promotion that is under way, or the last one where it failed; None where there is neither.

    mark: as the page of background work has it, so that this one follows too; empty where nothing is under way.
    """
    task = promotion.under_way(place.protocol) or promotion.failed(place.protocol)
    if task is None:
        return None
    release = next((one for one in found if one.pk == task.params["release"]), None)
    entry = background.entry(place, user, task)
    mark = background.page_mark(place, user) if entry.open else ""
    return {"entry": entry, "name": release.name if release else "", "mark": mark}


def of(place: Workplace) -> list[Release]:
    """The protocol's releases: the active one first, then the latest installed."""
    return list(Release.objects.filter(protocol=place.protocol).order_by("-active", "-installed_at", "-pk"))


def scores(place: Workplace) -> dict[int, int]:
    """Release → cases of the site it has scored, over whatever notes."""
    here = Prediction.objects.filter(site=place.site, protocol=place.protocol).order_by()
    rows = here.values_list("release").annotate(n=Count("case", distinct=True))
    return dict(rows.values_list("release", "n"))


def _shown(place: Workplace, release: Release, scored: int) -> dict[str, Any]:
    card, own = release.card, calibrations(place, release)
    asked = Task.objects.filter(kind=Task.Kind.SHADOW, params__release=release.pk).order_by("-pk").first()
    return {
        "release": release,
        "trained_at": parse_datetime(card.get("trained_at") or ""),
        "encoder": card.get("encoder", {}),
        "data": card.get("data", {}),
        "epoch": card.get("chosen", {}).get("epoch"),
        "why": card.get("chosen", {}).get("why", ""),
        "epochs": len(card.get("epochs", [])),
        "figures": list(figures(card)),
        "calibrations": [_calibration(place, one) for one in own],
        "sets": dial.sets(place, own[0]) if own else [],
        "scored": scored,
        "shadow": asked and background.STATES[tasks.state(asked)],
        "damage": found.told(gettext) if (found := registry.damage(release)) else "",
    }


def figures(card: Mapping[str, Any]) -> Iterator[Figure]:
    """Figures of a card with their intervals, wherever it keeps them; else those of the epoch it kept."""
    found = list(_figures(card, ()))
    if not found:
        chosen = card.get("chosen", {}).get("epoch")
        kept = next((one for one in card.get("epochs", []) if one.get("epoch") == chosen), {})
        n = sum(card.get("data", {}).get("shares", {}).get("validation", {}).values()) or None
        found = [
            Figure(name, float(value), None, None, n)
            for name, value in kept.items()
            if name.startswith("validation") and isinstance(value, int | float)
        ]
    yield from found


def _figures(part: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Figure]:
    if {"value", "low", "high", "n"} <= part.keys() and isinstance(part["value"], int | float):
        yield Figure("/".join(names), part["value"], part["low"], part["high"], part["n"])
        return
    for name, inner in part.items():
        if isinstance(inner, Mapping) and len(names) < DEEPEST:
            yield from _figures(inner, (*names, name))


def calibrations(place: Workplace, release: Release) -> list[Calibration]:
    """Those for all sites and for this one, those in force first."""
    mine = release.calibration_set.filter(Q(site=None) | Q(site=place.site)).select_related("by", "site")
    return list(mine.defer("arrays", "held_out").order_by("-active", "-created_at", "-pk"))


def _calibration(place: Workplace, one: Calibration) -> dict[str, Any]:
    labels = zip(place.protocol.label_names, one.counts, one.typical_counts, strict=False)
    return {"row": one, "labels": list(labels), "made_of": one.made_of or {}}


def past(place: Workplace) -> Any:
    """What was done to the protocol's releases, as the trail of this site has it, the latest first."""
    ids = [str(pk) for pk in Release.objects.filter(protocol=place.protocol).values_list("pk", flat=True)]
    events = AuditEvent.objects.filter(site=place.site, object_type="triage.release", object_id__in=ids)
    return events.select_related("actor").order_by("-pk")[:10]


def act(place: Workplace, user: Any, asked: Mapping[str, Any]) -> tuple[Release, Task]:
    """Put it in line: (release, the task of a shadow scoring or a promotion).

    registry.ReleaseMoved, BundleError or DataError where it cannot be asked for; Release.DoesNotExist for another protocol's.
    """
    release = Release.objects.select_related("protocol").get(pk=asked["release"], protocol=place.protocol)
    if asked["action"] == "shadow":
        return release, shadow.ask(release, by=user, reason=asked["reason"])
    facts = {"by": user, "reason": asked["reason"]}
    return release, promotion.ask(release, **facts, instead_of=asked["instead_of"])
