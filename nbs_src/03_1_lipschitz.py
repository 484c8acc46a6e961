# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 3.1 Lipschitz constants
**Question.** Does outlier training raise the local Lipschitz constant, as the paper's reading of Hypothesis 1 expects?  **Answer.** In profile `sample` not as the paper prints it. The maximum over images does not rise surely for any of three readings on any of three ID sets. Hypothesis 1 is about the inverse of $f$. The median of its constant and the 95 % quantile rise in nine of nine runs; its maximum rises in six. That a simpler image has a larger constant, as the hypothesis says, is sure in three of twelve rows, all of them of $f$ and of CIFAR; with iSUN as ID it is the other way round.
**Makes** Table 4 and a numeric check of Hypothesis 1 · **reads** the runs of `train_one` · **time** quick 40 s, sample 18 min
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
n_samples: Optional[int] = None  # None: the profile's; 1000 in the paper
iterations: int = 20  # power iterations for the spectral norm
n_spectral: int = 64  # samples for the spectral norms, which cost about 40 gradients each
n_hypothesis: int = 16  # test images of each set, for Hypothesis 1

# %% tags=["imports"]
import pandas as pd
import torch

from flowood_core import datasets, hypothesis, lipschitz, runs
from flowood_core.evidence import lipschitz_tables
from flowood_core.notebook import figures, params
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import grid

P = params.check(globals(), notebook="03_1_lipschitz")
sheet = figures.start("03_1_lipschitz", P)
finished = [runs.run_or_load(s) for s in grid.rows(P.profile, "table_4")]
print(f"{len(finished)} runs; {sheet.label}")

# %% [markdown]
r"""
> For each sample, we utilize PyTorch automatic differentiation tool to compute the gradient $\nabla f(\mathbf x_i)$ of the model's output … Approximate the Lipschitz constant $L_{\mathcal A}$ by taking the maximum gradient norm: $L_{\mathcal A} = \max_i \|\nabla f(\mathbf x_i)\|$.

The output $f(\mathbf x) = \mathbf z$ is a vector, so its gradient is a matrix, and the sentence has three readings:

| name | quantity | what it is |
|---|---|---|
| `grad_sum_z` | $\lVert \partial \sum_i z_i / \partial \mathbf x \rVert_2$ | what automatic differentiation returns for a vector output |
| `grad_logp` | $\lVert \nabla_{\mathbf x} \log p_{\mathcal X}(\mathbf x) \rVert_2$ | sensitivity of the score |
| `spectral` | $\sigma_{\max}(\partial \mathbf z/\partial \mathbf x)$ | the only one that bounds $\lVert f(\mathbf x) - f(\mathbf x')\rVert$ locally |
"""

# %%
figures.show_source(lipschitz.spectral)

# %% [markdown]
r"""
A check on a map whose answer is known: for $f(\mathbf x) = A\mathbf x$ the spectral reading is the largest singular value of $A$, the others are not.
"""

# %%
A = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
largest = torch.linalg.svdvals(A)[0]
assert torch.allclose(lipschitz.spectral(lambda v: v @ A.T, x, iterations=400), largest.expand(3), rtol=1e-6)
assert torch.allclose(lipschitz.grad_sum_z(lambda v: v @ A.T, x), A.sum(0).norm().expand(3))
print(f"sigma_max {largest:.3f}, norm of the gradient of the sum {A.sum(0).norm():.3f}")

# %% [markdown]
r"""
## Table 4
One value per ID training sample; $L_{\mathcal A}$ is the maximum. A maximum over a sample has a heavy tail, so the median and the 95 % quantile stand beside it. Units are latent units per unit of $\mathbf x \in [0,1]$; with pixels in 0..255 every value would be 256 times smaller, and that of the inverse 256 times larger. The paper does not state the unit.
"""

# %%
measured = {
    r.spec.run_id: lipschitz_tables.norms(r, P.n_samples, P.n_spectral, P.iterations) for r in finished
}
frame = lipschitz_tables.summary(finished, measured)
about = "Three readings of the Lipschitz constant: maximum, median, 95 % quantile"
sheet.save_table(frame, "lipschitz", about)

