"""Promotion as a task: one at a time, beside longer work, whole or not at all, told once whatever happens to the worker."""

from __future__ import annotations

import threading

import pytest
from django.db import connection
from django.utils.translation import gettext

from mlcore.errors import DataError
from tests.triage.test_registry_page import made_up
from triage import policy, promotion, registry, tasks
from triage.models import AuditEvent, Release, Task

pytestmark = pytest.mark.django_db


@pytest.fixture
def both(protocol, monkeypatch):
    registry._damaged_as_of.cache_clear()
    monkeypatch.setattr(registry, "_damaged", lambda folder: None)
    champion, challenger = made_up(protocol, "campeona", "a" * 64), made_up(protocol, "retadora", "b" * 64)
    Release.objects.filter(pk=champion.pk).update(active=True)
    return champion, challenger


@pytest.fixture
def asked(both, admin):
    return promotion.ask(both[1], by=admin, reason="mejor", instead_of=both[0].pk)


def active():
    return Release.objects.get(active=True)


def test_a_second_is_refused_while_one_is_under_way(both, asked, admin):
    with pytest.raises(DataError, match="being made the active one"):
        promotion.ask(both[1], by=admin, reason="otra vez", instead_of=both[0].pk)
    assert tasks.cancel(asked, admin) and promotion.under_way(both[0].protocol) is None
    promotion.ask(both[1], by=admin, reason="otra vez", instead_of=both[0].pk)
    assert tasks.drain() == 1 and active() == both[1]


def test_it_is_not_tried_again_but_asked_for_afresh(both, asked, admin):
    assert tasks.cancel(asked, admin)
    with pytest.raises(DataError, match="from the page of releases"):
        tasks.retry(asked, admin)
    assert promotion.under_way(both[0].protocol) is None


@pytest.mark.parametrize(
    "lost", ["a site was added", "a membership was taken away", "nobody may sign in by it"]
)
def test_who_may_not_ask_any_more_when_it_is_done_changes_nothing(both, asked, admin, other_site, lost):
    if lost == "a site was added":
        policy.current(other_site, asked.protocol)
    elif lost == "a membership was taken away":
        admin.memberships.update(role="lead")
    else:
        admin.is_active = False
        admin.save()
    assert tasks.drain() == 0 and active() == both[0]
    assert promotion.failed(asked.protocol) == asked
    assert tasks.why(Task.objects.get()) == gettext(promotion.NO_LONGER)


def test_a_release_that_is_active_or_moved_is_not_asked_for(both, admin):
    for release, instead_of in ((both[0], both[0]), (both[1], both[1])):
        with pytest.raises(registry.ReleaseMoved):
            promotion.ask(release, by=admin, reason="r", instead_of=instead_of.pk)
    assert not Task.objects.exists()


def test_cancelled_within_the_switch_nothing_has_been(both, asked, monkeypatch):
    """The last look at whether it is wanted comes after everything was written."""
    Task.objects.filter(pk=asked.pk).update(status="claimed", claim=7)
    progress, seen = tasks.Progress(asked, 7), []

    def asked_to_stop():
        seen.append((active(), AuditEvent.objects.filter(verb="release.activate").exists()))
        if seen[-1][1]:
            raise tasks.Stopped

    monkeypatch.setattr(progress, "check", asked_to_stop)
    with pytest.raises(tasks.Stopped):
        promotion.run(asked, progress)
    assert seen[-1] == (both[1], True) and active() == both[0]
    assert not AuditEvent.objects.filter(verb="release.activate").exists()


def test_check_tells_a_task_that_is_unwanted_without_a_lock(asked, admin):
    progress = tasks.Progress(asked, 7)
    with pytest.raises(tasks.Interrupted):  # another worker's
        progress.check()
    Task.objects.filter(pk=asked.pk).update(status="claimed", claim=7)
    progress.check()
    assert tasks.cancel(asked, admin)
    with pytest.raises(tasks.Stopped):
        progress.check()


def test_a_worker_killed_after_the_switch_leaves_it_done_once(both, asked):
    number = 7
    Task.objects.filter(pk=asked.pk).update(status="claimed", claim=number)
    done = promotion.run(asked, tasks.Progress(asked, number))
    Task.objects.filter(pk=asked.pk).update(status="pending", claim=None)  # killed before it could say so
    events = AuditEvent.objects.filter(verb="release.activate").count()
    assert tasks.drain() == 1
    assert Task.objects.get().result == done and active() == both[1]
    assert AuditEvent.objects.filter(verb="release.activate").count() == events


@pytest.mark.django_db(transaction=True)
def test_it_goes_beside_longer_work_and_before_it(both, admin, monkeypatch):
    monkeypatch.setitem(tasks.RUNNERS, "train", lambda task, progress: {})
    tasks.ask("train", both[0].protocol, by=admin)
    promotion.ask(both[1], by=admin, reason="mejor", instead_of=both[0].pk)
    assert [task.kind for task in tasks.waiting()] == ["promote", "train"]
    done = []

    def other():
        done.extend([tasks.drain(), tasks.drain_at_once()])
        connection.close()

    with tasks._alone():
        worker = threading.Thread(target=other)
        worker.start()
        worker.join()
    assert done == [0, 1] and active() == both[1]
    assert Task.objects.get(kind="train").status == "pending"


def test_half_copied_releases_are_removed_after_a_day(settings, tmp_path, monkeypatch):
    settings.RELEASES_DIR = tmp_path
    for name in ("abc.1.part", "abc"):
        (tmp_path / name).mkdir()
    registry.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["abc", "abc.1.part"]
    monkeypatch.setattr(registry, "LEFT", -1)
    registry.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]
