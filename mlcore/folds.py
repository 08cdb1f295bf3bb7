"""Grouped, stratified splits: a group stays whole, each part keeps the mix of labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlcore.errors import DataError

Parts = NDArray[np.int64]
ROOM = 0.25


def split(labels: ArrayLike, groups: Sequence[str], shares: ArrayLike, seed: int) -> Parts:
    """(n,) part of each row: positions in shares; rows of one group share a part.

    shares: (P,), the same for every label, or (P, K), a column for each label in ascending order; columns sum
    to one. Groups go one by one, those with the rarest label and the most rows first, to the part that then lacks
    most of what they hold; a group of several rows only to where it fills no more than ROOM of what a part wants of a
    label, or to the widest part, so that a small part's rare cases are not all of one template; no more than all it wants
    where the rows that stand alone are too few to fill every part but the widest. Raises DataError when there are fewer
    groups than parts, or not a group for each label.
    """
    y = np.asarray(labels)
    if y.shape != (len(groups),):
        raise DataError(f"{len(groups)} group(s) for {len(y)} label(s): give each case one of both.")
    _, classes = np.unique(y, return_inverse=True)
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    table = np.asarray(shares, dtype=np.float64)
    if len(names) < len(table):
        raise DataError(f"{len(names)} group(s) cannot fill {len(table)} parts: add cases of other patients.")
    held = np.zeros((len(names), classes.max() + 1))
    np.add.at(held, (members, classes), 1)
    wanted = np.broadcast_to(table.reshape(len(table), -1), (len(table), held.shape[1]))
    return _allot(held, wanted, seed)[members]


def _allot(held: NDArray[np.float64], shares: NDArray[np.float64], seed: int) -> Parts:
    """(g,) part of each group. held: (g, K) rows of each label in each group. shares: (P, K)."""
    totals = held.sum(axis=0)
    weight = held / totals
    order = np.random.default_rng(seed).permutation(len(held))
    order = order[np.argsort(-weight.max(axis=1)[order], kind="stable")]
    wanted = shares.copy()
    parts = np.empty(len(held), dtype=np.int64)
    spare = weight[held.sum(axis=1) == 1].sum(axis=0) >= 1 - shares.max(axis=0)
    for group in order:
        lacks = (wanted / shares) @ weight[group]
        if held[group].sum() > 1:
            filled = (weight[group] / shares).max(axis=1)
            lacks[filled > max(ROOM if spare[held[group] > 0].all() else 1, filled.min())] = -np.inf
        parts[group] = np.argmax(lacks)
        wanted[parts[group]] -= weight[group]
    return parts


def folds(labels: ArrayLike, groups: Sequence[str], k: int, seed: int) -> Parts:
    """(n,) fold of each row, 0 … k - 1, of equal shares. Raises DataError as split does, and for k under 2."""
    if k < 2:
        raise DataError(f"{k} fold(s) leave nothing to hold out: use two or more.")
    return split(labels, groups, [1 / k] * k, seed)


def fingerprint(groups: Sequence[str], parts: ArrayLike) -> str:
    """SHA-1 over each row's group and part, in order: equal only for the same split of the same rows."""
    lines = (f"{group}\t{part}\n" for group, part in zip(groups, np.asarray(parts).tolist(), strict=True))
    return hashlib.sha1("".join(lines).encode(), usedforsecurity=False).hexdigest()
