"""A detector: flow, correction, score and threshold as one object that is fitted, saved and loaded.

It follows scikit-learn's conventions for outlier detectors, where *higher means more normal*, and keeps this package's
own, where a higher score means more OOD, under a name that says so: `ood_score`.

    ood_score(X)           -log p_X (or -log p_Z, or the fusion), higher = more OOD
    score_samples(X)       -ood_score(X), higher = more normal
    decision_function(X)   gamma - ood_score(X): positive is normal
    predict(X)             +1 ID, -1 OOD, by eq. (6)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

import flowood_core
from flowood_core import metrics, neighbours
from flowood_core.anyflow import adapt, correction, inputs
from flowood_core.flow import Flow, dequantise, image_flow, vector_flow
from flowood_core.scores import Threshold
from flowood_core.system.files import write_atomically

__all__ = ["Detector", "PytorchOod"]

FORMAT = "flowood detector 1"
SCORES = ("px", "pz", "fusion")
WEIGHTS, FACTS = "weights.safetensors", "detector.json"


class Detector(OutlierMixin, BaseEstimator):
    """OOD detector on images, features or rows: a flow corrected by synthetic outliers, and a threshold apart from it.

    Args:
        flow: None builds one (on images squeezed and coupled by convolutions, on rows by linear layers, with a start
            fitted to the data); else yours, see `adapt.as_flow`, of which a copy is trained.
        outliers: see `correction.correct`; None leaves out the correction (maximum likelihood alone).
        kind: "px" is -log p_X, the product's default. "pz" is -log p_Z, eq. (4) as printed. "fusion" weighs both
            and C(x) by what tells ID from the synthetic outliers: 8-bit images only.
        mle_steps: of maximum likelihood before the correction; 0 for a flow that is trained already.
        steps: of the correction; with 0 and mle_steps=0 the flow is taken as it is.
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
        self.mle_steps, self.steps, self.batch_size, self.lr, self.tau = mle_steps, steps, batch_size, lr, tau
        self.keep, self.holdout, self.blocks, self.hidden, self.seed = keep, holdout, blocks, hidden, seed

    # --- fitting -----------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on ID samples, fit the threshold on the share `holdout` of them.

        Args:
            X: see `inputs.to_tensor`: 8-bit images, or floats (n, d). A flow of your own takes floats of any shape.
            y: None: all of X is ID. Else +1 for ID, and -1 for samples to leave out.
        Raises:
            ValueError: fewer than 25 ID samples, nan rows, float images without a flow of your own.
        """
        if self.kind not in SCORES:
            raise ValueError(f"expected kind to be one of {', '.join(SCORES)}, got {self.kind!r}")
        if not 0 < self.holdout < 1:
            raise ValueError(f"expected holdout between 0 and 1, got {self.holdout}")
        x = inputs.to_tensor(X, name="X")
        if y is not None:
            x = x[torch.from_numpy(_is_id(y, len(x)))]
        inputs.check_samples(x, 25)
        self.shape_, self.dtype_ = tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")
        if x.ndim == 2:
            self.n_features_in_ = x.shape[1]
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))
        n_held = max(5, round(self.holdout * len(x)))
        held, train = x[order[:n_held]], x[order[n_held:]]

        flow, self.built_ = (self._built(train), self._plan(x)) if self.flow is None else (self.flow, None)
        how: dict[str, Any] = {"batch_size": self.batch_size, "lr": self.lr, "seed": self.seed, "quiet": True}
        if self.mle_steps:
            flow = correction.correct(flow, train, objective="mle", steps=self.mle_steps, **how)
        if self.steps and self.outliers is not None:
            flow = correction.correct(flow, train, self.outliers, tau=self.tau, steps=self.steps, **how)
        self.flow_ = adapt.as_flow(flow, train).eval()
        self.fusion_ = self._fused(train) if self.kind == "fusion" else None
        return self.fit_threshold(held)

    @classmethod
    def of_flow(cls, flow: Flow, threshold: Threshold, *, dtype: str = "uint8", kind: str = "px") -> Self:
        """The detector of a flow that is trained, with a threshold fitted to its score; nothing is trained.

        Args:
            flow: of this package, on samples shaped like `flow.shape`.
            threshold: of eq. (6), fitted to the same `kind` of score.
            dtype: of the samples: "uint8" images or "float32".
            kind: "px" or "pz"; see the class.
        """
        if kind not in ("px", "pz"):
            raise ValueError(f"expected kind 'px' or 'pz', got {kind!r}; a fusion has to be fitted")
        made = cls(flow, kind=kind, mle_steps=0, steps=0)
        made.flow_, made.built_, made.fusion_ = flow.eval(), None, None
        made.shape_, made.dtype_, made.threshold_ = tuple(flow.shape), dtype, threshold
        if len(made.shape_) == 1:
            made.n_features_in_ = made.shape_[0]
        return made

    def fit_threshold(self, X: Any, *, keep: float | None = None) -> Self:
        """Fit gamma of eq. (6) anew on ID samples that training has not seen; the flow stays as it is."""
        self.threshold_ = Threshold.fit_quantile(self.ood_score(X), self.keep if keep is None else keep)
        return self

    def _plan(self, x: Tensor) -> dict[str, Any]:
        if x.dtype == torch.uint8:
            squeeze = int(x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0)
            plan: dict[str, Any] = {"type": "image_flow", "shape": list(x.shape[1:]), "squeeze": squeeze}
        elif x.ndim == 2 and x.shape[1] >= 2:
            plan = {"type": "vector_flow", "d": x.shape[1]}
        else:
            raise ValueError(
                f"expected 8-bit images (n, c, h, w) or floats (n, d) with d of 2 or more, got {x.dtype} shaped "
                f"{tuple(x.shape)}; give images as uint8 0..255, or a flow of your own"
            )
        return plan | {"blocks": self.blocks, "hidden": self.hidden, "seed": self.seed}

    def _built(self, x: Tensor) -> nn.Module:
        flow = _build(self._plan(x))
        if isinstance(flow, Flow):
            return flow.initialise(dequantise(x[:512]))
        sd = x.std(0)
        flow.shift.copy_(x.mean(0))
        flow.scale.copy_(torch.where(sd > 0, sd, 1.0))
        flow.flow.initialise(
            ((x - flow.shift) / flow.scale + 1e-3 * torch.randn(x.shape, generator=_rng(0)))[:512]
        )
        return flow

    def _fused(self, x: Tensor) -> neighbours.Fusion:
        if x.dtype != torch.uint8:
            raise ValueError(
                f"expected 8-bit images for kind='fusion', which needs C(x), got {x.dtype}; use 'px'"
            )
        _, method = correction._method(self.outliers or "auto", "softplus", x, x, None)
        x_out = method(x, x.roll(1, 0), rng=_rng(self.seed))  # type: ignore[misc]
        return neighbours.Fusion.fit(self._quantities(x), self._quantities(x_out))

    def _quantities(self, x: Tensor) -> dict[str, np.ndarray]:
        from flowood_core.complexity import image_complexity

        log_pz, log_px = adapt.log_densities_of(self.flow_, x)
        return {"log_pz": log_pz, "log_px": log_px, "complexity": image_complexity(x).numpy()}

    # --- scores ------------------------------------------------------------------------------------------

    def ood_score(self, X: Any) -> np.ndarray:
        """The score of each sample, float64 (n,): higher = more OOD. A folder is streamed."""
        check_is_fitted(self, "flow_")
        return np.concatenate([self._score(self._checked(part)) for part in inputs.batches(X, name="X")])

    def score_samples(self, X: Any) -> np.ndarray:
        """scikit-learn's orientation: higher = more normal. The negative of `ood_score`."""
        return -self.ood_score(X)

    def decision_function(self, X: Any) -> np.ndarray:
        """gamma - ood_score: positive for ID, negative (or zero) for OOD."""
        scores = self.ood_score(X)  # first: it refuses, where nothing was fitted
        return self.threshold_.gamma - scores

    def predict(self, X: Any) -> np.ndarray:
        """+1 for ID and -1 for OOD, eq. (6)."""
        scores = self.ood_score(X)
        return np.where(self.threshold_.decide(scores), -1, 1)

    def score(self, X: Any, y: Any = None) -> float:
        """One number, higher is better: AUROC with labels +1 (ID) and -1 (OOD), else the mean of `score_samples`."""
        found = self.ood_score(X)
        if y is None:
            return float(-found.mean())
        is_id = _is_id(y, len(found))
        return metrics.auroc(found[is_id], found[~is_id])  # type: ignore[return-value]

    @property
    def offset_(self) -> float:
        """scikit-learn's offset: decision_function = score_samples - offset_."""
        return -self.threshold_.gamma

    def _score(self, x: Tensor) -> np.ndarray:
        if self.fusion_ is not None:
            return self.fusion_.score(self._quantities(x))
        if self.kind == "pz":
            return -adapt.log_densities_of(self.flow_, x)[0]
        return -adapt.log_px_of(self.flow_, x)

    def _checked(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape_ or str(x.dtype).removeprefix("torch.") != self.dtype_:
            raise ValueError(
                f"expected samples like those of fit, {self.shape_} of {self.dtype_}, got {tuple(x.shape[1:])} of "
                f"{x.dtype}; prepare both in the same way"
            )
        return x

    # --- files -------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `weights.safetensors` and `detector.json` into a folder: numbers and text, no pickle.

        Returns:
            The folder.
        """
        check_is_fitted(self, "flow_")
        import safetensors.torch

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: t.detach().cpu().clone().contiguous() for name, t in self.flow_.state_dict().items()}
        weights = safetensors.torch.save(state)
        plan = self.built_ or _plan_of(self.flow_)
        facts = {
            "format": FORMAT,
            "orientation": "ood_score: higher = more OOD",
            "flow": plan or _described(self.flow_),
            "shape": list(self.shape_),
            "dtype": self.dtype_,
            "kind": self.kind,
            "settings": {
                k: v for k, v in self.get_params(deep=False).items() if k != "flow" and _is_plain(v)
            },
            "threshold": dataclasses.asdict(self.threshold_),
            "fusion": None if self.fusion_ is None else _fusion_facts(self.fusion_),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "versions": {"flowood": flowood_core.__version__, "torch": str(torch.__version__)},
        }
        write_atomically(folder / WEIGHTS, weights)
        write_atomically(
            folder / FACTS, (json.dumps(facts, indent=2) + "\n").encode()
        )  # last: names the weights
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike, *, flow: nn.Module | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            folder: of the two files.
            flow: where the detector was made with a flow of your own: that flow made anew, with any weights.
        Raises:
            FileNotFoundError: no detector there.
            ValueError: another file, weights that belong to another detector or are damaged, or a flow is missing.
        """
        import safetensors.torch

        folder = Path(folder)
        if not (folder / FACTS).is_file():
            raise FileNotFoundError(
                f"expected a folder written by Detector.save, found no {FACTS} in {folder}"
            )
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"expected a detector saved by Detector.save, got {folder / FACTS}: {error}"
            ) from error
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            got = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
            raise ValueError(f"expected a detector of format {FORMAT!r}, got {got!r} in {folder / FACTS}")
        weights = (folder / WEIGHTS).read_bytes() if (folder / WEIGHTS).is_file() else b""
        if hashlib.sha256(weights).hexdigest() != facts["weights_sha256"]:
            raise ValueError(
                f"expected the weights that {FACTS} names, got other or damaged ones in {folder / WEIGHTS}; copy both "
                "files again, they belong together"
            )
        plan = facts["flow"]
        if plan["type"] == "given" and flow is None:
            raise ValueError(
                f"expected flow=..., since this detector was made with a {plan['class']} of your own: make it anew and "
                "pass it, its weights will be replaced"
            )
        settings = {k: v for k, v in facts["settings"].items() if k in cls().get_params(deep=False)}
        made = cls(flow if plan["type"] == "given" else None, **settings)
        made.built_ = None if plan["type"] == "given" else plan
        if plan["type"] == "given":
            options = (
                {}
                if isinstance(flow, Flow | adapt.Adapted)
                else {"kind": plan["kind"], "flatten": plan["flatten"]}
            )
            made.flow_ = adapt.as_flow(flow, **options)
        else:
            made.flow_ = _build(plan)
        state = safetensors.torch.load(weights)
        for name in ("shift", "scale"):  # buffers whose shape came with the data
            if name in state and isinstance(made.flow_, adapt.Adapted):
                setattr(made.flow_, name, state[name])
        try:
            made.flow_.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"expected a flow with the saved weights' names and shapes; {error}") from error
        made.flow_.eval()
        made.shape_, made.dtype_ = tuple(facts["shape"]), facts["dtype"]
        if len(made.shape_) == 1:
            made.n_features_in_ = made.shape_[0]
        made.threshold_ = Threshold(**facts["threshold"])
        made.fusion_ = None if facts["fusion"] is None else _fusion(facts["fusion"])
        return made


