"""What the watch says in words, to whom, and what a lead may do about it."""

from __future__ import annotations

import json
from datetime import date, timedelta
from io import StringIO

import numpy as np
import pytest
from django.core.management import call_command
from django.utils import timezone, translation

from mlcore.errors import DataError
from mlcore.missed_rate import Stratum
from reviews import jobs, missed, watch_page, watching
from tests import factories
from tests.reviews.conftest import url
from tests.reviews.test_watching import FIRST, arrive, audit, days, drift
from triage import policy
from triage.models import Alarm, Release, Watch

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _english(monkeypatch):
    monkeypatch.setattr(jobs, "wake_deliveries", lambda: None)
    with translation.override("en"):
        yield


def body(client, place):
    response = client.get(url("watch", place), headers={"accept-language": "en"})
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def said(place, **facts):
    return watch_page.sentence(place.protocol, factories.alarm(place.site, place.protocol, **facts))


def test_alarms_in_words(place):
    numbers = {"before": 2.4, "now": 3.9, "since": "2026-05-12"}
    assert said(place, measure="length", facts=numbers) == "Since about 12 May 2026 records are longer: median 2.4\u00a0kB → 3.9\u00a0kB."  # fmt: skip
    surer = {"before": 0.2, "now": 0.1, "since": "2026-05-12"}
    assert "the model is surer of its label: median 0.20 → 0.10" in said(place, measure="doubt", facts=surer)
    same = {"before": 0.2, "now": 0.2, "since": "2026-05-12"}
    assert "in another measure" in said(place, measure="doubt", week=date(2026, 5, 18), facts=same)
    mix = {"effect": {"level": "en", "reference": 0.0, "now": 0.31}}
    assert said(place, kind="check", measure="language", facts=mix) == "In the week of 11 May 2026 31\u00a0% of the cases are «English», in the reference 0\u00a0%."  # fmt: skip
    missed = {"rate": 0.08, "low": 0.04, "high": 0.13, "alpha": 0.02, "of_class": None}
    assert said(place, kind="missed", measure="suspicion", facts=missed) == (
        "Of the automatic cases given another label, 8.0\u00a0% truly are «Suspicion» (4.0\u00a0% – 13\u00a0%); α allows 2.0\u00a0%."
    )


def test_without_a_release_or_a_look_the_page_says_what_to_do(place, reader, signed_in):
    assert "No release is installed" in body(signed_in(reader), place)
    factories.release(place.protocol)
    assert "Nothing has been looked at yet" in body(signed_in(reader), place)


def test_a_quiet_stream_is_told_with_its_number_of_cases(place, reader, signed_in):
    random = np.random.default_rng(3)
    for day in days(3):
        arrive(place, day, 12, random)
    watching.look(place.site, place.protocol, FIRST + timedelta(days=3))
    assert "Too few cases to tell: 3 streams over 36 cases since 4 Mar 2026." in body(signed_in(reader), place)  # fmt: skip
    for day in days(9, FIRST + timedelta(days=3)):
        arrive(place, day, 12, random)
    watching.look(place.site, place.protocol, FIRST + timedelta(days=12))
    page = body(signed_in(reader), place)
    assert "Nothing has changed since 4 Mar 2026: 3 streams quiet over 144 cases." in page
    assert "The audit rate is 0" in page and "reference, n = " in page


def test_drift_is_told_first_and_a_lead_marks_it_seen(place, reader, lead, signed_in):
    drift(place)
    alarm = Alarm.objects.get(kind="stream")
    page = body(signed_in(reader), place)
    assert "cases lie farther from those the model knows" in page.split("<h2")[0]
    assert "Mark as seen" not in page and "Nobody has seen it yet" in page
    assert "Mark as seen" in body(signed_in(lead), place)
    where = url("watch-see", place, alarm.pk)
    assert signed_in(reader).post(where, {"remark": "x"}).status_code == 403
    assert signed_in(lead).post(where, {"remark": " "}).status_code == 400
    assert signed_in(lead).post(where, {"remark": "x" * 1001}).status_code == 400
    assert Alarm.objects.get(pk=alarm.pk).seen_at is None
    assert signed_in(lead).post(where, {"remark": "New ward <b>."}).status_code == 302
    alarm.refresh_from_db()
    assert (alarm.seen_by, alarm.remark) == (lead, "New ward <b>.")
    page = body(signed_in(reader), place)
    assert "New ward &lt;b&gt;." in page
    assert "cases lie farther from those the model knows" in page.split("<h2")[0]


