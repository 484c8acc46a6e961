# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 2.1 Hypothesis and motivation: complexity and the bias
**Question.** What makes an image simple, and does a flow trained on complex images take simple ones for its own?
**Answer in one line.** Simple means few bytes in a lossless JPEG2000 file. In the paper's Table 1 every OOD set that is more complex than ID is found better than any that is simpler; the last figure has its pairs beside ours.
**Makes** Tables 1, 7 and 9, Fig. 5, and a figure of the bias · **reads** the MLE runs of `train_one` (trains what is missing) · **time** quick 20 s, and 40 s for each of its three runs that is missing
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
seed: int = 0  # of the crops that are checked, and of shuffled texts
sets: Optional[list] = None  # None: the profile's; image sets to measure, NAME_blurred is NAME after the blur
corpora: Optional[dict] = None  # None: the profile's; row of Table 9: file below text/ of the data root
n_images: Optional[int] = None  # None: the profile's, else all test images of a set
n_check: int = 50  # crops on which the encoder is checked
blur_radius: float = 1.0  # section 3.1; of the sets NAME_blurred
train_missing: bool = True  # False: Table 1 from the runs that are there

# %%
import io
import math

import numpy as np
import pandas as pd
import torch
from PIL import Image

from flowood_core import complexity, datasets, runs
from flowood_core.runs import grid
from flowood_core.notebook import params, figures
from flowood_core.system import paths
from flowood_core.evidence import tables
from flowood_core.complexity import image_complexity, jpeg2000_bytes, text_complexity
from flowood_core.datasets.corpora import LABELS as CORPORA
from flowood_core.outliers.image import gaussian_blur

P = params.check(globals(), notebook="02_1_complexity_bias")
sheet = figures.start("02_1_complexity_bias", P)
x = datasets.load("photo", "test").drawn(P.n_check, P.seed).x
print(f"{len(x)} photo crops to check the encoder on; {sheet.label}")

# %% [markdown]
r"""
## Definition 1
> An image $\mathbf x \in \{0, 1, \dots, 255\}^d$ is represented as a vector of $d$ pixel values. Let $L(\mathbf x)$ denote the length in bits of the compressed bit string obtained by applying a lossless compression algorithm … The image complexity is defined as:

$$C(\mathbf x) = \frac{1}{d} L(\mathbf x)$$

The paper compresses by JPEG2000 (section 3.1) and says no more. Table 7 says the rest: it fits Pillow's default encoder, file header included, no colour transform.
"""

# %%
figures.show_source(image_complexity)

# %% [markdown]
r"""
**Check.** The file gives every pixel back, its length is the $L$ of the definition, and glymur with `mct=False` writes a file of the same length.
"""

# %%
is_same = []
for image, c in zip(x, image_complexity(x)):
    file = jpeg2000_bytes(image)
    other = jpeg2000_bytes(image, encoder="glymur")
    assert 8 * len(file) / image.numel() == c  # Definition 1
    assert np.array_equal(Image.open(io.BytesIO(file)), image.permute(1, 2, 0))  # lossless
    assert len(other) == len(file)
    is_same.append(other == file)
print(f"{len(x)} crops came back exactly; Pillow and glymur agree in every byte on {sum(is_same)} of them")
complexity.codec_versions()

# %% [markdown]
r"""
**What the bytes are.** The paper's file is the `container`. Without the boxes around it, it is the bare `codestream`. The `payload` is the container less that of a black image of the same shape. At 32 × 32 the header is a visible share of $C$, and noise costs more than the 8 bits it is stored in, so $C$ is no number of bits per pixel bounded by 8.
"""

# %%
probes = {
    "black": torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    "photo crops (mean)": x,
    "uniform noise (mean)": np.random.default_rng(P.seed).integers(256, size=x.shape, dtype=np.uint8),
    "black, 256 x 256": torch.zeros(1, 3, 256, 256, dtype=torch.uint8),
}
costs = pd.DataFrame(index=list(probes))
for part in complexity.PARTS:
    costs[part] = [image_complexity(images, part=part).mean().item() for images in probes.values()]
assert costs.loc["uniform noise (mean)", "container"] > 8
about = "C in bits per dimension, by what is counted"
sheet.save_table(costs.reset_index(names="images"), "complexity_parts", about)
figures.show_table(costs, about, "{:.3f}")

# %%
greys = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
n_bytes = (image_complexity(greys) * 3 * 32 * 32 / 8).int()
low, high = n_bytes.min(), n_bytes.max()
cheapest = (n_bytes == low).nonzero().flatten().tolist()
print(f"A constant image costs {low} to {high} bytes: black {n_bytes[0]}, white {n_bytes[-1]},")
print(f"and least of all the grey {', '.join(map(str, cheapest))}.")

