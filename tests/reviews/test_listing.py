"""The queue's page: its filters in the address, its counts, saved views, other workplaces; my work and my team's."""

from datetime import timedelta

import pytest
from django.core.cache import cache
from django.http import QueryDict
from django.utils import timezone

from reviews import adjudication, filters, listing, queue, selectors, visibility
from reviews.models import Lease, Review, SavedView
from tests.reviews.conftest import ambiguous, answer, cleaned, url
from triage import policy
from triage.access import Workplace
from triage.models import AuditEvent, Membership, Policy, Prediction, Protocol

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def english(settings):
    settings.LANGUAGE_CODE = "en"
    cache.clear()


@pytest.fixture
def audited(place):
    facts = policy.FIRST | {"version": 2, "reason": "r", "audit_rate": 0.2}
    return Policy.objects.create(site=place.site, protocol=place.protocol, **facts)


def words(page):
    return page.content.decode()


# Filters


def test_filters_are_written_back_as_they_were_read(place):
    said = "order=wait&specialty=Medicina+interna&since=2021-01-02&waited=3&held=nobody&after=7"
    found, refused = filters.read(QueryDict(said), place.protocol)
    assert refused == [] and found.query() == said
    assert found.query(order="risk", after=None) == said.removeprefix("order=wait&").removesuffix("&after=7")
    assert filters.read(QueryDict(""), place.protocol) == (filters.PLAIN, [])


@pytest.mark.parametrize(
    "query",
    [
        "order=love",
        "reason=automatic",
        "since=yesterday",
        "since=2021-02-01&until=2021-01-01",
        "waited=-1",
        "waited=9999999999999999999999",
        "held=%00",
        "specialty=" + "x" * 81,
        "after=minus",
        "after=99999999999999999999",
        "q=" + "x" * 40,
        "show=everything",
    ],
)
def test_a_filter_that_cannot_be_is_a_sentence_and_the_rest_still_holds(
    place, reader, deferred, signed_in, query
):
    rest = "waited=1" if "held" in query else "held=nobody"
    page = signed_in(reader).get(url("queue", place) + f"?{query}&{rest}")
    assert page.status_code == 400 and page.context["refused"]
    assert 'role="alert"' in words(page)
    other = signed_in(reader).get(url("queue", place) + f"?{query}")
    assert [row["case"] for row in other.context["rows"]] == [deferred.pk]


def test_blind_cases_take_neither_reason_nor_order_and_a_blind_protocol_offers_no_reason(place):
    found, refused = filters.read(QueryDict("show=blind&reason=novel&order=risk&held=me"), place.protocol)
    assert (found.query(), refused) == ("show=blind&held=me", [])
    place.protocol.reading = Protocol.Reading.BLIND
    for query in ("reason=novel", "order=reason"):
        assert filters.read(QueryDict(query), place.protocol)[1]


def test_rows_carry_the_filters_to_the_case_and_to_the_next_page(place, reader, signed_in):
    for _ in range(31):
        ambiguous(place)
    page = signed_in(reader).get(url("queue", place) + "?order=wait&held=nobody")
    last = page.context["rows"][-1]["case"]
    assert f"?order=wait&amp;held=nobody&amp;after={last}" in words(page)
    assert words(page).count('?order=wait&amp;held=nobody"><bdi>') == 30
    assert page.context["matches"] == (31, False)


def test_beside_a_case_the_list_is_the_one_it_was_opened_from(place, reader, signed_in):
    urgent, longest = ambiguous(place, urgency=0.9), ambiguous(place, urgency=0.1)
    Prediction.objects.filter(case=longest).update(at=timezone.now() - timedelta(days=3))
    client = signed_in(reader)
    for query, expected in (
        ("", [urgent, longest]),
        ("?order=wait", [longest, urgent]),
        ("?waited=2", [longest]),
    ):
        page = client.get(url("queue-case", place, urgent.pk) + query)
        assert [row["case"] for row in page.context["rows"]] == [case.pk for case in expected]
    assert client.get(url("queue-case", place, urgent.pk) + "?order=love&q=x&show=all").status_code == 200


# Counts


