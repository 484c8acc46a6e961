"""The flow that a detector builds for data: its plan, as plain values; the flow of a plan; its start on the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowood_core.anyflow import adapt
from flowood_core.flow import Flow, dequantise, image_flow, vector_flow

__all__ = ["build", "plan_for", "plan_of", "started"]


def plan_for(x: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
    """How to build a flow for these samples.

    Args:
        settings: with blocks, hidden and seed.
    Raises:
        ValueError: neither 8-bit images nor rows of two columns or more; grey images with an odd side.
    """
    if x.dtype == torch.uint8:
        if x.shape[1] == 1 and (x.shape[2] % 2 or x.shape[3] % 2):
            raise ValueError(
                f"expected grey images with even sides, which can be squeezed into channels, got {x.shape[2]}x"
                f"{x.shape[3]}; crop or pad them by a pixel, or read files by Folder(size=...)"
            )
        squeeze = int(x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0)
        plan: dict[str, Any] = {"type": "image_flow", "shape": list(x.shape[1:]), "squeeze": squeeze}
    elif x.ndim == 2 and x.shape[1] >= 2:
        plan = {"type": "vector_flow", "d": x.shape[1]}
    else:
        raise ValueError(
            f"expected 8-bit images (n, c, h, w) or floats (n, d) with d of 2 or more, got {x.dtype} shaped "
            f"{tuple(x.shape)}; give images as uint8 0..255, or a flow of your own"
        )
    return plan | {name: settings[name] for name in ("blocks", "hidden", "seed")}


def build(plan: dict[str, Any]) -> nn.Module:
    """The untrained flow of a plan."""
    plan = dict(plan)
    if plan.pop("type") == "image_flow":
        plan.pop("bare", None)
        return image_flow(tuple(plan.pop("shape")), **plan)
    d = plan.pop("d")
    if plan.pop("bare", False):
        return vector_flow(d, **plan)
    return adapt.Adapted(vector_flow(d, **plan), "pair", shift=torch.zeros(d), scale=torch.ones(d))


def plan_of(flow: nn.Module) -> dict[str, Any] | None:
    """How to build a flow of this package anew, read off its layers; None where that does not give the same weights."""
    if not isinstance(flow, Flow) or not len(flow.blocks):
        return None
    layers = [m for m in flow.blocks[0].modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if len(flow.shape) == 3 and isinstance(layers[0], nn.Conv2d):
        plan = {"type": "image_flow", "shape": list(flow.shape), "squeeze": flow.squeeze}
        plan |= {"blocks": len(flow.blocks), "hidden": layers[0].out_channels, "seed": 0}
    elif len(flow.shape) == 1 and isinstance(layers[0], nn.Linear):
        plan = {"type": "vector_flow", "d": flow.d, "layers": len(layers)}
        plan |= {"blocks": len(flow.blocks), "hidden": layers[0].out_features, "seed": 0}
    else:
        return None
    try:
        again = build(plan)
    except (TypeError, ValueError):
        return None
    again = again if isinstance(again, Flow) else again.flow
    shapes = [{name: t.shape for name, t in f.state_dict().items()} for f in (flow, again)]
    return plan | {"bare": True} if shapes[0] == shapes[1] else None


def started(flow: nn.Module, x: Tensor) -> nn.Module:
    """A flow that was built, with a start fitted to the data; rows are standardised in the precision they came in."""
    if isinstance(flow, Flow):
        return flow.initialise(dequantise(x[:512].cpu()))
    x = x.cpu()
    sd = x.std(0)
    flow.shift.copy_(x.mean(0))
    flow.scale.copy_(torch.where(sd > 0, sd, 1.0))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    flow.flow.initialise(((x - flow.shift) / flow.scale + 1e-3 * noise)[:512])
    return flow
