"""Long work is done once whatever happens to workers, one task at a time, and it stops when it is asked to."""

from __future__ import annotations

import signal
import sys
import threading

import pytest
from django.db import connection

from mlcore.errors import DataError
from tests.triage.workers import RealWorkers
from triage import claims, jobs, tasks
from triage.models import AuditEvent, Task

pytestmark = pytest.mark.django_db
STAGE = "Reading"


@pytest.fixture
def runner(monkeypatch):
    """Register what a task of the kind «train» does."""

    def register(does):
        monkeypatch.setitem(tasks.RUNNERS, "train", does)
        return does

    return register


@pytest.fixture(autouse=True)
def _eager(monkeypatch):
    monkeypatch.setattr(tasks, "WRITE_EVERY", 0.0)


def steps(task, progress, most=5):
    for i in range(most):
        progress(STAGE, i, most)
    return {"cases": most}


def verbs():
    return list(
        AuditEvent.objects.filter(object_type="triage.task").order_by("pk").values_list("verb", flat=True)
    )


def said(task):
    return [tasks.told(line)[1] for line in Task.objects.get(pk=task.pk).log]


def test_a_task_is_done_and_says_how_far_it_is(runner, protocol, site, admin):
    seen = []

    def does(task, progress):
        progress(STAGE, 3, 9)
        progress.say("%(n)d notes\tread.", n=7)
        seen.append(Task.objects.values("stage", "done", "total", "status").get())
        return {"cases": 9}

    runner(does)
    task = tasks.ask("train", protocol, site=site, by=admin, params={"seed": 1})
    assert tasks.drain() == 1
    task.refresh_from_db()
    assert seen == [{"stage": STAGE, "done": 3, "total": 9, "status": "claimed"}]
    assert (task.status, task.result, tasks.state(task)) == ("ready", {"cases": 9}, "done")
    assert task.ended_at is not None and task.claim is None
    assert said(task)[1:] == [STAGE, "7 notes read."]
    assert verbs() == ["task.ask"]


def test_an_unknown_kind_is_refused(protocol):
    with pytest.raises(DataError, match="train-all"):
        tasks.ask("train-all", protocol)
    assert not Task.objects.exists()


def test_a_kind_this_worker_does_not_know_fails_with_a_sentence(protocol):
    task = Task.objects.create(kind="later", protocol=protocol)
    assert tasks.drain() == 0
    task.refresh_from_db()
    assert task.status == "failed" and "update this worker" in task.failure


def test_progress_is_written_once_a_second_at_most(
    runner, protocol, monkeypatch, django_assert_max_num_queries
):
    monkeypatch.setattr(tasks, "WRITE_EVERY", 60.0)

    def does(task, progress):
        progress(STAGE, 0, 1000)
        with django_assert_max_num_queries(0):
            for i in range(1000):
                progress(STAGE, i, 1000)
        return {}

    runner(does)
    tasks.ask("train", protocol)
    assert tasks.drain() == 1
    assert Task.objects.get().done == 0


def test_a_task_that_waits_is_cancelled_at_once(runner, protocol, admin):
    runner(steps)
    task = tasks.ask("train", protocol, by=admin)
    assert tasks.cancel(task, admin)
    task.refresh_from_db()
    assert (task.status, tasks.state(task)) == ("failed", "cancelled")
    assert task.failure == tasks.CANCELLED and task.ended_at is not None
    assert tasks.drain() == 0
    assert not tasks.cancel(task, admin)
    assert verbs() == ["task.ask", "task.cancel"]


def test_a_running_task_stops_at_its_next_word(runner, protocol, admin):
    reached = []

    def does(task, progress):
        for i in range(5):
            progress(STAGE, i, 5)
            reached.append(i)
            if i == 2:
                assert tasks.cancel(task, admin)
                assert tasks.state(Task.objects.get()) == "stopping"
        return {}

    runner(does)
    task = tasks.ask("train", protocol, by=admin)
    assert tasks.drain() == 0
    task.refresh_from_db()
    assert reached == [0, 1, 2]
    assert tasks.state(task) == "cancelled" and task.claim is None and task.ended_at is not None
    assert tasks.retry(task, admin)
    runner(steps)
    assert tasks.drain() == 1
    task.refresh_from_db()
    assert tasks.state(task) == "done" and task.failure == ""
    assert verbs() == ["task.ask", "task.cancel", "task.retry"]


def test_an_error_is_tried_three_times_and_then_said(runner, protocol, admin):
    tried = []

    def does(task, progress):
        tried.append(task.attempts)
        raise ValueError("Juana Pérez")

    runner(does)
    task = tasks.ask("train", protocol)
    assert tasks.drain() == 0
    task.refresh_from_db()
    assert tried == [1, 2, 3]
    assert tasks.state(task) == "failed" and task.failure == "ValueError while it was done"
    assert "Juana" not in str(task.log) and task.ended_at is not None
    assert tasks.retry(task, admin)
    task.refresh_from_db()
    assert (task.status, task.attempts, task.ended_at) == ("pending", 0, None)


def test_a_refusal_is_said_and_not_tried_again(runner, protocol):
    tried = []

    def does(task, progress):
        tried.append(1)
        raise DataError("The class «suspicion» has 3 cases: 40 more reviews are needed.")

    runner(does)
    task = tasks.ask("train", protocol)
    tasks.drain()
    task.refresh_from_db()
    assert len(tried) == 1 and "40 more reviews" in task.failure


def test_only_a_task_that_failed_is_tried_again(runner, protocol, admin):
    runner(steps)
    task = tasks.ask("train", protocol)
    assert not tasks.retry(task, admin)
    tasks.drain()
    assert not tasks.retry(task, admin)