# %% [markdown]
r"""
**The colour transform.** glymur's own default, and Pillow's `mct=1`, first turn RGB into one grey and two difference channels. Natural images get much cheaper by it. Both files are lossless, and both are "JPEG2000"; only Table 7 tells which one the paper used.
"""

# %%
import tempfile
from pathlib import Path

import glymur  # has the OpenJPEG that the check above found


def encoded(image, mct):
    buffer = io.BytesIO()
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    pixels.save(buffer, "JPEG2000", irreversible=False, mct=mct)
    return buffer.getvalue()


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "default.jp2")
    glymur.Jp2k(file, data=x[0].permute(1, 2, 0).contiguous().numpy())
    assert file.stat().st_size == len(encoded(x[0], mct=1)) != len(encoded(x[0], mct=0))


# %% [markdown]
r"""
## Table 7: the complexity of every set
"""


# %%
def images_of(name):
    original = name.removesuffix("_blurred")
    images = datasets.load(original, "test").drawn(P.n_images, P.seed).x
    return images if name == original else gaussian_blur(images, P.blur_radius)


C, missing = {}, {}
for name in P.sets:
    try:
        C[name] = image_complexity(images_of(name)).numpy()
    except datasets.MissingData as error:
        missing[name] = error
print(f"{sum(map(len, C.values()))} images of {len(C)} sets")
if missing:
    print(f"not available here: {', '.join(missing)}\n{missing[min(missing)]}")

# %% [markdown]
r"""
The table is the fingerprint of the data pipeline: a set whose mean is off was resized, blurred or encoded in another way. `reproduced` means that the printed mean lies within two standard errors of ours, plus half a unit of its last digit.
"""


# %%
def verdict(row):
    if row.set in missing:
        return "not available here"
    if np.isnan(row["mean"]):
        return "not run"
    return "reproduced" if abs(row.difference) <= 2 * row.sd / math.sqrt(row.n) + 0.005 else "not"


measured = [(name, c.mean(), c.std(ddof=1), len(c)) for name, c in C.items()]
measured = pd.DataFrame(measured, columns=["set", "mean", "sd", "n"]).sort_values("mean")
printed = tables.printed("table_7").rename(columns={"mean": "paper_mean", "sd": "paper_sd"})
table_7 = printed.merge(measured, on="set", how="left")
table_7["difference"] = table_7["mean"] - table_7.paper_mean
table_7["verdict"] = table_7.apply(verdict, axis=1)

# %%
label_of = datasets.LABELS | {
    f"{name}_blurred": f"blurred {label}" for name, label in datasets.LABELS.items()
}
digits = {"n": "{:.0f}", "difference": "{:+.3f}"}
digits |= dict.fromkeys(["paper_mean", "paper_sd", "mean", "sd"], "{:.2f}")
about = "Table 7: complexity of the image sets in bits per dimension, the paper's and ours"
sheet.save_table(table_7, "table_7", about)
figures.show_table(table_7.replace({"set": label_of}).set_index("set"), about, digits)

# %% [markdown]
r"""
Sets that Table 7 does not have, such as those embedded in the quick profile:
"""

# %%
others = measured[~measured.set.isin(printed.set)]
sheet.save_table(others, "table_7_others", "Complexity of sets that are not in Table 7, bits per dimension")
figures.show_table(others.replace({"set": label_of}).set_index("set"), sheet.label, digits)

# %%
if C:
    fig, ax = figures.figure("wide")
    figures.draw_distributions(ax, {name: C[name] for name in measured.set}, labels=label_of)
    ax.set_xlabel(r"complexity $C(\mathbf{x})$ [bits/dim]")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    sheet.save_figure(
        fig, "fig_5", "Fig. 5: distribution of the image complexity; dashed: after Gaussian blur"
    )

# %% [markdown]
r"""
**Reading.** From simple to complex, what the blur does to a set, and what the colour transform would have done, on the first 200 images of each:
"""

# %%
print(" < ".join(label_of[name] for name in measured.set))
for name in (name for name in C if f"{name}_blurred" in C):
    before, after = C[name].mean(), C[f"{name}_blurred"].mean()
    print(f"blur, radius {P.blur_radius:g}: {label_of[name]} {before:.2f} -> {after:.2f} bits/dim")

