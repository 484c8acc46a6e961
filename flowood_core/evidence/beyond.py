"""Other cures of the same disease on the same flows: which trainings, which scores, and what each of them reaches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from flowood_core import datasets, intervals, lipschitz, metrics, neighbours, runs
from flowood_core.evidence import tables
from flowood_core.flow import dequantise
from flowood_core.intervals import Sample
from flowood_core.neighbours import Fusion
from flowood_core.runs import Run, grid

__all__ = [
    "CONTROL", "LIGHTER", "OURS", "TRAININGS", "battery_below", "battery_mean", "battery_wide", "best_cells", "costs",
    "fitted_scores", "measure", "trained",
]  # fmt: skip

CONTROL, OURS = "squeezed, CCM+Gaussian", "flowood"
LIGHTER = f"{OURS}, 40 % outliers"
TRAININGS = {
    "MLE": ("table_2", "mle"),
    "CCM+Gaussian": ("table_2", "ccm_gaussian"),
    "hinge at the ID level": ("beyond_hinge", None),
    CONTROL: ("beyond_control", None),
    "squeezed, CCM+simplify": ("beyond_flowood", None),
    OURS: ("beyond_graded", None),
    LIGHTER: ("beyond_graded_40", None),
    f"{OURS}, 25 % outliers": ("beyond_graded_25", None),
}
"""Training as it is called in print: the table of the grid it stands in, and its method there (None: all of them)."""

Scores = dict[str, dict[str, np.ndarray]]


def trained(profile: str, id_: str) -> dict[str, list[Run]]:
    """The runs of each training of `TRAININGS` on one ID set, one a seed; what is missing is trained now."""
    found = {}
    for name, (table, method) in TRAININGS.items():
        specs = grid.rows(profile, table) if table in grid.tables(profile) else []
        wanted = [s for s in specs if s.id == id_ and method in (None, s.method)]
        if wanted:
            found[name] = [runs.run_or_load(s) for s in wanted]
    return found


def fitted_scores(run: Run, background: Run | None = None) -> tuple[Scores, Fusion]:
    """Every score of `neighbours`, fitted on the run's ID training images and on synthetic outliers.

    Args:
        background: a second flow, for the likelihood ratio.
    Returns:
        (set: score: values, higher = more OOD; the fusion with its weights).
    """
    train, fusion = run.arrays["train"], Fusion.fit(run.arrays["train"], run.arrays["synthetic"])
    fitted = {
        "typicality": neighbours.Typicality.fit(train), "gmm": neighbours.Gmm.fit(train),
        "ocsvm": neighbours.OneClass.fit(train), "fusion": fusion,
    }  # fmt: skip
    scored = {}
    for name in (run.spec.id, *run.metrics["ood"]):
        own, arrays = run.scores(name), run.arrays[name]
        scored[name] = {k: own[k] for k in ("pz", "px", "px_comp")}
        scored[name] |= {k: f.score(arrays) for k, f in fitted.items()}
        if background is not None:
            other = background.arrays[name]["log_px"]
            scored[name]["ratio"] = neighbours.likelihood_ratio(arrays["log_px"], other)
    return scored, fusion


def _gradient_norms(run: Run, n: int) -> dict[str, np.ndarray]:
    flow, norms = run.flow(), {}
    for name in (run.spec.id, *run.metrics["ood"]):
        x = dequantise(datasets.load(name, "test").drawn(run.spec.n_test, 0).x[:n])
        norms[name] = torch.cat([lipschitz.grad_logp(flow.log_prob, p) for p in x.split(32)]).numpy()
    return norms


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """AUROC of one score on one pair of sets; its redraws are made when somebody asks."""

    names: tuple[str, str]
    id_: np.ndarray
    ood: np.ndarray

    @property
    def sample(self) -> Sample:
        drawn = (intervals.of(name, v) for name, v in zip(self.names, (self.id_, self.ood), strict=True))
        return intervals.auroc(self.id_, self.ood, *drawn) * 100


def measure(
    of: Mapping[str, Sequence[Run]], background: Mapping[int, Run], *, n_gradient: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUROC of every score on every training, over seeds and test draws, and what the fusion learned.

    Args:
        of: from `trained`. background: the second flow of each seed.
        n_gradient: images a set for the gradient norms, of the first seed alone: each costs a backward pass.
    Returns:
        (training, score, ood, value, low, high, n_seeds, ... in percent, see `tables.over_seeds`;
        training, seed and the weight of each quantity).
    """
    rows, weights = [], []
    for training, its in of.items():
        for run in its:
            scored, fusion = fitted_scores(run, background.get(run.spec.seed))
            if run is its[0]:
                for name, norms in _gradient_norms(run, n_gradient).items():
                    scored[name]["gradient"] = norms
            rows += [{"training": training, "seed": run.spec.seed} | row for row in _cells(run, scored)]
            weights.append((training, run.spec.seed, *fusion.weights))
    names = ["training", "seed", "log p_Z", "log p_X", "C"]
    over = tables.over_seeds(pd.DataFrame(rows), ["training", "score", "ood"])
    return over, pd.DataFrame(weights, columns=names)


