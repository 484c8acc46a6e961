# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 3.1 Benchmark images
**Question.** Do synthetic outliers keep a flow from calling simple images likely?  **Answer.** Under profile `sample`, on iSUN surely and on SVHN in every seed, but three seeds differ too much to say by how much. On near sets nothing moves, and on faces the correction harms.
**Makes** Tables 2–3, Figs 3–4 · **reads** the runs of `train_one` (trains what is missing) · **time** 15 s when the runs exist; quick 4 min, sample hours, paper GPU-hours
"""

# %% tags=["bootstrap"]
import importlib.util

from IPython import get_ipython

REPO, REF = "https://github.com/OWNER/REPO", "main"  # stamped by `make badges` from the git remote
if importlib.util.find_spec("flowood_core") is None:
    get_ipython().run_line_magic("pip", f"install -q 'flowood-core @ git+{REPO}@{REF}'")
import flowood_core  # noqa: F401  fails here, and clearly, if the line above could not install it

# %% tags=["parameters"]
from typing import Optional

profile: str = "quick"
tables_wanted: Optional[list] = None  # None: the profile's; tables of its grid, such as ["table_2"]
fig3_ood: Optional[list] = None  # None: the profile's; OOD sets shown in Fig. 3
n_figure: int = 300  # points per set in Figs 3 and 4

# %%
import pandas as pd

from flowood_core import datasets, metrics, runs
from flowood_core.runs import grid
from flowood_core.notebook import params, figures
from flowood_core.evidence import tables
from flowood_core.outliers.image import METHOD_LABELS

P = params.check(globals(), notebook="03_1_benchmark_images")
sheet = figures.start("03_1_benchmark_images", P)
finished = {s.run_id: runs.run_or_load(s) for t in P.tables_wanted for s in grid.rows(P.profile, t)}
print(f"{len(finished)} runs; {sheet.label}")

# %% [markdown]
r"""
> We evaluate the effectiveness of the synthetic outliers and dual likelihood objective. These methods include maximum likelihood estimation trained solely on ID data (MLE), dual likelihood training with a few real outliers (RO) …, and dual likelihood training using Gaussian blur, the CCM augmentaion …, and a combination of both.

A row is an argument of one training loop, not a script of its own. The paper's ten rows are five trainings and two scores:

$$\mathcal S_{\mathrm{nll}}(\mathbf x) = -\log p_{\mathcal Z}(\mathbf z) \tag{4}$$

$$\mathcal S_{\mathrm{comp}}(\mathbf x) = \mathcal S_{\mathrm{nll}}(\mathbf x) - C(\mathbf x) \tag{5}$$

