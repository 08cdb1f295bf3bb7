"""Explanations by method and by turn: from stored vectors, readers first, automatic cases when nobody waits."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
from django.db import IntegrityError, connection
from django.db.migrations.executor import MigrationExecutor

from mlcore import attribution
from mlcore.errors import DataError
from mlcore.scorer import Scorer
from tests import factories
from triage import explaining, intake, jobs, policy, registry, scoring, synthetic
from triage.models import Explanation, Note, Prediction, WindowVector

pytestmark = pytest.mark.django_db
READER, DEFERRED, COHORT = Explanation.Priority


@pytest.fixture
def woken(monkeypatch):
    calls = []
    monkeypatch.setattr(jobs, "wake_explaining", lambda: calls.append(1))
    return calls


@pytest.fixture
def scored(site, protocol, release):
    """Twelve invented patients, scored; those deferred wait for their explanation."""
    patients = synthetic.generate(12, 3, foreign=0.2)
    lines = "\n".join(
        json.dumps(synthetic.as_record(p, labelled=False), ensure_ascii=False) for p in patients
    )
    intake.receive(site, protocol, BytesIO(lines.encode()), "cohorte.jsonl", by=None)
    scoring.drain()
    return Prediction.objects.filter(current=True)


def texts_of(prediction):
    notes = Note.objects.in_bulk(prediction.note_ids)
    return [notes[pk].text for pk in prediction.note_ids]


def test_under_a_hold_only_what_is_deferred_by_its_numbers_or_drawn_is_prepared(site, protocol, release):
    policy.current(site, protocol)
    facts = {"alpha": 0.3, "floor": 0.001, "audit_rate": 0.2, "automate": False}
    dial = policy.turn(site, protocol, **facts, reason="Deriva.", author=None, base_version=1)
    lines = "\n".join(
        json.dumps(synthetic.as_record(p, labelled=False), ensure_ascii=False)
        for p in synthetic.generate(40, 3, foreign=0.2)
    )
    intake.receive(site, protocol, BytesIO(lines.encode()), "cohorte.jsonl", by=None)
    assert scoring.drain() == 40
    rows = list(Prediction.objects.filter(current=True))
    held = {row.pk for row in rows if policy.outcome_of(row, dial) == policy.HELD}
    left = {row.pk for row in rows if row.pk in held and row.lot >= 0.2}
    assert left and left < held < {row.pk for row in rows}
    asked = set(Explanation.objects.values_list("prediction", flat=True))
    assert asked == {row.pk for row in rows} - left
    assert explaining.ask_for_deferred(site.pk, protocol.pk) == 0


def test_a_row_holds_what_mlcore_finds_from_the_stored_vectors(scored, bundle_folder):
    explaining.drain()
    row = Explanation.objects.filter(status="ready").first()
    assert row.method == Explanation.DEFAULT == attribution.DEFAULT
    scorer, texts = Scorer.load(bundle_folder), texts_of(row.prediction)
    found = attribution.explain(scorer, texts)
    assert [(w["note"], w["start"], w["end"], w["sign"]) for w in row.words] == [
        (w.note, w.start, w.end, w.sign) for w in found.words
    ]
    np.testing.assert_allclose([w["margin"] for w in row.words], [w.margin for w in found.words], atol=1e-5)
    assert [w.keys() for w in row.windows] == [{"note", "start", "end", "weight"}] * len(found.windows)
    for phrase in row.phrases:
        assert phrase.keys() == {"note", "start", "end", "words", "margin", "distance", "sign", "beyond"}
    assert row.noise_floor > 0 and row.attentions


def test_nearest_cases_are_those_of_the_release_s_calibration(scored):
    explaining.drain()
    for row in Explanation.objects.filter(status="ready"):
        assert [one["label"] for one in row.nearest] == [0, 0, 0, 1, 1, 1]
        assert all(one["given"] in (0, 1) and one["distance"] >= 0 for one in row.nearest)


def test_stored_vectors_are_taken_when_whole_and_made_anew_when_not(scored, monkeypatch):
    taken = []
    explain = attribution.explain

    def spy(*args, vectors, **rest):
        taken.append(vectors)
        return explain(*args, vectors=vectors, **rest)

    monkeypatch.setattr(attribution, "explain", spy)
    prediction = scored.first()
    scorer, texts = registry.scorer(prediction.release.sha256), texts_of(prediction)
    explaining._explain(prediction, "deletion")
    np.testing.assert_allclose(taken[0], scorer.encode(scorer.windows(texts)), atol=1e-6)
    WindowVector.objects.filter(note=prediction.note_ids[0]).delete()
    explaining._explain(prediction, "deletion")
    assert taken[1] is None


@pytest.mark.parametrize("method", Explanation.Method.values)
def test_each_method_has_a_row_of_its_own(scored, woken, method, django_capture_on_commit_callbacks):
    prediction = scored.first()
    Explanation.objects.all().delete()
    with django_capture_on_commit_callbacks(execute=True):
        row = explaining.request(prediction, method)
    assert (row.status, row.method, row.priority) == ("pending", method, READER)
    assert woken == [1]
    assert explaining.drain() == 1
    row.refresh_from_db()
    assert row.status == "ready" and row.words
    assert all((word["distance"] is None) == (method in ("gradients", "ablation")) for word in row.words)
    assert explaining.request(prediction, method) == row
    assert prediction.explanations.count() == 1


def test_a_prediction_is_explained_once_by_a_method(scored):
    prediction = scored.first()
    Explanation.objects.all().delete()
    Explanation.objects.create(prediction=prediction, method="mask")
    Explanation.objects.create(prediction=prediction, method="ablation")
    with pytest.raises(IntegrityError):
        Explanation.objects.create(prediction=prediction, method="mask")


def test_another_method_is_refused(scored):
    with pytest.raises(DataError, match="'lime'"):
        explaining.request(scored.first(), "lime")


def test_readers_first_then_deferred_then_groups(site, protocol):
    rows = [
        factories.prediction(factories.case(site, protocol), 0.5, 0.1, 0.5, urgency)
        for urgency in (0.1, 0.9, 0.5, 0.7)
    ]
    Prediction.objects.update(current=True)
    waiting = lambda: [row.prediction for row in explaining.waiting()]  # noqa: E731
    explaining.ask(Prediction.objects.filter(pk=rows[1].pk), priority=COHORT)
    explaining.ask(Prediction.objects.filter(pk__in=[rows[0].pk, rows[2].pk]))
    assert waiting() == [rows[2], rows[0], rows[1]]
    explaining.request(rows[1])
    assert waiting() == [rows[1], rows[2], rows[0]], "what a reader opens moves up"
    explaining.ask(Prediction.objects.all(), priority=COHORT)
    assert waiting() == [rows[1], rows[2], rows[0], rows[3]], "and nothing moves down"
    assert Explanation.objects.count() == 4


@pytest.mark.django_db(transaction=True)
def test_what_was_explained_before_stays_as_explained_by_mask(site, protocol):
    """The migration forwards over rows as they were."""
    done, waiting = (factories.prediction(factories.case(site, protocol), 0.5, 0.1, 0.5).pk for _ in range(2))
    executor = MigrationExecutor(connection)
    executor.migrate([("triage", "0005_policy_audit_and_second_opinion")])
    try:
        old = executor.loader.project_state([("triage", "0005_policy_audit_and_second_opinion")]).apps
        of = old.get_model("triage", "Explanation")
        of.objects.create(prediction_id=done, status="ready", words=[{"note": 0}])
        of.objects.create(prediction_id=waiting)
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes())
    ready = Explanation.objects.get(prediction=done)
    assert (ready.method, ready.words, ready.phrases, ready.nearest) == ("mask", [{"note": 0}], [], [])
    assert Explanation.objects.get(prediction=waiting).method == Explanation.DEFAULT


def test_the_policy_in_force_decides_what_is_prepared(scored, site, protocol):
    Explanation.objects.all().delete()
    dial = policy.current(site, protocol)
    deferred = scored.filter(policy.deferred(dial.alpha, dial.typicality_floor)).count()
    assert explaining.ask_for_deferred(site.pk, protocol.pk) == deferred > 0
    assert set(Explanation.objects.values_list("method", "priority")) == {(Explanation.DEFAULT, DEFERRED)}
