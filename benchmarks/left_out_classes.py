"""Should a level on features look at neighbours? ID classes left out decide, and no OOD set.

The level of `anyflow.levels` is fitted on eight classes of CIFAR-10 by eq. (2). The other two are to be told from the
eight, on images that no fit has seen. Five pairs of classes; AUROC in percent of the density, of the neighbours, and of
their sum. Written to ``results/left_out_classes.csv``. Needs CIFAR-10 and EfficientNet-Lite2 (extra vision); encoding
6,000 images takes ten minutes of a core the first time.

    python -m benchmarks.left_out_classes
"""

from pathlib import Path

import numpy as np
import pandas as pd

from flowood_core import datasets, metrics
from flowood_core.anyflow.levels import FeatureLevel
from flowood_core.features.images import ImageEncoder, unit
from flowood_core.system import paths

N_TRAIN, N_JUDGED, N_HELD = (
    4000,
    400,
    1600,
)  # the judged test images of `two_levels.images_of` are not looked at
N_FILE = {"train": 12_000, "test": 2_000}  # images of profile sample, the first of the file
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
TARGET = Path(__file__).parent / "results" / "left_out_classes.csv"


def drawn(split: str, index: np.ndarray, encoder: ImageEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Unit features (n, d) and classes (n,) of CIFAR-10 images, by their place in the file."""
    with np.load(paths.data_root() / "images" / f"cifar10_{split}.npz") as file:
        classes = file["y"][index]
    x = datasets.load("cifar10", split).x[index]
    return unit(encoder.encode(x, label=split)), classes


def measured() -> pd.DataFrame:
    """One row per pair of classes left out."""
    encoder = ImageEncoder("efficientnet_lite2", size=192, unit=False)
    order = {split: np.random.default_rng(0).permutation(n) for split, n in N_FILE.items()}
    x, of_x = drawn("train", order["train"][:N_TRAIN], encoder)
    held, of_held = drawn("test", order["test"][N_JUDGED : N_JUDGED + N_HELD], encoder)
    rows = []
    for pair in PAIRS:
        level = FeatureLevel(encoder).fit_features(x[~np.isin(of_x, pair)])
        is_out = np.isin(of_held, pair)
        scores = {"density": level.density_score, "neighbours": level.knn.score, "both": level.score_features}
        aurocs = {
            name: 100 * metrics.auroc(of(held[~is_out]), of(held[is_out])) for name, of in scores.items()
        }
        rows.append(
            {"left out": f"{pair[0]} and {pair[1]}", "n ID": (~is_out).sum(), "n OOD": is_out.sum()} | aurocs
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    table = measured().round(2)
    table.to_csv(TARGET, index=False)
    print(table.to_string(), table[["density", "neighbours", "both"]].mean().round(1).to_string(), sep="\n")
