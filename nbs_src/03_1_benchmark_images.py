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
**Question.** Do synthetic outliers keep a flow from calling simple images likely?  **Answer.** In profile `sample` the flows of CIFAR find the simpler SVHN better. By the full density $-\log p_{\mathcal X}$ that is sure; by eq. (4) every seed gains, but three seeds differ too much to be sure. $-C(\mathbf x)$ alone, without a flow, finds SVHN better still. iSUN, which is more complex than CIFAR, is surely found better by either score. Between the two CIFAR sets no change is sure. CelebA, here in reduced copies, is found worse by eq. (4) under every ID set, and so are other faces under CIFAR-10.
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

# %% tags=["imports"]
import itertools

import pandas as pd

from flowood_core import datasets, runs, scores
from flowood_core.evidence import benchmark_readings, benchmark_tables, tables
from flowood_core.notebook import figures, params
from flowood_core.notebook.labels import labelled
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import grid

P = params.check(globals(), notebook="03_1_benchmark_images")
sheet = figures.start("03_1_benchmark_images", P)
rows = {s.run_id: s for t in P.tables_wanted for s in grid.rows(P.profile, t)}
made, not_here = runs.available(rows.values())
if not made:
    raise datasets.MissingData("\n".join(["expected the data of a row, found none", *not_here.values()]))
finished = {run.spec.run_id: run for run in made}
name_of = datasets.LABELS | METHOD_LABELS
print(f"{len(finished)} runs; {sheet.label}")
for name, why in not_here.items():
    print(f"not run: {name_of.get(name, name)}: {why}")

# %% [markdown]
r"""
> We evaluate the effectiveness of the synthetic outliers and dual likelihood objective. These methods include maximum likelihood estimation trained solely on ID data (MLE), dual likelihood training with a few real outliers (RO) …, and dual likelihood training using Gaussian blur, the CCM augmentaion …, and a combination of both.

A row is an argument of one training loop, not a script of its own. The paper's ten rows are five trainings and two scores:

$$\mathcal S_{\mathrm{nll}}(\mathbf x) = -\log p_{\mathcal Z}(\mathbf z) \tag{4}$$

$$\mathcal S_{\mathrm{comp}}(\mathbf x) = \mathcal S_{\mathrm{nll}}(\mathbf x) - C(\mathbf x) \tag{5}$$

Beside them stand two things that the paper does not print. One is the score $-\log p_{\mathcal X}(\mathbf x)$ *with* the determinant, the quantity that eq. (2) and (3) train. The other is $-C(\mathbf x)$ alone, a detector without any flow.

## What the outliers move
**Claim.** Training with CCM+Gaussian raises the AUROC. The gain is paired: the same seed, the same test images. A bracket is a 95 % interval over seeds and test draws; with one seed it is over test draws alone. In bold stand the better training of the two, and a gain whose interval lies above zero; such a gain is called *sure*.
"""

# %%
collected = tables.collect(finished.values())
collected = collected[collected.metric.isin(["auroc", "fpr95_id95", "fpr95_ood95"])]
found = benchmark_tables.gains(collected)
about = "AUROC without and with synthetic outliers (CCM+Gaussian), and the gain in percent points"
sheet.save_table(found, "auroc_gain", about)
deciding = benchmark_tables.deciding(found)
figures.show_table(deciding, f"{about}; {sheet.label}", best=benchmark_tables.better(found))
figures.read(*benchmark_readings.outlier_gains(found))

# %%
n = collected.groupby("ood")[["n_id", "n_ood"]].first()
figures.show_table(n.rename(index=datasets.LABELS), "Test images", "{:.0f}", folded=True)
pools = {r.spec.id: r.spec.ro_pool for r in finished.values() if r.spec.method == "ro"}
for id_, pool in pools.items():
    # a column that is also the pool is no unseen OOD for the row RO (A18)
    names = " and ".join(name_of.get(name, name) for name in pool)
    print(f"ID {name_of.get(id_, id_)}: the real outliers of row RO are training images of {names}.")

