"""What the dial page shows: this site's own cases now and then, and the calibration cases read as if they were new."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors

from mlcore import conformal, decision, metrics
from triage import policy, registry
from triage.access import Workplace
from triage.models import Calibration, Policy, Release

ALPHAS = [round(float(alpha), 4) for alpha in np.geomspace(0.002, 0.2, 50)]
REPLICATES = 200


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


def preview(place: Workplace, today: Policy, alpha: float, floor: float) -> dict[str, Any]:
    """The site's cases under today's policy and under the candidate."""
    settings = [(today.alpha, today.typicality_floor), (alpha, floor)]
    now, then, changed = policy.compare(place.site, place.protocol, *settings)
    return {
        "n": sum(now.values()),
        "now": now,
        "then": then,
        "changed": changed,
        "warnings": warnings(place, alpha, floor),
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
