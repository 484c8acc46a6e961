"""The simple battery: images of every complexity below and above ID, made from ID images and from nothing.

A detector that is to be safe from simple images has to be shown simple images, and of more kinds than it was trained
against. Each kind here has a name, a family, and a generator that is pure in a seed; `battery_table` prints
how well a score tells each from ID, beside its complexity and what complexity alone would do.
"""

from __future__ import annotations

import dataclasses
import io
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from PIL import Image, ImageFilter
from torch import Tensor

from flowood_core import datasets, metrics
from flowood_core.anyflow import adapt
from flowood_core.complexity import image_complexity
from flowood_core.outliers import image

__all__ = ["KINDS", "Kind", "battery", "battery_table", "is_made_by", "kinds_for"]

EQUAL = 0.5  # of the standard deviation of C(x) on ID: mean complexities nearer than that count as equal

Make = Callable[[Tensor, torch.Generator], Tensor]
"""(x, rng) -> images: uint8 (n, c, h, w) both; what is made from nothing takes shape and number only."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of image.

    Attributes:
        name: unique, for code.
        label: as printed.
        family: kinds that differ in a parameter alone share it.
        make: its generator.
        in_colour: exists for images of three channels only.
    """

    name: str
    label: str
    family: str
    make: Make
    in_colour: bool = False


# --- from nothing --------------------------------------------------------------------------------------------


def _constant(x: Tensor, rng: torch.Generator) -> Tensor:
    """One colour."""
    return _colours(x, rng).to(torch.uint8).expand(x.shape).clone()


def _linear_gradient(x: Tensor, rng: torch.Generator) -> Tensor:
    """From one colour to another across the image, in any direction."""
    across, down = _grid(x)
    angle = 2 * math.pi * torch.rand(len(x), 1, 1, 1, generator=rng)
    distance = across * angle.cos() + down * angle.sin()
    low, high = distance.amin((2, 3), keepdim=True), distance.amax((2, 3), keepdim=True)
    return _between(x, rng, (distance - low) / (high - low).clamp(min=1e-6))


def _radial_gradient(x: Tensor, rng: torch.Generator) -> Tensor:
    """From one colour at a point of the image to another farthest from it."""
    across, down = _grid(x)
    left, top = torch.rand(2, len(x), 1, 1, 1, generator=rng)
    distance = ((across - left) ** 2 + (down - top) ** 2).sqrt()
    return _between(x, rng, distance / distance.amax((2, 3), keepdim=True).clamp(min=1e-6))


def _stripes(period: int) -> Make:
    """Two colours in turn, along one of the axes, with any phase; the period in pixels holds one stripe of each."""

    def make(x: Tensor, rng: torch.Generator) -> Tensor:
        row, column = _cells(x, period, rng)
        upright = torch.randint(2, (len(x), 1, 1, 1), generator=rng, dtype=torch.bool)
        return _two_colours(x, rng, torch.where(upright, column, row))

    return make


def _checkerboard(period: int) -> Make:
    """Two colours in squares of half the period."""

    def make(x: Tensor, rng: torch.Generator) -> Tensor:
        row, column = _cells(x, period, rng)
        return _two_colours(x, rng, row ^ column)

    return make


def _noise(x: Tensor, rng: torch.Generator) -> Tensor:
    """Every value uniform."""
    return torch.randint(256, x.shape, generator=rng, dtype=torch.uint8)


