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
**Question.** Does outlier training raise the local Lipschitz constant, as the paper's reading of Hypothesis 1 expects?  **Answer.** Under profile `sample` the maximum over images, which the paper prints, does not rise surely in any of nine readings. The constant of the inverse of $f$, which Hypothesis 1 is about, rises: its median and its 95 % quantile in nine of nine runs.
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

# %%
import numpy as np
import pandas as pd
import torch

from flowood_core import datasets, lipschitz, runs
from flowood_core.engine import compiled
from flowood_core.runs import grid
from flowood_core.notebook import params, figures
from flowood_core.evidence import tables
from flowood_core.flow import dequantise
from flowood_core.outliers.image import METHOD_LABELS

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
One value per ID training sample; $L_{\mathcal A}$ is the maximum. A maximum over a sample has a heavy tail, so the median and the 95 % quantile stand beside it. Units are latent units per unit of $\mathbf x \in [0,1]$; with pixels in 0..255 every value would be 256 times smaller.
"""


# %%
def norms(run, n, n_spectral):
    flow, x = run.flow(), dequantise(datasets.load(run.spec.id, "train").drawn(n, 0).x)
    pieces = x.split(32)

    def z(v):
        return flow(v)[0]

    few = x[:n_spectral].split(32)
    with compiled.fused():  # compiled blocks; they have first derivatives only, which these two need
        first = {
            "grad_sum_z": torch.cat([lipschitz.grad_sum_z(z, p) for p in pieces]),
            "grad_logp": torch.cat([lipschitz.grad_logp(flow.log_prob, p) for p in pieces]),
        }
    return first | {
        "spectral": torch.cat([lipschitz.spectral(z, p, iterations=P.iterations) for p in few]),
        "spectral of the inverse": torch.cat(
            [lipschitz.spectral(flow.inverse, flow(p)[0].detach(), iterations=P.iterations) for p in few]
        ),
    }


measured = {r.spec.run_id: norms(r, P.n_samples, P.n_spectral) for r in finished}

# %%
by_id = {r.spec.run_id: r for r in finished}
rows = [
    {
        "id": by_id[k].spec.id,
        "method": METHOD_LABELS[by_id[k].spec.method],
        "seed": by_id[k].spec.seed,
        "quantity": q,
    }
    | lipschitz.summarise(v)
    for k, values in measured.items()
    for q, v in values.items()
]
frame = pd.DataFrame(rows)
sheet.save_table(
    frame, "lipschitz", "Three readings of the Lipschitz constant: maximum, median, 95 % quantile"
)
table = frame.pivot_table(
    index=["id", "quantity"], columns="method", values=["max", "median", "q95"], sort=False
)
figures.show_table(
    table.rename(index=datasets.LABELS),
    f"Norms over ID samples ({P.n_samples} for gradients, {P.n_spectral} for spectra), mean over seeds",
    "{:.4g}",
)

# %%
ratio = table.xs("CCM+Gaussian", axis=1, level=1) / table.xs("MLE", axis=1, level=1)
sheet.save_table(ratio, "lipschitz_ratio", "With outliers divided by without", index=True)
figures.show_table(
    ratio.rename(index=datasets.LABELS),
    "With outliers divided by without: above 1, outlier training raised it",
    "{:.2f}",
)
for (id_, quantity), row in ratio.rename(index=datasets.LABELS).iterrows():
    word = "raises" if row["max"] > 1 else "does not raise"
    print(f"{id_}, {quantity}: outlier training {word} the mean of the maxima ", end="")
    print(f"({row['max']:.2f} times; median {row['median']:.2f} times)")

# %% [markdown]
r"""
Beside the paper: the maxima, without and with outliers (mean over seeds), their ratio, and the ratio seed by seed. A reading *fits* if outlier training raised the maximum, as the paper says it does, in every seed.
"""

# %%
READINGS = ["grad_sum_z", "grad_logp", "spectral", "spectral of the inverse"]
printed = tables.printed("table_4").pivot(index="id", columns="outliers", values="paper")
largest = frame.pivot_table(index=["id", "seed", "quantity"], columns="method", values="max")
raised = (largest["CCM+Gaussian"] / largest["MLE"]).rename("ratio").reset_index()
rows = []
for id_ in [*printed.index, *(i for i in frame.id.unique() if i not in printed.index)]:
    paper = printed.loc[id_] if id_ in printed.index else {"without": np.nan, "with": np.nan}
    rows.append((id_, "paper", paper["without"], paper["with"], paper["with"] / paper["without"], "", ""))
    for quantity in READINGS:
        r = raised[(raised.id == id_) & (raised.quantity == quantity)]["ratio"]
        if not len(r):
            rows.append((id_, quantity, np.nan, np.nan, np.nan, "", "not run"))
            continue
        without, with_ = table.loc[(id_, quantity), "max"][["MLE", "CCM+Gaussian"]]
        fits = "fits" if (r > 1).all() else "does not fit" if (r <= 1).all() else "differs between seeds"
        by_seed = f"{r.min():.2f} to {r.max():.2f}" if len(r) > 1 else ""
        rows.append((id_, quantity, without, with_, with_ / without, by_seed, fits))
table_4 = pd.DataFrame(rows, columns=["id", "reading", "without", "with", "ratio", "by seed", "verdict"])
sheet.save_table(
    table_4, "table_4", "Table 4 as printed, and our three readings of it: maxima and their ratio"
)
figures.show_table(
    table_4.replace({"id": datasets.LABELS}).set_index(["id", "reading"]),
    "Table 4: the largest norm without and with outliers",
    {"without": "{:.4g}", "with": "{:.4g}", "ratio": "{:.2f}", "by seed": "{}", "verdict": "{}"},
)

# %%
NORMS = {
    "grad_sum_z": r"$\log_{10} \Vert \partial \sum_i z_i / \partial \mathbf{x} \Vert_2$",
    "grad_logp": r"$\log_{10} \Vert \nabla_{\mathbf{x}} \log p_{\mathcal{X}}(\mathbf{x}) \Vert_2$",
    "spectral": r"$\log_{10} \sigma_{\max}(\partial \mathbf{z} / \partial \mathbf{x})$",
}
ids = list(dict.fromkeys(r.spec.id for r in finished))
colours = {METHOD_LABELS[m]: c for m, c in figures.METHOD_COLOURS.items()}
fig, axes = figures.figure("wide", rows=len(ids), columns=3, height=2.6 * len(ids), squeeze=False)
for line, id_ in zip(axes, ids):
    for ax, quantity in zip(line, READINGS[:3]):
        values = {}
        for k, v in measured.items():
            if by_id[k].spec.id == id_:
                values.setdefault(METHOD_LABELS[by_id[k].spec.method], []).append(
                    np.log10(v[quantity].numpy())
                )
        values = {method: np.concatenate(v) for method, v in values.items()}  # all seeds
        figures.draw_histograms(ax, values, colours=colours, bins=30)
        ax.set(title=datasets.LABELS.get(id_, id_), xlabel=NORMS[quantity])
axes[0, 0].legend(fontsize=7)
sheet.save_figure(fig, "table_4_distributions", "Distribution of the three norms over ID samples")

# %% [markdown]
r"""
## Hypothesis 1 in numbers
> the local Lipschitz constant $L_{\mathcal A}$ increases as the complexity of the input decreases.

