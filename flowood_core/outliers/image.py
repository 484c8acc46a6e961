"""Image outliers x' (section 2.2.1): CutPaste, CutMix, MixUp, their mixture CCM, and Gaussian blur.

Every method is a callable ``(x, partner=None, *, rng) -> x_out`` on uint8 images (b, c, h, w), on any
device, with one draw per image. All randomness comes from `rng`, which lives on the device of x. The
functions that draw are apart from those that move pixels, and none of them reads a tensor back into
Python, so that a batch on a GPU never waits for the host.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageFilter
from torch import Tensor

from flowood_core.engine import compiled as compiled

__all__ = [
    "METHODS",
    "METHOD_LABELS",
    "BlurCalibration",
    "blur_rows",
    "box_pass",
    "calibrate_blur",
    "ccm",
    "ccm_gaussian",
    "count_near_identity",
    "cutmix",
    "cutpaste",
    "gaussian",
    "gaussian_blur",
    "mixup",
    "mutate",
    "real_outliers",
]

Images = UInt8[Tensor, "b c h w"]
Rows = UInt8[Tensor, "n size"]
Draws = Int[Tensor, " b"]


# --- Gaussian blur -------------------------------------------------------------------------------------


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
    _check_images(x)
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


# --- Augmentations: CutPaste, CutMix, MixUp ------------------------------------------------------------


def cutpaste(
    x: Images,
    partner: Images | None = None,
    *,
    rng: torch.Generator,
    area: tuple[float, float] = (0.02, 0.15),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Images:
    """CutPaste: a rectangle of the image itself, pasted at another integer position of it.

    The paper names the method only; this is its "normal" variant with the ranges of Li et al. and
    without colour jitter (DECISIONS.md A16). Source and target never coincide unless the patch is the whole
    image; the usual code draws them independently.

    Args:
        x: 8-bit images.
        partner: ignored; the patch comes from the same image.
        rng: generator on the device of x.
        area: range of the patch's share of the image, drawn uniformly.
        aspect: range of height / width, drawn log-uniformly. Sides are rounded and kept in [1, side].
    Returns:
        One outlier per image, shape and device of x.
    Raises:
        TypeError, ValueError: x is not a batch of 8-bit images; a range is empty or not positive.
    Source: paper section 2.2.1; Li et al. (2021).
    """
    _check_images(x)
    _check_range("area", area, upper=1.0)
    _check_range("aspect", aspect)
    b, _, h, w = x.shape
    share = _uniform(b, *area, rng, x.device)
    ratio = _uniform(b, math.log(aspect[0]), math.log(aspect[1]), rng, x.device).exp()
    height = (share * ratio * (h * w)).sqrt().round().long().clamp(1, h)
    width = (share / ratio * (h * w)).sqrt().round().long().clamp(1, w)

    columns = w - width + 1
    positions = (h - height + 1) * columns
    source = _randint(positions, rng)
    shift = 1 + _randint((positions - 1).clamp(min=1), rng)
    target = (source + shift) % positions  # any other position, each with the same probability
    return _paste(x, source // columns, source % columns, target // columns, target % columns, height, width)


def _paste(
    x: Images, top: Draws, left: Draws, to_top: Draws, to_left: Draws, height: Draws, width: Draws
) -> Images:
    """Copy the rectangle at (top, left) to (to_top, to_left), within each image."""
    b, c, h, w = x.shape
    index = torch.arange(h * w, device=x.device).view(1, h, w)
    moved = index + ((top - to_top) * w + left - to_left).view(b, 1, 1)
    source = torch.where(_inside(to_top, to_left, height, width, h, w), moved, index)
    return x.flatten(2).gather(2, source.view(b, 1, h * w).expand(b, c, h * w)).view(x.shape)


def cutmix(x: Images, partner: Images | None = None, *, rng: torch.Generator, alpha: float = 1.0) -> Images:
    """CutMix: a rectangle is replaced by the same rectangle of the partner.

    lambda ~ Beta(alpha, alpha); the half-sides are sqrt(1 - lambda) / 2 of the image's, rounded down, the
    centre is uniform, the rectangle is clipped at the border. lambda near 1 leaves the image (nearly) as it
    was, which the paper does not exclude: see `count_near_identity` (DECISIONS.md A17).

    Args:
        x: 8-bit images.
        partner: other ID images, one for each; None takes the batch rolled by one.
        rng: generator on the device of x. Each image has its own lambda and rectangle.
        alpha: 1 in the paper (section 3.1), so that lambda is uniform.
    Returns:
        One outlier per image, shape and device of x.
    Raises:
        TypeError, ValueError: not 8-bit images, shapes differ, no partner for a single image, alpha <= 0.
    Source: paper section 2.2.1; Yun et al. (2019).
    """
    partner = partner_of(x, partner)
    b, _, h, w = x.shape
    half = 0.5 * (1 - _beta(alpha, b, rng, x.device)).sqrt()
    half_height, half_width = (half * h).long(), (half * w).long()
    top = torch.randint(h, (b,), generator=rng, device=x.device) - half_height
    left = torch.randint(w, (b,), generator=rng, device=x.device) - half_width
    return _cut(x, partner, top, left, 2 * half_height, 2 * half_width)


def _cut(x: Images, partner: Images, top: Draws, left: Draws, height: Draws, width: Draws) -> Images:
    """Pixels of the partner inside the rectangle, of x outside; what juts out is clipped."""
    mask = _inside(top, left, height, width, *x.shape[2:])
    return torch.where(mask[:, None], partner, x)


def mixup(x: Images, partner: Images | None = None, *, rng: torch.Generator, alpha: float = 1.0) -> Images:
    """MixUp: lambda x + (1 - lambda) partner, rounded to 8 bits, with lambda ~ Beta(alpha, alpha).

    lambda near 0 or 1 leaves an ID image: see `count_near_identity` (DECISIONS.md A17).

    Args:
        x: 8-bit images.
        partner: other ID images, one for each; None takes the batch rolled by one.
        rng: generator on the device of x. Each image has its own lambda.
        alpha: 1 in the paper (section 3.1), so that lambda is uniform.
    Returns:
        One outlier per image, shape and device of x.
    Raises:
        TypeError, ValueError: not 8-bit images, shapes differ, no partner for a single image, alpha <= 0.
    Source: paper section 2.2.1; Zhang et al. (2017).
    """
    partner = partner_of(x, partner)
    return _mix(x, partner, _beta(alpha, len(x), rng, x.device))


def _mix(x: Images, partner: Images, lam: Float[Tensor, " b"]) -> Images:
    # lerp is exact at both ends and where x equals its partner
    mixed = torch.lerp(partner.float(), x.float(), lam.view(-1, 1, 1, 1))
    return mixed.round_().to(torch.uint8)


# --- The rows of Table 2 -------------------------------------------------------------------------------


def ccm(x: Images, partner: Images | None = None, *, rng: torch.Generator, alpha: float = 1.0) -> Images:
    """CCM: CutPaste, CutMix or MixUp, one of the three for each image with equal probability.

    All three are made for every image and one is kept: choosing first would make shapes depend on draws.

    Args:
        x, partner, rng, alpha: as in `cutmix`.
    Returns:
        One outlier per image, shape and device of x.
    Raises:
        TypeError, ValueError: as in `cutmix`.
    Source: paper section 2.2.1, "randomly employing one of three techniques".
    """
    partner = partner_of(x, partner)
    b = len(x)
    which = torch.randint(3, (b,), generator=rng, device=x.device)
    pasted = cutpaste(x, rng=rng)
    cut = cutmix(x, partner, rng=rng, alpha=alpha)
    mixed = mixup(x, partner, rng=rng, alpha=alpha)
    return _replaced(_replaced(pasted, cut, which == 1), mixed, which == 2)


def gaussian(
    x: Images, partner: Images | None = None, *, rng: torch.Generator | None = None, radius: float = 1.0
) -> Images:
    """The row "Gaussian" of Table 2: `gaussian_blur` of every image; partner and rng are ignored."""
    return gaussian_blur(x, radius)


def ccm_gaussian(
    x: Images,
    partner: Images | None = None,
    *,
    rng: torch.Generator,
    radius: float = 1.0,
    alpha: float = 1.0,
    mode: str = "at_least_one",
) -> Images:
    """The row "CCM+Gaussian" of Table 2: CCM and then blur, "applied independently and randomly".

    Args:
        x, partner, rng, alpha: as in `cutmix`.
        radius: of the blur, see `gaussian_blur`.
        mode: how the paper's phrase is read (DECISIONS.md A14). "at_least_one": a fair coin for each of the two,
            tossed again when both say no, hence blur only, CCM only and both with 1/3 each. "independent":
            the coins as they fall; a quarter of the outliers are untouched ID images. "always_both".
    Returns:
        One outlier per image, shape and device of x.
    Raises:
        TypeError, ValueError: as in `cutmix` and `gaussian_blur`; unknown mode.
    Source: paper section 2.2.1.
    """
    partner = partner_of(x, partner)
    is_augmented, is_blurred = coins(mode, len(x), rng, x.device)
    x_aug = _replaced(ccm(x, partner, rng=rng, alpha=alpha), x, ~is_augmented)
    (which,) = is_blurred.nonzero(as_tuple=True)
    return x_aug.index_copy_(0, which, gaussian_blur(x_aug[which], radius)) if len(which) else x_aug


def coins(mode: str, n: int, rng: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Whether each image is augmented, and whether it is blurred."""
    if mode == "at_least_one":
        case = torch.randint(3, (n,), generator=rng, device=device)
        return case != 0, case != 1
    if mode == "independent":
        coins = torch.randint(2, (2, n), generator=rng, device=device, dtype=torch.bool)
        return coins[0], coins[1]
    if mode == "always_both":
        both = torch.ones(n, dtype=torch.bool, device=device)
        return both, both
    raise ValueError(f"expected mode to be one of at_least_one, always_both, independent, got {mode!r}")


