"""The dial as an instrument: what a risk tolerance is certified for, what each price of an error would choose, and which
cases would change hands.

Two sets of cases may certify, each apart. The release's held-out calibration cases, weighted to the training file's
prevalence: their certificate holds at a site that is like that file. And the site's own audit sample
(``reviews.audited``): cases chosen by nothing but their lot, each standing for 1 / its chance to be drawn. Those that made
the release or its calibration are its own: only what came later may certify it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from django.db import connection
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors

from mlcore import certify as certifying
from mlcore import decision, metrics
from mlcore.certify import Certificate, Labelled, Sample, Side
from reviews import recalibration, selectors, visibility
from reviews.audited import Drawn
from reviews.models import Review
from reviews.rows import among
from triage import dial as dialling
from triage import policy as dial
from triage import registry
from triage.access import Workplace
from triage.models import Calibration, Dial, Policy, Prediction, Release

CONFIDENCE = 0.95
REPLICATES = 500
OWN_LEAST = 100
PAGE = 30
OLD = timedelta(weeks=4)
Floats = NDArray[np.float64]


class Calibrated(NamedTuple):
    """The calibration cases of the release in use, read as if they were new."""

    pk: int
    cases: Labelled
    from_labels: bool


class Audit(NamedTuple):
    """The cases of a site's audit sample (``reviews.audited``) that may certify, those of closed weeks.

    One case of each patient. stuck: those without a label that were read, or could have been for a month; truth -1.
    waiting: cases of the sample without a label; open: labelled ones of the same weeks, which do not count yet; own: cases
    that made the release or its calibration. rate: today's audit rate; a_week: audit reads of late; heaviest: the most a case
    of the sample may stand for.
    """

    cases: Labelled
    stuck: Labelled
    waiting: int
    open: int
    own: int
    rate: float
    a_week: float | None
    heaviest: float | None


class Certified(NamedTuple):
    """What one set of cases says. certificate None: there is no case; then reads is what would do at best, None: no number.

    reads: further cases to be read, at best, where nothing is certified; weeks: they take at today's audit rate.
    """

    of: Literal["site", "calibration"]
    n: int
    certificate: Certificate | None
    reads: int | None
    weeks: float | None


class Chosen(NamedTuple):
    """What a price of errors chooses: α and the cost of a case at it, with intervals; of a case today, and with all read."""

    alpha: metrics.Interval
    cost: metrics.Interval
    today: float
    reading_all: float


class Changes(NamedTuple):
    """Cases that change hands: those shown by the way they go, how many are covered, a page of the shown, and whether more."""

    to_automatic: int
    to_reader: int
    covered: int
    rows: list[Any]
    more: int | None


def release_in_use(place: Workplace) -> Release | None:
    return Release.objects.filter(protocol=place.protocol, active=True).first()


def calibrated(place: Workplace) -> Calibrated | None:
    """None without a release, or where the calibration keeps no cases."""
    release = release_in_use(place)
    found = registry.calibration(release, place.site.pk) if release else None
    if found is None or not found.held_out:
        return None
    return Calibrated(found.pk, _held_out(found.pk), bool(found.made_of))


@lru_cache(maxsize=8)
def _held_out(calibration: int) -> Labelled:
    arrays = load_safetensors(bytes(Calibration.objects.get(pk=calibration).held_out))
    return Labelled(*(arrays[name] for name in Labelled._fields))


def audit(place: Workplace) -> Audit:
    """The site's audit sample, over the predictions that stand; none without a release."""
    rate = dial.current(place.site, place.protocol).audit_rate
    if release_in_use(place) is None:
        return Audit(_labelled([]), _labelled([]), 0, 0, 0, rate, None, None)
    found = recalibration.labelled(place.site, place.protocol, judging=True)
    sample, later = found.sample, _weeks_after(place)
    kept = {case.prediction: case for case in found.cases if later is None or case.week.isoformat() > later}
    cases = _one_a_patient(kept)
    stuck = _one_a_patient({case.prediction: case for case in sample.open if _stuck(case)})
    return Audit(
        cases=cases,
        stuck=stuck,
        waiting=sample.unread + sample.unsettled,
        open=sample.labelled_in_open,
        own=len(sample.closed) - len(kept),
        rate=rate,
        a_week=sample.a_week if rate else None,
        heaviest=max([*cases.weight, *stuck.weight, 1 / rate if rate else 0.0]) if len(kept) else None,
    )


def _stuck(case: Drawn) -> bool:
    """Whether it was read, or could have been for a month, and has no label."""
    return case.label is None and (case.read is not None or timezone.localdate() - case.arrived > OLD)


def _one_a_patient(cases: dict[int, Drawn]) -> Labelled:
    """Of each patient the case of the smallest lot: a certificate counts cases that know nothing of each other. Truth -1:
    no label."""
    columns = ("case__patient", "pk", *Labelled._fields[:4])
    rows = Prediction.objects.filter(pk__in=among(cases)).order_by("case__patient", "lot", "pk")
    first = {patient: row for patient, *row in reversed(rows.values_list(*columns))}
    return _labelled(
        [
            (*row, -1 if cases[pk].label is None else cases[pk].label, 1 / cases[pk].rate)
            for pk, *row in first.values()
        ]
    )


