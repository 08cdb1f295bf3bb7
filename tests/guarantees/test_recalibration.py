"""Recalibrating at a site, by simulation: queue labels break the promise of coverage, the audit sample keeps it.

A release calibrated elsewhere reads a site where suspects look less like suspects and come more often. Deferred cases are
read, of automatic ones a random share. A run takes the labelled cases of a stream, recalibrates, and reads new cases of the
same site; its miss is, for a class, the share of new cases whose own label is not in the prediction set. The band is four
standard errors of the mean over runs: mean(miss) - 4 sd(miss) / sqrt(runs) <= alpha is coverage of at least 1 - alpha
within what the simulation can tell, and mean(miss) - 4 sd(miss) / sqrt(runs) > alpha is a breach beyond it.
"""

import numpy as np
import pytest

from mlcore import decision
from mlcore.calibrate import Calibration
from mlcore.conformal import rank_p
from mlcore.recalibrate import by_propensity, recalibrate

ALPHA, FLOOR, AUDIT = 0.05, 0.02, 0.2
LABELS = ("no", "yes")
ELSEWHERE = {"prevalence": 0.3, "centre": 1.8, "spread": 1.0, "far": 1.0}
HERE = {"prevalence": 0.35, "centre": 1.2, "spread": 1.2, "far": 1.3}


def draw(random, n, prevalence, centre, spread, far):
    """Logits, distances and truth; a case further from the boundary is the nearer to its centroid."""
    truth = (random.random(n) < prevalence).astype(int)
    margin = centre * (2 * truth - 1) + spread * random.normal(size=n)
    distance = far * np.abs(random.normal(size=(n, 2))) + np.abs(margin[:, None] - centre * np.array([-1, 1]))
    return np.column_stack([-margin, margin]), distance, truth


def at_policy(random, release, n):
    """A stream of the site, and whether the policy defers each case."""
    cases = draw(random, n, **HERE)
    scores = release.apply(*cases[:2])
    decisions = decision.decide(scores.credibility, scores.runner_up, scores.typicality, ALPHA, FLOOR)
    return cases, decisions != decision.AUTOMATIC


def former(release, random, n):
    """The release's own calibration, as it came."""
    return release


def queue(release, random, n):
    """Of the deferred cases alone, as if they had been drawn like new ones: what must not be done."""
    cases, deferred = at_policy(random, release, n)
    return Calibration.fit(LABELS, *[part[deferred] for part in cases], release.temperature)


def unweighted(release, random, n):
    """Of everything read, queue and audit sample, without weights."""
    cases, deferred = at_policy(random, release, n)
    read = deferred | (random.random(n) < AUDIT)
    return recalibrate(release, *[part[read] for part in cases], None, ALPHA, FLOOR)


def audit(release, random, n):
    """Of the blind sample alone, deferred or not: everybody's chance is the audit rate."""
    cases, _ = at_policy(random, release, n)
    read = random.random(n) < AUDIT
    weights = by_propensity(np.full(int(read.sum()), AUDIT), AUDIT)
    return recalibrate(release, *[part[read] for part in cases], weights, ALPHA, FLOOR)


def both(release, random, n):
    """Of the whole queue and the audited automatic cases, each by its chance to be read."""
    cases, deferred = at_policy(random, release, n)
    read = deferred | (random.random(n) < AUDIT)
    weights = by_propensity(np.where(deferred, 1.0, AUDIT)[read], AUDIT)
    return recalibrate(release, *[part[read] for part in cases], weights, ALPHA, FLOOR)


def missed(way, runs, seed, rounds=1, there=HERE, n=4000, new=1500):
    """(runs, 3) of each run: the shares of new «no» and «yes» cases left out, and of correct ones held to be atypical.

    rounds: how often the site recalibrates on what the policy of the last calibration let it read.
    """
    random, found = np.random.default_rng(seed), []
    for _ in range(runs):
        ranks = Calibration.fit(LABELS, *draw(random, 1500, **ELSEWHERE), 1.0)
        for _ in range(rounds):
            ranks = way(ranks, random, n)
        logits, distances, truth = draw(random, new, **there)
        scores = ranks.apply(logits, distances)
        out = [(scores.p_values[truth == c, c] <= ALPHA).mean() for c in range(2)]
        found.append([*out, (scores.typicality[scores.label == truth] <= FLOOR).mean()])
    return np.array(found)


def surely(found):
    """(3,) means over runs less the band, and (3,) the means."""
    return found.mean(axis=0) - 4 * found.std(axis=0) / np.sqrt(len(found)), found.mean(axis=0)


