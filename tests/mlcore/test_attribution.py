import numpy as np
import pytest

from mlcore import attribution
from mlcore.attribution import explain
from mlcore.scorer import Scorer
from tests.mlcore.conftest import COMMON, SUSPECT, cases


@pytest.fixture(scope="module")
def scorer(trained):
    return Scorer.load(trained)


@pytest.fixture(scope="module")
def notes():
    return next(r.texts for r in cases(9, 31, words=500) if r.label == 1 and len(r.notes) > 1)


def margin(scorer, vectors):
    logits = scorer.score([vectors])[0].logits[0]
    return logits[1] - logits[0]


def test_words_are_exact_places_in_the_text_as_written():
    text = "Niña: CD4 <200, e\u0301dema 😀 y T/A 120-80; «PCR(-)» +++ 5,3%\u200b."
    words = [text[a:b] for a, b in attribution.words_of(text)]
    assert words == [
        "Niña",
        "CD4",
        "<",
        "200",
        "e\u0301dema",
        "😀",
        "y",
        "T",
        "A",
        "120",
        "80",
        "PCR",
        "+++",
        "5",
        "3",
        "%",
    ]


def test_the_words_of_a_case_are_words_of_its_notes(scorer, notes):
    found = explain(scorer, notes, top=30)
    assert len(found.words) == 30 and len({(w.note, w.start) for w in found.words}) == 30
    for word in found.words:
        assert (word.start, word.end) in attribution.words_of(notes[word.note])
    importances = [w.importance for w in found.words]
    assert importances == sorted(importances, reverse=True) and 0 < sum(importances) <= 1
    assert np.isclose(sum(weight for *_, weight in found.window_weights), 1)


def test_offsets_hold_across_emoji_and_combining_marks(scorer):
    text = "😀😀 e\u0301dema e\u0301 candidiasis 😀 recurrente"
    found = explain(scorer, ["fiebre alta", text])
    words = {text[w.start : w.end] for w in found.words if w.note == 1}
    assert {"e\u0301dema", "candidiasis", "recurrente"} <= words


def test_importance_by_its_formula(scorer, notes):
    """Attention of a word's tokens times the window's weight, a word in two windows counted once by its mean."""
    windows = scorer.windows(notes)
    weights = scorer.score([scorer.encode(windows)])[2][0]
    attention = scorer.encoder.attention(windows)
    naive = {}
    for n, text in enumerate(notes):
        for start, end in attribution.words_of(text):
            per_window = []
            for w, a, weight in zip(windows, attention, weights, strict=True):
                inside = [i for i, (s, e) in enumerate(w.offsets) if e > s and start <= s < end]
                if w.note == n and inside:
                    per_window.append(a[inside].sum() * weight)
            naive[n, start, end] = np.mean(per_window)
    total = sum(naive.values())
    assert any(w.note == 0 for w in windows[1:]), "the case must have overlapping windows"
    for word in explain(scorer, notes).words:
        assert np.isclose(word.importance, naive[word.note, word.start, word.end] / total)


def test_occlusion_by_the_slow_way(scorer, notes):
    """Each word hidden in every window that holds it, the whole case encoded again."""
    found = explain(scorer, notes, top=12)
    windows = scorer.windows(notes)
    base, scores = margin(scorer, scorer.encode(windows)), scorer.score([scorer.encode(windows)])[0]
    for word in found.words:
        hidden = scorer.windows(notes)
        for w in hidden:
            for i, (s, e) in enumerate(w.offsets):
                if w.note == word.note and e > s and word.start <= s < word.end:
                    w.ids[i] = scorer.encoder.tokenizer.mask_token_id
        vectors = scorer.encode(hidden)
        after = scorer.score([vectors])[0]
        assert np.isclose(word.delta_margin, base - margin(scorer, vectors), atol=1e-5)
        expected = scores.distances[0, found.label] - after.distances[0, found.label]
        assert np.isclose(word.delta_distance, expected, atol=1e-4)


def test_telling_words_speak_for_the_target(scorer):
    text = " ".join([*COMMON[:20], "candidiasis", *COMMON[20:], "herpes"])
    signs = {text[w.start : w.end]: w.sign for w in explain(scorer, [text]).words}
    assert signs["candidiasis"] == 1 and signs["herpes"] == 1
    assert any(word in SUSPECT for word in signs)


def test_below_the_noise_the_sign_is_undetermined(scorer, notes, monkeypatch):
    monkeypatch.setattr(attribution, "LEAST_FLOOR", 1e9)
    found = explain(scorer, notes, top=5)
    assert found.noise_floor == 1e9 and all(w.sign is None for w in found.words)
    monkeypatch.setattr(attribution, "LEAST_FLOOR", 0.0)
    assert all(w.sign in (1, -1) for w in explain(scorer, notes, top=5).words if w.delta_margin)


def test_only_touched_windows_are_encoded_again(scorer, notes, monkeypatch):
    counted = []
    encode = scorer.encoder.encode
    monkeypatch.setattr(scorer.encoder, "encode", lambda w, p="auto": counted.append(len(w)) or encode(w, p))
    found = explain(scorer, notes, top=10)
    windows = scorer.windows(notes)
    held = sum(
        any(w.note == x.note and e > s and x.start <= s < x.end for s, e in w.offsets)
        for x in found.words
        for w in windows
    )
    assert counted == [len(windows), len(windows) + held]


def test_a_case_without_words_has_none(scorer):
    found = explain(scorer, ["... \u0301"])
    assert found.words == [] and len(found.window_weights) == 1
