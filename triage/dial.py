"""What the dial page shows: this site's own cases now and then, the calibration cases read as if they were new, and the
reading that comes of it. Every figure comes with its interval and the number of cases it stands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from django.core.cache import cache
from django.db.models import Count, Exists, Min, OuterRef, QuerySet
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors
from scipy.special import betaincinv, gammaincinv

from mlcore import certify, conformal, decision, metrics
from triage import policy, registry, sampling, tally
from triage.access import Workplace
from triage.models import Calibration, Policy, Prediction, Protocol, Release, Site
from triage.tally import Setting

ALPHAS = list(tally.CURVE)
REPLICATES = 200
SET_ALPHAS = (0.01, 0.02, 0.05)
WEEKS = 4
WEEKS_LEAST = 1
ARRIVED_SECONDS = 600


class Pace(NamedTuple):
    """Seconds a reading takes: the median of ``n`` readings, with an interval of confidence 97.5 %."""

    seconds: float
    low: float
    high: float
    n: int


PACES: list[Callable[[Site, Protocol], Pace | None]] = []  # of the app that knows of readings


def pace(place: Workplace) -> Pace | None:
    return next(filter(None, (ask(place.site, place.protocol) for ask in PACES)), None)


# What comes in


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
        return _enough(self.weeks, self.cases)


def _enough(weeks: float, cases: int) -> bool:
    return weeks >= WEEKS_LEAST and cases > 0


def arrivals(site: Site, protocol: Protocol, dial: Policy) -> Arrivals:
    """What came in lately. A case scored anew over the same notes, by another release, did not come in."""
    since, weeks = _lately(site, protocol)
    deferred = policy.deferred(dial.alpha, dial.typicality_floor, dial.automate)
    counts = _fresh(site, protocol, since).aggregate(
        cases=Count("pk"),
        automatic=Count("pk", filter=~deferred),
        read=Count("pk", filter=sampling.to_read(dial)),
    )
    return Arrivals(weeks=weeks, **counts)


def arrived(place: Workplace, n: int) -> tuple[float, int]:
    """(weeks, cases) of ``arrivals``, counted again when ``n``, the cases there are, has changed."""

    def count() -> tuple[float, int]:
        since, weeks = _lately(place.site, place.protocol)
        return weeks, _fresh(place.site, place.protocol, since).count()

    return cache.get_or_set(f"arrived:{place.site.pk}:{place.protocol.pk}:{n}", count, ARRIVED_SECONDS)


def _lately(site: Site, protocol: Protocol) -> tuple[datetime, float]:
    """Since when, and for how many weeks, arrivals are counted."""
    now, here = timezone.now(), Prediction.objects.filter(site=site, protocol=protocol)
    since = now - timedelta(weeks=WEEKS)
    if not here.filter(at__lt=since).exists():
        since = here.aggregate(at=Min("at"))["at"] or now
    return since, (now - since) / timedelta(weeks=1)


def _fresh(site: Site, protocol: Protocol, since: datetime) -> QuerySet[Prediction]:
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256")}
    before = Exists(Prediction.objects.filter(**same, at__lt=since))
    return policy.standing(site, protocol).filter(~before, at__gte=since)


def per_week(found: float, weeks: float, confidence: float = 0.95) -> list[float]:
    """[rate, low, high] a week of ``found`` events in so many weeks: the exact interval of a Poisson count (Garwood 1936)."""
    tail = (1 - confidence) / 2
    low = float(gammaincinv(found, tail)) if found else 0.0
    return [found / weeks, low / weeks, float(gammaincinv(found + 1, 1 - tail)) / weeks]


# What calibration supports


def calibration(place: Workplace) -> Calibration | None:
    """The calibration this workplace's cases are ranked against, if a release is installed."""
    release = Release.objects.filter(protocol=place.protocol, active=True).first()
    return registry.calibration(release, place.site.pk) if release else None


def _weights(ranks: Calibration) -> Sequence[float]:
    """What the calibration cases of each label weigh together; each weighs 1 but in a calibration made from labels."""
    if not ranks.made_of:
        return ranks.counts
    from triage.scoring import ranks as loaded

    limits = loaded(ranks.pk).limits()
    return [limits[label].get("weight", n) for label, n in enumerate(ranks.counts)]


