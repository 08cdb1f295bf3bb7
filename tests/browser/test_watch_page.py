"""The watch in a real browser: an alarm marked as seen by keyboard, and no page that axe or a phone minds."""

from __future__ import annotations

import itertools
from datetime import timedelta

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils import timezone

from reviews import jobs, watching
from tests.reviews.test_watching import arrive, read
from triage import policy
from triage.access import Workplace
from triage.models import Alarm

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PAGE = "/norte/hiv-suspicion-es/watch/"
DAYS, CHANGED = 80, 62


@pytest.fixture
def watched(transactional_db, site, protocol, reader, monkeypatch):
    """Eleven weeks, an audit, and records that lie farther from what is known since day CHANGED."""
    monkeypatch.setattr(jobs, "wake_deliveries", lambda: None)
    place = Workplace(site, protocol, reader.memberships.get())
    policy.current(site, protocol)
    policy.turn(
        site, protocol, alpha=0.02, floor=0.01, audit_rate=0.1, hold_on_alarm=True, reason="Muestra.", author=None, base_version=1
    )  # fmt: skip
    random, today = np.random.default_rng(21), timezone.localdate()
    for i in range(DAYS):
        rows = arrive(
            place, today - timedelta(days=DAYS - i), 16, random, **({"distance": 0.6} if i >= CHANGED else {})
        )
        read([row for row in rows if row.lot < 0.1], 0, reader)
    watching.look(site, protocol)
    return place


def violations(page):
    found = Axe().run(page).response["violations"]
    return [f"{v['id']} ({v['impact']}): {[n['target'] for n in v['nodes']][:3]}" for v in found]


def opened(page):
    page.goto(PAGE)
    page.wait_for_selector("#figure .main-svg")
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return violations(page) + ["scrolls sideways"] * wide


def test_axe_finds_nothing_and_nothing_overflows(watched, lead, signed_in):
    found = {}
    for locale, scheme in itertools.product(["es-ES", "en-GB"], ["light", "dark"]):
        for width, height in ((1280, 720), (320, 800)):
            page = signed_in(lead, locale=locale, scheme=scheme, width=width, height=height)
            found[locale, scheme, width] = opened(page)
            page.context.close()
    assert not {key: wrong for key, wrong in found.items() if wrong}


def test_an_alarm_is_marked_as_seen_by_keyboard_alone(watched, lead, signed_in):
    page = signed_in(lead)
    page.goto("/norte/hiv-suspicion-es/queue/")
    page.focus(".banner a")
    page.keyboard.press("Enter")
    page.wait_for_selector("#figure .main-svg")
    waiting = Alarm.objects.filter(seen_at=None).count()
    for _ in range(waiting):
        page.focus(".alarm.unseen textarea")
        page.keyboard.type("Planta nueva desde mayo.")
        page.keyboard.press("Tab")
        with page.expect_navigation():
            page.keyboard.press("Enter")
    assert waiting and not Alarm.objects.filter(seen_at=None).exists()
    page.goto("/norte/hiv-suspicion-es/queue/")
    assert not page.locator(".banner").count()
