"""The worker process: no fork (a model is loaded once), only jobs named in the allow-list, a reconciler inside."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from django.db import DatabaseError, close_old_connections
from rq import SimpleWorker
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from triage import jobs, tasks

log = logging.getLogger(__name__)
LOOK_EVERY = 20


class Worker(SimpleWorker):
    """Looks after abandoned work every LOOK_EVERY seconds between jobs, whatever happened to Redis."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        intervals = {"maintenance_interval": LOOK_EVERY, "worker_ttl": LOOK_EVERY + 15}
        super().__init__(*args, serializer=JSONSerializer, **intervals, **kwargs)

    def perform_job(self, job: Job, queue: Queue) -> bool:
        if not _allowed(job):
            log.error("a job outside the allow-list was refused")
            job.delete(remove_from_queue=False)
            return False
        close_old_connections()
        with self._beating(job):
            return super().perform_job(job, queue)

    @contextmanager
    def _beating(self, job: Job) -> Iterator[None]:
        """Tells that it lives while it is at a job, however long that takes; who stops telling is soon off the list."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(LOOK_EVERY):
                try:
                    self.maintain_heartbeats(job)
                except redis.RedisError:
                    log.warning("the queue did not hear that this worker lives")

        beating = threading.Thread(target=beat, daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()

    def get_heartbeat_ttl(self, job: Job) -> int:
        return self.job_monitoring_interval + 60

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()
        tasks.stop_soon()

    def run_maintenance_tasks(self) -> None:
        super().run_maintenance_tasks()
        close_old_connections()
        try:
            jobs.reconcile()
        except DatabaseError:  # PostgreSQL restarts: this worker must not end with it
            log.exception("abandoned work could not be looked after")

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Told by our own log, which keeps an exception's words out."""
        log.error("job %s failed", job.id, exc_info=exc_info)

    def handle_job_failure(self, job: Job, queue: Queue, *rest: Any, **facts: Any) -> None:
        """As RQ's, without the traceback that would lie in Redis."""
        super().handle_job_failure(job, queue, *rest[:1], **(facts | {"exc_string": ""}))


def _allowed(job: Job) -> bool:
    """Whether the job and nothing besides it runs: a callback is a function named by the job, too."""
    callbacks = (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name)
    try:
        return job.func_name in jobs.ALLOWED and not any(callbacks)
    except DeserializationError:
        return False
