# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# E. Ours: which open choices matter
**Question.** The paper leaves some choices open; how much would another reading have changed?  **Answer.** In profile `sample` two choices decide iSUN: pixels in 0..255 instead of 0..1 (A1), and real outliers without iSUN among them (A18), each cost about 28 points by eq. (4). On faces three choices (A2, A8, A13) surely gain more than 20 points by eq. (4). On SVHN no choice is sure by eq. (4), since the three seeds differ by 26 points.
**Makes** a figure and tables of what each choice is worth, and of readings of eq. (5); none is in the paper · **reads** the runs of `train_one` (trains what is missing) · **time** 10 s when the runs exist; quick 1 min, sample 1 h, paper GPU-hours
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
shown_ood: Optional[list] = None  # None: the profile's; OOD sets of the figure, one panel each

# %%
from flowood_core.evidence import complexity_term, decisions
from flowood_core import datasets, runs
from flowood_core.runs import grid
from flowood_core.notebook import params, figures
from flowood_core.notebook.labels import labelled

P = params.check(globals(), notebook="app_e_open_choices")
sheet = figures.start("app_e_open_choices", P)
finished, not_here = runs.available(grid.rows(P.profile, "choices"))
ids = {r.spec.id for r in finished}
bases, without = runs.available(
    s for s in grid.rows(P.profile, "table_2") if s.id in ids and s.method in ("mle", "ccm_gaussian", "ro")
)
if not finished:
    raise datasets.MissingData("\n".join(["expected the data of a row, found none", *not_here.values()]))
print(f"{len(finished)} runs against {len(bases)}; {sheet.label}")
for name, why in (not_here | without).items():
    print(f"not run: {datasets.LABELS.get(name, name)}: {why}")

# %% [markdown]
r"""
## What was varied
Each run differs from a row of Table 2, CCM+Gaussian, RO or MLE, in the choice named and in nothing else, and is compared with the run of the same seed. The codes are those of `DECISIONS.md`. Two choices concern the score alone, and need no training. A2 takes $-\log p_{\mathcal X}$ where eq. (4) prints $-\log p_{\mathcal Z}$. A4 takes eq. (5) literally, nats per sample less bits per dimension, where we take both per dimension. A1 has two alternatives, since $\log(1 + p)$ needs a unit. One is $\log p$ per dimension inside the softplus. The other is images scaled to 0..255: in $D$ dimensions it moves every $\log p$ by $-D \ln 256$, and so out of the reach of the penalty.
"""

# %%
found = decisions.effects(P.profile)
sheet.save_table(
    found.drop(columns="gain"), "choices", "AUROC of each open choice against ours, seed by seed"
)
both_scores = decisions.over_seeds(found)
found = found[found.score == "pz"].copy()
found["label"] = found.code + "  " + found.choice
mean = found.groupby(["label", "of", "ood"], sort=False)["difference"].mean().unstack("ood", sort=False)
mean = mean.rename(columns=datasets.LABELS)
mean["ID bits/dim"] = found.groupby(["label", "of"], sort=False)["bpd"].mean()
mean["seeds"] = found.groupby(["label", "of"], sort=False)["seed"].nunique()
formats = dict.fromkeys(mean, "{:+.1f}") | {"ID bits/dim": "{:+.2f}", "seeds": "{:.0f}"}
about = "AUROC points gained by the other choice, mean over seeds; change of ID bits/dim (fewer is likelier)"
figures.show_table(mean, about, formats)

# %%
both = both_scores.assign(
    label=both_scores.code + "  " + both_scores.choice, shown=[f"{e:+.1f}" for e in both_scores.effect]
)
both = both.replace({"ood": datasets.LABELS}).pivot_table(
    index=["label", "of", "score"], columns="ood", values="shown", aggfunc="first", sort=False
)
about = "AUROC points gained, by both scores, with 95 % intervals over seeds and test draws"
sheet.save_table(both, "choices_both_scores", about, index=True)
figures.show_table(labelled(both), about, folded=True)

# %% [markdown]
r"""
In the figure a dot is a seed and a bar their mean, by eq. (4) (A4: by eq. (5)). Right of zero the other choice finds more.
"""

# %%
size = {"columns": len(P.shown_ood), "height": 1.5 + 0.34 * found.label.nunique()}
fig, axes = figures.figure("wide", sharex=True, sharey=True, squeeze=False, **size)
for ax, ood in zip(axes[0], P.shown_ood):
    figures.draw_differences(ax, found[found.ood == ood], row="label", colour=figures.colour_of(ood))
    ax.set_title(datasets.LABELS.get(ood, ood).replace(" (", "\n(").replace(", ", ",\n"), fontsize=8)
    ax.tick_params(labelsize=8)
fig.supxlabel("change of AUROC by the other choice [points]", fontsize=9)
about = "AUROC points gained (right) or lost (left) by the other choice; dots: seeds, bars: their mean"
sheet.save_figure(fig, "choices", about)

# %% [markdown]
r"""
How far the seeds of our own choice lie from each other, for scale:
"""

# %%
ours = found.drop_duplicates(["of", "ood", "seed"]).groupby(["of", "ood"], sort=False)["base"]
spread = ours.agg(mean="mean", lowest="min", highest="max").rename(index=datasets.LABELS)
figures.show_table(
    spread, "AUROC of our choice by eq. (4), +Complexity by eq. (5): mean over seeds, lowest, highest seed"
)

# %% [markdown]
r"""
An effect is *sure* where its 95 % interval, over seeds and test draws, excludes zero.
"""

