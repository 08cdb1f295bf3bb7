import numpy as np
import pytest

from mlcore import attribution, faithfulness
from mlcore.errors import DataError
from mlcore.scorer import Scorer
from tests.mlcore.conftest import cases
from tests.mlcore.test_attribution import margin, without


@pytest.fixture(scope="module")
def scorer(trained):
    return Scorer.load(trained)


def test_areas_by_the_slow_way(scorer, monkeypatch):
    """Trapezoids over the words hidden, then over the words shown, one case at a time."""
    monkeypatch.setattr(faithfulness, "STEPS", (0, 1, 4, 9))
    monkeypatch.setattr(faithfulness, "TOP", 9)
    notes = cases(3, 17)[0].texts
    case = attribution.read(scorer, notes)
    found = faithfulness.areas(scorer, case, np.random.default_rng(1))
    side = 1 if case.label == 1 else -1
    for o, order in enumerate(faithfulness.orders(scorer, case, np.random.default_rng(1))):
        assert len(order) == 9
        for c, hidden in enumerate(
            (lambda k, s: s[:k], lambda k, s: [w for w in case.places if w not in s[:k]])
        ):
            heights = []
            for k in (0, 1, 4, 9):
                vectors = scorer.encode(without(scorer, notes, hidden(k, order), "deletion"))
                heights.append(side * margin(scorer, vectors))
            widths = [1, 3, 5]
            area = sum(w * (a + b) / 2 for w, a, b in zip(widths, heights, heights[1:], strict=False)) / 9
            assert found[c, o] == pytest.approx(area, abs=1e-4)


def test_the_first_word_by_occlusion_is_the_one_that_carries_the_label(scorer):
    case = attribution.read(scorer, cases(3, 17)[0].texts)
    by_occlusion, by_attention, at_random = faithfulness.orders(scorer, case, np.random.default_rng(1))
    assert set(by_occlusion) == set(by_attention) and len(set(at_random)) == len(at_random)
    falls = attribution.occlude(scorer, case, [(span,) for span in by_attention], attribution.DEFAULT).margin
    side = 1 if case.label == 1 else -1
    assert by_occlusion[0] == by_attention[int(np.argmax(side * falls))]


def test_occlusion_beats_attention_and_chance_on_planted_words(scorer):
    records = [r.texts for r in cases(24, 23)]
    found = faithfulness.faithfulness(scorer, records, 12, 7)
    for other in ("attention", "random"):
        lower, higher = (found[f"{curve}.occlusion - {other}"] for curve in ("deletion", "insertion"))
        assert lower.high < 0 < higher.low and lower.n == 12
    difference = found["deletion.occlusion"].value - found["deletion.random"].value
    assert found["deletion.occlusion - random"].value == pytest.approx(difference)


def test_records_of_few_words_are_passed_over(scorer):
    records = [["fiebre alta"], cases(2, 3)[0].texts]
    assert faithfulness.faithfulness(scorer, records, 5, 1)["deletion.random"].n == 1
    with pytest.raises(DataError, match="10 words"):
        faithfulness.faithfulness(scorer, [["fiebre"]], 5, 1)
