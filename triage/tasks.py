"""Long work asked for by a person: done by a worker, seen while it is done, stopped and tried again from a page.

One task is done at a time in the whole installation, so that with two workers one is always free to score; what a person
waits for (``AT_ONCE``) is short, and is done beside the others by whatever worker is free first. A worker that dies gives its task back by its claim, one that is asked to stop gives it back itself: either way it begins anew.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction
from django.db.models import Case, F, QuerySet, Value, When
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from mlcore import errors
from mlcore.errors import CentinelaError, DataError
from triage import audit, claims, jobs
from triage.models import Protocol, Site, Task

log = logging.getLogger(__name__)

WRITE_EVERY = 1.0  # seconds between two entries of how far a task is
GRACE = 15  # seconds between SIGTERM and the end of a task that does not say how far it is
LINES = 500  # of a task's log; the oldest go first
ONE_AT_A_TIME = (6, 1)  # an advisory lock of the database; claims take theirs from the space of one number
STOPPING = threading.Event()  # this worker was asked to end
AT_IT = threading.Event()  # this worker is at a task
CANCELLED = gettext_noop("Cancelled.")
WHILE = gettext_noop("%(error)s while it was done")
AT_ONCE = (Task.Kind.PROMOTE, Task.Kind.COMPARE)
ASK_ANEW = gettext_noop(
    "A release is made the active one anew from the page of releases, which shows what decides now."
)
TELL = """
    UPDATE triage_task SET stage = %s, done = %s, total = %s
    WHERE id = %s AND status = 'claimed' AND claim = %s RETURNING stop_asked
"""
SAY = f"""
    UPDATE triage_task SET log = log[greatest(1, cardinality(log) - {LINES - 2}):] || %s::text WHERE id = %s
"""


class Stopped(Exception):
    """The task was cancelled: whatever is half done is left as if it had not been begun."""


class Interrupted(Stopped):
    """The worker must end, or the task is another's by now: it is done from the beginning, elsewhere."""


