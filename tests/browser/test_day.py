"""A day at the desk: sign in, read, decide with the keys, undo, export; and an admin at the dial."""

from __future__ import annotations

import json
import re

import pytest

from reviews import exports
from reviews.models import Draft, Label, Review
from triage import policy, tally
from triage.models import AuditEvent

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
QUEUE = "/norte/hiv-suspicion-es/queue/"


def decide(page, keys: str, comment: str = "") -> str:
    """Decide the open case with the keyboard; the address of the case."""
    page.wait_for_selector("#decision[data-state=open]")
    here = page.url
    for key in keys:
        page.keyboard.press(key)
    if comment:
        page.fill("#comment", comment)
    page.keyboard.press("Control+Enter")
    page.wait_for_url(lambda url: url != here)
    return here


def test_from_sign_in_to_an_exported_label_by_keyboard(ward, reader, lead, signed_in, protocol):
    page = signed_in(reader)
    assert page.url.endswith(QUEUE)
    page.keyboard.press("Enter")
    page.wait_for_selector("#decision")
    first = decide(page, "1", "Muguet y pérdida de peso: 🩺 pedir serología.")
    assert any(name in page.inner_text("#last") for name in protocol.label_names)
    second = decide(page, "2")
    decide(page, "u2")
    assert len({first, second}) == 2

    stored = list(Review.objects.order_by("pk").values_list("label", "comment"))
    assert [label for label, _ in stored].count(None) == 1
    assert stored[0][1] == "Muguet y pérdida de peso: 🩺 pedir serología."
    assert Label.objects.filter(withdrawn_at=None, provenance="single", propensity=1).count() == 2
    assert AuditEvent.objects.filter(verb="case.read", actor=reader).count() >= 3

    desk = signed_in(lead)
    desk.goto("/norte/hiv-suspicion-es/export/")
    desk.click("form .button-filled")
    desk.wait_for_selector("[data-export-url]")
    exports.drain()
    desk.wait_for_selector("a[download]")
    with desk.expect_download() as download:
        desk.click("a[download]")
    lines = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert len(lines) == 2
    assert {line["label"] for line in lines} == set(protocol.labels)
    assert all(line["policy_version"] == ward.version for line in lines)


def test_undo_brings_the_case_and_the_words_back(ward, reader, signed_in):
    page = signed_in(reader)
    page.keyboard.press("Enter")
    case = decide(page, "1", "Lo pienso mejor.")
    page.keyboard.press("z")
    page.wait_for_url(case)
    page.wait_for_selector("#decision[data-state=open]")
    assert page.input_value("#comment") == "Lo pienso mejor."
    assert not Label.objects.filter(withdrawn_at=None).exists()


def test_a_draft_survives_a_closed_tab(ward, reader, signed_in):
    page = signed_in(reader)
    page.keyboard.press("Enter")
    page.wait_for_selector("#decision[data-state=open]")
    page.keyboard.press("2")
    page.fill("#comment", "A medio escribir")
    page.wait_for_function("() => document.querySelector('#saved').textContent.includes('guardado')")
    where, context = page.url, page.context
    page.close()
    assert Draft.objects.get().comment == "A medio escribir"
    again = context.new_page()
    again.goto(where)
    assert again.input_value("#comment") == "A medio escribir"
    assert again.is_checked("[name=verdict] >> nth=1")


def test_the_text_is_shown_as_stored_whatever_the_marks(ward, reader, signed_in):
    page = signed_in(reader)
    page.keyboard.press("Enter")
    page.wait_for_selector(
        ".mark-toward-1, .mark-toward-2, .mark-toward-3, .mark-away-1, .mark-away-2, .mark-away-3"
    )
    from triage.models import Note

    for note in page.query_selector_all(".note-text"):
        stored = Note.objects.get(pk=note.get_attribute("data-note")).text
        assert note.evaluate("node => node.textContent") == stored


def test_the_dial_previews_before_it_saves(ward, admin, signed_in, site, protocol):
    page = signed_in(admin)
    page.goto("/norte/hiv-suspicion-es/dial/")
    page.wait_for_selector("#figure .main-svg")
    page.fill("#id_alpha", "0,2")
    then = tally.counts(site, protocol, 0.2, ward.typicality_floor)
    for reason, count in then.items():
        cell = page.locator(f"#shares tr[data-reason={reason}] td").nth(1)
        page.wait_for_function(
            "([row, n]) => document.querySelectorAll(`#shares tr[data-reason=${row}] td`)[1].textContent.trim() === n",
            arg=[reason, str(count)],
        )
        assert cell.inner_text().strip() == str(count)
    assert policy.current(site, protocol).version == 1
    page.fill("#id_reason", "Menos lectores en agosto.")
    page.click("#dial .button-filled")
    page.wait_for_url(re.compile("/dial/$"))
    turned = policy.current(site, protocol)
    assert (turned.version, turned.alpha, turned.reason) == (2, 0.2, "Menos lectores en agosto.")


def test_an_upload_lands_the_good_lines_and_names_the_bad(ward, lead, signed_in, tmp_path):
    file = tmp_path / "entrega.jsonl"
    good = {"patient_id": "Z-1", "notes": ["Fiebre y muguet oral."]}
    file.write_text(json.dumps(good) + '\n{"patient_id": "Z-2"}\nno es json\n')
    page = signed_in(lead)
    page.goto("/norte/hiv-suspicion-es/intake/")
    page.set_input_files("input[type=file]", file)
    page.click("form[enctype] button")
    page.wait_for_url(re.compile(r"/intake/\d+/$"))
    text = page.inner_text("main")
    assert re.search(r"\b2\b", text)
    assert re.search(r"\b3\b", text)
    page.goto("/norte/hiv-suspicion-es/intake/")
    page.set_input_files("input[type=file]", file)
    page.click("form[enctype] button")
    page.wait_for_url(re.compile(r"/intake/\d+/$"))
    assert "nuev" in page.inner_text("main").lower()
