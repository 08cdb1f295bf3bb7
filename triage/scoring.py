"""Cases get their prediction here: claim, encode only windows not yet stored, pool, calibrate, write once."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from django.db import connection, transaction

from mlcore import decision
from mlcore.calibrate import Calibration as Ranks
from mlcore.calibrate import Scores
from mlcore.errors import BundleError, ModelError
from triage import claims, explaining, policy, registry, sampling
from triage.models import Calibration, Case, Note, Prediction, Release, WindowVector

if TYPE_CHECKING:
    from mlcore.chunks import Window
    from mlcore.scorer import Scorer

log = logging.getLogger(__name__)

SMALLEST, LARGEST, CLAIM_SECONDS = 4, 128, 2.0
KEEP = """
    INSERT INTO triage_windowvector (release_id, note_id, start, "end", vector)
    SELECT %s, * FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bytea[])
    ON CONFLICT DO NOTHING
"""


@dataclass
class Read:
    """A claimed case with the notes it is made of, its windows, and a vector for each."""

    case: Case
    notes: list[Note]
    windows: list[Window] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)
    vectors: np.ndarray | None = None

    @property
    def latest(self) -> Note:
        """The note written last; of several of a day the last that came, an undated one only where none has a date."""
        return max(self.notes, key=lambda note: (note.written_at or date.min, note.pk))

    @property
    def notes_sha256(self) -> str:
        facts = "".join(f"{note.pk}:{note.sha256}\n" for note in self.notes)
        return hashlib.sha256(facts.encode()).hexdigest()


def drain(seconds: float = math.inf) -> int:
    """Score waiting cases whose protocol has an active release, none begun after ``seconds``; how many were scored.

    A claim grows while it is read fast and shrinks while it is not, so that a worker asked to stop soon does.
    """
    scored, size, until = 0, SMALLEST, time.monotonic() + seconds
    with claims.held() as number:
        while (start := time.monotonic()) < until and (cases := claims.take(waiting(), number, size)):
            scored += _attempt(cases, number)
            size = _next_size(len(cases), time.monotonic() - start)
    return scored


def _next_size(cases: int, seconds: float) -> int:
    """Cases to claim after ``cases`` took ``seconds``: what should take CLAIM_SECONDS, at most four times as many."""
    return max(1, min(LARGEST, 4 * cases, int(cases * CLAIM_SECONDS / seconds)))


def waiting():  # noqa: ANN201
    """Cases that can be scored now, longest waiting first."""
    return Case.objects.filter(status=Case.Status.PENDING, protocol__release__active=True).order_by(
        "pending_since", "id"
    )


def reconcile() -> int:
    """Give back what dead workers held; how many cases wait (a reason to wake a worker)."""
    claims.release_abandoned(Case, Case.Status.QUARANTINED)
    return waiting().count()


def _attempt(cases: list[Case], number: int) -> int:
    mine = Case.objects.filter(pk__in=[case.pk for case in cases], status="claimed", claim=number)
    try:
        return sum(
            _score(list(group), _release(protocol), number)
            for protocol, group in groupby(sorted(cases, key=_protocol), key=_protocol)
        )
    except (BundleError, ModelError):
        mine.update(status="pending", claim=None, claimed_at=None, attempts=0)
        raise
    except Exception as error:
        log.exception("scoring failed for %d case(s)", len(cases))
        claims.give_back(mine, Case.Status.QUARANTINED, f"{type(error).__name__} while the case was read")
        return 0


def _protocol(case: Case) -> int:
    return case.protocol_id


def _release(protocol_id: int) -> Release:
    return Release.objects.select_related("protocol").get(protocol_id=protocol_id, active=True)


def _score(cases: list[Case], release: Release, number: int) -> int:
    scorer = registry.scorer(release.sha256)
    reads = _reads(cases)
    _encode(reads, release, scorer)
    written = 0
    for site_id, group in groupby(
        sorted(reads, key=lambda read: read.case.site_id), key=lambda r: r.case.site_id
    ):
        calibration = registry.calibration(release, site_id)
        written += _write(list(group), release, calibration, scorer, number)
    return written


def _reads(cases: Sequence[Case]) -> list[Read]:
    """The cases with their notes, in two queries whatever their number."""
    patients = {case.patient_id for case in cases if case.note_id is None}
    of_patient: dict[int, list[Note]] = {patient: [] for patient in patients}
    for note in Note.objects.filter(patient__in=patients):
        of_patient[note.patient_id].append(note)
    alone = Note.objects.in_bulk([case.note_id for case in cases if case.note_id])
    return [
        Read(case, [alone[case.note_id]] if case.note_id else of_patient[case.patient_id]) for case in cases
    ]


def _encode(reads: list[Read], release: Release, scorer: Scorer) -> None:
    """Give every read its windows and vectors; encode and store those that are not stored yet."""
    for read in reads:
        read.windows = scorer.windows([note.text for note in read.notes])
        read.keys = _keys(read)
    known = _stored(release, {note_id for read in reads for note_id, _ in read.keys})
    missing = {
        key: window
        for read in reads
        for key, window in zip(read.keys, read.windows, strict=True)
        if key not in known
    }
    fresh = scorer.encode(list(missing.values()))
    _keep(release, missing, fresh)
    known |= dict(zip(missing, fresh, strict=True))
    for read in reads:
        read.vectors = np.stack([known[key] for key in read.keys])


def _keep(release: Release, windows: dict[tuple[int, int], Window], vectors: np.ndarray) -> None:
    """Store the vectors of windows; where another worker was first, its own stay."""
    note_ids, starts = [note_id for note_id, _ in windows], [start for _, start in windows]
    ends, rows = [window.end for window in windows.values()], [vector.tobytes() for vector in vectors]
    with connection.cursor() as cursor:
        cursor.execute(KEEP, [release.pk, note_ids, starts, ends, rows])


def _keys(read: Read) -> list[tuple[int, int]]:
    """A window is known by its note and its first code point: stable whatever other notes arrive."""
    return [(read.notes[window.note].pk, window.start) for window in read.windows]


def _stored(release: Release, note_ids: set[int]) -> dict[tuple[int, int], np.ndarray]:
    rows = WindowVector.objects.filter(release=release, note__in=note_ids).values_list(
        "note_id", "start", "vector"
    )
    return {(note_id, start): np.frombuffer(vector, "<f4") for note_id, start, vector in rows}


def _write(reads: list[Read], release: Release, calibration: Calibration, scorer: Scorer, number: int) -> int:
    """One transaction: predictions once, the case scored; a case changed meanwhile is left to its new turn.

    So are all of them when another release or calibration became active: a score of the former one would stand for good.
    """
    made, site_id = _predictions(reads, release, calibration, scorer), reads[0].case.site_id
    claimed = Case.objects.filter(pk__in=[read.case.pk for read in reads], status="claimed", claim=number)
    with transaction.atomic():
        if not _stays_active(release) or registry.calibration(release, site_id) != calibration:
            claimed.update(status=Case.Status.PENDING, claim=None, claimed_at=None, attempts=0)
            return 0
        mine = claimed.select_for_update()
        still = set(mine.order_by("pk").values_list("pk", flat=True))
        rows = [row for row in made if row.case_id in still]
        Prediction.objects.filter(case__in=still, current=True).update(current=False)
        written = Prediction.objects.bulk_create(
            rows,
            update_conflicts=True,
            update_fields=["current"],
            unique_fields=["case", "release", "calibration", "notes_sha256"],
        )
        Case.objects.filter(pk__in=still).update(
            status=Case.Status.SCORED, claim=None, claimed_at=None, attempts=0, failure=""
        )
        _ask_for_explanations(written, release)
    return len(still)


def _stays_active(release: Release) -> bool:
    """Whether the release is active, and until commit nobody makes it otherwise."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM triage_release WHERE id = %s AND active FOR SHARE", [release.pk])
        return cursor.fetchone() is not None


