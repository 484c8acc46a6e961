"""Anyone's flow, checked at the door: what returns `(z, log_det)` or has `log_prob` becomes one kind of object.

Behind `as_flow` every flow has `log_prob(x) -> (b,)` in nats. How it is asked is found out by asking (`protocols`),
and whether it is a density before anything is trained on it (`check`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowood_core.anyflow import check, inputs, protocols
from flowood_core.anyflow.check import FlowError
from flowood_core.anyflow.protocols import KINDS, bare
from flowood_core.flow import Flow, dequantise

__all__ = [
    "KINDS",
    "Adapted",
    "FlowError",
    "admitted",
    "as_flow",
    "bare",
    "check_flow",
    "finite",
    "fitting",
    "log_densities_of",
    "log_px_of",
]


class Adapted(nn.Module):
    """A flow of any library as a density on x: `log_prob(x)` in nats, one value per sample. Made by `as_flow`.

    Attributes:
        flow: the flow inside.
        flatten: it is given rows.
        shift, scale: it is given (x - shift) / scale, computed in the precision of x and in double where x is: a
            large offset is gone before x is brought to the precision of the flow.
        how: what was done to the flow that came, in words; "" for nothing.
    """

    def __init__(
        self,
        flow: nn.Module,
        kind: str | None = None,
        *,
        flatten: bool = False,
        shift: Tensor | float | None = None,
        scale: Tensor | float | None = None,
    ):
        super().__init__()
        self.flow, self.how = bare(flow)
        self.training = self.flow.training
        self.flatten, self._kind = flatten, kind
        self.register_buffer("shift", torch.as_tensor(0.0 if shift is None else shift, dtype=torch.float64))
        self.register_buffer("scale", torch.as_tensor(1.0 if scale is None else scale, dtype=torch.float64))
        if not bool((self.scale > 0).all()):
            raise ValueError(f"expected a positive scale, got {self.scale.tolist()}")

    @property
    def kind(self) -> str:
        """One of `KINDS`; from its structure alone, as long as the flow has not met a sample."""
        return self._kind or protocols.kind_of(self.flow)

    @property
    def has_latent(self) -> bool:
        """Whether z is to be had, so that eq. (4) and the check of the determinant are possible."""
        return protocols.shows_latent(self.kind)

    def settle(self, x: Tensor) -> Adapted:
        """Find out on samples, floats in the units of x, how this flow is asked, if that was left open.

        Raises:
            TypeError, FlowError: see `protocols.kind_of` and `protocols.check_condition`.
        """
        if self._kind is None:
            with check.evaluated(self):
                self._kind = protocols.kind_of(self.flow, self._scaled(x[:2])[0])
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, ladj): ladj = log|det dz/dx| in nats, the scaling of x included."""
        self.settle(x)
        x, ladj_scale = self._scaled(x)
        z, ladj = protocols.pair(self.kind, self.flow, x)
        return z, ladj + ladj_scale

    def log_densities(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(log p_Z(f(x)), log p_X(x)) in nats.

        Raises:
            FlowError: the flow shows its density only, no z.
        """
        self.settle(x)
        x, ladj_scale = self._scaled(x)
        z, ladj = protocols.pair(self.kind, self.flow, x)
        log_pz = protocols.log_pz(self.kind, self.flow, x, z, ladj)
        return log_pz, log_pz + ladj + ladj_scale

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_X(x) in nats, for x in the units it is given in."""
        self.settle(x)
        x, ladj_scale = self._scaled(x)
        return protocols.log_px(self.kind, self.flow, x) + ladj_scale

    def unscaled_pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, log_det) as the flow inside returns it: the scaling's share would hide a scalar's shape."""
        return protocols.pair(self.kind, self.flow, self._scaled(x)[0])

    def unscaled_log_px(self, x: Tensor) -> Tensor:
        """log p as the flow inside returns it."""
        return protocols.log_px(self.kind, self.flow, self._scaled(x)[0])

    def _scaled(self, x: Tensor) -> tuple[Tensor, float | Tensor]:
        parameter = next((p for p in self.flow.parameters() if torch.is_floating_point(p)), None)
        dtype = x.dtype if parameter is None else parameter.dtype
        x = x.to(torch.promote_types(x.dtype, torch.promote_types(dtype, torch.float32)))
        d, scale = x[0].numel(), self.scale.to(x.dtype)
        x = ((x - self.shift.to(x.dtype)) / scale).to(dtype)
        ladj = -scale.log().sum().to(dtype) * (d / scale.numel())  # rows of x are divided by scale, broadcast
        return x.flatten(1) if self.flatten else x, ladj


def as_flow(
    flow: Any,
    x: Any = None,
    *,
    kind: str | None = None,
    flatten: bool = False,
    shift: Tensor | float | None = None,
    scale: Tensor | float | None = None,
) -> Flow | Adapted:
    """A density on x of whatever flow is given, with its log-determinant checked on a few samples.

    Args:
        flow: a module whose call returns (z, log_det), with a standard normal latent (FrEIA, own); or with
            `log_prob` (nflows, normflows, own); or whose call returns a distribution (zuko). It may be compiled,
            scripted, or inside DataParallel. What this function or `flow.image_flow` made is passed on.
        x: a few samples as the flow will meet them: uint8 images, which reach it as floats in [0, 1], or floats.
            They are what the check runs on; without them nothing is checked, and how the flow is asked is found out
            on the first samples it meets.
        kind: one of `KINDS`; None finds out.
        flatten: give the flow rows (b, d) instead of images (b, c, h, w).
        shift, scale: the flow wants (x - shift) / scale; the density stays one on x, so that a threshold in units
            of [0, 1] pixels keeps its meaning. A number, or a tensor that broadcasts over one sample.
    Raises:
        TypeError: no module, one that offers neither, or one that needs a condition.
        FlowError: see `check_flow`.

    >>> import math
    >>> class Own(torch.nn.Module):
    ...     def forward(self, x):
    ...         return 2 * x, torch.full((len(x),), 3 * math.log(2))
    >>> as_flow(Own(), torch.randn(8, 3)).log_prob(torch.zeros(1, 3))
    tensor([-0.6774])
    """
    flow, how = bare(flow)
    if isinstance(flow, Flow | Adapted):
        if (kind, flatten, shift, scale) != (None, False, None, None):
            raise ValueError(
                "expected kind, flatten, shift, scale for a flow of another library, got one made here"
            )
        made = flow
    else:
        if kind is not None and kind not in KINDS:
            raise ValueError(f"expected kind to be one of {', '.join(KINDS)}, got {kind!r}")
        if not isinstance(flow, nn.Module):
            raise TypeError(
                f"expected a torch.nn.Module as flow, got {type(flow).__name__}; a bare distribution has nothing to "
                "train: give the module that makes it (in zuko the flow, not flow())"
            )
        made = Adapted(flow, kind, flatten=flatten, shift=shift, scale=scale)
        made.how = how
    if x is not None:
        check_flow(made, x)
    return made


def admitted(flow: Any, x: Any, *, n: int = 8, seed: int = 0) -> tuple[Flow | Adapted, dict[str, Any]]:
    """`as_flow` and what `check_flow` found, for those who need both."""
    with protocols.bound_to_train():
        flow = as_flow(flow)
        x = inputs.sample_of(x, n, name="the samples to check the flow on")
        if len(x) < 2:
            raise ValueError(f"expected at least 2 samples to check a flow on, got {len(x)}")
        x = _floats(flow, fitting(flow, x))
        has_latent, on_features = True, False
        if isinstance(flow, Adapted):
            flow.settle(x)
            few = flow._scaled(x[:2])[0]
            protocols.check_condition(flow.kind, flow.flow, few)
            has_latent = flow.has_latent
            on_features = has_latent and callable(getattr(flow.flow, "features", None))
        return flow, check.measured(flow, x, has_latent=has_latent, on_features=on_features, seed=seed)


def check_flow(flow: Any, x: Any, *, n: int = 8, seed: int = 0) -> dict[str, Any]:
    """Is this a density on x? Shapes, independence of the batch, and the log-determinant against autograd.

    Up to 128 dimensions the Jacobian of three samples is formed in float64 and its determinant compared; above,
    1/2 tr log(J^T J) is estimated by Lanczos quadrature, which finds a missing or inverted determinant, not a small
    mistake. Where a flow offers both (z, log_det) and `log_prob`, the two must speak of one density. A flow that has
    only `log_prob` cannot be checked this way, nor one on features of x (with a method `features`, as FastFlow), and
    the result says so.

    Args:
        flow: what `as_flow` takes.
        x: samples, of which the first n are used.
    Returns:
        n, d, "determinant": "dense", "estimated", "not visible", "on features" or "not checked", and the largest gap
        found, in nats.
    Raises:
        FlowError: with what was expected, what came and the likely mistake.

    >>> from flowood_core.flow import vector_flow
    >>> check_flow(vector_flow(4, blocks=2, hidden=8), torch.randn(8, 4))["determinant"]
    'dense'
    """
    return admitted(flow, x, n=n, seed=seed)[1]


@torch.no_grad()
def log_px_of(flow: Any, data: Any, *, batch_size: int = 64, strict: bool = True) -> np.ndarray:
    """log p_X of many samples in nats, float64 (n,): a folder is streamed, bytes are taken at their bin's centre.

    The flow is asked in eval mode, and is in its own mode afterwards.

    Args:
        strict: refuse nan and infinity. Else they become -inf: a sample so far out that its density overflows.
    Raises:
        ValueError: nan or infinity; says for how many and which comes first.

    >>> from flowood_core.flow import vector_flow
    >>> log_px_of(vector_flow(4, blocks=2, hidden=8), torch.zeros(100, 4)).shape
    (100,)
    """
    flow = as_flow(flow)
    with check.evaluated(flow):
        parts = [
            flow.log_prob(_floats(flow, part)).double().cpu().numpy()
            for part in inputs.batches(data, batch_size)
        ]
    found = np.concatenate(parts)
    return finite(found) if strict else _far_out(found)


@torch.no_grad()
def log_densities_of(
    flow: Any, data: Any, *, batch_size: int = 64, strict: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(log p_Z, log p_X) of many samples in nats; see `log_px_of`.

    Raises:
        FlowError: the flow shows no z.
    """
    flow = as_flow(flow)
    with check.evaluated(flow):
        parts = [
            torch.stack(flow.log_densities(_floats(flow, part))).double().cpu().numpy()
            for part in inputs.batches(data, batch_size)
        ]
    log_pz, log_px = np.concatenate(parts, 1)
    if strict:
        finite(log_px)
        return log_pz, log_px
    return _far_out(log_pz), _far_out(log_px)


