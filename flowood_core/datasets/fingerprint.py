"""The fingerprint of a data set: mean and sd of C(x), held against those that the paper prints (Table 7).

A hash says that a file is the one somebody hashed; a fingerprint says that the images went through the same
hands as the paper's. A stand-in, another crop, a lossy copy or a resize with another filter moves C by
0.1 to 1 bit per dimension, while 1,000 images know their mean to about 0.02.
"""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from flowood_core.complexity import image_complexity
from flowood_core.datasets import registry
from flowood_core.outliers.image import gaussian_blur

__all__ = ["Fingerprint", "Verdict", "check", "fingerprint"]

ALLOWANCE = (
    0.05  # bits per dimension, for what is no chance: two printed digits, versions of codec and decoder
)
STANDARD_ERRORS = 3
SD_RATIO = 1.15
FEWEST = 200  # below, the tolerance would be so wide that a stand-in passes


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Mean and sd of C(x) over n images, in bits per dimension, plain and after the blur of radius 1."""

    mean: float
    sd: float
    n: int
    blurred_mean: float | None = None
    blurred_sd: float | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether images are those of the paper, as far as C(x) can tell.

    Attributes:
        accepted: every statistic within its tolerance.
        expected, got: the printed fingerprint and the measured one.
        tolerance: allowed distance of the means, in bits per dimension.
        distance: the worst statistic in units of its tolerance; up to 1 is accepted. Orders candidates.
        sentence: all of it, for a reader.
    """

    accepted: bool
    expected: registry.Expected | None
    got: Fingerprint
    tolerance: float
    distance: float
    sentence: str


def fingerprint(
    x: UInt8[Tensor, "n c h w"], n: int = 1000, seed: int = 0, *, blurred: bool = False
) -> Fingerprint:
    """Mean and sd of C(x) over n images drawn without replacement (over all where there are fewer).

    Args:
        x: 8-bit images, as stored on disk.
        n, seed: how many are measured (0.5 ms each), and which.
        blurred: measure them after the paper's Gaussian blur too.
    """
    if len(x) > n:
        x = x[torch.from_numpy(np.random.default_rng(seed).permutation(len(x))[:n].copy())]
    plain = image_complexity(x)
    soft = image_complexity(gaussian_blur(x)) if blurred else None
    return Fingerprint(
        float(plain.mean()),
        float(plain.std(correction=0)),
        len(x),
        None if soft is None else float(soft.mean()),
        None if soft is None else float(soft.std(correction=0)),
    )


def check(name: str, x: UInt8[Tensor, "n c h w"], n: int = 1000, seed: int = 0) -> Verdict:
    """Are these the images that the paper calls `name`? Judged by C(x) alone.

    The mean may differ from the printed one by 3 standard errors, sd/sqrt(n), the chance of the draw (one
    true set in 370 falls outside), plus 0.05 for what is no chance: the print has two digits (0.005), the
    paper's own mean is over an unknown number of images (0.02 if 1,000), and the rest is left to other
    versions of the codec and of JPEG decoders, which we have not measured. The sd may differ by a factor
    1.15: its own standard error is 2 to 4 % at n = 1,000, and two printed digits of 0.46 are 1 %. Where
    Table 7 prints the blurred set too, the same bounds hold for the blurred images.

    It cannot tell CIFAR-10 from CIFAR-100 (6.74 and 6.68): the hash does. On real data it refuses scenes of
    Tiny-ImageNet as LSUN (7.13 for 5.44) and unaligned faces as CelebA (6.75 for 6.33) by the mean, and those
    faces as CIFAR-10, whose mean they have, by the sd (0.50 for 0.66).

    Returns:
        The verdict. A set for which nothing is printed, or fewer than 200 images, is never accepted.
    """
    printed, printed_blurred = registry.expected(name), registry.expected(name, blurred=True)
    got = fingerprint(x, n, seed, blurred=printed_blurred is not None)
    if printed is None:
        sentence = f"{name}: C(x) is {got.mean:.3f} ± {got.sd:.3f}, but the paper prints none to compare with"
        return Verdict(False, None, got, math.nan, math.inf, sentence)
    tolerance, distance = _distance(printed, got.mean, got.sd, got.n)
    sentence = (
        f"{name}: expected C(x) {printed.mean:.2f} ± {printed.sd:.2f} "
        f"(mean within {tolerance:.2f}, sd within a factor {SD_RATIO}), "
        f"got {got.mean:.3f} ± {got.sd:.3f} over {got.n} images"
    )
    if printed_blurred is not None:
        distance = max(distance, _distance(printed_blurred, got.blurred_mean, got.blurred_sd, got.n)[1])
        sentence += (
            f"; blurred {printed_blurred.mean:.2f} ± {printed_blurred.sd:.2f}, "
            f"got {got.blurred_mean:.3f} ± {got.blurred_sd:.3f}"
        )
    if got.n < FEWEST:
        sentence += f"; too few images to judge, at least {FEWEST} are needed"
    accepted = distance <= 1 and got.n >= FEWEST
    return Verdict(
        accepted, printed, got, tolerance, distance, sentence + (": accepted" if accepted else ": refused")
    )


def _distance(printed: registry.Expected, mean: float, sd: float, n: int) -> tuple[float, float]:
    """Tolerance of the mean, and the worse of the two statistics in units of its tolerance."""
    tolerance = STANDARD_ERRORS * printed.sd / math.sqrt(n) + ALLOWANCE
    spread = abs(math.log(sd / printed.sd)) / math.log(SD_RATIO) if sd > 0 else math.inf
    return tolerance, max(abs(mean - printed.mean) / tolerance, spread)
