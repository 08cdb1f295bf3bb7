"""Near-duplicate texts tied together: MinHash signatures of word shingles, banded (Broder 1997; Leskovec et al., Mining of
Massive Datasets, 3.3-3.4), and the ties closed transitively, so that folds can keep whole templates on one side.

Every run of SHINGLE words, in lower case and any word with a digit in it written 0, is one element of a text's set. Two
texts are tied where a band of ROWS of their SIGNATURE minima agrees and so do at least LEAST of all minima, the estimate
of their Jaccard similarity. Within a band texts are compared with the first of them only, so that the time is linear
however many share a template; what one band misses another may tie.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SHINGLE = 4
SIGNATURE, ROWS = 128, 4
LEAST = 0.6
SEED = 1
NUMBERED, WORD = re.compile(r"\w*\d\w*"), re.compile(r"\w+")
MULTIPLIER = np.uint64(1_000_003)


def groups(texts: Sequence[str], owners: Sequence[str] | None = None) -> NDArray[np.int64]:
    """(n,) for each text the position of the first text of its group; a text like no other is a group by itself.

    owners: (n,) names; texts of one owner are tied, too. The same texts in the same order give the same groups.
    """
    n, signatures = len(texts), _signatures(texts)
    ties = [_ties(band, signatures) for band in _bands(signatures)]
    if owners is not None:
        ties.append(np.stack([np.arange(n), _first_alike(np.asarray(owners, dtype=object).astype(str))]))
    rows, columns = np.concatenate(ties, axis=1)
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n))
    return _first_alike(connected_components(graph, directed=False)[1])


def shingles(text: str) -> list[int]:
    """32-bit hashes of the text's runs of SHINGLE words, each once; the whole of a text with fewer words is one."""
    words = [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in _words(text)]
    hashed = np.array(words or [0], dtype=np.uint64)
    size = min(SHINGLE, len(hashed))
    runs = np.lib.stride_tricks.sliding_window_view(hashed, size)
    mixed = np.zeros(len(runs), dtype=np.uint64)
    for column in runs.T:
        mixed = mixed * MULTIPLIER + column
    return [int(value) for value in np.unique(mixed >> np.uint64(32) ^ mixed & np.uint64(0xFFFFFFFF))]


def _words(text: str) -> list[str]:
    return WORD.findall(NUMBERED.sub("0", text.lower()))


def _signatures(texts: Iterable[str]) -> NDArray[np.uint32]:
    """(n, SIGNATURE) minima of each text."""
    made = MinHash.generator(
        map(shingles, texts), num_perm=SIGNATURE, seed=SEED, hashfunc=int, scheme="affine32"
    )
    found = [one.hashvalues for one in made]
    return np.array(found, dtype=np.uint32).reshape(len(found), SIGNATURE)


def _bands(signatures: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """Of each band (n,): the first text whose minima in the band are a text's own."""
    for start in range(0, SIGNATURE, ROWS):
        yield _first_alike(signatures[:, start : start + ROWS])


def _first_alike(values: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) for each of n rows the position of the first that is equal to it."""
    _, first, which = np.unique(values, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[which.ravel()], dtype=np.int64)


def _ties(first: NDArray[np.int64], signatures: NDArray[np.uint32]) -> NDArray[np.int64]:
    """(2, m) the texts alike enough to the first one of their band, and that one."""
    texts = np.flatnonzero(first != np.arange(len(first)))
    alike = (signatures[texts] == signatures[first[texts]]).mean(axis=1) >= LEAST
    return np.stack([texts[alike], first[texts[alike]]])