def score_aside(cases: Sequence[Case], release: Release) -> int:
    """Write the predictions the cases lack by a release that is not active, none of them current; how many."""
    reads = _reads(cases)
    by = {site: registry.calibration(release, site) for site in {read.case.site_id for read in reads}}
    found = Prediction.objects.filter(release=release, case__in=cases)
    known = set(found.values_list("case_id", "calibration_id", "notes_sha256"))
    reads = [r for r in reads if (r.case.pk, by[r.case.site_id].pk, r.notes_sha256) not in known]
    if not reads:
        return 0
    scorer = registry.scorer(release.sha256)
    _encode(reads, release, scorer)
    reads.sort(key=lambda read: read.case.site_id)
    return sum(
        _write_aside(_predictions(list(group), release, by[site], scorer))
        for site, group in groupby(reads, key=lambda read: read.case.site_id)
    )


def _write_aside(rows: list[Prediction]) -> int:
    """Locks the cases first: a label that falls meanwhile must find these rows, or they it (reviews 0003)."""
    for row in rows:
        row.current = False
    with transaction.atomic():
        cases = Case.objects.filter(pk__in=[row.case_id for row in rows])
        list(cases.select_for_update(no_key=True).order_by("pk").values_list("pk"))
        Prediction.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def _predictions(
    reads: list[Read], release: Release, calibration: Calibration, scorer: Scorer
) -> list[Prediction]:
    scores = scorer.score([read.vectors for read in reads], ranks(calibration.pk))[0]
    urgency = decision.urgency(scores.probabilities, release.protocol.cost_automatic)
    return [_prediction(read, release, calibration, scores, urgency, i) for i, read in enumerate(reads)]


def _prediction(
    read: Read, release: Release, calibration: Calibration, scores: Scores, urgency: np.ndarray, i: int
) -> Prediction:
    return Prediction(
        case=read.case,
        site_id=read.case.site_id,
        protocol_id=read.case.protocol_id,
        release=release,
        calibration=calibration,
        note_ids=[note.pk for note in read.notes],
        notes_sha256=read.notes_sha256,
        logits=scores.logits[i].tolist(),
        probabilities=scores.probabilities[i].tolist(),
        p_values=scores.p_values[i].tolist(),
        distances=scores.distances[i].tolist(),
        label=int(scores.label[i]),
        credibility=float(scores.credibility[i]),
        runner_up=float(scores.runner_up[i]),
        typicality=float(scores.typicality[i]),
        urgency=float(urgency[i]),
        lot=sampling.lot(read.case.pk, read.notes_sha256),
        specialty=read.latest.specialty,
        written_at=read.latest.written_at,
        current=True,
    )


def _ask_for_explanations(written: list[Prediction], release: Release) -> None:
    if not written:
        return
    dial = policy.current(written[0].site, release.protocol)
    explaining.ask(
        Prediction.objects.filter(pk__in=[row.pk for row in written]).filter(explaining.prepared(dial))
    )


@lru_cache(maxsize=16)
def ranks(calibration_id: int) -> Ranks:
    return Ranks.from_bytes(bytes(Calibration.objects.get(pk=calibration_id).arrays))
