"""Cases are scored once whatever happens to workers; a new note costs only its own windows; poison is set aside."""

from __future__ import annotations

import json
import shutil
import signal
import time
from io import BytesIO

import numpy as np
import pytest

from mlcore.errors import BundleError
from mlcore.scorer import Scorer
from tests.triage.workers import RealWorkers
from triage import claims, explaining, intake, jobs, registry, scoring, synthetic
from triage.models import Case, Explanation, Note, Prediction, Release, WindowVector

pytestmark = pytest.mark.django_db


def deliver(site, protocol, n=6, seed=3, name="cohorte.jsonl", **shares):
    patients = list(synthetic.generate(n, seed, **({"foreign": 0.2} | shares)))
    lines = "\n".join(
        json.dumps(synthetic.as_record(p, labelled=False), ensure_ascii=False) for p in patients
    )
    intake.receive(site, protocol, BytesIO(lines.encode()), name, by=None)
    return patients


def test_scores_are_those_of_the_bundle(site, protocol, release, bundle_folder):
    deliver(site, protocol)
    assert scoring.drain() == 6
    scorer = Scorer.load(bundle_folder)
    for row in Prediction.objects.select_related("case__patient"):
        texts = [note.text for note in row.case.notes()]
        expected = scorer.score_records([texts])[0]
        np.testing.assert_allclose(row.p_values, expected.p_values[0], rtol=0, atol=0)
        np.testing.assert_allclose(row.logits, expected.logits[0], atol=1e-5)
        assert row.typicality == pytest.approx(expected.typicality[0])
        assert row.label == expected.label[0]
        assert row.current
    assert set(Case.objects.values_list("status", flat=True)) == {"scored"}


def test_nothing_is_scored_without_a_release(site, protocol):
    deliver(site, protocol)
    assert scoring.drain() == 0
    assert Case.objects.filter(status="pending").count() == 6


@pytest.mark.parametrize(
    ("cases", "seconds", "size"), [(4, 0.1, 16), (64, 0.2, 128), (128, 1.9, 128), (16, 8.0, 4), (1, 60.0, 1)]
)
def test_a_claim_is_what_a_worker_reads_in_two_seconds(cases, seconds, size):
    assert scoring._next_size(cases, seconds) == size


def test_a_second_drain_does_nothing(site, protocol, release):
    deliver(site, protocol)
    scoring.drain()
    assert scoring.drain() == 0
    assert Prediction.objects.count() == 6


def test_a_new_note_costs_only_its_own_windows(site, protocol, release, monkeypatch):
    deliver(site, protocol)
    scoring.drain()
    vectors = WindowVector.objects.count()
    patient = Case.objects.first().patient
    encoded = []
    encode = Scorer.encode
    monkeypatch.setattr(
        Scorer, "encode", lambda self, windows: encoded.extend(windows) or encode(self, windows)
    )
    line = {"patient_id": patient.pseudonym, "notes": ["Acude por fiebre y muguet oral. Tos seca."]}
    intake.receive(site, protocol, BytesIO(json.dumps(line).encode()), "nueva.jsonl", by=None)
    former = Prediction.objects.get(case__patient=patient)
    assert not former.current
    assert scoring.drain() == 1
    assert len(encoded) == 1
    assert WindowVector.objects.count() == vectors + 1
    assert Prediction.objects.get(case__patient=patient, current=True).pk != former.pk


def test_deferred_cases_get_explanations_with_offsets_into_the_text(site, protocol, release):
    deliver(site, protocol, n=12)
    scoring.drain()
    asked = Explanation.objects.count()
    assert asked > 0
    assert explaining.drain() == asked
    row = Explanation.objects.filter(status="ready").first()
    notes = Note.objects.in_bulk(row.prediction.note_ids)
    assert 0 < len(row.words) <= 50
    for word in row.words:
        text = notes[row.prediction.note_ids[word["note"]]].text[word["start"] : word["end"]]
        assert text
        assert not text[0].isspace()
        assert not text[-1].isspace()
        assert word["sign"] in ("toward", "away", None)


def test_promise_6_poison_is_quarantined_alone(site, protocol, release, monkeypatch):
    deliver(site, protocol, n=10)
    poison = Case.objects.order_by("pk")[4].patient.pseudonym
    score = scoring._reads

    def explode(cases):
        if any(case.patient.pseudonym == poison for case in cases):
            raise ValueError("the words of a note must not be kept")
        return score(cases)

    monkeypatch.setattr(scoring, "_reads", explode)
    assert scoring.drain() == 9
    bad = Case.objects.get(status="quarantined")
    assert (bad.patient.pseudonym, bad.attempts) == (poison, claims.ATTEMPTS)
    assert "ValueError" in bad.failure
    assert "words" not in bad.failure


def test_promise_7_a_damaged_release_scores_nothing_and_is_named(site, protocol, release, client):
    deliver(site, protocol)
    head = registry.folder(release) / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"\x00\x01")
    registry.scorer.cache_clear()
    with pytest.raises(BundleError):
        scoring.drain()
    assert Case.objects.filter(status="pending", attempts=0).count() == 6
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert release.name in ready.json()["releases"]


def test_a_case_changed_while_it_is_read_keeps_its_new_turn(site, protocol, release, monkeypatch):
    deliver(site, protocol, n=2)
    changed = Case.objects.first()
    encode = scoring._encode

    def arrive(reads, *rest):
        encode(reads, *rest)
        Case.objects.filter(pk=changed.pk).update(status="pending", claim=None, claimed_at=None, attempts=0)
        monkeypatch.setattr(scoring, "_encode", encode)

    monkeypatch.setattr(scoring, "_encode", arrive)
    assert scoring.drain() == 2
    assert Prediction.objects.filter(case=changed).count() == 1
    assert not Case.objects.exclude(status="scored").exists()


