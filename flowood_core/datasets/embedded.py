"""Images that come inside installed packages: what the quick profile trains and tests on."""

import functools

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowood_core.datasets.sets import ImageSet, MissingData, complexity_of

__all__ = ["CROPS_BPD", "EMBEDDED", "SIDE", "embedded"]

SIDE = 32

TILE = 64  # photographs are cut into tiles; a crop never crosses the border of its tile

STRIDE = 5

CROPS_BPD = {  # crops are sorted into sets by their complexity, as the paper orders its sets by theirs
    "photo": (6.5, 8.5),  # walls, leaves, tiles; CIFAR-10 has 6.7
    "smooth": (0.0, 5.0),  # sky, out-of-focus background; SVHN has 5.0
    "aliased": (8.0, 99.0),  # iSUN has 8.2
}

EMBEDDED = {
    "photo": "textured 32x32 crops of scikit-learn's two photographs (complex; the ID set of the quick profile)",
    "enlarged": "the middle of photo crops enlarged by 2, as by a digital zoom (simpler than photo, same content)",
    "smooth": "smooth 32x32 crops of the same photographs: sky and out-of-focus background (simple)",
    "digits": "scikit-learn's handwritten digits, 8x8 enlarged to 32x32, grey as RGB (simple)",
    "aliased": "textured crops after naive subsampling by 2, as iSUN was made (more complex than photo)",
}


@functools.lru_cache(maxsize=16)
def embedded(name: str, split: str) -> ImageSet:
    """A set made from images inside installed packages; train and test come from disjoint image regions."""
    if name not in EMBEDDED:
        raise MissingData(f"expected one of the embedded sets {', '.join(EMBEDDED)}, got {name!r}")
    x = {"digits": _digits, "enlarged": _enlarged}.get(name, lambda split: _crops(name, split))(split)
    return ImageSet(name, split, x, EMBEDDED[name])


def _digits(split: str) -> Tensor:
    from sklearn.datasets import load_digits

    small = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    large = np.stack(
        [np.asarray(Image.fromarray(a).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for a in small]
    )
    x = torch.from_numpy(large)[:, None].repeat(1, 3, 1, 1)
    return x[:797] if split == "train" else x[797:]


def _enlarged(split: str) -> Tensor:
    quarter = SIDE // 4
    middle = embedded("photo", split).x[:, :, quarter:-quarter, quarter:-quarter]
    return torch.stack([_resized(image) for image in middle])


def _resized(image: Tensor) -> Tensor:
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    large = np.array(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return torch.from_numpy(large).permute(2, 0, 1)


def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


def _crops(name: str, split: str) -> Tensor:
    """Windows that lie inside the tiles of one split, so that train and test share no pixel."""
    crops = []
    for image in _photographs():
        # naive subsampling, no smoothing: this is what makes iSUN complex. Four phases, four images
        views = [image[i::2, j::2] for i in (0, 1) for j in (0, 1)] if name == "aliased" else [image]
        for view in views:
            for row, column in np.ndindex(view.shape[0] // TILE, view.shape[1] // TILE):
                if ((row + 2 * column) % 4 == 0) != (split == "test"):
                    continue  # every fourth tile tests, spread over the photograph
                tile = view[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
                windows = np.lib.stride_tricks.sliding_window_view(tile, (SIDE, SIDE), axis=(0, 1))
                crops.append(windows[::STRIDE, ::STRIDE].reshape(-1, 3, SIDE, SIDE))
    x = torch.from_numpy(np.concatenate(crops))
    bpd = complexity_of(x)
    low, high = CROPS_BPD[name]
    keep = (bpd >= low) & (bpd < high)
    # neighbouring windows share pixels: shuffle once, so that the first n are spread over the photographs
    order = torch.from_numpy(np.random.default_rng(0).permutation(int(keep.sum())))
    return x[keep][order]