# %%
C_7 = printed.set_index("set").paper_mean.sort_values()
fits = []
for name in (name for name in C if not name.endswith("_blurred")):
    some = images_of(name)[:200]
    off, on = (np.mean([8 * len(encoded(i, mct)) / i.numel() for i in some]) for mct in (0, 1))
    if name in C_7:
        fits.append(abs(off - C_7[name]) < abs(on - C_7[name]))
    print(f"{label_of[name]}: {off:.2f} without, {on:.2f} with; printed: {C_7.get(name, 'nowhere')}")
print(f"The printed mean is nearer without the transform for {sum(fits)} of {len(fits)} sets of Table 7.")

# %% [markdown]
r"""
## Complexity of text
> We assess the complexity of the entire dataset using a lossless compression algorithm, such as gzip. … $C(\mathbf X) = \frac{1}{d} L(\mathbf X)$, where … $d$ is the number of text in the dataset.

The last words must be an erratum: a corpus would cost hundreds or thousands of bits per text, and Table 9 prints about three. Taken per UTF-8 byte of the corpus joined by spaces, gzip gives the order of magnitude of Table 9.
"""

# %%
figures.show_source(text_complexity)

# %% [markdown]
r"""
English prose that is on every machine: the help pages of Python, docstrings of its standard library, and scikit-learn's descriptions of its data sets.
"""

# %%
import ast
import pydoc_data.topics
import random

import sklearn.datasets

modules = ["argparse", "datetime", "difflib", "doctest", "inspect", "statistics", "subprocess"]
trees = [ast.parse(Path(importlib.util.find_spec(name).origin).read_bytes()) for name in modules]
nodes = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
pages = sorted(Path(sklearn.datasets.__file__).parent.glob("descr/*.rst"))
prose = {
    "Python help pages": list(pydoc_data.topics.topics.values()),
    "Python docstrings": [text for node in nodes if (text := ast.get_docstring(node))],
    "scikit-learn data descriptions": [page.read_text(encoding="utf-8") for page in pages],
}

# %%
rows = {}
for name, texts in prose.items():
    rows[name] = {
        "texts": len(texts),
        "bits per byte": text_complexity(texts),
        "shuffled": text_complexity(random.Random(P.seed).sample(texts, len(texts))),
        "text by text (mean)": np.mean([text_complexity([text]) for text in texts]),
        "bits per text (as printed)": text_complexity(texts) * len(" ".join(texts).encode()) / len(texts),
    }
per_text = pd.DataFrame(rows).T
sheet.save_table(per_text.reset_index(names="corpus"), "text_definitions", "Text complexity by definition")
formats = {"texts": "{:.0f}", "bits per text (as printed)": "{:,.0f}"}
figures.show_table(per_text, "C(X) by definition", dict.fromkeys(per_text, "{:.3f}") | formats)

# %% [markdown]
r"""
**Reading.** gzip looks back 32 kB. So the value depends on the order of the texts where neighbours are alike, and a text compressed alone costs more, since there is nothing before it to refer to. $C(\mathbf X)$ compares corpora, not texts.
"""

# %%
assert (per_text["text by text (mean)"] > per_text["bits per byte"]).all()
moved = (per_text["shuffled"] - per_text["bits per byte"]).abs()
literal, largest = per_text["bits per text (as printed)"].min(), tables.printed("table_9").paper.max()
print(
    f"Shuffling moves C(X) by {moved.min():.3f} to {moved.max():.3f} bits per byte, most in {moved.idxmax()}."
)
print(f"With d = number of texts none costs less than {literal:,.0f}; Table 9 ends at {largest}.")

# %% [markdown]
r"""
Table 9, from the corpora that are here. `reproduced` allows one unit of the last printed digit: as much is in the order of the texts. The paper says neither the order, nor which split and how many texts it took, so `texts` counts ours.
"""


# %%
import gzip
import json


