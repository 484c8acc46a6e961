"""Subnets: the small networks inside a coupling block that predict its log-scale and shift."""

import itertools
from collections.abc import Callable

from torch import nn

__all__ = ["SubnetConstructor", "conv3x3", "linear"]

SubnetConstructor = Callable[[int, int], nn.Module]


def conv3x3(hidden: int = 64) -> SubnetConstructor:
    """Two 3x3 convolutions with a ReLU between them, for images (section 3.1).

    The paper says "two 3 x 3 convolutional layers with ReLU activations" and no width. There is no
    ReLU after the last layer: it predicts log-scales and shifts, which need both signs.

    Args:
        hidden: channels between the two layers; the paper names none, 64 is our reading (DECISIONS.md A10).
    Returns:
        A constructor ``(c_in, c_out) -> module`` mapping (b, c_in, h, w) to (b, c_out, h, w).
    """
    _check_positive(hidden=hidden)

    def construct(c_in: int, c_out: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(c_in, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, c_out, 3, padding=1),
        )

    return construct


def linear(hidden: int = 256, layers: int = 3) -> SubnetConstructor:
    """Fully connected layers with ReLU between them: 2-D toys (Appendix A) and text features (section 3.3).

    Args:
        hidden: width of the inner layers; 256 in Appendix A, 768 in section 3.3.
        layers: number of linear layers, at least two; three in Appendix A.
    Returns:
        A constructor ``(d_in, d_out) -> module`` mapping (b, d_in) to (b, d_out).
    """
    _check_positive(hidden=hidden, layers=layers)
    if layers < 2:
        raise ValueError(
            f"expected at least 2 layers, got {layers}; a single linear layer has no hidden width"
        )

    def construct(d_in: int, d_out: int) -> nn.Module:
        widths = [d_in, *[hidden] * (layers - 1), d_out]
        steps: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            steps += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*steps[:-1])  # no ReLU after the last layer

    return construct


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"expected {name} to be a positive integer, got {value!r}")
