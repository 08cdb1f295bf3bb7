"""Promises 11 and 12 by real processes: one verdict of fifty, and never one case in two hands."""

from __future__ import annotations

import uuid
from collections import Counter

import pytest
from django.contrib.auth import get_user_model

from reviews.models import Label, Lease, Review
from tests import factories
from tests.faults.processes import together
from tests.reviews.conftest import ambiguous, deferred, place  # noqa: F401  (fixtures)
from triage.access import Workplace
from triage.models import AuditEvent, Case, Membership, Prediction, Protocol

READERS, PROCESSES = 20, 5


def workplace_of(user: int) -> Workplace:
    membership = Membership.objects.select_related("site", "user").get(user=user)
    return Workplace(membership.site, Protocol.objects.get(slug="hiv-suspicion-es"), membership)


def submit(sent: list) -> str:
    """One verdict, as the page sends it: «accepted», or the sentence of the refusal."""
    from reviews import adjudication
    from reviews.forms import VerdictForm

    user, case, comment = sent
    here, of = workplace_of(user), Case.objects.get(pk=case)
    standing = Prediction.objects.get(case=case, current=True)
    facts = {"client_key": str(uuid.uuid4()), "reader": user, "prediction": standing.pk, "policy": 1}
    form = VerdictForm(facts | {"verdict": "suspicion", "comment": comment, "evidence": "[]"}, here.protocol)
    assert form.is_valid(), form.errors
    try:
        adjudication.decide(here, here.membership.user, of, form.cleaned_data)
    except adjudication.Conflict as conflict:
        return str(conflict)
    return "accepted"


def pull(sent: list) -> list[int]:
    """Every case one reader is handed and decides, until ``most`` are done or nothing waits."""
    from reviews import queue

    user, most = sent
    here, taken = workplace_of(user), []
    while len(taken) < most and (case := queue.take_next(here, here.membership.user)):
        taken.append(case)
        assert submit((user, case, "")) == "accepted"
    return taken


@pytest.mark.django_db(transaction=True)
def test_promise_11_fifty_verdicts_from_five_processes_one_is_accepted(place, reader, deferred):  # noqa: F811
    from reviews import queue

    queue.hold(deferred.pk, reader)
    answers = Counter(
        together(submit, [[(reader.pk, deferred.pk, f"{p}.{t}") for t in range(10)] for p in range(5)])
    )
    assert answers.pop("accepted") == 1
    assert sum(answers.values()) == 49 and all("se conserva" in sentence for sentence in answers), answers
    assert Review.objects.count() == Label.objects.count() == 1
    assert AuditEvent.objects.filter(verb="review.submit").count() == 1
    assert not Lease.objects.exists()


def pulled_by_all(here: Workplace, cases: int) -> Counter[int]:
    """How often each case was handed out until nothing waited."""
    users = [get_user_model().objects.create(username=f"lector-{i}") for i in range(READERS)]
    Membership.objects.bulk_create([Membership(user=u, site=here.site, role="reader") for u in users])
    factories.predictions(here.site, here.protocol, [0.6] * cases, [0.3] * cases, [0.5] * cases)
    shares = [[(user.pk, cases) for user in users[p::PROCESSES]] for p in range(PROCESSES)]
    taken = together(pull, shares)
    assert all(isinstance(found, list) for found in taken), taken
    return Counter(case for found in taken for case in found)


@pytest.mark.django_db(transaction=True)
def test_promise_12_twenty_readers_in_five_processes_never_get_one_case_twice(place):  # noqa: F811
    handed = pulled_by_all(place, 100)
    assert len(handed) == 100 and set(handed.values()) == {1}
    assert Review.objects.count() == Label.objects.count() == 100


@pytest.mark.campaign
@pytest.mark.django_db(transaction=True)
def test_promise_12_two_thousand_pulls(place):  # noqa: F811
    handed = pulled_by_all(place, 2000)
    assert len(handed) == 2000 and set(handed.values()) == {1}
    assert Review.objects.count() == Label.objects.count() == 2000


@pytest.mark.django_db(transaction=True)
def test_a_case_held_by_a_dead_process_is_free_when_its_quarter_of_an_hour_is_over(place, reader, lead):  # noqa: F811
    from datetime import timedelta

    from django.db.models import F

    from reviews import queue

    case = ambiguous(place)
    assert together(take_and_die, [[reader.pk]]) == [case.pk]
    here = Workplace(place.site, place.protocol, Membership.objects.get(user=lead))
    assert queue.take_next(here, lead) is None
    Lease.objects.update(until=F("until") - timedelta(minutes=queue.MINUTES))
    assert queue.take_next(here, lead) == case.pk


def take_and_die(user: int) -> int | None:
    from reviews import queue

    here = workplace_of(user)
    return queue.take_next(here, here.membership.user)
