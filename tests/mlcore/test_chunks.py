import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from transformers import AutoTokenizer

from mlcore import chunks
from mlcore.errors import DataError, ModelError

ODD = "Dolor 😀 torácico; e\u0301dema, CD4 <200 y PCR(-)\r\n\tniña «bien». " * 60


@pytest.fixture(scope="module", params=["roberta", "compact"])
def tokenizer(request, roberta, trained):
    return AutoTokenizer.from_pretrained(roberta if request.param == "roberta" else trained / "encoder")


def test_every_note_is_covered_by_windows_of_its_own(tokenizer):
    notes = [ODD, "Nota breve.", ODD[::-1]]
    found = chunks.windows(notes, tokenizer)
    assert [w.note for w in found] == sorted(w.note for w in found)
    for number, text in enumerate(notes):
        covered = np.zeros(len(text), dtype=bool)
        for w in (w for w in found if w.note == number):
            assert len(w.ids) <= 384 and len(w.ids) == len(w.offsets)
            assert 0 <= w.start < w.end <= len(text)
            for start, end in w.offsets:
                assert start == end or w.start <= start < end <= w.end
                covered[start:end] = True
        assert all(covered[i] for i, c in enumerate(text) if not (c.isspace() or unicodedata.combining(c)))


def test_neighbours_share_exactly_the_overlap(tokenizer):
    text = "fiebre " * 900
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = chunks.windows([text], tokenizer)
    inner = [w.ids[1:-1] for w in found]
    joined = inner[0] + [token for ids in inner[1:] for token in ids[64:]]
    assert joined == whole
    assert all(a[-64:] == b[:64] for a, b in pairwise(inner))
    assert all(len(w.ids) == 384 for w in found[:-1])


def test_a_small_case_by_hand(trained):
    tokenizer = AutoTokenizer.from_pretrained(trained / "encoder")
    found = chunks.windows(["dolor dolor dolor dolor dolor"], tokenizer, size=5, overlap=1)
    assert [(w.start, w.end) for w in found] == [(0, 17), (12, 29)]


def test_the_first_16_and_the_last_48_of_many_are_kept():
    assert chunks.select(64) == list(range(64))
    assert chunks.select(65) == [*range(16), *range(17, 65)]
    assert chunks.select(1000) == [*range(16), *range(952, 1000)]
    assert chunks.select(0) == []


def test_kept_windows_of_a_long_record(tokenizer):
    notes = [f"nota {i} con fiebre" for i in range(100)]
    assert [w.note for w in chunks.kept(notes, tokenizer)] == [*range(16), *range(52, 100)]


def test_the_baseline_s_windows_are_what_fits_one_newest_note_first(trained):
    """Notes of 102, 202, 302 and 82 tokens with their special ones: the last three are 586, the last two 384."""
    tokenizer = AutoTokenizer.from_pretrained(trained / "encoder")
    notes = ["dolor " * n for n in (100, 200, 300, 80)]
    assert [len(w.ids) for w in chunks.windows(notes, tokenizer)] == [102, 202, 302, 82]
    assert [w.note for w in chunks.budget(notes, tokenizer)] == [2, 3]
    assert [w.note for w in chunks.budget([*notes, "dolor"], tokenizer)] == [3, 4], "302 no longer fit"
    long = chunks.budget([notes[0], "dolor " * 900], tokenizer)
    assert [(w.note, w.start, len(w.ids)) for w in long] == [(1, 0, 384)], "the newest from its start, whole"


def test_the_baseline_takes_windows_as_the_others_cut_them(tokenizer):
    notes = [f"nota {i} con fiebre y tos. " * (i % 7 + 1) for i in range(40)]
    found = chunks.budget(notes, tokenizer)
    whole = chunks.windows(notes, tokenizer)
    assert found == whole[-len(found) :] and sum(len(w.ids) for w in found) <= 384
    assert sum(len(w.ids) for w in whole[-len(found) - 1 :]) > 384


def test_a_case_without_notes_is_refused(tokenizer):
    with pytest.raises(DataError, match="has no notes"):
        chunks.kept([], tokenizer)


def test_a_note_without_tokens_gives_no_window_and_a_case_without_tokens_one(trained):
    tokenizer = AutoTokenizer.from_pretrained(trained / "encoder")
    assert [w.note for w in chunks.windows(["\u0301", "fiebre"], tokenizer)] == [1]
    (only,) = chunks.windows(["\u0301", " "], tokenizer)
    assert only.ids == [tokenizer.cls_token_id, tokenizer.sep_token_id] and only.start == only.end == 0


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        chunks.windows(["texto"], Slow())
