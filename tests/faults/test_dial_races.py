"""Promise 14 by real processes: of administrators who turn at once one does, and who reads meanwhile sees old or new."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from tests import factories
from tests.faults.processes import together
from triage.models import AuditEvent, Membership, Policy, Proposal

WHERE = ["norte", "hiv-suspicion-es"]
FLOORS = {1: 0.01} | {version: 0.02 if version % 2 else 0.05 for version in range(2, 200)}
ALPHAS = {1: 0.02} | {version: 0.03 if version % 2 else 0.1 for version in range(2, 200)}


def signed_in(user: int) -> Client:
    client = Client(SERVER_NAME="localhost", HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(get_user_model().objects.get(pk=user))
    return client


def turn(sent: list) -> int:
    """Post a turn on top of a version; the status of the answer."""
    user, base, alpha = sent
    typed = {"alpha": str(alpha), "floor": "0.01", "reason": f"admin {user}", "base_version": base}
    return signed_in(user).post(reverse("triage:dial", args=WHERE), typed).status_code


def act(sent: list) -> list:
    """Turn the dial time and again, or read meanwhile: what each page said of version, α and floor, and of the cases."""
    user, what, times = sent
    client, page = signed_in(user), reverse("triage:dial", args=WHERE)
    if what == "turn":
        for version in range(2, times + 2):
            typed = {"alpha": str(ALPHAS[version]), "floor": str(FLOORS[version]), "reason": "x"}
            assert client.post(page, typed | {"base_version": version - 1}).status_code == 302
            time.sleep(0.05)
        return []
    if what == "page":
        return [said(client.get(page).content.decode()) for _ in range(times)]
    asked = {"alpha": "0.2", "floor": "0.01"}
    return [client.get(f"{page}preview/", asked).json()["now"] for _ in range(times)]


def said(html: str) -> list:
    version = re.search(r"Version (\d+) is in force", html)[1]
    return [
        int(version),
        *(float(re.search(rf'data-{name}="([^"]*)"', html)[1]) for name in ("alpha", "floor")),
    ]


@pytest.fixture
def admins(site, protocol):
    users = [get_user_model().objects.create(username=f"admin-{i}") for i in range(6)]
    Membership.objects.bulk_create([Membership(user=user, site=site, role="admin") for user in users])
    factories.release(protocol)
    return users


@pytest.mark.django_db(transaction=True)
def test_promise_14_of_administrators_who_turn_at_once_one_does(site, protocol, admins):
    Policy.objects.create(
        site=site, protocol=protocol, version=1, alpha=0.02, typicality_floor=0.01, reason="x"
    )
    alphas = iter([0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14])
    shares = [[(user.pk, 1, next(alphas)) for user in admins[i : i + 2] * 2] for i in (0, 2, 4)]
    assert Counter(together(turn, shares)) == {302: 1, 409: 11}
    written = Policy.objects.get(version=2)
    assert Policy.objects.count() == 2
    assert AuditEvent.objects.get(verb="policy.turn").actor == written.author


@pytest.mark.django_db(transaction=True)
def test_promise_14_of_administrators_who_propose_at_once_one_does(site, protocol, admins):
    facts = {"alpha": 0.02, "typicality_floor": 0.01, "reason": "x", "second_approver": True}
    Policy.objects.create(site=site, protocol=protocol, version=1, **facts)
    shares = [[(user.pk, 1, 0.05) for user in admins[i : i + 2]] for i in (0, 2, 4)]
    assert Counter(together(turn, shares)) == {302: 1, 409: 5}
    assert Proposal.objects.count() == AuditEvent.objects.filter(verb="policy.propose").count() == 1


@pytest.mark.django_db(transaction=True)
def test_promise_14_a_thousand_reads_during_turns_see_old_or_new(site, protocol, admins):
    """α and floor change together, so a page that mixed two versions would show a pair that never was."""
    Policy.objects.create(
        site=site, protocol=protocol, version=1, alpha=0.02, typicality_floor=0.01, reason="x"
    )
    first, second = [0.9] * 4, [0.025, 0.001, 0.06, 0.001]
    factories.predictions(site, protocol, first, second, [0.5, 0.015, 0.5, 0.03])
    turner, *readers = [user.pk for user in admins]
    shares = [[(turner, "turn", 40)], [(readers[0], "page", 60), (readers[1], "page", 60)]]
    shares += [[(reader, "preview", 220) for reader in readers[i : i + 2]] for i in (0, 2)]
    answers = [answer for told in together(act, shares) for answer in told]
    assert len(answers) == 1000
    pages = [answer for answer in answers if isinstance(answer, list)]
    assert all((ALPHAS[version], FLOORS[version]) == (alpha, floor) for version, alpha, floor in pages)
    counts = {
        (found["automatic"], found["ambiguous"], found["atypical"])
        for found in answers
        if isinstance(found, dict)
    }
    assert counts <= {(2, 2, 0), (2, 1, 1), (2, 0, 2)}  # mixed: (1, 1, 2) or (3, 0, 1)
    assert len({version for version, *_ in pages}) > 3 and len(counts) > 1
