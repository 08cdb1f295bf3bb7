"""In which language a text is written, by its function words."""

from __future__ import annotations

import re

WORDS = {
    "es": "de la el que en los del se las por un con una su para al lo como más sin sobre no y o es",
    "en": "the of and to in is was with for on that by an at from her his this were or not has be",
}
FUNCTION_WORDS = {name: frozenset(words.split()) for name, words in WORDS.items()}
ENOUGH = 0.12  # share of function words below which no language is named


def language_of(text: str) -> str:
    """«es», «en» or «other», by the larger share of that language's commonest function words.

    Crude: right on running prose of a few sentences, «other» on lists, tables, single words and other languages. Two
    Romance languages share many of these words, so Portuguese or Catalan may pass for Spanish.
    """
    words = re.findall(r"[^\W\d_]+", text.lower())
    shares = {
        name: sum(word in known for word in words) / max(len(words), 1)
        for name, known in FUNCTION_WORDS.items()
    }
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= ENOUGH else "other"
