"""Agreement by hand, by the libraries and by a naive resample; its intervals hold what they promise."""

import subprocess
import sys

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

from mlcore import agreement
from mlcore.errors import DataError


def readers(n, k, alike, seed=3):
    """Two readers of n cases who agree on a share and guess on the rest."""
    random = np.random.default_rng(seed)
    first, other = random.choice(k, (2, n), p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    return first, np.where(random.random(n) < alike, first, other)


def counted(*readings, k):
    return np.stack([np.eye(k)[one] for one in readings]).sum(axis=0)


def test_cohen_of_a_table_worked_by_hand():
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.70, by chance 0.50, kappa 0.40."""
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    found = agreement.cohen(first, second, 2)
    assert (found.value, found.n) == (pytest.approx(0.4), 50)
    assert found.low < 0.4 < found.high
    assert agreement.confusion(first, second, 2).tolist() == [[15, 10], [5, 20]]


def test_fleiss_of_his_own_example():
    """Fleiss 1971, as the textbooks reprint it: ten subjects, fourteen raters, five categories, kappa 0.210."""
    table = (
        "0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/6 5 2 1 0/0 2 2 3 7"
    )
    found = agreement.fleiss([[int(count) for count in row.split()] for row in table.split("/")])
    assert (found.value, found.n) == (pytest.approx(0.210, abs=5e-4), 10)


def test_alpha_of_krippendorffs_binary_example():
    """Two observers, ten units, 14 zeros and 6 ones, four disagreements: alpha 0.095 (Krippendorff 2011, section A)."""
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    found = agreement.krippendorff(counted(first, second, k=2))
    assert (found.value, found.n) == (pytest.approx(0.095, abs=5e-4), 10)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_replicates_are_the_libraries_figures_of_the_resampled_cases(k):
    first, second = readers(80, k, 0.6)
    rows = counted(first, second, k=k)
    ragged = np.vstack([rows, counted(*readers(30, k, 0.5, 9), k=k) + np.eye(k)[0], np.eye(k)])
    patterns, _ = agreement._patterns(ragged[:-k])
    cells = agreement._patterns(rows)[0]
    random = np.random.default_rng(1)
    for _ in range(20):
        at = random.integers(0, 80, 80)
        table = agreement.confusion(first[at], second[at], k).astype(float)
        assert agreement._cohen(table) == pytest.approx(cohen_kappa_score(first[at], second[at]))
        times = np.array([(rows[at] == cell).all(axis=1).sum() for cell in cells], dtype=float)
        assert agreement._fleiss(times, cells) == pytest.approx(fleiss_kappa(rows[at]))
        some = ragged[random.integers(0, 110, 110)]
        times = np.array([(some == pattern).all(axis=1).sum() for pattern in patterns], dtype=float)
        alpha = krippendorff.alpha(value_counts=some, level_of_measurement="nominal")
        assert agreement._alpha(times, patterns) == pytest.approx(alpha)
        ordinal = krippendorff.alpha(value_counts=some, level_of_measurement="ordinal")
        assert agreement._ordinal(times, patterns) == pytest.approx(ordinal)
        steps = cohen_kappa_score(first[at], second[at], weights="linear", labels=list(range(k)))
        assert agreement._by_steps(table) == pytest.approx(steps)


def test_a_near_miss_costs_less_where_labels_are_ordered():
    """Twelve cases; the second reader strays once, by one step or by three: without order the two are alike."""
    first, n = np.tile(range(4), 3), np.arange(12)
    near, far = (np.where(n == 0, to, first) for to in (1, 3))
    alike = [agreement.cohen(first, second, 4).value for second in (near, far)]
    steps = [agreement.cohen_by_steps(first, second, 4).value for second in (near, far)]
    ordinal = [agreement.krippendorff_ordinal(counted(first, s, k=4)).value for s in (near, far)]
    assert alike[0] == pytest.approx(alike[1], abs=0.02)
    assert steps[0] > steps[1] + 0.1 and ordinal[0] > ordinal[1] + 0.1
    # one pair of twelve a step apart; by chance the steps of every first label with every second one
    table = agreement.confusion(first, near, 4)
    apart = np.abs(np.subtract.outer(range(4), range(4)))
    chance = (np.outer(table.sum(1), table.sum(0)) * apart).sum() / 144
    assert steps[0] == pytest.approx(1 - (1 / 12) / chance)


def test_the_interval_is_that_of_a_naive_resample_of_cases():
    first, second = readers(120, 3, 0.7)
    found = agreement.cohen(first, second, 3)
    random = np.random.default_rng(8)
    draws = [random.integers(0, 120, 120) for _ in range(1500)]
    naive = np.percentile([cohen_kappa_score(first[at], second[at]) for at in draws], [2.5, 97.5])
    assert [found.low, found.high] == pytest.approx(naive, abs=0.025)


def test_guarantee_the_interval_holds_the_true_kappa_nineteen_times_in_twenty():
    """Readers who copy a fair label with chance 0.6 and else guess have kappa 0.6."""
    random = np.random.default_rng(5)
    held = 0
    for seed in range(300):
        first, guess = random.integers(0, 2, (2, 150))
        second = np.where(random.random(150) < 0.6, first, guess)
        found = agreement.cohen(first, second, 2, seed)
        held += found.low <= 0.6 <= found.high
    assert 0.90 <= held / 300 <= 0.985


def test_a_seed_gives_one_interval():
    first, second = readers(60, 2, 0.5)
    assert agreement.cohen(first, second, 2) == agreement.cohen(first, second, 2)
    assert agreement.cohen(first, second, 2, seed=1) != agreement.cohen(first, second, 2, seed=2)


@pytest.mark.parametrize("n", [0, 12])
def test_where_chance_explains_all_there_is_no_figure(n):
    same = np.zeros(n, dtype=int)
    rows = np.tile([2.0, 0.0], (n, 1))
    of_two = [measure(same, same, 2) for measure in (agreement.cohen, agreement.cohen_by_steps)]
    of_all = [
        measure(rows)
        for measure in (agreement.fleiss, agreement.krippendorff, agreement.krippendorff_ordinal)
    ]
    for found in (*of_two, *of_all):
        assert np.isnan(found[:3]).all() and found.n == n


def test_cases_read_once_tell_alpha_nothing():
    rows = counted(*readers(40, 3, 0.7), k=3)
    with_single = np.vstack([rows, np.eye(3)])
    assert agreement.krippendorff(with_single) == agreement.krippendorff(rows)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: agreement.cohen([0, 1], [0], 2),
        lambda: agreement.cohen([0, 2], [0, 1], 2),
        lambda: agreement.cohen([0, -1], [0, 1], 2),
        lambda: agreement.fleiss([[2, 0], [1, 2]]),
        lambda: agreement.fleiss([[1, 0], [0, 1]]),
        lambda: agreement.krippendorff([1, 2]),
        lambda: agreement.span_f1([[]], []),
    ],
)
def test_what_cannot_be_compared_is_named(wrong):
    with pytest.raises(DataError):
        wrong()


def test_spans_by_hand():
    """Case 1: one of two passages alike, 4 of 6 + 9 code points shared; case 2: the second marked nothing."""
    first = [[(7, 0, 4), (7, 10, 12)], [(8, 0, 5)]]
    second = [[(7, 0, 4), (7, 20, 25)], []]
    found = agreement.span_f1(first, second)
    assert found["exact"].value == pytest.approx(2 * 1 / (2 + 2 + 1))
    assert found["overlap"].value == pytest.approx(2 * 4 / (6 + 9 + 5))
    assert found["exact"].n == 2


def test_a_code_point_marked_twice_counts_once_and_notes_are_apart():
    found = agreement.span_f1([[(1, 0, 6), (1, 4, 8)]], [[(1, 0, 8)]])
    assert (found["overlap"].value, found["exact"].value) == (1.0, 0.0)
    assert agreement.span_f1([[(1, 0, 6)]], [[(2, 0, 6)]])["overlap"].value == 0.0


def test_no_marks_at_all_is_no_figure():
    assert np.isnan(agreement.span_f1([[]], [[]])["exact"].value)


def test_shares_and_their_difference_by_published_figures():
    """Newcombe 1998: 56 of 70 less 48 of 80 is 0.20, interval 0.0524 to 0.3339 by method 10."""
    found = agreement.difference((56, 70), (48, 80))
    assert found[:3] == (pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    wilson = agreement.share(0, 10)
    assert (wilson.value, wilson.low, wilson.high) == (0, 0, pytest.approx(0.2775, abs=1e-4))
    assert np.isnan(agreement.share(0, 0).value) and np.isnan(agreement.difference((0, 0), (1, 2)).value)


def test_a_change_is_paired():
    before = [True] * 10 + [False] * 30
    found = agreement.change(before, [True] * 14 + [False] * 26)
    assert (found.value, found.n) == (pytest.approx(0.1), 40)
    assert 0 < found.low < 0.1 < found.high < 0.25
    assert agreement.change(before, before)[:3] == (0, 0, 0)


def test_it_loads_without_torch_and_without_the_libraries():
    program = "import sys; from mlcore import agreement; "
    program += "print(sorted({'torch', 'sklearn', 'statsmodels', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
