"""The past of the demonstration: twelve weeks in which its cases came, most of them read by readers who do not exist.

Real: the cases' scores, who is sent to a reader and who reads blind, the draw for a second reader, what readings come to, the
lead's judgement; all of it by the functions behind the pages, with their events in the trail. Not real: the patients
(``triage.synthetic``), the readers, who know the truth and err at a known rate, and the clock: predictions, readings and
labels are dated after the fact, the trail is not.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np
from django.db import connection, transaction
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from reviews import adjudication, queue, watching
from reviews.models import Adjudication, Label, Review
from triage import policy, sampling
from triage.access import Workplace
from triage.models import Case, Membership, Policy, Prediction, Protocol, Site, Watch

WEEKS, UNREAD = 12, 4
ERRS = {0: 0.04, 1: 0.10}  # by the truth
SECONDS, SPREAD = 45.0, 0.6  # median of a reading, and the standard deviation of its logarithm
UNSETTLED = 4  # disagreements that are left to a lead of the demonstration

# Cases in the order they came, evenly over the weeks.
DATE = """
    UPDATE triage_prediction AS p SET at = %(start)s::timestamptz + came.place * (now() - %(start)s::timestamptz)
    FROM (
        SELECT id, (row_number() OVER (ORDER BY case_id) - 0.5) / count(*) OVER () AS place
        FROM triage_prediction WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND current
    ) AS came WHERE came.id = p.id
"""


def start(today: date) -> datetime:
    """When the past begins: a Monday, WEEKS ago."""
    return _moment(today - timedelta(days=today.weekday(), weeks=WEEKS))


def _moment(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time()))


@transaction.atomic
def live(
    site: Site,
    protocol: Protocol,
    truth: Mapping[str, int],
    readers: Sequence[Any],
    lead: Any,
    today: date,
    seed: int = 2026,
) -> int:
    """Date a site's standing predictions over the weeks up to now, have all but the last UNREAD weeks read out by two readers,
    let the watch look; how many readings there are.

    truth: a patient's pseudonym → the index of their label. Once for a site: the predictions are those just scored.
    """
    with connection.cursor() as cursor:
        cursor.execute(DATE, {"start": start(today), "site": site.pk, "protocol": protocol.pk})
    chance, dial = random.Random(f"{seed} {site.slug}"), policy.current(site, protocol)
    came = policy.standing(site, protocol).filter(at__lt=start(today) + timedelta(weeks=WEEKS - UNREAD))
    wanted = [one for one in came.select_related("case__patient").order_by("at") if sampling.asks(dial, one)]
    for prediction in wanted:
        _read(prediction, dial, truth[prediction.case.patient.pseudonym], readers, chance)
    opened = Adjudication.objects.filter(case__site=site, case__protocol=protocol, closed_at=None)
    for dispute in opened.select_related("prediction__case__patient").order_by("pk")[
        : _settled(opened.count())
    ]:
        _judge(dispute, truth[dispute.prediction.case.patient.pseudonym], lead, chance)
    read = _dated(site, protocol, chance)
    Watch.objects.filter(site=site, protocol=protocol).delete()
    watching.look(site, protocol, today)
    return read


def _settled(disputes: int) -> int:
    """How many disagreements are judged: the last ones wait."""
    return max(disputes - UNSETTLED, disputes // 2)


def _read(
    prediction: Prediction, dial: Policy, truth: int, readers: Sequence[Any], chance: random.Random
) -> None:
    """One reading, and another's where the first was drawn for two."""
    for reader in chance.sample(list(readers), 2):
        queue.hold(prediction.case_id, reader)
        place, said = (
            _place(prediction, reader),
            _verdict(prediction, _seen(prediction, truth, chance), chance),
        )
        review = adjudication.decide(place, reader, prediction.case, said | {"policy": dial.version}, dial)
        if not review.double:
            return


def _seen(prediction: Prediction, truth: int, chance: random.Random) -> int:
    """The label a reader gives."""
    labels = len(prediction.probabilities)
    wrong = [label for label in range(labels) if label != truth]
    return chance.choice(wrong) if chance.random() < ERRS.get(truth, max(ERRS.values())) else truth


def _place(prediction: Prediction, user: Any) -> Workplace:
    case: Case = prediction.case
    return Workplace(case.site, case.protocol, Membership.objects.get(user=user, site=case.site_id))


def _verdict(prediction: Prediction, label: int, chance: random.Random) -> dict[str, Any]:
    """What a page would have sent."""
    return {
        "prediction": prediction.pk,
        "client_key": uuid.uuid4(),
        "verdict": prediction.case.protocol.labels[label],
        "why": "",
        "comment": "",
        "evidence": [],
        "mode": "",
        "seconds": round(chance.lognormvariate(np.log(SECONDS), SPREAD)),
    }


def _judge(dispute: Adjudication, truth: int, lead: Any, chance: random.Random) -> None:
    cause = chance.choice(
        [Adjudication.Cause.OVERLOOKED, Adjudication.Cause.OVERLOOKED, Adjudication.Cause.CRITERIA]
    )
    said = _verdict(dispute.prediction, truth, chance) | {"cause": cause}
    adjudication.adjudicate(_place(dispute.prediction, lead), lead, dispute.pk, said)


def _dated(site: Site, protocol: Protocol, chance: random.Random) -> int:
    """Every reading some hours after what it follows: its case's arrival, or the reading before."""
    here = {"case__site": site, "case__protocol": protocol}
    found = list(Review.objects.filter(**here).select_related("prediction").order_by("case", "pk"))
    after: dict[int, datetime] = {}
    for review in found:
        review.at = after.get(review.case_id, review.prediction.at) + timedelta(hours=chance.uniform(3, 60))
        after[review.case_id] = review.at
    Review.objects.bulk_update(found, ["at"], batch_size=500)
    given = Review.objects.filter(pk=OuterRef("review")).values("at")
    Label.objects.filter(**here).update(at=Subquery(given))
    for dispute in Adjudication.objects.filter(**here):
        same = [r for r in found if r.case_id == dispute.case_id and r.pk != dispute.review_id]
        dispute.opened_at = max(r.at for r in same)
        dispute.closed_at = after[dispute.case_id] if dispute.review_id else None
        dispute.save(update_fields=["opened_at", "closed_at"])
    return len(found)
