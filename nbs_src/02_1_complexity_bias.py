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
**Answer.** Simple means few bytes in a lossless JPEG2000 file. In the paper's Table 1 every OOD set that is more complex than ID is found better than any simpler one. In profile `sample` that holds of the paper's sets by eq. (4), but of one more complex set against three simpler ones, by 3 points, with intervals that overlap. It holds neither by the full density nor of the other sets at hand. One simpler set is found worse than by a coin, SVHN under CIFAR-10: surely by the full density, by eq. (4) in the mean of three seeds.
**Makes** Tables 1, 7 and 9, Fig. 5, and a figure of the bias · **reads** the maximum-likelihood (MLE) runs of `train_one` (trains what is missing) · **time** quick 20 s, and 40 s for each of its three runs that is missing
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

# %% tags=["imports"]
import io
import math
import random

import numpy as np
import pandas as pd
import torch
from PIL import Image

from flowood_core import complexity, datasets, runs
from flowood_core.complexity import image_complexity, jpeg2000_bytes, text_complexity
from flowood_core.datasets.corpora import LABELS as CORPORA
from flowood_core.evidence import complexity_tables, readings, tables
from flowood_core.notebook import figures, params
from flowood_core.outliers.image import gaussian_blur
from flowood_core.runs import grid

P = params.check(globals(), notebook="02_1_complexity_bias")
sheet = figures.start("02_1_complexity_bias", P)
x = datasets.load("photo", "test").drawn(P.n_check, P.seed).x
print(f"{len(x)} photo crops to check the encoder on; {sheet.label}")

# %% [markdown]
r"""
## Definition 1
> An image $\mathbf x \in \{0, 1, \dots, 255\}^d$ is represented as a vector of $d$ pixel values. Let $L(\mathbf x)$ denote the length in bits of the compressed bit string obtained by applying a lossless compression algorithm … The image complexity is defined as:

$$C(\mathbf x) = \frac{1}{d} L(\mathbf x)$$

The paper compresses by JPEG2000 (section 3.1) and says no more. Its Table 7 says the rest: the printed means fit Pillow's default encoder, file header included, no colour transform. So $d$ counts every channel of every pixel, and the unit of $C$ is bits per dimension.
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
**What the bytes are.** The paper's file is the `container`. Without the boxes around it, it is the bare `codestream`. The `payload` is the container less that of a black image of the same shape. At 32 × 32 the header is a visible share of $C$. Noise costs more than the 8 bits it is stored in, so 8 is no upper bound of $C$.
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
off, on = (image_complexity(x, colour_transform=mct).mean() for mct in (False, True))
assert on < off
print(f"photo crops: {off:.2f} bits/dim without the colour transform, {on:.2f} with it")

# %% [markdown]
r"""
## Table 7: the complexity of every set
"""


# %%
def images_of(name):
    original = name.removesuffix("_blurred")
    images = datasets.load(original, "test").drawn(P.n_images, P.seed).x
    return images if name == original else gaussian_blur(images, P.blur_radius)


C, missing = {}, []
for name in P.sets:
    try:
        C[name] = image_complexity(images_of(name)).numpy()
    except datasets.MissingData:
        missing.append(name)
print(f"{sum(map(len, C.values()))} images of {len(C)} sets")
if missing:  # what to do about it says data/README.md
    print(f"not here: {', '.join(datasets.LABELS.get(n, n) for n in missing)} (data/README.md)")

# %% [markdown]
r"""
The table is the fingerprint of the data pipeline: a set whose mean is off was resized, blurred or encoded in another way. `reproduced` means that the printed mean lies within two standard errors of ours, plus half a unit of its last digit. *blurred* is a Gaussian blur of the radius in the parameters, 1 in the paper. CelebA is, in profile `sample`, in reduced copies (64x64, saved as JPEG), which do not pass.
"""

# %%
table_7, others = complexity_tables.table_7(C, missing)
digits = {"n": "{:.0f}", "difference": "{:+.3f}"}
digits |= dict.fromkeys(["paper_mean", "paper_sd", "mean", "sd"], "{:.2f}")
about = "Table 7: complexity of the image sets in bits per dimension, the paper's and ours"
sheet.table(table_7, "table_7", about, formats=digits)

# %% [markdown]
r"""
Sets that Table 7 does not have, such as those embedded in the quick profile:
"""

# %%
about = "Complexity of sets that are not in Table 7, bits per dimension"
sheet.table(others, "table_7_others", about, formats=digits)

# %%
label_of = datasets.LABELS | {f"{n}_blurred": f"{label}, blurred" for n, label in datasets.LABELS.items()}
C_7 = tables.printed("table_7").set_index("set")["mean"]
rising = sorted(C, key=lambda name: C[name].mean())
if C:
    fig, ax = figures.figure("tall", height=0.8 + 0.42 * len(C))
    figures.draw_ridges(ax, {n: C[n] for n in rising}, labels=label_of, printed=C_7.to_dict())
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    about = "Fig. 5: distribution of the complexity of each set, from simple to complex; hollow: after blur"
    sheet.save_figure(fig, "fig_5", about)

figures.read(*readings.complexity_of_sets(C, label_of, P.blur_radius))

# %% [markdown]
r"""
What the colour transform would have made of the sets, on the first 200 images of each:
"""

# %%
fits = []
for name in (name for name in C if not name.endswith("_blurred")):
    some = images_of(name)[:200]
    off, on = (image_complexity(some, colour_transform=mct).mean().item() for mct in (False, True))
    fits += [abs(off - C_7[name]) < abs(on - C_7[name])] if name in C_7 else []
    print(f"{label_of[name]}: {off:.2f} without, {on:.2f} with; printed: {C_7.get(name, 'nowhere')}")
said = f"The printed mean is nearer without the transform for {sum(fits)} of {len(fits)} sets"
figures.read((len(fits) > 0 and all(fits), f"{said}: the paper codes the channels one by one.", f"{said}."))

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
English prose that is on every machine: the help pages of Python, and scikit-learn's descriptions of its data sets.
"""

