"""Work done by several processes at once, each with Django and database connections of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django.db import connection

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 600


def together(work: Callable[[Any], Any], shares: Sequence[Sequence[Any]]) -> list[Any]:
    """What work(item) returns for every item, or its exception in words: one process a share, one thread an item.

    All begin at once. work is a function of a module; items and answers travel as JSON.
    """
    path = f"{work.__module__}.{work.__qualname__}"
    run = [sys.executable, "-c", "from tests.faults import processes; processes.serve()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(run, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes) for _ in shares
    ]
    try:
        for process, share in zip(running, shares, strict=True):
            asked = {"database": connection.settings_dict["NAME"], "work": path, "items": list(share)}
            print(json.dumps(asked), file=process.stdin, flush=True)
        for process in running:
            assert process.stdout.readline() == "ready\n", f"process {process.pid} did not start"
        with ThreadPoolExecutor(len(running)) as readers:
            told = list(
                readers.map(lambda process: process.communicate("go\n", timeout=PATIENCE)[0], running)
            )
        return [answer for line in told for answer in json.loads(line)]
    finally:
        for process in running:
            process.kill()


def serve() -> None:
    """The other side: says when it is ready, starts at a word, answers in one line."""
    import django

    django.setup()
    from django.db import connections
    from django.utils.module_loading import import_string

    asked = json.loads(sys.stdin.readline())
    connections.databases["default"]["NAME"] = asked["database"]
    work, items = import_string(asked["work"]), asked["items"]
    ready, go = threading.Barrier(len(items) + 1), threading.Event()

    def one(item: Any) -> Any:
        connection.ensure_connection()
        ready.wait()
        go.wait()
        try:
            return work(item)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    with ThreadPoolExecutor(len(items)) as threads:
        found = [threads.submit(one, item) for item in items]
        ready.wait()
        print("ready", flush=True)
        sys.stdin.readline()
        go.set()
        print(json.dumps([answer.result() for answer in found]))
