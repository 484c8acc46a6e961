"""Tables as joins: what runs measured beside what the paper prints. No number of ours is typed anywhere."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from flowood_core import metrics
from flowood_core.runs import Run
from flowood_core.system import paths

__all__ = ["beside", "collect", "over_base", "over_seeds", "paper_vs_ours", "printed", "verdict", "wide"]


def collect(runs: Iterable[Run]) -> pd.DataFrame:
    """Every metric of every run in long form.

    Returns:
        Columns id, method, seed, ood, score (pz, px, pz_comp, px_comp, comp_only), metric, value, low, high
        (percent, 95 % interval over test draws), n_id, n_ood, run_id.
    """
    rows = []
    for run in runs:
        key = {"id": run.spec.id, "method": run.spec.method, "seed": run.spec.seed, "run_id": run.spec.run_id}
        for ood, by_score in run.metrics["ood"].items():
            for score, values in by_score.items():
                counts = {"n_id": values["n_id"], "n_ood": values["n_ood"]}
                for metric, (value, low, high) in ((m, v) for m, v in values.items() if isinstance(v, list)):
                    percent = {"value": 100 * value, "low": 100 * low, "high": 100 * high}
                    rows.append(key | {"ood": ood, "score": score, "metric": metric} | percent | counts)
    return pd.DataFrame(rows)


def over_seeds(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean over seeds: with two or more seeds Student's interval over seeds, with one the bootstrap's.

    A score that no seed enters, complexity alone, has the bootstrap's too: seeds say nothing of how sure it is.

    Values are percent; an interval ends at 0 and 100, beyond which no rate lies.

    Returns:
        One row per key: value, low, high, n_seeds, interval ("seeds" or "test draws").
    """
    rows = []
    for key, group in frame.groupby(list(keys), sort=False):
        if group["value"].nunique() > 1:
            estimate, kind = metrics.seeds_interval(group["value"].to_numpy()), "seeds"
        else:
            only = group.iloc[0]
            estimate, kind = metrics.Estimate(only["value"], only["low"], only["high"]), "test draws"
        low, high = np.clip([estimate.low, estimate.high], 0, 100)
        values = {"value": estimate.value, "low": low, "high": high}
        rows.append(dict(zip(keys, key, strict=True)) | values | {"n_seeds": len(group), "interval": kind})
    return pd.DataFrame(rows)


def over_base(long: pd.DataFrame, keys: Sequence[str], base: str = "mle") -> pd.DataFrame:
    """Each method minus the base of the same seed, so that what a seed does to both cancels.

    Args:
        long: from `collect`, one metric; further columns as wanted.
        keys: columns that stay apart, beside method and seed; a seed that has no base is left out.
        base: the method that is subtracted.
    Returns:
        Columns of `keys`, method, value, low, high (Student's interval over seeds; nan for one seed), n_seeds.
    """
    table = long.pivot_table(index=[*keys, "seed"], columns="method", values="value", sort=False)
    gains = table.drop(columns=base).sub(table[base], axis=0)
    rows = []
    for key, of in gains.groupby(list(keys), sort=False):
        for method, values in of.items():
            values = values.dropna().to_numpy()
            if len(values):
                one = len(values) == 1
                e = metrics.Estimate(values[0], np.nan, np.nan) if one else metrics.seeds_interval(values)
                rows.append((*key, method, e.value, e.low, e.high, len(values)))
    return pd.DataFrame(rows, columns=[*keys, "method", "value", "low", "high", "n_seeds"])


