"""The promises of the martingale, by simulation: quiet where nothing changes, quick where it does."""

import numpy as np
import pytest
from scipy import stats

from mlcore import martingale
from tests.guarantees.chance import at_most

RATE = 0.01
REFERENCE = 500


def plain(random, n):
    return random.normal(size=n)


def ties(random, n):
    """What ranks look like: few distinct values, most of them one value."""
    return np.minimum(random.geometric(0.4, size=n), 6) / 6


def heavy(random, n):
    return random.standard_cauchy(size=n)


def followed(random, values, reference):
    """The p-values of a stream and the log of its martingale."""
    p = martingale.online_p(values, random.random(len(values)), reference)
    return p, martingale.martingale(p)


def highest(draw, streams, n, m, seed):
    """(streams,) the highest log martingale of each stream of n cases after m of reference."""
    random = np.random.default_rng(seed)
    return np.array([followed(random, draw(random, n), draw(random, m))[1].max() for _ in range(streams)])


def raised(peaks, rate):
    return int((peaks >= np.log(martingale.level(rate))).sum())


@pytest.mark.parametrize("m", [0, REFERENCE])
@pytest.mark.parametrize("draw", [plain, ties, heavy])
def test_a_hundred_streams_without_change_stay_quiet(draw, m):
    peaks = highest(draw, 100, 500, m, seed=m)
    assert raised(peaks, RATE) <= at_most(100, RATE)
    assert raised(peaks, 0.2) <= at_most(100, 0.2)


@pytest.mark.campaign
@pytest.mark.parametrize("m", [0, REFERENCE])
@pytest.mark.parametrize("draw", [plain, ties])
def test_a_thousand_long_streams_without_change_stay_quiet(draw, m):
    peaks = highest(draw, 1000, 10_000, m, seed=m)
    found = {rate: raised(peaks, rate) for rate in (RATE, 0.05, 0.2)}
    print(f"{draw.__name__}, reference {m}: false alarms by rate in 1,000 streams of 10,000 cases: {found}")
    assert all(count <= at_most(1000, rate) for rate, count in found.items())


def test_p_values_of_ties_are_uniform_and_independent():
    random = np.random.default_rng(0)
    pairs = np.array(
        [martingale.online_p(ties(random, 30), random.random(30), ties(random, 10))[-2:] for _ in range(4000)]
    )
    counts = np.histogram2d(*pairs.T, bins=5, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_a_fixed_calibration_set_would_cry_wolf():
    """What the growing bag mends: ranked against one fixed set, streams that never change raise alarms."""
    random, alarms = np.random.default_rng(0), 0
    for _ in range(30):
        known, values = np.sort(random.normal(size=100)), random.normal(size=4000)
        greater = 100 - np.searchsorted(known, values)
        p = (greater + random.random(4000)) / 101
        alarms += martingale.alarm_at(martingale.martingale(p), martingale.level(RATE)) is not None
    assert alarms > at_most(30, RATE) + 5


def shifted(random, n):
    """Scores half a standard deviation stranger from the middle on."""
    return random.normal(size=n) + 0.5 * (np.arange(n) >= n // 2)


def drifting(random, n):
    """From the middle on a slow drift, one standard deviation in all."""
    return random.normal(size=n) + np.clip(np.arange(n) / (n / 2) - 1, 0, None)


def longer(random, n):
    """Words of a note, in round numbers; from the middle on a fifth come from a new ward and are half as long again."""
    words = np.exp(random.normal(6, 0.5, size=n))
    new = (np.arange(n) >= n // 2) & (random.random(n) < 0.2)
    return (words * np.where(new, 2.5, 1.0)).round(-1)


def both_ends(random, n):
    """From the middle on one and a half times the spread about the same centre."""
    return random.normal(size=n) * np.where(np.arange(n) >= n // 2, 1.5, 1.0)


SHIFTS = {shifted: 500, drifting: 1500, longer: 1500, both_ends: 1000}


@pytest.mark.parametrize("shift", SHIFTS)
def test_planted_shifts_are_caught(shift):
    """Delay in cases after 2,000 cases without change, over 20 streams."""
    random, delays, n = np.random.default_rng(3), [], 4000
    for _ in range(20):
        _, log_m = followed(random, shift(random, n), shift(random, REFERENCE * 2)[:REFERENCE])
        alarm = martingale.alarm_at(log_m, martingale.level(RATE))
        assert alarm is not None
        assert alarm >= n // 2
        delays.append(alarm - n // 2)
    print(f"{shift.__name__}: median delay {np.median(delays):.0f} cases, longest {max(delays)}")
    assert max(delays) <= SHIFTS[shift]


def test_a_late_shift_is_caught_as_well():
    """A quiet year does not use up the power to see a change: 50,000 cases without, then half a standard deviation."""
    random = np.random.default_rng(0)
    values = random.normal(size=52_000) + 0.5 * (np.arange(52_000) >= 50_000)
    p, log_m = followed(random, values, random.normal(size=REFERENCE))
    alarm = martingale.alarm_at(log_m, martingale.level(RATE))
    print(
        f"late shift: delay {alarm - 50_000} cases, climb seen from {martingale.began_at(p, alarm) - 50_000:+d}"
    )
    assert 50_000 <= alarm < 50_500
    assert abs(martingale.began_at(p, alarm) - 50_000) < 100
