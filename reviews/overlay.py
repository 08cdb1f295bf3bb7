"""The passages several readers marked, over one text: each reader a letter and a line of their own, wherever they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from reviews.tints import as_written

LETTERS = "ABCDEFGH"


class Passage(NamedTuple):
    """Code points [start, end) of a note, whose they are (0 is A), and the label they speak for, as it is named."""

    start: int
    end: int
    reader: int
    label: str = ""


def html(text: str, passages: Sequence[Passage]) -> SafeString:
    """The text, code point for code point, cut wherever a passage begins or ends; each piece wears its readers' lines.

    Letters and labels stand in an attribute of the piece a passage begins with, for the style sheet to write.
    """
    inside = [one for one in passages if 0 <= one.start < min(one.end, len(text))]
    cuts = sorted({0, len(text), *(min(at, len(text)) for one in inside for at in (one.start, one.end))})
    pieces = [_piece(text[a:b], a, b, inside) for a, b in pairwise(cuts)]
    return mark_safe("".join(pieces))


def _piece(words: str, start: int, end: int, passages: Sequence[Passage]) -> SafeString:
    over = [one for one in passages if one.start <= start and end <= one.end]
    if not over:
        return as_written(words)
    letters = sorted({LETTERS[one.reader].lower() for one in over})
    css = " ".join(f"by-{letter}" for letter in letters)
    begins = ", ".join(_said(one) for one in sorted(over, key=lambda one: one.reader) if one.start == start)
    said = format_html(' data-by="{}"', begins) if begins else ""
    return format_html('<mark class="by {}"{}>{}</mark>', css, said, as_written(words))


def _said(passage: Passage) -> str:
    letter = LETTERS[passage.reader]
    return f"{letter}: {passage.label}" if passage.label else letter
