"""Laws of the local Lipschitz constants: linear maps, full Jacobians, and the unit of x."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowood_core.flow import Flow, image_flow, vector_flow
from flowood_core.lipschitz import grad_logp, grad_sum_z, spectral, summarise

many = settings(max_examples=12, deadline=None)
matrices = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))
FLOWS = {
    "vector": lambda: vector_flow(6, blocks=3, hidden=8),
    "image": lambda: image_flow((3, 4, 4), blocks=3, hidden=4),
    "squeezed": lambda: image_flow((2, 4, 4), squeeze=1, blocks=3, hidden=4),
}
each_flow = pytest.mark.parametrize("name", FLOWS)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(name: str) -> tuple[Flow, torch.Tensor]:
    """A flow in float64 that bends space as a trained one does, and five inputs."""
    flow = FLOWS[name]().double()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in flow.parameters():
            if p.requires_grad:
                p += torch.randn(p.shape, generator=rng, dtype=p.dtype)
    return flow, normal(5, *flow.shape, seed=2)


def with_a_gap(rows: int, columns: int, seed: int) -> torch.Tensor:
    """A random matrix whose singular values fall by a factor of two, so that few iterations suffice."""
    u, _, v = torch.linalg.svd(normal(rows, columns, seed=seed), full_matrices=False)
    return 3 * (u * 0.5 ** torch.arange(u.shape[1])) @ v


def jacobians(f, x: torch.Tensor) -> list[np.ndarray]:
    """The oracle: the full matrix df/dx of one sample at a time."""
    found = []
    for one in x:
        full = torch.autograd.functional.jacobian(lambda v: f(v[None])[0].flatten(), one)
        found.append(full.reshape(len(full), -1).numpy())
    return found


def latent(flow: Flow):
    return lambda x: flow(x)[0]


# --- oracles ---------------------------------------------------------------------------------------------


@many
@given(matrices)
def test_of_a_linear_map_spectral_is_the_largest_singular_value(case):
    rows, columns, seed = case
    a, x = with_a_gap(rows, columns, seed), normal(3, columns, seed=seed + 1)
    sigma = np.linalg.svd(a.numpy(), compute_uv=False)[0]
    found = spectral(lambda v: v @ a.T, x, iterations=40)
    assert found.shape == (3,) and found.dtype == x.dtype
    assert np.allclose(found.numpy(), sigma, rtol=1e-6)
    assert (found <= sigma * (1 + 1e-12)).all(), "power iteration converges from below"


@many
@given(matrices)
def test_of_a_linear_map_grad_sum_z_is_the_norm_of_the_column_sums(case):
    rows, columns, seed = case
    a = normal(rows, columns, seed=seed)
    found = grad_sum_z(lambda v: v @ a.T, normal(3, columns))
    assert np.allclose(found.numpy(), np.linalg.norm(a.numpy().sum(0)))


@each_flow
def test_grad_logp_is_that_of_each_sample_alone(name):
    flow, x = example(name)
    expected = []
    for one in x:
        one = one.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(flow.log_prob(one[None])[0], one)
        expected.append(gradient.norm().item())
    assert grad_logp(flow.log_prob, x).tolist() == pytest.approx(expected)


@each_flow
def test_spectral_and_grad_sum_z_agree_with_the_full_jacobian(name):
    flow, x = example(name)
    full = jacobians(latent(flow), x)
    sigma = [np.linalg.svd(j, compute_uv=False)[0] for j in full]
    assert spectral(latent(flow), x, iterations=40).tolist() == pytest.approx(sigma, rel=1e-3)
    assert grad_sum_z(latent(flow), x).tolist() == pytest.approx(
        [np.linalg.norm(j.sum(0)) for j in full], rel=1e-6
    )


@each_flow
def test_the_inverse_map_gives_one_over_the_smallest_singular_value(name):
    flow, x = example(name)
    with torch.no_grad():
        z = flow(x)[0]
    smallest = [np.linalg.svd(j, compute_uv=False)[-1] for j in jacobians(latent(flow), x)]
    found = spectral(flow.inverse, z, iterations=40)
    assert (1 / found).tolist() == pytest.approx(smallest, rel=1e-3)


def test_the_three_readings_differ():
    flow, x = example("image")
    readings = [spectral(latent(flow), x), grad_sum_z(latent(flow), x), grad_logp(flow.log_prob, x)]
    for k in range(3):
        assert not torch.allclose(readings[k], readings[k - 1], rtol=0.2)


# --- invariances -----------------------------------------------------------------------------------------


@each_flow
def test_with_x_in_grey_levels_all_three_are_255_times_smaller(name):
    flow, x = example(name)
    f, log_prob = latent(flow), flow.log_prob
    grey = 255 * x
    pairs = [
        (grad_sum_z(f, x), grad_sum_z(lambda v: f(v / 255), grey)),
        (spectral(f, x), spectral(lambda v: f(v / 255), grey)),
        (grad_logp(log_prob, x), grad_logp(lambda v: log_prob(v / 255), grey)),
    ]
    for unit, per_level in pairs:
        assert torch.allclose(per_level, unit / 255, rtol=1e-9)


@each_flow
@pytest.mark.parametrize("reading", ["grad_sum_z", "grad_logp", "spectral"])
def test_a_batch_gives_what_its_samples_give_one_by_one(name, reading):
    flow, x = example(name)
    x = x[:3]
    measure = {
        "grad_sum_z": lambda v: grad_sum_z(latent(flow), v),
        "grad_logp": lambda v: grad_logp(flow.log_prob, v),
        "spectral": lambda v: spectral(latent(flow), v, iterations=30),  # forgets where it started
    }[reading]
    alone = torch.cat([measure(one[None]) for one in x])
    assert torch.allclose(measure(x), alone, rtol=1e-2)


def test_more_iterations_only_raise_spectral():
    flow, x = example("image")
    found = [spectral(latent(flow), x, iterations=n) for n in (1, 2, 5, 20)]
    assert all((b >= a * (1 - 1e-12)).all() for a, b in itertools.pairwise(found))


def test_twenty_iterations_are_within_a_percent():
    flow, x = example("image")
    sigma = [np.linalg.svd(j, compute_uv=False)[0] for j in jacobians(latent(flow), x)]
    assert np.median(np.abs(spectral(latent(flow), x).numpy() / sigma - 1)) < 0.01


def test_the_start_direction_is_seeded():
    flow, x = example("image")
    before = torch.get_rng_state()
    first = spectral(latent(flow), x, iterations=2)
    assert torch.equal(first, spectral(latent(flow), x, iterations=2))
    other = spectral(latent(flow), x, iterations=2, rng=torch.Generator().manual_seed(5))
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@each_flow
def test_nothing_is_left_behind(name):
    """No gradient on the parameters, no graph on the values, no change of x."""
    flow, x = example(name)
    kept = x.clone()
    values = [spectral(latent(flow), x), grad_sum_z(latent(flow), x), grad_logp(flow.log_prob, x)]
    assert all(p.grad is None for p in flow.parameters())
    assert not any(v.requires_grad for v in values)
    assert torch.equal(x, kept) and not x.requires_grad
    with torch.no_grad():
        assert torch.equal(grad_logp(flow.log_prob, x), values[2])
        assert torch.equal(spectral(latent(flow), x), values[0])


def test_spectral_evaluates_f_once_whatever_the_iterations():
    """Both products J v and J^T u come from graphs built once; memory and set-up do not grow with iterations."""
    a, calls = nn.Parameter(normal(4, 4)), []

    def f(v):
        calls.append(len(v))
        return v @ a

    spectral(f, normal(3, 4), iterations=5)
    assert calls == [3] and a.grad is None


# --- summary and errors ----------------------------------------------------------------------------------


@many
@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=50))
def test_the_summary_is_numpys(norms):
    found = summarise(torch.tensor(norms, dtype=torch.float32))
    assert found == {
        "max": pytest.approx(np.max(norms)),
        "median": pytest.approx(np.median(norms)),
        "q95": pytest.approx(np.quantile(norms, 0.95)),
        "n": len(norms),
    }


def test_a_map_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        spectral(torch.log, torch.tensor([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="finite"):
        spectral(lambda v: v / 0, torch.ones(1, 2))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="at least one iteration"):
        spectral(lambda v: v, torch.ones(1, 2), iterations=0)
    with pytest.raises(ValueError, match="at least one norm"):
        summarise(torch.empty(0))


def test_a_constant_map_has_constant_zero():
    x = normal(3, 4)
    assert spectral(lambda v: 0 * v, x).tolist() == [0, 0, 0]
    assert grad_sum_z(lambda v: 0 * v, x).tolist() == [0, 0, 0]
    assert math.isfinite(summarise(spectral(lambda v: 0 * v, x))["q95"])
