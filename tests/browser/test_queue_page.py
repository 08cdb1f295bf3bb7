"""The queue by keyboard alone: find a case by its words, walk the list, save a view, free a case; seen by axe at every width."""

from __future__ import annotations

import re

import pytest

from reviews import adjudication, queue, selectors
from reviews.models import SavedView
from tests.browser.test_pages import violations
from triage.access import Workplace
from triage.models import Membership, Note

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
HOME = "/norte/hiv-suspicion-es/queue/"
PAGES = {
    "search": HOME,
    "filters": f"{HOME}?order=wait&held=nobody&specialty=Nada",
    "mine": f"{HOME}mine/",
    "team": f"{HOME}team/",
}


@pytest.fixture
def work(ward, site, protocol, reader, lead):
    """Somebody holds a case, another has a draft; the lead has a view of their own."""
    place = Workplace(site, protocol, Membership.objects.get(user=reader))
    held = queue.take_next(place, reader)
    drafted = queue.take_next(place, lead)
    adjudication.save_draft(lead, selectors.find_case(place, drafted), "", "a medias", [])
    SavedView.objects.create(
        user=lead, site=site, protocol=protocol, name="Sin lector", query="order=wait&held=nobody"
    )
    return held


def find(page, words: str) -> None:
    page.keyboard.press("/")
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    page.wait_for_selector("#clear-search")


def test_a_case_is_found_opened_and_left_by_keyboard_alone(work, lead, signed_in):
    page = signed_in(lead)
    page.wait_for_selector("#cases")
    find(page, "fiebre")
    assert "fiebre" not in page.url and re.search(r"[?&]q=", page.url)
    marks = page.locator(".passage mark")
    assert marks.count() and {text.lower() for text in marks.all_inner_texts()} == {"fiebre"}
    shown = page.locator(".passage").first.inner_text()
    page.keyboard.press("j"), page.keyboard.press("j"), page.keyboard.press("k")
    case = page.evaluate("document.activeElement.getAttribute('href')")
    assert case == page.locator("#cases tbody th a").first.get_attribute("href")
    page.keyboard.press("Enter")
    page.wait_for_selector("#reading")
    note = shown.strip("… ").replace("\n", " ")
    assert any(note[:40] in " ".join(text.split()) for text in Note.objects.values_list("text", flat=True))
    assert page.locator(".note-text").count()


def focused(page) -> str:
    return page.evaluate("document.activeElement.textContent").lower()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_hits_of_a_search_are_gone_through_by_key_on_the_case(work, lead, signed_in, scheme, tmp_path):
    page = signed_in(lead, scheme=scheme)
    page.wait_for_selector("#cases")
    find(page, "fiebre tos")
    page.keyboard.press("j"), page.keyboard.press("Enter")
    page.wait_for_selector(".hits")
    assert "fiebre" not in page.url
    texts = page.eval_on_selector_all(".note-text", "all => all.map((one) => one.textContent)")
    stored = set(Note.objects.values_list("text", flat=True))
    assert texts and stored.issuperset(texts)
    n = page.locator("[data-hit]").count()
    assert n >= 2
    order = page.eval_on_selector_all("[data-hit]", "all => all.map((one) => one.textContent.toLowerCase())")
    assert {"fiebre", "tos"} <= set(order)
    page.keyboard.press("n")
    assert focused(page) == order[0] and page.inner_text("#hits") == f"1 de {n}"
    page.keyboard.press("n")
    assert focused(page) == order[1]
    page.keyboard.press("Shift+N"), page.keyboard.press("Shift+N")
    assert focused(page) == order[-1] and page.inner_text("#hits") == f"{n} de {n}"
    framed = "e => getComputedStyle(e).boxShadow !== 'none' && Number(getComputedStyle(e).fontWeight) >= 700"
    page.click("[data-view-choice=plain]") if page.locator("[data-view-choice=plain]").count() else None
    assert page.locator("[data-hit]").first.evaluate(framed)
    assert violations(page) == []
    page.screenshot(path=tmp_path / f"hits-{scheme}.png")
    page.click(".hits a")
    page.wait_for_selector("#clear-search")


def test_a_view_is_saved_and_opened_again(work, lead, signed_in):
    page = signed_in(lead)
    page.goto(HOME)
    page.select_option("#order", "wait")
    page.wait_for_url(re.compile(r"\?order=wait$"))
    page.click(".saved-views > details > summary")
    page.fill("#view-name", "Los que más esperan")
    page.keyboard.press("Enter")
    page.wait_for_selector(".saved-views [aria-current=true]")
    assert SavedView.objects.get(name="Los que más esperan").query == "order=wait"
    page.click(".saved-views a:has-text('Sin lector')")
    page.wait_for_url(re.compile(r"held=nobody"))


def test_a_lead_frees_a_case_from_the_list(work, lead, signed_in):
    page = signed_in(lead)
    page.goto(f"{HOME}?held=others")
    page.click(".release button")
    page.wait_for_selector("p.banner")
    assert page.locator("#cases tbody tr").count() == 0


@pytest.mark.parametrize("locale", ["es-ES", "en-GB"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_overflows(work, lead, signed_in, locale, scheme, tmp_path):
    page = signed_in(lead, locale=locale, scheme=scheme)
    for name, address in PAGES.items():
        page.set_viewport_size({"width": 1280, "height": 720})
        page.goto(address)
        page.wait_for_selector("main h1")
        if name == "search":
            find(page, "fiebre tos or diarrea")
        for width in (1280, 320):
            page.set_viewport_size({"width": width, "height": 720})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            assert violations(page) == [], (name, width)
            picture = page.screenshot(
                path=tmp_path / f"{name}-{locale[:2]}-{scheme}-{width}.png", full_page=True
            )
            assert picture.startswith(b"\x89PNG")
