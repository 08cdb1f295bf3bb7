"""The watch, number by number: naive twins, hand-worked cases, refusals. What it promises: tests/guarantees/test_watch.py."""

import json
import math
from itertools import permutations

import numpy as np
import pytest
from scipy import integrate, stats

from mlcore import watch
from mlcore.errors import DataError
from mlcore.watch import Check, Medians, Sample, Share, Stratum


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
    assert watch.online_p(values, lots, reference) == pytest.approx(
        naive_p(values, lots, reference), abs=1e-15
    )


def test_p_values_by_hand():
    p = watch.online_p([2.0, 5.0, 2.0], [0.5, 0.5, 0.25], reference=[1.0, 2.0, 3.0])
    assert p == pytest.approx([(1 + 0.5 * 2) / 4, (0 + 0.5) / 5, (2 + 0.25 * 3) / 6])


def test_p_values_go_on_from_what_is_stored():
    random = np.random.default_rng(1)
    values, lots, reference = random.integers(9, size=300), random.random(300), random.integers(9, size=50)
    whole = watch.online_p(values, lots, reference)
    later = watch.online_p(values[200:], lots[200:], [*reference, *values[:200]])
    assert later.tolist() == whole[200:].tolist()


def test_the_last_p_value_is_exactly_uniform_over_all_orders():
    """Five cases with ties: over the orders, P(p <= t) averaged over the lot is t."""
    grid = np.arange(1, 2000) / 2000
    orders = list(permutations([1.0, 1.0, 2.0, 2.0, 3.0]))
    last = np.array([watch.online_p(order, np.array([0, 0, 0, 0, 0.0])) for order in orders])[:, -1]
    width = np.array([watch.online_p(order, np.array([0, 0, 0, 0, 1.0])) for order in orders])[:, -1] - last
    below = np.clip((grid[:, None] - last) / width, 0, 1).mean(axis=1)
    assert below == pytest.approx(grid, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "lots"),
    [([1.0, np.nan], [0.1, 0.2]), ([1.0], [1.1]), ([1.0], [0.1, 0.2]), ([[1.0]], [0.1]), ([1.0], [-0.1])],
)
def test_values_and_lots_that_cannot_be_are_refused(values, lots):
    with pytest.raises(DataError):
        watch.online_p(values, lots)


def test_every_bet_is_a_density():
    for state in range(watch.STATES):
        total, _ = integrate.quad(lambda p, s=state: watch.bets(np.array([p]))[0, s], 0, 1)
        assert total == pytest.approx(1)
    assert watch.bets(np.linspace(0, 1, 1001)).min() > 0


def naive_martingale(p):
    """Unnormalised, cell by cell: capital jumps within its rate, then the idle part wakes, then the bet pays."""
    capital = {(j, s): 0.0 for j in watch.JUMPS for s in range(watch.STATES)}
    asleep, found = 1.0, []
    for n, value in enumerate(p):
        woken = asleep * (1 - watch.idle(n + 1) / watch.idle(n))
        pay = watch.bets(np.array([value]))[0]
        moved = {}
        for j, s in capital:
            pool = sum(capital[j, other] for other in range(watch.STATES))
            stays = (1 - j) * capital[j, s] + j / watch.STATES * pool
            moved[j, s] = (stays + woken / watch.CELLS) * pay[s]
        capital, asleep = moved, asleep - woken
        found.append(math.log(asleep + sum(capital.values())))
    return found


def test_the_martingale_equals_the_naive_one():
    p = np.random.default_rng(0).beta(0.6, 1, size=60)
    assert watch.martingale(p) == pytest.approx(naive_martingale(p), abs=1e-12)


def test_a_fair_next_case_leaves_the_capital_as_it_was_on_average():
    state, _ = watch.advance(watch.START, np.random.default_rng(0).beta(0.5, 1, size=200))
    grid = (np.arange(4000) + 0.5) / 4000
    after = [math.exp(watch.advance(state, [p])[0].log_m - state.log_m) for p in grid]
    assert np.mean(after) == pytest.approx(1, abs=1e-6)


def test_the_martingale_never_falls_below_its_idle_capital():
    p = np.random.default_rng(0).random(5000)
    floor = np.log(watch.idle(np.arange(1, 5001)))
    assert (watch.martingale(p) >= floor - 1e-9).all()


def test_the_state_goes_through_json_and_on(monkeypatch):
    p = np.random.default_rng(0).beta(0.7, 1, size=500)
    monkeypatch.setattr(watch, "AT_ONCE", 64)
    state, first = watch.advance(watch.START, p[:333])
    stored = json.loads(json.dumps(state.to_json()))
    end, second = watch.advance(watch.Bets.from_json(stored), p[333:])
    assert [*first, *second] == pytest.approx(watch.martingale(p).tolist(), abs=1e-12)
    assert end.n == 500
    assert end.log_m == second[-1]
    assert watch.advance(state, [])[0] == state


