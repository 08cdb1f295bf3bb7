"""What the words of a case do on the page: figures by keyboard, views, jumps, another method; and words by group."""

from __future__ import annotations

from datetime import date

import pytest

from tests import factories
from tests.browser.test_pages import violations
from triage import policy
from triage.models import Baseline, Explanation, Note

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
HOME = "/norte/hiv-suspicion-es"
NOTES = [
    ("Estable. Mantiene clozapina 300 mg. 🩺 Sin ideación autolítica.", date(2020, 9, 3)),
    (
        "Fiebre, pérdida de 6 kg y muguet oral.\r\ne\u0301xito. Trastorno esquizoafectivo. Niega ADVP.",
        date(2021, 5, 12),
    ),
]
FIGURES = [
    (1, "muguet", 0.92, 0.03, "toward"),
    (1, "esquizoafectivo", 0.0, 1.4, None),
    (1, "Niega", -0.5, -0.1, "away"),
    (1, "pérdida", 0.2, 0.1, "toward"),
    (0, "clozapina", -0.1, 0.6, "away"),
    (0, "autolítica", 0.0, 0.3, None),
]


def word(note: int, text: str, margin: float, distance: float | None, sign: str | None) -> dict:
    start = NOTES[note][0].index(text)
    place = {"note": note, "start": start, "end": start + len(text), "importance": 0.1}
    return place | {"margin": margin, "distance": distance, "sign": sign}


PHRASE = word(1, "pérdida de 6 kg", 0.7, 0.2, "toward") | {"words": 3, "beyond": 0.5}
WINDOWS = [
    {"note": 0, "start": 0, "end": 60, "weight": 0.3},
    {"note": 1, "start": 0, "end": 50, "weight": 0.6},
    {"note": 1, "start": 40, "end": 85, "weight": 0.1},
]
NEAREST = [{"label": 0, "given": 1, "distance": 3.1}, {"label": 1, "given": 1, "distance": 4.8}]


@pytest.fixture
def case(transactional_db, site, protocol):
    policy.current(site, protocol)
    return explained(site, protocol)


def explained(site, protocol):
    made = factories.case(site, protocol)
    Note.objects.filter(patient=made.patient).delete()
    for text, day in NOTES:
        factories.note(made.patient, text, day)
    prediction = factories.prediction(made, 0.31, 0.008, 0.004)
    Explanation.objects.create(
        prediction=prediction,
        status="ready",
        words=[word(*figures) for figures in FIGURES],
        phrases=[PHRASE],
        windows=WINDOWS,
        nearest=NEAREST,
    )
    return made


@pytest.fixture
def page(case, admin, signed_in):
    opened = signed_in(admin, locale="en-GB")
    opened.goto(f"{HOME}/queue/{case.pk}/")
    opened.wait_for_selector("#decision[data-state=open]")
    return opened


def focused(page) -> str:
    return page.evaluate("document.activeElement.textContent")


def test_the_keyboard_walks_the_marks_and_each_gives_its_figure(page):
    page.keyboard.press("Tab")
    first = page.locator(".note-text [tabindex='0']")
    first.focus()
    assert focused(page) == "pérdida de 6 kg"
    tip = page.locator("#tip")
    assert tip.is_visible() and first.get_attribute("aria-describedby") == "tip"
    assert "0.50" in tip.text_content()
    page.keyboard.press("ArrowRight")
    assert focused(page) == "muguet" and tip.text_content() == page.locator("#w0").get_attribute("data-tip")
    assert "0.92" in tip.text_content() and "0.03" in tip.text_content()
    assert page.locator("[aria-describedby=tip]").count() == 1
    assert page.locator(".note-text [tabindex='0']").count() == 1
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("ArrowLeft")
    assert focused(page) == "pérdida de 6 kg" and tip.is_visible()


def test_the_pointer_gives_the_figure_and_may_rest_on_it(page):
    page.hover("#w0")
    tip = page.locator("#tip")
    assert tip.is_visible()
    tip.hover()
    page.wait_for_timeout(250)
    assert tip.is_visible()
    page.hover("h1")
    tip.wait_for(state="hidden")


def test_strangeness_is_another_view_with_its_own_marks(page):
    assert page.locator(".legend .only-strange").first.is_hidden()
    page.click("[data-view-choice=strange]")
    assert page.locator(".legend .only-strange").first.is_visible()
    assert page.locator(".legend .not-strange").first.is_hidden()
    bare, odd = (
        page.evaluate("id => getComputedStyle(document.getElementById(id)).textDecorationLine", name)
        for name in ("w0", "w1")
    )
    assert (bare, odd) == ("none", "underline")
    page.locator(".note-text [tabindex='0']").focus()
    assert focused(page) == "esquizoafectivo"
    page.hover("#w0")
    page.wait_for_timeout(200)
    assert "1.40" in page.locator("#tip").text_content()
    page.reload()
    assert page.get_attribute("#reading", "data-view") == "strange"


