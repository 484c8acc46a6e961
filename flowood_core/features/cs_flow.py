"""CS-Flow: a flow on feature maps of several scales, whose couplings see all of them."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowood_core.features.backbones import Backbone
from flowood_core.features.map_flows import FeatureFlow, Maps, seeded

__all__ = ["CSFlow", "CrossScaleCoupling", "cs_flow"]

CS_SCALES = 3


class _CrossScale(nn.Module):
    """Three maps to three maps: a convolution each, then same-scale, coarser and finer neighbours are added.

    The last step is a factor per map that starts at 0, so that the coupling starts as the identity.
    """

    def __init__(self, c_in: int, c_out: int, hidden: int, kernel: int, slope: float = 0.1):
        super().__init__()
        self.slope = slope
        scales = range(CS_SCALES)
        self.first = nn.ModuleList(nn.Conv2d(c_in, hidden, kernel, padding="same") for _ in scales)
        self.same = nn.ModuleList(nn.Conv2d(hidden, c_out, kernel, padding="same") for _ in scales)
        up = nn.ModuleList(nn.Conv2d(hidden, c_out, kernel, padding="same") for _ in scales[1:])
        down = nn.ModuleList(
            nn.Conv2d(hidden, c_out, kernel, stride=2, padding=kernel // 2) for _ in scales[1:]
        )
        self.up, self.down = up, down
        self.gamma = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in scales)

    def forward(self, x: Maps) -> Maps:
        h = [F.leaky_relu(conv(m), self.slope) for conv, m in zip(self.first, x, strict=True)]
        out = [conv(m) for conv, m in zip(self.same, h, strict=True)]
        for k in range(CS_SCALES - 1):  # k is the finer of two neighbours
            coarse = F.interpolate(h[k + 1], size=h[k].shape[2:], mode="bilinear")
            out[k] = out[k] + self.up[k](coarse)
            out[k + 1] = out[k + 1] + self.down[k](h[k])
        return [m * g for m, g in zip(out, self.gamma, strict=True)]


class CrossScaleCoupling(nn.Module):
    """Permutation, then both halves in turn scaled and shifted, each by all scales of the other (CS-Flow).

    y1 = x1 exp(e(s2)) + t2 with (s2, t2) = subnet(x2), then y2 = x2 exp(e(s1)) + t1 with (s1, t1) = subnet(y1);
    e(s) = clamp 2/pi atan(s / clamp) bounds the log-scale (published with 0.636 for 2/pi).
    """

    def __init__(
        self, channels: int, hidden: int, kernel: int, permutations: Sequence[np.ndarray], clamp: float = 3.0
    ):
        super().__init__()
        self.c1, self.clamp = channels // 2, clamp
        c2 = channels - self.c1
        self.of_second = _CrossScale(c2, 2 * self.c1, hidden, kernel)
        self.of_first = _CrossScale(self.c1, 2 * c2, hidden, kernel)
        for k, p in enumerate(permutations):
            self.register_buffer(f"permutation_{k}", torch.from_numpy(np.asarray(p, np.int64)))

    def forward(self, x: Maps) -> tuple[Maps, Float[Tensor, " b"]]:
        """The transformed maps and log|det| per sample, in nats: of each sample alone, never of the batch."""
        x = [m.index_select(1, self._permutation(k)) for k, m in enumerate(x)]
        x1, x2 = [m[:, : self.c1] for m in x], [m[:, self.c1 :] for m in x]
        y1, ladj_1 = self._couple(x1, self.of_second(x2))
        y2, ladj_2 = self._couple(x2, self.of_first(y1))
        return [torch.cat(pair, 1) for pair in zip(y1, y2, strict=True)], ladj_1 + ladj_2

    def inverse(self, y: Maps) -> Maps:
        """x of `forward`: the second half first, with the shift that belongs to it."""
        y1, y2 = [m[:, : self.c1] for m in y], [m[:, self.c1 :] for m in y]
        x2 = self._uncouple(y2, self.of_first(y1))
        x1 = self._uncouple(y1, self.of_second(x2))
        x = [torch.cat(pair, 1) for pair in zip(x1, x2, strict=True)]
        return [m.index_select(1, self._permutation(k).argsort()) for k, m in enumerate(x)]

    def _permutation(self, k: int) -> Tensor:
        return self.get_buffer(f"permutation_{k}")

    def _log_scale(self, a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        a = a.to(x.dtype)  # under bfloat16 autocast only the subnets are rounded
        s, t = a.chunk(2, 1)
        if self.clamp == 0:
            return torch.zeros_like(s), t
        return self.clamp * (2 / math.pi) * torch.atan(s / self.clamp), t

    def _couple(self, x: Maps, a: Maps) -> tuple[Maps, Tensor]:
        out, ladj = [], x[0].new_zeros(len(x[0]))
        for m, of in zip(x, a, strict=True):
            log_scale, shift = self._log_scale(of, m)
            out.append(m * log_scale.exp() + shift)
            ladj = ladj + log_scale.flatten(1).sum(1)
        return out, ladj

    def _uncouple(self, y: Maps, a: Maps) -> Maps:
        pairs = [self._log_scale(of, m) for m, of in zip(y, a, strict=True)]
        return [(m - shift) * (-log_scale).exp() for m, (log_scale, shift) in zip(y, pairs, strict=True)]


class CSFlow(FeatureFlow):
    """CS-Flow (Rudolph et al. 2022): one flow over the features of the image at three scales.

    Args:
        backbone: gives three maps with equal channels, each half as wide as the one before (a pyramid).
        hidden: width of the cross-scale subnets; 1024 published, with 304 channels of EfficientNet-B5.
        kernels: one per coupling block; (3, 3, 3, 5) published.
        clamp: bound of the log-scales; 3 published. At 0 the couplings are additive and the determinant is constant.
    Raises:
        ValueError: the maps are not three, unequal in channels, or do not halve.
    Source: paper section 3.2; the published configuration in DECISIONS.md A23 and A25.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: int,
        *,
        hidden: int = 1024,
        kernels: Sequence[int] = (3, 3, 3, 5),
        clamp: float = 3.0,
        seed: int = 0,
    ):
        super().__init__(backbone, size)
        self._check_maps()
        for k, shape in enumerate(self.maps):
            self.register_buffer(f"mean_{k}", torch.zeros(1, *shape))
            self.register_buffer(f"sd_{k}", torch.ones(1, *shape))
        c = self.maps[0][0]
        with seeded(seed):
            rng = np.random.default_rng(seed)
            self.couplings = nn.ModuleList(
                CrossScaleCoupling(c, hidden, kernel, [rng.permutation(c) for _ in self.maps], clamp)
                for kernel in kernels
            )

    def _check_maps(self) -> None:
        shapes = self.maps
        halves = [a[1] == 2 * b[1] and a[2] == 2 * b[2] for a, b in itertools.pairwise(shapes)]
        if (
            len(shapes) != CS_SCALES
            or len({c for c, _, _ in shapes}) != 1
            or not all(halves)
            or shapes[0][0] < 2
        ):
            raise ValueError(
                "expected three maps with equal channels, each half the side of the one before, for CS-Flow, got "
                f"{shapes}; use a backbone that sees three scales (efficientnet_b5, squeezenet_pyramid)"
            )

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.couplings)

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "n 3 s s"], batch_size: int = 16) -> "CSFlow":
        """Measure mean and sd of every element on ID training images, by which features are standardised.

        Not published. The features of different networks and layers differ in scale by factors of hundreds, and
        the couplings' first steps with them. Per element rather than per channel: a convolution does not know
        where it is, and without the mean of the place bland images lie nearer to the mean than ID images do.
        """
        for k, (mean, sd) in enumerate(self._moments(x, batch_size, self.backbone)):
            self.get_buffer(f"mean_{k}").copy_(mean)
            self.get_buffer(f"sd_{k}").copy_(sd)
        return self

    def transform(self, features: Maps) -> tuple[Maps, Tensor]:
        z, ladj = features, features[0].new_zeros(len(features[0]))
        for block in self.couplings:
            z, one = block(z)
            ladj = ladj + one
        return z, ladj

    def invert(self, z: Maps) -> Maps:
        for block in reversed(self.couplings):
            z = block.inverse(z)
        return z

    def _map(self, z: Maps) -> Tensor:
        # z^2/2 per position, scales weighted by their number of positions: the mean of the map is the image score
        size, positions = (self.size, self.size), [m[0, 0].numel() for m in z]
        levels = [
            0.5 * m.square().mean(1, keepdim=True) * (n / sum(positions))
            for m, n in zip(z, positions, strict=True)
        ]
        return sum(F.interpolate(m, size=size, mode="nearest") for m in levels)[:, 0]

    def _score(self, z: Maps) -> Tensor:
        return 0.5 * torch.cat([m.flatten(1) for m in z], 1).square().mean(1)


def cs_flow(
    backbone: Backbone, size: int, *, blocks: int = 4, hidden: int = 1024, clamp: float = 3.0, seed: int = 0
) -> CSFlow:
    """CS-Flow as published: kernel 3 in all coupling blocks, 5 in the last."""
    if blocks < 1:
        raise ValueError(f"expected at least 1 coupling block, got {blocks}")
    return CSFlow(backbone, size, hidden=hidden, kernels=(*[3] * (blocks - 1), 5), clamp=clamp, seed=seed)
