"""The rule in SQL is the rule in mlcore, on every row, ties included; previews and curves are counts of it."""

import time
from datetime import timedelta

import numpy as np
import pytest
from django.core.cache import cache
from django.db import DatabaseError, transaction
from django.db.models import DateTimeField, F, Value
from django.utils import timezone

from mlcore import decision
from tests import factories
from tests.factories import predictions
from triage import explaining, jobs, policy, sampling, tally
from triage.models import Alarm, AuditEvent, Explanation, Policy, Prediction, Proposal

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


@pytest.mark.parametrize("automate", [True, False])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("floor", [0.0, 0.01, 0.05])
def test_sql_and_reference_decide_alike_on_every_row(site, protocol, numbers, alpha, floor, automate):
    expected = outcomes(numbers, alpha, floor, automate)
    dial = Policy(
        site=site, protocol=protocol, alpha=alpha, typicality_floor=floor, automate=automate, audit_rate=0.1
    )
    rows = list(Prediction.objects.order_by("pk").annotate(outcome=policy.outcome(alpha, floor, automate)))
    assert [row.outcome for row in rows] == expected
    assert [policy.outcome_of(row, dial) for row in rows] == expected
    read = {row.pk for row, name in zip(rows, expected, strict=True) if name != "automatic"}
    deferred = Prediction.objects.filter(policy.deferred(alpha, floor, automate))
    assert set(deferred.values_list("pk", flat=True)) == read
    assert set(Prediction.objects.filter(sampling.to_read(dial)).values_list("pk", flat=True)) == read
    assert {row.pk for row in rows if sampling.asks(dial, row)} == read
    assert [sampling.propensity(name, dial) for name in expected] == [
        0.1 if name == "automatic" else 1.0 for name in expected
    ]


def outcomes(numbers, alpha, floor, automate=True):
    found = [decision.NAMES[code] for code in decision.decide(*numbers, alpha, floor)]
    return found if automate else [policy.HELD if name == "automatic" else name for name in found]


def test_each_row_under_a_policy_of_its_own(site, protocol, admin, numbers):
    """As an export has it: the hold is read from the row's own policy."""
    base = policy.current(site, protocol)
    held = policy.hold(site, protocol, reason="Deriva.")
    for row, dial in zip(Prediction.objects.order_by("pk")[:200], [base, held] * 100, strict=True):
        factories.review(row, admin, 0, policy=dial)
    path = "reviews__policy__"
    rule = policy.outcome(F(f"{path}alpha"), F(f"{path}typicality_floor"), F(f"{path}automate"))
    found = Prediction.objects.filter(reviews__reader=admin).order_by("pk").annotate(outcome=rule)
    clear = [outcomes(numbers, 0.02, 0.01, automate) for automate in (True, False)]
    assert [row.outcome for row in found] == [clear[i % 2][i] for i in range(200)]


@pytest.mark.parametrize("floor", [0.0, 0.02, 0.0123])
@pytest.mark.parametrize("automate", [True, False])
def test_counts_and_curve_are_those_of_the_rule(site, protocol, numbers, floor, automate):
    curve = tally.curve(site, protocol, ALPHAS, floor)
    at_edges = tally.curve(site, protocol, tally.CURVE, floor)
    for i, alpha in enumerate(ALPHAS):
        found = outcomes(numbers, alpha, floor)
        assert {name: counts[i] for name, counts in curve.items()} == dict(counted(found, decision.NAMES))
        found = outcomes(numbers, alpha, floor, automate)
        assert tally.counts(site, protocol, alpha, floor, automate) == counted(found)
    for i, alpha in enumerate(tally.CURVE):
        found = counted(outcomes(numbers, alpha, floor), decision.NAMES)
        assert {name: counts[i] for name, counts in at_edges.items()} == found


def counted(found, names=policy.OUTCOMES):
    return {name: found.count(name) for name in names}


SETTINGS = [
    tally.Setting(alpha, floor, automate)
    for alpha in (0.01, 0.02, 0.1 + 2**-55, 0.25)
    for floor in (0.0, 0.02, 0.0123)
    for automate in (True, False)
]


def test_what_changes_hands_between_any_two_settings(site, protocol, numbers):
    for now in SETTINGS:
        for then in SETTINGS:
            pair = [outcomes(numbers, *setting) for setting in (now, then)]
            before, after, changed = tally.compare(site, protocol, now, then)
            assert (before, after) == tuple(map(counted, pair))
            moved = [(a == "automatic") != (b == "automatic") for a, b in zip(*pair, strict=True)]
            assert changed == sum(moved)


def test_another_site_is_not_counted(site, other_site, protocol, numbers):
    assert sum(tally.counts(other_site, protocol, 0.05, 0.01).values()) == 0
    assert tally.curve(other_site, protocol, ALPHAS, 0.01)["automatic"] == [0] * len(ALPHAS)


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


# ---------- Hold, start, approval


def turned(site, protocol, admin, **changes):
    facts = {"alpha": 0.05, "floor": 0.01, "reason": "x", "author": admin}
    return policy.turn(
        site, protocol, **facts | {"base_version": policy.latest(site, protocol).version} | changes
    )


def test_a_hold_changes_nothing_else_and_is_written_once(site, protocol, admin):
    turned(site, protocol, admin, audit_rate=0.1)
    held = policy.hold(site, protocol, reason="Deriva.")
    assert (held.version, held.automate, held.author) == (3, False, None)
    assert policy.settings_of(held) == policy.settings_of(Policy.objects.get(version=2)) | {"automate": False}
    assert policy.hold(site, protocol, reason="Otra vez.") == held
    again = turned(site, protocol, admin, automate=True)
    assert again.automate and policy.current(site, protocol) == again
    assert [event.verb for event in AuditEvent.objects.order_by("pk")] == [
        "policy.open",
        *["policy.turn"] * 3,
    ]


