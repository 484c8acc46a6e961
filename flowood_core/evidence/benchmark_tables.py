"""Tables 2 and 3, Figs 3 and 4: what outliers move, beside the paper, and what they cost ID data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from flowood_core import metrics
from flowood_core.evidence import tables
from flowood_core.notebook.labels import labelled, text_of
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import Kind, Run, over_epochs

__all__ = ["BASE", "CELL", "OURS", "alone_beside_printed", "beside_paper", "better", "bias", "deciding",
           "epochs", "gains", "id_cost", "marks", "pairs", "parts", "sets_of_fig_3", "simpler"]  # fmt: skip

CELL = ["id", "method", "score", "ood", "metric"]
BASE, OURS = "mle", "ccm_gaussian"
TITLES = {BASE: "without outliers", OURS: "with outliers (CCM+Gaussian)"}
QUANTITIES = ("log_pz", "log_px")
ALL, SIMPLER = "all sets", "ID and the simpler sets"
METRICS = {"auroc": "AUROC", "fpr95": "FPR95 (lower is better)"}


# --- the deciding table ------------------------------------------------------------------------------------


def gains(collected: pd.DataFrame) -> pd.DataFrame:
    """AUROC without and with outliers and their paired difference, by eq. (4) and by the full density.

    Args:
        collected: from `tables.collect`.
    Returns:
        One row per id, ood and score (pz, px): mle, mle_low, mle_high, the same of ccm_gaussian, and gain, low, high
        (percent points, 95 % over seeds and test draws, the same images for both), n_seeds.
    """
    is_asked = (collected["metric"] == "auroc") & collected["score"].isin(["pz", "px"])
    of = collected[is_asked & collected["method"].isin([BASE, OURS])]
    keys = ["id", "ood", "score"]
    found = tables.over_base(of, keys).rename(columns={"value": "gain"})
    found = found[[*keys, "gain", "low", "high", "n_seeds"]]
    levels = tables.over_seeds(of, [*keys, "method"])
    for method in (OURS, BASE):
        level = levels[levels["method"] == method]
        names = {"value": method, "low": f"{method}_low", "high": f"{method}_high"}
        found = level[[*keys, *names]].rename(columns=names).merge(found, on=keys)
    return found


def deciding(found: pd.DataFrame) -> pd.DataFrame:
    """`gains` for reading: one row per ID and OOD set; below each score MLE, CCM+Gaussian and the gain."""
    columns = {}
    for score, part in found.map(text_of).groupby("score", sort=False):
        part = part.set_index(["id", "ood"])
        for method in (BASE, OURS):
            of = part[[method, f"{method}_low", f"{method}_high"]]
            columns[score, METHOD_LABELS[method]] = of.apply(_percent, axis=1)
        columns[score, "gain"] = part[["gain", "low", "high"]].apply(_signed, axis=1)
    return pd.DataFrame(columns).rename_axis(["ID", "OOD"])


def better(found: pd.DataFrame) -> pd.DataFrame:
    """Which cells of `deciding` are the better of their two trainings; a gain is where its interval is above zero."""
    columns = {}
    for score, part in found.map(text_of).groupby("score", sort=False):
        part = part.set_index(["id", "ood"])
        columns[score, METHOD_LABELS[BASE]] = part["gain"] <= 0
        columns[score, METHOD_LABELS[OURS]] = part["gain"] >= 0
        columns[score, "gain"] = part["low"] > 0
    return pd.DataFrame(columns).rename_axis(["ID", "OOD"])


def _percent(cells: pd.Series) -> str:
    value, low, high = cells
    return f"{value:.1f} [{low:.0f}, {high:.0f}]"


def _signed(cells: pd.Series) -> str:
    value, low, high = cells
    return f"{value:+.1f} [{low:+.0f}, {high:+.0f}]"


# --- beside the paper --------------------------------------------------------------------------------------


def beside_paper(name: str, ours: pd.DataFrame, absent: Mapping[str, str]) -> pd.DataFrame:
    """A printed table joined with our means: `pz` is the paper's score, eq. (5) on it its "+Complexity".

    Args:
        name: "table_2" or "table_3".
        ours: from `tables.over_seeds` by `CELL`.
        absent: from `tables.absent`.
    """
    as_printed = ours.replace({"score": {"pz": "nll", "pz_comp": "comp"}, "metric": {"fpr95_id95": "fpr95"}})
    return tables.paper_vs_ours(tables.printed(name), as_printed, CELL, absent=absent)


def parts(joined: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The joined table by ID set and metric, as (what it is, table for reading); a part nobody ran is left out."""
    shown = labelled(joined.replace({"score": {"nll": "", "comp": "+Complexity"}}))
    for (id_, metric), part in shown.groupby(["id", "metric"], sort=False):
        if not (part["verdict"] == "not run").all():
            about = f"ID = {id_}: {METRICS.get(metric, metric)} in percent"
            yield about, tables.beside(part, ["score", "method"], "ood")


