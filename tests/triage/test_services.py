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


@pytest.mark.parametrize("missing", ["SECRET_KEY", "DATABASE_URL", "REDIS_URL"])
def test_production_never_guesses(missing):
    given = {"SECRET_KEY": "x" * 50, "DATABASE_URL": "postgres://u:p@h/d", "REDIS_URL": "redis://h/0", "DEBUG": "0"}
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
