"""Ours, beside the paper's: outliers that are simpler in more than one way.

Gaussian blur of one radius removes the same frequencies from every image. A simple image of the world need not
be a blurred one: it can have flat areas with sharp edges, low contrast, or half the resolution. Each of
those leaves fewer bits, which is all that the paper's argument asks of an outlier.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowood_core.outliers import image

__all__ = ["ccm_simplify", "simplify"]


def simplify(x: Tensor, partner: Tensor | None = None, *, rng: torch.Generator) -> Tensor:
    """A simpler version of each image, one of four, and half of them with less contrast.

    Blur of radius 1; blur of radius 2; half the resolution, enlarged again; or detail weakened, x' = s x + (1-s)
    blur(x) with s ~ U(0, 1/2). Then, with probability 1/2, x' is drawn towards its mean by a factor U(0.3, 1).

    Args:
        x: 8-bit images (b, c, h, w).
        partner: ignored.
        rng: generator on the device of x.
    Returns:
        One outlier per image, shape and device of x.
    Raises:
        TypeError, ValueError: x is not a batch of 8-bit images, or a side has fewer than 2 pixels.
    """
    blurred = image.gaussian_blur(x, 1.0)
    if min(x.shape[-2:]) < 2:
        raise ValueError(f"expected sides of at least 2 pixels, got {x.shape[-2]}x{x.shape[-1]}")
    b, original, soft = len(x), x.float(), blurred.float()
    halved = F.interpolate(original, scale_factor=0.5, mode="area")
    halved = F.interpolate(halved, size=x.shape[-2:], mode="bilinear", align_corners=False)

    kind = torch.randint(4, (b,), generator=rng, device=x.device)
    s, shrink, coin = torch.rand(3, b, 1, 1, 1, generator=rng, device=x.device)
    weakened = 0.5 * s * original + (1 - 0.5 * s) * soft
    versions = torch.stack([soft, image.gaussian_blur(x, 2.0).float(), halved, weakened])
    out = versions[kind, torch.arange(b, device=x.device)]

    mean = out.mean((1, 2, 3), keepdim=True)
    out = torch.where(coin < 0.5, mean + (out - mean) * (0.3 + 0.7 * shrink), out)
    return out.round().clamp(0, 255).to(torch.uint8)


def ccm_simplify(
    x: Tensor,
    partner: Tensor | None = None,
    *,
    rng: torch.Generator,
    alpha: float = 1.0,
    mode: str = "at_least_one",
) -> Tensor:
    """CCM and then `simplify`, combined as the paper combines CCM and blur; see `image.ccm_gaussian`.

    Args:
        x, partner, rng, alpha: as in `image.cutmix`.
        mode: as in `image.ccm_gaussian`.
    Returns:
        One outlier per image, shape and device of x.
    """
    partner = image.partner_of(x, partner)
    is_augmented, is_simplified = image.coins(mode, len(x), rng, x.device)
    x_aug = torch.where(is_augmented.view(-1, 1, 1, 1), image.ccm(x, partner, rng=rng, alpha=alpha), x)
    return torch.where(is_simplified.view(-1, 1, 1, 1), simplify(x_aug, rng=rng), x_aug)
