import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlcore import bundle, train
from mlcore.errors import DataError, ModelError
from mlcore.records import NoteText
from mlcore.scorer import Scorer
from tests.mlcore.conftest import SPEC, cases

RECORDS = cases(120, 5, words=25)


@pytest.fixture(scope="module")
def small(config):
    return replace(config, epochs=2, width=16)


def run(records, folder, config, encoder=train.COMPACT, **kwargs):
    return train.train(records, SPEC, encoder, folder, config, **kwargs)


@pytest.fixture(scope="module")
def first(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("first") / "bundle"
    return folder, run(RECORDS, folder, small)


def test_the_bundle_is_sealed_and_its_card_complete(first, small):
    folder, card = first
    assert bundle.verify(folder) and bundle.read_card(folder)["epochs"] == card["epochs"]
    shares = card["data"]["shares"]
    assert sum(sum(classes.values()) for classes in shares.values()) == card["data"]["cases"] == 120
    assert card["calibration"]["suspicion"]["n"] == shares["calibration"]["suspicion"] == 16
    assert len(card["epochs"]) == small.epochs and card["chosen"]["why"]
    assert set(card["seconds"]) == {"windows", "linear model", "encoder", "training", "calibration", "saving"}
    assert card["versions"]["torch"] and card["data"]["sha256"] and card["config"]["seed"] == small.seed


def test_the_same_data_gives_the_same_bits(first, tmp_path, small):
    folder, card = first
    again = run(RECORDS, tmp_path / "again", small)
    assert again["data"] == card["data"] and again["epochs"] == card["epochs"]
    for name in ("head.safetensors", "calibration.safetensors", "encoder/model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_calibration_cases_shape_nothing_but_the_ranks(first, tmp_path, small):
    """With other texts in the calibration share, weights, temperature and centroids stay bit for bit."""
    folder, _ = first
    labels = np.array([r.label for r in RECORDS])
    held_out = train.share_out(labels, [r.patient_id for r in RECORDS], small, 2) == train.PARTS.index(
        "calibration"
    )
    other = [
        replace(r, notes=[NoteText("fiebre tos hernia zóster " * 5)]) if held else r
        for r, held in zip(RECORDS, held_out, strict=True)
    ]
    run(other, tmp_path / "other", small)
    before, after = (load_file(f / "calibration.safetensors") for f in (folder, tmp_path / "other"))
    for name in before:
        own = name.startswith(("calibration.scores", "calibration.distances", "held_out."))
        assert own or (before[name] == after[name]).all(), name
    assert not np.array_equal(before["calibration.scores.0"], after["calibration.scores.0"])
    for name in ("head.safetensors", "encoder/model.safetensors", "encoder/tokenizer.json"):
        assert (folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_the_bundle_scores_the_validation_cases_as_its_card_says(first, small):
    """What is saved is what was chosen, token vectors included: not the state of a later batch or fold."""
    folder, card = first
    labels = np.array([r.label for r in RECORDS])
    parts = train.share_out(labels, [r.patient_id for r in RECORDS], small, 2)
    rows = np.flatnonzero(parts == train.PARTS.index("validation"))
    scores, _, _ = Scorer.load(folder).score_records([RECORDS[i].texts for i in rows])
    kept = next(e for e in card["epochs"] if e["epoch"] == card["chosen"]["epoch"])
    loss = -np.log(scores.probabilities[np.arange(len(rows)), labels[rows]]).mean()
    assert np.isclose(loss, kept["validation_loss"], atol=1e-4)


def test_the_best_epoch_is_kept_not_the_last(tmp_path, small, monkeypatch):
    """With the second of three epochs told to be the best, the weights are those that stood after it."""
    told, seen = iter([0.5, 0.1, 0.3]), []
    monkeypatch.setattr(train, "_share_of_rate", lambda step, steps: 1.0)

    def quality(encoder, head, data, spec):
        seen.append({k: v.clone() for k, v in head.state_dict().items()})
        return {"validation_loss": next(told), "validation_auroc": 0.5, "validation_average_precision": 0.5}

    monkeypatch.setattr(train, "quality", quality)
    card = run(RECORDS, tmp_path / "b", replace(small, epochs=3))
    kept = Scorer.load(tmp_path / "b").head.state_dict()
    assert card["chosen"]["epoch"] == 2
    assert all((kept[k] == seen[1][k]).all() for k in kept)
    assert any((kept[k] != seen[2][k]).any() for k in kept)


def test_shares_leave_a_class_enough_to_calibrate_and_keep_groups_whole():
    labels = np.repeat([0, 1, 2], [3000, 251, 60])
    groups = [str(i // 2) for i in range(len(labels))]
    parts = train.share_out(labels, groups, train.TrainConfig(), 3)
    held = Counter(labels[parts == train.PARTS.index("calibration")].tolist())
    assert abs(held[0] - 450) <= 2 and abs(held[1] - 100) <= 2 and abs(held[2] - 24) <= 2
    assert all(len(set(parts[i : i + 2])) == 1 for i in range(0, len(labels) - 1, 2))


def test_an_epoch_takes_half_of_the_commonest_class_and_all_others():
    labels = np.repeat([0, 1, 2], [100, 10, 5])
    drawn = train.thinned(labels, np.random.default_rng(0))
    assert Counter(labels[drawn].tolist()) == {0: 50, 1: 10, 2: 5} and len(set(drawn)) == 65
    even = np.repeat([0, 1], [60, 50])
    assert Counter(even[train.thinned(even, np.random.default_rng(0))].tolist()) == {0: 50, 1: 50}


@pytest.mark.parametrize("kind", ["spectral", "standard"])
def test_a_hugging_face_folder_stays_frozen_and_its_head_learns(roberta, tmp_path, small, kind):
    records = cases(150, 6)
    card = run(records, tmp_path / "b", replace(small, epochs=12, head=kind), encoder=str(roberta))
    before, after = (load_file(f / "model.safetensors") for f in (roberta, tmp_path / "b" / "encoder"))
    assert all((after[k] == before[k]).all() for k in before)
    assert card["epochs"][-1]["training_loss"] < card["epochs"][0]["training_loss"]
    scores, _, _ = Scorer.load(tmp_path / "b").score_records([r.texts for r in records])
    truth = np.array([r.label for r in records])
    assert scores.probabilities[truth == 1, 1].mean() > scores.probabilities[truth == 0, 1].mean() + 0.1


def test_progress_tells_every_stage_from_start_to_end(tmp_path, small):
    told = []
    run(RECORDS, tmp_path / "b", small, progress=lambda *event: told.append(event))
    for stage in ("windows", "linear model", "encoder", "training", "calibration", "saving"):
        own = [(done, total) for name, done, total in told if name == stage]
        assert own[0][0] == 0 and own[-1][0] == own[-1][1]
        assert [done for done, _ in own] == sorted(done for done, _ in own)


def test_what_cannot_be_trained_on_is_told(tmp_path, small):
    with pytest.raises(DataError, match="5 cases labelled suspicion"):
        run(
            [r for r in RECORDS if r.label == 0] + [r for r in RECORDS if r.label == 1][:5],
            tmp_path / "b",
            small,
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(ModelError, match="not an empty folder"):
        run(RECORDS, tmp_path / "full", small)


def test_the_card_is_plain_json(first):
    assert json.loads(json.dumps(first[1], allow_nan=False)) == first[1]


def test_the_bundle_holds_the_calibration_cases_as_if_they_were_new(first, small):
    """What the dial draws is what scoring the calibration cases anew gives, each ranked against the others."""
    folder, _ = first
    labels = np.array([r.label for r in RECORDS])
    parts = train.share_out(labels, [r.patient_id for r in RECORDS], small, 2)
    held_out = np.flatnonzero(parts == train.PARTS.index("calibration"))
    scorer = Scorer.load(folder)
    scores, _, _ = scorer.score_records([RECORDS[i].texts for i in held_out])
    expected = scorer.calibration.held_out(scores.logits, scores.distances, labels[held_out])
    stored = {k: v for k, v in bundle.load_arrays(folder).items() if k.startswith("held_out.")}
    for name, values in expected.items():
        np.testing.assert_allclose(stored[f"held_out.{name}"], values, atol=0.1)  # a rank may move by two
    prevalence = np.bincount(labels, weights=None) / len(labels)
    weighted = np.bincount(labels[held_out], weights=stored["held_out.weight"]) / len(held_out)
    np.testing.assert_allclose(weighted, prevalence)
