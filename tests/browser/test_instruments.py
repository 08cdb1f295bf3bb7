"""The dial's instruments in a real browser: by keyboard from a certificate to the dial, axe-clean, at any width."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils import timezone
from safetensors.numpy import save

from tests.reviews.test_instrument import RATE, held_out, read_out, stream
from triage import policy
from triage.access import Workplace
from triage.models import Calibration, Membership, Policy

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
HOME = "/norte/hiv-suspicion-es"


@pytest.fixture
def desk(transactional_db, site, protocol, admin, reader):
    """A site whose audit sample is read out, and a release that keeps its calibration cases."""
    begun = timezone.now() - timedelta(weeks=10)
    facts = policy.FIRST | {"audit_rate": RATE, "reason": "x", "at": begun, "starts_at": begun}
    Policy.objects.create(site=site, protocol=protocol, version=1, **facts)
    place = Workplace(site, protocol, Membership.objects.get(user=admin))
    rows, truth = stream(place, 900)
    read_out(place, reader, rows, truth, lambda row: row.lot < RATE)
    Calibration.objects.update(held_out=save(held_out()))
    return place


def troubles(page):
    found = Axe().run(page).response["violations"]
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    told = [f"{v['id']}: {[n['target'] for n in v['nodes']][:3]}" for v in found]
    return told + ["scrolls sideways"] * wide


@pytest.mark.parametrize(
    ("locale", "scheme", "width"),
    [("es-ES", "light", 1280), ("en-GB", "dark", 1280), ("es-ES", "dark", 320), ("en-GB", "light", 320)],
)
def test_axe_finds_nothing_and_nothing_overflows(desk, admin, signed_in, locale, scheme, width):
    page = signed_in(admin, locale=locale, scheme=scheme, width=width)
    page.goto(f"{HOME}/dial/instruments/?per_thousand=50")
    for summary in page.query_selector_all("summary"):
        if summary.is_visible() and summary.query_selector("xpath=ancestor::main"):
            summary.click()
    assert troubles(page) == []
    page.goto(f"{HOME}/dial/changes/?alpha=0.1")
    assert page.locator("tbody tr").count() == 30 and troubles(page) == []
    page.goto(f"{HOME}/dial/")
    page.wait_for_selector("#instruments [data-propose]")
    assert troubles(page) == []


def press_until(page, key, there):
    for _ in range(120):
        if page.evaluate(there):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{there} was not reached by {key}")


def test_by_keyboard_from_a_certificate_to_the_dial_and_to_the_cases_it_moves(desk, admin, signed_in):
    page = signed_in(admin, locale="en-GB")
    page.goto(f"{HOME}/dial/")
    page.wait_for_selector("#instruments [data-propose]")
    page.focus("#id_per_thousand")
    page.keyboard.press("Control+a")
    page.keyboard.type("60")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('#instruments').textContent.includes('at most 60 in 1,000')"
    )
    press_until(page, "Tab", "'propose' in document.activeElement.dataset")
    alpha = page.evaluate("Number(document.activeElement.dataset.alpha)")
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => Number(document.querySelector('#id_alpha').value) === {alpha}")

    page.focus("[data-changes]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#changes tbody tr")
    assert page.input_value("#id_tried_alpha") == str(alpha)
    page.focus("#id_tried_alpha")
    page.keyboard.press("Control+a")
    page.keyboard.type("0.15")
    page.keyboard.press("Enter")
    page.wait_for_selector("#changes [data-changes-page]")
    first = page.inner_text("#changes tbody th >> nth=0")
    press_until(page, "Tab", "'changesPage' in document.activeElement.dataset")
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => document.querySelector('#changes tbody th').textContent !== '{first}'")
    assert page.url.endswith("/dial/")
    page.click("#changes tbody a >> nth=0")
    page.wait_for_url(re.compile(r"/queue/\d+/"))


def test_what_is_wrong_is_said_beside_what_was_typed(desk, admin, signed_in):
    page = signed_in(admin, locale="en-GB")
    page.goto(f"{HOME}/dial/")
    page.wait_for_selector("#instruments [data-propose]")
    page.fill("#id_per_thousand", "0")
    page.press("#id_per_thousand", "Enter")
    page.wait_for_selector("#certify-errors")
    assert page.input_value("#id_per_thousand") == "0"
    assert page.evaluate("document.activeElement.id") == "id_per_thousand"