@pytest.mark.parametrize("stored", [{}, {"n": 1, "log_m": 0.0, "capital": [1.0]}])
def test_a_state_of_another_form_is_refused(stored):
    with pytest.raises(DataError, match="compute it anew"):
        watch.Bets.from_json(stored)


def test_extreme_p_values_break_nothing():
    for p in (np.zeros(3000), np.ones(3000), np.tile([0.0, 1.0], 1500)):
        log_m = watch.martingale(p)
        assert np.isfinite(log_m).all()
        assert log_m[-1] > 1000
    with pytest.raises(DataError):
        watch.martingale([0.5, np.nan])


def test_levels_and_alarms():
    assert watch.level(0.01) == pytest.approx(100)
    assert watch.level(0.01, streams=3) == pytest.approx(300)
    log_m = np.log([1.5, 0.9, 2.0, 100.0, 3.0])
    assert watch.alarm_at(log_m, 100) == 3
    assert watch.alarm_at(log_m, 101) is None
    assert watch.alarm_at([], 100) is None
    for rate, streams in ((0, 1), (1, 1), (0.01, 0)):
        with pytest.raises(DataError):
            watch.level(rate, streams)


def test_the_climb_began_where_one_bet_would_have_won_most():
    p = [0.5, 0.6, 0.5, 0.7, 0.1, 0.2, 0.1, 0.9]

    def won(start):
        return max(np.log(watch.bets(np.array(p[start:7]))).sum(axis=0))

    assert watch.began_at(p, 6) == max(range(7), key=won) == 4
    assert watch.began_at(p, 0) == 0


def test_after_an_alarm_the_martingale_starts_again(monkeypatch):
    monkeypatch.setattr(watch, "AT_ONCE", 50)
    p = np.random.default_rng(0).beta(0.3, 1, size=400)
    found, start = [], 0
    while (hit := watch.alarm_at(watch.martingale(p[start:]), 100)) is not None:
        found.append(start + hit)
        start = found[-1] + 1
    assert watch.alarms(p, 100) == found
    assert len(found) > 2


def week(**lists):
    return Sample(
        {name: found for name, found in lists.items() if not isinstance(found[0], str)},
        {name: found for name, found in lists.items() if isinstance(found[0], str)},
    )


def test_a_check_of_numbers_tells_the_medians_and_where_they_part():
    now, reference = [500, 600, 700, 800], [100, 200, 300, 600]
    (row,) = watch.week_checks(week(length=now), week(length=reference), weeks=2)
    twin = stats.ks_2samp(now, reference, method="exact")
    assert row.statistic == twin.statistic == 0.75
    assert row.p == twin.pvalue
    assert row.adjusted == min(1, 2 * row.p)
    assert row.effect == Medians(250.0, 650.0, 300.0, 0.75, 0.0)
    assert (row.name, row.n_now, row.n_reference, row.flagged) == ("length", 4, 4, False)


def test_a_check_of_a_category_tells_the_level_that_moved_most():
    now = ["Urgencias"] * 48 + ["Interna"] * 52
    reference = ["Urgencias"] * 44 + ["Interna"] * 156
    (row,) = watch.week_checks(week(specialty=now), week(specialty=reference))
    g = stats.chi2_contingency([[52, 48], [156, 44]], correction=False, lambda_="log-likelihood")
    q = 1 + (300 / 100 + 300 / 200 - 1) * (300 / 208 + 300 / 92 - 1) / (6 * 300)
    assert row.statistic == pytest.approx(g.statistic)
    assert row.p == pytest.approx(stats.chi2.sf(g.statistic / q, 1))
    assert row.effect == Share("Urgencias", pytest.approx(0.22), pytest.approx(0.48))
    assert row.flagged


def test_small_tables_are_tested_exactly():
    """Two levels with fixed margins: the Monte-Carlo p-value is Fisher's, with G ordering the tables."""
    now, reference = ["a"] * 5 + ["b"] * 1, ["a"] * 6 + ["b"] * 12
    (row,) = watch.week_checks(week(kind=now), week(kind=reference))
    a = np.arange(0, 7)
    tables = stats.hypergeom.pmf(a, 24, 11, 6)
    g = watch._g(np.column_stack([a, 6 - a]), np.outer([6, 18], [11, 13]) / 24, np.array([11, 13]))
    exact = tables[g >= g[5] - 1e-9].sum()
    assert abs(row.p - exact) < 4 * math.sqrt(exact / watch.DRAWS)
    assert watch.week_checks(week(kind=now), week(kind=reference)) == (row,)


