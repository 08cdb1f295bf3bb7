"""Another calibration of the active release for one site: its cases are ranked anew from stored numbers, no model runs.

First the predictions are written beside those that stand, then all of them stand at once, with the calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from django.db import connection, reset_queries, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext_noop

from mlcore.errors import CalibrationError
from triage import audit, jobs, policy, scoring
from triage.models import AuditEvent, Calibration, Case, Prediction, Protocol, Release, Site

BATCH = 2000
STAGE = gettext_noop("Ranking the cases anew")
SWITCH = gettext_noop("Putting the calibration in force")
Progress = Callable[[str, int, int], None]

# What the ranks decide is new; what was read of the notes, when, and the case's lot stay. A calibration made from
# stored numbers keeps the release's temperature, so probabilities and urgency stay too.
WRITE = """
    INSERT INTO triage_prediction (case_id, site_id, protocol_id, release_id, calibration_id, note_ids, notes_sha256,
        logits, probabilities, p_values, distances, label, credibility, runner_up, typicality, urgency, specialty,
        written_at, lot, current, at)
    SELECT case_id, site_id, protocol_id, release_id, %s, note_ids, notes_sha256, logits, probabilities, ARRAY[{p}],
        distances, made.label, made.credibility, made.runner_up, made.typicality, urgency, specialty, written_at, lot,
        false, at
    FROM unnest(%s::bigint[], %s::int[], %s::float8[], %s::float8[], %s::float8[], {columns})
        AS made (id, label, credibility, runner_up, typicality, {p})
    JOIN triage_prediction AS stands USING (id)
    ON CONFLICT (case_id, release_id, calibration_id, notes_sha256) DO NOTHING
"""
# A batch finds its rows by their ids; the planner would rather read a large table through for each.
ROW_BY_ROW = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
AS_USUAL = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on"
STAND = """
    WITH former AS (
        UPDATE triage_prediction SET current = false
        WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND release_id = %(release)s AND current
            AND calibration_id <> %(calibration)s
        RETURNING id, case_id, notes_sha256)
    SELECT former.id, anew.id FROM former JOIN triage_prediction AS anew
        ON anew.case_id = former.case_id AND anew.notes_sha256 = former.notes_sha256
        AND anew.release_id = %(release)s AND anew.calibration_id = %(calibration)s
"""
# Words do not change with the ranks: what was prepared, asked for or begun goes over to the prediction that stands.
CARRY = """
    UPDATE triage_explanation AS told SET prediction_id = moved.anew
    FROM unnest(%s::bigint[], %s::bigint[]) AS moved (former, anew)
    WHERE told.prediction_id = moved.former AND NOT EXISTS (
        SELECT FROM triage_explanation AS there WHERE there.prediction_id = moved.anew AND there.method = told.method)
"""


def standing(release: Release, site: Site) -> QuerySet[Prediction]:
    return policy.standing(site, release.protocol).filter(release=release)


def prepare(calibration: Calibration, site: Site, progress: Progress = lambda *_: None) -> int:
    """Write for the site's standing cases what the calibration makes of them, nowhere to be seen yet; how many.

    Again after a kill it goes on where it was. ``progress`` may raise, and nothing is half done.
    """
    lacking = ~Exists(
        Prediction.objects.filter(
            case=OuterRef("case"),
            notes_sha256=OuterRef("notes_sha256"),
            release=calibration.release_id,
            calibration=calibration,
        )
    )
    rows = standing(calibration.release, site).filter(lacking).order_by("case")
    todo = list(rows.values_list("pk", "case").iterator())
    for done in range(0, len(todo), BATCH):
        progress(STAGE, done, len(todo))
        _write(calibration, *zip(*todo[done : done + BATCH], strict=True))
    return len(todo)


@transaction.atomic
def _write(calibration: Calibration, predictions: tuple[int, ...], cases: tuple[int, ...]) -> None:
    """Locks the cases first: a label that falls meanwhile must find these rows, or they it (reviews 0003)."""
    reset_queries()
    _lock(Case.objects.filter(pk__in=cases))
    rows = Prediction.objects.filter(pk__in=predictions, current=True)
    if not (found := list(rows.values_list("pk", "logits", "distances"))):
        return
    ids, logits, distances = zip(*found, strict=True)
    scores = scoring.ranks(calibration.pk).apply(np.array(logits), np.array(distances))
    made = [scores.label, scores.credibility, scores.runner_up, scores.typicality, *scores.p_values.T]
    names = [f"p{c}" for c in range(scores.p_values.shape[1])]
    write = WRITE.format(p=", ".join(names), columns=", ".join(["%s::float8[]"] * len(names)))
    with connection.cursor() as cursor:
        cursor.execute(ROW_BY_ROW)
        cursor.execute(write, [calibration.pk, list(ids), *(column.tolist() for column in made)])
        cursor.execute(AS_USUAL)


def _lock(cases: QuerySet[Case]) -> None:
    list(cases.select_for_update(no_key=True).order_by("pk").values_list("pk"))


@transaction.atomic
def activate(calibration: Calibration, site: Site, *, actor: Any, details: dict[str, Any]) -> int:
    """Rank the site's cases against this calibration from now on; how many predictions changed places. With its event.

    ``calibration`` is the site's, or the release's own for all. Locks the release, so that no worker writes by the
    former calibration any more, then the cases, then their predictions. Raises CalibrationError when the release is
    not active any more.
    """
    release, protocol = calibration.release, calibration.release.protocol
    if not Release.objects.select_for_update(no_key=True).filter(pk=release.pk, active=True).first():
        raise CalibrationError(gettext_noop("Another release became active meanwhile: calibrate that one."))
    own = Calibration.objects.filter(release=release, site=site)
    former = own.filter(active=True).values_list("pk", flat=True).first()
    own.filter(active=True).update(active=False)
    own.filter(pk=calibration.pk).update(active=True)
    _lock(Case.objects.filter(site=site, protocol=protocol))
    prepare(calibration, site)  # what was scored since
    moved = _stand(calibration, site, protocol)
    facts = {"calibration": calibration.pk, "former": former, "release": release.sha256, "moved": moved}
    audit.record("calibration.activate", calibration, site=site, actor=actor, details=facts | details)
    jobs.wake_after_turn(site.pk, protocol.pk)
    return moved


def _stand(calibration: Calibration, site: Site, protocol: Protocol) -> int:
    facts = {"site": site, "protocol": protocol, "release": calibration.release, "calibration": calibration}
    with connection.cursor() as cursor:
        cursor.execute(STAND, {name: row.pk for name, row in facts.items()})
        pairs = cursor.fetchall()
        if pairs:
            former, anew = (list(ids) for ids in zip(*pairs, strict=True))
            cursor.execute("UPDATE triage_prediction SET current = true WHERE id = ANY(%s)", [anew])
            cursor.execute(CARRY, [former, anew])
    return len(pairs)


def since(calibration: Calibration, site: Site) -> Any:
    """When the site's cases were last put under it; None where that was as the release was installed."""
    subject = {"object_type": "triage.calibration", "object_id": str(calibration.pk)}
    events = AuditEvent.objects.filter(site=site, **subject, verb="calibration.activate")
    return events.order_by("-pk").values_list("at", flat=True).first()
