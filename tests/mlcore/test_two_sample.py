"""The checks of a week, number by number: twins, hand-worked cases, refusals. What they promise: tests/guarantees."""

import math

import numpy as np
import pytest
from scipy import stats

from mlcore import two_sample
from mlcore.errors import DataError
from mlcore.two_sample import Check, Medians, Sample, Share


def week(**lists):
    return Sample(
        {name: found for name, found in lists.items() if not isinstance(found[0], str)},
        {name: found for name, found in lists.items() if isinstance(found[0], str)},
    )


def test_a_check_of_numbers_tells_the_medians_and_where_they_part():
    now, reference = [500, 600, 700, 800], [100, 200, 300, 600]
    (row,) = two_sample.week_checks(week(length=now), week(length=reference), weeks=2)
    twin = stats.ks_2samp(now, reference, method="exact")
    assert row.statistic == twin.statistic == 0.75
    assert row.p == twin.pvalue
    assert row.adjusted == min(1, 2 * row.p)
    assert row.effect == Medians(250.0, 650.0, 300.0, 0.75, 0.0)
    assert (row.name, row.n_now, row.n_reference, row.flagged) == ("length", 4, 4, False)


def test_a_check_of_a_category_tells_the_level_that_moved_most():
    now = ["Urgencias"] * 48 + ["Interna"] * 52
    reference = ["Urgencias"] * 44 + ["Interna"] * 156
    (row,) = two_sample.week_checks(week(specialty=now), week(specialty=reference))
    g = stats.chi2_contingency([[52, 48], [156, 44]], correction=False, lambda_="log-likelihood")
    q = 1 + (300 / 100 + 300 / 200 - 1) * (300 / 208 + 300 / 92 - 1) / (6 * 300)
    assert row.statistic == pytest.approx(g.statistic)
    assert row.p == pytest.approx(stats.chi2.sf(g.statistic / q, 1))
    assert row.effect == Share("Urgencias", pytest.approx(0.22), pytest.approx(0.48))
    assert row.flagged


def test_small_tables_are_tested_exactly():
    """Two levels with fixed margins: the Monte-Carlo p-value is Fisher's, with G ordering the tables."""
    now, reference = ["a"] * 5 + ["b"] * 1, ["a"] * 6 + ["b"] * 12
    (row,) = two_sample.week_checks(week(kind=now), week(kind=reference))
    a = np.arange(0, 7)
    tables = stats.hypergeom.pmf(a, 24, 11, 6)
    g = two_sample._g(np.column_stack([a, 6 - a]), np.outer([6, 18], [11, 13]) / 24, np.array([11, 13]))
    exact = tables[g >= g[5] - 1e-9].sum()
    assert abs(row.p - exact) < 4 * math.sqrt(exact / two_sample.DRAWS)
    assert two_sample.week_checks(week(kind=now), week(kind=reference)) == (row,)


def test_rare_levels_are_pooled_and_still_named():
    assert two_sample._pooled(np.array([[9, 1, 0, 2], [9, 2, 4, 3]])).tolist() == [[9, 2, 1], [9, 3, 6]]
    new = [f"new {i}" for i in range(12)] + ["old"] * 20
    (row,) = two_sample.week_checks(week(kind=new), week(kind=["old"] * 300))
    assert row.flagged
    assert row.effect == Share("old", 1.0, 20 / 32)


def test_one_level_alone_says_nothing():
    (row,) = two_sample.week_checks(week(language=["es"] * 9), week(language=["es"] * 90))
    assert (row.p, row.flagged) == (1.0, False)


def test_what_either_window_lacks_is_not_checked():
    now = Sample({"length": [1.0, 2.0], "distance": []}, {"language": ["es"], "specialty": ["x"]})
    rows = two_sample.week_checks(now, Sample({"length": [1.0], "distance": [1.0]}, {"language": ["es"]}))
    assert [row.name for row in rows] == ["length", "language"]
    assert two_sample.week_checks(Sample(), Sample()) == ()
    with pytest.raises(DataError):
        two_sample.week_checks(week(length=[np.nan]), week(length=[1.0]))


def test_holm_by_hand():
    assert two_sample._holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert two_sample._holm([0.6, 0.6]) == [1.0, 1.0]
    assert two_sample._holm([]) == []


def test_checks_are_plain_facts():
    rows = two_sample.week_checks(week(a=[1.0, 2.0], b=["x"]), week(a=[1.0], b=["y"]))
    assert all(isinstance(row, Check) and type(row.flagged) is bool for row in rows)
