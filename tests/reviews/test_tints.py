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
    return parser.unescape(re.sub(r"</?mark(?: [a-z-]+=\"[^\"<>]*\")*>", "", page))


def every_span(text, seed):
    chance = random.Random(seed)
    cuts = sorted(chance.randrange(len(text) + 1) for _ in range(2 * chance.randrange(1, 8)))
    names = ["mark mark-toward-1", "mark mark-away-3", "mark mark-strange"]
    tips = ["", 'towards «<b>» 0.42; "&"']
    return [
        Span(a, b, chance.choice(names), f"w{i}", chance.choice(tips))
        for i, (a, b) in enumerate(zip(cuts[::2], cuts[1::2], strict=True))
    ]


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


def test_a_mark_carries_its_place_and_its_figure_escaped():
    page = tints.html("muguet", [Span(0, 6, "mark", "w3", 'towards «"<A>"» 0.42')])
    assert page == (
        '<mark class="mark" id="w3" tabindex="-1" data-tip="towards «&quot;&lt;A&gt;&quot;» 0.42">muguet</mark>'
    )


def test_spans_that_overlap_or_run_over_the_end_lose_no_letter():
    text = "abcdef"
    assert (
        shown(tints.html(text, [Span(1, 4, "mark a"), Span(2, 99, "mark b"), Span(3, 4, "mark c")])) == text
    )


def word(margin=0.0, distance=0.0, sign=None, start=0, end=None, note=0):
    place = {"note": note, "start": start, "end": start + 1 if end is None else end}
    return place | {"importance": 1, "margin": margin, "distance": distance, "sign": sign}


def phrase(margin, beyond, start, end, sign="toward", distance=0.0):
    return word(margin, distance, sign, start, end) | {"words": 2, "beyond": beyond}


def test_strength_has_three_steps_relative_to_the_strongest_word_and_none_without_a_sign():
    steps = [tints.strength(word(m, sign="away"), 3.0) for m in (-3.0, 2.0, -1.9, 1.21, 1.19, 0.61, 0.59)]
    assert steps == [3, 3, 2, 2, 1, 1, 0]
    assert tints.strength(word(9.0, sign=None), 3.0) == 0


def test_strange_words_are_at_most_five_and_each_a_tenth_of_the_whole():
    words = [word(distance=d, start=i) for i, d in enumerate([5, 1, 1, 1, 1, 1, 0.2, -9])]
    assert [w["start"] for w in tints.strangest(words)] == [0]
    even = [word(distance=1, start=i) for i in range(8)]
    assert len(tints.strangest(even)) == 5
    assert tints.strangest([word(distance=-1), word(), word(distance=None)]) == []


def css(words, phrases=()):
    return {mark.key: mark.css for mark in tints.marks(words, phrases)}


def test_a_word_wears_its_direction_and_its_strangeness_at_once():
    assert css([word(2.0, 3.0, "toward"), word(-0.9, 1.3, "away", 5), word(9.0, -1.0, None, 8)]) == {
        "w0": "mark mark-toward-3 mark-odd-3 mark-strange",
        "w1": "mark mark-away-2 mark-odd-2 mark-strange",
        "w2": "mark",
    }


def test_a_method_that_tells_no_distance_marks_directions_only():
    assert css([word(2.0, None, "toward"), word(-0.9, None, "away", 5)]) == {
        "w0": "mark mark-toward-3",
        "w1": "mark mark-away-2",
    }


def test_a_phrase_takes_the_place_of_its_words_and_sets_the_scale():
    words = [
        word(0.5, 4.0, "toward", 0, 7),
        word(0.1, 0.0, "toward", 8, 10),
        word(-0.5, 0.0, "away", 20, 25),
        word(0.5, 0.0, "toward", 0, 7, note=1),
    ]
    found = css(words, [phrase(2.0, 1.4, 0, 10, distance=1.0)])
    assert found == {
        "p0": "mark mark-toward-3 mark-odd-1 mark-strange mark-phrase",
        "w2": "mark mark-away-1",
        "w3": "mark mark-toward-1",
    }


def test_the_two_that_pull_hardest_each_way():
    words = [word(m, sign="toward" if m > 0 else "away", start=i) for i, m in enumerate([1, 3, 2, -0.1, -2])]
    assert [w["start"] for w in tints.pulls(words, "toward")] == [1, 2]
    assert [w["start"] for w in tints.pulls(words, "away")] == [4]
    assert tints.pulls([word(5.0)], "toward") == []


def test_hits_are_marked_within_and_across_the_marks_and_change_no_code_point():
    text = "tos\r\n<y> uno dos tres 🩺 tos"  # the mark covers «uno dos», a hit «dos tres»
    start = text.index("uno")
    hits = [(0, 3), (start + 4, start + 12), (len(text) - 3, len(text))]
    html = tints.html(text, [Span(start, start + 7, "mark")], hits)
    assert html == (
        '<mark class="hit" data-hit tabindex="-1">tos</mark>&#13;\n&lt;y&gt; '
        '<mark class="mark">uno <mark class="hit" data-hit tabindex="-1">dos</mark></mark>'
        '<mark class="hit"> tres</mark> 🩺 <mark class="hit" data-hit tabindex="-1">tos</mark>'
    )
    assert tints.html(text, [], ()) == tints.as_written(text)
