"""The watch over rows: quiet streams stay quiet, planted drift is found and acted on, and looking daily changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime, time, timedelta

import django_rq
import numpy as np
import pytest
from django.utils import timezone

from mlcore import martingale, missed_rate
from reviews import alarms, jobs, missed, progress, watching, webhooks
from reviews.models import Delivery, Label, Webhook
from tests import factories
from tests.reviews.stream import FIRST, arrive, days
from triage import jobs as background
from triage import policy
from triage.models import Alarm, AuditEvent, Calibration, Policy, Prediction, Watch

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch):
    monkeypatch.setattr(jobs, "wake_deliveries", lambda: None)


def stored(place):
    rows = Watch.objects.filter(site=place.site).order_by("week")
    return [(row.week, {k: v for k, v in row.facts.items() if k not in ("after", "missed")}) for row in rows]


def raised():
    return sorted(Alarm.objects.values_list("kind", "measure", "week"))


def test_four_quiet_months_raise_nothing(place):
    random = np.random.default_rng(4)
    for day in days(120):
        arrive(place, day, 12, random)
    assert watching.look(place.site, place.protocol, FIRST + timedelta(days=120)) == []
    weeks = Watch.objects.order_by("week")
    assert not any(c["flagged"] for row in weeks for c in row.facts["checks"] or [])
    assert sum(n for row in weeks for _, n in row.facts["days"]) == 120 * 12
    assert [bool(row.facts["sample"]) for row in weeks][:6] == [False, True, True, True, True, False]


@pytest.mark.parametrize(
    ("change", "measure", "check"),
    [
        ({"doubt": 0.12}, "doubt", None),
        ({"distance": 0.4}, "distance", "distance"),
        ({"longer": 2.0}, "length", "length"),
    ],
    ids=["less sure", "farther", "longer"],
)
def test_planted_drift_is_told_within_a_week_with_its_day_and_size(place, change, measure, check):
    random, changed = np.random.default_rng(5), 40
    for i, day in enumerate(days(54)):
        arrive(place, day, 30, random, **(change if i >= changed else {}))
    found = watching.look(place.site, place.protocol, FIRST + timedelta(days=54))
    [stream] = [one for one in found if one.kind == "stream"]
    assert stream.measure == measure
    told, began = date.fromisoformat(stream.facts["day"]), FIRST + timedelta(days=changed)
    assert began <= told <= began + timedelta(days=7)
    assert abs((date.fromisoformat(stream.facts["since"]) - began).days) <= 3
    assert stream.facts["now"] > stream.facts["before"]
    assert stream.week == told - timedelta(days=told.weekday())
    assert {one.measure for one in found if one.kind == "check"} == ({check} if check else set())


def test_another_language_and_another_mix_of_specialties_are_told_by_the_week_and_once(place):
    random = np.random.default_rng(6)
    for i, day in enumerate(days(56)):
        arrive(place, day, 12, random, **({"language": "en", "specialty": "Pediatría"} if i >= 42 else {}))
    found = watching.look(place.site, place.protocol, FIRST + timedelta(days=59))
    checks = {one.measure: one.facts["effect"] for one in found if one.kind == "check"}
    assert checks["language"] == {"level": "en", "reference": 0.0, "now": pytest.approx(5 / 7, abs=0.1)}
    assert checks["specialty"]["level"] == "Pediatría"
    flagged = [row.week for row in Watch.objects.order_by("week") for c in row.facts["checks"] or [] if c["name"] == "language" and c["flagged"]]  # fmt: skip
    assert len(flagged) == 2 and raised().count(("check", "language", flagged[0])) == 1


def test_looking_every_day_comes_to_what_one_look_does(place):
    random = np.random.default_rng(7)
    for i, day in enumerate(days(40)):
        arrive(place, day, 14, random, **({"distance": 0.5} if i >= 33 else {}))
        watching.look(place.site, place.protocol, day + timedelta(days=1))
    daily, told = stored(place), raised()
    assert {kind for kind, *_ in told} == {"stream", "check"}
    Watch.objects.all().delete()
    Alarm.objects.all().delete()
    watching.look(place.site, place.protocol, FIRST + timedelta(days=40))
    once = stored(place)
    assert [week for week, _ in once] == [week for week, _ in daily]
    assert raised() == told
    for (_, a), (_, b) in zip(once, daily, strict=True):
        for name in watching.MEASURES:
            mine, other = a["streams"][name], b["streams"][name]
            assert mine["start"] == other["start"] and mine["path"] == other["path"]
            assert mine["bets"]["log_m"] == pytest.approx(other["bets"]["log_m"])
        rest = [{k: v for k, v in facts.items() if k != "streams"} for facts in (a, b)]
        assert rest[0] == rest[1]


def test_the_stream_is_what_a_plain_run_of_the_martingale_gives(place):
    random = np.random.default_rng(8)
    rows = [row for day in days(9) for row in arrive(place, day, 20, random)]
    rows.sort(key=lambda row: (row.at.date(), row.notes_sha256))
    watching.look(place.site, place.protocol, FIRST + timedelta(days=9))
    values = np.array([row.distances[0] for row in rows], np.float32)
    log_m = martingale.martingale(martingale.online_p(values, [row.lot for row in rows]))
    path = [
        point for row in Watch.objects.order_by("week") for point in row.facts["streams"]["distance"]["path"]
    ]
    assert [day for day, _ in path] == [day.isoformat() for day in days(9)]
    assert [value for _, value in path] == pytest.approx(log_m.reshape(9, 20).max(axis=1), abs=1e-3)


def test_a_case_counts_once_by_its_first_prediction_and_today_not_yet(place):
    random = np.random.default_rng(9)
    [row] = arrive(place, FIRST, 1, random)
    again = Prediction.objects.get(pk=row.pk)
    Prediction.objects.filter(pk=row.pk).update(current=False)
    again.pk, again._state.adding, again.notes_sha256 = None, True, "f" * 64
    again.at = row.at + timedelta(days=1)
    again.save()
    arrive(place, FIRST + timedelta(days=2), 3, random)
    watching.look(place.site, place.protocol, FIRST + timedelta(days=2))
    [week] = Watch.objects.all()
    assert week.facts["days"] == [[FIRST.isoformat(), 1]]


def test_a_calibration_of_the_sites_own_begins_the_streams_anew(place):
    random = np.random.default_rng(10)
    for i, day in enumerate(days(40)):
        arrive(place, day, 14, random, **({"distance": 0.5} if i >= 30 else {}))
    assert watching.look(place.site, place.protocol, FIRST + timedelta(days=40))
    ranks = {"counts": [9, 9], "typical_counts": [9, 9], "arrays": b"", "held_out": b""}
    made = Calibration.objects.create(release=factories.release(place.protocol), site=place.site, **ranks)
    Calibration.objects.filter(pk=made.pk).update(created_at=timezone.make_aware(datetime.combine(FIRST + timedelta(days=40), time(12))))  # fmt: skip
    for day in days(40, FIRST + timedelta(days=40)):
        arrive(place, day, 14, random, distance=0.5)
    assert watching.look(place.site, place.protocol, FIRST + timedelta(days=80)) == []
    last = Watch.objects.order_by("week").last().facts
    assert last["calibration"] == made.pk and last["streams"]["distance"]["start"] == 0


# What follows an alarm


def drift(place, n=30):
    random = np.random.default_rng(11)
    for i, day in enumerate(days(n)):
        arrive(place, day, 20, random, **({"distance": 0.8} if i >= n - 10 else {}))
    return watching.look(place.site, place.protocol, FIRST + timedelta(days=n))


def turn(place, **given):
    now = policy.latest(place.site, place.protocol)
    base = {"alpha": 0.02, "floor": 0.01, "reason": "-", "author": None, "base_version": now.version}
    return policy.turn(place.site, place.protocol, **base | given)


def test_an_alarm_holds_automation_where_the_policy_says_so(place):
    turn(place, hold_on_alarm=True)
    found = drift(place)
    held = policy.current(place.site, place.protocol)
    assert found and {one.held_id for one in Alarm.objects.all()} == {held.pk}
    assert (held.version, held.automate, held.author) == (3, False, None)
    standing = policy.standing(place.site, place.protocol)
    read = standing.filter(policy.deferred(held.alpha, held.typicality_floor, held.automate)).count()
    assert read == standing.count() == 600
    assert progress.queue(place, held).count() == 600


def test_an_alarm_alone_leaves_the_dial(place):
    assert drift(place)
    assert Policy.objects.count() == 1 and not Alarm.objects.exclude(held=None).exists()


def test_an_alarm_is_told_to_webhooks_and_written_in_the_trail_once(place, admin, monkeypatch):
    on = Webhook.objects.create(site=place.site, protocol=place.protocol, url="http://h/", secret="s", by=admin, active=True)  # fmt: skip
    Webhook.objects.create(site=place.site, protocol=place.protocol, url="http://off/", secret="s", by=admin)
    found = drift(place)
    watching.look(place.site, place.protocol, FIRST + timedelta(days=31))
    assert AuditEvent.objects.filter(verb="watch.alarm").count() == Alarm.objects.count() >= len(found)
    assert Delivery.objects.count() == Alarm.objects.count()
    heard = []
    monkeypatch.setattr(webhooks, "post", lambda hook, told: heard.append(told) or (204, ""))
    assert webhooks.drain() == Alarm.objects.count()
    first = found[0]
    [told] = [one for one in heard if one["alarm"] == first.pk]
    assert told["event"] == "alarm" and (told["kind"], told["measure"]) == (first.kind, first.measure)
    assert (told["site"], told["week"]) == ("norte", first.week.isoformat())
    assert told["figures"] == json.loads(json.dumps(first.facts)) and "fiebre" not in json.dumps(heard)
    assert not Delivery.objects.exclude(webhook=on).exists()


def test_no_text_of_a_note_is_kept(place):
    drift(place)
    kept = json.dumps([row.facts for row in Watch.objects.all()])
    assert "paciente" not in kept and "fiebre" not in kept


# Missed cases


def read(rows, truth, reader):
    for row in rows:
        review = factories.review(row, reader, truth)
        Label.objects.create(case_id=row.case_id, review=review, notes_sha256=row.notes_sha256, label=truth, provenance="single", propensity=0.5)  # fmt: skip


def audit(place, missed_share, reader, n=400, rate=0.5):
    """Automatic cases given label 0, drawn below ``rate`` and read; every so many of them truly label 1."""
    turn(place, audit_rate=rate)
    rows = arrive(place, timezone.localdate() - timedelta(days=3), n, np.random.default_rng(12))
    drawn = [row for row in rows if row.lot < rate]
    wrong = round(missed_share * len(drawn))
    read(drawn[:wrong], 1, reader)
    read(drawn[wrong:], 0, reader)
    return drawn, wrong


def missed_facts(place):
    return Watch.objects.order_by("week").last().facts["missed"]


def test_missed_cases_are_counted_and_more_than_alpha_raises_an_alarm(place, reader):
    drawn, wrong = audit(place, 0.2, reader)
    found = watching.look(place.site, place.protocol)
    row = next(one for one in missed_facts(place)["labels"] if one["label"] == "suspicion")
    low, high = missed_rate.clopper_pearson(wrong, len(drawn))
    assert (row["automatic"], row["read"], row["missed"], row["waiting"]) == (400, len(drawn), wrong, 0)
    assert (row["low"], row["high"], row["verdict"]) == (pytest.approx(low), pytest.approx(high), "above")
    assert row["of_class"]["verdict"] == "above" and row["of_class"]["share"] == 1
    assert [(one.kind, one.measure) for one in found if one.kind == "missed"] == [("missed", "suspicion")]


def test_few_missed_cases_raise_none_and_the_reads_still_needed_are_told(place, reader):
    audit(place, 0, reader, n=100)
    assert watching.look(place.site, place.protocol) == []
    row = next(one for one in missed_facts(place)["labels"] if one["label"] == "suspicion")
    assert (row["missed"], row["verdict"]) == (0, "cannot be told yet")
    assert row["more_reads"] == 183 - row["read"]  # 0.975 ** ... : (1 - 0.02) ** 183 < 0.025


def test_nothing_can_be_said_without_an_audit_and_a_drawn_case_unread_counts_as_waiting(place, reader):
    rows = arrive(place, timezone.localdate() - timedelta(days=3), 40, np.random.default_rng(13))
    watching.look(place.site, place.protocol)
    assert {one["unaudited"] for one in missed_facts(place)["labels"]} == {40, 0}
    turn(place, audit_rate=1.0)
    read(rows[:10], 0, reader)
    watching.look(place.site, place.protocol)
    row = next(one for one in missed_facts(place)["labels"] if one["label"] == "suspicion")
    assert (row["unaudited"], row["read"], row["waiting"]) == (0, 10, 30)


def test_a_lowered_rate_keeps_a_sample_that_was_read_and_drops_one_that_was_not(place, reader):
    cell = missed.Cell(0, False, 0, 0, drawn=True, now=False, n=9)
    now = missed.Cell(1, False, 0, 0, drawn=True, now=True, n=1)
    rates = [c.rate for c in missed.settled([cell, now], [0.4, 0.1], 0.1)]
    assert rates == [0.4, 0.1]
    waits = missed.settled([cell, cell._replace(truth=None), now], [0.4, 0.1], 0.1)
    assert [(c.rate, c.drawn) for c in waits] == [(0.1, False), (0.1, False), (0.1, True)]


def test_strata_from_counts_are_those_from_cases():
    random = np.random.default_rng(14)
    given, truth = random.integers(0, 3, 500), random.integers(-2, 3, 500)
    rate = random.choice([0.1, 0.4], 500)
    cells = [missed.Cell(0, False, int(g), int(t) if t >= 0 else None, bool(t != -1), bool(t != -1), 1, float(r)) for g, t, r in zip(given, truth, rate, strict=True)]  # fmt: skip
    for label in range(3):
        for kept in (False, True):
            assert missed.strata(cells, label, kept) == missed_rate.strata(given, truth, rate, label, kept)


# When it runs


def age_looks(hours):
    Watch.objects.update(at=timezone.now() - timedelta(hours=hours))


def test_it_looks_where_something_came_and_not_twice_within_the_hour(place, reader, other_site):
    policy.current(other_site, place.protocol)
    assert not watching.due().exists()
    rows = arrive(place, timezone.localdate() - timedelta(days=2), 5, np.random.default_rng(15))
    assert [row.site for row in watching.due()] == [place.site]
    assert watching.look_where_due() == 1 and not watching.due().exists()
    age_looks(0.5)
    read(rows[:1], 0, reader)
    assert not watching.due().exists()
    midnight = watching._midnight(watching._today())
    Watch.objects.update(at=max(midnight, timezone.now() - timedelta(hours=2)))
    Label.objects.update(at=timezone.now())
    if timezone.now() - midnight > timedelta(hours=1):
        assert watching.look_where_due() == 1
    age_looks(48)
    assert watching.due().exists()


def test_a_place_that_fails_in_any_way_keeps_no_other_from_its_look(place, other_site, monkeypatch, caplog):
    other = replace(place, site=other_site)
    policy.current(other_site, place.protocol)
    for here in (place, other):
        arrive(here, timezone.localdate() - timedelta(days=2), 5, np.random.default_rng(15))
    look, tried = watching._look, []

    def first_fails(site, protocol):
        tried.append(site)
        if len(tried) == 1:
            raise ZeroDivisionError
        return look(site, protocol)

    monkeypatch.setattr(watching, "_look", first_fails)
    assert watching.look_where_due() == 1
    assert Watch.objects.values_list("site", flat=True).distinct().get() == tried[1].pk
    assert f"of {tried[0].slug} could not be watched" in caplog.text and "ZeroDivisionError" in caplog.text


def test_without_a_release_there_is_nothing_to_look_at(place):
    assert watching.look(place.site, place.protocol) == [] and not Watch.objects.exists()


def test_the_reconciler_wakes_the_watch(place, monkeypatch):
    woken = []
    monkeypatch.setattr(jobs, "wake_watch", lambda: woken.append(1))
    jobs.reconcile()
    arrive(place, timezone.localdate() - timedelta(days=2), 5, np.random.default_rng(16))
    jobs.reconcile()
    assert woken == [1]
    jobs.watch()
    jobs.reconcile()
    assert woken == [1]


@pytest.mark.django_db(transaction=True)
def test_wake_ups_do_not_pile_up_nor_keep_other_kinds_out():
    line = django_rq.get_queue(background.LIGHT)
    line.empty()
    background.wake_explaining()
    [other] = line.get_jobs()
    line.connection.hset(other.key, "data", b"not to be read")
    for _ in range(3):
        jobs.wake_watch()
        jobs.wake_exports()
    assert [job.func_name for job in line.get_jobs()[1:]] == ["reviews.jobs.watch", "reviews.jobs.export"]
    assert [job.timeout for job in line.get_jobs()[1:]] == [600, 6 * 3600]
    line.empty()


def test_an_alarm_is_seen_once_with_a_remark(place, lead, other_site):
    drift(place)
    alarm = Alarm.objects.first()
    assert alarms.unseen(place)
    for one in Alarm.objects.all():
        seen = alarms.see(place, lead, one.pk, "Nueva planta.")
        assert (seen.seen_by, seen.remark) == (lead, "Nueva planta.")
    assert alarms.see(place, lead, alarm.pk, "Otra vez.") is None
    assert not alarms.unseen(place)
    assert AuditEvent.objects.filter(verb="watch.seen", actor=lead).count() == Alarm.objects.count()
