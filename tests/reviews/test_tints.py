"""The text on the page is the stored text, code point for code point, whatever is in it and however it is marked."""

import html as parser
import random
import re

import pytest

from reviews import tints
from reviews.tints import Span

TEXTS = [
    "Fiebre de 3 días.  Dos  espacios,\ttabulador y\n\n  sangría. ",
    "\r\nLínea de Windows\r\ny de Mac\rfin",
    "e\u0301 a\u0308\u0323 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "👩🏽‍⚕️ 👨‍👩‍👧‍👦 🇪🇸 ✋🏿 🫀",
    "\u202eotiucseuq\u202c \u2067שלום\u2069 العربية \u200f.",
    "\u200b\u200d\ufeff\u00ad\u2028\u2029\x0b\x0c\x85\xa0",
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "</div></mark><b>&amp;&lt;&#13;&#x0; &nbsp; \" ' ` {{ 7*7 }} {% x %}",
    "<!-- --> ]]> <![CDATA[ </textarea></title><svg/onload=alert(3)>",
]


def shown(page):
    """What a browser shows: tags off, references resolved (they never stand inside a tag of ours)."""
    return parser.unescape(re.sub(r"</?mark(?: class=\"[a-z0-9 -]+\")?>", "", page))


def every_span(text, seed):
    chance = random.Random(seed)
    cuts = sorted(chance.randrange(len(text) + 1) for _ in range(2 * chance.randrange(1, 8)))
    names = ["mark mark-toward-1", "mark mark-away-3", "mark mark-strange"]
    return [Span(a, b, chance.choice(names)) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]


@pytest.mark.parametrize("text", TEXTS)
def test_promise_27_the_shown_text_is_the_stored_text(text):
    for seed in range(40):
        page = tints.html(text, every_span(text, seed))
        assert shown(page) == text
        assert not re.search(r"<(?!/?mark)", page) and "\r" not in page


def test_marks_stand_where_the_code_points_are():
    text = "👩🏽‍⚕️ e\u0301 muguet <b>"
    start = text.index("muguet")
    page = tints.html(text, [Span(start, start + 6, "mark mark-toward-3")])
    assert page == '👩🏽‍⚕️ e\u0301 <mark class="mark mark-toward-3">muguet</mark> &lt;b&gt;'


def test_neighbours_that_look_alike_become_one_mark_and_others_do_not():
    text = "pérdida de 6 kg\nfiebre"
    same = [Span(0, 7, "mark a"), Span(8, 10, "mark a"), Span(13, 15, "mark b"), Span(16, 22, "mark b")]
    assert re.findall(r"<mark class=\"mark .\">(.*?)</mark>", tints.html(text, same), re.S) == [
        "pérdida de",
        "kg",
        "fiebre",
    ]


def test_spans_that_overlap_or_run_over_the_end_lose_no_letter():
    text = "abcdef"
    assert (
        shown(tints.html(text, [Span(1, 4, "mark a"), Span(2, 99, "mark b"), Span(3, 4, "mark c")])) == text
    )


def word(margin=0.0, distance=0.0, sign=None, start=0):
    return {
        "note": 0,
        "start": start,
        "end": start + 1,
        "importance": 1,
        "margin": margin,
        "distance": distance,
        "sign": sign,
    }


def test_strength_has_three_steps_relative_to_the_strongest_word_and_none_without_a_sign():
    steps = [tints.strength(word(m, sign="away"), 3.0) for m in (-3.0, 2.0, -1.9, 1.21, 1.19, 0.61, 0.59)]
    assert steps == [3, 3, 2, 2, 1, 1, 0]
    assert tints.strength(word(9.0, sign=None), 3.0) == 0


def test_strange_words_are_at_most_five_and_each_a_tenth_of_the_whole():
    words = [word(distance=d, start=i) for i, d in enumerate([5, 1, 1, 1, 1, 1, 0.2, -9])]
    assert [w["start"] for w in tints.strangest(words)] == [0]
    even = [word(distance=1, start=i) for i in range(8)]
    assert len(tints.strangest(even)) == 5
    assert tints.strangest([word(distance=-1), word()]) == []


def test_a_word_can_be_strange_and_tinted_at_once():
    [span] = tints.spans([word(2.0, 3.0, "toward")], 0)
    assert span.css == "mark mark-toward-3 mark-strange"
    assert tints.spans([word(2.0, 3.0, "toward")], 1) == []
