"""The learning objective, equations (2) and (3): likelihood up on ID, down on outliers.

All functions take log-densities, never a flow, so that any model trains with the same two lines.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["loss_id", "loss_ood", "loss_total", "penalty"]


def loss_id(log_px: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """L_ID = -log p_X(x), eq. (2), mean over the batch, in nats.

    Args:
        log_px: log-density of ID samples, determinant and constant included, in nats.
    """
    return -log_px.mean()


def penalty(
    log_px_out: Float[Tensor, " b"], *, tau: float = 0.0, temperature: float = 1.0
) -> Float[Tensor, " b"]:
    """The term of eq. (3) for each outlier: T softplus((log p_X(x') - tau) / T), in nats.

    tau = 0 and T = 1 is the paper, for x scaled to [0, 1]. The paper's "no manual threshold" holds for
    that scaling only: softplus is a hinge at density 1 *in the units of x*, and rescaling x by s moves
    log p by -D log s. Move tau by the same amount and nothing changes (tested). Neighbours are members
    of the family: T = 1000 is Schirrmeister et al. (2020), T = 0 is the hinge max(log p - tau, 0), whose
    gradient is that of Kirichenko et al.'s mask and of Schmier et al.'s clamp.

    Args:
        log_px_out: log-density of outliers, in nats.
        tau: threshold in nats; outliers far below it exert no gradient.
        temperature: width of the transition in nats; 0 is the hard hinge.
    Returns:
        One penalty per outlier; its gradient is sigmoid((log p - tau) / T), between 0 and 1.
    Raises:
        ValueError: negative temperature.
    """
    if not temperature >= 0:
        raise ValueError(
            f"expected temperature >= 0 nats, got {temperature}; 1 is the paper, 0 the hard hinge"
        )
    if temperature == 0:
        return F.relu(log_px_out - tau)
    # F.softplus turns linear above 20, so that 1e6 nats stay finite in float32 and in bfloat16
    return temperature * F.softplus((log_px_out - tau) / temperature)


def loss_ood(
    log_px_out: Float[Tensor, " b"], *, tau: float = 0.0, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """L_OOD = log(1 + p_X(x')), eq. (3), mean over the batch, in nats. See `penalty` for tau and T."""
    return penalty(log_px_out, tau=tau, temperature=temperature).mean()


def loss_total(
    log_px: Float[Tensor, " b"],
    is_outlier: Bool[Tensor, " b"],
    *,
    tau: float = 0.0,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """L_total = L_ID + L_OOD over one mixed batch: (sum over ID + sum over outliers) / batch size.

    The paper balances the terms by the probability of drawing an outlier "instead of utilizing weights".
    That sentence is true only of this sum: two means would each weigh one half whatever the
    probability (DECISIONS.md A12).

    Args:
        log_px: log-density of every sample of the batch, in nats.
        is_outlier: True where the sample is a synthetic outlier x'.
    Raises:
        ValueError: shapes differ.
    """
    if log_px.shape != is_outlier.shape:
        raise ValueError(
            f"expected one flag per log-density, got shapes {tuple(log_px.shape)} and {tuple(is_outlier.shape)}"
        )
    out = penalty(log_px, tau=tau, temperature=temperature)
    return torch.where(is_outlier, out, -log_px).sum() / log_px.shape[0]
