# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 3.2 High-dimensional images
**Question.** Do synthetic outliers help flows on the features of a frozen network, where pixels are out of reach?  **Answer.** The table of differences below: each model with outliers minus the same model without, on the same features.
**Makes** Tables 5, 8, Fig. 9 · **reads** the runs of `train_one` (trains what is missing) · **time** 20 s when the runs exist; quick 1 min, sample 1.5 hours on one core, paper GPU-days
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
figure_id: Optional[str] = None  # None: the profile's; ID set of the galleries
complexity_sets: Optional[list] = None  # None: the profile's; sets of Table 8
n_figure: int = 5  # pictures per row
n_complexity: int = 150  # images per set whose complexity is measured

# %%
import numpy as np
import pandas as pd
import torch

from flowood_core import datasets, runs
from flowood_core.features import map_flows
from flowood_core.runs import grid
from flowood_core.datasets import highdim
from flowood_core.notebook import params, figures
from flowood_core.evidence import claims, tables
from flowood_core.complexity import image_complexity
from flowood_core.flow import dequantise
from flowood_core.outliers import image as outliers

P = params.check(globals(), notebook="03_2_high_dimensional")
sheet = figures.start("03_2_high_dimensional", P)
VARIANTS = {
    "table_5_additive": "CS-Flow, additive",
    "table_5_256": "FastFlow at 256 pixels",
    "table_5_stored": "FastFlow, stored outliers",
}
finished, absent = runs.available(grid.rows(P.profile, "table_5"))
here = [name for name in VARIANTS if name in grid.tables(P.profile)]
variants = {name: runs.available(grid.rows(P.profile, name))[0] for name in here}
variants = {name: of for name, of in variants.items() if of}
print(f"{len(finished)} runs; {sheet.label}")
for name in absent:
    print(f"not run: {highdim.LABELS.get(name, name)}, its pictures are not here")
if not finished:
    raise datasets.MissingData("expected a set of Table 5, found none; data/README.md says how to supply one")

MODELS = map_flows.LABELS
METHODS = {"mle": "plain", "gaussian": "+ Gaussian", "ccm": "+ CCM", "ccm_gaussian": "+ CCM + Gaussian"}
backbones = {r.spec.model: r.metrics["backbone"]["label"] for r in finished}
for model, label in backbones.items():
    r = next(r for r in finished if r.spec.model == model)
    print(
        f"{MODELS[model]} on {label}, {r.spec.image_size} pixels, {r.metrics['d']:,} features, "
        f"{r.metrics['n_parameters']:,} trained parameters, {r.spec.epochs:g} epochs, outliers {r.metrics['outliers']}"
    )

# %% [markdown]
r"""
> Specifically, we applied modifications to synthetic outlier strategies and dual likelihood objective, enabling a direct comparison of original method with our approach.

Both models are flows $f$ on the feature maps $\mathbf h = \phi(\mathbf x)$ of a frozen network $\phi$. The outliers are made of *images*, before $\phi$; eq. (2) and (3) then act on $\log p(\mathbf h)$:

$$\log p(\mathbf h) = \log p_{\mathcal Z}(f(\mathbf h)) + \log\left|\det \frac{\partial f}{\partial \mathbf h}\right|$$

Three things the paper leaves open decide what is trained.

- **The unit.** Features have no natural unit, and eq. (3) is a hinge at density 1 in that unit (`02_3`): in most units the outliers would exert no gradient, or an endless one. Ours counts the threshold from the mean $\log p$ of ID images under the *untrained* flow. Where it lies from there decides much. Above it, training kinds of outliers stay as likely as before, and ID images with them; the sample profile puts it 0.2 nats per dimension *below* the start for FastFlow, and as much above it for CS-Flow, where lower ones cost the published score more. Both were chosen without an AUROC of test images: on 60 ID training images held out of the chest X-rays, by how well they are told from synthetic outliers of kinds that are not trained on (for CS-Flow on CCM + Gaussian alone). The same settings serve both sets and every seed.
- **The score.** The table uses each model's published image score, as the baseline does: FastFlow the largest value of its anomaly map, CS-Flow the mean of $\mathbf z^2/2$. $-\log p_{\mathcal Z}$ and $-\log p$ stand beside it.
- **The outliers.** Fresh ones for every batch are exact and need the backbone at every step; where the line above says "frozen", each image has that many stored outliers for the whole training.
"""

