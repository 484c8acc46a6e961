"""Table 4, Hypothesis 1 and eq. (1) on trained image flows: local Lipschitz constants, with and without outliers."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata, spearmanr

from flowood_core import datasets, hypothesis, intervals, lipschitz, runs
from flowood_core.engine import compiled
from flowood_core.evidence import tables
from flowood_core.flow import dequantise
from flowood_core.intervals import Sample
from flowood_core.notebook.reading import Said
from flowood_core.outliers.image import METHOD_LABELS

__all__ = [
    "READINGS",
    "against_complexity",
    "eq_1_by_set",
    "inside_sets",
    "joined",
    "norms",
    "ratio",
    "reading_of_eq_1",
    "rises",
    "summary",
    "table_4",
]

READINGS = ["grad_sum_z", "grad_logp", "spectral", "spectral of the inverse"]
WITH, WITHOUT = "CCM+Gaussian", "MLE"
SIDES = ("f", "inverse of f")


# --- Table 4 -----------------------------------------------------------------------------------------------


def norms(run: runs.Run, n: int, n_spectral: int, iterations: int) -> dict[str, torch.Tensor]:
    """Every reading (`READINGS`) on training images of the ID set, one value per image.

    Args:
        n: images for the two gradients.
        n_spectral: the first of them, for the two spectra, which cost about 40 gradients each.
        iterations: of the power method.
    """
    flow, x = run.flow(), dequantise(datasets.load(run.spec.id, "train").drawn(n, 0).x)
    z_of = _latent(flow)
    few = x[:n_spectral].split(32)
    with compiled.fused():  # compiled blocks have first derivatives only, which the gradients need
        found = {
            "grad_sum_z": torch.cat([lipschitz.grad_sum_z(z_of, p) for p in x.split(32)]),
            "grad_logp": torch.cat([lipschitz.grad_logp(flow.log_prob, p) for p in x.split(32)]),
        }
    forward, backward = zip(*(_both_sides(flow, part, iterations) for part in few), strict=True)
    return found | {"spectral": torch.cat(forward), "spectral of the inverse": torch.cat(backward)}


def _latent(flow):
    return lambda v: flow(v)[0]


def _both_sides(flow, x: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """sigma_max of f at x and of its inverse at z."""
    z = flow(x)[0].detach()
    forward = lipschitz.spectral(_latent(flow), x, iterations=iterations)
    return forward, lipschitz.spectral(flow.inverse, z, iterations=iterations)


def summary(finished: Iterable[runs.Run], measured: Mapping[str, Mapping[str, torch.Tensor]]) -> pd.DataFrame:
    """One row per run and reading: id, method, seed, quantity, max, median, q95, n.

    Args:
        measured: what `norms` returned, by run id.
    """
    rows = []
    for run in finished:
        key = {"id": run.spec.id, "method": METHOD_LABELS[run.spec.method], "seed": run.spec.seed}
        for quantity, values in measured[run.spec.run_id].items():
            rows.append(key | {"quantity": quantity} | lipschitz.summarise(values))
    return pd.DataFrame(rows)


def ratio(frame: pd.DataFrame) -> pd.DataFrame:
    """With outliers divided by without, of the means over seeds, by ID set and reading; above 1 it rose."""
    means = frame.pivot_table(
        index=["id", "quantity"], columns="method", values=["max", "median", "q95"], sort=False
    )
    return means.xs(WITH, axis=1, level=1) / means.xs(WITHOUT, axis=1, level=1)


def rises(frame: pd.DataFrame) -> pd.DataFrame:
    """In how many runs (ID set and seed) outliers raised a reading: indexed by it; max, median, q95 and runs."""
    rows = {}
    for quantity, of in frame.groupby("quantity", sort=False):
        rose = {}
        for statistic in ("max", "median", "q95"):
            by = of.pivot_table(index=["id", "seed"], columns="method", values=statistic).dropna()
            rose[statistic] = int((by[WITH] > by[WITHOUT]).sum())
        rows[quantity] = rose | {"runs": len(by)}
    return pd.DataFrame(rows).T


def table_4(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 4 as printed, and our readings below it: the maxima, mean over seeds, and their ratio.

    Returns:
        Columns id, reading, without, with, ratio, by seed, verdict: whether outliers raised the maximum in every seed.
    """
    printed = tables.printed("table_4").pivot(index="id", columns="outliers", values="paper")
    rows = []
    for id_ in dict.fromkeys([*printed.index, *frame["id"]]):
        paper = printed.loc[id_] if id_ in printed.index else {"without": np.nan, "with": np.nan}
        rows.append((id_, "paper", paper["without"], paper["with"], paper["with"] / paper["without"], "", ""))
        rows += [_reading(id_, q, frame[(frame["id"] == id_) & (frame["quantity"] == q)]) for q in READINGS]
    return pd.DataFrame(rows, columns=["id", "reading", "without", "with", "ratio", "by seed", "verdict"])


