"""An explanation as the case page shows it: the marked notes, the list that says the same, the words of the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

from django.utils import formats
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from reviews import tints
from triage.models import Explanation, Note, Protocol

METHODS = {
    "deletion": (gettext_lazy("deletion"), gettext_lazy("each word is taken out in turn")),
    "mask": (gettext_lazy("masking"), gettext_lazy("each word is covered in turn")),
    "gradients": (
        gettext_lazy("integrated gradients"),
        gettext_lazy("all words are uncovered little by little"),
    ),
    "ablation": (
        gettext_lazy("feature ablation"),
        gettext_lazy("each word is covered, computed independently"),
    ),
}


@dataclass(frozen=True)
class Part:
    """A window of a note in the margin. ``size``: its letters; ``share``: of the case's weight, in %;
    ``weight``: against the heaviest window, in %.
    """

    size: int
    share: float
    weight: float


@dataclass(frozen=True)
class ReadNote:
    """One note as the page shows it. ``share``: of the case's weight, in %; None where no window of it was read."""

    note: Note
    html: SafeString
    share: float | None = None
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Told:
    """A word or phrase in figures; ``href`` is its place on the page, empty where it has none."""

    text: SafeString
    href: str
    sign: str
    figure: str
    stranger: str
    beyond: str = ""


def timeline(
    notes: Sequence[Note],
    explanation: Explanation | None,
    towards: str,
    hits: Mapping[int, Sequence[tuple[int, int]]] = MappingProxyType({}),
) -> list[ReadNote]:
    """``notes`` as the prediction read them, marked; newest first, undated ones last. hits: by
    place in ``notes``, what a search found in it."""
    found = tints.marks(explanation.words, explanation.phrases) if explanation else []
    weights, parts = _weights(explanation)
    read = [
        ReadNote(
            note=note,
            html=tints.html(
                note.text,
                [_span(mark, towards) for mark in found if mark.word["note"] == index],
                hits.get(index, ()),
            ),
            share=weights.get(index),
            parts=parts.get(index, []),
        )
        for index, note in enumerate(notes)
    ]
    return sorted(read, key=lambda item: recency(item.note))


def recency(note: Note) -> tuple[int, int]:
    """Sorts notes as a page shows them: the newest first, undated ones last."""
    return (0, -note.written_at.toordinal()) if note.written_at else (1, 0)


def _span(mark: tints.Mark, towards: str) -> tints.Span:
    word = mark.word
    return tints.Span(word["start"], word["end"], mark.css, mark.key, sentence(word, towards))


def _weights(explanation: Explanation | None) -> tuple[dict[int, float], dict[int, list[Part]]]:
    """By note: its share of the whole in %, and its windows from the top, cut where they overlap."""
    windows = sorted(explanation.windows, key=lambda w: (w["note"], w["start"])) if explanation else []
    heaviest = max((window["weight"] for window in windows), default=0.0) or 1.0
    shares: dict[int, float] = {}
    parts: dict[int, list[Part]] = {}
    for window, following in zip_longest(windows, windows[1:]):
        note, end = window["note"], window["end"]
        if following and following["note"] == note:
            end = min(end, following["start"])
        share = 100 * window["weight"]
        shares[note] = shares.get(note, 0.0) + share
        part = Part(max(end - window["start"], 1), share, share / heaviest)
        parts.setdefault(note, []).append(part)
    return shares, parts


def sentence(word: tints.Word, towards: str) -> str:
    """What a mark says: «towards «Suspicion» 0.42; makes the record 0.03 stranger»."""
    said = [direction(word, towards)]
    if "words" in word:
        said = [_("together %(direction)s") % {"direction": said[0]}, _beyond(word)]
    return "; ".join(filter(None, [*said, _strangeness(word)]))


def direction(word: tints.Word, towards: str) -> str:
    if not word["sign"]:
        return _("undetermined")
    words = {"label": towards, "figure": figure(word["margin"])}
    if word["sign"] == "toward":
        return _("towards «%(label)s» %(figure)s") % words
    return _("against «%(label)s» %(figure)s") % words