def _weeks_after(place: Workplace) -> str | None:
    """The last Monday whose cases made the calibration in use; None where no label made it."""
    release = release_in_use(place)
    made_of = registry.calibration(release, place.site.pk).made_of if release else {}
    return made_of["weeks"][-1] if made_of.get("weeks") else None


def _labelled(rows: Sequence[tuple[Any, ...]]) -> Labelled:
    credibility, runner_up, typicality, label, truth, weight = (
        np.array(rows, dtype=np.float64).reshape(-1, 6).T
    )
    return Labelled(
        credibility, runner_up, typicality, label.astype(np.int64), truth.astype(np.int64), weight
    )


def certified(
    place: Workplace, own: Audit, known: Calibrated | None, rate: float, floor: float, side: Side
) -> list[Certified]:
    """What the site's own sample certifies, and what the calibration cases do, each apart.

    rate: share in (0, 1) of the automatic cases of the side that may be wrong. floor: typicality floor of the dial.
    """
    found = [_of_site(place, own, rate, floor, side)]
    return [*found, _of_calibration(place, known, rate, floor, side)] if known else found


def _with(cases: Labelled, more: Labelled) -> Labelled:
    return Labelled(*(np.concatenate(pair) for pair in zip(cases, more, strict=True)))


def _of_site(place: Workplace, own: Audit, rate: float, floor: float, side: Side) -> Certified:
    """Cases that stay without a label count as wrong, once any has one: they are those nobody could judge."""
    targets = place.protocol.spec.target_indices
    others = [i for i in range(len(place.protocol.labels)) if i not in targets]
    worst = next(iter(targets if side == "negative" else others))
    cases = _with(own.cases, own.stuck._replace(truth=np.full_like(own.stuck.truth, worst)))
    n = len(cases.truth) if len(own.cases.truth) else 0
    shares = automatic_shares(place, floor, side, beyond=float(1 / cases.weight.min()) if n else 0.0)
    if not n:
        none = Sample(np.empty(0), np.empty(0, dtype=bool), True)
        further = certifying.further_cases(none, rate, 1 - CONFIDENCE, 0.0)
        most = 0.0 if shares is None else float(shares.max())
        reads = int(np.ceil(further / most)) if further and most else None
        return Certified("site", 0, None, reads, _weeks(reads, own))
    certificate = certifying.certify(
        cases,
        dialling.ALPHAS,
        rate,
        targets=targets,
        floor=floor,
        side=side,
        confidence=CONFIDENCE,
        by_propensity=True,
        heaviest=own.heaviest,
        expected=None if shares is None else shares * n,
        mix=shares,
    )
    reads = None if certificate.alpha or not certificate.nearest else certificate.nearest.reads_at_best
    return Certified("site", n, certificate, reads, _weeks(reads, own))


def _of_calibration(place: Workplace, known: Calibrated, rate: float, floor: float, side: Side) -> Certified:
    certificate = _of_file(known.pk, place.protocol.spec.target_indices, rate, floor, side)
    return Certified("calibration", len(known.cases.truth), certificate, None, None)


@lru_cache(maxsize=64)
def _of_file(
    calibration: int, targets: tuple[int, ...], rate: float, floor: float, side: Side
) -> Certificate:
    """Of calibration cases, which never change; weighted ones take long."""
    cases = _held_out(calibration)
    return certifying.certify(
        cases, dialling.ALPHAS, rate, targets=targets, floor=floor, side=side, confidence=CONFIDENCE
    )


SHARES = """
    SELECT width_bucket(-runner_up, %(steps)s), width_bucket(-credibility, %(steps)s),
        count(*) FILTER (WHERE typicality > %(floor)s AND label = ANY(%(labels)s)), count(*)
    FROM triage_prediction WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND current AND lot >= %(beyond)s
    GROUP BY 1, 2
"""


def automatic_shares(place: Workplace, floor: float, side: Side, beyond: float) -> Floats | None:
    """(m,) share of the site's cases that each of the dial's alphas settles on the side, of those with a lot from ``beyond`` on.

    Those are a random part of them, none of the blind sample. None where there is none. As in ``triage.policy.curve``,
    the negated values make ties fall as the rule has them.
    """
    targets = set(place.protocol.spec.target_indices)
    labels = [i for i in range(len(place.protocol.labels)) if (i in targets) == (side == "positive")]
    steps = [-alpha for alpha in reversed(dialling.ALPHAS)]
    where = {"site": place.site.pk, "protocol": place.protocol.pk, "beyond": beyond}
    with connection.cursor() as cursor:
        cursor.execute(SHARES, where | {"steps": steps, "floor": floor, "labels": labels})
        rows = np.array(cursor.fetchall(), dtype=np.int64).reshape(-1, 4)
    if not len(rows):
        return None
    up, cred = (np.bincount(rows[:, i], rows[:, 2], len(steps) + 1)[::-1].cumsum()[:-1] for i in (0, 1))
    shares: Floats = (up - cred) / rows[:, 3].sum()
    return shares


