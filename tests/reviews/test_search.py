"""Search finds what is written, however it is accented or inflected, shows it as it is written, and says it nowhere else."""

import logging
import re
from html import unescape
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from django.contrib.sessions.models import Session
from django.http import QueryDict

from reviews import pages, search, selectors, visibility
from reviews.filters import Filters
from tests import factories
from tests.reviews.conftest import ambiguous, url
from triage import policy
from triage.access import Workplace
from triage.models import AuditEvent, Protocol

pytestmark = pytest.mark.django_db
CANARY = "kanarienvogel4711"


@pytest.fixture(autouse=True)
def english(settings):
    settings.LANGUAGE_CODE = "en"


def hits(place, user, said, **asked):
    now = policy.current(place.site, place.protocol)
    found = search.Search(place.protocol, said)
    covered = visibility.covered(place, now, user)
    rows = selectors.queue_page(place, user, now, covered, Filters(**asked), found)
    return [row.case_id for row in rows], found.passages([(row.pk, row.note_ids) for row in rows])


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("neumonia", {0, 1}),
        ("NEUMONÍAS", {0, 1}),
        ("neumonia fiebre", {0}),
        ("neumonia -fiebre", {1}),
        ('"peso perdida"', set()),
        ('"pérdida de peso"', {2}),
        ("«peso perdida»", set()),
        ("fiebre or peso", {0, 2}),
        ("de la", set()),
        ("'; drop table --", set()),
        ("<b> & | ! : *", set()),
        ('neumonia -"fiebre bilateral"', {0, 1}),
        ('neumonia -"neumonia bilateral"', {1}),
    ],
)
def test_words_are_found_by_stem_and_across_accents(place, reader, said, found):
    cases = [
        ambiguous(place, "Neumonía bilateral. Fiebre.", urgency=0.9),
        ambiguous(place, "Sin datos.", "Antecedente de neumonia.", urgency=0.8),
        ambiguous(place, "Pérdida de peso.", urgency=0.7),
    ]
    assert hits(place, reader, said)[0] == [cases[i].pk for i in sorted(found)]


def test_english_notes_are_stemmed_in_english(place, reader):
    maude = Workplace(place.site, Protocol.objects.get(slug="maude-severity-en"), place.membership)
    policy.current(maude.site, maude.protocol)
    case = ambiguous(maude, "The pumps had stopped.")
    assert hits(maude, reader, "pump stops")[0] == [case.pk]
    assert hits(place, reader, "pump stops")[0] == []


@pytest.mark.parametrize("few", [0, 1000])
def test_the_hits_of_a_long_queue_are_those_of_a_plain_reading_page_by_page(place, reader, few, monkeypatch):
    """Both ways of finding them: all notes asked for at once, and the list walked in steps."""
    monkeypatch.setattr(search, "FEW", few)
    n = 130
    made = factories.predictions(
        place.site, place.protocol, [0.6] * n, [0.3] * n, [0.5] * n, [i / n for i in range(n)]
    )
    saying = [p for i, p in enumerate(made) if i % 3 == 0]
    for p in saying:
        note = p.case.notes()[0]
        note.text = "Sarcoma de Kaposi."
        note.save()
    expected, shown, after = [p.case_id for p in saying[::-1]], [], None
    while len(shown) < len(expected):
        page = hits(place, reader, "kaposi", after=after)[0][: selectors.PAGE]
        assert page
        shown, after = shown + page, page[-1]
    assert shown == expected
    assert hits(place, reader, '"sarcoma de kaposi"')[0][:30] == expected[:30]
    assert hits(place, reader, '"kaposi sarcoma"')[0] == []


def test_a_search_for_a_phrase_stops_before_it_reads_every_note(place, reader, monkeypatch):
    monkeypatch.setattr(search, "CHECKED", 50)
    n = 400
    made = factories.predictions(place.site, place.protocol, [0.6] * n, [0.3] * n, [0.5] * n)
    type(made[0].case.notes()[0]).objects.update(text="Kaposi, no sarcoma.")
    found = search.Search(place.protocol, '"sarcoma de kaposi"')
    rows = selectors.ordered(selectors.unread(place, policy.current(place.site, place.protocol)))
    assert found(rows, 31) == [] and found.cut


def test_a_note_that_came_after_the_score_is_not_searched_for_the_case(place, reader):
    case = ambiguous(place, "Fiebre.")
    factories.note(case.patient, "Kaposi.")
    assert hits(place, reader, "kaposi")[0] == []


