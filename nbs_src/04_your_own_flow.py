# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 4 Your own flow, your own data
**Question.** Does *your* flow take simple inputs for in-distribution ones, and what can be done about it?  **Answer.** The flow of this page does. In profile `sample`, by $-\log p_{\mathcal X}$ it takes every simpler set for in-distribution; after the correction it finds all of them but the smooth crops. Four calls ask the same of yours: `bias_report`, `correct`, `bias_report` again, `Detector`.
**Makes** a diagnosis before and after, a threshold, a saved detector, `scores.csv` for every test image, a page to send on · **reads** a folder of images, or nothing (embedded photographs) · **time** 2 min on one core

With a folder of your own:

`papermill notebooks/04_your_own_flow.ipynb out.ipynb -p id_folder my/good -p test_folder my/new`

A path with blanks goes in quotes, as everywhere in a shell. Subfolders of the test folder become sets of their own in the diagnosis.
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
id_folder: Optional[str] = None  # your in-distribution images, any size and mode; None: embedded photographs
test_folder: Optional[str] = None  # images to judge; None: embedded sets, or held-out and blurred ID images
size: int = 32  # side in pixels to which images are brought
method: str = "ccm_gaussian"  # outliers: gaussian, ccm, ccm_gaussian, ccm_graded or ccm_simplify
level: str = "pixels"  # or "statistics", "features", some of them joined by "+", "both", "all"; see Detector
encoder: str = (
    "efficientnet_lite0"  # the frozen network, whose weights `make setup` installs; see ImageEncoder
)
mle_steps: Optional[int] = None  # None: the profile's; steps of maximum likelihood, eq. (2)
steps: Optional[int] = None  # None: the profile's; steps of the correction, eq. (2) and (3)
hidden: Optional[int] = None  # None: the profile's; width of the flow's convolutions
limit: int = 4000  # ID images used, at most
keep: float = 0.95  # share of ID that the threshold keeps
seed: int = 0

# %% tags=["imports"]
import pandas as pd
import torch

from flowood_core import Detector, Folder, bias_report, correct, datasets, metrics
from flowood_core.anyflow import correction, explaining, inputs, levels, ranges
from flowood_core.notebook import own_page, params, widgets, figures
from flowood_core.complexity import image_complexity
from flowood_core.flow import dequantise, image_flow
from flowood_core.outliers import image as outliers

P = params.check(globals(), notebook="04_your_own_flow")

# %%
ranges.checked(mle_steps=P.mle_steps, steps=P.steps, hidden=P.hidden, limit=P.limit, keep=P.keep, seed=P.seed)
ranges.one_of("method", P.method, [name for name in correction.OUTLIERS if name != "rows"])
looks = levels.names_of(P.level)  # where the detector looks
ranges.size(P.size)
# opened before anything is trained: a path that is none, or "", stops here
folder = None if P.id_folder is None else Folder(P.id_folder, size=P.size)
test = None if P.test_folder is None else Folder(P.test_folder, size=P.size)
data = "your own images" if folder is not None else "embedded images, not the paper's"
steps = f"{P.mle_steps} steps of maximum likelihood, {P.steps} of correction"
sheet = figures.start("04_your_own_flow", P, label=f"{P.profile} profile: {data}; {steps}")
print(sheet.label)

# %% [markdown]
r"""
## The data
In-distribution images train the flow, or are held out for the diagnosis and for the threshold: of a folder a quarter is held out, and at least 20 images; the embedded set has its own split. Duplicates between the two would flatter both, so they are counted.
"""

# %%
if folder is None:
    x_train = datasets.load("photo", "train").drawn(P.limit, P.seed).x
    x_held = datasets.load("photo", "test").drawn(500, P.seed).x
