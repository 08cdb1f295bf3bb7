"""The clinician's pages: who gets which, what they show before and after the verdict, and what the trail says."""

import json
import re

import pytest
from django.db import connection
from django.utils import timezone, translation

from reviews import queue
from reviews.models import Adjudication, Draft, Label, Lease, Review
from tests.reviews.conftest import ambiguous, answer, cleaned, url
from triage.models import AuditEvent, Explanation, Policy, Prediction

pytestmark = pytest.mark.django_db
JSON = {"HTTP_ACCEPT": "application/json"}
PAGES = ["queue", "queue-next", "export", "words"]


@pytest.fixture(autouse=True)
def english(settings):
    settings.LANGUAGE_CODE = "en"


def test_from_queue_to_label(place, reader, deferred, signed_in):
    client = signed_in(reader)
    page = client.get(url("queue", place))
    assert deferred.patient.pseudonym in page.content.decode()
    opened = client.get(url("queue-next", place), follow=True)
    assert opened.redirect_chain == [(url("queue-case", place, deferred.pk), 302)]
    saved = client.post(
        url("queue-case", place, deferred.pk), answer(deferred, reader, comment="muguet"), follow=True
    )
    assert "Nothing waits for you" in saved.content.decode()
    assert "Had it stood, it would have read «No suspicion» at credibility 0.60." in saved.content.decode()
    label = Label.objects.get(case=deferred)
    assert (label.label, label.provenance, label.propensity) == (1, "single", 1.0)
    assert (label.review.comment, label.review.mode, label.review.seconds) == ("muguet", "assisted", 12)
    assert not Lease.objects.exists() and not Draft.objects.exists()


