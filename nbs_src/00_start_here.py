# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# Start here
**A normalizing flow can give simpler images a higher likelihood than the data it was trained on**, and so miss them as out-of-distribution (OOD). The paper is called "Correcting the bias of normalizing flows by synthetic outliers for improving out-of-distribution detection". It proposes two things: outliers made from the training data (cut, mixed, blurred), and one more term in the loss, $\operatorname{softplus}(\log p(\mathbf x'))$.

This page shows the whole idea on real photographs in a minute, what it gains and loses, and where everything else is.
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
ood: Optional[list] = None  # None: the profile's OOD sets
seed: int = 0

# %%
from flowood_core.evidence import claims, readings, tables
from flowood_core import datasets, objective, runs
from flowood_core.runs import grid
from flowood_core.notebook import params, figures
from flowood_core.notebook.labels import labelled
from flowood_core.outliers import image as outliers

P = params.check(globals(), notebook="00_start_here")
sheet = figures.start("00_start_here", P)
print(sheet.label)

# %% [markdown]
r"""
## The data
The first row is in-distribution (ID), the set the flow is trained on; the others are examples of OOD. Complexity $C(\mathbf x)$ is the length of the lossless JPEG2000 file in bits per dimension (Definition 1). Its mean, printed below, says which sets are simpler than ID and which are more complex.
"""

# %%
loaded = [datasets.load(name, "test") for name in (P.id, *P.ood)]
for s in loaded:
    C = datasets.complexity_of(s.drawn(1000, P.seed).x).mean()
    print(f"{s.label}: mean C = {C:.2f} bits/dim; {s.source}")

# %%
shown = {s.label: s.drawn(10, P.seed).pictures for s in loaded if s.name not in datasets.NOT_SHOWN}
fig, axes = figures.figure("tall", rows=len(shown), columns=10, height=0.85 * len(shown))
figures.draw_gallery(axes, shown)
sheet.save_figure(fig, "start_data", "In-distribution images (first row) and OOD sets")

# %% [markdown]
r"""
## The bias
Left: a flow trained by maximum likelihood alone, eq. (2). A set to the right of the dashed line, the median of the images it was trained for, is *more* likely to this flow than those. Right: the same architecture, trained with the outliers of the next section. CCM stands for CutPaste, CutMix or MixUp, Gaussian for a blur. Boxes are quartiles with the median in white, whiskers 5 to 95 %; each panel has its own scale. An arrow says that a set goes on beyond the left edge. All sets that the flows were tested on are shown, also those without a picture above.
"""

# %%
mle, corrected = (
    runs.run_or_load(grid.spec(P.profile, P.id, method=m, seed=P.seed)) for m in ("mle", "ccm_gaussian")
)
sets = [P.id, *mle.metrics["ood"]]


def draw(run, ax, title):
    values = {s: run.arrays[s]["log_px"] / 1000 for s in sets}
    figures.draw_boxes(ax, values, labels=datasets.LABELS)
    ax.set(xlabel=r"$\log p_{\mathcal{X}}(\mathbf{x})$ [1000 nats]", title=title)


# %%
fig, axes = figures.figure("wide", columns=2, height=1.2 + 0.3 * len(sets), sharey=True)
draw(mle, axes[0], "maximum likelihood")
draw(corrected, axes[1], "CCM+Gaussian outliers")
sheet.save_figure(
    fig, "start_bias_and_cure", "Log-likelihood of ID and OOD test images, before and after the correction"
)

# %%
figures.read(
    *readings.bias_and_cure(*({s: run.arrays[s]["log_px"] for s in sets} for run in (mle, corrected)))
)

# %% [markdown]
r"""
## The cure
Outliers are made from ID images: a piece of the same image pasted elsewhere, a piece or a fade of another image, and a blur that takes complexity away.
"""

# %%
import torch

rng = torch.Generator().manual_seed(P.seed)
x = datasets.load(P.id, "train").drawn(10, P.seed).pictures
methods = {
    "original": x,
    "CutPaste": outliers.cutpaste(x, rng=rng),
    "CutMix": outliers.cutmix(x, rng=rng),
    "MixUp": outliers.mixup(x, rng=rng),
    "Gaussian blur": outliers.gaussian_blur(x, 1.0),
}
fig, axes = figures.figure("tall", rows=len(methods), columns=10, height=0.85 * len(methods))
figures.draw_gallery(axes, methods)
sheet.save_figure(fig, "start_outliers", "Synthetic outliers made from ID images")

# %% [markdown]
r"""
They enter the loss through eq. (3), $\mathcal L_{\mathrm{OOD}} = \log(1 + p_{\mathcal X}(\mathbf x'))$. These few lines are all there is to it. With `tau = 0` and `temperature = 1`, the defaults, they are eq. (3); `02_3` says what the two are for.
"""

# %%
figures.show_source(objective.penalty)
figures.show_source(objective.loss_total)

# %% [markdown]
r"""
## What it does
AUROC in percent: the chance that an OOD image scores higher than an ID image; 50 is a coin. The intervals, 95 %, are over test draws alone, since these are two flows of one seed. A detector is *misled* where the whole interval lies below 50. The paper's score, eq. (4), is $-\log p_{\mathcal Z}(\mathbf z)$; the full density $-\log p_{\mathcal X}(\mathbf x)$ has the determinant too. The last row uses no flow at all.
"""

# %%
frame = tables.collect([mle, corrected]).query("metric == 'auroc' and score in ['pz', 'px', 'comp_only']")
frame = frame[(frame.score != "comp_only") | (frame.method == "mle")].replace(
    {"method": outliers.METHOD_LABELS, "ood": datasets.LABELS}
)
frame.loc[frame.score == "comp_only", "method"] = "complexity only"
table = tables.wide(frame, ["score", "method"], ["ood"])
sheet.save_table(table, "start_auroc", "AUROC without and with the correction", index=True)
figures.show_table(labelled(table), f"ID = {datasets.LABELS.get(P.id, P.id)}")

# %%
seeds = [runs.Run.read(grid.spec(P.profile, P.id, method="ccm_gaussian", seed=s)) for s in range(3)]
by_seed = tables.collect([r for r in seeds if r is not None]).query("metric == 'auroc' and score == 'pz'")
figures.read(*readings.what_it_does(frame, by_seed.replace({"ood": datasets.LABELS})))

# %% [markdown]
r"""
## What holds
The paper's claims, each judged by what the runs of this profile measured; `05_scoreboard` has the effects and `FINDINGS.md` the reasons. Effects are signed so that above zero agrees with the paper; a part of a claim holds where its whole 95 % interval does.
"""

# %%
verdicts = claims.evaluate(P.profile)[["section", "sentence", "verdict", "parts"]]
sheet.save_table(verdicts, "start_claims", "The paper's claims with the verdicts of this profile's runs")
figures.show_table(verdicts.set_index("section"), "Claims of the paper under this profile", "{}")
print(", ".join(f"{n} {word}" for word, n in verdicts.verdict.value_counts().items()))

# %% [markdown]
r"""
## Notation
| paper | code | unit |
|---|---|---|
| $f: \mathbf x \mapsto \mathbf z$ (the flow), $\log\lvert\det \partial\mathbf z/\partial\mathbf x\rvert$ | `flow(x)` returns `z, ladj` | nats |
| $\log p_{\mathcal Z}(\mathbf z)$, $\log p_{\mathcal X}(\mathbf x)$ | `log_pz`, `log_px = log_pz + ladj` | nats per sample, $\mathbf x \in [0,1]$ |
| $C(\mathbf x)$ (complexity) | `complexity.image_complexity(x)` | bits per dimension, $\mathbf x$ in bytes |
| $\mathbf x'$ (an outlier) | `x_out`, from `outliers` | bytes |
| $\mathcal L_{\mathrm{ID}}, \mathcal L_{\mathrm{OOD}}$ | `objective.loss_id`, `loss_ood`, `loss_total` | nats |
| $\mathcal S_{\mathrm{nll}}, \mathcal S_{\mathrm{comp}}$, $h$ | `scores.score_nll`, `score_comp`, `Threshold` | higher = more OOD |

## Where things are
| notebook | makes |
|---|---|
| `02_1_complexity_bias` | Definition 1, Tables 1, 7 and 9, Fig. 5 |
| `02_2_synthetic_outliers` | section 2.2, Figs 7 and 8 |
| `02_3_learning_objective` | eq. (2)–(3), Figs 1 and 2 |
| `02_4_ood_scoring` | eq. (4)–(6), thresholds |
| `03_1_benchmark_images` | Tables 2 and 3, Figs 3 and 4 |
| `03_1_lipschitz` | Table 4, Hypothesis 1 in numbers |
| `03_1_beyond` | other papers' scores on the same flows, our own variant |
| `03_2_high_dimensional`, `app_c_mvtec` | Tables 5, 8 and 10, Fig. 9: FastFlow and CS-Flow |
| `03_3_text` | Tables 6, 9 and 11 |
| `04_your_own_flow` | diagnosis, correction and a detector for your data |
| `app_d_blur_ablation` | Fig. 6 |
| `app_e_open_choices` | what the paper's open choices are worth |
| `05_scoreboard` | claim by claim, what was measured |
| `train_one` | one row of the grid, for batch runs |

Every notebook runs top to bottom as it is (`profile = "quick"`) and prints what it could not do. It takes parameters: `papermill notebooks/NAME.ipynb out.ipynb -p seed 1`; `papermill --help-notebook` lists them. `make reproduce` runs them all and makes the pages. Next: `02_1_complexity_bias`.
"""

# %%
sheet.finish(runs=[mle.spec.run_id, corrected.spec.run_id], provenance=mle.metrics["provenance"])
