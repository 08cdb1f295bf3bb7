"""The promises of the look that need no browser: contrast, one file of colours, no inline script, all Spanish."""

import gettext
import re
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOKENS = (ROOT / "static/css/tokens.css").read_text()
CATALOGUE = ROOT / "triage/locale/es/LC_MESSAGES/django.po"
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
PAIRS = re.compile(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)")
THEMES = [{name: pair[i] for name, *pair in PAIRS.findall(TOKENS.split("@media")[0])} for i in (0, 1)]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_itself():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


TINTS = [f"{way}-{step}" for way in ("toward", "away") for step in (1, 2, 3)]
TEXT = [
    *product(["ink", "muted", "accent", "danger"], ["surface", "background"]),
    *product(["ink"], [*TINTS, "danger-surface", "warning-surface"]),
    ("on-accent", "accent"),
    ("on-accent", "accent-hover"),
    ("danger", "danger-surface"),
]
SHAPES = [*product(["control", "automatic", "amber", "toward", "away", "accent"], ["surface", "background"])]


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark"])
def test_text_stands_out_from_what_it_is_written_on(theme):
    faint = {(a, b): contrast(theme[a], theme[b]) for a, b in TEXT}
    assert {pair: ratio for pair, ratio in faint.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark"])
def test_borders_signs_and_lines_stand_out(theme):
    faint = {(a, b): contrast(theme[a], theme[b]) for a, b in SHAPES}
    assert {pair: ratio for pair, ratio in faint.items() if ratio < 3} == {}


def test_colours_are_written_in_the_tokens_only():
    styled = [*(ROOT / "static/css").glob("*.css"), *(ROOT / "static/js").glob("*.js"), *TEMPLATES]
    literal = re.compile(r"(?<![\w&/'\"-])#[0-9a-f]{3,8}\b|\b(?:rgb|hsl|oklch)a?\(\s*\d", re.IGNORECASE)
    found = {path.name: literal.findall(path.read_text()) for path in styled if path.name != "tokens.css"}
    assert {name: colours for name, colours in found.items() if colours} == {}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_inline_script_and_nothing_from_elsewhere(path):
    text = path.read_text()
    assert not re.findall(r"<script(?![^>]*\bsrc=)", text)
    assert not re.findall(r"\son\w+=", text)
    assert not re.findall(r"(?:src|href|action)=[\"'](?:https?:)?//", text)


def test_every_message_of_the_catalogue_is_in_spanish_and_compiled():
    entries = re.findall(
        r"^(?:msgctxt \"(.*)\"\n)?msgid \"(.+)\"\n(?:msgid_plural .*\n)?(.*)$", CATALOGUE.read_text(), re.M
    )
    assert len(entries) > 300
    assert [msgid for _, msgid, msgstr in entries if msgstr.endswith(' ""')] == []
    with CATALOGUE.with_suffix(".mo").open("rb") as compiled:
        known = {
            key[0] if isinstance(key, tuple) else key for key in gettext.GNUTranslations(compiled)._catalog
        }
    plain = [(context, msgid) for context, msgid, _ in entries if "\\" not in msgid]
    assert [msgid for c, msgid in plain if (f"{c}\x04{msgid}" if c else msgid) not in known] == []


def test_every_message_of_the_templates_is_in_the_catalogue():
    translated = re.compile(r"{%\s*translate\s+(?:\"([^\"]+)\"|'([^']+)')")
    known = CATALOGUE.read_text().replace('\\"', '"').replace("%%", "%")
    for path in TEMPLATES:
        for pair in translated.findall(path.read_text()):
            message = pair[0] or pair[1]
            assert f'msgid "{message}"' in known, f"{path.name}: {message}"