# %%
figures.show_source(map_flows.FeatureFlow.log_densities_of_features)

# %% [markdown]
r"""
## Table 5
AUROC in percent; the bracket is a 95 % interval over seeds and test draws.
"""

# %%
collected = tables.collect(finished)
model_of = {r.spec.run_id: r.spec.model for r in finished}
collected["model"] = collected["run_id"].map(model_of)
keys = ["id", "ood", "model", "method", "score", "metric"]
ours = tables.over_seeds(collected, keys)
sheet.save_table(ours, "high_dimensional_long", "Every metric of every row of Table 5, with 95 % intervals")
names = {
    "model": MODELS,
    "method": METHODS,
    "ood": {s: highdim.LABELS.get(s.removesuffix("_bad"), s) for s in ours.ood},
}
auroc = ours.query("metric == 'auroc'")
shown = tables.wide(auroc[auroc.score == "published"].replace(names), ["model", "method"], ["ood"])
figures.show_table(
    shown,
    f"AUROC in percent, published scores. {'; '.join(f'{MODELS[m]}: {b}' for m, b in backbones.items())}",
)
sheet.save_table(shown, "table_5_ours", "AUROC by model and outliers, published image scores", index=True)

# %%
others = auroc[auroc.score.isin(["px", "pz"])].replace(names)
figures.show_table(
    tables.wide(others, ["score", "model", "method"], ["ood"]),
    "AUROC in percent of the densities on the same runs: pz is eq. (4), px has the determinant",
)
alone = (
    auroc[(auroc.score == "comp_only") & (auroc.method == "mle")]
    .drop_duplicates(["id", "ood"])
    .replace(names)
)
figures.show_table(
    tables.wide(alone.assign(detector="-C(x) alone, no network"), ["detector"], ["ood"]),
    "AUROC of complexity alone",
)

# %% [markdown]
r"""
## What the outliers add
Differences to the plain row of the same seed on the same pictures, so that what these do to both cancels; the interval is over seeds and test draws.

Eq. (2) and (3) act on $\log p$, determinant included; both published scores see $\mathbf z$ alone. What outliers change through the determinant therefore shows in the rows `px` only, and may cost the published score.
"""

# %%
trained_on = collected[(collected.metric == "auroc") & collected.score.isin(["published", "px"])]
deltas = tables.over_base(trained_on, ["score", "ood", "model"])
deltas = deltas.sort_values("score", ascending=True, kind="stable")
sheet.save_table(deltas, "table_5_deltas", "AUROC with outliers minus plain, percent points, paired by seed")
figures.show_table(
    tables.wide(deltas.replace(names), ["score", "model", "method"], ["ood"]),
    f"AUROC minus the plain row, percent points; {deltas.n_seeds.max()} seed(s)",
)
for score, of in deltas.groupby("score", sort=False):
    up = (of.value >= 0).sum()
    clear = (of.low > 0).sum()
    print(
        f"{score}: {up} of {len(of)} rows with outliers at or above their plain row, {clear} clear of zero over seeds."
    )

# %% [markdown]
r"""
Where the sets lie tells why. The left columns are the medians of $\log p$ of ID images trained on and of ID images never seen: their distance is over-fitting, and whatever sets the two folders apart, and an OOD image has to stand out against the second. The outliers are those of the row's own method (for plain, CCM + Gaussian, which it never saw).
"""

# %%
places = []
for r in finished:
    level = {name: np.median(a["log_px"]) / r.metrics["d"] for name, a in r.arrays.items()}
    tau = r.metrics["tau_nats"] / r.metrics["d"] if r.spec.method != "mle" else np.nan
    places.append(
        (highdim.LABELS.get(r.spec.id, r.spec.id), MODELS[r.spec.model], METHODS[r.spec.method], level["train"],
         level[r.spec.id], level["synthetic"], level[r.spec.ood[0]], tau)
    )  # fmt: skip
