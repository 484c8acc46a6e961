"""How well scores separate OOD from ID, and how sure we are.

One orientation everywhere: a higher score means more OOD, and OOD is the positive class. Each rate says in
its name or first line what it is a share of, since the field does not agree (FPR95 has two meanings, AUPR
has two). Every value is a fraction in [0, 1]; tables multiply by 100.

The five metrics take score arrays shaped (..., n) and (..., m) and work along the last axis, so that many
repetitions are one call; leading axes broadcast. Ties are counted as ties, never broken by order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

_CELLS = 2**21  # entries of one temporary array in `evaluate`: 16 MB in float64


class Estimate(NamedTuple):
    """A value with its confidence interval; the bounds are nan where one sample cannot give them."""

    value: float
    low: float
    high: float


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1 in the denominator; nan for one draw) over repeated draws."""

    mean: float
    sd: float


# --- metrics ---------------------------------------------------------------------------------------------


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float | np.ndarray:
    """AUROC: the chance that an OOD score exceeds an ID score, a tie counting one half.

    Equal to `sklearn.metrics.roc_auc_score` with OOD as the positive class.

    Args:
        id_scores: shaped (..., n), higher = more OOD.
        ood_scores: shaped (..., m).
    Returns:
        A float for one-dimensional scores, else an array shaped (...). 0.5 is chance, below it is the bias of
        section 2.1: simple OOD taken for ID.
    """
    return _metric(_auroc, id_scores, ood_scores)


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float | np.ndarray:
    """AUPR-OUT: average precision with OOD as the positive class; the AUPR of our tables.

    AP = sum over distinct thresholds of (recall gained there) * (precision there), without interpolation:
    `sklearn.metrics.average_precision_score`. The trapezoid some libraries use is more optimistic. Chance is
    the share of OOD in the sample, so values at different n : m do not compare.
    """
    return _metric(_aupr_out, id_scores, ood_scores)


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float | np.ndarray:
    """AUPR-IN: average precision with ID as the positive class, found by low scores."""
    return _metric(_aupr_in, id_scores, ood_scores)


def fpr95_id95(id_scores: ArrayLike, ood_scores: ArrayLike) -> float | np.ndarray:
    """FPR95, share of OOD accepted as ID while 95 % of ID are kept; lower is better (eq. 6, ODIN).

    Eq. 6 keeps S < gamma. gamma is the lowest threshold that keeps at least ceil(0.95 n) ID scores, so the
    value is the share of OOD scores <= the ceil(0.95 n)-th smallest ID score. No interpolation; a tie with
    that score is accepted. `scores.Threshold.fit_quantile` sets the same gamma.
    """
    return _metric(_fpr95_id95, id_scores, ood_scores)


def fpr95_ood95(id_scores: ArrayLike, ood_scores: ArrayLike) -> float | np.ndarray:
    """FPR95, share of ID flagged while 95 % of OOD are caught; lower is better (OpenOOD, pytorch-ood).

    The threshold is the highest that flags (S >= gamma) at least ceil(0.95 m) OOD scores, so the value is the
    share of ID scores >= the ceil(0.95 m)-th largest OOD score. No interpolation.
    """
    return _metric(_fpr95_ood95, id_scores, ood_scores)


def evaluate(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    n_boot: int = 1000,
    level: float = 0.95,
    rng: np.random.Generator | int,
    wanted: Collection[str] | None = None,
) -> dict[str, Estimate | int]:
    """All metrics of one pair of samples, each with a percentile bootstrap interval.

    Both samples are redrawn with replacement, each at its own size (stratified). The interval speaks of the
    choice of test samples only; for the choice of training seed see `seeds_interval`. Where a metric sits at
    0 or 1 every redraw sits there too, and the interval has no width.

    Args:
        id_scores: shaped (n,), higher = more OOD.
        ood_scores: shaped (m,).
        n_boot: redraws; 0 leaves the bounds nan.
        level: coverage of the interval.
        rng: generator or seed.
        wanted: names of metrics, on the same redraws as all of them; None is all.
    Returns:
        "auroc", "aupr_out", "aupr_in", "fpr95_id95" and "fpr95_ood95", each an Estimate, and the counts
        "n_id" and "n_ood".
    """
    id_, ood = _scores("id_scores", id_scores), _scores("ood_scores", ood_scores)
    for name, scores in (("id_scores", id_), ("ood_scores", ood)):
        if scores.ndim != 1:
            raise ValueError(
                f"expected {name} shaped (n,), got {scores.shape}; call evaluate once per sample"
            )
    _check_level(level)
    if n_boot < 0:
        raise ValueError(f"expected n_boot to be 0 or more, got {n_boot}")
    if unknown := set(wanted or ()) - set(_METRICS):
        raise ValueError(f"expected wanted from {', '.join(_METRICS)}, got {', '.join(sorted(unknown))}")
    chosen = {name: _METRICS[name] for name in (_METRICS if wanted is None else wanted)}
    values = {name: metric(_curve(id_, ood)) for name, metric in chosen.items()}
    if n_boot == 0:
        intervals = dict.fromkeys(chosen, (math.nan, math.nan))
    else:
        redraws = _bootstrap(id_, ood, n_boot, _generator(rng), chosen)
        tails = ((1 - level) / 2, (1 + level) / 2)
        intervals = {name: np.quantile(redraw, tails) for name, redraw in redraws.items()}
    result: dict[str, Estimate | int] = {
        name: Estimate(float(values[name]), *map(float, intervals[name])) for name in chosen
    }
    return result | {"n_id": len(id_), "n_ood": len(ood)}