Beside them stand two things that the paper does not print. One is the score $-\log p_{\mathcal X}(\mathbf x)$ *with* the determinant, the quantity that eq. (2) and (3) train. The other is $-C(\mathbf x)$ alone, a detector without any flow: a "+Complexity" row has to be read against it.
"""

# %%
collected = tables.collect(finished.values())
collected = collected[collected.metric.isin(["auroc", "fpr95_id95", "fpr95_ood95"])]
keys = ["id", "method", "score", "ood", "metric"]
ours = tables.over_seeds(collected, keys)
sheet.save_table(ours, "benchmark_long", "Every metric of every row: percent, 95 % interval, number of seeds")
n = collected.groupby("ood")[["n_id", "n_ood"]].first()
figures.show_table(n.rename(index=datasets.LABELS), "Test images", formats="{:.0f}")
pools = {r.spec.id: r.spec.ro_pool for r in finished.values() if r.spec.method == "ro"}
for id_, pool in pools.items():
    # a column that is also the pool is no unseen OOD for the row RO (A18)
    names = " and ".join(datasets.LABELS.get(name, name) for name in pool)
    print(f"ID {datasets.LABELS.get(id_, id_)}: the real outliers of row RO are training images of {names}.")

# %% [markdown]
r"""
## AUROC of every row
The bracket is a 95 % interval over seeds and test draws; over test draws alone where there is one seed. `pz` is eq. (4) as printed, `px` the full density, `_comp` eq. (5) on either (per dimension: nats with `pz`, bits with `px`), `comp_only` the detector without a flow.
"""

# %%
labels = METHOD_LABELS | datasets.LABELS
auroc = ours.query("metric == 'auroc'").replace({"method": METHOD_LABELS, "ood": datasets.LABELS})
shown = auroc[auroc.score != "comp_only"]
for id_, part in shown.groupby("id", sort=False):
    table = tables.wide(part, ["score", "method"], ["ood"])
    figures.show_table(table, f"AUROC in percent, ID = {labels.get(id_, id_)}")
    sheet.save_table(table, f"auroc_{id_}", f"AUROC in percent, ID = {labels.get(id_, id_)}", index=True)

# %%
alone = auroc[(auroc.score == "comp_only") & (auroc.method == "MLE")].replace({"id": datasets.LABELS})
table = tables.wide(alone, ["id"], ["ood"])
figures.show_table(
    table, "AUROC of −C(x) alone, by ID set: what the +Complexity rows owe to the complexity term"
)
sheet.save_table(table, "auroc_complexity_only", "AUROC of -C(x) alone, no flow, by ID set", index=True)

# %% [markdown]
r"""
**Reading.** What the outliers moved, in the rows that decide the paper's claim:
"""

# %%
pivot = auroc[auroc.score.isin(["pz", "px"])].replace({"id": datasets.LABELS})
pivot = pivot.pivot_table(index=["id", "ood", "score"], columns="method", values="value", sort=False)
gain = (pivot["CCM+Gaussian"] - pivot["MLE"]).unstack("score")
figures.show_table(gain, "AUROC of CCM+Gaussian minus MLE, percent points", "{:+.1f}")
sheet.save_table(gain.reset_index(), "auroc_gain", "AUROC of CCM+Gaussian minus MLE, percent points")
worse = [f"{ood} for ID {id_} ({score}: {g:+.1f})" for (id_, ood, score), g in gain.stack().items() if g < 0]
print("Outlier training lowers the AUROC of:", ", ".join(worse) or "none")

# %% [markdown]
r"""
## FPR95, both ways
Two conventions share the name. The paper's threshold keeps 95 % of ID (section 2.4), so `fpr95_id95` is the share of OOD that passes as ID; OpenOOD and pytorch-ood catch 95 % of OOD and report the share of ID flagged, `fpr95_ood95`. Lower is better in both.
"""

# %%
fpr = ours[ours.metric.isin(["fpr95_id95", "fpr95_ood95"]) & ours.score.isin(["pz", "px"])]
fpr = fpr.replace({"method": METHOD_LABELS, "ood": datasets.LABELS, "id": datasets.LABELS})
table = tables.wide(fpr, ["id", "metric", "score", "method"], ["ood"])
figures.show_table(table, "FPR95 in percent, lower is better")
sheet.save_table(table, "fpr95", "FPR95 in percent, both conventions", index=True)

# %% [markdown]
r"""
## Beside the paper
The printed Tables 2 and 3, ten rows each, joined with our runs on data set, method, score and metric. The printed rows score by eq. (4), `pz`; a "+Complexity" row by eq. (5) on it. A cell that nobody ran says so; quick runs use other data and never fill one. *Agrees*: the printed number lies in our interval, whose half-width is at most five points, or within one point of ours. *Cannot tell*: it lies in a wider interval. *Higher*, *lower*: ours is, and the printed number lies outside.
"""

# %%
as_printed = ours.replace({"score": {"pz": "nll", "pz_comp": "comp"}, "metric": {"fpr95_id95": "fpr95"}})
for name in ("table_2", "table_3"):
    title = name.replace("_", " ").capitalize()
    joined = tables.paper_vs_ours(
        tables.printed(name), as_printed, keys, absent=tables.absent(finished.values())
    )
    sheet.save_table(joined, name, f"{title} of the paper beside our runs")
    print(f"{name}: {len(joined)} printed cells;", joined.verdict.value_counts().to_dict())
    shown = joined.replace(
        {"method": METHOD_LABELS, "score": {"nll": "", "comp": "+Complexity"}, "ood": datasets.LABELS}
    )
    for (id_, metric), part in shown.groupby(["id", "metric"], sort=False):
        if (part.verdict == "not run").all():
            print(f"  ID {labels.get(id_, id_)}, {metric}: nothing was run")
            continue
        of = f"{title}, ID = {labels.get(id_, id_)}: {'AUROC' if metric == 'auroc' else 'FPR95 (lower is better)'} in percent"
        figures.show_table(tables.beside(part, ["score", "method"], "ood"), of)

# %% [markdown]
r"""
The detector without a flow against every printed "+Complexity" row:
"""

# %%
alone = ours.query("score == 'comp_only' and metric == 'auroc' and method == 'mle'")
for row in alone.itertuples():
    rivals = tables.printed("table_3" if row.id == "isun" else "table_2").query(
        "id == @row.id and ood == @row.ood and metric == 'auroc' and score == 'comp'"
    )
    if len(rivals):
        print(
            f"ID {labels.get(row.id, row.id)}, OOD {labels.get(row.ood, row.ood)}: -C alone {row.value:.1f}; "
            f"the paper's five +Complexity rows {rivals.paper.min():.1f} to {rivals.paper.max():.1f}"
        )
if not alone.ood.isin(tables.printed("table_2").ood).any():
    print("none of the paper's sets was run")

# %% [markdown]
r"""
## Fig. 3: complexity and likelihood
> Without outlier training, a clear bias emerges where lower complexity images tend to receive higher likelihoods. However, after incorporating synthetic OOD data during training, this bias is reduced.

