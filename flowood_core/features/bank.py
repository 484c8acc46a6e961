"""Features of images and of stored outliers, computed once, so that training never runs the backbone again (A24)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from flowood_core.features.map_flows import FeatureFlow, Maps
from flowood_core.flow import dequantise

__all__ = ["FeatureBank", "OnBank"]


class FeatureBank:
    """Features of every ID image and of K outliers of each, made once: another method, labelled so.

    Exact training draws a new outlier each time and runs the backbone on it. Here each image has K outliers for
    the whole training, and the image no dequantisation noise; the backbone then runs 1 + K times per image in all.
    Features are kept in half precision (relative error 5e-4), standardised as the flow wants them.

    Args:
        flow: whose features; initialise it first.
        x: ID images.
        outliers: ``(x, partner, *, rng) -> x_out``, or None for none.
        k: outliers per image.
        seed: of outliers and partners.
    """

    def __init__(
        self,
        flow: FeatureFlow,
        x: UInt8[Tensor, "n 3 s s"],
        outliers: Callable[..., Tensor] | None,
        k: int,
        *,
        seed: int = 0,
        batch_size: int = 16,
    ):
        if k < 1:
            raise ValueError(
                f"expected at least one frozen outlier per image, got {k}; 0 of a run means exact"
            )
        self.n, self.k = len(x), k
        self.shape = tuple(x.shape[1:])
        levels = [list(self._features(flow, x, batch_size))]
        rng = torch.Generator(x.device).manual_seed(seed)
        for _ in range(k if outliers is not None else 0):
            partner = (torch.arange(len(x), device=x.device) + torch.randint(
                1, max(len(x), 2), (len(x),), generator=rng, device=x.device)) % len(x)  # fmt: skip
            parts = [
                outliers(x.index_select(0, i), x.index_select(0, partner.index_select(0, i)), rng=rng)
                for i in torch.arange(len(x), device=x.device).split(batch_size)
            ]
            levels.append(list(self._features(flow, torch.cat(parts), batch_size)))
        self.maps = [torch.cat([level[m] for level in levels]) for m in range(len(flow.maps))]

    @staticmethod
    def _features(flow: FeatureFlow, x: Tensor, batch_size: int) -> Iterator[Tensor]:
        with torch.no_grad():
            parts = [flow.features(dequantise(part)) for part in x.split(batch_size)]
        return (torch.cat([part[m].half() for part in parts]) for m in range(len(flow.maps)))

    def indices(self) -> Int[Tensor, "n 3 s s"]:
        """What stands for the images in `train.fit`: the number of each, repeated to the shape of an image.

        The loss is divided by the number of values per sample; this keeps it the images', as in exact training.
        """
        numbers = torch.arange(self.n, dtype=torch.int32, device=self.maps[0].device)
        return numbers.view(-1, 1, 1, 1).expand(-1, *self.shape)

    def outliers(self, x: Tensor, partner: Tensor | None = None, *, rng: torch.Generator) -> Tensor:
        """The number of one of the K outliers of each image."""
        draw = torch.randint(1, self.k + 1, (len(x), 1, 1, 1), generator=rng, device=x.device, dtype=x.dtype)
        return x + draw * self.n

    def take(self, index: Int[Tensor, "b ..."], dtype: torch.dtype) -> Maps:
        """Features by number."""
        number = index.flatten(1)[:, 0].long()
        return [m.index_select(0, number).to(dtype) for m in self.maps]


class OnBank:
    """A feature flow that is trained on numbers of a bank instead of images; everything else is the flow's own."""

    def __init__(self, flow: FeatureFlow, bank: FeatureBank):
        self.flow, self.bank = flow, bank

    def __getattr__(self, name: str) -> Any:
        return getattr(self.flow, name)

    def log_prob(self, index: Int[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """log p of the features with these numbers, in nats."""
        dtype = next(self.flow.parameters()).dtype
        return self.flow.log_densities_of_features(self.bank.take(index, dtype))[1]