def test_a_reading_changes_the_count_of_its_own_group_at_once_and_tells_nothing_of_the_sample(
    place, reader, signed_in, audited, monkeypatch
):
    """The drawn automatic case counts as one to be read blind before and after its verdict."""
    shown, drawn = ambiguous(place), ambiguous(place, runner_up=0.001, lot=0.1)
    ambiguous(place), ambiguous(place, lot=0.1)
    client = signed_in(reader)

    def counts():
        page = client.get(url("queue", place)).context
        return page["pending"], [n for *_, n in page["counts"]], page["blind"], page["done"], page["today"]

    assert counts() == (4, [2, 0, 0], 2, 0, 4)
    monkeypatch.delattr("reviews.selectors.counts")
    for case, expected in ((drawn, (3, [2, 0, 0], 1, 1, 4)), (shown, (2, [1, 0, 0], 1, 2, 4))):
        client.get(url("queue-case", place, case.pk))
        client.post(url("queue-case", place, case.pk), answer(case, reader, policy=2))
        assert counts() == expected
    client.post(url("queue-undo", place, Review.objects.get(case=drawn).pk))
    assert counts() == (3, [1, 0, 0], 2, 1, 4)


def test_other_sites_and_protocols_show_how_many_wait_there(place, other_site, reader, signed_in):
    Membership.objects.create(user=reader, site=other_site, role="reader")
    there = Workplace(other_site, place.protocol, reader.memberships.get(site=other_site))
    policy.current(other_site, place.protocol)
    ambiguous(there), ambiguous(there), ambiguous(place)
    page = signed_in(reader).get(url("queue", place))
    [one] = [other for other in page.context["elsewhere"] if other["place"].site == other_site]
    assert (one["n"], one["more"]) == (2, False)
    assert f'href="{url("queue", there)}"' in words(page)


# Saved views


def test_a_view_is_saved_opened_renamed_and_deleted_and_holds_no_search(place, reader, lead, signed_in):
    client = signed_in(reader)
    sent = {"name": "Mías", "query": "order=wait&held=me&q=abc&after=4&nonsense=1"}
    assert client.post(url("queue-view-save", place), sent).url.endswith("?order=wait&held=me")
    view = SavedView.objects.get()
    assert (view.user, view.query) == (reader, "order=wait&held=me")
    assert 'href="?order=wait&amp;held=me"' in words(client.get(url("queue", place)))
    client.post(url("queue-view-save", place), sent | {"query": "held=me"})
    view.refresh_from_db()
    assert view.query == "held=me"
    SavedView.objects.create(user=reader, site=place.site, protocol=place.protocol, name="Otra")
    taken = client.post(url("queue-view", place, view.pk), {"name": "Otra"}, follow=True)
    assert "Another view has that name" in words(taken)
    client.post(url("queue-view", place, view.pk), {"name": "Las mías"})
    view.refresh_from_db()
    assert view.name == "Las mías"
    assert signed_in(lead).post(url("queue-view", place, view.pk), {"delete": 1}).status_code == 404
    client.post(url("queue-view", place, view.pk), {"delete": 1})
    assert not SavedView.objects.filter(pk=view.pk).exists()


@pytest.mark.parametrize("name", ["", " ", "x" * 61, "a\x00"])
def test_a_view_without_a_name_is_a_sentence(place, reader, signed_in, name):
    page = signed_in(reader).post(url("queue-view-save", place), {"name": name}, follow=True)
    assert 'role="status"' in words(page) and not SavedView.objects.exists()


# My work, my team's


