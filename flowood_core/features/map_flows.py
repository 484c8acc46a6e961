"""FastFlow and CS-Flow (section 3.2): flows on the feature maps of a frozen backbone.

Both take images in [0, 1] and have the interface of `flow.Flow`: z and log|det|, `log_densities`, `log_prob`. So
the one training loop trains them, with outliers made of images, before the backbone (DECISIONS.md A24). Beside
log p stands the image score that each model's authors published (A25), and the map it is made of.

log p is a density of the features, not of the images: its unit is that of the features, and the number of
dimensions is theirs.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from flowood_core.features.backbones import Backbone
from flowood_core.flow import dequantise, draw_permutations

__all__ = [
    "LABELS",
    "AllInOne",
    "FastFlow",
    "FeatureFlow",
    "fast_flow",
    "image_scores",
    "seeded",
]

LABELS = {"fastflow": "FastFlow", "cs_flow": "CS-Flow"}

Maps = list[Float[Tensor, "b c h w"]]
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
        with seeded(seed):
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


def fast_flow(
    backbone: Backbone, size: int, *, blocks: int = 8, hidden_ratio: float = 1.0, seed: int = 0
) -> FastFlow:
    """FastFlow as published for the backbone: kernels 3, 1, 3, 1 ..., and 3 alone for ResNet18."""
    kernels = (3,) if backbone.name.startswith("resnet18") else (3, 1)
    return FastFlow(backbone, size, blocks=blocks, hidden_ratio=hidden_ratio, kernels=kernels, seed=seed)


# --- frozen outliers -----------------------------------------------------------------------------------------


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
def seeded(seed: int) -> Iterator[None]:
    """Weights drawn from a seed of their own: nobody's global random state is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
