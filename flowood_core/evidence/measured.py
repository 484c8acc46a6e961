"""What was measured under a profile, read once, and what the tests of the claims make their parts of."""

import functools
from collections.abc import Iterable

import pandas as pd

from flowood_core import datasets, intervals, runs
from flowood_core.evidence import tables
from flowood_core.evidence.verdicts import Part, Parts
from flowood_core.intervals import Sample
from flowood_core.runs import grid
from flowood_core.system import paths

__all__ = [
    "BY_PX",
    "OTHER_SETS",
    "Evidence",
    "facts",
    "gains",
    "label",
    "of_method",
    "pairs",
    "papers",
    "whose",
]

OTHER_SETS, BY_PX = "sets that are not the paper's", "by log p_X"
Key = tuple[str, str, int]  # ID set, method, seed


class Evidence:
    """The runs and tables of a profile, each read once."""

    def __init__(self, profile: str):
        self.profile = profile
        self._finished: dict[str, list[runs.Run]] = {}

    def finished(self, table: str) -> list[runs.Run]:
        if table not in self._finished:
            self._finished[table] = grid.finished(self.profile, table)
        return self._finished[table]

    def table(self, name: str) -> pd.DataFrame | None:
        """A table that a notebook left, if it has run."""
        path = paths.profile_dir(self.profile) / "tables" / f"{name}.csv"
        return pd.read_csv(path) if path.is_file() else None

    @functools.cached_property
    def rows(self) -> dict[Key, runs.Run]:
        """The rows of Tables 2 and 3, every ID set."""
        found = [*self.finished("table_2"), *self.finished("table_3")]
        return {(r.spec.id, r.spec.method, r.spec.seed): r for r in found}


def pairs(at: Evidence, a: str, b: str) -> dict[str, list[tuple[runs.Run, runs.Run]]]:
    """Runs of two methods with the same ID set and seed, by ID set."""
    found: dict[str, list[tuple[runs.Run, runs.Run]]] = {}
    done = at.rows
    for (id_, method, seed), run in done.items():
        if method == a and (id_, b, seed) in done:
            found.setdefault(id_, []).append((run, done[id_, b, seed]))
    return found


def of_method(at: Evidence, method: str) -> dict[str, list[runs.Run]]:
    """The runs of one method by ID set, one per seed."""
    found: dict[str, list[runs.Run]] = {}
    for (id_, named, _), run in at.rows.items():
        if named == method:
            found.setdefault(id_, []).append(run)
    return found


def label(name: str) -> str:
    original = name.removesuffix("_blurred")
    return "blurred " * (name != original) + datasets.LABELS.get(original, original)


@functools.cache
def papers(table: str) -> frozenset[tuple[str, str]]:
    cells = tables.printed(table)
    return frozenset(zip(cells["id"], cells["ood"], strict=True))


def whose(id_: str, ood: str, *tables_: str) -> str:
    """What sets a pair apart: "" where these tables print it, and for ID sets that are not the paper's at all."""
    mine = id_ not in {"cifar10", "cifar100", "isun", "svhn"}
    return "" if mine or any((id_, ood) in papers(t) for t in tables_) else OTHER_SETS


def gains(
    at: Evidence, a: str, b: str, score: str = "pz", apart: str = "", only_papers: bool = False
) -> Parts:
    """AUROC of method a minus b for every pair of sets, percent points; the paper's pairs first."""
    found = []
    for id_, of in pairs(at, a, b).items():
        for ood in of[0][0].metrics["ood"]:
            theirs = whose(id_, ood, "table_2", "table_3")
            if not (theirs and only_papers):
                gained = [tables.sample(x, ood, score) - tables.sample(y, ood, score) for x, y in of]
                name = f"{label(id_)} / {label(ood)}"
                found.append(Part(name, intervals.over(gained, bounds=(-100, 100)), apart or theirs))
    return sorted(found, key=lambda p: p.apart != "")


def facts(values: Iterable[tuple[str, float]]) -> Parts:
    """Parts that are facts about data: no seed, no draw."""
    return [Part(name, intervals.over([Sample(float(v))])) for name, v in values]
