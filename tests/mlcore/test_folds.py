"""Splits: groups whole, labels kept in proportion, the same seed the same split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcore import folds
from mlcore.errors import DataError


def draw(seed, n=600, group_count=240):
    random = np.random.default_rng(seed)
    labels = random.choice(3, size=n, p=[0.8, 0.15, 0.05])
    groups = [f"g{g}" for g in random.integers(0, group_count, n)]
    return labels, groups


@given(st.integers(0, 1000), st.integers(2, 6))
def test_a_group_is_never_torn(seed, k):
    labels, groups = draw(seed, n=120, group_count=40)
    parts = folds.folds(labels, groups, k, seed)
    for group in set(groups):
        assert len({int(p) for p, g in zip(parts, groups, strict=True) if g == group}) == 1


def test_every_label_keeps_its_share():
    labels, groups = draw(1)
    shares = [0.6, 0.15, 0.25]
    parts = folds.split(labels, groups, shares, seed=3)
    for label in range(3):
        of_label = np.bincount(parts[labels == label], minlength=3) / (labels == label).sum()
        assert np.abs(of_label - shares).max() <= 0.06


def test_single_rows_are_split_to_the_case():
    labels = np.repeat([0, 1], [80, 20])
    parts = folds.folds(labels, [str(i) for i in range(100)], 5, seed=1)
    for label, each in ((0, 16), (1, 4)):
        assert np.bincount(parts[labels == label]).tolist() == [each] * 5


def test_shares_may_differ_between_labels():
    labels = np.repeat([0, 1], [100, 40])
    parts = folds.split(labels, [str(i) for i in range(140)], [[0.9, 0.5], [0.1, 0.5]], seed=1)
    assert np.bincount(parts[labels == 0]).tolist() == [90, 10]
    assert np.bincount(parts[labels == 1]).tolist() == [20, 20]


def test_large_groups_are_shared_out_like_small_ones():
    groups = [f"large {g}" for g in range(20) for _ in range(10)] + [f"small {g}" for g in range(80)]
    parts = folds.split(np.zeros(280, dtype=int), groups, [0.75, 0.25], seed=1)
    assert parts[:200].sum() == 50
    assert parts[200:].sum() == 20


def test_the_seed_decides():
    labels, groups = draw(2)
    first, again, other = (folds.folds(labels, groups, 5, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match=r"2 group\(s\) cannot fill 3 parts"):
        folds.folds([0, 1, 0], ["a", "b", "a"], 3, seed=1)


@pytest.mark.parametrize("k", [1, 0, -2])
def test_folds_that_hold_nothing_out_are_refused(k):
    with pytest.raises(DataError, match="nothing to hold out"):
        folds.folds([0, 1], ["a", "b"], k, seed=1)


def test_labels_without_a_group_are_refused():
    with pytest.raises(DataError, match=r"2 group\(s\) for 3 label\(s\)"):
        folds.split([0, 1, 0], ["a", "b"], [0.5, 0.5], seed=1)


def test_one_class_alone_is_shared_out_evenly():
    assert (
        np.bincount(folds.folds(np.zeros(20, dtype=int), [str(i) for i in range(20)], 4, seed=1)).tolist()
        == [5] * 4
    )


def test_the_fingerprint_names_one_split_of_the_same_rows():
    name = folds.fingerprint(["a", "b"], [0, 1])
    assert name == "f9ccd855c8c9564ec1a48251b8c91cf8dad8309b"
    assert name != folds.fingerprint(["a", "b"], [1, 0])
    assert name != folds.fingerprint(["a", "c"], [0, 1])


def test_a_small_part_s_rare_cases_are_not_all_of_one_template():
    """40 rare cases, 14 of them one group: a part of 8 % wants 3, and takes them from three groups or so."""
    labels = np.array([1] * 40 + [0] * 400)
    groups = ["template"] * 14 + [f"g{i}" for i in range(426)]
    for seed in range(5):
        parts = folds.split(labels, groups, [0.52, 0.08, 0.4], seed)
        rare = [g for g, p, y in zip(groups, parts, labels, strict=True) if p == 1 and y == 1]
        assert len(rare) == len(set(rare)) in (3, 4)
        assert np.abs(np.bincount(parts[labels == 1]) - [20.8, 3.2, 16]).max() <= 1


def test_a_group_too_large_for_every_part_goes_to_the_widest():
    labels, groups = np.array([1] * 30 + [0] * 30), ["one"] * 30 + [f"g{i}" for i in range(30)]
    parts = folds.split(labels, groups, [0.2, 0.6, 0.2], 3)
    assert set(parts[:30]) == {1}


def test_where_all_cases_are_tied_in_pairs_a_small_part_still_gets_its_own():
    labels = np.tile([1, 0, 0], 40)
    found = folds.split(labels, [f"g{i // 2}" for i in range(120)], [0.85, 0.15], 1)
    assert [abs((found[labels == c] == 1).mean() - 0.15) < 0.06 for c in (0, 1)] == [True, True]