def test_the_passage_is_the_text_as_written_with_its_words_marked(place, reader):
    text = (
        "a < b & «c» <script>alert(1)</script> "
        + "x " * 100
        + "\n NEUMONÍA  bilateral; neumonías. "
        + "y " * 100
    )
    case = ambiguous(place, "Antes: neumonía.", text)
    passage = hits(place, reader, "neumonia")[1][case.predictions.get().pk]
    assert "<mark>NEUMONÍA</mark>  bilateral; <mark>neumonías</mark>." in passage
    plain = passage.replace("<mark>", "").replace("</mark>", "").strip("… ")
    assert plain in text and passage.startswith("… x ") and passage.endswith(" y …")


@pytest.mark.parametrize(
    ("text", "forms", "shown"),
    [
        ("<b>Sida</b>", {"Sida"}, "&lt;b&gt;<mark>Sida</mark>&lt;/b&gt;"),
        ("VIH-1 y VIH", {"VIH"}, "<mark>VIH</mark>-1 y <mark>VIH</mark>"),
        ("nada", {"otra"}, "nada"),
        ("nada", set(), "nada"),
        ("a.b c", {"a.b"}, "<mark>a.b</mark> c"),
    ],
)
def test_a_passage(text, forms, shown):
    assert search.passage(text, forms) == shown


def test_the_session_keeps_the_last_searches_under_keys_of_their_own():
    session = {}
    first = search.keep(session, "uno")
    assert search.keep(session, "uno") == first and search.terms(session, first) == "uno"
    keys = [search.keep(session, str(i)) for i in range(search.KEPT)]
    assert search.terms(session, first) == "" and search.terms(session, keys[0]) == "0"
    assert search.terms(session, "x") == "" and search.terms({}, first) == ""


def test_promise_22_what_is_searched_for_stands_in_no_address_log_or_event(place, reader, signed_in, caplog):
    caplog.set_level(logging.DEBUG)
    case = ambiguous(place, f"Muguet. {CANARY}.")
    client = signed_in(reader)
    sent = client.post(url("queue-search", place), {"terms": CANARY, "query": "order=wait&after=3"})
    assert CANARY not in sent.url and "order=wait" in sent.url and "after" not in sent.url
    page = client.get(sent.url).content.decode()
    assert f"<mark>{CANARY}</mark>" in page and f'value="{CANARY}"' in page
    assert case.patient.pseudonym in page
    event = AuditEvent.objects.get(verb="notes.search")
    assert (event.actor, event.details) == (reader, {"hits": 1, "show": "", "cases": [case.pk]})
    logged = [r.getMessage() for r in caplog.records if r.name != "django.db.backends"]
    assert CANARY not in str(list(AuditEvent.objects.values())) and CANARY not in str(logged)
    client.post("/logout/")
    assert not Session.objects.exists() or search.SESSION not in Session.objects.get().get_decoded()


def test_a_search_that_is_too_long_is_refused_in_a_sentence_and_never_cut(place, reader, signed_in):
    client = signed_in(reader)
    page = client.post(url("queue-search", place), {"terms": "fiebre " * 40, "query": ""}, follow=True)
    html = page.content.decode()
    assert "280" in html and "200" in html.split("280")[1][:60]
    assert 'maxlength="200"' not in html and 'pattern=".{0,200}"' in html
    assert not client.session.get(search.SESSION)


def test_a_search_that_ended_says_so_and_no_passage_is_shown_without_its_event(
    place, reader, deferred, signed_in, monkeypatch
):
    client = signed_in(reader)
    ended = client.get(url("queue", place) + "?q=unknown&show=all")
    assert ended.status_code == 400 and "This search has ended" in ended.content.decode()
    assert not AuditEvent.objects.filter(verb="notes.search").exists()

    def broken(*args, **kwargs):
        raise RuntimeError("the trail is full")

    address = client.post(url("queue-search", place), {"terms": "muguet"}).url
    monkeypatch.setattr("triage.audit.record", broken)
    client.raise_request_exception = False
    refused = client.get(address)
    assert refused.status_code == 500 and b"muguet" not in refused.content


