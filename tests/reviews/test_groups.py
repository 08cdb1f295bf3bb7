"""The page of words by group of cases: who sees it, what it counts, what it says where nothing is, what the trail keeps."""

import json
import re
from datetime import UTC, datetime

import pytest
from django.utils import translation

from mlcore import cohort
from mlcore.cohort import Row
from reviews import groups, queue
from reviews.adjudication import decide
from tests.reviews.conftest import ambiguous, cleaned, url
from triage import cohorts
from triage.models import AuditEvent, Baseline, Explanation, Policy, Prediction, Release

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def english(settings):
    settings.LANGUAGE_CODE = "en"
    with translation.override("en"):
        yield


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Words of a single case are shown, so that a group of one is enough; the rule has a test of its own."""
    monkeypatch.setattr(groups, "LEAST", 1)


def word(start, end, margin, note=0):
    place = {"note": note, "start": start, "end": end, "importance": 0.25}
    return place | {"margin": margin, "distance": 0.5, "sign": "toward" if margin > 0 else "away"}


def explained(place, text="Fiebre y muguet.", **facts):
    case = ambiguous(place, text, **facts)
    found = [word(9, 15, 1.0), word(0, 6, -0.5)]
    Explanation.objects.filter(prediction__case=case).update(words=found)
    return case


def shown(page):
    return json.loads(re.search(r'<script id="words" type="application/json">(.*?)</script>', page)[1])


def counts(page):
    return [int(n) for n in re.findall(r"n = (\d+)</span></a>", page)]


def test_a_groups_words_are_drawn_and_tabled_with_the_same_figures(place, lead, signed_in):
    explained(place)
    explained(place, typicality=0.004, runner_up=0.001)
    Baseline.objects.create(release=Release.objects.get(), cases=400, words={"muguet": 0.125})
    page = signed_in(lead).get(url("words", place) + "?cohort=ambiguous").content.decode()
    figure, found = shown(page), cohorts.words(place.site, place.protocol, "ambiguous", {})
    assert [row.word for row in found.rows] == figure["words"] == ["fiebre", "muguet"]
    assert figure["scores"] == [row.score for row in found.rows]
    assert (figure["baseline"], figure["signs"]) == ([0.0, 0.125], ["away", "toward"])
    rows = re.findall(r"<tr><th scope=\"row\"><bdi>(.*?)</bdi></th>(.*?)</tr>", page)
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", rest) for name, rest in rows}
    assert cells["muguet"] == ["0.500", "0.125", "towards «Suspicion»", "+1.00", "+0.50", "1"]
    assert cells["fiebre"][2:4] == ["against", "−0.50"]
    assert counts(page) == [0, 0, 1, 0, 1]
    assert "n = 1 of 1 cases" in page and "Calibration: n = 400." in page


def test_right_and_wrong_are_told_by_readers_labels(place, reader, lead, signed_in):
    for verdict in ("non_suspicion", "suspicion"):
        case = explained(place)
        queue.hold(case.pk, reader)
        decide(place, reader, case, cleaned(case, reader, verdict))
    explained(place)
    Policy.objects.create(
        site=place.site, protocol=place.protocol, version=2, alpha=0.4, typicality_floor=0, reason="r"
    )
    page = signed_in(lead).get(url("words", place)).content.decode()
    assert counts(page) == [1, 1, 0, 0, 0]
    assert 'aria-current="page"' in re.search(r"<a[^>]*>(?:(?!</a>).)*Automatic, right", page, re.S)[0]


def test_a_label_for_other_notes_says_nothing_of_this_prediction(place, reader):
    from reviews import selectors

    case = explained(place)
    queue.hold(case.pk, reader)
    decide(place, reader, case, cleaned(case, reader))
    assert selectors.labels(place) == {case.pk: 1}
    Prediction.objects.filter(case=case).update(notes_sha256="f" * 64)
    assert selectors.labels(place) == {}


def test_the_period_is_in_the_address_and_in_every_link(place, lead, signed_in):
    explained(place)
    old = explained(place)
    Prediction.objects.filter(case=old).update(at=datetime(2020, 5, 17, 12, tzinfo=UTC))
    client = signed_in(lead)
    page = client.get(url("words", place) + "?cohort=ambiguous&since=2020-05-01&until=2020-05-31")
    assert counts(page.content.decode()) == [0, 0, 1, 0, 0]
    links = re.findall(
        r'href="\?cohort=\w+&amp;since=2020-05-01&amp;until=2020-05-31"', page.content.decode()
    )
    assert len(links) == 5
    assert 'value="2020-05-01"' in page.content.decode()
    assert counts(client.get(url("words", place) + "?since=2021-01-01").content.decode()) == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("query", ["since=yesterday", "cohort=x", "since=2021-01-02&until=2021-01-01"])
def test_a_choice_that_cannot_be_read_is_a_sentence_and_discloses_nothing(place, lead, signed_in, query):
    explained(place)
    page = signed_in(lead).get(url("words", place) + "?" + query)
    assert page.status_code == 400 and 'role="alert"' in page.content.decode()
    assert "muguet" not in page.content.decode()
    assert not AuditEvent.objects.filter(verb="words.disclose").exists()


def test_every_view_is_a_disclosure_without_a_word_of_the_notes(place, lead, reader, signed_in):
    explained(place)
    signed_in(lead).get(url("words", place) + "?cohort=ambiguous&since=2020-01-01")
    signed_in(reader).get(url("words", place))
    event = AuditEvent.objects.get(verb="words.disclose")
    assert event.actor == lead and event.site == place.site
    assert event.details == {"cohort": "ambiguous", "since": "2020-01-01", "until": "", "cases": 1, "rows": 2}


def test_no_event_no_page(place, lead, signed_in, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the trail is full")

    explained(place)
    monkeypatch.setattr("triage.audit.record", broken)
    client = signed_in(lead)
    client.raise_request_exception = False
    page = client.get(url("words", place) + "?cohort=ambiguous")
    assert page.status_code == 500 and b"muguet" not in page.content


def test_what_is_missing_is_asked_for_once_and_after_everything_else(place, lead, signed_in):
    case = explained(place)
    Explanation.objects.filter(prediction__case=case).delete()
    client, address = signed_in(lead), url("words", place) + "?cohort=ambiguous"
    page = client.get(address).content.decode()
    assert "has its words yet" in page and "Work out the words of one more case" in page
    asked = client.post(address, follow=True)
    assert (
        asked.redirect_chain == [(address, 302)] and "The words of 1 case are being" in asked.content.decode()
    )
    assert Explanation.objects.get().priority == Explanation.Priority.COHORT
    assert "were asked for already" in client.post(address, follow=True).content.decode()
    assert Explanation.objects.count() == 1


def test_a_reader_cannot_ask_either(place, reader, signed_in):
    ambiguous(place)
    assert signed_in(reader).post(url("words", place)).status_code == 403


def test_an_empty_group_says_what_would_fill_it(place, lead, signed_in):
    client = signed_in(lead)
    assert "once a reader has labelled it" in client.get(url("words", place)).content.decode()
    page = client.get(url("words", place) + "?cohort=novel").content.decode()
    assert "Choose another group" in page and "cohort.js" not in page


def test_without_a_baseline_the_page_names_the_command(place, lead, signed_in):
    explained(place)
    page = signed_in(lead).get(url("words", place) + "?cohort=ambiguous").content.decode()
    assert "cohort_words --baseline" in page and shown(page)["baseline"] is None


def test_words_are_text_wherever_they_are_shown(place, lead, signed_in):
    text = "<script>alert(1)</script> muguet"
    case = explained(place, text)
    found = [word(0, 25, 1.0), word(26, 32, 0.5)]
    Explanation.objects.filter(prediction__case=case).update(words=found)
    page = signed_in(lead).get(url("words", place) + "?cohort=ambiguous").content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)</script>" in shown(page)["words"]


def test_a_word_that_pulls_both_ways_is_neither():
    row = Row(word="x", score=0.1, baseline=0.0, direction=0.1, cases=3, margin=-0.001, distance=0.0)
    assert (groups._row(row)["sign"], groups._row(row)["margin"]) == ("mixed", "0.00")


def test_only_the_twenty_weightiest_are_shown_and_the_rest_are_counted(place, lead, signed_in, monkeypatch):
    rows = [Row(f"w{i:02}", 1 / (i + 1), 0.0, 1.0, 3, 0.1, 0.1) for i in range(23)]
    monkeypatch.setattr(cohorts, "words", lambda *a, **k: cohorts.CohortWords(9, 9, rows, None))
    page = signed_in(lead).get(url("words", place)).content.decode()
    assert shown(page)["words"] == [row.word for row in rows[:20]]
    assert "3 lighter words are left out." in page


def test_a_word_of_fewer_than_five_cases_is_counted_and_not_shown(place, lead, signed_in, monkeypatch):
    monkeypatch.setattr(groups, "LEAST", cohort.LEAST_CASES)
    for _ in range(4):
        explained(place)
    client = signed_in(lead)
    page = client.get(url("words", place) + "?cohort=ambiguous").content.decode()
    assert "muguet" not in page and "fiebre" not in page
    assert "2 words stand in fewer than 5 cases" in page
    explained(place, "Fiebre y ceguera.")
    page = client.get(url("words", place) + "?cohort=ambiguous").content.decode()
    assert shown(page)["words"] == ["fiebre"]
    assert "muguet" not in page and "ceguer" not in page and "2 words stand in fewer" in page
