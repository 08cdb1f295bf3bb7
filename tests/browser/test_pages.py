"""Every page in both languages and both themes: axe finds nothing, nothing overflows; and the README's pictures."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
HOME = "/norte/hiv-suspicion-es"
PAGES = {
    "queue": f"{HOME}/queue/",
    "case": f"{HOME}/queue/next/",
    "dial": f"{HOME}/dial/",
    "import": f"{HOME}/intake/",
    "export": f"{HOME}/export/",
}
READY = {"dial": "#figure .main-svg", "case": "#decision[data-state=open]"}


def visit(page, name: str) -> None:
    page.goto(PAGES[name])
    page.wait_for_selector(READY.get(name, "main h1, main h2"))
    page.wait_for_timeout(150)


def violations(page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{v['id']} ({v['impact']}): {[n['target'] for n in v['nodes']][:3]}" for v in found]


@pytest.mark.parametrize("locale", ["es-ES", "en-GB"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_overflows(ward, admin, signed_in, locale, scheme):
    page = signed_in(admin, locale=locale, scheme=scheme)
    for name in PAGES:
        visit(page, name)
        assert violations(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate("document.documentElement.lang")[:2] == locale[:2]


def test_the_sign_in_page_and_a_missing_page(open_page, transactional_db):
    page = open_page()
    for address in ("/login/", "/no-existe/"):
        page.goto(address)
        assert violations(page) == []


@pytest.mark.parametrize("width", [320, 390, 820])
def test_narrow_screens_scroll_one_way_only(ward, admin, signed_in, width):
    page = signed_in(admin, width=width, height=800)
    for name in PAGES:
        visit(page, name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_every_page_says_it_is_a_prototype(ward, admin, signed_in):
    page = signed_in(admin)
    for name in PAGES:
        visit(page, name)
        assert "Prototipo de investigación" in page.inner_text("body"), name


def test_screenshots(ward, admin, signed_in, pytestconfig):
    """`pytest tests/browser -k screenshots --screenshots` draws docs/screenshots anew; otherwise into a temporary folder."""
    folder = ROOT / "docs" / "screenshots" if pytestconfig.getoption("--screenshots") else None
    for locale in ("es-ES", "en-GB"):
        for scheme in ("light", "dark"):
            page = signed_in(admin, locale=locale, scheme=scheme)
            for name in ("case", "dial", "queue"):
                visit(page, name)
                picture = page.screenshot(
                    path=folder / f"{name}-{locale[:2]}-{scheme}.png" if folder else None
                )
                assert picture.startswith(b"\x89PNG")
