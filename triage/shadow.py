"""A release scored in shadow: every case gets its prediction beside the one that stands, and nothing else changes.

What is stored already is not done again, so a run that was stopped goes on where it was. Promotion makes these predictions stand.
Cases in quarantine are left out, and one that cannot be read keeps no other from its score: promotion gives both their turn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Max, QuerySet
from django.utils.translation import gettext_noop
from rq.timeouts import BaseTimeoutException

from mlcore.errors import BundleError, DataError, ModelError
from triage import audit, scoring, tasks
from triage.models import Case, Protocol, Release, Task

log = logging.getLogger(__name__)

BATCH = 64
OF_NO_CASE = (BundleError, ModelError, OperationalError, InterfaceError, BaseTimeoutException)
STAGE = gettext_noop("Scoring in shadow")
SKIPPED = gettext_noop("%(n)d case(s) could not be scored and were skipped: %(cases)s.")


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
    """Score every case of the protocol that has no prediction of the release over its notes.

    {"release", "cases": looked at, "scored": now, "skipped": that could not be read}.
    """
    release = Release.objects.select_related("protocol").get(pk=task.params["release"])
    if release.active:
        raise DataError(gettext_noop("The release is active by now: its cases are scored as they arrive."))
    cases = Case.objects.filter(protocol=release.protocol).exclude(status=Case.Status.QUARANTINED)
    done, scored, skipped, total = 0, 0, 0, cases.count()
    for batch in _batches(cases):
        progress(STAGE, done, total)
        written, failed = _score(batch, release)
        if failed:
            progress.say(SKIPPED, n=len(failed), cases=", ".join(map(str, failed)))
        done, scored, skipped = done + len(batch), scored + written, skipped + len(failed)
    progress(STAGE, done, total)
    progress.say(gettext_noop("%(scored)d of %(cases)d cases were scored now."), scored=scored, cases=done)
    figures = {"cases": done, "scored": scored, "skipped": skipped}
    audit.record("release.shadow", release, site=None, actor=task.by, details=figures)
    return {"release": release.pk} | figures


def _score(batch: list[Case], release: Release) -> tuple[int, list[int]]:
    """How many were scored now, and the ids of those that could not be: a batch that fails is scored one by one."""
    try:
        return scoring.score_aside(batch, release), []
    except OF_NO_CASE:
        raise
    except Exception as error:
        if len(batch) == 1:
            log.warning("case %d could not be scored in shadow: %s", batch[0].pk, type(error).__name__)
            return 0, [batch[0].pk]
    alone = [_score([case], release) for case in batch]
    return sum(written for written, _ in alone), [pk for _, failed in alone for pk in failed]


def _batches(cases: QuerySet[Case]) -> Iterator[list[Case]]:
    """All cases there are now, in order of their ids; none that came later, so that it ends."""
    last, end = 0, cases.aggregate(end=Max("pk"))["end"] or 0
    while batch := list(cases.filter(pk__gt=last, pk__lte=end).order_by("pk")[:BATCH]):
        yield batch
        last = batch[-1].pk
