# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 2.2 Synthetic outliers
**Question.** How are outliers made from nothing but the training images, and which step makes them simple?
**Answer.** CutPaste, CutMix and MixUp change what is in the image and leave its complexity within 3 %; Gaussian blur of radius 1 takes a quarter of it away (400 images of CIFAR-10, profile `sample`). The paper's method draws at random among the three, the blur, and both together.
**Makes** Figs 7 and 8, the curve of complexity against blur, tables of what each method does · **reads** no run · **time** quick 20 s
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
seed: int = 0  # of the images and of every outlier
id: Optional[str] = None  # None: the profile's in-distribution set
galleries: Optional[list] = None  # None: the profile's; the sets of Fig. 7 and of Fig. 8
n_images: int = 400  # ID images to measure on
n_gallery: int = 8  # columns of Figs 7 and 8
blur_radius: float = 1.0  # section 3.1
alpha: float = 1.0  # section 3.1; of CutMix and MixUp
radii: list = [0, 0.5, 1, 1.5, 2, 3, 4, 5, 8]  # of the curve; the paper's Fig. 6 does not say its own
target: float = 0.75  # share of the complexity that the calibrated blur leaves

# %%
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter

from flowood_core import datasets
from flowood_core.notebook import params, figures
from flowood_core.complexity import image_complexity
from flowood_core.outliers import blur, image as outliers

P = params.check(globals(), notebook="02_2_synthetic_outliers")
sheet = figures.start("02_2_synthetic_outliers", P)
x = datasets.load(P.id, "train").drawn(P.n_images, P.seed).x
partner = x.roll(1, 0)  # another ID image for each
C = image_complexity(x)
print(f"{len(x)} images of {datasets.LABELS.get(P.id, P.id)}, C = {C.mean():.2f} bits/dim; {sheet.label}")

# %% [markdown]
r"""
Every method is a callable `(x, partner, rng) -> x_out` on bytes: `x` the ID images, `partner` another ID image for each, `rng` the generator that all randomness comes from. So a row of Table 2 is a composition of functions, and the same seed makes the same outliers.

## Gaussian blur
> … applying a Gaussian blur to the augmented outlier, which effectively reduces image complexity and introduces a controlled degree of randomness.

$$\mathbf x'_c(u, v) = (\mathbf x^a_c * \mathbf g)(u, v) = \sum_{i=-k}^{k} \sum_{j=-k}^{k} \mathbf x^a_c(u-i, v-j)\, \mathbf g(i, j), \quad \forall c \in \{1, \dots, C\}$$

Here $\mathbf x^a$ is the augmented image, $c$ one of its $C$ channels, and $\mathbf g$ a kernel of $(2k+1) \times (2k+1)$ pixels. The paper calls $\mathbf g$ Gaussian, gives a radius of 1, and leaves its values and $k$ open. Radius is the word of Pillow, and the blurred sets of Table 7 fit Pillow's blur, so this is $\mathbf g$ here: three box filters, one after the other, along each axis. (The paper also says that blur replaces each pixel "with the average of the pixels within a certain radius", which describes a single box filter.)
"""

# %%
figures.show_source(outliers.gaussian_blur)
figures.show_source(blur.blur_rows)

# %% [markdown]
r"""
**The kernel.** An impulse goes in, $\mathbf g$ comes out, once through Pillow in bytes and once through the integer weights of its three passes, without rounding. Beside them the Gaussian itself.
"""

# %%
line = torch.zeros(1, 1, 33, 33, dtype=torch.uint8)
line[..., 16] = 255  # a bright column: what comes out along a row is g along one axis
through_pillow = outliers.gaussian_blur(line, P.blur_radius)[0, 0, 16] / 255
g = torch.linalg.matrix_power(blur.box_pass(33, P.blur_radius), 3)[16]
i = torch.arange(33) - 16
gauss = torch.exp(-0.5 * (i / P.blur_radius) ** 2)
kernel = pd.DataFrame(
    {"Pillow, in bytes": through_pillow, "exact": g, "Gaussian": gauss / gauss.sum()}, index=i.numpy()
)
figures.show_table(kernel[g.numpy() > 0].T, f"g along one axis, radius {P.blur_radius:g}", "{:.4f}")
print(f"k = {i[g > 0].max()}, standard deviation {(i**2 * g).sum().sqrt():.4f} pixels")

# %% [markdown]
r"""
**Check.** The sum of the equation, written as a convolution per channel, agrees with the blur to less than a grey level on average; it cannot agree better, since Pillow rounds after each of six passes. The border is left out, where each pass repeats the edge. And the blur is Pillow's own, image by image, to the bit; so is the form of it that runs on a GPU.
"""

