import json
import shutil

import numpy as np
import pytest

from mlcore import bundle
from mlcore.errors import BundleError, DataError, ModelError
from mlcore.scorer import Scorer
from tests.mlcore.conftest import cases


@pytest.fixture(scope="module")
def scorer(trained):
    return Scorer.load(trained)


@pytest.fixture(scope="module")
def notes():
    return [record.texts for record in cases(40, 9, words=300)]


def test_a_score_does_not_depend_on_its_batch(scorer, notes):
    together, _, _ = scorer.score_records(notes)
    for i in (0, 7, 23):
        alone, _, _ = scorer.score_records([notes[i]])
        np.testing.assert_allclose(alone.logits[0], together.logits[i], atol=1e-6)
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[i], atol=1e-6)


def test_the_same_vectors_give_the_same_bits_in_any_company(scorer, notes):
    vectors = [scorer.encode(scorer.windows(n)) for n in notes[:6]]
    together, _, weights = scorer.score(vectors)
    for i, v in enumerate(vectors):
        alone, _, own = scorer.score([v])
        for name in ("logits", "p_values", "distances", "typicality"):
            assert (getattr(alone, name)[0] == getattr(together, name)[i]).all()
        assert (own[0] == weights[i]).all() and np.isclose(weights[i].sum(), 1)


def test_a_second_load_gives_the_same_bits(scorer, trained, notes):
    again = Scorer.load(trained)
    first, embeddings, _ = scorer.score_records(notes[:5])
    second, same, _ = again.score_records(notes[:5])
    assert (first.logits == second.logits).all() and (embeddings == same).all()
    assert (first.p_values == second.p_values).all() and (first.distances == second.distances).all()


def test_vectors_stored_as_bytes_serve_as_well(scorer, notes):
    vectors = scorer.encode(scorer.windows(notes[0]))
    stored = np.frombuffer(vectors.tobytes(), "<f4").reshape(vectors.shape)
    assert (scorer.score([stored])[0].logits == scorer.score([vectors])[0].logits).all()


def test_it_tells_the_invented_classes_apart(scorer):
    fresh = cases(60, 77)
    scores, _, _ = scorer.score_records([record.texts for record in fresh])
    truth = np.array([record.label for record in fresh])
    assert scores.probabilities[truth == 1, 1].min() > np.median(scores.probabilities[truth == 0, 1])
    assert (scores.label == truth).mean() > 0.9


def test_odd_text_is_scored_like_any_other(scorer):
    odd = [
        ["😀 e\u0301dema"],
        ["\u0301"],
        ["x" * 5000],
        ["<script>" * 300],
        ["مرحبا 你好"],
        ["a\u202eb", "fiebre"],
    ]
    scores, _, _ = scorer.score_records(odd)
    assert np.isfinite(scores.logits).all() and (scores.p_values > 0).all()


def test_an_empty_note_and_five_hundred_are_scored(scorer):
    """An empty note adds nothing; of 500 the first 16 and the last 48 count (`chunks.select`)."""
    many = [f"nota {i} con fiebre y tos" for i in range(500)]
    assert len(scorer.windows(many)) == 64
    alone, padded, long, kept, empty = scorer.score_records(
        [["fiebre"], ["", "fiebre", " "], many, [*many[:16], *many[-48:]], [""]]
    )[0].logits
    np.testing.assert_allclose(padded, alone, atol=1e-5)
    np.testing.assert_allclose(long, kept, atol=1e-5)
    assert np.isfinite(empty).all()
    with pytest.raises(DataError, match="no notes"):
        scorer.score_records([[]])


def test_a_card_of_another_make_is_told(trained, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(trained, copy)
    card = bundle.read_card(copy)
    for head, error in ({"kind": "deep", "hidden": 16}, ModelError), ({"kind": "spectral"}, BundleError):
        (copy / "card.json").write_text(json.dumps({**card, "head": head}))
        with pytest.raises(error):
            Scorer.load(copy, verify=False)


def test_an_altered_bundle_is_refused(trained, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(trained, copy)
    head = copy / "head.safetensors"
    raw = bytearray(head.read_bytes())
    raw[-1] ^= 1
    head.write_bytes(raw)
    with pytest.raises(BundleError):
        Scorer.load(copy)
    Scorer.load(copy, verify=False)
