"""The frame of every page: the bar on one line where there is room, the menu by role, and a hold told above the queue."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from triage import policy
from triage.models import Membership

pytestmark = pytest.mark.django_db(transaction=True)
HOME = "/norte/hiv-suspicion-es/"
SHOTS = os.environ.get("CENTINELA_SHOTS", "")
LOOKS = [("es-ES", "light"), ("es-ES", "dark"), ("en-GB", "light"), ("en-GB", "dark")]


@pytest.fixture
def everywhere(ward, admin, other_site):
    """An admin of two sites, whose bar is the longest."""
    admin.first_name = "Administración de ambos"
    admin.save()
    Membership.objects.create(user=admin, site=other_site, role="admin")
    policy.current(other_site, ward.protocol)
    return admin


def shoot(page, name, look) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}-{look[0][:2]}-{look[1]}.png"))


@pytest.mark.parametrize("look", LOOKS, ids=["-".join(look) for look in LOOKS])
def test_the_bar_of_an_admin_is_one_line_and_a_hold_is_told(signed_in, everywhere, ward, look):
    policy.hold(ward.site, ward.protocol, reason="Desde el lunes llegan notas con otra cabecera.")
    page = signed_in(everywhere, locale=look[0], scheme=look[1])
    page.goto(f"{HOME}queue/")
    assert page.locator("#hold").count() == 1
    assert page.locator(".topbar").bounding_box()["height"] < 60
    shoot(page, "hold-queue", look)
    page.locator(".topbar-more > summary").click()
    assert page.locator(".topbar-more a[href$='/webhooks/']").is_visible()
    shoot(page, "menu", look)
    page.goto(f"{HOME}queue/?reason=held")
    page.locator("#cases tbody a").first.click()
    page.locator("#reading").wait_for()
    assert page.locator(".topbar").bounding_box()["height"] < 60
    shoot(page, "hold-case", look)


def test_a_search_too_long_stays_in_its_field_until_it_is_shortened(signed_in, everywhere):
    page = signed_in(everywhere)
    page.goto(f"{HOME}queue/")
    page.fill("#search", "fiebre " * 40)
    page.locator(".search button.button").first.click()
    assert page.locator("#search").input_value() == "fiebre " * 40
    assert page.locator("#search").evaluate("field => field.validity.patternMismatch")
