"""The page of calibrations in a real browser: recalibrated and returned by keyboard, and nothing that axe or a phone minds."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.reviews.audit import arrive, read, sampled, turn
from triage import tasks
from triage.models import Calibration, Prediction, Task

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PAGE = "/norte/hiv-suspicion-es/calibrations/"


@pytest.fixture
def ready(transactional_db, site, protocol, reader):
    """Two weeks read out, enough for a calibration, and one that is not."""
    rows, _, _ = sampled(site, protocol, reader)
    late, truth = arrive(site, protocol, 20, seed=4)
    drawn = [i for i, row in enumerate(late) if row.lot < 0.5]
    read([late[i] for i in drawn[1:]], truth[drawn[1:]], reader, turn(site, protocol, 0.5))
    return len(rows) + len(late)


def troubles(page):
    found = Axe().run(page).response["violations"]
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return [f"{v['id']}: {[n['target'] for n in v['nodes']][:3]}" for v in found] + [
        "scrolls sideways"
    ] * wide


def typed(page, reason):
    """With the focus in a form: the reason, and the button after it."""
    page.keyboard.type(reason)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("main .notice")


def test_a_calibration_and_the_way_back_by_keyboard(ready, admin, signed_in):
    page = signed_in(admin)
    page.goto(PAGE)
    assert troubles(page) == []
    page.focus("#reason-recalibrate")
    typed(page, "Los casos de aquí son otros.")
    assert tasks.drain() == 1, Task.objects.get().failure
    own = Calibration.objects.get(site__isnull=False)
    assert Prediction.objects.filter(calibration=own, current=True).count() == ready
    page.reload()
    assert "Los casos de aquí son otros." in page.inner_text("main")
    page.focus("details.act:has(#reason-return) summary")
    page.keyboard.press("Enter")
    assert troubles(page) == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "calibration"
    page.keyboard.press("Tab")
    typed(page, "Vuelta.")
    assert tasks.drain() == 1
    assert not Prediction.objects.filter(calibration=own, current=True).exists()


@pytest.mark.parametrize(
    ("locale", "scheme", "width"), [("en-GB", "dark", 1280), ("es-ES", "light", 320), ("es-ES", "dark", 820)]
)
def test_axe_and_narrow_screens(ready, lead, signed_in, locale, scheme, width):
    page = signed_in(lead, locale=locale, scheme=scheme, width=width)
    page.goto(PAGE)
    assert troubles(page) == []
