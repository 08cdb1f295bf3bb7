"""The words of groups of cases, read from their explanations (paper, appendix C.1, stage 4).

Labels live on the clinician's side: who asks brings them, as case → position in the protocol's labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
from django.db import transaction
from django.db.models import Q, QuerySet

from mlcore import cohort as words_of
from mlcore.cohort import Row, Term
from mlcore.records import Record, labels_array
from triage import explaining, jobs, policy, registry
from triage.models import Baseline, Explanation, Note, Prediction, Protocol, Release, Site

COHORTS = ("right", "wrong", "ambiguous", "novel", "atypical")
MOST = 2000
CHUNK = 200
Labels = Mapping[int, int]


@dataclass(frozen=True)
class CohortWords:
    """members: cases in the group. explained: those whose words are known; the latest MOST of them are in rows, the
    weightiest word first. baseline: calibration cases it is held against, None where they were never explained."""

    members: int
    explained: int
    rows: list[Row]
    baseline: int | None


def members(
    site: Site,
    protocol: Protocol,
    cohort: str,
    labels: Labels,
    since: date | None = None,
    until: date | None = None,
) -> QuerySet[Prediction]:
    """The standing predictions of a group under the policy in force, a hold aside, scored from ``since`` to ``until``, both
    included.

    right and wrong: automatic cases that have a label, by whether it is the prediction's. The others: deferred, by the
    first reason that applies.
    """
    dial = policy.current(site, protocol)
    outcome = policy.outcome(dial.alpha, dial.typicality_floor)
    found = policy.standing(site, protocol).annotate(outcome=outcome)
    for end, day in (("gte", since), ("lte", until)):
        found = found.filter(**{f"at__date__{end}": day}) if day else found
    if cohort not in ("right", "wrong"):
        return found.filter(outcome=cohort)
    agreed = _agreed(labels)
    automatic = found.filter(outcome="automatic", case__in=list(labels))
    return automatic.filter(agreed) if cohort == "right" else automatic.exclude(agreed)


def _agreed(labels: Labels) -> Q:
    cases: dict[int, list[int]] = defaultdict(list)
    for case, label in labels.items():
        cases[label].append(case)
    agreed = Q(pk__in=[])
    for label, known in cases.items():
        agreed |= Q(label=label, case__in=known)
    return agreed


def words(
    site: Site,
    protocol: Protocol,
    cohort: str,
    labels: Labels,
    since: date | None = None,
    until: date | None = None,
) -> CohortWords:
    """What the group goes by, against calibration; arguments as `members`."""
    group = members(site, protocol, cohort, labels, since, until)
    ready = Explanation.objects.filter(
        prediction__in=group, method=Explanation.DEFAULT, status=Explanation.Status.READY
    )
    rows = words_of.aggregate(list(_terms(ready)))
    known = Baseline.objects.filter(release__protocol=protocol, release__active=True).first()
    if known:
        rows = words_of.against(rows, known.words)
    return CohortWords(group.count(), ready.count(), rows, known.cases if known else None)


def _terms(ready: QuerySet[Explanation]) -> Iterator[dict[str, Term]]:
    latest = list(ready.order_by("-prediction_id").values_list("words", "prediction__note_ids")[:MOST])
    for start in range(0, len(latest), CHUNK):
        chunk = latest[start : start + CHUNK]
        texts = dict(
            Note.objects.filter(pk__in={pk for _, ids in chunk for pk in ids}).values_list("pk", "text")
        )
        for found, note_ids in chunk:
            yield words_of.terms(_places(found, [texts[pk] for pk in note_ids]))


def _places(
    found: Sequence[dict[str, Any]], texts: Sequence[str]
) -> Iterator[tuple[str, float, float, float]]:
    for word in found:
        text, start, end = texts[word["note"]], word["start"], word["end"]
        if not words_of.placeholder(text, start, end):
            yield text[start:end], word["importance"], word["margin"], word["distance"] or 0.0


def ask(
    site: Site,
    protocol: Protocol,
    cohort: str,
    labels: Labels,
    since: date | None = None,
    until: date | None = None,
) -> int:
    """Ask for the explanations the group lacks, after everything somebody waits for; how many. Arguments as `members`."""
    group = members(site, protocol, cohort, labels, since, until)
    asked = explaining.ask(group, priority=Explanation.Priority.COHORT)
    if asked:
        transaction.on_commit(jobs.wake_explaining, robust=True)
    return asked


def calibration_of(release: Release, found: Sequence[Record]) -> tuple[list[list[str]], np.ndarray | None]:
    """The notes of each case of a file that the release was calibrated on, and the weights that undo their mix of classes.

    The file the release was trained from is known by its split; of any other file it is all cases, without weights.
    """
    from mlcore import folds, train

    card, labels = release.card, labels_array(found)
    if card["data"]["cases"] != len(found) or (labels < 0).any():
        return [record.texts for record in found], None
    groups = [record.group or record.patient_id for record in found]
    split = train.TrainConfig(seed=card["config"]["seed"], validation=card["config"]["validation"])
    parts = train.share_out(labels, groups, split, len(card["labels"]))
    if folds.fingerprint(groups, parts) != card["data"]["split_sha1"]:
        return [record.texts for record in found], None
    rows = np.flatnonzero(parts == train.PARTS.index("calibration"))
    return [found[i].texts for i in rows.tolist()], train.prevalence_weights(labels, rows)


def baseline(
    release: Release,
    cases: Sequence[Sequence[str]],
    weights: Sequence[float] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Baseline:
    """Explain calibration cases, each given as its notes, and keep the words that stand in LEAST_CASES or more.

    weights: (n,) that give the cases the mix of classes of daily work. Loads the release: for commands, not for pages.
    """
    from mlcore import attribution

    scorer, found = registry.scorer(release.sha256), []
    for number, notes in enumerate(cases, start=1):
        explained = [asdict(word) for word in attribution.explain(scorer, notes).words]
        found.append(words_of.terms(_places(explained, notes)))
        progress(number)
    rows = words_of.kept(words_of.aggregate(found, weights))
    facts = {"cases": len(cases), "words": {row.word: row.score for row in rows}}
    return Baseline.objects.update_or_create(release=release, defaults=facts)[0]
