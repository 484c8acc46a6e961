"""Is this a density? What a flow says of its log-determinant, against what autograd sees. Used by `adapt.check_flow`.

A log-determinant that is missing, summed over the batch or plainly wrong trains without a complaint and detects
nothing: a few samples are enough to find out before.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["DENSE", "Density", "FlowError", "evaluated", "measured"]

DENSE = 128  # dimensions up to which the whole Jacobian is formed


class FlowError(ValueError):
    """A flow is no density: its log-determinant is missing, misshapen or wrong; says what the likely mistake is."""


class Density(Protocol):
    """What is checked. x comes as floats, in the units the flow is given them."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, ladj)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_X."""

    def modules(self) -> Iterator[nn.Module]:
        """As in torch."""

    def eval(self) -> Any:
        """As in torch."""


@contextlib.contextmanager
def evaluated(flow: Density) -> Iterator[None]:
    """The flow in eval mode; afterwards every module is in the mode it was in, also a layer that was frozen alone."""
    modes = [(module, module.training) for module in flow.modules()]
    flow.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def measured(flow: Density, x: Tensor, *, has_latent: bool, on_features: bool, seed: int) -> dict[str, Any]:
    """Shapes, independence of the batch, and the log-determinant against autograd; see `adapt.check_flow`.

    Args:
        flow: `flow.Flow`, or an `adapt.Adapted`, whose answers are looked at before its own scaling hides their shape.
        x: floats, two samples or more.
        has_latent: there is a z, hence a determinant.
        on_features: z has the dimensions of features of x, not those of x.
    Raises:
        FlowError: with what was expected, what came and the likely mistake.
    """
    with evaluated(flow):
        d = x[0].numel()
        if has_latent:
            _check_pair(flow, x, None if on_features else d)
        _check_log_px(flow, x)
        found: dict[str, Any] = {"n": len(x), "d": d}
        if not has_latent:
            return found | {"determinant": "not visible", "gap": math.nan}
        if on_features:
            return found | {"determinant": "on features", "gap": math.nan}
        return found | _check_determinant(flow, x, d, seed)


def _check_pair(flow: Density, x: Tensor, d: int | None) -> None:
    b = len(x)
    with torch.no_grad():
        z, ladj = _raw_pair(flow, x)
        one = _raw_pair(flow, x[:1])[1]
    shape = tuple(ladj.shape)
    if shape != (b,):
        raise FlowError(
            f"expected one log-det per sample, shaped ({b},), got {shape}: {_why_shape(shape, b, x)}"
        )
    if len(z) != b or d not in (None, z[0].numel()):
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


def _raw_pair(flow: Density, x: Tensor) -> tuple[Tensor, Tensor]:
    # without the scaling of x, which would broadcast a scalar log-det into a good shape
    return getattr(flow, "unscaled_pair", flow)(x)


def _total(flow: Density, x: Tensor) -> float:
    with torch.no_grad():
        return sum(_raw_pair(flow, x[k : k + 1])[1].sum().item() for k in range(len(x)))


def _check_log_px(flow: Density, x: Tensor) -> None:
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


def _raw_log_px(flow: Density, x: Tensor) -> Tensor:
    return getattr(flow, "unscaled_log_px", flow.log_prob)(x)


def _why_shape(shape: tuple[int, ...], b: int, x: Tensor) -> str:
    if shape in ((), (1,)):
        return "it is summed or averaged over the batch: sum over all dimensions but the first"
    if shape == (b, 1):
        return "a column: squeeze(1)"
    if shape[:1] == (b,):
        more = "; or the flow takes rows (b, d): as_flow(..., flatten=True)" if x.ndim > 2 else ""
        return f"it is not yet summed over the dimensions of a sample: flatten(1).sum(1){more}"
    return "the first dimension must be that of the batch"


def _check_determinant(flow: Density, x: Tensor, d: int, seed: int) -> dict[str, Any]:
    """ladj against the Jacobian that autograd sees."""
    k = min(3, len(x))
    exact, x = _in_float64(flow, x[:k])
    try:
        with torch.no_grad():
            said = exact(x)[1].double()
        if d <= DENSE:
            seen, error = _dense_ladj(exact, x), torch.zeros(k, dtype=torch.float64, device=x.device)
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


def _in_float64(flow: Density, x: Tensor) -> tuple[Density, Tensor]:
    try:
        exact = copy.deepcopy(flow).double()
        with torch.no_grad():
            exact(x.double())
    except Exception:  # a layer pinned to float32, or a module that cannot be copied
        return flow, x
    return exact, x.double()


def _dense_ladj(flow: Density, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    z = flow(x)[0].flatten(1)
    rows = [torch.autograd.grad(z[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(z.shape[1])]
    return torch.linalg.slogdet(torch.stack(rows, 1).double())[1]


def _estimated_ladj(
    flow: Density, x: Tensor, seed: int, probes: int = 6, steps: int = 30
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
    return each.mean()[None], (5 * each.std() / math.sqrt(probes) + 3 * drift)[None]
