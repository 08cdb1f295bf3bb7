"""What moved a prediction, prepared for deferred cases before a reader opens them (paper, C.1 stages 1–3)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from mlcore import bundle
from mlcore.errors import BundleError, DataError, ModelError
from triage import claims, jobs, policy, registry, sampling
from triage.models import Explanation, Note, Policy, Prediction, Protocol, Site, WindowVector

if TYPE_CHECKING:
    from mlcore.scorer import Scorer

log = logging.getLogger(__name__)
DEFERRED, READER = Explanation.Priority.DEFERRED, Explanation.Priority.READER


def ask(
    predictions: QuerySet[Prediction], method: str = Explanation.DEFAULT, priority: int = DEFERRED
) -> int:
    """Put predictions in line for an explanation they do not have; how many were put there.

    Those in line already move up where this priority is the higher one.
    """
    theirs = Explanation.objects.filter(method=method)
    theirs.filter(prediction__in=predictions, status="pending", priority__gt=priority).update(
        priority=priority
    )
    missing = predictions.filter(~Exists(theirs.filter(prediction=OuterRef("pk"))))
    rows = Explanation.objects.bulk_create(
        [
            Explanation(prediction_id=pk, method=method, priority=priority)
            for pk in missing.values_list("pk", flat=True)
        ],
        ignore_conflicts=True,
        batch_size=5000,
    )
    return len(rows)


def ask_for_deferred(site_id: int, protocol_id: int) -> int:
    """Ask for every case that is to be prepared under the policy in force and has no explanation."""
    dial = policy.current(Site.objects.get(pk=site_id), Protocol.objects.get(pk=protocol_id))
    return ask(policy.standing(dial.site, dial.protocol).filter(prepared(dial)))


def prepared(dial: Policy) -> Q:
    """Predictions explained before anybody opens them: those the policy defers by their numbers, or draws.

    A hold defers no case by its numbers: one it holds back is explained when a reader opens it.
    """
    return policy.deferred(dial.alpha, dial.typicality_floor) | sampling.drawn(dial)


def request(prediction: Prediction, method: str = Explanation.DEFAULT) -> Explanation:
    """The explanation a reader wants to see; asked for at once where there is none, before whatever nobody waits for.

    Raises DataError for another method.
    """
    if method not in Explanation.Method.values:
        raise DataError(
            f"There is no explanation by {method!r}: use one of {', '.join(Explanation.Method.values)}."
        )
    if ask(Prediction.objects.filter(pk=prediction.pk), method, READER):
        transaction.on_commit(jobs.wake_explaining, robust=True)
    return Explanation.objects.get(prediction=prediction, method=method)


def drain(seconds: float = math.inf) -> int:
    """Explain what waits, none begun after ``seconds``; how many were explained."""
    done, until = 0, time.monotonic() + seconds
    with claims.held() as number:
        while time.monotonic() < until and (rows := claims.take(waiting(), number, batch=1)):
            done += sum(_attempt(row, number) for row in rows)
    return done


def waiting() -> QuerySet[Explanation]:
    """What a reader waits for, then deferred cases, then what a group of cases is asked for; the most urgent first."""
    return (
        Explanation.objects.filter(status=Explanation.Status.PENDING, prediction__current=True)
        .select_related("prediction__release", "prediction__protocol")
        .order_by("priority", "-prediction__urgency", "id")
    )


def reconcile() -> int:
    claims.release_abandoned(Explanation, Explanation.Status.FAILED)
    return waiting().count()


def _attempt(row: Explanation, number: int) -> int:
    mine = Explanation.objects.filter(pk=row.pk, status="claimed", claim=number)
    try:
        return mine.update(
            **_explain(row.prediction, row.method),
            status="ready",
            claim=None,
            claimed_at=None,
            asked_at=Now(),
        )
    except (BundleError, ModelError):
        mine.update(status="pending", claim=None, claimed_at=None, attempts=0)
        raise
    except Exception as error:
        log.exception("explanation of prediction %d failed", row.prediction_id)
        claims.give_back(mine, Explanation.Status.FAILED, f"{type(error).__name__} while it was explained")
        return 0


def _explain(prediction: Prediction, method: Any) -> dict[str, Any]:
    """The columns of an Explanation."""
    from mlcore import attribution

    notes = Note.objects.in_bulk(prediction.note_ids)
    texts = [notes[pk].text for pk in prediction.note_ids]
    scorer = registry.scorer(prediction.release.sha256)
    found = attribution.explain(
        scorer,
        texts,
        method,
        vectors=_stored(prediction, scorer, texts),
        known=_known(prediction.release.sha256),
    )
    columns = asdict(found)
    del columns["label"], columns["method"]
    return columns


def _stored(prediction: Prediction, scorer: Scorer, texts: Sequence[str]) -> np.ndarray | None:
    """The vectors the prediction was made from, None when a window has none (any more)."""
    rows = WindowVector.objects.filter(release=prediction.release_id, note__in=prediction.note_ids)
    kept = {(note, start): vector for note, start, vector in rows.values_list("note", "start", "vector")}
    keys = [(prediction.note_ids[window.note], window.start) for window in scorer.windows(texts)]
    if not all(key in kept for key in keys):
        return None
    return np.stack([np.frombuffer(kept[key], "<f4") for key in keys])


@lru_cache(maxsize=4)
def _known(sha256: str) -> dict[str, np.ndarray]:
    """The calibration cases as the bundle keeps them, read as if they were new; none where it keeps none."""
    arrays = bundle.load_arrays(settings.RELEASES_DIR / sha256)
    prefix = registry.HELD_OUT
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