def _cells(x: Tensor, period: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whether a pixel lies in the second half of its period, along the rows and along the columns."""
    *_, h, w = x.shape
    row, column = (torch.arange(n) + torch.randint(period, (len(x), 1), generator=rng) for n in (h, w))
    row, column = (2 * (place % period) >= period for place in (row, column))
    return row[:, None, :, None].expand(-1, 1, h, w), column[:, None, None, :].expand(-1, 1, h, w)


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Place of each pixel in units of the image's sides: from the left, and from the top."""
    *_, h, w = x.shape
    across, down = ((torch.arange(n) + 0.5) / n for n in (w, h))
    return across.expand(1, 1, h, w), down[:, None].expand(1, 1, h, w)


def _colours(x: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randint(256, (*x.shape[:2], 1, 1), generator=rng).float()


def _between(x: Tensor, rng: torch.Generator, share: Tensor) -> Tensor:
    first, second = _colours(x, rng), _colours(x, rng)
    return _bytes(first + (second - first) * share)


def _two_colours(x: Tensor, rng: torch.Generator, which: Tensor) -> Tensor:
    first, second = _colours(x, rng), _colours(x, rng)
    return torch.where(which, second, first).to(torch.uint8)


# --- from ID images ------------------------------------------------------------------------------------------


def _smooth_crop(x: Tensor, rng: torch.Generator) -> Tensor:
    """The smoothest window of a quarter of the side, enlarged to the whole image."""
    *_, h, w = x.shape
    size = max(h // 4, 1), max(w // 4, 1)
    values = x.double()
    variance = (F.avg_pool2d(values**2, size, 1) - F.avg_pool2d(values, size, 1) ** 2).sum(1)
    place = variance.flatten(1).argmin(1)
    columns = variance.shape[-1]
    return _enlarged(x, place // columns, place % columns, size)


def _magnified(factor: int) -> Make:
    """A window of 1 / factor of the side, anywhere, enlarged to the whole image."""

    def make(x: Tensor, rng: torch.Generator) -> Tensor:
        *_, h, w = x.shape
        size = max(h // factor, 1), max(w // factor, 1)
        top, left = (
            torch.randint(n - s + 1, (len(x),), generator=rng) for n, s in zip((h, w), size, strict=True)
        )
        return _enlarged(x, top, left, size)

    return make


def _enlarged(x: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """A window of each image, enlarged to the whole of it by Pillow's cubic interpolation."""
    *_, h, w = x.shape
    places = zip(left.tolist(), top.tolist(), strict=True)

    def window(picture: Image.Image) -> Image.Image:
        left, top = next(places)
        return picture.resize((w, h), Image.Resampling.BICUBIC, (left, top, left + size[1], top + size[0]))

    return _by_pillow(x, window)


def _blurred(radius: float) -> Make:
    """Pillow's Gaussian blur."""
    return lambda x, rng: image.gaussian_blur(x, radius)


def _resampled(factor: int, mode: str) -> Make:
    """Averaged down to 1 / factor of the side, and up again."""

    def make(x: Tensor, rng: torch.Generator) -> Tensor:
        *_, h, w = x.shape
        small = F.interpolate(x.float(), size=(max(h // factor, 1), max(w // factor, 1)), mode="area")
        return _bytes(F.interpolate(small, size=(h, w), mode=mode))

    return make


def _jpeg(quality: int) -> Make:
    """Saved as JPEG by Pillow and read again."""

    def again(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return lambda x, rng: _by_pillow(x, again)


def _median(size: int) -> Make:
    """Median of a square of pixels, channel by channel."""
    return lambda x, rng: _by_pillow(x, lambda picture: picture.filter(ImageFilter.MedianFilter(size)))


def _saturation(share: float) -> Make:
    """Colours drawn towards grey; `share` is what is left of their distance from it."""

    def make(x: Tensor, rng: torch.Generator) -> Tensor:
        grey = (x.double() * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)).sum(1)
        grey = grey.round()[:, None]
        return _bytes(grey + share * (x - grey))

    return make


def _contrast(share: float) -> Make:
    """Drawn towards the mean colour of the image."""

    def make(x: Tensor, rng: torch.Generator) -> Tensor:
        mean = x.float().mean((2, 3), keepdim=True)
        return _bytes(mean + share * (x - mean))

    return make


def _posterised(levels: int) -> Make:
    """Each value put to the middle of one of so many equal intervals."""
    width = 256 // levels
    return lambda x, rng: (x // width * width + width // 2).to(torch.uint8)


def _salt_and_pepper(x: Tensor, rng: torch.Generator) -> Tensor:
    """A tenth of the pixels black or white."""
    u = torch.rand(len(x), 1, *x.shape[2:], generator=rng)
    return torch.where(u < 0.05, 0, torch.where(u < 0.1, 255, x)).to(torch.uint8)


def _aliased(x: Tensor, rng: torch.Generator) -> Tensor:
    """Four images side by side and below each other, of which every second pixel is kept: nothing is averaged."""
    others = [x[torch.randperm(len(x), generator=rng)] for _ in range(3)]
    rows = torch.cat([x, others[0]], 3), torch.cat([others[1], others[2]], 3)
    return torch.cat(rows, 2)[..., ::2, ::2].contiguous()


def _by_pillow(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pictures = x.permute(0, 2, 3, 1).contiguous().numpy()
    made = [np.asarray(change(Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p))) for p in pictures]
    return torch.from_numpy(np.stack(made)).view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2).contiguous()


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


# --- the battery ---------------------------------------------------------------------------------------------

KINDS: tuple[Kind, ...] = (
    Kind("constant", "one colour", "constant", _constant),
    Kind("linear_gradient", "linear gradients", "gradient", _linear_gradient),
    Kind("radial_gradient", "radial gradients", "gradient", _radial_gradient),
    *(Kind(f"stripes_{p}", f"stripes of {p} pixels", "pattern", _stripes(p)) for p in (2, 4, 8, 16)),
    *(Kind(f"checkerboard_{p}", f"checkerboard of {p} pixels", "pattern", _checkerboard(p)) for p in (2, 4, 8)),
    Kind("smooth_crop", "smoothest crops, enlarged", "magnified", _smooth_crop),
    *(Kind(f"magnified_{k}", f"patches magnified {k} times", "magnified", _magnified(k)) for k in (2, 4, 8)),
    *(Kind(f"blur_{r:g}", f"blur of radius {r:g}", "blur", _blurred(r)) for r in (0.5, 1, 2, 4, 8, 16)),
    *(Kind(f"resampled_{k}", f"down and up by {k}", "resampled", _resampled(k, "bilinear")) for k in (2, 4, 8, 16)),
    *(Kind(f"nearest_{k}", f"down and up by {k}, nearest", "nearest", _resampled(k, "nearest")) for k in (2, 4, 8, 16)),
    *(Kind(f"jpeg_{q}", f"JPEG of quality {q}", "jpeg", _jpeg(q)) for q in (10, 20, 30, 40, 50)),
    Kind("grey", "grey", "colour", _saturation(0.0), in_colour=True),
    Kind("half_saturated", "half saturated", "colour", _saturation(0.5), in_colour=True),
    *(Kind(f"contrast_{s:g}", f"contrast times {s:g}", "contrast", _contrast(s)) for s in (0.1, 0.3)),
    *(Kind(f"median_{s}", f"median of {s} x {s}", "median", _median(s)) for s in (3, 5)),
    *(Kind(f"posterised_{n}", f"posterised to {n} levels", "posterised", _posterised(n)) for n in (2, 4, 8)),
    Kind("noise", "uniform noise", "noise", _noise),
    Kind("salt_and_pepper", "salt and pepper", "noise", _salt_and_pepper),
    Kind("aliased", "aliased", "aliased", _aliased),
)  # fmt: skip
"""All kinds, roughly from simple to complex."""

MADE_BY: dict[str, tuple[str, ...]] = {
    "gaussian": ("blur_1",),
    "ccm_gaussian": ("blur_1",),
    "ccm_simplify": ("blur_1", "blur_2", "resampled_2", "contrast_0.3"),
    "ccm_graded": ("constant", "blur", "magnified", "resampled", "contrast", "colour", "jpeg"),
}
"""Names and families that an outlier function makes, to the eye if not to the bit."""


def is_made_by(kind: Kind, outliers: str | None) -> bool:
    """Whether a training with these outliers, by name, has seen the kind. Strangers have seen none."""
    return bool({kind.name, kind.family} & set(MADE_BY.get(outliers or "", ())))


def kinds_for(x: Tensor) -> list[Kind]:
    """The kinds that exist for images like these: without colour none is taken away."""
    return [kind for kind in KINDS if x.shape[1] == 3 or not kind.in_colour]


def battery(x: Tensor, *, seed: int = 0, kinds: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Images of each kind, one for every ID image.

    Args:
        x: 8-bit ID images (n, c, h, w) of any size, c = 1 or 3; none that were trained on.
        seed: of all draws. Each kind has its own stream: what one makes does not depend on the others.
        kinds: names to make; None makes all that fit.
    Returns:
        name: uint8 images, shaped like x, on the CPU.
    Raises:
        TypeError, ValueError: x is no batch of 8-bit images with one or three channels; an unknown name.
    """
    image.partner_of(x, x)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"expected grey or colour images, (n, 1 or 3, h, w), got {tuple(x.shape)}")
    possible = {kind.name: kind for kind in kinds_for(x)}
    names = list(possible) if kinds is None else list(kinds)
    if unknown := [name for name in names if name not in possible]:
        raise ValueError(f"expected kinds among {', '.join(possible)}, got {', '.join(map(str, unknown))}")
    return {name: possible[name].make(x.cpu(), _stream(seed, name)) for name in names}


def _stream(seed: int, name: str) -> torch.Generator:
    key = np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(key >> np.uint64(1)))


def battery_table(
    detector: Any,
    x_id: Tensor,
    *,
    outliers: str | None = None,
    more: Mapping[str, Tensor] | None = None,
    kinds: Iterable[str] | None = None,
    seed: int = 0,
    n_boot: int = 1000,
    workers: int | str = 1,
) -> pd.DataFrame:
    """How well a score tells each kind of the battery from ID, beside complexity alone.

    Args:
        detector: something with `ood_score` (`Detector`), a flow (scores eq. (4) "pz" and -log p_X "px"; without z the
            second only), or a function of uint8 images: one score each, or several by name. Higher = more OOD.
        x_id: 8-bit ID images (n, c, h, w) that training has not seen. They stand for ID, and the battery is made of
            them.
        outliers: name of the outlier function of the training, which says what it has seen; see `is_made_by`.
        more: other images by name, of the same shape; marked as unseen.
        kinds, seed: as in `battery`.
        n_boot: redraws of the intervals. They speak of the choice of test images, not of the seed of a training.
        workers: processes for C(x).
    Returns:
        One row per score and kind, from simple to complex: score, kind, label, family, seen; n; complexity and
        complexity_colour, mean C(x) in bits per dimension without and with the colour transform (equal on grey
        images); side: "simple" or "complex" where either differs from that of ID by more than EQUAL standard
        deviations (simple goes first), else "equal"; auroc, low, high, and complexity_only, that of -C, in percent.
    Raises:
        TypeError, ValueError: as in `battery`; scores that are not one per image.
    """
    sets = _kept(x_id, seed, kinds) | dict(more or {})
    described = {kind.name: kind for kind in KINDS}
    scores_of = _scores_of(detector)
    of_id, c_id = scores_of(x_id), _complexities(x_id, workers)
    rng, rows = np.random.default_rng(seed), []
    for name, x in sets.items():
        kind = described.get(name) or Kind(name, name.replace("_", " "), "other", _constant)
        of_kind, c = scores_of(x), _complexities(x, workers)
        about = {
            "kind": name,
            "label": kind.label,
            "family": kind.family,
            "seen": name in described and is_made_by(kind, outliers),
            "n": len(x),
            "complexity": c[0].mean(),
            "complexity_colour": c[1].mean(),
            "side": _side(c, c_id),
            "complexity_only": 100 * metrics.auroc(-c_id[0], -c[0]),
        }
        for score in of_id:
            drawn = {"n_boot": n_boot, "rng": rng, "wanted": ["auroc"]}
            value, low, high = metrics.evaluate(of_id[score], of_kind[score], **drawn)["auroc"]
            rows.append({"score": score, **about, "auroc": 100 * value, "low": 100 * low, "high": 100 * high})
    frame = pd.DataFrame(rows)[COLUMNS]
    return frame.sort_values(["score", "complexity"], kind="stable", ignore_index=True)


def _kept(x: Tensor, seed: int, kinds: Iterable[str] | None) -> dict[str, Tensor]:
    """`battery`, of which the last is kept where it is small: the next flow is shown the same images."""
    image.partner_of(x, x)
    key = (datasets.digest(x.cpu()), seed, kinds if kinds is None else tuple(kinds))
    made = _MADE.get(key) or battery(x, seed=seed, kinds=key[2])
    _MADE.clear()
    if sum(of.numel() for of in made.values()) <= KEPT_BYTES:
        _MADE[key] = made
    return made


KEPT_BYTES = 2**28  # a battery of large pictures would fill the memory for as long as the process lives
_MADE: dict[tuple[Any, ...], dict[str, Tensor]] = {}
COLUMNS = [
    "score", "kind", "label", "family", "seen", "n", "complexity", "complexity_colour", "side", "auroc", "low", "high",
    "complexity_only",
]  # fmt: skip


def _complexities(x: Tensor, workers: int | str) -> np.ndarray:
    """C(x) without and with the colour transform, (2, n); remembered, since every seed of a row asks again."""
    key = datasets.digest(x.cpu())
    if key not in _MEASURED:
        ways = (False, True)[: 1 + (x.shape[1] == 3)]
        of = [image_complexity(x, colour_transform=way, workers=workers).numpy() for way in ways]
        _MEASURED[key] = np.stack([of[0], of[-1]])
    return _MEASURED[key]


_MEASURED: dict[str, np.ndarray] = {}


def _side(c: np.ndarray, c_id: np.ndarray) -> str:
    gaps = (c.mean(1) - c_id.mean(1)) / np.maximum(c_id.std(1), 1e-12)
    if gaps.min() < -EQUAL:
        return "simple"
    return "complex" if gaps.max() > EQUAL else "equal"


def _scores_of(detector: Any) -> Callable[[Tensor], dict[str, np.ndarray]]:
    """Images to scores by name; higher = more OOD."""
    if callable(getattr(detector, "ood_score", None)):
        return lambda x: {"detector": _one_each(detector.ood_score(x), x)}
    if isinstance(detector, torch.nn.Module):
        if isinstance(flow := adapt.as_flow(detector), adapt.Adapted) and not flow.has_latent:
            return lambda x: {"px": -adapt.log_px_of(flow, x)}
        names = ("pz", "px")
        return lambda x: dict(zip(names, map(np.negative, adapt.log_densities_of(flow, x)), strict=True))
    if not callable(detector):
        got = type(detector).__name__
        raise TypeError(f"expected a detector with ood_score, a flow, or a function of images, got {got}")

    def by_name(x: Tensor) -> dict[str, np.ndarray]:
        of = made if isinstance(made := detector(x), Mapping) else {"score": made}
        return {name: _one_each(values, x) for name, values in of.items()}

    return by_name


def _one_each(made: ArrayLike, x: Tensor) -> np.ndarray:
    if (values := np.asarray(made, dtype=np.float64)).shape != (len(x),):
        raise ValueError(f"expected one score per image, ({len(x)},), got {values.shape}")
    return values