# %%
k = int(i[g > 0].max())
g_2d = torch.outer(g, g)[16 - k : 17 + k, 16 - k : 17 + k]
convolved = torch.nn.functional.conv2d(x.double(), g_2d.expand(3, 1, -1, -1), groups=3)
blurred = outliers.gaussian_blur(x, P.blur_radius)
gap = (convolved - blurred[..., k:-k, k:-k]).abs()[..., k:-k, k:-k]
print(f"equation against blur: {gap.mean():.2f} grey levels apart on average, {gap.max():.2f} at most")
assert gap.mean() < 1
assert torch.equal(outliers.gaussian_blur(x, P.blur_radius, engine="tensor"), blurred)
for before, after in zip(x, blurred):
    picture = Image.fromarray(before.permute(1, 2, 0).contiguous().numpy())
    assert np.array_equal(picture.filter(ImageFilter.GaussianBlur(P.blur_radius)), after.permute(1, 2, 0))

# %% [markdown]
r"""
**Blur lowers complexity.** The left curve runs over the radii of `radii`; on the right stands every image before and after. A constant image still costs its header, so the curve cannot come down to zero. One pixel is a strong blur at 32 × 32 and a faint one at 256 × 256, whereas a share of $C$ means the same at both. So `calibrate_blur` looks for the radius that leaves a given share of the complexity of the ID set. On CIFAR-10 the paper's radius, 1, leaves three quarters, and every image becomes simpler.
"""

# %%
C_blurred = image_complexity(blurred)
assert C_blurred.mean() < C.mean()
calibrated = outliers.calibrate_blur(x, P.target)
curve = [image_complexity(outliers.gaussian_blur(x, radius)).numpy() for radius in P.radii]
print(
    f"radius {P.blur_radius:g} leaves {C_blurred.mean() / C.mean():.3f} of C, and makes {(C_blurred < C).double().mean():.1%} of the images simpler"
)
print(
    f"to leave {P.target:g} takes radius {calibrated.radius:.3f} (reached: {calibrated.ratio:.3f} on {calibrated.n_images} images)"
)

# %%
fig, (left, right) = figures.figure("wide", columns=2)
figures.draw_complexity_vs_radius(left, P.radii, curve, colour=figures.colour_of(P.id))
left.axhline(P.target * C.mean(), color="0.5", ls=":", lw=1, label=f"{P.target:g} of the mean of ID")
left.axvline(
    calibrated.radius, color="0.5", ls="--", lw=1, label=f"calibrated radius {calibrated.radius:.2f}"
)
left.legend()
right.scatter(C, C_blurred, s=8, alpha=0.5, linewidths=0, color=figures.colour_of(P.id))
ends = [C_blurred.min(), C.max()]
right.plot(ends, ends, color="0.5", lw=1, label="no change")
right.set(xlabel=r"$C(\mathbf{x})$ [bits/dim]", ylabel=rf"$C(\mathbf{{x}}')$ at radius {P.blur_radius:g}")
right.legend()
sheet.save_figure(fig, "complexity_vs_blur", "Complexity of ID images against blur, and image by image")

# %%
by_radius = pd.DataFrame({"radius": P.radii, "mean_C": [c.mean() for c in curve]})
by_radius["ratio"] = by_radius.mean_C / C.mean().item()
sheet.save_table(by_radius, "complexity_vs_blur", "Mean complexity of blurred ID images by radius")
shown = by_radius.set_index(by_radius.radius.map("{:g}".format))[["mean_C", "ratio"]]
figures.show_table(shown.T, "Mean C(x') by radius, and its ratio to that of ID", "{:.3f}")

# %% [markdown]
r"""
## CutPaste, CutMix, MixUp
> For images, we initially generate an augmented outlier $\mathbf x^a \in \mathcal X$ by randomly employing one of three techniques: CutPaste, CutMix, or MixUp. This step enriches the semantic diversity and broadens the range of the outliers.

The paper names the three and gives $\alpha = 1$ for the last two. With $\tilde{\mathbf x}$ another ID image, $R$ a random rectangle and $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$ drawn for each image:

$$\text{CutPaste:}\quad \mathbf x^a(u) = \begin{cases}\mathbf x(u - \delta) & u \in R + \delta\\ \mathbf x(u) & \text{else}\end{cases} \qquad
\text{CutMix:}\quad \mathbf x^a(u) = \begin{cases}\tilde{\mathbf x}(u) & u \in R_\lambda\\ \mathbf x(u) & \text{else}\end{cases} \qquad
\text{MixUp:}\quad \mathbf x^a = \lambda\,\mathbf x + (1-\lambda)\,\tilde{\mathbf x}$$

CutPaste takes 2 to 15 % of the image with sides between 0.3 : 1 and 1 : 0.3, as its authors do. The sides of $R_\lambda$ are $\sqrt{1-\lambda}$ of the image's, clipped at the border.
"""

