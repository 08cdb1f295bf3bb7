"""The case page in a real browser: the text it shows, evidence by code point, and a session that ends."""

import json
import time

import pytest

from reviews.models import Draft, Label, Review
from tests.reviews.conftest import ambiguous, url
from tests.reviews.test_tints import TEXTS
from triage.models import Explanation
from triage.sessions import STARTED

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def page(chromium, live_server, reader, client):
    client.force_login(reader)
    session = client.session
    session[STARTED] = time.time()
    session.save()
    context = chromium.new_context(
        base_url=live_server.url, locale="en", viewport={"width": 1280, "height": 720}
    )
    context.add_cookies([{"name": "sessionid", "value": session.session_key, "url": live_server.url}])
    opened = context.new_page()
    opened.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    yield opened
    context.close()


def word(note, start, end, sign="toward"):
    return {
        "note": note,
        "start": start,
        "end": end,
        "importance": 1,
        "margin": 1.0,
        "distance": 0.5,
        "sign": sign,
    }


def test_promise_27_every_code_point_reaches_the_screen(place, page):
    case = ambiguous(place, *TEXTS)
    Explanation.objects.update(
        words=[word(i, len(text) // 3, 2 * len(text) // 3) for i, text in enumerate(TEXTS)]
    )
    page.goto(url("queue-case", place, case.pk))
    shown = page.eval_on_selector_all(".note-text", "all => all.map(one => one.textContent)")
    assert shown == TEXTS[::-1]
    assert page.locator(".note-text .mark").count() >= len(TEXTS)


def test_promise_27_evidence_counts_code_points_across_emoji_and_marks(place, page, reader):
    text = "👩🏽‍⚕️ e\u0301 muguet y 🇪🇸 fiebre."
    case = ambiguous(place, text)
    Explanation.objects.update(words=[word(0, text.index("mug"), text.index("mug") + 3)])
    page.goto(url("queue-case", place, case.pk))
    page.evaluate(
        """() => {
            const note = document.querySelector(".note-text");
            const range = document.createRange();
            const last = note.lastChild;
            range.setStart(note.querySelector("mark").firstChild, 0);
            range.setEnd(last, last.data.indexOf(" fiebre"));
            getSelection().addRange(range);
        }"""
    )
    page.keyboard.press("e")
    page.keyboard.press("1")
    assert page.locator("#evidence q").text_content() == "muguet y 🇪🇸"
    assert page.locator(".note-text").text_content() == text
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/queue/")
    start = text.index("muguet")
    end = text.index(" fiebre")
    assert Review.objects.get().evidence == [{"note": case.notes()[0].pk, "start": start, "end": end}]
    assert Label.objects.get().label == 1


def test_promise_17_a_session_that_ends_loses_nothing(place, page, reader, client):
    case = ambiguous(place)
    page.goto(url("queue-case", place, case.pk))
    client.logout()
    page.fill("#comment", "pedir serología")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.keyboard.press("Control+Enter")
    page.locator("#trouble a[target=_blank]").wait_for()
    assert page.input_value("#comment") == "pedir serología" and not Draft.objects.exists()
    session_back_in_another_tab(page, client, reader)
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/queue/")
    assert Review.objects.get().comment == "pedir serología" and Label.objects.get().label == 0


def session_back_in_another_tab(page, client, reader):
    client.force_login(reader)
    session = client.session
    session[STARTED] = time.time()
    session.save()
    page.context.add_cookies([{"name": "sessionid", "value": session.session_key, "url": page.url}])


def test_a_draft_is_kept_while_typing_and_comes_back(place, page, reader):
    case = ambiguous(place)
    page.goto(url("queue-case", place, case.pk))
    page.fill("#comment", "a medias")
    page.locator("#saved", has_text="draft saved").wait_for()
    assert Draft.objects.get().comment == "a medias"
    page.goto("about:blank")
    page.goto(url("queue-case", place, case.pk))
    assert page.input_value("#comment") == "a medias"


def test_words_appear_by_themselves_and_leave_what_is_typed(place, page):
    case = ambiguous(place, "Fiebre y muguet.")
    Explanation.objects.update(status="pending")
    page.goto(url("queue-case", place, case.pk))
    page.fill("#comment", "sigo")
    Explanation.objects.update(status="ready", words=[word(0, 9, 15)])
    page.locator(".note-text .mark-toward-3").wait_for(timeout=10_000)
    assert page.input_value("#comment") == "sigo"
    assert json.loads(page.input_value("[name=evidence]")) == []