def test_a_worker_that_ends_gives_the_task_back_and_no_attempt_is_counted(runner, protocol, monkeypatch):
    monkeypatch.setattr(tasks, "STOPPING", threading.Event())

    def does(task, progress):
        progress(STAGE, 1, 5)
        tasks.STOPPING.set()
        progress(STAGE, 2, 5)

    runner(does)
    task = tasks.ask("train", protocol)
    assert tasks.drain() == 0
    task.refresh_from_db()
    assert (task.status, task.attempts, task.claim) == ("pending", 0, None)
    tasks.STOPPING.clear()
    runner(steps)
    assert tasks.drain() == 1


def test_a_task_that_lost_its_claim_writes_nothing_more(runner, protocol):
    """As after a restart of PostgreSQL: another worker has the task by now."""

    def does(task, progress):
        Task.objects.filter(pk=task.pk).update(claim=42, stage="of the other")
        progress(STAGE, 2, 5)

    runner(does)
    task = tasks.ask("train", protocol)
    assert tasks.drain() == 0
    task.refresh_from_db()
    assert (task.status, task.claim, task.stage, task.done) == ("claimed", 42, "of the other", 0)


def test_a_cancelled_task_whose_worker_died_is_not_begun_again(runner, protocol, admin):
    runner(steps)
    task = tasks.ask("train", protocol)
    Task.objects.filter(pk=task.pk).update(status="claimed", claim=7, attempts=1, stop_asked=True)
    assert tasks.reconcile() == 0
    task.refresh_from_db()
    assert tasks.state(task) == "cancelled" and task.ended_at is not None


def test_a_task_that_kills_its_worker_three_times_is_set_aside(runner, protocol):
    runner(steps)
    task = tasks.ask("train", protocol)
    Task.objects.filter(pk=task.pk).update(status="claimed", claim=7, attempts=claims.ATTEMPTS)
    assert tasks.reconcile() == 0
    task.refresh_from_db()
    assert tasks.state(task) == "failed" and "died each of the 3 times" in task.failure and task.ended_at


def test_a_log_keeps_its_last_lines(protocol):
    task = Task.objects.create(kind="train", protocol=protocol)
    for i in range(tasks.LINES + 5):
        tasks.say(task, "line %(i)d", i=i)
    lines = said(task)
    assert len(lines) == tasks.LINES and lines[-1] == f"line {tasks.LINES + 4}" and lines[0] == "line 5"


@pytest.mark.django_db(transaction=True)
def test_one_task_at_a_time(runner, protocol):
    """Another worker that looks while one is at a task does none, though two wait."""
    found = []

    def does(task, progress):
        other = threading.Thread(target=lambda: (found.append(tasks.drain()), connection.close()))
        other.start()
        other.join()
        return {}

    runner(does)
    tasks.ask("train", protocol)
    tasks.ask("train", protocol)
    assert tasks.drain() == 2
    assert found == [0, 0]


WORKER = """
import sys, time, django
django.setup()
from django.core.management import call_command
from triage import tasks
def does(task, progress):
    for i in range(task.params["steps"]):
        if not task.params["silent"]: progress("Reading", i, 99)
        else:
            if i == 0: progress("Reading", i, 99)
        time.sleep(0.05)
    return {"cases": 99}
tasks.RUNNERS["train"], tasks.GRACE = does, 2
call_command("work")
"""


@pytest.mark.django_db(transaction=True)
class TestRealWorkers(RealWorkers):
    """Worker processes, killed and ended for real."""

    command = (sys.executable, "-c", WORKER)

    @pytest.fixture(autouse=True)
    def _environment(self, settings, tmp_path, runner):
        runner(steps)
        self.surround(settings, tmp_path)

    def facts(self):
        return list(Task.objects.values("status", "failure", "log"))

    def begun(self, protocol, steps, silent=False):
        task = tasks.ask("train", protocol, params={"steps": steps, "silent": silent})
        worker = self.work()
        self.until(Task.objects.filter(status="claimed", stage="Reading").exists)
        return task, worker

    def test_promise_1_a_killed_workers_task_is_done_by_another(self, protocol):
        task, worker = self.begun(protocol, steps=10_000)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        Task.objects.update(params={"steps": 3, "silent": False})
        tasks.reconcile()
        self.work()
        self.until(Task.objects.filter(status="ready").exists)
        task.refresh_from_db()
        assert task.attempts == 2 and task.result == {"cases": 99}

    @pytest.mark.parametrize("silent", [False, True], ids=["that tells", "that is silent"])
    def test_promise_9_sigterm_ends_a_worker_at_a_task(self, protocol, silent):
        task, worker = self.begun(protocol, steps=10_000, silent=silent)
        worker.terminate()
        assert worker.wait(30) == 0
        task.refresh_from_db()
        assert (task.status, task.attempts, task.claim) == ("pending", 0, None)

    def test_a_task_is_cancelled_while_a_worker_is_at_it(self, protocol, admin):
        task, worker = self.begun(protocol, steps=10_000)
        assert tasks.cancel(task, admin)
        self.until(lambda: tasks.state(Task.objects.get()) == "cancelled")
        assert worker.poll() is None


def test_reconcile_wakes_whoever_should_do_a_task(runner, protocol, monkeypatch):
    woken = []
    monkeypatch.setattr(jobs, "wake_tasks", lambda: woken.append(1))
    runner(steps)
    jobs.reconcile()
    assert not woken
    tasks.ask("train", protocol)
    jobs.reconcile()
    assert woken == [1]
