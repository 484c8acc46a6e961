# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 3.1, beyond the paper: neighbours and a better detector
**Question.** How does the paper's detector compare with other cures of the same disease, on the same flows, and can its idea be taken further?  **Answer.** The first table: every score on every flow, one row each, none fitted on an OOD set.
**Makes** the neighbours' table, the `flowood` rows · **reads** the runs of `train_one` (trains what is missing) · **time** 1 min when the runs exist; quick 3 min, sample 1 h
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
beyond_id: Optional[str] = None  # None: the profile's; the ID set, one of Table 2's
n_gradient: int = 200  # images per set for the gradient norms, which cost a backward pass each

# %%
import pandas as pd
import torch

from flowood_core import datasets, lipschitz, metrics, neighbours, runs
from flowood_core.runs import grid
from flowood_core.notebook import params, figures
from flowood_core.evidence import tables
from flowood_core.flow import dequantise
from flowood_core.outliers import simplify
from flowood_core.outliers.image import METHOD_LABELS

OUTLIERS = METHOD_LABELS | {"mle": "none", "ccm_simplify": "CCM+simplify"}
P = params.check(globals(), notebook="03_1_beyond")
sheet = figures.start("03_1_beyond", P)
rows = {  # training: its runs, one per seed
    "MLE": [s for s in grid.rows(P.profile, "table_2") if s.method == "mle"],
    "CCM+Gaussian": [s for s in grid.rows(P.profile, "table_2") if s.method == "ccm_gaussian"],
    "hinge at the ID level": grid.rows(P.profile, "beyond_hinge"),
    "flowood": grid.rows(P.profile, "beyond_flowood"),
}
rows = {name: [s for s in specs if s.id == P.beyond_id] for name, specs in rows.items()}
rows = {name: [runs.run_or_load(s) for s in specs] for name, specs in rows.items() if specs}
background = {
    s.seed: runs.run_or_load(s) for s in grid.rows(P.profile, "beyond_background") if s.id == P.beyond_id
}
ood = rows["MLE"][0].spec.ood
print(f"ID {P.beyond_id}; {sum(map(len, rows.values())) + len(background)} runs, {sheet.label}")
for run in rows.get("hinge at the ID level", [])[:1]:
    print(f"threshold of the hinge: {run.spec.tau:g} nats; ID under MLE: ", end="")
    print(f"{rows['MLE'][0].metrics['id']['log_px_mean']:.0f} nats on average")

# %% [markdown]
r"""
## The scores
| score | what it is | fitted on |
|---|---|---|
| `pz`, `px` | $-\log p_{\mathcal Z}$ of eq. (4), $-\log p_{\mathcal X}$ | nothing |
| `px_comp` | eq. (5), $-\log p_{\mathcal X} - C$, per dimension | nothing |
| `typicality` | $\lvert -\log p_{\mathcal X} - \mathbb E_{\mathrm{ID}}[-\log p_{\mathcal X}]\rvert$ (Nalisnick et al. 2019) | ID |
| `gradient` | $\lVert \nabla_{\mathbf x} \log p_{\mathcal X}\rVert$ (approximate mass; Chali et al. 2023) | nothing |
| `gmm` | density of $(C, \log p_{\mathcal Z})$ under a mixture (Osada et al. 2024) | ID |
| `ocsvm` | one-class SVM on $(\log p_{\mathcal Z}, \log\lvert\det\rvert, C)$ (after Ahmadian & Lindsten 2021) | ID |
| `ratio` | $\log p_{\mathrm{background}} - \log p_{\mathcal X}$ (Ren et al. 2019) | a second flow, on mutated ID images |
| `fusion` | ours: linear in $(\log p_{\mathcal Z}, \log p_{\mathcal X}, C)$ | ID against synthetic outliers |

Two trainings stand beside the paper's. *Hinge at the ID level* is what masks and clamps of other papers amount to (Kirichenko et al. 2020, Schmier et al. 2022): temperature 0, and a threshold set by hand near the likelihood of ID data (printed above). `flowood` is our own: the paper's objective, with outliers that are simpler in more ways than by blur, on a flow that squeezes first and so couples more than three channels. Its outliers, its width and its score were chosen among half a dozen recipes by their AUROC on SVHN and iSUN, seed 0 of the sample profile: no weight was fitted on an OOD set, but the choice has seen these two, and its rows on them are to be read with that in mind.
"""

# %%
figures.show_source(simplify.simplify)

# %%
figures.show_source(neighbours.Fusion.fit)


# %%
def fitted_scores(run):
    train, synthetic = run.arrays["train"], run.arrays["synthetic"]
    fitted = {
        "typicality": neighbours.Typicality.fit(train),
        "gmm": neighbours.Gmm.fit(train),
        "ocsvm": neighbours.OneClass.fit(train),
        "fusion": neighbours.Fusion.fit(train, synthetic),
    }
    scored = {}
    for name in (run.spec.id, *run.spec.ood):
        own = run.scores(name)
        scored[name] = {k: own[k] for k in ("pz", "px", "px_comp")}
        scored[name] |= {k: f.score(run.arrays[name]) for k, f in fitted.items()}
        if other := background.get(run.spec.seed):
            scored[name]["ratio"] = neighbours.likelihood_ratio(
                run.arrays[name]["log_px"], other.arrays[name]["log_px"]
            )
    return scored, fitted["fusion"]


