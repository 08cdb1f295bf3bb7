"""The leads' pages in a real browser: a disagreement judged by keyboard, nothing lost, and no page that axe or a phone minds."""

from __future__ import annotations

import itertools
import re
from datetime import datetime, timedelta

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth import get_user_model
from django.utils import timezone

from mlcore import agreement
from reviews import adjudication, readings
from reviews.forms import AdjudicationForm
from reviews.models import Adjudication, Comment, Draft, Label
from tests import factories
from tests.browser.conftest import PASSWORD
from tests.reviews.conftest import answer
from triage import policy
from triage.access import Workplace
from triage.models import Membership, Prediction

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
HOME = "/norte/hiv-suspicion-es"
TEXTS = (
    "Estable. Mantiene clozapina 300 mg. Sin ideación autolítica.",
    "Neumonía bilateral, buena evolución con amoxicilina. Linfocitos 900/µl.",
    "Varón de [EDAD] años. Fiebre de dos semanas, pérdida de 6 kg y muguet oral 🩺. Niega ADVP.",
)
MARKS = (
    [(2, "Fiebre de dos semanas", "suspicion"), (2, "muguet oral", "suspicion")],
    [(2, "pérdida de 6 kg y muguet", "non_suspicion"), (1, "Neumonía", "")],
)


def reader_named(site, name, first, last):
    user = get_user_model().objects.create_user(name, password=PASSWORD, first_name=first, last_name=last)
    Membership.objects.create(user=user, site=site, role="reader")
    return user


@pytest.fixture
def people(site, reader):
    return [
        reader_named(site, "lferrer", "Lucía", "Ferrer"),
        reader_named(site, "mcid", "Mateo", "Cid"),
        reader_named(site, "aotero", "Ana", "Otero"),
    ]


@pytest.fixture(scope="session")
def libraries():
    """Loaded before a page waits for them."""
    agreement.cohen([0, 1], [0, 1], 2)
    agreement.fleiss([[2, 0], [0, 2]])


