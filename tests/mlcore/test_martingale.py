"""The martingale, number by number: naive twins, hand-worked cases, refusals. What it promises: tests/guarantees."""

import json
import math
from itertools import permutations

import numpy as np
import pytest
from scipy import integrate

from mlcore import martingale
from mlcore.errors import DataError


def naive_p(values, lots, reference=()):
    bag, found = list(reference), []
    for value, lot in zip(values, lots, strict=True):
        stranger, equal = sum(x > value for x in bag), sum(x == value for x in bag)
        found.append((stranger + lot * (equal + 1)) / (len(bag) + 1))
        bag.append(value)
    return found


@pytest.mark.parametrize("levels", [2, 7, 10_000])
@pytest.mark.parametrize(("n", "m"), [(0, 5), (1, 0), (2, 0), (130, 0), (129, 40)])
def test_p_values_equal_the_naive_ones(n, m, levels):
    random = np.random.default_rng(n + m)
    values, reference = random.integers(levels, size=n), random.integers(levels, size=m)
    lots = random.random(n)
    assert martingale.online_p(values, lots, reference) == pytest.approx(
        naive_p(values, lots, reference), abs=1e-15
    )


def test_p_values_by_hand():
    p = martingale.online_p([2.0, 5.0, 2.0], [0.5, 0.5, 0.25], reference=[1.0, 2.0, 3.0])
    assert p == pytest.approx([(1 + 0.5 * 2) / 4, (0 + 0.5) / 5, (2 + 0.25 * 3) / 6])


def test_p_values_go_on_from_what_is_stored():
    random = np.random.default_rng(1)
    values, lots, reference = random.integers(9, size=300), random.random(300), random.integers(9, size=50)
    whole = martingale.online_p(values, lots, reference)
    later = martingale.online_p(values[200:], lots[200:], [*reference, *values[:200]])
    assert later.tolist() == whole[200:].tolist()


def test_the_last_p_value_is_exactly_uniform_over_all_orders():
    """Five cases with ties: over the orders, P(p <= t) averaged over the lot is t."""
    grid = np.arange(1, 2000) / 2000
    orders = list(permutations([1.0, 1.0, 2.0, 2.0, 3.0]))
    last = np.array([martingale.online_p(order, np.array([0, 0, 0, 0, 0.0])) for order in orders])[:, -1]
    width = (
        np.array([martingale.online_p(order, np.array([0, 0, 0, 0, 1.0])) for order in orders])[:, -1] - last
    )
    below = np.clip((grid[:, None] - last) / width, 0, 1).mean(axis=1)
    assert below == pytest.approx(grid, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "lots"),
    [([1.0, np.nan], [0.1, 0.2]), ([1.0], [1.1]), ([1.0], [0.1, 0.2]), ([[1.0]], [0.1]), ([1.0], [-0.1])],
)
def test_values_and_lots_that_cannot_be_are_refused(values, lots):
    with pytest.raises(DataError):
        martingale.online_p(values, lots)


def test_every_bet_is_a_density():
    for state in range(martingale.STATES):
        total, _ = integrate.quad(lambda p, s=state: martingale.bets(np.array([p]))[0, s], 0, 1)
        assert total == pytest.approx(1)
    assert martingale.bets(np.linspace(0, 1, 1001)).min() > 0


def naive_martingale(p):
    """Unnormalised, cell by cell: capital jumps within its rate, then the idle part wakes, then the bet pays."""
    capital = {(j, s): 0.0 for j in martingale.JUMPS for s in range(martingale.STATES)}
    asleep, found = 1.0, []
    for n, value in enumerate(p):
        woken = asleep * (1 - martingale.idle(n + 1) / martingale.idle(n))
        pay = martingale.bets(np.array([value]))[0]
        moved = {}
        for j, s in capital:
            pool = sum(capital[j, other] for other in range(martingale.STATES))
            stays = (1 - j) * capital[j, s] + j / martingale.STATES * pool
            moved[j, s] = (stays + woken / martingale.CELLS) * pay[s]
        capital, asleep = moved, asleep - woken
        found.append(math.log(asleep + sum(capital.values())))
    return found


