"""Named errors. Each message is one sentence a person can act on: what, where, what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def gettext_noop(message: str) -> str:
    """Mark a message for translation by whoever shows it."""
    return message


def told(message: str, figures: Mapping[str, Any], translate: Callable[[str], str] = str) -> str:
    """The sentence that a message and its figures come to, in the language of ``translate``.

    figures: what the message's %(name)s stand for. One that is a list holds parts that are sentences of their own,
    (message, figures) each, told alike and joined by commas.
    """
    known = {
        name: ", ".join(told(said, of, translate) for said, of in value) if isinstance(value, list) else value
        for name, value in figures.items()
    }
    return translate(message) % known if known else translate(message)


class CentinelaError(Exception):
    """Base of every error whose text may be shown to a person as it stands: ``str`` in English, ``told`` in any language.

    message: marked with ``gettext_noop`` where it can reach a page. figures: as of ``told``.
    """

    def __init__(self, message: str = "", **figures: Any) -> None:
        super().__init__(told(message, figures))
        self.message, self.figures = message, figures

    def told(self, translate: Callable[[str], str]) -> str:
        return told(self.message, self.figures, translate)


class DataError(CentinelaError):
    """Records, labels or arrays that cannot be used as given."""


class CalibrationError(CentinelaError):
    """Scores from which no honest calibration can be made."""


class ModelError(CentinelaError):
    """An encoder or head that is missing, unusable or of the wrong shape."""


class BundleError(CentinelaError):
    """A bundle folder that is incomplete, altered or not to be trusted."""