def test_rare_levels_are_pooled_and_still_named():
    assert watch._pooled(np.array([[9, 1, 0, 2], [9, 2, 4, 3]])).tolist() == [[9, 2, 1], [9, 3, 6]]
    new = [f"new {i}" for i in range(12)] + ["old"] * 20
    (row,) = watch.week_checks(week(kind=new), week(kind=["old"] * 300))
    assert row.flagged
    assert row.effect == Share("old", 1.0, 20 / 32)


def test_one_level_alone_says_nothing():
    (row,) = watch.week_checks(week(language=["es"] * 9), week(language=["es"] * 90))
    assert (row.p, row.flagged) == (1.0, False)


def test_what_either_window_lacks_is_not_checked():
    now = Sample({"length": [1.0, 2.0], "distance": []}, {"language": ["es"], "specialty": ["x"]})
    rows = watch.week_checks(now, Sample({"length": [1.0], "distance": [1.0]}, {"language": ["es"]}))
    assert [row.name for row in rows] == ["length", "language"]
    assert watch.week_checks(Sample(), Sample()) == ()
    with pytest.raises(DataError):
        watch.week_checks(week(length=[np.nan]), week(length=[1.0]))


def test_holm_by_hand():
    assert watch._holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert watch._holm([0.6, 0.6]) == [1.0, 1.0]
    assert watch._holm([]) == []


def test_checks_are_plain_facts():
    rows = watch.week_checks(week(a=[1.0, 2.0], b=["x"]), week(a=[1.0], b=["y"]))
    assert all(isinstance(row, Check) and type(row.flagged) is bool for row in rows)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Paciente de 45 años que acude a urgencias por fiebre y tos de una semana de evolución.", "es"),
        ("The patient was admitted to the hospital with fever and a cough for one week.", "en"),
        ("Der Patient wurde wegen Fieber und Husten aufgenommen.", "other"),
        ("Hb 12.3 Plt 180 Na 140 K 4.1 Cr 0.9", "other"),
        ("", "other"),
    ],
)
def test_the_language_of_a_text(text, language):
    assert watch.language_of(text) == language


def test_strata_of_cases_given_another_label_and_of_those_given_it():
    given = [0, 0, 0, 0, 1, 1, 2]
    truth = [1, 0, watch.NOT_DRAWN, watch.WAITING, 0, 1, 2]
    propensity = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5]
    assert watch.strata(given, truth, propensity, 1) == (Stratum(0.1, 4, 2, 1, 1), Stratum(0.5, 1, 1, 0))
    assert watch.strata(given, truth, propensity, 1, kept=True) == (Stratum(0.1, 2, 2, 1),)
    with pytest.raises(DataError):
        watch.strata(given, truth[1:], propensity, 1)


def test_one_propensity_gives_clopper_pearson():
    found = watch.missed_rate([Stratum(0.1, 4000, 300, 2), Stratum(0.1, 1000, 100, 1)], alpha=0.02)
    exact = stats.binomtest(3, 400).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert (found.rate, found.method, found.automatic, found.read, found.missed) == (
        3 / 400,
        watch.EQUAL,
        5000,
        400,
        3,
    )
    assert found.verdict == watch.UNTOLD


def test_verdicts_on_both_sides():
    assert watch.missed_rate([Stratum(0.1, 5000, 500, 1)], 0.02).verdict == watch.WITHIN
    assert watch.missed_rate([Stratum(0.1, 5000, 500, 30)], 0.02).verdict == watch.ABOVE
    assert (
        watch.missed_rate([Stratum(0.1, 5000, 500, 30), Stratum(0.2, 5000, 1000, 60)], 0.02).verdict
        == watch.ABOVE
    )
    assert (
        watch.missed_rate([Stratum(0.1, 5000, 500, 1), Stratum(0.2, 5000, 1000, 2)], 0.02).verdict
        == watch.WITHIN
    )


def test_nothing_read_tells_nothing():
    for rows in ([], [Stratum(0.1, 50, 0, 0)], [Stratum(0.1, 50, 0, 0), Stratum(0.2, 50, 0, 0)]):
        found = watch.missed_rate(rows, 0.05)
        assert math.isnan(found.rate)
        assert (found.low, found.high, found.verdict) == (0.0, 1.0, watch.UNTOLD)
    assert watch.missed_rate([], 0.05).more_reads == 72  # 0.025 ** (1 / 72) is the first above 0.95


def test_cases_without_a_chance_of_audit_are_left_out_and_counted():
    found = watch.missed_rate([Stratum(0.0, 900, 0, 0), Stratum(0.1, 100, 10, 1)], 0.05)
    assert (found.unaudited, found.automatic, found.rate) == (900, 100, 0.1)


def test_cases_that_wait_widen_the_interval_both_ways():
    whole, part = (watch.missed_rate([Stratum(0.1, 900, 90, 4, w)], 0.05) for w in (0, 10))
    assert part.low < whole.low < whole.high < part.high
    assert part.rate == whole.rate


