"""A calibration of a site's own, from the labels of its random audit sample: what it would be made of, what it lacks, its making.

Labels of the queue were chosen by the policy, so they may train but never calibrate; of the audit sample each counts by one
over the chance with which it was drawn (``mlcore.recalibrate``, ``reviews.audited``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from django.db import connection, transaction
from django.utils.translation import gettext_noop
from numpy.typing import NDArray
from safetensors.numpy import save as save_safetensors

from mlcore import bundle
from mlcore import recalibrate as by_weight
from mlcore.calibrate import Calibration as Ranks
from mlcore.errors import CalibrationError
from reviews import audited
from triage import policy, registry, rescoring, scoring, tasks
from triage.models import Calibration, Note, Policy, Prediction, Protocol, Release, Site, Task

Floats = NDArray[np.float64]
AT_A_TIME = 20_000  # predictions removed by one look of the reconciler
REMOVE = """
    DELETE FROM triage_prediction WHERE id IN (
        SELECT id FROM triage_prediction WHERE calibration_id = %s AND NOT current LIMIT %s)
"""
KEEPS_NONE = gettext_noop(
    "The release keeps no %(name)s of its calibration cases: leave them out, or train it again."
)
UNTOLD = gettext_noop(
    "That is about %(reads)d audit reads; how long they take cannot be told: none is read of late."
)
TAKES = gettext_noop(
    "That is about %(reads)d audit reads, %(weeks)d week(s) at today's rate (n = %(n)d in %(of)s weeks)."
)
READING = gettext_noop("Collecting the labels of the audit sample")


@dataclass(frozen=True)
class Labelled:
    """What may calibrate a release at a site: stored logits and distances (n, K), truth and the chance to be drawn (n,).

    sample: where it comes from. learned: cases of it left out, because the release has seen one of their notes.
    """

    release: Release
    sample: audited.Sample
    cases: list[audited.Drawn]
    logits: Floats
    distances: Floats
    truth: NDArray[np.int64]
    rates: Floats
    learned: int

    @property
    def weights(self) -> Floats | None:
        """(n,) what each counts beside a new case; None where all count the same."""
        if not len(self.rates) or (self.rates == self.rates[0]).all():
            return None
        return by_weight.by_propensity(self.rates, float(self.rates.min()))


@dataclass(frozen=True)
class Need:
    """What a calibration of this site's own lacks at the dial in force. reads: further audit reads it takes; 0: none.

    labels: of each label what there is. weeks: what they take at today's rate of audit reads; None: cannot be told.
    """

    labels: dict[str, by_weight.Need]
    reads: int
    weeks: int | None

    @property
    def enough(self) -> bool:
        return not self.reads


def active_release(protocol: Protocol) -> Release:
    """Raises CalibrationError where there is none."""
    found = Release.objects.select_related("protocol").filter(protocol=protocol, active=True).first()
    if found is None:
        raise CalibrationError(gettext_noop("No release of this protocol is active: install one first."))
    return found


def labelled(site: Site, protocol: Protocol, since: date | None = None, *, judging: bool = False) -> Labelled:
    """The cases of the audit sample that may calibrate the active release here. CalibrationError where none is active.

    since: only what arrived on that day or later, where it is known that what came before is of another kind. judging:
    those that may judge it, as of ``unseen``.
    """
    release = active_release(protocol)
    sample = audited.sample(site, protocol, since)
    left = unseen(release, sample.closed, judging=judging)
    stored = Prediction.objects.filter(pk__in=[case.prediction for case in left], release=release)
    numbers = {pk: row for pk, *row in stored.values_list("pk", "logits", "distances").iterator()}
    cases = [case for case in left if case.prediction in numbers]
    both = np.array([numbers[case.prediction] for case in cases], dtype=np.float64)
    logits, distances = both.reshape(len(cases), 2, -1).swapaxes(0, 1) if cases else _none(protocol)
    return Labelled(
        release=release,
        sample=sample,
        cases=cases,
        logits=logits,
        distances=distances,
        truth=np.array([case.label for case in cases], dtype=np.int64),
        rates=np.array([case.rate for case in cases], dtype=np.float64),
        learned=len(sample.closed) - len(left),
    )


def _none(protocol: Protocol) -> tuple[Floats, Floats]:
    empty = np.empty((0, len(protocol.labels)))
    return empty, empty


def unseen(release: Release, cases: list[audited.Drawn], *, judging: bool = False) -> list[audited.Drawn]:
    """Those none of whose notes the release was fitted on: what a model has seen it ranks too well.

    judging: nor came calibrated with, for a rank among itself is no verdict on it; such a case may calibrate anew.
    """
    learned = _learned(release.sha256)
    if judging:
        learned |= _calibrated(release.sha256)
    if not learned:
        return cases
    wanted = {note for case in cases for note in case.note_ids}
    digests = Note.objects.filter(pk__in=wanted).order_by().values_list("pk", "sha256")
    seen = {pk for pk, sha256 in digests.iterator() if int(sha256[:16], 16) in learned}
    return [case for case in cases if seen.isdisjoint(case.note_ids)]


def _learned(sha256: str) -> frozenset[int]:
    """Digests of the notes the release was fitted on; none where it keeps none (of an earlier version)."""
    return _digests(registry.folder(Release(sha256=sha256)), "learned.notes")


def _calibrated(sha256: str) -> frozenset[int]:
    """Digests of the notes of the cases the release came calibrated with; none where it keeps none."""
    return _digests(registry.folder(Release(sha256=sha256)), "calibrated.notes")


def _digests(folder: Path, name: str) -> frozenset[int]:
    """A folder that is not there yet is looked for again."""
    return _kept(folder, name) if folder.exists() else frozenset()


@lru_cache(maxsize=8)
def _kept(folder: Path, name: str) -> frozenset[int]:
    return frozenset(bundle.load_arrays(folder).get(name, np.empty(0, np.uint64)).tolist())


def need(found: Labelled, site: Site, dial: Policy) -> Need:
    """What is lacking for a guarantee at the policy's α and a veto at its floor."""
    former = scoring.ranks(registry.calibration(found.release, site.pk).pk)
    given = (found.logits, found.distances, found.truth, found.weights)
    labels = by_weight.missing(former, *given, dial.alpha, dial.typicality_floor)
    reads = max(one.reads for one in labels.values())
    rate = found.sample.a_week if dial.audit_rate else None
    return Need(labels, reads, ceil(reads / rate) if rate else None)


