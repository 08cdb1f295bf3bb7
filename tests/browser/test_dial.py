"""The dial's governance in a real browser, by keyboard: proposed, approved, scheduled, held and returned."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.utils import timezone

from tests import factories
from tests.browser.conftest import PASSWORD
from tests.browser.test_instruments import desk  # noqa: F401
from triage import policy
from triage.models import Membership, Policy, Prediction, Proposal

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
DIAL = "/norte/hiv-suspicion-es/dial/"
SHOTS = os.environ.get("CENTINELA_SHOTS", "")


@pytest.fixture
def colleague(site):
    user = get_user_model().objects.create_user("acid", password=PASSWORD, first_name="Ana", last_name="Cid")
    Membership.objects.create(user=user, site=site, role="admin")
    return user


@pytest.fixture
def arriving(ward, site, protocol, reader):
    """The ward's cases came over the last two weeks, and twenty readings were timed."""
    Prediction.objects.update(at=timezone.now() - timedelta(days=14))
    rows = factories.predictions(site, protocol, [0.9] * 30, [0.3] * 10 + [0.001] * 20, [0.5] * 30)
    for i, row in enumerate(rows[:20]):
        factories.review(row, reader, i % 2, seconds=120 + 10 * i)
    cache.clear()
    return ward


def shoot(page, name):
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def fault_free(page):
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()


def type_in(page, field, value):
    page.focus(f"#id_{field}")
    page.keyboard.press("Control+a")
    page.keyboard.type(value)


def enter(page):
    with page.expect_navigation():
        page.keyboard.press("Enter")


def press(page, name):
    page.get_by_role("button", name=name).focus()
    enter(page)


def test_propose_approve_schedule_and_return_by_keyboard(
    arriving, site, protocol, admin, colleague, signed_in
):
    page, other = signed_in(admin), signed_in(colleague)
    page.goto(DIAL)
    page.focus("details.menu-plain > summary")
    page.keyboard.press("Enter")
    page.focus("[name=second_approver]")
    page.keyboard.press("Space")
    type_in(page, "reason", "Cuatro ojos.")
    press(page, re.compile("2"))
    assert policy.current(site, protocol).second_approver

    type_in(page, "alpha", "0,05")
    page.wait_for_function(
        "() => document.querySelector('[data-week=hours] td:nth-of-type(2)').textContent.length > 1"
    )
    type_in(page, "reason", "Menos lectores en agosto.")
    press(page, re.compile("3"))
    assert Proposal.objects.get().alpha == 0.05 and policy.current(site, protocol).version == 2
    shoot(page, "proposed")
    fault_free(page)

    other.goto(f"{DIAL}versions/?version=proposal")
    shoot(other, "approve")
    fault_free(other)
    other.locator("[value=approve]").focus()
    enter(other)
    turned = policy.current(site, protocol)
    assert (turned.version, turned.alpha, turned.approver) == (3, 0.05, colleague)

    Policy.objects.create(
        site=site,
        protocol=protocol,
        version=4,
        reason="Uno basta.",
        author=admin,
        **policy.settings_of(turned) | {"second_approver": False},
    )
    ahead = timezone.localtime() + timedelta(days=3)
    page.goto(DIAL)
    type_in(page, "alpha", "0,1")
    page.focus("details.menu-plain > summary")
    page.keyboard.press("Enter")
    page.fill("#id_starts_at", f"{ahead:%Y-%m-%dT%H:%M}")
    type_in(page, "reason", "Desde el lunes.")
    press(page, re.compile("5"))
    assert policy.current(site, protocol).version == 4 and policy.latest(site, protocol).waits
    assert "5" in page.locator(".banner:not(.banner-warning)").first.text_content()

    page.goto(f"{DIAL}versions/")
    page.locator("a[href='?version=1#compared']").focus()
    enter(page)
    shoot(page, "return")
    fault_free(page)
    page.locator("#compared form button").focus()
    enter(page)
    back = policy.current(site, protocol)
    assert (back.version, back.alpha) == (6, 0.02)


def test_hours_find_an_alpha_and_a_hold_is_seen(arriving, site, protocol, admin, signed_in):
    page = signed_in(admin)
    page.goto(DIAL)
    page.wait_for_selector("#by-hours:not([hidden])")
    hours = page.input_value("#id_hours")
    type_in(page, "hours", "0,01")
    page.wait_for_selector("#id_hours[aria-invalid]")
    assert page.locator("#id_hours-error li").count() == 1
    type_in(page, "hours", hours)
    page.wait_for_function("() => !document.querySelector('#id_hours').hasAttribute('aria-invalid')")
    type_in(page, "hold_reason", "Deriva en urgencias.")
    enter(page)
    assert not policy.current(site, protocol).automate
    assert "Deriva en urgencias." in page.locator(".banner-warning").first.text_content()
    shoot(page, "held-dial")
    fault_free(page)
    page.goto("/norte/hiv-suspicion-es/queue/")
    assert page.locator(".sign-held").count() > 1
    shoot(page, "held-queue")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
def test_the_pages_fit_and_axe_finds_nothing(arriving, site, protocol, admin, signed_in, scheme, width):
    policy.turn(
        site, protocol, alpha=0.05, floor=0.01, audit_rate=0.1, reason="Agosto.", author=admin, base_version=1
    )
    page = signed_in(admin, scheme=scheme, width=width)
    for name, address in (("dial", DIAL), ("versions", f"{DIAL}versions/?version=1")):
        page.goto(address)
        page.wait_for_load_state("networkidle")
        shoot(page, f"{name}-{scheme}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        fault_free(page)


@pytest.mark.parametrize("locale", ["es-ES", "en-GB"])
def test_the_tables_of_the_instruments_fit_their_frames(request, admin, signed_in, locale):
    request.getfixturevalue("desk")
    page = signed_in(admin, locale=locale)
    page.goto(DIAL)
    page.wait_for_selector("#instruments [data-propose]")
    for summary in page.locator("#instruments summary").all():
        summary.click()
    page.locator("#instruments").scroll_into_view_if_needed()
    if SHOTS:
        page.locator("#instruments").screenshot(path=Path(SHOTS) / f"instruments-{locale}.png")
    cut = "all => all.map(e => [e.scrollWidth - e.clientWidth, e.getAttribute('aria-label')]).filter(([by]) => by > 0)"
    assert page.locator("#instruments .table-wrap").evaluate_all(cut) == []