columns = ["set", "model", "method", "ID trained on", "ID unseen", "outliers", "OOD", "threshold"]
levels = pd.DataFrame(places, columns=columns).groupby(columns[:3], sort=False).mean()
sheet.save_table(
    levels, "log_p_levels", "Median log p per feature dimension of each set, mean over seeds", index=True
)
figures.show_table(
    levels, "Median of log p in nats per feature dimension, mean over seeds", dict.fromkeys(levels, "{:.2f}")
)

# %% [markdown]
r"""
## Variants
**Additive couplings: objective and score agree.** Ours, no part of the paper. With the log-scales of CS-Flow's couplings at 0 the determinant is constant, and $-\log p$ and the published score, the mean of $\mathbf z^2/2$, are one and the same up to a constant: what eq. (3) lowers is what the score sees. The threshold was chosen as above.

**256 pixels**, the paper's size: four times the features, and the threshold as far below the start per dimension as above.

**Stored outliers**, K per image for the whole training and no dequantisation noise: the backbone runs 1 + K times per image, with fresh ones once per image and epoch. The last lines compare the two. That Table 5 has the fresh ones, the paper's way, was decided when both had been seen.
"""

# %%
for name, of in variants.items():
    long = tables.collect(of).query("metric == 'auroc' and score == 'published'").assign(model=name)
    values = tables.over_seeds(long, ["ood", "model", "method"])
    gains = tables.over_base(long, ["ood", "model"])
    sheet.save_table(values, name, f"AUROC in percent, {VARIANTS[name]}")
    sheet.save_table(gains, f"{name}_deltas", f"AUROC minus plain, percent points, {VARIANTS[name]}")
    label, as_shown = of[0].metrics["backbone"]["label"], names | {"model": VARIANTS}
    table = tables.wide(values.replace(as_shown), ["model", "method"], ["ood"])
    figures.show_table(table, f"AUROC in percent, published score, 95 % interval; {label}")
    figures.show_table(
        tables.wide(gains.replace(as_shown), ["model", "method"], ["ood"]), "minus the plain row"
    )
if not variants:
    print(f"Profile {P.profile} has no runs of these variants.")

# %%
fresh = {(r.spec.id, r.spec.model, r.spec.method, r.spec.seed): r for r in finished}
pairs = [
    (r, fresh[r.spec.id, r.spec.model, r.spec.method, r.spec.seed])
    for r in variants.get("table_5_stored", [])
]
for method in dict.fromkeys(r.spec.method for r, _ in pairs):
    of = [pair for pair in pairs if pair[0].spec.method == method]
    gains = [
        100 * np.subtract(*(r.metrics["ood"][r.spec.ood[0]]["published"]["auroc"][0] for r in pair))
        for pair in of
    ]
    print(f"{METHODS[method]}: stored minus fresh, AUROC by seed {', '.join(f'{g:+.1f}' for g in gains)}")

# %% [markdown]
r"""
## Beside the paper
The paper trains FastFlow on Wide-ResNet50-2 (it says so in Appendix C only) and CS-Flow, for all we can tell, on EfficientNet-B5, at 256 pixels, for an unstated number of epochs. The column names what ours stand on; with another backbone the difference between rows is comparable, the level is not. A verdict compares the printed number with the interval over seeds, which a wide interval contains easily.
"""

# %%
as_printed = auroc[(auroc.score == "published") & (auroc.ood == auroc.id + "_bad")]
as_printed = as_printed.replace({"method": {"mle": "plain"}})
as_printed = as_printed.assign(dataset=as_printed.id)[
    ["model", "method", "dataset", "metric", "value", "low", "high", "n_seeds"]
]
keys_5 = ["model", "method", "dataset", "metric"]
same = all(r.spec.backbone.startswith(claims.BACKBONES[r.spec.model]) for r in finished)
joined = tables.paper_vs_ours(
    tables.printed("table_5"), as_printed, keys_5, setting="" if same else "other backbone"
)
joined["backbone"] = np.where(joined.ours.notna(), [backbones.get(m, "") for m in joined.model], "")
sheet.save_table(joined, "table_5", "Table 5 of the paper beside our runs, labelled by backbone")
print(joined.verdict.value_counts().to_dict())
titles = {"model": MODELS, "method": METHODS | {"plain": "plain"}, "dataset": highdim.LABELS}
for dataset, part in joined.groupby("dataset", sort=False):
    if (part.verdict == "not run").all():
        print(f"{highdim.LABELS[dataset]}: not run")
        continue
    labels = "; ".join(f"{MODELS[m]}: {backbones[m]}" for m in part.model.unique() if m in backbones)
    figures.show_table(
        tables.beside(part.replace(titles), ["model", "method"], "dataset"), f"Table 5. Ours on {labels}"
    )