def _cells(run: Run, scored: Scores) -> list[dict]:
    id_, rows = run.spec.id, []
    for name in run.metrics["ood"]:
        for score, values in scored[name].items():
            measured = _Measured((id_, name), scored[id_][score], values)
            value = 100 * metrics.auroc(measured.id_, measured.ood)
            rows.append({"score": score, "ood": name, "value": value, "measured": measured})
    return rows


def best_cells(over: pd.DataFrame) -> pd.DataFrame:
    """The best row of each OOD set, beside the paper's own (CCM+Gaussian, eq. (4)).

    Returns:
        Index ood; training, score, value, paper, rows (how many the best is the best of).
    """
    rows = {}
    for name, cells in over.groupby("ood", sort=False):
        best = cells.loc[cells["value"].idxmax()]
        own = cells[(cells["training"] == "CCM+Gaussian") & (cells["score"] == "pz")]["value"].item()
        rows[name] = {"training": best["training"], "score": best["score"], "value": best["value"],
                      "paper": own, "rows": len(cells)}  # fmt: skip
    return pd.DataFrame(rows).T.rename_axis("ood")


def costs(of: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """What each training costs: training, outliers (method), seed, parameters, ID bits/dim, minutes."""
    rows = [
        (name, run.spec.method, run.spec.seed, run.metrics["n_parameters"], run.metrics["id"]["bpd"],
         run.metrics["seconds"]["training"] / 60)
        for name, its in of.items() for run in its
    ]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["training", "outliers", "seed", "parameters", "ID bits/dim", "minutes"]
    )


# --- the simple battery, over trainings -----------------------------------------------------------------------

ABOUT = [
    "training", "score", "kind", "label", "family", "seen", "side", "complexity", "complexity_colour",
    "complexity_only",
]  # fmt: skip


def battery_mean(long: pd.DataFrame) -> pd.DataFrame:
    """`battery.battery_table` of many trainings, columns training and seed added: the mean over seeds."""
    return long.groupby(ABOUT, sort=False, as_index=False)[["auroc", "low", "high"]].mean()


def battery_below(mean: pd.DataFrame, level: float) -> pd.DataFrame:
    """Simple kinds whose AUROC lies below a level, by training and score.

    Returns:
        training, score, below (how many), of (how many kinds), lowest (AUROC), worst (four of them, in words).
    """
    rows = []
    for (training, score), of in mean[mean["side"] == "simple"].groupby(["training", "score"], sort=False):
        low = of[of["auroc"] < level].sort_values("auroc")
        unseen = {True: "", False: " (not trained on)"}
        worst = [f"{r.label} {r.auroc:.0f}{unseen[bool(r.seen)]}" for r in low.head(4).itertuples()]
        rows.append((training, score, len(low), len(of), of["auroc"].min(), ", ".join(worst)))
    return pd.DataFrame(rows, columns=["training", "score", "below", "of", "lowest", "worst"])


def battery_wide(mean: pd.DataFrame, score: str = "pz") -> pd.DataFrame:
    """One row a kind, from simple to complex within its side; a column per training, and C with and without colour."""
    index = ["side", "label"]
    cells = mean[mean["score"] == score]
    wide = cells.pivot_table(index=index, columns="training", values="auroc", sort=False)
    alone = mean.drop_duplicates("label").set_index(index)
    return wide.join(alone[["complexity", "complexity_colour", "complexity_only"]])
