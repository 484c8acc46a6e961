"""Two levels beside each other: a flow on pixels, one on features of the same images, their join, and no flow at all.

Simple pictures have short feature vectors, so that a density on features as they come has the bias of a density on
pixels. `lengths` shows it; `scored` and `over_levels` measure what unit length, outliers and the join change.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from flowood_core import datasets, intervals
from flowood_core.anyflow.join import LEAST_SCORES, Join
from flowood_core.anyflow.levels import FeatureLevel
from flowood_core.complexity import image_complexity
from flowood_core.features.distances import Knn, Mahalanobis
from flowood_core.features.images import unit
from flowood_core.flow import Flow, densities
from flowood_core.notebook.reading import Said

__all__ = ["LABELS", "Images", "images_of", "lengths", "over_levels", "reading", "scored"]

LABELS = {
    "complexity": "−C(x) alone",
    "pixels": "flow on pixels",
    "raw": "flow on features as they come",
    "unit": "flow on unit features",
    "features": "the same, with outliers",
    "level": "the same, with nearest neighbours",
    "knn": "nearest neighbours, unit features",
    "mahalanobis": "Mahalanobis, unit features",
    "both": "both levels: pixels and features",
    "all": "all three: pixels, statistics, features",
}
"""Score, higher = more OOD: its words. `knn` and `mahalanobis` train nothing."""

K = 5
Scores = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Images:
    """What one ID set and its OOD sets give the two levels, all uint8 (n, c, h, w).

    Attributes:
        train: the feature level is fitted on these.
        held: ID images that no training has seen, for the scale of each level (`join.Tail`).
        test: the ID test images. ood: each OOD set's, by name.
    """

    train: Tensor
    held: Tensor
    test: Tensor
    ood: dict[str, Tensor]

    @property
    def judged(self) -> dict[str, Tensor]:
        """The test images of every set; those of ID first, under the name "ID"."""
        return {"ID": self.test} | self.ood


def images_of(id_: str, ood: Iterable[str], *, n_train: int, n_test: int, seed: int = 0) -> Images:
    """Draw them: n_train ID training images, n_test of each test set, and as many held out of the ID test set's rest.

    An OOD set that is not at hand is left out.

    Raises:
        MissingData: the ID set is not at hand; says how to get it.
        ValueError: the ID test set is too small to hold any out.
    """
    test = datasets.load(id_, "test")
    drawn = test.x[np.random.default_rng(seed).permutation(len(test))]
    n_judged = min(n_test, len(drawn) - LEAST_SCORES)
    if n_judged < 1:
        raise ValueError(f"expected an ID test set of more than {LEAST_SCORES} images, got {len(drawn)}")
    others = {}
    for name in ood:
        with contextlib.suppress(datasets.MissingData):
            others[name] = datasets.load(name, "test").drawn(n_test, seed).x
    train = datasets.load(id_, "train").drawn(n_train, seed).x
    return Images(train, drawn[n_judged : n_judged + n_test], drawn[:n_judged], others)


def lengths(encoder: Any, images: Mapping[str, Tensor]) -> pd.DataFrame:
    """Length of the feature vector of each image beside C(x).

    Args:
        encoder: an `ImageEncoder` without unit length.
        images: uint8 (n, c, h, w) by name.
    Returns:
        set, complexity [bits/dim], length (Euclidean norm of h(x)).
    """
    rows = [
        pd.DataFrame({"set": name, "complexity": image_complexity(x).numpy(),
                      "length": np.linalg.norm(encoder.encode(x, label=name), axis=1)})
        for name, x in images.items()
    ]  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def ranks(lengths_: pd.DataFrame) -> tuple[float, float]:
    """Rank correlation (Spearman) of the length of h(x) with C(x): over all images, and inside the sets on average.

    Sets differ in more than complexity, so the first alone may be their doing.

    Args:
        lengths_: from `lengths`.
    """
    columns = ["complexity", "length"]
    inside = [of[columns].corr("spearman").iloc[0, 1] for _, of in lengths_.groupby("set")]
    return float(lengths_[columns].corr("spearman").iloc[0, 1]), float(np.mean(inside))


def scored(
    flow: Flow,
    encoder: Any,
    images: Images,
    outliers: Callable[..., Tensor],
    *,
    statistics: FeatureLevel | None = None,
    seed: int = 0,
    **how: Any,
) -> Scores:
    """Every score of `LABELS` of every test image, by score and set; higher = more OOD.

    Args:
        flow: on pixels, trained on the ID set.
        encoder: an `ImageEncoder` without unit length, so that both kinds of vectors are computed once.
        outliers: images (x, partner, *, rng) -> x_out, for the feature level.
        statistics: a level on statistics, fitted on the same images; None leaves out "all".
        seed: of the feature level. how: its further parameters, see `FeatureLevel`.
    """
    sets = images.judged
    vectors = {name: encoder.encode(x, label=name) for name, x in sets.items()}
    train, held = encoder.encode(images.train, label="ID"), encoder.encode(images.held, label="held-out ID")
    level, alone = FeatureLevel(encoder, seed=seed, **how), {"neighbours": 0, "seed": seed, **how}
    made = encoder.encode(level.outliers_of(images.train, outliers), label="outliers")
    gauss = Mahalanobis.fit(unit(train))
    raw = FeatureLevel(encoder, **alone).fit_features(train)
    plain = FeatureLevel(encoder, **alone).fit_features(unit(train))
    level.fit_features(unit(train), unit(made))
    fitted = {
        "raw": raw.score_features,
        "unit": lambda h: plain.score_features(unit(h)),
        "features": lambda h: level.density_score(unit(h)),
        "level": lambda h: level.score_features(unit(h)),
        "knn": Knn.fit(unit(train), K).score,
        "mahalanobis": lambda h: gauss.score(unit(h)),
    }
    found = {score: {name: of(h) for name, h in vectors.items()} for score, of in fitted.items()}
    found["pixels"] = {name: -densities(flow, x)[1] for name, x in sets.items()}
    found["complexity"] = {name: -image_complexity(x).numpy() for name, x in sets.items()}
    on_held = {"pixels": -densities(flow, images.held)[1], "features": fitted["level"](held)}
    of_level = {"pixels": found["pixels"], "features": found["level"]}
    found["both"] = _joined(on_held, of_level)
    if statistics is not None:
        on_held["statistics"] = statistics.score(images.held)
        of_level["statistics"] = {name: statistics.score(x) for name, x in sets.items()}
        found["all"] = _joined(on_held, of_level)
    return {score: found[score] for score in LABELS if score in found}


def _joined(on_held: Mapping[str, np.ndarray], of_level: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
    """Scores of each set by the join of the levels, whose scales are those of the held-out ID images."""
    join, sets = Join.fit(on_held), next(iter(of_level.values()))
    return {name: join({level: of[name] for level, of in of_level.items()}) for name in sets}


def over_levels(by_seed: Iterable[Scores]) -> pd.DataFrame:
    """AUROC of every score and set, over seeds and test draws.

    Args:
        by_seed: from `scored`, one a seed, on the same images; or other scores in that form.
    Returns:
        score, ood, value, low, high (percent, see `intervals.over`), n_seeds; and a set "mean" over the others.
    """
    by_seed = list(by_seed)
    rows = []
    for score in by_seed[0]:
        samples = {name: [_sample(of[score], name) for of in by_seed] for name in by_seed[0][score]}
        del samples["ID"]
        samples["mean"] = [intervals.Sample.average(of) for of in zip(*samples.values(), strict=True)]
        for name, of in samples.items():
            # what no seed enters has test draws alone
            e = intervals.over(of[:1] if len({s.value for s in of}) == 1 else of, bounds=(0, 100))
            rows.append((score, name, e.value, e.low, e.high, len(of)))
    return pd.DataFrame(rows, columns=["score", "ood", "value", "low", "high", "n_seeds"])


def _sample(scores: Mapping[str, np.ndarray], name: str) -> intervals.Sample:
    drawn = intervals.of("ID", scores["ID"]), intervals.of(name, scores[name])
    return intervals.auroc(scores["ID"], scores[name], *drawn) * 100


def reading(levels: pd.DataFrame, rank: float, inside: float, *, is_pretrained: bool) -> list[Said]:
    """What the figure and the table of the levels say, each sentence under its condition.

    Args:
        levels: from `over_levels`. rank, inside: from `ranks`.
        is_pretrained: False where the network is untrained, of which nothing but the machinery can be seen.
    """
    if not is_pretrained:
        return [
            (True, "This network is untrained: the machinery runs, and the numbers say nothing of features.")
        ]
    cells = levels.set_index(["score", "ood"])["value"]
    mean, sets = cells.xs("mean", level="ood"), cells.drop("mean", level="ood").unstack("score")
    gained, moved = mean["unit"] - mean["raw"], mean["features"] - mean["unit"]
    rival = mean[["knn", "mahalanobis"]].max()
    lost = max((sets[["pixels", "level"]].max(axis=1) - sets["both"]).max(), 0)
    against = f"the flow {mean['features']:.1f}, what needs none on the same features {rival:.1f}"
    joined = f"With its nearest neighbours it reaches {mean['level']:.1f}"
    return [
        (
            rank >= 0.2,
            f"Over all test images the simpler have the shorter vectors (rank correlation {rank:+.2f}); inside the "
            f"sets that is {inside:+.2f} on average.",
            f"The simpler images do not have shorter vectors here (rank correlation {rank:+.2f}).",
        ),
        (
            gained > 1,
            f"Unit length helps ({gained:+.1f} points on average).",
            f"Unit length does not help ({gained:+.1f} points on average).",
        ),
        (True, f"Outliers move the flow on features by {moved:+.1f}."),
        (
            mean["features"] > rival + 1,
            f"The flow does better than its neighbours: {against}.",
            f"A flow alone is not needed for that: {against}.",
        ),
        (
            mean["level"] > max(mean["features"], rival),
            f"{joined}: more than either by itself.",
            f"{joined}, no more than the better of them.",
        ),
        (
            True,
            f"Both levels together reach {mean['both']:.1f}, pixels alone {mean['pixels']:.1f}; on the worst set the "
            f"join stays {lost:.1f} points below the better of the two.",
        ),
        (
            "all" in mean,
            f"With the statistics as a third level it is {mean.get('all', 0):.1f}.",
        ),
    ]
