"""Statistics of an image's surface: numbers that say how detail, colour and quantisation belong together.

A flow on pixels adds up small surprises of every pixel, and a picture that lacks one thing alone (its colour, the
finest of its detail) has few of them. Natural images lack nothing alone: how much detail one octave has says how much
the next has, in every channel, and steps between neighbours come in all sizes. A density on these numbers sees what
does not fit. They need no network and no weights, and they know nothing of what the picture shows; how it was resized
or compressed they know very well.

Which numbers: those of turns, lags and colours were added after a first trial, in which median filters were found in
part, in a battery made of CIFAR-10 training images. No test set was looked at.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowood_core.system.progress import track

__all__ = ["LEAST_SIDE", "NAME", "ImageStatistics"]

NAME = "statistics"
VERSION = 1  # of the numbers; a level fitted on others is refused
LEAST_SIDE = 4
BATCH = 256

# Band k holds the cosines whose higher frequency lies in [EDGES[k], EDGES[k + 1]), 1 being one sign change a pixel.
EDGES = (*(at / 32 for at in (1, 2, 3, 4, 6, 8, 11, 14, 17, 20, 23, 26, 29)), math.inf)
STEPS = (0, 1, 3)  # grey levels: steps between neighbours no larger than these are counted
BLOCK = 8  # of JPEG
DIAGONALS = ((1, 4), (4, 7), (7, 10), (10, 15))  # of a block's cosines, by the sum of both frequencies
SMALL_COSINE = 1.5  # grey levels: rounded to zero by quantisation
ROUNDING = 1 / 12  # variance of a value's rounding, in squared grey levels
LEAST_SHARE, LEAST_SHAPE, LEAST_POWER = 1e-2, 0.05, 0.5
LAGGED = 4.0  # brings an autocorrelation to the spread of the other numbers

OPPONENT = ((1, 1, 1), (1, 0, -1), (1, -2, 1))  # rows: brightness, red against blue, green against both


class ImageStatistics:
    """Statistics of 8-bit images, as `features.images.ImageEncoder` gives features of a network.

    With y the image in an orthonormal opponent colour space (brightness, red against blue, green against both):

    - the logarithm of the mean energy of y's cosine transform in 13 bands, and where only one direction is fine;
    - the log odds of a step of at most 0, 1 and 3 grey levels between neighbours, in each channel and between channels;
    - mean |step| by root mean square of the steps and of the Laplacian of y, in logarithms, and the Laplacian's power;
    - the log odds of a small cosine in blocks of 8 x 8, in four groups of frequencies;
    - the log odds that two steps in a row have opposite signs, and of a pixel above or below its four neighbours;
    - autocorrelation of the steps at a distance of one pixel, and Fisher's z of their correlation between colours.

    All are logarithms, log odds or correlations, so that their spread is alike, and none depends on the size of the
    image by its unit. With 3 x 32 x 32 there are 114; what an image is too small or too grey for is left out.

    Args:
        shape: (c, h, w) of the images, c = 1 or 3.
    Raises:
        ValueError: another number of channels, or a side below 4 pixels.
    """

    name = NAME
    label = "statistics of detail, colour and quantisation"

    def __init__(self, shape: tuple[int, int, int]):
        c, h, w = (int(side) for side in shape)
        if c not in (1, 3) or min(h, w) < LEAST_SIDE:
            raise ValueError(
                f"expected images of one channel or three and of {LEAST_SIDE} pixels a side or more for "
                f"{NAME!r}, got {(c, h, w)}; bring them to that, or look at the pixels alone"
            )
        self.shape = (c, h, w)
        self.d: int = self._numbers(torch.zeros(1, c, h, w, dtype=torch.uint8)).shape[1]

    def encode(self, x: Tensor, *, label: str = "images") -> np.ndarray:
        """The statistics of each image, float32 (n, d).

        Args:
            x: uint8 (n, c, h, w) of the shape above.
            label: shown with the progress.
        Raises:
            TypeError: not 8-bit. ValueError: of another shape.
        """
        if not isinstance(x, Tensor) or x.dtype != torch.uint8:
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"expected images as a uint8 tensor 0..255, got {got}")
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected images (n, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        found = [np.empty((0, self.d), np.float32)]
        with track(len(x), f"statistics of {label}") as progress, torch.inference_mode():
            for part in x.split(BATCH):
                found.append(self._numbers(part).cpu().numpy())
                progress.update(len(part))
        return np.concatenate(found)

    def facts(self) -> dict[str, Any]:
        """What a level records about its features; see `ImageEncoder.facts`."""
        return {
            "encoder": NAME,
            "label": self.label,
            "d": self.d,
            "shape": list(self.shape),
            "version": VERSION,
        }

    def _numbers(self, x: Tensor) -> Tensor:
        x = x.float()
        y = x if x.shape[1] == 1 else torch.einsum("ij,njhw->nihw", _opponent(x.device), x)
        groups = [*_bands(y), *_small_steps(x), *_step_shapes(y)]
        if min(x.shape[2:]) >= BLOCK:
            groups += _small_cosines(y)
        groups += [*_turns(x), *_lags(y)]
        if x.shape[1] == 3:
            groups += _colours_together(x)
        return torch.cat(groups, 1)


# --- the groups, each float32 (n, numbers) -------------------------------------------------------------------


def _bands(y: Tensor) -> Iterator[Tensor]:
    h, w = y.shape[2:]
    energy = (_cosines(h, y.device) @ y @ _cosines(w, y.device).T).square()
    down, across = torch.arange(h, device=y.device) / h, torch.arange(w, device=y.device) / w
    higher = torch.maximum(down[:, None], across[None])
    for low, high in itertools.pairwise(EDGES):
        is_in = (higher >= low) & (higher < high)
        if is_in.any():
            yield _log_power(energy[:, :, is_in])
    yield _log_power(energy[:, :, h // 2 :, : w // 4].flatten(2))
    yield _log_power(energy[:, :, : h // 4, w // 2 :].flatten(2))


def _small_steps(x: Tensor) -> Iterator[Tensor]:
    for step in _steps(x):
        yield from (_log_odds(step.abs() <= most) for most in STEPS)
    if x.shape[1] == 3:
        across, _ = _steps(x[:, :2] - x[:, 1:])
        yield from (_log_odds(across.abs() <= most) for most in STEPS)


def _step_shapes(y: Tensor) -> Iterator[Tensor]:
    across, down = _steps(y)
    inner = 4 * y[..., 1:-1, 1:-1]
    laplacian = inner - y[..., :-2, 1:-1] - y[..., 2:, 1:-1] - y[..., 1:-1, :-2] - y[..., 1:-1, 2:]
    yield _log_power(laplacian.square().flatten(2))
    for of in (across, down, laplacian):
        rms = (of.square().mean((2, 3)) + ROUNDING).sqrt()
        yield (of.abs().mean((2, 3)) / rms + LEAST_SHAPE).log()


def _small_cosines(y: Tensor) -> Iterator[Tensor]:
    basis = _cosines(BLOCK, y.device)
    blocks = y.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
    is_small = (basis @ blocks @ basis.T).abs() < SMALL_COSINE
    place = torch.arange(BLOCK, device=y.device)
    both = place[:, None] + place[None]
    for low, high in DIAGONALS:
        yield _log_odds(is_small[..., (both >= low) & (both < high)].flatten(3))


def _turns(x: Tensor) -> Iterator[Tensor]:
    for step, dim in zip(_steps(x), (3, 2), strict=True):
        first, second = _neighbours(step, dim)
        yield _log_odds(first * second < 0)
    inner = x[..., 1:-1, 1:-1]
    around = torch.stack([x[..., :-2, 1:-1], x[..., 2:, 1:-1], x[..., 1:-1, :-2], x[..., 1:-1, 2:]])
    yield _log_odds((inner > around.amax(0)) | (inner < around.amin(0)))


def _lags(y: Tensor) -> Iterator[Tensor]:
    for step, dim in zip(_steps(y), (3, 2), strict=True):
        first, second = _neighbours(step, dim)
        yield LAGGED * (first * second).mean((2, 3)) / (step.square().mean((2, 3)) + LEAST_POWER)


def _colours_together(x: Tensor) -> Iterator[Tensor]:
    for step in _steps(x):
        power = step.square().mean((2, 3)) + LEAST_POWER
        other, other_power = step.roll(1, 1), power.roll(1, 1)
        r = (step * other).mean((2, 3)) / (power * other_power).sqrt()
        yield torch.atanh(r.clamp(-0.9995, 0.9995))


# --- parts -----------------------------------------------------------------------------------------------------


def _steps(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours, across and down."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def _neighbours(step: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    n = step.shape[dim] - 1
    return step.narrow(dim, 0, n), step.narrow(dim, 1, n)


def _log_power(energy: Tensor) -> Tensor:
    return (energy.mean(-1) + ROUNDING).log()


def _log_odds(is_so: Tensor) -> Tensor:
    share = is_so.float().mean((2, 3))
    return ((share + LEAST_SHARE) / (1 - share + LEAST_SHARE)).log()


@functools.cache
def _cosines(n: int, device: torch.device) -> Tensor:
    """Orthonormal DCT-II, (n, n): row k has frequency k."""
    k = torch.arange(n, dtype=torch.float64)
    basis = math.sqrt(2 / n) * torch.cos(math.pi * (k + 0.5) * k[:, None] / n)
    basis[0] /= math.sqrt(2)
    return basis.float().to(device)


@functools.cache
def _opponent(device: torch.device) -> Tensor:
    rows = torch.tensor(OPPONENT, dtype=torch.float64)
    return (rows / rows.norm(dim=1, keepdim=True)).float().to(device)
