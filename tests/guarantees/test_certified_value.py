"""The certified predictive value, by simulation: it holds as often as it says, and it is worth having.

Cases are drawn from a large population whose true rate of error at every alpha is known by counting. The rate asked for is
a little below that at one alpha of the grid, so that choosing this alpha is a breach, and an easy one.
"""

from functools import partial

import numpy as np
import pytest
from scipy.stats import beta

from mlcore import certify, decision
from mlcore.calibrate import Calibration
from mlcore.certify import Labelled

ALPHAS = tuple(np.geomspace(0.005, 0.15, 12))
FLOOR, AUDIT = 0.01, 0.1
HARD = 8
DRAWN = {"equal": 4000, "policy": 25_000, "classes": (1500, 500)}


def margins(random, truth):
    """Logits and distances: suspects who look like none are more often strange, and not always."""
    margin = 1.5 * (2 * truth - 1) + random.normal(size=len(truth))
    distance = 1 + 0.2 * np.abs(random.normal(size=(len(truth), 2))) + 0.1 * (np.abs(margin) > 3)[:, None]
    return np.column_stack([-margin, margin]), distance


def population(random, n, prevalence=0.12):
    truth = (random.random(n) < prevalence).astype(int)
    return *margins(random, truth), truth


def ranks(random, sizes=(900, 900)):
    truth = np.repeat([0, 1], sizes)
    return Calibration.fit(("no", "yes"), *margins(random, truth), truth, 1.0)


def labelled(scores, truth, weight):
    return Labelled(scores.credibility, scores.runner_up, scores.typicality, scores.label, truth, weight)


def take(cases, rows):
    return Labelled(*[column[rows] for column in cases])


def true_rates(cases):
    """(m,) shares of the automatic negatives of a whole population that are suspects."""
    rates = []
    for alpha in ALPHAS:
        settled = decision.decide(*cases[:3], alpha, FLOOR) == decision.AUTOMATIC
        rates.append(cases.truth[settled & (cases.label == 0)].mean())
    return np.array(rates)


def certified(cases, rate, **how):
    return certify.certify(cases, ALPHAS, rate, targets={1}, floor=FLOOR, **how)


def site(seed):
    """A population scored by one calibration, its true rates, and the rate that is asked for."""
    random = np.random.default_rng(seed)
    logits, distances, truth = population(random, 400_000)
    cases = labelled(ranks(random).apply(logits, distances), truth, np.ones(len(truth)))
    rates = true_rates(cases)
    return random, cases, rates, 0.97 * rates[HARD]


def equally(seed):
    """Draws of cases all of whom are read."""
    random, cases, rates, rate = site(seed)
    while True:
        drawn = take(cases, random.integers(0, len(cases.truth), DRAWN["equal"]))
        yield certified(drawn, rate), drawn, rates, rate


def by_policy(seed, at=6):
    """Draws of weeks under a policy at an alpha: every deferred case is read, of automatic ones a random tenth."""
    random, cases, rates, rate = site(seed)
    while True:
        week = take(cases, random.integers(0, len(cases.truth), DRAWN["policy"]))
        deferred = decision.decide(*week[:3], ALPHAS[at], FLOOR) != decision.AUTOMATIC
        read = deferred | (random.random(len(deferred)) < AUDIT)
        seen = take(week._replace(weight=np.where(deferred, 1.0, 1 / AUDIT)), read)
        yield certified(seen, rate, by_propensity=True, heaviest=1 / AUDIT), seen, rates, rate


def by_class(seed):
    """Draws of a release's own held-out cases: fixed numbers of each class, read against each other, weighted by prevalence."""
    random = np.random.default_rng(seed)
    logits, distances, whole = population(random, 30_000)
    of_class = [np.flatnonzero(whole == c) for c in range(2)]
    truth = np.repeat([0, 1], DRAWN["classes"])
    weight = np.where(truth, whole.mean(), 1 - whole.mean()) / np.where(truth, 0.25, 0.75)
    while True:
        rows = np.concatenate([random.choice(of_class[c], DRAWN["classes"][c]) for c in range(2)])
        held = logits[rows], distances[rows], truth
        fitted = Calibration.fit(("no", "yes"), *held, 1.0)
        rates = true_rates(labelled(fitted.apply(logits, distances), whole, np.ones(len(whole))))
        drawn = labelled(fitted.held_out_scores(*held), truth, weight)
        rate = 0.97 * rates[HARD]
        yield certified(drawn, rate), drawn, rates, rate


def holds(draws, number):
    """In how many of the draws the certified rate is true, its Clopper-Pearson interval, and how often there is one."""
    held = given = 0
    for _, (found, _, rates, rate) in zip(range(number), draws, strict=False):
        given += found.alpha is not None
        held += found.alpha is None or rates[ALPHAS.index(found.alpha)] <= rate
    low = beta.ppf(0.025, held, number - held + 1)
    high = beta.ppf(0.975, held + 1, number - held) if held < number else 1.0
    return held, (low, high), given


WAYS = {"equal": equally, "policy": by_policy, "dialled": partial(by_policy, at=HARD), "classes": by_class}


@pytest.mark.parametrize(
    ("way", "number"), [("equal", 100), ("policy", 20), ("dialled", 20), ("classes", 15)]
)
def test_the_certified_rate_holds(way, number):
    """The Clopper-Pearson interval of the share of draws in which it holds reaches 95 %."""
    held, (_, high), given = holds(WAYS[way](1), number)
    assert high >= 0.95, held
    assert given >= number / 2


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("way", "number"), [("equal", 1000), ("policy", 1000), ("dialled", 1000), ("classes", 400)]
)
def test_the_certified_rate_holds_in_95_of_100_draws_campaign(way, number):
    held, (low, _), given = holds(WAYS[way](2), number)
    print(f"{way}: held in {held} of {number}, from {low:.4f}; certified in {given}")
    assert held >= 0.95 * number, held
    assert low >= 0.93
    assert given >= 0.75 * number, given


def test_an_alpha_taken_by_what_is_seen_would_break_the_promise():
    """What the test mends: the alpha that settles most among those whose observed rate is low enough."""
    broken = 0
    for _, (found, _, rates, rate) in zip(range(150), equally(3), strict=False):
        low = [row for row in found.rows if row.seen <= rate]
        broken += rates[ALPHAS.index(max(low, key=lambda row: row.automatic).alpha)] > rate
    assert broken >= 0.2 * 150, broken


def test_with_ample_cases_it_certifies_nearly_all_that_is_lawful():
    """Of 20 draws of 40,000 cases, in 18 at least: as much settled, but for 2 %, as at the last alpha before the first
    that breaks the rate."""
    random, cases, rates, rate = site(4)
    first = int(np.argmax(rates > rate))
    near = 0
    for _ in range(20):
        found = certified(take(cases, random.integers(0, len(cases.truth), 40_000)), rate)
        settled = {row.alpha: row.automatic for row in found.rows}
        near += found.alpha is not None and settled[found.alpha] >= 0.98 * settled[ALPHAS[first - 1]]
    assert near >= 18, near
