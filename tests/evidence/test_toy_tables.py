"""Laws of the plane: two ways to a mass, and the slope of eq. (3) where outliers lie."""

import numpy as np
import pytest
import torch

from flowood_core import objective
from flowood_core.datasets import toys
from flowood_core.evidence import toy_tables
from flowood_core.flow import densities, vector_flow
from flowood_core.notebook import figures

DATA = {"moons": toys.Moons(), "circles": toys.Circles()}


@pytest.fixture(scope="module")
def flows():
    made = {(name, "without"): vector_flow(2, blocks=2, hidden=8, seed=0) for name in DATA}
    for (name, _), flow in made.items():
        flow.initialise(DATA[name].points(200, 0))
    return made


def test_the_mass_in_the_box_is_the_share_of_samples(flows):
    grid = toys.Grid(DATA["moons"].box, 0.05)
    log_p, by_grid, by_samples = toy_tables.in_the_box(flows["moons", "without"], grid, 0)
    assert len(log_p) == len(grid.centres) and by_grid == pytest.approx(by_samples, abs=0.02)


def test_the_slope_is_that_of_the_penalty(flows):
    x = {name: data.points(150, 1) for name, data in DATA.items()}
    found = toy_tables.before_the_push(DATA, flows, x, (0.0, -3.0), torch.Generator().manual_seed(0))
    drawn = DATA["moons"].outliers(x["moons"], rng=torch.Generator().manual_seed(0))
    log_p = torch.from_numpy(densities(flows["moons", "without"], drawn)[1]).requires_grad_()
    (slope,) = torch.autograd.grad(objective.penalty(log_p, tau=-3.0).sum(), log_p)
    assert found["slope, tau = -3"]["moons"] == pytest.approx(slope.mean().item(), rel=1e-6)
    assert found["log p < 0"]["moons"] == pytest.approx((log_p < 0).double().mean().item())


def test_both_sides_of_eq_1_draw_in_their_order(flows):
    grids = {name: toys.Grid(data.box, 0.2) for name, data in DATA.items()}
    log_p = {key: toy_tables.in_the_box(flow, grids[key[0]], 0)[0] for key, flow in flows.items()}
    points = {(name, "ID"): data.points(5, 2) for name, data in DATA.items()}
    found = toy_tables.eq_1_of(flows, points, log_p, grids, ("without",))
    assert set(found) == {("moons", "without", "ID"), ("circles", "without", "ID")}
    _, ax = figures.figure("single")
    figures.draw_sides(ax, {"without": found["moons", "without", "ID"]})
    left, spread = (line.get_ydata() for line in ax.lines)
    assert (np.asarray(left) <= np.asarray(spread)).all() and ax.get_yscale() == "log"