def test_missed_cases_are_told_by_label_with_interval_and_verdict(place, reader, signed_in):
    drawn, wrong = audit(place, 0.2, reader)
    watching.look(place.site, place.protocol)
    page = body(signed_in(reader), place)
    assert f'<td class="number">{len(drawn)}</td>' not in page or wrong
    assert "Suspicion" in page and "more than α allows" in page and "positive" not in page
    with translation.override("en"):
        [row] = [r for r in watch_page._missed(place.protocol, Watch.objects.get().facts["missed"])["rows"] if r["above"]]  # fmt: skip
    assert (row["read"], row["missed"]) == (str(len(drawn)), str(wrong))


def test_why_nothing_is_said_of_missed_cases_is_in_the_language_of_the_page(place, reader, monkeypatch):
    audit(place, 0.2, reader)
    unlike = [Stratum(0.1, 1000, 300, 0), Stratum(0.2, 1000, 200, 0)]
    monkeypatch.setattr(missed, "strata", lambda *_: unlike)
    watching.look(place.site, place.protocol)
    facts = Watch.objects.get().facts["missed"]
    message, figures = facts["refused"]
    assert figures == {"drawn": 300, "automatic": 1000, "propensity": 0.1}
    assert watch_page._missed(place.protocol, facts)["why"].startswith("300 of 1000 cases were drawn")
    monkeypatch.setattr(watch_page, "_", {message: "Se sortearon %(drawn)s."}.__getitem__)
    assert watch_page._missed(place.protocol, facts)["why"] == "Se sortearon 300."
    assert (
        watch_page._missed(place.protocol, facts | {"refused": "Stored before."})["why"] == "Stored before."
    )


def test_the_banner_stands_above_queue_and_dial_for_leads_until_it_is_seen(
    place, reader, lead, signed_in, django_assert_max_num_queries
):
    words = "La vigilancia dio una alarma", "The watch raised an alarm"

    def shown(user, address):
        return any(one in signed_in(user).get(address).content.decode() for one in words)

    dial = f"/{place.site.slug}/{place.protocol.slug}/dial/"
    queue = url("queue", place)
    assert not shown(lead, queue)
    alarm = factories.alarm(place.site, place.protocol)
    assert shown(lead, queue) and shown(lead, dial)
    assert not shown(reader, queue) and not shown(lead, url("progress", place))
    Alarm.objects.filter(pk=alarm.pk).update(seen_at=timezone.now())
    assert not shown(lead, queue)


def test_the_command_says_sentences_or_figures(place, capsys):
    random = np.random.default_rng(2)
    for day in days(12):
        arrive(place, day, 12, random)
    out = StringIO()
    call_command("watch", site="norte", stdout=out)
    assert out.getvalue().startswith("norte · hiv-suspicion-es\n  Nothing has changed since 4 Mar 2026: 3 streams quiet over 144 cases.")  # fmt: skip
    out = StringIO()
    call_command("watch", json=True, stdout=out)
    [found] = json.loads(out.getvalue())
    assert set(found["streams"]) == set(watching.MEASURES) and found["new_alarms"] == []
    with pytest.raises(DataError, match="nowhere"):
        call_command("watch", site="nowhere")
    with pytest.raises(DataError, match="in use"):
        call_command("watch", protocol="maude-severity-en")


def test_a_former_releases_alarm_is_no_state_of_this_one(place):
    factories.alarm(place.site, place.protocol)
    Release.objects.update(active=False)
    Release.objects.create(protocol=place.protocol, name="b", sha256="b" * 64, card={}, active=True)
    policy.current(place.site, place.protocol)
    page = watch_page.page(place)
    assert page["alarms"][0]["former"] and "Nothing has been looked at" in page["state"][0]