def test_the_script_gets_json_and_the_same_answer_twice(place, reader, deferred, signed_in):
    client, sent = signed_in(reader), answer(deferred, reader)
    client.get(url("queue-case", place, deferred.pk))
    answers = [client.post(url("queue-case", place, deferred.pk), sent, **JSON) for _ in range(2)]
    assert [a.status_code for a in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert Review.objects.count() == Label.objects.count() == 1
    assert AuditEvent.objects.filter(verb="review.submit").count() == 1


@pytest.mark.parametrize("name", PAGES)
def test_who_may_open_the_workplace(name, place, reader, lead, admin, outsider, client, signed_in):
    login = client.get(url(name, place))
    assert login.status_code == 302 and login.url.startswith("/login/")
    assert signed_in(outsider).get(url(name, place)).status_code == 404
    expected = {"queue": (200, 200, 200), "queue-next": (302, 302, 302)}.get(name, (403, 200, 200))
    assert (
        tuple(signed_in(user).get(url(name, place)).status_code for user in (reader, lead, admin)) == expected
    )


@pytest.mark.parametrize(
    "name",
    [
        "queue-case",
        "queue-reading",
        "queue-method",
        "queue-draft",
        "queue-hold",
        "queue-skip",
        "queue-say",
    ],
)
def test_promise_15_another_sites_case_answers_like_none_at_all(
    name, place, deferred, outsider, other_site, signed_in
):
    from triage import policy
    from triage.access import Workplace

    theirs = Workplace(other_site, place.protocol, outsider.memberships.get())
    policy.current(other_site, place.protocol)
    client = signed_in(outsider)
    method = client.get if name in ("queue-case", "queue-reading") else client.post
    missing = method(url(name, theirs, 10**15))
    assert missing.status_code == 404
    for where in (url(name, place, deferred.pk), url(name, theirs, deferred.pk)):
        found = method(where)
        assert (found.status_code, found.content) == (404, missing.content)
    assert not AuditEvent.objects.filter(verb="case.read").exists() and not Lease.objects.exists()


def test_promise_15_another_sites_verdict_cannot_be_taken_back(
    place, reader, deferred, outsider, other_site, signed_in
):
    signed_in(reader).get(url("queue-case", place, deferred.pk))
    signed_in(reader).post(url("queue-case", place, deferred.pk), answer(deferred, reader))
    review = Review.objects.get()
    assert signed_in(outsider).post(url("queue-undo", place, review.pk)).status_code == 404
    review.refresh_from_db()
    assert review.withdrawn_at is None


def test_promise_16_membership_removed_the_next_request_is_refused(place, reader, deferred, signed_in):
    client = signed_in(reader)
    assert client.get(url("queue-case", place, deferred.pk)).status_code == 200
    reader.memberships.all().delete()
    assert client.get(url("queue-case", place, deferred.pk)).status_code == 404


def test_promise_21_each_view_of_text_is_one_event(place, reader, deferred, signed_in):
    client = signed_in(reader)
    for _ in range(3):
        assert client.get(url("queue-case", place, deferred.pk)).status_code == 200
    events = AuditEvent.objects.filter(verb="case.read", object_id=str(deferred.pk), actor=reader)
    assert [event.details["notes"] for event in events] == [2, 2, 2]


def test_promise_21_no_event_no_page(place, reader, deferred, signed_in, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the trail is full")

    monkeypatch.setattr("triage.audit.record", broken)
    client = signed_in(reader)
    client.raise_request_exception = False
    page = client.get(url("queue-case", place, deferred.pk))
    assert page.status_code == 500 and b"muguet" not in page.content
    assert not Lease.objects.exists()


def test_own_verdicts_and_undone_ones_show_in_the_numbers_at_once(place, reader, signed_in, monkeypatch):
    """Without counting every row again: that is done every ten seconds at most."""
    first, _second = ambiguous(place), ambiguous(place)
    strange = ambiguous(place, runner_up=0.001, typicality=0.004)
    client = signed_in(reader)

    def numbers():
        page = client.get(url("queue", place)).content.decode()
        return [int(n) for n in re.findall(r"<dd>(\d+)</dd>", page)][:4]

    assert numbers() == [3, 2, 0, 1]
    monkeypatch.delattr("reviews.selectors.counts")
    for case in (first, strange):
        client.get(url("queue-case", place, case.pk))
        client.post(url("queue-case", place, case.pk), answer(case, reader))
    assert numbers() == [1, 1, 0, 0]
    client.post(url("queue-undo", place, Review.objects.get(case=strange).pk))
    assert numbers() == [2, 1, 0, 1]


def test_the_queue_lists_no_text_and_leaves_no_event(place, reader, deferred, signed_in):
    page = signed_in(reader).get(url("queue", place)).content.decode()
    assert "muguet" not in page and not AuditEvent.objects.filter(verb="case.read").exists()


# What the page shows, and when


def shown(page):
    """The page's words; the answers to choose from and the legend name every label and are left out."""
    text = re.sub(
        r'<label class="choice">.*?</label>|<fieldset.*?</fieldset>', "", page.content.decode(), flags=re.S
    )
    text = re.sub(r'<dialog class="dialog" id="help".*?</dialog>', "", text, flags=re.S)
    return re.sub(r'<div class="legend">.*?</form>\s*</details>\s*</div>\s*</div>', "", text, flags=re.S)


def words(*found, **facts):
    """Store an explanation of the one case there is."""
    Explanation.objects.update(words=list(found), **facts)


def test_assisted_shows_tints_reason_and_numbers_but_not_the_label(place, reader, deferred, signed_in):
    client = signed_in(reader)
    words(word(0, 9, 15, margin=2.0, sign="toward"), nearest=NEAREST)
    page = client.get(url("queue-case", place, deferred.pk))
    assert '<mark class="mark mark-toward-3" id="w0"' in shown(page) and ">muguet</mark>" in shown(page)
    assert "more than one answer fits" in shown(page) and "0.300" not in shown(page) and "0.30" in shown(page)
    for telling in ("it would have read", "No suspicion", "Nearest known", " 7.7", " 8.8"):
        assert telling not in shown(page), telling


NEAREST = [{"label": 0, "given": 0, "distance": 7.7}, {"label": 1, "given": 0, "distance": 8.8}]


def test_after_the_verdict_the_page_says_what_would_have_been_and_what_the_case_is_like(
    place, reader, deferred, signed_in
):
    client = signed_in(reader)
    words(word(0, 9, 15, margin=2.0, sign="toward"), nearest=NEAREST)
    client.get(url("queue-case", place, deferred.pk))
    client.post(url("queue-case", place, deferred.pk), answer(deferred, reader))
    page = shown(client.get(url("queue-case", place, deferred.pk)))
    assert "Had it stood, it would have read «No suspicion» at credibility 0.60." in page
    near = re.sub(r"<[^>]+>|\s+", " ", re.search(r'<dl class="nearest">.*?</dl>', page, re.S)[0]).split()
    assert " ".join(near) == "Nearest known cases: No suspicion 7.7 Suspicion 8.8 misread"


def test_another_readers_page_stays_without_them(place, reader, lead, deferred, signed_in):
    words(word(0, 9, 15, margin=2.0, sign="toward"), nearest=NEAREST)
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    client.post(url("queue-case", place, deferred.pk), answer(deferred, reader))
    page = shown(signed_in(lead).get(url("queue-case", place, deferred.pk)))
    assert "it would have read" not in page and "Nearest known" not in page


def test_blind_shows_nothing_of_the_model_before_the_verdict(place, reader, deferred, signed_in):
    place.protocol.reading = "blind"
    place.protocol.save()
    words(word(0, 9, 15, margin=2.0, sign="toward"), nearest=NEAREST)
    client = signed_in(reader)
    telling = (
        "mark-toward",
        'href="#sign-',
        "0.30",
        "Ambiguous",
        "answer fits",
        "have read",
        "7.7",
        "data-tip",
    )
    for address in (url("queue-case", place, deferred.pk), url("queue", place)):
        page = shown(client.get(address))
        for sign in telling:
            assert sign not in page, sign
    assert client.get(url("queue-reading", place, deferred.pk)).status_code == 204
    assert client.post(url("queue-method", place, deferred.pk), {"method": "mask"}).status_code == 409
    assert Explanation.objects.count() == 1
    client.post(url("queue-case", place, deferred.pk), answer(deferred, reader))
    after = shown(client.get(url("queue-case", place, deferred.pk)))
    assert "mark-toward-3" in after and "0.30" in after and "have read" in after and "7.7" in after
    assert Review.objects.get().mode == "blind"


TELLING = (
    "mark-toward",
    'href="#sign-',
    "0.30",
    "0.60",
    "answer fits",
    "have read",
    "7.7",
    "data-tip",
    "Settled",
)


def decided(place, user, case, verdict="suspicion", **changes):
    """A verdict of somebody, without their page."""
    from reviews import adjudication

    queue.hold(case.pk, user)
    return adjudication.decide(place, user, case, cleaned(case, user, verdict, **changes))


@pytest.fixture
def audited(place):
    """A dial that draws one case in twenty to be read blind."""
    return Policy.objects.create(
        site=place.site,
        protocol=place.protocol,
        version=2,
        alpha=0.02,
        typicality_floor=0.01,
        audit_rate=0.05,
        reason="r",
    )


@pytest.mark.parametrize("drawn", ["deferred", "automatic", "second reader"])
def test_nothing_tells_the_blind_sample_and_second_readings_apart(
    audited, place, reader, lead, signed_in, drawn
):
    """Their pages differ in the case's number alone, and show nothing of the model."""
    numbers = {"credibility": 0.6, "runner_up": 0.001} if drawn == "automatic" else {}
    case = ambiguous(place, lot=0.9 if drawn == "second reader" else 0.001, **numbers)
    words(word(0, 9, 15, margin=2.0, sign="toward"), nearest=NEAREST)
    if drawn == "second reader":
        place.protocol.double_share = 1
        place.protocol.save()
        decided(place, lead, case, comment="Clarísimo.")
    page = shown(signed_in(reader).get(url("queue-case", place, case.pk)))
    assert "Blind reading: the model's view is shown after your verdict." in page
    for telling in (*TELLING, "Clarísimo", "jefa", "Numbers"):
        assert telling not in page, telling
    form = re.search(r'<form class="decision".*?</form>', page, re.S)[0]
    fields = re.sub(r'(value|data-[\w-]+)="[^"]*\d[^"]*"|csrf\S+ value="\w+"', "", form)
    SEEN.setdefault("form", fields)
    assert fields == SEEN["form"]


SEEN: dict[str, str] = {}


def test_a_check_says_after_the_verdict_that_it_had_been_settled(audited, place, reader, signed_in):
    case = ambiguous(place, lot=0.001, runner_up=0.001)
    client = signed_in(reader)
    client.get(url("queue-case", place, case.pk))
    client.post(url("queue-case", place, case.pk), answer(case, reader, policy=2))
    page = shown(client.get(url("queue-case", place, case.pk)))
    assert "Settled automatically as «No suspicion» at credibility 0.60, and read as a check." in page
    assert "Had it stood" not in re.search(r'<div class="reveal">.*?</div>', page, re.S)[0]


def test_a_second_reader_sees_the_first_once_the_case_is_settled(place, reader, lead, deferred, signed_in):
    place.protocol.double_share = 1
    place.protocol.save()
    decided(place, lead, deferred)
    mine = shown(signed_in(lead).get(url("queue-case", place, deferred.pk)))
    assert "Stored. Somebody else will judge it too." in mine
    decided(place, reader, deferred)
    page = shown(signed_in(reader).get(url("queue-case", place, deferred.pk)))
    assert "<bdi>jefa</bdi>: <strong>Suspicion</strong>" in page and "will judge it too" not in page


def test_two_that_differ_learn_nothing_of_each_other_before_a_lead_has_judged(
    place, reader, lead, deferred, signed_in
):
    place.protocol.double_share = 1
    place.protocol.save()
    decided(place, lead, deferred)
    decided(place, reader, deferred, "non_suspicion")
    for user, other in ((lead, "lectora"), (reader, "jefa")):
        page = shown(signed_in(user).get(url("queue-case", place, deferred.pk)))
        reveal = re.search(r'<div class="reveal">.*?</div>', page, re.S)[0]
        assert "Stored. Somebody else will judge it too." in reveal and other not in reveal


def test_a_case_set_aside_says_for_whom_or_for_what(place, reader, lead, admin, deferred, signed_in):
    decided(place, reader, deferred, "information")
    page = shown(signed_in(admin).get(url("queue-case", place, deferred.pk)))
    assert "rests until more is known" in page and 'id="save"' not in page and "have read" not in page
    mine = shown(signed_in(reader).get(url("queue-case", place, deferred.pk)))
    assert "Your verdict: <strong>more information needed</strong>" in mine
    assert "rests until new notes arrive or a lead returns it" in mine
    other = ambiguous(place)
    decided(place, reader, other, "undecided")
    decided(place, lead, other, "undecided", why="conflicting")
    page = shown(signed_in(admin).get(url("queue-case", place, other.pk)))
    assert "A lead must judge this case." in page and "stays covered for whoever has not judged" in page
    mine = shown(signed_in(reader).get(url("queue-case", place, other.pk)))
    assert "undecided: too little is written" in mine


def test_words_that_are_not_ready_arrive_by_themselves(place, reader, deferred, signed_in):
    Explanation.objects.all().delete()
    client = signed_in(reader)
    page = client.get(url("queue-case", place, deferred.pk)).content.decode()
    assert "being worked out" in page and "data-preparing" in page
    assert client.get(url("queue-reading", place, deferred.pk)).status_code == 204
    words(word(0, 9, 15, margin=1.0, sign="away"), status="ready")
    fragment = client.get(url("queue-reading", place, deferred.pk))
    assert '<mark class="mark mark-away-3"' in fragment.content.decode()
    assert AuditEvent.objects.filter(verb="case.read").count() == 2


def test_words_that_fail_are_said_to_have_failed(place, reader, deferred, signed_in):
    words(status="failed")
    fragment = signed_in(reader).get(url("queue-reading", place, deferred.pk))
    assert fragment.status_code == 200 and "could not be worked out" in fragment.content.decode()


def test_another_method_is_asked_for_and_fills_in(place, reader, deferred, signed_in):
    client = signed_in(reader)
    words(word(0, 9, 15, margin=1.0, sign="away"))
    asked = client.post(url("queue-method", place, deferred.pk), {"method": "mask"}, **JSON)
    assert (asked.status_code, asked.json()) == (202, {"method": "mask"})
    row = Explanation.objects.get(method="mask")
    assert row.status == "pending"
    address = url("queue-reading", place, deferred.pk) + "?method=mask"
    assert client.get(address).status_code == 204
    page = shown(client.get(url("queue-case", place, deferred.pk) + "?method=mask"))
    assert "mark-away-3" in page and "by this method are being prepared" in page and "data-preparing" in page
    Explanation.objects.filter(pk=row.pk).update(status="failed")
    assert "Those of the usual one are shown" in client.get(address).content.decode()
    Explanation.objects.filter(pk=row.pk).update(
        status="ready", words=[word(0, 0, 6, margin=1.0, sign="toward")]
    )
    ready = client.get(address).content.decode()
    assert "mark-toward-3" in ready and "mark-away-3" not in ready and "data-preparing" not in ready


def test_without_the_script_another_method_is_a_page_of_its_own(place, reader, deferred, signed_in):
    client = signed_in(reader)
    for method, status in (("mask", 302), ("x", 400), ("", 400)):
        asked = client.post(url("queue-method", place, deferred.pk), {"method": method})
        assert asked.status_code == status
    asked = client.post(url("queue-method", place, deferred.pk), {"method": "mask"})
    assert asked.url == url("queue-case", place, deferred.pk) + "?method=mask"
    assert client.get(url("queue-case", place, deferred.pk) + "?method=x").status_code == 200
    assert Explanation.objects.filter(method="mask").count() == 1


def test_a_method_that_tells_no_distance_says_so_and_the_reason_keeps_its_words(place, reader, signed_in):
    case = ambiguous(place, "Fiebre y muguet.", runner_up=0.001, typicality=0.004)
    words(word(0, 9, 15, distance=3.0))
    Explanation.objects.create(
        prediction=case.predictions.get(),
        method="gradients",
        status="ready",
        words=[word(0, 0, 6, margin=1.0, sign="toward") | {"distance": None}],
    )
    page = shown(signed_in(reader).get(url("queue-case", place, case.pk) + "?method=gradients"))
    assert "does not tell what makes a record strange" in page
    reason = re.search(r'<div class="reason">.*?</div>', page, re.S)[0]
    assert "muguet" in reason and "#w0" not in reason
    assert "does not tell" not in shown(signed_in(reader).get(url("queue-case", place, case.pk)))


def test_an_encoder_without_attentions_is_named(place, reader, deferred, signed_in):
    client = signed_in(reader)
    address = url("queue-case", place, deferred.pk)
    assert "occlusion alone" not in client.get(address).content.decode()
    words(word(0, 9, 15, margin=1.0, sign="away"), attentions=False)
    assert "occlusion alone chose the words" in client.get(address).content.decode()
    words(word(0, 9, 15, margin=1.0, sign="away"), method="gradients")
    assert "occlusion alone" not in client.get(address + "?method=gradients").content.decode()


def word(note, start, end, *, margin=0.0, distance=0.0, sign=None):
    return {
        "note": note,
        "start": start,
        "end": end,
        "importance": 1,
        "margin": margin,
        "distance": distance,
        "sign": sign,
    }


def reason_of(page):
    return re.sub(r"\s+", " ", re.search(r'<div class="reason">.*?</p>', page, re.S)[0])


def test_strange_words_are_named_in_the_reason_and_lead_to_their_place(place, reader, signed_in):
    case = ambiguous(place, "Fiebre y muguet.", runner_up=0.001, typicality=0.004)
    words(word(0, 9, 15, distance=3.0), word(0, 0, 6, distance=0.1))
    page = signed_in(reader).get(url("queue-case", place, case.pk)).content.decode()
    said = re.sub(r"<[^>]+>", "", reason_of(page))
    assert said.strip() == "Deferred: unlike anything in calibration (typicality 0.004). Strangest: muguet."
    assert re.findall(r'href="(#w\d)" data-jump><mark class="mark mark-strange">(.*?)<', page) == [
        ("#w0", "muguet")
    ]
    assert 'id="w0"' in page


def test_an_ambiguous_case_names_what_speaks_for_and_against(place, reader, signed_in):
    case = ambiguous(place, "Fiebre y muguet.")
    words(word(0, 9, 15, margin=3.0, sign="toward"), word(0, 0, 6, margin=-2.0, sign="away"))
    page = signed_in(reader).get(url("queue-case", place, case.pk)).content.decode()
    said = re.sub(r"<[^>]+>", "", reason_of(page))
    assert said.strip() == (
        "Deferred: more than one answer fits (second answer 0.30). For «Suspicion»: muguet. Against: Fiebre."
    )


def test_words_without_a_direction_read_undetermined(place, reader, deferred, signed_in):
    words(word(0, 9, 15, margin=1.0, sign="away"), word(0, 0, 6, margin=1e-7))
    page = signed_in(reader).get(url("queue-case", place, deferred.pk)).content.decode()
    assert re.findall(r"<bdi>(\w+)</bdi></a></th><td>(.*?)</td>", page) == [
        ("muguet", "against «Suspicion» 1.00"),
        ("Fiebre", "undetermined"),
    ]
    assert 'data-tip="undetermined">Fiebre' in page


def test_the_margin_gives_the_weight_of_each_note(place, reader, deferred, signed_in):
    words(word(0, 9, 15), windows=[{"note": 0, "start": 0, "end": 16, "weight": 1.0}])
    page = signed_in(reader).get(url("queue-case", place, deferred.pk)).content.decode()
    assert re.findall(r'note-weight">(.*?)<', page) == ["not read by the model", "weight 100 %"]
    assert re.findall(r'role="img" aria-label="Weight of its parts, from the top: (.*?)"', page) == ["100 %"]


def test_figures_follow_the_language(place, reader, signed_in, settings):
    settings.LANGUAGE_CODE = "es"
    case = ambiguous(place, runner_up=0.001, typicality=0.004)
    words(word(0, 0, 6, margin=0.42, sign="toward"))
    page = signed_in(reader).get(url("queue-case", place, case.pk)).content.decode()
    assert "0,004" in page and "0,42" in page and "α\u00a00,02" in page and "1 ene 2021" in page


# Leases, conflicts, drafts


def test_a_case_somebody_holds_is_shown_read_only(place, reader, lead, deferred, signed_in):
    signed_in(lead).get(url("queue-case", place, deferred.pk))
    page = signed_in(reader).get(url("queue-case", place, deferred.pk)).content.decode()
    assert "jefa holds this case until" in page and 'id="save"' not in page
    refused = signed_in(reader).post(url("queue-case", place, deferred.pk), answer(deferred, reader), **JSON)
    assert refused.status_code == 409 and "jefa" in refused.json()["message"]
    assert not Review.objects.exists()


def test_a_refused_form_comes_back_as_it_was_typed(place, reader, deferred, signed_in):
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    Lease.objects.all().delete()
    sent = answer(deferred, reader, comment="\n  <b>no</b> lo tengo claro  ")
    page = client.post(url("queue-case", place, deferred.pk), sent)
    assert page.status_code == 409
    assert "no longer reserved for you" in page.content.decode()
    assert "\n\n  &lt;b&gt;no&lt;/b&gt; lo tengo claro  </textarea>" in page.content.decode()
    assert 'value="suspicion" required checked' in page.content.decode()


def test_the_heartbeat_takes_no_case_back_that_a_lead_freed(place, reader, lead, deferred, signed_in):
    client, sent = signed_in(reader), answer(deferred, reader)
    client.get(url("queue-case", place, deferred.pk))
    assert client.post(url("queue-hold", place, deferred.pk), sent).json()["held"]
    queue.release(place, lead, deferred)
    heard = client.post(url("queue-hold", place, deferred.pk), sent).json()
    assert not heard["held"] and "a lead freed it" in heard["notice"] and not Lease.objects.exists()


def test_new_notes_refuse_the_verdict(place, reader, deferred, signed_in):
    client, sent = signed_in(reader), answer(deferred, reader)
    client.get(url("queue-case", place, deferred.pk))
    Prediction.objects.update(current=False)
    refused = client.post(url("queue-case", place, deferred.pk), sent, **JSON)
    assert refused.status_code == 409 and "scored again" in refused.json()["message"]
    assert "being scored" in client.get(url("queue-case", place, deferred.pk)).content.decode()
    assert not Review.objects.exists()


def test_promise_13_the_verdict_keeps_the_policy_shown_and_the_page_says_it_moved(
    place, reader, deferred, signed_in
):
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    Policy.objects.create(
        site=place.site, protocol=place.protocol, version=2, alpha=0.5, typicality_floor=0, reason="r"
    )
    sent = answer(deferred, reader)
    heard = client.post(url("queue-hold", place, deferred.pk), sent).json()
    assert heard["held"] and "moved to version 2" in heard["notice"]
    page = client.post(url("queue-case", place, deferred.pk), sent, follow=True)
    assert "moved to version 2 (α 0.5)" in page.content.decode()
    assert Review.objects.get().policy.version == 1


def test_a_case_the_shown_policy_settles_takes_no_verdict(place, reader, signed_in):
    case = ambiguous(place, runner_up=0.001)
    client = signed_in(reader)
    page = client.get(url("queue-case", place, case.pk)).content.decode()
    assert "settled automatically" in page and not Lease.objects.exists()
    Lease.objects.create(case=case, reader=reader, until="2999-01-01T00:00Z")
    assert client.post(url("queue-case", place, case.pk), answer(case, reader), **JSON).status_code == 409


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": ""},
        {"verdict": "death"},
        {"client_key": "x"},
        {"prediction": ""},
        {"comment": "a\x00b"},
        {"evidence": "[{}]"},
        {"evidence": "{"},
        {"evidence": json.dumps([{"note": 1, "start": 5, "end": 2}])},
        {"evidence": json.dumps([{"note": 1, "start": True, "end": 2}])},
        {"seconds": -1},
    ],
)
def test_a_malformed_verdict_is_a_sentence_not_an_error(place, reader, deferred, signed_in, changes):
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    refused = client.post(url("queue-case", place, deferred.pk), answer(deferred, reader, **changes), **JSON)
    assert refused.status_code == 400 and refused.json()["message"]
    assert (
        client.post(url("queue-case", place, deferred.pk), answer(deferred, reader, **changes)).status_code
        == 400
    )