# %% [markdown]
r"""
Beside the paper: the maxima, without and with outliers (mean over seeds), their ratio, and the ratio seed by seed. A reading *fits* if outlier training raised the maximum, as the paper says it does, in every seed. It *does not fit* if the maximum fell in every seed. The ratios of nine values each are those of three seeds, so small differences mean little.
"""

# %%
table_4 = lipschitz_tables.table_4(frame)
sheet.save_table(table_4, "table_4", "Table 4 as printed, and our readings of it: maxima and their ratio")
figures.show_table(
    table_4.replace({"id": datasets.LABELS}).set_index(["id", "reading"]),
    "Table 4: the largest norm without and with outliers",
    {"without": "{:.4g}", "with": "{:.4g}", "ratio": "{:.2f}", "by seed": "{}", "verdict": "{}"},
)

# %%
rose = lipschitz_tables.rises(frame)
figures.show_table(rose, "In how many runs outlier training raised the statistic", "{:.0f}")
ratio = lipschitz_tables.ratio(frame)
sheet.save_table(ratio, "lipschitz_ratio", "With outliers divided by without", index=True)
about = f"With outliers divided by without ({P.n_samples} images for gradients, {P.n_spectral} for spectra)"
figures.show_table(ratio.rename(index=datasets.LABELS), about, "{:.2f}", folded=True)

# %%
largest, inverse = rose.loc["grad_sum_z"], rose.loc["spectral of the inverse"]
of = f"of {largest['runs']} runs"
figures.read(
    (True, f"The paper's statistic, the maximum of the first reading, rises in {largest['max']} {of}."),
    (True, f"The inverse's median rises in {inverse['median']} {of}, its 95 % quantile in {inverse['q95']}."),
)

# %%
NORMS = {
    "grad_sum_z": r"$\log_{10} \Vert \partial \sum_i z_i / \partial \mathbf{x} \Vert_2$",
    "grad_logp": r"$\log_{10} \Vert \nabla_{\mathbf{x}} \log p_{\mathcal{X}}(\mathbf{x}) \Vert_2$",
    "spectral": r"$\log_{10} \sigma_{\max}(\partial \mathbf{z} / \partial \mathbf{x})$",
    "spectral of the inverse": r"$\log_{10} \sigma_{\max}(\partial \mathbf{x} / \partial \mathbf{z})$",
}
ids = list(dict.fromkeys(r.spec.id for r in finished))
colours = {METHOD_LABELS[m]: c for m, c in figures.METHOD_COLOURS.items()}
fig, axes = figures.figure("wide", rows=len(ids), columns=4, height=2.3 * len(ids), squeeze=False)
for line, id_ in zip(axes, ids):
    for ax, (quantity, symbol) in zip(line, NORMS.items()):
        values = lipschitz_tables.joined(finished, measured, id_, quantity)
        figures.draw_histograms(ax, values, colours=colours, bins=30)
        ax.set(title=f"ID {datasets.LABELS.get(id_, id_)}", xlabel=symbol, ylabel="")
figures.legend_below(axes[-1, 0], size=7, below=0.5)
sheet.save_figure(fig, "table_4_distributions", "Distribution of the four norms over ID images, all seeds")

# %% [markdown]
r"""
## Hypothesis 1 in numbers
> the local Lipschitz constant $L_{\mathcal A}$ increases as the complexity of the input decreases.

The hypothesis calls $f: \mathcal X \to \mathcal Z$ Lipschitz on $\mathcal A \subseteq \mathcal Z$, which is the wrong side: either the constant of $f$ at $\mathbf x$ is meant, $\sigma_{\max}(J_f)$, or that of $f^{-1}$ at $\mathbf z$, $1/\sigma_{\min}(J_f)$. Both are measured against $C(\mathbf x)$, on every seed of the first ID set and the first seed of the others.

Sets differ in more than complexity, and images of one set resemble each other. So the correlation is taken *inside* each set; the interval redraws images within sets, and seeds.
"""

# %%
first_seed = finished[0].spec.seed
chosen = [r for r in finished if r.spec.id == ids[0] or r.spec.seed == first_seed]
local = {
    (r.spec.id, METHOD_LABELS[r.spec.method], r.spec.seed): lipschitz_tables.against_complexity(
        r, P.n_hypothesis, P.iterations
    )
    for r in chosen
}