# %%
import pydoc_data.topics
from pathlib import Path

import sklearn.datasets

pages = sorted(Path(sklearn.datasets.__file__).parent.glob("descr/*.rst"))
prose = {
    "Python help pages": list(pydoc_data.topics.topics.values()),
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
## Table 9: the complexity of every corpus
The whole split at hand, its texts in the order in which they are stored. `reproduced` allows one unit of the last printed digit. The paper says neither the order, nor which split and how many texts it took, so `texts` counts ours. Synthesized IMDb are the outliers that the runs of `03_3_text` trained on. In profile `sample` IMDb and Movie Reviews agree. The other four do not: our outliers are simpler than IMDb, but by a fifth of what the paper prints.
"""

# %%
texts = {name: complexity_tables.corpus(file) for name, file in P.corpora.items()}
table_9 = complexity_tables.table_9(texts, complexity_tables.synthesized(grid.finished(P.profile, "table_6")))
names = CORPORA | {"imdb_synthesized": "synthesized IMDb"}
about = "Table 9: text complexity in bits per byte, the paper's and ours"
sheet.save_table(table_9, "table_9", about)
formats = dict.fromkeys(["paper", "ours"], "{:.2f}") | {"texts": "{:.0f}", "difference": "{:+.2f}"}
figures.show_table(table_9.replace({"set": names}).set_index("set"), about, formats)

# %% [markdown]
r"""
What the order does. gzip finds a repetition within 32 kB only. A corpus whose neighbours are alike, such as paragraphs of one article, costs more when its texts are shuffled or drawn at random.
"""

# %%
here = {CORPORA[name]: of for name, of in texts.items() if of}
order = complexity_tables.order_of_texts(here, seed=P.seed).set_index("corpus")
about = "C(X) in bits per byte by order and number of texts"
if here:
    sheet.save_table(order, "text_order", about, index=True)
    figures.show_table(order, about, dict.fromkeys(order, "{:.3f}") | {"texts": "{:,.0f}"})
figures.read(*readings.order_of_texts(order if here else order.iloc[:0]))

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


printed_C = C_7.sort_values()
bound = least_probability(printed_C, L_A=1.0)
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

Flows trained by maximum likelihood alone, each set against each other. AUROC is the chance that an OOD image scores higher than an ID image; 50 is a coin. The table is arranged as the paper prints it, from simple to complex: simpler OOD stands left of the diagonal. Below the printed numbers stand ours: by eq. (4), $-\log p_{\mathcal Z}(\mathbf z)$; by the full density $p_{\mathcal X}$; and by $-C(\mathbf x)$ alone, which needs no flow. Intervals are over seeds and test draws. SVHN as ID is not run in profile `sample`, which has no training images of it.
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
mean_C = {name: c["mean"] for run in finished for name, c in run.metrics["complexity"].items()}
about = "Table 1: AUROC of MLE flows in percent with 95 % interval, ID in rows, OOD in columns"
if finished:
    square = complexity_tables.table_1_square(ours, mean_C)
    square = square.rename_axis(["score", "ID"]).rename(label_of).rename(columns=label_of)
    sheet.save_table(square, "table_1_square", about, index=True)
    figures.show_table(square, f"{about}; {sheet.label}")

# %% [markdown]
r"""
Cell by cell. *Agrees*: the printed number lies in our interval, whose half-width is at most five points, or outside it but within one point of ours. *Cannot tell*: it lies in a wider interval. *Higher*, *lower*: ours is, and the printed number lies outside.
"""

# %%
literal = ours[ours.score == "pz"].drop(columns="score")
table_1 = tables.paper_vs_ours(tables.printed("table_1"), literal, ["id", "ood", "metric"])
about = "Table 1: AUROC of MLE flows by eq. (4) in percent, the paper's and ours, cell by cell"
sheet.save_table(table_1, "table_1", about)
shown = table_1.replace({"id": label_of, "ood": label_of}).set_index(["id", "ood"]).drop(columns="metric")
figures.show_table(
    shown, about, dict.fromkeys(shown.columns[:-1], "{:.1f}") | {"n_seeds": "{:.0f}"}, folded=True
)

# %% [markdown]
r"""
The same as a picture. In the left panel the paper's six numbers stand over its own Table 7. Bars are 95 % intervals over seeds and test draws; the paper prints none. If likelihood follows complexity, the points rise from the lower left to the upper right; below 50 a detector does worse than a coin. In ours they hardly rise: under iSUN (triangles) every set is simpler, and found.
"""

# %%
panels = complexity_tables.bias_panels(ours, mean_C)
kind, height = ("wide", 4.2) if len(panels) > 1 else ("single", 4.2)
fig, axes = figures.figure(kind, columns=len(panels), height=height, sharex=True, sharey=True, squeeze=False)
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
Two statements are easily taken for one. Detection is *better* where OOD is the more complex side; and detection is *worse than chance* where OOD is the simpler side. A pair counts as worse than chance where its whole interval lies below 50; a printed number has none and counts by itself.
"""

# %%
both = complexity_tables.sides(panels)
about = (
    "AUROC of OOD simpler and more complex than ID, by panel: lowest, highest, and how many lie below chance"
)
sheet.save_table(both, "bias_sides", about)
figures.show_table(both.set_index(["panel", "sets"]), about, "{:.4g}", folded=True)
figures.read(*readings.bias(both))

# %%
run_ids = [run.spec.run_id for run in finished]
sheet.finish(runs=run_ids, missing=sorted(missing), codec=complexity.codec_versions())

# %% [markdown]
r"""
## Summary
- $C(\mathbf x)$ is a property of an encoder and its options as much as of an image. Here it is the lossless JPEG2000 file of Pillow, checked pixel by pixel and against a second encoder, and Table 7 decides whether a data set is the paper's.
- Text complexity is gzip bits per byte of a whole corpus in its own order; the definition as printed cannot give Table 9.
- The bias is a rule about order (OOD more complex than ID is found better) and a failure (OOD simpler than ID found worse than by a coin). They are two claims: the last table says where each holds, and that $p_{\mathcal Z}$ and $p_{\mathcal X}$ need not agree.

Not reproduced here: what the tables call `not run` or `not available here`, and Table 8, whose sets belong to section 3.2. The quick profile has none of the paper's data. Hypothesis 1 is put to numbers in `03_1_lipschitz`. Next: `02_2_synthetic_outliers`.
"""
