"""Who holds which case. A lease lasts a quarter of an hour; whoever works renews it, an abandoned one is free."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from reviews import counts, selectors
from reviews.filters import RISK
from reviews.models import Lease, Skip
from triage import audit
from triage import policy as dial
from triage.access import Workplace
from triage.models import Case, Policy, Prediction

MINUTES = 15
DRAW = random.SystemRandom()

# One statement decides: the row is new, mine already, or expired; otherwise nothing changes and nothing returns.
HOLD = """
    INSERT INTO reviews_lease (case_id, reader_id, until)
    VALUES (%(case)s, %(reader)s, clock_timestamp() + %(lasts)s)
    ON CONFLICT (case_id) DO UPDATE SET reader_id = excluded.reader_id, until = excluded.until
    WHERE reviews_lease.reader_id = excluded.reader_id OR reviews_lease.until <= clock_timestamp()
    RETURNING until
"""


def hold(case: int, user: Any) -> bool:
    """Reserve the case for ``user``, or renew the reservation; False while somebody else holds it."""
    with connection.cursor() as cursor:
        cursor.execute(HOLD, {"case": case, "reader": user.pk, "lasts": timedelta(minutes=MINUTES)})
        return cursor.fetchone() is not None


def renew(case: int, user: Any) -> bool:
    """Prolong the reservation ``user`` has, run out or not; False where somebody else has it, or a lead took it back."""
    mine = Lease.objects.filter(case=case, reader=user)
    return mine.update(until=Now() + timedelta(minutes=MINUTES)) > 0


@transaction.atomic
def take_next(place: Workplace, user: Any) -> int | None:
    """Reserve the next case nobody else holds and return its id; None when nothing waits.

    The most urgent one, or at random, as often as they wait, the longest waiting of those read blind; what ``user``
    skipped comes last.
    """
    policy = dial.current(place.site, place.protocol)
    streams = _streams(place, user, policy)
    fresh = [(rows.exclude(case__in=selectors.skipped(user)), order) for rows, order in streams]
    for rows, order in (*fresh, *streams):
        if case := _take(rows, user, order):
            give_back_idle(place, user, keep=case)
            return case
    return None


def _streams(place: Workplace, user: Any, policy: Policy) -> list[tuple[QuerySet[Prediction], str]]:
    """What is read with the model's view and what is read blind, with their orders; which comes first is drawn by their sizes."""
    held = selectors.held_by_others(user)
    seen = selectors.unread(place, policy).exclude(case__in=held), RISK
    blind = selectors.read_blind(place, user, policy).exclude(case__in=held), selectors.BLIND_ORDER
    sizes = counts.lately(place, user, policy)
    return [blind, seen] if DRAW.random() * sum(sizes.values()) < sizes[""] else [seen, blind]


def _take(waiting: QuerySet[Prediction], user: Any, order: str = RISK) -> int | None:
    """Reserve the first of these that is free.

    SKIP LOCKED keeps readers who ask at once apart, and the lock reads the row as it is now: one labelled meanwhile
    is passed over. A lease given since the statement began it cannot see, so ``hold`` has the last word.
    """
    first = selectors.ordered(waiting, order).values("pk")[: selectors.PAGE]
    standing = Prediction.objects.filter(pk__in=first, current=True, labelled=False)
    free = selectors.ordered(standing, order).select_for_update(skip_locked=True, no_key=True)
    while (case := free.values_list("case", flat=True).first()) is not None or waiting.exists():
        if case is not None and hold(case, user):
            return case
    return None


def skip(place: Workplace, user: Any, case: Case) -> None:
    """Pass a case over: it is free for others at once, and comes to ``user`` again when nothing else waits."""
    Skip.objects.update_or_create(case=case, reader=user, defaults={"at": timezone.now()})
    Lease.objects.filter(case=case, reader=user).delete()


@transaction.atomic
def release(place: Workplace, lead: Any, case: Case) -> bool:
    """A lead frees a case somebody holds; what was typed stays a draft. Whether there was anything to free."""
    lease = Lease.objects.select_for_update().filter(case=case).first()
    if lease is None:
        return False
    lease.delete()
    details = {"case": case.pk, "reader": lease.reader_id}
    audit.record("lease.release", case, site=place.site, actor=lead, details=details)
    return True


def give_back_idle(place: Workplace, user: Any, keep: int) -> None:
    """Free what ``user`` only looked at: reserved cases other than ``keep`` in which nothing was typed.

    What another tab of theirs has in hand at this moment is left to it.
    """
    typed = selectors.drafts(user).values("case")
    mine = Lease.objects.filter(reader=user, case__site=place.site, case__protocol=place.protocol)
    idle = mine.exclude(case=keep).exclude(case__in=typed).select_for_update(skip_locked=True, of=("self",))
    Lease.objects.filter(pk__in=idle.values("pk")).delete()
