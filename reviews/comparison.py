"""Champion and challenger on the same cases: where they agree, where not, and whom the labels prove right.

Compared are the cases of one site that both have scored over the notes as they are now, under the dial as it is today; a hold
on automation is left aside. Labels count only from the closed weeks of the random audit sample (``audited``): the other labels
are of cases the champion found hard, and would be unfair to it. Nor do those of a case that either learned from or came
calibrated with: what one has seen says nothing of either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from django.db.models import Case, CharField, Count, F, FilteredRelation, Q, QuerySet, Value, When
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from mlcore import decision
from mlcore.metrics import Interval
from reviews import audited, recalibration, visibility
from reviews.models import Review
from triage import policy as dial
from triage import registry
from triage.access import Workplace
from triage.models import Policy, Prediction, Protocol, Release

PAGE = 25
REPLICATES, SEED = 2000, 20260705


class Judged(NamedTuple):
    """What the labels say. n: labelled cases of the audit sample. only_champion, only_challenger: cases one alone has right.

    p: of McNemar's exact test. cost: the challenger's cost a case less the champion's, weighted by 1 / the chance to be
    drawn; below 0 the challenger is cheaper. Both None without a case.
    """

    n: int
    both: int
    only_champion: int
    only_challenger: int
    neither: int
    p: float | None
    cost: Interval | None


def mcnemar(b: int, c: int) -> float:
    """Two-sided exact p of McNemar's test (1947) for b and c discordant pairs: binomial with one half; 1 without any."""
    return float(binomtest(min(b, c), b + c, 0.5).pvalue) if b + c else 1.0


def costs(
    protocol: Protocol, truth: ArrayLike, label: ArrayLike, automatic: ArrayLike
) -> NDArray[np.float64]:
    """(n,) cost of each case: by the matrix where it is settled automatically, else of deferring a case of its label."""
    true, given = np.asarray(truth, dtype=int), np.asarray(label, dtype=int)
    settled = np.asarray(protocol.cost_automatic, dtype=np.float64)[true, given]
    return np.where(automatic, settled, np.asarray(protocol.cost_defer, dtype=np.float64)[true])


