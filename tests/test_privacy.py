"""Promise 22: the words of a note stay in the note. A canary is followed through import, scoring, failure and pages."""

from __future__ import annotations

import json
import logging
import sys
from io import BytesIO

import pytest
import redis
from django.conf import settings as configured
from django.urls import reverse

from triage import explaining, intake, scoring
from triage.logs import PrivateFormatter
from triage.models import AuditEvent, Case

pytestmark = pytest.mark.django_db(transaction=True)
CANARY = "kanarienvogel4711"


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.DEBUG)
    form = PrivateFormatter("%(name)s %(message)s")
    return lambda: "\n".join(
        form.format(record) for record in caplog.records if record.name != "django.db.backends"
    )


def stored_in_redis() -> bytes:
    store = redis.Redis.from_url(configured.REDIS_URL)
    return b"".join(key + (store.dump(key) or b"") for key in store.scan_iter())


def test_promise_22_no_word_of_a_note_leaves_it(
    site, protocol, release, reader, client, said, monkeypatch, capfd
):
    text = f"Varón de [EDAD] años. {CANARY} oral, fiebre y pérdida de peso."
    lines = [
        {"patient_id": "P-1", "notes": [text, f"Control. {CANARY}."]},
        {"patient_id": "", "notes": [text]},
    ]
    body = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    intake.receive(site, protocol, BytesIO(body.encode()), "a.jsonl", by=reader)

    def quote(reads, *rest):
        raise ValueError(f"cannot read {reads[0].notes[0].text}")

    with monkeypatch.context() as broken:
        broken.setattr(scoring, "_encode", quote)
        scoring.drain()
    case = Case.objects.get()
    assert case.status == "quarantined"
    Case.objects.update(status="pending", attempts=0)
    assert scoring.drain() == 1
    explaining.ask(case.predictions.all())
    explaining.drain()
    client.force_login(reader)
    page = client.get(reverse("reviews:queue-case", args=[site.slug, protocol.slug, case.pk]))
    assert CANARY in page.content.decode()

    events = json.dumps(list(AuditEvent.objects.values("verb", "object_id", "details")), default=str)
    out, err = capfd.readouterr()
    failures = list(Case.objects.values_list("failure", flat=True))
    for where in (
        said(),
        events,
        stored_in_redis().decode(errors="replace"),
        out,
        err,
        str(failures),
        page.request["PATH_INFO"],
    ):
        assert CANARY not in where
    assert "ValueError" in said()


def test_an_error_page_keeps_the_words(site, protocol, reader, client, monkeypatch):
    from reviews import views

    def explode(*args, **kwargs):
        raise ValueError(CANARY)

    monkeypatch.setattr(views, "workplace", explode)
    client.force_login(reader)
    client.raise_request_exception = False
    response = client.get(reverse("reviews:queue", args=[site.slug, protocol.slug]))
    assert response.status_code == 500
    assert CANARY not in response.content.decode()
    assert "Traceback" not in response.content.decode()


def test_promise_22_words_another_handler_wrote_down_are_not_taken_over():
    try:
        raise ValueError(CANARY)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    assert CANARY in logging.Formatter().format(record)
    assert CANARY not in PrivateFormatter().format(record)


def test_promise_22_a_job_that_fails_says_nothing_of_it_in_logs_or_redis(said, release, monkeypatch):
    from rq import Queue
    from rq.serializers import JSONSerializer

    from triage import jobs
    from triage.worker import Worker

    def quote(seconds):
        raise ValueError(CANARY)

    monkeypatch.setattr(scoring, "drain", quote)
    store = redis.Redis.from_url(configured.REDIS_URL)
    queue = Queue(jobs.ENCODE, connection=store, serializer=JSONSerializer)
    queue.empty()
    queue.enqueue("triage.jobs.score", failure_ttl=60)
    Worker([queue], connection=store).work(burst=True, logging_level="WARNING")
    assert queue.failed_job_registry.count
    assert "ValueError" in said()
    assert CANARY not in said()
    assert CANARY.encode() not in stored_in_redis()
