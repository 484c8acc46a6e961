"""Tables 1, 7 and 9: the complexity of sets and corpora beside the printed one, and the bias of flows."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from flowood_core.complexity import text_complexity
from flowood_core.datasets import MissingData, corpora
from flowood_core.evidence import tables
from flowood_core.runs import Run

__all__ = ["ORDER", "bias_panels", "corpus", "order_of_texts", "sides", "synthesized", "table_1_square",
           "table_7", "table_8", "table_9"]  # fmt: skip

ORDER = ("svhn", "cifar10", "isun")  # Table 1's sets, from simple to complex
KINDS = {"pz": "ours, eq. (4)", "px": "ours, −log p(x)", "comp_only": "−C(x), no flow"}


def _near(difference: pd.Series, sd: pd.Series, n: pd.Series) -> pd.Series:
    """Two standard errors of ours and half a unit of the printed digit: the rule of Tables 7 and 8."""
    return difference.abs() <= 2 * sd / np.sqrt(n) + 0.005


def table_7(C: Mapping[str, np.ndarray], missing: Iterable[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Complexity of the printed sets beside the paper's, and of the sets that Table 7 does not have.

    Args:
        C: per set the complexities of its images, bits per dimension.
        missing: sets whose images are not here.
    Returns:
        Columns set, paper_mean, paper_sd, mean, sd, n, difference, verdict; and set, mean, sd, n. Both by rising mean.
    """
    rows = [(name, c.mean(), c.std(ddof=1), len(c)) for name, c in C.items()]
    ours = pd.DataFrame(rows, columns=["set", "mean", "sd", "n"]).sort_values("mean")
    printed = tables.printed("table_7").rename(columns={"mean": "paper_mean", "sd": "paper_sd"})
    joined = printed.merge(ours, on="set", how="left")
    joined["difference"] = joined["mean"] - joined["paper_mean"]
    near = _near(joined["difference"], joined["sd"], joined["n"])
    joined["verdict"] = np.where(near, "reproduced", "not")
    joined.loc[joined["mean"].isna(), "verdict"] = "not run"
    joined.loc[joined["set"].isin(list(missing)), "verdict"] = "not available here"
    return joined, ours[~ours["set"].isin(printed["set"])]


def table_8(measured: pd.DataFrame) -> pd.DataFrame:
    """Complexity of the high-dimensional sets with a verdict, by the rule of Table 7.

    Args:
        measured: columns set, role, pixels, mean, sd, images, paper mean, paper sd; 0 images where there are none.
    Returns:
        The same with a column verdict, empty where nothing is printed for that size.
    """
    near = _near(measured["mean"] - measured["paper mean"], measured["sd"], measured["images"].clip(lower=1))
    judged = measured.assign(verdict=np.where(near, "reproduced", "not"))
    judged.loc[judged["images"] == 0, "verdict"] = "not run"
    judged.loc[judged["paper mean"].isna(), "verdict"] = ""
    return judged


def corpus(file: str) -> list[str] | None:
    """All texts of a prepared file below text/ in the order in which they are stored; None where it is not here."""
    split = next(((n, s) for n, by in corpora.FILES.items() for s, f in by.items() if f == file), None)
    try:
        return list(corpora.load(*split).texts) if split else None
    except MissingData:
        return None


