"""Champion and challenger on the same cases: where they agree, where not, and whom the labels prove right.

Compared are the cases of one site that both have scored over the notes as they are now, under the dial as it is today; a hold
on automation is left aside. Labels count only from the closed weeks of the random audit sample (``audited``): the other labels
are of cases the champion found hard, and would be unfair to it. Nor do those of a case that either learned from or came
calibrated with: what one has seen says nothing of either.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from django.db import transaction
from django.db.models import Case, CharField, Count, F, FilteredRelation, Q, QuerySet, Value, When
from django.utils.translation import gettext_noop
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from mlcore import decision
from mlcore.errors import DataError
from mlcore.metrics import Interval
from reviews import audited, recalibration, visibility
from reviews.models import Review
from triage import background, registry, tasks
from triage import policy as dial
from triage.access import Workplace
from triage.models import Policy, Prediction, Protocol, Release, Task

PAGE = 25
DIRECT = 20_000  # standing cases: more are compared by a task
LISTED = 1000  # of the cases they see differently
COMPARING = gettext_noop("Comparing case by case")
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


def pairs(place: Workplace | Task, policy: Policy, challenger: Release) -> QuerySet[Prediction]:
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
    """The facts of the page; ``page`` of the cases they see differently, from 1.

    Up to DIRECT cases are compared on the spot; of more it shows what a task made last. found is None where none has yet.
    """
    small = dial.standing(place.site, place.protocol)[: DIRECT + 1].count() <= DIRECT
    task = None if small else last(place, challenger)
    policy = dial.current(place.site, place.protocol)
    found = measure(place, policy, challenger) if small else task and task.result
    facts = {
        "policy": policy,
        "found": found,
        "small": small,
        "task": task,
        "work": follow(place, user, challenger),
    }
    if not found:
        return facts | {"n": 0}
    if found["policy"] != policy.version:
        facts |= {"policy": of_version(place, found["policy"]), "turned": policy}
    facts["recalibrated"] = found.get("calibrations") != calibrations(place, challenger)
    facts["digits"] = 3 if len(place.protocol.labels) == 2 else 4
    labels, outcomes = (_tally(found["table"], *of) for of in ((0, 1), (2, 3)))
    return (
        facts
        | {
            "n": sum(labels.values()),
            "labels": _square(labels, list(range(len(place.protocol.labels))), place.protocol.label_names),
            "outcomes": _square(outcomes, list(decision.NAMES), None),
            "same_label": sum(n for (a, b), n in labels.items() if a == b),
            "same_outcome": sum(n for (a, b), n in outcomes.items() if a == b),
            "judged": found["judged"],
            "n_differ": sum(n for a, b, now, then, n in found["table"] if (a, now) != (b, then)),
            "most": LISTED,
        }
        | _disagreements(place, user, facts["policy"], challenger, found["listed"], page)
    )


def calibrations(place: Workplace | Task, challenger: Release) -> list[int]:
    """Ids of the calibrations by which champion and challenger are read here."""
    releases = (recalibration.active_release(place.protocol), challenger)
    return [registry.calibration(release, place.site.pk).pk for release in releases]


def of_version(place: Workplace, version: int) -> Policy:
    return Policy.objects.get(site=place.site, protocol=place.protocol, version=version)


def measure(place: Workplace | Task, policy: Policy, challenger: Release) -> dict[str, Any]:
    """What does not depend on who looks, as JSON.

    policy: its version. calibrations: as the function says. table: [label of the champion, of the challenger, outcome of each, cases]. judged: as ``Judged``.
    listed: the LISTED most urgent predictions that have another label or outcome.
    """
    read_by = calibrations(place, challenger)
    both = pairs(place, policy, challenger)
    counted = both.order_by().values_list("label", "challenger__label", "now", "then").annotate(n=Count("pk"))
    other = Q(label__lt=F("challenger__label")) | Q(
        label__gt=F("challenger__label")
    )  # ~Q would join them once more
    differ = both.filter(other | ~Q(now=F("then")))
    said = judged(place, policy, both, challenger)
    return {
        "policy": policy.version,
        "calibrations": read_by,
        "table": [list(row) for row in counted],
        "judged": said._asdict() | {"cost": said.cost and said.cost._asdict()},
        "listed": list(differ.order_by("-urgency", "case_id").values_list("pk", flat=True)[:LISTED]),
    }


def ask(place: Workplace, challenger: Release, *, by: Any) -> Task:
    """Put the comparison in line, unless it is there already (then that task)."""
    with transaction.atomic():
        Protocol.objects.select_for_update(no_key=True).get(pk=place.protocol.pk)
        if (
            found := _tasks(place, challenger)
            .filter(status__in=["pending", "claimed"], stop_asked=False)
            .first()
        ):
            return found
        champion = recalibration.active_release(place.protocol)
        params = {"release": challenger.pk, "champion": champion.pk}
        return tasks.ask(Task.Kind.COMPARE, place.protocol, site=place.site, by=by, params=params)


def run(task: Task, progress: tasks.Progress) -> dict[str, Any]:
    """``measure`` under the dial in force; a comparison with another champion than the one asked about is none."""
    progress(COMPARING, 0, 0)
    champion = recalibration.active_release(task.protocol)
    if champion.pk != task.params["champion"]:
        raise DataError(registry.MOVED)
    challenger = Release.objects.get(pk=task.params["release"], protocol=task.protocol)
    return measure(task, dial.current(task.site, task.protocol), challenger)


def last(place: Workplace, challenger: Release) -> Task | None:
    """The comparison made last, with the champion that is active."""
    champion = recalibration.active_release(place.protocol).pk
    done = _tasks(place, challenger).filter(status=Task.Status.READY, params__champion=champion)
    return done.order_by("-ended_at").first()


def follow(place: Workplace, user: Any, challenger: Release) -> background.Entry | None:
    """The comparison asked for last, while it is under way or where it failed."""
    task = _tasks(place, challenger).order_by("-asked_at", "-pk").first()
    entry = background.entry(place, user, task) if task else None
    return entry if entry and (entry.open or entry.state == "failed") else None


def _tasks(place: Workplace, challenger: Release) -> QuerySet[Task]:
    return Task.objects.filter(
        kind=Task.Kind.COMPARE, site=place.site, protocol=place.protocol, params__release=challenger.pk
    )


def _tally(table: list[list[Any]], now: int, then: int) -> Counter[tuple[Any, Any]]:
    counts: Counter[tuple[Any, Any]] = Counter()
    for row in table:
        counts[row[now], row[then]] += row[-1]
    return counts


def _square(counts: Counter[tuple[Any, Any]], keys: list[Any], names: list[str] | None) -> list[Any]:
    """(key, name, [(whether it is the diagonal, count)]) of each row: rows the champion's, columns the challenger's."""
    return [
        (key, names[i] if names else "", [(key == other, counts[key, other]) for other in keys])
        for i, key in enumerate(keys)
    ]


def _disagreements(
    place: Workplace, user: Any, policy: Policy, challenger: Release, listed: list[int], page: int
) -> dict[str, Any]:
    """Cases of the list, the most urgent first; of those covered from ``user`` only how many."""
    differ = pairs(place, policy, challenger).filter(pk__in=listed)
    hidden = visibility.covered(place, dial.current(place.site, place.protocol), user)
    hidden &= ~Q(pk__in=_judged_by(place, user))
    shown = differ.exclude(hidden).order_by("-urgency", "case_id")
    columns = ("case_id", "label", "challenger__label", "now", "then")
    rows = shown.annotate(pseudonym=F("case__patient__pseudonym")).values_list(
        *columns, "pseudonym", named=True
    )
    found = list(rows[(page - 1) * PAGE : page * PAGE + 1])
    names = place.protocol.label_names
    return {
        "covered": differ.filter(hidden).count(),
        "rows": [(row, names[row.label], names[row.challenger__label]) for row in found[:PAGE]],
        "previous": page - 1,
        "more": page + 1 if len(found) > PAGE else None,
    }


def _judged_by(place: Workplace, user: Any) -> QuerySet[Any]:
    """Predictions the user's own verdict stands on."""
    own = Review.objects.filter(reader=user, withdrawn_at=None, case__site=place.site)
    return own.values("prediction")


def judged(
    place: Workplace | Task, policy: Policy, both: QuerySet[Prediction], challenger: Release
) -> Judged:
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