def alone_beside_printed(ours: pd.DataFrame) -> pd.DataFrame:
    """-C(x) without a flow beside the five "+Complexity" rows of the paper, AUROC in percent.

    Returns:
        Columns id, ood, alone, lowest, highest (of the printed rows); no rows where none of the paper's sets was run.
    """
    alone = ours.query("score == 'comp_only' and metric == 'auroc' and method == @BASE")
    both = pd.concat([tables.printed("table_2"), tables.printed("table_3")])
    rivals = both.query("metric == 'auroc' and score == 'comp'")
    ends = rivals.groupby(["id", "ood"])["paper"].agg(lowest="min", highest="max").reset_index()
    return alone[["id", "ood", "value"]].rename(columns={"value": "alone"}).merge(ends, on=["id", "ood"])


# --- Figs 3 and 4 ------------------------------------------------------------------------------------------


def pairs(finished: Iterable[Run]) -> dict[str, dict[str, Run]]:
    """By ID set, its run without and its run with outliers, of the first seed that has both."""
    runs = {(r.spec.id, r.spec.method, r.spec.seed): r for r in finished}
    found: dict[str, dict[str, Run]] = {}
    for id_, method, seed in sorted(runs, key=lambda key: key[2]):
        if method == BASE and (id_, OURS, seed) in runs and id_ not in found:
            found[id_] = {TITLES[m]: runs[id_, m, seed] for m in (BASE, OURS)}
    order = dict.fromkeys(id_ for id_, _, _ in runs)
    return {id_: found[id_] for id_ in order if id_ in found}


def sets_of_fig_3(pair: Mapping[str, Run], wanted: Sequence[str], others: Sequence[str]) -> list[str]:
    """The ID set and as many OOD sets as are wanted; one that is the ID set itself gives way to another ID set."""
    run = next(iter(pair.values()))
    usable = [n for n in dict.fromkeys([*wanted, *others]) if n in run.arrays and n != run.spec.id]
    return [run.spec.id, *usable[: len(wanted)]]


def simpler(pair: Mapping[str, Run], sets: Sequence[str]) -> list[str]:
    """The ID set, which is the first, and the sets simpler than it in the mean; empty where that is all or ID alone."""
    run = next(iter(pair.values()))
    found = [sets[0], *(name for name in sets[1:] if run.complexity_gap(name) < 0)]
    return found if 1 < len(found) < len(sets) else []


def bias(pair: Mapping[str, Run], sets: Sequence[str]) -> pd.DataFrame:
    """Slope and correlations of log-likelihood on C(x), over all test images of all sets and of the simpler ones.

    Returns:
        Columns id, sets, training, quantity, slope [nats per bit/dim], r, r inside the sets.
    """
    rows = []
    for part, names in ((ALL, sets), (SIMPLER, simpler(pair, sets))):
        for title, run in pair.items() if names else ():
            rows += [(run.spec.id, part, title, q, *_bias(run, names, q)) for q in QUANTITIES]
    named = ["id", "sets", "training", "quantity", "slope [nats per bit/dim]", "r", "r inside the sets"]
    return pd.DataFrame(rows, columns=named)


def _bias(run: Run, names: Sequence[str], quantity: str) -> metrics.Bias:
    a = [run.arrays[name] for name in names]
    return metrics.complexity_bias([v["complexity"] for v in a], [v[quantity] for v in a])


def id_cost(finished: Iterable[Run]) -> pd.DataFrame:
    """What outlier training costs ID data: id, method, seed, ID test bits/dim, mean log p_Z."""
    rows = []
    for r in finished:
        of = r.metrics["id"]
        rows.append((r.spec.id, METHOD_LABELS[r.spec.method], r.spec.seed, of["bpd"], of["log_pz_mean"]))
    return pd.DataFrame(rows, columns=["id", "method", "seed", "ID test bits/dim", "mean log p_Z"])


# --- over epochs -------------------------------------------------------------------------------------------


def epochs(specs: Iterable[Kind]) -> pd.DataFrame:
    """AUROC, bits and steepness of every training whose weights were kept at several epochs (`runs.over_epochs`).

    A training may still be on its way: its epochs so far are measured.

    Returns:
        Columns id, method, seed, epoch, quantity, ood, value, low, high; no rows where no training kept any.
    """
    kept = [s for s in specs if len(over_epochs.kept(s)) > 1]
    found = [over_epochs.measured(s).assign(id=s.id, method=s.method, seed=s.seed) for s in kept]
    columns = ["id", "method", "seed", "epoch", "quantity", "ood", "value", "low", "high"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def marks(id_: str, ood: str, runs: Iterable[Run]) -> dict[str, Any]:
    """What stands beside a curve of AUROC by eq. (4) over epochs, in percent.

    Returns:
        "printed": the paper's AUROC by eq. (4) for each method; "alone": that of -C(x), which every run of the ID set
        has alike, None where no run of it is done.
    """
    rows = pd.concat([tables.printed("table_2"), tables.printed("table_3")])
    rows = rows[
        (rows["id"] == id_) & (rows["ood"] == ood) & (rows["score"] == "nll") & (rows["metric"] == "auroc")
    ]
    alone = [r.auroc(ood, "comp_only") for r in runs if r.spec.id == id_ and ood in r.metrics["ood"]]
    return {
        "printed": dict(zip(rows["method"], rows["paper"], strict=True)),
        "alone": next(iter(alone), None),
    }
