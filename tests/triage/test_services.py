"""The embedded servers: started once however many ask, reused, found again after kill -9, private, stoppable."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from tests.conftest import ROOT
from triage import services

SHOW = "import json, os; from triage import services; started = services.ensure(); "
SHOW += "print(json.dumps([started, os.environ['DATABASE_URL'], os.environ['REDIS_URL']]))"


def ask(var: Path) -> subprocess.Popen[str]:
    given = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    environment = given | {"CENTINELA_VAR": str(var)}
    return subprocess.Popen(
        [sys.executable, "-c", SHOW], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def answer(process: subprocess.Popen[str]) -> tuple[bool, str, str]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return tuple(json.loads(out))


@pytest.fixture
def var(tmp_path, monkeypatch):
    monkeypatch.setenv("CENTINELA_VAR", str(tmp_path / "var"))
    yield tmp_path / "var"
    services.stop()


def test_four_at_once_start_one_of_each_and_a_killed_server_loses_nothing(var):
    answers = [answer(process) for process in [ask(var) for _ in range(4)]]
    assert sorted(started for started, *_ in answers) == [False, False, False, True]
    assert len({tuple(urls) for _, *urls in answers}) == 1
    database = answers[0][1]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (x int)")
        connection.execute("INSERT INTO kept VALUES (42)")
    postmaster = int((var / "pgdata" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    time.sleep(0.2)
    started, again, _ = answer(ask(var))
    assert started
    with psycopg.connect(again) as connection:
        assert connection.execute("SELECT x FROM kept").fetchall() == [(42,)]


@pytest.mark.parametrize("name", ["valkey", "postgres"])
def test_a_server_killed_while_it_is_used_is_started_again_where_it_stood(var, monkeypatch, name):
    _, database, queue = answer(ask(var))
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("REDIS_URL", queue)
    assert services.revive() == []
    os.kill(_pid(var, name, queue), signal.SIGKILL)
    time.sleep(0.2)
    assert services.status()[name] == "stopped"
    assert services.revive() == [name]
    assert services.revive() == []
    psycopg.connect(database).close()
    assert redis.Redis.from_url(queue).ping()


def _pid(var: Path, name: str, queue: str) -> int:
    if name == "valkey":
        return redis.Redis.from_url(queue).info("server")["process_id"]
    return int((var / "pgdata" / "postmaster.pid").read_text().split()[0])


def test_somebody_elses_server_is_not_revived(var, monkeypatch):
    answer(ask(var))
    services.stop()
    monkeypatch.setenv("DATABASE_URL", "postgres://somebody:else@db.hospital.example/production")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert services.revive() == []


def test_state_is_private_and_stop_stops(var):
    answer(ask(var))
    assert stat.S_IMODE(var.stat().st_mode) == 0o700
    for name in ("services.json", "valkey.conf"):
        assert stat.S_IMODE((var / name).stat().st_mode) == 0o600
    assert services.status()["postgres"].startswith("running on 127.0.0.1:")
    assert set(services.stop().values()) == {"stopped"}
    assert services.status() == {"postgres": "stopped", "valkey": "stopped"}
    assert set(services.stop().values()) == {"was not running"}


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CENTINELA_VAR", str(tmp_path / "file" / "var"))
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(services.ServiceError, match="CENTINELA_VAR"):
        services.ensure()


def test_servers_that_run_need_no_room_on_the_disk(var, monkeypatch):
    answer(ask(var))
    monkeypatch.setattr(services, "FREE_BYTES", 2**70)
    assert services.status()["postgres"].startswith("running")
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name)
    assert not services.ensure()
    assert services.owns(os.environ["DATABASE_URL"])
    assert not services.owns("postgres://somebody:else@db.hospital.example/production")
    assert set(services.stop().values()) == {"stopped"}
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name)
    with pytest.raises(services.ServiceError, match="400 MB"):
        services.ensure()


def test_an_unsupported_platform_is_one_sentence(var, monkeypatch):
    monkeypatch.delenv("DATABASE_URL")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(services, "fcntl", None)
        with pytest.raises(services.ServiceError, match="Linux or macOS"):
            services.ensure()
    with monkeypatch.context() as without_wheel:
        without_wheel.setattr(services, "find_spec", lambda name: None)
        with pytest.raises(services.ServiceError, match="no wheel for this platform"):
            services.ensure()


AWAY = {"DATABASE_URL": "postgres://u:p@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize(
    ("given", "command", "says"),
    [
        (AWAY, ["verify_audit"], "PostgreSQL does not answer"),
        ({"REDIS_URL": AWAY["REDIS_URL"]}, ["work"], "The queue does not answer"),
        ({}, ["verify_audit"], "run `manage.py migrate` first"),
    ],
)
def test_a_service_that_is_away_or_empty_is_one_sentence(given, command, says, db):
    if command == ["work"]:
        from django.conf import settings

        test_database = (
            os.environ["DATABASE_URL"].rsplit("/", 1)[0] + "/" + settings.DATABASES["default"]["NAME"]
        )
        given = {"DATABASE_URL": test_database} | given
    elif not given:
        given = {"DATABASE_URL": os.environ["DATABASE_URL"].rsplit("/", 1)[0] + "/template1"}
    ran = subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=ROOT,
        env=os.environ | given,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert says in ran.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ran.stderr


def test_healthz_needs_nothing_and_readyz_names_what_is_missing():
    code = "import django; django.setup(); from django.test import Client; c = Client(); "
    code += (
        "print(c.get('/healthz').status_code, c.get('/readyz').status_code, sorted(c.get('/readyz').json()))"
    )
    environment = (
        os.environ | AWAY | {"DJANGO_SETTINGS_MODULE": "triage.settings", "ALLOWED_HOSTS": "testserver"}
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ran.stdout.split()[:2] == ["200", "503"], ran.stderr
    assert "postgres" in ran.stdout
    assert "queue" in ran.stdout


@pytest.mark.parametrize("missing", ["SECRET_KEY", "DATABASE_URL", "REDIS_URL"])
def test_production_never_guesses(missing):
    given = {
        "SECRET_KEY": "x" * 50,
        "DATABASE_URL": "postgres://u:p@h/d",
        "REDIS_URL": "redis://h/0",
        "DEBUG": "0",
    }
    del given[missing]
    ran = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith(f"{missing} is not set")


def test_promise_18_check_deploy_is_clean():
    given = {
        "SECRET_KEY": "k3y-" + "abcdefghij" * 6,
        "DATABASE_URL": os.environ["DATABASE_URL"],
        "REDIS_URL": os.environ["REDIS_URL"],
        "ALLOWED_HOSTS": "centinela.example",
        "DEBUG": "0",
    }
    ran = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def test_a_start_that_was_broken_off_is_taken_up_again(var):
    answer(ask(var))
    services.stop()
    state = json.loads((var / "services.json").read_text())
    del state["postgres"]["port"], state["valkey"]
    (var / "services.json").write_text(json.dumps(state))
    assert services.status() == {"postgres": "stopped", "valkey": "stopped"}
    assert services.stop() == {"postgres": "was not running", "valkey": "was not running"}
    started, *_ = answer(ask(var))
    assert started


def test_ctrl_c_during_the_first_start_leaves_nothing_running(var):
    process = ask(var)
    while not (var / "pgdata" / "postmaster.pid").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert set(services.status().values()) == {"stopped"}
    assert answer(ask(var))[0]
