"""What `manage.py benchmark queue` times on the clinician's side, through the pages, in a database of its own."""

from __future__ import annotations

import mimetypes
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles import finders
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import override_settings
from django.urls import reverse

from mlcore.errors import CentinelaError
from reviews import exports, queue, selectors
from reviews.models import Label
from reviews.requests import seal
from triage import policy
from triage.access import Workplace
from triage.benchmarks import SEED, SLUG, Figures, milliseconds, percentiles
from triage.models import (
    Calibration,
    Case,
    Explanation,
    Membership,
    Note,
    Patient,
    Policy,
    Prediction,
    Protocol,
    Release,
    Site,
)
from triage.sessions import STARTED

CASES, CLIENTS = 50_000, 8
RECORD_WORDS, RECORD_NOTES, MARKED = 10_000, 25, 50
TIMES = 200
TEXT = "Varón de [EDAD] años. Acude por fiebre de dos semanas, pérdida de peso y muguet oral. Niega ADVP. "

AUDIT_RATE = 0.02
WORDS = {"rare": "leucoencefalopatía", "some": "kaposi", "common": "neumonía", "everywhere": "muguet"}

# Two notes a case; four cases of ten deferred; the words of each deferred case are ready. Of a thousand notes one, twenty
# and two hundred have a word more.
FILL = """
    INSERT INTO triage_patient (id, site_id, pseudonym)
    SELECT n, %(site)s, 'B-' || lpad(n::text, 6, '0') FROM generate_series(1, %(rows)s) AS n;
    INSERT INTO triage_note (id, patient_id, text, sha256, written_at, specialty, source_id)
    SELECT n, (n + 1) / 2, repeat(%(text)s, 6) || CASE WHEN n %% 1000 = 0 THEN 'Leucoencefalopatía multifocal. ' ELSE '' END
        || CASE WHEN n %% 50 = 0 THEN 'Sarcoma de Kaposi. ' ELSE '' END || CASE WHEN n %% 5 = 0 THEN 'Neumonía. ' ELSE '' END,
        n::text, date '2020-01-01' + (n %% 900)::int,
        (ARRAY['Urgencias', 'Dermatología', 'Digestivo', 'Medicina interna', 'Neumología'])[1 + n %% 5], ''
    FROM generate_series(1, 2 * %(rows)s) AS n;
    INSERT INTO triage_case (id, site_id, protocol_id, patient_id, status, attempts, failure)
    SELECT n, %(site)s, %(protocol)s, n, 'scored', 0, '' FROM generate_series(1, %(rows)s) AS n;
    INSERT INTO triage_prediction (id, case_id, site_id, protocol_id, release_id, calibration_id, note_ids, notes_sha256,
        logits, probabilities, p_values, distances, label, credibility, runner_up, typicality, urgency, specialty, written_at,
        at, current)
    SELECT n, n, %(site)s, %(protocol)s, %(release)s, %(calibration)s, ARRAY[2 * n - 1, 2 * n], lpad(n::text, 64, '0'),
        '{0,0}', '{0.5,0.5}', '{0.6,0.1}', '{1,1}', n %% 2, 0.6, CASE WHEN n %% 10 < 4 THEN 0.1 ELSE 0.001 END,
        0.005 + 0.99 * random(), random(),
        (ARRAY['Urgencias', 'Dermatología', 'Digestivo', 'Medicina interna', 'Neumología'])[1 + 2 * n %% 5],
        date '2020-01-01' + (2 * n %% 900)::int, now() - random() * interval '60 days', true
    FROM (SELECT n FROM generate_series(1, %(rows)s) AS n ORDER BY random()) AS shuffled;
    INSERT INTO triage_explanation (prediction_id, status, attempts, failure, words, windows)
    SELECT n, 'ready', 0, '', '[{"note": 0, "start": 9, "end": 14, "importance": 1, "margin": 1, "distance": 0.2,
        "sign": "toward"}]', '[]' FROM generate_series(1, %(rows)s) AS n WHERE n %% 10 < 4;
    ANALYZE;
"""


