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
    key = f"waiting:{place.site.pk}:{place.protocol.pk}:{policy.version}:{user.pk}:{timezone.localdate()}"
    counts, then = cache.get(key) or (None, done)
    if counts is None:
        counts = selectors.counts(place, user, policy)
        cache.set(key, (counts, done), COUNTED_SECONDS)
    return {reason: max(n - done.get(reason, 0) + then.get(reason, 0), 0) for reason, n in counts.items()}
