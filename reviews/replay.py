"""What was decided can be computed again: every stored number, outcome and propensity from what stands behind it.

Predictions from their stored logits and distances by their calibration; outcomes from stored numbers and a version of
the policy, once by ``mlcore.decision`` and once by the SQL of ``triage.policy``; propensities of labels from the policy of
their first reading. Numbers are compared bit for bit. Rows are streamed: memory does not grow with their number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
from django.db.models import F, OuterRef, QuerySet, Subquery
from numpy.typing import NDArray

from mlcore import decision
from mlcore.calibrate import Calibration as Ranks
from reviews.models import Label, Review
from reviews.rows import ABSENT, among, snapshot
from triage import policy as dial
from triage import sampling
from triage.models import Calibration, Policy, Prediction, Protocol, Site

CHUNK = 4000
NAMED = 1000
WIDE = ("logits", "distances", "probabilities", "p_values")
DIAL = ("alpha", "typicality_floor", "automate")
DECIDING = ("credibility", "runner_up", "typicality")
NUMBERS = ("probabilities", "p_values", "label", "credibility", "runner_up", "typicality")


@dataclass
class Check:
    """How many rows were computed again, the ids of those that came out otherwise, at most NAMED, and how many they are.

    left_out: rows that cannot be computed here, whose calibration or policy is not in this database.
    """

    checked: int = 0
    left_out: int = 0
    differ: int = 0
    ids: list[int] = field(default_factory=list)

    def add(self, ids: NDArray[np.int64], wrong: NDArray[np.bool_]) -> None:
        self.checked += len(ids)
        self.differ += int(wrong.sum())
        self.ids += ids[wrong][: NAMED - len(self.ids)].tolist()


def everything(sites: Sequence[Site], protocols: Sequence[Protocol]) -> dict[str, Check]:
    """Every check by name, over the database as it was when the first began."""
    where = {"site__in": sites, "protocol__in": protocols}
    rows = Prediction.objects.filter(**where)
    labels = Label.objects.filter(**{f"case__{name}": them for name, them in where.items()})
    with snapshot():
        return {
            "predictions": predictions(rows),
            "decisions": decisions(rows),
            "reviews": reviews(rows),
            "propensities": propensities(labels),
        }


def predictions(rows: QuerySet[Prediction]) -> Check:
    """Probabilities, p-values, label, credibility, runner-up and typicality from logits, distances and calibration."""
    found = Check()
    for calibration in Calibration.objects.order_by("pk").iterator(chunk_size=1):
        mine = rows.filter(calibration=calibration)
        arrays = bytes(calibration.arrays)
        if not arrays or arrays.startswith(ABSENT):
            found.left_out += mine.count()
            continue
        ranks = Ranks.from_bytes(arrays)
        for chunk in _chunks(mine.values_list("pk", *WIDE, *NUMBERS[2:], named=True)):
            found.add(np.array([row.pk for row in chunk]), _altered(ranks, chunk))
    return found


def _altered(ranks: Ranks, chunk: Sequence[Any]) -> NDArray[np.bool_]:
    """Which rows are not what ``Calibration.apply`` makes of their logits and distances."""
    k = len(ranks.labels)
    sound = np.array([all(_numbers(getattr(row, name), k) for name in WIDE) for row in chunk])
    whole = [row for row, yes in zip(chunk, sound, strict=True) if yes]
    if not whole:
        return ~sound
    scores = ranks.apply([row.logits for row in whole], [row.distances for row in whole])
    same = np.ones(len(whole), dtype=bool)
    for name in NUMBERS:
        again = getattr(scores, name)
        stored = np.array([getattr(row, name) for row in whole], dtype=again.dtype)
        same &= (again.view(np.int64) == stored.view(np.int64)).reshape(len(whole), -1).all(axis=1)
    wrong = ~sound
    wrong[sound] = ~same
    return wrong


def _numbers(values: Sequence[float], k: int) -> bool:
    return len(values) == k and bool(np.isfinite(values).all())


def decisions(rows: QuerySet[Prediction]) -> Check:
    """The outcome of every prediction under the policy that was in force when it was scored."""
    then = Policy.objects.filter(
        site=OuterRef("site"), protocol=OuterRef("protocol"), starts_at__lte=OuterRef("at")
    ).order_by("-version")
    policy, *facts = (Subquery(then.values(name)[:1]) for name in ("pk", *DIAL))
    told = rows.annotate(
        policy=policy, **dict(zip(DIAL, facts, strict=True)), told=dial.outcome(*map(F, DIAL))
    )
    found = _outcomes(told.values_list("pk", "policy", *DECIDING, "told"))
    found.left_out = rows.count() - found.checked
    return found


def reviews(rows: QuerySet[Prediction]) -> Check:
    """The outcome of every case that was read, for each reading under the policy it was given with."""
    read = rows.filter(reviews__isnull=False)
    told = read.annotate(told=dial.outcome(*(F(f"reviews__policy__{name}") for name in DIAL)))
    return _outcomes(told.values_list("reviews__pk", "reviews__policy", *DECIDING, "told"))


def _outcomes(rows: QuerySet[Any, Any]) -> Check:
    """Rows of id, policy, the numbers that decide and the outcome as SQL has it; those without a policy are left out."""
    found, policies = Check(), Policy.objects.in_bulk()
    for chunk in _chunks(rows):
        decided = [row for row in chunk if row[1] is not None]
        again = _decided([policies[row[1]] for row in decided], [row[2:5] for row in decided])
        wrong = [row[5] != name for row, name in zip(decided, again, strict=True)]
        found.add(np.array([row[0] for row in decided], dtype=np.int64), np.array(wrong, dtype=bool))
    return found


def _decided(policies: Sequence[Policy], numbers: Sequence[Sequence[float]]) -> list[str]:
    """The outcome of each row of numbers under its policy, by the reference."""
    names = np.empty(len(policies), dtype=object)
    of = np.array([policy.pk for policy in policies])
    for policy in {policy.pk: policy for policy in policies}.values():
        mine = of == policy.pk
        columns = np.array([row for row, yes in zip(numbers, mine, strict=True) if yes]).T
        codes = decision.decide(*columns, policy.alpha, policy.typicality_floor)
        told = np.array(decision.NAMES, dtype=object)
        told[decision.AUTOMATIC] = decision.NAMES[decision.AUTOMATIC] if policy.automate else dial.HELD
        names[mine] = told[codes]
    return list(names)


def propensities(rows: QuerySet[Label]) -> Check:
    """The propensity of every label, those withdrawn too, from the policy of its first reading."""
    found, policies = Check(), Policy.objects.in_bulk()
    for chunk in _chunks(rows.values_list("pk", "case", "notes_sha256", "at", "propensity", named=True)):
        read = _readings(row.case for row in chunk)
        first = [_first(read[row.case, row.notes_sha256], row.at) for row in chunk]
        known = [policies[review.policy_id] for review in first]
        outcomes = _decided(known, [[getattr(r, f"prediction__{name}") for name in DECIDING] for r in first])
        expected = map(sampling.propensity, outcomes, known)
        wrong = [row.propensity != p for row, p in zip(chunk, expected, strict=True)]
        found.add(np.array([row.pk for row in chunk]), np.array(wrong))
    return found


def _readings(cases: Iterable[int]) -> dict[tuple[int, str], list[Any]]:
    """All readings of the cases by their notes, those taken back too, the earliest first."""
    columns = ("case_id", "notes_sha256", "policy_id", "at", "withdrawn_at")
    rows = Review.objects.filter(case__in=among(set(cases))).order_by("at", "pk")
    found: dict[tuple[int, str], list[Any]] = defaultdict(list)
    for row in rows.values_list(*columns, *(f"prediction__{name}" for name in DECIDING), named=True):
        found[row.case_id, row.notes_sha256].append(row)
    return found


def _first(read: Sequence[Any], at: datetime) -> Any:
    """The first reading that stood when a label was made, at the start of its transaction.

    A label is made with a reading, or because one was taken back: then a moment after that start.
    """
    there = [row for row in read if row.at <= at and (row.withdrawn_at is None or row.withdrawn_at > at)]
    if all(row.at != at for row in there):
        taken = min(
            (row for row in there if row.withdrawn_at), key=lambda row: row.withdrawn_at, default=None
        )
        there = [row for row in there if row is not taken] or there
    return there[0]


def _chunks(rows: QuerySet[Any, Any]) -> Iterator[list[Any]]:
    found = rows.order_by().iterator(chunk_size=CHUNK)
    while chunk := list(islice(found, CHUNK)):
        yield chunk