def test_a_word_of_the_list_jumps_to_its_place(page):
    page.click("[data-view-choice=list]")
    listed = page.locator(".word-list tbody th").all_inner_texts()
    assert listed[0] == "pérdida de 6 kg" and set(listed) == {"pérdida de 6 kg", *(row[1] for row in FIGURES)}
    page.click(".word-list a[href='#w4']")
    assert page.get_attribute("#reading", "data-view") == "words"
    assert focused(page) == "clozapina"
    assert "is-found" in page.get_attribute("#w4", "class")
    page.wait_for_function("() => !document.querySelector('.is-found')")


def test_a_word_of_the_reason_jumps_to_its_place(page):
    page.locator(".reason a[data-jump]").first.click()
    assert focused(page) == "esquizoafectivo" and page.locator("#tip").is_visible()
    assert page.url.endswith("/")


def test_another_method_is_prepared_and_fills_in(page, case):
    page.fill("#comment", "sigo")
    page.click(".method summary")
    page.click("#method [value=gradients]")
    page.locator("#preparing").wait_for()
    row = Explanation.objects.get(method="gradients")
    assert row.status == "pending" and row.priority == Explanation.Priority.READER
    assert page.locator("#w0").text_content() == "muguet"
    Explanation.objects.filter(pk=row.pk).update(
        status="ready", words=[word(1, "Fiebre", 1.0, None, "toward")], windows=WINDOWS
    )
    page.wait_for_function("() => document.querySelector('#w0').textContent === 'Fiebre'")
    assert page.get_attribute("#reading", "data-method") == "gradients"
    assert page.get_attribute("#method [value=gradients]", "aria-current") == "true"
    assert page.locator("#preparing").count() == 0
    assert page.input_value("#comment") == "sigo"
    assert page.locator(".reason a[data-jump]").count() == 0
    page.click("[data-view-choice=strange]")
    assert page.locator("p.only-strange").is_visible()
    page.click(".method summary")
    page.click("#method [value=deletion]")
    page.wait_for_function("() => document.querySelector('#w0').textContent === 'muguet'")


def test_a_method_that_fails_says_so(page):
    page.click(".method summary")
    page.click("#method [value=ablation]")
    page.locator("#preparing").wait_for()
    before = page.text_content("#preparing")
    Explanation.objects.filter(method="ablation").update(status="failed")
    page.wait_for_function("was => document.querySelector('#preparing').textContent !== was", arg=before)
    assert page.locator("#w0").text_content() == "muguet"


@pytest.mark.parametrize("locale", ["es-ES", "en-GB"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view_tip_or_menu(case, admin, signed_in, locale, scheme):
    page = signed_in(admin, locale=locale, scheme=scheme)
    page.goto(f"{HOME}/queue/{case.pk}/")
    page.wait_for_selector("#decision[data-state=open]")
    for view in ("words", "strange", "list", "plain"):
        page.click(f"[data-view-choice={view}]")
        assert violations(page) == [], view
    page.click("[data-view-choice=words]")
    page.locator(".note-text [tabindex='0']").focus()
    assert violations(page) == []
    page.click(".method summary")
    assert violations(page) == []
    page.click("#method [value=mask]")
    page.locator("#preparing").wait_for()
    assert violations(page) == []
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/queue/")
    page.goto(f"{HOME}/queue/{case.pk}/")
    page.locator(".nearest").wait_for()
    assert violations(page) == []


def test_the_text_is_as_stored_in_every_view(page):
    for view in ("words", "strange", "list", "plain"):
        page.click(f"[data-view-choice={view}]")
        shown = page.eval_on_selector_all(".note-text", "all => all.map(one => one.textContent)")
        assert shown == [text for text, _ in reversed(NOTES)]


def test_the_common_case_needs_no_scrolling(page):
    fits = "() => { const notes = document.getElementById('reading'); return notes.scrollHeight <= notes.clientHeight; }"
    assert page.evaluate(fits)
    for view in ("strange", "plain"):
        page.click(f"[data-view-choice={view}]")
        assert page.evaluate(fits), view


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 900), ("light", 390)])
def test_words_by_group_are_drawn_over_calibration(case, lead, signed_in, scheme, width):
    for _ in range(4):  # words stand in five cases, or are not shown
        explained(case.site, case.protocol)
    prediction = case.predictions.get()
    Baseline.objects.create(release=prediction.release, cases=40, words={"muguet": 0.05})
    page = signed_in(lead, locale="en-GB", scheme=scheme, width=width)
    page.goto(f"{HOME}/words/?cohort=atypical")
    page.wait_for_selector("#figure .main-svg")
    bars = page.locator("#figure .bars .point path").count()
    words = page.locator(".words-table tbody tr").count()
    assert words >= 5 and bars == 2 * words
    assert page.locator("#figure .ytick text").count() == words
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
