"""What the paper's open choices are worth: one factor at a time, each against the run that differs in it alone.

The grid's table `choices` holds the runs (`DECISIONS.md` the codes); two choices concern the score only and cost none.
"""

import dataclasses
import functools

import numpy as np
import pandas as pd

from flowood_core import datasets, metrics, runs
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import grid

__all__ = ["Choice", "describe", "effects"]

TRAINED = "table_2"  # its rows are the bases


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to read the paper other than ours."""

    code: str
    text: str


def describe(spec: runs.Spec, base: runs.Spec, d: int) -> Choice:
    """The choice in which two specs differ, with its code.

    Args:
        spec, base: the run with the other choice and the row of Table 2.
        d: dimensions of a sample, which turn a threshold tau [nats] into the range of x that it stands for.
    Raises:
        ValueError: they differ in no choice, or in several.
    """
    changed = {n for n in type(spec).model_fields if getattr(spec, n) != getattr(base, n)}
    changed -= {"ood", "micro_batch"}
    pool = " and ".join(datasets.LABELS.get(name, name) for name in spec.ro_pool)
    combine = {
        "always_both": "CCM and blur, always both",
        "independent": "two coins: a quarter stay ID images",
    }
    scaled = f"x in 0..{round(np.exp(spec.tau / d)) - 1} instead of 0..1" if spec.tau else ""
    squeezed = f"squeezes before coupling: {spec.squeeze} instead of {base.squeeze}"
    known = {
        frozenset({"temperature"}): Choice("A1", "log p per dimension inside softplus"),
        frozenset({"tau"}): Choice("A1", scaled),
        frozenset({"squeeze"}): Choice("A7", squeezed),
        frozenset({"permute_soft"}): Choice("A8", "rotations instead of permutations"),
        frozenset({"outlier_prob", "batch_size", "epochs"}): Choice(
            "A13", "outliers added, not replacing ID"
        ),
        frozenset({"combine"}): Choice("A14", combine.get(spec.combine, spec.combine)),
        frozenset({"ro_pool"}): Choice("A18", f"real outliers of {pool}"),
    }
    found = known.get(frozenset(changed))
    if found is None:
        raise ValueError(
            f"expected specs that differ in one choice, got {', '.join(sorted(changed)) or 'equal ones'}"
        )
    return found


def effects(profile: str) -> pd.DataFrame:
    """AUROC of each choice minus that of ours, seed by seed; only runs that are there.

    Returns:
        Columns code, choice, of (the row of Table 2 that it changes), ood, seed, base, auroc, difference (percent
        and percent points), bpd (bits per dimension of ID test images, minus the base's).
    """
    if not {"choices", TRAINED} <= set(grid.tables(profile)):
        return pd.DataFrame(columns=_COLUMNS)
    bases = {(s.id, s.method, s.seed): s for s in grid.rows(profile, TRAINED)}
    rows = []
    for spec in grid.rows(profile, "choices"):
        base = bases.get((spec.id, spec.method, spec.seed))
        if base is None or not (_done(spec) and _done(base)):
            continue
        ours, theirs = (runs.run_or_load(s, train_missing=False) for s in (base, spec))
        choice = describe(spec, base, ours.metrics["d"])
        bpd = theirs.metrics["id"]["bpd"] - ours.metrics["id"]["bpd"]
        for ood in spec.ood:
            both = [100 * run.metrics["ood"][ood]["pz"]["auroc"][0] for run in (ours, theirs)]
            rows.append(_row(choice, spec, ood, *both, bpd))
    touched = {(s.id, s.seed) for s in grid.rows(profile, "choices")}
    for (id_, method, seed), base in bases.items():
        if method == "ccm_gaussian" and (id_, seed) in touched and _done(base):
            rows += _of_the_score(runs.run_or_load(base, train_missing=False))
    found = pd.DataFrame(rows, columns=_COLUMNS)
    return found.sort_values("code", key=lambda codes: codes.str[1:].astype(int), kind="stable")


_COLUMNS = ["code", "choice", "of", "ood", "seed", "base", "auroc", "difference", "bpd"]


def _of_the_score(run: runs.Run) -> list[tuple]:
    """A2 and A4: another score of the same flow."""
    rows = []

    @functools.cache
    def scores(name: str) -> dict[str, np.ndarray]:
        # eq. (5) as it is printed, with nats per sample and bits per dimension
        as_printed = run.scores(name)["pz"] - run.arrays[name]["complexity"]
        return run.scores(name) | {"as printed": as_printed}

    for choice, base, other in (
        (Choice("A2", "-log p(x) instead of -log p(z)"), "pz", "px"),
        (Choice("A4", "eq. (5): nats a sample less bits a dimension"), "pz_comp", "as printed"),
    ):
        for ood in run.spec.ood:
            both = [100 * metrics.auroc(scores(run.spec.id)[k], scores(ood)[k]) for k in (base, other)]
            rows.append(_row(choice, run.spec, ood, *both, 0.0, "+Complexity" * (base == "pz_comp")))
    return rows


def _row(
    choice: Choice, spec: runs.Spec, ood: str, base: float, auroc: float, bpd: float, more: str = ""
) -> tuple:
    of = METHOD_LABELS[spec.method] + more
    return choice.code, choice.text, of, ood, spec.seed, base, auroc, auroc - base, bpd


def _done(spec: runs.Spec) -> bool:
    return (spec.folder / "metrics.json").is_file()
