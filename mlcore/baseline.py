"""The honest yardstick: TF-IDF of words and characters with a logistic regression, its threshold out of fold.

A neural model that does not beat it has not earned its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LEAST = 2
STRENGTHS = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Yardstick:
    """What the baseline says of new cases. Probabilities of the labels (n, K); target: (n,) whether it calls it one.

    threshold: on the probability of the targets, where F2 of the out-of-fold probabilities is highest.
    out_of_fold: (m, K) probabilities of the training cases, each by the model that did not see its fold.
    strength: the regression's C, of STRENGTHS the one with the highest out-of-fold AUROC of the targets.
    """

    probabilities: Floats
    target: npt.NDArray[np.bool_]
    threshold: float
    out_of_fold: Floats
    strength: float


def run(
    training: Sequence[str],
    labels: Ints,
    fold: Ints,
    test: Sequence[str],
    targets: Collection[int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Yardstick:
    """Train on (m,) texts with labels 0 … K - 1, choose the threshold over their folds, read the (n,) test texts.

    Every fold must leave each label among the others.
    """
    both = counters()
    seen = [counter.fit_transform(training).tocsr() for counter in both]
    new = [counter.transform(test).tocsr() for counter in both]
    classes = int(labels.max()) + 1
    at, folds = list(targets), np.unique(fold)
    tried = {strength: np.zeros((len(labels), classes)) for strength in STRENGTHS}
    for done, held_out in enumerate(folds):
        rows = fold == held_out
        progress(done, len(folds) + 1)
        own, others = _weighted([c[~rows] for c in seen], [c[rows] for c in seen])
        for strength, read in tried.items():
            read[rows] = _model(classes, strength).fit(own, labels[~rows]).predict_proba(others)
    positive = np.isin(labels, at)
    best = max(STRENGTHS, key=lambda strength: roc_auc_score(positive, tried[strength][:, at].sum(axis=1)))
    out_of_fold = tried[best]
    own, others = _weighted(seen, new)
    probabilities = _model(classes, best).fit(own, labels).predict_proba(others)
    progress(len(folds) + 1, len(folds) + 1)
    threshold = best_threshold(out_of_fold[:, at].sum(axis=1), positive)
    called = probabilities[:, at].sum(axis=1) >= threshold
    return Yardstick(probabilities, called, threshold, out_of_fold, best)


def counters(
    known: tuple[Sequence[str], Sequence[str]] | None = None,
) -> tuple[CountVectorizer, CountVectorizer]:
    """What counts words, one and two in a row, and characters, three to five inside a word; `known` terms, or its own."""
    words, letters = known or (None, None)
    return (
        CountVectorizer(
            ngram_range=(1, 2), min_df=LEAST, strip_accents="unicode", dtype=np.float32, vocabulary=words
        ),
        CountVectorizer(
            ngram_range=(3, 5), min_df=LEAST, analyzer="char_wb", dtype=np.float32, vocabulary=letters
        ),
    )


def _weighted(
    fitting: Sequence[sparse.csr_matrix], other: Sequence[sparse.csr_matrix]
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """TF-IDF of counts, one block a counter; which columns count, and by how much, is learned from `fitting` alone."""
    blocks = []
    for own, others in zip(fitting, other, strict=True):
        columns = np.flatnonzero(own.getnnz(axis=0) >= LEAST)
        weighting = TfidfTransformer(sublinear_tf=True)
        blocks.append((weighting.fit_transform(own[:, columns]), weighting.transform(others[:, columns])))
    return sparse.hstack([b[0] for b in blocks], "csr"), sparse.hstack([b[1] for b in blocks], "csr")


def _model(classes: int, strength: float) -> LogisticRegression:
    solver = "liblinear" if classes == 2 else "lbfgs"
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=300, solver=solver)


def best_threshold(
    score: Floats, positive: npt.NDArray[np.bool_], weights: Floats | None = None, beta: float = 2.0
) -> float:
    """The (n,) score from which calling a case positive gives the highest F-beta on these cases, the higher of equals.

    weights: (n,) how much each case counts.
    """
    w = np.ones(len(score)) if weights is None else weights
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))  # of each distinct score
    called, hits = (np.cumsum(of[order])[last] for of in (w, w * positive))
    f = (1 + beta**2) * hits / (called + beta**2 * hits[-1])
    return float(score[order][last[np.argmax(f)]])
