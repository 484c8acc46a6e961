"""Laws of the two scores that need no flow: what brute force and the definition say, and nothing of the unit."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from flowood_core.features import distances
from flowood_core.features.distances import Knn, Mahalanobis


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_neighbours_are_those_of_scikit_learn(rng, monkeypatch):
    monkeypatch.setattr(distances, "ROWS_AT_ONCE", 7)
    id_x, x = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(20, 6)).astype(np.float32)
    expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(id_x).kneighbors(x)[0][:, 4]
    np.testing.assert_allclose(Knn.fit(id_x).score(x), expected, atol=1e-6)
    assert Knn.fit(id_x).score(x[:0]).shape == (0,)


def test_the_length_of_a_feature_does_not_count(rng):
    id_x, x = rng.normal(size=(30, 4)), rng.normal(size=(10, 4))
    scaled = Knn.fit(id_x * rng.uniform(1, 9, (30, 1))).score(x * rng.uniform(1, 9, (10, 1)))
    np.testing.assert_allclose(scaled, Knn.fit(id_x).score(x), atol=1e-6)


def test_a_training_feature_is_its_own_first_neighbour(rng):
    id_x = rng.normal(size=(30, 4))
    np.testing.assert_allclose(Knn.fit(id_x, k=1).score(id_x), 0, atol=1e-6)


@pytest.mark.parametrize("k", [0, 31])
def test_a_number_of_neighbours_that_is_not_there_is_refused(rng, k):
    with pytest.raises(ValueError, match="between 1 and the 30"):
        Knn.fit(rng.normal(size=(30, 4)), k)


def test_with_many_samples_the_distance_is_that_of_the_true_gaussian(rng):
    a, mean = rng.normal(size=(3, 3)), np.array([1.0, -2, 3])
    id_x, x = rng.normal(size=(200_000, 3)) @ a + mean, rng.normal(size=(10, 3)) * 3
    expected = np.einsum("ni,ij,nj->n", x - mean, np.linalg.inv(a.T @ a), x - mean)
    np.testing.assert_allclose(Mahalanobis.fit(id_x).score(x), expected, rtol=0.03)


def test_fewer_samples_than_features_give_a_distance_all_the_same(rng):
    id_x = rng.normal(size=(20, 50))
    found = Mahalanobis.fit(id_x).score(np.vstack([id_x.mean(0), id_x[0] * 10]))
    assert np.isfinite(found).all() and found[0] < 1e-9 < found[1]
