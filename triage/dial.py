"""What the dial page shows: this site's own cases now and then, and the calibration cases read as if they were new."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from django.db.models import Count, Exists, Min, OuterRef
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors

from mlcore import conformal, decision, metrics
from triage import policy, registry, sampling
from triage.access import Workplace
from triage.models import Calibration, Policy, Prediction, Protocol, Release, Site

ALPHAS = [round(float(alpha), 4) for alpha in np.geomspace(0.002, 0.2, 50)]
REPLICATES = 200
WEEKS = 4
WEEKS_LEAST = 1


class Arrivals(NamedTuple):
    """Cases whose notes were first scored in the last ``weeks`` (at most WEEKS), and how a policy divides them.

    read: those somebody reads, deferred or drawn.
    """

    weeks: float
    cases: int
    automatic: int
    read: int

    @property
    def enough(self) -> bool:
        """Whether a week can be told from it."""
        return self.weeks >= WEEKS_LEAST and self.cases > 0


def arrivals(site: Site, protocol: Protocol, dial: Policy) -> Arrivals:
    """What came in lately. A case scored anew over the same notes, by another release, did not come in."""
    now = timezone.now()
    begun = Prediction.objects.filter(site=site, protocol=protocol).aggregate(at=Min("at"))["at"] or now
    since = max(begun, now - timedelta(weeks=WEEKS))
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256")}
    before = Exists(Prediction.objects.filter(**same, at__lt=since))
    fresh = policy.standing(site, protocol).filter(~before, at__gte=since)
    deferred = policy.deferred(dial.alpha, dial.typicality_floor)
    counts = fresh.aggregate(
        cases=Count("pk"),
        automatic=Count("pk", filter=~deferred),
        read=Count("pk", filter=sampling.to_read(dial)),
    )
    return Arrivals(weeks=(now - since) / timedelta(weeks=1), **counts)


def calibration(place: Workplace) -> Calibration | None:
    """The calibration this workplace's cases are ranked against, if a release is installed."""
    release = Release.objects.filter(protocol=place.protocol, active=True).first()
    return registry.calibration(release, place.site.pk) if release else None


def warnings(place: Workplace, alpha: float, floor: float) -> list[str]:
    """What the calibration cannot support at these settings, a sentence for each label."""
    ranks = calibration(place)
    if ranks is None:
        return [_("No release is installed for this protocol: nothing is scored yet.")]
    found = []
    needed = conformal.minimum_n(alpha)
    vetoes = conformal.minimum_n(floor) if floor else 0
    for name, n, typical in zip(place.protocol.label_names, ranks.counts, ranks.typical_counts, strict=True):
        if n < needed:
            sentence = _(
                "No guarantee at this α for «%(label)s»: %(n)d calibration cases, %(needed)d needed."
            )
            found.append(sentence % {"label": name, "n": n, "needed": needed})
        if typical < vetoes:
            sentence = _(
                "A floor of %(floor)s vetoes nothing labelled «%(label)s»: %(n)d calibration distances reach down "
                "to %(least)s only."
            )
            least = number_format(round(1 / (typical + 1), 4))
            found.append(
                sentence % {"label": name, "n": typical, "floor": number_format(floor), "least": least}
            )
    return found


def audited(place: Workplace, alpha: float, floor: float, rate: float) -> str:
    """What an audit rate means in cases a week, in words."""
    if not rate:
        return _("No automatic case is read: what is settled on its own stays unchecked.")
    tried = Policy(alpha=alpha, typicality_floor=floor, audit_rate=rate)
    came = arrivals(place.site, place.protocol, tried)
    if not came.enough:
        return _(
            "Automatic cases are drawn at this rate and read blind, and so is as large a share of deferred ones. How "
            "many that is a week can be told once cases have arrived for a week."
        )
    automatic, deferred = (
        round(rate * n / came.weeks) for n in (came.automatic, came.cases - came.automatic)
    )
    drawn = ngettext(
        "About %(n)s automatic case a week is drawn and read blind;",
        "About %(n)s automatic cases a week are drawn and read blind;",
        automatic,
    ) % {"n": number_format(automatic)}
    blind = ngettext(
        "as large a share of deferred ones, about %(n)s, loses the model's view.",
        "as large a share of deferred ones, about %(n)s, lose the model's view.",
        deferred,
    ) % {"n": number_format(deferred)}
    return f"{drawn} {blind}"


def preview(place: Workplace, today: Policy, alpha: float, floor: float, rate: float) -> dict[str, Any]:
    """The site's cases under today's policy and under the candidate."""
    settings = [(today.alpha, today.typicality_floor), (alpha, floor)]
    now, then, changed = policy.compare(place.site, place.protocol, *settings)
    return {
        "n": sum(now.values()),
        "now": now,
        "then": then,
        "changed": changed,
        "warnings": warnings(place, alpha, floor),
        "audited": audited(place, alpha, floor, rate),
    }


def curve(place: Workplace, floor: float) -> dict[str, Any]:
    """Counts of the site's cases over α, and coverage, TPDR and clear F2 of the calibration cases with intervals."""
    own = policy.curve(place.site, place.protocol, ALPHAS, floor)
    ranks = calibration(place)
    targets = tuple(place.protocol.spec.target_indices)
    return {
        "alpha": ALPHAS,
        **own,
        "n": sum(counts[0] for counts in own.values()),
        "calibration": on_calibration(ranks.pk, floor, targets) if ranks and ranks.held_out else None,
    }


@lru_cache(maxsize=32)
def on_calibration(calibration_id: int, floor: float, targets: tuple[int, ...]) -> dict[str, Any]:
    """Coverage, TPDR and clear F2 over ALPHAS with 95 % bootstrap intervals, each case ranked against the others.

    Cases are weighted to the prevalence of the training file: a calibration holds more of the rare labels.
    """
    held_out = load_safetensors(bytes(Calibration.objects.get(pk=calibration_id).held_out))
    n = len(held_out["truth"])
    figures: dict[str, list[float | None]] = {
        f"{name}{end}": [] for name in ("coverage", "tpdr", "clear_f2") for end in ("", "_low", "_high")
    }
    for alpha in ALPHAS:
        for name, interval in _figures(held_out, alpha, floor, targets).items():
            for end, value in zip(("", "_low", "_high"), interval[:3], strict=True):
                figures[name + end].append(round(value, 4) if np.isfinite(value) else None)
    return {"n": n, "alpha": ALPHAS, **figures}


def _figures(
    held_out: dict[str, NDArray], alpha: float, floor: float, targets: tuple[int, ...]
) -> dict[str, metrics.Interval]:
    truth, label, prior = held_out["truth"], held_out["label"], held_out["weight"]
    numbers = (held_out[name] for name in ("credibility", "runner_up", "typicality"))
    decided = decision.decide(*numbers, alpha, floor)
    automatic = decided == decision.AUTOMATIC
    everyone = np.ones(len(truth), dtype=bool)
    return metrics.bootstrap(
        {
            "coverage": (lambda w: metrics.coverage(decided, w * prior), everyone),
            "tpdr": (lambda w: metrics.tpdr(decided, truth, targets, w * prior), everyone),
            "clear_f2": (
                lambda w: metrics.f_beta(truth, label, targets, weights=w * prior * automatic),
                automatic,
            ),
        },
        len(truth),
        REPLICATES,
    )
