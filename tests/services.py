"""Loaded before pytest-django reads the settings: real PostgreSQL and Valkey of the tests' own, in var/test."""

import os
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two threads of a small model wait for each other more than they work
var = os.environ.setdefault("CENTINELA_VAR", str(Path(__file__).resolve().parent.parent / "var" / "test"))
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # tests that run beside others have servers of their own
    os.environ["CENTINELA_VAR"] = f"{var}-{worker}"

from triage import services  # noqa: E402

services.ensure()


def pytest_addoption(parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="write docs/screenshots anew")