def mean_difference(differences: ArrayLike, weights: ArrayLike) -> Interval | None:
    """Weighted mean of (n,) paired differences with the percentile bootstrap 95 % interval over cases; None without any."""
    d, w = np.asarray(differences, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not len(d):
        return None
    drawn = np.random.default_rng(SEED).multinomial(len(d), np.full(len(d), 1 / len(d)), size=REPLICATES) * w
    low, high = np.quantile(drawn @ d / drawn.sum(axis=1), [0.025, 0.975])
    return Interval(float(d @ w / w.sum()), float(low), float(high), len(d))


def pairs(place: Workplace, policy: Policy, challenger: Release) -> QuerySet[Prediction]:
    """The standing predictions that have one of the challenger's beside them: its label, and both outcomes."""
    calibration = registry.calibration(challenger, place.site.pk)
    theirs = Q(case__predictions__release=challenger, case__predictions__calibration=calibration)
    standing = dial.standing(place.site, place.protocol)
    both = standing.annotate(challenger=FilteredRelation("case__predictions", condition=theirs))
    return both.filter(challenger__notes_sha256=F("notes_sha256")).annotate(
        now=_outcome("", policy), then=_outcome("challenger__", policy)
    )


def _outcome(of: str, policy: Policy) -> Case:
    """``dial.outcome`` for a prediction beside the row."""
    alpha, floor = policy.alpha, policy.typicality_floor
    return Case(
        When(**{f"{of}runner_up__gt": alpha}, then=Value("ambiguous")),
        When(**{f"{of}credibility__lte": alpha}, then=Value("novel")),
        When(**{f"{of}typicality__lte": floor}, then=Value("atypical")),
        default=Value(dial.AUTOMATIC),
        output_field=CharField(),
    )


def compare(place: Workplace, user: Any, challenger: Release, page: int) -> dict[str, Any]:
    """The facts of the page; ``page`` of the cases they see differently, from 1."""
    policy = dial.current(place.site, place.protocol)
    both = pairs(place, policy, challenger)
    labels, outcomes = _table(both, "label", "challenger__label"), _table(both, "now", "then")
    return {
        "policy": policy,
        "n": sum(labels.values()),
        "labels": _square(labels, list(range(len(place.protocol.labels))), place.protocol.label_names),
        "outcomes": _square(outcomes, list(decision.NAMES), None),
        "same_label": sum(n for (a, b), n in labels.items() if a == b),
        "same_outcome": sum(n for (a, b), n in outcomes.items() if a == b),
        "judged": judged(place, policy, both, challenger),
    } | _disagreements(place, user, policy, both, page)


def _table(both: QuerySet[Prediction], now: str, then: str) -> dict[tuple[Any, Any], int]:
    rows = both.order_by().values_list(now, then).annotate(n=Count("pk"))
    return {(a, b): n for a, b, n in rows}


def _square(counts: dict[tuple[Any, Any], int], keys: list[Any], names: list[str] | None) -> list[Any]:
    """(key, name, [(whether it is the diagonal, count)]) of each row: rows the champion's, columns the challenger's."""
    return [
        (key, names[i] if names else "", [(key == other, counts.get((key, other), 0)) for other in keys])
        for i, key in enumerate(keys)
    ]


def _disagreements(
    place: Workplace, user: Any, policy: Policy, both: QuerySet[Prediction], page: int
) -> dict[str, Any]:
    """Cases with another label or another outcome, the most urgent first; of those covered from ``user`` only how many."""
    differ = both.filter(~Q(label=F("challenger__label")) | ~Q(now=F("then")))
    hidden = visibility.covered(place, policy, user) & ~Q(pk__in=_judged_by(place, user))
    counts = differ.aggregate(n_differ=Count("pk"), covered=Count("pk", filter=hidden))
    shown = differ.exclude(hidden).order_by("-urgency", "case_id")
    columns = ("case_id", "label", "challenger__label", "now", "then")
    rows = shown.annotate(pseudonym=F("case__patient__pseudonym")).values_list(
        *columns, "pseudonym", named=True
    )
    found = list(rows[(page - 1) * PAGE : page * PAGE + 1])
    names = place.protocol.label_names
    return counts | {
        "rows": [(row, names[row.label], names[row.challenger__label]) for row in found[:PAGE]],
        "previous": page - 1,
        "more": page + 1 if len(found) > PAGE else None,
    }


def _judged_by(place: Workplace, user: Any) -> QuerySet[Any]:
    """Predictions the user's own verdict stands on."""
    own = Review.objects.filter(reader=user, withdrawn_at=None, case__site=place.site)
    return own.values("prediction")


def judged(place: Workplace, policy: Policy, both: QuerySet[Prediction], challenger: Release) -> Judged:
    """The labelled audit sample, as champion and challenger have it, of cases neither has seen."""
    cases = audited.sample(place.site, place.protocol).closed
    for release in (recalibration.active_release(place.protocol), challenger):
        cases = recalibration.unseen(release, cases, judging=True)
    drawn = {one.prediction: one for one in cases}
    columns = ("pk", "label", "challenger__label", "now", "then")
    rows = [row for row in both.filter(pk__in=drawn).values_list(*columns) if drawn[row[0]].label is not None]
    truth = np.array([drawn[row[0]].label for row in rows], dtype=int)
    weights = [1 / drawn[row[0]].rate for row in rows]
    champion, other = (np.array([row[i] for row in rows], dtype=int) for i in (1, 2))
    right, better = champion == truth, other == truth
    spent = [
        costs(place.protocol, truth, given, np.array([row[i] == dial.AUTOMATIC for row in rows], dtype=bool))
        for given, i in ((champion, 3), (other, 4))
    ]
    b, c = int(np.sum(right & ~better)), int(np.sum(~right & better))
    return Judged(
        n=len(rows),
        both=int(np.sum(right & better)),
        only_champion=b,
        only_challenger=c,
        neither=int(np.sum(~right & ~better)),
        p=mcnemar(b, c) if rows else None,
        cost=mean_difference(spent[1] - spent[0], weights),
    )
