# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# One row of the grid

**What it does.** It trains one flow and scores its test sets. A row is one training of a profile's grid; the notebooks of the tables collect what it left.
**Makes** a run folder: `metrics.json`, `history.csv`, `scores.npz`, `model.safetensors` · **reads** the images, or texts, of the row: embedded ones, or those prepared by `make data`
**Run it** with papermill, by the id of a row (`-r run_id photo-mle-s0-…`) or by its fields (`-r id photo -r method ccm_gaussian -p seed 1`). A run that is done is read, and a killed one continues from its checkpoint.
**Time** 40 s in the quick profile on one core · hours for a row of the paper on a GPU. **Next:** `03_1_benchmark_images`.
"""

# %% tags=["bootstrap"]
import importlib.util

from IPython import get_ipython

REPO, REF = "https://github.com/OWNER/REPO", "main"  # stamped by `make badges` from the git remote
if importlib.util.find_spec("flowood_core") is None:
    get_ipython().run_line_magic("pip", f"install -q 'flowood-core @ git+{REPO}@{REF}'")
import flowood_core  # noqa: F401  fails here, and clearly, if the line above could not install it

# %% tags=["parameters"]
profile: str = "quick"
run_id: str = ""  # a row of the profile's grid by id; empty: made from the fields below
id: str = "photo"  # in-distribution set
method: str = "ccm_gaussian"  # mle, ro, gaussian, ccm or ccm_gaussian
seed: int = 0
fields: dict = {}  # further fields of the run, such as {"blur_radius": 2.0}

# %%
from flowood_core.runs import grid
from flowood_core.notebook import params, figures
from flowood_core import runs

P = params.check(globals(), notebook="train_one")
figures.use_style()
rows = grid.by_run_id(P.profile)
if P.run_id and P.run_id not in rows:
    raise params.ParameterError(
        f"expected a run of profile {P.profile}, got {P.run_id!r}; it has: {', '.join(rows)}"
    )
spec = rows[P.run_id] if P.run_id else grid.spec(P.profile, P.id, method=P.method, seed=P.seed, **P.fields)
spec

# %%
run = runs.run_or_load(spec)
print(
    f"{spec.run_id}: {run.metrics['seconds']['training']:.0f} s of training, {run.metrics['id']['bpd']:.2f} bits/dim on ID test"
)

# %% [markdown]
r"""
Training, as bits per dimension of the ID samples in each batch, and the two log-likelihoods that eq. (2) and (3) pull apart.
"""

# %%
h = run.history
fig, (left, right) = figures.figure("wide", columns=2)
left.plot(h["step"], h["bpd_id"], color=figures.colour_of(spec.method))
left.set(xlabel="step", ylabel="ID bits per dimension")
right.plot(h["step"], h["log_px_id"], color=figures.colour_of(spec.id), label="ID batch")
if spec.method != "mle":  # maximum likelihood has neither outliers nor a threshold
    right.plot(h["step"], h["log_px_out"], color="0.4", label="outliers of the batch")
    right.axhline(spec.tau, color="0.4", lw=0.8, ls="--", label=rf"threshold $\tau$ of eq. (3): {spec.tau:g}")
right.set(xlabel="step", ylabel=r"$\log p_{\mathcal{X}}$ [nats]")
right.legend()
fig

# %%
from flowood_core.evidence import tables
from flowood_core.notebook.labels import labelled

frame = tables.collect([run]).query("metric == 'auroc'")
about = f"AUROC in percent, 95 % interval over test draws of this one run, {spec.run_id}"
figures.show_table(labelled(tables.wide(frame, ["ood"], ["score"])), about)
