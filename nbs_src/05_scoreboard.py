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
**Question.** Which claims of the paper hold on the runs of this profile?  **Answer.** In profile `sample` a fifth of them. What holds is that blur and the text outliers simplify, that a complexity term helps on SVHN, and that synthetic outliers match real ones on some sets. Table 7 comes out, but for the reduced copies of CelebA. Of what outliers do to the flow and its scores, most holds for some sets only, or three seeds cannot tell. `FINDINGS.md` says it in sentences.
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
from flowood_core.evidence.verdicts import judge
from flowood_core.runs import grid
from flowood_core.notebook import params, figures

P = params.check(globals(), notebook="05_scoreboard")
sheet = figures.start("05_scoreboard", P)
print(sheet.label)

# %% [markdown]
r"""
## Claims
An effect is signed so that positive is what the paper says, and has a 95 % interval over seeds and test draws. A part of a claim *holds* where the interval lies above zero, is *against* it where it lies below, and is open else. A claim *holds* where all its parts do; where the paper says "some" or "certain", one part is enough. What counts are the sets that the paper prints, in the quantity it uses. Profile `sample` has CelebA in reduced copies; it counts as the paper's set. Our own sets, and $\log p_{\mathcal X}$ where the paper shows $\log p_{\mathcal Z}$, are counted apart. Another backbone or encoder than the paper's gives no verdict. An effect without an interval is a fact about data, judged by its sign; with one seed the interval holds test draws alone. The column *wording* says whether a claim stands in the paper's words or in ours.
"""

# %%
figures.show_source(judge)

# %%
measured = claims.effects(P.profile)
found = claims.evaluate(P.profile, measured)
sheet.save_table(found, "claims", "The paper's claims, one by one, with verdicts computed from runs")
shown = found[["section", "sentence", "wording", "verdict", "parts", "best", "worst", "seeds", "unit"]]
figures.show_table(shown.set_index("section"), "Claims of the paper and what was measured", "{}")
print(found.verdict.value_counts().to_dict())

# %% [markdown]
r"""
The parts of each claim, counted. Left of the line stand those against the claim; right of it those that hold, then in grey those whose interval holds zero. Claims measured with another backbone or encoder are named so: their bars give no verdict on the paper.
"""

# %%
parts = claims.frame(measured)
sheet.save_table(parts, "claim_parts", "Every part of every claim with its effect, interval and sign")
counted = parts[parts.apart == ""]
fig, ax = figures.figure("wide", height=0.8 + 0.3 * counted.claim.nunique())
named = found.merge(claims.printed()[["claim", "title"]])
titles = named.section + ": " + named.title + ("; " + named.setting).str.rstrip("; ")
titles = dict(zip(named.claim, titles))
figures.draw_signs(ax, counted.assign(row=counted.claim.map(titles)), row="row", sign="sign")
sheet.save_figure(fig, "claims", "Parts of each claim: against, open, holding")

# %% [markdown]
r"""
## Coverage
How many numbers of ours stand beside the printed cells of each table, and how they compare. A cell can have several, one per reading (Table 4) or encoder (Table 6). A table whose data are not here, or whose notebook has not run, has none. Tables 1 to 3 use the four words of `03_1_benchmark_images`, Table 4 those of `03_1_lipschitz`. In Tables 7 to 9 ours *agrees* if it lies in the tolerance of that table's notebook, and *differs* else.
"""

# %%
rows = []
for name in (f"table_{n}" for n in range(1, 11)):
    path = sheet.folder / "tables" / f"{name}.csv"
    joined = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    verdicts = joined["verdict"].value_counts().to_dict() if "verdict" in joined else {}
    ran = {k: v for k, v in verdicts.items() if k not in ("not run", "not available here", "paper", "")}
    ran = {{"reproduced": "agrees", "not": "differs"}.get(k, k): v for k, v in ran.items()}
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
