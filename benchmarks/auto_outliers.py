"""Which outliers should "auto" be on images? The paper's CCM+Gaussian against those of every grade of simplicity.

Profile quick's flow and embedded sets, with more epochs in larger batches, three seeds: AUROC by eq. (4) and by
-log p_X, and what ID images cost. Written to ``results/auto_outliers.csv``. A minute a training on one core; runs that
exist are read.

    python -m benchmarks.auto_outliers
"""

from pathlib import Path

import pandas as pd

from flowood_core.runs import grid, run_or_load

METHODS, SEEDS, OOD = ("ccm_gaussian", "ccm_graded"), (0, 1, 2), ("digits", "enlarged", "smooth", "aliased")
TRAINING = {"epochs": 20, "batch_size": 32}
TARGET = Path(__file__).parent / "results" / "auto_outliers.csv"


def measured() -> pd.DataFrame:
    """One row per outliers and seed: ID bits per dimension, AUROC in percent by score and set."""
    rows = []
    for method in METHODS:
        for seed in SEEDS:
            run = run_or_load(grid.spec("quick", "photo", method=method, seed=seed, **TRAINING))
            row = {
                "outliers": method,
                "seed": seed,
                "n_test": run.spec.n_test,
                "ID bits/dim": run.metrics["id"]["bpd"],
            }
            rows.append(
                row | {f"{ood}, {score}": run.auroc(ood, score) for score in ("pz", "px") for ood in OOD}
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    table = measured().round(3)
    table.to_csv(TARGET, index=False)
    print(
        table.groupby("outliers")
        .agg(["mean", "min", "max"])
        .drop(columns=["seed", "n_test"])
        .T.round(1)
        .to_string()
    )