def fitting(flow: nn.Module, x: Tensor) -> Tensor:
    """ID samples on the device of the flow, in a precision it takes; bytes stay bytes.

    Raises:
        ValueError: bringing x to the precision of the flow would lose what tells its rows apart.
    """
    x = _placed(flow, x)
    parameter = next((p for p in flow.parameters() if torch.is_floating_point(p)), None)
    if x.dtype != torch.float64 or parameter is None:
        return _cast(flow, x)
    try:
        return inputs.narrowed(x, parameter.dtype)
    except ValueError:
        if not isinstance(flow, Adapted):
            raise
        inputs.narrowed((x - flow.shift) / flow.scale, parameter.dtype)
        return x  # it takes off the offset in double, and narrows then


def _placed(flow: nn.Module, x: Tensor) -> Tensor:
    tensor = next(flow.parameters(), None)
    tensor = next(flow.buffers(), None) if tensor is None else tensor
    return x if tensor is None else x.to(tensor.device)


def _cast(flow: nn.Module, x: Tensor) -> Tensor:
    parameter = next((p for p in flow.parameters() if torch.is_floating_point(p)), None)
    return (
        x
        if isinstance(flow, Adapted) or parameter is None or x.dtype == torch.uint8
        else x.to(parameter.dtype)
    )


def _floats(flow: nn.Module, x: Tensor) -> Tensor:
    x = _placed(flow, x)
    return dequantise(x) if x.dtype == torch.uint8 else _cast(flow, x)


def _far_out(log_p: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(log_p), log_p, -np.inf)


def finite(log_px: np.ndarray) -> np.ndarray:
    """The log-densities as they are.

    Raises:
        ValueError: nan or infinity; says for how many and which comes first.
    """
    bad = ~np.isfinite(log_px)
    if bad.any():
        raise ValueError(
            f"expected finite log-densities, got nan or inf for {bad.sum()} of {len(log_px)} samples (first: number "
            f"{bad.argmax()}); check the inputs, or train with a lower lr"
        )
    return log_px
