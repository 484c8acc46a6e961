"""Hypothesis 1, eq. (1): epsilon^2 / L_A^2 (1 - P(B)) <= C_1 exp(C(x)), its parts evaluated on a flow.

The left side is what Chebyshev's inequality leaves of a spread. Let f be L-Lipschitz, z = f(x), and z' = f(x') a
second draw. Outside the ball, epsilon <= |z' - z| <= L |x' - x|, so

    epsilon^2 / L^2 (1 - P(B)) <= E |x' - x|^2 =: M(x)                                    (our first step)
    M(x) <= C_1 exp(C(x))                                                                 (what is left to claim)

The first step is a theorem wherever L bounds f between x and every x'; here it is checked by quadrature. The second is
a statement about images.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

__all__ = ["ball_mass", "jacobian_norm", "left_side", "outside_and_spread", "spread"]


def ball_mass(radius: ArrayLike, epsilon: ArrayLike, d: int) -> np.ndarray:
    """P(B): mass of the ball of radius epsilon about z under the standard normal in d dimensions.

    |z' - z|^2 has the noncentral chi-square distribution with d degrees of freedom and noncentrality |z|^2.

    Args:
        radius: |z|, broadcast against epsilon.
        epsilon: radius of the ball, latent units.
        d: dimensions of the latent space.
    """
    return stats.ncx2.cdf(np.square(epsilon), d, np.square(radius))


def left_side(epsilon: ArrayLike, mass: ArrayLike, constant: ArrayLike) -> np.ndarray:
    """epsilon^2 / L_A^2 (1 - P(B)), in squared units of x; a lower bound of C_1 exp(C(x)) if eq. (1) holds."""
    return np.square(np.asarray(epsilon) / constant) * (1 - np.asarray(mass))


def spread(x: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " n"]:
    """M(x) = E |x' - x|^2 with x' drawn from samples: the squared distance to their mean plus their variance."""
    mean = samples.mean(0)
    return np.square(x - mean).sum(1) + np.square(samples - mean).sum(1).mean()


def outside_and_spread(
    x: Float[np.ndarray, "n d"],
    z: Float[np.ndarray, "n d"],
    cells: tuple[np.ndarray, np.ndarray, np.ndarray],
    epsilon: Float[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
    """1 - P(B) and M(x) by quadrature over the same cells, so that Chebyshev's step compares like with like.

    Args:
        x, z: points and their latents.
        cells: x' and z' = f(x'), shaped (m, d), and the mass p(x') dx' of each cell.
        epsilon: radii of the ball, rising.
    Returns:
        Mass of the cells outside the ball of each radius about each z; M(x) over the cells.
    """
    x_cell, z_cell, mass = cells
    outside, spreads = [], []
    for x_one, z_one in zip(x, z, strict=True):
        away = np.linalg.norm(z_cell - z_one, axis=1)
        near_first = np.argsort(away)
        within = np.concatenate([[0.0], np.cumsum(mass[near_first])])
        outside.append(within[-1] - within[np.searchsorted(away[near_first], epsilon)])
        spreads.append(mass @ np.square(x_cell - x_one).sum(1))
    return np.stack(outside), np.array(spreads)


def jacobian_norm(f, x: Float[Tensor, "n d"]) -> Float[np.ndarray, " n"]:
    """sigma_max(dz/dx) from the whole Jacobian, for few dimensions; `lipschitz.spectral` is for many.

    Args:
        f: map x -> z, sample by sample.
    """
    x = x.detach().requires_grad_(True)
    z = f(x)
    rows = [torch.autograd.grad(z[:, k].sum(), x, retain_graph=True)[0] for k in range(z.shape[1])]
    return torch.linalg.matrix_norm(torch.stack(rows, 1), ord=2).detach().double().numpy()