# %%
methods = list(dict.fromkeys(method for _, method, _ in local))
SYMBOLS = {"f": r"$\sigma_{\max}(J_f)$", "inverse of f": r"$1/\sigma_{\min}(J_f)$"}
fig, axes = figures.figure("tall", rows=2, columns=len(methods), squeeze=False)
for column, method in zip(axes.T, methods):
    values = pd.concat([v for (id_, m, _), v in local.items() if (id_, m) == (ids[0], method)])
    for ax, (side, symbol) in zip(column, SYMBOLS.items()):
        figures.draw_scatter(ax, values, x="C", y=side, labels=datasets.LABELS)
        ax.set(xlabel=r"complexity $C(\mathbf{x})$ [bits/dim]", ylabel=symbol, title=method)
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
about = f"Local Lipschitz constants against complexity, ID {datasets.LABELS.get(ids[0], ids[0])}, all seeds"
sheet.save_figure(fig, "hypothesis_1", about)

# %%
inside = lipschitz_tables.inside_sets(local)
sheet.save_table(inside[inside["set"] != "all sets"], "hypothesis_1_sets", "Hypothesis 1 inside each set")
summed = inside[inside["set"] == "all sets"].drop(columns="set")
summed = summed.rename(columns={"value": "spearman_with_C"})
about = "Rank correlation with complexity inside the sets, mean over sets, 95 % over seeds and images"
sheet.save_table(summed, "hypothesis_1", about)
shown = summed.replace({"id": datasets.LABELS}).set_index(["id", "method", "side"])
formats = {"n_seeds": "{:.0f}", "n": "{:.0f}"}
formats |= dict.fromkeys(["spearman_with_C", "low", "high", "pooled"], "{:+.2f}")
figures.show_table(shown, f"{about}; Hypothesis 1 needs a negative one", formats)

# %%
figures.read(
    (True, f"Of {len(summed)} rows {(summed['high'] < 0).sum()} are surely negative, as Hypothesis 1 says."),
    (True, f"Surely positive are {(summed['low'] > 0).sum()}."),
)

# %% [markdown]
r"""
## Eq. (1) on images
$$\frac{\epsilon^2}{L_{\mathcal A}^2}\bigl(1 - \mathbb P(\mathcal B_{\mathbf z}^{\epsilon})\bigr) \;\le\; M(\mathbf x) = \mathbb E\,\lVert\mathbf x' - \mathbf x\rVert^2 \;\le\; C_1 \exp(C(\mathbf x)) \tag{1}$$

`02_3_learning_objective` says where the left half comes from. In 3,072 dimensions the mass of the ball is that of the noncentral $\chi^2$ distribution, $\mathbf x'$ is an ID test image, and each ball has the radius that makes the left side largest. $L$ is the local constant at $\mathbf x$. That of a whole set is no smaller and makes the left side no larger, so an inequality that holds here holds for the set. One that fails here need not fail there.
"""

# %%
figures.show_source(hypothesis.spread)
d = finished[0].metrics["d"]
eq_1 = pd.concat(
    {key[:2]: lipschitz_tables.eq_1_by_set(v, d) for key, v in local.items() if key[2] == first_seed},
    names=["id", "outliers"],
)
sheet.save_table(eq_1, "eq_1_images", "Eq. (1) at test images, medians by set", index=True)
of_first = eq_1.loc[ids[0]].rename(index=datasets.LABELS)
figures.show_table(of_first, f"Eq. (1), ID {datasets.LABELS.get(ids[0], ids[0])}, medians by set", "{:.3g}")

# %%
figures.read(*lipschitz_tables.reading_of_eq_1(eq_1))

# %%
sheet.finish(runs=list(measured))

# %% [markdown]
r"""
## Summary
- "The Lipschitz constant" of the paper can be any of three numbers of different size; all three stand in the table, with their ratios.
- Hypothesis 1 is counted inside the sets, flow by flow, with an interval over seeds and images. Eq. (1) is evaluated at every image.
- Not reproduced here: the printed values of Table 4, which need the paper's data and 500 epochs. Next: `03_1_beyond`.
"""
