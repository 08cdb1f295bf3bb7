"""What the case page says of an explanation: sentences from figures, the list, the margin, the phrases."""

from datetime import date
from types import SimpleNamespace

import pytest
from django.utils import translation

from reviews import explained, wording
from tests.reviews.test_tints import phrase, word

TEXT = "Fiebre y pérdida de 6 kg. Muguet, muguet."


@pytest.fixture(autouse=True)
def english():
    with translation.override("en"):
        yield


def note(text=TEXT, written_at=None):
    return SimpleNamespace(text=text, written_at=written_at and date.fromisoformat(written_at))


def explanation(**facts):
    empty = {"words": [], "phrases": [], "windows": [], "nearest": [], "method": "deletion"}
    return SimpleNamespace(**(empty | facts))


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (word(0.42, 0.03, "toward"), "towards «Suspicion» 0.42; makes the record 0.03 stranger"),
        (word(-0.42, -0.03, "away"), "against «Suspicion» 0.42; makes the record 0.03 less strange"),
        (word(0.00002, 1.0, None), "undetermined; makes the record 1.00 stranger"),
        (word(0.0004, 0.0, "toward"), "towards «Suspicion» <\u00a00.01"),
        (word(0.42, None, "toward"), "towards «Suspicion» 0.42"),
        (
            phrase(0.8, 0.25, 0, 9),
            "together towards «Suspicion» 0.80; 0.25 more than its words one by one",
        ),
    ],
)
def test_a_mark_says_its_figures_in_a_sentence(one, said):
    assert explained.sentence(one, "Suspicion") == said


def test_figures_follow_the_language():
    with translation.override("es"):
        assert explained.figure(-0.427) == "0,43"


@pytest.mark.parametrize(
    ("value", "said"), [(0.427, "+0.43"), (-0.427, "−0.43"), (0.004, "0.00"), (-0.004, "0.00"), (0.0, "0.00")]
)
def test_changes_are_rounded_and_carry_their_sign(value, said):
    assert explained.signed(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0996, "0.10"), (0.0994, "0.099"), (0.0196, "0.020"), (0.0004, "<\u00a00.001"), (1.0, "1.00")],
)
def test_p_values_are_rounded_not_cut(value, said):
    assert wording.figure(value) == said


def test_the_timeline_is_the_stored_text_with_its_marks_newest_first():
    found = explanation(words=[word(1.0, 0.0, "toward", 26, 32)], windows=[])
    old, new = note(written_at="2020-01-01"), note("Peso estable.", "2021-01-01")
    read = explained.timeline([old, note("sin fecha"), new], found, "Suspicion")
    assert [item.note.text for item in read] == ["Peso estable.", TEXT, "sin fecha"]
    assert '<mark class="mark mark-toward-3" id="w0" tabindex="-1" data-tip="towards' in read[1].html
    assert "<mark" not in read[0].html + read[2].html


def test_a_note_weighs_what_its_windows_weigh_and_each_is_as_long_as_its_own_text():
    windows = [
        {"note": 0, "start": 0, "end": 300, "weight": 0.1},
        {"note": 0, "start": 200, "end": 500, "weight": 0.4},
        {"note": 2, "start": 0, "end": 20, "weight": 0.5},
    ]
    read = explained.timeline([note(), note(), note()], explanation(windows=windows), "S")
    assert [item.share and round(item.share) for item in read] == [50, None, 50]
    assert [[(p.size, round(p.share), round(p.weight)) for p in item.parts] for item in read] == [
        [(200, 10, 20), (300, 40, 80)],
        [],
        [(20, 50, 100)],
    ]


def test_the_list_says_what_the_marks_say_and_points_to_them():
    words = [
        word(0.2, 0.0, "toward", 9, 16),
        word(0.00001, 0.5, None, 0, 6),
        word(-0.9, -0.1, "away", 26, 32),
    ]
    found = explanation(words=words, phrases=[phrase(0.8, 0.6, 9, 24)])
    listed = explained.told(found, [note()], "Suspicion")
    assert [(one.text, one.href, one.figure, one.stranger) for one in listed["words"]] == [
        ("Muguet", "#w2", "against «Suspicion» 0.90", "−0.10"),
        ("pérdida", "#p0", "towards «Suspicion» 0.20", "0.00"),
        ("Fiebre", "#w1", "undetermined", "+0.50"),
    ]
    [joined] = listed["phrases"]
    assert (joined.text, joined.href) == ("pérdida de 6 kg", "#p0")
    assert joined.beyond == "0.60"
    shown = explained.timeline([note()], found, "Suspicion")[0].html
    assert all(f'id="{one.href[1:]}"' in shown for one in (*listed["words"], joined))


def test_words_of_the_reason_are_named_once_whatever_their_case():
    words = [word(start=26, end=32), word(start=34, end=40), word(start=0, end=6)]
    named = explained.named(words, [note()], explanation(words=words))
    assert named == [{"text": "Muguet", "href": "#w0"}, {"text": "Fiebre", "href": "#w2"}]


def test_a_word_the_shown_method_did_not_find_is_named_without_a_place():
    other = explanation(words=[word(start=0, end=6)], method="gradients")
    [named] = explained.named([word(start=26, end=32)], [note()], other)
    assert named == {"text": "Muguet", "href": ""}


def test_nearest_cases_by_label_the_nearest_label_first():
    protocol = SimpleNamespace(label_names=["No suspicion", "Suspicion"])
    near = [
        {"label": 0, "given": 0, "distance": 3.44},
        {"label": 1, "given": 0, "distance": 3.12},
        {"label": 1, "given": None, "distance": 4.0},
    ]
    assert explained.nearest(explanation(nearest=near), protocol) == [
        {
            "label": "Suspicion",
            "cases": [{"distance": "3.1", "misread": True}, {"distance": "4.0", "misread": False}],
        },
        {"label": "No suspicion", "cases": [{"distance": "3.4", "misread": False}]},
    ]
    assert explained.nearest(None, protocol) == []


def test_one_method_is_shown_while_another_is_chosen():
    listed = explained.methods("mask", explanation(method="deletion"))
    assert [(one["value"], one["shown"], one["chosen"]) for one in listed] == [
        ("deletion", True, False),
        ("mask", False, True),
        ("gradients", False, False),
        ("ablation", False, False),
    ]
