"""The leads' page of a disagreement: readings beside each other, evidence over the text, the judgement, what stays hidden."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth import get_user_model
from django.utils.html import escape
from django.utils.translation import override

from reviews import adjudication_page, overlay, readings
from reviews.models import Adjudication, Comment, Draft, Label, Review
from reviews.overlay import Passage
from tests import factories
from tests.reviews.conftest import answer, url
from triage.access import Workplace
from triage.models import AuditEvent, Membership

TEXTS = ("Fiebre y muguet oral.", "Niega ADVP. Peso estable & <sin> cambios.")


# ---------- The overlay


def plain(html: str) -> str:
    return re.sub(r"</?mark[^>]*>", "", html)


def test_the_overlay_keeps_every_code_point_whatever_overlaps():
    text = "á🩺<b> & muguet\r\noral"
    passages = [
        Passage(0, 6, 0, "Suspicion"),
        Passage(1, 12, 1),
        Passage(1, 12, 0),
        Passage(8, 400, 1),
        Passage(30, 40, 0),
    ]
    assert plain(overlay.html(text, passages)) == escape(text).replace("\r", "&#13;")
    assert overlay.html("", []) == ""


def test_each_piece_wears_the_lines_of_those_who_marked_it_and_the_first_piece_names_them():
    html = overlay.html("abcdef", [Passage(0, 4, 0, "Sí"), Passage(2, 6, 1, "<No>")])
    assert html == (
        '<mark class="by by-a" data-by="A: Sí">ab</mark>'
        '<mark class="by by-a by-b" data-by="B: &lt;No&gt;">cd</mark>'
        '<mark class="by by-b">ef</mark>'
    )


# ---------- The page


@pytest.fixture
def second(site):
    user = get_user_model().objects.create_user("lector-dos", first_name="Lola", last_name="Dos")
    Membership.objects.create(user=user, site=site, role="reader")
    return user


def disputed(place, first, second, *, labels=(1, 0), evidence=((), ())):
    case = factories.case(place.site, place.protocol, *TEXTS)
    prediction = factories.prediction(case, 0.6, 0.3, 0.5, label=1)
    notes = prediction.note_ids
    for user, label, marks in zip((first, second), labels, evidence, strict=True):
        found = [{"note": notes[n], "start": a, "end": b, "label": name} for n, a, b, name in marks]
        comment = "Parece claro." if user == first else "No lo veo."
        factories.review(prediction, user, label, double=user == first, evidence=found, comment=comment)
    readings.settle(prediction)
    return Adjudication.objects.get(case=case)


@pytest.fixture
def opened(place, reader, second):
    marks = ([(0, 9, 20, "suspicion")], [(0, 0, 15, "non_suspicion"), (1, 0, 11, "")])
    return disputed(place, reader, second, evidence=marks)


def page_of(place, opened):
    return url("adjudications-case", place, opened.pk)


def judgement(opened, user, **changes):
    return answer(opened.case, user, "suspicion", **({"cause": "overlooked"} | changes))


pytestmark = pytest.mark.django_db


def test_both_readings_and_their_evidence_stand_beside_each_other(place, opened, lead, signed_in):
    html = signed_in(lead).get(page_of(place, opened)).content.decode()
    for words in ("lectora", "Lola Dos", "Parece claro.", "No lo veo.", "muguet oral", "Niega ADVP"):
        assert words in html
    assert 'data-by="A: ' in html and 'class="by by-a by-b"' in html and 'class="by by-b"' in html
    shown = re.findall(r'<div class="note-text"[^>]*>(.*?)</div>', html, re.S)
    assert sorted(map(plain, shown)) == sorted(escape(text) for text in TEXTS)


def test_the_text_shown_is_a_disclosure_in_the_trail(place, opened, lead, signed_in):
    signed_in(lead).get(page_of(place, opened))
    event = AuditEvent.objects.get(verb="case.read")
    assert (event.actor, event.object_id, event.details["mode"]) == (
        lead,
        str(opened.case_id),
        "adjudication",
    )


def test_the_models_view_waits_for_the_judgement(place, opened, lead, signed_in):
    client = signed_in(lead)
    assert "model-view" not in client.get(page_of(place, opened)).content.decode()
    assert client.post(page_of(place, opened), judgement(opened, lead)).status_code == 302
    html = client.get(page_of(place, opened)).content.decode()
    assert "model-view" in html and "0,60" in html


def test_saving_labels_the_case_and_goes_to_the_next(place, opened, reader, second, lead, signed_in):
    other = disputed(place, reader, second)
    answered = signed_in(lead).post(page_of(place, opened), judgement(opened, lead, comment="Muguet."))
    assert answered.status_code == 302 and answered.url == page_of(place, other)
    label = Label.objects.get(withdrawn_at=None)
    assert (label.label, label.provenance, label.review.comment) == (1, "adjudicated", "Muguet.")
    last = signed_in(lead).post(page_of(place, other), judgement(other, lead))
    assert last.url == url("adjudications", place)


def test_a_script_hears_where_to_go_or_what_is_wrong(place, opened, lead, signed_in):
    client, asks = signed_in(lead), {"HTTP_ACCEPT": "application/json"}
    wrong = client.post(page_of(place, opened), judgement(opened, lead, cause=""), **asks)
    assert wrong.status_code == 400 and "message" in wrong.json()
    right = client.post(page_of(place, opened), judgement(opened, lead), **asks)
    assert right.json() == {"next": url("adjudications", place)}


@pytest.mark.parametrize(
    ("change", "status"),
    [({"cause": ""}, 400), ({"verdict": "undecided"}, 400), ({"reader": 987654}, 409)],
)
def test_what_was_typed_survives_a_refusal(place, opened, lead, signed_in, change, status):
    sent = judgement(opened, lead, comment="Mi <razón>.") | change
    refused = signed_in(lead).post(page_of(place, opened), sent)
    html = refused.content.decode()
    assert refused.status_code == status
    assert "Mi &lt;razón&gt;." in html and re.search(r'id="trouble" role="alert">\s*\S', html)
    assert not Label.objects.exists()


def test_what_was_typed_survives_a_conflict(place, opened, lead, admin, signed_in):
    signed_in(admin).post(page_of(place, opened), judgement(opened, admin))
    late = signed_in(lead).post(page_of(place, opened), judgement(opened, lead, comment="Tarde."))
    assert late.status_code == 409
    assert Label.objects.count() == 1


def test_a_draft_comes_back(place, opened, lead, signed_in):
    client = signed_in(lead)
    sent = judgement(opened, lead, comment="A medias.")
    assert client.post(url("queue-draft", place, opened.case_id), sent).status_code == 200
    html = client.get(page_of(place, opened)).content.decode()
    assert "A medias." in html and re.search(r'value="suspicion" required checked', html)
    assert re.search(r'name="cause" value="overlooked" required checked', html)
    client.post(page_of(place, opened), judgement(opened, lead))
    assert not Draft.objects.exists()


def test_a_judgement_taken_back_is_the_leads_draft_again_with_its_cause(place, opened, lead, signed_in):
    client = signed_in(lead)
    client.post(page_of(place, opened), judgement(opened, lead, cause="record", comment="Se contradice."))
    client.post(page_of(place, opened), {"undo": "1"})
    html = client.get(page_of(place, Adjudication.objects.get(closed_at=None))).content.decode()
    assert "Se contradice." in html and re.search(r'value="record" required checked', html)


def test_a_draft_that_comes_after_its_judgement_is_refused_and_none_is_left(
    place, opened, lead, admin, signed_in
):
    client, sent = signed_in(lead), judgement(opened, lead, comment="A medias.")
    client.post(page_of(place, opened), sent)
    late = client.post(url("queue-draft", place, opened.case_id), sent, HTTP_ACCEPT="application/json")
    assert late.status_code == 410 and late.json()["message"]
    other_page = judgement(opened, lead, comment="De otra pestaña.")
    assert client.post(url("queue-draft", place, opened.case_id), other_page).status_code == 410
    assert not Draft.objects.exists()
    mine = judgement(
        opened, admin, comment="De otra persona."
    )  # nobody loses what they wrote to another's verdict
    assert signed_in(admin).post(url("queue-draft", place, opened.case_id), mine).status_code == 200


def test_a_lead_who_read_the_case_is_told_that_another_judges(place, lead, second, signed_in):
    opened = disputed(place, lead, second)
    client = signed_in(lead)
    html = client.get(page_of(place, opened)).content.decode()
    assert 'data-state="own"' in html and 'id="save"' not in html
    assert client.post(page_of(place, opened), judgement(opened, lead)).status_code == 409
    assert adjudication_page.next_open(place, lead) is None
    assert not Label.objects.exists()


def test_a_judgement_can_be_taken_back_from_its_page(place, opened, lead, signed_in):
    client = signed_in(lead)
    client.post(page_of(place, opened), judgement(opened, lead))
    assert client.post(page_of(place, opened), {"undo": "1"}).status_code == 302
    assert not Label.objects.filter(withdrawn_at=None).exists()
    assert Adjudication.objects.filter(closed_at=None).count() == 1
    assert client.post(page_of(place, opened), {"undo": "1"}).status_code == 302
    assert Review.objects.filter(mode="adjudication").count() == 1


def test_the_list_names_readers_and_reason_the_oldest_first(place, opened, reader, second, lead, signed_in):
    later = disputed(place, reader, second, labels=(1, None))
    html = signed_in(lead).get(url("adjudications", place)).content.decode()
    assert html.index(opened.case.patient.pseudonym) < html.index(later.case.patient.pseudonym)
    page = adjudication_page.listed(place, lead)
    assert page["open"][0]["verdicts"][0].startswith("lectora: ")
    with override("en"):
        page = adjudication_page.listed(place, lead)
    assert [row["why"] for row in page["open"]] == ["Two different labels", "One could not decide"]


def test_readers_are_kept_out_and_see_no_such_page_in_the_bar(place, opened, reader, lead, signed_in):
    client = signed_in(reader)
    for name, more in (
        ("adjudications", ()),
        ("adjudications-case", (opened.pk,)),
        ("agreement", ()),
        ("reading-settings", ()),
    ):
        assert client.get(url(name, place, *more)).status_code == 403
    assert client.post(page_of(place, opened), judgement(opened, reader)).status_code == 403
    bar = client.get(url("progress", place)).content.decode()
    for name in ("adjudications", "agreement", "export", "reading-settings"):
        assert url(name, place) not in bar
    leads_bar = signed_in(lead).get(url("progress", place)).content.decode()
    for name in ("adjudications", "agreement", "export", "reading-settings"):
        assert url(name, place) in leads_bar
    assert "(1)" in leads_bar


def test_a_case_of_another_site_is_not_found(place, opened, outsider, protocol, signed_in):
    there = Workplace(outsider.memberships.get().site, protocol, outsider.memberships.get())
    assert signed_in(outsider).get(page_of(there, opened)).status_code == 404


# ---------- What was said


def comment(opened, user, text="Miré la analítica.", **changes):
    return {"reader": user.pk, "text": text, "note": "", "start": "", "end": ""} | changes


def test_the_lead_reads_what_both_readers_said_and_answers_there(
    place, opened, reader, second, lead, signed_in
):
    note = opened.prediction.note_ids[0]
    passage = {"note_id": note, "start": 9, "end": 20}
    Comment.objects.create(case=opened.case, author=reader, text="Lo dice aquí.", **passage)
    Comment.objects.create(case=opened.case, author=second, text="Es de otro ingreso.")
    client = signed_in(lead)
    html = client.get(page_of(place, opened)).content.decode()
    assert "Lo dice aquí." in html and "Es de otro ingreso." in html and "<q>muguet oral</q>" in html
    drawn = client.post(page_of(place, opened), comment(opened, lead), HTTP_ACCEPT="application/json").json()
    assert "Miré la analítica." in drawn["html"]
    said = Comment.objects.get(author=lead)
    assert drawn["comment"] == said.pk and AuditEvent.objects.get(verb="comment.say").actor == lead
    assert "Miré la analítica." in client.get(page_of(place, opened)).content.decode()
    back = client.post(url("queue-unsay", place, said.pk), {"adjudication": opened.pk})
    assert back.url == page_of(place, opened) + "?thread#thread"
    assert "Miré la analítica." not in client.get(page_of(place, opened)).content.decode()
    assert not Label.objects.exists()


def test_a_comment_by_a_plain_form_comes_back_to_the_page_and_a_refused_one_with_its_words(
    place, opened, lead, signed_in
):
    client = signed_in(lead)
    sent = client.post(page_of(place, opened), comment(opened, lead))
    assert sent.url == page_of(place, opened) + "?thread#thread"
    outside = comment(opened, lead, "Fuera.", note=opened.prediction.note_ids[0], start=0, end=9999)
    refused = client.post(page_of(place, opened), outside)
    assert refused.status_code == 409 and "\nFuera.</textarea>" in refused.content.decode()
    assert client.post(page_of(place, opened), comment(opened, lead, "")).status_code == 400
    assert Comment.objects.count() == 1


def test_readers_neither_read_nor_write_on_the_leads_page(place, opened, reader, signed_in):
    Comment.objects.create(case=opened.case, author=opened.case.reviews.last().reader, text="kanarienvogel")
    client = signed_in(reader)
    assert client.post(page_of(place, opened), comment(opened, reader)).status_code == 403
    assert "kanarienvogel" not in client.get(page_of(place, opened)).content.decode()
    assert Comment.objects.count() == 1