# %%
sure = decisions.sure(both_scores).sort_values(["score", "ood"], ascending=[False, True], kind="stable")
sure = sure.assign(choice=sure.code + "  " + sure.choice, gain=[f"{e:+.1f}" for e in sure.effect])
sure = sure[["score", "ood", "choice", "of", "gain"]].set_index(["score", "ood"])
figures.show_table(labelled(sure), "Effects that are sure, AUROC points", "{}")
figures.read(*decisions.reading(both_scores))

# %% [markdown]
r"""
## How often an outlier? (A13)
**Claim.** "By fine-tuning the outlier synthesis probability empirically, we achieve an optimal balance" (section 2.3); the paper prints 0.5 and no curve. The probability stands in for a weight between eq. (2) and eq. (3): 0 is maximum likelihood.
"""

# %%
is_swept = "outlier_prob" in grid.tables(P.profile)
swept = runs.available(grid.rows(P.profile, "outlier_prob") if is_swept else [])[0]
by_probability = decisions.over_probability(P.profile)

# %%
if is_swept:
    fig, axes = figures.figure("wide", columns=len(P.shown_ood), height=2.4, sharey=True, squeeze=False)
    for ax, ood in zip(axes[0], P.shown_ood):
        for score, name in {"pz": "$-\\log p_Z$", "px": "$-\\log p_X$"}.items():
            points = by_probability.query("ood == @ood and score == @score")
            figures.draw_curve(
                ax, points, x="probability", colour=figures.colours_of(["pz", "px"])[score], label=name
            )
        ax.set_title(datasets.LABELS.get(ood, ood).replace(" (", "\n(").replace(", ", ",\n"), fontsize=8)
        ax.tick_params(labelsize=8)
    fig.supxlabel("outlier probability", fontsize=9)
    figures.legend_below(axes[0][0], size=8)
    sheet.save_figure(fig, "outlier_probability", "AUROC [%] against the outlier probability; 0 is MLE")

# %%
if is_swept:
    shown = by_probability.assign(shown=[f"{e:.1f}" for e in by_probability["auroc"]]).replace(
        {"ood": datasets.LABELS}
    )
    shown["probability"] = [f"{p:g}" for p in shown["probability"]]
    shown = shown.pivot(index=["score", "probability"], columns="ood", values="shown")
    about = "AUROC by outlier probability; 0 is MLE, 0.5 the paper's"
    sheet.save_table(shown, "outlier_probability", about, index=True)
    figures.show_table(shown, about)
    figures.read(*decisions.reading_of_probability(by_probability))

# %% [markdown]
r"""
## Which reading of eq. (5) gives the printed "+Complexity" rows? (A4)
The paper prints +Complexity as misleading on iSUN for *every* training, with AUROCs of 21 to 47. With both sides per dimension it misleads maximum likelihood and blur only. After CCM, or real outliers, $-\log p$ of iSUN lies so far above that of ID that no complexity can outweigh it.

So other units, clips, scales and weights are tried here. Nothing is trained for them: they are computed from the scores of the runs of Table 2. The error is the mean over the printed cells of |ours − printed|, in points. The nearest reading is picked by the printed cells themselves, so it is a hint at what the authors did, and no test of it.
"""

# %%
figures.show_source(complexity_term.READINGS["both standardised on ID and OOD together"])

# %%
rows = [r for s in grid.rows(P.profile, "table_2") if (r := runs.Run.read(s)) is not None]
tried = {}
for kind, symbol in {"pz": "log p(z)", "px": "log p(x)"}.items():
    scored = complexity_term.readings(rows, kind)
    tried[symbol] = complexity_term.against_paper(scored)
    about = f"AUROC of readings of eq. (5) with {symbol}, every run of Table 2"
    sheet.save_table(scored, f"complexity_term_{kind}", about)
    if len(tried[symbol]):
        names = {"error": "error [points]", "n_cells": "cells", "isun_lowest": "iSUN, lowest row",
                 "isun_highest": "iSUN, highest row"}  # fmt: skip
        shown = tried[symbol].set_index("reading").rename(columns=names)
        formats = dict.fromkeys(shown, "{:.1f}") | {"cells": "{:.0f}"}
        figures.show_table(shown, f"Readings of eq. (5) with {symbol} against the paper, best first", formats)
figures.read(*complexity_term.reading(tried))

# %%
weights = complexity_term.weights(rows)
sheet.save_table(weights, "complexity_weight", "AUROC of eq. (5) by the weight of C, every run of Table 2")
weights["weight"] = weights["weight"].map("{:g}".format)
by_weight = weights.pivot_table(index=["id", "method"], columns=["ood", "weight"], values="value", sort=False)
about = "AUROC by the weight of C in eq. (5), −log p(z), mean over seeds: 1 is the paper's"
figures.show_table(labelled(by_weight), about, "{:.0f}", folded=True)

# %%
sheet.finish(runs=[r.spec.run_id for r in [*finished, *swept]])

# %% [markdown]
r"""
## Summary
- The unit inside the softplus (A1) is a hidden threshold: with pixels in 0..255 the penalty hardly acts; `02_3` shows why.
- Readings of eq. (5) that bound $-\log p$ come nearer to the printed +Complexity rows than the printed equation does.
- With so many intervals a few exclude zero by chance: about one in twenty would, if no choice had any effect.
- Not varied here: widths, learning rates, crops, and choices that only concern data sets. Next: `05_scoreboard`.
"""
