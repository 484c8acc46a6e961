"""Frozen feature extractors: images to a list of feature maps, on which FastFlow and CS-Flow put their density.

A backbone is never trained and belongs to no flow's weights. Its weights are looked up below ``models/`` of
the data root and in torchvision's cache, and fetched by torchvision where there is a network. Without weights
nothing is made up: an untrained backbone has to be asked for by name and says so in `Backbone.label`, which
stands beside every number.
"""

import hashlib
import itertools
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowood_core.features import efficientnet_lite
from flowood_core.features.encoders import MissingWeights
from flowood_core.system import paths

__all__ = ["CLASSIFIERS", "NAMES", "Backbone", "BackboneError", "classifier", "imagenet", "load", "sha256_of"]

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (104.0, 117.0, 123.0)
SQUEEZENET_FILE = "squeezenet1_0_imagenet.npz"
FIRE = {2: (96, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128), 6: (256, 48, 192),
        7: (384, 48, 192), 8: (384, 64, 256), 9: (512, 64, 256)}  # fmt: skip
FIRE_STRIDE = {2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8, 9: 16}
PYRAMID = 3  # input scales 1, 1/2, 1/4


class BackboneError(RuntimeError):
    """A backbone is unknown, or its weights are not to be had; the message says what to do."""


class Backbone(nn.Module):
    """Images in [0, 1] to feature maps; frozen, in eval mode, without gradients.

    Args:
        net: (b, 3, h, w), normalised -> list of maps.
        name: as given to `load`.
        label: what stands beside every number: architecture, and what its weights are.
        normalise: bytes 0..255 as floats -> input of `net`.
        multiple, least: sides of the input are multiples of the first, and not below the second.
        pyramid: the network sees the image at three scales, 1, 1/2 and 1/4, and gives one map each.
        resample: maps of a pyramid are brought to side / resample, and half and a quarter of it, because
            unpadded convolutions leave sides such as 31, 15, 7.
        sha256: of the weights as their file has them, where `net` holds them in another form; None hashes `net`.
    """

    def __init__(
        self,
        net: Callable[[Tensor], list[Tensor]],
        *,
        name: str,
        label: str,
        normalise: Callable[[Tensor], Tensor],
        multiple: int,
        least: int,
        pyramid: bool = False,
        resample: int | None = None,
        sha256: str | None = None,
    ):
        super().__init__()
        self._sha256 = sha256
        self.net, self.name, self.label, self.normalise = net, name, label, normalise
        self.multiple, self.least, self.pyramid, self.resample = multiple, least, pyramid, resample
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in eval mode: its batch statistics are part of the features."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "b 3 s s"]) -> list[Float[Tensor, "b c h w"]]:
        """Feature maps, finest first.

        Args:
            x: images in [0, 1], as `flow.dequantise` makes them: a byte u is (u + 1/2) / 256.
        Raises:
            TypeError: bytes, which have to be dequantised first.
            ValueError: wrong shape, or a size the network cannot take; names the next that it can.
        """
        self.check(x)
        x = 256 * x - 0.5
        if not self.pyramid:
            return self.net(self.normalise(x))
        maps = []
        for k in range(PYRAMID):
            small = x if k == 0 else F.interpolate(x, scale_factor=0.5**k, mode="bilinear", antialias=True)
            (found,) = self.net(self.normalise(small))
            if self.resample is not None:
                side = x.shape[-1] // (self.resample * 2**k)
                found = F.interpolate(found, size=(side, side), mode="bilinear", antialias=True)
            maps.append(found)
        return maps

    def shapes(self, size: int) -> list[tuple[int, int, int]]:
        """(c, h, w) of each map for square images of this size."""
        p = next(self.parameters())
        return [
            tuple(m.shape[1:]) for m in self(torch.zeros(1, 3, size, size, dtype=p.dtype, device=p.device))
        ]

    def check(self, x: Tensor) -> None:
        """Refuse what the network cannot take, by name."""
        if not torch.is_floating_point(x):
            raise TypeError(
                f"expected floats in [0, 1], got {x.dtype}; bytes go through flow.dequantise(x) first"
            )
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3]:
            raise ValueError(
                f"expected square colour images (b, 3, s, s), got {tuple(x.shape)}; repeat a grey channel three times"
            )
        s = x.shape[-1]
        if s < self.least or s % self.multiple:
            fits = max(self.least, -(-s // self.multiple) * self.multiple)
            raise ValueError(
                f"expected images whose side is a multiple of {self.multiple} and at least {self.least} for "
                f"{self.name}, got {s}; the next valid size is {fits}"
            )

    @property
    def sha256(self) -> str:
        """Hash of the weights: tells whether two runs stood on the same features."""
        return self._sha256 or sha256_of(self)

    def facts(self) -> dict[str, object]:
        """What a run records about its backbone."""
        return {"name": self.name, "label": self.label, "sha256": self.sha256}


def sha256_of(net: nn.Module) -> str:
    """Hash of the names and values of a module's weights."""
    h = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        h.update(name.encode())
        h.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return h.hexdigest()


def load(name: str) -> Backbone:
    """A backbone by name, with an option behind a colon.

    Args:
        name: one of `NAMES`. ``:untrained`` behind a torchvision or EfficientNet-Lite name asks for random, seeded
            weights; ``:fire5+fire9`` behind a SqueezeNet chooses its layers (one layer for ``squeezenet_pyramid``),
            ``:stage3+stage5`` behind an EfficientNet-Lite its stages (one for a pyramid).
    Raises:
        BackboneError: no such backbone, or no weights for it; lists where they were looked for.
    """
    kind, _, option = name.partition(":")
    if kind not in _MAKERS:
        raise BackboneError(f"expected a backbone out of {', '.join(NAMES)}, got {name!r}")
    return _MAKERS[kind](name, kind, option)


# --- torchvision ---------------------------------------------------------------------------------------------


class _Stages(nn.Module):
    """Stem, then stages; the outputs of the last `wanted` of them. What lies behind them is never built in."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module]):
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _torchvision(name: str, kind: str, option: str) -> Backbone:
    net, label = _torchvision_net(name, kind, option)
    if kind == "efficientnet_b5":
        return Backbone(
            _Stages(nn.Identity(), [net.features[:7]]), name=name, label=label, normalise=imagenet,
            multiple=128, least=128, pyramid=True,
        )  # fmt: skip
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    stages = _Stages(stem, [net.layer1, net.layer2, net.layer3])  # layer4 costs a fifth and is not used
    return Backbone(stages, name=name, label=label, normalise=imagenet, multiple=32, least=32)


def classifier(name: str) -> tuple[nn.Module, str]:
    """A network of torchvision without its last layer: (b, 3, s, s), see `imagenet`, to features (b, d); its label.

    Args:
        name: out of `CLASSIFIERS`; ``:untrained`` behind it asks for random, seeded weights.
    Raises:
        BackboneError: no such network, or no weights for it.
    """
    kind, _, option = name.partition(":")
    if kind not in CLASSIFIERS:
        raise BackboneError(f"expected a network out of {', '.join(CLASSIFIERS)}, got {name!r}")
    net, label = _torchvision_net(name, kind, option)
    setattr(net, "classifier" if kind.startswith("efficientnet") else "fc", nn.Flatten())
    return net.requires_grad_(False).eval(), label


def _torchvision_net(name: str, kind: str, option: str) -> tuple[nn.Module, str]:
    from torchvision import models

    if option not in ("", "untrained"):
        raise BackboneError(f"expected {kind} or {kind}:untrained, got {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = models.get_model(kind, weights=None)
    if option:
        return net, f"{kind}, untrained backbone"
    weights = models.get_model_weights(kind).DEFAULT
    if kind in ("resnet18", "wide_resnet50_2"):
        weights = models.get_model_weights(kind).IMAGENET1K_V1  # the weights of the papers' time
    net.load_state_dict(_torchvision_state(kind, weights))
    return net, f"{kind}, ImageNet-trained ({weights.name})"


def _torchvision_state(kind: str, weights: object) -> dict[str, Tensor]:
    filename = weights.url.rsplit("/", 1)[-1]
    own = [root / "models" / filename for root in paths.data_roots()]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / filename
    found = next((p for p in (*own, cached) if p.is_file()), None)
    why = "no network is used (FLOWOOD_OFFLINE)"
    try:
        if found is not None:
            return torch.load(found, map_location="cpu", weights_only=True)
        if not paths.is_offline():
            return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        why = f"{type(error).__name__}: {error}"
    tried = "\n".join(f"  no usable {p}" for p in (*own, cached))
    raise BackboneError(
        f"expected the ImageNet weights of {kind}, and could not get them: {why}\n{tried}\nWhat to do, one of:\n"
        f"  1. put {filename} from {weights.url} into models/ of FLOWOOD_DATA;\n"
        "  2. run where torchvision can download it;\n"
        f"  3. ask for backbone {kind}:untrained; every number will be labelled so, and none compares to the paper's."
    )


def imagenet(x: Tensor) -> Tensor:
    """Bytes 0..255, as floats, to the input of torchvision's networks."""
    mean, sd = (x.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_SD))
    return (x / 255 - mean) / sd


# --- SqueezeNet v1.0 -----------------------------------------------------------------------------------------


class _Fire(nn.Module):
    """Squeeze to few channels, expand by 1x1 and 3x3 convolutions, both rectified."""

    def __init__(self, c_in: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class _SqueezeNet(nn.Module):
    """Iandola et al. (2016), version 1.0, up to the last wanted fire module."""

    def __init__(self, wanted: Sequence[int]):
        super().__init__()
        self.wanted = tuple(wanted)
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        for n, widths in FIRE.items():
            if n <= max(wanted):
                setattr(self, f"fire{n}", _Fire(*widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = _pool(F.relu(self.conv1(x)))
        for n in range(2, max(self.wanted) + 1):
            x = getattr(self, f"fire{n}")(x)
            if n in self.wanted:
                maps.append(x)
            if n in (4, 8):
                x = _pool(x)
        return maps


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)


def _squeezenet(name: str, kind: str, option: str) -> Backbone:
    pyramid = kind == "squeezenet_pyramid"
    chosen = option or ("fire8" if pyramid else "fire4+fire8+fire9")
    known = {f"fire{n}": n for n in FIRE}
    wanted = [known.get(layer) for layer in chosen.split("+")]
    if None in wanted or sorted(set(wanted)) != wanted or (pyramid and len(wanted) != 1):
        raise BackboneError(
            f"expected {'one layer' if pyramid else 'layers in ascending order, joined by +,'} out of "
            f"{', '.join(known)} behind {kind}:, got {option!r}"
        )
    net = _SqueezeNet(wanted)
    tried = [root / "models" / SQUEEZENET_FILE for root in paths.data_roots()]
    found = next((p for p in tried if p.is_file()), None)
    if found is None:
        raise BackboneError(
            f"expected the weights of SqueezeNet at {' or '.join(map(str, tried))}, found none; copy "
            f"{SQUEEZENET_FILE} there or point FLOWOOD_DATA at a root that has it, or choose the backbone untrained"
        )
    try:
        with np.load(found, allow_pickle=False) as arrays:
            state = {key: torch.from_numpy(arrays[key]) for key in net.state_dict()}
        net.load_state_dict(state)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise BackboneError(
            f"expected whole weights of SqueezeNet v1.0 in {found}, got {type(error).__name__}: {error}; "
            "copy the file again"
        ) from error
    return Backbone(
        net, name=name, label=f"SqueezeNet v1.0 {chosen}, ImageNet-trained", normalise=_caffe,
        # a quarter of the image must still pass both pools
        multiple=32 if pyramid else 2, least=128 if pyramid else 32, pyramid=pyramid,
        resample=FIRE_STRIDE[wanted[0]] if pyramid else None,
    )  # fmt: skip


def _caffe(x: Tensor) -> Tensor:
    return x.flip(1) - x.new_tensor(CAFFE_MEAN_BGR).view(1, 3, 1, 1)


# --- EfficientNet-Lite ---------------------------------------------------------------------------------------


class _LiteMaps(nn.Module):
    """Outputs of chosen stages of an EfficientNet-Lite; the head and the classifier are left out."""

    def __init__(self, net: efficientnet_lite.EfficientNetLite, stages: Sequence[int]):
        super().__init__()
        self.net, self.stages = net, tuple(stages)
        del net._conv_head, net._bn1, net._fc

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.net.maps(x, last=max(self.stages))
        return [maps[stage - 1] for stage in self.stages]


def _lite(name: str, kind: str, option: str) -> Backbone:
    pyramid, kind = kind.endswith("_pyramid"), kind.removesuffix("_pyramid")
    chosen, is_untrained = option.removesuffix("untrained").rstrip("+"), option.endswith("untrained")
    chosen = chosen or ("stage5" if pyramid else "stage3+stage5+stage7")
    known = {f"stage{n}": n for n in efficientnet_lite.STRIDE}
    stages = [known.get(stage) for stage in chosen.split("+")]
    if None in stages or sorted(set(stages)) != stages or (pyramid and len(stages) != 1):
        raise BackboneError(
            f"expected {'one stage' if pyramid else 'stages in ascending order, joined by +,'} out of "
            f"{', '.join(known)} behind {kind}:, or untrained, got {option!r}"
        )
    try:
        net = (efficientnet_lite.untrained if is_untrained else efficientnet_lite.pretrained)(kind)
    except MissingWeights as error:
        raise BackboneError(str(error)) from error
    sha256, net = sha256_of(net), net.folded().to(memory_format=torch.channels_last)
    stride = efficientnet_lite.STRIDE[stages[-1]]
    return Backbone(
        _LiteMaps(net, stages), name=name,
        label=f"{kind} {chosen}, {'untrained backbone' if is_untrained else 'ImageNet-trained'}",
        normalise=efficientnet_lite.normalised, multiple=4 * stride if pyramid else stride,
        least=4 * stride if pyramid else 32, pyramid=pyramid, sha256=sha256,
    )  # fmt: skip


# --- untrained -----------------------------------------------------------------------------------------------


def _untrained(name: str, kind: str, option: str) -> Backbone:
    """Small seeded random convolutions: for tests and for the quick profile, on images from 32 pixels on."""
    if option:
        raise BackboneError(f"expected {kind} without an option, got {name!r}")
    pyramid = kind == "untrained_pyramid"
    widths = (3, 12, 16) if pyramid else (3, 8, 12, 16)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        convs = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.Tanh())
            for a, b in itertools.pairwise(widths)
        ]
    for conv in convs:
        nn.init.orthogonal_(conv[0].weight, generator=torch.Generator().manual_seed(1))
    net = _Stages(nn.Identity(), [nn.Sequential(*convs)] if pyramid else convs)
    return Backbone(
        net, name=name, label="random convolutions, untrained backbone", normalise=imagenet,
        multiple=16 if pyramid else 8, least=16, pyramid=pyramid,
    )  # fmt: skip


_MAKERS: dict[str, Callable[[str, str, str], Backbone]] = {
    "wide_resnet50_2": _torchvision,
    "resnet18": _torchvision,
    "efficientnet_b5": _torchvision,
    "squeezenet": _squeezenet,
    "squeezenet_pyramid": _squeezenet,
    **{f"{name}{suffix}": _lite for name in efficientnet_lite.BLOCKS for suffix in ("", "_pyramid")},
    "untrained": _untrained,
    "untrained_pyramid": _untrained,
}
NAMES = tuple(_MAKERS)
CLASSIFIERS = ("resnet18", "resnet50", "wide_resnet50_2", *(f"efficientnet_b{n}" for n in range(6)))
"""Networks of torchvision whose features before the last layer `classifier` gives."""
