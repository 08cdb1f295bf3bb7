"""The yardstick: nothing of a held-out fold is learned from, and the threshold is the best there is."""

import itertools

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import fbeta_score, roc_auc_score

from mlcore import baseline
from tests.mlcore.conftest import cases

MADE = cases(150, 5)
TEXTS = [" ".join(record.texts) for record in MADE]
LABELS = np.array([record.label for record in MADE])
FOLD = np.arange(150) // 3 % 3


def naive(training, labels, test, strength):
    """The same features by scikit-learn's own vectorisers, fitted on the training texts alone."""
    common = {"min_df": 2, "sublinear_tf": True, "dtype": np.float32}
    words = TfidfVectorizer(ngram_range=(1, 2), strip_accents="unicode", **common)
    letters = TfidfVectorizer(ngram_range=(3, 5), analyzer="char_wb", **common)
    seen = np.hstack([v.fit_transform(training).toarray() for v in (words, letters)])
    new = np.hstack([v.transform(test).toarray() for v in (words, letters)])
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300, solver="liblinear")
    return model.fit(seen, labels).predict_proba(new)


@pytest.fixture(scope="module")
def found():
    return baseline.run(TEXTS[:120], LABELS[:120], FOLD[:120], TEXTS[120:], {1})


def test_it_is_the_naive_form_fold_by_fold(found):
    texts, labels, fold = np.array(TEXTS[:120]), LABELS[:120], FOLD[:120]
    read = {strength: np.zeros((120, 2)) for strength in baseline.STRENGTHS}
    for strength, out in itertools.product(read, [fold == f for f in range(3)]):
        read[strength][out] = naive(texts[~out], labels[~out], texts[out], strength)
    best = max(read, key=lambda strength: roc_auc_score(labels, read[strength][:, 1]))
    assert found.strength == best
    assert found.out_of_fold == pytest.approx(read[best], abs=1e-3)
    assert found.probabilities == pytest.approx(naive(texts, labels, TEXTS[120:], best), abs=1e-3)
    assert roc_auc_score(LABELS[120:], found.probabilities[:, 1]) > 0.9


def test_the_threshold_comes_from_the_folds_and_decides_the_test(found):
    expected = baseline.best_threshold(found.out_of_fold[:, 1], LABELS[:120] == 1)
    assert found.threshold == expected
    assert (found.target == (found.probabilities[:, 1] >= expected)).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_has_a_higher_f2(seed):
    rng = np.random.default_rng(seed)
    score, positive = rng.integers(0, 12, 40) / 12, rng.random(40) < 0.3
    threshold = baseline.best_threshold(score, positive)
    by_threshold = {t: fbeta_score(positive, score >= t, beta=2) for t in np.unique(score)}
    best = max(by_threshold.values())
    assert threshold == max(t for t, f in by_threshold.items() if f == pytest.approx(best, abs=1e-12))


def test_more_than_two_labels():
    labels = (np.arange(150) % 3 == 0) * 1 + (np.arange(150) % 3 == 1) * 2
    found = baseline.run(TEXTS, labels, FOLD, TEXTS[:4], {1, 2})
    assert found.probabilities.shape == (4, 3)
    assert found.out_of_fold.sum(axis=1) == pytest.approx(np.ones(150))
