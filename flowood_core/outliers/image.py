"""Image outliers x' (section 2.2.1): CutPaste, CutMix, MixUp, their mixture CCM, and Gaussian blur.

Every method is a callable ``(x, partner=None, *, rng) -> x_out`` on uint8 images (b, c, h, w), on any
device, with one draw per image. All randomness comes from `rng`, which lives on the device of x. The
functions that draw are apart from those that move pixels, and none of them reads a tensor back into
Python, so that a batch on a GPU never waits for the host.
"""

import functools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flowood_core.outliers.blur import calibrate_blur, gaussian_blur
from flowood_core.outliers.bytes import (
    Draws,
    Images,
    beta,
    check_images,
    check_range,
    check_same_shape,
    inside,
    partner_of,
    randint,
    replaced,
    uniform,
)

__all__ = [
    "METHOD_LABELS",
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
    check_images(x)
    check_range("area", area, upper=1.0)
    check_range("aspect", aspect)
    b, _, h, w = x.shape
    share = uniform(b, *area, rng, x.device)
    ratio = uniform(b, math.log(aspect[0]), math.log(aspect[1]), rng, x.device).exp()
    height = (share * ratio * (h * w)).sqrt().round().long().clamp(1, h)
    width = (share / ratio * (h * w)).sqrt().round().long().clamp(1, w)

    columns = w - width + 1
    positions = (h - height + 1) * columns
    source = randint(positions, rng)
    shift = 1 + randint((positions - 1).clamp(min=1), rng)
    target = (source + shift) % positions  # any other position, each with the same probability
    return _paste(x, source // columns, source % columns, target // columns, target % columns, height, width)


def _paste(
    x: Images, top: Draws, left: Draws, to_top: Draws, to_left: Draws, height: Draws, width: Draws
) -> Images:
    """Copy the rectangle at (top, left) to (to_top, to_left), within each image."""
    b, c, h, w = x.shape
    index = torch.arange(h * w, device=x.device).view(1, h, w)
    moved = index + ((top - to_top) * w + left - to_left).view(b, 1, 1)
    source = torch.where(inside(to_top, to_left, height, width, h, w), moved, index)
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
    half = 0.5 * (1 - beta(alpha, b, rng, x.device)).sqrt()
    half_height, half_width = (half * h).long(), (half * w).long()
    top = torch.randint(h, (b,), generator=rng, device=x.device) - half_height
    left = torch.randint(w, (b,), generator=rng, device=x.device) - half_width
    return _cut(x, partner, top, left, 2 * half_height, 2 * half_width)


def _cut(x: Images, partner: Images, top: Draws, left: Draws, height: Draws, width: Draws) -> Images:
    """Pixels of the partner inside the rectangle, of x outside; what juts out is clipped."""
    mask = inside(top, left, height, width, *x.shape[2:])
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
    return _mix(x, partner, beta(alpha, len(x), rng, x.device))


def _mix(x: Images, partner: Images, lam: Float[Tensor, " b"]) -> Images:
    # lerp is exact at both ends and where x equals its partner
    mixed = torch.lerp(partner.float(), x.float(), lam.float().view(-1, 1, 1, 1))
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
    return replaced(replaced(pasted, cut, which == 1), mixed, which == 2)


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
    x_aug = replaced(ccm(x, partner, rng=rng, alpha=alpha), x, ~is_augmented)
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
    check_images(pool)
    return functools.partial(_draw_real, pool)  # and no closure: it can be pickled


def _draw_real(pool: Images, x: Images, partner: Images | None = None, *, rng: torch.Generator) -> Images:
    check_images(x)
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
    check_images(x)
    if not 0 <= rate <= 1:
        raise ValueError(f"expected a mutation rate in [0, 1], got {rate}; Ren et al. use 0.1 to 0.3")
    chosen = torch.rand(x.shape, generator=rng, device=x.device) < rate
    noise = torch.randint(0, 256, x.shape, generator=rng, device=x.device, dtype=torch.uint8)
    return torch.where(chosen, noise, x)


METHOD_LABELS: dict[str, str] = {
    "mle": "MLE",
    "ro": "RO",
    "gaussian": "Gaussian",
    "ccm": "CCM",
    "ccm_gaussian": "CCM+Gaussian",
}
"""Labels as the paper prints them, in its order."""


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
    check_images(x)
    check_images(x_out)
    check_same_shape(x, x_out)
    difference = (x.float() - x_out.float()).abs().mean((1, 2, 3))
    return (difference < max_abs).float().mean().item()
