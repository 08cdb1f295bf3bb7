"""Who holds which case. A lease lasts a quarter of an hour; whoever works renews it, an abandoned one is free."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import connection, transaction

from reviews import selectors
from reviews.models import Lease
from triage import policy as dial
from triage.access import Workplace
from triage.models import Prediction

MINUTES = 15

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


@transaction.atomic
def take_next(place: Workplace, user: Any) -> int | None:
    """Reserve the most urgent case nobody else holds and return its id; None when nothing waits.

    SKIP LOCKED keeps readers who ask at once apart, and the lock reads the row as it is now: one labelled meanwhile
    is passed over. A lease given since the statement began it cannot see, so ``hold`` has the last word.
    """
    policy = dial.current(place.site, place.protocol)
    waiting = selectors.pending(place, user, policy).exclude(case__in=selectors.held_by_others(user))
    likely = Prediction.objects.filter(pk__in=selectors.ordered(waiting).values("pk")[: selectors.PAGE])
    standing = likely.filter(current=True, labelled=False).values_list("case", flat=True)
    free = selectors.ordered(standing).select_for_update(skip_locked=True, no_key=True)
    while (case := free.first()) is not None or waiting.exists():
        if case is not None and hold(case, user):
            give_back_idle(place, user, keep=case)
            return case
    return None


def give_back_idle(place: Workplace, user: Any, keep: int) -> None:
    """Free what ``user`` only looked at: reserved cases other than ``keep`` in which nothing was typed."""
    typed = selectors.drafts(user).values("case")
    mine = Lease.objects.filter(reader=user, case__site=place.site, case__protocol=place.protocol)
    mine.exclude(case=keep).exclude(case__in=typed).delete()