def test_all_cases_are_found_with_what_is_asked_of_the_reader_and_no_more(place, reader, lead, signed_in):
    """A drawn automatic case waits like any other; one that was not drawn asks for nothing."""
    from tests.reviews.conftest import answer

    Policy = type(policy.current(place.site, place.protocol))
    facts = policy.FIRST | {"version": 2, "reason": "r", "audit_rate": 0.2}
    Policy.objects.create(site=place.site, protocol=place.protocol, **facts)
    waits = ambiguous(place)
    drawn = ambiguous(place, runner_up=0.001, lot=0.1)
    automatic = ambiguous(place, runner_up=0.001)
    decided = ambiguous(place)
    client = signed_in(lead)
    client.get(url("queue-case", place, decided.pk))
    client.post(url("queue-case", place, decided.pk), answer(decided, lead, policy=2))
    client = signed_in(reader)
    address = client.post(url("queue-search", place), {"terms": "muguet", "query": ""}).url
    rows = client.get(address + "&show=all").context["rows"]
    assert {row["case"]: str(row["state"]) for row in rows} == {
        waits.pk: "waits for you",
        drawn.pk: "waits for you",
        automatic.pk: "nothing asked of you",
        decided.pk: "decided",
    }
    assert {row["case"] for row in client.get(address).context["rows"]} == {waits.pk}
    assert {row["case"] for row in client.get(address + "&show=blind").context["rows"]} == {drawn.pk}


def test_terms_that_cannot_be_are_a_sentence(place, reader, signed_in):
    page = signed_in(reader).post(url("queue-search", place), {"terms": "a\x00b"}, follow=True)
    assert page.status_code == 200 and "could not be read" in page.content.decode()


def test_only_stop_words_are_a_sentence(place, reader, deferred, signed_in):
    page = signed_in(reader).post(url("queue-search", place), {"terms": "de la"}, follow=True)
    assert "Only words that stand everywhere" in page.content.decode()


def test_a_search_that_cannot_be_read_says_so(place, reader):
    ambiguous(place, "Fiebre.")
    for said in ("-" * 50, "-" * 200 + "fiebre"):
        found = search.Search(place.protocol, said)
        assert found.empty and found.refusal == search.UNREAD
        assert hits(place, reader, said) == ([], {})
    assert search.Search(place.protocol, "de la").refusal == search.EVERYWHERE
    assert search.Search(place.protocol, "fiebre").refusal == ""


def marked(page):
    return re.findall(r'<mark class="hit"[^>]*>(.*?)</mark>', page)


def opened_from_search(client, place, case, terms):
    found = client.post(url("queue-search", place), {"terms": terms})
    key = QueryDict(urlsplit(found.url).query)["q"]
    listed = client.get(found.url).content.decode()
    links = [urljoin(found.url, unescape(link)) for link in re.findall(r'href="([^"]*)"', listed)]
    [address] = [link for link in links if link.startswith(url("queue-case", place, case.pk))][:1]
    assert key in address and terms not in unquote(address)
    return client.get(address), key


def test_a_case_opened_from_a_search_has_its_hits_marked_newest_note_first(place, reader, signed_in):
    case = ambiguous(place, "Neumonía bilateral y otra neumonía.", "Sin fiebre. NEUMONIAS previas.")
    client = signed_in(reader)
    answered, key = opened_from_search(client, place, case, "neumonias")
    page = answered.content.decode()
    assert marked(page) == ["NEUMONIAS", "Neumonía", "neumonía"] and page.count(" data-hit ") == 3
    assert answered.context["hits"] == 3 and "«neumonias»" in page
    back = re.search(r'href="([^"]*)">Back to the results', page)[1].replace("&amp;", "&")
    assert client.get(back).context["said"] == "neumonias"
    again = client.get(url("queue-reading", place, case.pk), {"q": key}).content.decode()
    assert marked(again) == marked(page)


def test_without_its_search_or_for_somebody_else_nothing_is_marked(place, reader, lead, signed_in):
    case = ambiguous(place, "Neumonía bilateral.")
    _, key = opened_from_search(signed_in(reader), place, case, "neumonia")
    for client, query in (
        (signed_in(reader), {}),
        (signed_in(lead), {"q": key}),
        (signed_in(reader), {"q": key}),
    ):
        page = client.get(url("queue-case", place, case.pk), query).content.decode()
        assert marked(page) == [] and 'class="hits"' not in page


def test_no_more_hits_are_marked_than_a_page_bears(place, reader, signed_in, monkeypatch):
    monkeypatch.setattr(pages, "HITS_MOST", 3)
    case = ambiguous(place, "tos tos", "tos tos")
    answered, _ = opened_from_search(signed_in(reader), place, case, "tos")
    shown = re.findall(r'<div class="note-text"[^>]*>(.*?)</div>', answered.content.decode(), re.S)
    assert [len(marked(note)) for note in shown] == [2, 1]