def make(
    site: Site,
    protocol: Protocol,
    *,
    by: Any,
    reason: str,
    task: Task | None = None,
    held_out: float = 0.0,
    since: date | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Calibrate the active release on this site's own cases and rank them anew; the figures of what was done.

    held_out: in [0, 1], what a calibration case the release came with counts beside an audited one; 0 leaves them out.
    since: as of ``labelled``. The same task again goes on where it was. Raises CalibrationError, and says how many audit reads are missing and how
    long they take, where a label has too few cases.
    """
    progress(READING, 0, 1)
    calibration = _begun(site, protocol, task)
    if calibration is None:
        found = labelled(site, protocol, since)
        calibration = _write(found, site, by, reason, task, held_out)
    rescoring.prepare(calibration, site, progress)
    progress(rescoring.SWITCH, 0, 1)
    moved = rescoring.activate(calibration, site, actor=by, details=calibration.made_of | {"reason": reason})
    return {"calibration": calibration.pk, "moved": moved, "cases": calibration.made_of["cases"]}


def _begun(site: Site, protocol: Protocol, task: Task | None) -> Calibration | None:
    """What an attempt at the task that was cut off has made already; of an earlier asking are other labels."""
    mine = Calibration.objects.select_related("release__protocol").filter(
        site=site, release__protocol=protocol, release__active=True
    )
    return mine.filter(made_of__task=task.pk, created_at__gte=task.asked_at).first() if task else None


def _write(
    found: Labelled, site: Site, by: Any, reason: str, task: Task | None, held_out: float
) -> Calibration:
    """The new calibration, not in force yet."""
    dial = policy.current(site, found.release.protocol)
    ranks, weights = _ranks(found, site, dial, held_out)
    return Calibration.objects.create(
        release=found.release,
        site=site,
        counts=list(ranks.counts.values()),
        typical_counts=[len(distances) for distances in ranks.distances],
        arrays=ranks.to_bytes(),
        held_out=save_safetensors(_read_as_new(found, ranks, weights)),
        active=False,
        by=by,
        reason=reason,
        made_of=_made_of(found, ranks, dial, held_out) | ({"task": task.pk} if task else {}),
    )


def _ranks(found: Labelled, site: Site, dial: Policy, held_out: float) -> tuple[Ranks, Floats | None]:
    """The calibration, and what the site's cases count in it."""
    former = scoring.ranks(registry.calibration(found.release, site.pk).pk)
    given = [found.logits, found.distances, found.truth]
    weights = found.weights
    if held_out:
        theirs = _held_out(found.release)
        weights = np.ones(len(found.cases)) if weights is None else weights
        given = [np.concatenate(pair) for pair in zip(given, theirs, strict=True)]
    everyone = (
        np.append(weights, np.full(len(given[2]) - len(found.cases), held_out)) if held_out else weights
    )
    try:
        ranks = by_weight.recalibrate(former, *given, everyone, dial.alpha, dial.typicality_floor)
    except CalibrationError as short:
        parts = {
            "short": [(short.message, short.figures)],
            "take": [how_long(need(found, site, dial), found)],
        }
        raise CalibrationError("%(short)s %(take)s", **parts) from None
    return ranks, weights


def how_long(lacking: Need, found: Labelled) -> tuple[str, dict[str, Any]]:
    """What the missing reads take: a sentence as of ``mlcore.errors.told``."""
    if not lacking.reads:
        return "", {}
    if lacking.weeks is None:
        return UNTOLD, {"reads": lacking.reads}
    lately = {"n": found.sample.lately, "of": f"{found.sample.weeks:.1f}"}
    return TAKES, {"reads": lacking.reads, "weeks": lacking.weeks} | lately


def _held_out(release: Release) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Logits, distances and truth of the cases the release was calibrated on."""
    arrays = bundle.load_arrays(registry.folder(release))
    wanted = [registry.HELD_OUT + name for name in ("logits", "distances", "truth")]
    if lacking := [name for name in wanted if name not in arrays]:
        raise CalibrationError(KEEPS_NONE, name=lacking[0])
    logits, distances, truth = (arrays[name] for name in wanted)
    return logits, distances, truth


def _read_as_new(found: Labelled, ranks: Ranks, weights: Floats | None) -> dict[str, NDArray[Any]]:
    """The site's cases, each against the others; their weights are those of the stream they were drawn from."""
    own = weights if ranks.weights is not None else None
    read = ranks.held_out(found.logits, found.distances, found.truth, own)
    each = np.ones(len(found.cases)) if weights is None else weights
    return read | {"weight": each / each.mean()}


def _made_of(found: Labelled, ranks: Ranks, dial: Policy, held_out: float) -> dict[str, Any]:
    rates = Counter(found.rates.tolist())
    return {
        "from": "labels",
        "cases": len(found.cases),
        "labels": ranks.limits(),
        "rates": {f"{rate:g}": n for rate, n in sorted(rates.items())},
        "weeks": audited.weeks_of(found.cases),
        "open": {"weeks": found.sample.open_weeks, "unread": found.sample.unread}
        | {"unsettled": found.sample.unsettled},
        "learned": found.learned,
        "held_out": held_out,
        "policy": dial.version,
        "alpha": dial.alpha,
        "typicality_floor": dial.typicality_floor,
    }


def restore(
    site: Site,
    protocol: Protocol,
    calibration: int,
    *,
    by: Any,
    reason: str,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Return to a former calibration of the active release: the site's, or the one it came with. Its scores are kept; cases
    that came since are ranked against it. CalibrationError for any other."""
    found = former(site, active_release(protocol)).filter(pk=calibration).first()
    if found is None:
        raise CalibrationError(
            gettext_noop("This calibration is not one of the active release at this site: choose another.")
        )
    rescoring.prepare(found, site, progress)
    progress(rescoring.SWITCH, 0, 1)
    moved = rescoring.activate(found, site, actor=by, details={"reason": reason, "returned": True})
    return {"calibration": found.pk, "moved": moved}


def former(site: Site, release: Release) -> Any:
    """Every calibration of a release that was ever in force at a site, the latest first."""
    own = Calibration.objects.filter(release=release, site=site).exclude(pk__in=_never(site, release))
    shared = Calibration.objects.filter(release=release, site=None)
    return (own | shared).select_related("release__protocol", "by").order_by("-pk")


def _never(site: Site, release: Release) -> list[int]:
    """Made, and not put in force: their task was cancelled, or is still at it."""
    made = Calibration.objects.filter(release=release, site=site, active=False)
    return [row.pk for row in made if rescoring.since(row, site) is None]


def sweep() -> None:
    """Remove, a piece at a time, what tasks that were cancelled or failed had made: calibrations that were never in force.

    A task that is asked for once more makes its own anew, so what it made before it was asked again goes too.
    """
    made = Calibration.objects.filter(active=False, made_of__has_key="task").select_related("site")
    for row in made.only("site", "made_of", "created_at"):
        at_it = Task.objects.filter(pk=row.made_of["task"], status__in=["pending", "claimed"])
        if not at_it.filter(asked_at__lte=row.created_at).exists() and rescoring.since(row, row.site) is None:
            _remove(row)


@transaction.atomic
def _remove(row: Calibration) -> None:
    """The predictions that were ranked by it, none of which ever stood, and it once none is left."""
    if not Calibration.objects.select_for_update(skip_locked=True).filter(pk=row.pk, active=False).exists():
        return
    with connection.cursor() as cursor:
        cursor.execute(REMOVE, [row.pk, AT_A_TIME])
        if cursor.rowcount < AT_A_TIME:
            Calibration.objects.filter(pk=row.pk).delete()


def run(task: Task, progress: tasks.Progress) -> dict[str, Any]:
    """Of a task: a calibration made from labels, or a return to a former one."""
    asked = task.params
    facts = {"by": task.by, "reason": asked["reason"], "progress": progress}
    if "calibration" in asked:
        return restore(task.site, task.protocol, asked["calibration"], **facts)
    since = date.fromisoformat(asked["since"]) if asked.get("since") else None
    return make(task.site, task.protocol, task=task, since=since, **facts)


def ask(site: Site, protocol: Protocol, *, by: Any, params: dict[str, Any]) -> Task:
    """Put it in line, unless something of the kind is there for the workplace already (then that task)."""
    with transaction.atomic():
        Protocol.objects.select_for_update(no_key=True).get(pk=protocol.pk)
        if found := open_task(site, protocol, Task.Kind.RECALIBRATE):
            return found
        return tasks.ask(Task.Kind.RECALIBRATE, protocol, site=site, by=by, params=params)


def open_task(site: Site, protocol: Protocol, kind: str) -> Task | None:
    waits = Task.objects.filter(
        kind=kind, protocol=protocol, status__in=["pending", "claimed"], stop_asked=False
    )
    return waits.filter(site=site).first()
