"""What readers say about a case: kept once, shown to who may read it, taken back by its author; no word in the trail."""

import json

import pytest
from django.http import Http404
from django.utils import timezone

from reviews import comments, queue
from reviews.adjudication import Conflict, decide
from reviews.models import Comment, Lease
from tests.reviews.conftest import ambiguous, answer, cleaned, url
from tests.reviews.test_queue import at_once
from triage.models import AuditEvent, Prediction

JSON = {"HTTP_ACCEPT": "application/json"}
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def english(settings):
    settings.LANGUAGE_CODE = "en"


def passage(case, start=9, end=15):
    return {"note": case.notes()[0].pk, "start": start, "end": end}


def test_said_on_the_case_and_on_a_passage_without_a_lease(place, reader, deferred):
    comments.say(place, reader, deferred, "Ojo.")
    comments.say(place, reader, deferred, "Candidiasis.", passage(deferred))
    whole, part = Comment.objects.order_by("pk")
    assert (whole.text, whole.note, part.text, part.start, part.end) == ("Ojo.", None, "Candidiasis.", 9, 15)
    assert not Lease.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_same_words_sent_twenty_times_at_once_are_one_comment(place, reader, deferred):
    said = at_once(lambda _: comments.say(place, reader, deferred, "Ojo.", passage(deferred)), 20)
    assert {one.pk for one in said} == {Comment.objects.get().pk}
    assert AuditEvent.objects.filter(verb="comment.say").count() == 1


def test_a_passage_outside_the_notes_is_refused(place, reader, deferred):
    other = ambiguous(place)
    for wrong in (passage(deferred, 9, 17), passage(other)):
        with pytest.raises(Conflict, match="outside the notes"):
            comments.say(place, reader, deferred, "Ojo.", wrong)
    Prediction.objects.filter(case=deferred).update(current=False)
    with pytest.raises(Conflict, match="scored again"):
        comments.say(place, reader, deferred, "Ojo.")
    assert not Comment.objects.exists()


def test_taken_back_by_its_author_alone_and_once(place, reader, lead, deferred):
    said = comments.say(place, reader, deferred, "Ojo.")
    with pytest.raises(Http404):
        comments.withdraw(place, lead, said.pk)
    first = comments.withdraw(place, reader, said.pk).withdrawn_at
    assert comments.withdraw(place, reader, said.pk).withdrawn_at == first
    assert AuditEvent.objects.filter(verb="comment.withdraw").count() == 1
    assert comments.say(place, reader, deferred, "Ojo.").pk != said.pk


def test_the_trail_holds_no_word_of_it(place, reader, deferred):
    said = comments.say(place, reader, deferred, "kanarienvogel4711", passage(deferred))
    comments.withdraw(place, reader, said.pk)
    events = AuditEvent.objects.filter(verb__startswith="comment.").order_by("pk")
    assert [(one.verb, one.details) for one in events] == [
        ("comment.say", {"case": deferred.pk, "passage": True}),
        ("comment.withdraw", {"case": deferred.pk}),
    ]


# On the page


def say(client, place, case, user, **sent):
    return client.post(url("queue-say", place, case.pk), {"reader": user.pk, "text": "Ojo."} | sent, **JSON)


def page_of(client, place, case):
    return client.get(url("queue-case", place, case.pk)).content.decode()


def test_the_script_gets_the_comment_drawn_with_its_passage(place, reader, deferred, signed_in):
    drawn = say(signed_in(reader), place, deferred, reader, text="<b>¿Sí?</b>", **passage(deferred)).json()
    assert drawn["comment"] == Comment.objects.get().pk
    assert "&lt;b&gt;¿Sí?&lt;/b&gt;" in drawn["html"] and "<q>muguet</q>" in drawn["html"]
    page = page_of(signed_in(reader), place, deferred)
    assert (
        "&lt;b&gt;¿Sí?&lt;/b&gt;" in page
        and "Comments (1)" in page
        and 'data-start="9" data-end="15"' in page
    )


