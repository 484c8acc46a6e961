"""FastFlow and CS-Flow (section 3.2): flows on the feature maps of a frozen backbone.

Both take images in [0, 1] and have the interface of `flow.Flow`: z and log|det|, `log_densities`, `log_prob`. So
the one training loop trains them, with outliers made of images, before the backbone (DECISIONS.md A24). Beside
log p stands the image score that each model's authors published (A25), and the map it is made of.

log p is a density of the features, not of the images: its unit is that of the features, and the number of
dimensions is theirs.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from flowood_core.features.backbones import Backbone
from flowood_core.flow import dequantise, draw_permutations

__all__ = [
    "LABELS",
    "AllInOne",
    "CSFlow",
    "CrossScaleCoupling",
    "FastFlow",
    "FeatureBank",
    "FeatureFlow",
    "OnBank",
    "cs_flow",
    "fast_flow",
    "image_scores",
]

LABELS = {"fastflow": "FastFlow", "cs_flow": "CS-Flow"}

Maps = list[Float[Tensor, "b c h w"]]
CS_SCALES = 3
LEAST_SD = 0.25  # of the mean sd, added to each; with 0.1 the trained flow gave unseen ID images less log p


class FeatureFlow(nn.Module):
    """A density on the feature maps of images: x -> (z, ladj). What FastFlow and CS-Flow share.

    The backbone is no submodule: its frozen weights are neither trained nor stored with the flow's, but move to
    the same device and precision. Before the density, every element of CS-Flow's features is standardised by constants
    that `initialise` measures; they count as part of the backbone, so log p is a density of standardised features.

    Args:
        backbone: from `backbones.load`.
        size: side of the images in pixels.
    """

    def __init__(self, backbone: Backbone, size: int):
        super().__init__()
        self._frozen = [backbone]
        self.size, self.shape = size, (3, size, size)
        self.maps = backbone.shapes(size)
        for k, (c, _, _) in enumerate(self.maps):
            self.register_buffer(f"mean_{k}", torch.zeros(1, c, 1, 1))
            self.register_buffer(f"sd_{k}", torch.ones(1, c, 1, 1))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FeatureFlow":
        self.backbone._apply(fn)
        return super()._apply(fn, recurse)

    @property
    def backbone(self) -> Backbone:
        """The frozen network; see `backbones`."""
        return self._frozen[0]

    @property
    def d(self) -> int:
        """Number of dimensions of the features (and of z), all maps together."""
        return sum(math.prod(shape) for shape in self.maps)

    @property
    def blocks(self) -> list[nn.Module]:
        """The coupling blocks, in the order features pass them."""
        raise NotImplementedError

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters; the backbone has none."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def features(self, x: Float[Tensor, "b 3 s s"]) -> Maps:
        """Standardised feature maps of images in [0, 1], without gradient."""
        if x.ndim == 4 and tuple(x.shape[1:]) != self.shape:
            self.backbone.check(x)
            raise ValueError(
                f"expected images of {self.size} x {self.size}, got {tuple(x.shape)}; resize them"
            )
        if len(x) == 0:
            raise ValueError("expected at least one image, got an empty batch")
        with torch.autocast(x.device.type, enabled=False):
            maps = self.backbone(x)
        return [(m - self.get_buffer(f"mean_{k}")) / self.get_buffer(f"sd_{k}") for k, m in enumerate(maps)]

    def transform(self, features: Maps) -> tuple[Maps, Float[Tensor, " b"]]:
        """Latent maps and ladj = log|det dz/dfeatures| in nats, one value per sample."""
        raise NotImplementedError

    def invert(self, z: Maps) -> Maps:
        """What `transform` was given (for FastFlow: after the layer norm's standardisation)."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        """z, the latent maps flattened and joined, and ladj in nats."""
        z, ladj = self.transform(self.features(x))
        return torch.cat([m.flatten(1) for m in z], 1), ladj

    def log_densities(self, x: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """(log p_Z, log p of the features) in nats, constants included; eq. (4) and eq. (2)."""
        return self.log_densities_of_features(self.features(x))

    def log_densities_of_features(self, features: Maps) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The same for features that are already there."""
        z, ladj = self.transform(features)
        squares = sum(m.flatten(1).square().sum(1) for m in z)
        log_pz = -0.5 * (squares + self.d * math.log(2 * math.pi))  # N(0, I)
        return log_pz, log_pz + ladj  # change of variables, eq. (2)

    def log_prob(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, " b"]:
        """log p of the features of images, eq. (2), in nats."""
        return self.log_densities(x)[1]

    def score_maps(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b s s"]:
        """Anomaly map at the size of the image, of which the published score is the maximum (FastFlow) or the mean
        (CS-Flow). Higher means more OOD."""
        return self._map(self.transform(self.features(x))[0])

    def published_score(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, " b"]:
        """Image score of the model's authors. Higher means more OOD."""
        return self._score(self.transform(self.features(x))[0])

    def _map(self, z: Maps) -> Tensor:
        raise NotImplementedError

    def _score(self, z: Maps) -> Tensor:
        raise NotImplementedError

    def initialise(self, x: Float[Tensor, "n 3 s s"], batch_size: int = 16) -> "FeatureFlow":
        """Start from the mean and sd of every element on ID training images. Not published."""
        raise NotImplementedError

    @torch.no_grad()
    def _moments(
        self, x: Tensor, batch_size: int, maps_of: Callable[[Tensor], Maps]
    ) -> list[tuple[Tensor, Tensor]]:
        """Mean and sd of every element of each map over images; a part of the mean sd is added to each."""
        sums, squares = [0.0] * len(self.maps), [0.0] * len(self.maps)
        for part in x.split(batch_size):
            for k, m in enumerate(maps_of(part)):
                sums[k] = sums[k] + m.double().sum(0)
                squares[k] = squares[k] + m.double().square().sum(0)
        moments = []
        for total, square in zip(sums, squares, strict=True):
            mean = total / len(x)
            sd = (square / len(x) - mean.square()).clamp_min(0).sqrt()
            # an element that hardly ever fires would dominate all others
            moments.append((mean, (sd + LEAST_SD * sd.mean()).clamp_min(1e-6)))
        return moments

    def extra_repr(self) -> str:
        return (
            f"size={self.size}, maps={self.maps}, trainable={self.n_parameters:,}, on {self.backbone.label}"
        )


# --- FastFlow ------------------------------------------------------------------------------------------------


class AllInOne(nn.Module):
    """One AllInOneBlock on maps: affine coupling of the second half, global affine, hard permutation.

    With a = 0.1 subnet(x1), s = clamp tanh(a_s): y2 = x2 exp(s) + a_t; then per channel times
    0.1 softplus_{1/2}(g) plus an offset; then the permutation. The numbers are FrEIA 0.2's, but the permutation
    is an index: as a matrix, as there, it costs as much as the subnet at hundreds of channels.

    Args:
        channels: of the map; the last channels // 2 are transformed.
        subnet: (b, channels - channels // 2, h, w) -> (b, 2 (channels // 2), h, w).
        permutation: output channel k is channel permutation[k].
        clamp: bound of the log-scale; 2 in FastFlow.
    """

    def __init__(self, channels: int, subnet: nn.Module, permutation: np.ndarray, clamp: float = 2.0):
        super().__init__()
        self.n_transformed, self.clamp, self.subnet = channels // 2, clamp, subnet
        self.global_scale = nn.Parameter(torch.full((1, channels, 1, 1), 2 * math.log(math.expm1(5.0))))
        self.global_offset = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("permutation", torch.from_numpy(np.asarray(permutation, np.int64)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
        """y and log|det dy/dx| per sample, in nats."""
        x1, x2 = x[:, : -self.n_transformed], x[:, -self.n_transformed :]
        log_scale, shift = self._affine(x1)
        scale = self._scale()
        y = torch.cat([x1, x2 * log_scale.exp() + shift], 1) * scale + self.global_offset
        pixels = x.shape[2] * x.shape[3]
        ladj = log_scale.flatten(1).sum(1) + pixels * scale.log().sum()
        return y.index_select(1, self.permutation), ladj

    def inverse(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """x of `forward`."""
        x = y.index_select(1, self.permutation.argsort())
        x = (x - self.global_offset) / self._scale()
        x1, x2 = x[:, : -self.n_transformed], x[:, -self.n_transformed :]
        log_scale, shift = self._affine(x1)
        return torch.cat([x1, (x2 - shift) * (-log_scale).exp()], 1)

    def _affine(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        a = 0.1 * self.subnet(x1).to(x1.dtype)  # under bfloat16 autocast only the subnet is rounded
        return self.clamp * torch.tanh(a[:, : self.n_transformed]), a[:, self.n_transformed :]

    def _scale(self) -> Tensor:
        return 0.1 * F.softplus(self.global_scale, beta=0.5)


class FastFlow(FeatureFlow):
    """FastFlow (Yu et al. 2021): per map a layer norm and eight coupling blocks, maps independent of each other.

    The published layer norm over (c, h, w) has a trainable scale gamma per element, whose log-determinant the
    published loss leaves out; shrinking gamma then raises the "likelihood" of every image. Here ladj counts
    sum log|gamma|, so that log p is a density; `count_norm=False` is the published loss. The standardisation
    itself, by the sample's own mean and sd, is no bijection and belongs to the features.

    Args:
        hidden_ratio: width of the subnets relative to their input channels; 1 for ResNets, 0.16 for
            transformers in the paper.
        kernels: of the blocks in turn; (3, 1) for Wide-ResNet50-2, (3,) for ResNet18.
    Source: paper section 3.2; facts of the published configuration in DECISIONS.md A23 and A25.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: int,
        *,
        blocks: int = 8,
        hidden_ratio: float = 1.0,
        kernels: Sequence[int] = (3, 1),
        clamp: float = 2.0,
        count_norm: bool = True,
        seed: int = 0,
    ):
        super().__init__(backbone, size)
        self.count_norm = count_norm
        with _seeded(seed):
            self.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in self.maps)
            self.flows = nn.ModuleList(
                _fast_flow_blocks(c, blocks, hidden_ratio, kernels, clamp, np.random.default_rng([seed, k]))
                for k, (c, _, _) in enumerate(self.maps)
            )

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for flow in self.flows for block in flow]

    def normalised(self, features: Maps) -> Maps:
        """Each map with mean 0 and variance 1 over (c, h, w), before gamma and the blocks."""
        return [
            F.layer_norm(m, n.normalized_shape, eps=n.eps) for m, n in zip(features, self.norms, strict=True)
        ]

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "n 3 s s"], batch_size: int = 16) -> "FastFlow":
        """Start the layer norm's scale and shift where every element has mean 0 and about unit variance on ID images.

        Not published: there they start at 1 and 0, and a training of a few hundred steps hardly moves them. The
        layer norm standardises already, so features are not standardised before it.
        """
        moments = self._moments(x, batch_size, lambda part: self.normalised(self.features(part)))
        for norm, (mean, sd) in zip(self.norms, moments, strict=True):
            norm.weight.copy_(1 / sd)
            norm.bias.copy_(-mean / sd)
        return self

    def transform(self, features: Maps) -> tuple[Maps, Tensor]:
        return self.from_normalised(self.normalised(features))

    def from_normalised(self, features: Maps) -> tuple[Maps, Tensor]:
        """`transform` behind the standardisation: the bijection whose log-determinant ladj is."""
        z, ladj = [], features[0].new_zeros(len(features[0]))
        for h, norm, flow in zip(features, self.norms, self.flows, strict=True):
            h = h * norm.weight + norm.bias
            if self.count_norm:
                ladj = ladj + norm.weight.abs().log().sum()
            for block in flow:
                h, one = block(h)
                ladj = ladj + one
            z.append(h)
        return z, ladj

    def invert(self, z: Maps) -> Maps:
        features = []
        for h, norm, flow in zip(z, self.norms, self.flows, strict=True):
            for block in reversed(flow):
                h = block.inverse(h)
            features.append((h - norm.bias) / norm.weight)
        return features

    def _map(self, z: Maps) -> Tensor:
        # mean over maps of -exp(-1/2 mean over channels of z^2): near -1 where likely, near 0 where not
        levels = [-torch.exp(-0.5 * m.square().mean(1, keepdim=True)) for m in z]
        size = (self.size, self.size)
        return torch.cat([F.interpolate(m, size=size, mode="bilinear") for m in levels], 1).mean(1)

    def _score(self, z: Maps) -> Tensor:
        return self._map(z).flatten(1).amax(1)


def _fast_flow_blocks(
    c: int, blocks: int, ratio: float, kernels: Sequence[int], clamp: float, rng: np.random.Generator
) -> nn.ModuleList:
    permutations = draw_permutations(c, blocks, rng)
    hidden = max(1, int((c - c // 2) * ratio))

    def subnet(kernel: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(c - c // 2, hidden, kernel, padding="same"),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * (c // 2), kernel, padding="same"),
        )

    return nn.ModuleList(
        AllInOne(c, subnet(kernels[k % len(kernels)]), p, clamp) for k, p in enumerate(permutations)
    )


# --- CS-Flow -------------------------------------------------------------------------------------------------


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
        with _seeded(seed):
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


def fast_flow(
    backbone: Backbone, size: int, *, blocks: int = 8, hidden_ratio: float = 1.0, seed: int = 0
) -> FastFlow:
    """FastFlow as published for the backbone: kernels 3, 1, 3, 1 ..., and 3 alone for ResNet18."""
    kernels = (3,) if backbone.name.startswith("resnet18") else (3, 1)
    return FastFlow(backbone, size, blocks=blocks, hidden_ratio=hidden_ratio, kernels=kernels, seed=seed)


def cs_flow(
    backbone: Backbone, size: int, *, blocks: int = 4, hidden: int = 1024, clamp: float = 3.0, seed: int = 0
) -> CSFlow:
    """CS-Flow as published: kernel 3 in all coupling blocks, 5 in the last."""
    if blocks < 1:
        raise ValueError(f"expected at least 1 coupling block, got {blocks}")
    return CSFlow(backbone, size, hidden=hidden, kernels=(*[3] * (blocks - 1), 5), clamp=clamp, seed=seed)


# --- frozen outliers -----------------------------------------------------------------------------------------


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


@torch.inference_mode()
def image_scores(
    flow: FeatureFlow, x: UInt8[Tensor, "n 3 s s"], *, batch_size: int = 16
) -> dict[str, np.ndarray]:
    """log_pz, log_px (nats) and the published score of many images in one pass of the backbone, as float64.

    Raises:
        ValueError: nan or infinity for an image; says for how many and which comes first.
    """
    device = next(flow.parameters()).device
    parts = []
    for part in x.split(batch_size):
        z, ladj = flow.transform(flow.features(dequantise(part.to(device))))
        log_pz = -0.5 * (sum(m.flatten(1).square().sum(1) for m in z) + flow.d * math.log(2 * math.pi))
        parts.append(torch.stack([log_pz, log_pz + ladj, flow._score(z)]).double().cpu())
    every = torch.cat(parts, 1).numpy()
    bad = ~np.isfinite(every).all(0)
    if bad.any():
        raise ValueError(
            f"expected finite scores, got nan or inf for {bad.sum()} of {len(x)} images (first: number "
            f"{bad.argmax()}); check the images, or train with a lower lr"
        )
    return dict(zip(("log_pz", "log_px", "published"), every, strict=True))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Weights drawn from a seed of their own: nobody's global random state is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
