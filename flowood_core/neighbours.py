"""Scores of neighbouring papers on the same trained flow, and `Fusion`, ours: what to compare with.

All are fitted on ID training samples; `Fusion` also on synthetic outliers made of them. No OOD set is ever
seen. Every score is oriented one way: higher = more OOD. The gradient norm of log p_X is `lipschitz.grad_logp`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

__all__ = ["Fusion", "Gmm", "OneClass", "Typicality", "likelihood_ratio"]

Arrays = Mapping[str, np.ndarray]
"""log_pz and log_px in nats, complexity in bits per dimension; one value per sample each."""


@dataclasses.dataclass(frozen=True)
class Typicality:
    """|-log p_X(x) - H|, H the mean over ID: far from typical on either side. Nats per sample.

    Source: Nalisnick et al. (2019), with one sample per decision.
    """

    entropy: float

    @classmethod
    def fit(cls, id_train: Arrays) -> Self:
        return cls(float(-np.mean(id_train["log_px"])))

    def score(self, x: Arrays) -> np.ndarray:
        """Shaped (n,), nats; higher = more OOD."""
        return np.abs(-x["log_px"] - self.entropy)


@dataclasses.dataclass(frozen=True)
class Gmm:
    """-log density of (C(x), log p_Z(z)) under a Gaussian mixture fitted on ID.

    Two-sided in complexity: images simpler and images more complex than ID are both far from it.
    Source: Osada et al. (2024), with scikit-learn's mixture.
    """

    scale: "_Scale"
    model: Any

    @classmethod
    def fit(cls, id_train: Arrays, *, components: int = 4, seed: int = 0) -> Self:
        from sklearn.mixture import GaussianMixture

        scale = _Scale.fit(id_train, ("complexity", "log_pz"))
        return cls(scale, GaussianMixture(components, random_state=seed).fit(scale(id_train)))

    def score(self, x: Arrays) -> np.ndarray:
        """Shaped (n,), nats of the mixture on scaled quantities; higher = more OOD."""
        return -self.model.score_samples(self.scale(x))


@dataclasses.dataclass(frozen=True)
class OneClass:
    """A one-class support vector machine on (log p_Z, log-determinant, C), fitted on ID.

    Source: the statistics of Ahmadian & Lindsten (2021) as far as a flow and C(x) give them; scikit-learn's
    machine with its default kernel.
    """

    scale: "_Scale"
    model: Any

    @classmethod
    def fit(cls, id_train: Arrays, *, nu: float = 0.05) -> Self:
        from sklearn.svm import OneClassSVM

        scale = _Scale.fit(id_train, ("log_pz", "ladj", "complexity"))
        return cls(scale, OneClassSVM(nu=nu).fit(scale(id_train)))

    def score(self, x: Arrays) -> np.ndarray:
        """Shaped (n,), without unit; above 0 is outside the machine's boundary, higher = more OOD."""
        return -self.model.decision_function(self.scale(x))


def likelihood_ratio(log_px: np.ndarray, log_px_background: np.ndarray) -> np.ndarray:
    """log p_background(x) - log p_X(x), shaped (n,), in nats; higher = more OOD.

    What the background explains as well is no evidence for ID.

    The background flow is trained on ID images of which a share of the values was replaced at random
    (`outliers.image.mutate`). Source: Ren et al. (2019).
    """
    return np.asarray(log_px_background) - np.asarray(log_px)


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Ours: one linear score of (log p_Z, log p_X, C), by logistic regression of ID against synthetic outliers.

    Eq. (5) adds C(x) with weight one, which helps against simple images and harms against complex ones. Here the
    weights are what separates ID from the outliers that training made anyway. Standardised on ID, so that
    the unit of a score does not matter.

    Attributes:
        scale: location and scale of the three quantities on ID.
        weights: of log p_Z, log p_X, C after scaling; the sign says which way each counts.
        intercept: of the regression.
    """

    scale: "_Scale"
    weights: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, id_train: Arrays, synthetic: Arrays) -> Self:
        """Fit on ID training samples and on synthetic outliers x' of them."""
        from sklearn.linear_model import LogisticRegression

        scale = _Scale.fit(id_train, ("log_pz", "log_px", "complexity"))
        x = np.concatenate([scale(id_train), scale(synthetic)])
        y = np.repeat([0, 1], [len(id_train["log_px"]), len(synthetic["log_px"])])
        model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(x, y)
        return cls(scale, model.coef_[0], float(model.intercept_[0]))

    def score(self, x: Arrays) -> np.ndarray:
        """Shaped (n,), log-odds of an outlier against ID; higher = more OOD."""
        return self.scale(x) @ self.weights + self.intercept

    def facts(self) -> dict[str, Any]:
        """Its numbers as plain Python, from which `of_facts` makes it anew."""
        return {
            "names": list(self.scale.names),
            "mean": self.scale.mean.tolist(),
            "std": self.scale.std.tolist(),
            "weights": self.weights.tolist(),
            "intercept": self.intercept,
        }

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Self:
        """The inverse of `facts`."""
        scale = _Scale(tuple(facts["names"]), np.array(facts["mean"]), np.array(facts["std"]))
        return cls(scale, np.array(facts["weights"]), facts["intercept"])


@dataclasses.dataclass(frozen=True)
class _Scale:
    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, x: Arrays, names: tuple[str, ...]) -> Self:
        columns = _columns(x, names)
        if len(columns) < 2 or not (columns.std(0) > 0).all():
            raise ValueError(
                f"expected at least 2 ID samples that differ in each of {', '.join(names)}, got {len(columns)} "
                f"with standard deviations {columns.std(0)}"
            )
        return cls(names, columns.mean(0), columns.std(0))

    def __call__(self, x: Arrays) -> np.ndarray:
        return (_columns(x, self.names) - self.mean) / self.std


def _columns(x: Arrays, names: tuple[str, ...]) -> np.ndarray:
    given = dict(x)
    if "ladj" in names and "ladj" not in given:
        given["ladj"] = np.asarray(x["log_px"]) - np.asarray(x["log_pz"])  # change of variables, eq. (2)
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(
            f"expected {', '.join(names)} per sample, got no {', '.join(missing)}; images have all of them in "
            "a run's scores.npz"
        )
    return np.stack([np.asarray(given[name], dtype=np.float64) for name in names], axis=1)