def _beyond(word: tints.Word) -> str:
    return _("%(figure)s more than its words one by one") % {"figure": figure(word["beyond"])}


def _strangeness(word: tints.Word) -> str:
    if not word["distance"]:
        return ""
    if word["distance"] > 0:
        return _("makes the record %(figure)s stranger") % {"figure": figure(word["distance"])}
    return _("makes the record %(figure)s less strange") % {"figure": figure(word["distance"])}


def figure(value: float) -> str:
    """The size of a change with two decimals; «< 0.01» below that."""
    if abs(value) < 0.005:
        return "<\u00a0" + decimals(0.01, 2)
    return decimals(abs(value), 2)


def decimals(value: float, digits: int) -> str:
    """Rounded, in the page's language: Django's own ``number_format`` cuts off."""
    return formats.number_format(round(value, digits), digits)


def signed(value: float) -> str:
    """Two decimals with their sign, as a table of changes has it."""
    rounded = round(value, 2)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return sign + decimals(abs(value), 2)


def told(explanation: Explanation | None, notes: Sequence[Note], towards: str) -> dict[str, list[Told]]:
    """The list that stands in for the marks: phrases, then words, those that move the case most first."""
    if explanation is None:
        return {"words": [], "phrases": []}
    places = places_of(explanation)
    return {
        name: [
            _told(word, notes, places, towards) for word in sorted(listed, key=lambda w: -abs(w["margin"]))
        ]
        for name, listed in (("words", explanation.words), ("phrases", explanation.phrases))
    }


def _told(word: tints.Word, notes: Sequence[Note], places: list[tints.Mark], towards: str) -> Told:
    return Told(
        text=_text(word, notes),
        href=_href(word, places),
        sign=word["sign"] or "",
        figure=direction(word, towards),
        stranger="–" if word["distance"] is None else signed(word["distance"]),
        beyond=figure(word["beyond"]) if "words" in word else "",
    )


def named(
    words: Sequence[tints.Word], notes: Sequence[Note], shown: Explanation | None
) -> list[dict[str, SafeString | str]]:
    """Words of the reason, each wording once, with the address of its place among the marks that are shown."""
    places = places_of(shown) if shown else []
    found: dict[str, dict[str, SafeString | str]] = {}
    for word in words:
        text = _text(word, notes)
        found.setdefault(text.casefold(), {"text": text, "href": _href(word, places)})
    return list(found.values())


def places_of(explanation: Explanation) -> list[tints.Mark]:
    return tints.marks(explanation.words, explanation.phrases)


def _href(word: tints.Word, places: list[tints.Mark]) -> str:
    return next((f"#{mark.key}" for mark in places if tints.inside(word, [mark.word])), "")


def _text(word: tints.Word, notes: Sequence[Note]) -> SafeString:
    return tints.as_written(notes[word["note"]].text[word["start"] : word["end"]])


def nearest(explanation: Explanation | None, protocol: Protocol) -> list[dict[str, Any]]:
    """The nearest calibration cases of each label, the label with the nearest one first."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for one in sorted(explanation.nearest if explanation else [], key=lambda one: one["distance"]):
        misread = one.get("given") is not None and one["given"] != one["label"]
        cases = rows.setdefault(one["label"], [])
        cases.append({"distance": decimals(one["distance"], 1), "misread": misread})
    return [{"label": protocol.label_names[label], "cases": cases} for label, cases in rows.items()]


def methods(chosen: str, shown: Explanation | None) -> list[dict[str, Any]]:
    """The ways to find the words; ``shown`` is the one on the page, ``chosen`` the one asked for."""
    return [
        {
            "value": value,
            "name": name,
            "how": how,
            "shown": bool(shown) and shown.method == value,
            "chosen": value == chosen,
        }
        for value, (name, how) in METHODS.items()
    ]
