"""Keys, exports, webhooks and the API's page: drawn offline, within the policy, readable on a phone, without axe's findings."""

from __future__ import annotations

import json

import pytest

from reviews import adjudication, exports, queue
from tests.browser.test_pages import HOME, violations
from tests.reviews.conftest import ambiguous, cleaned
from triage import policy
from triage.access import Workplace
from triage.models import Membership

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def labelled(transactional_db, site, protocol, reader, settings, tmp_path):
    settings.EXPORTS_DIR = tmp_path / "exports"
    settings.WEBHOOK_HOSTS = ["127.0.0.1"]
    policy.current(site, protocol)
    place = Workplace(site, protocol, Membership.objects.get(user=reader))
    case = ambiguous(place)
    queue.hold(case.pk, reader)
    adjudication.decide(place, reader, case, cleaned(case, reader))


def test_an_export_is_prepared_and_fetched(labelled, admin, signed_in):
    page = signed_in(admin)
    page.goto(f"{HOME}/export/")
    page.check("input[value=jsonl]")
    page.click("main form button")
    page.wait_for_selector("[data-export-url] progress")
    assert violations(page) == []
    exports.drain()
    page.wait_for_selector("a[download]")
    with page.expect_download() as fetched:
        page.click("a[download]")
    assert json.loads(fetched.value.path().read_text())["label"] == "suspicion"
    assert violations(page) == []


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_fit_and_axe_finds_nothing(labelled, admin, signed_in, width, scheme):
    page = signed_in(admin, width=width, height=800, scheme=scheme)
    for name in ("keys", "webhooks", "export"):
        page.goto(f"{HOME}/{name}/")
        if name == "keys":
            page.fill("[name=name]", "Puente con la historia clínica")
            page.check("[value=read]")
        if name == "webhooks":
            page.fill("[name=url]", "http://127.0.0.1:9/" + "largo/" * 30)
        if name != "export":
            page.click("main form button")
            page.wait_for_selector(".secret")
        assert violations(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_the_description_of_the_api_is_drawn_without_a_network(transactional_db, admin, signed_in, protocol):
    page = signed_in(admin)
    page.goto("/api/v1/docs")
    page.wait_for_selector(".opblock-summary-path")
    assert page.locator(".opblock").count() == 9
    page.click(".opblock-summary-control >> nth=0")
    page.wait_for_selector(".opblock-description-wrapper")
