"""A release scored in shadow: every case gets its prediction beside the one that stands, and nothing else changes.

What is stored already is not done again, so a run that was stopped goes on where it was. Promotion makes these predictions stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import transaction
from django.db.models import Max, QuerySet
from django.utils.translation import gettext_noop

from mlcore.errors import DataError
from triage import audit, scoring, tasks
from triage.models import Case, Protocol, Release, Task

BATCH = 64
STAGE = gettext_noop("Scoring in shadow")


def ask(release: Release, *, by: Any, reason: str) -> Task:
    """Put it in line, unless it is there already (then that task)."""
    open_ = {"kind": Task.Kind.SHADOW, "params__release": release.pk, "status__in": ["pending", "claimed"]}
    with transaction.atomic():
        Protocol.objects.select_for_update(no_key=True).get(pk=release.protocol_id)
        if found := Task.objects.filter(**open_, stop_asked=False).first():
            return found
        params = {"release": release.pk, "reason": reason}
        return tasks.ask(Task.Kind.SHADOW, release.protocol, by=by, params=params)


def run(task: Task, progress: tasks.Progress) -> dict[str, int]:
    """Score every case of the protocol that has no prediction of the release over its notes: {"cases", "scored"}."""
    release = Release.objects.select_related("protocol").get(pk=task.params["release"])
    if release.active:
        raise DataError("The release is active by now: its cases are scored as they arrive.")
    cases = Case.objects.filter(protocol=release.protocol)
    done, scored, total = 0, 0, cases.count()
    for batch in _batches(cases):
        progress(STAGE, done, total)
        scored += scoring.score_aside(batch, release)
        done += len(batch)
    progress(STAGE, done, total)
    progress.say(gettext_noop("%(scored)d of %(cases)d cases were scored now."), scored=scored, cases=done)
    audit.record(
        "release.shadow", release, site=None, actor=task.by, details={"cases": done, "scored": scored}
    )
    return {"release": release.pk, "cases": done, "scored": scored}


def _batches(cases: QuerySet[Case]) -> Iterator[list[Case]]:
    """All cases there are now, in order of their ids; none that came later, so that it ends."""
    last, end = 0, cases.aggregate(end=Max("pk"))["end"] or 0
    while batch := list(cases.filter(pk__gt=last, pk__lte=end).order_by("pk")[:BATCH]):
        yield batch
        last = batch[-1].pk