def seeds_interval(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Mean over training seeds with Student's t interval; the bounds are nan for a single seed."""
    values = _scores("values", values)
    if values.ndim != 1:
        raise ValueError(f"expected one value per seed, shaped (n,), got {values.shape}")
    _check_level(level)
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Estimate(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, df=n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half)


def subsample_protocol(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    n: int = 1000,
    draws: int = 5,
    *,
    rng: np.random.Generator | int,
) -> Spread:
    """AUROC as the paper tests it, on n random ID and n random OOD samples, repeated `draws` times.

    Within a draw nobody is drawn twice. The spread between draws shows how much of a printed digit is luck.
    """
    id_, ood = _scores("id_scores", id_scores), _scores("ood_scores", ood_scores)
    for name, scores in (("id_scores", id_), ("ood_scores", ood)):
        if scores.ndim != 1 or len(scores) < n:
            raise ValueError(
                f"expected {name} shaped (at least {n},), got {scores.shape}; lower n to what there is"
            )
    if n < 1 or draws < 1:
        raise ValueError(f"expected n and draws to be 1 or more, got n={n}, draws={draws}")
    rng = _generator(rng)
    drawn = [(rng.choice(id_, n, replace=False), rng.choice(ood, n, replace=False)) for _ in range(draws)]
    values = auroc(np.stack([i for i, _ in drawn]), np.stack([o for _, o in drawn]))
    return Spread(float(values.mean()), float(values.std(ddof=1)) if draws > 1 else math.nan)


# --- the curve behind all five ---------------------------------------------------------------------------


class _Curve(NamedTuple):
    """Counts flagged as the threshold falls: column k holds how many ID and OOD have S >= t_k, t falling.

    Starts with nobody flagged, ends with everybody; a column may repeat, which adds nothing to any metric.
    """

    id_flagged: np.ndarray  # shaped (..., k)
    ood_flagged: np.ndarray


def _curve(id_scores: np.ndarray, ood_scores: np.ndarray) -> _Curve:
    """Sort the pooled scores; every member of a tie takes the counts of the whole tie."""
    n = id_scores.shape[-1]
    lead = np.broadcast_shapes(id_scores.shape[:-1], ood_scores.shape[:-1])
    pooled = np.concatenate(
        [np.broadcast_to(s, (*lead, s.shape[-1])) for s in (id_scores, ood_scores)], axis=-1
    )
    order = np.argsort(-pooled, axis=-1)
    falling = np.take_along_axis(pooled, order, axis=-1)
    is_id = order < n
    k = pooled.shape[-1]
    ends_tie = np.ones(pooled.shape, dtype=bool)
    ends_tie[..., :-1] = falling[..., 1:] != falling[..., :-1]
    end = np.where(ends_tie, np.arange(k), k - 1)
    end = np.minimum.accumulate(end[..., ::-1], axis=-1)[..., ::-1]
    counts = (np.take_along_axis(np.cumsum(one, axis=-1), end, axis=-1) for one in (is_id, ~is_id))
    return _Curve(*map(_from_zero, counts))


def _from_zero(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(counts[..., :1]), counts], axis=-1)


def _mirrored(curve: _Curve) -> _Curve:
    """The curve with the classes exchanged and every score negated: counts *kept* as the threshold rises."""
    flipped = [counts[..., -1:] - counts[..., ::-1] for counts in curve]
    return _Curve(id_flagged=flipped[1], ood_flagged=flipped[0])


def _auroc(curve: _Curve) -> np.ndarray:
    flagged, caught = curve
    area = np.sum(np.diff(flagged) * (caught[..., 1:] + caught[..., :-1]), axis=-1, dtype=np.float64) / 2
    return area / flagged[..., -1] / caught[..., -1]


def _aupr_out(curve: _Curve) -> np.ndarray:
    flagged, caught = (counts[..., 1:] for counts in curve)
    gained = np.diff(curve.ood_flagged)
    precision = caught / np.maximum(caught + flagged, 1)  # 0 / 0 only where nothing is gained
    return np.sum(gained * precision, axis=-1) / caught[..., -1]


def _aupr_in(curve: _Curve) -> np.ndarray:
    return _aupr_out(_mirrored(curve))


def _fpr95_ood95(curve: _Curve) -> np.ndarray:
    flagged, caught = curve
    needed = math.ceil(0.95 * caught.flat[-1])
    first = np.argmax(caught >= needed, axis=-1)[..., None]
    return np.take_along_axis(flagged, first, axis=-1)[..., 0] / flagged[..., -1]