def test_a_score_of_a_release_replaced_meanwhile_does_not_stand(site, protocol, release, monkeypatch):
    """The case was claimed while it waited, so the change of releases did not find it claimed."""
    deliver(site, protocol, n=2)
    encode = scoring._encode

    def replaced(reads, active, scorer):
        encode(reads, active, scorer)
        Release.objects.filter(pk=release.pk).update(active=False)

    monkeypatch.setattr(scoring, "_encode", replaced)
    assert scoring.drain() == 0
    assert not Prediction.objects.exists()
    assert list(Case.objects.values_list("status", "attempts")) == [("pending", 0)] * 2


def test_a_damaged_release_costs_no_explanation_its_turn(site, protocol, release):
    deliver(site, protocol, n=12)
    scoring.drain()
    waiting = Explanation.objects.count()
    head = registry.folder(release) / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"\x00\x01")
    registry.scorer.cache_clear()
    for _ in range(claims.ATTEMPTS + 1):
        with pytest.raises(BundleError):
            explaining.drain()
    assert Explanation.objects.filter(status="pending", attempts=0).count() == waiting > 0


def test_a_slice_of_no_time_begins_nothing(site, protocol, release):
    deliver(site, protocol, n=2)
    assert scoring.drain(0) == 0
    assert Case.objects.filter(status="pending", attempts=0).count() == 2


def test_a_full_disk_at_install_is_one_sentence(bundle_folder, settings, tmp_path, db, monkeypatch):
    settings.RELEASES_DIR = tmp_path / "releases"

    def full(source, target):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    monkeypatch.setattr(registry.shutil, "copytree", full)
    with pytest.raises(BundleError, match="make room"):
        registry.install(bundle_folder)
    assert list(settings.RELEASES_DIR.iterdir()) == []


def test_readyz_reads_a_release_once_for_each_state_of_it(release, client, monkeypatch):
    assert client.get("/readyz").json()["releases"] == "ok"
    read = []
    monkeypatch.setattr(registry, "_damaged", lambda target: read.append(target) or "gone")
    assert client.get("/readyz").json()["releases"] == "ok"
    assert not read
    (registry.folder(release) / "card.json").touch()
    assert client.get("/readyz").status_code == 503


def test_installing_again_changes_nothing(release, bundle_folder):
    again, new = registry.install(bundle_folder)
    assert (again, new) == (release, False)


@pytest.mark.django_db(transaction=True)
class TestRealWorkers(RealWorkers):
    """Worker processes, killed for real."""

    @pytest.fixture(autouse=True)
    def _environment(self, settings, release):
        self.surround(settings, settings.RELEASES_DIR)

    def facts(self):
        return list(Case.objects.values_list("status", "failure"))

    def test_promise_1_killed_workers_lose_and_double_nothing(self, site, protocol):
        deliver(site, protocol, n=150)
        for _ in range(3):
            worker = self.work()
            self.until(Case.objects.filter(status="claimed").exists)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            scoring.reconcile()
        self.work()
        self.until(lambda: Case.objects.filter(status="scored").count() == 150)
        assert Prediction.objects.count() == 150
        assert Prediction.objects.filter(current=True).count() == 150

    def test_promise_2_a_case_nobody_announced_is_found_though_redis_was_emptied(self, site, protocol):
        import redis

        self.work()
        store = redis.Redis.from_url(self.environment["REDIS_URL"])
        self.until(lambda: store.smembers("rq:workers"))
        store.flushdb()
        deliver(site, protocol, n=4)
        self.until(lambda: Case.objects.filter(status="scored").count() == 4)
        assert Prediction.objects.filter(current=True).count() == Prediction.objects.count() == 4

    def test_promise_29_a_forged_job_is_refused(self, tmp_path):
        import redis
        from rq import Queue
        from rq.serializers import JSONSerializer

        mark = tmp_path / "ran"
        queue = Queue(
            jobs.LIGHT,
            connection=redis.Redis.from_url(self.environment["REDIS_URL"]),
            serializer=JSONSerializer,
        )
        queue.empty()
        queue.enqueue("os.mkdir", str(mark))
        self.work()
        self.until(lambda: queue.count == 0)
        time.sleep(0.5)
        assert not mark.exists()
        assert not queue.failed_job_registry.count

    def test_promise_29_nor_does_a_callback_run(self, tmp_path):
        import redis
        from rq import Callback, Queue
        from rq.serializers import JSONSerializer

        queue = Queue(
            jobs.LIGHT,
            connection=redis.Redis.from_url(self.environment["REDIS_URL"]),
            serializer=JSONSerializer,
        )
        queue.empty()
        job = queue.enqueue("triage.jobs.explain", on_success=Callback("os.getpid"))
        self.work()
        self.until(lambda: queue.count == 0)
        self.until(lambda: not queue.connection.exists(job.key))
        assert not queue.finished_job_registry.count
        assert not queue.failed_job_registry.count

    def test_promise_9_sigterm_ends_a_busy_worker_in_time(self, site, protocol):
        deliver(site, protocol, n=600)
        worker = self.work()
        self.until(Case.objects.filter(status="scored").exists)
        worker.terminate()
        assert worker.wait(30) == 0
        assert Prediction.objects.count() == Case.objects.filter(status="scored").count()
        assert not Case.objects.filter(status="claimed").exists()