def _reading(id_: str, quantity: str, of: pd.DataFrame) -> tuple:
    if not len(of):
        return id_, quantity, np.nan, np.nan, np.nan, "", "not run"
    largest = of.pivot_table(index="seed", columns="method", values="max")
    r = largest[WITH] / largest[WITHOUT]
    fits = "fits" if (r > 1).all() else "does not fit" if (r <= 1).all() else "differs between seeds"
    by_seed = f"{r.min():.2f}–{r.max():.2f}" if len(r) > 1 else ""
    without, with_ = largest[WITHOUT].mean(), largest[WITH].mean()
    return id_, quantity, without, with_, with_ / without, by_seed, fits


def joined(finished: Sequence[runs.Run], measured: Mapping, id_: str, quantity: str) -> dict[str, np.ndarray]:
    """log10 of one reading over all images and seeds of an ID set, by method."""
    values: dict[str, list[np.ndarray]] = {}
    for run in finished:
        if run.spec.id == id_:
            of = np.log10(measured[run.spec.run_id][quantity].numpy())
            values.setdefault(METHOD_LABELS[run.spec.method], []).append(of)
    return {method: np.concatenate(v) for method, v in values.items()}


# --- Hypothesis 1 ------------------------------------------------------------------------------------------


def against_complexity(run: runs.Run, n: int, iterations: int) -> pd.DataFrame:
    """Local constants of f and of its inverse at the first n test images of every set, with what eq. (1) needs.

    Returns:
        Columns set, C (bits per dimension), f, inverse of f (sigma_max of each), radius (|z|), spread (M(x) over the
        ID test images, x in [0, 1]).
    """
    flow = run.flow()
    id_images = dequantise(datasets.load(run.spec.id, "test").drawn(run.spec.n_test, 0).x)
    samples = id_images.flatten(1).double().numpy()
    parts = []
    for name in (run.spec.id, *run.spec.ood):
        x = dequantise(datasets.load(name, "test").drawn(run.spec.n_test, 0).x[:n])
        forward, backward = _both_sides(flow, x, iterations)
        with torch.no_grad():
            radius = flow(x)[0].flatten(1).double().norm(dim=1).numpy()
        c = run.arrays[name]["complexity"][: len(x)]
        part = {"set": name, "C": c, "f": forward.numpy(), "inverse of f": backward.numpy()}
        spread = hypothesis.spread(x.flatten(1).double().numpy(), samples)
        parts.append(pd.DataFrame(part | {"radius": radius, "spread": spread}))
    return pd.concat(parts, ignore_index=True)


