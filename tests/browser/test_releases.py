"""Releases and background work in a real browser: by keyboard alone, found right by axe, at any width, theme and language."""

from __future__ import annotations

import itertools

import django_rq
import pytest
from axe_playwright_python.sync_playwright import Axe

from reviews.models import ExportRun
from tests import factories
from tests.triage.test_registry_page import CARD, CASES, beside, made_up
from triage import jobs, policy, registry, tasks
from triage.models import Release, Task

HOME = "/norte/hiv-suspicion-es"
PAGES = ("releases/", "releases/compare/?release={challenger}", "background/")


@pytest.fixture
def shelf(transactional_db, site, protocol, admin, monkeypatch):
    """Two releases that have scored twenty cases, a task under way, one that failed, and an export."""
    django_rq.get_queue(jobs.ENCODE).connection.flushdb()
    policy.current(site, protocol)
    active = factories.release(protocol)
    challenger = made_up(protocol, "2026-11-20 9f3c02ab", "9f3c02ab" * 8)
    Release.objects.update(card=CARD)
    for i in range(20):
        now, then = CASES[i % 4]
        row = factories.prediction(
            factories.case(site, protocol), *now[1:], 0.5, urgency=i / 20, label=now[0]
        )
        beside(row, challenger, *then)
    monkeypatch.setattr(registry, "_damaged_as_of", lambda *_: "")
    monkeypatch.setattr(registry, "_damaged", lambda _: "")
    monkeypatch.setitem(tasks.RUNNERS, "train", lambda task, progress: {})
    for kind in ("train", "shadow"):
        tasks.ask(kind, protocol, site=site, by=admin)
    for line in ("Begun, attempt %(attempt)d.", "Scoring in shadow"):
        tasks.say(Task.objects.first(), line, attempt=1)
    Task.objects.filter(kind="shadow").update(
        status="claimed", claim=1, stage="Scoring in shadow", done=3, total=20
    )
    failure = "The class «suspicion» has 3 cases: 40 more reviews are needed."
    Task.objects.filter(kind="train").update(status="failed", failure=failure)
    ExportRun.objects.create(
        site=site, protocol=protocol, by=admin, form="jsonl", rows=9, total=9, status="ready"
    )
    factories.case(site, protocol, status="quarantined", failure="DataError while the case was read")
    return active, challenger


def troubles(page):
    found = [
        f"{v['id']}: {[n['target'] for n in v['nodes']][:3]}" for v in Axe().run(page).response["violations"]
    ]
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return found + ([f"{wide} px too wide"] if wide > 0 else [])


@pytest.mark.parametrize(
    ("locale", "scheme"), list(itertools.product(["es-ES", "en-GB"], ["light", "dark"])), ids=str
)
def test_axe_finds_nothing_at_any_width(shelf, admin, signed_in, locale, scheme):
    page = signed_in(admin, locale=locale, scheme=scheme)
    for path in PAGES:
        page.goto(f"{HOME}/{path.format(challenger=shelf[1].pk)}")
        page.evaluate(
            "document.querySelectorAll('details').forEach((d) => d.closest('.topbar') || (d.open = true))"
        )
        for width in (1280, 320):
            page.set_viewport_size({"width": width, "height": 720})
            assert troubles(page) == [], (path, width)


def test_a_release_is_promoted_by_keyboard_alone(shelf, admin, signed_in):
    challenger = shelf[1]
    page = signed_in(admin)
    page.goto(f"{HOME}/releases/")
    page.locator(f"#act-{challenger.pk} summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("Menos sospechas perdidas.")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.locator(".banner").count() == 1
    assert (
        page.locator(f"#act-{challenger.pk}").count() == 0 and page.locator(".notice progress").count() == 1
    )
    assert tasks.drain_at_once() == 1
    page.wait_for_selector(f"#act-{shelf[0].pk}")  # the page follows: the former one may be made active again
    challenger.refresh_from_db()
    assert challenger.active
    assert "Menos sospechas perdidas." in page.locator("main").inner_text()


def test_the_page_follows_a_task_and_stops_it_by_keyboard(shelf, admin, signed_in):
    page = signed_in(admin)
    page.goto(f"{HOME}/background/")
    row, other = (Task.objects.get(kind=kind) for kind in ("shadow", "train"))
    page.locator(f"#log-task-{other.pk} summary").click()
    Task.objects.filter(pk=row.pk).update(done=15)
    page.wait_for_selector(f"#task-{row.pk} progress[value='15']")
    page.locator(f"#act-task-{row.pk}").focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert Task.objects.get(pk=row.pk).stop_asked
    page.locator(f"#log-task-{other.pk} summary").click()
    Task.objects.filter(pk=row.pk).update(status="ready", claim=None)
    page.wait_for_selector(f"#task-{row.pk} [data-state=done]")
    assert page.locator("details[open] .log").count() == 1  # what was open stays so
