"""Certified predictive value, reading budget, cost: hand-worked, naive twins, every refusal."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from mlcore import certify, decision, metrics
from mlcore.certify import Labelled, Sample
from mlcore.errors import DataError

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2)


def draw(seed, n=3000, prevalence=0.1, labels=2):
    """Labelled cases whose errors among the settled grow with alpha."""
    random = np.random.default_rng(seed)
    truth = np.where(random.random(n) < prevalence, labels - 1, random.integers(0, labels - 1, n))
    second = random.random(n) ** 3
    first = second + (1 - second) * random.random(n)
    label = np.where(random.random(n) < 3 * second, (truth + 1) % labels, truth)
    return Labelled(first, second, random.random(n), label, truth, np.ones(n))


def even(n, wrong):
    return Sample(np.ones(n), np.arange(n) < wrong, True)


def uneven(right, wrong):
    weights = np.array([*right, *wrong], dtype=float)
    return Sample(weights, np.arange(len(weights)) >= len(right), False)


def run(cases, rate=0.03, **more):
    return certify.certify(cases, ALPHAS, rate, **({"targets": {1}, "floor": 0.05} | more))


# The tests of one alpha.


@pytest.mark.parametrize(("n", "wrong"), [(10, 0), (500, 3), (2994, 0), (40, 40)])
def test_equal_weights_give_the_binomial_tail(n, wrong):
    assert certify.p_value(even(n, wrong), 0.01) == pytest.approx(binom.cdf(wrong, n, 0.01), rel=1e-9)


def test_three_thousand_without_an_error_show_one_in_a_thousand():
    assert certify.p_value(even(2995, 0), 0.001) <= 0.05 < certify.p_value(even(2994, 0), 0.001)


def test_the_bound_inverts_the_binomial_test():
    for n, wrong in [(100, 0), (1000, 4), (30, 29)]:
        bound = certify.upper_bound(even(n, wrong), 0.05)
        assert certify.p_value(even(n, wrong), bound) == pytest.approx(0.05)
    assert certify.upper_bound(even(100, 0), 0.05) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert certify.upper_bound(even(5, 5), 0.05) == certify.upper_bound(even(0, 0), 0.05) == 1.0


def test_wealth_by_hand():
    """One right case of weight 1 and one of 1/2, one wrong of 1/2, at a rate of 1/5: lambda = (1 - f) 5/4."""
    wealth = [(1 + (1 - f) / 4) * (1 + (1 - f) / 8) * (1 - (1 - f) / 2) for f in certify.BETS]
    kept = certify.p_value(uneven([1, 0.5], [0.5]), 0.2)
    assert np.mean(wealth) < 1 and kept == 1.0
    wealth = [(1 + (1 - f) / 4) ** 20 * (1 - (1 - f) / 2) for f in certify.BETS]
    assert certify.p_value(uneven([1] * 20, [0.5]), 0.2) == pytest.approx(1 / np.mean(wealth))


def test_the_wealth_is_expected_to_be_one_where_the_rate_is_just_exceeded():
    """Every outcome of four cases of unequal weight, each wrong with the very rate: the mean of 1 / p untruncated is 1."""
    rate, weights = 0.3, np.array([1.0, 0.5, 0.25, 0.25])
    total = 0.0
    for wrong in product([False, True], repeat=4):
        errs = np.array(wrong)
        right, lost = certify._grouped(Sample(weights, errs, False))
        chance = np.prod(np.where(errs, rate, 1 - rate))
        total += chance * np.exp(certify._log_wealth(right, lost, rate))
    assert total == pytest.approx(1.0)


def test_one_error_of_the_heaviest_does_not_end_the_betting():
    assert certify.p_value(uneven([1] * 2000, [1]), 0.01) < 0.05
    assert certify.p_value(uneven([1] * 10, [1]), 0.01) == 1.0


def test_the_bound_inverts_the_betting_test_and_grows_with_errors():
    bounds = []
    for wrong in (0, 1, 3, 10):
        sample = uneven([1.0, 0.5] * 300, [1.0] * wrong)
        bounds.append(certify.upper_bound(sample, 0.05))
        assert certify.p_value(sample, bounds[-1]) == pytest.approx(0.05, rel=1e-6)
    assert bounds == sorted(bounds) and len(set(bounds)) == 4
    assert certify.upper_bound(uneven([], [1, 0.5]), 0.05) == 1.0


def test_betting_costs_little_beside_the_exact_test():
    least = next(n for n in range(1, 9000, 10) if certify.p_value(uneven([1] * n, []), 0.001) <= 0.05)
    assert 2995 < least < 1.35 * 2995


# What is read further.


@pytest.mark.parametrize("sample", [even(200, 0), even(200, 1), uneven([1, 0.5] * 200, [0.5])])
@pytest.mark.parametrize("error", [0.0, 0.002])
def test_further_cases_are_the_fewest_that_would_pass(sample, error):
    more = certify.further_cases(sample, 0.01, 0.05, error)

    def after(number):
        groups = [
            np.vstack([group, (1.0, number * share)])
            for group, share in zip(certify._grouped(sample), (1 - error, error), strict=True)
        ]
        return certify._p(*groups, 0.01, sample.even)

    assert more > 0
    assert after(more) <= 0.05 < after(more - 1)


def test_further_cases_by_hand():
    assert certify.further_cases(even(1000, 0), 0.001, 0.05, 0.0) == 1995
    assert certify.further_cases(even(2995, 0), 0.001, 0.05, 0.0) == 0
    assert certify.further_cases(even(1000, 1), 0.001, 0.05, 0.001) is None
    added = Sample(np.ones(1500), np.arange(1500) < 3, True)
    more = certify.further_cases(added, 0.001, 0.05, 0.0)
    assert certify.p_value(even(1500 + more, 3), 0.001) <= 0.05 < certify.p_value(even(1499 + more, 3), 0.001)


def test_further_betting_cases_are_those_the_test_then_passes():
    sample = uneven([1, 0.5] * 200, [0.5])
    more = certify.further_cases(sample, 0.01, 0.05, 0.0)
    grown = Sample(
        np.append(sample.weight, np.ones(more)), np.append(sample.wrong, np.zeros(more, bool)), False
    )
    assert certify.p_value(grown, 0.01) <= 0.05


# The sequence.


def test_the_sequence_begins_at_the_first_that_could_pass_and_ends_at_the_first_that_does_not():
    p, able = [1.0, 0.9, 0.01, 0.05, 0.06, 0.01], [False, False, True, True, True, True]
    assert certify.sequence(p, able, 0.05) == [
        (False, False),
        (False, False),
        (True, True),
        (True, True),
        (True, False),
        (False, False),
    ]
    assert certify.sequence([0.5, 0.01], [True, True], 0.05) == [(True, False), (False, False)]
    assert certify.sequence([0.5], [False], 0.05) == [(False, False)]


@pytest.mark.parametrize("side", ["negative", "positive"])
@pytest.mark.parametrize("labels", [2, 4])
def test_rows_equal_a_naive_count(side, labels):
    cases, targets = draw(1, labels=labels), {labels - 1, 1} if labels > 2 else {1}
    cases = cases._replace(weight=np.random.default_rng(2).choice([1.0, 20.0], 3000))
    found = run(cases, targets=targets, side=side)
    for row in found.rows:
        n = wrong = heavy = erring = settled = 0
        for first, second, typical, label, truth, weight in zip(*cases, strict=True):
            if not (second <= row.alpha < first and typical > 0.05):
                continue
            settled += weight
            if (label in targets) == (side == "positive"):
                n, heavy = n + 1, heavy + weight
                if (truth in targets) != (label in targets):
                    wrong, erring = wrong + 1, erring + weight
        assert (row.n, row.wrong) == (n, wrong)
        assert row.seen == pytest.approx(erring / heavy)
        assert row.automatic == pytest.approx(settled / cases.weight.sum())
        assert row.method == "betting"


def test_the_alpha_that_automates_most_of_those_that_passed():
    found = run(draw(3, n=20_000), rate=0.01)
    passed = [row for row in found.rows if row.passed]
    assert 1 < len(passed) < len(ALPHAS)
    assert found.alpha == max(passed, key=lambda row: row.automatic).alpha
    assert all(row.p <= 0.05 and row.upper <= 0.01 and row.reads_at_best == 0 for row in passed)
    stopped = found.rows[len(passed)]
    assert stopped.tested and stopped.p > 0.05 and stopped.upper > 0.01


def test_scale_of_the_weights_means_nothing():
    cases = draw(4)
    heavy = cases._replace(weight=np.full(3000, 20.0))
    assert run(cases) == run(heavy)
    mixed = cases._replace(weight=np.random.default_rng(5).choice([1.0, 4.0], 3000))
    scaled = mixed._replace(weight=mixed.weight * 8)
    assert run(mixed) == run(scaled)


def test_weights_of_a_policy_may_be_counted_where_they_are_all_the_same_on_a_side():
    cases = draw(6)
    weight = np.where(cases.runner_up > 0.05, 1.0, 20.0)
    found = run(cases._replace(weight=weight), by_propensity=True)
    assert [row.method for row in found.rows] == ["binomial"] * 3 + ["betting"] * 2
    assert {row.method for row in run(cases._replace(weight=weight)).rows} == {"betting"}
    plain = run(cases)
    assert [row.p for row in found.rows[:3]] == [row.p for row in plain.rows[:3]]


def test_a_known_heaviest_weight_makes_the_test_more_careful():
    cases = draw(7)._replace(weight=np.random.default_rng(8).choice([1.0, 2.0], 3000))
    p = [[row.p for row in run(cases, heaviest=heaviest).rows] for heaviest in (None, 8.0)]
    assert all(careful >= bold for bold, careful in zip(*p, strict=True)) and p[0] != p[1]


def test_too_few_cases_are_told_how_many_more():
    found = run(draw(9, n=400), rate=0.001)
    assert found.alpha is None and not any(row.tested for row in found.rows)
    near = found.nearest
    assert near.reads_at_best == min(row.reads_at_best for row in found.rows)
    on_side = sum(
        second <= near.alpha < first and typical > 0.05 and label == 0
        for first, second, typical, label, *_ in zip(*draw(9, n=400), strict=True)
    )
    more = certify.further_cases(even(near.n, near.wrong), 0.001, 0.05, 0.0)
    assert near.n == on_side and near.reads_at_best == int(np.ceil(more / (on_side / 400)))


def test_the_mix_of_further_reads_may_be_told():
    rows = [run(draw(9, n=400), rate=0.001, mix=mix).rows for mix in (1.0, 0.5)]
    for all_of_them, half in zip(*rows, strict=True):
        assert half.reads_at_best in (2 * all_of_them.reads_at_best, 2 * all_of_them.reads_at_best - 1)
    assert run(draw(9, n=400), rate=0.001, mix=0.0).nearest is None


def test_errors_as_frequent_as_allowed_never_pass_as_seen():
    found = run(draw(10, n=2000), rate=0.001)
    erring = [row for row in found.rows if row.seen >= 0.001]
    assert erring and all(row.reads_as_seen is None and row.reads_at_best > 0 for row in erring)


def test_the_start_may_be_chosen_by_other_cases():
    cases = draw(11, n=3000)
    everywhere = run(cases, rate=0.04, expected=[3000] * 5)
    assert everywhere.rows[0].tested
    later = run(cases, rate=0.04, expected=[1, 1, 1, 3000, 3000])
    assert [row.tested for row in later.rows][:4] == [False, False, False, True]


def test_an_alpha_that_settles_nothing_has_no_figures():
    cases = draw(12)._replace(runner_up=np.full(3000, 0.3), credibility=np.full(3000, 0.9))
    row = run(cases).rows[0]
    assert (row.n, row.p, row.upper, row.reads_at_best) == (0, 1.0, 1.0, None)
    assert np.isnan(row.seen)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rate": 0.0}, "between 0 and 1"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"heaviest": 0.5}, "at most the heaviest"),
    ],
)
def test_settings_that_are_none_are_refused(change, told):
    with pytest.raises(DataError, match=told):
        run(draw(13, n=50), **change)


def test_cases_and_alphas_that_are_none_are_refused():
    cases = draw(14, n=50)
    with pytest.raises(DataError, match="give some"):
        run(Labelled(*[column[:0] for column in cases]))
    with pytest.raises(DataError, match="every number for each"):
        run(cases._replace(truth=cases.truth[:-1]))
    with pytest.raises(DataError, match="Weights must be above 0"):
        run(cases._replace(weight=np.append(cases.weight[:-1], np.nan)))
    for alphas in ((), (0.1, 0.05), (0.1, 0.1)):
        with pytest.raises(DataError, match="each larger"):
            certify.certify(cases, alphas, 0.1, targets={1}, floor=0.01)


# Hours and costs.


def test_budget_by_hand():
    found = certify.by_budget((0.01, 0.02, 0.05), [0.5, 0.3, 0.2], 1000, 6, 40, audit_rate=0.1)
    assert found.hours == pytest.approx([55, 37, 28])
    assert found.alpha == 0.02
    assert certify.by_budget((0.01, 0.02, 0.05), [0.5, 0.3, 0.2], 1000, 6, 20).alpha == 0.05
    assert certify.by_budget((0.01, 0.02, 0.05), [0.5, 0.3, 0.2], 1000, 6, 19).alpha is None


@pytest.mark.parametrize(
    "bad", [{"hours": -1}, {"minutes": np.nan}, {"audit_rate": 2}, {"deferred_share": [0.1, 2]}]
)
def test_a_budget_of_no_numbers_is_refused(bad):
    given = {"deferred_share": [0.5, 0.3], "cases_per_week": 10, "minutes": 5, "hours": 4} | bad
    with pytest.raises(DataError, match="A budget needs"):
        certify.by_budget((0.01, 0.02), **given)


@pytest.mark.parametrize("name", metrics.REALITIES)
def test_costs_equal_a_naive_mean(name):
    cases = draw(15)._replace(weight=np.random.default_rng(16).random(3000) + 0.1)
    settled, read = metrics.REALITIES[name]
    found = certify.by_cost(cases, ALPHAS, 0.05, settled, read)
    for alpha, cost in zip(ALPHAS, found.costs, strict=True):
        given = decision.decide(*cases[:3], alpha, 0.05)
        borne = [
            settled[y][label] if d == decision.AUTOMATIC else read[y]
            for d, y, label in zip(given, cases.truth, cases.label, strict=True)
        ]
        assert cost == pytest.approx(np.average(borne, weights=cases.weight))
    assert found.cost == found.costs.min() == found.costs[ALPHAS.index(found.alpha)]
    everyone = np.average([read[y] for y in cases.truth], weights=cases.weight)
    assert found.deferring == pytest.approx(everyone)


def test_of_equal_costs_the_most_careful_alpha():
    assert certify.by_cost(draw(17), ALPHAS, 0.05, np.zeros((2, 2)), np.zeros(2)).alpha == 0.01


def test_labels_without_a_cost_are_refused():
    with pytest.raises(DataError, match="labels 0 to 1 only"):
        certify.by_cost(draw(18, labels=3), ALPHAS, 0.05, np.zeros((2, 2)), np.zeros(2))
