# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# The scoreboard: claim by claim
**Question.** Which claims of the paper hold on the runs of this profile?  **Answer.** The table below; every verdict is computed, none is typed.
**Makes** the table of claims, the coverage of the printed cells · **reads** the runs and tables of the other notebooks, trains nothing · **time** 10 s
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

# %%
import pandas as pd

from flowood_core.evidence import claims, tables
from flowood_core.runs import grid
from flowood_core.notebook import params, figures

P = params.check(globals(), notebook="05_scoreboard")
sheet = figures.start("05_scoreboard", P)
print(sheet.label)

# %% [markdown]
r"""
## Claims
An effect is signed so that positive is what the paper says. *Holds*: every part has that sign in every seed. *Holds partly*: some part has it on average. *Does not hold*: no part has. *Not run*: nothing of it was measured under this profile. A verdict is about the sign; how large an effect is, and how sure, stands beside it (mean, lowest and highest seed).
"""

# %%
figures.show_source(claims.judge)

# %%
found = claims.evaluate(P.profile)
sheet.save_table(found, "claims", "The paper's claims, one by one, with verdicts computed from runs")
figures.show_table(
    found.drop(columns="claim").set_index("section"), "Claims of the paper and what was measured", "{}"
)
print(found.verdict.value_counts().to_dict())

# %%
counts = found.verdict.value_counts().reindex(["holds", "holds partly", "does not hold", "not run"]).fillna(0)
fig, ax = figures.figure("wide", height=1.6)
figures.draw_counts(ax, counts)
sheet.save_figure(fig, "claims", "Number of claims by verdict")

# %% [markdown]
r"""
## Coverage
How many numbers of ours stand beside the printed cells of each table, and how they compare. A cell can have several, one per reading (Table 4) or encoder (Table 6). A table whose data are not here, or whose notebook has not run, has none.
"""

# %%
rows = []
for name in (f"table_{n}" for n in range(1, 11)):
    path = sheet.folder / "tables" / f"{name}.csv"
    joined = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    verdicts = joined["verdict"].value_counts().to_dict() if "verdict" in joined else {}
    verdicts = {k: v for k, v in verdicts.items() if isinstance(k, str)}
    ran = {k: v for k, v in verdicts.items() if k not in ("not run", "not available here", "paper", "")}
    summary = ", ".join(f"{k} {v}" for k, v in ran.items()) or "not run"
    rows.append((name.replace("_", " ").capitalize(), len(tables.printed(name)), sum(ran.values()), summary))
coverage = pd.DataFrame(rows, columns=["table", "printed", "ours beside them", "verdicts"])
sheet.save_table(coverage, "coverage", "Printed cells, and how many numbers of ours stand beside them")
figures.show_table(coverage.set_index("table"), "Coverage of the printed tables", "{}")

# %%
sheet.finish(runs=list(grid.by_run_id(P.profile)))

# %% [markdown]
r"""
## Summary
- The verdicts are about this profile's runs; what was trained, on what and how long, stands in each notebook.
- Not judged here: claims whose data are not at hand say "not run". Next: a profile closer to the paper, `make reproduce PROFILE=paper`.
"""
