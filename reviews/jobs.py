"""The clinician's side of the background: exports, webhooks and the watch. Wake-ups, as in ``triage.jobs``."""

from __future__ import annotations

import django_rq

from triage import jobs

NAMES = {"reviews.jobs.export", "reviews.jobs.deliver", "reviews.jobs.watch"}
WATCH_SECONDS = 600
EXPORT_SECONDS = 6 * 3600  # a large export takes its time, and a dead worker is noticed without this limit


def export() -> None:
    from reviews import exports

    exports.drain(jobs.SLICE_SECONDS)
    if exports.waiting().exists():
        wake_exports()


def deliver() -> None:
    from reviews import webhooks

    webhooks.drain(jobs.SLICE_SECONDS)
    if webhooks.waiting().exists():
        wake_deliveries()


def watch() -> None:
    """Look at every place where something came; slow only where years have never been looked at."""
    from reviews import watching

    watching.look_where_due()


def wake_exports() -> None:
    _wake("reviews.jobs.export", EXPORT_SECONDS)


def wake_deliveries() -> None:
    jobs.enqueue(jobs.LIGHT, "reviews.jobs.deliver")


def wake_watch() -> None:
    _wake("reviews.jobs.watch", WATCH_SECONDS)


def _wake(job: str, seconds: int) -> None:
    """One wake-up of a kind in line is enough: other kinds in the same line say nothing of it."""
    if all(one.description != job for one in django_rq.get_queue(jobs.LIGHT).get_jobs()):
        jobs.enqueue(jobs.LIGHT, job, job_timeout=seconds, description=job)


def reconcile() -> None:
    from reviews import exports, watching, webhooks

    if exports.reconcile():
        wake_exports()
    if webhooks.reconcile():
        wake_deliveries()
    if watching.due().exists():
        wake_watch()