def test_evidence_outside_the_notes_is_refused(place, reader, deferred, signed_in):
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    note = deferred.notes()[0]
    for mark in ({"note": note.pk, "start": 0, "end": 17}, {"note": note.pk + 999, "start": 0, "end": 1}):
        sent = answer(deferred, reader, evidence=json.dumps([mark]))
        assert client.post(url("queue-case", place, deferred.pk), sent, **JSON).status_code == 409
    inside = json.dumps([{"note": note.pk, "start": 9, "end": 16, "label": "suspicion"}])
    sent = answer(deferred, reader, evidence=inside)
    assert client.post(url("queue-case", place, deferred.pk), sent, **JSON).status_code == 200
    assert Review.objects.get().evidence == json.loads(inside)


def test_a_draft_survives_and_belongs_to_its_writer(place, reader, lead, deferred, signed_in):
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    note = deferred.notes()[0]
    typed = answer(
        deferred,
        reader,
        "undecided",
        comment=" dudoso ",
        evidence=json.dumps([{"note": note.pk, "start": 0, "end": 6}]),
    )
    assert "saved" in client.post(url("queue-draft", place, deferred.pk), typed).json()
    page = signed_in(reader).get(url("queue-case", place, deferred.pk)).content.decode()
    assert (
        "\n dudoso </textarea>" in page
        and 'value="undecided" required checked' in page
        and "Fiebre</q>" in page
    )
    assert "dudoso" not in signed_in(lead).get(url("queue-case", place, deferred.pk)).content.decode()


