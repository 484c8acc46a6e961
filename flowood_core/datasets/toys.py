"""Moons and circles of Appendix A: points, outliers, and the regions in which Fig. 2 is read."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from sklearn.datasets import make_circles, make_moons
from torch import Tensor

__all__ = ["Circles", "Grid", "Moons"]

Points = Float[Tensor, "n 2"]


@dataclasses.dataclass(frozen=True)
class Moons:
    """Two half circles.

    Args:
        noise: standard deviation about the curve; the paper names none.
        reject: outliers nearer to a moon than so many noises are drawn again; 0 is Appendix A.
    """

    noise: float = 0.05
    reject: float = 0.0
    box: ClassVar[tuple[float, float, float, float]] = (-1.75, 2.75, -1.5, 2.0)

    def points(self, n: int, seed: int) -> Points:
        return torch.from_numpy(make_moons(n, noise=self.noise, random_state=seed)[0]).float()

    def outliers(self, x: Points, partner: None = None, *, rng: torch.Generator) -> Points:
        """Uniform on (-0.5, 1.5)^2, without what is nearer to a moon than `reject` times the noise."""
        drawn = 2 * torch.rand((4 * len(x) + 64, 2), generator=rng) - 0.5
        return drawn[to_moon(drawn) >= self.reject * self.noise][: len(x)]

    def regions(self, x: Points) -> dict[str, Bool[Tensor, " n"]]:
        """The gaps in the square of the outliers, and all gaps beyond it; a gap is three noises from both moons."""
        gap, square = to_moon(x) > 3 * self.noise, ((x > -0.5) & (x < 1.5)).all(1)
        return {"gaps": gap & square, "beyond": gap & ~square}


@dataclasses.dataclass(frozen=True)
class Circles:
    """Two circles of radius 0.5 and 1."""

    noise: float = 0.05
    box: ClassVar[tuple[float, float, float, float]] = (-1.75, 1.75, -1.75, 1.75)

    def points(self, n: int, seed: int) -> Points:
        made, _ = make_circles(n, factor=0.5, noise=self.noise, random_state=seed)
        return torch.from_numpy(made).float()

    def outliers(self, x: Points, partner: None = None, *, rng: torch.Generator) -> Points:
        """Half from the square (-0.3, 0.3)^2, half from the ring of radius 0.6 to 0.9."""
        u, coin = torch.rand((len(x), 2), generator=rng), torch.rand((len(x), 1), generator=rng)
        radius, angle = 0.6 + 0.3 * u[:, 0], 2 * math.pi * u[:, 1]
        ring = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
        return torch.where(coin < 0.5, 0.6 * u - 0.3, ring)

    def regions(self, x: Points) -> dict[str, Bool[Tensor, " n"]]:
        """The centre and the ring of the outliers, and what lies outside both circles by three noises."""
        radius = x.norm(dim=1)
        ring, beyond = (radius > 0.6) & (radius < 0.9), radius > 1 + 3 * self.noise
        return {"centre": x.abs().amax(1) < 0.3, "ring": ring, "beyond": beyond}


def to_moon(x: Points) -> Float[Tensor, " n"]:
    """Distance of each point from the nearer moon without noise."""
    return torch.cdist(x, _curve()).amin(1)


@functools.cache
def _curve() -> Points:
    return torch.from_numpy(make_moons(400)[0]).float()


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cells of a box in the plane, (x_1 from, to, x_2 from, to), on which a density is drawn and integrated."""

    box: tuple[float, float, float, float]
    spacing: float

    @functools.cached_property
    def centres(self) -> Points:
        """Centres of the cells, row by row from below."""
        a, b, c, d = self.box
        return torch.cartesian_prod(self._axis(c, d), self._axis(a, b)).flip(1)

    @property
    def rows(self) -> int:
        return len(self._axis(*self.box[2:]))

    @property
    def area(self) -> float:
        """Of one cell."""
        return self.spacing**2

    def _axis(self, low: float, high: float) -> Float[Tensor, " k"]:
        return low + self.spacing * (torch.arange(round((high - low) / self.spacing)) + 0.5)

    def share(self, sample: Callable[[int, torch.Generator], Points], seed: int, n: int = 20_000) -> float:
        """Share of n samples that fall into the box."""
        a, b, c, d = self.box
        x, y = sample(n, torch.Generator().manual_seed(seed)).T
        return ((x > a) & (x < b) & (y > c) & (y < d)).float().mean().item()
