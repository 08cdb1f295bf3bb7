"""The missed rate, number by number: hand-worked cases, refusals. What its intervals promise: tests/guarantees."""

import math

import numpy as np
import pytest
from scipy import stats

from mlcore import missed_rate
from mlcore.errors import DataError
from mlcore.missed_rate import Stratum


def test_strata_of_cases_given_another_label_and_of_those_given_it():
    given = [0, 0, 0, 0, 1, 1, 2]
    truth = [1, 0, missed_rate.NOT_DRAWN, missed_rate.WAITING, 0, 1, 2]
    propensity = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5]
    assert missed_rate.strata(given, truth, propensity, 1) == (
        Stratum(0.1, 4, 2, 1, 1),
        Stratum(0.5, 1, 1, 0),
    )
    assert missed_rate.strata(given, truth, propensity, 1, kept=True) == (Stratum(0.1, 2, 2, 1),)
    with pytest.raises(DataError):
        missed_rate.strata(given, truth[1:], propensity, 1)


def test_one_propensity_gives_clopper_pearson():
    found = missed_rate.missed_rate([Stratum(0.1, 4000, 300, 2), Stratum(0.1, 1000, 100, 1)], alpha=0.02)
    exact = stats.binomtest(3, 400).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert (found.rate, found.method, found.automatic, found.read, found.missed) == (
        3 / 400,
        missed_rate.EQUAL,
        5000,
        400,
        3,
    )
    assert found.verdict == missed_rate.UNTOLD


def test_verdicts_on_both_sides():
    assert missed_rate.missed_rate([Stratum(0.1, 5000, 500, 1)], 0.02).verdict == missed_rate.WITHIN
    assert missed_rate.missed_rate([Stratum(0.1, 5000, 500, 30)], 0.02).verdict == missed_rate.ABOVE
    assert (
        missed_rate.missed_rate([Stratum(0.1, 5000, 500, 30), Stratum(0.2, 5000, 1000, 60)], 0.02).verdict
        == missed_rate.ABOVE
    )
    assert (
        missed_rate.missed_rate([Stratum(0.1, 5000, 500, 1), Stratum(0.2, 5000, 1000, 2)], 0.02).verdict
        == missed_rate.WITHIN
    )


def test_nothing_read_tells_nothing():
    for rows in ([], [Stratum(0.1, 50, 0, 0)], [Stratum(0.1, 50, 0, 0), Stratum(0.2, 50, 0, 0)]):
        found = missed_rate.missed_rate(rows, 0.05)
        assert math.isnan(found.rate)
        assert (found.low, found.high, found.verdict) == (0.0, 1.0, missed_rate.UNTOLD)
    assert missed_rate.missed_rate([], 0.05).more_reads == 72  # 0.025 ** (1 / 72) is the first above 0.95


def test_cases_without_a_chance_of_audit_are_left_out_and_counted():
    found = missed_rate.missed_rate([Stratum(0.0, 900, 0, 0), Stratum(0.1, 100, 10, 1)], 0.05)
    assert (found.unaudited, found.automatic, found.rate) == (900, 100, 0.1)


def test_cases_that_wait_widen_the_interval_both_ways():
    whole, part = (missed_rate.missed_rate([Stratum(0.1, 900, 90, 4, w)], 0.05) for w in (0, 10))
    assert part.low < whole.low < whole.high < part.high
    assert part.rate == whole.rate


@pytest.mark.parametrize("missed", [0, 3])
def test_reads_still_needed_are_the_fewest_that_would_do(missed):
    found = missed_rate.missed_rate([Stratum(0.1, 4000, 300, missed)], alpha=0.012)
    needed = found.read + found.more_reads

    def high(n):
        return missed_rate.clopper_pearson(math.ceil(found.rate * n), n)[1]

    assert high(needed) <= 0.012 < high(needed - 1)
    assert missed_rate.missed_rate([Stratum(0.1, 4000, 300, 4)], alpha=0.0125).more_reads is None


