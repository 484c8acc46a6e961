"""The first page: the claim, the figure that shows it, numbers beside the paper's, a card for each notebook."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowood_core import datasets
from flowood_core.evidence import tables
from flowood_core.notebook import pages
from flowood_core.runs import Run, Spec, grid, status
from flowood_core.system import paths, profiles

__all__ = ["FIGURE", "TITLE", "claims_listed", "first_pair", "front", "label", "runs_section"]

TITLE = "Normalizing flows can call simple images likely. Synthetic outliers cure part of it."
CLAIM = (
    "A flow trained on photographs can give simpler images, such as pictures of digits, a higher likelihood than "
    "photographs it has not seen, and so miss them as out-of-distribution (OOD). Trained to give low likelihood also "
    "to <em>outliers made from its own training images</em> (cut, mixed, blurred), it tells more of them apart, "
    "without having seen any OOD image."
)
HOW_TO_READ = (
    "How likely each set is to a flow trained on {id} (first row; the dashed line is its median). "
    "First, maximum likelihood: sets to the right of the line are <em>more</em> likely than the images the flow was "
    "trained on. Then the same flow trained with synthetic outliers."
)
FIGURE, NARROW = "start_bias_and_cure.png", "start_bias_and_cure_narrow.png"
WORDS = {
    "holds": "yes",
    "holds partly": "partly",
    "does not hold": "no",
    "cannot tell": "open",
    "other setting": "open",
    "not run": "open",
}  # verdict: colour
METHODS = {"mle": "maximum likelihood", "ccm_gaussian": "with outliers"}
START = "00_start_here"


def label(profile: str) -> str:
    """What the numbers of a profile are worth, in a sentence or two."""
    return {
        "smoke": "Smoke profile: a test of the machinery; no number means anything.",
        "quick": "Quick profile: images embedded in installed packages, minutes on a CPU. It shows the bias and its "
        "cure on real photographs; its numbers are not comparable with the paper's.",
        "sample": "Sample profile: subsets of the paper's data, 12 epochs instead of 500. The sign of an effect can "
        "be compared with the paper's, its size cannot.",
    }.get(profile, "The paper's data and settings.")


def first_pair(profile: str) -> list[Spec]:
    """The two runs of the first figure: maximum likelihood, and corrected with CCM+Gaussian."""
    id_ = profiles.preset(profile).get(START, {}).get("id")
    found = [s for t in ("table_2", "table_3") if t in grid.tables(profile) for s in grid.rows(profile, t)]
    seed = min((s.seed for s in found if s.id == id_), default=0)
    return [s for m in METHODS for s in found if (s.id, s.method, s.seed) == (id_, m, seed)]


def front(profile: str, cards: Sequence[str], everything: str, manifests: Sequence[Mapping[str, Any]]) -> str:
    """The body of the first page.

    Args:
        cards: HTML of one card per notebook.
        everything: HTML of all figures and tables, by notebook.
        manifests: what the executed notebooks left.
    """
    return "\n".join(
        [
            f'<h1>{TITLE}</h1><p class="claim">{CLAIM}</p>',
            _figure(profile),
            _headline(profile),
            f'<h2 id="notebooks">The notebooks</h2><ul class="cards">{"".join(cards)}</ul>',
            claims_listed(profile, manifests),
            f'<h2 id="everything">Every figure and table</h2>{everything}' if everything else "",
            runs_section(profile),
            _provenance(manifests),
        ]
    )


def _figure(profile: str) -> str:
    if not (paths.profile_dir(profile) / "figures" / FIGURE).is_file():
        return '<p class="note">The first figure comes when its two flows are trained.</p>'
    id_ = profiles.preset(profile).get(START, {}).get("id", "")
    said = HOW_TO_READ.format(id=html.escape(datasets.LABELS.get(id_, id_)))
    alt = "box plots of the log-likelihood of every set, before and after the correction"
    narrow = f"files/{NARROW}" if (paths.profile_dir(profile) / "site" / "files" / NARROW).is_file() else None
    return f"<figure>{pages.picture(f'files/{FIGURE}', narrow, alt)}<figcaption>{said}</figcaption></figure>"


# --- the numbers -------------------------------------------------------------------------------------------


def _headline(profile: str) -> str:
    here, paper = _ours(profile), _papers()
    if here is None:
        return ""
    id_ = profiles.preset(profile)[START]["id"]
    name = html.escape(datasets.LABELS.get(id_, id_))
    return (
        '<h2 id="numbers">The numbers</h2><p>How well the flow tells a set from its training set: AUROC in percent '
        "by the paper's score, eq. (4). 100 is perfect, 50 is chance, and below 50 it takes the set for its own.</p>"
        f'<p class="label">{html.escape(label(profile))}</p><div class="sides">'
        f"{pages.shown_table(here, f'Here, trained on {name}')}"
        f"{pages.shown_table(paper, 'The paper, Table 2, trained on CIFAR-10')}</div>"
    )


def _ours(profile: str) -> pd.DataFrame | None:
    """Per OOD set the mean AUROC over seeds of both methods, and of complexity alone; None before there is any."""
    pair = first_pair(profile)
    if not pair:
        return None
    found = [r for s in _seeds(profile, pair) if (r := Run.read(s)) is not None]
    by_method = {m: [r for r in found if r.spec.method == m] for m in METHODS}
    if not all(by_method.values()):
        return None
    shown = profiles.preset(profile)[START].get("ood") or list(pair[0].ood)
    rows = []
    for ood in [o for o in shown if all(o in r.metrics["ood"] for r in found)]:
        values = [_cell([r.auroc(ood, "pz") for r in by_method[m]]) for m in METHODS]
        alone = f"{by_method['mle'][0].auroc(ood, 'comp_only'):.1f}"
        rows.append([datasets.LABELS.get(ood, ood), *values, alone])
    return pd.DataFrame(rows, columns=["OOD set", *METHODS.values(), "complexity alone"])


def _seeds(profile: str, pair: Sequence[Spec]) -> list[Spec]:
    return [
        s
        for s in grid.rows(profile, "table_2")
        if s.id == pair[0].id and s.method in METHODS and s.model_copy(update={"seed": 0}) in _at_zero(pair)
    ]


def _at_zero(pair: Sequence[Spec]) -> list[Spec]:
    return [s.model_copy(update={"seed": 0}) for s in pair]


def _cell(values: Sequence[float]) -> str:
    spread = f" ({min(values):.0f}–{max(values):.0f})" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def _papers() -> pd.DataFrame:
    """The paper's rows of Table 2 for the same two methods."""
    found = tables.printed("table_2").query("id == 'cifar10' and score == 'nll' and metric == 'auroc'")
    cells = found[found.method.isin(METHODS)].pivot(index="ood", columns="method", values="paper")
    cells = cells.loc[list(dict.fromkeys(found.ood)), list(METHODS)].rename(columns=METHODS)
    cells.index = [datasets.LABELS.get(o, o) for o in cells.index]
    cells.columns.name = None
    return cells.map("{:.1f}".format).reset_index(names="OOD set")