@override_settings(DEBUG=False)  # which would keep every statement
def queue_figures(rows: int = CASES, times: int = TIMES, clients: int = CLIENTS) -> Figures:
    """Page of 30, next, save, search, saves a second and the export of ``rows`` labels, in a queue of ``rows`` cases.

    Four of ten are deferred, half of those labelled already; one of fifty is drawn to be read blind.
    """
    place, user = _workplace(rows)
    client, names = _signed_in(user), [place.site.slug, place.protocol.slug]
    page, following = reverse("reviews:queue", args=names), reverse("reviews:queue-next", args=names)
    _label(place, user, rows * 2 // 10)
    figures = {"cases": float(rows), "first_page_ms": milliseconds(lambda _: client.get(page), 1)[0]}
    figures |= percentiles("page", milliseconds(lambda _: client.get(page), times))
    figures |= percentiles("uncounted_page", milliseconds(lambda _: _uncounted(client, page), times // 10))
    for name, query in {
        "wait": "order=wait",
        "blind": "show=blind",
        "specialty": "specialty=Digestivo",
    }.items():
        taken = milliseconds(lambda _, to=f"{page}?{query}": client.get(to), times // 4)
        figures[f"{name}_page_p50_ms"] = median(taken)
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
    figures |= _search_figures(client, reverse("reviews:queue-search", args=names), times // 10)
    if clients:
        figures["saves_per_s"] = _saves_per_second(place, clients, times // 2)
    _label(place, user, rows)
    return figures | _export_seconds(place)


def _uncounted(client: Client, page: str) -> None:
    cache.clear()
    client.get(page)


def _search_figures(client: Client, search: str, times: int) -> Figures:
    """The page of a search, its address known, for words that stand in ever more notes."""
    figures: Figures = {}
    for name, word in WORDS.items():
        address = client.post(search, {"terms": word}).url
        client.get(address)
        figures[f"search_{name}_p50_ms"] = median(milliseconds(lambda _, to=address: client.get(to), times))
    return figures


# What each of several clients does in a process of its own: save verdicts on cases it holds, from a common moment on.
SAVE = """
import sys, time
import django; django.setup()
from django.conf import settings; settings.DEBUG = False
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
from reviews import benchmarks
print(benchmarks.save_for(sys.argv[2], [int(case) for case in sys.argv[4:]], float(sys.argv[3])))
"""
SECONDS_TO_START = 20


def save_for(username: str, cases: list[int], start: float) -> float:
    """Save a verdict on each case from ``start`` on (a time); when the last one was in."""
    user = get_user_model().objects.get(username=username)
    member = Membership.objects.select_related("site").get(user=user)
    client, protocol = _signed_in(user), Protocol.objects.get(slug=SLUG)
    addresses = {
        case: reverse("reviews:queue-case", args=[member.site.slug, protocol.slug, case]) for case in cases
    }
    verdicts = {case: _verdict(case, user) for case in cases}
    client.get(reverse("reviews:queue-mine", args=[member.site.slug, protocol.slug]))
    if time.time() > start:
        raise CentinelaError("A client was not ready in time: run the benchmark again on a quieter machine.")
    time.sleep(start - time.time())
    for case in cases:
        if client.post(addresses[case], verdicts[case]).status_code != 302:
            raise CentinelaError(f"The verdict on case {case} was refused.")
    return time.time()


def _saves_per_second(place: Workplace, clients: int, each: int) -> float:
    people = [get_user_model().objects.create_user(f"client-{i}") for i in range(clients)]
    Membership.objects.bulk_create([Membership(user=u, site=place.site, role="reader") for u in people])
    now = policy.current(place.site, place.protocol)
    free = list(selectors.unread(place, now).values_list("case", flat=True)[: clients * each])
    shares = [free[i::clients] for i in range(clients)]
    for user, cases in zip(people, shares, strict=True):
        for case in cases:
            queue.hold(case, user)
    start, database = time.time() + SECONDS_TO_START, connection.settings_dict["NAME"]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "triage.settings"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE, database, user.username, str(start), *map(str, cases)],
            env=environment,
            cwd=settings.BASE_DIR,
            stdout=subprocess.PIPE,
            text=True,
        )
        for user, cases in zip(people, shares, strict=True)
    ]
    ends = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise CentinelaError("A client of the benchmark failed; its traceback stands above.")
    return len(free) / (max(map(float, ends)) - start)


def _workplace(rows: int) -> tuple[Workplace, object]:
    site = Site.objects.create(slug="benchmark", name="Benchmark")
    protocol = Protocol.objects.get(slug=SLUG)
    user = get_user_model().objects.create_user("reader")
    membership = Membership.objects.create(user=user, site=site, role="lead")
    release = Release.objects.create(
        protocol=protocol, name="benchmark", sha256="0" * 64, card={}, active=True
    )
    ranks = Calibration.objects.create(
        release=release, counts=[500] * 2, typical_counts=[500] * 2, arrays=b"", held_out=b""
    )
    facts = policy.FIRST | {"version": 1, "reason": "benchmark", "audit_rate": AUDIT_RATE}
    Policy.objects.create(site=site, protocol=protocol, **facts)
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
    sent |= {"mode": "assisted", "seal": seal(user, case, standing.pk, 1, "assisted")}
    return sent | {"verdict": "suspicion", "comment": "", "evidence": "[]", "seconds": 20}


def _export_seconds(place: Workplace) -> Figures:
    """Time of an export, and by how much it raised the most memory this process ever held."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with tempfile.TemporaryFile() as file:
        exports.write(file, place.protocol, [place.site], "jsonl")
    seconds = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    rows = Label.objects.filter(withdrawn_at=None).count()
    return {"export_s": seconds, "export_rows": rows, "export_grown_mib": grown / 1024}


# Scrolls the notes to their end, a given way each frame, and gives the time between frames in milliseconds.
SCROLL = """
    (step) => new Promise((done) => {
        const notes = document.getElementById("reading");
        const frames = [];
        let before = null;
        notes.scrollTop = 0;
        const frame = () => {
            const now = performance.now();
            if (before !== null) frames.push(now - before);
            before = now;
            const here = notes.scrollTop;
            notes.scrollTop += step;
            if (notes.scrollTop === here && frames.length) done(frames);
            else requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
    })
"""
ADDRESS = "http://case.test"
STEP = 120
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


@contextmanager
def chromium() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise CentinelaError("This benchmark drives a browser: install tests/requirements.txt.") from error
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise CentinelaError("This benchmark drives a browser, and there is none: install chromium.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@override_settings(DEBUG=False)
def scroll_figures(
    words: int = RECORD_WORDS,
    notes: int = RECORD_NOTES,
    start: Callable[[], AbstractContextManager[Any]] = chromium,
) -> Figures:
    """Time between frames, in ms, while the case page of a record of ``words`` words scrolls, in each view.

    ``start`` gives the browser.
    """
    place, user = _workplace(0)
    case = long_case(place, words, notes)
    page = reverse("reviews:queue-case", args=[place.site.slug, place.protocol.slug, case.pk])
    client = _signed_in(user)
    opened = milliseconds(lambda _: client.get(page), 5)
    html = client.get(page).content
    figures = {"words": float(words), "marks": float(html.count(b"data-tip=")), "page_ms": min(opened)}
    with start() as browser:
        window = browser.new_page(viewport={"width": 1280, "height": 720})
        window.route("**/*", _from_here(page, html))
        window.goto(ADDRESS + page)
        for view in ("words", "strange", "plain"):
            window.click(f"[data-view-choice={view}]")
            frames = np.array(window.evaluate(SCROLL, STEP))
            figures |= {
                f"{view}_p50_ms": float(np.median(frames)),
                f"{view}_p95_ms": float(np.percentile(frames, 95)),
                f"{view}_worst_ms": float(frames.max()),
                f"{view}_frames": float(len(frames)),
            }
    return figures | {"p95_frame_ms": max(figures[f"{view}_p95_ms"] for view in ("words", "strange"))}


def long_case(place: Workplace, words: int, notes: int) -> Case:
    """A deferred case of ``notes`` notes, ``words`` words in all, with as many marks as an explanation can have."""
    chance, vocabulary = random.Random(SEED), TEXT.split()
    patient = Patient.objects.create(site=place.site, pseudonym="B-LONG")
    texts = [" ".join(chance.choices(vocabulary, k=words // notes)) for _ in range(notes)]
    rows = [
        Note(patient=patient, text=text, sha256=str(i), specialty="Urgencias") for i, text in enumerate(texts)
    ]
    stored = Note.objects.bulk_create(rows)
    case = Case.objects.create(site=place.site, protocol=place.protocol, patient=patient, status="scored")
    ranks = Calibration.objects.select_related("release").get()
    prediction = Prediction.objects.create(
        case=case,
        site=place.site,
        protocol=place.protocol,
        release=ranks.release,
        calibration=ranks,
        note_ids=[note.pk for note in stored],
        notes_sha256="0" * 64,
        logits=[0.0, 0.0],
        probabilities=[0.5, 0.5],
        p_values=[0.6, 0.3],
        distances=[1.0, 1.0],
        label=1,
        credibility=0.6,
        runner_up=0.3,
        typicality=0.005,
        urgency=0.5,
        current=True,
    )
    found = [_marked(chance, texts) for _ in range(MARKED)]
    windows = [{"note": i, "start": 0, "end": len(text), "weight": 1 / notes} for i, text in enumerate(texts)]
    Explanation.objects.create(prediction=prediction, status="ready", words=found, windows=windows)
    return case


def _marked(chance: random.Random, texts: list[str]) -> dict[str, Any]:
    """A word somewhere in the record that pulls some way and is somewhat strange."""
    note = chance.randrange(len(texts))
    start = texts[note].index(" ", chance.randrange(len(texts[note]) - 40)) + 1
    end = texts[note].index(" ", start)
    margin, strange = chance.uniform(-1, 1), chance.random()
    sign = "toward" if margin > 0 else "away"
    place = {"note": note, "start": start, "end": end, "importance": 0.02}
    return place | {"margin": margin, "distance": strange, "sign": sign}


def _from_here(page: str, html: bytes) -> Callable[[Any], None]:
    """Answers the browser without a server: the page as drawn, static files from their folders, nothing else."""

    def answer(route: Any) -> None:
        path = urlsplit(route.request.url).path
        file = finders.find(path.removeprefix("/static/")) if path.startswith("/static/") else None
        if path == page:
            route.fulfill(body=html, content_type="text/html; charset=utf-8")
        elif file:
            route.fulfill(body=Path(file).read_bytes(), content_type=mimetypes.guess_type(path)[0])
        else:
            route.fulfill(status=204)

    return answer
