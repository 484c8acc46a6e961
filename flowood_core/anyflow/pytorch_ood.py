"""pytorch-ood's interface around a detector."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

__all__ = ["Adapter"]


class Adapter:
    """A detector behind pytorch-ood's interface; `detector.PytorchOod` is the one to use.

    Orientation as there: higher = more OOD. Labels below 0 mark OOD samples, which fitting leaves out. Where
    pytorch-ood is installed, `isinstance(adapter, pytorch_ood.api.Detector)` holds.
    """

    requires_fit = True

    def __init__(self, detector: Any):
        self.detector = detector
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
        return torch.from_numpy(np.asarray(self.detector.ood_score(x.cpu()))).float().to(x.device)

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