def refusals(place: Workplace, alpha: float) -> list[str]:
    """Why ``alpha`` cannot be set, a sentence for each label that calibration cannot tell of so finely.

    A p-value is at least 1 / (n + 1). Below that α a label is never ruled out: no case would be settled as any other, and
    the α would promise a care that nothing was measured for. Who wants everything read puts automation on hold. A large α
    is refused by the form (0.5), and a floor that vetoes nothing is told of, not refused: 0 is a lawful floor.
    """
    return _too_fine(place, calibration(place), alpha)


def _too_fine(place: Workplace, ranks: Calibration | None, alpha: float) -> list[str]:
    if ranks is None:
        return []
    found = []
    for name, weight in zip(place.protocol.label_names, _weights(ranks), strict=True):
        if alpha < 1 / (weight + 1):
            sentence = _(
                "Calibration cannot tell of so small an α: with %(n)d cases of «%(label)s» it would never be ruled out; %(needed)d are needed."
            )
            needed = conformal.minimum_n(alpha)
            found.append(sentence % {"label": name, "n": int(weight), "needed": needed})
    return found


def warnings(place: Workplace, ranks: Calibration | None, floor: float) -> list[str]:
    """What to know of these settings before they are saved, a sentence each."""
    if ranks is None:
        return [_("No release is installed for this protocol: nothing is scored yet.")]
    vetoes, found = (conformal.minimum_n(floor) if floor else 0), []
    for name, typical in zip(place.protocol.label_names, ranks.typical_counts, strict=True):
        if typical < vetoes:
            sentence = _(
                "A floor of %(floor)s vetoes nothing labelled «%(label)s»: %(n)d calibration distances reach down "
                "to %(least)s only."
            )
            least = number_format(round(1 / (typical + 1), 4))
            told = {"label": name, "n": typical, "floor": number_format(floor), "least": least}
            found.append(sentence % told)
    return found


# Before it is saved


def preview(place: Workplace, today: Policy, then: Setting, rate: float) -> dict[str, Any]:
    """The site's cases under today's policy and under the candidate, and what each means on calibration and in a week."""
    now = tally.setting(today)
    before, after, changed = tally.compare(place.site, place.protocol, now, then)
    n, ranks = sum(before.values()), calibration(place)
    weeks, cases = arrived(place, n)
    reading = Week(weeks, cases, 1 + place.protocol.double_share, pace(place))
    return {
        "n": n,
        "alpha": then.alpha,
        "now": before,
        "then": after,
        "changed": changed,
        "refused": _too_fine(place, ranks, then.alpha) if then.alpha != today.alpha else [],
        "warnings": warnings(place, ranks, then.floor),
        "audited": audited(after, rate, reading),
        "calibration": {"now": _at(place, ranks, now), "then": _at(place, ranks, then)},
        "week": {"now": week(before, today.audit_rate, reading), "then": week(after, rate, reading)},
    }


class Week(NamedTuple):
    """``cases`` that came in so many weeks, how often each is read, and how long that takes."""

    weeks: float
    cases: int
    times: float
    pace: Pace | None


def week(counts: dict[str, int], rate: float, came: Week) -> dict[str, Any]:
    """deferred: [cases a week, low, high]; hours: the same of reading deferred and drawn cases; None where not known.

    The share of the site's own cases is carried to what arrives. Hours have the bounds of a count and of a median, each
    of confidence 97.5 %, multiplied: together at least 95 %.
    """
    n = sum(counts.values())
    if not n or not _enough(came.weeks, came.cases):
        return {
            "deferred": None,
            "hours": None,
            "arrived": came.cases,
            "timed": came.pace.n if came.pace else 0,
        }
    automatic = counts["automatic"]
    deferred, read = came.cases * (n - automatic) / n, came.cases * (n - automatic + rate * automatic) / n
    hours = None
    if came.pace:
        seconds = (came.pace.seconds, came.pace.low, came.pace.high)
        reads = per_week(read, came.weeks, 0.975)
        hours = [times * came.times * each / 3600 for times, each in zip(reads, seconds, strict=True)]
    return {
        "deferred": per_week(deferred, came.weeks),
        "hours": hours,
        "arrived": came.cases,
        "timed": came.pace.n if came.pace else 0,
    }


def audited(counts: dict[str, int], rate: float, came: Week) -> str:
    """What an audit rate means in cases a week, in words."""
    if not rate:
        return _("No automatic case is read: what is settled on its own stays unchecked.")
    n = sum(counts.values())
    if not n or not _enough(came.weeks, came.cases):
        return _(
            "Automatic cases are drawn at this rate and read blind, and so is as large a share of deferred ones. How "
            "many that is a week can be told once cases have arrived for a week."
        )
    shares = (counts["automatic"] / n, 1 - counts["automatic"] / n)
    automatic, deferred = (round(rate * share * came.cases / came.weeks) for share in shares)
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


