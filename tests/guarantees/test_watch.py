"""The promises of the watch, by simulation: quiet where nothing changes, quick where it does, intervals that hold."""

import numpy as np
import pytest
from scipy import stats

from mlcore import watch
from mlcore.watch import Sample, Stratum

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
    p = watch.online_p(values, random.random(len(values)), reference)
    return p, watch.martingale(p)


def highest(draw, streams, n, m, seed):
    """(streams,) the highest log martingale of each stream of n cases after m of reference."""
    random = np.random.default_rng(seed)
    return np.array([followed(random, draw(random, n), draw(random, m))[1].max() for _ in range(streams)])


def raised(peaks, rate):
    return int((peaks >= np.log(watch.level(rate))).sum())


def at_most(streams, rate):
    """More false alarms than this would come with a chance below one in a thousand."""
    return stats.binom.ppf(0.999, streams, rate)


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
        [watch.online_p(ties(random, 30), random.random(30), ties(random, 10))[-2:] for _ in range(4000)]
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
        alarms += watch.alarm_at(watch.martingale(p), watch.level(RATE)) is not None
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
        alarm = watch.alarm_at(log_m, watch.level(RATE))
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
    alarm = watch.alarm_at(log_m, watch.level(RATE))
    print(f"late shift: delay {alarm - 50_000} cases, climb seen from {watch.began_at(p, alarm) - 50_000:+d}")
    assert 50_000 <= alarm < 50_500
    assert abs(watch.began_at(p, alarm) - 50_000) < 100


LANGUAGES, SPECIALTIES = ["es", "en", "other"], [f"ward {i}" for i in range(12)]
USUAL = 0.6 ** np.arange(12) / (0.6 ** np.arange(12)).sum()


def window(random, n, words=6.0, wards=USUAL):
    return Sample(
        {
            "distance": random.chisquare(5, size=n),
            "length": np.exp(random.normal(words, 0.5, size=n)).round(),
        },
        {
            "language": random.choice(LANGUAGES, p=[0.95, 0.04, 0.01], size=n).tolist(),
            "specialty": random.choice(SPECIALTIES, p=wards, size=n).tolist(),
        },
    )


def flagged_weeks(random, weeks, n, rate):
    """Weeks with any flag when each may spend the whole rate, each against a reference of its own."""
    return sum(
        any(
            row.flagged for row in watch.week_checks(window(random, n), window(random, 10 * n), rate, weeks=1)
        )
        for _ in range(weeks)
    )


@pytest.mark.parametrize("n", [20, 200])
def test_weeks_without_change_are_flagged_no_more_than_stated(n, monkeypatch):
    monkeypatch.setattr(watch, "DRAWS", 999)
    assert flagged_weeks(np.random.default_rng(n), 300, n, 0.2) <= at_most(300, 0.2)


@pytest.mark.campaign
def test_years_without_change_are_flagged_no_more_than_stated():
    """40 years of 53 weeks against one reference each."""
    random, flagged = np.random.default_rng(0), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "DRAWS", 4_999)
        for _ in range(40):
            reference = window(random, 800)
            weeks = (watch.week_checks(window(random, 100), reference) for _ in range(watch.WEEKS))
            flagged += any(row.flagged for week in weeks for row in week)
    print(f"{flagged} of 40 years without change had a flagged week")
    assert flagged <= at_most(40, 0.05)


def test_a_week_of_longer_notes_or_of_another_mix_is_flagged():
    random = np.random.default_rng(0)
    other = np.roll(USUAL, 1)
    for sample, name in (
        (window(random, 150, words=6.4), "length"),
        (window(random, 150, wards=other), "specialty"),
    ):
        rows = {row.name: row for row in watch.week_checks(sample, window(random, 3000))}
        assert [key for key, row in rows.items() if row.flagged] == [name]


POPULATIONS = {
    "one propensity": ((0.1,), (4000,), (40,)),
    "rarely missed": ((0.05, 0.1), (2000, 3000), (2, 3)),
    "missed where seldom read": ((0.02, 0.2), (4000, 2000), (60, 4)),
    "missed where often read": ((0.02, 0.2), (4000, 2000), (4, 60)),
    "many propensities": ((0.03, 0.05, 0.1, 0.3, 1.0), (2000, 2000, 1000, 500, 100), (20, 10, 20, 5, 5)),
    "all right": ((0.05, 0.1), (1000, 1000), (0, 0)),
    "small and often missed": ((0.3, 0.5), (60, 60), (20, 30)),
}


