"""The distance: sklearn as twin, a planted case that the diagonal form fails, the choice of K."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.covariance import OAS
from sklearn.metrics import roc_auc_score

from mlcore.distance import MultiCentroid, clusters, normalise
from mlcore.errors import CalibrationError, DataError


def blobs(seed, per_blob=120, dimensions=32, spread=0.05, centres=(2, 3)):
    """Embeddings around centres[c] directions of each class c, and labels."""
    random = np.random.default_rng(seed)
    points, labels = [], []
    for c, count in enumerate(centres):
        for direction in random.normal(size=(count, dimensions)):
            direction /= np.linalg.norm(direction)
            points.append(direction + spread * random.normal(size=(per_blob, dimensions)))
            labels.append(np.full(per_blob, c))
    return np.concatenate(points), np.concatenate(labels)


def test_distances_equal_sklearn_per_centroid():
    x, y = blobs(1)
    fitted = MultiCentroid().fit(x, y, 2)
    assert [len(c) for c in fitted.centroids_] == [2, 3]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    residuals = np.empty_like(unit)
    for i in range(len(unit)):
        own = fitted.centroids_[y[i]]
        residuals[i] = unit[i] - own[np.argmin(((unit[i] - own) ** 2).sum(axis=1))]
    theirs = OAS(assume_centered=True).fit(residuals)
    expected = np.empty((len(x), 2))
    for c, centroids in enumerate(fitted.centroids_):
        squared = [theirs.mahalanobis(unit - centroid) for centroid in centroids]
        expected[:, c] = np.sqrt(np.min(squared, axis=0))
    assert np.abs(fitted.distances(x) - expected).max() <= 1e-8


def test_hand_worked_distance():
    fitted = MultiCentroid([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [-1.0, 0.0]])], np.diag([0.5, 2.0]))
    found = fitted.distances(np.array([[0.0, 3.0]]))  # the point (0, 1) once normalised
    assert found.tolist() == [[pytest.approx(np.hypot(1 / 0.5, 1 / 2)), 0.0]]


def planted(seed):
    """Ten pairs of coordinates that vary together; strangers keep each coordinate's values and lose the pairing."""
    random = np.random.default_rng(seed)
    first = random.normal(size=(900, 10))
    second = first + 0.1 * random.normal(size=(900, 10))
    x = np.column_stack([np.full(900, 30.0), first, second])
    strangers = np.column_stack([x[600:, :11], random.permuted(second[600:], axis=0)])
    return x[:600], x[600:], strangers


def test_the_full_covariance_sees_what_the_diagonal_cannot():
    train, familiar, strangers = planted(2)
    fitted = MultiCentroid().fit(train, np.repeat([0, 1], 300), 2)
    x, strange = np.concatenate([familiar, strangers]), np.repeat([0, 1], 300)
    precision = np.linalg.inv(fitted.cholesky_ @ fitted.cholesky_.T)
    gaps = [normalise(x)[:, None] - centroids for centroids in fitted.centroids_]
    diagonal = np.min([np.einsum("nkd,dd,nkd->nk", gap, precision, gap).min(axis=1) for gap in gaps], axis=0)
    assert roc_auc_score(strange, fitted.distances(x).min(axis=1)) > 0.99
    assert roc_auc_score(strange, diagonal) < 0.7


def test_length_of_an_embedding_does_not_matter():
    x, y = blobs(3)
    fitted = MultiCentroid().fit(x, y, 2)
    assert np.allclose(fitted.distances(x), fitted.distances(7.5 * x), rtol=0, atol=1e-9)


def test_fitting_twice_gives_the_same_bits():
    x, y = blobs(4)
    first, second = (MultiCentroid().fit(x, y, 2).to_arrays() for _ in range(2))
    assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_k_follows_the_blobs(count):
    x, _ = blobs(5, centres=(count,))
    assert clusters(normalise(x)).max() + 1 == count