def test_a_draft_that_comes_after_its_verdict_brings_no_draft_back(place, reader, deferred, signed_in):
    client, sent = signed_in(reader), answer(deferred, reader, comment="decidido")
    client.get(url("queue-case", place, deferred.pk))
    assert client.post(url("queue-draft", place, deferred.pk), sent).status_code == 200
    assert client.post(url("queue-case", place, deferred.pk), sent, **JSON).status_code == 200
    late = client.post(url("queue-draft", place, deferred.pk), sent | {"comment": "tarde"}, **JSON)
    assert late.status_code == 410 and "stored already" in late.json()["message"]
    assert not Draft.objects.exists()
    client.post(url("queue-undo", place, Review.objects.get().pk))
    assert client.post(url("queue-draft", place, deferred.pk), sent | {"comment": "tarde"}).status_code == 410
    assert Draft.objects.get().comment == "decidido"
    fresh = answer(deferred, reader, comment="de nuevo")
    assert client.post(url("queue-draft", place, deferred.pk), fresh).status_code == 200


@pytest.mark.parametrize("meanwhile", ["information", "suspicion", "a lead"])
def test_the_heartbeat_of_a_page_left_open_holds_no_case_that_is_decided_or_set_aside(
    place, reader, lead, deferred, signed_in, meanwhile
):
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    Lease.objects.all().delete()
    if meanwhile == "a lead":
        standing = deferred.predictions.get()
        Adjudication.objects.create(case=deferred, prediction=standing, notes_sha256=standing.notes_sha256)
    else:
        decided(place, lead, deferred, meanwhile)
    told = client.post(url("queue-hold", place, deferred.pk), answer(deferred, reader), **JSON)
    assert told.status_code == 410 and told.json()["held"] is False
    assert ("decided" if meanwhile == "suspicion" else "set aside") in told.json()["notice"]
    assert not Lease.objects.filter(until__gt=timezone.now()).exists()