@pytest.mark.parametrize("missed", [0, 3])
def test_reads_still_needed_are_the_fewest_that_would_do(missed):
    found = watch.missed_rate([Stratum(0.1, 4000, 300, missed)], alpha=0.012)
    needed = found.read + found.more_reads

    def high(n):
        return watch.clopper_pearson(math.ceil(found.rate * n), n)[1]

    assert high(needed) <= 0.012 < high(needed - 1)
    assert watch.missed_rate([Stratum(0.1, 4000, 300, 4)], alpha=0.0125).more_reads is None


def test_the_weighted_interval_by_hand_where_nothing_was_missed():
    """With nothing found, the winnings against m are a mean over stakes c of (1 + c m / (B - m)) ** n."""
    low, high = watch.weighted_interval([], 1000, 0.05)
    won = np.mean((1 + watch.STAKES_UP * high / (20 - high)) ** 1000)
    assert low == 0.0
    assert won == pytest.approx(40, rel=1e-4)
    assert high > watch.clopper_pearson(0, 50)[1]


def test_the_weighted_interval_holds_its_estimate_and_is_not_much_wider():
    for k in (1, 4, 20, 100):
        low, high = watch.weighted_interval([(0.1, k)], 10_000, 0.1)
        exact = watch.clopper_pearson(k, 1000)
        assert low < exact[0] < k / 1000 < exact[1] < high
        assert high - low < 1.8 * (exact[1] - exact[0])


def test_far_more_found_than_could_be_leaves_nothing_below_one():
    assert watch.weighted_interval([(0.01, 8)], 10, 0.01) == (1.0, 1.0)


def test_the_unequal_estimate_weights_by_the_propensity():
    found = watch.missed_rate([Stratum(0.05, 2000, 100, 1), Stratum(0.1, 3000, 300, 3)], 0.05)
    assert found.rate == pytest.approx((1 / 0.05 + 3 / 0.1) / 5000)
    assert found.method == watch.UNEQUAL
    assert found.low < found.rate < found.high


@pytest.mark.parametrize("read", [45, 160])
def test_counts_that_the_propensities_do_not_explain_are_refused(read):
    """Cases drawn but forgotten would else pass for cases found right."""
    rows = [Stratum(0.1, 1000, read, 0), Stratum(0.2, 1000, 200, 0)]
    with pytest.raises(DataError, match="count all that were drawn"):
        watch.missed_rate(rows, 0.05)
    waiting = max(100 - read, 0)
    assert (
        watch.missed_rate([Stratum(0.1, 1000, 100 - waiting, 0, waiting), rows[1]], 0.05).waiting == waiting
    )


@pytest.mark.parametrize(
    "row",
    [
        Stratum(0.1, 10, 11, 0),
        Stratum(0.1, 10, 5, 6),
        Stratum(0.1, 10, 5, -1),
        Stratum(1.1, 10, 5, 0),
        Stratum(0.0, 10, 5, 0),
        Stratum(0.1, 10, 5, 0, 6),
    ],
)
def test_counts_that_cannot_be_are_refused(row):
    with pytest.raises(DataError):
        watch.missed_rate([row], 0.05)


def test_levels_that_cannot_be_are_refused():
    for alpha, confidence in ((0, 0.95), (0.05, 1)):
        with pytest.raises(DataError):
            watch.missed_rate([Stratum(0.1, 10, 5, 0)], alpha, confidence)


def test_the_missed_share_of_a_class_by_hand():
    """1,000 automatic elsewhere, 2 of 100 missed; 50 kept, 1 of 10 wrong; 55 deferred: 20 of 20 + 45 + 55."""
    found = watch.missed_share([Stratum(0.1, 1000, 100, 2)], [Stratum(0.2, 50, 10, 1)], 55, 7, alpha=0.05)
    low, high = watch.clopper_pearson(2, 100, 0.975)
    wrong_low, wrong_high = watch.clopper_pearson(1, 10, 0.975)
    assert (found.cases, found.share) == pytest.approx((120, 20 / 120))
    assert found.low == pytest.approx(1000 * low / (1000 * low + 50 * (1 - wrong_low) + 62))
    assert found.high == pytest.approx(1000 * high / (1000 * high + 50 * (1 - wrong_high) + 55))
    assert found.verdict == watch.UNTOLD


def test_a_class_never_met_has_no_missed_share():
    found = watch.missed_share([], [], 0, 0, alpha=0.05)
    assert math.isnan(found.share)
    assert found.verdict == watch.UNTOLD
    with pytest.raises(DataError, match="no chance of audit"):
        watch.missed_share([Stratum(0.0, 5, 0, 0)], [], 1, 0, alpha=0.05)
