# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# C. MVTec-AD
**Question.** Do synthetic outliers help where the anomaly is a scratch, not a simpler image?  **Answer.** Table 10 below, category by category, for what has been run.
**Makes** Table 10 · **reads** the runs of `train_one` (trains what is missing where the pictures are here) · **time** seconds when nothing is to be trained; paper GPU-days
"""

# %% tags=["bootstrap"]
import importlib.util

from IPython import get_ipython

REPO, REF = "https://github.com/OWNER/REPO", "main"  # stamped by `make badges` from the git remote
if importlib.util.find_spec("flowood_core") is None:
    get_ipython().run_line_magic("pip", f"install -q 'flowood-core @ git+{REPO}@{REF}'")
import flowood_core  # noqa: F401  fails here, and clearly, if the line above could not install it

# %% tags=["parameters"]
profile: str = "quick"
categories: list = []  # empty: all fifteen; names such as ["bottle", "metal_nut"]

# %%
import numpy as np
import pandas as pd

from flowood_core.features import map_flows
from flowood_core.runs import grid
from flowood_core.datasets import highdim
from flowood_core.notebook import params, figures
from flowood_core import runs
from flowood_core.evidence import tables

P = params.check(globals(), notebook="app_c_mvtec")
sheet = figures.start("app_c_mvtec", P)
wanted = P.categories or list(highdim.MVTEC)
if unknown := sorted(set(wanted) - set(highdim.MVTEC)):
    raise params.ParameterError(
        f"expected categories out of {', '.join(highdim.MVTEC)}, got {', '.join(unknown)}"
    )
specs = grid.rows(P.profile, "table_10") if "table_10" in grid.tables(P.profile) else []
finished, absent = runs.available(s for s in specs if s.id.removeprefix("mvtec_") in wanted)
print(f"{len(finished)} runs of {P.profile}: {sheet.label}")
if absent:
    print(f"not run, the pictures are not here: {', '.join(sorted(absent))}")
if "table_10" not in grid.tables(P.profile):
    print(f"Profile {P.profile} has no runs on MVTec-AD: every cell of ours says so.")

# %% [markdown]
r"""
> The vanilla FastFlow results were obtained through our reproduction of the experiments, while the original results for CS-Flow were directly obtained from the original paper.

Table 10 mixes sources. Its CS-Flow column is copied from the CS-Flow paper, which works at 768 pixels; the columns with outliers and both FastFlow columns are the authors' own, at 256 pixels for all they say. "CS-Flow" against "CS-Flow+CCM+Gaussian" may therefore compare two resolutions. Ours are all trained alike, at 256. The printed gain of *zipper* is 0.3 where its own numbers give 0.5.
"""

# %%
columns = ["category", "model", "method", "metric"]
if finished:
    collected = tables.collect(finished).query("score == 'published' and metric == 'auroc'")
    collected = collected.assign(
        model=collected.run_id.map({r.spec.run_id: r.spec.model for r in finished}),
        category=collected.id.str.removeprefix("mvtec_"),
        method=collected.method.replace({"mle": "plain"}),
    )
    ours = tables.over_seeds(collected, columns)
    means = []
    for (model, method), part in ours.groupby(["model", "method"], sort=False):
        if set(part.category) == set(highdim.MVTEC):  # a mean over fewer is not the printed mean
            means.append({"category": "mean", "model": model, "method": method, "metric": "auroc",
                          "value": part.value.mean(), "low": np.nan, "high": np.nan, "n_seeds": part.n_seeds.min()})  # fmt: skip
    ours = pd.concat([ours, pd.DataFrame(means)], ignore_index=True) if means else ours
else:
    ours = pd.DataFrame(columns=[*columns, "value", "low", "high", "n_seeds"]).astype(
        dict.fromkeys(["value", "low", "high", "n_seeds"], float)
    )
printed = tables.printed("table_10")
printed = printed[printed.category.isin([*wanted, "mean"])]
joined = tables.paper_vs_ours(printed, ours, columns)
backbones = {r.spec.model: r.metrics["backbone"]["label"] for r in finished}
joined["backbone"] = np.where(joined.ours.notna(), [backbones.get(m, "") for m in joined.model], "")
sheet.save_table(joined, "table_10", "Table 10 of the paper beside our runs, labelled by backbone")
print(joined.verdict.value_counts().to_dict())

# %% [markdown]
r"""
## Table 10
AUROC of the image in percent: the paper's number, then ours.
"""

# %%
MODELS = map_flows.LABELS
METHODS = {"plain": "", "ccm_gaussian": "+CCM+Gaussian"}
cells = joined.assign(
    column=joined.model.map(MODELS) + joined.method.map(METHODS),
    cell=[
        f"{p:.1f} | " + ("not run" if np.isnan(o) else f"{o:.1f}") for p, o in zip(joined.paper, joined.ours)
    ],
)
table = cells.pivot(index="category", columns="column", values="cell")
table = table.loc[list(dict.fromkeys(cells.category)), list(dict.fromkeys(cells.column))]
stands_on = "; ".join(f"{MODELS[m]}: {b}" for m, b in backbones.items()) or "nothing was run"
figures.show_table(table, f"Table 10, paper | ours. Ours on {stands_on}")

# %% [markdown]
r"""
**Reading.** What the printed columns claim, recomputed from the printed numbers, and ours beside them:
"""

# %%
both = joined[joined.category != "mean"].pivot_table(
    index=["model", "category"], columns="method", values=["paper", "ours"], dropna=False, observed=True
)
for model in MODELS:
    part = both.loc[model]
    gain = part["paper", "ccm_gaussian"] - part["paper", "plain"]
    text = f"{MODELS[model]}: printed mean gain {gain.mean():+.2f}, {(gain > 0).sum()} up, {(gain < 0).sum()} down"
    if "ours" in part and part["ours"].notna().all(axis=None):
        mine = part["ours", "ccm_gaussian"] - part["ours", "plain"]
        text += f"; ours {mine.mean():+.2f}, {(mine > 0).sum()} up, {(mine < 0).sum()} down"
    else:
        text += "; ours: not run" if joined.ours.isna().all() else "; ours: not complete"
    print(text)

# %%
sheet.finish(runs=[r.spec.run_id for r in finished], backbones=backbones, not_run=sorted(absent))

# %% [markdown]
r"""
## Summary
- A category is a run like any other: `train_one` with `id` `mvtec_bottle` and the fields `model`, `backbone`, `image_size`, `epochs`.
- The rows of magnetic tiles in `03_2` are real surface defects under their own name; they stand in no cell of Table 10.
- Not reproduced here: cells marked "not run" (`make reproduce PROFILE=paper`, which fetches MVTec-AD and holds it to its sha256). Next: `app_d_blur_ablation`.
"""