# %% [markdown]
r"""
## Every row
Five trainings by five scores. Eq. (5) subtracts $C$, in bits per dimension, from a score per dimension: nats for $p_{\mathcal Z}$, bits for $p_{\mathcal X}$. The paper names no unit, and none that we tried gives its numbers (A4 of `DECISIONS.md`).
"""

# %%
ours = tables.over_seeds(collected, benchmark_tables.CELL)
about = "Every metric of every row: percent, 95 % interval, number of seeds"
sheet.save_table(ours, "benchmark_long", about)
auroc = ours.query("metric == 'auroc'").replace({"method": METHOD_LABELS, "ood": datasets.LABELS})
for id_, part in auroc[auroc.score != "comp_only"].groupby("id", sort=False):
    table = tables.wide(part, ["score", "method"], ["ood"])
    about = f"AUROC in percent, ID = {name_of.get(id_, id_)}"
    sheet.save_table(table, f"auroc_{id_}", about, index=True)
    figures.show_table(labelled(table), about, best="highest", folded=True)

# %% [markdown]
r"""
**FPR95, both ways.** Two conventions share the name. The paper's threshold keeps 95 % of ID (section 2.4), so `fpr95_id95` is the share of OOD that passes as ID. OpenOOD and pytorch-ood catch 95 % of OOD and report the share of ID flagged, `fpr95_ood95`. Lower is better in both.
"""

# %%
fpr = ours[ours.metric.isin(["fpr95_id95", "fpr95_ood95"]) & ours.score.isin(["pz", "px"])]
fpr = fpr.replace({"method": METHOD_LABELS, "ood": datasets.LABELS, "id": datasets.LABELS})
table = tables.wide(fpr, ["id", "metric", "score", "method"], ["ood"])
sheet.save_table(table, "fpr95", "FPR95 in percent, both conventions", index=True)
figures.show_table(labelled(table), "FPR95 in percent, both conventions, lower is better", folded=True)

# %% [markdown]
r"""
## Complexity without a flow
A "+Complexity" row is worth what it adds to this one. The printed columns are the lowest and the highest of the paper's five "+Complexity" rows.
"""

# %%
alone = auroc[(auroc.score == "comp_only") & (auroc.method == "MLE")].replace({"id": datasets.LABELS})
table = tables.wide(alone, ["id"], ["ood"])
sheet.save_table(table, "auroc_complexity_only", "AUROC of -C(x) alone, no flow, by ID set", index=True)
figures.show_table(table, "AUROC of −C(x) alone, no flow, by ID set")
rivals = benchmark_tables.alone_beside_printed(ours)
if len(rivals):
    shown = labelled(rivals).set_index(["id", "ood"])
    figures.show_table(shown, "−C(x) alone beside the printed rows, AUROC in percent", folded=True)
figures.read(*benchmark_readings.alone(rivals))

# %% [markdown]
r"""
## Beside the paper
The printed Tables 2 and 3, ten rows each, joined with our runs on data set, method, score and metric. The printed rows score by eq. (4); a "+Complexity" row by eq. (5) on it. A cell that nobody ran says so; quick runs use other data and never fill one. *Agrees*: the printed number lies within one point of ours, or in our interval, and that interval reaches at most five points to either side. *Cannot tell*: the printed number lies in a wider interval. *Higher*, *lower*: ours is, and the printed number lies outside of its interval. A higher FPR95 is worse.
"""

# %%
absent = tables.absent(finished.values())
for name in ("table_2", "table_3"):
    title = name.replace("_", " ").capitalize()
    joined = benchmark_tables.beside_paper(name, ours, absent)
    sheet.save_table(joined, name, f"{title} of the paper beside our runs")
    said = ", ".join(f"{n} {word}" for word, n in joined.verdict.value_counts().items())
    print(f"{title}, of {len(joined)} printed cells: {said}.")
    for about, table in benchmark_tables.parts(joined):
        figures.show_table(table, f"{title}, {about}", folded=True)
figures.read(*benchmark_readings.footnote(finished.values()), title="CelebA")

