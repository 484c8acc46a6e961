# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 2.4 OOD scoring
**Question.** How does a trained flow say "this does not belong here"?  **Answer.** A score, a threshold fitted apart from the model, and an honest interval around every rate.
**Makes** the scores of eq. (4)–(6) on one trained flow · **reads** one run of `train_one` · **time** 10 s when it exists
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
id: Optional[str] = None  # None: the profile's in-distribution set
ood: Optional[str] = None  # None: the profile's example of OOD
method: str = "ccm_gaussian"  # the flow whose threshold is fitted
seed: int = 0
keep: float = 0.95  # share of ID that the threshold has to keep

# %% tags=["imports"]
import numpy as np
import pandas as pd

from flowood_core import datasets, metrics, runs, scores
from flowood_core.runs import grid
from flowood_core.notebook import params, figures

P = params.check(globals(), notebook="02_4_ood_scoring")
sheet = figures.start("02_4_ood_scoring", P)
run = runs.run_or_load(grid.spec(P.profile, P.id, method=P.method, seed=P.seed))
id_scores, ood_scores = run.scores(P.id), run.scores(P.ood)
print(f"{run.spec.run_id}: {len(id_scores['pz'])} ID and {len(ood_scores['pz'])} OOD test images")

# %% [markdown]
r"""
> $$\mathcal S_{\mathrm{nll}}(\mathbf x) = -\log p_{\mathcal Z}(\mathbf z) \tag{4}$$

Eq. (4) leaves out the determinant that training (eq. 2) keeps. Both are here, under names that cannot be confused: `pz` is the printed formula, `px` is $-\log p_{\mathcal X}(\mathbf x)$. Higher always means more OOD.
"""

# %%
figures.show_source(scores.score_nll)
figures.show_source(scores.score_nll_px)

# %% [markdown]
r"""
> $$\mathcal S_{\mathrm{comp}}(\mathbf x) = \mathcal S_{\mathrm{nll}}(\mathbf x) - C(\mathbf x) \tag{5}$$

$C$ is in bits per dimension. In total nats the first term would swamp it (the table below has the spreads), so both sides are taken per dimension: nats with `pz`, as the literal formula has it, bits with `px`, where the difference is one of two code lengths.
"""

# %%
figures.show_source(scores.score_comp)
spread = {
    "-log p_Z [nats]": id_scores["pz"].std(),
    "-log p_Z / d [nats/dim]": id_scores["pz"].std() / run.metrics["d"],
    "C [bits/dim]": id_scores["comp_only"].std(),
}
figures.show_table(pd.DataFrame(spread, index=["sd over ID"]), "Why the unit of eq. (5) matters", "{:.3g}")

# %%
kinds = {
    "pz": "eq. (4)",
    "px": "full density",
    "pz_comp": "eq. (5) on pz",
    "px_comp": "eq. (5) on px",
    "comp_only": "−C alone",
}
units = dict(zip(kinds, ("nats", "nats", "nats/dim − bits/dim", "bits/dim", "bits/dim")))
id_name, ood_name = (datasets.LABELS.get(name, name) for name in (P.id, P.ood))
colours = {id_name: figures.colour_of(P.id), ood_name: figures.colour_of(P.ood)}


# %%
def draw_score(ax, kind):
    values = {id_name: id_scores[kind], ood_name: ood_scores[kind]}
    # one image far out would squeeze all the others into a corner
    figures.draw_histograms(ax, values, colours=colours, bins=40, quantiles=(0.005, 0.995))
    ax.set(yticks=[], ylabel="")
    ax.set_title(f"{kind}: {kinds[kind]}", fontsize=8)
    ax.set_xlabel(units[kind], fontsize=8)
    ax.tick_params(axis="x", labelsize=7)
    ax.locator_params(axis="x", nbins=4)


# %%
fig, axes = figures.figure("wide", columns=len(kinds))
for ax, kind in zip(axes, kinds):
    draw_score(ax, kind)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
about = f"Five scores of one flow on {P.id} and {P.ood}; right is more OOD. "
ends = "Each axis runs from the lower 0.5 % to the higher 99.5 % quantile of the two sets"
sheet.save_figure(fig, "scores", about + ends)

# %%
auroc = {kind: 100 * metrics.auroc(id_scores[kind], ood_scores[kind]) for kind in kinds}
figures.read(
    (
        auroc["pz"] > 50 and auroc["px"] > 50,
        f"By both likelihoods {ood_name} lies to the right of {id_name}.",
        f"By at least one likelihood {ood_name} does not lie to the right of {id_name}: it is missed.",
    ),
)

