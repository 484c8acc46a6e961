"""Outliers x' for rows of features or tables, which have no pixels to cut and nothing to blur. Ours, not the paper's.

Callables ``(x, partner, *, rng) -> x_out`` on floats (b, d), as those on images are. They know nothing of your
columns: where you know what a wrong row looks like, write that as a function and give it instead.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Pool", "mixup_rows", "rows", "swap_columns"]

Rows = Float[Tensor, "b d"]


def swap_columns(x: Rows, partner: Rows, *, rng: torch.Generator) -> Rows:
    """Each column from the row or from its partner, by a fair coin: every value is real, their combination is not."""
    coin = torch.rand(x.shape, generator=rng, device=x.device) < 0.5
    return torch.where(coin, x, partner)


def mixup_rows(x: Rows, partner: Rows, *, rng: torch.Generator) -> Rows:
    """MixUp, lambda x + (1 - lambda) partner with lambda ~ U(0, 1): between the groups of the data."""
    lam = torch.rand((len(x), *[1] * (x.ndim - 1)), generator=rng, device=x.device, dtype=x.dtype)
    return torch.lerp(partner, x, lam)


def rows(x: Rows, partner: Rows, *, rng: torch.Generator) -> Rows:
    """`swap_columns` or `mixup_rows`, one of the two for each row with equal probability.

    >>> x = torch.arange(8.0).view(4, 2)
    >>> rows(x, x.flip(0), rng=torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """
    coin = torch.rand((len(x), *[1] * (x.ndim - 1)), generator=rng, device=x.device) < 0.5
    swapped, mixed = swap_columns(x, partner, rng=rng), mixup_rows(x, partner, rng=rng)
    return torch.where(coin, swapped, mixed)


class Pool:
    """Outliers drawn, with replacement, from samples made beforehand: encoded degraded texts, simulated faults.

    Args:
        samples: shaped and typed like the ID samples.
    """

    def __init__(self, samples: Tensor):
        if len(samples) == 0:
            raise ValueError("expected at least one outlier in the pool, got none")
        self.samples = samples

    def __call__(self, x: Tensor, partner: Tensor | None = None, *, rng: torch.Generator) -> Tensor:
        if self.samples.shape[1:] != x.shape[1:] or self.samples.dtype != x.dtype:
            raise ValueError(
                f"expected outliers like the ID samples, {tuple(x.shape[1:])} of {x.dtype}, got "
                f"{tuple(self.samples.shape[1:])} of {self.samples.dtype}; prepare both in the same way"
            )
        index = torch.randint(len(self.samples), (len(x),), generator=rng, device=x.device)
        return self.samples.to(x.device)[index]
