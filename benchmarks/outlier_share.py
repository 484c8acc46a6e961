"""How many graded outliers should a batch hold? Unseen ID images and the simple battery made of them decide.

The first seed of `flowood` with half, 40 and 25 % of outliers, and of its control, on 400 CIFAR-10 training images
beyond the 12,000 of profile sample: bits per dimension, and AUROC in percent by eq. (4) and by -log p_X of every
kind. Written to ``results/outlier_share.csv``. Needs CIFAR-10's file of 13,400 training images or more; a minute a run
on one core.

    python -m benchmarks.outlier_share
"""

import math
from pathlib import Path

import pandas as pd

from flowood_core import datasets, metrics
from flowood_core.anyflow import battery
from flowood_core.flow import densities
from flowood_core.runs import grid, run_or_load

TABLES = {
    "control": "beyond_control",
    "50 %": "beyond_graded",
    "40 %": "beyond_graded_40",
    "25 %": "beyond_graded_25",
}
UNSEEN = slice(13_000, 13_400)
TARGET = Path(__file__).parent / "results" / "outlier_share.csv"


def measured() -> pd.DataFrame:
    """One row per training and kind; the kind "ID" has bits per dimension in place of AUROCs."""
    x = datasets.load("cifar10", "train").x[UNSEEN]
    if len(x) != UNSEEN.stop - UNSEEN.start:
        raise SystemExit(
            f"expected CIFAR-10's training file to have {UNSEEN.stop:,} images or more, got "
            f"{UNSEEN.start + len(x):,} or fewer; see data/README.md"
        )
    kinds, rows = battery.battery(x), []
    for name, table in TABLES.items():
        spec = next(s for s in grid.rows("sample", table) if (s.id, s.seed) == ("cifar10", 0))
        flow = run_or_load(spec).flow()
        id_ = densities(flow, x)
        rows.append(
            {"outliers": name, "kind": "ID", "bits/dim": 8 - id_[1].mean() / math.log(2) / x[0].numel()}
        )
        for kind, made in kinds.items():
            found = densities(flow, made)
            aurocs = (100 * metrics.auroc(-a, -b) for a, b in zip(id_, found, strict=True))
            rows.append({"outliers": name, "kind": kind} | dict(zip(("pz", "px"), aurocs, strict=True)))
    return pd.DataFrame(rows)


if __name__ == "__main__":
    table = measured().round(3)
    table.to_csv(TARGET, index=False)
    of = table.groupby("outliers", sort=False)
    print(
        pd.DataFrame(
            {"bits/dim": of["bits/dim"].max(), "kinds below 97": of["pz"].agg(lambda v: (v < 97).sum())}
        )
    )
