"""What JPEG leaves of an image, on tensors: blocks of 8 x 8 cosines, quantised by the tables of the standard.

Nothing is entropy-coded and no bytes are made; the pixels are those that a decoder would show, on average within half
a grey level of Pillow's up to quality 30. Every product is an integer times a multiple of 2^-20, exact in float64, so
that each device gives the same bits.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["compress", "quantisation"]

# ITU-T T.81, Annex K, tables K.1 and K.2
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32,
)  # fmt: skip
# JFIF: luminance and the two colour differences of RGB, and back
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
GRID = 2.0**20


def compress(x: Tensor, quality: Tensor) -> Tensor:
    """Each image as JPEG of its own quality would show it.

    RGB goes to luminance and two colour differences at half the resolution, as Pillow does by default; any other
    number of channels is taken for so many grey images.

    Args:
        x: 8-bit images (b, c, h, w), any size.
        quality: one integer per image, 1 to 100, in the scale of the Independent JPEG Group.
    Returns:
        8-bit images, shape and device of x.
    """
    *_, h, w = x.shape
    if x.shape[1] != 3:
        return _bytes(_coded(x.double(), quantisation(quality, LUMINANCE)))
    luminance, *differences = _mixed(x.double(), TO_YCC).unbind(1)
    luminance = _coded(luminance[:, None], quantisation(quality, LUMINANCE))
    differences = _coded_at_half(torch.stack(differences, 1) + 128, quantisation(quality, CHROMINANCE)) - 128
    return _bytes(_mixed(torch.cat([luminance, differences[..., :h, :w]], 1), TO_RGB))


def quantisation(quality: Tensor, table: tuple[int, ...]) -> Tensor:
    """Step of each of the 64 cosines at a quality: (b, 64), float64 integers from 1 to 255."""
    quality = quality.double()[:, None]
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = torch.tensor(table, dtype=torch.float64, device=quality.device)
    return ((steps * scale + 50) / 100).floor().clamp(1, 255)


def _coded_at_half(planes: Tensor, steps: Tensor) -> Tensor:
    """Half the resolution, quantised, and enlarged between the points again."""
    *_, h, w = planes.shape
    planes = F.pad(planes, (0, w % 2, 0, h % 2), mode="replicate")
    small = _rounded(F.avg_pool2d(planes, 2))
    return _rounded(F.interpolate(_coded(small, steps), scale_factor=2, mode="bilinear"))


def _coded(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (b, c, h, w) of 0..255 after their cosines were rounded to multiples of `steps` (b, 64)."""
    b, c, h, w = planes.shape
    padded = F.pad(planes, (0, -w % 8, 0, -h % 8), mode="replicate") - 128
    rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
    blocks = padded.view(b, c, rows, 8, columns, 8).permute(0, 1, 2, 4, 3, 5).reshape(b, -1, 64)
    cosines = _cosines(planes.device)
    steps = steps[:, None]
    wanted = blocks @ cosines / steps
    kept = (
        wanted.abs().add_(0.5).floor_().copysign_(wanted).mul_(steps)
    )  # halves away from zero, as encoders do
    blocks = (kept @ cosines.mT).view(b, c, rows, columns, 8, 8)
    padded = blocks.permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)
    return _rounded(padded[..., :h, :w] + 128)


@functools.lru_cache(maxsize=8)
def _cosines(device: torch.device) -> Tensor:
    """The orthonormal cosines of an 8 x 8 block, (64 pixels, 64 frequencies), on a grid that float64 keeps exact."""
    n = torch.arange(8, dtype=torch.float64)
    basis = ((2 * n[:, None] + 1) * n * torch.pi / 16).cos() / 2
    basis[:, 0] = 8**-0.5
    return (torch.kron(basis, basis) * GRID).round().div(GRID).to(device)


def _mixed(planes: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    weights = (torch.tensor(matrix, dtype=torch.float64, device=planes.device) * GRID).round() / GRID
    return _rounded((planes.movedim(1, -1) @ weights.mT).movedim(-1, 1))


def _rounded(values: Tensor) -> Tensor:
    """Between the stages JPEG keeps integers; colour differences lie around 0 here, and are clamped by the caller."""
    return (values + 0.5).floor()


def _bytes(planes: Tensor) -> Tensor:
    return planes.clamp(0, 255).to(torch.uint8)