def test_the_martingale_equals_the_naive_one():
    p = np.random.default_rng(0).beta(0.6, 1, size=60)
    assert martingale.martingale(p) == pytest.approx(naive_martingale(p), abs=1e-12)


def test_a_fair_next_case_leaves_the_capital_as_it_was_on_average():
    state, _ = martingale.advance(martingale.START, np.random.default_rng(0).beta(0.5, 1, size=200))
    grid = (np.arange(4000) + 0.5) / 4000
    after = [math.exp(martingale.advance(state, [p])[0].log_m - state.log_m) for p in grid]
    assert np.mean(after) == pytest.approx(1, abs=1e-6)


def test_the_martingale_never_falls_below_its_idle_capital():
    p = np.random.default_rng(0).random(5000)
    floor = np.log(martingale.idle(np.arange(1, 5001)))
    assert (martingale.martingale(p) >= floor - 1e-9).all()


def test_the_state_goes_through_json_and_on(monkeypatch):
    p = np.random.default_rng(0).beta(0.7, 1, size=500)
    monkeypatch.setattr(martingale, "AT_ONCE", 64)
    state, first = martingale.advance(martingale.START, p[:333])
    stored = json.loads(json.dumps(state.to_json()))
    end, second = martingale.advance(martingale.Bets.from_json(stored), p[333:])
    assert [*first, *second] == pytest.approx(martingale.martingale(p).tolist(), abs=1e-12)
    assert end.n == 500
    assert end.log_m == second[-1]
    assert martingale.advance(state, [])[0] == state


@pytest.mark.parametrize("stored", [{}, {"n": 1, "log_m": 0.0, "capital": [1.0]}])
def test_a_state_of_another_form_is_refused(stored):
    with pytest.raises(DataError, match="compute it anew"):
        martingale.Bets.from_json(stored)


def test_extreme_p_values_break_nothing():
    for p in (np.zeros(3000), np.ones(3000), np.tile([0.0, 1.0], 1500)):
        log_m = martingale.martingale(p)
        assert np.isfinite(log_m).all()
        assert log_m[-1] > 1000
    with pytest.raises(DataError):
        martingale.martingale([0.5, np.nan])


def test_levels_and_alarms():
    assert martingale.level(0.01) == pytest.approx(100)
    assert martingale.level(0.01, streams=3) == pytest.approx(300)
    log_m = np.log([1.5, 0.9, 2.0, 100.0, 3.0])
    assert martingale.alarm_at(log_m, 100) == 3
    assert martingale.alarm_at(log_m, 101) is None
    assert martingale.alarm_at([], 100) is None
    for rate, streams in ((0, 1), (1, 1), (0.01, 0)):
        with pytest.raises(DataError):
            martingale.level(rate, streams)


def test_the_climb_began_where_one_bet_would_have_won_most():
    p = [0.5, 0.6, 0.5, 0.7, 0.1, 0.2, 0.1, 0.9]

    def won(start):
        return max(np.log(martingale.bets(np.array(p[start:7]))).sum(axis=0))

    assert martingale.began_at(p, 6) == max(range(7), key=won) == 4
    assert martingale.began_at(p, 0) == 0


def test_after_an_alarm_the_martingale_starts_again(monkeypatch):
    monkeypatch.setattr(martingale, "AT_ONCE", 50)
    p = np.random.default_rng(0).beta(0.3, 1, size=400)
    found, start = [], 0
    while (hit := martingale.alarm_at(martingale.martingale(p[start:]), 100)) is not None:
        found.append(start + hit)
        start = found[-1] + 1
    assert martingale.alarms(p, 100) == found
    assert len(found) > 2