def test_nobody_saves_under_another_name(place, reader, lead, deferred, signed_in):
    client = signed_in(lead)
    client.get(url("queue-case", place, deferred.pk))
    for name in ("queue-draft", "queue-case"):
        refused = client.post(url(name, place, deferred.pk), answer(deferred, reader), **JSON)
        assert refused.status_code == 409 and "signed in" in refused.json()["message"]
    assert not Draft.objects.exists() and not Review.objects.exists()


def test_a_session_that_ended_is_a_redirect_the_script_can_see(place, reader, deferred, signed_in, client):
    signed_in(reader).get(url("queue-case", place, deferred.pk))
    for name in ("queue-draft", "queue-hold", "queue-case"):
        answered = client.post(url(name, place, deferred.pk), answer(deferred, reader), **JSON)
        assert answered.status_code == 302 and answered.url.startswith("/login/")


def test_undo_brings_back_the_case_and_what_was_typed(place, reader, deferred, signed_in):
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    client.post(url("queue-case", place, deferred.pk), answer(deferred, reader, comment="ojo"))
    page = client.post(url("queue-undo", place, Review.objects.get().pk), follow=True)
    assert page.redirect_chain[0][0] == url("queue-case", place, deferred.pk)
    assert (
        "\nojo</textarea>" in page.content.decode()
        and 'value="suspicion" required checked' in page.content.decode()
    )
    assert not Label.objects.filter(withdrawn_at=None).exists()
    client.post(url("queue-case", place, deferred.pk), answer(deferred, reader, "non_suspicion"))
    assert Label.objects.get(withdrawn_at=None).label == 0
    assert Review.objects.count() == 2