# %% [markdown]
r"""
## Table 8 and the radius of the blur
Complexity of the sets at the size they are used, and of 256 pixels where that is another. Radius 1 is what the paper says for 32 pixels; for 256 it gives none. Ours is the radius that leaves three quarters of the complexity, as radius 1 does on CIFAR-10. The level depends on how a file came to its size: the chest X-rays of the sample profile were stored at 224 pixels, and enlarging them to 256 adds pixels and no detail.
"""


# %%
def complexity_row(name, size):
    """Mean and sd of C(x) of one folder, and the printed ones; None where the pictures are not here."""
    try:
        x = highdim.load(name, "test", size).drawn(P.n_complexity, 0).x
    except datasets.MissingData:
        x = None
    c = None if x is None else image_complexity(x)
    printed = highdim.expected(name) if name.removesuffix("_bad") not in datasets.EMBEDDED else None
    mean, sd, n = (np.nan, np.nan, 0) if c is None else (c.mean().item(), c.std().item(), len(c))
    role = "OOD" if name.endswith("_bad") else "ID"
    is_printed = printed is not None and size == highdim.SIDE
    paper = (printed.mean, printed.sd) if is_printed else (np.nan, np.nan)
    return highdim.LABELS.get(name.removesuffix("_bad"), name), role, size, mean, sd, n, *paper


rows = []
for name in P.complexity_sets:
    embedded = name in datasets.EMBEDDED
    sizes = {datasets.SIDE} if embedded else {highdim.SIDE, *(r.spec.image_size for r in finished)}
    rows += [
        complexity_row(part, size)
        for part in ((name,) if embedded else (name, f"{name}_bad"))
        for size in sorted(sizes)
    ]
table_8 = pd.DataFrame(
    rows, columns=["set", "role", "pixels", "mean", "sd", "images", "paper mean", "paper sd"]
)
off = (table_8["mean"] - table_8["paper mean"]).abs()
near = off <= 2 * table_8["sd"] / np.sqrt(table_8["images"]) + 0.005  # the rule of Table 7
table_8["verdict"] = np.where(near, "reproduced", "not")
table_8.loc[table_8["images"] == 0, "verdict"] = "not run"
table_8.loc[table_8["paper mean"].isna(), "verdict"] = ""
sheet.save_table(
    table_8, "table_8", "Complexity C(x) of the high-dimensional sets beside Table 8 (printed for 256 pixels)"
)
number = "{:.2f}"
figures.show_table(
    table_8.set_index(["set", "role", "pixels"]),
    "C(x), bits per dimension; the paper's is of the original files at 256 pixels",
    {
        "verdict": "{}",
        "mean": number,
        "sd": number,
        "images": "{:.0f}",
        "paper mean": number,
        "paper sd": number,
    },
)

# %%
radii = []
for name in dict.fromkeys(r.spec.id for r in finished):
    r = next(r for r in finished if r.spec.id == name)
    x = highdim.load(name, "train", r.spec.image_size).drawn(40, 0).x
    before = image_complexity(x).mean()
    used = r.metrics.get("blur", {"radius": r.spec.blur_radius})["radius"]
    ratio = {
        radius: (image_complexity(outliers.gaussian_blur(x, radius)).mean() / before).item()
        for radius in (1.0, used)
    }
    radii.append((highdim.LABELS.get(name, name), r.spec.image_size, ratio[1.0], used, ratio[used]))
