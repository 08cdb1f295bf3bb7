"""Labelled cases to train on, from whoever keeps labels: that app stands on this one, so it makes itself known here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlcore.records import Record

# "labels" → (slug of a protocol, slugs of sites; none: every site) → the cases, and where their labels came from.
SOURCES: dict[str, Callable[[str, list[str]], tuple[list[Record], dict[str, Any]]]] = {}
