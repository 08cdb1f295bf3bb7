"""Who sees what of a case, and when: first and second reader, outsider, lead; before and after their own verdict."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model

from reviews import queue, readings, visibility
from reviews.models import Adjudication, Comment
from tests import factories
from tests.reviews.conftest import answer, url
from triage import policy
from triage.access import Workplace
from triage.models import Explanation, Membership

pytestmark = pytest.mark.django_db
CANARY = "el primero dice esto"


@pytest.fixture
def second(site):
    user = get_user_model().objects.create_user("lector-dos")
    Membership.objects.create(user=user, site=site, role="reader")
    return user


def made(place, *, lot=0.5, numbers=(0.6, 0.3, 0.5)):
    case = factories.case(place.site, place.protocol, "Fiebre y muguet.")
    prediction = factories.prediction(case, *numbers, lot=lot)
    word = {
        "note": 0,
        "start": 9,
        "end": 15,
        "importance": 1.0,
        "margin": 0.9,
        "distance": 0.1,
        "sign": "toward",
    }
    Explanation.objects.create(prediction=prediction, status="ready", words=[word])
    return case, prediction


def audit(place, rate):
    policy.turn(
        place.site,
        place.protocol,
        alpha=0.02,
        floor=0.01,
        audit_rate=rate,
        reason="-",
        author=None,
        base_version=1,
    )


def mine(place, user):
    return Workplace(place.site, place.protocol, Membership.objects.get(user=user, site=place.site))


def blind(place, prediction, user):
    return visibility.blind(place, policy.current(place.site, place.protocol), prediction, user)


def page(signed_in, place, case, user):
    return signed_in(user).get(url("queue-case", place, case.pk)).content.decode()


MODEL = ("mark-toward", "0,60", "0,30", "data-tip")


def test_the_first_reader_of_an_assisted_case_sees_the_words_but_never_the_label(place, reader, signed_in):
    case, prediction = made(place)
    assert not blind(place, prediction, reader)
    html = page(signed_in, place, case, reader)
    assert "mark-toward" in html
    assert "De haberse mantenido" not in html and "habría leído" not in html


def test_a_second_reader_sees_neither_model_nor_first_reader_until_their_own_verdict(
    place, reader, second, signed_in
):
    case, prediction = made(place)
    factories.review(prediction, reader, 1, double=True, comment=CANARY)
    Comment.objects.create(case=case, author=reader, text=CANARY)
    assert blind(place, prediction, second)
    html = page(signed_in, place, case, second)
    assert not any(sign in html for sign in MODEL) and CANARY not in html

    own = factories.review(prediction, second, 1, mode="blind")
    readings.settle(prediction)
    assert not blind(place, prediction, second)
    assert CANARY in page(signed_in, place, case, second)
    own.withdrawn_at = own.at
    own.save()
    assert blind(place, prediction, second)


@pytest.mark.parametrize("numbers", [(0.6, 0.3, 0.5), (0.9, 0.001, 0.5)], ids=["deferred", "automatic"])
def test_a_drawn_case_looks_the_same_whether_deferred_or_automatic(place, reader, signed_in, numbers):
    audit(place, 0.1)
    case, prediction = made(place, lot=0.05, numbers=numbers)
    assert blind(place, prediction, reader)
    html = page(signed_in, place, case, reader)
    assert not any(sign in html for sign in ("mark-toward", "data-tip=", 'class="reason"'))
    assert 'data-state="open"' in html


def test_a_case_read_once_and_a_case_drawn_say_the_same_in_the_list(place, reader, second):
    audit(place, 0.1)
    _, drawn = made(place, lot=0.05)
    _, read = made(place)
    factories.review(read, reader, 1, double=True)
    now = policy.current(place.site, place.protocol)
    covered = visibility.covered(place, now, second)
    rows = policy.standing(place.site, place.protocol).filter(covered)
    assert set(rows) == {drawn, read}
    assert set(
        policy.standing(place.site, place.protocol).filter(visibility.covered(place, now, reader))
    ) == {drawn}


def test_a_blind_protocol_covers_everything_from_everyone(place, reader, lead):
    place.protocol.reading = "blind"
    place.protocol.save()
    _, prediction = made(place)
    assert blind(place, prediction, reader) and blind(mine(place, lead), prediction, lead)
    now = policy.current(place.site, place.protocol)
    assert policy.standing(place.site, place.protocol).filter(visibility.covered(place, now, lead)).exists()


def test_a_lead_reads_blind_like_everyone(place, reader, lead, signed_in):
    case, prediction = made(place)
    factories.review(prediction, reader, 1, double=True, comment=CANARY)
    Comment.objects.create(case=case, author=reader, text=CANARY)
    assert blind(mine(place, lead), prediction, lead)
    html = page(signed_in, place, case, lead)
    assert CANARY not in html and "mark-toward" not in html


def test_the_lead_who_judges_sees_both_readings_and_no_model(place, reader, second, lead, signed_in):
    _, prediction = made(place)
    factories.review(prediction, reader, 1, double=True, comment=CANARY)
    factories.review(prediction, second, 0, mode="blind")
    readings.settle(prediction)
    opened = Adjudication.objects.get()
    html = signed_in(lead).get(url("adjudications-case", place, opened.pk)).content.decode()
    assert CANARY in html
    assert not any(sign in html for sign in (*MODEL, "model-view"))


def test_the_readers_of_a_disagreement_see_each_others_words_only_after_their_own(place, reader, second):
    _, prediction = made(place)
    first = factories.review(prediction, reader, 1, double=True)
    assert not blind(place, prediction, reader)
    assert list(visibility.others(prediction, second)) == [first]
    assert list(visibility.others(prediction, reader)) == []


def test_an_outsider_finds_nothing(place, reader, outsider, signed_in):
    case, _ = made(place)
    for address in (url("queue-case", place, case.pk), url("progress", place), url("agreement", place)):
        assert signed_in(outsider).get(address).status_code == 404


def test_the_mode_recorded_is_the_one_that_was_read(place, reader, second, signed_in):
    audit(place, 0.1)
    for lot, expected in ((0.05, "blind"), (0.5, "assisted")):
        case, _ = made(place, lot=lot)
        queue.hold(case.pk, reader)
        signed_in(reader).post(url("queue-case", place, case.pk), answer(case, reader, policy=2))
        assert case.reviews.get().mode == expected


def test_progress_tells_readers_nothing_of_who_reads_second(place, reader, second, lead, signed_in):
    audit(place, 0.1)
    made(place, lot=0.05)
    _, read = made(place)
    factories.review(read, reader, 1, double=True)
    theirs = signed_in(second).get(url("progress", place)).content.decode()
    leads = signed_in(lead).get(url("progress", place)).content.decode()
    assert "jefa" not in theirs.split("<main")[1] and "jefa" in leads.split("<main")[1]
