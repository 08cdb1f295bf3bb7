"""Four labels in a real browser: four keys judge a case, and axe finds nothing on the pages that show them."""

from __future__ import annotations

import pytest

from reviews.models import Adjudication, Label, Review
from tests import factories
from tests.browser.test_pages import violations
from tests.test_four_labels import NOTES, place, worked  # noqa: F401
from triage.models import Explanation

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
HOME = "/norte/maude-severity-en"
WITHIN = (
    "[...document.querySelectorAll('.choice')].every(one => one.getBoundingClientRect().right <= innerWidth)"
)


def waiting(place, lot=0.5):  # noqa: F811
    """A deferred case whose words pull both ways."""
    standing = factories.prediction(
        factories.case(place.site, place.protocol, *NOTES), 0.6, 0.3, 0.5, urgency=0.9, label=2, lot=lot
    )
    words = [
        {"note": 0, "start": a, "end": b, "margin": m, "distance": d, "sign": sign, "importance": 0.2}
        for a, b, m, d, sign in ((33, 37, 2.1, 0.3, "toward"), (4, 8, -0.9, 0.1, "away"))
    ]
    Explanation.objects.create(prediction=standing, status="ready", words=words)
    return standing


@pytest.mark.parametrize(("key", "label"), [("1", 3), ("2", 2), ("3", 1), ("4", 0)])
def test_each_of_four_keys_stores_the_label_it_names(place, reader, signed_in, key, label):  # noqa: F811
    standing = waiting(place)
    page = signed_in(reader, locale="en-GB")
    page.goto(f"{HOME}/queue/{standing.case_id}/")
    page.wait_for_selector("#decision[data-state=open]")
    page.keyboard.press(key)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#last, main :text('Death')")
    page.wait_for_function("() => !document.querySelector('#decision[data-state=open]')")
    assert Review.objects.get().label == Label.objects.get().label == label


def test_a_lead_judges_with_the_fourth_key(worked, lead, signed_in):  # noqa: F811
    found = Adjudication.objects.earliest("pk")
    page = signed_in(lead, locale="es-ES")
    page.goto(f"{HOME}/adjudications/{found.pk}/")
    page.wait_for_selector("#judgement[data-state=open]")
    page.keyboard.press("4")
    assert page.locator("input[name=verdict]:checked").get_attribute("value") == "Other"


PAGES = {"dial": "#figure .main-svg", "agreement": "main h1", "releases": "main h1", "watch": "main h1"}


@pytest.mark.parametrize("locale", ["es-ES", "en-GB"])
def test_axe_finds_nothing_where_four_labels_are_shown(worked, admin, signed_in, locale):  # noqa: F811
    standing = waiting(worked)
    page, found = signed_in(admin, locale=locale), {}
    pages = {f"queue/{standing.case_id}": "#decision[data-state=open]", **PAGES}
    for name, shown in pages.items():
        page.goto(f"{HOME}/{name}/")
        page.wait_for_selector(shown)
        if name == "dial":
            page.wait_for_selector("#prices-title")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(WITHIN), name
        found[name] = violations(page)
    assert not any(found.values()), found
