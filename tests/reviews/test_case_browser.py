"""The case page in a real browser: the text it shows, evidence by code point, and a session that ends."""

import json
import time

import pytest

from reviews.models import Comment, Draft, Label, Lease, Review
from tests.browser.conftest import TOUR_SEEN
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
    context.add_init_script(TOUR_SEEN)
    opened = context.new_page()
    opened.on("pageerror", lambda error: pytest.fail(f"script error: {error}"))
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
    place = {"start": text.index("muguet"), "end": text.index(" fiebre"), "label": "suspicion"}
    assert Review.objects.get().evidence == [{"note": case.notes()[0].pk} | place]
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


# Evidence by mouse and by keyboard


def select(page, first, last):
    """Select from the middle of one word to the middle of another, as a careless mouse does."""
    page.evaluate(
        """([first, last]) => {
            const note = document.querySelector(".note-text");
            const place = (unit) => {
                const walker = document.createTreeWalker(note, NodeFilter.SHOW_TEXT);
                let at = 0;
                while (walker.nextNode()) {
                    if (unit <= at + walker.currentNode.length) return [walker.currentNode, unit - at];
                    at += walker.currentNode.length;
                }
            };
            const text = note.textContent;
            const range = document.createRange();
            range.setStart(...place(text.indexOf(first) + 1));
            range.setEnd(...place(text.indexOf(last) + 2));
            getSelection().removeAllRanges();
            getSelection().addRange(range);
        }""",
        [first, last],
    )


def marked(page):
    return json.loads(page.input_value("[name=evidence]"))


def words_of(text, marks):
    return [text[mark["start"] : mark["end"]] for mark in marks]


NOTE = "Varo\u0301n 👩🏽‍⚕️ con pe\u0301rdida de peso, muguet oral y fiebre."


def test_whole_words_snap_and_marks_may_overlap(place, page):
    case = ambiguous(place, NOTE)
    page.goto(url("queue-case", place, case.pk))
    for first, last in (("pe\u0301rdida", "muguet"), ("muguet", "fiebre"), ("Varo", "con")):
        select(page, first, last)
        page.keyboard.press("e")
    found = ["pe\u0301rdida de peso, muguet", "muguet oral y fiebre", "Varo\u0301n 👩🏽‍⚕️ con"]
    assert words_of(NOTE, marked(page)) == found
    assert page.locator("#evidence q").all_text_contents() == found
    assert page.locator(".note-text").text_content() == NOTE
    lanes = page.eval_on_selector_all(
        ".mark-evidence[data-number]", "all => all.map(one => getComputedStyle(one).textUnderlineOffset)"
    )
    assert len(set(lanes)) == 2  # the two that overlap lie one under the other
    page.locator(".evidence-remove").nth(1).click()
    assert words_of(NOTE, marked(page)) == [found[0], found[2]]
    assert page.locator(".note-text").text_content() == NOTE


def test_a_selection_past_the_note_counts_within_it(place, page):
    """A triple click ends in the next block."""
    case = ambiguous(place, "Muguet oral.", "Peso estable.")
    page.goto(url("queue-case", place, case.pk))
    page.locator(".note-text").first.click(click_count=3)
    page.keyboard.press("e")
    assert page.locator("#evidence q").all_text_contents() == ["Peso estable."]


def test_each_mark_has_a_label_that_can_be_changed(place, page):
    case = ambiguous(place, NOTE)
    page.goto(url("queue-case", place, case.pk))
    select(page, "muguet", "muguet")
    page.keyboard.press("e")
    assert [mark["label"] for mark in marked(page)] == [""]
    page.keyboard.press("1")
    assert [mark["label"] for mark in marked(page)] == ["suspicion"]
    page.keyboard.press("2")
    select(page, "fiebre", "fiebre")
    page.keyboard.press("e")
    assert [mark["label"] for mark in marked(page)] == ["suspicion", "non_suspicion"]
    page.locator("#evidence select").nth(1).select_option("suspicion")
    assert [mark["label"] for mark in marked(page)] == ["suspicion", "suspicion"]
    page.locator("#saved", has_text="draft saved").wait_for()
    assert Draft.objects.get().evidence == marked(page)
    page.locator(".evidence-words").nth(1).click()
    assert page.locator(".is-found").text_content() == "fiebre"