def full(x):
    """The same rule by k-means in every dimension from ten starts."""
    kept, inertia = 1, ((x - x.mean(axis=0)) ** 2).sum()
    for k in range(2, len(x) // 50 + 1):
        means = KMeans(k, n_init=10, random_state=0).fit(x)
        if means.inertia_ > 0.95 * inertia or np.bincount(means.labels_).min() < 20:
            break
        kept, inertia = k, means.inertia_
    return kept


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.03, 0.08])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_k_among_principal_components_is_that_of_full_k_means(count, spread, seed):
    """192 dimensions, of which 64 are looked at; the noise is 0.4 or 1.1 times as long as a centroid."""
    x = normalise(
        blobs(100 * count + seed, per_blob=480 // count, dimensions=192, spread=spread, centres=(count,))[0]
    )
    assert clusters(x).max() + 1 == full(x) == count


def test_a_larger_gain_asks_more_of_each_centroid():
    """Three blobs in one plane, two of them near each other: the third mean saves some, the second most."""
    random = np.random.default_rng(12)
    centres = np.eye(32)[[0, 1, 1]] + 0.2 * np.eye(32)[[2, 2, 3]]
    x = normalise(np.repeat(centres, 100, axis=0) + 0.01 * random.normal(size=(300, 32)))
    assert [clusters(x, gain).max() + 1 for gain in (0.05, 0.95, 0.9999)] == [3, 2, 1]


def test_k_is_one_where_points_are_few():
    x, _ = blobs(6, per_blob=20, centres=(4,))
    assert clusters(normalise(x)).max() == 0


def test_a_cluster_of_a_few_outliers_is_refused():
    x, _ = blobs(7, per_blob=200, centres=(1,), spread=0.01)
    x[:5] = -x[:5]
    assert clusters(normalise(x)).max() == 0


def test_identical_points_make_one_cluster():
    assert clusters(np.ones((200, 3))).max() == 0


def test_arrays_bring_the_distance_back_bit_for_bit():
    x, y = blobs(8, centres=(1, 2, 1))
    fitted = MultiCentroid().fit(x, y, 3)
    again = MultiCentroid.from_arrays({**fitted.to_arrays(), "calibration.temperature": np.ones(1)})
    assert np.array_equal(fitted.distances(x), again.distances(x))


def test_missing_arrays_are_named():
    with pytest.raises(CalibrationError, match=r"distance\.cholesky"):
        MultiCentroid.from_arrays({})


def test_a_class_without_cases_is_named():
    x, y = blobs(9)
    with pytest.raises(CalibrationError, match="class 2"):
        MultiCentroid().fit(x, y, 3)


def test_a_class_of_one_case_is_named():
    x, y = blobs(9)
    y[np.flatnonzero(y == 1)[1:]] = 0
    with pytest.raises(CalibrationError, match=r"Only 1 case\(s\) of class 1"):
        MultiCentroid().fit(x, y, 2)


def test_labels_that_are_none_are_refused():
    x, y = blobs(9)
    for wrong in (np.where(np.arange(len(y)) == 3, 2, y), np.where(np.arange(len(y)) == 3, -1, y), y[:-1]):
        with pytest.raises(CalibrationError, match="need a label in 0 to 1 each"):
            MultiCentroid().fit(x, wrong, 2)


def test_embeddings_that_do_not_vary_are_refused():
    with pytest.raises(CalibrationError, match="do not vary"):
        MultiCentroid().fit(np.ones((40, 3)), np.repeat([0, 1], 20), 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad):
    x, y = blobs(10)
    fitted = MultiCentroid().fit(x, y, 2)
    x[0, 0] = bad
    with pytest.raises(DataError, match="finite"):
        fitted.distances(x)


def test_embeddings_of_another_width_are_refused():
    x, y = blobs(11)
    with pytest.raises(DataError, match="fitted on 32"):
        MultiCentroid().fit(x, y, 2).distances(x[:, :5])


def test_several_gains_at_once_are_as_each_alone():
    draw = np.random.default_rng(4)
    x = np.concatenate([draw.normal(centre, 1.0, (160, 6)) for centre in (0.0, 4.0, -4.0)])
    y = np.repeat([0, 1], [320, 160])
    gains = (0.5, 0.05, 0.01)
    together = MultiCentroid.fits(x, y, 2, gains)
    assert len({len(fitted.centroids_[0]) for fitted in together}) > 1
    for gain, fitted in zip(gains, together, strict=True):
        alone = MultiCentroid().fit(x, y, 2, gain)
        np.testing.assert_array_equal(fitted.distances(x), alone.distances(x))