class Progress:
    """How far a task is, and whether it is still wanted. A runner calls it often; it writes once a second at most."""

    def __init__(self, task: Task, number: int) -> None:
        self.task, self.number = task, number
        self._stage, self._written = "", -math.inf

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``stage`` is a gettext id. Stopped where the task was cancelled, Interrupted where this worker must let go."""
        if STOPPING.is_set():
            raise Interrupted
        if stage != self._stage:
            self._stage, self._written = stage, -math.inf
            self.say(stage)
        if (now := time.monotonic()) - self._written >= WRITE_EVERY:
            self._written = now
            self._tell(stage, done, total)

    def _tell(self, stage: str, done: int, total: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute(TELL, [stage, done, total, self.task.pk, self.number])
            row = cursor.fetchone()
        if row is None:
            raise Interrupted
        if row[0]:
            raise Stopped

    def check(self) -> None:
        """Stopped or Interrupted as a call, but nothing is written: for use within a transaction that others must not wait for."""
        wanted = Task.objects.filter(pk=self.task.pk, status=Task.Status.CLAIMED, claim=self.number)
        asked = wanted.values_list("stop_asked", flat=True).first()
        if asked is None or STOPPING.is_set():
            raise Interrupted
        if asked:
            raise Stopped

    def say(self, line: str, **figures: Any) -> None:
        """A line of the log: a gettext id, and what its %(name)s stand for. Figures only, never text of a note."""
        say(self.task, line, **figures)


Runner = Callable[[Task, Progress], dict[str, Any]]
RUNNERS: dict[str, Runner] = {}  # kind → what does it; it may be run again after a kill, and returns figures


def ask(
    kind: str,
    protocol: Protocol,
    *,
    site: Site | None = None,
    by: Any = None,
    params: dict[str, Any] | None = None,
) -> Task:
    """Put work in line, with its event; a worker wakes when the transaction commits. DataError for an unknown kind."""
    if kind not in RUNNERS:
        raise DataError(f"There is no work of the kind {kind!r}: use one of {', '.join(sorted(RUNNERS))}.")
    task = Task.objects.create(kind=kind, protocol=protocol, site=site, by=by, params=params or {})
    _record("ask", task, by, kind=kind, protocol=protocol.slug)
    _wake(kind)
    return task


def _wake(kind: str) -> None:
    transaction.on_commit(jobs.wake_at_once if kind in AT_ONCE else jobs.wake_tasks, robust=True)


def cancel(task: Task, user: Any) -> bool:
    """Ask a task to stop; one that waits ends at once. False where it has ended already."""
    with transaction.atomic():
        now = Task.objects.select_for_update().get(pk=task.pk)
        if now.status not in (Task.Status.PENDING, Task.Status.CLAIMED) or now.stop_asked:
            return False
        Task.objects.filter(pk=task.pk).update(stop_asked=True)
        _end_cancelled()
        _record("cancel", task, user)
    return True


def retry(task: Task, user: Any) -> bool:
    """Put a task that failed or was cancelled in line once more, as new and asked for now. False for any other.

    Raises DataError for a promotion: it is asked for afresh, over the release that is active now, by who asks now.
    """
    if task.kind == Task.Kind.PROMOTE:
        raise DataError(ASK_ANEW)
    afresh = {"attempts": 0, "failure": "", "stop_asked": False, "asked_at": Now(), "ended_at": None}
    with transaction.atomic():
        failed = Task.objects.filter(pk=task.pk, status=Task.Status.FAILED)
        if not failed.update(status=Task.Status.PENDING, stage="", done=0, total=0, **afresh):
            return False
        say(task, gettext_noop("In line once more."))
        _record("retry", task, user)
        _wake(task.kind)
    return True


def _record(verb: str, task: Task, user: Any, **details: Any) -> None:
    audit.record(f"task.{verb}", task, site=task.site, actor=user, details=details)


def state(task: Task) -> str:
    """waiting · running · stopping · done · failed · cancelled. Cancelled is: failed, because somebody asked it to stop."""
    if task.status == Task.Status.FAILED:
        return "cancelled" if task.stop_asked else "failed"
    if task.status == Task.Status.CLAIMED:
        return "stopping" if task.stop_asked else "running"
    return {"pending": "waiting", "ready": "done"}[task.status]


def say(task: Task, line: str, **figures: Any) -> None:
    """Append a line to the task's log: its time (UTC), the gettext id and its figures, with tabs between."""
    at = f"{timezone.now():%Y-%m-%dT%H:%M:%S+00:00}"
    written = "\t".join([at, line.replace("\t", " "), json.dumps(figures, default=str)])
    with connection.cursor() as cursor:
        cursor.execute(SAY, [written, task.pk])


def told(line: str) -> tuple[str, str]:
    """(ISO time, sentence in the language of the page) of a line of a task's log."""
    at, text, figures = line.split("\t")
    return at, errors.told(text, json.loads(figures), _)


def why(task: Task) -> str:
    """Why it failed, in the language of the page: by the line of its log that says so, else as it is stored."""
    for line in reversed(task.log):
        _at, text, figures = line.split("\t")
        if errors.told(text, json.loads(figures))[:300] == task.failure:
            return told(line)[1]
    return claims.told(task.failure)


def drain(seconds: float = math.inf) -> int:
    """Do what waits, none begun after ``seconds``; how many were done: 0 where another worker is at a task."""
    with _alone() as free:
        return _drain(waiting, seconds) if free else 0


def drain_at_once(seconds: float = math.inf) -> int:
    """Do what a person waits for, none begun after ``seconds``, whatever other workers are at; how many were done."""
    return _drain(at_once, seconds)