class NotAffordable(Exception):
    """No α keeps reading within the hours; the sentence says why."""


def within(place: Workplace, hours: float, floor: float, rate: float) -> float:
    """The most careful α of the curve, of those that calibration supports, at which reading takes at most so many hours a
    week. Raises NotAffordable."""
    own = tally.curve(place.site, place.protocol, ALPHAS, floor)
    n, took = sum(counts[0] for counts in own.values()), pace(place)
    weeks, cases = arrived(place, n)
    if took is None or not _enough(weeks, cases):
        raise NotAffordable(
            _("Hours can be told once cases have arrived for a week and ten readings were timed.")
        )
    deferred = [1 - automatic / n for automatic in own["automatic"]]
    minutes = took.seconds * (1 + place.protocol.double_share) / 60
    found, ranks = (
        certify.by_budget(ALPHAS, deferred, cases / weeks, minutes, hours, rate),
        calibration(place),
    )
    enough = [a for a, need in zip(ALPHAS, found.hours, strict=True) if need <= hours]
    fit = [a for a in enough if not _too_fine(place, ranks, a)]
    if not fit:
        least = number_format(round(float(found.hours.min()), 1))
        raise NotAffordable(
            _("No α up to %(alpha)s fits: the least reading is %(hours)s hours a week.")
            % {"alpha": number_format(ALPHAS[-1]), "hours": least}
        )
    return fit[0]


# Calibration


def curve(place: Workplace, floor: float) -> dict[str, Any]:
    """Counts of the site's cases over α, and coverage, TPDR and clear F2 of the calibration cases with intervals."""
    own = tally.curve(place.site, place.protocol, ALPHAS, floor)
    ranks = calibration(place)
    return {
        "alpha": ALPHAS,
        **own,
        "n": sum(counts[0] for counts in own.values()),
        "calibration": on_calibration(ranks.pk, floor, _targets(place)) if ranks and ranks.held_out else None,
    }


def _targets(place: Workplace) -> tuple[int, ...]:
    return tuple(place.protocol.spec.target_indices)


def _at(
    place: Workplace, ranks: Calibration | None, setting: Setting
) -> dict[str, list[float | None]] | None:
    """name → [value, low, high, n] on calibration; the hold aside. Of several targets also of each: «tpdr/Death»."""
    if not ranks or not ranks.held_out:
        return None
    targets = _targets(place)
    found = at_setting(ranks.pk, setting.alpha, setting.floor, targets)
    for target in targets if len(targets) > 1 else ():
        alone = at_setting(ranks.pk, setting.alpha, setting.floor, (target,))
        found = found | {f"{name}/{place.protocol.labels[target]}": alone[name] for name in OF_TARGET}
    return found


@lru_cache(maxsize=32)
def on_calibration(calibration_id: int, floor: float, targets: tuple[int, ...]) -> dict[str, Any]:
    """``at_setting`` over ALPHAS, as lists: name, name_low, name_high, and n."""
    rows = [_figures(calibration_id, alpha, floor, targets, CURVED) for alpha in ALPHAS]
    ends = {f"{name}{end}": (name, i) for name in CURVED for i, end in enumerate(("", "_low", "_high"))}
    figures = {key: [row[name][i] for row in rows] for key, (name, i) in ends.items()}
    return {"n": len(held_out(calibration_id)["truth"]), "alpha": ALPHAS, **figures}


CURVED = ("coverage", "tpdr", "clear_f2")
OF_TARGET = ("tpdr", "clear_f2", "missed")


@lru_cache(maxsize=512)
def at_setting(
    calibration_id: int, alpha: float, floor: float, targets: tuple[int, ...]
) -> dict[str, list[float | None]]:
    """coverage, TPDR, clear F2 and target cases missed per 1,000 automatic ones: [value, low, high, n], 95 %.

    Cases are ranked each against the others and weighted to the prevalence of the training file: a calibration holds more
    of the rare labels. Bootstrap intervals; where few or no cases are missed the resamples know too little, so the upper
    end of the missed is at least the bound that bets reach (``mlcore.certify.upper_bound``).
    """
    return _figures(calibration_id, alpha, floor, targets, (*CURVED, "missed"))


@lru_cache(maxsize=8)
def held_out(calibration_id: int) -> dict[str, NDArray]:
    return load_safetensors(bytes(Calibration.objects.get(pk=calibration_id).held_out))


