"""Laws of the subnets: shapes, layers, and an output that takes both signs."""

import pytest
import torch
from torch import nn

from flowood_core import subnets

SUBNETS = {  # constructor, channels in and out, spatial size, widths of the layers
    "conv3x3": (subnets.conv3x3(), 2, 2, (8, 8), [2, 64, 2]),
    "conv3x3 narrow": (subnets.conv3x3(5), 3, 8, (4, 6), [3, 5, 8]),
    "linear": (subnets.linear(), 1, 2, (), [1, 256, 256, 2]),
    "linear of two": (subnets.linear(16, 2), 384, 768, (), [384, 16, 768]),
    "linear of five": (subnets.linear(7, layers=5), 3, 4, (), [3, 7, 7, 7, 7, 4]),
}
each_subnet = pytest.mark.parametrize("name", SUBNETS)


def built(name: str) -> tuple[nn.Module, torch.Tensor]:
    construct, c_in, c_out, size, _ = SUBNETS[name]
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return construct(c_in, c_out), torch.randn(64, c_in, *size, generator=rng)


def layers(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@each_subnet
def test_only_the_number_of_channels_changes(name):
    net, x = built(name)
    assert net(x).shape == (64, SUBNETS[name][2], *SUBNETS[name][3])


@each_subnet
def test_layers_have_the_named_widths_with_relu_between_them(name):
    net, _ = built(name)
    assert [m.weight.shape[1] for m in layers(net)] == SUBNETS[name][4][:-1]
    assert [m.weight.shape[0] for m in layers(net)] == SUBNETS[name][4][1:]
    kinds = [type(m) for m in net]
    assert kinds == ([type(layers(net)[0]), nn.ReLU] * len(layers(net)))[:-1]


@each_subnet
def test_the_output_takes_both_signs(name):
    """No ReLU after the last layer: log-scales and shifts need both."""
    net, x = built(name)
    with torch.no_grad():
        out = net(x)
    assert 0.01 < (out < 0).float().mean() < 0.99


def test_two_convolutions_see_five_by_five_pixels():
    net = subnets.conv3x3(16)(1, 1)
    x = torch.zeros(1, 1, 11, 11, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0, 0, 5, 5], x)
    seen = gradient[0, 0] != 0
    assert seen[3:8, 3:8].any() and not seen[:3].any() and not seen[8:].any()
    assert not seen[:, :3].any() and not seen[:, 8:].any()


def test_each_call_makes_new_weights():
    construct = subnets.linear(8)
    a, b = construct(2, 2), construct(2, 2)
    assert not torch.equal(a[0].weight, b[0].weight)


@pytest.mark.parametrize("width", [0, -1, 2.5, True, "64", None])
@pytest.mark.parametrize("subnet", [subnets.conv3x3, subnets.linear])
def test_widths_are_positive_integers(subnet, width):
    with pytest.raises(ValueError, match="expected hidden to be a positive integer"):
        subnet(width)


@pytest.mark.parametrize("n, message", [(1, "at least 2 layers"), (0, "positive integer"), (2.0, "positive")])
def test_fewer_than_two_layers_are_refused(n, message):
    with pytest.raises(ValueError, match=message):
        subnets.linear(8, layers=n)