def test_words_are_marked_by_keyboard_alone(place, page):
    case = ambiguous(place, NOTE, "Niega ADVP.")
    page.goto(url("queue-case", place, case.pk))
    page.keyboard.press("m")
    selection = "() => getSelection().toString()"
    assert page.evaluate(selection) == "Niega"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(selection) == "Varo\u0301n"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(selection) == "pe\u0301rdida"
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate(selection) == "pe\u0301rdida de peso"
    assert page.text_content("#told") == "pe\u0301rdida de peso"
    page.keyboard.press("Enter")
    assert words_of(NOTE, marked(page)) == ["pe\u0301rdida de peso"]
    assert "Marked" in page.text_content("#told")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("e")
    assert words_of(NOTE, marked(page))[1:] == ["muguet"]
    page.keyboard.press("Escape")
    assert page.evaluate(selection) == "" and page.locator("[role=application]").count() == 0


# Reasons, comments, going on


def test_undecided_asks_why_and_the_numbers_answer(place, page):
    case = ambiguous(place)
    page.goto(url("queue-case", place, case.pk))
    assert page.locator("#reasons").is_hidden()
    page.keyboard.press("u")
    assert page.locator("#reasons").is_visible()
    page.keyboard.press("Control+Enter")
    said = page.eval_on_selector("[name=why]", "one => one.validationMessage")
    assert said == "Say why you cannot decide, then save." and not Review.objects.exists()
    page.keyboard.press("2")
    assert page.is_checked("[name=why][value=insufficient]") and page.is_checked("[value=undecided]")
    page.keyboard.press("1")
    assert page.is_checked("[value=suspicion]") and page.locator("#reasons").is_hidden()
    page.keyboard.press("u")
    page.keyboard.press("1")
    page.locator("#saved", has_text="draft saved").wait_for()
    assert (Draft.objects.get().choice, Draft.objects.get().why) == ("undecided", "conflicting")
    page.reload()
    assert page.is_checked("[name=why][value=conflicting]")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/queue/")
    assert (Review.objects.get().label, Review.objects.get().why) == (None, "conflicting")


def test_a_comment_on_a_passage_is_kept_until_it_is_sent(place, page, reader, client):
    case = ambiguous(place, NOTE)
    page.goto(url("queue-case", place, case.pk))
    select(page, "muguet", "oral")
    page.keyboard.press("c")
    page.keyboard.type("¿Quién lo vio? 🩺")
    client.logout()
    page.keyboard.press("Control+Enter")
    page.locator("#trouble a[target=_blank]").wait_for()
    assert page.input_value("#say-text") == "¿Quién lo vio? 🩺" and not Comment.objects.exists()
    session_back_in_another_tab(page, client, reader)
    page.keyboard.press("Control+Enter")
    page.locator("#said li").wait_for()
    said = Comment.objects.get()
    assert (said.text, NOTE[said.start : said.end]) == ("¿Quién lo vio? 🩺", "muguet oral")
    assert page.input_value("#say-text") == "" and page.locator("#trouble").is_hidden()
    assert page.locator(".mark-said").text_content() == "muguet oral"
    page.locator("#said button", has_text="take back").click()
    page.locator("#said li").wait_for(state="detached")
    assert page.locator(".mark-said").count() == 0


def test_an_unsent_comment_keeps_the_page(place, page):
    case, _other = ambiguous(place), ambiguous(place)
    page.goto(url("queue-case", place, case.pk))
    page.keyboard.press("c")
    page.keyboard.type("espera")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.locator("#trouble", has_text="not sent yet").wait_for()
    assert str(case.pk) in page.url and page.input_value("#say-text") == "espera"


def test_the_next_case_comes_without_a_page_load(place, page):
    first, second = ambiguous(place, "Uno."), ambiguous(place, "Dos.")
    page.goto(url("queue-case", place, first.pk))
    key = page.input_value("[name=client_key]")
    page.evaluate("() => (window.stayed = true)")
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**/{second.pk}/")
    page.wait_for_function("() => document.activeElement.matches('.case-head h1')")
    assert page.evaluate("window.stayed") and page.input_value("[name=client_key]") != key
    assert page.locator(".note-text").text_content() == "Dos."
    assert page.title().startswith(second.patient.pseudonym)
    assert second.patient.pseudonym in page.text_content("#told")
    assert list(Lease.objects.values_list("case", flat=True)) == [second.pk]
    page.keyboard.press("2")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/queue/")
    assert list(Review.objects.order_by("pk").values_list("case", "label")) == [(first.pk, 1), (second.pk, 0)]
    assert all(review.seconds < 30 for review in Review.objects.all())