def inside_sets(measured: Mapping[tuple[str, str, int], pd.DataFrame]) -> pd.DataFrame:
    """Rank correlation of the local constants with complexity inside each set, and its mean over the sets.

    Images of one set resemble each other, so pooled images are no independent draws: sets stay apart, images are
    redrawn within them, the same for all flows, and seeds enter by Student's distribution (`intervals`).

    Args:
        measured: from `against_complexity`, by ID set, method (as printed) and seed.
    Returns:
        One row per id, method, side and set (`all sets`: the mean over sets): value, low, high, n_seeds, n (images a
        set), and `pooled`, the correlation over all images, which also follows the differences between sets.
    """
    rows = []
    for id_, method in dict.fromkeys((id_, method) for id_, method, _ in measured):
        of = [v for (i, m, _), v in measured.items() if (i, m) == (id_, method)]
        for side in SIDES:
            by_set = [_by_set(v, side) for v in of]
            pooled = np.mean([spearmanr(v["C"], v[side]).statistic for v in of])
            samples = {name: [b[name] for b in by_set] for name in by_set[0]}
            samples |= {"all sets": [Sample.average(list(b.values())) for b in by_set]}
            n = int(of[0].groupby("set").size().iloc[0])
            for name, drawn in samples.items():
                e = intervals.over(drawn, bounds=(-1, 1))
                key = {"id": id_, "method": method, "side": side, "set": name, "value": e.value, "low": e.low}
                rows.append(key | {"high": e.high, "n_seeds": len(of), "n": n, "pooled": pooled})
    return pd.DataFrame(rows)


def _by_set(values: pd.DataFrame, side: str) -> dict[str, Sample]:
    """Spearman's correlation inside each set; a redraw weighs the ranks of the images that were measured."""
    found = {}
    for name, part in values.groupby("set", sort=False):
        ranks = [rankdata(part[column]) for column in ("C", side)]
        drawn = intervals.of(f"{name}, local constants", ranks[0])
        found[name] = intervals.correlation({name: ranks[0]}, {name: ranks[1]}, [drawn])
    return found


# --- eq. (1) -----------------------------------------------------------------------------------------------


def eq_1_by_set(values: pd.DataFrame, d: int) -> pd.DataFrame:
    """Eq. (1) at every image, each with the ball that makes its left side largest; medians over each set.

    The constant is the local one at the image. That of a whole set A is no smaller, and the left side with it no
    larger, so an inequality that holds here holds for A.

    Args:
        values: from `against_complexity`.
        d: dimensions of an image.
    Returns:
        Indexed by set: C, epsilon, P(ball), left side, M(x), exp(C), and C_1 as eq. (1) (`C_1, left side`) and as
        the spread (`C_1, M(x)`) need it at least, over all images of the set.
    """
    typical = np.sqrt(d + np.square(values["radius"].to_numpy()))  # about the distance of z' from z
    epsilon = typical[:, None] * np.linspace(0.9, 1.1, 81)
    mass = hypothesis.ball_mass(values["radius"].to_numpy()[:, None], epsilon, d)
    left = hypothesis.left_side(epsilon, mass, values["f"].to_numpy()[:, None])
    best = (np.arange(len(left)), left.argmax(1))
    frame = values[["set", "C", "spread"]].rename(columns={"spread": "M(x)"})
    frame = frame.assign(epsilon=epsilon[best], mass=mass[best], left=left[best], exp=np.exp(frame["C"]))
    frame["C_1, left side"], frame["C_1, M(x)"] = frame["left"] / frame["exp"], frame["M(x)"] / frame["exp"]
    by_set = frame.groupby("set", sort=False)
    found = by_set.median()
    for column in ("C_1, left side", "C_1, M(x)"):
        found[column] = by_set[column].max()
    names = {"mass": "P(ball)", "left": "left side", "exp": "exp(C)"}
    return found.rename(columns=names)[
        ["C", "epsilon", "P(ball)", "left side", "M(x)", "exp(C)", "C_1, left side", "C_1, M(x)"]
    ]


def reading_of_eq_1(eq_1: pd.DataFrame) -> list[Said]:
    """What `eq_1_by_set` says of both halves. The left side goes with 1 / L^2, so L has the root of its slack."""
    slack, needed = (eq_1["left side"] / eq_1["M(x)"]).max(), eq_1["C_1, M(x)"]
    spare = 1 / np.sqrt(slack)
    return [
        (
            slack <= 1,
            f"The left side is at most {slack:.2g} of M(x). L could be {spare:.2g} times smaller before eq. (1) "
            "forbade it, so here eq. (1) does not force L to be as large as it is.",
            f"The left side exceeds M(x) {slack:.2g} times: the local constant bounds nothing farther away.",
        ),
        (
            True,
            f"For M(x) to obey the right half, C_1 has to be {needed.min():.2g} to {needed.max():.2g} by set.",
        ),
    ]
