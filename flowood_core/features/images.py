"""Image features: a frozen pretrained network by name, and vectors of images that are computed once.

Beside the text encoders of `encoders`. A simple picture has a short feature vector, so that a density on raw features
calls it likely as a density on pixels does; divided by its length it loses that advantage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowood_core.features import backbones, efficientnet_lite
from flowood_core.system import paths
from flowood_core.system.cache import RowCache
from flowood_core.system.progress import track

__all__ = ["NAMES", "ImageEncoder", "unit"]

SIZE = 128
BATCH_SIZE = 16  # fits a processor's cache: 32 took a fifth longer
IMAGES_PER_SHARD = 512  # what a killed call can lose
PRECISIONS = ("float32", "bfloat16")
NAMES = (*efficientnet_lite.BLOCKS, *backbones.CLASSIFIERS, "squeezenet", "untrained")


class ImageEncoder:
    """Pooled features of images from a frozen network.

    Args:
        name: out of `NAMES`; ``:untrained`` behind a network's name asks for random, seeded weights. For
            EfficientNet-Lite and torchvision's networks the features are those before the classifier; for
            ``squeezenet`` and ``untrained`` the mean of each map of `backbones.load`. A path to a file of weights of an
            EfficientNet-Lite is taken as well.
        size: side in pixels to which an image is brought, the whole of it, bilinearly.
        unit: divide each vector by its length.
        precision: "float32", or "bfloat16" in the products. On a processor without instructions for it bfloat16 is
            ten times slower, and the features differ in the third digit; hence never chosen unasked.
        batch_size: images that go through the network at once.
    Raises:
        ValueError: an unknown name or precision, or no size that the network can take.
        MissingWeights, BackboneError: the weights are not to be had; says how to get them.
    """

    def __init__(
        self,
        name: str = "efficientnet_lite0",
        *,
        size: int = SIZE,
        unit: bool = True,
        precision: str = "float32",
        batch_size: int = BATCH_SIZE,
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"expected a precision of {' or '.join(PRECISIONS)}, got {precision!r}")
        if size < 32 or batch_size < 1:
            raise ValueError(
                f"expected a size of 32 pixels or more and batches of 1 or more, got {size}, {batch_size}"
            )
        self.name, self.size, self.unit, self.precision, self.batch_size = (
            name,
            size,
            unit,
            precision,
            batch_size,
        )
        self._pooled, self._net, self.label, self.sha256 = _network(name)
        with torch.inference_mode():
            self.d: int = self._features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1]
        self._cache = RowCache(paths.outputs_root() / ".cache" / f"features-{self._key()}", x=(self.d,))

    def to(self, device: Any) -> ImageEncoder:
        """Compute there from now on."""
        self._net.to(device)
        return self

    def encode(self, x: Tensor, *, label: str = "images") -> np.ndarray:
        """Vectors of the images, in their order.

        What was computed before is read from below the outputs folder, by the bytes of the image; what is new is
        written there every few hundred images, and a killed call continues there.

        Args:
            x: uint8 (n, c, h, w) with one channel or three; a grey one is repeated.
            label: shown with the progress.
        Returns:
            float32 (n, d); of length one where `unit` (a zero vector stays zero).
        Raises:
            TypeError, ValueError: not 8-bit images of one or three channels.
        """
        _check(x)
        keys = [
            hashlib.sha256(repr(tuple(one.shape)).encode() + one.numpy().tobytes()).digest()
            for one in x.cpu()
        ]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        known = self._cache.find(first)
        waiting = [(key, i) for key, i in first.items() if key not in known]
        with track(len(first), f"encoding {label}", len(known)) as progress, torch.inference_mode():
            for start in range(0, len(waiting), IMAGES_PER_SHARD):
                shard = waiting[start : start + IMAGES_PER_SHARD]
                known |= self._cache.add(list(self._computed(x, shard, progress.update)))
        found = np.stack([known[key][0] for key in keys]) if keys else np.empty((0, self.d), np.float32)
        return unit(found) if self.unit else found

    def facts(self) -> dict[str, Any]:
        """What a run records about its features; two encoders with the same facts give the same vectors."""
        return {
            "encoder": self.name, "label": self.label, "d": self.d, "size": self.size, "unit": self.unit,
            "precision": self.precision, "sha256_of_weights": self.sha256,
        }  # fmt: skip

    def _computed(self, x: Tensor, shard: Sequence[tuple[bytes, int]], done: Callable[[int], None]):
        for start in range(0, len(shard), self.batch_size):
            part = shard[start : start + self.batch_size]
            rows = self._features(x[[i for _, i in part]]).float().cpu().numpy()
            yield from ((key, row) for (key, _), row in zip(part, rows, strict=True))
            done(len(part))

    def _features(self, x: Tensor) -> Tensor:
        device = next(self._net.parameters()).device
        x = x.to(device).float().expand(-1, 3, -1, -1)
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self._pooled(x)

    def _key(self) -> str:
        # not the unit norm: it is taken afterwards
        made_by = [1, self.name.partition(":")[0], self.sha256, self.size, self.precision]
        return hashlib.sha256(repr(made_by).encode()).hexdigest()[:24]


def unit(x: np.ndarray) -> np.ndarray:
    """Each row divided by its Euclidean length; a zero row stays zero. Float (n, d)."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _network(name: str) -> tuple[Callable[[Tensor], Tensor], nn.Module, str, str]:
    """(bytes as floats (b, 3, s, s) -> features (b, d), the module in it, its label, hash of its weights)."""
    kind, _, option = name.partition(":")
    if kind in efficientnet_lite.BLOCKS or Path(name).suffix == ".pth":
        net, label = _lite(name, kind, option)
        sha256 = backbones.sha256_of(net)
        net = net.folded().requires_grad_(False).to(memory_format=torch.channels_last)
        return lambda x: net.pooled(efficientnet_lite.normalised(x)), net, label, sha256
    if kind in backbones.CLASSIFIERS:
        net, label = backbones.classifier(name)
        return lambda x: net(backbones.imagenet(x)), net, label, backbones.sha256_of(net)
    if kind not in NAMES:
        raise ValueError(f"expected an image encoder out of {', '.join(NAMES)}, or a .pth file, got {name!r}")
    backbone = backbones.load(name)
    return lambda x: _means(backbone((x + 0.5) / 256)), backbone, backbone.label, backbone.sha256


def _lite(name: str, kind: str, option: str) -> tuple[efficientnet_lite.EfficientNetLite, str]:
    if kind not in efficientnet_lite.BLOCKS:
        net = efficientnet_lite.from_file(Path(name).expanduser())
        return net, f"{net.name}, weights from a file"
    if option not in ("", "untrained"):
        raise ValueError(f"expected {kind} or {kind}:untrained, got {name!r}")
    if option:
        return efficientnet_lite.untrained(kind), f"{kind}, untrained"
    return efficientnet_lite.pretrained(kind), f"{kind}, ImageNet-trained"


def _means(maps: list[Tensor]) -> Tensor:
    return torch.cat([m.mean((2, 3)) for m in maps], 1)


def _check(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.dtype != torch.uint8:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"expected images as a uint8 tensor 0..255, got {got}")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"expected images (n, c, h, w) with one channel or three, got {tuple(x.shape)}")
