"""The benchmark of explanations, on a shape small enough for a test: what it compares is right; how fast is its own matter."""

import pytest

from mlcore import attribution, chunks
from triage import attribution_benchmarks as benchmarks

TINY = {
    "vocab_size": 8200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def scorer():
    return benchmarks._scorer(TINY)


@pytest.mark.parametrize("n", [126, 409])
def test_records_are_of_as_many_words(n):
    text = benchmarks._text(benchmarks._words(), n)
    assert len(attribution.words_of(text)) == n


def test_records_are_of_one_two_and_twenty_windows(scorer):
    words = benchmarks._words()
    texts = [benchmarks._text(words, 126), benchmarks._text(words, 409), benchmarks._windows(scorer, words)]
    assert [len(chunks.windows([t], scorer.encoder.tokenizer)) for t in texts] == [1, 2, 20]
    assert len(scorer.windows([texts[2]])) == 20


def test_the_naive_twin_encodes_every_window_alone_for_every_word(scorer, monkeypatch):
    text = benchmarks._text(benchmarks._words(), 409)
    _, found, case = benchmarks._ours(scorer, text)
    counted = []
    encode = scorer.encoder.encode
    monkeypatch.setattr(
        scorer.encoder, "encode", lambda w, p="auto": counted.append((len(w), p)) or encode(w, p)
    )
    seconds, falls = benchmarks._naive(scorer, case, found.words[:3])
    assert counted == [(1, "fp32")] * (2 * 4) and seconds > 0
    for word, fall in falls:
        assert word.margin == pytest.approx(fall, abs=1e-4)


def test_figures_of_a_tiny_shape(monkeypatch):
    monkeypatch.setattr(benchmarks, "WINDOWS", 3)
    figures = benchmarks.explain_figures(TINY)
    assert figures["sign_agreement"] == 1.0 and figures["words_compared"] == 18
    assert figures["largest_difference"] < 1e-4
    for name in ("126", "409", "20_windows"):
        assert figures[f"speedup_{name}"] > figures[f"speedup_{name}_same_words"] > 0
        assert figures[f"seconds_{name}"] > 0
