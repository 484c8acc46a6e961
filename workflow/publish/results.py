"""The README's result table, made from the runs that are committed: nobody types a number.

python -m workflow.publish.results            writes it between the markers of README.md
python -m workflow.publish.results --check    says whether README.md is what the runs say
"""

import sys
from collections.abc import Sequence

import pandas as pd

from flowood_core import datasets, runs
from flowood_core.evidence import claims, tables
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import grid
from flowood_core.system import paths

__all__ = ["block", "claims_markdown", "finished", "markdown", "updated"]

BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
MOST = 3  # parts of an effect shown in README
SCORES = {"nll": "pz", "comp": "pz_comp"}


def finished(profile: str, table: str, id_: str) -> list[runs.Run]:
    """The runs of a table that are there; none is trained."""
    if table not in grid.tables(profile):
        return []
    found = []
    for spec in grid.rows(profile, table):
        if spec.id == id_ and (spec.folder / "metrics.json").is_file():
            found.append(runs.run_or_load(spec, train_missing=False))
    return found


def markdown(profile: str, id_: str) -> str:
    """Table 2, for iSUN as ID Table 3: AUROC of the paper and ours, beside the complexity-only row and our variants.

    Returns:
        A Markdown table with a sentence on what was run, or a sentence that nothing was.
    """
    table = "table_3" if id_ == "isun" else "table_2"
    paper_rows, ours = finished(profile, table, id_), finished(profile, "beyond_flowood", id_)
    label = datasets.LABELS.get(id_, id_)
    if not paper_rows:
        return f"*{label} as ID, profile {profile}: not run.*"
    values = _auroc(paper_rows)
    variants = _auroc(ours) if ours else pd.DataFrame()
    printed = tables.printed(table).query("id == @id_ and metric == 'auroc'")
    printed = printed.set_index(["method", "score", "ood"])["paper"]
    both = [name for name in paper_rows[0].spec.ood if name in printed.index.get_level_values("ood")]
    only_ours = [name for name in paper_rows[0].spec.ood if name not in both]

    heads = [datasets.LABELS[n] for n in both for _ in (0, 1)] + [datasets.LABELS[n] for n in only_ours]
    kinds = ["paper", "ours"] * len(both) + ["ours"] * len(only_ours)
    lines = [_line("", *[f"{h}, {k}" for h, k in zip(heads, kinds, strict=True)])]
    lines.append("|---|" + "--:|" * len(heads))
    for score, suffix in (("nll", ""), ("comp", "+Complexity")):
        for method, name in METHOD_LABELS.items():
            cells = []
            for ood in both:
                cells += [f"{printed[method, score, ood]:.1f}", _cell(values, method, SCORES[score], ood)]
            cells += [_cell(values, method, SCORES[score], ood) for ood in only_ours]
            lines.append(_line(name + suffix, *cells))
    alone = [["–", _cell(values, "mle", "comp_only", ood)] for ood in both]
    alone = [c for pair in alone for c in pair] + [_cell(values, "mle", "comp_only", o) for o in only_ours]
    lines.append(_line("*complexity alone, no flow*", *alone))
    if len(variants):
        method = ours[0].spec.method
        for score, title in (("pz", "**flowood**"), ("pz_comp", "**flowood**+Complexity")):
            cells = [c for ood in both for c in ("–", _cell(variants, method, score, ood))]
            lines.append(_line(title, *cells, *[_cell(variants, method, score, o) for o in only_ours]))
    return "\n".join([f"**{label} as ID, AUROC in percent.** {_how(paper_rows, ours)}", "", *lines])


def block(profile: str = "sample", ids: Sequence[str] = ("cifar10", "cifar100", "isun")) -> str:
    """What stands between the markers of README.md."""
    rule = (
        "*Holds*: every part has the claimed sign in every seed; *holds partly*: some part has it on average; in "
        "brackets the lowest and highest seed. All parts stand in the notebook `05_scoreboard`."
    )
    tables_ = [markdown(profile, id_) for id_ in ids]
    return "\n\n".join([BEGIN, *tables_, claims_markdown(profile), rule, END])


