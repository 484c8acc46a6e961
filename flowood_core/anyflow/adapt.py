"""Anyone's flow, checked at the door: what returns `(z, log_det)` or has `log_prob` becomes one kind of object.

FrEIA, zuko, nflows, normflows and hand-written modules differ in who computes the density and what it is called.
Behind `as_flow` they all have `log_prob(x) -> (b,)` in nats. A log-determinant that is missing, summed over the batch
or plainly wrong trains without a complaint and detects nothing: a few samples are enough to find out before.
"""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowood_core.anyflow import inputs
from flowood_core.flow import Flow, dequantise

__all__ = ["Adapted", "FlowError", "as_flow", "check_flow", "log_densities_of", "log_px_of"]

DENSE = 128  # dimensions up to which the whole Jacobian is formed
KINDS = ("pair", "log_prob", "distribution", "zuko", "nflows", "normflows")


class FlowError(ValueError):
    """A flow is no density: its log-determinant is missing, misshapen or wrong; says what the likely mistake is."""


class Adapted(nn.Module):
    """A flow of any library as a density on x: `log_prob(x)` in nats, one value per sample. Made by `as_flow`."""

    def __init__(
        self,
        flow: nn.Module,
        kind: str,
        *,
        flatten: bool = False,
        shift: Tensor | float | None = None,
        scale: Tensor | float | None = None,
    ):
        super().__init__()
        self.flow, self.kind, self.flatten = flow, kind, flatten
        self.register_buffer("shift", torch.as_tensor(0.0 if shift is None else shift, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(1.0 if scale is None else scale, dtype=torch.float32))
        if not bool((self.scale > 0).all()):
            raise ValueError(f"expected a positive scale, got {self.scale.tolist()}")

    @property
    def has_latent(self) -> bool:
        """Whether z is to be had, so that eq. (4) and the check of the determinant are possible."""
        return self.kind not in ("log_prob", "distribution")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, ladj): ladj = log|det dz/dx| in nats, the scaling of x included."""
        x, ladj_scale = self._scaled(x)
        z, ladj = self._pair(x)
        return z, ladj + ladj_scale

    def log_densities(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(log p_Z(f(x)), log p_X(x)) in nats.

        Raises:
            FlowError: the flow shows its density only, no z.
        """
        z, ladj = self(x)
        log_pz = self._log_base(z)
        return log_pz, log_pz + ladj

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_X(x) in nats, for x in the units it is given in."""
        if self.kind == "pair":
            return self.log_densities(x)[1]
        x, ladj_scale = self._scaled(x)
        log_px = _density(self).log_prob(x)
        return log_px + ladj_scale

    def _scaled(self, x: Tensor) -> tuple[Tensor, float | Tensor]:
        parameter = next((p for p in self.flow.parameters() if torch.is_floating_point(p)), None)
        if parameter is not None and x.dtype != parameter.dtype:
            x = x.to(parameter.dtype)
        d = x[0].numel()
        scale = self.scale.to(x.dtype)
        x = (x - self.shift.to(x.dtype)) / scale
        ladj = -scale.log().sum() * (d / scale.numel())  # rows of x are divided by scale, broadcast
        return x.flatten(1) if self.flatten else x, ladj

    def _pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "zuko":
            return self.flow().transform.call_and_ladj(x)
        if self.kind == "nflows":
            return self.flow._transform(x)
        if self.kind == "normflows":
            return self.flow.inverse_and_log_det(x)
        if not self.has_latent:
            raise FlowError(
                f"expected a flow that shows z, got {type(self.flow).__name__}, which has log_prob only; scores on "
                "log p_Z need a module that returns (z, log_det)"
            )
        return _split(self.flow(x), self.flow)

    def _log_base(self, z: Tensor) -> Tensor:
        if self.kind == "zuko":
            return self.flow().base.log_prob(z)
        if self.kind == "nflows":
            return self.flow._distribution.log_prob(z)
        if self.kind == "normflows":
            return self.flow.q0.log_prob(z)
        z = z.flatten(1)
        return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))  # N(0, I)


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
            `log_prob` (nflows, normflows, own); or whose call returns a distribution (zuko). What this function or
            `flow.image_flow` made is passed on.
        x: a few samples as the flow will meet them: uint8 images, which reach it as floats in [0, 1], or floats.
            They are what the check runs on; without them nothing is checked.
        kind: one of `KINDS`; None finds out.
        flatten: give the flow rows (b, d) instead of images (b, c, h, w).
        shift, scale: the flow wants (x - shift) / scale; the density stays one on x, so that a threshold in units
            of [0, 1] pixels keeps its meaning. A number, or a tensor that broadcasts over one sample.
    Raises:
        TypeError: no module, or one that offers neither.
        FlowError: see `check_flow`.

    >>> from flowood_core.flow import vector_flow
    >>> class Own(torch.nn.Module):
    ...     def forward(self, x):
    ...         return 2 * x, torch.full((len(x),), 3 * math.log(2))
    >>> as_flow(Own(), torch.randn(8, 3)).log_prob(torch.zeros(1, 3))
    tensor([-0.6774])
    """
    if isinstance(flow, Flow | Adapted):
        if (flatten, shift, scale) != (False, None, None):
            raise ValueError(
                "expected flatten, shift, scale for a flow of another library, got one made here"
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
        made = Adapted(flow, kind or _kind_of(flow), flatten=flatten, shift=shift, scale=scale)
    if x is not None:
        check_flow(made, x)
    return made


def check_flow(flow: Any, x: Any, *, n: int = 8, seed: int = 0) -> dict[str, Any]:
    """Is this a density on x? Shapes, independence of the batch, and the log-determinant against autograd.

    Up to 128 dimensions the Jacobian of three samples is formed in float64 and its determinant compared; above,
    1/2 tr log(J^T J) is estimated by Lanczos quadrature, which finds a missing or inverted determinant, not a small
    mistake. A flow that has only `log_prob` cannot be checked this way, and the result says so.

    Args:
        flow: what `as_flow` takes.
        x: samples, of which the first n are used.
    Returns:
        n, d, "determinant": "dense", "estimated" or "not visible", and the largest gap found, in nats.
    Raises:
        FlowError: with what was expected, what came and the likely mistake.

    >>> from flowood_core.flow import vector_flow
    >>> check_flow(vector_flow(4, blocks=2, hidden=8), torch.randn(8, 4))["determinant"]
    'dense'
    """
    flow = as_flow(flow)
    x = inputs.sample_of(x, n, name="the samples to check the flow on")
    if len(x) < 2:
        raise ValueError(f"expected at least 2 samples to check a flow on, got {len(x)}")
    x = _floats(flow, x)
    was_training = flow.training
    flow.eval()
    try:
        d = x[0].numel()
        visible = not isinstance(flow, Adapted) or flow.has_latent
        if visible:
            _check_pair(flow, x, d)
        _check_log_px(flow, x)
        if not visible:
            return {"n": len(x), "d": d, "determinant": "not visible", "gap": math.nan}
        return {"n": len(x), "d": d} | _check_determinant(flow, x, d, seed)
    finally:
        flow.train(was_training)


@torch.no_grad()
def log_px_of(flow: Any, data: Any, *, batch_size: int = 64) -> np.ndarray:
    """log p_X of many samples in nats, float64 (n,): a folder or a data set is streamed, bytes at their bin's centre.

    Raises:
        ValueError: nan or infinity; says for how many and which comes first.

    >>> from flowood_core.flow import vector_flow
    >>> log_px_of(vector_flow(4, blocks=2, hidden=8), torch.zeros(100, 4)).shape
    (100,)
    """
    flow = as_flow(flow).eval()
    parts = [
        flow.log_prob(_floats(flow, part)).double().cpu().numpy() for part in inputs.batches(data, batch_size)
    ]
    return _finite(np.concatenate(parts))


@torch.no_grad()
def log_densities_of(flow: Any, data: Any, *, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(log p_Z, log p_X) of many samples in nats; see `log_px_of`.

    Raises:
        FlowError: the flow shows no z.
    """
    flow = as_flow(flow).eval()
    parts = [
        torch.stack(flow.log_densities(_floats(flow, part))).double().cpu().numpy()
        for part in inputs.batches(data, batch_size)
    ]
    both = np.concatenate(parts, 1)
    _finite(both[1])
    return both[0], both[1]


# --- which library ---------------------------------------------------------------------------------------


def _kind_of(flow: nn.Module) -> str:
    if callable(getattr(flow, "log_prob", None)):
        if hasattr(flow, "q0") and hasattr(flow, "inverse_and_log_det"):
            return "normflows"
        if hasattr(flow, "_transform") and hasattr(flow, "_distribution"):
            return "nflows"
        return "log_prob"
    try:
        inspect.signature(flow.forward).bind()  # zuko: a call without context gives the distribution
    except TypeError:
        return "pair"
    made = flow()
    if callable(getattr(made, "log_prob", None)):
        return "zuko" if hasattr(made, "transform") and hasattr(made, "base") else "distribution"
    raise TypeError(
        f"expected a flow that returns (z, log_det), a distribution, or has log_prob; {type(flow).__name__}() gave "
        f"{type(made).__name__}"
    )


def _density(adapted: Adapted) -> Any:
    """What has log_prob: the module, or the distribution that calling it gives."""
    return adapted.flow() if adapted.kind in ("zuko", "distribution") else adapted.flow


def _split(out: Any, flow: nn.Module) -> tuple[Tensor, Tensor]:
    """(z, ladj) of what a module returned; several latents become one."""
    name = type(flow).__name__
    if isinstance(out, Tensor):
        raise FlowError(
            f"expected {name}(x) to return (z, log_det), got one tensor shaped {tuple(out.shape)}: the "
            "log-determinant is missing. Return it as the second value (in FrEIA leave jac=True), or give the "
            "module a method log_prob"
        )
    if not isinstance(out, tuple | list) or len(out) != 2:
        got = f"{len(out)} values" if isinstance(out, tuple | list) else type(out).__name__
        raise FlowError(
            f"expected {name}(x) to return (z, log_det), got {got}; drop what comes beyond the two"
        )
    z, ladj = out
    if isinstance(z, tuple | list):  # multi-scale: parts of the latent
        z = torch.cat([part.flatten(1) for part in z], 1) if len(z) > 1 else z[0]
    if not isinstance(z, Tensor) or not isinstance(ladj, Tensor):
        raise FlowError(
            f"expected tensors (z, log_det), got {type(z).__name__} and {type(ladj).__name__}; a log-det that is "
            "the number 0 means that a layer reports none"
        )
    return z, ladj


# --- the checks ------------------------------------------------------------------------------------------


def _check_pair(flow: nn.Module, x: Tensor, d: int) -> None:
    b = len(x)
    with torch.no_grad():
        z, ladj = _raw_pair(flow, x)
        one = _raw_pair(flow, x[:1])[1]
    shape = tuple(ladj.shape)
    if shape != (b,):
        raise FlowError(
            f"expected one log-det per sample, shaped ({b},), got {shape}: {_why_shape(shape, b, x)}"
        )
    if len(z) != b or z[0].numel() != d:
        raise FlowError(
            f"expected z with the {d} dimensions of x, got {tuple(z.shape)} for x shaped {tuple(x.shape)}: a flow "
            "keeps every dimension; return all parts of the latent, also those split off early"
        )
    gap = (ladj[:1] - one).abs().item()
    if gap > 1e-3 * max(1.0, one.abs().item()):
        summed = abs(ladj[0].item() - _total(flow, x)) <= 1e-3 * max(1.0, abs(ladj[0].item()))
        why = (
            "it is summed over the batch: sum over all dimensions but the first"
            if summed
            else "a sample's log-det depends on the other samples: batch statistics in use, or a sum over the batch"
        )
        raise FlowError(
            f"expected the log-det of a sample to be the same alone and in a batch, got {one.item():.4g} alone and "
            f"{ladj[0].item():.4g} in a batch of {b}: {why}"
        )


def _raw_pair(flow: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    # without the scaling of x, which would broadcast a scalar log-det into a good shape
    if isinstance(flow, Adapted):
        return flow._pair(flow._scaled(x)[0])
    return flow(x)


def _total(flow: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return sum(_raw_pair(flow, x[k : k + 1])[1].sum().item() for k in range(len(x)))


def _check_log_px(flow: nn.Module, x: Tensor) -> None:
    b = len(x)
    with torch.no_grad():
        inner = _raw_log_px(flow, x)
        one = _raw_log_px(flow, x[:1])
    if not isinstance(inner, Tensor) or tuple(inner.shape) != (b,):
        shape = tuple(inner.shape) if isinstance(inner, Tensor) else type(inner).__name__
        raise FlowError(
            f"expected log_prob(x) with one value per sample, shaped ({b},), got {shape}: "
            f"{_why_shape(shape, b, x) if isinstance(shape, tuple) else 'return a tensor'}"
        )
    if not torch.isfinite(inner).all():
        raise FlowError(
            f"expected finite log-densities of the first {b} samples, got {int((~torch.isfinite(inner)).sum())} that "
            "are not: the samples are far outside what the flow was made for (check scaling), or it has diverged"
        )
    if (inner[:1] - one).abs().item() > 1e-3 * max(1.0, one.abs().item()):
        raise FlowError(
            f"expected log_prob of a sample to be the same alone and in a batch, got {one.item():.4g} alone and "
            f"{inner[0].item():.4g} in a batch of {b}: batch statistics in use, or a sum over the batch"
        )


def _raw_log_px(flow: nn.Module, x: Tensor) -> Tensor:
    if isinstance(flow, Adapted) and flow.kind != "pair":
        scaled = flow._scaled(x)[0]
        return _density(flow).log_prob(scaled)
    return flow.log_prob(x)


def _why_shape(shape: tuple[int, ...], b: int, x: Tensor) -> str:
    if shape in ((), (1,)):
        return "it is summed or averaged over the batch: sum over all dimensions but the first"
    if shape == (b, 1):
        return "a column: squeeze(1)"
    if shape[:1] == (b,):
        more = "; or the flow takes rows (b, d): as_flow(..., flatten=True)" if x.ndim > 2 else ""
        return f"it is not yet summed over the dimensions of a sample: flatten(1).sum(1){more}"
    return "the first dimension must be that of the batch"


def _check_determinant(flow: nn.Module, x: Tensor, d: int, seed: int) -> dict[str, Any]:
    """ladj against the Jacobian that autograd sees."""
    k = min(3, len(x))
    exact, x = _in_float64(flow, x[:k])
    try:
        with torch.no_grad():
            said = exact(x)[1].double()
        if d <= DENSE:
            seen, error = _dense_ladj(exact, x), torch.zeros(k, dtype=torch.float64)
        else:
            k = 1
            seen, error = _estimated_ladj(exact, x[:1], seed)
            said = said[:1]
    except RuntimeError as e:  # no second derivative, an operation without float64 ...
        return {"determinant": "not checked", "gap": math.nan, "why": str(e).splitlines()[0]}
    if d <= DENSE:
        tolerance = (1e-3 if x.dtype == torch.float64 else 2e-2) * seen.abs().clamp_min(1)
    else:
        # an estimate from above, the more so the worse the flow is conditioned: refuse gross mistakes only
        tolerance = torch.maximum(error + 1e-3 * d, 0.15 * torch.maximum(seen.abs(), said.abs()))
    gap = said - seen
    if bool((gap.abs() > tolerance).any()):
        i = int((gap.abs() - tolerance).argmax())
        raise FlowError(
            f"expected log_det = log|det dz/dx|, which autograd finds to be {seen[i]:.5g}"
            f"{f' +- {error[i]:.2g}' if d > DENSE else ''} nats for sample {i}, got {said[i]:.5g}: "
            f"{_why_determinant(said, seen, tolerance, d)}"
        )
    return {"determinant": "dense" if d <= DENSE else "estimated", "gap": gap.abs().max().item()}


def _why_determinant(said: Tensor, seen: Tensor, tolerance: Tensor, d: int) -> str:
    def same(a: Tensor) -> bool:
        return bool(((a - seen).abs() <= tolerance).all())

    if bool((said.abs() < 1e-12).all()):
        return "it is zero; a layer that scales reports none"
    if same(-said):
        return "the sign is wrong: this is the log-det of the inverse, from z to x"
    if same(said * d):
        return "it is divided by the number of dimensions"
    if bool((said > 0).all()) and same(said.clamp_min(1e-300).log()):
        return "the logarithm is missing"
    if same(said * math.log(2)):
        return "it is in bits; nats are expected"
    if same(said / 2) or same(said * 2):
        return "a factor 2: log of a squared or a halved scale"
    if len(said) > 1 and bool(((said - seen) - (said - seen)[0]).abs().max() <= tolerance.max()):
        return (
            "the same gap for every sample: a fixed scaling (ActNorm, normalisation of the data) is left out"
        )
    return "a layer's share is left out or computed from other values than those it applied"


def _in_float64(flow: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    try:
        exact = copy.deepcopy(flow).double()
        with torch.no_grad():
            exact(x.double())
    except Exception:  # a layer pinned to float32, or a module that cannot be copied
        return flow, x
    return exact, x.double()


def _dense_ladj(flow: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    z = flow(x)[0].flatten(1)
    rows = [torch.autograd.grad(z[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(z.shape[1])]
    return torch.linalg.slogdet(torch.stack(rows, 1).double())[1]


def _estimated_ladj(
    flow: nn.Module, x: Tensor, seed: int, probes: int = 6, steps: int = 30
) -> tuple[Tensor, Tensor]:
    """1/2 tr log(J^T J) of one sample by stochastic Lanczos quadrature: (estimate, possible error), each (1,).

    Source: Ubaru, Chen & Saad (2017). Six random directions, products with J and J^T by autograd only.
    """
    x = x.expand(probes, *x.shape[1:]).contiguous().requires_grad_()
    z = flow(x)[0].flatten(1)
    w = torch.zeros_like(z, requires_grad=True)
    back = torch.autograd.grad(z, x, w, create_graph=True)[0]  # J^T w, linear in w: its derivative is J

    def product(v: Tensor) -> Tensor:
        forward = torch.autograd.grad(back, w, v.view_as(back), retain_graph=True)[0]
        return torch.autograd.grad(z, x, forward, retain_graph=True)[0].flatten(1)

    d = z.shape[1]
    rng = torch.Generator(x.device).manual_seed(seed)
    v = torch.randint(0, 2, (probes, d), generator=rng, device=x.device).to(x.dtype) * 2 - 1
    v = v / math.sqrt(d)
    basis, alpha, beta = [v], [], []
    for _ in range(min(steps, d)):
        u = product(basis[-1])
        alpha.append((u * basis[-1]).sum(1))
        for q in basis:  # twice is enough: Gram-Schmidt against all
            u = u - (u * q).sum(1, keepdim=True) * q
        for q in basis:
            u = u - (u * q).sum(1, keepdim=True) * q
        norm = u.norm(dim=1)
        beta.append(norm)
        basis.append(u / norm.clamp_min(1e-30)[:, None])
    t = torch.diag_embed(torch.stack(alpha, 1).double())
    off = torch.stack(beta[:-1], 1).double()
    t = t + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)

    def after(k: int) -> Tensor:
        values, vectors = torch.linalg.eigh(t[:, :k, :k])
        return 0.5 * d * (vectors[:, 0].square() * values.clamp_min(1e-30).log()).sum(1)

    each = after(t.shape[1])
    # Gauss quadrature comes down to the logarithm from above: what the second half of the steps took off says how far
    drift = (after(max(1, t.shape[1] // 2)) - each).mean().abs()
    return each.mean()[None].cpu(), (5 * each.std() / math.sqrt(probes) + 3 * drift)[None].cpu()


def _floats(flow: nn.Module, x: Tensor) -> Tensor:
    tensor = next(flow.parameters(), None)
    tensor = next(flow.buffers(), None) if tensor is None else tensor
    x = x if tensor is None else x.to(tensor.device)
    return dequantise(x) if x.dtype == torch.uint8 else x


def _finite(log_px: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(log_px)
    if bad.any():
        raise ValueError(
            f"expected finite log-densities, got nan or inf for {bad.sum()} of {len(log_px)} samples (first: number "
            f"{bad.argmax()}); check the inputs, or train with a lower lr"
        )
    return log_px
