"""8-bit images as every outlier takes them: checks with words, and draws from a generator of one's own."""

import math

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

__all__ = [
    "Draws",
    "Images",
    "beta",
    "check_images",
    "check_range",
    "check_same_shape",
    "inside",
    "partner_of",
    "randint",
    "replaced",
    "uniform",
]

Images = UInt8[Tensor, "b c h w"]
Draws = Int[Tensor, " b"]


def inside(top: Draws, left: Draws, height: Draws, width: Draws, h: int, w: int) -> Bool[Tensor, "b {h} {w}"]:
    """True in one rectangle per image; it may jut out of the image."""
    row = torch.arange(h, device=top.device) - top[:, None]
    column = torch.arange(w, device=top.device) - left[:, None]
    in_rows = (row >= 0) & (row < height[:, None])
    in_columns = (column >= 0) & (column < width[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]


def replaced(made: Images, other: Images, where: Bool[Tensor, " b"]) -> Images:
    """Whole images of `made` replaced in place by those of the other batch; torch.where would visit every pixel."""
    (rows,) = where.nonzero(as_tuple=True)
    return made.index_copy_(0, rows, other.index_select(0, rows))


def uniform(n: int, low: float, high: float, rng: torch.Generator, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=rng, device=device)


def randint(n: Draws, rng: torch.Generator) -> Draws:
    """Uniform in 0 .. n-1, with a bound of its own for each image."""
    # the remainder of 62 bits is uniform to 1e-13; scaled float32 favours some places at 256 x 256 by 0.4 %
    return torch.randint(2**62, n.shape, generator=rng, device=n.device) % n


def beta(alpha: float, n: int, rng: torch.Generator, device: torch.device) -> Float[Tensor, " n"]:
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
    check_images(x)
    if partner is not None:
        check_images(partner)
        check_same_shape(x, partner)
        return partner
    if len(x) < 2:
        raise ValueError(
            f"expected at least 2 images to mix within the batch, got {len(x)}; pass partner=another_image"
        )
    return x.roll(1, 0)


def check_images(x: Tensor) -> None:
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


def check_same_shape(x: Tensor, other: Tensor) -> None:
    if x.shape != other.shape:
        raise ValueError(
            f"expected a second batch shaped like x, {tuple(x.shape)}, got {tuple(other.shape)}; "
            "give each image one counterpart of its size"
        )


def check_range(name: str, bounds: tuple[float, float], upper: float = math.inf) -> None:
    low, high = bounds
    if not 0 < low <= high <= upper:
        raise ValueError(f"expected {name} as (low, high) with 0 < low <= high <= {upper:g}, got {bounds}")