def test_my_work_shows_mine_and_of_others_only_that_a_label_stands(place, reader, lead, signed_in):
    place.protocol.double_share = 1.0
    place.protocol.save()
    alone, both, asked, begun, skipped = (ambiguous(place) for _ in range(5))
    for case, who, verdict in (
        (alone, reader, "suspicion"),
        (both, lead, "non_suspicion"),
        (both, reader, "suspicion"),
        (asked, reader, "information"),
    ):
        queue.hold(case.pk, who)
        adjudication.decide(place, who, case, cleaned(case, who, verdict))
    adjudication.save_draft(reader, begun, "", "a medias", [])
    queue.skip(place, reader, skipped)
    page = signed_in(reader).get(url("queue-mine", place))
    said = {one["case"]: (one["verdict"], one["becomes"]) for one in page.context["verdicts"]}
    assert said == {
        alone.pk: ("Suspicion", "somebody else will judge it too"),
        both.pk: ("Suspicion", "somebody else will judge it too"),
        asked.pk: ("more information needed", "rests until more is known"),
    }
    assert [draft.case for draft in page.context["drafts"]] == [begun]
    assert [skip.case for skip in page.context["skipped"]] == [skipped]
    assert "a medias" not in words(page)
    Prediction.objects.filter(case=alone).update(current=False)
    page = signed_in(reader).get(url("queue-mine", place))
    assert page.context["verdicts"][-1]["becomes"] == "new notes or a new score since"


def test_the_team_page_is_for_leads_and_says_who_holds_and_decided_what(place, reader, lead, signed_in):
    held, read = ambiguous(place), ambiguous(place)
    queue.hold(held.pk, reader), queue.hold(read.pk, reader)
    adjudication.decide(place, reader, read, cleaned(read, reader, "information"))
    assert signed_in(reader).get(url("queue-team", place)).status_code == 403
    client = signed_in(lead)
    page = client.get(url("queue-team", place))
    assert [lease.case for lease in page.context["leases"]] == [held]
    assert {row["name"]: row["n"] for row in page.context["today"]} == {"lectora": 1, "jefa": 0}
    [resting] = page.context["resting"]
    returned = client.post(url("queue-return", place, resting.pk), follow=True)
    assert "back in the queue" in words(returned) and returned.context["resting"].count() == 0
    again = client.post(url("queue-return", place, resting.pk), follow=True)
    assert "returned already" in words(again)


def test_a_lead_frees_a_case_from_the_list_and_from_its_page_a_reader_cannot(
    place, reader, lead, deferred, signed_in
):
    queue.hold(deferred.pk, reader)
    assert url("queue-release", place, deferred.pk) not in words(signed_in(reader).get(url("queue", place)))
    assert signed_in(reader).post(url("queue-release", place, deferred.pk)).status_code == 403
    client = signed_in(lead)
    for address, sent in (
        (url("queue", place), {"query": "held=others"}),
        (url("queue-case", place, deferred.pk), {"back": "case"}),
    ):
        Lease.objects.update(reader=reader, until=timezone.now() + timedelta(minutes=9))
        assert url("queue-release", place, deferred.pk) in words(client.get(address))
        client.post(url("queue-release", place, deferred.pk), sent)
        assert not Lease.objects.filter(reader=reader).exists()
        queue.hold(deferred.pk, reader)
    assert AuditEvent.objects.filter(verb="lease.release", actor=lead).count() == 2


@pytest.mark.parametrize(
    ("minutes", "shown"), [(0, "0\u00a0min"), (59, "59\u00a0min"), (60, "1\u00a0h"), (3000, "2\u00a0d")]
)
def test_time_waited_is_told_in_its_largest_whole_unit(minutes, shown):
    assert listing.age(timezone.now() - timedelta(minutes=minutes, seconds=5)) == shown


def test_a_covered_case_as_starting_point_tells_nothing_of_where_it_stands(place, reader, deferred):
    """Whatever its urgency, the page after it in an order of risk is the first page."""
    drawn = policy.turn(
        place.site,
        place.protocol,
        alpha=0.02,
        floor=0.01,
        reason="muestra",
        author=None,
        base_version=1,
        audit_rate=0.2,
    )
    low, high = (ambiguous(place, lot=0.1, urgency=u) for u in (0.01, 0.99))
    hidden = visibility.covered(place, drawn, reader)
    for order in ("risk", "reason", "specialty"):
        pages = [
            [
                row.case_id
                for row in selectors.queue_page(
                    place, reader, drawn, hidden, filters.Filters(after=case.pk, order=order)
                )
            ]
            for case in (low, high)
        ]
        assert pages[0] == pages[1] == [deferred.pk]
