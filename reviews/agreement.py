"""Which readings can be held against each other, and what they come to: agreement of readers, and of readers with the model.

Only verdicts given before the model's view and the other reader's words were seen are compared. Whoever took a verdict back
had seen both, so what they gave instead is no independent reading: its case is left out of the pairs, and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from django.utils import timezone

from mlcore import agreement
from mlcore.decision import AUTOMATIC, decide
from mlcore.metrics import Interval
from reviews.models import Adjudication, Review
from triage.access import Workplace
from triage.models import Policy

FEW = 10
FIELDS = [
    "id",
    "case",
    "notes_sha256",
    "reader",
    "label",
    "mode",
    "at",
    "withdrawn_at",
    "policy",
    "prediction__label",
    "prediction__lot",
    "prediction__credibility",
    "prediction__runner_up",
    "prediction__typicality",
]


class Reading(NamedTuple):
    """One verdict, withdrawn or not, with the prediction it was given on. ``label`` None: undecided."""

    pk: int
    case: int
    notes: str
    reader: int
    label: int | None
    mode: str
    at: Any
    withdrawn_at: Any
    policy: int
    model: int
    lot: float
    credibility: float
    runner_up: float
    typicality: float


class Pair(NamedTuple):
    """The first two standing readings of the same notes, by two people, each blind to the other."""

    first: Reading
    second: Reading

    @property
    def labelled(self) -> bool:
        return self.first.label is not None and self.second.label is not None


@dataclass(frozen=True)
class Bias:
    """Readers against the model. Shares are of verdicts with a label that are the model's label.

    assisted, blind: first verdicts on deferred cases, with the model's view and without (drawn by lot); one that was taken back
    counts where its reader gave another, and is no verdict where they did not. before, after: the
    verdict a reader first gave and the one that stands, on the same notes. The others: verdicts given anew after the reveal.
    """

    assisted: Interval
    blind: Interval
    difference: Interval
    before: Interval
    after: Interval
    change: Interval
    towards: int
    away: int
    neither: int


def readings(place: Workplace, until: date | None = None) -> list[Reading]:
    """Every reader's verdict of a workplace up to ``until``, those on the same notes together, the earliest first."""
    found = Review.objects.filter(case__site=place.site, case__protocol=place.protocol)
    found = found.filter(at__date__lte=until) if until else found
    rows = found.exclude(mode=Review.Mode.ADJUDICATION).order_by("case", "notes_sha256", "at", "pk")
    return [Reading(*row) for row in rows.values_list(*FIELDS).iterator(5000)]


def groups(rows: Iterable[Reading]) -> list[list[Reading]]:
    """The readings of each case's exact notes."""
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.case, row.notes))]


def pairs(groups: Iterable[Sequence[Reading]], since: date | None = None) -> tuple[list[Pair], int]:
    """The independent pairs whose second reading falls on ``since`` or later; and how many are left out: one was given anew."""
    found, given_anew = [], 0
    for group in groups:
        standing = [row for row in group if row.withdrawn_at is None]
        if len(standing) < 2 or not _from(standing[1], since):
            continue
        pair = Pair(*standing[:2])
        if any(_anew(row, group) for row in pair):
            given_anew += 1
        else:
            found.append(pair)
    return found, given_anew


def _from(row: Reading, since: date | None) -> bool:
    return since is None or timezone.localdate(row.at) >= since


def _anew(row: Reading, group: Sequence[Reading]) -> bool:
    """Whether its reader took an earlier verdict on these notes back."""
    return any(other.reader == row.reader and other.at < row.at for other in group)


def counts(groups: Iterable[Sequence[Reading]], k: int, since: date | None = None) -> np.ndarray:
    """(n, k) standing labels of each case read twice or more, for measures that take any number of readings."""
    rows = []
    for group in groups:
        standing = [row for row in group if row.withdrawn_at is None and not _anew(row, group)]
        given = [row.label for row in standing if row.label is not None]
        if len(given) > 1 and _from(standing[1], since):
            rows.append(np.bincount(given, minlength=k))
    return np.array(rows).reshape(-1, k)


def kappa(pairs: Sequence[Pair], k: int) -> Interval:
    """Cohen's kappa of first and second reading over the pairs in which both gave a label."""
    labelled = [pair for pair in pairs if pair.labelled]
    return agreement.cohen([p.first.label for p in labelled], [p.second.label for p in labelled], k)


def by_month(pairs: Iterable[Pair], k: int) -> list[tuple[date, Interval]]:
    """Kappa of the pairs completed in each month, the earliest first."""
    months: dict[date, list[Pair]] = defaultdict(list)
    for pair in pairs:
        months[timezone.localdate(pair.second.at).replace(day=1)].append(pair)
    return [(month, kappa(months[month], k)) for month in sorted(months)]


