"""What `manage.py benchmark` times on the triage side. Everything happens in a database of its own, dropped after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, quantiles

import numpy as np
from django.db import connection

from mlcore import decision
from triage import dial, policy
from triage.access import Workplace
from triage.models import Calibration, Membership, Prediction, Protocol, Release, Site

Figures = dict[str, float]
PREDICTIONS = 1_000_000
SEED = 2026

FILL = """
    INSERT INTO triage_prediction (case_id, site_id, protocol_id, release_id, calibration_id, note_ids, notes_sha256,
        logits, probabilities, p_values, distances, label, credibility, runner_up, typicality, urgency, current)
    SELECT n, %(site)s, %(protocol)s, %(release)s, %(calibration)s, ARRAY[n], n::text, '{0,0}', '{0.5,0.5}', '{1,0}',
        '{1,1}', (random() < 0.2)::int, greatest(a, b), least(a, b), ceil(random() * 500) / 501, random(), true
    FROM (SELECT n, ceil(random() * 500) / 501 AS a, ceil(power(random(), 6) * 500) / 501 AS b
          FROM generate_series(1, %(rows)s) AS n) AS drawn
"""


@contextmanager
def scratch_database() -> Iterator[None]:
    """A migrated, empty database; the one in use is not touched."""
    usual = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = "centinela_benchmark"
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(usual, verbosity=0)


def milliseconds(work: Callable[[int], object], times: int) -> list[float]:
    """Wall time of ``work(0) … work(times - 1)``, each in milliseconds."""
    taken = []
    for i in range(times):
        start = time.perf_counter()
        work(i)
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def percentiles(name: str, taken: list[float]) -> Figures:
    return {f"{name}_p50_ms": median(taken), f"{name}_p95_ms": quantiles(taken, n=20)[-1]}


def dial_figures(rows: int = PREDICTIONS) -> Figures:
    """A preview and a curve over ``rows`` predictions of one site, beside reading every row and deciding in numpy."""
    place = _workplace()
    _fill(place, rows)
    today = policy.current(place.site, place.protocol)
    alphas = np.random.default_rng(SEED).choice(dial.ALPHAS, 40).tolist()
    milliseconds(lambda i: dial.preview(place, today, alphas[i], 0.01), 3)
    preview = milliseconds(lambda i: dial.preview(place, today, alphas[i], 0.01), 40)
    curve = milliseconds(lambda i: policy.curve(place.site, place.protocol, dial.ALPHAS, 0.01), 10)
    naive = milliseconds(lambda i: _naive(place, alphas[i]), 1)
    return percentiles("preview", preview) | {
        "curve_ms": median(curve),
        "naive_preview_ms": naive[0],
        "predictions": rows,
        "curve_points": len(dial.ALPHAS),
    }


def _workplace() -> Workplace:
    site = Site.objects.create(slug="benchmark", name="Benchmark")
    protocol = Protocol.objects.get(slug="hiv-suspicion-es")
    return Workplace(site, protocol, Membership(site=site, role="admin"))


def _fill(place: Workplace, rows: int) -> None:
    release = Release.objects.create(protocol=place.protocol, name="benchmark", sha256="0" * 64, card={}, active=True)
    calibration = Calibration.objects.create(
        release=release, counts=[500, 500], typical_counts=[400, 400], arrays=b"", scores=b""
    )
    keys = {"site": place.site, "protocol": place.protocol, "release": release, "calibration": calibration}
    with connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.5); SET session_replication_role = replica")
        cursor.execute(FILL, {name: row.pk for name, row in keys.items()} | {"rows": rows})
        cursor.execute("SET session_replication_role = origin")
        cursor.execute("VACUUM ANALYZE triage_prediction")


def _naive(place: Workplace, alpha: float) -> list[int]:
    rows = Prediction.objects.filter(site=place.site, protocol=place.protocol, current=True)
    numbers = np.array(list(rows.values_list("credibility", "runner_up", "typicality").iterator())).T
    return np.bincount(decision.decide(*numbers, alpha, 0.01), minlength=4).tolist()
