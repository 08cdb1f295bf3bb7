"""What was done, what waits, and the hours ahead: counted against a plain reading of the rows."""

from __future__ import annotations

from datetime import timedelta
from statistics import median

import pytest
from django.utils import timezone

from reviews import progress, progress_page, readings
from reviews.models import Adjudication
from tests import factories
from tests.reviews.conftest import ambiguous, url
from triage import dial, policy
from triage.models import Calibration, Membership, Prediction

pytestmark = pytest.mark.django_db


def now(place):
    return policy.current(place.site, place.protocol)


def verdict(place, user, label=1, days=0, **facts):
    prediction = factories.prediction(factories.case(place.site, place.protocol), 0.6, 0.3, 0.5)
    at = timezone.localtime().replace(hour=12, minute=0) - timedelta(days=days)
    return factories.review(prediction, user, label, **({"at": at} | facts))


def test_each_readers_verdicts_by_period(place, reader, lead):
    seconds = [10, 50, 20, 0, 400]
    for i, lasted in enumerate(seconds):
        verdict(place, reader, label=None if i == 1 else 1, days=i * 3, seconds=lasted)
    verdict(place, lead, seconds=5)
    verdict(place, lead, seconds=5, mode="adjudication")
    verdict(place, reader, withdrawn_at=timezone.now())
    today, week, month = (progress.by_reader(place, n)[reader.pk] for n in progress.PERIODS)
    assert [(d.verdicts, d.undecided, d.median, d.timed) for d in (today, week, month)] == [
        (1, 0, 10, 1),
        (3, 1, 20, 3),
        (5, 1, median([10, 50, 20, 400]), 4),
    ]
    assert progress.of_reader(place, reader, 7)[:5] == week[:5]
    leads = progress.by_reader(place, 1)[lead.pk]
    assert (leads.verdicts, leads.adjudicated) == (1, 1)
    assert progress.total(place, 30).verdicts == 6


def test_another_site_counts_apart(place, reader, other_site):
    foreign = factories.prediction(factories.case(other_site, place.protocol), 0.6, 0.3, 0.5)
    factories.review(foreign, reader, 1)
    assert progress.by_reader(place, 30) == {}
    assert progress.waiting(place, now(place)) == {}


def test_what_waits_and_for_whom(place, reader, lead):
    policy.turn(place.site, place.protocol, alpha=0.02, floor=0.01, audit_rate=0.1, reason="-", author=None, base_version=1)  # fmt: skip
    numbers = {"ambiguous": (0.6, 0.3, 0.5), "novel": (0.01, 0.001, 0.5), "atypical": (0.9, 0.001, 0.005), "automatic": (0.9, 0.001, 0.5)}  # fmt: skip
    for kind, times in (("ambiguous", 3), ("novel", 2), ("atypical", 1), ("automatic", 4)):
        for i in range(times):
            factories.prediction(
                factories.case(place.site, place.protocol),
                *numbers[kind],
                lot=0.01 if kind == "automatic" and i == 0 else 0.5,
            )
    for case in (
        second := ambiguous(place),
        disputed := ambiguous(place),
        asked := ambiguous(place),
        done := ambiguous(place),
    ):
        why = "information" if case is asked else ""
        factories.review(
            case.predictions.get(), reader, None if why else 1, why=why, double=case in (second, disputed)
        )
    factories.review(disputed.predictions.get(), lead, 0)
    for case in (second, disputed, asked, done):
        readings.settle(case.predictions.get())
    waits = {why: row.cases for why, row in progress.waiting(place, now(place)).items()}
    assert waits == {"ambiguous": 3, "novel": 2, "atypical": 1, "blind": 1, "second": 1}
    elsewhere = {why: row.cases for why, row in progress.elsewhere(place).items()}
    assert elsewhere == {"lead": 1, "information": 1, "unscored": 0}
    assert progress.together([progress.Waiting(), *progress.waiting(place, now(place)).values()]).cases == 8


def test_the_oldest_is_the_longest_waiting(place):
    for days in (3, 9, 1):
        case = ambiguous(place)
        Prediction.objects.filter(case=case).update(at=timezone.now() - timedelta(days=days))
    row = progress.waiting(place, now(place))["ambiguous"]
    assert (row.cases, (timezone.now() - row.oldest).days) == (3, 9)


