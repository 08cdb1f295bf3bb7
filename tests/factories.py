"""Rows for tests, made as directly as the database allows."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import date
from itertools import count

from reviews.models import Review
from triage import policy
from triage.models import Alarm, Calibration, Case, Note, Patient, Prediction, Protocol, Release, Site

NUMBER = count(1)


def release(protocol: Protocol) -> Release:
    """The active release of the protocol, made up where there is none."""
    found = Release.objects.filter(protocol=protocol, active=True).prefetch_related("calibration_set").first()
    if found is None:
        digest = hashlib.sha256(protocol.slug.encode()).hexdigest()
        found = Release.objects.create(protocol=protocol, name="ensayo", sha256=digest, card={}, active=True)
        k = len(protocol.labels)
        Calibration.objects.create(
            release=found, counts=[200] * k, typical_counts=[150] * k, arrays=b"", held_out=b""
        )
        return release(protocol)
    return found


def case(site: Site, protocol: Protocol, *texts: str, **facts: object) -> Case:
    """A scored case of a new patient with these notes."""
    patient = Patient.objects.create(site=site, pseudonym=f"P-{next(NUMBER):05}")
    for i, text in enumerate(texts or ("Varón de [EDAD] años. Fiebre.",)):
        note(patient, text, date(2021, 1, 1 + i))
    return Case.objects.create(
        site=site, protocol=protocol, patient=patient, **({"status": "scored"} | facts)
    )


def note(patient: Patient, text: str, written_at: date | None = None, specialty: str = "Urgencias") -> Note:
    return Note.objects.create(
        patient=patient,
        text=text,
        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        written_at=written_at,
        specialty=specialty,
    )


def prediction(
    of: Case,
    credibility: float,
    runner_up: float,
    typicality: float,
    urgency: float = 0.5,
    label: int = 0,
    lot: float = 0.5,
) -> Prediction:
    row = _prediction(
        of, list(of.notes()), release(of.protocol), credibility, runner_up, typicality, urgency, label, lot
    )
    row.save()
    return row


def predictions(
    site: Site,
    protocol: Protocol,
    credibility: Sequence[float],
    runner_up: Sequence[float],
    typicality: Sequence[float],
    urgency: Sequence[float] | None = None,
) -> list[Prediction]:
    """A case with one note and a standing prediction for each row of numbers, in bulk."""
    rows = list(zip(credibility, runner_up, typicality, urgency or [0.5] * len(credibility), strict=True))
    patients = Patient.objects.bulk_create(
        [Patient(site=site, pseudonym=f"P-{next(NUMBER):05}") for _ in rows]
    )
    digest = hashlib.sha256(b"Fiebre.").hexdigest()
    active = release(protocol)
    notes = Note.objects.bulk_create(
        [Note(patient=p, text="Fiebre.", sha256=digest, specialty="Urgencias") for p in patients]
    )
    cases = Case.objects.bulk_create(
        [Case(site=site, protocol=protocol, patient=p, status="scored") for p in patients]
    )
    return Prediction.objects.bulk_create(
        [
            _prediction(of, [n], active, *map(float, row), label=0)
            for of, n, row in zip(cases, notes, rows, strict=True)
        ]
    )


def _prediction(
    of: Case,
    notes: Sequence[Note],
    active: Release,
    credibility: float,
    runner_up: float,
    typicality: float,
    urgency: float,
    label: int,
    lot: float = 0.5,
) -> Prediction:
    k = len(of.protocol.labels)
    latest = max(notes, key=lambda note: (note.written_at or date.min, note.pk))
    return Prediction(
        case=of,
        site_id=of.site_id,
        protocol_id=of.protocol_id,
        release=active,
        calibration=min(active.calibration_set.all(), key=lambda one: one.pk),
        note_ids=[n.pk for n in notes],
        notes_sha256=hashlib.sha256("".join(n.sha256 for n in notes).encode()).hexdigest(),
        logits=[0.0] * k,
        probabilities=[1 / k] * k,
        p_values=[credibility, runner_up] + [0.0] * (k - 2),
        distances=[1.0] * k,
        label=label,
        credibility=credibility,
        runner_up=runner_up,
        typicality=typicality,
        urgency=urgency,
        lot=lot,
        specialty=latest.specialty,
        written_at=latest.written_at,
        current=True,
    )


def alarm(site: Site, protocol: Protocol, **facts: object) -> Alarm:
    """An alarm of the stream of distances that nobody has seen."""
    figures = {
        "before": 0.9,
        "now": 1.4,
        "since": "2026-05-12",
        "day": "2026-05-14",
        "n_before": 900,
        "n_since": 40,
    }
    figures |= {"log_m": 7.1, "level": 300.0}
    which = {"kind": "stream", "measure": "distance", "week": date(2026, 5, 11), "facts": figures}
    return Alarm.objects.create(site=site, protocol=protocol, release=release(protocol), **(which | facts))


def review(of: Prediction, reader: object, label: int | None, **facts: object) -> Review:
    """A verdict, stored as it is: nothing is settled by it. ``at`` may lie in the past."""
    facts = {"why": "" if label is not None else "other", "mode": "assisted", "seconds": 30} | facts
    facts = {"policy": policy.current(of.site, of.protocol), "notes_sha256": of.notes_sha256} | facts
    return Review.objects.create(
        case_id=of.case_id, prediction=of, reader=reader, label=label, client_key=uuid.uuid4(), **facts
    )
