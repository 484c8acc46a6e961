"""The level on statistics of an image's surface, beside the flow on pixels and beside no flow at all.

`Surface.fit` makes every score of `LABELS` on one ID set; `over_sets` and `battery.battery_table` judge them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from torch import Tensor

from flowood_core import datasets
from flowood_core.anyflow.join import Join
from flowood_core.anyflow.levels import FeatureLevel
from flowood_core.complexity import image_complexity
from flowood_core.evidence import beyond
from flowood_core.evidence.two_levels import Images, Scores, images_of, over_levels
from flowood_core.features.distances import Mahalanobis
from flowood_core.flow import Flow, densities
from flowood_core.notebook.reading import Said
from flowood_core.outliers import graded

__all__ = ["FOUND", "LABELS", "SETS_LABELS", "Surface", "battery_wide", "other_sets", "over_sets", "reading"]

LABELS = {
    "pixels": "flow on pixels",
    "mahalanobis": "Mahalanobis on statistics, no flow",
    "plain": "flow on statistics, eq. (2) alone",
    "statistics": "the same, with outliers",
    "joined": "pixels and statistics",
}
"""Score, higher = more OOD: its words. Pixels by -log p_X."""

SETS_LABELS = {"complexity": "−C(x) alone"} | LABELS
FOUND = 97.0  # AUROC in percent from which on a kind of simple pictures counts as found


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """The scores of `LABELS`, fitted on one ID set.

    Attributes:
        flow: on pixels.
        gauss, plain, level: on statistics: a normal distribution, a flow by eq. (2), and one by eq. (2) and (3).
        join: of the flow on pixels and `level`.
    """

    flow: Flow
    gauss: Mahalanobis
    plain: FeatureLevel
    level: FeatureLevel
    join: Join

    @classmethod
    def fit(
        cls, flow: Flow, images: Images, outliers: Callable[..., Tensor], *, seed: int = 0, **how: Any
    ) -> Self:
        """Fit what is to be fitted on `images.train`, and the scales of the join on `images.held`.

        Args:
            flow: on pixels, trained on the ID set; left as it is.
            outliers: images (x, partner, *, rng) -> x_out.
            seed: of both flows on statistics. how: their further parameters, see `FeatureLevel.on_statistics`.
        """
        key = (datasets.digest(images.train), outliers, seed, *sorted(how.items()))
        if key not in _FITTED:
            _FITTED[key] = _fitted(images.train, outliers, seed, how)
        gauss, plain, level = _FITTED[key]
        held = {"pixels": -densities(flow, images.held)[1], "statistics": level.score(images.held)}
        return cls(flow, gauss, plain, level, Join.fit(held))

    def scores(self, x: Tensor) -> dict[str, np.ndarray]:
        """Every score of images, uint8 (n, c, h, w), by name: float64 (n,), higher = more OOD."""
        rows = self.level.encoder.encode(x)
        of = {"pixels": -densities(self.flow, x)[1], "statistics": self.level.score_features(rows)}
        others = {"mahalanobis": self.gauss.score(rows), "plain": self.plain.score_features(rows)}
        found = of | others | {"joined": self.join(of)}
        return {name: found[name] for name in LABELS}

    def judged(self, images: Images) -> Scores:
        """`scores` and -C of every test image, by score and set; the ID set is called "ID"."""
        by_set = {name: self.scores(x) for name, x in images.judged.items()}
        alone = {name: -image_complexity(x).numpy() for name, x in images.judged.items()}
        return {"complexity": alone} | {
            score: {name: of[score] for name, of in by_set.items()} for score in LABELS
        }


_FITTED: dict[tuple[Any, ...], tuple[Mahalanobis, FeatureLevel, FeatureLevel]] = {}
"""What does not depend on the flow on pixels, by images, outliers and seed: several trainings are put beside it."""


def _fitted(
    x: Tensor, outliers: Callable[..., Tensor], seed: int, how: Mapping[str, Any]
) -> tuple[Mahalanobis, FeatureLevel, FeatureLevel]:
    plain, level = (FeatureLevel.on_statistics(x.shape[1:], seed=seed, **how) for _ in range(2))
    rows = level.encoder.encode(x, label="ID")
    made = level.encoder.encode(level.outliers_of(x, outliers), label="outliers")
    return Mahalanobis.fit(rows), plain.fit_features(rows), level.fit_features(rows, made)


def over_sets(by_training: Mapping[str, Sequence[Scores]]) -> pd.DataFrame:
    """AUROC of every score and set, over seeds and test draws, for the flows of several trainings on pixels.

    Args:
        by_training: from `Surface.judged`, one a seed, on the same images.
    Returns:
        training, score, ood, value, low, high (percent), n_seeds; and a set "mean" over the others.
    """
    parts = [over_levels(of).assign(training=name) for name, of in by_training.items()]
    frame = pd.concat(parts, ignore_index=True)
    return frame[["training", *frame.columns.drop("training")]]


def other_sets(profile: str, ids: Iterable[str], *, n_train: int, n_test: int) -> pd.DataFrame:
    """`over_sets` of `flowood` on further ID sets; its runs are trained where they are missing.

    Args:
        ids: ID sets with rows of `flowood` in the profile's grid; every OOD set of their runs is judged.
        n_train, n_test: images, see `two_levels.images_of`.
    Returns:
        id, score, ood, value, low, high (percent), n_seeds; empty without ids.
    """
    parts = []
    for id_ in ids:
        its = beyond.trained(profile, id_)[beyond.OURS]
        names = dict.fromkeys([*its[0].spec.ood, *its[0].spec.later])
        images = images_of(id_, names, n_train=n_train, n_test=n_test)
        fitted = [Surface.fit(run.flow(), images, graded.ccm_graded, seed=run.spec.seed) for run in its]
        over = over_levels([one.judged(images) for one in fitted])
        parts.append(over.assign(id=id_)[["id", *over.columns]])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def battery_wide(long: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of simple pictures, the worst of the last column first; a column per score, the mean over seeds.

    Args:
        long: `battery.battery_table` of `Surface.scores`, of one training and all its seeds.
    """
    simple = long[long["side"] == "simple"]
    wide = simple.pivot_table(index="label", columns="score", values="auroc", sort=False)[list(LABELS)]
    alone = simple.groupby("label", sort=False)["complexity_only"].first()
    return wide.assign(complexity=alone)[["complexity", *LABELS]].sort_values("joined", kind="stable")