def _weeks(reads: int | None, own: Audit) -> float | None:
    """How long so many reads of the sample take at the pace of late; None where that cannot be told."""
    return reads / own.a_week if reads and own.a_week else None


def priced(
    cases: Labelled, floor: float, today: Policy, prices: dict[str, metrics.Costs]
) -> dict[str, Chosen]:
    """What each price of errors would choose of the dial's alphas, all over the same resamples.

    An interval of α is that of the choice made anew in each resample; one of cost, at the α chosen.
    """
    alphas, prior, everyone = np.array(dialling.ALPHAS), cases.weight, np.ones(len(cases.truth), dtype=bool)
    settled = np.column_stack([_automatic(cases, alpha, floor) for alpha in alphas])
    measures: dict[str, Any] = {}
    for name, price in prices.items():
        costs = _costs(cases, price, settled)
        at = int(_least(prior, costs))
        measures[f"alpha {name}"] = (lambda w, c=costs: alphas[_least(w * prior, c)], everyone)
        measures[f"cost {name}"] = (lambda w, c=costs[:, at]: _mean(w * prior, c), everyone)
    found = metrics.bootstrap(measures, len(everyone), REPLICATES)
    now = _automatic(cases, today.alpha, today.typicality_floor) & today.automate
    return {
        name: Chosen(
            found[f"alpha {name}"],
            found[f"cost {name}"],
            float(_mean(prior, _costs(cases, price, now[:, None])[:, 0])),
            float(_mean(prior, _costs(cases, price, np.zeros((len(now), 1), dtype=bool))[:, 0])),
        )
        for name, price in prices.items()
    }


def _least(weights: Floats, costs: Floats) -> NDArray[np.intp]:
    """Which of the (n, m) costs is least in the mean, the first of equals, whatever the last digits of their sums."""
    least: NDArray[np.intp] = _mean(weights, costs).round(12).argmin(axis=-1)
    return least


def _mean(weights: Floats, values: Floats) -> Floats:
    """Weighted mean of (n,) or (n, m) values, by (n,) or (B, n) weights."""
    mean: Floats = weights / weights.sum(axis=-1, keepdims=True) @ values
    return mean


def _costs(cases: Labelled, price: metrics.Costs, settled: NDArray[np.bool_]) -> Floats:
    """(n, m) what each case costs where it is settled, (n, m), and where it is read."""
    given = np.asarray(price.automatic)[cases.truth, cases.label]
    read = np.asarray(price.defer)[cases.truth]
    return np.where(settled, given[:, None], read[:, None])


def _automatic(cases: Labelled, alpha: float, floor: float) -> NDArray[np.bool_]:
    decided = decision.decide(cases.credibility, cases.runner_up, cases.typicality, alpha, floor)
    return decided == decision.AUTOMATIC


def changing_hands(
    place: Workplace, user: Any, today: Policy, then: Dial, after: int | None = None
) -> Changes:
    """The site's cases that a reader would read and no longer does, or the reverse; the most urgent first.

    Of a case that ``user`` still has to read blind nothing is told: it is only counted. after: the case a page begins after.
    """
    now_read, then_read = (dial.deferred(d.alpha, d.typicality_floor, d.automate) for d in (today, then))
    changed = dial.standing(place.site, place.protocol).filter(now_read & ~then_read | ~now_read & then_read)
    hidden = visibility.covered(place, today, user) & ~Q(_judged(user))
    counts = changed.aggregate(
        covered=Count("pk", filter=hidden),
        to_automatic=Count("pk", filter=now_read & ~hidden),
        to_reader=Count("pk", filter=~now_read & ~hidden),
    )
    rows = _page(changed.exclude(hidden), after, dial.outcome_under(today), dial.outcome_under(then))
    return Changes(**counts, rows=rows[:PAGE], more=rows[PAGE - 1].case_id if len(rows) > PAGE else None)


def _judged(user: Any) -> Exists:
    """Of predictions: the user's own verdict stands on the same notes."""
    same = {"case": OuterRef("case"), "notes_sha256": OuterRef("notes_sha256")}
    return Exists(Review.objects.filter(**same, withdrawn_at=None, reader=user))


def _page(shown: QuerySet[Prediction], after: int | None, now: Any, then: Any) -> list[Any]:
    last = shown.filter(case=after).first() if after else None
    rows = shown.filter(selectors.beyond(["-urgency"], last)) if last else shown
    told = rows.annotate(now=now, then=then, pseudonym=F("case__patient__pseudonym"))
    columns = ("pk", "case_id", "label", "pseudonym", "now", "then")
    return list(told.order_by("-urgency", "case_id").values_list(*columns, named=True)[: PAGE + 1])
