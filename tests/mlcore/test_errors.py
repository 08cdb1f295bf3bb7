"""A refusal is one sentence in English, and in any language that knows its parts; it survives a process's border."""

from __future__ import annotations

import pickle

from mlcore.errors import CalibrationError, told

SPANISH = {
    "Too few for alpha %(alpha)s: %(wanting)s.": "Muy pocos para alfa %(alpha)s: %(wanting)s.",
    "%(n)d more of %(label)s": "%(n)d más de %(label)s",
}
PARTS = [("%(n)d more of %(label)s", {"n": n, "label": label}) for n, label in ((9, "grave"), (14, "fatal"))]


def spanish(message):
    return SPANISH[message]


def test_an_error_is_told_in_two_languages():
    error = CalibrationError("Too few for alpha %(alpha)s: %(wanting)s.", alpha=0.05, wanting=PARTS)
    assert str(error) == "Too few for alpha 0.05: 9 more of grave, 14 more of fatal."
    assert error.told(spanish) == "Muy pocos para alfa 0.05: 9 más de grave, 14 más de fatal."


def test_a_sentence_without_figures_may_hold_a_percent_sign():
    assert str(CalibrationError("95 % is 100 %d")) == told("95 % is 100 %d", {}) == "95 % is 100 %d"


def test_an_error_of_another_process_keeps_its_parts():
    error = pickle.loads(pickle.dumps(CalibrationError("%(n)d more of %(label)s", n=3, label="fatal")))
    assert isinstance(error, CalibrationError)
    assert (str(error), error.told(spanish)) == ("3 more of fatal", "3 más de fatal")
