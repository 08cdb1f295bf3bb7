"""What the benchmark times is what it says, on a small scale; how long it takes is for the machine."""

import numpy as np
import pytest
from transformers import AutoTokenizer, RobertaConfig

from mlcore import benchmarks, chunks
from mlcore.distance import MultiCentroid


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"CASES": 600, "WIDTH": 96, "PLANTED": (2, 4), "RANKED": 200}.items():
        monkeypatch.setattr(benchmarks, name, value)


def test_the_calibrate_benchmark_times_ours_beside_others():
    figures = benchmarks.calibrate_figures()
    names = {"distance_fit_s", "distance_fit_full_s", "distance_same_k", "p_values_ms", "p_values_crepes_ms"}
    assert set(figures) == names
    assert figures["distance_same_k"] == 1
    assert all(np.isfinite(value) and value > 0 for value in figures.values())


def test_both_fits_find_the_planted_clusters():
    x, y = benchmarks.planted_embeddings()
    assert (x.shape, np.bincount(y).tolist()) == ((600, 96), [300, 300])
    assert benchmarks.full_fit(x, y) == [2, 4]
    assert [len(centroids) for centroids in MultiCentroid().fit(x, y, 2).centroids_] == [2, 4]


def test_the_encode_benchmark_times_ours_beside_fp32_eager(monkeypatch):
    monkeypatch.setattr(
        benchmarks,
        "RobertaConfig",
        lambda **k: RobertaConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **k
        ),
    )
    monkeypatch.setattr(benchmarks, "PATIENTS", 20)
    monkeypatch.setattr(benchmarks, "WINDOWS", 12)
    figures = benchmarks.encode_figures()
    names = {"windows_per_s", "speedup_vs_fp32_eager", "bf16", "padding_share", "peak_mb_2", "peak_mb_20"}
    assert set(figures) == names and all(np.isfinite(value) for value in figures.values())
    assert 0 < figures["padding_share"] < 1 and figures["peak_mb_20"] > 50


def test_invented_patients_have_the_published_means():
    lengths = [[len(w.ids) for w in case] for case in benchmarks.patients(3000)]
    assert 4.4 < np.mean([len(case) for case in lengths]) < 5.2
    assert 380 < np.mean([sum(case) for case in lengths]) < 440 and max(map(max, lengths)) == 384
    first, again = (next(iter(benchmarks.patients(1))) for _ in range(2))
    assert [w.ids for w in first] == [w.ids for w in again]


def test_padding_share_by_hand(monkeypatch):
    """Two windows of 10 and 6 tokens in one batch: 20 places, 4 of them padding; alone, none."""
    one, two = (benchmarks._window(np.arange(n)) for n in (10, 6))
    assert benchmarks.padding_share([[one], [two]]) == pytest.approx(0.2)
    monkeypatch.setattr(benchmarks, "TOKENS_PER_BATCH", 10)
    assert benchmarks.padding_share([[one], [two]]) == 0


def test_windows_of_a_note_are_cut_as_chunks_cuts_them(roberta):
    tokenizer = AutoTokenizer.from_pretrained(roberta)
    for words in (1, 300, 382, 383, 700, 701, 1500):
        text = " ".join(["fiebre"] * words)
        n = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        found = [len(w.ids) for w in chunks.windows([text], tokenizer)]
        assert benchmarks._cut(n) == found