class PytorchOod:
    """A `Detector` behind pytorch-ood's interface: fit(loader), predict(x), fit_features, predict_features.

    Orientation as there: higher = more OOD. Labels below 0 mark OOD samples, which fitting leaves out. Where
    pytorch-ood is installed, `isinstance(adapter, pytorch_ood.api.Detector)` holds.

    >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> adapter = PytorchOod(Detector(mle_steps=5, steps=5, blocks=2, hidden=8)).fit_features(x, torch.zeros(60))
    >>> adapter.predict_features(x[:4]).shape
    torch.Size([4])
    """

    requires_fit = True

    def __init__(self, detector: Detector | None = None):
        self.detector = Detector() if detector is None else detector
        try:
            from pytorch_ood.api import Detector as Interface
        except ImportError:
            return
        Interface.register(type(self))

    def fit(self, data_loader: Any) -> Self:
        """Fit on a loader that yields (x, y)."""
        parts = [(x, y) for x, y in data_loader]
        return self.fit_features(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))

    def fit_features(self, z: Tensor, y: Tensor) -> Self:
        """Fit on tensors: inputs or features, and labels."""
        self.detector.fit(z[y >= 0].cpu())
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (b,), higher = more OOD, on the device of x."""
        if not hasattr(self.detector, "flow_"):
            raise _requires_fitting()
        return torch.from_numpy(self.detector.ood_score(x.cpu())).float().to(x.device)

    def predict_features(self, z: Tensor) -> Tensor:
        """The same; a flow does not mind whether its inputs are called features."""
        return self.predict(z)

    def __call__(self, x: Tensor) -> Tensor:
        return self.predict(x)

    @property
    def device(self) -> torch.device:
        """Where the flow is; the processor before it is fitted."""
        flow = getattr(self.detector, "flow_", None)
        return torch.device("cpu") if flow is None else next(flow.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Move the flow."""
        if hasattr(self.detector, "flow_"):
            self.detector.flow_.to(device)
        return self


