"""What the paper's open choices are worth: one factor at a time, each against the run that differs in it alone.

The grid's table `choices` holds the runs (`DECISIONS.md` the codes); two choices concern the score only and cost none.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from flowood_core import datasets, intervals, runs
from flowood_core.evidence import tables
from flowood_core.intervals import Sample
from flowood_core.notebook.labels import text_of
from flowood_core.notebook.reading import Said
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import grid

__all__ = [
    "Choice",
    "describe",
    "effects",
    "over_probability",
    "over_seeds",
    "reading",
    "reading_of_probability",
    "sure",
]

TRAINED = "table_2"  # its rows are the bases
Finished = Callable[[str, str], list[runs.Run]]  # profile, table


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
        frozenset({"squeeze", "hidden"}): Choice(
            "A7", f"squeezes, {spec.hidden} channels: as many parameters"
        ),
        frozenset({"permute_soft"}): Choice(
            "A8", "rotations instead of permutations" + ", MLE" * (spec.method == "mle")
        ),
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


def effects(profile: str, finished: Finished = grid.finished) -> pd.DataFrame:
    """AUROC of each choice minus that of ours, seed by seed on the same images; only runs that are there.

    Returns:
        Columns code, choice, of (the row of Table 2 that it changes), score (pz, px), ood, seed, base, auroc,
        difference (percent and percent points), bpd (bits per dimension of ID test images, minus the base's) and
        gain, the difference as an `intervals.Sample`. A choice of the score has one score: its own.
    """
    bases = {(r.spec.id, r.spec.method, r.spec.seed): r for r in finished(profile, TRAINED)}
    rows = []
    for theirs in finished(profile, "choices"):
        spec = theirs.spec
        ours = bases.get((spec.id, spec.method, spec.seed))
        if ours is None:
            continue
        choice = describe(spec, ours.spec, ours.metrics["d"])
        bpd = theirs.metrics["id"]["bpd"] - ours.metrics["id"]["bpd"]
        for ood in theirs.metrics["ood"]:
            for score in ("pz", "px"):
                both = [tables.sample(run, ood, score) for run in (ours, theirs)]
                rows.append(_row(choice, spec, METHOD_LABELS[spec.method], score, ood, both, bpd))
    if "choices" in grid.tables(profile):
        wanted = {(s.id, s.seed) for s in grid.rows(profile, "choices")}
        for (id_, method, seed), base in bases.items():
            if method == "ccm_gaussian" and (id_, seed) in wanted:
                rows += _of_the_score(base)
    found = pd.DataFrame(rows, columns=_COLUMNS)
    return found.sort_values("code", key=lambda codes: codes.str[1:].astype(int), kind="stable")


def over_seeds(found: pd.DataFrame) -> pd.DataFrame:
    """What each choice gains, over seeds and test draws.

    Args:
        found: what `effects` returned.
    Returns:
        Columns code, choice, of, score, ood, effect (`intervals.Interval`, AUROC points), bpd (the same, bits per
        dimension, over seeds alone).
    """
    keys = ["code", "choice", "of", "score", "ood"]
    rows = []
    for key, group in found.groupby(keys, sort=False):
        effect = intervals.over(group["gain"], bounds=(-100, 100))
        bpd = intervals.over([Sample(v) for v in group["bpd"]])
        rows.append(dict(zip(keys, key, strict=True)) | {"effect": effect, "bpd": bpd})
    return pd.DataFrame(rows, columns=[*keys, "effect", "bpd"])


def sure(effects_: pd.DataFrame) -> pd.DataFrame:
    """The rows of `over_seeds` whose interval, over several seeds, excludes zero."""
    return effects_[[len(e.seeds) > 1 and (e.low > 0 or e.high < 0) for e in effects_["effect"]]]


def reading(effects_: pd.DataFrame) -> list[Said]:
    """What `over_seeds` found, in sentences; each for both scores apart."""
    said: list[Said] = []
    for score, of in effects_.groupby("score", sort=False):
        found = sure(of)
        name = str(text_of(score)).split(",")[-1].strip()
        said.append((True, f"By {name} {len(found)} of {len(of)} effects are sure."))
        none = [str(text_of(o)) for o in dict.fromkeys(of["ood"]) if o not in set(found["ood"])]
        said.append((len(none) > 0, f"None on {', '.join(none)}."))
    own = effects_[effects_["of"] == METHOD_LABELS["ccm_gaussian"]]
    by = own.drop_duplicates(["code", "ood", "score"]).set_index(["code", "ood", "score"])["effect"]
    faces = [(c, "faces_rmfd", "pz") for c in ("A2", "A8", "A13")]
    squeezed = ("A7", "faces_rmfd", "px")
    return [
        *said,
        (
            all(k in by.index and by[k].low > 0 for k in faces),
            "So what CCM+Gaussian outliers cost on faces by eq. (4) hangs on choices that the paper leaves open.",
        ),
        (
            squeezed in by.index and by[squeezed].high < 0,
            "The squeeze (A7) is no gain everywhere: by −log p(x) faces surely lose.",
        ),
    ]


def over_probability(profile: str, finished: Finished = grid.finished) -> pd.DataFrame:
    """AUROC and price against the outlier probability, which the paper tunes in place of a weight (section 2.3).

    The ends come from Table 2: 0 is MLE, and 1/2 the paper's row. Only runs that are there, of the grid's one ID set.

    Returns:
        Columns probability, score (pz, px), ood; value, low, high: AUROC in percent over seeds and test draws, above
        50 where OOD scores higher; auroc, the same as an `intervals.Interval`; bpd, one over seeds alone, bits per
        dimension of ID test images; n_seeds.
    """
    if "outlier_prob" not in grid.tables(profile):
        return pd.DataFrame(columns=_SWEPT)
    wanted = {(s.id, s.seed) for s in grid.rows(profile, "outlier_prob")}  # every point has the same seeds
    bases = [r for r in finished(profile, TRAINED) if r.spec.method in ("mle", "ccm_gaussian")]
    of: dict[float, list[runs.Run]] = {}
    for run in [*bases, *finished(profile, "outlier_prob")]:
        if (run.spec.id, run.spec.seed) in wanted:
            of.setdefault(0.0 if run.spec.method == "mle" else run.spec.outlier_prob, []).append(run)
    rows = []
    for probability, group in sorted(of.items()):
        bpd = intervals.over([Sample(run.metrics["id"]["bpd"]) for run in group])
        for score in ("pz", "px"):
            for ood in group[0].metrics["ood"]:
                e = intervals.over([tables.sample(run, ood, score) for run in group], bounds=(0, 100))
                rows.append((probability, score, ood, e.value, e.low, e.high, e, bpd, len(group)))
    return pd.DataFrame(rows, columns=_SWEPT)


_SWEPT = ["probability", "score", "ood", "value", "low", "high", "auroc", "bpd", "n_seeds"]


def reading_of_probability(found: pd.DataFrame) -> list[Said]:
    """What the curve of `over_probability` says of the printed 1/2, each sentence under its condition."""
    if found.empty:
        return []
    means = found.groupby(["score", "probability"])["value"].mean()
    bits = found.groupby("probability")["bpd"].first().map(lambda e: e.value)
    said: list[Said] = []
    for score, name in {"pz": "eq. (4)", "px": "$-\\log p_{\\mathcal X}$"}.items():
        of = means[score]
        if 0.5 not in of or len(of) < 3:
            return []
        best, half = of.idxmax(), of[0.5]
        said.append((
            of[best] - half < 1,
            f"By {name} the printed 0.5 is within a point of the best probability ({half:.1f} on average).",
            f"By {name} a probability of {best:g} reaches {of[best]:.1f} on average, the printed 0.5 {half:.1f}.",
        ))  # fmt: skip
    least, most = bits.index[bits.index > 0].min(), bits.index.max()
    price = f"{bits[least]:.2f} bits per dimension at {least:g}, {bits[most]:.2f} at {most:g}."
    is_dearer = bits[most] > bits[least]
    said.append(
        (is_dearer, f"More outliers cost likelihood: {price}", f"They cost no likelihood here: {price}")
    )
    said.append((found["n_seeds"].max() == 1, "One seed: the intervals hold test draws alone."))
    said.append(
        (True, "No probability was chosen by this figure, which sees test sets; every other page keeps 0.5.")
    )
    return said


_COLUMNS = [
    "code", "choice", "of", "score", "ood", "seed", "base", "auroc", "difference", "bpd", "gain",
]  # fmt: skip


def _of_the_score(run: runs.Run) -> list[tuple]:
    """A2 and A4: another score of the same flow."""
    a2 = Choice("A2", "-log p(x) instead of -log p(z)")
    a4 = Choice("A4", "eq. (5): nats a sample less bits a dimension")
    of = METHOD_LABELS[run.spec.method]
    rows = []
    for ood in run.metrics["ood"]:
        both = [tables.sample(run, ood, score) for score in ("pz", "px")]
        rows.append(_row(a2, run.spec, of, "pz", ood, both, 0.0))
    for ood in run.metrics["ood"]:
        both = [tables.sample(run, ood, "pz_comp"), _as_printed(run, ood)]
        rows.append(_row(a4, run.spec, f"{of}+Complexity", "pz", ood, both, 0.0))
    return rows


def _as_printed(run: runs.Run, ood: str) -> Sample:
    """AUROC by eq. (5) as it is printed, with nats per sample and bits per dimension, in percent."""
    found = [run.scores(n)["pz"] - run.arrays[n]["complexity"] for n in (run.spec.id, ood)]
    drawn = (intervals.of(n, v) for n, v in zip((run.spec.id, ood), found, strict=True))
    return intervals.auroc(*found, *drawn) * 100


def _row(
    choice: Choice, spec: runs.Spec, of: str, score: str, ood: str, both: list[Sample], bpd: float
) -> tuple:
    base, other = both
    values = base.value, other.value, other.value - base.value
    return choice.code, choice.text, of, score, ood, spec.seed, *values, bpd, other - base