def real_outliers(pool: Images) -> Callable[..., Tensor]:
    """The row "RO" of Table 2: a method that draws real outliers from a pool, with replacement.

    Args:
        pool: 8-bit outlier images; in the paper as many as a tenth of the ID training set.
    Returns:
        A callable ``(x, partner=None, *, rng) -> x_out``; x gives the shape and the device alone.
    Raises:
        TypeError, ValueError: here, if the pool is not a batch of 8-bit images; when called, if its images
            differ from x in shape or device.
    Source: paper section 3.1.
    """
    _check_images(pool)
    return functools.partial(_draw_real, pool)  # and no closure: it can be pickled


def _draw_real(pool: Images, x: Images, partner: Images | None = None, *, rng: torch.Generator) -> Images:
    _check_images(x)
    if pool.shape[1:] != x.shape[1:] or pool.device != x.device:
        raise ValueError(
            f"expected real outliers like x, {tuple(x.shape[1:])} on {x.device}, got {tuple(pool.shape[1:])} "
            f"on {pool.device}; resize the pool, or move it with pool.to(x.device)"
        )
    return pool[torch.randint(len(pool), (len(x),), generator=rng, device=x.device)]


def mutate(x: Images, rate: float, *, rng: torch.Generator) -> Images:
    """Replace a share of the values by uniform grey levels: training data of a background flow, no outliers.

    What survives is the background, local statistics without the object. Used by
    `neighbours.likelihood_ratio`.

    Args:
        x: 8-bit images.
        rate: probability that a value is replaced, in [0, 1].
        rng: generator on the device of x.
    Source: Ren et al. (2019), who mutate 10 to 30 % of the pixels.
    """
    _check_images(x)
    if not 0 <= rate <= 1:
        raise ValueError(f"expected a mutation rate in [0, 1], got {rate}; Ren et al. use 0.1 to 0.3")
    chosen = torch.rand(x.shape, generator=rng, device=x.device) < rate
    noise = torch.randint(0, 256, x.shape, generator=rng, device=x.device, dtype=torch.uint8)
    return torch.where(chosen, noise, x)