Each point is a test image of the first `n_figure` per set, and the flows are those of seed 0; the line is the regression over all test images of these sets. The four panels have scales of their own. A slope over pooled sets could come from one set being both simpler and likelier, so the correlation *inside* the sets stands beside it.
"""


# %%
def pick(id_, method, seed=0):
    return next(
        r for r in finished.values() if (r.spec.id, r.spec.method, r.spec.seed) == (id_, method, seed)
    )


first_id = next(iter(finished.values())).spec.id
pair = {
    "without outliers": pick(first_id, "mle"),
    "with outliers (CCM+Gaussian)": pick(first_id, "ccm_gaussian"),
}
chosen = [first_id, *P.fig3_ood]

# %%
quantities = {
    "log_pz": r"$\log p_{\mathcal{Z}}(\mathbf{z})$ [nats]",
    "log_px": r"$\log p_{\mathcal{X}}(\mathbf{x})$ [nats]",
}
fig, axes = figures.figure("tall", rows=2, columns=2, height=7.0)
for row, (quantity, label) in zip(axes, quantities.items()):
    for ax, (title, run) in zip(row, pair.items()):
        a = {s: run.arrays[s] for s in chosen}
        points = {s: (v["complexity"], v[quantity]) for s, v in a.items()}
        figures.draw_complexity_vs_likelihood(
            ax, points, labels=datasets.LABELS, quantity=label, n_shown=P.n_figure
        )
        ax.set_title(title)
        figures.legend_below(ax, size=7)
about = f"ID {labels.get(first_id, first_id)}, seed 0, without and with outlier training"
sheet.save_figure(fig, "fig_3", f"Complexity C(x) against log-likelihood; {about}")

# %%
simpler = [s for s in chosen[1:] if pair["without outliers"].complexity_gap(s) < 0]
parts = {"all sets": chosen, "ID and the simpler sets": [first_id, *simpler]}
bias = {
    (part, title, q): metrics.complexity_bias(
        [run.arrays[s]["complexity"] for s in sets], [run.arrays[s][q] for s in sets]
    )
    for part, sets in parts.items()
    for title, run in pair.items()
    for q in quantities
}
frame = pd.DataFrame(bias, index=["slope [nats per bit/dim]", "r", "r inside the sets"]).T
figures.show_table(frame, "Bias towards simple images: negative = simpler is likelier", "{:+.2f}")
sheet.save_table(
    frame.reset_index(names=["sets", "training", "quantity"]),
    "fig_3_bias",
    "Slope and correlations of Fig. 3",
)

# %% [markdown]
r"""
**Reading.** A negative correlation is the bias; outlier training should bring it towards zero or above. Over all sets it need not: an OOD set more complex than ID that the training pushes far down makes the line *steeper*, although it is detected better. What the paper promises is about the simpler sets, so they stand apart.
"""

# %%
for part in parts:
    for q in quantities:
        before, after = (bias[part, title, q] for title in pair)
        print(
            f"{part}, {q}: slope {before.slope:+.0f} -> {after.slope:+.0f} nats per bit/dim, r {before.r:+.2f} -> {after.r:+.2f}; "
            f"by r the bias is {'reduced' if after.r > before.r else 'not reduced'}"
        )

# %% [markdown]
r"""
## Fig. 4: the likelihood of ID data
> The results indicate that the model retains its ability to appropriately represent the in-distribution data.