def aged(place, days, n=1, numbers=(0.6, 0.3, 0.5), lot=0.5):
    for _ in range(n):
        case = factories.case(place.site, place.protocol)
        factories.prediction(case, *numbers, lot=lot)
        Prediction.objects.filter(case=case).update(at=timezone.now() - timedelta(days=days))


def test_arrivals_are_new_notes_not_new_scores(place):
    aged(place, 60, 5)
    aged(place, 10, 8)
    aged(place, 3, 12, numbers=(0.9, 0.001, 0.5))
    old = Prediction.objects.order_by("at").first()
    again = Prediction.objects.get(pk=old.pk)
    Prediction.objects.filter(pk=old.pk).update(current=False)
    again.pk, again._state.adding = None, True
    again.calibration = _other_calibration(old)
    again.save()
    came = dial.arrivals(place.site, place.protocol, now(place))
    assert (came.cases, came.automatic, came.read) == (20, 12, 8)
    assert came.weeks == pytest.approx(4, abs=0.01) and came.enough


def _other_calibration(prediction):
    ranks = {"counts": [9, 9], "typical_counts": [9, 9], "arrays": b"", "held_out": b""}
    return Calibration.objects.create(release=prediction.release, active=False, **ranks)


def test_the_forecast_is_readings_times_the_median(place, reader):
    place.protocol.double_share = 0.5
    aged(place, 60)
    aged(place, 10, 8)
    aged(place, 3, 4, numbers=(0.9, 0.001, 0.5))
    for _ in range(10):
        verdict(place, reader, seconds=90)
    Prediction.objects.filter(reviews__isnull=False).update(current=False)
    waits = progress.waiting(place, now(place)) | {"second": progress.Waiting(2, timezone.now())}
    found = progress.forecast(place, now(place), waits, progress.total(place, 30))
    assert found.readings == 9 * 1.5 + 2
    assert found.queue == pytest.approx(found.readings * 90 / 3600)
    assert found.read == pytest.approx(8 * 1.5 / 4, rel=0.01)
    assert found.week == pytest.approx(found.read * 90 / 3600)


def test_too_little_is_said_and_not_guessed(place, reader):
    aged(place, 2, 3)
    for _ in range(9):
        verdict(place, reader, seconds=90)
    found = progress.forecast(
        place, now(place), progress.waiting(place, now(place)), progress.total(place, 30)
    )
    assert (found.queue, found.week, found.read) == (None, None, None)
    assert found.timed == 9 and not found.arriving.enough


def test_the_pages_of_reader_and_lead(place, reader, lead, signed_in):
    ambiguous(place)
    verdict(place, reader, seconds=75)
    own = signed_in(reader).get(url("progress", place), HTTP_ACCEPT_LANGUAGE="en").content.decode()
    assert "1\u00a0min 15\u00a0s" in own and "Everyone here" not in own
    team = (
        signed_in(lead).get(url("progress", place) + "?days=30", HTTP_ACCEPT_LANGUAGE="en").content.decode()
    )
    assert "Everyone here" in team and "lectora" in team.split("<main")[1]
    assert signed_in(lead).get(url("progress", place) + "?days=x").status_code == 200


def test_second_readings_are_told_to_leads_alone(place):
    waits = {"second": progress.Waiting(2, timezone.now()), "blind": progress.Waiting(3, timezone.now())}
    assert [(row["cases"], str(row["kind"])) for row in progress_page._waiting(waits, lead=False)] == [
        (5, "")
    ]
    assert [row["cases"] for row in progress_page._waiting(waits, lead=True)] == [3, 2]


def test_a_lead_of_several_places_sees_them_beside_each_other(place, lead, other_site):
    assert progress_page._places(lead) == []
    Membership.objects.create(user=lead, site=other_site, role="lead")
    policy.current(other_site, place.protocol)
    ambiguous(place)
    again = type(lead).objects.get(pk=lead.pk)  # of another request
    rows = {row["site"].slug: row["waiting"] for row in progress_page._places(again)}
    assert rows == {"norte": 1, "sur": 0}
    assert not Adjudication.objects.exists()


# ---------- The audit rate at the dial


def test_what_an_audit_rate_means_in_cases_a_week(place):
    def audited(rate):
        return dial.preview(place, now(place), dial.Setting(0.02, 0.01), rate)["audited"]

    assert audited(0.0)
    aged(place, 2, 3)
    assert "%" not in audited(0.1)
    aged(place, 27, 40, numbers=(0.9, 0.001, 0.5))
    aged(place, 29, 1)
    words = audited(0.2)
    assert "2" in words and "0" in words
