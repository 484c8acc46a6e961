"""Ours, beside the paper's: outliers of every grade of simplicity, from a constant to nearly ID.

Blur of one radius puts all outliers near one complexity, and what is far simpler (a patch of sky, one colour) is never
called unlikely. Here the amount is drawn, and with it what is taken away: detail (blur), all but a few pixels
(magnified patches), contrast, colour, fine quantisation (JPEG). The last two are simple pictures that Definition 1
hardly sees: their channels, or their cosines, say less than they seem to.

The constants were chosen on CIFAR-10 training images: for ID, held-out ones; for OOD, simple pictures made of them, of
kinds that are made here and of kinds that are not (`anyflow.battery`). No test set was looked at.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowood_core.outliers import image, jpeg

__all__ = ["SHARES", "blur_grades", "ccm_graded", "desaturate", "fade", "for_images", "graded", "magnify"]

SHARES = {"blur": 0.36, "magnify": 0.20, "fade": 0.12, "desaturate": 0.18, "jpeg": 0.14}
"""Of the graded outliers. Colour and quantisation need many, since nearly all of an ID image is left there."""

CCM_ONLY = 0.1
LEAST_RADIUS = 0.5  # pixels; weaker blur cannot be told from ID, and costs it likelihood
# evenly spread in complexity on 100 CIFAR-10 training images, see `blur_grades`
RADII_32 = (0.5, 0.58, 0.66, 0.75, 0.84, 0.94, 1.06, 1.19, 1.34, 1.55, 1.85, 2.3, 3.0, 4.4, 7.9, 16.0)
GRADES = 16
MEASURED_ABOVE = 48  # pixels
LEAST_CONTRAST, MOST_CONTRAST = 0.03, 0.5
QUALITIES = (5, 35)
MOST_COLOUR = 0.3  # of the saturation; half of the desaturated images keep none
NOT_GRADED = -1


def ccm_graded(
    x: Tensor,
    partner: Tensor | None = None,
    *,
    rng: torch.Generator,
    alpha: float = 1.0,
    ccm_only: float = CCM_ONLY,
    radii: Sequence[float] | None = None,
    shares: dict[str, float] | None = None,
) -> Tensor:
    """CCM and then `graded`: a share of the outliers is CCM's alone, and of the others every second begins with it.

    The paper's reading "at least one of the two" leaves a third to CCM alone. What is pasted or mixed from ID images is
    as complex as they are and cannot be told from them by much; pushing it away is what most of the likelihood of ID
    is paid for (on the paper's flow CCM costs 0.92 bits per dimension, blur nothing, both 0.25).

    Args:
        x, partner, rng, alpha: as in `image.cutmix`.
        ccm_only: the share of CCM alone, in [0, 1].
        radii, shares: as in `graded`.
    Returns:
        One outlier per image, shape and device of x.
    Raises:
        TypeError, ValueError: as in `image.cutmix` and `graded`; ccm_only is no share.
    """
    partner = image.partner_of(x, partner)
    if not 0 <= ccm_only <= 1:
        raise ValueError(f"expected ccm_only to be a share in [0, 1], got {ccm_only}")
    u = torch.rand(len(x), generator=rng, device=x.device)
    is_augmented, is_graded = u < (1 + ccm_only) / 2, u >= ccm_only
    x_aug = torch.where(is_augmented.view(-1, 1, 1, 1), image.ccm(x, partner, rng=rng, alpha=alpha), x)
    kind = _kinds(x, shares or SHARES, rng)
    return _made(x_aug, torch.where(is_graded, kind, NOT_GRADED), radii, rng)


def graded(
    x: Tensor,
    partner: Tensor | None = None,
    *,
    rng: torch.Generator,
    radii: Sequence[float] | None = None,
    shares: dict[str, float] | None = None,
) -> Tensor:
    """A simpler version of each image, by an amount that is drawn.

    blur: by one of `radii`. magnify: a square of the image, enlarged to its size; its side is log-uniform from 1 pixel
    (one colour) to half the image. fade: towards the mean colour; what is left of the contrast is log-uniform.
    desaturate: half of them grey, the others with a saturation from 0 to MOST_COLOUR. jpeg: of a quality from
    QUALITIES.

    Args:
        x: 8-bit images (b, c, h, w) of any size; without three channels no colour is taken away.
        partner: ignored.
        rng: generator on the device of x.
        radii: of blur, in pixels, each as likely as the other. `blur_grades` spaces them evenly in complexity for your
            images. None: RADII_32, which are so spaced at 32 pixels; see `for_images`.
        shares: of the five kinds; None is `SHARES`.
    Returns:
        One outlier per image, shape and device of x.
    Raises:
        TypeError, ValueError: x is not a batch of 8-bit images; no radius; an unknown kind, or no share above 0.
    """
    image.partner_of(x, x)
    return _made(x, _kinds(x, shares or SHARES, rng), radii, rng)


def _kinds(x: Tensor, shares: dict[str, float], rng: torch.Generator) -> Tensor:
    """Number of the kind in SHARES, one per image."""
    if unknown := set(shares) - set(SHARES):
        raise ValueError(f"expected shares of {', '.join(SHARES)}, got {', '.join(sorted(unknown))}")
    weights = [0.0 if kind == "desaturate" and x.shape[1] != 3 else shares.get(kind, 0.0) for kind in SHARES]
    if min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(f"expected shares of at least 0, one of them above it, got {shares}")
    edges = torch.tensor(weights, dtype=torch.float64).cumsum(0)[:-1] / sum(weights)
    u = torch.rand(len(x), generator=rng, device=x.device, dtype=torch.float64)
    return torch.bucketize(u, edges.to(x.device), right=True)


def _made(x: Tensor, kind: Tensor, radii: Sequence[float] | None, rng: torch.Generator) -> Tensor:
    grade, across, along = torch.rand(3, len(x), generator=rng, device=x.device, dtype=torch.float64)
    radii = _default_radii(min(x.shape[-2:])) if radii is None else radii
    makers = (
        lambda x, u, *_: _blurred(x, u, radii),
        lambda x, u, across, along: magnify(x, _sides(u, min(x.shape[-2:])), across, along),
        lambda x, u, *_: fade(x, MOST_CONTRAST * (LEAST_CONTRAST / MOST_CONTRAST) ** u),
        lambda x, u, *_: desaturate(x, ((2 * u - 1) * MOST_COLOUR).clamp(min=0)),
        lambda x, u, *_: jpeg.compress(x, (QUALITIES[0] + u * (QUALITIES[1] + 1 - QUALITIES[0])).long()),
    )
    out = x.clone()
    for number, make in enumerate(makers):
        (rows,) = (kind == number).nonzero(as_tuple=True)
        if len(rows):
            out.index_copy_(0, rows, make(x[rows], grade[rows], across[rows], along[rows]))
    return out


# --- blur ----------------------------------------------------------------------------------------------------


def _default_radii(side: int) -> Sequence[float]:
    """Those that are evenly spread in complexity at 32 pixels, as far as the image is large."""
    return [radius for radius in RADII_32 if radius <= max(side / 2, LEAST_RADIUS)]


def for_images(x: Tensor, *, n: int = 24) -> Callable[..., Tensor]:
    """`ccm_graded` with radii that suit images like these.

    The default ones are evenly spread in complexity at 32 pixels; for larger images they are measured by `blur_grades`,
    on n of them.
    """
    if min(x.shape[-2:]) <= MEASURED_ABOVE:
        return ccm_graded
    return functools.partial(ccm_graded, radii=blur_grades(x[:n]))


def blur_grades(
    x: Tensor,
    n: int = GRADES,
    *,
    complexity: Callable[[Tensor], Tensor] | None = None,
    weakest: float = 0.93,
) -> list[float]:
    """Radii that spread C(x) evenly from nearly that of x to that of x blurred as far as can be.

    The curve behind `image.calibrate_blur`, read at n shares at once: C of x blurred by 24 radii, made monotone, and
    inverted.

    Args:
        x: 8-bit ID images; some dozens are enough.
        n: radii.
        complexity: images -> one value each; None is `flowood_core.complexity.image_complexity`.
        weakest: share of C(x) that the weakest blur leaves.
    Returns:
        Radii in pixels, rising.
    """
    if complexity is None:
        from flowood_core.complexity import image_complexity as complexity

    top = max(min(x.shape[-2:]) / 2, 1.0)
    radii = torch.logspace(math.log10(0.1), math.log10(top), 24, dtype=torch.float64)
    c_id = complexity(x).double().mean().item()
    found = [complexity(image.gaussian_blur(x, float(r))).double().mean().item() / c_id for r in radii]
    left = torch.tensor(found, dtype=torch.float64).cummin(0).values
    wanted = torch.linspace(max(min(weakest, 1.0), left[-1].item()), left[-1].item(), n, dtype=torch.float64)
    return [_crossing(left, radii, share) for share in wanted.tolist()]


def _crossing(left: Tensor, radii: Tensor, share: float) -> float:
    """The radius at which the falling curve `left` reaches `share`, log-linear between two of its points."""
    k = int((left > share + 1e-12).sum().clamp(1, len(left) - 1))
    drop = (left[k - 1] - left[k]).clamp(min=1e-12)
    part = ((left[k - 1] - share) / drop).clamp(0, 1)
    return float(torch.lerp(radii[k - 1].log(), radii[k].log(), part).exp())


def _blurred(x: Tensor, u: Tensor, radii: Sequence[float]) -> Tensor:
    """Blur by the radius number floor(u n), image by image."""
    if not len(radii):
        raise ValueError("expected at least one radius in pixels, got none; None takes the default ones")
    which = (u * len(radii)).long()
    for number in which.unique().tolist():
        (rows,) = (which == number).nonzero(as_tuple=True)
        x = x.index_copy(0, rows, image.gaussian_blur(x[rows], float(radii[number])))
    return x


# --- magnified patches ---------------------------------------------------------------------------------------


def _sides(u: Tensor, shorter: int) -> Tensor:
    """Side of the square in pixels: log-uniform from 1 to half the shorter side."""
    return (u * math.log(shorter // 2 + 1)).exp().long().clamp(1, shorter)


def magnify(x: Tensor, side: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """A square of each image, enlarged to the whole image by bilinear interpolation.

    Args:
        x: 8-bit images (b, c, h, w).
        side: of the square in pixels, one integer per image, 1 to min(h, w).
        across, along: its place, in [0, 1): share of the places there are, from the left and from the top.
    Returns:
        8-bit images, shape and device of x.
    """
    *_, h, w = x.shape
    out = _stretched(x.double(), 2, (along * (h - side + 1)).long(), side)
    return (_stretched(out, 3, (across * (w - side + 1)).long(), side) + 0.5).floor_().to(torch.uint8)


def _stretched(values: Tensor, dim: int, start: Tensor, length: Tensor) -> Tensor:
    """Along one axis, `length` pixels from `start` on are stretched over the whole of it; sums stay exact."""
    n = values.shape[dim]
    at = (torch.arange(n, device=values.device) + 0.5) * length[:, None] / n - 0.5
    at = torch.minimum(at.clamp(min=0), length[:, None] - 1.0)
    low = at.floor()
    weight = ((at - low) * 2**12).round() / 2**12
    low = low.long()
    high = torch.minimum(low + 1, length[:, None] - 1)
    view = [len(values), 1, 1, 1]
    view[dim] = n
    first, second = (
        values.gather(dim, (start[:, None] + i).view(view).expand_as(values)) for i in (low, high)
    )
    return first + (second - first) * weight.view(view)


# --- contrast and colour ---------------------------------------------------------------------------------------


def fade(x: Tensor, contrast: Tensor) -> Tensor:
    """Each channel drawn towards its mean.

    Args:
        x: 8-bit images (b, c, h, w).
        contrast: what is left of the distance, one per image: 0 is one colour, 1 the image itself.
    Returns:
        8-bit images, shape and device of x.
    """
    return _towards(x, x.double().mean((2, 3), keepdim=True).round().long(), contrast)


def desaturate(x: Tensor, saturation: Tensor) -> Tensor:
    """Each colour drawn towards its luminance, 0.299 R + 0.587 G + 0.114 B.

    Args:
        x: 8-bit images (b, 3, h, w).
        saturation: what is left of the distance, one per image: 0 is grey, 1 the image itself.
    Returns:
        8-bit images, shape and device of x.
    """
    grey = (299 * x[:, 0].long() + 587 * x[:, 1].long() + 114 * x[:, 2].long() + 500) // 1000
    return _towards(x, grey[:, None], saturation)


def _towards(x: Tensor, goal: Tensor, left: Tensor) -> Tensor:
    """goal + left (x - goal) in integers, `left` on a grid of 1/4096."""
    steps = (left * 2**12).round().long().view(-1, 1, 1, 1)
    moved = ((x - goal) * steps + 2**11).div(2**12, rounding_mode="floor")
    return (goal + moved).clamp(0, 255).to(torch.uint8)