def reading(wide: pd.DataFrame, sets: pd.DataFrame, training: str) -> Iterable[Said]:
    """What the battery and the sets say, each sentence under its condition.

    Args:
        wide: from `battery_wide`. sets: from `over_sets`. training: the flow on pixels that both speak of.
    """
    below = (wide < FOUND).sum()
    missed = wide.index[wide["joined"] < FOUND]
    listed = ", ".join(f"{label} {wide.at[label, 'joined']:.0f}" for label in missed)
    cells = sets[sets["training"] == training].set_index(["score", "ood"])["value"]
    mean = cells.xs("mean", level="ood")
    gained = (wide["statistics"] - wide["plain"]).sort_values()
    most, won = gained.index[-1], gained.iloc[-1]
    rival = mean["mahalanobis"]
    return [
        (
            True,
            f"Below an AUROC of {FOUND:.0f} the flow on pixels leaves {below['pixels']} of {len(wide)} simple kinds, a "
            f"normal distribution of the statistics {below['mahalanobis']}, the flow on them {below['statistics']}, "
            f"both flows together {below['joined']}" + (f": {listed}." if listed else "."),
        ),
        (
            won > 5,
            f"The bias lives here too, and the same cure works: outliers raise {most} by {won:.0f} points, to "
            f"{wide.at[most, 'statistics']:.0f}.",
            "Outliers move no kind by more than 5 points here.",
        ),
        (
            mean["statistics"] < rival + 1,
            f"Over the test sets no flow is needed for it: on average {mean['statistics']:.1f} against {rival:.1f} by "
            "Mahalanobis distance.",
            f"Over the test sets the flow has {mean['statistics']:.1f} on average, Mahalanobis distance {rival:.1f}.",
        ),
        (
            True,
            f"On average the flow on pixels has {mean['pixels']:.1f}, joined with the statistics {mean['joined']:.1f}.",
        ),
    ]
