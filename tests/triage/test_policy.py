"""The rule in SQL is the rule in mlcore, on every row, ties included; previews and curves are counts of it."""

import numpy as np
import pytest
from django.db import DatabaseError, transaction

from mlcore import decision
from tests.factories import predictions
from triage import policy
from triage.models import AuditEvent, Policy, Prediction

pytestmark = pytest.mark.django_db
ALPHAS = [0.01, 0.02, 0.05, 0.1, 0.1 + 2**-55, 0.25, 0.5]


@pytest.fixture
def numbers(site, protocol):
    """Ranks with many ties, and values that equal an alpha or a floor exactly."""
    random = np.random.default_rng(7)
    steps = np.array([0.001, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.7, 1.0])
    first, second = np.sort(random.choice(steps, (400, 2)), axis=1).T[::-1]
    typical = random.choice(steps, 400)
    predictions(site, protocol, first, second, typical)
    return first, second, typical


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("floor", [0.0, 0.01, 0.05])
def test_sql_and_reference_decide_alike_on_every_row(site, protocol, numbers, alpha, floor):
    rows = Prediction.objects.order_by("pk").annotate(outcome=policy.outcome(alpha, floor))
    expected = [decision.NAMES[code] for code in decision.decide(*numbers, alpha, floor)]
    assert [row.outcome for row in rows] == expected
    deferred = set(Prediction.objects.filter(policy.deferred(alpha, floor)).values_list("pk", flat=True))
    assert deferred == {row.pk for row, name in zip(rows, expected, strict=True) if name != "automatic"}


def test_compare_and_curve_count_the_same_rule(site, protocol, numbers):
    floor = 0.02
    curve = policy.curve(site, protocol, ALPHAS, floor)
    for i, alpha in enumerate(ALPHAS):
        codes = decision.decide(*numbers, alpha, floor)
        expected = {name: int((codes == code).sum()) for code, name in enumerate(decision.NAMES)}
        assert {name: counts[i] for name, counts in curve.items()} == expected
        assert policy.counts(site, protocol, alpha, floor) == expected
    now, then, changed = policy.compare(site, protocol, (0.02, 0.01), (0.25, floor))
    before, after = (decision.decide(*numbers, *setting) for setting in ((0.02, 0.01), (0.25, floor)))
    assert changed == int(((before == 0) != (after == 0)).sum()) > 0
    assert sum(now.values()) == sum(then.values()) == 400


def test_another_site_is_not_counted(site, other_site, protocol, numbers):
    assert sum(policy.counts(other_site, protocol, 0.05, 0.01).values()) == 0
    assert policy.curve(other_site, protocol, ALPHAS, 0.01)["automatic"] == [0] * len(ALPHAS)


def test_a_turn_is_a_new_version_and_an_event(site, protocol, admin):
    first = policy.current(site, protocol)
    turned = policy.turn(
        site, protocol, alpha=0.05, floor=0.01, reason="agosto", author=admin, base_version=1
    )
    assert (first.version, turned.version) == (1, 2)
    assert policy.current(site, protocol) == turned
    event = AuditEvent.objects.get(verb="policy.turn")
    assert (event.actor, event.details["alpha"]) == (admin, 0.05)


def test_a_turn_keeps_what_the_dial_does_not_set(site, protocol, admin):
    shared = {"site": site, "protocol": protocol, "alpha": 0.02, "typicality_floor": 0.01, "reason": "uno"}
    assert policy.current(site, protocol).second_opinion == "off"
    Policy.objects.create(version=2, audit_rate=0.05, second_opinion="advise", author=admin, **shared)
    turned = policy.turn(site, protocol, alpha=0.05, floor=0.01, reason="dos", author=admin, base_version=2)
    assert (turned.audit_rate, turned.second_opinion) == (0.05, "advise")


@pytest.mark.parametrize("wrong", [{"audit_rate": 1.1}, {"audit_rate": -0.1}, {"second_opinion": "guess"}])
def test_the_database_refuses_settings_that_cannot_be(site, protocol, wrong):
    shared = {"site": site, "protocol": protocol, "version": 1, "alpha": 0.02, "typicality_floor": 0.01}
    with pytest.raises(DatabaseError), transaction.atomic():
        Policy.objects.create(reason="-", **shared, **wrong)


def test_promise_14_the_second_of_two_admins_is_told(site, protocol, admin):
    policy.current(site, protocol)
    policy.turn(site, protocol, alpha=0.05, floor=0.01, reason="uno", author=admin, base_version=1)
    with pytest.raises(policy.PolicyMoved):
        policy.turn(site, protocol, alpha=0.1, floor=0.01, reason="dos", author=admin, base_version=1)
    assert Policy.objects.count() == 2


def test_a_policy_is_never_changed(site, protocol):
    dial = policy.current(site, protocol)
    with pytest.raises(DatabaseError), transaction.atomic():
        Policy.objects.filter(pk=dial.pk).update(alpha=0.5)
    with pytest.raises(DatabaseError), transaction.atomic():
        dial.delete()


@pytest.mark.parametrize(
    "numbers", [(0.2, 0.3, 0.5), (1.1, 0.3, 0.5), (0.5, -0.1, 0.5), (0.5, 0.1, 1.5), (float("nan"), 0.1, 0.5)]
)
def test_the_database_refuses_numbers_that_cannot_be(site, protocol, numbers):
    with pytest.raises(DatabaseError), transaction.atomic():
        predictions(site, protocol, *([value] for value in numbers))