# %% [markdown]
r"""
`auroc` is the chance that an OOD image scores higher than an ID image; `aupr_out` and `aupr_in` are the average precision with OOD, or ID, as the class to be found. `fpr95_id95` is the share of OOD accepted where 95 % of ID are kept, `fpr95_ood95` the share of ID flagged where 95 % of OOD are caught: for these two, lower is better.
"""

# %%
found = {k: metrics.evaluate(id_scores[k], ood_scores[k], rng=P.seed) for k in kinds}
rows = {
    k: {
        m: f"{100 * v.value:.1f} [{100 * v.low:.1f}, {100 * v.high:.1f}]" for m, v in e.items() if m[0] != "n"
    }
    for k, e in found.items()
}
frame = pd.DataFrame(rows).T
sheet.save_table(
    frame.reset_index(names="score"),
    "metrics",
    "Metrics of five scores, percent with 95 % bootstrap interval",
)
figures.show_table(frame, f"{ood_name} against {id_name}, percent", "{}")

# %%
alone = auroc["comp_only"]
best_comp = max(auroc["pz_comp"], auroc["px_comp"])
said = f'−C alone, which uses no flow, reaches {alone:.1f}; the better "+Complexity" score {best_comp:.1f}.'
figures.read(
    (True, said),
    (alone >= best_comp, "The success of that score belongs to the complexity of this set, not to the flow."),
)

# %% [markdown]
r"""
## A decision
> The threshold $\gamma$ can be selected for optimal F1-score or to ensure that a high proportion of ID samples (e.g., 95%) are correctly classified.

$$h(\mathbf x) = \begin{cases}1 & \mathcal S(\mathbf x) \ge \gamma\\ 0 & \mathcal S(\mathbf x) < \gamma\end{cases} \tag{6}$$

The second way needs ID data only; it is fitted on one half of the ID test images and judged on the other. The first, F1, has to see OOD samples.
"""

# %%
figures.show_source(scores.Threshold.decide)

# %%
fit, judge = np.array_split(id_scores["px"], 2)
gamma = scores.Threshold.fit_quantile(fit, keep=P.keep)
kept, caught = 1 - gamma.decide(judge).mean(), gamma.decide(ood_scores["px"]).mean()
print(
    f"gamma = {gamma.gamma:.0f} nats keeps {kept:.1%} of unseen ID (wanted {P.keep:.0%}) and catches {caught:.1%} of {P.ood}"
)

# %%
best = scores.Threshold.fit_f1(fit, ood_scores["px"][: len(fit)])
print(f"F1 puts gamma at {best.gamma:.0f} nats, but has to see OOD samples: F1 = {best.f1:.3f} on them")
path = sheet.folder / "thresholds" / f"{run.spec.run_id}.json"
path.parent.mkdir(parents=True, exist_ok=True)
gamma.save(path)
assert scores.Threshold.load(path) == gamma

# %% [markdown]
r"""
The threshold is a small file of its own: change it without touching the model, refit it when the camera changes.

## How sure is an AUROC
The paper evaluates 1,000 + 1,000 random images once. What the sample size alone does to the interval:
"""

# %%
most = min(len(id_scores["px"]), len(ood_scores["px"]))
sizes = [most // 8, most // 4, most // 2, most]
widths = []
for n in sizes:
    e = metrics.evaluate(id_scores["pz"][:n], ood_scores["pz"][:n], rng=0)["auroc"]
    low, value, high = (100 * v for v in (e.low, e.value, e.high))
    widths.append({"n per side": n, "AUROC": value, "low": low, "high": high, "width": high - low})
figures.show_table(
    pd.DataFrame(widths).set_index("n per side"),
    "AUROC of eq. (4) and its 95 % interval by sample size, percent",
)

# %%
sheet.finish(runs=[run.spec.run_id])

# %% [markdown]
r"""
## Summary
- Two likelihood scores share the paper's symbol; they can disagree on the same flow, so every table names which one it shows.
- Eq. (5) needs a unit. With $-\log p_{\mathcal X}$ and $C$ both in bits per dimension it is a code length minus a code length; with $p_{\mathcal Z}$, as printed, it is nats minus bits. Both are to be read beside −C alone.
- A threshold is fitted on ID data, kept apart from the model, and judged on data it has not seen. Next: `03_1_benchmark_images`.
"""
