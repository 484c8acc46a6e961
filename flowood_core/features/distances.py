"""Two scores on features that need no flow: what a density on the same features has to be printed beside."""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np

from flowood_core.features.images import unit

__all__ = ["Knn", "Mahalanobis"]

ROWS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Knn:
    """Cosine distance to the k-th nearest ID training feature.

    Attributes:
        bank: unit vectors of ID, float32 (m, d).
        k: 5 here.
    Source: Sun et al. (2022).
    """

    bank: np.ndarray
    k: int = 5

    @classmethod
    def fit(cls, id_x: np.ndarray, k: int = 5) -> Self:
        """From ID training features, float (m, d), of any length: the angle alone counts.

        Raises:
            ValueError: k below 1, or fewer ID features than k.
        """
        if not 1 <= k <= len(id_x):
            raise ValueError(f"expected k between 1 and the {len(id_x)} ID features, got {k}")
        return cls(unit(np.asarray(id_x, np.float32)), k)

    def score(self, x: np.ndarray) -> np.ndarray:
        """1 - cosine, float64 (n,), between 0 and 2; higher = more OOD. x: float (n, d)."""
        x = unit(np.asarray(x, np.float32))
        parts = [self._kth(x[i : i + ROWS_AT_ONCE]) for i in range(0, len(x), ROWS_AT_ONCE)]
        return 1 - np.concatenate([*parts, np.empty(0)]).astype(np.float64)

    def _kth(self, x: np.ndarray) -> np.ndarray:
        place = len(self.bank) - self.k
        return np.partition(x @ self.bank.T, place, axis=1)[:, place]


@dataclasses.dataclass(frozen=True)
class Mahalanobis:
    """Squared Mahalanobis distance to the mean of the ID training features.

    One Gaussian for all of ID, since ID has no labels here. Its covariance is shrunk as Ledoit & Wolf (2004) do, or
    it could not be inverted with fewer samples than features.

    Attributes:
        mean, precision: of ID, float64 (d,) and (d, d).
    Source: Lee et al. (2018), with a single class.
    """

    mean: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, id_x: np.ndarray) -> Self:
        """From ID training features, float (m, d)."""
        from sklearn.covariance import ledoit_wolf

        id_x = np.asarray(id_x, np.float64)
        return cls(id_x.mean(0), np.linalg.inv(ledoit_wolf(id_x)[0]))

    def score(self, x: np.ndarray) -> np.ndarray:
        """Float64 (n,), at least 0; higher = more OOD. x: float (n, d)."""
        centred = np.asarray(x, np.float64) - self.mean
        return ((centred @ self.precision) * centred).sum(1)