def test_readers_see_each_others_and_take_back_their_own(place, reader, lead, deferred, signed_in):
    say(signed_in(reader), place, deferred, reader, text="De lectora.")
    say(signed_in(lead), place, deferred, lead, text="De jefa.")
    page = page_of(signed_in(reader), place, deferred)
    assert "De lectora." in page and "De jefa." in page and page.count('form="unsay"') == 1
    assert (
        signed_in(lead).post(url("queue-unsay", place, Comment.objects.first().pk), **JSON).status_code == 404
    )
    gone = signed_in(reader).post(url("queue-unsay", place, Comment.objects.first().pk), **JSON)
    assert gone.status_code == 200 and "De lectora." not in page_of(signed_in(lead), place, deferred)


def test_who_reads_blind_sees_their_own_alone_until_the_verdict(place, reader, lead, deferred, signed_in):
    queue.hold(deferred.pk, lead)
    decide(place, lead, deferred, cleaned(deferred, lead, "undecided"))
    say(signed_in(lead), place, deferred, lead, text="Para mí que no.")
    client = signed_in(reader)
    answered = say(client, place, deferred, reader, text="Yo leo a ciegas.")
    assert "Para mí que no." not in answered.json()["html"]
    page = page_of(client, place, deferred)
    assert "Yo leo a ciegas." in page and "Para mí que no." not in page and "Comments (1)" in page
    client.post(url("queue-case", place, deferred.pk), answer(deferred, reader))
    assert "Para mí que no." in page_of(client, place, deferred)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"text": "  "}, "Write the comment first"),
        ({"text": "x" * 10_001}, "10000"),
        ({"text": "a\x00b"}, "Null"),
        ({"start": 3, "end": 5}, "could not be read"),
        ({"note": 1, "start": 5, "end": 5}, "could not be read"),
    ],
)
def test_a_comment_that_cannot_be_kept_is_a_sentence(place, reader, deferred, signed_in, sent, said):
    refused = say(signed_in(reader), place, deferred, reader, **sent)
    assert refused.status_code == 400 and said in refused.json()["message"]
    assert not Comment.objects.exists()


def test_without_the_script_a_comment_is_sent_or_comes_back_as_typed(
    place, reader, lead, deferred, signed_in
):
    client = signed_in(reader)
    sent = {"reader": reader.pk, "text": "Ojo <aquí>.", "note": "", "start": "", "end": ""}
    assert client.post(url("queue-say", place, deferred.pk), sent).url.endswith(
        f"/{deferred.pk}/?thread#thread"
    )
    assert Comment.objects.get().text == "Ojo <aquí>."
    wrong = sent | passage(deferred, 9, 99)
    page = client.post(url("queue-say", place, deferred.pk), wrong)
    assert page.status_code == 409 and "outside the notes" in page.content.decode()
    assert "\nOjo &lt;aquí&gt;.</textarea>" in page.content.decode()
    assert 'name="end" value="99"' in page.content.decode()
    other = client.post(url("queue-say", place, deferred.pk), sent | {"reader": lead.pk})
    assert other.status_code == 409 and "Somebody else is signed in" in other.content.decode()


def test_a_passage_of_a_note_that_left_the_page_is_named_as_such(place, reader, deferred, signed_in):
    comments.say(place, reader, deferred, "Ojo.", passage(deferred))
    gone = deferred.notes()[0].pk
    standing = deferred.predictions.get()
    standing.note_ids = [pk for pk in standing.note_ids if pk != gone]
    standing.save()
    page = page_of(signed_in(reader), place, deferred)
    assert "a note that is not shown here" in page and "<q>muguet</q>" not in page


def test_a_withdrawn_comment_is_kept_but_never_shown(place, reader, deferred, signed_in):
    said = comments.say(place, reader, deferred, "Ojo con esto.")
    Comment.objects.update(withdrawn_at=timezone.now())
    assert "Ojo con esto." not in page_of(signed_in(reader), place, deferred)
    assert Comment.objects.get(pk=said.pk).text == "Ojo con esto."
    assert json.dumps(list(AuditEvent.objects.values_list("details", flat=True))).find("Ojo") == -1
