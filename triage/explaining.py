"""The words behind a prediction, prepared for deferred cases before a reader opens them (paper, C.1 stages 1–3)."""

from __future__ import annotations

import logging
import math
import time

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from mlcore.errors import BundleError, ModelError
from triage import claims, jobs, policy, registry
from triage.models import Explanation, Note, Policy, Prediction

log = logging.getLogger(__name__)
SIGNS = {1: "toward", -1: "away", None: None}


def ask(predictions: QuerySet[Prediction]) -> int:
    """Put predictions that have no explanation in line for one; how many were put there."""
    missing = predictions.filter(explanation=None).values_list("pk", flat=True)
    rows = Explanation.objects.bulk_create(
        [Explanation(prediction_id=pk) for pk in missing], ignore_conflicts=True, batch_size=5000
    )
    return len(rows)


def ask_for_deferred(site_id: int, protocol_id: int) -> int:
    """Ask for every case that is deferred under the policy in force and has no explanation."""
    dial = Policy.objects.filter(site=site_id, protocol=protocol_id).latest("version")
    standing = Prediction.objects.filter(site=site_id, protocol=protocol_id, current=True)
    return ask(standing.filter(policy.deferred(dial.alpha, dial.typicality_floor)))


def request(prediction: Prediction) -> None:
    """A reader opened a case without an explanation: it is asked for at once."""
    if ask(Prediction.objects.filter(pk=prediction.pk)):
        transaction.on_commit(jobs.wake_explaining, robust=True)


def drain(seconds: float = math.inf) -> int:
    """Explain what waits, the most urgent first, none begun after ``seconds``; how many were explained."""
    done, until = 0, time.monotonic() + seconds
    with claims.held() as number:
        while time.monotonic() < until and (rows := claims.take(waiting(), number, batch=1)):
            done += sum(_attempt(row, number) for row in rows)
    return done


def waiting() -> QuerySet[Explanation]:
    return (
        Explanation.objects.filter(status=Explanation.Status.PENDING, prediction__current=True)
        .select_related("prediction__release", "prediction__protocol")
        .order_by("-prediction__urgency", "id")
    )


def reconcile() -> int:
    claims.release_abandoned(Explanation, Explanation.Status.FAILED)
    return waiting().count()


def _attempt(row: Explanation, number: int) -> int:
    mine = Explanation.objects.filter(pk=row.pk, status="claimed", claim=number)
    try:
        return mine.update(
            **_explain(row.prediction), status="ready", claim=None, claimed_at=None, asked_at=Now()
        )
    except (BundleError, ModelError):
        mine.update(status="pending", claim=None, claimed_at=None, attempts=0)
        raise
    except Exception as error:
        log.exception("explanation of prediction %d failed", row.prediction_id)
        claims.give_back(mine, Explanation.Status.FAILED, f"{type(error).__name__} while it was explained")
        return 0


def _explain(prediction: Prediction) -> dict:
    from mlcore import attribution

    notes = Note.objects.in_bulk(prediction.note_ids)
    texts = [notes[pk].text for pk in prediction.note_ids]
    found = attribution.explain(registry.scorer(prediction.release.sha256), texts)
    return {
        "words": [_word(word) for word in found.words],
        "windows": [
            {"note": note, "start": start, "end": end, "weight": weight}
            for note, start, end, weight in found.window_weights
        ],
        "noise_floor": found.noise_floor,
    }


def _word(word) -> dict:  # noqa: ANN001
    return {
        "note": word.note,
        "start": word.start,
        "end": word.end,
        "importance": word.importance,
        "margin": word.delta_margin,
        "distance": word.delta_distance,
        "sign": SIGNS[word.sign],
    }