def test_the_back_button_shows_the_case_before(place, page):
    first, second = ambiguous(place, "Uno."), ambiguous(place, "Dos.")
    page.goto(url("queue-case", place, first.pk))
    page.keyboard.press("j")
    page.wait_for_url(f"**/{second.pk}/")
    page.locator(".note-text", has_text="Dos.").wait_for()
    page.go_back()
    page.locator(".note-text", has_text="Uno.").wait_for()
    assert page.url.endswith(f"/{first.pk}/")


def test_timers_of_a_case_that_was_left_are_still(place, page):
    first, second = ambiguous(place, "Uno."), ambiguous(place, "Dos.")
    page.clock.install()
    page.goto(url("queue-case", place, first.pk))
    page.keyboard.press("j")
    page.locator(".note-text", has_text="Dos.").wait_for()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.mouse.move(5, 5)
    page.mouse.move(50, 50)
    with page.expect_response("**/hold/"):
        page.clock.run_for(61_000)
    assert [one for one in asked if f"/{first.pk}/" in one] == []
    assert len([one for one in asked if f"/{second.pk}/hold/" in one]) == 1


def test_skip_goes_on_and_says_when_nothing_else_waits(place, page):
    first, second = ambiguous(place, "Uno."), ambiguous(place, "Dos.")
    page.goto(url("queue-case", place, first.pk))
    page.keyboard.press("s")
    page.locator(".note-text", has_text="Dos.").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    page.locator(".note-text", has_text="Uno.").wait_for()
    page.keyboard.press("s")
    page.locator("#toast", has_text="Nothing else waits").wait_for()
    assert page.url.endswith(f"/{first.pk}/") and Review.objects.get().case_id == second.pk


def test_any_of_the_last_decisions_can_be_taken_back(place, page):
    cases = [ambiguous(place, text) for text in ("Uno.", "Dos.", "Tres.")]
    page.goto(url("queue-case", place, cases[0].pk))
    for text in ("Dos.", "Tres."):
        page.keyboard.press("1")
        page.keyboard.press("Control+Enter")
        page.locator(".note-text", has_text=text).wait_for()
    page.click("#recent summary")
    assert page.locator(".recent li").count() == 2
    page.locator(".recent button").nth(1).click()
    page.locator(".note-text", has_text="Uno.").wait_for()
    assert page.is_checked("[value=suspicion]")
    assert (
        Review.objects.get(case=cases[0]).withdrawn_at and not Review.objects.get(case=cases[1]).withdrawn_at
    )


def test_single_keys_can_be_switched_off(place, page):
    case = ambiguous(place)
    page.goto(url("queue-case", place, case.pk))
    page.keyboard.press("?")
    page.uncheck("[data-single-keys]")
    page.keyboard.press("Escape")
    for key in "1eums?":
        page.keyboard.press(key)
    assert page.locator("[name=verdict]:checked").count() == 0 and page.locator("dialog[open]").count() == 0
    page.reload()
    page.keyboard.press("1")
    assert page.locator("[name=verdict]:checked").count() == 0
    page.check("[value=suspicion]")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/queue/")
    assert Label.objects.get().label == 1


def test_a_conflict_keeps_all_that_was_typed(place, page, lead, signed_in):
    case = ambiguous(place, NOTE)
    page.goto(url("queue-case", place, case.pk))
    select(page, "muguet", "muguet")
    page.keyboard.press("e")
    page.keyboard.press("u")
    page.keyboard.press("1")
    page.fill("#comment", "dudoso")
    Lease.objects.update(reader=lead)
    page.keyboard.press("Control+Enter")
    page.locator("#trouble", has_text="jefa has held this case").wait_for()
    assert page.input_value("#comment") == "dudoso" and words_of(NOTE, marked(page)) == ["muguet"]
    page.wait_for_function("() => document.querySelector('#saved').textContent === 'draft saved'")
    kept = Draft.objects.get()
    assert (kept.choice, kept.why, kept.comment) == ("undecided", "conflicting", "dudoso")
    assert kept.evidence == marked(page) and not Review.objects.exists()


def test_no_answer_from_the_server_keeps_all_that_was_typed(place, page):
    case = ambiguous(place, NOTE)
    page.goto(url("queue-case", place, case.pk))
    page.context.set_offline(True)
    page.fill("#comment", "sin red")
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    page.keyboard.press("Control+Enter")
    page.locator("#trouble", has_text="No answer from the server").wait_for()
    page.keyboard.press("j")
    assert page.input_value("#comment") == "sin red"
    page.context.set_offline(False)
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/queue/")
    assert (Review.objects.get().why, Review.objects.get().comment) == ("information", "sin red")