def _requires_fitting() -> Exception:
    try:
        from pytorch_ood.api import RequiresFittingException
    except ImportError:
        from sklearn.exceptions import NotFittedError

        return NotFittedError("expected a fitted detector; call fit(loader) first")
    return RequiresFittingException()


def _build(plan: dict[str, Any]) -> nn.Module:
    plan = dict(plan)
    if plan.pop("type") == "image_flow":
        plan.pop("bare", None)
        return image_flow(tuple(plan.pop("shape")), **plan)
    d = plan.pop("d")
    if plan.pop("bare", False):
        return vector_flow(d, **plan)
    return adapt.Adapted(vector_flow(d, **plan), "pair", shift=torch.zeros(d), scale=torch.ones(d))


def _plan_of(flow: nn.Module) -> dict[str, Any] | None:
    """How to build a flow of this package anew, read off its layers; None where that does not give the same weights."""
    if not isinstance(flow, Flow) or not len(flow.blocks):
        return None
    layers = [m for m in flow.blocks[0].modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if len(flow.shape) == 3 and isinstance(layers[0], nn.Conv2d):
        plan = {"type": "image_flow", "shape": list(flow.shape), "squeeze": flow.squeeze}
        plan |= {"blocks": len(flow.blocks), "hidden": layers[0].out_channels, "seed": 0}
    elif len(flow.shape) == 1 and isinstance(layers[0], nn.Linear):
        plan = {"type": "vector_flow", "d": flow.d, "layers": len(layers)}
        plan |= {"blocks": len(flow.blocks), "hidden": layers[0].out_features, "seed": 0}
    else:
        return None
    try:
        again = _build(plan)
    except (TypeError, ValueError):
        return None
    again = again if isinstance(again, Flow) else again.flow
    shapes = [{name: t.shape for name, t in f.state_dict().items()} for f in (flow, again)]
    return plan | {"bare": True} if shapes[0] == shapes[1] else None


def _described(flow: nn.Module) -> dict[str, Any]:
    inner = flow.flow if isinstance(flow, adapt.Adapted) else flow
    described = {"type": "given", "class": f"{type(inner).__module__}.{type(inner).__qualname__}"}
    return described | (
        {"kind": flow.kind, "flatten": flow.flatten}
        if isinstance(flow, adapt.Adapted)
        else {"kind": None, "flatten": False}
    )


def _fusion_facts(fusion: neighbours.Fusion) -> dict[str, Any]:
    return {
        "names": list(fusion.scale.names),
        "mean": fusion.scale.mean.tolist(),
        "std": fusion.scale.std.tolist(),
        "weights": fusion.weights.tolist(),
        "intercept": fusion.intercept,
    }


def _fusion(facts: dict[str, Any]) -> neighbours.Fusion:
    scale = neighbours._Scale(tuple(facts["names"]), np.array(facts["mean"]), np.array(facts["std"]))
    return neighbours.Fusion(scale, np.array(facts["weights"]), facts["intercept"])


def _is_id(y: Any, n: int) -> np.ndarray:
    y = np.asarray(y)
    if y.shape != (n,) or not np.isin(y, (-1, 1)).all():
        raise ValueError(
            f"expected one label per sample, +1 for ID and -1 for OOD, got {np.unique(y)[:5]} shaped {y.shape}"
        )
    return y == 1


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
