"""The worker process: no fork (a model is loaded once), only jobs named in the allow-list, a reconciler inside."""

from __future__ import annotations

import logging

from django.db import close_old_connections
from rq import SimpleWorker
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from triage import jobs

log = logging.getLogger(__name__)
LOOK_EVERY = 20


class Worker(SimpleWorker):
    """Looks after abandoned work every LOOK_EVERY seconds, busy or idle, whatever happened to Redis."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        intervals = {"maintenance_interval": LOOK_EVERY, "worker_ttl": LOOK_EVERY + 15}
        super().__init__(*args, serializer=JSONSerializer, **intervals, **kwargs)

    def perform_job(self, job: Job, queue: Queue) -> bool:
        if not _allowed(job):
            log.error("a job outside the allow-list was refused")
            job.delete(remove_from_queue=False)
            return False
        close_old_connections()
        return super().perform_job(job, queue)

    def run_maintenance_tasks(self) -> None:
        super().run_maintenance_tasks()
        close_old_connections()
        jobs.reconcile()


def _allowed(job: Job) -> bool:
    try:
        return job.func_name in jobs.ALLOWED
    except DeserializationError:
        return False
