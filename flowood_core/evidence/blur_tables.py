"""Fig. 6: AUROC of Gaussian outliers by the radius of the blur, the paper's radius against the others, and the cost."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from flowood_core import datasets, intervals
from flowood_core.evidence import tables
from flowood_core.outliers.image import gaussian_blur
from flowood_core.runs import Run

__all__ = ["against", "by_seed", "complexity_left", "cost", "curve", "level", "of_every_seed"]


def complexity_left(ids: Iterable[str], radii: Sequence[float], n: int) -> pd.DataFrame:
    """Mean C(x) in bits per dimension of n blurred training images: radii in rows, ID sets in columns."""
    means = {}
    for id_ in ids:
        x = datasets.load(id_, "train").drawn(n, 0).x
        means[id_] = {r: datasets.complexity_of(gaussian_blur(x, r)).mean().item() for r in radii}
    return pd.DataFrame(means).rename_axis("radius")


def of_every_seed(finished: Sequence[Run]) -> list[Run]:
    """The runs at radii that every seed of their ID set has, so that no dip of a curve is a change of seeds."""
    seeds: dict[str, set[int]] = {}
    have: dict[tuple[str, float], set[int]] = {}
    for r in finished:
        seeds.setdefault(r.spec.id, set()).add(r.spec.seed)
        have.setdefault((r.spec.id, r.spec.blur_radius), set()).add(r.spec.seed)
    return [r for r in finished if have[r.spec.id, r.spec.blur_radius] == seeds[r.spec.id]]


def curve(finished: Sequence[Run], left: pd.DataFrame) -> pd.DataFrame:
    """The points of Fig. 6: id, ood, score (pz, px), radius, value, low, high, n_seeds and more, complexity.

    Args:
        finished: from `of_every_seed`.
        left: from `complexity_left`.
    """
    found = tables.over_seeds(_collected(finished), ["id", "ood", "score", "radius"])
    return found.assign(complexity=[left.at[r, i] for i, r in zip(found["id"], found["radius"], strict=True)])


def by_seed(finished: Sequence[Run]) -> pd.DataFrame:
    """What the points of Fig. 6 are means of: id, ood, score, radius, seed, value, a row per run and set."""
    return _collected(finished)[["id", "ood", "score", "radius", "seed", "value"]].reset_index(drop=True)


def _collected(finished: Sequence[Run]) -> pd.DataFrame:
    collected = tables.collect(finished)
    collected["radius"] = collected["run_id"].map({r.spec.run_id: r.spec.blur_radius for r in finished})
    return collected[(collected["metric"] == "auroc") & collected["score"].isin(["pz", "px"])]


def level(runs: Iterable[Run]) -> Mapping[tuple[str, str, str], float]:
    """Mean AUROC in percent by ID set, OOD set and score of flows that saw no outlier."""
    found = tables.collect(runs).query("metric == 'auroc'")
    return found.groupby(["id", "ood", "score"])["value"].mean().to_dict()


def against(finished: Sequence[Run], oods: Iterable[str], radius: float) -> pd.DataFrame:
    """AUROC at one radius, named beforehand, minus that at every other, seed by seed on the same images.

    The highest point of a curve is a maximum over its points, and no effect; so none is selected.

    Returns:
        Columns id, ood, score, other, value, low, high (percent points), n_seeds, interval; no rows of an ID set
        that was not run at the radius.
    """
    by = {(r.spec.id, r.spec.blur_radius, r.spec.seed): r for r in finished}
    rows = []
    for id_, other in sorted({(i, r) for i, r, _ in by if r != radius}):
        both = [(by[id_, radius, s], run) for (i, r, s), run in by.items()
                if (i, r) == (id_, other) and (id_, radius, s) in by]  # fmt: skip
        for ood in (o for o in oods if both and o in both[0][0].metrics["ood"]):
            for score in ("pz", "px"):
                drawn = [tables.sample(a, ood, score) - tables.sample(b, ood, score) for a, b in both]
                e = intervals.over(drawn, bounds=(-100, 100))
                rows.append((id_, ood, score, other, e.value, e.low, e.high, len(both), e.kind))
    named = ["id", "ood", "score", "other", "value", "low", "high", "n_seeds", "interval"]
    return pd.DataFrame(rows, columns=named)


def cost(finished: Iterable[Run]) -> pd.DataFrame:
    """ID test bits per dimension of every run: id, radius, seed, bpd."""
    rows = [(r.spec.id, r.spec.blur_radius, r.spec.seed, r.metrics["id"]["bpd"]) for r in finished]
    return pd.DataFrame(rows, columns=["id", "radius", "seed", "bpd"])