def _drain(which: Callable[[], QuerySet[Task]], seconds: float) -> int:
    done, until = 0, time.monotonic() + seconds
    with claims.held() as number:
        while not STOPPING.is_set() and time.monotonic() < until:
            if not (tasks := claims.take(which(), number, batch=1)):
                break
            done += sum(_attempt(task, number) for task in tasks)
    return done


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether no other worker is at a task; none begins one until the block ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", ONE_AT_A_TIME)
        free = cursor.fetchone()[0]
        try:
            yield free
        finally:
            if free:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", ONE_AT_A_TIME)


def waiting() -> QuerySet[Task]:
    """Tasks that can be done now: what a person waits for first, then the one asked for first."""
    pending = Task.objects.filter(status=Task.Status.PENDING, stop_asked=False)
    later = Case(When(kind__in=AT_ONCE, then=Value(0)), default=Value(1))
    return pending.select_related("protocol", "site", "by").order_by(later, "asked_at", "pk")


def at_once() -> QuerySet[Task]:
    return waiting().filter(kind__in=AT_ONCE)


def _attempt(task: Task, number: int) -> int:
    mine = Task.objects.filter(pk=task.pk, status=Task.Status.CLAIMED, claim=number)
    free = {"claim": None, "claimed_at": None}
    say(task, gettext_noop("Begun, attempt %(attempt)d."), attempt=task.attempts)
    AT_IT.set()
    try:
        result = _runner(task)(task, Progress(task, number))
        return mine.update(
            status=Task.Status.READY, result=result, stage="", failure="", ended_at=timezone.now(), **free
        )
    except CentinelaError as refusal:
        say(task, refusal.message, **refusal.figures)
        mine.update(
            status=Task.Status.FAILED, failure=str(refusal)[:300], stage="", ended_at=timezone.now(), **free
        )
    except Exception as error:
        _let_go(task, mine, error, free)
    finally:
        AT_IT.clear()
    return 0


def _let_go(task: Task, mine: QuerySet[Task], error: Exception, free: dict[str, None]) -> None:
    """The end of an attempt that came to nothing: interrupted, cancelled, or failed."""
    if STOPPING.is_set() or isinstance(error, Interrupted):
        if mine.update(status=Task.Status.PENDING, attempts=F("attempts") - 1, **free):
            say(task, gettext_noop("Given back: the worker ends."))
    elif isinstance(error, Stopped):
        mine.update(status=Task.Status.PENDING, **free)
    else:
        log.exception("task %d failed", task.pk)
        facts = {"error": type(error).__name__}
        say(task, WHILE, **facts)
        claims.give_back(mine, Task.Status.FAILED, WHILE % facts)
    _end()


def _runner(task: Task) -> Runner:
    if task.kind not in RUNNERS:
        raise DataError(
            gettext_noop("There is no work of the kind «%(kind)s» here: update this worker."), kind=task.kind
        )
    return RUNNERS[task.kind]


@transaction.atomic
def _end() -> None:
    """Give every task that is over its end."""
    _end_cancelled()
    Task.objects.filter(status=Task.Status.FAILED, ended_at=None).update(ended_at=timezone.now(), stage="")


def _end_cancelled() -> None:
    """What waits although it was asked to stop is over: asked while it waited, or its worker let it go."""
    asked = Task.objects.filter(status=Task.Status.PENDING, stop_asked=True)
    for task in asked.select_for_update(skip_locked=True):
        say(task, CANCELLED)
        Task.objects.filter(pk=task.pk).update(
            status=Task.Status.FAILED, failure=CANCELLED, stage="", ended_at=timezone.now()
        )


def reconcile() -> int:
    """Give back what dead workers held, end what was cancelled; how many tasks wait."""
    claims.release_abandoned(Task, Task.Status.FAILED)
    _end()
    return waiting().count()


def stop_soon() -> None:
    """The worker was asked to end: the next word of progress gives the task back, and after GRACE seconds an alarm does.

    RQ's own limit of a job raises JobTimeoutException at SIGALRM. Other jobs last seconds and end by themselves.
    """
    STOPPING.set()
    if AT_IT.is_set():
        signal.alarm(GRACE)
