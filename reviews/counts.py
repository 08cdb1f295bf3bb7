"""How many cases wait for a reader, counted now and then."""

from __future__ import annotations

from typing import Any

from django.core.cache import cache
from django.utils import timezone

from reviews import selectors
from triage.access import Workplace
from triage.models import Policy

COUNTED_SECONDS = 60


def waiting(
    place: Workplace, user: Any, policy: Policy, done: dict[str, int] | None = None
) -> dict[str, int]:
    """How many wait, by reason and "" for blind: others' work shows within a minute, the reader's own readings at once.

    ``done``: the reader's readings of today, in the same groups.
    """
    done = selectors.done_today(place, user, policy) if done is None else done
    counts, then = _counted(place, user, policy, done)
    return {reason: max(n - done.get(reason, 0) + then.get(reason, 0), 0) for reason, n in counts.items()}


def lately(place: Workplace, user: Any, policy: Policy) -> dict[str, int]:
    """The same as it was within the last minute."""
    return _counted(place, user, policy, None)[0]


def _counted(
    place: Workplace, user: Any, policy: Policy, done: dict[str, int] | None
) -> tuple[dict[str, int], dict[str, int]]:
    """The counts, and what the reader had done today when they were taken."""
    key = f"waiting:{place.site.pk}:{place.protocol.pk}:{policy.version}:{user.pk}:{timezone.localdate()}"
    if (found := cache.get(key)) is None:
        done = selectors.done_today(place, user, policy) if done is None else done
        found = selectors.counts(place, user, policy), done
        cache.set(key, found, COUNTED_SECONDS)
    return found