# %% [markdown]
r"""
## Fig. 3: complexity and likelihood
> Without outlier training, a clear bias emerges where lower complexity images tend to receive higher likelihoods. However, after incorporating synthetic OOD data during training, this bias is reduced.

Each point is a test image, the first `n_figure` per set. The flows are those of the first seed; the table below has their slopes, and the scoreboard judges all seeds. Two regressions are drawn, over all test images: of all sets (solid), and of ID and the sets simpler than it (dashed), which is what the sentence is about. What lies below the lower edge is drawn on it as a triangle and counts as lying there. Else one set pushed far down would throw the line out of its frame.
"""

# %%
pairs = benchmark_tables.pairs(finished.values())
shown_sets = {
    id_: benchmark_tables.sets_of_fig_3(pair, P.fig3_ood, list(pairs)) for id_, pair in pairs.items()
}
file_of = {id_: "" if k == 0 else f"_{id_}" for k, id_ in enumerate(pairs)}  # the first keeps the name
quantities = {
    "log_pz": r"$\log p_{\mathcal{Z}}(\mathbf{z})$ [nats]",
    "log_px": r"$\log p_{\mathcal{X}}(\mathbf{x})$ [nats]",
}

# %%
for id_, pair in pairs.items():
    dashed = benchmark_tables.simpler(pair, shown_sets[id_])
    fig, axes = figures.figure("tall", rows=2, columns=2, height=7.0)
    for ax, (q, (title, run)) in zip(axes.flat, itertools.product(quantities, pair.items())):
        points = {s: (run.arrays[s]["complexity"], run.arrays[s][q]) for s in shown_sets[id_]}
        figures.draw_complexity_vs_likelihood(
            ax, points, labels=name_of, quantity=quantities[q], n_shown=P.n_figure, simpler=dashed
        )
        ax.set_title(f"ID {name_of.get(id_, id_)}, {title}")
        figures.legend_below(ax, size=7)
    about = f"Complexity C(x) against log-likelihood, ID {name_of.get(id_, id_)}, one seed"
    sheet.save_figure(fig, f"fig_3{file_of[id_]}", about)

# %% [markdown]
r"""
The table has the slopes of the values as they are, and correlations. A slope over pooled sets could come from one set being both simpler and likelier, so the correlation *inside* the sets stands beside it.
"""

# %%
frame = pd.concat([benchmark_tables.bias(pair, shown_sets[id_]) for id_, pair in pairs.items()])
sheet.save_table(frame, "fig_3_bias", "Slope and correlations of Fig. 3")
about = "Bias towards simple images: negative = simpler is likelier"
shown = labelled(frame).set_index(["id", "sets", "training", "quantity"])
figures.show_table(shown, about, "{:+.2f}", folded=True)
figures.read(*benchmark_readings.likelihood_bias(frame))

# %% [markdown]
r"""
## Fig. 4: the likelihood of ID data
> The results indicate that the model retains its ability to appropriately represent the in-distribution data.

The paper shows $p_{\mathcal Z}$, which leaves out the determinant: the left panel, where the two clouds hardly differ. The right panel shows the density itself, in bits per dimension: farther right is a worse model of ID data. Left, images far below the others are triangles on the lower edge; right, the last 2 % are left out.
"""

# %%
colours = dict(zip(benchmark_tables.TITLES.values(), map(figures.colour_of, benchmark_tables.TITLES)))
for id_, pair in pairs.items():
    fig, (left, right) = figures.figure("wide", columns=2)
    clouds = {}
    for title, run in pair.items():
        values = run.arrays[id_]["log_pz"][: P.n_figure]
        clouds[title] = (range(len(values)), values)
    figures.draw_likelihoods(left, clouds, colours=colours)
    bpd = {t: scores.bits_per_dim(r.arrays[id_]["log_px"], r.metrics["d"]) for t, r in pair.items()}
    # few images far out would squeeze all others
    figures.draw_histograms(right, bpd, colours=colours, quantiles=(0.0, 0.98))
    left.set(xlabel="ID test image", ylabel=quantities["log_pz"], title=f"ID {name_of.get(id_, id_)}")
    right.set_xlabel("ID test images: bits per dimension")
    figures.legend_below(left, size=7)
    about = f"ID {name_of.get(id_, id_)}: likelihood of its test images, one seed, right up to 98 %"
    sheet.save_figure(fig, f"fig_4{file_of[id_]}", about)

