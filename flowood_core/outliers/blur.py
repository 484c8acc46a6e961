"""Gaussian blur as Pillow computes it, bit for bit (section 2.2.1), and how strong it should be at any size."""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter
from torch import Tensor

from flowood_core.engine import compiled
from flowood_core.outliers.bytes import Images, check_images

__all__ = ["BlurCalibration", "blur_rows", "box_pass", "calibrate_blur", "gaussian_blur"]

Rows = UInt8[Tensor, "n size"]


def gaussian_blur(x: Images, radius: float = 1.0, *, engine: str = "auto") -> Images:
    """x' = x * g, the convolution of section 2.2.1, with Pillow's blur bit for bit.

    Three extended box filters along each axis stand for the Gaussian, the edge pixel is repeated beyond
    the border, and each of the six passes rounds to 8 bits. `radius` is close to the standard deviation
    in pixels. That the paper blurs with Pillow is an inference from its Table 7: radius 1 gives the
    printed complexity 5.04, a 3 x 3 kernel 5.4.

    Args:
        x: 8-bit images.
        radius: 1 in the paper (section 3.1), for 32 x 32; see `calibrate_blur` for other sizes. 0 returns x.
        engine: "compiled" is integer arithmetic in `flowood_core.engine`; "pillow" is two calls of Pillow for
            the whole batch, both on the CPU; "tensor" is six float64 products with a banded integer matrix, on
            the device of x. All give the same bits; "auto" takes "tensor" on CUDA, else "compiled" where there
            is a C++ compiler, else "pillow".
    Returns:
        Blurred images, shape and device of x.
    Raises:
        TypeError, ValueError: x is not a batch of 8-bit images, or radius is negative or not finite.
    Source: paper section 2.2.1; Gwosdek et al. (2011) for the extended box filter.
    """
    check_images(x)
    if not 0 <= radius < math.inf:
        raise ValueError(f"expected a blur radius >= 0 in pixels, got {radius}; the paper uses 1")
    if radius == 0:
        return x
    if (
        engine in ("auto", "compiled")
        and (done := compiled.blur(x, *_box_weights(float(radius)))) is not None
    ):
        return done
    if engine == "compiled":
        raise ValueError(f"expected the compiled blur to be there, got {compiled.status()}, x on {x.device}")
    blur_rows = _engine(engine, x.device)
    across = blur_rows(x.flatten(0, 2), float(radius)).view(x.shape)
    down = blur_rows(across.mT.flatten(0, 2), float(radius)).view(across.mT.shape)
    return down.mT.contiguous()


def _engine(engine: str, device: torch.device) -> Callable[[Tensor, float], Tensor]:
    engines = {"tensor": _blur_rows_tensor, "pillow": blur_rows}
    if engine == "auto":
        engine = "tensor" if device.type == "cuda" else "pillow"
    if engine not in engines:
        raise ValueError(f"expected engine to be one of auto, compiled, {', '.join(engines)}, got {engine!r}")
    return engines[engine]


def blur_rows(rows: Rows, radius: float) -> Rows:
    """Pillow's blur along one axis: each row by itself, three box passes."""
    # the rows of all images form one tall picture: blurred along x alone, they do not touch
    tall = Image.fromarray(rows.contiguous().cpu().numpy())
    blurred = tall.filter(ImageFilter.GaussianBlur((radius, 0)))
    return torch.from_numpy(np.array(blurred)).to(rows.device)


def _blur_rows_tensor(rows: Rows, radius: float) -> Rows:
    weights = box_pass(rows.shape[1], radius, rows.device)
    y = rows.to(torch.float64)
    for _ in range(3):
        y = (y @ weights).add_(0.5).floor_()  # exact: multiples of 2^-24 below 256 fit float64
    return y.to(torch.uint8)


