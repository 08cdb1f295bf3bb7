"""Loaded before pytest-django reads the settings: real PostgreSQL and Valkey of the tests' own, in var/test."""

import os
from pathlib import Path

os.environ.setdefault("CENTINELA_VAR", str(Path(__file__).resolve().parent.parent / "var" / "test"))

from triage import services  # noqa: E402

services.ensure()
