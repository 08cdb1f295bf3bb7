"""Which words moved a case, and which way (paper, appendix C.1, stages 1 to 3)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from mlcore.chunks import Window
from mlcore.scorer import Floats, Scorer, Vectors

WORD = re.compile(
    r"(?:\w[\u0300-\u036f\u20d0-\u20ff]*)+|[^\w\s.,;:()\[\]{}¿?¡!\"'«»…/\\_\u200b-\u200f\u2010-\u2027-]+"
)
NOISE_FACTOR = 10.0
LEAST_FLOOR = 1e-5

Span = tuple[int, int, int]


@dataclass(frozen=True)
class Word:
    """One word of a case.

    note, start, end: code points [start, end) of the note's text. importance: its share of all words' attention.
    delta_margin: how much the margin of the target falls when the word is hidden; above 0 the word speaks for it.
    delta_distance: how much nearer the case comes to the centroids of its label when the word is hidden.
    sign: 1 for the target, -1 against it, None where delta_margin stays within the noise («undetermined»).
    """

    note: int
    start: int
    end: int
    importance: float
    delta_margin: float
    delta_distance: float
    sign: int | None


@dataclass(frozen=True)
class Explanation:
    """The words that count most in a case, most important first.

    window_weights: (note, start, end, weight) of each window that was encoded. label: the label the case has.
    noise_floor: the largest |delta_margin| that arithmetic alone can make.
    """

    words: list[Word]
    noise_floor: float
    window_weights: list[tuple[int, int, int, float]]
    label: int


def explain(scorer: Scorer, notes: Sequence[str], top: int = 50) -> Explanation:
    """The `top` words of a case by attention, each hidden in turn to see which way it works.

    A word's occurrences in all windows that overlap on it are hidden together, one place in the text at a time.
    Hidden words are re-encoded in fp32, and only the windows that hold them.
    """
    windows = scorer.windows(notes)
    vectors = scorer.encoder.encode(windows, "fp32")
    scores, _, weights = scorer.score([vectors])
    label = int(scores.label[0])
    spans = {note: words_of(notes[note]) for note in {w.note for w in windows}}
    held = [_tokens_of_words(spans[w.note], w) for w in windows]
    importance = _importance(scorer, windows, held, weights[0])
    chosen = sorted(importance, key=lambda span: (-importance[span], span))[:top]
    margins, distances = _outcome(
        scorer, [vectors, *_occluded(scorer, windows, vectors, held, chosen)], label
    )
    floor = max(NOISE_FACTOR * abs(float(margins[1] - margins[0])), LEAST_FLOOR)
    words = [
        _word(span, importance[span], float(margins[0] - margin), float(distances[0] - distance), floor)
        for span, margin, distance in zip(chosen, margins[2:], distances[2:], strict=True)
    ]
    places = [(w.note, w.start, w.end, float(weight)) for w, weight in zip(windows, weights[0], strict=True)]
    return Explanation(words, floor, places, label)


def _word(span: Span, importance: float, margin: float, distance: float, floor: float) -> Word:
    sign = None if abs(margin) <= floor else int(np.sign(margin))
    return Word(*span, importance, margin, distance, sign)


def words_of(text: str) -> list[tuple[int, int]]:
    """[start, end) of each word: letters and digits with their combining marks, or signs that carry meaning (+ < %)."""
    return [match.span() for match in WORD.finditer(text)]


def _tokens_of_words(spans: Sequence[tuple[int, int]], window: Window) -> dict[Span, list[int]]:
    """Positions in the window of the tokens of each word it holds; a token belongs to the word where it begins."""
    starts = np.array([start for start, _ in spans])
    found: dict[Span, list[int]] = defaultdict(list)
    for position, (start, end) in enumerate(window.offsets.tolist()):
        i = int(np.searchsorted(starts, start, side="right")) - 1
        if end > start and i >= 0 and start < spans[i][1]:
            found[(window.note, *spans[i])].append(position)
    return found


def _importance(
    scorer: Scorer, windows: Sequence[Window], held: Sequence[dict[Span, list[int]]], weights: Floats
) -> dict[Span, float]:
    """Attention of each word times its window's weight, as a share of all words; overlaps count once, by their mean."""
    seen: dict[Span, list[float]] = defaultdict(list)
    for attention, words, weight in zip(scorer.encoder.attention(windows), held, weights, strict=True):
        for span, positions in words.items():
            seen[span].append(float(attention[positions].sum() * weight))
    means = {span: float(np.mean(values)) for span, values in seen.items()}
    total = sum(means.values())
    return {span: value / total for span, value in means.items()}


def _occluded(
    scorer: Scorer,
    windows: Sequence[Window],
    vectors: Vectors,
    held: Sequence[dict[Span, list[int]]],
    chosen: Sequence[Span],
) -> list[Vectors]:
    """Window vectors of the case as it stands, re-encoded, then with each chosen word hidden in turn."""
    touched = [(k, i) for k, span in enumerate(chosen) for i, words in enumerate(held) if span in words]
    variants = [_hidden(windows[i], held[i][chosen[k]], scorer.encoder.mask_id) for k, i in touched]
    encoded = scorer.encoder.encode([*windows, *variants], "fp32")
    cases = [vectors.copy() for _ in chosen]
    for (k, i), vector in zip(touched, encoded[len(windows) :], strict=True):
        cases[k][i] = vector
    return [encoded[: len(windows)], *cases]


def _hidden(window: Window, positions: Sequence[int], mask_id: int) -> Window:
    ids = list(window.ids)
    for position in positions:
        ids[position] = mask_id
    return replace(window, ids=ids)


def _outcome(scorer: Scorer, cases: Sequence[Vectors], label: int) -> tuple[Floats, Floats]:
    """Margin of the targets over the other labels, and distance to the centroids of `label`, of each case."""
    scores, _, _ = scorer.score(cases)
    target = np.isin(scorer.card["labels"], scorer.card["targets"])
    margin = logsumexp(scores.logits[:, target], axis=1) - logsumexp(scores.logits[:, ~target], axis=1)
    return margin, scores.distances[:, label]