def test_the_script_hears_where_undo_leads_or_why_not(place, reader, deferred, signed_in):
    client = signed_in(reader)
    review = decided(place, reader, deferred)
    answered = client.post(url("queue-undo", place, review.pk), **JSON)
    assert answered.json() == {"next": url("queue-case", place, deferred.pk)}
    again = client.post(url("queue-undo", place, review.pk), **JSON)
    assert again.status_code == 409 and "last ten verdicts" in again.json()["message"]


def test_the_last_ten_decisions_are_listed_each_with_its_way_back(place, reader, signed_in):
    cases = [ambiguous(place) for _ in range(12)]
    reviews = [decided(place, reader, case) for case in cases[:11]]
    client = signed_in(reader)
    client.post(url("queue-undo", place, reviews[10].pk))
    page = client.get(url("queue-case", place, cases[11].pk)).content.decode()
    listed = re.search(r'<ol class="recent">.*?</ol>', page, re.S)[0]
    ways = [int(n) for n in re.findall(r"queue/undo/(\d+)/", listed)]
    assert ways == [review.pk for review in reviews[9:0:-1]]  # the tenth from the end is the oldest
    assert listed.count("Suspicion") == 9


def test_undo_keeps_why(place, reader, deferred, signed_in):
    review = decided(place, reader, deferred, "undecided", why="specialty")
    page = signed_in(reader).post(url("queue-undo", place, review.pk), follow=True).content.decode()
    assert 'value="undecided" required checked' in page and 'name="why" value="specialty" checked' in page