# %%
figures.show_source(outliers.cutpaste)
figures.show_source(outliers.cutmix)
figures.show_source(outliers.mixup)

# %% [markdown]
r"""
**Check.** CutPaste brings no colour that the image did not have; CutMix takes every pixel from one of the two; MixUp stays between them, and the $\lambda$ recovered from its images are uniform for $\alpha = 1$.
"""

# %%
rng = torch.Generator().manual_seed(P.seed)
pasted = outliers.cutpaste(x, rng=rng)
weights = torch.tensor([65536, 256, 1]).view(1, 3, 1, 1)
for before, after in zip((x * weights).sum(1), (pasted * weights).sum(1)):
    assert torch.isin(after, before).all()
moved = (pasted != x).any(1).double().mean((1, 2))
print(f"CutPaste changes {moved.mean():.1%} of the pixels on average, {moved.max():.1%} at most")

# %%
cut = outliers.cutmix(x, partner, rng=rng, alpha=P.alpha)
from_x, from_partner = ((cut == source).all(1) for source in (x, partner))
assert (from_x | from_partner).all()
print(f"CutMix takes {(~from_x).double().mean():.1%} of the pixels from the partner on average")
mixed = outliers.mixup(x, partner, rng=rng, alpha=P.alpha)
assert ((mixed >= torch.minimum(x, partner)) & (mixed <= torch.maximum(x, partner))).all()
to_x, to_mixed = (image.double().sub(partner).flatten(1) for image in (x, mixed))
lam = (to_mixed * to_x).sum(1) / to_x.square().sum(1)
print("MixUp: quartiles of lambda", np.round(np.quantile(lam, (0.25, 0.5, 0.75)), 2))
assert P.alpha != 1 or abs(lam.mean() - 0.5) < 4 / np.sqrt(12 * len(lam))

# %% [markdown]
r"""
## CCM and CCM+Gaussian
> The augmentation and Gaussian blur processes are applied independently and randomly.

CCM is one of the three, each with probability 1/3. For the sentence above there are three readings. With two independent fair coins, a quarter of the "outliers" would be untouched ID images, which the loss would push down; always applying both would not be random. We toss both coins again when both say no, so that blur alone, CCM alone and both have probability 1/3 each.
"""

# %%
figures.show_source(outliers.ccm)
figures.show_source(outliers.ccm_gaussian)
figures.show_source(outliers.coins)

# %% [markdown]
r"""
**Check by counting.** First the coins of each reading, then the outliers themselves. A third of them must equal the plain blur of their image, and few may equal the image itself.
"""

# %%
n = 30_000
counts = {}
for mode in ("at_least_one", "independent", "always_both"):
    is_augmented, is_blurred = outliers.coins(mode, n, rng, x.device)
    case = 2 * is_augmented.int() + is_blurred.int()
    counts[mode] = torch.bincount(case, minlength=4).div(n).tolist()
counts = pd.DataFrame(counts, index=["untouched", "blur only", "CCM only", "both"]).T
assert np.allclose(
    counts.loc["at_least_one"], [0, 1 / 3, 1 / 3, 1 / 3], atol=0.012
)  # four standard deviations
sheet.save_table(
    counts.reset_index(names="reading"), "outlier_cases", "Cases of CCM+Gaussian by reading, shares"
)
figures.show_table(100 * counts, f"Cases of CCM+Gaussian by reading, percent of {n:,} draws", "{:.1f}")

# %%
x_out = outliers.ccm_gaussian(x, partner, rng=rng, radius=P.blur_radius, alpha=P.alpha)
is_blur_only = (x_out == blurred).flatten(1).all(1).double()
is_untouched = (x_out == x).flatten(1).all(1).double()
tolerance = 4 * np.sqrt(2 / 9 / len(x))
print(
    f"of {len(x)} outliers {is_blur_only.mean():.1%} are the plain blur, {is_untouched.mean():.1%} the image itself"
)
assert 1 / 3 - tolerance < is_blur_only.mean() < 1 / 3 + tolerance + 0.05  # some CCM change nothing

# %% [markdown]
r"""
## How different, how simple
An outlier that is nearly an ID image asks the flow for opposite things: eq. (2) wants it likelier, eq. (3) less likely. It happens when $\lambda$ is near 0 or 1, and when a patch lands on its like. The table counts outliers that differ from their own image, or from the partner, by less than one grey level on average. It also says what each method does to the complexity.
"""

