"""Laws of eq. (1): the ball's mass, the spread, and Chebyshev's step on maps whose constant is known."""

import numpy as np
import pytest
import torch

from flowood_core import hypothesis


@pytest.mark.parametrize(("d", "radius"), [(2, 0.0), (2, 1.5), (30, 4.0)])
def test_the_mass_of_the_ball_is_the_share_of_draws_in_it(d, radius):
    rng, z = np.random.default_rng(0), np.zeros(d)
    z[0] = radius
    away = np.linalg.norm(rng.normal(size=(100_000, d)) - z, axis=1)
    for epsilon in np.quantile(away, (0.1, 0.5, 0.9)):
        assert hypothesis.ball_mass(radius, epsilon, d) == pytest.approx((away < epsilon).mean(), abs=0.006)


def test_in_the_dimensions_of_an_image_the_median_ball_reaches_the_typical_distance():
    for radius in (40, 200, 30_000):
        assert hypothesis.ball_mass(radius, np.sqrt(3072 + radius**2), 3072) == pytest.approx(0.5, abs=0.01)


def test_the_spread_is_the_mean_squared_distance():
    rng = np.random.default_rng(1)
    x, samples = rng.normal(size=(4, 3)), rng.normal(2, 3, size=(50, 3))
    expected = np.square(x[:, None] - samples).sum(2).mean(1)
    assert hypothesis.spread(x, samples) == pytest.approx(expected)


def test_the_first_step_holds_for_a_linear_map_and_quadrature_agrees_with_the_formula():
    a = np.array([[2.0, 0.5], [0.0, 1.5]])
    axis = np.arange(-6, 6, 0.1) + 0.05
    z_cells = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    mass = np.exp(-0.5 * np.square(z_cells).sum(1)) / (2 * np.pi) * 0.01
    x_cells = z_cells @ np.linalg.inv(a).T
    z, epsilon = np.array([[0.0, 0.0], [1.0, -1.0]]), np.geomspace(0.3, 5, 20)
    cells = (x_cells, z_cells, mass)
    outside, spread = hypothesis.outside_and_spread(z @ np.linalg.inv(a).T, z, cells, epsilon)
    formula = hypothesis.ball_mass(np.linalg.norm(z, axis=1)[:, None], epsilon, 2)
    assert np.abs(1 - outside - formula).max() < 0.02
    constant = np.linalg.svd(a, compute_uv=False)[0]
    left = hypothesis.left_side(epsilon, 1 - outside, constant)
    assert (left <= spread[:, None]).all() and left.max() > 0.05 * spread.max(), "holds, and not emptily"


def test_of_a_linear_map_the_norm_of_the_jacobian_is_the_largest_singular_value():
    a = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    x = torch.zeros(3, 2, dtype=torch.float64)
    found = hypothesis.jacobian_norm(lambda v: v @ a.T, x)
    assert found == pytest.approx([torch.linalg.svdvals(a)[0].item()] * 3)