@functools.lru_cache(maxsize=64)
def box_pass(size: int, radius: float, device: torch.device | str = "cpu") -> Float[Tensor, "size size"]:
    """One of the three box passes of Pillow's blur along an axis, as a matrix: ``row @ box_pass(size, radius)``.

    A band of integers over 2^24, exact in float64, with the repeated edge folded into its ends.
    """
    reach, inner, outer = _box_weights(radius)
    to = np.arange(size)
    box = (abs(to[:, None] - to) <= reach).astype(np.int64)
    box[0] += np.maximum(reach - to, 0)  # box pixels left of the border repeat pixel 0
    box[-1] += np.maximum(reach - (size - 1 - to), 0)
    weights = box * inner
    weights[np.maximum(to - reach - 1, 0), to] += outer
    weights[np.minimum(to + reach + 1, size - 1), to] += outer
    return torch.tensor(weights * 2.0**-24, dtype=torch.float64, device=device)


def _box_weights(radius: float) -> tuple[int, int, int]:
    """Reach of the box and the weights inside and at its two fractional ends, in units of 2^-24.

    Computed in C floats, as Pillow does. In doubles the weights at radius 1 differ by one unit, which turns
    ties round: of 1,000 CIFAR-10 images none came out the same (by up to 3 grey levels).
    """
    one, two, three, six = (np.float32(n) for n in (1, 2, 3, 6))  # NumPy 1 widens a float32 beside a bare int
    variance = np.float32(radius) * np.float32(radius) / three
    length = np.float32(math.sqrt(12.0 * float(variance) + 1.0))
    whole = np.float32(math.floor((float(length) - 1.0) / 2.0))
    part = (two * whole + one) * (whole * (whole + one) - three * variance)
    part /= six * (variance - (whole + one) * (whole + one))
    box_radius = whole + part
    reach = int(box_radius)
    inner = int(np.float32(2**24) / (two * box_radius + one))
    outer = (2**24 - (2 * reach + 1) * inner) // 2
    return reach, inner, outer


@dataclasses.dataclass(frozen=True)
class BlurCalibration:
    """A radius and what it does: mean C(blurred) / mean C(original) on n_images images."""

    radius: float
    ratio: float
    target: float
    n_images: int


def calibrate_blur(
    x: Images,
    target: float = 0.75,
    *,
    complexity: Callable[[Tensor], Tensor] | None = None,
    tolerance: float = 0.005,
    max_radius: float = 16.0,
) -> BlurCalibration:
    """The radius at which blur leaves the share `target` of the complexity C(x), by bisection.

    The paper gives radius 1 for 32 x 32 and asks to tune it "carefully" without saying how. Radius 1 leaves
    .747 of the complexity of CIFAR-10 but is invisible at 256 x 256; the share carries over (DECISIONS.md A15).

    Args:
        x: 8-bit ID images; some hundreds are enough.
        target: mean C(blurred) / mean C(original).
        complexity: images -> one value each; None is `flowood_core.complexity.image_complexity`.
        tolerance: largest accepted |ratio - target|.
        max_radius: upper end of the search, in pixels.
    Returns:
        Radius, the ratio it reaches, the target, and the number of images.
    Raises:
        ValueError: no radius up to max_radius reaches the target; says what can be reached.
    """
    if complexity is None:
        from flowood_core.complexity import image_complexity as complexity

    check_images(x)
    c_id = complexity(x).mean().item()

    def ratio_at(radius: float) -> float:
        return complexity(gaussian_blur(x, radius)).mean().item() / c_id

    low, high = 0.0, float(max_radius)
    ratio_low, ratio_high = 1.0, ratio_at(high)
    if not ratio_high - tolerance <= target <= ratio_low + tolerance:
        raise ValueError(
            f"expected target between {ratio_high:.3f} (radius {high:g}) and 1 (no blur), got {target}; "
            "these images can be made no simpler unless max_radius is raised"
        )
    for radius, ratio in ((low, ratio_low), (high, ratio_high)):
        if abs(ratio - target) <= tolerance:
            return BlurCalibration(radius, ratio, target, len(x))
    while high - low > 1e-4:
        radius = (low + high) / 2
        ratio = ratio_at(radius)
        if abs(ratio - target) <= tolerance:
            return BlurCalibration(radius, ratio, target, len(x))
        if ratio > target:
            low, ratio_low = radius, ratio
        else:
            high, ratio_high = radius, ratio
    raise ValueError(
        f"expected a radius with ratio {target} +- {tolerance}, got a step from {ratio_low:.4f} to "
        f"{ratio_high:.4f} at radius {low:.4f}; raise the tolerance or use more than {len(x)} images"
    )
