"""Fig. 2 and eq. (1) in numbers: what the flows of Appendix A do in the plane."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch

from flowood_core import flow as flows_
from flowood_core import hypothesis
from flowood_core.datasets.toys import Circles, Grid, Moons

__all__ = ["EPSILONS", "before_the_push", "eq_1", "eq_1_by_epsilon", "eq_1_of", "eq_1_table", "in_numbers",
           "in_the_box", "moved"]  # fmt: skip

EPSILONS = np.geomspace(0.05, 8, 60)  # radii of the ball; the latents of ID samples have a norm of about 1.4
Flows = Mapping[tuple[str, str], flows_.Flow]


def in_the_box(flow: flows_.Flow, grid: Grid, seed: int) -> tuple[np.ndarray, float, float]:
    """log p of every cell in nats, and the mass in the box twice: by the cells, and as the share of samples.

    The first goes through f and its determinant, the second through the inverse alone.
    """
    log_p = flows_.densities(flow, grid.centres, batch_size=4096)[1]
    return log_p, float(np.exp(log_p).sum() * grid.area), grid.share(flow.sample, seed)


def before_the_push(
    data: Mapping[str, Moons | Circles],
    flows: Flows,
    x: Mapping[str, torch.Tensor],
    taus: tuple[float, ...],
    rng: torch.Generator,
) -> pd.DataFrame:
    """Where outliers lie under the flows that were trained without: how hard would eq. (3) push them?

    Args:
        data, x: by data set; as many outliers are drawn as x has points.
        taus: thresholds in nats.
    Returns:
        Indexed by set: share of the outliers with log p < 0, and the mean slope of eq. (3) by threshold, in [0, 1].
    """
    rows = {}
    for name, of in data.items():
        log_p = flows_.densities(flows[name, "without"], of.outliers(x[name], rng=rng), batch_size=2000)[1]
        slopes = {f"slope, tau = {tau:g}": float((1 / (1 + np.exp(tau - log_p))).mean()) for tau in taus}
        rows[name] = {"log p < 0": float((log_p < 0).mean())} | slopes
    return pd.DataFrame(rows).T


def in_numbers(
    name: str,
    data: Moons | Circles,
    flows: Flows,
    log_p: Mapping[tuple[str, str], np.ndarray],
    grid: Grid,
    seed: int,
) -> pd.DataFrame:
    """Held-out log-likelihood; mass and mean density by region; one column for the data, one per flow.

    Args:
        name: of the data set.
        flows, log_p: by data set and kind of training; log_p on the cells of the grid, nats.
        seed: of the notebook; held-out points are drawn with seeds of their own.
    Returns:
        Indexed by set, where, quantity.
    """
    hows = [how for set_, how in flows if set_ == name]
    held_out = data.points(2000, seed + 1_000_000)
    fit = {how: flows_.densities(flows[name, how], held_out, batch_size=2000)[1].mean() for how in hows}
    rows = {(name, "held-out ID", "log p [nats]"): fit}
    share = data.regions(data.points(100_000, seed + 2_000_000))
    for region, inside in data.regions(grid.centres).items():
        cells = inside.numpy()
        mass = {how: np.exp(log_p[name, how][cells]).sum() * grid.area for how in hows}
        rows[name, region, "mass"] = {"data": share[region].float().mean().item()} | mass
        rows[name, region, "mean density"] = {how: m / (cells.sum() * grid.area) for how, m in mass.items()}
    return pd.DataFrame(rows).T.rename_axis(["set", "where", "quantity"])[["data", *hows]]


def moved(table: pd.DataFrame, before: str, after: str) -> Iterator[tuple[bool, str]]:
    """A sentence for each row that has both numbers, made of the numbers; for `figures.read`."""
    for (name, where, quantity), row in table.dropna(subset=[before, after]).iterrows():
        old, new = row[before], row[after]
        if quantity == "mass":
            verb = "falls" if new < 0.9 * old else "rises" if new > 1.1 * old else "hardly moves"
            yield True, f"{name}, {where}: the mass {verb}, {old:.3f} to {new:.3f} (data {row['data']:.3f})."
        elif where == "held-out ID":
            yield True, f"{name}, held-out ID: log p changes by {new - old:+.3f} nats."


def eq_1_by_epsilon(flow: flows_.Flow, x: torch.Tensor, log_p: np.ndarray, grid: Grid) -> pd.DataFrame:
    """Eq. (1) at points x for balls of all radii (`EPSILONS`).

    Returns:
        One row per point and radius: point, epsilon, mass (P of the ball, by formula), outside (its complement by
        quadrature over the box), left (side of eq. 1, with `outside`), spread (M(x) over the box), and L (the largest
        sigma_max over the cells, the same everywhere).
    """
    with torch.no_grad():
        z, z_cells = (flow(v)[0].double().numpy() for v in (x, grid.centres))
    constant = hypothesis.jacobian_norm(lambda v: flow(v)[0], grid.centres).max()
    cells = grid.centres.double().numpy(), z_cells, np.exp(log_p) * grid.area
    outside, spread = hypothesis.outside_and_spread(x.double().numpy(), z, cells, EPSILONS)
    mass = hypothesis.ball_mass(np.linalg.norm(z, axis=1)[:, None], EPSILONS, z.shape[1])
    left = hypothesis.left_side(EPSILONS, 1 - outside, constant)
    n, k = left.shape
    columns = {"point": np.repeat(np.arange(n), k), "epsilon": np.tile(EPSILONS, n), "mass": mass.ravel()}
    columns |= {"outside": outside.ravel(), "left": left.ravel(), "spread": np.repeat(spread, k)}
    return pd.DataFrame(columns | {"L": constant})


def eq_1_of(
    flows: Flows,
    points: Mapping[tuple[str, str], torch.Tensor],
    log_p: Mapping[tuple[str, str], np.ndarray],
    grids: Mapping[str, Grid],
    hows: tuple[str, ...],
) -> dict[tuple[str, str, str], pd.DataFrame]:
    """`eq_1_by_epsilon` by data set, kind of training and kind of points.

    Args:
        points: by data set and kind of points. log_p: on the cells of the grids, by data set and kind of training.
    """
    return {
        (name, how, kind): eq_1_by_epsilon(flows[name, how], x, log_p[name, how], grids[name])
        for (name, kind), x in points.items()
        for how in hows
    }


def eq_1(by_epsilon: pd.DataFrame, local: np.ndarray) -> dict[str, float]:
    """Eq. (1) of one flow in a row: each point at the radius that makes its left side largest.

    Args:
        by_epsilon: from `eq_1_by_epsilon`.
        local: sigma_max at the points themselves.
    """
    best = by_epsilon.loc[by_epsilon.groupby("point")["left"].idxmax()]
    return {
        "L in the box": best["L"].iloc[0],
        "L at the points": float(np.median(local)),
        "epsilon": best["epsilon"].median(),
        "P(ball)": best["mass"].median(),
        "left side": best["left"].median(),
        "M(x)": best["spread"].median(),
        "largest left / M(x)": (best["left"] / best["spread"]).max(),
    }


def eq_1_table(
    flows: Flows,
    found: Mapping[tuple[str, str, str], pd.DataFrame],
    points: Mapping[tuple[str, str], torch.Tensor],
) -> pd.DataFrame:
    """`eq_1` of every flow and kind of points.

    Args:
        found: from `eq_1_by_epsilon`, by data set, kind of training, kind of points.
        points: by data set and kind of points.
    """
    rows = {}
    for (name, how, kind), by_epsilon in found.items():
        local = hypothesis.jacobian_norm(lambda v, f=flows[name, how]: f(v)[0], points[name, kind])
        rows[name, how, kind] = eq_1(by_epsilon, local)
    return pd.DataFrame(rows).T.rename_axis(["set", "outliers", "points"])
