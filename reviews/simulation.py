"""A year of an invented hospital, in a database of its own: deliveries, scoring, readers, the watch, and what an admin does.

What is real: intake, scoring by worker processes, the rule, the audit sample, the watch, the hold, recalibration. What is not:
the patients (``triage.synthetic``), the clock (rows are dated after the fact), and the readers, who err at a known rate and
whose verdicts are written in bulk, not through the pages.

In the month of the drift the hospital changes its record system. Every note gets a header, and of some suspects the notes
that told of the suspicion stay in the old system: what is written of them reads like anybody's.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from datetime import time as midnight
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.utils import timezone

from mlcore import decision
from mlcore.errors import CalibrationError, CentinelaError
from mlcore.missed_rate import clopper_pearson
from reviews import recalibration, watching
from triage import intake, policy, synthetic
from triage.models import Alarm, Calibration, Case, Membership, Policy, Prediction, Protocol, Site

SLUG, SEED = "hiv-suspicion-es", 2016
FIRST_MONDAY, WEEKS = date(2025, 1, 6), 52
NOTES_A_PATIENT = 3.36  # of triage.synthetic, foreign patients included
SUSPECTS, LOST = 0.16, 0.02
HEADER = "Registro unificado v2. Procedencia: consulta. Consentimiento informado verificado. Firma electrónica pendiente. "
LABELLED, PROCESSES = 1500, 2
DIAL = {"alpha": 0.02, "typicality_floor": 0.01, "audit_rate": 0.05, "hold_on_alarm": True}
SECONDS = 40.0  # the median of a reading


@dataclass(frozen=True)
class Year:
    """notes: about how many arrive. drift: the month (1 to 12) it begins in, 0 for none. sensitivity, specificity: the readers'.
    patience: weeks an admin lets a hold stand before recalibrating."""

    notes: int = 200_000
    drift: int = 7
    sensitivity: float = 0.95
    specificity: float = 0.995
    patience: int = 2


@dataclass
class Month:
    """What happened to the cases that arrived in a month."""

    notes: int = 0
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    suspects: int = 0
    passed: int = 0  # automatic, and not given the target label
    missed: int = 0  # of those the true targets
    false: int = 0  # automatic, given the target label, wrongly
    drawn: int = 0  # of those passed, drawn and read
    found: int = 0  # of those drawn, called a target by their reader
    reads: int = 0
    seconds: float = 0.0
    events: list[str] = field(default_factory=list)


def run(year: Year, tell: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """Simulate the year in the database at hand, which is empty; the report as figures, months first to last."""
    began = time.perf_counter()
    hospital = _Hospital(year)
    with _workers():
        for week in range(WEEKS):
            hospital.live(week)
            tell(week + 1, WEEKS)
    return hospital.report() | {"seconds": time.perf_counter() - began}


class _Hospital:
    def __init__(self, year: Year) -> None:
        self.year = year
        self.protocol = Protocol.objects.get(slug=SLUG)
        self.site = Site.objects.create(slug="simulated", name="Hospital simulado")
        self.admin, self.readers = _people(self.site)
        facts = DIAL | {"version": 1, "reason": "simulated year", "author": self.admin}
        facts |= {"at": _moment(FIRST_MONDAY), "starts_at": _moment(FIRST_MONDAY)}
        Policy.objects.create(site=self.site, protocol=self.protocol, **facts)
        self.truth: dict[str, int] = {}
        self.months: dict[int, Month] = {}
        self.chance = random.Random(SEED)
        self.held_since: int | None = None
        self.last_case = 0

    def live(self, week: int) -> None:
        """One week: notes arrive, are scored and read; on Sunday the watch looks, and the admin acts."""
        monday = FIRST_MONDAY + timedelta(weeks=week)
        month = self.months.setdefault(monday.month, Month())
        month.notes += self._deliver(week, monday)
        _scored(self.site)
        self._date(monday)
        self._read(month)
        self._watch(week, monday, month)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(TURNED, {"site": self.site.pk, "now": _moment(monday + timedelta(weeks=1))})

    def _deliver(self, week: int, monday: date) -> int:
        patients = round(self.year.notes / NOTES_A_PATIENT / WEEKS)
        made = list(
            arriving(patients, SEED + week, bool(self.year.drift) and monday.month >= self.year.drift)
        )
        self.truth |= {patient.patient_id: patient.label for patient in made}
        lines = (json.dumps(synthetic.as_record(p, labelled=False), ensure_ascii=False) for p in made)
        file = BytesIO("\n".join(lines).encode())
        return intake.receive(
            self.site, self.protocol, file, f"week-{week + 1}.jsonl", by=self.admin
        ).notes_new

    def _date(self, monday: date) -> None:
        """Spread what was scored just now over its week."""
        with connection.cursor() as cursor:
            cursor.execute(DATE, {"site": self.site.pk, "monday": _moment(monday), "after": self.last_case})

    def _read(self, month: Month) -> None:
        """Readers answer whatever the policy in force sends them, wrongly at their rates."""
        dial = policy.current(self.site, self.protocol)
        week = Prediction.objects.filter(site=self.site, current=True, case__gt=self.last_case).order_by(
            "case"
        )
        columns = (
            "pk",
            "case",
            "case__patient__pseudonym",
            "label",
            "credibility",
            "runner_up",
            "typicality",
            "lot",
        )
        rows = list(week.values_list(*columns))
        if not rows:
            raise CentinelaError("A week passed without a scored case.")
        pks, cases, names, labels, *numbers, lots = (np.array(column) for column in zip(*rows, strict=True))
        self.last_case = int(cases[-1])
        truth = np.array([self.truth[name] for name in names])
        automatic = (
            decision.decide(*numbers, dial.alpha, dial.typicality_floor) == decision.AUTOMATIC
        ) & dial.automate
        drawn = lots < dial.audit_rate
        read = ~automatic | drawn
        verdicts = self._verdicts(truth)
        seconds = np.array([round(self.chance.lognormvariate(np.log(SECONDS), 0.6)) for _ in rows])
        chance = np.where(automatic, dial.audit_rate, 1.0)
        columns = [column[read].tolist() for column in (pks, verdicts, seconds, drawn, chance)]
        readings = [Reading(*row) for row in zip(*columns, strict=True)]
        _write_readings(readings, dial, [reader.pk for reader in self.readers])
        self._count(month, dial, np.column_stack(numbers), labels, truth, automatic, drawn, verdicts)
        month.reads += int(read.sum())
        month.seconds += float(seconds[read].sum())

    def _verdicts(self, truth: np.ndarray) -> np.ndarray:
        right = [self.year.specificity, self.year.sensitivity]
        return np.array([t if self.chance.random() < right[t] else 1 - t for t in truth])

    def _count(
        self,
        month: Month,
        dial: Policy,
        numbers: np.ndarray,
        labels: np.ndarray,
        truth: np.ndarray,
        automatic: np.ndarray,
        drawn: np.ndarray,
        verdicts: np.ndarray,
    ) -> None:
        codes = decision.decide(*numbers.T, dial.alpha, dial.typicality_floor)
        names = [decision.NAMES[c] if dial.automate or c else policy.HELD for c in codes]
        passed = automatic & (labels == 0)
        month.cases += len(truth)
        month.outcomes.update(names)
        month.suspects += int(truth.sum())
        month.passed += int(passed.sum())
        month.missed += int((passed & (truth == 1)).sum())
        month.false += int((automatic & (labels == 1) & (truth == 0)).sum())
        month.drawn += int((passed & drawn).sum())
        month.found += int((passed & drawn & (verdicts == 1)).sum())

    def _watch(self, week: int, monday: date, month: Month) -> None:
        sunday = monday + timedelta(days=6)
        known = set(Alarm.objects.filter(site=self.site).values_list("pk", flat=True))
        watching.look(self.site, self.protocol, today=monday + timedelta(weeks=1))
        for alarm in Alarm.objects.filter(site=self.site).exclude(pk__in=known).order_by("pk"):
            month.events.append(f"{sunday}: alarm, {alarm.kind} of {alarm.measure}")
        dial = policy.current(self.site, self.protocol)
        if dial.automate:
            self.held_since = None
            return
        if self.held_since is None:
            self.held_since = week
            month.events.append(f"{sunday}: automation on hold (version {dial.version})")
        if week - self.held_since >= self.year.patience:
            self._recalibrate(sunday, month, FIRST_MONDAY + timedelta(weeks=self.held_since + 1))

    def _recalibrate(self, sunday: date, month: Month, since: date) -> None:
        """The admin calibrates on what was read during the hold, and lets automation go on."""
        try:
            recalibration.make(self.site, self.protocol, by=self.admin, reason="after the alarm", since=since)
        except CalibrationError as error:
            month.events.append(f"{sunday}: recalibration refused: {error}")
            return
        Calibration.objects.filter(site=self.site, active=True).update(created_at=_moment(sunday))
        Alarm.objects.filter(site=self.site, seen_at=None).update(seen_at=_moment(sunday), seen_by=self.admin)
        dial = policy.latest(self.site, self.protocol)
        policy.turn(
            self.site,
            self.protocol,
            alpha=dial.alpha,
            floor=dial.typicality_floor,
            automate=True,
            reason="recalibrated",
            author=self.admin,
            base_version=dial.version,
        )
        self.held_since = None
        month.events.append(f"{sunday}: recalibrated on cases since {since}, automation goes on")

    def report(self) -> dict[str, Any]:
        return {
            "year": vars(self.year),
            "months": [_told(n, month) for n, month in sorted(self.months.items())],
        }


def train(folder: Path) -> Path:
    """A small release of the Spanish protocol, trained on invented patients of before the drift."""
    from mlcore import records, train
    from mlcore.protocols import get

    made = synthetic.generate(LABELLED, SEED - 1, suspects=SUSPECTS, foreign=0, prefix="T")
    lines = (json.dumps(synthetic.as_record(patient, labelled=True), ensure_ascii=False) for patient in made)
    read = records.read(BytesIO("\n".join(lines).encode()), "training.jsonl", get(SLUG))
    cases = [record for record in read if isinstance(record, records.Record)]
    train.train(cases, get(SLUG), train.COMPACT, folder / "bundle", train.TrainConfig.quick())
    return folder / "bundle"


def arriving(patients: int, seed: int, drifted: bool) -> Iterator[synthetic.Patient]:
    """A week's patients; after the drift with a header on every note, and some suspects without what told of it."""
    made = list(synthetic.generate(patients, seed, suspects=SUSPECTS, prefix=f"W{seed}"))
    if not drifted:
        yield from made
        return
    plain = iter(
        list(synthetic.generate(patients, seed + 10_000, suspects=0, ambiguous=0, foreign=0, prefix="X"))
    )
    chance = random.Random(seed)
    for patient in made:
        if patient.label == 1 and chance.random() < LOST:
            patient = replace(patient, notes=next(plain).notes)
        notes = tuple(replace(note, text=HEADER + note.text) for note in patient.notes)
        yield replace(patient, notes=notes)


