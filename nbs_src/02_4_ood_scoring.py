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
**Question.** How does a trained flow say "this does not belong here"?  **Answer.** By a score that is higher for OOD, and a threshold fitted on ID images that the flow was not trained on. A high AUROC of eq. (5) can be due to complexity alone, so $-C(\mathbf x)$ stands beside it: in profile `sample` it finds SVHN as well as the best score of this flow does.
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

from flowood_core import datasets, intervals, metrics, runs, scores
from flowood_core.runs import grid
from flowood_core.notebook import params, figures
from flowood_core.notebook.labels import labelled

P = params.check(globals(), notebook="02_4_ood_scoring")
sheet = figures.start("02_4_ood_scoring", P)
run = runs.run_or_load(grid.spec(P.profile, P.id, method=P.method, seed=P.seed))
id_scores, ood_scores = run.scores(P.id), run.scores(P.ood)
print(f"{run.spec.run_id}: {len(id_scores['pz'])} ID and {len(ood_scores['pz'])} OOD test images")

# %% [markdown]
r"""
> $$\mathcal S_{\mathrm{nll}}(\mathbf x) = -\log p_{\mathcal Z}(\mathbf z) \tag{4}$$

Eq. (4) leaves out the determinant that training (eq. 2) keeps. Both are here, under names that cannot be confused: in the code `pz` is the printed formula, `px` is $-\log p_{\mathcal X}(\mathbf x)$. Higher always means more OOD.
"""

# %%
figures.show_source(scores.score_nll)
figures.show_source(scores.score_nll_px)

# %% [markdown]
r"""
> $$\mathcal S_{\mathrm{comp}}(\mathbf x) = \mathcal S_{\mathrm{nll}}(\mathbf x) - C(\mathbf x) \tag{5}$$

$C$ is in bits per dimension. In total nats the first term would swamp it: the table below has the spreads over ID images. So both sides are taken per dimension. With $p_{\mathcal Z}$ the first is in nats, the unit of eq. (4); with $p_{\mathcal X}$ it is in bits, and the score is the difference of two code lengths.
"""

# %%
figures.show_source(scores.score_comp)
spread = {
    "−log p(z) [nats]": id_scores["pz"].std(),
    "−log p(z) / d [nats/dim]": id_scores["pz"].std() / run.metrics["d"],
    "C [bits/dim]": id_scores["comp_only"].std(),
}
about = "Standard deviation over ID images: why the unit of eq. (5) matters"
figures.show_table(pd.DataFrame(spread, index=["sd over ID"]), about, "{:.3g}")

# %%
KINDS = {
    "pz": (r"$-\log p_{\mathcal{Z}}$, eq. (4)", "nats"),
    "px": (r"$-\log p_{\mathcal{X}}$", "nats"),
    "pz_comp": (r"eq. (5) with $p_{\mathcal{Z}}$", "nats/dim − bits/dim"),
    "px_comp": (r"eq. (5) with $p_{\mathcal{X}}$", "bits/dim"),
    "comp_only": (r"$-C$, no flow", "bits/dim"),
}
id_name, ood_name = (datasets.LABELS.get(name, name) for name in (P.id, P.ood))
colours = {id_name: figures.colour_of(P.id), ood_name: figures.colour_of(P.ood)}


# %%
def draw_score(ax, kind):
    values = {id_name: id_scores[kind], ood_name: ood_scores[kind]}
    # one image far out would squeeze all the others into a corner
    figures.draw_histograms(ax, values, colours=colours, bins=40, quantiles=(0.005, 0.995))
    title, unit = KINDS[kind]
    ax.set(yticks=[], ylabel="")
    ax.set_title(title, fontsize=8)
    ax.set_xlabel(f"[{unit}]", fontsize=8)
    ax.tick_params(axis="x", labelsize=7)
    ax.locator_params(axis="x", nbins=4)


# %%
fig, axes = figures.figure("wide", columns=len(KINDS), height=2.6)
for ax, kind in zip(axes, KINDS):
    draw_score(ax, kind)
axes[0].set_ylabel("density", fontsize=8)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
about = f"Five scores of one flow on {id_name} and {ood_name}; right is more OOD. "
ends = "Each axis runs from the lower 0.5 % to the higher 99.5 % quantile of the two sets"
sheet.save_figure(fig, "scores", about + ends)

# %%
found = {k: metrics.evaluate(id_scores[k], ood_scores[k], rng=P.seed) for k in KINDS}
auroc = {k: [100 * v for v in (e["auroc"].value, e["auroc"].low, e["auroc"].high)] for k, e in found.items()}
lows = [auroc[k][1] for k in ("pz", "px")]
figures.read(
    (
        min(lows) > 50,
        f"By both likelihoods {ood_name} lies to the right of {id_name}, and overlaps with it: an image of "
        f"{ood_name} scores higher with a chance of {auroc['pz'][0]:.0f} % by eq. (4), {auroc['px'][0]:.0f} % by "
        "the full density.",
        f"By at least one likelihood {ood_name} does not surely lie to the right of {id_name}.",
    ),
    (True, "This is one flow of one seed; `03_1_benchmark_images` shows how far seeds differ."),
)