# %%
methods = {
    "CutPaste": outliers.cutpaste,
    "CutMix": partial(outliers.cutmix, alpha=P.alpha),
    "MixUp": partial(outliers.mixup, alpha=P.alpha),
    "CCM": partial(outliers.ccm, alpha=P.alpha),
    "Gaussian": partial(outliers.gaussian, radius=P.blur_radius),
    "CCM+Gaussian": partial(outliers.ccm_gaussian, radius=P.blur_radius, alpha=P.alpha),
}
made = {name: method(x, partner, rng=rng) for name, method in methods.items()}
C_of = {name: image_complexity(x_out) for name, x_out in made.items()}

# %%
what = pd.DataFrame(index=list(methods))
what["nearly its image [%]"] = [100 * outliers.count_near_identity(x, x_out) for x_out in made.values()]
what["nearly the partner [%]"] = [
    100 * outliers.count_near_identity(partner, x_out) for x_out in made.values()
]
what["mean |x' − x| [grey levels]"] = [(x.float() - x_out).abs().mean().item() for x_out in made.values()]
what["C(x') / C(x)"] = [(C_out.mean() / C.mean()).item() for C_out in C_of.values()]
what["simpler than its image [%]"] = [100 * (C_out < C).double().mean().item() for C_out in C_of.values()]
sheet.save_table(
    what.reset_index(names="method"), "outlier_methods", "What each outlier method does to ID images"
)
figures.show_table(
    what,
    f"{len(x)} outliers per method; {sheet.label}",
    dict.fromkeys(what, "{:.1f}") | {"C(x') / C(x)": "{:.3f}"},
)

# %% [markdown]
r"""
**Reading.** The lines below are made of the numbers of this run. In profile `sample` only the two methods with a blur make outliers simpler by more than 5 %.
"""

# %%
near = what["nearly its image [%]"] + what["nearly the partner [%]"]
ratio = what["C(x') / C(x)"]
print(
    f"Most ID images among the outliers: {near.idxmax()}, {near.max():.1f} %; fewest: {near.idxmin()}, {near.min():.1f} %."
)
print("Simpler on average by more than 5 %:", ", ".join(ratio.index[ratio < 0.95]) or "none")
print("Within 5 % of the complexity of ID:", ", ".join(ratio.index[(ratio - 1).abs() <= 0.05]) or "none")
print("More complex by more than 5 %:", ", ".join(ratio.index[ratio > 1.05]) or "none")

# %% [markdown]
r"""
## Figures 7 and 8
> We compare original and synthetic OOD samples in the CIFAR-10 and iSUN datasets …

The first row is ID; in the CutMix and MixUp rows the partner is the image to the left (of the first, the last). Under each name stands the mean complexity of the row in bits per dimension. The paper's figures show the two sets named above; the quick profile shows its own instead.
"""


# %%
def gallery_of(images):
    rng = torch.Generator().manual_seed(P.seed)
    rows = {"original": images}
    rows |= {name: method(images, rng=rng) for name, method in methods.items() if name != "CCM"}
    return {f"{name}\nC = {image_complexity(row).mean():.2f}": row for name, row in rows.items()}


# %%
assert "faces_rmfd" not in P.galleries, "people who can be recognised are measured, never shown"
for name, set_ in zip(("fig_7", "fig_8"), P.galleries):
    try:
        images = datasets.load(set_, "train").drawn(P.n_gallery, P.seed)
    except datasets.MissingData as error:
        print(f"{name}: not available here. {error}")
        continue
    rows = gallery_of(images.pictures)
    fig, axes = figures.figure("tall", rows=len(rows), columns=P.n_gallery)
    figures.draw_gallery(axes, rows)
    fig.suptitle(images.label, fontsize="medium")
    sheet.save_figure(fig, name, f"Fig. {name[4:]}: {images.label} and synthetic outliers made from them")

# %%
sheet.finish(blur={"calibrated_radius": calibrated.radius, "target": P.target, "ratio": calibrated.ratio})

# %% [markdown]
r"""
## Summary
- Outliers come from ID images alone: Pillow's blur to the bit, and three augmentations drawn per image; each is a function of its own, checked against its equation.
- Blur is the step that lowers complexity, and its radius can be calibrated to the ID set instead of guessed; CutPaste, CutMix and MixUp hardly move it.
- A small share of the outliers are nearly ID images; the paper does not exclude them, so they are counted, not removed.

Not reproduced here: the text outliers of section 2.2.2 and Table 11, and Fig. 9 (chest X-rays), which are made in `03_3_text` and `03_2_high_dimensional`; in the quick profile Figs 7 and 8 show other images than the paper's. Next: `02_3_learning_objective`.
"""