# Everything of the week is dated at random within it, cases in the order they came.
DATE = """
    UPDATE triage_prediction AS p SET at = %(monday)s::timestamptz + week.place * interval '7 days'
    FROM (
        SELECT id, (row_number() OVER (ORDER BY case_id) - 0.5) / count(*) OVER () AS place
        FROM triage_prediction WHERE site_id = %(site)s AND case_id > %(after)s
    ) AS week WHERE week.id = p.id
"""

# A turn made in this week belongs to its end. Outside a simulation the trigger refuses this.
TURNED = """
    SET LOCAL session_replication_role = replica;
    UPDATE triage_policy SET at = %(now)s, starts_at = %(now)s WHERE site_id = %(site)s AND starts_at > %(now)s
"""

READINGS = """
    WITH sent AS (
        SELECT p.*, said.label AS said, said.seconds, said.drawn, said.reader
        FROM unnest(%(predictions)s::bigint[], %(labels)s::int[], %(seconds)s::int[], %(drawn)s::bool[], %(readers)s::int[])
            AS said (prediction, label, seconds, drawn, reader)
        JOIN triage_prediction AS p ON p.id = said.prediction
    ), read AS (
        INSERT INTO reviews_review (case_id, prediction_id, policy_id, reader_id, notes_sha256, client_key, label, why,
            double, comment, evidence, mode, seconds, at)
        SELECT case_id, id, %(policy)s, reader, notes_sha256, gen_random_uuid(), said, '', false, '', '[]',
            CASE WHEN drawn THEN 'blind' ELSE 'assisted' END, seconds, at + interval '1 day'
        FROM sent RETURNING id, case_id, notes_sha256, label, at
    )
    INSERT INTO reviews_label (case_id, review_id, notes_sha256, label, provenance, propensity, at)
    SELECT read.case_id, read.id, read.notes_sha256, read.label, 'single', said.propensity, read.at
    FROM read JOIN (
        SELECT p.case_id, given.propensity FROM unnest(%(predictions)s::bigint[], %(propensities)s::float8[])
            AS given (prediction, propensity) JOIN triage_prediction AS p ON p.id = given.prediction
    ) AS said ON said.case_id = read.case_id
"""


