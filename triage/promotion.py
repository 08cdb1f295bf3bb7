"""Another release is made the active one by a worker: asked for on a page, checked, and done in one transaction.

Until that commits the former release decides alone, and after it the new one does; a request only puts the task in line.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils.translation import gettext_noop

from mlcore.errors import DataError
from triage import registry, tasks
from triage.access import governs_all
from triage.models import AuditEvent, Protocol, Release, Task

CHECKING = gettext_noop("Checking the release's files")
SWITCHING = gettext_noop("Making its scores stand, all at once: until then the former release decides")
STANDS = gettext_noop("%(scored)d cases stand by its scores, %(pending)d wait to be scored.")
UNDER_WAY = gettext_noop(
    "Another release is being made the active one: wait until that is done, or cancel it in the background work."
)

NO_LONGER = gettext_noop(
    "Who asked for this does not administer every site that uses the protocol any more: nothing was changed; ask for it "
    "anew as somebody who does."
)


def ask(release: Release, *, by: Any, reason: str, instead_of: int) -> Task:
    """Put it in line, with its event.

    instead_of: id of the release that is active as the page shows it. Raises registry.ReleaseMoved where another one is,
    BundleError where the files cannot be used, DataError where a promotion of the protocol is under way.
    """
    if damage := registry.damage(release):
        raise damage
    with transaction.atomic():
        Protocol.objects.select_for_update(no_key=True).get(pk=release.protocol_id)
        if under_way(release.protocol):
            raise DataError(UNDER_WAY)
        active = Release.objects.filter(protocol=release.protocol, active=True).first()
        if active is None or active.pk != instead_of or active == release:
            raise registry.ReleaseMoved(registry.MOVED)
        params = {"release": release.pk, "instead_of": instead_of, "reason": reason}
        return tasks.ask(Task.Kind.PROMOTE, release.protocol, by=by, params=params)


def under_way(protocol: Protocol) -> Task | None:
    """The promotion that waits or is being done, stopping or not."""
    open_ = Task.objects.filter(kind=Task.Kind.PROMOTE, protocol=protocol, status__in=["pending", "claimed"])
    return open_.select_related("by").first()


def failed(protocol: Protocol) -> Task | None:
    """The promotion asked for last, where it came to nothing of itself."""
    last = Task.objects.filter(kind=Task.Kind.PROMOTE, protocol=protocol).order_by("-asked_at", "-pk").first()
    return last if last and tasks.state(last) == "failed" else None


def run(task: Task, progress: tasks.Progress) -> dict[str, Any]:
    """{"release", "scored": cases that stand by its scores, "pending": cases that wait}.

    Cancelled before it commits it has not been; begun anew after it committed, it says what was done. DataError where
    who asked may not ask any more.
    """
    asked = task.params
    release = Release.objects.select_related("protocol").get(pk=asked["release"])
    found = _done(task, release)
    if found is None:
        progress(CHECKING, 0, 0)
        found = registry.activate(
            release,
            actor=task.by,
            reason=asked["reason"],
            instead_of=asked["instead_of"],
            details={"task": task.pk},
            before=lambda: _begin(task, progress),
            check=progress.check,
        )
    progress.say(STANDS, **found)
    return {"release": release.pk} | found


def _begin(task: Task, progress: tasks.Progress) -> None:
    if task.by is None or not task.by.is_active or not governs_all(task.protocol, task.by):
        raise DataError(NO_LONGER)
    progress(SWITCHING, 0, 0)


def _done(task: Task, release: Release) -> dict[str, int] | None:
    """What an attempt came to that was killed between its commit and the end of the task."""
    events = AuditEvent.objects.filter(
        verb="release.activate",
        object_type="triage.release",
        object_id=str(release.pk),
        details__task=task.pk,
    )
    details = events.filter(at__gte=task.asked_at).values_list("details", flat=True).first()
    return details and {name: details[name] for name in ("scored", "pending")}
