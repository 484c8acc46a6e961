"""A detector: flow, correction, score and threshold as one object that is fitted, saved and loaded.

It follows scikit-learn's conventions for outlier detectors, where *higher means more normal*, and keeps this package's
own, where a higher score means more OOD, under a name that says so: `ood_score`.

    ood_score(X)           -log p_X (or -log p_Z, or the fusion), higher = more OOD
    score_samples(X)       -ood_score(X), higher = more normal
    decision_function(X)   gamma - ood_score(X): positive is normal
    predict(X)             +1 ID, -1 OOD, by eq. (6)
    parts(X)               the score of each level, where there are several

Of files (a folder, a path, a list of paths) all four give a pandas Series whose index holds the names: a file that
could not be read is not in it, and a warning names it. Of everything else they give an array.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from flowood_core import metrics, neighbours
from flowood_core.anyflow import (
    adapt,
    building,
    correction,
    detector_files,
    explaining,
    folders,
    inputs,
    join,
    levels,
    protocols,
    pytorch_ood,
    ranges,
    tables,
)  # fmt: skip
from flowood_core.scores import Threshold

__all__ = ["Detector", "PytorchOod"]

SCORES = ("px", "pz", "fusion")
LEAST, FEW = 4, 25  # ID samples that are needed at all, and below which a threshold is a guess


class Detector(OutlierMixin, BaseEstimator):
    """OOD detector on images, features or rows: a flow corrected by synthetic outliers, and a threshold apart from it.

    Args:
        flow: None builds one (on images squeezed and coupled by convolutions, on rows by linear layers, with a start
            fitted to the data); else yours, see `adapt.as_flow`, of which a copy is trained.
        outliers: see `correction.correct`, "text" excepted; None leaves out the correction (maximum likelihood alone).
        kind: "px" is -log p_X, the product's default. "pz" is -log p_Z, eq. (4) as printed. "fusion" weighs both
            and C(x) by what tells ID from the synthetic outliers: 8-bit images only.
        level: where the detector looks. "pixels" sees texture. "statistics" of the surface of 8-bit images
            (`features.statistics`) see how detail, colour and quantisation belong together: JPEG, blur, resampling, and
            with thousands of ID images grey. They need no network, and they see how a picture was processed as much
            as what it is: resize and compress ID and what comes later alike. "features" of a network
            (`levels.FeatureLevel`) see content. Names joined by "+", such as "pixels+statistics", "both" (pixels and
            features) or "all": scores brought to one scale by held-out ID images, and joined (`join.Join`).
        encoder: the frozen network of the level "features", see `features.images.ImageEncoder`.
        mle_steps: of maximum likelihood before the correction; 0 for a flow that is trained already.
        steps: of the correction on pixels or rows; with 0 and mle_steps=0 the flow is taken as it is.
        batch_size, lr: of the training.
        tau: threshold of eq. (3); None chooses, see `correction.choose_tau`.
        keep: share of ID that the threshold keeps.
        holdout: share of the ID samples kept from training, on which the threshold is fitted.
        blocks, hidden: of the flow that is built.
        seed: of everything random.

    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> detector = Detector(mle_steps=20, steps=20, blocks=2, hidden=16).fit(x)
    >>> detector.predict(np.array([[90.0, -90.0, 90.0]]))
    array([-1])
    """

    def __init__(
        self,
        flow: nn.Module | None = None,
        *,
        outliers: Any = "auto",
        kind: str = "px",
        level: str = "pixels",
        encoder: Any = "efficientnet_lite0",
        mle_steps: int = 500,
        steps: int = 500,
        batch_size: int = 32,
        lr: float = 2e-3,
        tau: float | None = None,
        keep: float = 0.95,
        holdout: float = 0.2,
        blocks: int = 8,
        hidden: int = 32,
        seed: int = 0,
    ):
        self.flow, self.outliers, self.kind = flow, outliers, kind
        self.level, self.encoder = level, encoder
        self.mle_steps, self.steps, self.batch_size, self.lr, self.tau = mle_steps, steps, batch_size, lr, tau
        self.keep, self.holdout, self.blocks, self.hidden, self.seed = keep, holdout, blocks, hidden, seed

    # --- fitting -----------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on ID samples, fit the threshold on the share `holdout` of them.

        Args:
            X: see `inputs.to_tensor`: 8-bit images, or floats (n, d), or a frame. A flow of your own takes floats of
                any shape.
            y: labels +1 for ID and -1 for samples to leave out. Others say nothing of ID and OOD: they are not used,
                as in scikit-learn's outlier detectors, and a warning says so.
        Warns:
            UserWarning: fewer than 25 ID samples, on which a threshold is a guess.
        Raises:
            ValueError: a parameter out of its range, fewer than 4 ID samples, nan rows, float images without a flow of
                your own, a score or outliers that do not suit the flow or the data; all before anything is trained.
        """
        settings = self._settings()
        with protocols.bound_to_train():
            return self._fitted(self._read(X, is_new=True), y, settings)

    def _settings(self) -> dict[str, Any]:
        """The parameters in their ranges; those of scikit-learn stay as they were given."""
        names = (
            "mle_steps", "steps", "batch_size", "lr", "tau", "keep", "holdout", "blocks", "hidden", "seed",
        )  # fmt: skip
        ranges.one_of("kind", self.kind, SCORES)
        levels.names_of(self.level)
        return ranges.checked(**{name: getattr(self, name) for name in names})

    def _fitted(self, x: Tensor, y: Any, settings: dict[str, Any]) -> Self:
        x = x.clone() if x.is_inference() else x
        is_id = tables.labelled(y, len(x))
        x = x if is_id is None else x[torch.from_numpy(is_id).to(x.device)]
        self._check_enough(x)
        self.shape_, self.dtype_ = tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")
        order = torch.randperm(len(x), generator=_rng(settings["seed"]))
        n_held = min(max(5, round(settings["holdout"] * len(x))), len(x) // 2)
        held, train = x[order[:n_held]], x[order[n_held:]]

        is_corrected = settings["steps"] > 0 and self.outliers is not None
        # before anything is trained: a missing network is met now
        self.levels_ = levels.levels_for(self.level, self.encoder, train, n_held, seed=settings["seed"])
        flow = self._start(train, settings)
        self._check_suits(flow, train, is_corrected)
        how: dict[str, Any] = {name: settings[name] for name in ("batch_size", "lr", "seed")}
        how |= {"quiet": True, "least": 2}
        names = levels.names_of(self.level)
        if settings["mle_steps"] and levels.PIXELS in names:
            flow = correction.correct(flow, train, objective="mle", steps=settings["mle_steps"], **how)
        if is_corrected and levels.PIXELS in names:
            more = {"tau": settings["tau"], "steps": settings["steps"]}
            flow = correction.correct(flow, train, self.outliers, **more, **how)
        self.flow_ = adapt.as_flow(flow).eval()
        self.fusion_ = self._fused(train, settings["seed"]) if self.kind == "fusion" else None
        levels.fit_each(self.levels_, train, self.outliers)
        self.join_ = join.Join.fit(self._by_level(held)) if len(names) > 1 else None
        return self.fit_threshold(held)

    def _check_enough(self, x: Tensor) -> None:
        inputs.check_samples(x, LEAST, "X")
        if len(x) < FEW:
            warnings.warn(
                f"{len(x)} ID samples: with fewer than {FEW} a threshold is a guess; collect more, or cut large images "
                "into patches",
                stacklevel=4,
            )

    def _start(self, x: Tensor, settings: dict[str, Any]) -> nn.Module:
        """The flow before it is trained: built, or yours, checked."""
        if self.flow is not None:
            self.built_ = None
            flow, _ = adapt.admitted(self.flow, x)
            return flow
        self.built_ = building.plan_for(x, settings)
        return building.started(building.build(self.built_), x)

    def _check_suits(self, flow: nn.Module, x: Tensor, is_corrected: bool) -> None:
        if self.kind == "fusion" and x.dtype != torch.uint8:
            raise ValueError(
                f"expected 8-bit images for kind='fusion', which needs C(x), got {x.dtype}; use 'px'"
            )
        if self.kind != "px" and isinstance(flow, adapt.Adapted) and not flow.has_latent:
            raise ValueError(
                f"expected a flow that shows z for kind={self.kind!r}, got {type(flow.flow).__name__}, which has "
                "log_prob only; use 'px'"
            )
        if is_corrected or self.kind == "fusion":
            correction.check_outliers(
                "auto" if self.outliers is None else self.outliers, adapt.fitting(flow, x)
            )

    @classmethod
    def of_flow(cls, flow: Any, threshold: Threshold, *, dtype: str = "uint8", kind: str = "px") -> Self:
        """The detector of a flow that is trained, with a threshold fitted to its score; nothing is trained.

        Args:
            flow: what `adapt.as_flow` takes. One of this package knows the shape of its samples; for another the first
                samples to be scored say it, and the flow is checked on them.
            threshold: of eq. (6), fitted to the same `kind` of score.
            dtype: of the samples: "uint8" images or "float32".
            kind: "px" or "pz"; see the class.
        """
        if kind not in ("px", "pz"):
            raise ValueError(f"expected kind 'px' or 'pz', got {kind!r}; a fusion has to be fitted")
        ranges.one_of("dtype", dtype, ("uint8", "float32", "float64"))
        if not isinstance(threshold, Threshold):
            raise TypeError(
                f"expected a scores.Threshold, got {type(threshold).__name__}; fit one: Threshold.fit_quantile(scores)"
            )
        made = cls(flow, kind=kind, mle_steps=0, steps=0)
        made.flow_, made.dtype_, made.threshold_ = adapt.as_flow(flow).eval(), dtype, threshold
        made.built_, made.fusion_, made.levels_, made.join_ = None, None, {}, None
        shape = getattr(made.flow_, "shape", None)
        made.shape_ = None if shape is None else tuple(shape)
        if shape is not None and len(shape) == 1:
            made.n_features_in_ = shape[0]
        return made

    def fit_threshold(self, X: Any, *, keep: float | None = None) -> Self:
        """Fit gamma of eq. (6) anew on ID samples that training has not seen; the flow stays as it is."""
        keep = ranges.checked(keep=self.keep if keep is None else keep)["keep"]
        scores = np.asarray(self.ood_score(X))
        adapt.finite(-scores)
        self.threshold_ = Threshold.fit_quantile(scores, keep)
        return self

    def _fused(self, x: Tensor, seed: int) -> neighbours.Fusion:
        kind = "auto" if self.outliers is None else self.outliers
        _, method = correction.chosen_outliers(kind, "softplus", x, None, None)
        x_out = method(x, x.roll(1, 0), rng=_rng(seed))  # type: ignore[misc]
        return neighbours.Fusion.fit(self._quantities(x), self._quantities(x_out))

    def _quantities(self, x: Tensor) -> dict[str, np.ndarray]:
        from flowood_core.complexity import image_complexity

        log_pz, log_px = adapt.log_densities_of(self.flow_, x)
        return {"log_pz": log_pz, "log_px": log_px, "complexity": image_complexity(x).numpy()}

    # --- scores ------------------------------------------------------------------------------------------

    def ood_score(self, X: Any) -> np.ndarray | pd.Series:
        """The score of each sample, float64 (n,): higher = more OOD. Files are streamed; see above for their names.

        A sample so far out that its density overflows has the score inf, hence is OOD.
        """
        check_is_fitted(self, "flow_")
        folder = self._folder(X)
        if folder is None:
            x = self._read(X, is_new=False)
            return np.concatenate([self._score(self._checked(part)) for part in x.split(64)])
        scored = [pd.Series(self._score(self._checked(x)), names) for names, x in folder.named_batches()]
        return pd.concat(scored).rename("ood_score").rename_axis("file")

    def parts(self, X: Any) -> pd.DataFrame:
        """One row a sample: a column for each level [nats], in the order of `levels.names_of`, and ood_score.

        Higher = more OOD. The index holds the names of files.
        """
        check_is_fitted(self, "flow_")
        folder = self._folder(X)
        rows = (
            None if folder is not None else [(None, part) for part in self._read(X, is_new=False).split(64)]
        )
        found = [self._parts(self._checked(x), names) for names, x in rows or folder.named_batches()]
        return pd.concat(found, ignore_index=folder is None).rename_axis(None if folder is None else "file")

    def _parts(self, x: Tensor, names: Any) -> pd.DataFrame:
        of = self._by_level(x)
        return pd.DataFrame(of | {"ood_score": self._joined(of)}, index=names)

    def score_samples(self, X: Any) -> np.ndarray | pd.Series:
        """scikit-learn's orientation: higher = more normal. The negative of `ood_score`."""
        return _named(-self.ood_score(X), "score_samples")

    def decision_function(self, X: Any) -> np.ndarray | pd.Series:
        """gamma - ood_score: positive for ID, negative (or zero) for OOD."""
        scores = self.ood_score(X)  # first: it refuses, where nothing was fitted
        return _named(self.threshold_.gamma - scores, "decision_function")

    def predict(self, X: Any) -> np.ndarray | pd.Series:
        """+1 for ID and -1 for OOD, eq. (6)."""
        scores = self.ood_score(X)
        found = np.where(self.threshold_.decide(np.asarray(scores)), -1, 1)
        return pd.Series(found, scores.index, name="predict") if isinstance(scores, pd.Series) else found

    def score(self, X: Any, y: Any = None) -> float:
        """One number, higher is better: AUROC with labels +1 (ID) and -1 (OOD), else the mean of `score_samples`.

        Warns:
            UserWarning: other labels, which are not used, as in `fit`.
        """
        found = np.asarray(self.ood_score(X))
        is_id = tables.labelled(y, len(found))
        if is_id is None:
            return float(-found.mean())
        return metrics.auroc(found[is_id], found[~is_id])  # type: ignore[return-value]

    def explain(self, pictures: Mapping[str, Tensor], id_scores: np.ndarray) -> pd.DataFrame:
        """What this detector says of named pictures, one row each.

        Args:
            pictures: name: uint8 (c, h, w), of the shape the detector was fitted on.
            id_scores: `ood_score` of ID images that neither training nor the threshold has seen.
        Returns:
            complexity [bits/dim]; ood_score [nats for kind "px", higher = more OOD]; beyond_id, the share of ID that
            scores lower; gamma; verdict, ID or OOD by eq. (6).
        """
        return explaining.explained(self, pictures, np.asarray(id_scores))

    @property
    def offset_(self) -> float:
        """scikit-learn's offset: decision_function = score_samples - offset_."""
        return -self.threshold_.gamma

    def _score(self, x: Tensor) -> np.ndarray:
        return self._joined(self._by_level(x))

    def _joined(self, of: Mapping[str, np.ndarray]) -> np.ndarray:
        return next(iter(of.values())) if self.join_ is None else self.join_(of)

    def _by_level(self, x: Tensor) -> dict[str, np.ndarray]:
        """The score of each level, higher = more OOD."""
        names = levels.names_of(self.level)
        return {n: self._pixel_score(x) if n == levels.PIXELS else self.levels_[n].score(x) for n in names}

    def _pixel_score(self, x: Tensor) -> np.ndarray:
        if self.fusion_ is not None:
            return self.fusion_.score(self._quantities(x))
        if self.kind == "pz":
            return -adapt.log_densities_of(self.flow_, x, strict=False)[0]
        return -adapt.log_px_of(self.flow_, x, strict=False)

    # --- what comes in -----------------------------------------------------------------------------------

    def _folder(self, X: Any) -> folders.Folder | None:
        """Files as a `Folder`, read as those of `fit` were."""
        return inputs.folder_like(X, getattr(self, "shape_", None), getattr(self, "pictures_", None))

    def _read(self, X: Any, *, is_new: bool) -> Tensor:
        """X as a tensor; tables are looked at by scikit-learn's rules (names, number of columns, sparse, empty)."""
        if is_new:
            for name in ("n_features_in_", "feature_names_in_", "pictures_"):
                self.__dict__.pop(name, None)
            folder = inputs.folder_of(X)
            if folder is not None:
                x = folder.tensor()
                self.pictures_ = folder.how_again()
                return x
        if tables.is_table(X):
            X = validate_data(
                self, X, reset=is_new, dtype=[np.float64, np.float32], ensure_all_finite=False,
                ensure_min_samples=LEAST if is_new else 1,
                ensure_min_features=2 if is_new and self.flow is None else 1,
            )  # fmt: skip
        x = inputs.to_tensor(X, name="X")
        if is_new and x.ndim == 2:
            self.n_features_in_ = x.shape[1]
        return x

    def _checked(self, x: Tensor) -> Tensor:
        # of_flow: the first samples say their shape
        shape = tuple(x.shape[1:]) if self.shape_ is None else self.shape_
        if tuple(x.shape[1:]) != shape or (x.dtype == torch.uint8) != (self.dtype_ == "uint8"):
            raise ValueError(
                f"expected samples like those of fit, {shape} of {self.dtype_}, got {tuple(x.shape[1:])} of "
                f"{x.dtype}; prepare both in the same way"
            )
        if self.shape_ is None:
            if len(x) > 1:
                adapt.check_flow(self.flow_, x)
            else:
                adapt.log_px_of(self.flow_, x)
            self.shape_ = shape  # only now: samples that the flow refuses do not say it
        return x

    # --- files -------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `weights.safetensors` and `detector.json` into a folder, which is returned: no pickle.

        Each level beside the pixels adds a file `level*.safetensors`; a frozen network is named, not copied.
        """
        check_is_fitted(self, "flow_")
        if self.shape_ is None:
            raise ValueError(
                "expected a detector that knows its samples, got one of a flow alone; score some first"
            )
        names = getattr(self, "feature_names_in_", None)
        settings = {name: value for name, value in self.get_params(deep=False).items() if name != "flow"}
        stored = detector_files.Stored(
            self.flow_, self.built_, settings, self.shape_, self.dtype_, self.kind, self.threshold_, self.fusion_,
            None if names is None else [str(name) for name in names], getattr(self, "pictures_", None),
            self.levels_, self.join_,
        )  # fmt: skip
        return detector_files.write(folder, stored)

    @classmethod
    def load(cls, folder: str | os.PathLike, *, flow: nn.Module | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            folder: of the two files.
            flow: where the detector was made with a flow of your own: that flow made anew, with any weights.
        Raises:
            FileNotFoundError: no detector there.
            ValueError: another file, weights that belong to another detector or are damaged, or a flow is missing.
            MissingWeights, BackboneError: the frozen network is not to be had; says how to get it.
        """
        stored = detector_files.read(folder, flow)
        known = cls().get_params(deep=False)
        settings = {name: value for name, value in stored.settings.items() if name in known}
        made = cls(flow if stored.plan is None else None, **settings)
        made.flow_, made.built_, made.fusion_ = stored.flow, stored.plan, stored.fusion
        made.shape_, made.dtype_, made.threshold_ = stored.shape, stored.dtype, stored.threshold
        made.levels_, made.join_ = stored.levels, stored.join
        if len(stored.shape) == 1:
            made.n_features_in_ = stored.shape[0]
        if stored.names is not None:
            made.feature_names_in_ = np.array(stored.names, dtype=object)
        if stored.pictures is not None:
            made.pictures_ = stored.pictures
        return made


class PytorchOod(pytorch_ood.Adapter):
    """A `Detector` behind pytorch-ood's interface: fit(loader), predict(x), fit_features, predict_features.

    >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> adapter = PytorchOod(Detector(mle_steps=5, steps=5, blocks=2, hidden=8)).fit_features(x, torch.zeros(60))
    >>> adapter.predict_features(x[:4]).shape
    torch.Size([4])
    """

    def __init__(self, detector: Detector | None = None):
        super().__init__(Detector() if detector is None else detector)


def _named(values: Any, name: str) -> Any:
    return values.rename(name) if isinstance(values, pd.Series) else values


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
