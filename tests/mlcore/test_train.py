import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from mlcore import bundle, mil, train
from mlcore.encoder import Encoder
from mlcore.errors import DataError, ModelError
from mlcore.records import NoteText
from mlcore.scorer import Scorer
from tests.mlcore.conftest import SPEC, cases

RECORDS = cases(120, 5, words=25)
LABELS = np.array([r.label for r in RECORDS])
GROUPS = [r.patient_id for r in RECORDS]
STAGES = ("windows", "linear model", "encoder", "training", "calibration", "saving")


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
    assert set(card["seconds"]) == set(STAGES)
    assert (
        card["versions"]["accelerate"]
        and card["versions"]["torch"]
        and card["data"]["sha256"]
        and card["config"]["seed"] == small.seed
    )


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
        own = name.startswith(("calibration.scores", "calibration.distances", "calibrated.", "held_out."))
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


def test_shares_leave_a_class_enough_to_calibrate_and_keep_groups_whole():
    labels = np.repeat([0, 1, 2], [3000, 251, 60])
    groups = [str(i // 2) for i in range(len(labels))]
    parts = train.share_out(labels, groups, train.TrainConfig(), 3)
    held = Counter(labels[parts == train.PARTS.index("calibration")].tolist())
    assert abs(held[0] - 450) <= 2 and abs(held[1] - 100) <= 2 and abs(held[2] - 24) <= 2
    assert all(len(set(parts[i : i + 2])) == 1 for i in range(0, len(labels) - 1, 2))


def test_the_parts_that_are_given_are_kept_to(tmp_path, small):
    """What is left out is neither learned nor calibrates."""
    parts = train.share_out(LABELS, GROUPS, small, 2)
    parts[parts == train.PARTS.index("fit")] = np.where(
        np.arange((parts == 0).sum()) % 4 == 0, train.LEFT_OUT, 0
    )
    card = train.train(RECORDS, SPEC, train.COMPACT, tmp_path / "b", replace(small, epochs=1), parts=parts)
    arrays = bundle.load_arrays(tmp_path / "b")
    known = set(arrays["learned.notes"].tolist()) | set(arrays["calibrated.notes"].tolist())
    apart = train.note_digests(RECORDS[i] for i in np.flatnonzero(parts == train.LEFT_OUT))
    others = train.note_digests(RECORDS[i] for i in np.flatnonzero(parts != train.LEFT_OUT))
    assert known == set(others.tolist()) and len(set(apart.tolist()) - known) > 10
    assert sum(sum(mix.values()) for mix in card["data"]["shares"].values()) == (parts >= 0).sum()


def test_the_window_asked_for_is_trained_named_and_scored_with(tmp_path, small):
    longer = [replace(r, notes=[NoteText(" ".join(r.texts) * 6)]) for r in RECORDS]
    card = run(longer, tmp_path / "b", replace(small, epochs=1, window=128))
    assert card["windows"]["size"] == 128
    scorer = Scorer.load(tmp_path / "b")
    sizes = [len(w.ids) for r in longer for w in scorer.windows(r.texts)]
    assert max(sizes) == 128 and len(sizes) > len(longer)


def test_centroids_are_of_as_many_cases_as_an_epoch_draws(tmp_path, small, monkeypatch):
    seen = []
    fit = train.MultiCentroid.fit
    monkeypatch.setattr(
        train.MultiCentroid,
        "fit",
        lambda self, x, y, k: seen.append(Counter(y.tolist())) or fit(self, x, y, k),
    )
    run(RECORDS, tmp_path / "b", replace(small, epochs=1, drawn=20))
    assert seen == [Counter({0: 20, 1: 20})]


@pytest.mark.parametrize(
    ("kind", "pooling"), [("spectral", "mean"), ("standard", "cls_mean_concat"), ("baseline", "cls")]
)
def test_a_hugging_face_folder_stays_frozen_and_its_head_learns(roberta, tmp_path, small, kind, pooling):
    records = cases(240, 6, words=3)
    config = replace(small, epochs=25, patience=0, head=kind, pooling=pooling, head_rate=0.01)
    card = run(records, tmp_path / "b", config, encoder=str(roberta))
    before, after = (load_file(f / "model.safetensors") for f in (roberta, tmp_path / "b" / "encoder"))
    assert all((after[k] == before[k]).all() for k in before)
    assert card["epochs"][-1]["training_loss"] < card["epochs"][0]["training_loss"]
    scores, _, _ = Scorer.load(tmp_path / "b").score_records([r.texts for r in records])
    truth = np.array([r.label for r in records])
    assert roc_auc_score(truth, scores.probabilities[:, 1]) > 0.75
    assert card["encoder"] == {
        "source": str(roberta),
        "pooling": pooling,
        "width": 64 if "concat" in pooling else 32,
    }
    assert Scorer.load(tmp_path / "b").encoder.width == card["encoder"]["width"]


def norms(head):
    """Largest singular value of each spectrally normalised layer, by SVD."""
    layers = (head.attention.value, head.attention.gate, head.dense)
    return [np.linalg.norm(layer.weight.detach().numpy().astype(float), 2) for layer in layers]


@pytest.mark.parametrize("kind", mil.KINDS)
def test_each_architecture_is_trained_sealed_and_read_back(tmp_path, small, kind):
    card = run(RECORDS, tmp_path / "b", replace(small, head=kind))
    scorer = Scorer.load(tmp_path / "b")
    assert card["head"]["kind"] == scorer.head.kind == kind
    assert np.isfinite(scorer.score_records([RECORDS[0].texts])[0].logits).all()
    if kind == "spectral":
        assert max(norms(scorer.head)) <= 1 + 1e-4


def test_progress_tells_every_stage_from_start_to_end(tmp_path, small):
    told = []
    run(RECORDS, tmp_path / "b", small, progress=lambda *event: told.append(event))
    for stage in STAGES:
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
    np.testing.assert_allclose(stored["held_out.logits"], scores.logits, atol=1e-4)
    assert stored["held_out.embedding"].dtype == np.float32
    np.testing.assert_allclose(
        stored["held_out.embedding"], scorer.score_records([RECORDS[i].texts for i in held_out])[1], atol=1e-4
    )


class Killed(Exception):
    """Stands for SIGKILL."""


def killed_after(steps):
    def progress(stage, done, total):
        if stage == "training" and done == steps < total:
            raise Killed

    return progress


def same_bits(one, other):
    names = [
        "head.safetensors",
        "calibration.safetensors",
        "encoder/model.safetensors",
        "encoder/tokenizer.json",
    ]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.parametrize("steps", [2, 5, 8])
def test_killed_and_started_again_gives_the_same_bits(first, tmp_path, small, steps):
    """In the first epoch, right after it and in the second (4 batches each): all is as if nothing had happened."""
    folder, card = first
    with pytest.raises(Killed):
        run(RECORDS, tmp_path / "b", small, progress=killed_after(steps))
    assert not (tmp_path / "b").exists()
    again = run(RECORDS, tmp_path / "b", small)
    assert again["epochs"] == card["epochs"] and same_bits(folder, tmp_path / "b")
    assert not (tmp_path / "b.partial").exists()


@pytest.mark.parametrize("tune", [0, 1])
def test_a_hugging_face_training_goes_on_to_the_same_bits(roberta, tmp_path, small, tune, monkeypatch):
    config, plain = replace(small, tune=tune, tune_rate=1e-3), Encoder._encode
    run(RECORDS, tmp_path / "whole", config, encoder=str(roberta))
    with pytest.raises(Killed):
        run(RECORDS, tmp_path / "b", config, encoder=str(roberta), progress=killed_after(4))
    if tune == 0:  # window vectors were stored: only calibration cases are still to be encoded
        encoded = []
        monkeypatch.setattr(Encoder, "_encode", lambda self, w, p: encoded.extend(w) or plain(self, w, p))
    run(RECORDS, tmp_path / "b", config, encoder=str(roberta))
    assert same_bits(tmp_path / "whole", tmp_path / "b")
    if tune == 0:
        held_out = train.share_out(LABELS, GROUPS, config, 2) == train.PARTS.index("calibration")
        assert len(encoded) == sum(len(RECORDS[i].notes) for i in np.flatnonzero(held_out))


def test_a_checkpoint_of_another_training_is_refused(tmp_path, small):
    with pytest.raises(Killed):
        run(RECORDS, tmp_path / "b", small, progress=killed_after(6))
    with pytest.raises(ModelError, match="a training on other data or with other settings"):
        run(RECORDS, tmp_path / "b", replace(small, seed=14))
    with pytest.raises(ModelError, match="other data"):
        run([replace(r, notes=[NoteText("otra nota")]) for r in RECORDS], tmp_path / "b", small)


@pytest.mark.parametrize(
    ("tune", "changed"),
    [(1, {"encoder.layer.1"}), (-1, {"embeddings", "encoder.layer.0", "encoder.layer.1"})],
)
def test_what_is_tuned_changes_and_nothing_else(roberta, tmp_path, small, tune, changed):
    run(RECORDS, tmp_path / "b", replace(small, tune=tune, tune_rate=1e-3, epochs=1), encoder=str(roberta))
    before, after = (load_file(f / "model.safetensors") for f in (roberta, tmp_path / "b" / "encoder"))
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert {"embeddings" if n.startswith("emb") else ".".join(n.split(".")[:3]) for n in moved} == changed


class TestFitModel:
    fit, validation, rest = np.arange(70), np.arange(70, 95), np.arange(95, 120)

    def model(self, config, records=RECORDS, labels=LABELS, encoder=train.COMPACT, **kwargs):
        rows = {"fit": self.fit, "validation": self.validation} | kwargs
        return train.fit_model(
            records, labels, GROUPS, SPEC, encoder, config, clock=train.Clock(lambda *e: None), **rows
        )

    def test_nothing_of_another_row_is_read(self, small):
        one = self.model(small)
        labels = LABELS.copy()
        labels[self.rest] = 7
        records = [*RECORDS[:95], *(replace(r, notes=[NoteText("fiebre hernia " * 9)]) for r in RECORDS[95:])]
        other = self.model(small, records, labels)
        assert one.epochs == other.epochs and one.temperature == other.temperature
        for a, b in ((one.head, other.head), (one.encoder, other.encoder)):
            assert all((a.state_dict()[k] == v).all() for k, v in b.state_dict().items())

    def test_outputs_of_a_case_are_its_own_and_passes_repeat(self, small):
        model = self.model(small)
        texts = [RECORDS[i].texts for i in self.rest]
        together, alone = model.outputs(texts), model.outputs(texts[3:4])
        assert together.logits.shape == (25, 2) and together.embeddings.shape == (25, 16)
        np.testing.assert_allclose(alone.logits[0], together.logits[3], atol=1e-5)
        drawn = model.passes(texts, 4, seed=5)
        assert drawn.shape == (4, 25, 2) and (drawn == model.passes(texts, 4, seed=5)).all()
        assert (model.outputs(texts).logits == together.logits).all(), "dropout is off again"

    def test_a_loaded_encoder_serves_many_models_and_stays(self, roberta, small):
        encoder = Encoder.load(roberta, "cls")
        before = encoder.fingerprint()
        model = self.model(small, encoder=encoder)
        assert model.encoder is encoder and encoder.fingerprint() == before
        with pytest.raises(ModelError, match="stays as it is"):
            self.model(replace(small, tune=1), encoder=encoder)

    def test_shares_are_the_population_s(self, small):
        prior = self.model(small, shares=np.array([0.9, 0.1])).head.log_prior
        np.testing.assert_allclose(prior.numpy(), np.log([0.9, 0.1]), rtol=1e-6)

    def test_what_cannot_be_fitted_on_is_told(self, small, roberta):
        labels = LABELS.copy()
        labels[[3, 80]] = -1, 2
        with pytest.raises(DataError, match=r"2 case\(s\) have no label of hiv-suspicion-es"):
            self.model(small, labels=labels)
        zeros = np.flatnonzero(LABELS == 0)
        with pytest.raises(DataError, match="0 independent cases labelled suspicion to fit on"):
            self.model(small, fit=zeros[:50])
        with pytest.raises(DataError, match="1 independent cases labelled suspicion to fit on"):
            self.model(small, fit=np.append(zeros[:50], np.flatnonzero(LABELS == 1)[0]))
        with pytest.raises(DataError, match="0 independent cases labelled suspicion to choose an epoch on"):
            self.model(small, validation=zeros[50:])
        with pytest.raises(ModelError, match="Gates are learned"):
            self.model(replace(small, pooling="gated"), encoder=roberta)

    @pytest.mark.parametrize("label", [2, -1, None])
    def test_a_label_outside_the_protocol_is_told_by_train_itself(self, label, tmp_path):
        records = [*RECORDS[:-1], replace(RECORDS[-1], label=label)]
        with pytest.raises(DataError, match=r"1 case\(s\) to train on have no label of hiv-suspicion-es"):
            train.train(records, SPEC, train.COMPACT, tmp_path / "bundle")

    def test_weights_that_are_not_numbers_are_told(self, roberta, small):
        encoder = Encoder.load(roberta)
        with torch.no_grad():
            encoder.model.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
        with pytest.raises(ModelError, match="no longer a finite number"):
            self.model(small, encoder=encoder)

    def test_two_cases_of_a_class_are_enough_to_run(self, small):
        """With 5 folds of the linear model, some of which lack the class altogether in what they are tested on."""
        suspects = np.flatnonzero(LABELS == 1)
        fit = np.append(np.flatnonzero(LABELS == 0)[:40], suspects[:2])
        assert np.isfinite(self.model(small, fit=fit).outputs([RECORDS[0].texts]).logits).all()
