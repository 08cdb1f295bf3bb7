"""What arrives at a place day by day: cases with scores, distances and lengths drawn anew, changed where a test says so."""

from __future__ import annotations

import hashlib
from datetime import date, datetime, time, timedelta

import numpy as np
from django.db.models import prefetch_related_objects
from django.utils import timezone

from tests import factories
from tests.factories import NUMBER
from triage.models import Case, Note, Patient, Prediction

FIRST = date(2026, 3, 4)  # a Wednesday
WORDS = {"es": "El paciente acude a urgencias por fiebre de dos semanas y no mejora. ", "en": "The patient was seen for fever and is not better at this visit. "}  # fmt: skip


def days(n, first=FIRST):
    return [first + timedelta(days=i) for i in range(n)]


def arrive(
    place, day, n, random, *, doubt=0.0, distance=0.0, longer=1.0, language="es", specialty=None, **facts
):
    """``n`` cases of new patients on a day, their scores drawn anew; automatic at the first dial unless ``facts`` say so."""
    active = factories.release(place.protocol)
    prefetch_related_objects([active], "calibration_set")
    patients = Patient.objects.bulk_create(
        [Patient(site=place.site, pseudonym=f"P-{next(NUMBER):05}") for _ in range(n)]
    )
    sizes = np.maximum(1, (longer * random.lognormal(1.5, 0.5, n)).astype(int))
    notes = Note.objects.bulk_create(
        [
            Note(
                patient=p,
                text=WORDS[language] * int(size),
                sha256=hashlib.sha256(p.pseudonym.encode()).hexdigest(),
            )
            for p, size in zip(patients, sizes, strict=True)
        ]
    )
    cases = Case.objects.bulk_create(
        [Case(site=place.site, protocol=place.protocol, patient=p, status="scored") for p in patients]
    )
    unsure = np.minimum(random.beta(1, 8, n) + doubt, 0.49)
    at = timezone.make_aware(datetime.combine(day, time(9)))
    rows = []
    for i, (case, note) in enumerate(zip(cases, notes, strict=True)):
        row = factories._prediction(case, [note], active, **({"credibility": 0.9, "runner_up": 0.001, "typicality": 0.5, "urgency": 0.5, "label": 0, "lot": random.random()} | facts))  # fmt: skip
        row.notes_sha256 = hashlib.sha256(f"{case.pk}".encode()).hexdigest()
        row.probabilities = [1 - unsure[i], unsure[i]]
        row.distances = [float(random.gamma(9, 0.1) + distance), 3.0]
        row.specialty = specialty or random.choice(["Urgencias", "Interna", "Neurología"])
        row.at = at + timedelta(seconds=i)
        rows.append(row)
    return Prediction.objects.bulk_create(rows)
