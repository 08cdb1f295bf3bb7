"""From an explanation's figures to the marks on the page: which words, which direction, how strange, how strong."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

Word = dict[str, Any]
STEPS = ((2 / 3, 3), (2 / 5, 2), (1 / 5, 1))
STRANGE_MOST = 5
STRANGE_SHARE = 0.1
PULLS_MOST = 2


@dataclass(frozen=True)
class Span:
    """Code points [start, end) of a note, the classes they wear, their address on the page and what they say."""

    start: int
    end: int
    css: str
    key: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Mark:
    """A word, or a phrase that takes the place of its words. ``step`` and ``odd``: 0 (none) to 3.

    ``word`` is the word or phrase of the explanation; ``strange``: it is, or holds, one of the strangest words.
    """

    key: str
    word: Word
    step: int
    odd: int
    strange: bool

    @property
    def css(self) -> str:
        names = [f"mark-{self.word['sign']}-{self.step}"] * bool(self.step)
        names += [f"mark-odd-{self.odd}"] * bool(self.odd) + ["mark-strange"] * self.strange
        return " ".join(["mark", *names, *["mark-phrase"] * ("words" in self.word)])


def marks(words: Sequence[Word], phrases: Sequence[Word] = ()) -> list[Mark]:
    """What is marked in a case, phrases first; strengths are relative to the strongest of all."""
    lonely = [(f"w{i}", word) for i, word in enumerate(words) if not inside(word, phrases)]
    listed = [*((f"p{i}", phrase) for i, phrase in enumerate(phrases)), *lonely]
    far, odd = greatest(words, phrases), strangest(words)
    return [
        Mark(
            key,
            word,
            step=strength(word, far[0]),
            odd=_step(word["distance"] or 0.0, far[1]),
            strange=any(_covers(word, one) for one in odd),
        )
        for key, word in listed
    ]


def greatest(words: Iterable[Word], phrases: Iterable[Word] = ()) -> tuple[float, float]:
    """The largest |margin| that has a direction, and the largest distance; 0 where there is none."""
    everything = [*words, *phrases]
    margin = max((abs(word["margin"]) for word in everything if word["sign"]), default=0.0)
    return margin, max((word["distance"] or 0.0 for word in everything), default=0.0)


def strength(word: Word, most: float) -> int:
    """0 (unmarked) to 3, relative to the strongest word of the case; 0 where no direction could be told."""
    return _step(abs(word["margin"]), most) if word["sign"] else 0


def _step(value: float, most: float) -> int:
    share = value / most if most > 0 else 0.0
    return next((step for least, step in STEPS if share >= least), 0)


def strangest(words: Iterable[Word]) -> list[Word]:
    """At most five words, the strangest first, that each carry a tenth of what makes the case strange."""
    positive = [word for word in words if (word["distance"] or 0.0) > 0]
    least = STRANGE_SHARE * sum(word["distance"] for word in positive)
    ranked = sorted(positive, key=lambda word: -word["distance"])[:STRANGE_MOST]
    return [word for word in ranked if word["distance"] >= least]


def pulls(words: Sequence[Word], sign: str) -> list[Word]:
    """The two words that pull hardest in one direction, of those that are marked for it."""
    most, _ = greatest(words)
    ranked = sorted((word for word in words if word["sign"] == sign), key=lambda word: -abs(word["margin"]))
    return [word for word in ranked[:PULLS_MOST] if strength(word, most)]


def inside(word: Word, phrases: Iterable[Word]) -> bool:
    return any(_covers(phrase, word) for phrase in phrases)


def _covers(whole: Word, part: Word) -> bool:
    return whole["note"] == part["note"] and whole["start"] <= part["start"] and part["end"] <= whole["end"]


def html(text: str, spans: Iterable[Span], hits: Sequence[tuple[int, int]] = ()) -> SafeString:
    """The text, code point for code point, with its marks in reading order; of two that overlap the first goes before.

    hits: what a search found, [start, end) in order, marked within the marks; one across a mark's border in two pieces.
    """
    pieces, cursor = [], 0
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        start, end = max(span.start, cursor), min(span.end, len(text))
        if start >= end:
            continue
        pieces += [
            *_found(text, cursor, start, hits),
            _opened(span),
            *_found(text, start, end, hits),
            "</mark>",
        ]
        cursor = end
    return mark_safe("".join([*pieces, *_found(text, cursor, len(text), hits)]))


def _found(text: str, start: int, end: int, hits: Sequence[tuple[int, int]]) -> Iterable[SafeString]:
    """The text from start to end with the hits in it; the piece a hit begins with is the one to go to."""
    for first, last in hits[bisect_right(hits, start, key=lambda hit: hit[1]) :]:
        if first >= end:
            break
        yield as_written(text[start : max(first, start)])
        begins = mark_safe(' data-hit tabindex="-1"') if first >= start else ""
        piece = as_written(text[max(first, start) : min(last, end)])
        yield format_html('<mark class="hit"{}>{}</mark>', begins, piece)
        start = min(last, end)
    yield as_written(text[start:end])


def _opened(span: Span) -> SafeString:
    address = format_html(' id="{}"', span.key) if span.key else ""
    tip = format_html(' tabindex="-1" data-tip="{}"', span.tip) if span.tip else ""
    return format_html('<mark class="{}"{}{}>', span.css, address, tip)


def as_written(text: str) -> SafeString:
    """Escaped for a page. A carriage return goes as a reference: the browser's parser would swallow it."""
    return mark_safe(escape(text).replace("\r", "&#13;"))
