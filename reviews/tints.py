"""From an explanation's figures to the marks on the page: which words, which direction, which of three strengths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

Word = dict[str, Any]
STEPS = ((2 / 3, 3), (2 / 5, 2), (1 / 5, 1))
STRANGE_MOST = 5
STRANGE_SHARE = 0.1


@dataclass(frozen=True)
class Span:
    """Code points [start, end) of a note and the classes they wear."""

    start: int
    end: int
    css: str


def spans(words: list[Word], note: int) -> list[Span]:
    """The marks of one note (an index into the prediction's notes), in reading order."""
    odd = {_place(word) for word in strangest(words)}
    greatest = max((abs(word["margin"]) for word in words if word["sign"]), default=0.0)
    marked = [
        Span(word["start"], word["end"], _classes(word, greatest, _place(word) in odd))
        for word in words
        if word["note"] == note
    ]
    return sorted((span for span in marked if span.css), key=lambda span: (span.start, span.end))


def strangest(words: list[Word]) -> list[Word]:
    """At most five words, the strangest first, that each carry a tenth of what makes the case strange."""
    positive = [word for word in words if word["distance"] > 0]
    least = STRANGE_SHARE * sum(word["distance"] for word in positive)
    ranked = sorted(positive, key=lambda word: -word["distance"])[:STRANGE_MOST]
    return [word for word in ranked if word["distance"] >= least]


def strength(word: Word, greatest: float) -> int:
    """0 (unmarked) to 3, relative to the strongest word of the case; 0 where no direction could be told."""
    share = abs(word["margin"]) / greatest if word["sign"] and greatest else 0.0
    return next((step for least, step in STEPS if share >= least), 0)


def _classes(word: Word, greatest: float, odd: bool) -> str:
    step = strength(word, greatest)
    names = [f"mark-{word['sign']}-{step}"] * bool(step) + ["mark-strange"] * odd
    return " ".join(["mark", *names]) if names else ""


def _place(word: Word) -> tuple[int, int]:
    return word["note"], word["start"]


def html(text: str, marks: Iterable[Span]) -> SafeString:
    """The text, code point for code point, with its marks. Neighbours that wear the same marks become one."""
    pieces, cursor = [], 0
    for span in _joined(text, marks):
        start, end = max(span.start, cursor), min(span.end, len(text))
        if start >= end:
            continue
        pieces += [
            as_written(text[cursor:start]),
            f'<mark class="{span.css}">',
            as_written(text[start:end]),
            "</mark>",
        ]
        cursor = end
    return mark_safe("".join([*pieces, as_written(text[cursor:])]))


def as_written(text: str) -> SafeString:
    """Escaped for a page. A carriage return goes as a reference: the browser's parser would swallow it."""
    return mark_safe(escape(text).replace("\r", "&#13;"))


def _joined(text: str, marks: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in marks:
        last = joined[-1] if joined else None
        if last and last.css == span.css and not text[last.end : span.start].strip(" "):
            joined[-1] = Span(last.start, max(last.end, span.end), span.css)
        else:
            joined.append(span)
    return joined