def gradient_norms(run, n):
    flow, norms = run.flow(), {}
    for name in (run.spec.id, *run.spec.ood):
        x = dequantise(datasets.load(name, "test").drawn(run.spec.n_test, 0).x[:n])
        norms[name] = torch.cat([lipschitz.grad_logp(flow.log_prob, p) for p in x.split(32)]).numpy()
    return norms


# %%
found, weights = [], []
for training, of in rows.items():
    for run in of:
        scored, fusion = fitted_scores(run)
        if run.spec.seed == of[0].spec.seed:
            norms = gradient_norms(run, P.n_gradient)
            scored = {name: s | {"gradient": norms[name]} for name, s in scored.items()}
        for name in run.spec.ood:
            for score, values in scored[name].items():
                e = metrics.evaluate(scored[P.beyond_id][score], values, rng=0)
                for metric in ("auroc", "aupr_out", "fpr95_id95"):
                    value, low, high = (100 * v for v in e[metric])
                    found.append((training, run.spec.seed, score, name, metric, value, low, high))
        weights.append((training, run.spec.seed, *fusion.weights))
found = pd.DataFrame(found, columns=["training", "seed", "score", "ood", "metric", "value", "low", "high"])
over = tables.over_seeds(found, ["training", "score", "ood", "metric"])
sheet.save_table(over, "beyond_long", "Neighbours and variants: every metric in percent, 95 % interval")

# %% [markdown]
r"""
## AUROC
"""

# %%
shown = over[over.metric == "auroc"].replace({"ood": datasets.LABELS})
table = tables.wide(shown, ["training", "score"], ["ood"])
means = shown.groupby(["training", "score"], sort=False)["value"].mean()
table["mean"] = [f"{means[key]:.1f}" for key in table.index]
label = datasets.LABELS.get(P.beyond_id, P.beyond_id)
figures.show_table(table, f"AUROC in percent, ID = {label}; higher is better")
sheet.save_table(
    table, "beyond_auroc", f"AUROC in percent of every score on every flow, ID = {label}", index=True
)

# %%
grid_of = shown.groupby(["training", "score"], sort=False)["value"].mean().unstack("score")
fig, ax = figures.figure("wide", height=0.5 * len(grid_of) + 1.4)
figures.draw_heat(ax, grid_of, label="mean AUROC over the OOD sets [%]")
sheet.save_figure(fig, "beyond_means", "Mean AUROC over the OOD sets: trainings (rows) and scores (columns)")

# %% [markdown]
r"""
**Reading.** The best row per OOD set and on average, and whether the paper's own rows are among them:
"""

# %%
auroc = shown.set_index(["training", "score", "ood"])["value"]
for name in dict.fromkeys(shown.ood):
    best = auroc.xs(name, level="ood").idxmax()
    paper_style = auroc.xs(name, level="ood")["CCM+Gaussian"]["pz"]
    print(
        f"{name}: best {' / '.join(best)} {auroc[(*best, name)]:.1f}; paper's CCM+Gaussian with eq. (4): {paper_style:.1f}"
    )
print(f"mean over the sets: best {' / '.join(means.idxmax())} {means.max():.1f}; "
      f"paper's CCM+Gaussian with eq. (4): {means['CCM+Gaussian', 'pz']:.1f}, MLE: {means['MLE', 'pz']:.1f}")  # fmt: skip

# %%
names = ["log p_Z", "log p_X", "C"]
weights = pd.DataFrame(weights, columns=["training", "seed", *names])
sheet.save_table(weights, "beyond_fusion", "Weights of the fusion, after scaling each quantity on ID")
figures.show_table(
    weights.set_index("training"),
    "What the fusion learned: negative = low values speak for OOD",
    {"seed": "{}"} | dict.fromkeys(names, "{:+.2f}"),
)

# %% [markdown]
r"""
## The cost
A detector is also a density; what each training costs the likelihood of ID test images:
"""

# %%
cost = pd.DataFrame(
    [(t, OUTLIERS.get(r.spec.method), r.spec.seed, r.metrics["n_parameters"],
      r.metrics["id"]["bpd"], r.metrics["seconds"]["training"] / 60) for t, of in rows.items() for r in of],
    columns=["training", "outliers", "seed", "parameters", "ID bits/dim", "minutes"],
)  # fmt: skip
sheet.save_table(cost, "beyond_cost", "Outliers, parameters, ID bits per dimension and minutes of training")
figures.show_table(
    cost.set_index("training"),
    "Cost of each training",
    {"outliers": "{}", "seed": "{}", "parameters": "{:,}", "ID bits/dim": "{:.2f}", "minutes": "{:.1f}"},
)

# %%
every = [r for of in rows.values() for r in of] + list(background.values())
sheet.finish(runs=[r.spec.run_id for r in every], provenance=every[0].metrics["provenance"])

# %% [markdown]
r"""
## Summary
- One flow, many scores: the table above says which of them survive on simple *and* on complex OOD.
- No flow and no score was fitted on a test OOD set (the recipe of `flowood` was chosen in view of two, see above); gradient norms are of the first seed and of fewer images, with intervals over test draws.
- Not reproduced here: the neighbours' own flows and training lengths. Next: `03_2_high_dimensional`.
"""