def order_of_texts(named: Mapping[str, Sequence[str]], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """What the order of the texts and a draw of n do to C(X), in bits per byte.

    Returns:
        One row per corpus: texts, C as stored, C shuffled, C of n texts drawn (in the order stored, and as drawn).
    """
    rows = []
    for name, texts in named.items():
        order = np.random.default_rng(seed).permutation(len(texts))
        drawn = order[:n]
        ways = (np.arange(len(texts)), order, np.sort(drawn), drawn)
        rows.append([name, len(texts), *(text_complexity([texts[i] for i in way]) for way in ways)])
    columns = [
        "corpus",
        "texts",
        "as stored",
        "shuffled",
        f"{n:,} drawn, as stored",
        f"{n:,} drawn, shuffled",
    ]
    return pd.DataFrame(rows, columns=columns)


def synthesized(finished: Iterable[Run]) -> tuple[float, int] | None:
    """C(X) of the outliers that a text run trained on, and how many they are; None where no such run is here."""
    for run in finished:
        made = run.metrics.get("outliers")
        if run.spec.id == "imdb" and run.spec.method == "text" and made:
            return float(made["complexity"]["text"]), int(made["length_filter"]["texts"])
    return None


def table_9(named: Mapping[str, Sequence[str] | None], outliers: tuple[float, int] | None) -> pd.DataFrame:
    """Complexity of whole corpora, as stored, beside the printed one.

    Args:
        named: row of Table 9: its texts in the order in which they are stored, None where they are not here.
        outliers: of `synthesized`.
    Returns:
        Columns set, paper, ours, texts, difference, verdict. `reproduced` allows one unit of the last printed digit:
        as much is in the order of the texts.
    """
    found = {name: (text_complexity(texts), len(texts)) for name, texts in named.items() if texts}
    if outliers is not None:
        found["imdb_synthesized"] = outliers
    table = tables.printed("table_9")
    table["ours"] = [found.get(name, (np.nan,))[0] for name in table["set"]]
    table["texts"] = [found.get(name, (0, np.nan))[1] for name in table["set"]]
    table["difference"] = table["ours"] - table["paper"]
    table["verdict"] = np.where(table["difference"].abs() <= 0.015, "reproduced", "not")
    table.loc[table["ours"].isna(), "verdict"] = "not run"
    table.loc[table["set"].isin([n for n, t in named.items() if not t]), "verdict"] = "not available here"
    return table


def table_1_square(ours: pd.DataFrame, mean_C: Mapping[str, float]) -> pd.DataFrame:
    """Table 1 as it is printed, ID in rows and OOD in columns, both from simple to complex; ours below, by score.

    Args:
        ours: of `tables.over_seeds`, AUROC only: columns id, ood, score, value, low, high.
        mean_C: per set its mean complexity, which orders what the paper does not have.
    Returns:
        Text cells by (score, id); "–" on the diagonal, "not run" where the paper has a number and we have none.
    """
    printed = tables.printed("table_1").rename(columns={"paper": "value"})
    theirs = set(printed["id"]) <= set(ours["ood"]) | set(ours["id"])
    base = {name: k for k, name in enumerate(ORDER)} if theirs else {}
    names = sorted({*base, *ours["id"]}, key=lambda name: (base.get(name, 9), mean_C.get(name, 0)))
    blocks = [("paper, eq. (4)", printed.assign(low=np.nan, high=np.nan))] if theirs else []
    blocks += [(label, ours[ours["score"] == kind]) for kind, label in KINDS.items()]
    return pd.concat({label: _square(cells, names) for label, cells in blocks}, names=["score"])


def _square(cells: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    cells = cells[cells["ood"].isin(names) & cells["id"].isin(names)]
    table = tables.wide(cells, ["id"], ["ood"]).reindex(index=names, columns=names).fillna("not run")
    for name in names:
        table.loc[name, name] = "–"
    return table


def bias_panels(ours: pd.DataFrame, mean_C: Mapping[str, float]) -> dict[str, pd.DataFrame]:
    """What Table 1 looks like over the gap in complexity: the paper's numbers over its Table 7, then ours by score.

    Returns:
        By title: id, ood, gap (mean C of OOD minus that of ID, bits per dimension), value, low, high.
    """
    C_7 = tables.printed("table_7").set_index("set")["mean"]
    paper = tables.printed("table_1").rename(columns={"paper": "value"}).assign(low=np.nan, high=np.nan)
    blocks = {"the paper's Table 1 over its Table 7": (paper, C_7)}
    titles = {
        "pz": r"ours, $-\log p_{\mathcal{Z}}(\mathbf{z})$, eq. (4)",
        "px": r"ours, $-\log p_{\mathcal{X}}(\mathbf{x})$",
    }
    blocks |= {t: (of, mean_C) for kind, t in titles.items() if len(of := ours[ours["score"] == kind])}
    return {
        title: cells.assign(gap=[C[o] - C[i] for i, o in zip(cells["id"], cells["ood"], strict=True)])
        for title, (cells, C) in blocks.items()
    }


def sides(panels: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The two statements of the bias, by panel: is more complex OOD found better, and simpler OOD worse than by chance?

    Returns:
        Columns panel, sets ("the paper's" three, or "all" at hand where there are more), simpler_low, simpler_high,
        harder_low, harder_high (AUROC, percent), n_simpler, below_chance: how many with the whole interval.
    """
    rows = []
    for panel, cells in panels.items():
        own = cells[cells["id"].isin(ORDER) & cells["ood"].isin(ORDER)]
        blocks = {"the paper's": own, "all": cells} if len(own) < len(cells) else {"the paper's": own}
        rows += [[panel, sets, *_sides(of)] for sets, of in blocks.items() if len(of)]
    columns = ["simpler_low", "simpler_high", "harder_low", "harder_high", "n_simpler", "below_chance"]
    return pd.DataFrame(rows, columns=["panel", "sets", *columns])


def _sides(cells: pd.DataFrame) -> tuple[float, float, float, float, int, int]:
    simpler, harder = (cells[cells["gap"] * side > 0] for side in (-1, 1))
    ends = [v for of in (simpler, harder) for v in of["value"].astype(float).agg(["min", "max"])]
    surely = simpler["high"].astype(float).fillna(simpler["value"].astype(float)) < 50
    return *ends, len(simpler), int(surely.sum())