def by_readers(pairs: Iterable[Pair], k: int) -> dict[frozenset[int], Interval]:
    """Kappa of every two people who read the same cases."""
    people: dict[frozenset[int], list[Pair]] = defaultdict(list)
    for pair in pairs:
        people[frozenset((pair.first.reader, pair.second.reader))].append(_in_order(pair))
    return {two: kappa(theirs, k) for two, theirs in people.items()}


def _in_order(pair: Pair) -> Pair:
    return pair if pair.first.reader < pair.second.reader else Pair(pair.second, pair.first)


def confusion(pairs: Sequence[Pair], k: int) -> np.ndarray:
    """(k + 1, k + 1) pairs by label of the first and of the second reading; the last row and column are «undecided»."""
    given = [[k if row.label is None else row.label for row in pair] for pair in pairs]
    return agreement.confusion([first for first, _ in given], [second for _, second in given], k + 1)


def spans(pairs: Sequence[Pair]) -> tuple[dict[str, Interval], int]:
    """F1 of the passages over pairs in which both readers marked some; and the pairs in which only one did."""
    marks = dict(
        Review.objects.filter(pk__in=[row.pk for pair in pairs for row in pair])
        .exclude(evidence=[])
        .values_list("pk", "evidence")
    )
    both = [pair for pair in pairs if all(row.pk in marks for row in pair)]
    one = sum(any(row.pk in marks for row in pair) for pair in pairs) - len(both)
    sides = [
        [[(m["note"], m["start"], m["end"]) for m in marks[pair[side].pk]] for pair in both]
        for side in (0, 1)
    ]
    return agreement.span_f1(*sides), one


def bias(groups: Sequence[Sequence[Reading]], since: date | None = None) -> Bias:
    """The readers against the model, before and after it was shown to them."""
    firsts = [first for group in groups if (first := _first(group)) and _from(first, since)]
    firsts = [first for first in firsts if first.label is not None]
    policies = Policy.objects.in_bulk({row.policy for row in firsts})
    firsts = _deferred(firsts, policies)
    assisted = [row for row in firsts if row.mode == Review.Mode.ASSISTED]
    drawn = [row for row in firsts if row.lot < policies[row.policy].audit_rate]
    blind = [row for row in drawn if row.mode == Review.Mode.BLIND]
    arms = [(sum(row.label == row.model for row in arm), len(arm)) for arm in (assisted, blind)]
    chains = [chain for group in groups for chain in _chains(group) if _from(chain[0], since)]
    then, now = (
        ([row.label == row.model for row in ends] for ends in zip(*chains, strict=True))
        if chains
        else ([], [])
    )
    moved = [(a, b) for a, b in chains if a.label != b.label]
    towards, away = (sum(chain[end].label == chain[end].model for chain in moved) for end in (1, 0))
    return Bias(
        assisted=agreement.share(*arms[0]),
        blind=agreement.share(*arms[1]),
        difference=agreement.difference(*arms),
        before=agreement.share(sum(then), len(then)),
        after=agreement.share(sum(now), len(now)),
        change=agreement.change(then, now),
        towards=towards,
        away=away,
        neither=len(moved) - towards - away,
    )


def _first(group: Sequence[Reading]) -> Reading | None:
    """The earliest verdict of a reader whose verdict stands."""
    stay = {row.reader for row in group if row.withdrawn_at is None}
    return next((row for row in group if row.reader in stay), None)


def _deferred(rows: Sequence[Reading], policies: Mapping[int, Policy]) -> list[Reading]:
    """Those whose case the policy of the verdict itself had deferred."""
    found = []
    for pk, dial in policies.items():
        theirs = [row for row in rows if row.policy == pk]
        numbers = np.array([[row.credibility, row.runner_up, row.typicality] for row in theirs]).T
        codes = decide(*numbers, dial.alpha, dial.typicality_floor)
        found += [
            row for row, code in zip(theirs, codes, strict=True) if code != AUTOMATIC or not dial.automate
        ]
    return found


def _chains(group: Sequence[Reading]) -> list[tuple[Reading, Reading]]:
    """Of each reader of these notes the verdict first given and the one that stands, where both have a label."""
    chains = []
    for row in group:
        if row.withdrawn_at is None and row.label is not None:
            first = next(other for other in group if other.reader == row.reader)
            chains += [(first, row)] * (first.label is not None)
    return chains


def causes(place: Workplace, since: date | None, until: date | None) -> dict[str, int]:
    """What leads found to have made readings differ."""
    closed = Adjudication.objects.filter(
        case__site=place.site, case__protocol=place.protocol, review__isnull=False, review__withdrawn_at=None
    )
    for end, day in (("gte", since), ("lte", until)):
        closed = closed.filter(**{f"closed_at__date__{end}": day}) if day else closed
    return Counter(closed.values_list("cause", flat=True))