# %%
cost = benchmark_tables.id_cost(finished.values())
sheet.save_table(cost, "fig_4_id_cost", "What outlier training costs ID data")
means = cost.replace({"id": datasets.LABELS}).groupby(["id", "method"], sort=False)
shown = means[["ID test bits/dim", "mean log p_Z"]].mean().assign(seeds=means.size())
formats = {"ID test bits/dim": "{:.2f}", "mean log p_Z": "{:.0f}", "seeds": "{}"}
figures.show_table(
    shown, "ID test likelihood, mean over seeds; fewer bits per dimension is a better model", formats
)
figures.read(*benchmark_readings.id_cost(cost))

# %% [markdown]
r"""
## AUROC, bits and steepness against epochs
The paper trains for 500 epochs. A long training keeps its weights on the way, so that one can see what its length buys: AUROC, the median likelihood of ID test images, and the median of $\lVert \nabla_{\mathbf x} \log p_{\mathcal X} \rVert$ over them, a line for each training. The mean likelihood is in the table `over_epochs`.
"""

# %%
# also of trainings that are on their way, whichever tables are wanted above
long = {
    s.run_id: s
    for t in grid.tables(P.profile)
    if t in ("table_2", "table_3", "length")
    for s in grid.rows(P.profile, t)
}
over = benchmark_tables.epochs(long.values())
if over.empty:
    print("No run of this profile kept its weights at several epochs: this section needs profile `paper`.")
else:
    sheet.save_table(over, "over_epochs", "AUROC, bits per dimension and steepness at the kept epochs")
for (id_, method, seed), part in over.groupby(["id", "method", "seed"], sort=False):
    of = next(s for s in long.values() if (s.id, s.method, s.seed) == (id_, method, seed))
    if part.epoch.max() < of.epochs:
        print(
            f"{name_of.get(id_, id_)}, {name_of[method]}, seed {seed}: {part.epoch.max():.0f} of {of.epochs:.0f} epochs"
        )

# %%
upper, lower = ("auroc pz", "AUROC by eq. (4) [%]"), ("auroc px", r"AUROC by $-\log p_{\mathcal{X}}$ [%]")
right = {
    "bpd median": "ID test bits/dim, median",
    "grad_logp": r"median $\Vert \nabla_{\mathbf{x}} \log p_{\mathcal{X}} \Vert$",
}
for (id_, seed), part in over.groupby(["id", "seed"], sort=False):
    oods = [o for o in next(s for s in long.values() if s.id == id_).ood if o in set(part.ood)]
    fig, axes = figures.figure("wide", rows=2, columns=len(oods) + 1, height=5.4)
    for line, (quantity, label) in zip(axes, (upper, lower)):
        for ax, ood in zip(line, oods):
            of = part[(part.quantity == quantity) & (part.ood == ood)]
            marks = benchmark_tables.marks(id_, ood, finished.values())
            if quantity != "auroc pz":
                marks["printed"] = None  # the paper's rows are by eq. (4)
            figures.draw_epochs(ax, of, labels=name_of, **marks)
            ax.set(ylim=(-3, 103), title=f"OOD {name_of.get(ood, ood)}")
        line[0].set_ylabel(label)
    for ax, (quantity, label) in zip(axes[:, -1], right.items()):
        figures.draw_epochs(ax, part[part.quantity == quantity], labels=name_of)
        ax.set_ylabel(label)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=7)
    about = (
        f"Against epochs: ID {name_of.get(id_, id_)}, seed {seed}; diamonds: the paper, dashed: −C(x) alone"
    )
    sheet.save_figure(fig, f"over_epochs_{id_}_{seed}", about)

# %%
sheet.finish(runs=list(finished), provenance=next(iter(finished.values())).metrics["provenance"])

# %% [markdown]
r"""
## Summary
- The five trainings differ in one argument. The first table says which OOD sets the outliers help, by both scores, and how surely.
- A "+Complexity" row is worth what it adds to the complexity-only row; on sets more complex than ID the term works against the score.
- Not reproduced here: cells marked "not run"; they need the paper's data sets (`make reproduce PROFILE=sample` or `paper`). Next: `03_1_lipschitz`.
"""
