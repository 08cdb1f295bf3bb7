"""A workplace with cases in it, and one signed-in client a person."""

from __future__ import annotations

import time
import uuid

import pytest
from django.test import Client
from django.urls import reverse

from reviews.requests import seal
from tests import factories
from triage import policy
from triage.access import Workplace
from triage.models import Explanation, Membership
from triage.sessions import STARTED


@pytest.fixture
def place(site, protocol, reader):
    policy.current(site, protocol)  # α 0.02, floor 0.01
    return Workplace(site, protocol, Membership.objects.get(user=reader))


@pytest.fixture
def deferred(place):
    """A case with two notes that the first policy defers as ambiguous; its words are ready."""
    return ambiguous(place)


def ambiguous(place, *texts, **facts):
    case = factories.case(
        place.site, place.protocol, *(texts or ("Fiebre y muguet.", "Niega ADVP. Peso estable."))
    )
    standing = factories.prediction(
        case, **({"credibility": 0.6, "runner_up": 0.3, "typicality": 0.5} | facts)
    )
    Explanation.objects.create(prediction=standing, status="ready")
    return case


@pytest.fixture
def signed_in():
    def sign_in(user):
        client = Client()
        client.force_login(user)
        session = client.session
        session[STARTED] = time.time()
        session.save()
        return client

    return sign_in


def url(name, place, *more):
    return reverse(f"reviews:{name}", args=[place.site.slug, place.protocol.slug, *more])


def answer(case, user, verdict="suspicion", **changes):
    """What the page sends for a verdict on the case's standing prediction."""
    standing = case.predictions.get(current=True)
    sent = {
        "client_key": str(uuid.uuid4()),
        "reader": user.pk,
        "prediction": standing.pk,
        "policy": 1,
        "verdict": verdict,
        "comment": "",
        "why": "insufficient" if verdict == "undecided" else "",
        "evidence": "[]",
        "mode": "",  # as the server sees it
        "seconds": 12,
    } | changes
    facts = [sent["prediction"], sent["policy"], sent["mode"]]
    return {"seal": seal(user, case.pk, *facts)} | sent


def cleaned(case, user, verdict="suspicion", **changes):
    """The same, as a cleaned form."""
    from reviews.forms import VerdictForm

    form = VerdictForm(answer(case, user, verdict, **changes), case.protocol)
    assert form.is_valid(), form.errors
    return form.cleaned_data
