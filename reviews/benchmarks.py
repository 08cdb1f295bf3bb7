"""What `manage.py benchmark queue` times on the clinician's side, through the pages, in a database of its own."""

from __future__ import annotations

import time
import uuid

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import override_settings
from django.urls import reverse

from reviews import exports
from reviews.models import Label
from triage import policy
from triage.access import Workplace
from triage.benchmarks import Figures, milliseconds, percentiles
from triage.models import Calibration, Membership, Prediction, Protocol, Release, Site
from triage.sessions import STARTED

CASES = 50_000
TIMES = 200
TEXT = "Varón de [EDAD] años. Acude por fiebre de dos semanas, pérdida de peso y muguet oral. Niega ADVP. "

# Two notes a case; four cases of ten deferred; the words of each deferred case are ready.
FILL = """
    INSERT INTO triage_patient (id, site_id, pseudonym)
    SELECT n, %(site)s, 'B-' || lpad(n::text, 6, '0') FROM generate_series(1, %(rows)s) AS n;
    INSERT INTO triage_note (id, patient_id, text, sha256, written_at, specialty, source_id)
    SELECT n, (n + 1) / 2, repeat(%(text)s, 6), n::text, date '2020-01-01' + (n %% 900)::int, 'Urgencias', ''
    FROM generate_series(1, 2 * %(rows)s) AS n;
    INSERT INTO triage_case (id, site_id, protocol_id, patient_id, status, attempts, failure)
    SELECT n, %(site)s, %(protocol)s, n, 'scored', 0, '' FROM generate_series(1, %(rows)s) AS n;
    INSERT INTO triage_prediction (id, case_id, site_id, protocol_id, release_id, calibration_id, note_ids, notes_sha256,
        logits, probabilities, p_values, distances, label, credibility, runner_up, typicality, urgency, current)
    SELECT n, n, %(site)s, %(protocol)s, %(release)s, %(calibration)s, ARRAY[2 * n - 1, 2 * n], lpad(n::text, 64, '0'),
        '{0,0}', '{0.5,0.5}', '{0.6,0.1}', '{1,1}', n %% 2, 0.6, CASE WHEN n %% 10 < 4 THEN 0.1 ELSE 0.001 END,
        0.005 + 0.99 * random(), random(), true
    FROM (SELECT n FROM generate_series(1, %(rows)s) AS n ORDER BY random()) AS shuffled;
    INSERT INTO triage_explanation (prediction_id, status, attempts, failure, words, windows)
    SELECT n, 'ready', 0, '', '[{"note": 0, "start": 9, "end": 14, "importance": 1, "margin": 1, "distance": 0.2,
        "sign": "toward"}]', '[]' FROM generate_series(1, %(rows)s) AS n WHERE n %% 10 < 4;
    ANALYZE;
"""


@override_settings(DEBUG=False)  # which would keep every statement
def queue_figures(rows: int = CASES, times: int = TIMES) -> Figures:
    """Page of 30, next, save and the export of ``rows`` labels; half of the deferred cases are labelled already."""
    place, user = _workplace(rows)
    client, names = _signed_in(user), [place.site.slug, place.protocol.slug]
    page, following = reverse("reviews:queue", args=names), reverse("reviews:queue-next", args=names)
    _label(place, user, rows * 2 // 10)
    figures = percentiles("page", milliseconds(lambda _: client.get(page), times))
    opened: list[int] = []
    saves: list[float] = []

    def take(_: int) -> None:
        opened.append(int(client.get(following).url.rstrip("/").rsplit("/", 1)[1]))

    nexts = []
    for _ in range(times):
        nexts += milliseconds(take, 1)
        address = reverse("reviews:queue-case", args=[*names, opened[-1]])
        verdict = _verdict(opened[-1], user)
        saves += milliseconds(lambda _, to=address, sent=verdict: client.post(to, sent), 1)
    figures |= percentiles("next", nexts) | percentiles("save", saves)
    _label(place, user, rows)
    return figures | _export_seconds(place)


def _workplace(rows: int) -> tuple[Workplace, object]:
    site = Site.objects.create(slug="benchmark", name="Benchmark")
    protocol = Protocol.objects.get(slug="hiv-suspicion-es")
    user = get_user_model().objects.create_user("reader")
    membership = Membership.objects.create(user=user, site=site, role="lead")
    release = Release.objects.create(
        protocol=protocol, name="benchmark", sha256="0" * 64, card={}, active=True
    )
    ranks = Calibration.objects.create(
        release=release, counts=[500] * 2, typical_counts=[500] * 2, arrays=b"", held_out=b""
    )
    policy.current(site, protocol)
    ids = {"site": site.pk, "protocol": protocol.pk, "release": release.pk, "calibration": ranks.pk}
    with connection.cursor() as cursor:
        for statement in FILL.split(";\n"):
            if statement.strip():
                cursor.execute(statement, ids | {"rows": rows, "text": TEXT})
    return Workplace(site, protocol, membership), user


def _signed_in(user: object) -> Client:
    client = Client(SERVER_NAME="localhost")
    client.force_login(user)
    session = client.session
    session[STARTED] = time.time()
    session.save()
    return client


def _label(place: Workplace, user: object, most: int) -> None:
    """Standing labels on the ``most`` most urgent cases that have none, whatever the dial says of them."""
    shown = policy.current(place.site, place.protocol)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH chosen AS (
                SELECT p.* FROM triage_prediction AS p
                WHERE NOT EXISTS (SELECT FROM reviews_label AS l WHERE l.case_id = p.case_id)
                ORDER BY runner_up < 0.02, urgency DESC LIMIT %(most)s
            ), read AS (
                INSERT INTO reviews_review (case_id, prediction_id, policy_id, reader_id, notes_sha256, client_key, label, comment,
                    evidence, mode, seconds, at)
                SELECT case_id, id, %(policy)s, %(user)s, notes_sha256, gen_random_uuid(), 1, 'Candidiasis: pedir serología', '[]',
                    'assisted', 30, now() - case_id * interval '1 minute'
                FROM chosen RETURNING id, case_id
            )
            INSERT INTO reviews_label (case_id, review_id, notes_sha256, label, provenance, propensity)
            SELECT case_id, id, lpad(case_id::text, 64, '0'), 1, 'single', 1 FROM read
            """,
            {"most": most, "policy": shown.pk, "user": user.pk},
        )
        cursor.execute("VACUUM ANALYZE triage_prediction, reviews_review, reviews_label")


def _verdict(case: int, user: object) -> dict[str, object]:
    standing = Prediction.objects.get(case=case, current=True)
    sent = {"client_key": uuid.uuid4(), "reader": user.pk, "prediction": standing.pk, "policy": 1}
    return sent | {"verdict": "suspicion", "comment": "", "evidence": "[]", "seconds": 20}


def _export_seconds(place: Workplace) -> Figures:
    start = time.perf_counter()
    exports.temporary(place.protocol, [place.site], "jsonl", with_notes=False, actor=None).close()
    return {
        "export_s": time.perf_counter() - start,
        "export_rows": Label.objects.filter(withdrawn_at=None).count(),
    }
