"""One kind of interval: [a, b] holds the expected value in 95 % of repetitions, over training seeds and test draws.

Every run of an ID set is tested on the same images. So a redraw says how often each *image* is drawn, and is the same
for all runs, methods and scores (`counts`): what an image does to both rows of a difference cancels. Seeds are few.
Three values redrawn with replacement hold their expectation in 75 % of repetitions only, so seeds enter by Student's
distribution instead (`over`).

A range of seeds is something else, and is written a–b.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from flowood_core import metrics

__all__ = ["REDRAWS", "Interval", "Sample", "auroc", "correlation", "counts", "mean", "metric", "of", "over"]

REDRAWS = 1000
_QUANTILES = 100  # of Student's distribution, in place of random draws of it


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A number measured on test images with one seed, and what it is on redraws of them.

    Attributes:
        value: on the images themselves.
        redraws: shaped (REDRAWS,); None where the number does not come from images that can be redrawn.
    """

    value: float
    redraws: np.ndarray | None = None

    def __sub__(self, other: "Sample") -> "Sample":
        """The difference on the same redraws."""
        return self._with(other, np.subtract)

    def __add__(self, other: "Sample") -> "Sample":
        return self._with(other, np.add)

    def __mul__(self, factor: float) -> "Sample":
        return Sample(factor * self.value, None if self.redraws is None else factor * self.redraws)

    def shifted(self, by: float) -> "Sample":
        return Sample(self.value + by, None if self.redraws is None else self.redraws + by)

    def _with(self, other: "Sample", combine: Callable) -> "Sample":
        both = self.redraws is not None and other.redraws is not None
        return Sample(
            combine(self.value, other.value), combine(self.redraws, other.redraws) if both else None
        )

    @classmethod
    def average(cls, samples: Sequence["Sample"]) -> "Sample":
        """Mean of several numbers of one seed, such as AUROCs over test sets."""
        total = functools.reduce(lambda a, b: a + b, samples)
        return total * (1 / len(samples))


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over seeds, its interval [low, high] (nan where nothing can be said), and the values of the seeds."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]
    drawn: bool = True  # whether test draws are in the interval

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def kind(self) -> str:
        """What the interval is over: seeds and test draws, seeds, test draws, or nothing."""
        over = ["seeds"] * (len(self.seeds) > 1) + ["test draws"] * self.drawn
        return " and ".join(over) or "nothing"

    def range(self, spec: str = ".1f") -> str:
        """The range of the seeds, a–b; one value where they do not differ."""
        low, high = (f"{v:{spec}}" for v in (min(self.seeds), max(self.seeds)))
        return low if low == high else f"{low}–{high}"

    def __format__(self, spec: str) -> str:
        """The value with its interval, "83.9 [49.4, 100.0]"; the value alone where there is none."""
        shown = f"{self.value:{spec}}"
        if not math.isfinite(self.low):
            return shown
        return f"{shown} [{self.low:{spec}}, {self.high:{spec}}]"


def over(
    samples: Iterable[Sample], *, level: float = 0.95, bounds: tuple[float, float] | None = None
) -> Interval:
    """Mean over seeds with its interval over seeds and test draws; one sample per seed.

    The interval is made of the quantiles of m_b + t s / sqrt(S): m_b is the mean of the S samples on redraw b of the
    images, the same for all seeds; t has Student's distribution with S - 1 degrees of freedom; s is the standard
    deviation of the values over seeds. With one seed it is over test draws alone, and a sample without redraws
    enters over seeds alone (`Interval.kind`).

    Args:
        bounds: the interval ends there, as a percentage does at 0 and 100.
    Raises:
        ValueError: no sample, or one that is not finite.
    """
    samples = list(samples)
    values = np.array([s.value for s in samples])
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"expected finite values, one per seed, got {values.tolist()}")
    drawn = all(s.redraws is not None for s in samples)
    moved = np.mean([s.redraws for s in samples], axis=0) if drawn else np.array([values.mean()])
    if len(values) > 1:
        ranks = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        t = stats.t.ppf(ranks, df=len(values) - 1)
        # the grid ends inside the tails; without redraws the exact quantile is known
        t = t if drawn else stats.t.ppf([(1 - level) / 2, (1 + level) / 2], df=len(values) - 1)
        moved = np.add.outer(t * values.std(ddof=1) / math.sqrt(len(values)), moved).ravel()
    elif not drawn:
        moved = np.array([np.nan])
    tails = [(1 - level) / 2, (1 + level) / 2] if drawn else [0, 1]
    low, high = np.quantile(moved, tails)
    if bounds is not None:
        low, high = np.clip([low, high], *bounds)
    return Interval(float(values.mean()), float(low), float(high), tuple(values.tolist()), drawn)


