"""Tables as joins: what runs measured beside what the paper prints. No number of ours is typed anywhere.

`[a, b]` is one thing everywhere: 95 % over training seeds and test draws (`flowood_core.intervals`).
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowood_core import intervals
from flowood_core.intervals import Interval, Sample
from flowood_core.runs import Run
from flowood_core.system import paths

__all__ = [
    "WIDE",
    "Measured",
    "absent",
    "beside",
    "collect",
    "over_base",
    "over_seeds",
    "paper_vs_ours",
    "printed",
    "sample",
    "verdict",
    "wide",
]

WIDE = 5.0  # half-width of an interval, percent points, above which nothing can be told


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """One metric of one run; its redraws are made when somebody asks, once."""

    run: Run
    ood: str
    score: str
    metric: str

    @property
    def sample(self) -> Sample:
        """In percent, with its redraws; see `intervals`."""
        stamp = (self.run.folder / "scores.npz").stat().st_mtime_ns
        return _redrawn(_Key(self.run, self.ood, self.score, self.metric, stamp))


def sample(run: Run, ood: str, score: str = "pz", metric: str = "auroc") -> Sample:
    """A metric of a run against one test set, percent, with its redraws."""
    return Measured(run, ood, score, metric).sample


@dataclasses.dataclass(frozen=True)
class _Key:
    """What names a measurement: the run by its folder, not by its object."""

    run: Run = dataclasses.field(compare=False)
    ood: str
    score: str
    metric: str
    stamp: int
    folder: Path = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.run.folder)


@functools.lru_cache(maxsize=8192)
def _redrawn(key: _Key) -> Sample:
    run = key.run
    id_, ood = (run.scores(name)[key.score] for name in (run.spec.id, key.ood))
    drawn = (intervals.of(name, v) for name, v in ((run.spec.id, id_), (key.ood, ood)))
    found = intervals.metric(key.metric, id_, ood, *drawn) * 100
    return Sample(found.value, found.redraws.astype(np.float32))


def collect(runs: Iterable[Run]) -> pd.DataFrame:
    """Every metric of every run in long form.

    Returns:
        Columns id, method, seed, ood, score (pz, px, pz_comp, px_comp, comp_only), metric, value, low, high
        (percent, 95 % interval over test draws), n_id, n_ood, run_id, and measured (`Measured`), which stays behind
        where a frame is saved.
    """
    rows = []
    for run in runs:
        key = {"id": run.spec.id, "method": run.spec.method, "seed": run.spec.seed, "run_id": run.spec.run_id}
        for ood, by_score in run.metrics["ood"].items():
            for score, values in by_score.items():
                counts = {"n_id": values["n_id"], "n_ood": values["n_ood"]}
                for metric, (value, low, high) in ((m, v) for m, v in values.items() if isinstance(v, list)):
                    percent = {"value": 100 * value, "low": 100 * low, "high": 100 * high}
                    named = {"ood": ood, "score": score, "metric": metric}
                    measured = {"measured": Measured(run, ood, score, metric)}
                    rows.append(key | named | percent | counts | measured)
    return pd.DataFrame(rows)


def over_seeds(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean over seeds with the interval over seeds and test draws (`intervals.over`), ending at 0 and 100.

    Rows without `measured` (values of a notebook's own making) enter over seeds alone; one such row keeps the
    interval it has. A score that no seed enters, complexity alone, has test draws alone: seeds say nothing of it.

    Returns:
        One row per key: value, low, high, n_seeds, interval (what it is over: `Interval.kind`), lowest, highest
        (seed).
    """
    rows = []
    for key, group in frame.groupby(list(keys), sort=False):
        names = dict(zip(keys, key, strict=True))
        rows.append(names | _columns(_over(group)) | {"n_seeds": len(group)})
    return pd.DataFrame(rows)


def _over(group: pd.DataFrame) -> Interval:
    if "measured" in group:
        samples = [m.sample for m in group["measured"]]
        return intervals.over(samples[:1] if group["value"].nunique() == 1 else samples, bounds=(0, 100))
    if group["value"].nunique() > 1:
        return intervals.over([Sample(v) for v in group["value"]], bounds=(0, 100))
    only = group.iloc[0]
    return Interval(only["value"], only["low"], only["high"], (only["value"],))


def _columns(e: Interval) -> dict[str, Any]:
    ends = {"value": e.value, "low": e.low, "high": e.high, "interval": e.kind}
    return ends | {"lowest": min(e.seeds), "highest": max(e.seeds)}


