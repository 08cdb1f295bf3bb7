"""A reader's day with the keyboard alone: open the queue, read, mark, comment, choose, save, next, undo, skip."""

from __future__ import annotations

import json

import pytest

from reviews.models import Comment, Draft, Label, Review, Skip
from tests import factories
from tests.browser.test_pages import violations
from triage import policy
from triage.models import Explanation

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
HOME = "/norte/hiv-suspicion-es/queue/"
NOTES = ("Fiebre y muguet oral. 🩺 Pérdida de peso.", "Niega ADVP.")


@pytest.fixture
def cases(transactional_db, site, protocol):
    policy.current(site, protocol)
    made = []
    for urgency in (0.9, 0.6, 0.3):
        case = factories.case(site, protocol, *NOTES)
        standing = factories.prediction(case, 0.6, 0.3, 0.5, urgency=urgency)
        Explanation.objects.create(prediction=standing, status="ready")
        made.append(case)
    return made


@pytest.fixture
def at_the_desk(cases, reader, signed_in):
    def sit(**options):
        page = signed_in(reader, **({"locale": "en-GB"} | options))
        page.goto(f"{HOME}{cases[0].pk}/")
        page.wait_for_selector("#decision[data-state=open]")
        return page

    return sit


def tab_to(page, selector: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("one => document.activeElement.matches(one)", selector):
            return
    raise AssertionError(f"Tab never reached {selector}")


def case_on_screen(page, case) -> None:
    page.wait_for_url(f"**/{case.pk}/")
    page.wait_for_selector(f"#decision[data-case='{case.pk}'][data-state=open]")


def test_a_day_with_the_keyboard_alone(cases, reader, signed_in):
    first, second, third = cases
    page = signed_in(reader, locale="en-GB")
    assert page.url.endswith(HOME)
    page.keyboard.press("Enter")
    case_on_screen(page, first)

    page.keyboard.press("m")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("e")
    page.keyboard.press("c")
    page.keyboard.type("Seen by dermatology?")
    page.keyboard.press("Control+Enter")
    page.locator("#said li").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    case_on_screen(page, second)
    stored = Review.objects.get()
    [mark] = stored.evidence
    assert NOTES[0][mark["start"] : mark["end"]] == "muguet oral" and mark["label"] == "suspicion"
    assert Comment.objects.get().text == "Seen by dermatology?"

    page.keyboard.press("z")
    case_on_screen(page, first)
    assert Review.objects.get().withdrawn_at and page.is_checked("[value=suspicion]")
    assert json.loads(page.input_value("[name=evidence]")) == stored.evidence
    page.keyboard.press("2")
    page.keyboard.press("Control+Enter")
    case_on_screen(page, second)

    page.keyboard.press("s")
    case_on_screen(page, third)
    assert Skip.objects.get().case_id == second.pk
    page.keyboard.press("u")
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    case_on_screen(page, second)
    page.keyboard.press("i")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**{HOME}")
    standing = Review.objects.filter(withdrawn_at=None).order_by("pk")
    assert list(standing.values_list("case", "label", "why")) == [
        (first.pk, 0, ""),
        (third.pk, None, "conflicting"),
        (second.pk, None, "information"),
    ]
    assert not Draft.objects.exists()


def test_everything_is_reached_by_tab_where_single_keys_are_off(at_the_desk, cases):
    page = at_the_desk()
    page.evaluate("localStorage.setItem('keys', 'off')")
    page.reload()
    tab_to(page, "#caret")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "caret"
    assert page.locator("#evidence q").all_text_contents() == ["ADVP"]
    tab_to(page, "#thread > summary")
    page.keyboard.press("Enter")
    tab_to(page, "#say-text")
    page.keyboard.type("Hello")
    tab_to(page, "button[form=say]")
    page.keyboard.press("Enter")
    page.locator("#said li").wait_for()
    page.reload()
    tab_to(page, "[name=verdict]")
    page.keyboard.press("Space")
    tab_to(page, "#save")
    page.keyboard.press("Enter")
    case_on_screen(page, cases[1])
    assert Label.objects.get().label == 1
    tab_to(page, "#recent > summary")
    page.keyboard.press("Enter")
    tab_to(page, ".recent button")
    page.keyboard.press("Enter")
    case_on_screen(page, cases[0])
    assert Review.objects.get().withdrawn_at
    tab_to(page, "button[form=skip]")
    page.keyboard.press("Enter")
    case_on_screen(page, cases[1])


def test_the_tour_is_offered_once_blocks_nothing_and_comes_again_from_help(at_the_desk, cases):
    page = at_the_desk(tour=True)
    tour = page.locator("#tour")
    assert tour.is_visible() and page.evaluate("document.activeElement.dataset.tour") == "next"
    titles = []
    for _ in range(5):
        titles.append(page.text_content("#tour-title"))
        assert page.locator(".tour-target").count() == 1
        assert violations(page) == []
        page.keyboard.press("Enter")
    assert len(set(titles)) == 5 and tour.is_hidden() and page.locator(".tour-target").count() == 0
    page.reload()
    page.wait_for_selector("#decision[data-state=open]")
    assert tour.is_hidden()
    page.keyboard.press("?")
    page.click("[data-open-tour]")
    assert tour.is_visible()
    page.keyboard.press("1")
    assert page.is_checked("[value=suspicion]")
    page.keyboard.press("Escape")
    assert tour.is_hidden()
    page.evaluate("localStorage.removeItem('tour')")
    page.keyboard.press("Control+Enter")
    case_on_screen(page, cases[1])
    assert tour.is_hidden()  # no longer the first case


def fill_the_desk(page) -> None:
    """Marks that overlap, a comment on a passage, and a reason asked for."""
    page.keyboard.press("m")
    page.keyboard.press("ArrowDown")
    for extend in (3, 2):
        for _ in range(extend):
            page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("e")
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("c")
    page.keyboard.type("¿Lo vio Dermatología?")
    page.keyboard.press("Control+Enter")
    page.locator("#said li").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    saved = "() => document.querySelector('#saved').textContent === document.querySelector('#decision').dataset.textSaved"
    page.wait_for_function(saved)


@pytest.mark.parametrize("locale", ["es-ES", "en-GB"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_state_of_the_desk(at_the_desk, cases, locale, scheme):
    page = at_the_desk(locale=locale, scheme=scheme)
    fill_the_desk(page)
    assert violations(page) == []
    page.keyboard.press("m")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    case_on_screen(page, cases[1])
    page.click("#recent summary")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert violations(page) == []
    page.goto(f"{HOME}{cases[0].pk}/")
    page.wait_for_selector("#decision[data-state=mine]")
    assert violations(page) == []


@pytest.mark.parametrize("width", [320, 390, 820, 900])
def test_a_full_desk_scrolls_one_way_only(at_the_desk, cases, width):
    page = at_the_desk(width=width, height=800, locale="es-ES")
    fill_the_desk(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    case_on_screen(page, cases[1])
    page.click("#recent summary")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_column_of_the_decision_fits_one_screen(at_the_desk):
    page = at_the_desk()
    fits = "() => { const one = document.getElementById('decision'); return one.scrollHeight <= one.clientHeight; }"
    assert page.evaluate(fits)