# %% [markdown]
r"""
AUROC is the chance that an OOD image scores higher than an ID image. AUPR-OUT and AUPR-IN are the average precision with OOD, or ID, as the class to be found. FPR95 has two readings, and for both lower is better. The first, which the paper's columns take here (A19), is the share of OOD accepted where 95 % of ID are kept. The second is the share of ID flagged where 95 % of OOD are caught.
"""

# %%
METRICS = {
    "auroc": "AUROC",
    "aupr_out": "AUPR-OUT",
    "aupr_in": "AUPR-IN",
    "fpr95_id95": "FPR95, 95 % of ID kept",
    "fpr95_ood95": "FPR95, 95 % of OOD caught",
}
rows = {k: {m: f"{100 * e[m].value:.1f} [{100 * e[m].low:.1f}, {100 * e[m].high:.1f}]" for m in METRICS}
        for k, e in found.items()}  # fmt: skip
frame = pd.DataFrame(rows).T
about = "Metrics of five scores, percent with 95 % bootstrap interval"
sheet.save_table(frame.reset_index(names="score"), "metrics", about)
figures.show_table(labelled(frame).rename(columns=METRICS), f"{ood_name} against {id_name}. {about}", "{}")

# %%
alone, best_comp = auroc["comp_only"][0], max(auroc[k][0] for k in ("pz_comp", "px_comp"))
plain = max(auroc[k][0] for k in ("pz", "px"))
figures.read(
    (
        True,
        f"−C alone, which uses no flow, reaches {alone:.1f}; the better score of eq. (5) {best_comp:.1f}.",
    ),
    (alone >= best_comp, "The success of eq. (5) on this set belongs to complexity, not to the flow."),
    (plain < best_comp, f"Without complexity the flow reaches {plain:.1f}."),
)

# %% [markdown]
r"""
## A decision
> The threshold $\gamma$ can be selected for optimal F1-score or to ensure that a high proportion of ID samples (e.g., 95%) are correctly classified.

$$h(\mathbf x) = \begin{cases}1 & \mathcal S(\mathbf x) \ge \gamma\\ 0 & \mathcal S(\mathbf x) < \gamma\end{cases} \tag{6}$$

Here $\mathcal S$ is the full density, on which training acts. The second way needs ID data only: $\gamma$ is fitted on one half of the ID test images and judged on the other, which the flow has not seen either. The first, F1, has to see OOD samples, which nobody has when a detector is built.
"""

# %%
figures.show_source(scores.Threshold.decide)

# %%
fit, judge = np.array_split(id_scores["px"], 2)
gamma = scores.Threshold.fit_quantile(fit, keep=P.keep)


def share(images, of):
    """A share in percent with its 95 % interval over test draws."""
    drawn = intervals.mean(100.0 * of, intervals.of(images, of))
    return f"{intervals.over([drawn], bounds=(0, 100)):.1f}"


kept, caught = share(P.id, ~gamma.decide(judge)), share(P.ood, gamma.decide(ood_scores["px"]))
print(f"gamma = {gamma.gamma:.0f} nats keeps {kept} % of {len(judge)} unseen ID images (wanted {P.keep:.0%})")
print(f"and catches {caught} % of {len(ood_scores['px'])} images of {ood_name}.")

# %%
best = scores.Threshold.fit_f1(fit, ood_scores["px"][: len(fit)])
flagged = share(P.id, best.decide(judge))
print(f"F1 puts gamma at {best.gamma:.0f} nats and reaches {best.f1:.3f} on the images it was fitted on,")
print(f"{len(fit)} of either set; it flags {flagged} % of the unseen ID images.")
path = sheet.folder / "thresholds" / f"{run.spec.run_id}.json"
path.parent.mkdir(parents=True, exist_ok=True)
gamma.save(path)
assert scores.Threshold.load(path) == gamma

# %% [markdown]
r"""
The two thresholds differ much: one keeps ID images and misses most OOD, the other catches more and refuses many ID images. Neither is part of the flow. The threshold is a small file of its own: change it without touching the model, refit it when the camera changes.

## How sure is an AUROC
The paper evaluates 1,000 ID and 1,000 OOD images, drawn once. What the number of images alone does to the interval, for one flow; other seeds add to it:
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
- Eq. (5) needs a unit. With $-\log p_{\mathcal X}$ and $C$ both in bits per dimension it is a code length minus a code length; with $p_{\mathcal Z}$, as printed, it is nats minus bits. Both are to be read beside $-C$ alone.
- A threshold is fitted on ID data, kept apart from the model, and judged on data it has not seen.
- Not measured here: other OOD sets, other seeds and other trainings. Next: `03_1_benchmark_images`.
"""
