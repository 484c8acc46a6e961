"""Laws of eq. 2-3: the gradient of the penalty, its hidden unit, and numbers that stay finite."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from torch import nn

from flowood_core.flow import vector_flow
from flowood_core.objective import loss_id, loss_ood, loss_total, penalty

many = settings(max_examples=100, deadline=None)
nats = st.floats(-1e4, 1e4)
batch = st.lists(nats, min_size=1, max_size=20)
flagged = st.lists(st.tuples(nats, st.booleans()), min_size=1, max_size=20)
thresholds = st.floats(-1e3, 1e3)
temperatures = st.floats(1e-2, 1e3)


def double(values, requires_grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


# --- eq. 3, term by term ---------------------------------------------------------------------------------


@many
@given(batch, thresholds, temperatures)
def test_outlier_gradient_is_sigmoid_of_log_p(log_px, tau, temperature):
    x = double(log_px, requires_grad=True)
    loss_ood(x, tau=tau, temperature=temperature).backward()
    expected = expit((np.array(log_px) - tau) / temperature) / len(log_px)
    assert np.allclose(x.grad.numpy(), expected, atol=1e-8)


@many
@given(st.lists(st.floats(-700, 700), min_size=1, max_size=20))
def test_the_loss_is_log_of_one_plus_p(log_px):
    expected = np.log1p(np.exp(np.array(log_px))).mean()  # p itself fits into a float64
    assert loss_ood(double(log_px)).item() == pytest.approx(expected, rel=1e-8, abs=1e-300)


def test_density_one_costs_log_two():
    assert penalty(double([0.0])).item() == pytest.approx(math.log(2))


@many
@given(batch, thresholds, temperatures)
def test_temperature_zero_is_the_hinge_and_the_limit_of_small_ones(log_px, tau, temperature):
    x = double(log_px)
    hinge = penalty(x, tau=tau, temperature=0)
    assert np.array_equal(hinge.numpy(), np.maximum(np.array(log_px) - tau, 0))
    gap = penalty(x, tau=tau, temperature=temperature) - hinge
    assert gap.min() >= -1e-9 and gap.max() <= temperature * math.log(2) + 1e-9  # -> 0 with T


def test_the_gradient_of_the_hinge_is_a_mask():
    x = double([-10.0, -1.0, 1.0, 10.0], requires_grad=True)
    penalty(x, tau=0.5, temperature=0).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1]


@many
@given(nats, nats, st.floats(0, 1), thresholds, st.one_of(st.just(0.0), temperatures))
def test_the_penalty_is_monotone_convex_and_above_the_hinge(a, b, share, tau, temperature):
    a, b = min(a, b), max(a, b)
    middle = share * a + (1 - share) * b
    at_a, at_b, at_middle = penalty(double([a, b, middle]), tau=tau, temperature=temperature).tolist()
    slack = 1e-7 * max(temperature, 1)  # softplus turns exactly linear above 20
    assert at_a <= at_b + slack
    assert at_middle <= share * at_a + (1 - share) * at_b + slack
    assert at_a >= max(a - tau, 0) - slack


# --- the batch -------------------------------------------------------------------------------------------


@many
@given(flagged, thresholds, temperatures)
def test_the_total_is_the_sum_over_the_batch_divided_by_its_size(samples, tau, temperature):
    log_px, flags = zip(*samples, strict=True)
    family = {"tau": tau, "temperature": temperature}
    total = loss_total(double(log_px), torch.tensor(flags), **family).item()
    sum_id = sum(-v for v, out in samples if not out)
    sum_out = sum(penalty(double([v]), **family).item() for v, out in samples if out)
    assert total == pytest.approx((sum_id + sum_out) / len(samples), rel=1e-9, abs=1e-9)


@many
@given(batch, thresholds, temperatures)
def test_without_outliers_the_total_is_eq_2_and_with_nothing_else_eq_3(log_px, tau, temperature):
    x, family = double(log_px), {"tau": tau, "temperature": temperature}
    none, every = torch.zeros(len(x), dtype=torch.bool), torch.ones(len(x), dtype=torch.bool)
    assert loss_total(x, none, **family).item() == pytest.approx(loss_id(x).item(), rel=1e-9, abs=1e-9)
    assert loss_id(x).item() == pytest.approx(-np.mean(log_px), rel=1e-9, abs=1e-9)
    assert loss_total(x, every, **family).item() == pytest.approx(
        loss_ood(x, **family).item(), rel=1e-9, abs=1e-9
    )


@many
@given(flagged)
def test_each_sample_gets_the_gradient_of_its_own_term(samples):
    log_px, flags = map(np.array, zip(*samples, strict=True))
    x = double(log_px, requires_grad=True)
    loss_total(x, torch.from_numpy(flags)).backward()
    assert np.allclose(x.grad.numpy(), np.where(flags, expit(log_px), -1) / len(x), atol=1e-8)


# --- the hidden unit -------------------------------------------------------------------------------------


class Rescaled(nn.Module):
    """The density of y = s x, when the flow is that of x."""

    def __init__(self, flow: nn.Module, s: float):
        super().__init__()
        self.flow, self.s = flow, s

    def log_prob(self, y):
        return self.flow.log_prob(y / self.s) - self.flow.d * math.log(self.s)


@pytest.mark.parametrize("s", [255.0, 0.01])
@pytest.mark.parametrize("temperature", [0, 1, 30])
def test_rescaling_x_changes_nothing_when_tau_moves_along(s, temperature):
    d, tau = 4, -5.0
    flow = vector_flow(d, blocks=3, hidden=8).double()
    x = torch.randn(32, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = -d * math.log(s)
    log_px, log_py = flow.log_prob(x), Rescaled(flow, s).log_prob(s * x)
    assert torch.allclose(log_py, log_px + shift)

    trained = [p for p in flow.parameters() if p.requires_grad]

    def penalty_and_gradient(log_p, tau):
        loss = loss_ood(log_p, tau=tau, temperature=temperature)
        gradients = torch.autograd.grad(loss, trained, retain_graph=True)
        return loss, torch.cat([g.flatten() for g in gradients])

    before, gradient = penalty_and_gradient(log_px, tau)
    moved, same = penalty_and_gradient(log_py, tau + shift)
    assert torch.allclose(moved, before) and torch.allclose(same, gradient)
    left, other = penalty_and_gradient(log_py, tau)  # the paper's threshold stays at density 1
    assert not torch.allclose(left, before, rtol=0.1) and not torch.allclose(other, gradient, rtol=0.1)


# --- finite numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0, 1, 1000])
@pytest.mark.parametrize("log_px", [1e6, -1e6])
@pytest.mark.parametrize("is_outlier", [True, False])
def test_a_million_nats_stay_finite(dtype, temperature, log_px, is_outlier):
    x = torch.full((4,), log_px, dtype=dtype, requires_grad=True)
    loss = loss_total(x, torch.full((4,), is_outlier), temperature=temperature)
    loss.backward()
    expected = max(log_px, 0) if is_outlier else -log_px
    assert loss.item() == pytest.approx(expected, rel=0.01)
    slope = (1.0 if log_px > 0 else 0.0) if is_outlier else -1.0
    assert x.grad.tolist() == [slope / 4] * 4


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [-1, -1e-9, math.nan])
@pytest.mark.parametrize("loss", [penalty, loss_ood])
def test_a_negative_temperature_is_refused(loss, temperature):
    with pytest.raises(ValueError, match="expected temperature >= 0"):
        loss(torch.zeros(3), temperature=temperature)


@pytest.mark.parametrize("n_flags", [1, 2, 4])
def test_each_log_density_needs_its_flag(n_flags):
    with pytest.raises(ValueError, match="one flag per log-density"):
        loss_total(torch.zeros(3), torch.zeros(n_flags, dtype=torch.bool))