def test_skip_frees_the_case_keeps_the_draft_and_goes_on(place, reader, deferred, signed_in):
    other = ambiguous(place)
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    client.post(url("queue-draft", place, deferred.pk), answer(deferred, reader, comment="a medias"))
    gone = client.post(url("queue-skip", place, deferred.pk), **JSON)
    assert gone.json() == {"next": url("queue-next", place)} and not Lease.objects.exists()
    assert client.get(gone.json()["next"]).url == url("queue-case", place, other.pk)
    assert Draft.objects.get().comment == "a medias"
    assert client.post(url("queue-skip", place, other.pk)).url == url("queue-next", place)


def test_undecided_needs_a_reason_and_a_refused_form_keeps_it(place, reader, deferred, signed_in):
    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    sent = answer(deferred, reader, "undecided", why="", comment="no sé")
    refused = client.post(url("queue-case", place, deferred.pk), sent, **JSON)
    assert (refused.status_code, refused.json()["message"]) == (400, "Say why you cannot decide, then save.")
    Lease.objects.all().delete()
    page = client.post(url("queue-case", place, deferred.pk), sent | {"why": "other"}).content.decode()
    assert 'value="undecided" required checked' in page and 'name="why" value="other" checked' in page


def test_the_tour_is_for_a_readers_first_case(place, reader, signed_in):
    first, second = ambiguous(place), ambiguous(place)
    client = signed_in(reader)
    assert " data-first" in client.get(url("queue-case", place, first.pk)).content.decode()
    decided(place, reader, first)
    for case in (first, second):
        assert " data-first" not in client.get(url("queue-case", place, case.pk)).content.decode()


