"""Laws of the toys of Appendix A: where outliers are drawn, and a grid that integrates."""

import pytest
import torch

from flowood_core.datasets import toys


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_outliers_of_the_circles_fill_the_centre_and_the_ring_by_halves():
    data = toys.Circles()
    regions = data.regions(data.outliers(torch.zeros(4000, 2), rng=rng()))
    centre, ring = (regions[name].double().mean().item() for name in ("centre", "ring"))
    assert centre == pytest.approx(0.5, abs=0.03) and centre + ring == pytest.approx(1, abs=0.001)


def test_rejected_outliers_of_the_moons_keep_their_distance_and_their_number():
    near, far = toys.Moons(), toys.Moons(reject=3)
    x = torch.zeros(500, 2)
    assert len(near.outliers(x, rng=rng())) == len(far.outliers(x, rng=rng())) == 500
    assert (
        toys.to_moon(near.outliers(x, rng=rng())).min()
        < 0.15
        <= toys.to_moon(far.outliers(x, rng=rng())).min()
    )


def test_points_of_a_seed_are_the_same_and_lie_in_the_box():
    for data in (toys.Moons(), toys.Circles()):
        x = data.points(1000, 3)
        assert torch.equal(x, data.points(1000, 3))
        assert toys.Grid(data.box, 0.1).share(lambda n, rng, x=x: x, 0) == 1


def test_a_grid_integrates_and_goes_row_by_row_from_below():
    grid = toys.Grid((-4.0, 4.0, -3.0, 5.0), 0.1)
    density = torch.distributions.Normal(0.0, 0.5).log_prob(grid.centres).sum(1).exp()
    assert (density.sum() * grid.area).item() == pytest.approx(1, abs=1e-3)
    assert len(grid.centres) == 80 * grid.rows
    assert grid.centres[0].tolist() == pytest.approx([-3.95, -2.95])
    assert grid.centres[1].tolist() == pytest.approx([-3.85, -2.95])