@dataclass(frozen=True)
class Reading:
    """A verdict on a prediction, by whom, in how many seconds, whether drawn for the blind sample, and at what propensity."""

    prediction: int
    label: int
    seconds: int
    drawn: bool
    propensity: float


def _write_readings(readings: list[Reading], dial: Policy, readers: list[int]) -> None:
    columns = {
        "predictions": [r.prediction for r in readings],
        "labels": [r.label for r in readings],
        "seconds": [r.seconds for r in readings],
        "drawn": [r.drawn for r in readings],
        "propensities": [r.propensity for r in readings],
        "readers": [readers[i % len(readers)] for i in range(len(readings))],
    }
    with connection.cursor() as cursor:
        cursor.execute(READINGS, columns | {"policy": dial.pk})


# What each worker process does until its input closes: the same drain as a worker's job.
WORK = """
import sys, threading, time
import django; django.setup()
from django.conf import settings; settings.DEBUG = False
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
settings.RELEASES_DIR = __import__("pathlib").Path(sys.argv[2])
from triage import scoring
threading.Thread(target=lambda: (sys.stdin.read(), __import__("os")._exit(0)), daemon=True).start()
while True:
    if not scoring.drain():
        time.sleep(0.05)
"""


@contextmanager
def _workers() -> Iterator[None]:
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "triage.settings", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORK, connection.settings_dict["NAME"], str(settings.RELEASES_DIR)]
    start = lambda: subprocess.Popen(command, env=environment, cwd=settings.BASE_DIR, stdin=subprocess.PIPE)  # noqa: E731
    running = [start() for _ in range(PROCESSES)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _scored(site: Site) -> None:
    """Wait until every case of the site is scored."""
    left = Case.objects.filter(site=site).exclude(status="scored")
    while left.exists():
        if left.filter(status="quarantined").exists():
            raise CentinelaError(
                "A case could not be scored: " + left.filter(status="quarantined")[0].failure
            )
        time.sleep(0.05)


def _people(site: Site) -> tuple[Any, list[Any]]:
    made = [get_user_model().objects.create_user(name) for name in ("admin", "reader-1", "reader-2")]
    for user, role in zip(made, ("admin", "reader", "reader"), strict=True):
        Membership.objects.create(user=user, site=site, role=role)
    return made[0], made[1:]


def _moment(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, midnight()))


def _told(number: int, month: Month) -> dict[str, Any]:
    automatic = month.outcomes[decision.NAMES[decision.AUTOMATIC]]
    told = {name: getattr(month, name) for name in vars(Month()) if name != "outcomes"}
    return told | {
        "month": number,
        "outcomes": dict(month.outcomes),
        "coverage": _rate(automatic, month.cases),
        "missed_per_1000": _rate(month.missed, month.passed, 1000),
        "audited_per_1000": _rate(month.found, month.drawn, 1000),
        "hours": month.seconds / 3600,
    }


def _rate(found: int, n: int, per: float = 1) -> dict[str, Any]:
    """A share with its 95 % Clopper-Pearson interval; empty where there is nothing to divide by."""
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = clopper_pearson(found, n)
    return {"value": per * found / n, "low": per * low, "high": per * high, "n": n}