def test_the_weighted_interval_by_hand_where_nothing_was_missed():
    """With nothing found, the winnings against m are a mean over stakes c of (1 + c m / (B - m)) ** n."""
    low, high = missed_rate.weighted_interval([], 1000, 0.05)
    won = np.mean((1 + missed_rate.STAKES_UP * high / (20 - high)) ** 1000)
    assert low == 0.0
    assert won == pytest.approx(40, rel=1e-4)
    assert high > missed_rate.clopper_pearson(0, 50)[1]


def test_the_weighted_interval_holds_its_estimate_and_is_not_much_wider():
    for k in (1, 4, 20, 100):
        low, high = missed_rate.weighted_interval([(0.1, k)], 10_000, 0.1)
        exact = missed_rate.clopper_pearson(k, 1000)
        assert low < exact[0] < k / 1000 < exact[1] < high
        assert high - low < 1.8 * (exact[1] - exact[0])


def test_far_more_found_than_could_be_leaves_nothing_below_one():
    assert missed_rate.weighted_interval([(0.01, 8)], 10, 0.01) == (1.0, 1.0)


def test_the_unequal_estimate_weights_by_the_propensity():
    found = missed_rate.missed_rate([Stratum(0.05, 2000, 100, 1), Stratum(0.1, 3000, 300, 3)], 0.05)
    assert found.rate == pytest.approx((1 / 0.05 + 3 / 0.1) / 5000)
    assert found.method == missed_rate.UNEQUAL
    assert found.low < found.rate < found.high


@pytest.mark.parametrize("read", [45, 160])
def test_counts_that_the_propensities_do_not_explain_are_refused(read):
    """Cases drawn but forgotten would else pass for cases found right."""
    rows = [Stratum(0.1, 1000, read, 0), Stratum(0.2, 1000, 200, 0)]
    with pytest.raises(DataError, match="count all that were drawn"):
        missed_rate.missed_rate(rows, 0.05)
    waiting = max(100 - read, 0)
    assert (
        missed_rate.missed_rate([Stratum(0.1, 1000, 100 - waiting, 0, waiting), rows[1]], 0.05).waiting
        == waiting
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
        missed_rate.missed_rate([row], 0.05)


def test_levels_that_cannot_be_are_refused():
    for alpha, confidence in ((0, 0.95), (0.05, 1)):
        with pytest.raises(DataError):
            missed_rate.missed_rate([Stratum(0.1, 10, 5, 0)], alpha, confidence)


def test_the_missed_share_of_a_class_by_hand():
    """1,000 automatic elsewhere, 2 of 100 missed; 50 kept, 1 of 10 wrong; 55 deferred: 20 of 20 + 45 + 55."""
    found = missed_rate.missed_share(
        [Stratum(0.1, 1000, 100, 2)], [Stratum(0.2, 50, 10, 1)], 55, 7, alpha=0.05
    )
    low, high = missed_rate.clopper_pearson(2, 100, 0.975)
    wrong_low, wrong_high = missed_rate.clopper_pearson(1, 10, 0.975)
    assert (found.cases, found.share) == pytest.approx((120, 20 / 120))
    assert found.low == pytest.approx(1000 * low / (1000 * low + 50 * (1 - wrong_low) + 62))
    assert found.high == pytest.approx(1000 * high / (1000 * high + 50 * (1 - wrong_high) + 55))
    assert found.verdict == missed_rate.UNTOLD


def test_a_class_never_met_has_no_missed_share():
    found = missed_rate.missed_share([], [], 0, 0, alpha=0.05)
    assert math.isnan(found.share)
    assert found.verdict == missed_rate.UNTOLD
    with pytest.raises(DataError, match="no chance of audit"):
        missed_rate.missed_share([Stratum(0.0, 5, 0, 0)], [], 1, 0, alpha=0.05)