PROMISED = np.array([ALPHA, ALPHA, FLOOR])
OF_USE = np.array([0.7, 0.7, 0.5]) * PROMISED  # a promise that is kept by deferring everything is none


NAIVE = [(queue, 0.05), (unweighted, 0.0)]


@pytest.mark.parametrize("way", [audit, both])
def test_the_audit_sample_keeps_the_promise_at_a_shifted_site(way):
    low, mean = surely(missed(way, 60, seed=1))
    assert (low <= PROMISED).all(), mean
    assert (mean >= OF_USE).all(), mean


@pytest.mark.parametrize("way", [audit, both])
def test_the_audit_sample_keeps_the_promise_when_its_own_policy_chose_the_labels(way):
    low, mean = surely(missed(way, 40, seed=2, rounds=3))
    assert (low <= PROMISED).all(), mean
    assert (mean >= OF_USE).all(), mean


@pytest.mark.parametrize(("way", "beyond"), NAIVE)
def test_labels_that_the_policy_chose_break_the_promise(way, beyond):
    low, _ = surely(missed(way, 60, seed=3))
    assert (low[:2] > ALPHA + beyond).all(), low


def test_the_former_calibration_breaks_it_where_cases_look_otherwise():
    low, _ = surely(missed(former, 40, seed=4))
    assert (low[:2] > ALPHA + 0.05).all(), low


def test_another_prevalence_alone_breaks_nothing():
    low, mean = surely(missed(former, 200, seed=5, there=ELSEWHERE | {"prevalence": 0.5}))
    assert (low <= PROMISED).all(), mean
    assert (mean >= OF_USE).all(), mean


def left_out(counted, runs=300, n=1000, odd=0.05, rate=0.01):
    """(runs,) shares of new cases of a class left out, where one week was drawn at ``rate`` and the others read whole.

    That week's cases, a share ``odd`` of n, are of a kind that no other week has; new cases come from all weeks alike.
    counted: from the rates of the cases drawn, what each counts beside a new one.
    """
    random, found = np.random.default_rng(8), []
    for _ in range(runs):
        strange = random.random(n) < odd
        values, rates = random.normal(size=n) + 4 * strange, np.where(strange, rate, 1.0)
        drawn = np.flatnonzero(random.random(n) < rates)
        drawn = drawn[values[drawn].argsort()]
        new = random.normal(size=1000) + 4 * (random.random(1000) < odd)
        found.append((rank_p(new, values[drawn], counted(rates[drawn])) <= ALPHA).mean())
    return np.array(found)


def beside_the_heaviest(rates):
    """The least rate over its own; the least is the site's, whether or not a case was drawn at it."""
    return by_propensity(rates, 0.01)


def beside_the_average(rates):
    """One over its own rate, a new case counting what these do on average."""
    return 1 / rates / (1 / rates).mean()


def beside_the_effective(rates):
    """One over its own rate, all together counting their effective size (Kish)."""
    return 1 / rates * (1 / rates).sum() / (1 / rates**2).sum()


def test_one_week_at_a_low_rate_is_paid_for_by_every_case_beside_it():
    """A new case may be of the kind that this week alone drew: counted as less than its like, it is missed beyond alpha."""
    for n in (1000, 4000):
        lawful = left_out(beside_the_heaviest, n=n)
        assert lawful.mean() - 4 * lawful.std() / np.sqrt(len(lawful)) <= ALPHA
    for counted in (beside_the_average, beside_the_effective):
        lenient = left_out(counted)
        assert lenient.mean() - 4 * lenient.std() / np.sqrt(len(lenient)) > ALPHA


@pytest.mark.campaign
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("way", [audit, both])
def test_the_audit_sample_keeps_the_promise_campaign(way, rounds):
    found = missed(way, 1000, seed=6 + rounds, rounds=rounds)
    print(way.__name__, rounds, "rounds, coverage", (1 - surely(found)[1]).round(4))
    low, mean = surely(found)
    assert (low <= PROMISED).all(), mean
    assert (mean >= OF_USE).all(), mean


@pytest.mark.campaign
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(("way", "beyond"), NAIVE)
def test_labels_that_the_policy_chose_break_the_promise_campaign(way, beyond, rounds):
    found = missed(way, 500, seed=16 + rounds, rounds=rounds)
    print(way.__name__, rounds, "rounds, coverage", (1 - surely(found)[1]).round(4))
    low, _ = surely(found)
    assert (low[:2] > ALPHA + beyond).all(), low