def over_base(long: pd.DataFrame, keys: Sequence[str], base: str = "mle") -> pd.DataFrame:
    """Each method minus the base of the same seed on the same images, so that what these do to both cancels.

    Args:
        long: from `collect`, one metric; further columns as wanted.
        keys: columns that stay apart, beside method and seed; a seed that has no base is left out.
        base: the method that is subtracted.
    Returns:
        Columns of `keys`, method, value, low, high (over seeds and test draws), n_seeds, interval, lowest, highest.
    """
    cells = {key: group for key, group in long.groupby([*keys, "method"], sort=False)}
    rows = []
    for (*place, method), group in cells.items():
        before = cells.get((*place, base))
        if method == base or before is None:
            continue
        both = _by_seed(group), _by_seed(before)
        gains = [both[0][seed] - both[1][seed] for seed in both[0] if seed in both[1]]
        if gains:
            named = dict(zip(keys, place, strict=True)) | {"method": method}
            rows.append(named | _columns(intervals.over(gains)) | {"n_seeds": len(gains)})
    columns = [*keys, "method", "value", "low", "high", "n_seeds", "interval", "lowest", "highest"]
    return pd.DataFrame(rows, columns=columns)


def _by_seed(group: pd.DataFrame) -> dict[int, Sample]:
    if "measured" in group:
        return {seed: m.sample for seed, m in zip(group["seed"], group["measured"], strict=True)}
    return {seed: Sample(v) for seed, v in zip(group["seed"], group["value"], strict=True)}


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


def paper_vs_ours(
    paper: pd.DataFrame,
    ours: pd.DataFrame,
    keys: Sequence[str],
    *,
    setting: str = "",
    absent: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The printed cells with ours beside them: paper, ours, low, high, n_seeds, difference, verdict.

    Every printed cell keeps its row; a cell that nobody ran says so.

    Args:
        paper: from `printed`, with a column "paper".
        ours: from `over_seeds`, with value, low, high, n_seeds.
        keys: columns both share and that name a cell.
        setting: what makes ours no measurement of the printed row, such as "other backbone"; it is the verdict then.
        absent: why a test set (column "ood") has no number, where the rows of the table were run.
    """
    joined = paper.merge(ours, on=list(keys), how="left", validate="one_to_one")
    joined["difference"] = joined["value"] - joined["paper"]
    cells = joined[["paper", "value", "low", "high"]].itertuples(index=False, name=None)
    judged = [verdict(*cell) for cell in cells]
    if setting:
        judged = [word if word == "not run" else setting for word in judged]
    if absent and "ood" in joined:
        row = [key for key in keys if key not in ("ood", "metric", "score")]
        has_numbers = joined["value"].notna()
        was_run = (
            has_numbers.groupby([joined[key] for key in row]).transform("any") if row else has_numbers.any()
        )
        judged = [
            absent.get(ood, word) if word == "not run" and ran else word
            for ood, word, ran in zip(joined["ood"], judged, joined.assign(ran=was_run)["ran"], strict=True)
        ]
    joined["verdict"] = judged
    kept = [*keys, "paper", "value", "low", "high", "n_seeds", "difference", "verdict"]
    return joined[kept].rename(columns={"value": "ours"})


def absent(runs: Iterable[Run]) -> dict[str, str]:
    """Test sets on which trained runs are not scored yet, with the words that say so in a table."""
    return {name: "trained, not scored on it yet" for run in runs for name in run.absent}


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


def verdict(paper: float, ours: float, low: float, high: float) -> str:
    """One word for a cell, in percent points, and none of praise: a stronger baseline is no success.

    not run: no value of ours. higher, lower: the printed number lies outside our interval, by more than one point from
    our value; ours is the higher or lower one. agrees: it lies in the interval, whose half-width is at most `WIDE`, or
    within one point. cannot tell: it lies in an interval wider than that, or there is no interval.
    """
    if not np.isfinite(ours):
        return "not run"
    if not np.isfinite(low):
        return "cannot tell"
    if low <= paper <= high:
        return "agrees" if (high - low) / 2 <= WIDE else "cannot tell"
    if abs(ours - paper) <= 1:
        return "agrees"
    return "higher" if ours > paper else "lower"


def _cell(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return "not run"
    return f"{value:.1f}" if not np.isfinite(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"