def test_an_alarm_names_the_hold_it_brought_about(site, protocol):
    facts = {"kind": "stream", "measure": "x", "week": "2026-11-16", "facts": {}}
    alarm = Alarm.objects.create(site=site, protocol=protocol, release=factories.release(protocol), **facts)
    held = policy.hold(site, protocol, reason="Deriva.", alarm=alarm)
    alarm.refresh_from_db()
    assert alarm.held == held


def test_a_hold_replaces_what_waits_for_its_start(site, protocol, admin):
    """The settings in force stay, and a scheduled end of a hold is taken back by a new alarm."""
    later = timezone.now() + timedelta(days=1)
    turned(site, protocol, admin, alpha=0.2, starts_at=later)
    held = policy.hold(site, protocol, reason="Deriva.")
    assert (held.version, held.alpha, held.automate) == (3, 0.02, False)
    turned(site, protocol, admin, automate=True, starts_at=later)
    again = policy.hold(site, protocol, reason="Otra.")
    assert (again.version, again.automate, policy.latest(site, protocol)) == (5, False, again)


def test_a_version_that_waits_is_replaced_by_one_that_starts_no_later_and_by_no_other(
    site, protocol, admin, monkeypatch
):
    day = timedelta(days=1)
    now = timezone.now()
    first = policy.current(site, protocol)
    turned(site, protocol, admin, alpha=0.2, starts_at=now + 3 * day)
    sooner = turned(site, protocol, admin, alpha=0.1, starts_at=now + 2 * day)
    last = turned(site, protocol, admin, alpha=0.05, starts_at=now + 4 * day)
    in_force = []
    for days in (1, 2.5, 3.5, 4.5):
        with monkeypatch.context() as patch:
            patch.setattr(policy, "Now", lambda days=days: Value(now + days * day, DateTimeField()))
            in_force.append(policy.current(site, protocol))
    assert in_force == [first, sooner, sooner, last]


def test_a_hold_needs_no_second_administrator_and_its_end_does(site, protocol, admin):
    turned(site, protocol, admin, second_approver=True)
    held = turned(site, protocol, admin, automate=False)
    assert isinstance(held, Policy) and not held.automate
    ended = turned(site, protocol, admin, automate=True)
    assert isinstance(ended, Proposal)
    assert not policy.current(site, protocol).automate
    with pytest.raises(policy.PolicyMoved):
        turned(site, protocol, admin, alpha=0.1)


def test_a_version_written_ahead_is_in_force_from_its_start_on(site, protocol, admin, monkeypatch):
    asked = []
    monkeypatch.setattr(jobs, "enqueue", lambda *job: asked.append(job))
    cache.clear()
    first = policy.current(site, protocol)
    ahead = turned(site, protocol, admin, starts_at=timezone.now() + timedelta(seconds=0.4))
    assert ahead.waits and policy.current(site, protocol) == first
    jobs.begin_scheduled()
    assert not asked
    time.sleep(0.5)
    assert policy.current(site, protocol) == ahead and not ahead.waits
    jobs.begin_scheduled()
    jobs.begin_scheduled()
    assert asked == [(jobs.LIGHT, "triage.jobs.explain_deferred", site.pk, protocol.pk)]


def test_an_approved_proposal_starts_when_it_said_or_at_once_if_that_has_passed(site, protocol, admin, lead):
    for start, waits in (
        (timezone.now() + timedelta(days=1), True),
        (timezone.now() - timedelta(days=1), False),
    ):
        base = turned(site, protocol, admin, alpha=0.1, second_approver=True)
        facts = policy.settings_of(base) | {"alpha": 0.2, "reason": "x", "author": admin}
        asked = Proposal.objects.create(
            site=site, protocol=protocol, base_version=base.version, starts_at=start, **facts
        )
        made = policy.approve(asked, lead)
        assert (made.waits, made.alpha, made.approver) == (waits, 0.2, lead)
        policy.hold(site, protocol, reason="x")
        Policy.objects.create(
            **policy.settings_of(base) | {"second_approver": False},
            site=site,
            protocol=protocol,
            version=policy.latest(site, protocol).version + 1,
            reason="x",
        )


def test_within_a_request_the_policy_is_read_once(site, protocol, admin):
    with policy.read_once():
        before = policy.current(site, protocol)
        Policy.objects.create(
            **policy.settings_of(before), site=site, protocol=protocol, version=2, reason="x", author=admin
        )
        assert policy.current(site, protocol) is before
        mine = turned(site, protocol, admin)
        assert policy.current(site, protocol) == mine
    assert policy.current(site, protocol).version == 3


def test_looking_opens_nothing_and_shows_what_opening_would_write(site, protocol):
    with policy.read_once(opens=False):
        looked = policy.current(site, protocol)
        assert policy.latest(site, protocol) is looked
        assert not Policy.objects.exists() and not AuditEvent.objects.exists()
    with policy.read_once():
        opened = policy.current(site, protocol)
    assert (looked.version, looked.waits) == (1, False)
    assert policy.settings_of(looked) == policy.settings_of(Policy.objects.get(pk=opened.pk))
    assert looked.reason == opened.reason


def test_under_a_hold_explanations_are_asked_for_what_is_deferred_by_its_numbers(site, protocol, numbers):
    policy.hold(site, protocol, reason="Deriva.")
    explaining.ask_for_deferred(site.pk, protocol.pk)
    found = outcomes(numbers, 0.02, 0.01)
    assert Explanation.objects.count() == sum(name != "automatic" for name in found)