METHODS: dict[str, Callable[..., Tensor] | None] = {
    "mle": None,
    "gaussian": gaussian,
    "ccm": ccm,
    "ccm_gaussian": ccm_gaussian,
}
"""Rows of Table 2 by id; "ro" needs a pool and comes from `real_outliers`."""

METHOD_LABELS: dict[str, str] = {
    "mle": "MLE",
    "ro": "RO",
    "gaussian": "Gaussian",
    "ccm": "CCM",
    "ccm_gaussian": "CCM+Gaussian",
}
"""Labels as the paper prints them, in its order."""


# --- How strong, and how different ---------------------------------------------------------------------


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

    _check_images(x)
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


def count_near_identity(x: Images, x_out: Images, max_abs: float = 1.0) -> float:
    """Share of outliers that are (nearly) the ID image they were made from (DECISIONS.md A17).

    Args:
        x: 8-bit ID images.
        x_out: outliers made from them, in the same order.
        max_abs: mean |x - x'| per value, in grey levels of 255, below which an outlier counts.
    Returns:
        A share between 0 and 1; lower is better.
    Raises:
        TypeError, ValueError: not 8-bit images, or shapes differ.
    """
    _check_images(x)
    _check_images(x_out)
    _check_same_shape(x, x_out)
    difference = (x.float() - x_out.float()).abs().mean((1, 2, 3))
    return (difference < max_abs).float().mean().item()