def audited(random, population):
    """One audit of a fixed set of cases, each drawn independently with its propensity."""
    rows = []
    for pi, automatic, missed in zip(*POPULATIONS[population], strict=True):
        found, right = random.binomial(missed, pi), random.binomial(automatic - missed, pi)
        rows.append(Stratum(pi, automatic, int(found + right), int(found)))
    return rows


def held(population, audits, seed=0):
    """How many of the intervals hold the true rate; the true rate; what the audits found."""
    random = np.random.default_rng(seed)
    _, automatic, missed = POPULATIONS[population]
    truth = sum(missed) / sum(automatic)
    found = [watch.missed_rate(audited(random, population), alpha=0.5) for _ in range(audits)]
    return sum(row.low <= truth <= row.high for row in found), truth, found


def enough(audits, confidence=0.95):
    return stats.binom.ppf(0.001, audits, confidence)


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_interval_of_the_missed_rate_holds(population):
    held_in, truth, found = held(population, 100)
    assert held_in >= enough(100)
    assert (
        abs(np.mean([row.rate for row in found]) - truth)
        <= 4 * np.std([row.rate for row in found]) / 100**0.5
    )


@pytest.mark.parametrize("population", ["one propensity", "missed where seldom read"])
def test_the_interval_holds_whatever_readers_leave_for_later(population):
    """The worst order: every missed case drawn still waits, or every right one does; leaving them out would mislead."""
    random, held_in = np.random.default_rng(0), {"missed": 0, "right": 0}
    _, automatic, missed = POPULATIONS[population]
    for _ in range(100):
        for left, rows in (
            ("missed", [(s, s.read - s.missed, 0) for s in audited(random, population)]),
            ("right", [(s, s.missed, s.missed) for s in audited(random, population)]),
        ):
            told = [Stratum(s.propensity, s.automatic, read, found, s.read - read) for s, read, found in rows]
            row = watch.missed_rate(told, alpha=0.5)
            held_in[left] += row.low <= sum(missed) / sum(automatic) <= row.high
    assert min(held_in.values()) >= enough(100)


@pytest.mark.campaign
@pytest.mark.parametrize("population", POPULATIONS)
def test_the_interval_of_the_missed_rate_holds_over_many_audits(population):
    held_in, truth, found = held(population, 2000)
    width = np.median([row.high - row.low for row in found])
    print(f"{population}: {held_in / 2000:.4f} of 2,000 intervals hold {truth:.4f}; median width {width:.4f}")
    assert held_in >= enough(2000)


def test_verdicts_are_seldom_wrong_and_reached_with_enough_reads():
    """At a rate of exactly alpha, «within» comes rarely; at half of it, with reads enough, nearly always."""
    random = np.random.default_rng(0)

    def verdicts(missed):
        drawn = random.binomial(missed, 0.2, size=150), random.binomial(20_000 - missed, 0.2, size=150)
        rows = [Stratum(0.2, 20_000, int(k + r), int(k)) for k, r in zip(*drawn, strict=True)]
        return [watch.missed_rate([row], alpha=0.01).verdict for row in rows]

    assert verdicts(201).count(watch.WITHIN) <= at_most(150, 0.025)
    assert verdicts(200).count(watch.ABOVE) <= at_most(150, 0.025)
    assert verdicts(100).count(watch.WITHIN) >= 140
    assert verdicts(400).count(watch.ABOVE) >= 140


def test_the_interval_of_a_class_s_missed_share_holds():
    """1,200 true cases: 30 automatic elsewhere, 570 kept, 600 deferred, of which a random half is read."""
    random, held_in = np.random.default_rng(0), 0
    for _ in range(300):
        missed, right = random.binomial(30, 0.1), random.binomial(5970, 0.1)
        wrong, kept = random.binomial(40, 0.1), random.binomial(570, 0.1)
        of_class = int(random.binomial(600, 0.5))
        found = watch.missed_share(
            [Stratum(0.1, 6000, int(missed + right), int(missed))],
            [Stratum(0.1, 610, int(wrong + kept), int(wrong))],
            deferred=of_class,
            unread=1000 + 600 - of_class,
            alpha=0.05,
        )
        held_in += found.low <= 30 / 1200 <= found.high
    assert held_in >= enough(300)