else:
    x = folder.tensor(P.limit)
    if len(x) < 24:
        raise ValueError(
            f"expected at least 24 ID images that can be read (20 are held out), got {len(x)}; add more"
        )
    if test is not None:  # deep pictures in the range of ID
        test = test.in_range(folder.how_again()["top"])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(P.seed))
    n_held = max(len(x) // 4, 20)  # the diagnosis refuses fewer
    x_train, x_held = x[order[n_held:]], x[order[:n_held]]
    print(folder.how)
print(
    f"{len(x_train)} to train on, {len(x_held)} held out, {inputs.count_duplicates(x_train, x_held)} of those are doubles"
)

# %%
EMBEDDED = ("digits", "enlarged", "smooth", "aliased")  # told from photographs where no folder is given
ood = {}
if test is not None:
    groups = {}
    for name, image in zip(*test.sample(2000)):
        groups.setdefault(name.split("/")[0] if "/" in name else "test", []).append(image)
    ood = {name: torch.stack(images) for name, images in groups.items()}
    print(test.how)
elif folder is None:
    ood = {name: datasets.load(name, "test").drawn(400, P.seed).x for name in EMBEDDED}

# %%
for name, x in ood.items():
    if n_doubles := inputs.count_duplicates(torch.cat([x_train, x_held]), x):
        print(f"caution: {n_doubles} of {len(x)} images of {name} are also ID images, to the byte")
ood["blurred ID"] = outliers.gaussian_blur(x_held, 2.0)
shown = {"ID": x_held[:10]} | {name: x[:10] for name, x in ood.items()}
fig, axes = figures.figure("tall", rows=len(shown), columns=10, height=0.85 * len(shown))
figures.draw_gallery(axes, shown)
sheet.save_figure(fig, "your_data", "Held-out ID images (first row) and the sets to tell from them")

# %% [markdown]
r"""
## Your flow
Here: the flow of this repository, trained by maximum likelihood. Replace `f` by your own module, trained or not: one that returns `(z, log_det)` (FrEIA), has `log_prob` (nflows, normflows), or returns a distribution (zuko). At the door its log-determinant is compared with the one autograd sees on a few images; a flow whose determinant is missing, summed over the batch or of the wrong sign is refused with the likely mistake named.
"""

# %%
even = P.size % 2 == 0
f = image_flow(tuple(x_train.shape[1:]), squeeze=int(even), hidden=P.hidden, seed=P.seed)
f.initialise(dequantise(x_train[:512]))
how = {"batch_size": 32, "lr": 2e-3, "seed": P.seed}
f = correct(f, x_train, objective="mle", steps=P.mle_steps, **how)
print(f.correction)

# %% [markdown]
r"""
## The diagnosis
Left: complexity $C(\mathbf x)$ against $\log p_{\mathcal X}$. A line that falls is the bias: simpler is likelier. Right: the AUROC of each set against the gap $\bar C_{\mathrm{OOD}} - \bar C_{\mathrm{ID}}$ of the mean complexities; left of 0 it is simpler than ID. Crosses are $-C$ alone, which uses no flow.
"""

# %%
before = bias_report(f, x_held, ood, seed=P.seed, label="before: maximum likelihood")
print(before.verdict)
sheet.save_figure(
    before.figure(), "bias_before", "Complexity, likelihood and AUROC by set, before the correction"
)

# %% [markdown]
r"""
## The outliers
Made from your ID images alone. What blur does to them, and to their complexity (a slider where this page is live):
"""


# %%
def show_blur(radius):
    blurred = outliers.gaussian_blur(x_held[:10], radius)
    fig, axes = figures.figure("tall", rows=2, columns=10, height=1.7)
    figures.draw_gallery(axes, {"ID": x_held[:10], f"radius {radius:g}": blurred})
    ratio = image_complexity(blurred).mean() / image_complexity(x_held[:10]).mean()
    fig.suptitle(f"blur of radius {radius:g} leaves {ratio:.0%} of the complexity", fontsize="medium")
    figures.show_figure(fig)


widgets.play(show_blur, radius=[0.0, 0.5, 1.0, 2.0, 4.0])

# %%
few = x_held[:10]
# each image has the one before it as its partner
x_out = correction.OUTLIERS[P.method](few, few.roll(1, 0), rng=torch.Generator().manual_seed(P.seed))
fig, axes = figures.figure("tall", rows=2, columns=10, height=1.7)
figures.draw_gallery(axes, {"ID": few, P.method: x_out})
sheet.save_figure(fig, "your_outliers", f"ID images and the outliers made of them by {P.method}")

# %% [markdown]
r"""
## The correction
$\mathcal L_{\mathrm{total}} = -\log p_{\mathcal X}(\mathbf x) + \log(1 + p_{\mathcal X}(\mathbf x'))$, eq. (2) and (3). On pixels in $[0, 1]$ the threshold hidden in eq. (3) is 0 nats, as printed; on features, whose unit is arbitrary, `correct` takes it from the ID log-density and says so.
"""

# %%
better = correct(f, x_train, P.method, steps=P.steps, **how)
print(better.correction)
after = bias_report(better, x_held, ood, seed=P.seed, label=f"after: corrected with {P.method}")
print(after.verdict)
sheet.save_figure(
    after.figure(), "bias_after", "Complexity, likelihood and AUROC by set, after the correction"
)

# %%
both = before.frame[["n", "gap", "side", "complexity_only", "auroc"]].rename(columns={"auroc": "before"})
both = both.join(after.frame[["auroc", "auroc_low", "auroc_high", "eq5"]].rename(columns={"auroc": "after"}))
sheet.save_table(
    both.reset_index(names="set"),
    "bias_before_after",
    "AUROC in percent by set, before and after the correction",
)
figures.show_table(both, "AUROC in percent; gap in bits/dim; eq5: whether eq. (5) would help the corrected flow",
                  {c: "{:.1f}" for c in both if c not in ("side", "eq5", "n")} | {"gap": "{:+.2f}"})  # fmt: skip
better_on = int((both.after > both.before).sum())
print(
    f"mean AUROC {both.before.mean():.1f} before, {both.after.mean():.1f} after; better on {better_on} of {len(both)} sets"
)

# %% [markdown]
r"""
**How to read it.** A set that rises was taken for ID before; one that falls pays for the correction. `complexity_only` is the AUROC of $-C$ alone. Where it beats both, complexity tells your OOD from ID, and no flow is needed to find it.

## The detector
The threshold comes from held-out ID images, keeps the share `keep` of them, and stays apart from the model: `fit_threshold` moves it without training.

A flow on pixels sees texture, not content. With `level="both"` a second flow looks at the features of a frozen network and at their nearest ID neighbours, and what the two levels have to say is brought to one scale and added; with `"features"` it looks alone. With `"statistics"` a flow looks at how detail, colour and quantisation belong together, which shows blurred, compressed and resampled pictures, and with thousands of ID images grey ones. It needs no network. It sees how a picture was processed as much as what it is, so ID and test images have to be processed alike. Names joined by `+`, such as `"pixels+statistics"`, join these levels, and `"all"` joins all three.
"""

# %%
again = {"mle_steps": 0, "steps": 0}  # the flow is trained; the other levels are fitted here
chosen = "auto" if P.method == "ccm_gaussian" else P.method  # "auto": what suits each level
second = {"level": P.level, "encoder": P.encoder, "outliers": chosen}
detector = Detector(better, keep=P.keep, seed=P.seed, **again, **second).fit(x_train)
half = len(x_held) // 2
detector.fit_threshold(x_held[:half])
kept = (detector.predict(x_held[half:]) == 1).mean()
print(
    f"gamma = {detector.threshold_.gamma:.4g} nats keeps {kept:.1%} of the other half of the held-out ID images"
)
if folder is not None:
    detector.pictures_ = folder.how_again()  # how to read a path it is given later
detector.save(sheet.folder / "detectors" / "your_own_flow")
loaded = Detector.load(sheet.folder / "detectors" / "your_own_flow")
assert (loaded.ood_score(x_held[:20]) == detector.ood_score(x_held[:20])).all()

# %%
joined = "both" if len(looks) == 2 else "all"
if len(looks) > 1:
    parts = {name: detector.parts(x) for name, x in ({"ID": x_held[half:]} | ood).items()}
    id_parts = parts.pop("ID")
    told = {name: {at: 100 * metrics.auroc(id_parts[at], of[at]) for at in of} for name, of in parts.items()}
    told = pd.DataFrame(told).T.rename(columns={"ood_score": joined})
    about = f"AUROC in percent by set: each level, and {joined}"
    sheet.save_table(told.reset_index(names="set"), "levels", about)
    of_each = ", ".join(f"the flow on {name}" for name in looks)
    figures.show_table(told, f"AUROC in percent: {of_each}, {joined}")

# %%
judged_sets = {"ID": x_held[half:]} | ood
if test is not None:
    by_file = detector.ood_score(test)  # its index holds the names
    rows = [(name, name.split("/")[0] if "/" in name else "test", s) for name, s in by_file.items()]
    rows += [(name, "unreadable", float("nan")) for name in test.unreadable]
else:
    of_sets = {name: detector.ood_score(x) for name, x in judged_sets.items()}
    rows = [(f"{name}/{k}", name, s) for name, found in of_sets.items() for k, s in enumerate(found)]
scored = pd.DataFrame(rows, columns=["image", "set", "ood_score"])

# %%
gamma = detector.threshold_.gamma
scored["verdict"] = ["" if s != s else "OOD" if s >= gamma else "ID" for s in scored.ood_score]
sheet.save_table(scored, "scores", "Every test image: score in nats (higher = more OOD) and verdict")
files = scored[scored.set != "unreadable"]
flagged = (files.verdict == "OOD").groupby(files.set, sort=False).mean() * 100
figures.show_table(flagged.to_frame("flagged [%]"), "Share of each set that the detector flags")

# %% [markdown]
r"""
## Score a picture
Pick one, or upload your own where this page is live: what the detector sees of it, its complexity, and its score (red) among those of held-out ID images (blue) and beside the threshold (dashed).
"""

# %%
id_scores = detector.ood_score(x_held[half:])
top = None if folder is None else folder.how_again()["top"]  # of deep pictures, as ID was read


def read(source, name):
    return inputs.picture(source, size=P.size, top=top, name=name)


def draw_row(left, right, picture, row):
    figures.draw_gallery([left], {row.Index: picture[None]})
    figures.draw_score(right, id_scores, row.ood_score, row.gamma)
    seen = f"{row.verdict}: C = {row.complexity:.2f} bits/dim, score {row.ood_score:.4g}"
    title = f"{seen} (threshold {row.gamma:.4g}), higher than {row.beyond_id:.0%} of ID"
    colour = figures.RED if row.verdict == "OOD" else "black"
    right.set_title(title, fontsize="small", color=colour, loc="left")


# %%
def score_picture(pictures):
    seen = {name: read(source, name) for name, source in pictures.items()}
    rows = detector.explain(seen, id_scores)
    how = {"rows": len(rows), "columns": 2, "width_ratios": (1, 6), "sharex": "col"}
    fig, axes = figures.figure("wide", height=0.75 * len(rows) + 0.5, **how)
    for (left, right), row in zip(axes.reshape(-1, 2), rows.itertuples()):
        draw_row(left, right, seen[row.Index], row)
    score = f"OOD score of the {looks[0]}" if looks != ("pixels",) else r"OOD score $-\log p(\mathbf{x})$"
    score = f"surprise at {joined} levels" if len(looks) > 1 else score
    right.set_xlabel(f"{score} [nats]")
    figures.show_figure(fig)


widgets.pick(score_picture, {name: x[0] for name, x in judged_sets.items()})

# %% [markdown]
r"""
## A page to send on
"""


# %%
def picture_of(name):
    if test is not None:
        return read(test.folder / name, name)
    group, _, k = name.rpartition("/")
    return judged_sets[group][int(k)]


if test is not None:
    batches = ((names, image_complexity(part).tolist()) for names, part in test.named_batches())
    C = {name: c for names, values in batches for name, c in zip(names, values)}
else:
    C = {f"{n}/{k}": c for n, x in judged_sets.items() for k, c in enumerate(image_complexity(x).tolist())}

# %%
unreadable = [] if test is None else [f"{name}: {why}" for name, why in test.unreadable.items()]
files = files.assign(complexity=files.image.map(C))
heat = own_page.heat_of(lambda x: explaining.by_place(detector, x), picture_of, x_held[half:])
judged = own_page.Judged(files, gamma, kept, len(x_train), picture_of, heat, unreadable)
sets = after.frame
if looks != ("pixels",):  # the page speaks of what the detector finds
    sets = explaining.told_by(sets, {name: detector.ood_score(x) for name, x in judged_sets.items()})
frames = {before.label: before.frame, after.label: sets}
stages = {found.label: (found.verdict, found.samples, frames[found.label]) for found in (before, after)}
own_page.write(sheet.folder / "your_bias_report.html", judged, stages, sheet.label)
print(own_page.verdict(judged, sets), own_page.advice(judged, sets), sep="\n")
sheet.finish(verdict_before=before.verdict, verdict_after=after.verdict)
print("also: detectors/your_own_flow and your_bias_report.html")

# %% [markdown]
r"""
## Summary
- A flow's bias is measured inside your data before anything is changed, beside the baseline that needs no flow.
- The correction needs ID data only; whether it helped is a table with intervals, not a promise. Sets that were *more complex* than ID may lose.
- The saved detector is a folder of two files, numbers and text and no code: `Detector.load(folder).predict(images)`. Next: `app_c_mvtec`.
"""