# --- redraws ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=48)
def counts(images: str, n: int, *, stream: int = 0, redraws: int = REDRAWS) -> np.ndarray:
    """How often each of n images is drawn in each redraw, float32 shaped (n, redraws); columns sum to n.

    The same for the same name and number on any machine, so that everything measured on these images is paired.
    """
    seed = int.from_bytes(hashlib.sha256(f"{images}/{n}/{stream}".encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n, size=(redraws, n)) + n * np.arange(redraws)[:, None]
    found = np.bincount(drawn.ravel(), minlength=redraws * n).reshape(redraws, n).T
    found = np.ascontiguousarray(found, dtype=np.float32)
    found.flags.writeable = False  # shared by all who ask
    return found


def of(images: str, values: ArrayLike, *, stream: int = 0) -> np.ndarray:
    """`counts` for as many images as there are values."""
    return counts(images, len(np.asarray(values)), stream=stream)


def metric(
    name: str, id_scores: ArrayLike, ood_scores: ArrayLike, id_counts: np.ndarray, ood_counts: np.ndarray
) -> Sample:
    """A metric of `metrics` by name, such as "auroc" or "fpr95_id95", with its redraws; a fraction."""
    id_, ood = np.asarray(id_scores, float), np.asarray(ood_scores, float)
    value = float(getattr(metrics, name)(id_, ood))
    return Sample(value, _REDRAWN[name](id_, ood, id_counts, ood_counts))


def auroc(
    id_scores: ArrayLike, ood_scores: ArrayLike, id_counts: np.ndarray, ood_counts: np.ndarray
) -> Sample:
    """`metrics.auroc` with its redraws; a fraction."""
    return metric("auroc", id_scores, ood_scores, id_counts, ood_counts)


def mean(values: ArrayLike, drawn: np.ndarray) -> Sample:
    """Mean over images with its redraws."""
    values = np.asarray(values, float)
    return Sample(float(values.mean()), values @ drawn / len(values))


def correlation(
    x: Mapping[str, ArrayLike], y: Mapping[str, ArrayLike], drawn: Sequence[np.ndarray]
) -> Sample:
    """Pearson's correlation of x and y over the images of several pooled sets, with its redraws.

    Args:
        x, y: one value per image, by set; both have the same sets.
        drawn: the counts of each set, in the order of x.
    """
    a, b = (np.concatenate([np.asarray(v[name], float) for name in x]) for v in (x, y))
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    weights = np.concatenate(list(drawn))
    moments = np.stack([a, b, a * a, b * b, a * b]) @ weights / weights.shape[0]
    ma, mb, aa, bb, ab = moments
    found = (ab - ma * mb) / np.sqrt((aa - ma**2) * (bb - mb**2))
    return Sample(float(np.mean(a * b)), found)


def _auroc(id_: np.ndarray, ood: np.ndarray, id_counts: np.ndarray, ood_counts: np.ndarray) -> np.ndarray:
    order = np.argsort(id_)
    rising = id_[order]
    below = _accumulated(id_counts[order])  # row k: how many of the k lowest ID scores were drawn
    left, right = (np.searchsorted(rising, ood, side) for side in ("left", "right"))
    beaten = below[left] if (left == right).all() else (below[left] + below[right]) / 2
    # whole and half numbers: float32 adds them without error up to 2^23
    exact = np.float32 if 2 * len(id_) * len(ood) < 2**23 else np.float64
    caught = np.einsum("mb,mb->b", beaten, ood_counts, dtype=exact, casting="same_kind")
    return caught.astype(np.float64) / (len(id_) * len(ood))


def _fpr95_id95(
    id_: np.ndarray, ood: np.ndarray, id_counts: np.ndarray, ood_counts: np.ndarray
) -> np.ndarray:
    order, rising = np.argsort(id_), np.argsort(ood)
    enough = _accumulated(id_counts[order])[1:] >= math.ceil(0.95 * len(id_))
    gamma = id_[order][enough.argmax(axis=0)]  # the lowest threshold that keeps 95 %, one per redraw
    accepted = _accumulated(ood_counts[rising])
    passing = np.searchsorted(ood[rising], gamma, "right")
    return accepted[passing, np.arange(len(passing))].astype(np.float64) / len(ood)


def _accumulated(drawn: np.ndarray) -> np.ndarray:
    """Running sums over the images, from 0: shaped (n, b) in, (1 + n, b) out."""
    found = np.concatenate([np.zeros_like(drawn[:1]), drawn])
    for above, row in itertools.pairwise(found):  # rows lie together: ten times faster than cumsum
        row += above
    return found


def _fpr95_ood95(
    id_: np.ndarray, ood: np.ndarray, id_counts: np.ndarray, ood_counts: np.ndarray
) -> np.ndarray:
    """The other convention with the classes exchanged and every score negated."""
    return _fpr95_id95(-ood, -id_, ood_counts, id_counts)


def _aupr_out(id_: np.ndarray, ood: np.ndarray, id_counts: np.ndarray, ood_counts: np.ndarray) -> np.ndarray:
    """Average precision: only where an OOD score lies is something gained, so only there precision is needed."""
    falling = np.argsort(-ood)
    at, drawn = -ood[falling], ood_counts[falling]
    caught = _accumulated(drawn)[np.searchsorted(at, at, "right")].astype(np.float64)  # ties count as one
    order = np.argsort(-id_)
    flagged = _accumulated(id_counts[order])[np.searchsorted(-id_[order], at, "right")]
    np.divide(caught, np.maximum(caught + flagged, 1), out=caught)  # 0 / 0 only where nothing is gained
    return np.einsum("mb,mb->b", caught, drawn) / len(ood)


def _aupr_in(id_: np.ndarray, ood: np.ndarray, id_counts: np.ndarray, ood_counts: np.ndarray) -> np.ndarray:
    """The same with the classes exchanged and every score negated."""
    return _aupr_out(-ood, -id_, ood_counts, id_counts)


_REDRAWN: dict[str, Callable[..., np.ndarray]] = {
    "auroc": _auroc,
    "aupr_out": _aupr_out,
    "aupr_in": _aupr_in,
    "fpr95_id95": _fpr95_id95,
    "fpr95_ood95": _fpr95_ood95,
}