columns = ["ID set", "pixels", "complexity left at radius 1", "radius used", "complexity left"]
blur = pd.DataFrame(radii, columns=columns)
sheet.save_table(blur, "blur_radius", "Radius of the blur and the share of complexity it leaves")
figures.show_table(
    blur.set_index("ID set"), "The blur, in numbers", dict.fromkeys(columns[2:], "{:.2f}") | {"pixels": "{}"}
)

# %% [markdown]
r"""
## Fig. 9: ID, synthetic and real OOD
"""

# %%
first = next(r for r in finished if r.spec.id == P.figure_id)
size, n = first.spec.image_size, P.n_figure
real = first.spec.ood[0]
id_set = highdim.load(P.figure_id, "train", size)
x, partner = id_set.drawn(n, 3).x, id_set.drawn(n, 4).x
radius = first.metrics.get("blur", {"radius": first.spec.blur_radius})["radius"]
made = {
    "Gaussian": outliers.gaussian(x, partner, rng=torch.Generator().manual_seed(0), radius=radius),
    "CCM": outliers.ccm(x, partner, rng=torch.Generator().manual_seed(1)),
    "CCM+Gaussian": outliers.ccm_gaussian(x, partner, rng=torch.Generator().manual_seed(2), radius=radius),
}
ood_pictures = highdim.load(real, "test", size).drawn(n, 3).pictures
gallery = {"ID": x, **made, "real OOD": ood_pictures}
fig, axes = figures.figure("tall", rows=len(gallery), columns=n, height=1.5 * len(gallery))
figures.draw_gallery(axes, gallery)
sheet.save_figure(fig, "fig_9", f"{highdim.LABELS[P.figure_id]}: ID, synthetic outliers and real OOD")

# %% [markdown]
r"""
## Where the models look
The published anomaly maps of one run each, over a real OOD image and an ID image; the same colour is the same value in all rows of a model.
"""

# %%
panels, found = {}, {}
test = highdim.load(P.figure_id, "test", size).drawn(n, 5).pictures[: n // 2]
pictures = torch.cat([test, ood_pictures[: n - len(test)]])
panels[f"{len(test)} ID, then OOD"] = pictures
for model in backbones:
    for method in ("mle", "ccm_gaussian"):
        run = next(
            (r for r in finished if (r.spec.id, r.spec.model, r.spec.method) == (P.figure_id, model, method)),
            None,
        )
        if run is None:
            continue
        try:
            with torch.no_grad():
                maps = run.flow().score_maps(dequantise(pictures))
        except runs.RunError:  # weights of large flows are not committed with their results
            print(f"{run.spec.run_id}: no map, its weights are not here")
        else:
            found[model, method] = maps
for model in dict.fromkeys(m for m, _ in found):  # one scale for all rows of a model
    ends = figures.heat_ends(v for (m, _), v in found.items() if m == model)
    for (m, method), maps in found.items():
        if m == model:
            panels[f"{MODELS[model]}\n{METHODS[method]}"] = figures.heat_over(pictures, maps, ends=ends)

# %%
if found:
    fig, axes = figures.figure("tall", rows=len(panels), columns=n, height=1.5 * len(panels))
    figures.draw_gallery(axes, panels)
    figures.heat_bar(fig, axes, (0, 1), label="less to more OOD, one scale for each model")
    sheet.save_figure(fig, "fig_heat_maps", "Anomaly maps of FastFlow and CS-Flow, without and with outliers")
else:
    print("No weights are here: the figure that is committed stays.")

# %%
sheet.finish(
    runs=[r.spec.run_id for of in (finished, *variants.values()) for r in of],
    backbones=backbones,
    provenance=finished[0].metrics["provenance"],
)

# %% [markdown]
r"""
## Summary
- The rows of a model differ in one argument, the outliers; the table of differences says what each adds, with an interval over seeds where there are several.
- A level belongs to its backbone, which stands in every caption; on an untrained backbone no level means anything.
- Not reproduced here: cells marked "not run". They need the paper's pictures and backbones (`make reproduce PROFILE=paper`). Next: `03_3_text`.
"""