The paper shows $p_{\mathcal Z}$, which leaves out the determinant. The cost of outlier training for the density itself is the second panel, in bits per dimension: higher is a worse model of ID data.
"""

# %%
from flowood_core import scores

colours = dict(zip(pair, [figures.METHOD_COLOURS["mle"], figures.METHOD_COLOURS["ccm_gaussian"]]))
d = next(iter(pair.values())).metrics["d"]
fig, (left, right) = figures.figure("wide", columns=2)
for title, run in pair.items():
    values = run.arrays[first_id]["log_pz"][: P.n_figure]
    left.scatter(range(len(values)), values, s=5, alpha=0.6, linewidths=0, color=colours[title], label=title)
left.set(xlabel="ID test image", ylabel=quantities["log_pz"])
left.legend(fontsize=7)
bpd = {title: scores.bits_per_dim(run.arrays[first_id]["log_px"], d) for title, run in pair.items()}
# a single image far out would squeeze all others
figures.draw_histograms(right, bpd, colours=colours, quantiles=(0.0, 0.995))
right.set_xlabel("ID test images: bits per dimension")
right.legend(fontsize=7)
sheet.save_figure(fig, "fig_4", f"Likelihood of ID test images: {about}; right up to the 99.5 % quantile")

# %%
cost = pd.DataFrame(
    [
        (
            r.spec.id,
            METHOD_LABELS[r.spec.method],
            r.spec.seed,
            r.metrics["id"]["bpd"],
            r.metrics["id"]["log_pz_mean"],
        )
        for r in finished.values()
    ],
    columns=["id", "method", "seed", "ID test bits/dim", "mean log p_Z"],
)
sheet.save_table(cost, "fig_4_id_cost", "What outlier training costs ID data")
means = cost.replace({"id": datasets.LABELS}).groupby(["id", "method"], sort=False)
figures.show_table(
    means[["ID test bits/dim", "mean log p_Z"]].mean().assign(seeds=means.size()),
    "ID test likelihood, mean over seeds; fewer bits per dimension is a better model",
    {"ID test bits/dim": "{:.2f}", "mean log p_Z": "{:.0f}", "seeds": "{}"},
)
for id_, of in means["ID test bits/dim"].mean().groupby("id", sort=False):
    change = of[id_]["CCM+Gaussian"] - of[id_]["MLE"]
    print(f"{id_}: CCM+Gaussian moves ID images by {change:+.2f} bits/dim against MLE; fewer is likelier.")

# %%
sheet.finish(runs=list(finished), provenance=next(iter(finished.values())).metrics["provenance"])

# %% [markdown]
r"""
## Summary
- The five trainings differ in one argument; the table above shows which OOD sets each of them helps, with both readings of the score.
- A "+Complexity" row is worth what it adds to the complexity-only row; on sets more complex than ID the term works against the score.
- Not reproduced here: cells marked "not run"; they need the paper's data sets (`make reproduce PROFILE=sample` or `paper`). Next: `03_1_lipschitz`.
"""
