"""Local Lipschitz constants (Table 4): three quantities the paper's "gradient of the output" could mean.

For a vector-valued f the phrase has several readings, and they differ by orders of magnitude:

- `grad_sum_z`: norm of d(sum of z)/dx, what automatic differentiation gives for a vector output;
- `grad_logp`: norm of the gradient of log p_X, the sensitivity of the score;
- `spectral`: largest singular value of dz/dx, the only one that bounds |f(x) - f(x')| locally.

All are batched, one value per sample, in latent units per unit of x: with pixels in [0, 1], a step of one
grey level is 1/256 of it (`flow.dequantise`, A11). Samples are independent, so one backward pass serves a whole batch.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["grad_logp", "grad_sum_z", "spectral", "summarise"]


def grad_sum_z(f: Callable[[Tensor], Tensor], x: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """|| d(sum_i z_i)/dx ||_2 for each sample: the literal reading of section 3.1, step 2.

    Args:
        f: map x -> z, sample by sample (no batch statistics).
        x: float inputs, one sample per row.
    """
    return _gradient_norm(lambda v: f(v).flatten(1).sum(1), x)


def grad_logp(log_prob: Callable[[Tensor], Tensor], x: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """|| d log p_X(x)/dx ||_2 for each sample, in nats per unit of x.

    Args:
        log_prob: map x -> log p_X(x), shape (b,).
        x: float inputs, one sample per row.
    """
    return _gradient_norm(log_prob, x)


def spectral(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b ..."],
    *,
    iterations: int = 20,
    rng: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    """sigma_max(dz/dx) for each sample, by power iteration on J^T J.

    Give the inverse map and z instead to get 1 / sigma_min: the local constant of f^-1 (DECISIONS.md A31).

    Args:
        f: map x -> z, sample by sample.
        x: float inputs, one sample per row.
        iterations: 20 leave a median error well below 1 % on trained flows; the value only grows with more.
        rng: generator of the start direction, on the device of x; seeded with 0 when omitted.
    Returns:
        One value per sample; a lower bound that converges from below.
    Raises:
        ValueError: iterations < 1, or f returns a non-finite value.
    """
    if iterations < 1:
        raise ValueError(f"expected at least one iteration, got {iterations}")
    rng = rng if rng is not None else torch.Generator(x.device).manual_seed(0)
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        z = f(x)
        if not torch.isfinite(z).all():
            raise ValueError(
                "expected finite f(x), got nan or inf; check the flow on these inputs with flow.log_prob(x)"
            )
        # J^T u is linear in u, so its derivative by u in direction v is J v: both products come from two
        # graphs that are built once, whatever the number of iterations
        u = torch.zeros_like(z, requires_grad=True)
        (jtu,) = torch.autograd.grad(z, x, u, create_graph=True)
    v = _normalise(torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype))[0]
    sigma = x.new_zeros(len(x))
    for _ in range(iterations):
        (jv,) = torch.autograd.grad(jtu, u, v, retain_graph=True)
        direction, sigma = _normalise(jv)  # |J v| with |v| = 1
        (back,) = torch.autograd.grad(z, x, direction, retain_graph=True)
        v = _normalise(back)[0]
    return sigma


def summarise(norms: Float[Tensor, " b"]) -> dict[str, float]:
    """L_A of Table 4 is the maximum; it has a heavy tail over 1,000 samples, so median and 95 % come along."""
    if norms.numel() == 0:
        raise ValueError("expected at least one norm, got none")
    norms = norms.detach().double()
    return {
        "max": norms.max().item(),
        "median": norms.quantile(0.5).item(),  # Tensor.median takes the lower of two middle values
        "q95": norms.quantile(0.95).item(),
        "n": norms.numel(),
    }


def _gradient_norm(scalar: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        # the sum over samples has the per-sample gradients as its rows, because samples do not interact
        (grad,) = torch.autograd.grad(scalar(x).sum(), x)
    return grad.flatten(1).norm(dim=1)


def _normalise(v: Tensor) -> tuple[Tensor, Tensor]:
    norm = v.flatten(1).norm(dim=1)
    return v / norm.clamp_min(torch.finfo(v.dtype).tiny).view(-1, *[1] * (v.ndim - 1)), norm