def wide(frame: pd.DataFrame, rows: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Cells "83.2 [80.1, 86.0]" arranged for reading, in the order of the frame."""
    cells = frame.assign(cell=[_cell(*c) for c in frame[["value", "low", "high"]].to_numpy()])
    order = {name: list(dict.fromkeys(frame[name])) for name in (*rows, *columns)}
    table = cells.pivot(index=list(rows), columns=list(columns), values="cell")
    for axis, names in ((0, rows), (1, columns)):
        for level, name in reversed(list(enumerate(names))):  # the first level is sorted last and decides
            wanted = order[name]
            table = table.sort_index(
                axis=axis, level=level, sort_remaining=False, kind="stable",
                key=lambda values, wanted=wanted: values.map({v: k for k, v in enumerate(wanted)}),
            )  # fmt: skip
    return table


def printed(table: str) -> pd.DataFrame:
    """The paper's numbers, as typed once into data/paper/<table>.csv."""
    path = paths.paper_root() / f"{table}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the paper's numbers at {path}, found no file; tables are table_1 to table_11"
        )
    return pd.read_csv(path)


def paper_vs_ours(paper: pd.DataFrame, ours: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The printed cells with ours beside them: paper, ours, low, high, n_seeds, difference, verdict.

    Every printed cell keeps its row; a cell that nobody ran says so.

    Args:
        paper: from `printed`, with a column "paper".
        ours: from `over_seeds`, with value, low, high, n_seeds.
        keys: columns both share and that name a cell; "metric" tells fpr95, where less is better.
    """
    joined = paper.merge(ours, on=list(keys), how="left", validate="one_to_one")
    joined["difference"] = joined["value"] - joined["paper"]
    better = joined["metric"].ne("fpr95") if "metric" in joined else pd.Series(True, index=joined.index)
    joined["verdict"] = [
        verdict(p, v, low, high, bool(up))
        for p, v, low, high, up in zip(
            joined["paper"], joined["value"], joined["low"], joined["high"], better, strict=True
        )
    ]
    kept = [*keys, "paper", "value", "low", "high", "n_seeds", "difference", "verdict"]
    return joined[kept].rename(columns={"value": "ours"})


def beside(joined: pd.DataFrame, rows: Sequence[str], column: str) -> pd.DataFrame:
    """A table for reading: under each value of `column` the paper's number, ours with its interval, the verdict.

    Args:
        joined: from `paper_vs_ours`; one cell per combination of `rows` and `column`.
        rows: columns that name a row of the printed table, in its order.
        column: column that names a group, such as the OOD set; a group where nothing was run keeps the paper's.
    """
    ours = [_cell(*c) if np.isfinite(c[0]) else "–" for c in joined[["ours", "low", "high"]].to_numpy(float)]
    cells = joined.assign(cell=ours, printed=[f"{p:g}" for p in joined["paper"]])
    names = {"printed": "paper", "cell": "ours", "verdict": "verdict"}
    table = cells.pivot(index=list(rows), columns=column, values=list(names))
    groups = list(dict.fromkeys(joined[column]))
    table = table.swaplevel(axis=1)[[(g, n) for g in groups for n in names]]
    table.columns = pd.MultiIndex.from_tuples([(g, names[n]) for g, n in table.columns], names=[column, None])
    order = list(dict.fromkeys(joined[list(rows)].itertuples(index=False, name=None)))
    return table.loc[order if len(rows) > 1 else [key[0] for key in order]]


def verdict(paper: float, ours: float, low: float, high: float, higher_is_better: bool = True) -> str:
    """One word for a cell, in percent points.

    not run: no value of ours. reproduced: within one point, or within five and in our interval. undecided: in
    our interval, but that is too wide to say more. exceeded: better by more. partly: worse by at most five points.
    not: worse than that.
    """
    if not np.isfinite(ours):
        return "not run"
    gain = (ours - paper) if higher_is_better else (paper - ours)
    covered = np.isfinite(low) and low <= paper <= high
    if abs(gain) <= 1 or covered:
        return "reproduced" if abs(gain) <= 5 else "undecided"
    if gain > 0:
        return "exceeded"
    return "partly" if gain >= -5 else "not"


def _cell(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return "not run"
    return f"{value:.1f}" if not np.isfinite(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"