@pytest.fixture
def desk(transactional_db, libraries, site, protocol, people):
    """Two disagreements, and a hundred cases read by two over five months."""
    protocol.double_share = 1.0
    protocol.save()
    policy.current(site, protocol)
    policy.turn(
        site, protocol, alpha=0.02, floor=0.01, audit_rate=0.2, reason="Muestra.", author=None, base_version=1
    )
    random = np.random.default_rng(6)
    for i in range(100):
        pair = [people[at] for at in random.permutation(3)[:2]]
        label, kept = int(random.random() < 0.4), random.random() < 0.85
        at = timezone.make_aware(datetime(2026, 1, 12, 9)) + timedelta(days=30 * (i // 20), minutes=i)
        history(site, protocol, pair, label, label if kept else 1 - label, at, random.random())
    for _ in range(2):
        disagreement(site, protocol, people)
    for _ in range(3):
        factories.prediction(factories.case(site, protocol), 0.6, 0.3, 0.5)
    return Workplace(site, protocol, people[0].memberships.get())


def history(site, protocol, pair, label, other, at, lot):
    prediction = factories.prediction(factories.case(site, protocol), 0.6, 0.3, 0.5, label=1, lot=lot)
    mode = "blind" if lot < 0.2 else "assisted"
    mark = [{"note": prediction.note_ids[0], "start": 0, "end": 5, "label": ""}]
    factories.review(prediction, pair[0], label, double=True, at=at, mode=mode, seconds=70, evidence=mark)
    factories.review(
        prediction, pair[1], other, at=at + timedelta(hours=1), mode="blind", seconds=95, evidence=mark
    )
    Prediction.objects.filter(pk=prediction.pk).update(at=at - timedelta(days=1), labelled=True)


def disagreement(site, protocol, people):
    prediction = factories.prediction(factories.case(site, protocol, *TEXTS), 0.6, 0.3, 0.5, label=1)
    for user, label, marks, said in zip(
        people, (1, 0), MARKS, ("Candidiasis y pérdida de peso.", "Neumonía resuelta."), strict=False
    ):
        evidence = [mark(prediction, *one) for one in marks]
        mode, seconds = ("assisted", 82) if label else ("blind", 64)
        facts = {"double": label == 1, "mode": mode, "seconds": seconds, "comment": said}
        factories.review(prediction, user, label, evidence=evidence, **facts)
    readings.settle(prediction)


def mark(prediction, note, words, label):
    start = TEXTS[note].index(words)
    return {"note": prediction.note_ids[note], "start": start, "end": start + len(words), "label": label}


PAGES = {
    "adjudications": "adjudications/",
    "agreement": "agreement/",
    "progress": "progress/?days=30",
    "settings": "settings/reading/",
    "dial": "dial/",
}


def visit(page, name):
    page.goto(f"{HOME}/{PAGES[name]}")
    page.wait_for_selector("#figure .main-svg" if name in ("agreement", "dial") else "main h1")


def first_case(page):
    page.goto(f"{HOME}/adjudications/")
    page.click("tbody a >> nth=0")
    page.wait_for_selector("#judgement[data-state=open]")


def violations(page):
    found = Axe().run(page).response["violations"]
    return [f"{v['id']} ({v['impact']}): {[n['target'] for n in v['nodes']][:3]}" for v in found]


def troubles(page):
    """What axe finds on every page of the leads and on a case to be judged, and which of them scroll sideways."""
    found = {}
    for name in (*PAGES, "a case"):
        if name in PAGES:
            visit(page, name)
        else:
            first_case(page)
        wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        found[name] = violations(page) + ["scrolls sideways"] * wide
    return found


CLEAN = {name: [] for name in (*PAGES, "a case")}


@pytest.mark.parametrize(
    ("locale", "scheme"), list(itertools.product(["es-ES", "en-GB"], ["light", "dark"])), ids=str
)
def test_axe_finds_nothing_and_nothing_overflows(desk, admin, signed_in, locale, scheme):
    page = signed_in(admin, locale=locale, scheme=scheme)
    assert troubles(page) == CLEAN


@pytest.mark.parametrize("width", [320, 820])
def test_narrow_screens_scroll_one_way_only(desk, admin, signed_in, width):
    page = signed_in(admin, width=width, height=800)
    assert troubles(page) == CLEAN


def test_a_disagreement_is_judged_by_keyboard_alone(desk, lead, signed_in):
    page = signed_in(lead)
    page.keyboard.press("Tab")
    for _ in range(30):
        if "adjudications" in (page.evaluate("document.activeElement.href") or ""):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/adjudications/$"))
    page.focus("tbody a >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#judgement[data-state=open]")
    first = page.url

    page.keyboard.press("m")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("e")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("c")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(lambda url: url != first)
    page.wait_for_selector("#judgement[data-state=open]")

    label = Label.objects.get(provenance="adjudicated")
    closed = Adjudication.objects.get(review=label.review)
    assert (label.label, closed.cause) == (1, "criteria")
    [marked] = label.review.evidence
    assert marked["start"] == 0 and marked["note"] in closed.prediction.note_ids
    page.keyboard.press("2")
    page.keyboard.press("c")
    page.keyboard.press(" ")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(re.compile("/adjudications/$"))
    assert not Adjudication.objects.filter(closed_at=None).exists()


def test_the_thread_is_read_and_written_where_the_lead_judges(desk, lead, people, signed_in):
    opened = Adjudication.objects.order_by("pk").first()
    note = opened.prediction.note_ids[2]
    start = TEXTS[2].index("muguet")
    said = {"note_id": note, "start": start, "end": start + len("muguet")}
    Comment.objects.create(case=opened.case, author=people[0], text="Lo veo aquí.", **said)
    page = signed_in(lead)
    first_case(page)
    assert "Lo veo aquí." in page.inner_text("#said")
    page.click("[data-passage]")
    assert page.locator(".mark-said.is-found").count()
    page.check("[name=cause] >> nth=1")
    page.keyboard.press("t")
    page.keyboard.type("De acuerdo con la serología.")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")  # held back: the comment is not sent yet
    page.wait_for_selector("#trouble:not([hidden])")
    assert Label.objects.filter(provenance="adjudicated").count() == 0
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#said > li >> nth=1")
    assert Comment.objects.get(author=lead).text == "De acuerdo con la serología."
    page.wait_for_function("() => document.querySelector('#saved').textContent.includes('borrador guardado')")
    page.reload()
    assert page.is_checked("[name=cause] >> nth=1") and "De acuerdo" in page.inner_text("#said")
    page.click("#said button[formaction]")
    page.wait_for_function("() => document.querySelectorAll('#said > li').length === 1")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and violations(page) == []


def test_both_readers_lines_lie_over_the_text_as_it_was_written(desk, lead, signed_in):
    page = signed_in(lead)
    first_case(page)
    notes = page.query_selector_all(".note-text")
    assert sorted(note.evaluate("node => node.textContent") for note in notes) == sorted(TEXTS)
    both = page.locator(".note-text .by-a.by-b")
    assert both.inner_text() == "muguet"
    lines = both.evaluate("e => [getComputedStyle(e).borderBottomStyle, getComputedStyle(e).borderTopStyle]")
    assert lines == ["solid", "dashed"]
    assert "model-view" not in page.content()


def test_what_was_typed_survives_a_conflict_and_a_reload(desk, lead, admin, signed_in, protocol):
    page = signed_in(lead, locale="en-GB")
    first_case(page)
    page.keyboard.press("1")
    page.fill("#comment", "Lo razono así.")
    page.wait_for_function("() => document.querySelector('#saved').textContent.includes('draft saved')")
    assert Draft.objects.get().comment == "Lo razono así."
    page.reload()
    assert page.input_value("#comment") == "Lo razono así."
    assert page.is_checked("[name=verdict] >> nth=0")

    opened = Adjudication.objects.order_by("pk").first()
    form = AdjudicationForm(answer(opened.case, admin, "non_suspicion", cause="slip"), protocol)
    assert form.is_valid()
    adjudication.adjudicate(desk, admin, opened.pk, form.cleaned_data)
    page.check("[name=cause] >> nth=0")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.input_value("#comment") == "Lo razono así."
    assert Label.objects.filter(provenance="adjudicated").count() == 1
    page.wait_for_function("() => document.querySelector('#saved').textContent.includes('draft saved')")


def test_the_audit_rate_is_told_in_cases_a_week_before_it_is_saved(desk, admin, signed_in, site, protocol):
    page = signed_in(admin, locale="en-GB")
    visit(page, "dial")
    page.fill("#id_audit_rate", "0")
    page.wait_for_function("() => document.querySelector('#audited').textContent.includes('No automatic')")
    page.fill("#id_audit_rate", "0.5")
    page.wait_for_function("() => !document.querySelector('#audited').textContent.includes('No automatic')")
    page.fill("#id_reason", "Más muestra.")
    page.click("#dial .button-filled")
    page.wait_for_selector(".banner")
    turned = policy.current(site, protocol)
    assert (turned.version, turned.audit_rate, turned.alpha) == (3, 0.5, 0.02)


def test_the_bar_holds_what_each_may_open(desk, lead, people, signed_in):
    page = signed_in(people[0])
    page.wait_for_selector(".topbar-nav")
    assert page.locator(".topbar-more a").count() == 1
    assert page.locator(".topbar-more a[href$='/watch/']").count() == 1
    assert "adjudications" not in page.inner_html(".topbar-nav")
    page = signed_in(lead)
    assert "(2)" in page.inner_text(".topbar-nav")
    page.click(".topbar-more summary")
    page.click(".topbar-more a[href$='/settings/reading/']")
    page.wait_for_url(re.compile("/settings/reading/$"))
