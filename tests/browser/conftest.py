"""A real chromium on a live server. Every page is watched: no foreign request, no policy violation, no script error."""

from __future__ import annotations

import json
from io import BytesIO
from urllib.parse import urlsplit

import pytest

from triage import explaining, intake, policy, scoring, synthetic

PASSWORD = "una-clave-larga-y-rara"
TOUR_SEEN = "try { localStorage.setItem('tour', 'seen') } catch {}"  # about:blank has no storage


@pytest.fixture
def open_page(chromium, live_server):
    """Open a context at 1280×720; what it must never do is checked when the test ends. tour: whether it was not seen yet."""
    contexts, wrong = [], []

    def watch(request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != urlsplit(live_server.url).netloc:
            wrong.append(f"foreign request: {request.url}")

    def make(
        locale: str = "es-ES",
        scheme: str = "light",
        width: int = 1280,
        height: int = 720,
        tour: bool = False,
        **options,
    ):
        context = chromium.new_context(
            locale=locale,
            color_scheme=scheme,
            viewport={"width": width, "height": height},
            base_url=live_server.url,
            **options,
        )
        context.set_default_timeout(15_000)
        if not tour:
            context.add_init_script(TOUR_SEEN)
        page = context.new_page()
        page.on("request", watch)
        page.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
        page.on("console", lambda message: _console(message, wrong))
        contexts.append(context)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not wrong


def _console(message, wrong: list[str]) -> None:
    if message.type == "error" and "status of 4" not in message.text:
        wrong.append(f"console: {message.text}")


@pytest.fixture
def signed_in(open_page):
    def enter(user, **options):
        page = open_page(**options)
        page.goto("/login/")
        page.fill("[name=username]", user.username)
        page.fill("[name=password]", PASSWORD)
        page.click("main button")
        page.wait_for_url(lambda url: "/login/" not in url)
        return page

    return enter


@pytest.fixture
def ward(transactional_db, site, protocol, release):
    """Thirty invented patients, scored and explained by the small release, under a strict dial."""
    patients = synthetic.generate(30, 5, foreign=0.2, ambiguous=0.3)
    lines = (json.dumps(synthetic.as_record(p, labelled=False), ensure_ascii=False) for p in patients)
    intake.receive(site, protocol, BytesIO("\n".join(lines).encode()), "planta.jsonl", by=None)
    scoring.drain()
    explaining.drain()
    return policy.current(site, protocol)