def test_pages_with_text_are_never_cached(place, reader, deferred, signed_in):
    client = signed_in(reader)
    for name in ("queue-case", "queue-reading"):
        assert "no-store" in client.get(url(name, place, deferred.pk))["Cache-Control"]


@pytest.fixture
def large_ids(db):
    """Ids that a page would write with a thousands separator if it forgot they are ids."""
    with connection.cursor() as cursor:
        for table in ("auth_user", "triage_case", "triage_note", "triage_prediction", "reviews_review"):
            cursor.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), 1234567)", [table])


def test_no_address_or_field_writes_an_id_with_separators(large_ids, place, reader, signed_in):
    case, *_ = [ambiguous(place) for _ in range(32)]
    client = signed_in(reader)
    for address in (url("queue", place), url("queue-case", place, case.pk)):
        page = client.get(address).content.decode()
        assert "1234" in page and "after=1234" in page
        assert not re.search(r"1[,.]234[,.]|after=\d+[,.]", page)


def test_without_javascript_the_form_carries_all_it_needs(large_ids, place, reader, signed_in):
    client, deferred = signed_in(reader), ambiguous(place)
    page = client.get(url("queue-case", place, deferred.pk)).content.decode()
    form = re.search(r'<form class="decision".*?</form>', page, re.S)[0]
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="(.*?)"', form))
    fields |= {"verdict": "suspicion", "comment": "", "evidence": "[]"}
    assert client.post(url("queue-case", place, deferred.pk), fields).status_code == 302
    assert Label.objects.get().label == 1


def test_every_page_speaks_the_protocol_with_more_than_two_labels(place, reader, signed_in):
    from triage import policy
    from triage.access import Workplace
    from triage.models import Protocol

    maude = Workplace(place.site, Protocol.objects.get(slug="maude-severity-en"), place.membership)
    policy.current(maude.site, maude.protocol)
    case = ambiguous(maude, "The pump stopped.")
    client = signed_in(reader)
    with translation.override("en"):
        page = client.get(url("queue-case", maude, case.pk)).content.decode()
        assert re.findall(r"<kbd>(\w)</kbd><span>(.*?)</span>", page)[:5] == [
            ("1", "Death"),
            ("2", "Injury"),
            ("3", "Malfunction"),
            ("4", "Other"),
            ("U", "I cannot decide"),
        ]
        assert ("I", "More must be known") in re.findall(r"<kbd>(\w)</kbd><span>(.*?)</span>", page)
    client.post(url("queue-case", maude, case.pk), answer(case, reader, "Death"))
    assert Label.objects.get().label == 3


@pytest.mark.parametrize("forged", [{"policy": 2}, {"mode": "blind"}, {"seal": ""}])
def test_a_verdict_is_stored_under_what_its_page_was_drawn_with_and_nothing_else(
    place, reader, admin, deferred, signed_in, forged
):
    from triage import policy

    client = signed_in(reader)
    client.get(url("queue-case", place, deferred.pk))
    policy.turn(
        place.site, place.protocol, alpha=0.05, floor=0.01, reason="otra", author=admin, base_version=1
    )
    sent = answer(deferred, reader) | forged
    refused = client.post(url("queue-case", place, deferred.pk), sent, **JSON)
    assert refused.status_code == 409 and not Review.objects.exists()
