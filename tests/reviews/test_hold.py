"""Automation on hold, on the clinician's side: every case is asked for, says why, and its label was certain to be read."""

import pytest
from django.db.models import Q
from django.urls import reverse

from mlcore import decision
from reviews import adjudication, listing, progress, queue, rows, selectors
from reviews.filters import Filters
from reviews.models import Label
from reviews.pages import WHY
from tests import factories
from tests.reviews.conftest import cleaned, place, url  # noqa: F401  (fixture)
from triage import policy
from triage.models import Prediction

pytestmark = pytest.mark.django_db
Q_NONE = Q(pk__isnull=True)
NUMBERS = {
    "ambiguous": (0.6, 0.3, 0.5),
    "novel": (0.01, 0.001, 0.5),
    "atypical": (0.9, 0.001, 0.001),
    "held": (0.9, 0.001, 0.5),
}


@pytest.fixture
def waiting(place):  # noqa: F811
    """A case for each reason, the clear one among them, under a hold."""
    policy.current(place.site, place.protocol)
    found = {
        name: factories.prediction(factories.case(place.site, place.protocol), *numbers)
        for name, numbers in NUMBERS.items()
    }
    policy.hold(place.site, place.protocol, reason="Deriva.")
    return found


def dial(here):
    return policy.current(here.site, here.protocol)


def test_the_queue_asks_for_every_case_and_counts_it_by_its_reason(place, reader, waiting):  # noqa: F811
    now = dial(place)
    assert set(selectors.pending(place, reader, now)) == set(waiting.values())
    assert selectors.counts(place, reader, now) == dict.fromkeys(NUMBERS, 1) | {"": 0}
    assert set(progress.waiting(place, now)) == set(NUMBERS)
    for name, one in waiting.items():
        page = selectors.queue_page(place, reader, now, Q_NONE, Filters(reason=name))
        assert [(row.pk, row.reason) for row in page] == [(one.pk, name)]
    by_reason = selectors.queue_page(place, reader, now, Q_NONE, Filters(order="reason"))
    assert [row.reason for row in by_reason] == list(NUMBERS)
    after = selectors.queue_page(
        place, reader, now, Q_NONE, Filters(order="reason", after=waiting["atypical"].case_id)
    )
    assert [row.reason for row in after] == ["held"]
    assert ("held", 1) in [(kind, n) for kind, _, n in listing.queue(place, reader)["counts"]]


def test_a_verdict_on_a_held_case_is_certain_and_leaves_with_its_reason(place, reader, waiting):  # noqa: F811
    case = waiting["held"].case
    queue.hold(case.pk, reader)
    adjudication.decide(place, reader, case, cleaned(case, reader, policy=dial(place).version))
    label = Label.objects.get()
    assert label.propensity == 1.0
    [row] = rows.rows(place.protocol, [place.site], with_notes=True)
    assert (row["reason"], row["automate"], row["propensity"]) == ("held", False, 1.0)


def test_the_page_says_why_it_is_read(place, reader, signed_in, waiting):  # noqa: F811
    html = signed_in(reader).get(url("queue-case", place, waiting["held"].case_id)).content.decode()
    assert str(WHY["held"]) in html and "#sign-held" in html


def test_the_queue_and_the_case_say_why_everything_is_read_and_since_when(
    place,  # noqa: F811
    reader,
    admin,
    signed_in,
    waiting,
):
    policy.hold(
        place.site, place.protocol, reason="Otra vez.", author=admin
    )  # on hold already: no new version
    told = listing.hold(place, dial(place))
    assert told == {"since": dial(place).starts_at, "why": "Deriva."}
    page, case = url("queue", place), url("queue-case", place, waiting["held"].case_id)
    for person, may in ((reader, False), (admin, True)):
        html = signed_in(person).get(page).content.decode()
        assert 'id="hold"' in html and "Deriva." in html
        assert (reverse("triage:dial", args=[place.site.slug, place.protocol.slug]) in html.split('id="hold"')[1].split("</p>")[0]) is may  # fmt: skip
    assert "«Deriva.»" in signed_in(reader).get(case).content.decode()
    ambiguous = url("queue-case", place, waiting["ambiguous"].case_id)
    assert "Deriva." not in signed_in(reader).get(ambiguous).content.decode()


def test_a_hold_lasts_from_its_first_version_and_ends_with_automation(place, admin, waiting):  # noqa: F811
    first = dial(place)
    turn = {"alpha": 0.05, "floor": 0.01, "reason": "Más.", "author": admin}
    policy.turn(place.site, place.protocol, **turn, base_version=first.version)
    now = dial(place)
    assert now.version == first.version + 1 and not now.automate
    assert listing.hold(place, now) == {"since": first.starts_at, "why": "Deriva."}
    policy.turn(place.site, place.protocol, **turn, automate=True, base_version=now.version)
    assert listing.hold(place, dial(place)) is None


def test_a_held_case_stands_where_its_expected_cost_puts_it(place, reader, waiting):  # noqa: F811
    """Passing over a clear suspect costs more than passing over one in doubt; over a clear case of the rest, less."""
    cost = place.protocol.cost_automatic
    for name, p in (("ambiguous", 0.5), ("held", 0.95)):
        [urgency] = decision.urgency([[1 - p, p]], cost)
        Prediction.objects.filter(pk=waiting[name].pk).update(urgency=urgency)
    [clear] = decision.urgency([[0.99, 0.01]], cost)
    factories.prediction(factories.case(place.site, place.protocol), 0.9, 0.001, 0.5, urgency=clear)
    shown = [row.reason for row in selectors.queue_page(place, reader, dial(place), Q_NONE, Filters())]
    assert shown.index("held") < shown.index("ambiguous") and shown[-1] == "held"


def test_without_a_hold_the_same_case_is_not_asked_for(place, reader, admin, waiting):  # noqa: F811
    policy.turn(
        place.site,
        place.protocol,
        alpha=0.02,
        floor=0.01,
        automate=True,
        reason="x",
        author=admin,
        base_version=2,
    )
    now = dial(place)
    assert waiting["held"] not in set(selectors.pending(place, reader, now))
    assert "held" not in [kind for kind, *_ in listing.queue(place, reader)["counts"]]