def _figures(
    calibration_id: int, alpha: float, floor: float, targets: tuple[int, ...], wanted: Sequence[str]
) -> dict[str, list[float | None]]:
    """Every figure is a ratio of weighted counts, so all resamples of all figures are one product of matrices."""
    cases = held_out(calibration_id)
    numbers = (cases[name] for name in ("credibility", "runner_up", "typicality"))
    automatic = decision.decide(*numbers, alpha, floor) == decision.AUTOMATIC
    true, said = (metrics.is_target(cases[name], targets) for name in ("truth", "label"))
    everyone, missed = np.ones(len(true), dtype=bool), automatic & true & ~said
    counted = (
        everyone,
        automatic,
        true,
        true & ~automatic,
        automatic & true & said,
        missed,
        automatic & said & ~true,
    )
    every, settled, known, deferred, hits, misses, alarms = (
        resamples(calibration_id) @ np.stack(counted, 1)
    ).T
    ratios = {
        "coverage": (settled, every, everyone),
        "tpdr": (deferred, known, true),
        "clear_f2": (5 * hits, 5 * hits + 4 * misses + alarms, automatic),
        "missed": (1000 * misses, settled, automatic),
    }
    found = {name: _interval(*ratios[name]) for name in wanted}
    if "missed" in found and automatic.any():
        found["missed"] = _bounded(found["missed"], cases["weight"][automatic], missed[automatic])
    return {
        name: [*(round(x, 4) if np.isfinite(x) else None for x in figure[:3]), figure.n]
        for name, figure in found.items()
    }


class Held(NamedTuple):
    """Share of the calibration cases of one label whose prediction set holds another, or its own."""

    value: float
    low: float
    high: float


def sets(place: Workplace, ranks: Calibration) -> list[dict[str, Any]]:
    """At each α of SET_ALPHAS what the sets of calibration cases hold: a row a true label, a cell a label in the set.

    Empty for two labels, where a set that holds both says all there is, and where the calibration does not keep them.
    """
    cases, names = held_out(ranks.pk) if ranks.held_out else {}, place.protocol.label_names
    if len(names) < 3 or "p_values" not in cases:
        return []
    return [
        {"alpha": alpha, "rows": list(zip(names, *_held(cases, alpha, len(names)), strict=True))}
        for alpha in SET_ALPHAS
    ]


def _held(cases: dict[str, NDArray], alpha: float, k: int) -> tuple[list[int], list[list[Held]]]:
    """For each true label: how many cases, and for each label the share of their sets that hold it."""
    inside = conformal.prediction_set(cases["p_values"], alpha)
    each = [cases["truth"] == label for label in range(k)]
    return [int(of.sum()) for of in each], [
        [_share(inside[of, label], cases["weight"][of]) for label in range(k)] for of in each
    ]


def _share(holds: NDArray[np.bool_], weight: NDArray) -> Held:
    """Clopper and Pearson's 95 % interval; where cases weigh unlike, of as many cases as their weights are worth."""
    value = min(float(weight @ holds / weight.sum()), 1.0)  # a sum of many weights may round up
    n = conformal.effective_size(weight)
    part = value * n
    low = float(betaincinv(part, n - part + 1, 0.025)) if value > 0 else 0.0
    return Held(value, low, float(betaincinv(part + 1, n - part, 0.975)) if value < 1 else 1.0)


@lru_cache(maxsize=4)
def resamples(calibration_id: int) -> NDArray[np.float64]:
    """(1 + REPLICATES, n): what each calibration case counts for, in the file itself and in bootstrap resamples of it."""
    weight = held_out(calibration_id)["weight"].astype(np.float64)
    n, random = len(weight), np.random.default_rng(metrics.SEED)
    drawn = random.multinomial(n, np.full(n, 1 / n), size=REPLICATES)
    return np.vstack([np.ones(n), drawn]) * weight


def _interval(part: NDArray, whole: NDArray, cases: NDArray[np.bool_]) -> metrics.Interval:
    value, *drawn = np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
    known = [x for x in drawn if np.isfinite(x)]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (np.nan, np.nan)
    return metrics.Interval(float(value), float(low), float(high), int(cases.sum()))


def _bounded(found: metrics.Interval, prior: NDArray, wrong: NDArray[np.bool_]) -> metrics.Interval:
    weight = prior / prior.max()
    sample = certify.Sample(weight, wrong, bool((weight == 1).all()))
    return found._replace(high=max(found.high, 1000 * certify.upper_bound(sample, 0.025)))
