"""A linear release works through the app like any other: scored, explained, replayed, scored in shadow, promoted."""

from __future__ import annotations

import json
from io import BytesIO, StringIO

import numpy as np
import pytest
from django.core.management import call_command

from mlcore import protocols, records, tfidf, train
from mlcore.records import NoteText, Record
from mlcore.scorer import Scorer
from reviews import replay
from tests import factories
from tests.triage.test_scoring import deliver
from triage import explaining, intake, registry, scoring, shadow, synthetic, tasks
from triage.models import Case, Explanation, Note, Prediction, Protocol, WindowVector

pytestmark = pytest.mark.django_db
SEVERE = ("question about delivery", "screen broke", "burn and infection", "patient died")


@pytest.fixture(scope="session")
def linear_folder(tmp_path_factory):
    spec = protocols.get("hiv-suspicion-es")
    made = synthetic.generate(320, 11, foreign=0, suspects=0.4, prefix="T")
    lines = "\n".join(json.dumps(synthetic.as_record(p, labelled=True), ensure_ascii=False) for p in made)
    found = list(records.read(BytesIO(lines.encode()), "cohort.jsonl", spec))
    folder = tmp_path_factory.mktemp("linear") / "bundle"
    train.train(found, spec, tfidf.NAME, folder)
    return folder


@pytest.fixture(scope="session")
def severe_folder(tmp_path_factory):
    """Four classes, a note a case."""
    rng = np.random.default_rng(8)
    words = [
        "the",
        "device",
        "was",
        "returned",
        "for",
        "analysis",
        "and",
        "no",
        "fault",
        "found",
        "by",
        "user",
        "today",
    ]
    made = [
        Record(str(i), [NoteText(" ".join([*rng.choice(words, 9), SEVERE[i % 4]]))], i % 4, i + 1)
        for i in range(240)
    ]
    folder = tmp_path_factory.mktemp("severe") / "bundle"
    train.train(made, protocols.MAUDE_SEVERITY_EN, tfidf.NAME, folder)
    return folder


@pytest.fixture
def linear(db, linear_folder, settings, tmp_path):
    settings.RELEASES_DIR = tmp_path / "releases"
    return registry.install(linear_folder)[0]


def replayed(site, protocol):
    checks = replay.everything([site], [protocol])
    assert not any(check.differ for check in checks.values())
    return checks["predictions"].checked


def test_scores_are_the_bundles_and_come_out_the_same_again(site, protocol, linear, linear_folder):
    deliver(site, protocol)
    assert scoring.drain() == 6
    scorer = Scorer.load(linear_folder)
    for row in Prediction.objects.select_related("case__patient"):
        expected = scorer.score_records([[note.text for note in row.case.notes()]])[0]
        assert row.p_values == expected.p_values[0].tolist()
        assert row.logits == expected.logits[0].tolist()
        assert row.typicality == expected.typicality[0]
    stored = WindowVector.objects.values_list("note", "start", "vector")
    assert len(stored) == Note.objects.count()
    assert {(start, len(vector)) for _, start, vector in stored} == {(0, 4 * scorer.encoder.width)}
    assert replayed(site, protocol) == 6


def test_a_new_note_costs_only_itself(site, protocol, linear, monkeypatch):
    deliver(site, protocol)
    scoring.drain()
    encoded = []
    encode = Scorer.encode
    monkeypatch.setattr(
        Scorer, "encode", lambda self, windows: encoded.extend(windows) or encode(self, windows)
    )
    patient = Case.objects.first().patient
    line = {"patient_id": patient.pseudonym, "notes": ["Acude por fiebre y muguet oral."]}
    intake.receive(site, protocol, BytesIO(json.dumps(line).encode()), "nueva.jsonl", by=None)
    assert scoring.drain() == 1
    assert [tfidf.text_of(window) for window in encoded] == ["Acude por fiebre y muguet oral."]


def test_every_method_explains_a_case(site, protocol, linear):
    deliver(site, protocol, n=2)
    scoring.drain()
    prediction = Prediction.objects.first()
    for method in Explanation.Method.values:
        explaining.request(prediction, method)
    explaining.drain()
    texts = [Note.objects.get(pk=pk).text for pk in prediction.note_ids]
    for row in Explanation.objects.filter(prediction=prediction):
        assert (row.status, row.attentions) == ("ready", True)
        assert 0 < len(row.words) <= 50
        assert all(texts[w["note"]][w["start"] : w["end"]].strip() for w in row.words)
        assert len(row.nearest) == 6
        assert sum(part["weight"] for part in row.windows) == pytest.approx(1)


def test_it_is_scored_in_shadow_beside_an_encoder_and_promoted(site, protocol, release, linear_folder, admin):
    deliver(site, protocol)
    scoring.drain()
    challenger = registry.install(linear_folder, shadow=True)[0]
    shadow.ask(challenger, by=admin, reason="to compare")
    assert tasks.drain() == 1
    assert Prediction.objects.filter(release=challenger, current=False).count() == 6
    done = registry.activate(challenger, actor=admin, reason="simpler", instead_of=release.pk)
    assert done == {"scored": 6, "pending": 0}
    assert replayed(site, protocol) == 12


def test_four_classes_a_note_a_case(site, severe_folder, settings, tmp_path):
    settings.RELEASES_DIR = tmp_path / "releases"
    registry.install(severe_folder)
    protocol = Protocol.objects.get(slug="maude-severity-en")
    texts = ["the device was returned, the patient died", "no fault found but the screen broke"]
    for text in texts:
        case = factories.case(site, protocol, text, status="pending")
        Case.objects.filter(pk=case.pk).update(note=case.notes()[0])
    assert scoring.drain() == 2
    rows = Prediction.objects.order_by("case")
    assert [protocol.labels[row.label] for row in rows] == ["Death", "Malfunction"]
    explaining.request(rows[0])
    explaining.drain()
    words = Explanation.objects.get(prediction=rows[0]).words
    toward = {texts[0][w["start"] : w["end"]] for w in words if w["sign"] == "toward"}
    assert {"patient", "died"} <= toward
    assert replayed(site, protocol) == 2


def test_the_command_trains_and_tells_what_it_kept(tmp_path):
    made = synthetic.generate(200, 8, suspects=0.4, foreign=0, prefix="T")
    notes = tmp_path / "t.jsonl"
    lines = (json.dumps(synthetic.as_record(p, labelled=True), ensure_ascii=False) for p in made)
    notes.write_text("\n".join(lines), encoding="utf-8")
    out = StringIO()
    folder = tmp_path / "bundle"
    call_command(
        "train", protocol="hiv-suspicion-es", notes=notes, encoder="tfidf", output=folder, stdout=out
    )
    assert "strength" in out.getvalue()
    assert "average precision of suspicion" in out.getvalue()
    card = tmp_path / "card.md"
    call_command("model_card", folder, output=card)
    assert "average precision of suspicion" in card.read_text(encoding="utf-8")
