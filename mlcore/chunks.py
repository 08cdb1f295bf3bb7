"""A case's notes as overlapping token windows (paper, section 3.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from mlcore.errors import DataError, ModelError

SIZE = 384
OVERLAP = 64
LIMIT = 64
HEAD_KEPT = 16


@dataclass(frozen=True)
class Window:
    """A run of tokens of one note, ready for the encoder.

    note: position of the note in the case. start, end: code points of the note's text that the window covers.
    ids: token ids, special tokens included.
    offsets: (len(ids), 2) code points [start, end) of each token; special tokens are empty ranges.
    """

    note: int
    start: int
    end: int
    ids: list[int]
    offsets: npt.NDArray[np.int32] = field(compare=False, repr=False)


def select(n: int, limit: int = LIMIT) -> list[int]:
    """Positions kept of n windows in order: all, or the first quarter of `limit` and the last of the rest."""
    if n <= limit:
        return list(range(n))
    head = limit * HEAD_KEPT // LIMIT
    return [*range(head), *range(n - (limit - head), n)]


def kept(notes: Sequence[str], tokenizer: PreTrainedTokenizerBase, size: int = SIZE) -> list[Window]:
    """The windows of a case that are encoded: all of `windows`, thinned by `select`."""
    found = windows(notes, tokenizer, size)
    return [found[i] for i in select(len(found))]


def budget(notes: Sequence[str], tokenizer: PreTrainedTokenizerBase, size: int = SIZE) -> list[Window]:
    """The windows of a case that fit one window's size together: the newest note first, each note from its start.

    For the encoder baseline, which sees what a single pass of the encoder could. Windows stay whole, so that one is the
    same whatever else the case holds; the first is always taken, and the first that no longer fits ends it.
    """
    found = windows(notes, tokenizer, size)
    order = sorted(range(len(found)), key=lambda i: (-found[i].note, found[i].start))
    filled = np.cumsum([len(found[i].ids) for i in order])
    fitting = max(1, int((filled <= size).sum()))
    return [found[i] for i in sorted(order[:fitting])]


def windows(
    notes: Sequence[str], tokenizer: PreTrainedTokenizerBase, size: int = SIZE, overlap: int = OVERLAP
) -> list[Window]:
    """All windows of a case, note after note, never across a note's border; apply `select` for the 64 kept.

    size counts the special tokens; neighbours in a note share `overlap` tokens. A note without any token gives no
    window, a case without any token one window of special tokens alone, so that every case can be scored.
    Raises DataError for a case without notes, ModelError when the tokenizer cannot tell where its tokens stand.
    """
    if not notes:
        raise DataError("A case has no notes: give each case at least one, be it empty.")
    if not tokenizer.is_fast:
        raise ModelError(
            "The encoder's tokenizer gives no offsets: save it with a tokenizer.json (a fast tokenizer)."
        )
    size = min(size, tokenizer.model_max_length)
    if size - tokenizer.num_special_tokens_to_add() <= overlap:
        raise ModelError(
            f"The encoder reads {size} tokens at once, too few for windows that share {overlap}: use one that reads more."
        )
    found = [window for i, text in enumerate(notes) for window in _of_note(i, text, tokenizer, size, overlap)]
    return [w for w in found if w.end > w.start] or found[:1]


def _of_note(
    note: int, text: str, tokenizer: PreTrainedTokenizerBase, size: int, overlap: int
) -> list[Window]:
    encoded = tokenizer(
        text,
        truncation=True,
        max_length=size,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return [
        _window(note, ids, np.asarray(offsets, dtype=np.int32).reshape(-1, 2))
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _window(note: int, ids: list[int], offsets: npt.NDArray[np.int32]) -> Window:
    covered = offsets[offsets[:, 1] > offsets[:, 0]]
    start, end = (int(covered[:, 0].min()), int(covered[:, 1].max())) if len(covered) else (0, 0)
    return Window(note, start, end, ids, offsets)