# --- Draws and checks ----------------------------------------------------------------------------------


def _inside(
    top: Draws, left: Draws, height: Draws, width: Draws, h: int, w: int
) -> Bool[Tensor, "b {h} {w}"]:
    """True in one rectangle per image; it may jut out of the image."""
    row = torch.arange(h, device=top.device) - top[:, None]
    column = torch.arange(w, device=top.device) - left[:, None]
    in_rows = (row >= 0) & (row < height[:, None])
    in_columns = (column >= 0) & (column < width[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]


def _replaced(made: Images, other: Images, where: Bool[Tensor, " b"]) -> Images:
    """Whole images of `made` replaced in place by those of the other batch; torch.where would visit every pixel."""
    (rows,) = where.nonzero(as_tuple=True)
    return made.index_copy_(0, rows, other.index_select(0, rows))


def _uniform(n: int, low: float, high: float, rng: torch.Generator, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=rng, device=device)


def _randint(n: Draws, rng: torch.Generator) -> Draws:
    """Uniform in 0 .. n-1, with a bound of its own for each image."""
    # the remainder of 62 bits is uniform to 1e-13; scaled float32 favours some places at 256 x 256 by 0.4 %
    return torch.randint(2**62, n.shape, generator=rng, device=n.device) % n


def _beta(alpha: float, n: int, rng: torch.Generator, device: torch.device) -> Float[Tensor, " n"]:
    """lambda ~ Beta(alpha, alpha); torch.distributions would draw from the global generator."""
    if not 0 < alpha < math.inf:
        raise ValueError(f"expected alpha > 0 for lambda ~ Beta(alpha, alpha), got {alpha}; the paper uses 1")
    if alpha == 1:
        return torch.rand(n, generator=rng, device=device)
    # lambda = g / (g + g') with g, g' ~ Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha), in logarithms: for small
    # alpha both g and g' are too small for floats, and lambda would be 0 / 0
    boosted = torch._standard_gamma(torch.full((2, n), alpha + 1.0, device=device), generator=rng)
    u = 1 - torch.rand(2, n, generator=rng, device=device)  # in (0, 1]
    log_g = boosted.log() + u.log() / alpha
    return torch.sigmoid(log_g[0] - log_g[1])


def partner_of(x: Images, partner: Images | None) -> Images:
    _check_images(x)
    if partner is not None:
        _check_images(partner)
        _check_same_shape(x, partner)
        return partner
    if len(x) < 2:
        raise ValueError(
            f"expected at least 2 images to mix within the batch, got {len(x)}; pass partner=another_image"
        )
    return x.roll(1, 0)


def _check_images(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"expected uint8 images (0..255) shaped (b, c, h, w), got {type(x).__name__}")
    if x.dtype != torch.uint8:
        raise TypeError(
            f"expected uint8 images (0..255) shaped (b, c, h, w), got {str(x.dtype).removeprefix('torch.')} "
            f"shaped {tuple(x.shape)}; convert with (x * 255).round().to(torch.uint8)"
        )
    if x.ndim != 4:
        raise ValueError(
            f"expected images shaped (b, c, h, w), got {tuple(x.shape)}; one image (c, h, w) needs x[None]"
        )
    if x.numel() == 0:
        raise ValueError(f"expected at least one image with pixels, got {tuple(x.shape)}")


def _check_same_shape(x: Tensor, other: Tensor) -> None:
    if x.shape != other.shape:
        raise ValueError(
            f"expected a second batch shaped like x, {tuple(x.shape)}, got {tuple(other.shape)}; "
            "give each image one counterpart of its size"
        )


def _check_range(name: str, bounds: tuple[float, float], upper: float = math.inf) -> None:
    low, high = bounds
    if not 0 < low <= high <= upper:
        raise ValueError(f"expected {name} as (low, high) with 0 < low <= high <= {upper:g}, got {bounds}")