def _fpr95_id95(curve: _Curve) -> np.ndarray:
    return _fpr95_ood95(_mirrored(curve))


_Metrics = Mapping[str, Callable[[_Curve], np.ndarray]]
_METRICS: _Metrics = {
    "auroc": _auroc,
    "aupr_out": _aupr_out,
    "aupr_in": _aupr_in,
    "fpr95_id95": _fpr95_id95,
    "fpr95_ood95": _fpr95_ood95,
}


def _bootstrap(
    id_scores: np.ndarray,
    ood_scores: np.ndarray,
    n_boot: int,
    rng: np.random.Generator,
    chosen: _Metrics = _METRICS,
) -> dict[str, np.ndarray]:
    """Each chosen metric of `n_boot` redraws, shaped (n_boot,).

    A redraw only changes how often each score occurs, so the scores are sorted once and a redraw is a row of
    counts. Each sample has its own stream: the result does not depend on how the rows are cut into chunks.
    """
    distinct, bins = np.unique(-np.concatenate([id_scores, ood_scores]), return_inverse=True)
    k, n = len(distinct), len(id_scores)
    samples = list(zip((bins[:n], bins[n:]), rng.spawn(2), strict=True))
    rows = max(1, _CELLS // max(k, len(bins)))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    for start in range(0, n_boot, rows):
        b = min(rows, n_boot - start)
        curve = _Curve(*(_redrawn_counts(sample, k, b, stream) for sample, stream in samples))
        for name, metric in chosen.items():
            parts[name].append(metric(curve))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _redrawn_counts(bins: np.ndarray, k: int, b: int, rng: np.random.Generator) -> np.ndarray:
    """b redraws of one sample as cumulative counts over k distinct falling scores, shaped (b, 1 + k)."""
    drawn = bins[rng.integers(len(bins), size=(b, len(bins)))] + (k * np.arange(b))[:, None]
    counts = np.bincount(drawn.ravel(), minlength=b * k).reshape(b, k)
    return _from_zero(np.cumsum(counts, axis=-1))


# --- checks ----------------------------------------------------------------------------------------------


def _metric(
    metric: Callable[[_Curve], np.ndarray], id_scores: ArrayLike, ood_scores: ArrayLike
) -> float | np.ndarray:
    value = metric(_curve(_scores("id_scores", id_scores), _scores("ood_scores", ood_scores)))
    return float(value) if np.ndim(value) == 0 else value


def _scores(name: str, scores: ArrayLike) -> np.ndarray:
    """Finite float64 scores (from a tensor on any device, too), or an error that says how many are not."""
    if hasattr(scores, "detach"):
        scores = scores.detach().cpu().double().numpy()
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim == 0 or scores.size == 0:
        raise ValueError(
            f"expected {name} with at least one score, shaped (..., n), got shape {scores.shape}"
        )
    n_bad = int(np.count_nonzero(~np.isfinite(scores)))
    if n_bad:
        n_nan = int(np.count_nonzero(np.isnan(scores)))
        raise ValueError(
            f"expected finite {name}, got {n_bad} of {scores.size} that are not ({n_nan} nan, "
            f"{n_bad - n_nan} infinite); look for a diverged flow or an overflow where the scores are made"
        )
    return scores


def _generator(rng: np.random.Generator | int) -> np.random.Generator:
    if rng is None:
        raise TypeError(
            "expected rng to be a numpy Generator or a seed, got None: a table must be reproducible"
        )
    return np.random.default_rng(rng)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, such as 0.95, got {level}")


# --- Fig. 3 in numbers -------------------------------------------------------------------------------------


class Bias(NamedTuple):
    """How log-likelihood follows complexity over pooled sets.

    Attributes:
        slope: least squares, nats per bit/dim; negative means that simpler images are likelier (the bias).
        r: correlation over all points.
        partial_r: correlation inside the sets: set means removed from both, so that it cannot come from one
            set being both simpler and likelier.
    """

    slope: float
    r: float
    partial_r: float


def complexity_bias(complexity: Sequence[ArrayLike], log_p: Sequence[ArrayLike]) -> Bias:
    """Slope and correlations of log-likelihood on complexity C(x), one array per set in each argument.

    Raises:
        ValueError: another number of sets or of samples on the two sides, or a constant complexity.
    """
    c, lp = [np.asarray(a, float) for a in complexity], [np.asarray(a, float) for a in log_p]
    if not c or [a.shape for a in c] != [a.shape for a in lp]:
        raise ValueError(
            f"expected the same sets on both sides, got sizes {[a.size for a in c]} and {[a.size for a in lp]}"
        )
    x, y = np.concatenate(c), np.concatenate(lp)
    if np.ptp(x) == 0:
        raise ValueError("expected complexities that vary, got a constant; a slope needs two values")
    inside = [np.concatenate([a - a.mean() for a in arrays]) for arrays in (c, lp)]
    return Bias(float(np.polyfit(x, y, 1)[0]), _correlation(x, y), _correlation(*inside))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    spread = np.std(x) * np.std(y)
    return float("nan") if spread == 0 else float(np.mean((x - x.mean()) * (y - y.mean())) / spread)