def claims_markdown(profile: str) -> str:
    """The paper's claims with our verdicts, those that were tested; the rest in one sentence."""
    found = claims.evaluate(profile)
    done = found[found.verdict != "not run"]
    if not len(done):
        return f"*No claim was tested under profile {profile}.*"
    lines = [
        _line("claim of the paper", "where", "verdict", "effect, positive = as claimed"),
        "|---|---|---|---|",
    ]
    for row in done.itertuples():
        parts = row.effect.split("; ")
        effect = "; ".join(parts[:MOST]) + (f"; … ({len(parts)} parts)" if len(parts) > MOST else "")
        lines.append(_line(row.sentence, row.section, f"**{row.verdict}**", f"{effect} [{row.unit}]"))
    rest = found[found.verdict == "not run"]["section"]
    if len(rest):
        lines += ["", f"Not run yet under profile {profile}: the claims of {'; '.join(dict.fromkeys(rest))}."]
    return "\n".join(lines)


def updated(readme: str, new: str) -> str:
    """The page with its block replaced.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"expected README.md to hold {BEGIN!r} and {END!r} once each; put them back")
    return readme[: readme.index(BEGIN)] + new + readme[readme.index(END) + len(END) :]


def main(arguments: Sequence[str]) -> int:
    path = paths.repo_root() / "README.md"
    text = path.read_text(encoding="utf-8")
    new = updated(text, block())
    if "--check" in arguments:
        print("README.md is what the runs say" if new == text else "README.md is stale: make readme")
        return int(new != text)
    path.write_text(new, encoding="utf-8")
    print(f"{path.name}: result table written from the runs below {paths.outputs_root().name}/")
    return 0


def _auroc(of: list[runs.Run]) -> pd.DataFrame:
    long = tables.collect(of).query("metric == 'auroc'")
    return long.groupby(["method", "score", "ood"], sort=False)["value"].agg(["mean", "min", "max", "size"])


def _cell(values: pd.DataFrame, method: str, score: str, ood: str) -> str:
    if (method, score, ood) not in values.index:
        return "not run"
    row = values.loc[(method, score, ood)]
    if row["size"] == 1 or round(row["min"], 1) == round(row["max"], 1):
        return f"{row['mean']:.1f}"
    return f"{row['mean']:.1f} [{row['min']:.1f}, {row['max']:.1f}]"


def _how(paper_rows: list[runs.Run], ours: list[runs.Run]) -> str:
    first = paper_rows[0]
    n_seeds = sorted(
        {sum(r.spec.method == m for r in paper_rows) for m in {r.spec.method for r in paper_rows}}
    )
    trained = next(d["n"] for d in first.metrics["data"] if d["split"] == "train")
    tests = {name: by["pz"]["n_ood"] for name, by in first.metrics["ood"].items()}
    n_tests = f"{min(tests.values()):,}" if len(set(tests.values())) == 1 else "up to 1,000"
    machine = first.metrics["provenance"]["machine"]
    minutes = sum(r.metrics["seconds"]["training"] for r in paper_rows) / len(paper_rows) / 60
    hardware = f"a {machine['gpu']}" if machine["gpu"] else f"one core of {machine['processor']}"
    text = (
        f"Profile {first.spec.profile}: {trained:,} training images, {first.spec.epochs:g} epochs "
        f"(the paper: {'50,000 and 500' if first.spec.id.startswith('cifar') else '500 epochs'}), "
        f"{n_tests} test images per set, {' to '.join(map(str, n_seeds))} seeds, {_minutes(minutes)} a run on "
        f"{hardware}. In brackets the lowest and "
        "the highest seed; intervals over test draws and over seeds stand in the notebook. Score: eq. (4) and (5)."
    )
    pools = [datasets.LABELS.get(n, n) for r in paper_rows if r.spec.method == "ro" for n in r.spec.ro_pool]
    if pools:
        text += f" The real outliers of row RO are training images of {' and '.join(dict.fromkeys(pools))}."
    if ours:
        o = ours[0]
        text += (
            f" flowood: squeezed flow, {o.metrics['n_parameters']:,} parameters instead of "
            f"{first.metrics['n_parameters']:,}, outliers of `ccm_simplify`, same objective and score, a "
            "recipe chosen among half a dozen by its AUROC on SVHN and iSUN with CIFAR-10 as ID."
        )
    return text


def _minutes(minutes: float) -> str:
    return f"{minutes:.0f} minute{'s' * (round(minutes) != 1)}"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
