"""What goes on in the background: workers, what is in line and for how long, tasks and how far they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import django_rq
import redis
from django.db.models import Count, Min, Q
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy
from rq import Worker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from triage import explaining, jobs, tasks
from triage.access import Workplace, governs
from triage.models import Case, Explanation, Task

RECENT = 20
QUIET = 120  # seconds: a worker that has not told of itself for longer is gone, or hangs
QUEUE_NAMES = {
    jobs.ENCODE: gettext_lazy("scoring"),
    jobs.LIGHT: gettext_lazy("explanations, exports, webhooks"),
    jobs.LONG: gettext_lazy("long tasks"),
}
STATES = {
    "waiting": pgettext_lazy("state of work", "waits"),
    "running": pgettext_lazy("state of work", "at work"),
    "stopping": pgettext_lazy("state of work", "stops"),
    "done": pgettext_lazy("state of work", "done"),
    "failed": pgettext_lazy("state of work", "failed"),
    "cancelled": pgettext_lazy("state of work", "cancelled"),
}


@dataclass
class Entry:
    """Work that somebody asked for, as its row of the page shows it. ``key`` names it among all kinds of work."""

    key: str
    name: str
    state: str
    asked_at: datetime
    by: Any = None
    everywhere: bool = False
    ended_at: datetime | None = None
    stage: str = ""
    done: int = 0
    total: int = 0
    failure: str = ""
    log: list[tuple[datetime, str]] = field(default_factory=list)
    task: int | None = None
    may: bool = False
    may_retry: bool = False
    url: str = ""

    @property
    def word(self) -> Any:
        return STATES[self.state]

    @property
    def open(self) -> bool:
        return self.state in ("waiting", "running", "stopping")

    @property
    def facts(self) -> dict[str, Any]:
        """What changes while it is done."""
        return {
            "key": self.key,
            "state": self.state,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
        }


PROVIDERS: list[Callable[[Workplace], list[Entry]]] = []  # work of apps that stand on this one, newest first


def page(place: Workplace, user: Any) -> dict[str, Any]:
    found, told = entries(place, user), line()
    return {
        "place": place,
        "queue": told,
        "cases": cases(place),
        "explanations": explanations(place),
        "entries": found,
        "mark": mark(found, told),
    }


def status(place: Workplace, user: Any) -> dict[str, Any]:
    """What the page asks for every few seconds; another ``mark`` means that it is to be drawn anew."""
    found = entries(place, user)
    return {"mark": mark(found, line()), "entries": [entry.facts for entry in found if entry.open]}


def page_mark(place: Workplace, user: Any) -> str:
    """``mark``, for a page that follows one piece of work."""
    return mark(entries(place, user), line())


def mark(found: list[Entry], told: dict[str, Any]) -> str:
    """What stands on the page besides bars: workers and their state, and the state of each entry."""
    workers = ",".join(f"{w['name']}{w['busy']}" for w in told["workers"])
    return ";".join([workers, *(f"{entry.key}{entry.state}" for entry in found)])


# Redis: who works, what is in line


def line() -> dict[str, Any]:
    """{"down", "workers", "queues"}; without an answer from Redis both lists are empty."""
    try:
        return {"down": False, "workers": workers(), "queues": [_queue(name) for name in jobs.QUEUES]}
    except redis.RedisError:
        return {"down": True, "workers": [], "queues": []}


def workers() -> list[dict[str, Any]]:
    """Every worker that told of itself lately. Raises redis.RedisError where the queue does not answer."""
    connection = django_rq.get_queue(jobs.ENCODE).connection
    found = [_worker(one) for one in Worker.all(connection=connection, serializer=JSONSerializer)]
    return sorted((one for one in found if one is not None), key=lambda one: one["born"])


def _worker(one: Worker) -> dict[str, Any] | None:
    heard = _aware(one.last_heartbeat)
    if heard is None or one.birth_date is None:
        return None
    job = _job(one.get_current_job_id(), one.connection)
    return {
        "name": one.name[:8],
        "queues": [QUEUE_NAMES.get(name, name) for name in one.queue_names()],
        "serves": one.queue_names(),
        "busy": job is not None,
        "job": QUEUE_NAMES.get(job.origin, job.origin) if job else "",
        "since": _aware(job.started_at) if job else None,
        "heard": heard,
        "silent": (timezone.now() - heard).total_seconds() > QUIET,
        "born": _aware(one.birth_date),
    }


def _queue(name: str) -> dict[str, Any]:
    queue = django_rq.get_queue(name)
    first = queue.get_job_ids(0, 1)
    job = _job(first[0], queue.connection) if first else None
    return {
        "name": QUEUE_NAMES[name],
        "queue": name,
        "length": queue.count,
        "oldest": _aware(job.enqueued_at) if job else None,
    }


def _job(key: str | None, connection: redis.Redis) -> Job | None:
    try:
        return Job.fetch(key, connection=connection, serializer=JSONSerializer) if key else None
    except NoSuchJobError:
        return None


def _aware(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at and at.tzinfo is None else at


def nobody() -> str:
    """Which queues no worker serves, in one sentence; empty where each has one. Raises redis.RedisError."""
    served = {name for one in workers() if not one["silent"] for name in one["serves"]}
    missing = [name for name in jobs.QUEUES if name not in served]
    if len(missing) == len(jobs.QUEUES):
        return "No worker runs: start one with manage.py work."
    return f"No worker serves {', '.join(missing)}: start one with manage.py work." if missing else ""


# PostgreSQL: what is to be done


def cases(place: Workplace) -> dict[str, Any]:
    """Cases that wait, are being scored, or are set aside, here; and why those were."""
    here = Case.objects.filter(site=place.site, protocol=place.protocol)
    counts = here.aggregate(
        pending=Count("pk", filter=Q(status="pending")),
        claimed=Count("pk", filter=Q(status="claimed")),
        quarantined=Count("pk", filter=Q(status="quarantined")),
        oldest=Min("pending_since", filter=Q(status="pending")),
    )
    aside = here.filter(status="quarantined").values_list("failure").annotate(n=Count("pk")).order_by("-n")
    return counts | {"reasons": list(aside[:RECENT])}


def explanations(place: Workplace) -> dict[str, Any]:
    here = {"prediction__site": place.site, "prediction__protocol": place.protocol}
    waiting = explaining.waiting().filter(**here).order_by()
    failed = Explanation.objects.filter(**here, prediction__current=True, status="failed")
    return waiting.aggregate(n=Count("pk"), oldest=Min("asked_at")) | {"failed": failed.count()}


def entries(place: Workplace, user: Any) -> list[Entry]:
    """The latest work of all kinds, the newest first."""
    found = [entry(place, user, task) for task in here(place)[:RECENT]]
    for provide in PROVIDERS:
        found += provide(place)
    return sorted(found, key=lambda entry: entry.asked_at, reverse=True)[:RECENT]


def here(place: Workplace) -> Any:
    """Tasks of this protocol: of this site, and of all sites."""
    mine = Q(site=place.site) | Q(site=None)
    return (
        Task.objects.filter(mine, protocol=place.protocol).select_related("by").order_by("-asked_at", "-pk")
    )


def may(place: Workplace, user: Any, task: Task) -> bool:
    """Who stops a task and reads its log: of all sites, who asked or who administers them all."""
    if task.site_id is not None:
        return place.is_lead
    return place.is_lead and (task.by_id == user.pk or governs(place, user))


def may_retry(place: Workplace, user: Any, task: Task) -> bool:
    """Who may ask for a task may try it again: a comparison changes nothing, calibrations are the site's own, releases
    are of every site."""
    if task.kind == Task.Kind.COMPARE:
        return place.is_lead
    return place.is_admin if task.kind == Task.Kind.RECALIBRATE else governs(place, user)


def entry(place: Workplace, user: Any, task: Task) -> Entry:
    allowed, promotes = may(place, user, task), task.kind == Task.Kind.PROMOTE
    return Entry(
        key=f"task-{task.pk}",
        name=task.get_kind_display(),
        state=tasks.state(task),
        asked_at=task.asked_at,
        by=task.by,
        everywhere=task.site_id is None,
        ended_at=task.ended_at,
        stage=_(task.stage) if task.stage else "",
        done=task.done,
        total=task.total,
        failure=tasks.why(task) if task.failure and allowed else "",
        log=[(datetime.fromisoformat(at), said) for at, said in map(tasks.told, task.log)] if allowed else [],
        task=task.pk,
        may=allowed,
        may_retry=task.status == Task.Status.FAILED and not promotes and may_retry(place, user, task),
        url=reverse("triage:releases", args=[place.site.slug, place.protocol.slug]) if promotes else "",
    )
