"""The promises of the missed rate, by simulation: intervals that hold the truth, verdicts that are seldom wrong."""

import numpy as np
import pytest

from mlcore import missed_rate
from mlcore.missed_rate import Stratum
from tests.guarantees.chance import at_least, at_most

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
    found = [missed_rate.missed_rate(audited(random, population), alpha=0.5) for _ in range(audits)]
    return sum(row.low <= truth <= row.high for row in found), truth, found


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_interval_of_the_missed_rate_holds(population):
    held_in, truth, found = held(population, 100)
    assert held_in >= at_least(100, 0.95)
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
            row = missed_rate.missed_rate(told, alpha=0.5)
            held_in[left] += row.low <= sum(missed) / sum(automatic) <= row.high
    assert min(held_in.values()) >= at_least(100, 0.95)


@pytest.mark.campaign
@pytest.mark.parametrize("population", POPULATIONS)
def test_the_interval_of_the_missed_rate_holds_over_many_audits(population):
    held_in, truth, found = held(population, 2000)
    width = np.median([row.high - row.low for row in found])
    print(f"{population}: {held_in / 2000:.4f} of 2,000 intervals hold {truth:.4f}; median width {width:.4f}")
    assert held_in >= at_least(2000, 0.95)


def test_verdicts_are_seldom_wrong_and_reached_with_enough_reads():
    """At a rate of exactly alpha, «within» comes rarely; at half of it, with reads enough, nearly always."""
    random = np.random.default_rng(0)

    def verdicts(missed):
        drawn = random.binomial(missed, 0.2, size=150), random.binomial(20_000 - missed, 0.2, size=150)
        rows = [Stratum(0.2, 20_000, int(k + r), int(k)) for k, r in zip(*drawn, strict=True)]
        return [missed_rate.missed_rate([row], alpha=0.01).verdict for row in rows]

    assert verdicts(201).count(missed_rate.WITHIN) <= at_most(150, 0.025)
    assert verdicts(200).count(missed_rate.ABOVE) <= at_most(150, 0.025)
    assert verdicts(100).count(missed_rate.WITHIN) >= 140
    assert verdicts(400).count(missed_rate.ABOVE) >= 140


def test_the_interval_of_a_class_s_missed_share_holds():
    """1,200 true cases: 30 automatic elsewhere, 570 kept, 600 deferred, of which a random half is read."""
    random, held_in = np.random.default_rng(0), 0
    for _ in range(300):
        missed, right = random.binomial(30, 0.1), random.binomial(5970, 0.1)
        wrong, kept = random.binomial(40, 0.1), random.binomial(570, 0.1)
        of_class = int(random.binomial(600, 0.5))
        found = missed_rate.missed_share(
            [Stratum(0.1, 6000, int(missed + right), int(missed))],
            [Stratum(0.1, 610, int(wrong + kept), int(wrong))],
            deferred=of_class,
            unread=1000 + 600 - of_class,
            alpha=0.05,
        )
        held_in += found.low <= 30 / 1200 <= found.high
    assert held_in >= at_least(300, 0.95)
