"""Jobs are wake-ups: PostgreSQL knows what is to be done, Redis only says «look now»."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django_rq
from django.core.cache import cache
from django.db import transaction
from django.db.models.functions import Now

ENCODE, LIGHT, LONG = "encode", "light", "long"
QUEUES = (ENCODE, LIGHT, LONG)  # a worker looks at them in this order
SLICE_SECONDS = 10  # a job ends soon: scoring goes before explaining, SIGTERM is heard, no job times out
TASK_SECONDS = 48 * 3600  # a task takes its time, and a dead worker is noticed without this limit
ALLOWED = {
    "triage.jobs.score",
    "triage.jobs.explain",
    "triage.jobs.explain_deferred",
    "triage.jobs.do_tasks",
    "triage.jobs.do_at_once",
}
RECONCILERS: list[
    Callable[[], None]
] = []  # of apps that stand on this one; they add their jobs to ALLOWED, too


def score() -> None:
    from triage import scoring

    if scoring.drain(SLICE_SECONDS):
        wake_explaining()
        wake_scoring()


def explain() -> None:
    from triage import explaining

    if explaining.drain(SLICE_SECONDS):
        wake_explaining()


def explain_deferred(site_id: int, protocol_id: int) -> None:
    from triage import explaining

    explaining.ask_for_deferred(site_id, protocol_id)
    wake_explaining()


def do_tasks() -> None:
    from triage import tasks

    if tasks.drain(SLICE_SECONDS) and tasks.waiting().exists():
        wake_tasks()


def do_at_once() -> None:
    from triage import tasks

    tasks.drain_at_once()
    wake_scoring()  # which counts what stands in line, and may have counted this


def wake_scoring() -> None:
    _wake(ENCODE, "triage.jobs.score")


def wake_after_turn(site_id: int, protocol_id: int) -> None:
    """After a turn of the dial, other cases are deferred: their explanations are prepared."""
    transaction.on_commit(
        lambda: enqueue(LIGHT, "triage.jobs.explain_deferred", site_id, protocol_id), robust=True
    )


def begin_scheduled() -> None:
    """What follows a turn, for turns that were written ahead and are in force now.

    That it was done is remembered by this process alone: another one, or this one started anew, does it again, which
    changes nothing.
    """
    from triage.models import Policy

    started = Policy.objects.filter(starts_at__lte=Now()).order_by("site", "protocol", "-version")
    for policy in started.distinct("site", "protocol"):
        key = f"started:{policy.pk}"
        if policy.starts_at > policy.at and not cache.get(key):
            enqueue(LIGHT, "triage.jobs.explain_deferred", policy.site_id, policy.protocol_id)
            cache.set(key, True, timeout=None)


def wake_explaining() -> None:
    _wake(LIGHT, "triage.jobs.explain")


def wake_tasks() -> None:
    """One job is enough: tasks are done one after another."""
    if not django_rq.get_queue(LONG).count:
        enqueue(LONG, "triage.jobs.do_tasks", job_timeout=TASK_SECONDS)


def wake_at_once() -> None:
    """Behind the slice of scoring that is being done, before whatever else there is."""
    enqueue(ENCODE, "triage.jobs.do_at_once", job_timeout=TASK_SECONDS)


def _wake(queue: str, job: str) -> None:
    """One wake-up for each worker of the queue, those in line already counted; one with nothing to do returns at once."""
    line = django_rq.get_queue(queue)
    workers = len(line.connection.smembers(f"rq:workers:{queue}"))
    for _ in range(max(1, workers) - line.count):
        enqueue(queue, job)


def enqueue(queue: str, job: str, *ids: int, **how: Any) -> None:
    django_rq.get_queue(queue).enqueue(job, *ids, result_ttl=0, failure_ttl=3600, **how)


def reconcile() -> None:
    """Run by every worker three times a minute: gives back abandoned work and wakes whoever should do it."""
    from triage import explaining, registry, scoring, tally, tasks

    if scoring.reconcile():
        wake_scoring()
    if explaining.reconcile():
        wake_explaining()
    if tasks.reconcile():
        wake_tasks()
    if tasks.at_once().exists():
        wake_at_once()
    registry.sweep()
    begin_scheduled()
    tally.fold()
    for others in RECONCILERS:
        others()
