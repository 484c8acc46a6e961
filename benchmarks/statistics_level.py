"""How long should the level on statistics train, and what is its surprise worth in a join? No OOD set has a say.

The level of `FeatureLevel.on_statistics` is fitted on the first 12,000 CIFAR-10 training images, and on fewer. Other
training images, 1,000 each, are ID and what the simple battery is made of; 2,000 more hold its scale. Written to
``results/statistics_level.csv``: AUROC in percent of every kind, by training. Printed last: the sight in
`anyflow.join`, from kinds that no outlier function makes and from what only content tells (pictures turned, classes
left out). Needs CIFAR-10's file of 16,000 training images or more; three minutes on one core.

    python -m benchmarks.statistics_level
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flowood_core import datasets, metrics
from flowood_core.anyflow import battery
from flowood_core.anyflow.join import Sight, Tail
from flowood_core.anyflow.levels import FeatureLevel
from flowood_core.features.distances import Mahalanobis
from flowood_core.outliers import graded
from flowood_core.system import paths

TRAIN, HELD, ID, SOURCE = (
    slice(0, 12_000),
    slice(12_000, 14_000),
    slice(14_000, 15_000),
    slice(15_000, 16_000),
)
LONG = {"mle_steps": 1000, "steps": 1000}
TRAININGS = {
    "eq. (2) alone": (12_000, None, {}),
    "with outliers": (12_000, "graded", {}),
    "with outliers, longer": (12_000, "graded", LONG),
    "with 1,500 outliers, longer": (12_000, "graded", LONG | {"n_outliers": 1500}),
    "600 images": (600, "graded", {}),
    "600 images, longer": (600, "graded", LONG),
    "150 images": (150, "graded", {}),
    "150 images, longer": (150, "graded", LONG),
}
TEXTURE = (
    "linear_gradient", "radial_gradient", "stripes_4", "checkerboard_4", "nearest_2", "nearest_8", "median_3",
    "median_5", "posterised_4", "posterised_8", "noise", "salt_and_pepper", "aliased",
)  # fmt: skip
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
TARGET = Path(__file__).parent / "results" / "statistics_level.csv"

x = datasets.load("cifar10", "train").x[: SOURCE.stop]
if len(x) != SOURCE.stop:
    raise SystemExit(
        f"expected {SOURCE.stop:,} CIFAR-10 training images or more, got {len(x):,}; see data/README.md"
    )
level = FeatureLevel.on_statistics(x.shape[1:])
numbers = level.encoder.encode(x)
kinds = {name: level.encoder.encode(made) for name, made in battery.battery(x[SOURCE], seed=1).items()}


def fitted(n: int, is_corrected: bool, **how) -> FeatureLevel:
    """The level on n images."""
    level = FeatureLevel.on_statistics(x.shape[1:], **how)
    made = level.encoder.encode(level.outliers_of(x[:n], graded.ccm_graded)) if is_corrected else None
    return level.fit_features(numbers[:n], made)


def aurocs(score) -> dict[str, float]:
    """In percent, by kind."""
    id_ = score(numbers[ID])
    return {name: 100 * metrics.auroc(id_, score(of)) for name, of in kinds.items()}


def measured() -> pd.DataFrame:
    """One row a kind, one column a training; Mahalanobis distance on the same statistics beside them."""
    found = {"Mahalanobis": aurocs(Mahalanobis.fit(numbers[TRAIN]).score)}
    for name, (n, outliers, how) in TRAININGS.items():
        found[name] = aurocs(fitted(n, outliers is not None, **how).score_features)
    return pd.DataFrame(found).rename_axis("kind").reset_index()


def sight() -> Sight:
    """Of the level, from texture and content in equal parts; content from turned pictures and classes left out."""
    with np.load(paths.data_root() / "images" / "cifar10_train.npz") as file:
        classes = file["y"][: SOURCE.stop]
    level, rng = fitted(TRAIN.stop, True), np.random.default_rng(0)
    tail = Tail.fit(level.score_features(numbers[HELD]))
    texture = [tail(level.score_features(kinds[name])) for name in TEXTURE]
    turned = [level.encoder.encode(x[SOURCE].rot90(k, (2, 3))) for k in (1, 2)]
    turned = [tail(level.score_features(of)) for of in turned]
    left_out = []
    for pair in PAIRS:
        is_in = ~np.isin(classes, pair)
        of_eight = FeatureLevel.on_statistics(x.shape[1:])
        made = of_eight.outliers_of(x[TRAIN][torch.from_numpy(is_in[TRAIN])], graded.ccm_graded)
        of_eight.fit_features(numbers[TRAIN][is_in[TRAIN]], of_eight.encoder.encode(made))
        scores = of_eight.score_features(numbers[HELD])
        left_out.append(Tail.fit(scores[is_in[HELD]])(scores[~is_in[HELD]]))
    drawn = [(texture, 200), (turned, 650), (left_out, 260)]
    surprises = np.concatenate([rng.choice(of, n) for group, n in drawn for of in group])
    return Sight.fit(surprises, known_to=np.log(1 + HELD.stop - HELD.start))


if __name__ == "__main__":
    table = measured().round(2)
    table.to_csv(TARGET, index=False)
    print(table.to_string(), sight(), sep="\n")