The hypothesis calls $f: \mathcal X \to \mathcal Z$ Lipschitz on $\mathcal A \subseteq \mathcal Z$, which is the wrong side: either the constant of $f$ at $\mathbf x$ is meant, $\sigma_{\max}(J_f)$, or that of $f^{-1}$ at $\mathbf z$, $1/\sigma_{\min}(J_f)$. Both are measured against $C(\mathbf x)$, on ID and on simple and complex OOD.
"""


# %%
def against_complexity(run, n):
    flow = run.flow()
    rows = []
    for name in (run.spec.id, *run.spec.ood):
        x = dequantise(datasets.load(name, "test").drawn(run.spec.n_test, 0).x[:n])
        z = flow(x)[0].detach()
        forward = lipschitz.spectral(lambda v: flow(v)[0], x, iterations=P.iterations)
        backward = lipschitz.spectral(flow.inverse, z, iterations=P.iterations)
        c = run.arrays[name]["complexity"][:n]
        rows += [(name, *v) for v in zip(c, forward.numpy(), backward.numpy())]
    return pd.DataFrame(rows, columns=["set", "C", "f", "inverse of f"])


first = [r for r in finished if r.spec.id == ids[0] and r.spec.seed == finished[0].spec.seed]
hypothesis = {METHOD_LABELS[r.spec.method]: against_complexity(r, P.n_spectral // 2) for r in first}

# %%
fig, axes = figures.figure("tall", rows=2, columns=len(hypothesis))
for column, (method, values) in zip(axes.T, hypothesis.items()):
    for ax, side, meaning in zip(
        column, ("f", "inverse of f"), (r"$\sigma_{\max}(J_f)$", r"$1/\sigma_{\min}(J_f)$")
    ):
        for name, part in values.groupby("set", sort=False):
            ax.scatter(
                part["C"],
                part[side],
                s=8,
                alpha=0.6,
                linewidths=0,
                color=figures.colour_of(name),
                label=datasets.LABELS.get(name, name),
            )
        ax.set(yscale="log", xlabel=r"complexity $C(\mathbf{x})$ [bits/dim]", ylabel=meaning, title=method)
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
sheet.save_figure(fig, "hypothesis_1", "Local Lipschitz constants of f and of its inverse against complexity")

# %%
from scipy.stats import spearmanr

found = [
    {"method": m, "side": s, "spearman_with_C": spearmanr(v["C"], v[s]).statistic, "n": len(v)}
    for m, v in hypothesis.items()
    for s in ("f", "inverse of f")
]
sheet.save_table(
    pd.DataFrame(found), "hypothesis_1", "Rank correlation of local Lipschitz constants with complexity"
)
for row in found:
    clear = abs(row["spearman_with_C"]) > 2 / row["n"] ** 0.5  # about two standard errors of no correlation
    says = ("falls" if row["spearman_with_C"] < 0 else "grows") if clear else "does not move clearly"
    print(
        f"{row['method']}: the constant of {row['side']} {says} with complexity (Spearman {row['spearman_with_C']:+.2f}, n {row['n']})"
    )
print("Hypothesis 1 needs a constant that falls with complexity.")

# %%
sheet.finish(runs=list(by_id))

# %% [markdown]
r"""
## Summary
- "The Lipschitz constant" of the paper can be any of three numbers of different size; all three stand in the table, with their ratios.
- Which side of the map follows complexity, and in which direction, is printed above for a flow trained without and with outliers.
- Not reproduced here: the printed values of Table 4, which need the paper's data and 500 epochs. Next: `03_1_beyond`.
"""
