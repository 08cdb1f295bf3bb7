"""Cues of a text, counted by hand."""

import numpy as np
import pytest

from mlcore import cues


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("es", "No refiere fiebre ni tos, sin disnea", {"negation": 3}),
        ("es", "Ningún hallazgo; se descarta fractura", {"negation": 2}),
        ("es", "Posible neumonía, podría ser vírica", {"hedging": 2}),
        ("es", "Amoxicilina 500 mg y metamizol", {"drugs": 3, "numbers": 1}),
        ("es", "Sangrado y VÓMITOS; alérgico", {"events": 3}),
        ("en", "Denies pain. It didn't and didn’t, without cause", {"negation": 4}),
        ("en", "May be possibly unclear", {"hedging": 3}),
        ("en", "Given atorvastatin 20.5 mg and insulins", {"drugs": 3, "numbers": 1}),
        ("en", "THE DEVICE FAILED AND THE PATIENT DIED", {"events": 2, "abbreviations": 0}),
        ("en", "The pt has COPD, s/p MI, on 12/3/93 at 10:30", {"abbreviations": 4, "numbers": 2}),
    ],
)
def test_cues_stand_by_a_hundred_words(language, text, found):
    of = cues.text_features([text], language)
    words = round(np.expm1(of["words"]))
    for name, count in found.items():
        assert of[name] * words / 100 == pytest.approx(count), name


def test_length_counts_words_and_notes():
    of = cues.text_features(["uno dos", "tres"], "es")
    assert (of["words"], of["notes"]) == pytest.approx((np.log(4), np.log(3)))
    assert tuple(of) == cues.NAMES


def test_a_text_without_words_has_no_cues():
    of = cues.text_features([""], "en")
    assert of.pop("notes") == pytest.approx(np.log(2))
    assert set(of.values()) == {0.0}


def test_a_word_is_only_a_cue_as_a_whole():
    assert cues.text_features(["nota normal, sinusitis, dosier"], "es")["negation"] == 0
    assert cues.text_features(["mayor notable mgr"], "en")["drugs"] == 0