def texts_of(file):
    with gzip.open(paths.data_root() / "text" / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


C_text, n_texts, verdicts = {}, {}, {}
for name, file in P.corpora.items():
    try:
        texts = texts_of(file)
        C_text[name], n_texts[name] = text_complexity(texts), len(texts)
    except FileNotFoundError:
        verdicts[name] = f"not available here: text/{file}.jsonl.gz"

# %%
table_9 = tables.printed("table_9")
table_9["ours"] = table_9.set.map(C_text).astype(float)
table_9["texts"] = table_9.set.map(n_texts).astype(float)
table_9["difference"] = table_9.ours - table_9.paper
for name in C_text:
    is_near = table_9.set_index("set").difference.abs()[name] <= 0.015
    verdicts[name] = "reproduced" if is_near else "not"
verdicts["imdb_synthesized"] = "in 03_3_text"
table_9["verdict"] = [verdicts.get(name, "not run") for name in table_9.set]
about = "Table 9: text complexity in bits per byte, the paper's and ours"
sheet.save_table(table_9, "table_9", about)
formats = dict.fromkeys(["paper", "ours"], "{:.2f}") | {"texts": "{:.0f}", "difference": "{:+.3f}"}
names = CORPORA | {"imdb_synthesized": "synthesized IMDb"}
figures.show_table(table_9.replace({"set": names}).set_index("set"), about, formats)

# %% [markdown]
r"""
## Hypothesis 1
> Let $f: \mathcal X \rightarrow \mathcal Z$ be an invertible function that is locally $L_{\mathcal A}$-Lipschitz on a subset $\mathcal A \subseteq \mathcal Z$. … Fix a point $\mathbf z \in \mathcal A$ and choose a constant $\epsilon > 0$ such that the open ball $\mathcal B^{\epsilon}_{\mathbf z}$ … is contained within $\mathcal A$. … Then, the following inequality holds:

$$\frac{\epsilon^2}{L_{\mathcal A}^2}\bigl(1 - \mathbb P(\mathcal B_{\mathbf z}^{\epsilon})\bigr) \le C_1 \exp(C(\mathbf x)) \tag{1}$$

The sentence has a type error: $f$ takes points of $\mathcal X$, and $\mathcal A$ lies in $\mathcal Z$. Either $f$ is Lipschitz on $f^{-1}(\mathcal A)$, or it is $f^{-1}$ that is Lipschitz on $\mathcal A$, and the two constants are different numbers of one flow. `03_1_lipschitz` measures both on trained flows and compares them with $C$; here is what eq. (1) says by itself. Solved for the ball's probability:
"""


# %%
def least_probability(C, L_A, epsilon=1.0, C_1=1.0):
    return 1 - C_1 * L_A**2 * np.exp(C) / epsilon**2  # says nothing where it is negative


bound = least_probability(C_7, L_A=1.0)
assert (np.diff(bound) <= 0).all()  # the simpler x, the more probability near z: a higher likelihood
assert np.allclose(least_probability(C_7, L_A=2.0), least_probability(C_7 + math.log(4), L_A=1.0))
ratio = math.exp(C_7["isun"] - C_7["svhn"])
print(f"From SVHN to iSUN (printed C) the right side of eq. (1) grows {ratio:.1f} times;")
print(f"a Lipschitz constant {math.sqrt(ratio):.1f} times larger at SVHN would make up for it.")

# %% [markdown]
r"""
**Reading.** With $L_{\mathcal A}$ fixed, a simpler image has to lie where more probability is. A larger $L_{\mathcal A}$ loosens the bound as a larger $C$ does: that is what the paper hopes to gain by training with outliers.

## Table 1: the bias
> Table 1 illustrates this phenomenon, showing that the detection performance improves when the complexity of the ID data is lower than that of the OOD data.

Flows trained by maximum likelihood alone, each set against each other. *Agrees*: the printed number lies in our interval, whose half-width is at most five points, or within one point of ours. *Cannot tell*: it lies in a wider interval. *Higher*, *lower*: ours is, and the printed number lies outside.
"""

# %%
wanted = grid.rows(P.profile, "table_1") if "table_1" in grid.tables(P.profile) else []
finished, absent = runs.available(wanted, train_missing=P.train_missing)
for name, why in absent.items():
    print(f"{name}: not run. {why}")
print(f"{len(finished)} of the {len(wanted)} runs that profile {P.profile} names for Table 1")

# %%
keys = ["id", "ood", "score", "metric"]
ours = pd.DataFrame(columns=[*keys, "value", "low", "high", "n_seeds"])
if finished:
    ours = tables.over_seeds(tables.collect(finished).query("metric == 'auroc'"), keys)
literal = ours[ours.score == "pz"].drop(columns="score")
table_1 = tables.paper_vs_ours(tables.printed("table_1"), literal, ["id", "ood", "metric"])
about = "Table 1: AUROC of MLE flows by eq. (4) in percent, the paper's and ours"
sheet.save_table(table_1, "table_1", about)
shown = table_1.replace({"id": label_of, "ood": label_of}).set_index(["id", "ood"])
figures.show_table(shown, about, {"n_seeds": "{:.0f}"})

# %% [markdown]
r"""
Arranged as the paper prints it: ID sets in rows, OOD sets in columns, both from simple to complex, so that simpler OOD stands left of the diagonal. Three scores: eq. (4) as printed, the full density $p_{\mathcal X}$, and $-C(\mathbf x)$ alone, which needs no flow.
"""

# %%
kinds = {"pz": "p_Z, eq. (4)", "px": "p_X", "comp_only": "−C, no flow"}
mean_C = {name: c["mean"] for run in finished for name, c in run.metrics["complexity"].items()}
trained = sorted({run.spec.id for run in finished}, key=mean_C.get)
printed_ood = set(
    tables.printed("table_1").ood
)  # a set of the paper that no flow was trained on keeps its column
columns = sorted({*trained, *(o for o in printed_ood if o in set(ours.ood))}, key=mean_C.get)
square = ours[ours.ood.isin(columns) & ours.score.isin(list(kinds))].replace({"score": kinds})
if trained:
    lines = pd.MultiIndex.from_product([kinds.values(), trained], names=["score", "ID"])
    square = tables.wide(square, ["score", "id"], ["ood"]).reindex(index=lines, columns=columns)
    square = square.rename(label_of).rename(columns=label_of)
    sheet.save_table(square, "table_1_square", "AUROC of MLE flows, percent with 95 % interval", index=True)
    figures.show_table(square, f"AUROC in percent with 95 % interval; {sheet.label}")
else:
    print("not run")

# %% [markdown]
r"""
The same as a picture. In the left panel the paper's six numbers stand over its own Table 7. If likelihood follows complexity, the points rise from the lower left to the upper right; below 50 a detector does worse than a coin.
"""

# %%
paper = tables.printed("table_1").rename(columns={"paper": "value"}).assign(low=np.nan, high=np.nan)
panels = {"paper: Table 1 over Table 7": paper.assign(gap=paper.ood.map(C_7) - paper.id.map(C_7))}
for kind in ("pz", "px") if finished else ():
    cells = ours[ours.score == kind]
    panels[f"ours: {kinds[kind]}"] = cells.assign(gap=cells.ood.map(mean_C) - cells.id.map(mean_C))
fig, axes = figures.figure(
    "wide" if finished else "single", columns=len(panels), height=4.2, sharex=True, sharey=True, squeeze=False
)
ids = [id_ for cells in panels.values() for id_ in cells.id]
entries = {}
for ax, (title, cells) in zip(axes[0], panels.items()):
    figures.draw_bias(ax, cells, labels=label_of, ids=ids)
    ax.set_title(title)
    entries |= dict(zip(*ax.get_legend_handles_labels()[::-1]))
fig.legend(entries.values(), entries, loc="outside lower center", ncols=4, fontsize=7)
axes[0, 0].set_ylabel("AUROC [%]")
sheet.save_figure(fig, "fig_bias", "AUROC of MLE flows against how much more complex OOD is than ID")

# %% [markdown]
r"""
**Reading.** Two statements that are easily taken for one: detection is *better* where OOD is the more complex side, and detection is *worse than chance* where OOD is the simpler side.
"""

# %%
for title, cells in panels.items():
    simpler, harder = (cells[cells.gap * side > 0].value.astype(float) for side in (-1, 1))
    order = "all of them above" if harder.min() > simpler.max() else "not all of them above"
    print(f"{title}: OOD more complex than ID {harder.min():.1f} to {harder.max():.1f},")
    print(f"    {order} the simpler OOD, {simpler.min():.1f} to {simpler.max():.1f};")
    print(f"    {(simpler < 50).sum()} of {len(simpler)} simpler ones are found worse than by chance")

# %%
run_ids = [run.spec.run_id for run in finished]
sheet.finish(runs=run_ids, missing=sorted(missing), codec=complexity.codec_versions())

# %% [markdown]
r"""
## Summary
- $C(\mathbf x)$ is a property of an encoder and its options as much as of an image. Here it is the lossless JPEG2000 file of Pillow, checked pixel by pixel and against a second encoder, and Table 7 decides whether a data set is the paper's.
- Text complexity is gzip bits per byte of a whole corpus; the definition as printed cannot give Table 9.
- The bias is a rule about order (OOD more complex than ID is found better) and a failure (OOD simpler than ID found worse than by a coin). The figure says where each holds, and that $p_{\mathcal Z}$ and $p_{\mathcal X}$ need not agree.

Not reproduced here: what the tables call `not run` or `not available here` (the quick profile has none of the paper's data), and Table 8, whose sets belong to section 3.2. Hypothesis 1 is put to numbers in `03_1_lipschitz`. Next: `02_2_synthetic_outliers`.
"""
