"""The list of what waits: its rows in words, its size, and the last verdict."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.core.cache import cache
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from reviews import selectors
from reviews.visibility import blind_protocol, covered
from reviews.wording import stood, verdict_name
from triage import policy as dial
from triage.access import Workplace
from triage.models import Policy

REASONS = {
    "ambiguous": gettext_lazy("Ambiguous"),
    "novel": gettext_lazy("Without precedent"),
    "atypical": gettext_lazy("Atypical"),
}
COUNTED_SECONDS = 10


def queue(place: Workplace, user: Any, after: int | None) -> dict[str, Any]:
    """The list of what waits, its size by reason, and the last verdict."""
    policy = dial.current(place.site, place.protocol)
    rows = selectors.queue_page(place, user, policy, covered(place, policy, user), after)
    verdicts = selectors.done_today(place, user, policy)
    counts, done = _counts(place, user, policy, verdicts), sum(verdicts.values())
    covered_all = blind_protocol(place.protocol)
    shown, pending = rows[: selectors.PAGE], max(sum(counts.values()), len(rows))
    return {
        "place": place,
        "rows": [_row(row, place, user) for row in shown],
        "more": shown[-1].case_id if len(rows) > selectors.PAGE else None,
        "after": after,
        "pending": pending,
        "counts": [(kind, REASONS[kind], n) for kind, n in counts.items() if kind and not covered_all],
        "blind": counts[""],
        "done": done,
        "today": done + pending,
        "last": _last(place, user),
    }


def _counts(place: Workplace, user: Any, policy: Policy, done: dict[str, int]) -> dict[str, int]:
    """How many wait, by reason: others' work shows within ten seconds, the reader's own verdicts at once."""
    key = f"waiting:{place.site.pk}:{place.protocol.pk}:{policy.version}:{user.pk}:{timezone.localdate()}"
    counts, then = cache.get(key) or (None, done)
    if counts is None:
        counts = selectors.counts(place, user, policy, covered(place, policy, user))
        cache.set(key, (counts, done), COUNTED_SECONDS)
    return {reason: n - done.get(reason, 0) + then.get(reason, 0) for reason, n in counts.items()}


def _row(row: Any, place: Workplace, user: Any) -> dict[str, Any]:
    held = row.holder and row.held_until > timezone.now()
    others = held and row.holder != user.pk
    return {
        "case": row.case_id,
        "pseudonym": row.pseudonym,
        "kind": row.reason,
        "why": REASONS.get(row.reason, ""),
        "specialty": row.specialty,
        "age": age(row.at),
        "at": row.at,
        "mine": held and not others,
        "holder": (f"{row.first_name} {row.last_name}".strip() or row.username) if others else "",
    }


def age(since: datetime) -> str:
    """Time waited, in its largest whole unit."""
    minutes = max(int((timezone.now() - since) / timedelta(minutes=1)), 0)
    for size, unit in ((1440, _("d")), (60, _("h"))):
        if minutes >= size:
            return f"{minutes // size}\u00a0{unit}"
    return f"{minutes}\u00a0min"


def _last(place: Workplace, user: Any) -> dict[str, Any] | None:
    review = selectors.last_verdict(place, user)
    if review is None:
        return None
    return {
        "review": review.pk,
        "case": review.case_id,
        "pseudonym": review.case.patient.pseudonym,
        "verdict": verdict_name(place.protocol, review.label),
        "stood": stood(place.protocol, review.prediction),
    }