# --- the claims --------------------------------------------------------------------------------------------


def claims_listed(profile: str, manifests: Sequence[Mapping[str, Any]]) -> str:
    """Every claim with its verdict, folded: those of notebook 05 where it has run, else nothing yet."""
    table = paths.profile_dir(profile) / "tables" / "claims.csv"
    if not table.is_file():
        return ""
    found = pd.read_csv(table, keep_default_na=False)
    counts = found["verdict"].value_counts()
    summary = " ".join(f"{_verdict(word)} {counts[word]}" for word in dict.fromkeys(found["verdict"]))
    rows = "".join(
        f"<li><p>{_verdict(c.verdict)}</p><div><p>{html.escape(c.sentence)}</p>"
        f"<p>{_source(c.section, manifests)}{html.escape(_effect(c))}</p></div></li>"
        for c in found.itertuples()
    )
    return (
        '<h2 id="claims">The paper’s claims</h2><p>Claim by claim, judged by what the runs of this profile measured. '
        f"Every verdict is computed, none is typed: {summary}.</p>"
        f'<details><summary>All {len(found)} claims with their effects</summary><ul class="claims">{rows}</ul>'
        '<p class="note">Effects are signed: positive is what the paper says. The notebook 05 says how a verdict '
        "is reached.</p></details>"
    )


def _verdict(word: str) -> str:
    return f'<span class="verdict {WORDS.get(word.split(":")[0], "open")}">{html.escape(word)}</span>'


def _effect(claim: Any) -> str:
    return f" · {claim.effect} [{claim.unit}]" if claim.effect else ""


def _source(section: str, manifests: Sequence[Mapping[str, Any]]) -> str:
    """Where the paper says it, as a link to the notebook that made that table or figure, if one did."""
    named = re.search(r"(Table|Fig)\D* (\d+)", section)
    stem = f"{named[1].lower()}_{named[2]}" if named else None
    home = next((m["notebook"] for m in manifests if stem in {Path(a).stem for a in m["artefacts"]}), None)
    return f'<a href="{home}.html">{html.escape(section)}</a>' if home else html.escape(section)


# --- runs and where they come from ---------------------------------------------------------------------------


def runs_section(profile: str, is_open: bool = False) -> str:
    """Where every run stands, as `make status` prints it."""
    return (
        f'<h2 id="runs">Runs</h2><details{" open" if is_open else ""}><summary>Every training of this profile</summary>'
        f"<pre>{html.escape(status.describe(profile))}</pre></details>"
    )


def _provenance(manifests: Sequence[Mapping[str, Any]]) -> str:
    made = next((m["provenance"] for m in manifests if m.get("provenance")), {})
    machine = made.get("machine", {})
    facts = [
        f"commit {str(made.get('commit'))[:10]}{' (with local changes)' if made.get('dirty') else ''}"
        if made.get("commit")
        else "",
        f"Python {made['python']}" if made.get("python") else "",
        *[f"{k} {v}" for k, v in made.get("packages", {}).items()],
        f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('gpu') or 'no GPU'}"
        if machine
        else "",
        f"notebooks took {sum(m['seconds'] for m in manifests):.0f} s" if manifests else "",
    ]  # fmt: skip
    return f'<p class="note">{html.escape(" · ".join(f for f in facts if f))}</p>'
