"""The language of a text."""

import pytest

from mlcore.language import language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Paciente de 45 años que acude a urgencias por fiebre y tos de una semana de evolución.", "es"),
        ("The patient was admitted to the hospital with fever and a cough for one week.", "en"),
        ("Der Patient wurde wegen Fieber und Husten aufgenommen.", "other"),
        ("Hb 12.3 Plt 180 Na 140 K 4.1 Cr 0.9", "other"),
        ("", "other"),
    ],
)
def test_the_language_of_a_text(text, language):
    assert language_of(text) == language
