"""The published code's choices, each against a naive reading of them, and beside what they get wrong."""

import numpy as np
import pytest

from mlcore import compat, decision
from mlcore.calibrate import probabilities
from mlcore.distance import MultiCentroid, normalise
from mlcore.errors import CalibrationError, DataError


def draw(seed, n=300, classes=2, separation=1.5):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), truth] += separation
    embeddings = random.normal(size=(n, 8)) + 2 * np.eye(8)[truth]
    return embeddings, logits, truth


def reference(classes=2):
    embeddings, _, truth = draw(1, classes=classes)
    return MultiCentroid().fit(embeddings, truth, classes)


def naive(distance, held_out, new, alpha, temperature):
    """The published procedure written out case by case."""
    precision = np.linalg.inv(distance.cholesky_ @ distance.cholesky_.T)

    def far(embedding, c):
        gaps = normalise(embedding[None])[0] - distance.centroids_[c]
        return np.sqrt(min(sum(precision[j, j] * gap[j] ** 2 for j in range(8)) for gap in gaps))

    embeddings, logits, truth = held_out
    q = probabilities(logits, temperature)
    classes = q.shape[1]
    limits = [np.quantile(1 - q[truth == c, c], 1 - alpha) for c in range(classes)]
    kept = [[] for _ in range(classes)]
    for i, y in enumerate(truth):
        if q[i].argmax() == y and sum(1 - q[i, c] <= limits[c] for c in range(classes)) == 1:
            kept[y].append(far(embeddings[i], y))
    vetoes = [np.sort(k)[int(np.ceil(0.99 * (len(k) - 1)))] if len(k) > 1 else np.inf for k in kept]
    decisions, labels = [], []
    for embedding, row in zip(new[0], probabilities(new[1], temperature), strict=True):
        inside = [c for c in range(classes) if 1 - row[c] <= limits[c]]
        likeliest = int(row.argmax())
        labels.append(inside[0] if len(inside) == 1 else likeliest)
        if len(inside) != 1:
            decisions.append("ambiguous" if inside else "novel")
        else:
            decisions.append("atypical" if far(embedding, likeliest) > vetoes[likeliest] else "automatic")
    return decisions, labels


@pytest.mark.parametrize(("classes", "alpha"), [(2, 0.01), (2, 0.05), (2, 0.4), (3, 0.1)])
def test_decisions_equal_the_naive_twin(classes, alpha):
    distance, held_out, new = reference(classes), draw(2, classes=classes), draw(3, classes=classes)
    new = (new[0] * np.random.default_rng(4).choice([1, -1], size=(300, 8), p=[0.9, 0.1]), *new[1:])
    decisions, labels = compat.fit(distance, *held_out, alpha, temperature=1.3).decide(*new[:2])
    expected = naive(distance, held_out, new, alpha, 1.3)
    assert [decision.NAMES[d] for d in decisions] == expected[0]
    assert labels.tolist() == expected[1]
    assert decisions.dtype == np.int8
    if alpha == 0.05:
        assert {"automatic", "ambiguous", "atypical"} <= set(expected[0])


def test_a_case_at_the_thresholds_themselves_passes():
    """Deciding the held-out cases again: the ones that set a threshold are not above it."""
    embeddings, logits, truth = draw(10)
    found = compat.fit(reference(), embeddings, logits, truth, 0.2)
    decisions, label = found.decide(embeddings, logits)
    far = compat.diagonal_distances(found.distance, found.diagonal, embeddings, label)
    at_the_limit = (far == found.distance_thresholds[label]) & (label == truth)
    assert at_the_limit.sum() == 2
    assert (decisions[at_the_limit] == decision.AUTOMATIC).all()


def test_a_class_with_a_single_correct_case_is_never_vetoed():
    embeddings, logits, truth = draw(5)
    logits[truth == 1] = [9.0, 0.0]
    logits[np.flatnonzero(truth == 1)[0]] = [0.0, 9.0]
    found = compat.fit(reference(), embeddings, logits, truth, 0.05)
    assert np.isinf(found.distance_thresholds[1])


def test_the_diagonal_is_that_of_the_precision():
    distance = reference()
    found = compat.fit(distance, *draw(6), 0.05)
    precision = np.linalg.inv(distance.cholesky_ @ distance.cholesky_.T)
    assert np.allclose(found.diagonal, np.diag(precision), rtol=1e-10)


@pytest.mark.parametrize(
    "wrong", [lambda y: np.zeros_like(y), lambda y: np.where(np.arange(len(y)) == 0, 2, y)]
)
def test_one_class_alone_and_foreign_labels_are_refused(wrong):
    embeddings, logits, truth = draw(7)
    with pytest.raises(CalibrationError, match="classes 0 to 1"):
        compat.fit(reference(), embeddings, logits, wrong(truth), 0.05)


def test_logits_that_are_not_finite_are_refused():
    embeddings, logits, truth = draw(8)
    found = compat.fit(reference(), embeddings, logits, truth, 0.05)
    logits[4, 0] = np.nan
    with pytest.raises(CalibrationError, match="not finite"):
        compat.fit(reference(), embeddings, logits, truth, 0.05)
    with pytest.raises(CalibrationError, match="not finite"):
        found.decide(embeddings, logits)


def test_an_alpha_that_is_none_is_refused():
    with pytest.raises(DataError, match="between 0 and 1"):
        compat.fit(reference(), *draw(9), 0)
