"""Eq. (5) read in other ways: which unit, weight, clip or scale gives the paper's "+Complexity" rows (A4)?

The paper prints +Complexity as misleading on iSUN for every training (21 to 47), and as good on SVHN. Eq. (5) with
both sides per dimension gives the second but not the first: after training with outliers -log p of iSUN lies so far
above that of ID images that no complexity can outweigh it. The readings here are computed from the scores of
finished runs; nothing is trained. They see test OOD sets by their purpose, and choose nothing.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from flowood_core import metrics
from flowood_core.evidence import tables
from flowood_core.notebook.reading import Said
from flowood_core.runs import Run

__all__ = ["READINGS", "WEIGHTS", "against_paper", "reading", "readings", "weights"]

WEIGHTS = (0.1, 0.3, 1.0, 3.0)
Arrays = Mapping[str, np.ndarray]
Read = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _per_dimension(nll_id, c_id, nll, c):
    return nll_id - c_id, nll - c


def _total_nats(d: int) -> Read:
    return lambda nll_id, c_id, nll, c: (d * nll_id - c_id, d * nll - c)


def _clipped(sds: float) -> Read:
    def read(nll_id, c_id, nll, c):
        most = nll_id.mean() + sds * nll_id.std()
        return np.minimum(nll_id, most) - c_id, np.minimum(nll, most) - c

    return read


def _standardised_on_id(nll_id, c_id, nll, c):
    def of(x, y):
        return (x - nll_id.mean()) / nll_id.std() - (y - c_id.mean()) / c_id.std()

    return of(nll_id, c_id), of(nll, c)


def _standardised_on_both(nll_id, c_id, nll, c):
    all_nll, all_c = np.r_[nll_id, nll], np.r_[c_id, c]

    def of(x, y):
        return (x - all_nll.mean()) / all_nll.std() - (y - all_c.mean()) / all_c.std()

    return of(nll_id, c_id), of(nll, c)


def _between_extremes(nll_id, c_id, nll, c):
    all_nll, all_c = np.r_[nll_id, nll], np.r_[c_id, c]

    def of(x, y):
        return (x - all_nll.min()) / np.ptp(all_nll) - (y - all_c.min()) / np.ptp(all_c)

    return of(nll_id, c_id), of(nll, c)


def _ranks(nll_id, c_id, nll, c):
    all_nll, all_c = np.sort(np.r_[nll_id, nll]), np.sort(np.r_[c_id, c])

    def of(x, y):
        return np.searchsorted(all_nll, x) - np.searchsorted(all_c, y).astype(float)

    return of(nll_id, c_id), of(nll, c)


READINGS: dict[str, Read] = {
    "per dimension (eq. 5 as we read it)": _per_dimension,
    "total nats against bits per dimension": _total_nats(3072),
    "−log p clipped at mean + 2 sd of ID": _clipped(2),
    "−log p clipped at mean + 4 sd of ID": _clipped(4),
    "both standardised on ID": _standardised_on_id,
    "both standardised on ID and OOD together": _standardised_on_both,
    "both scaled to [0, 1] on ID and OOD together": _between_extremes,
    "ranks among ID and OOD together": _ranks,
}
"""Readings of S_comp by label: (nll, C) of ID and of OOD -> scores of ID and of OOD. Higher means more OOD."""


def readings(runs: Iterable[Run], kind: str = "pz") -> pd.DataFrame:
    """AUROC in percent of every reading, per run and OOD set.

    Args:
        runs: finished runs on images.
        kind: "pz" takes -log p_Z (eq. 4), "px" -log p_X; nats per dimension both.
    Returns:
        Columns reading, id, method, seed, ood, value.
    """
    return _scored(runs, kind, READINGS)


def weights(runs: Iterable[Run], kind: str = "pz", values: Iterable[float] = WEIGHTS) -> pd.DataFrame:
    """The same for eq. (5) with another weight of C: S = nll - w C. Column weight instead of reading."""

    def weighed(w: float) -> Read:
        return lambda nll_id, c_id, nll, c: (nll_id - w * c_id, nll - w * c)

    found = _scored(runs, kind, {w: weighed(w) for w in values})
    return found.rename(columns={"reading": "weight"})


def against_paper(found: pd.DataFrame, table: str = "table_2") -> pd.DataFrame:
    """Readings beside the printed +Complexity cells, best first: the mean over cells of |ours - printed|, in points.

    Args:
        found: from `readings`.
    Returns:
        One row per reading: error (mean absolute difference of the means over seeds), n_cells, and the cells of
        iSUN, lowest and highest mean over seeds of any training.
    """
    printed = tables.printed(table).query("score == 'comp' and metric == 'auroc'")
    mean = found.groupby(["reading", "id", "method", "ood"], sort=False, as_index=False)["value"].mean()
    both = mean.merge(printed[["id", "method", "ood", "paper"]], on=["id", "method", "ood"])
    rows = []
    for reading, of in both.groupby("reading", sort=False):
        isun = of.loc[of.ood == "isun", "value"]
        rows.append([reading, (of["value"] - of["paper"]).abs().mean(), len(of), isun.min(), isun.max()])
    columns = ["reading", "error", "n_cells", "isun_lowest", "isun_highest"]
    return pd.DataFrame(rows, columns=columns).sort_values("error", ignore_index=True)


def reading(tried: Mapping[str, pd.DataFrame], table: str = "table_2") -> list[Said]:
    """Which reading comes nearest, in sentences.

    Args:
        tried: rows of `against_paper` by the name of the density.
    """
    both = pd.concat({name: of for name, of in tried.items() if len(of)} or {"": pd.DataFrame()})
    if both.empty:
        return [(True, "No printed cell was run under this profile.")]
    printed = tables.printed(table).query("score == 'comp' and metric == 'auroc' and ood == 'isun'")["paper"]
    best, ours = [], []
    for name, of in tried.items():
        first, plain = of.iloc[0], of[of["reading"].str.contains("as we read it")].iloc[0]
        best.append(f"with {name} “{first['reading']}”, off by {first['error']:.1f} points")
        ours.append(f"{plain['error']:.1f}")
    inside = both[both["isun_lowest"].ge(printed.min() - 5) & both["isun_highest"].le(printed.max() + 5)]
    named = "; ".join(f"“{r}” with {name}" for (name, _), r in inside["reading"].items())
    return [
        (
            True,
            f"Nearest to the paper: {'; '.join(best)}. Eq. (5) per dimension is off by {' and '.join(ours)}.",
        ),
        (
            len(inside) > 0,
            f"All rows of iSUN lie within five points of the printed range, {printed.min():.0f} to "
            f"{printed.max():.0f}, by: {named}.",
            f"No reading puts all rows of iSUN within five points of the printed range, {printed.min():.0f} to "
            f"{printed.max():.0f}.",
        ),
    ]


def _scored(runs: Iterable[Run], kind: str, ways: Mapping[object, Read]) -> pd.DataFrame:
    rows = []
    for run in runs:
        id_, d = run.arrays[run.spec.id], run.metrics["d"]
        key = [run.spec.id, run.spec.method, run.spec.seed]
        for ood in run.metrics["ood"]:
            of = run.arrays[ood]
            four = (-id_[f"log_{kind}"] / d, id_["complexity"], -of[f"log_{kind}"] / d, of["complexity"])
            rows += [[way, *key, ood, 100 * float(metrics.auroc(*read(*four)))] for way, read in ways.items()]
    return pd.DataFrame(rows, columns=["reading", "id", "method", "seed", "ood", "value"])
