"""How a flow is asked for its density: found out by asking it, with two samples, not by its class name.

FrEIA, zuko, nflows, normflows and hand-written modules differ in who computes the density and what it is called. What
can be read in two ways is refused, with both readings named.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowood_core.anyflow.check import FlowError

__all__ = [
    "KINDS",
    "bare",
    "bound_to_train",
    "check_condition",
    "kind_of",
    "log_px",
    "log_pz",
    "pair",
    "shows_latent",
]

KINDS = {
    "pair": "flow(x) -> (z, log_det), z standard normal (FrEIA, own)",
    "own_base": "flow(x) -> (z, log_det) and log_prob(x), with a latent of its own",
    "log_prob": "log_prob(x) alone; the determinant cannot be seen",
    "distribution": "flow() -> a distribution with log_prob",
    "zuko": "flow() -> a distribution with transform and base",
    "nflows": "log_prob(x), with the transform and the base inside (nflows)",
    "normflows": "inverse_and_log_det(x) -> (z, log_det), with the base or bases q0 (normflows)",
}
"""Kind of flow: how it is asked."""

_TOLERANCE = 1e-3  # of a log-density, relative above 1 nat: float32 over thousands of dimensions


@contextlib.contextmanager
def bound_to_train() -> Iterator[None]:
    """Gradients on, whatever the caller has switched off (`no_grad`, `inference_mode`)."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def bare(flow: Any) -> tuple[Any, str]:
    """The module inside `torch.compile`, `DataParallel`, `DistributedDataParallel`, and what was taken off, in words.

    The weights are shared: what is trained inside is trained outside.
    """
    taken = []
    while True:
        if isinstance(flow, nn.DataParallel | nn.parallel.DistributedDataParallel):
            taken.append(type(flow).__name__)
            flow = flow.module
        elif isinstance(flow, nn.Module) and "_orig_mod" in flow._modules:
            taken.append("torch.compile")
            flow = flow._orig_mod
        else:
            return flow, f"taken out of {', '.join(taken)}" if taken else ""


def kind_of(flow: nn.Module, x: Tensor | None = None) -> str:
    """One of `KINDS`.

    Args:
        x: two samples or more as the flow takes them; without them only the structure is looked at.
    Raises:
        TypeError: the flow needs more than x. FlowError: it cannot be asked, or in two ways that disagree.
    """
    if callable(getattr(flow, "inverse_and_log_det", None)) and hasattr(flow, "q0"):
        return "normflows"
    can_log_prob = callable(getattr(flow, "log_prob", None))
    if can_log_prob and callable(getattr(flow, "_transform", None)) and hasattr(flow, "_distribution"):
        return "nflows"
    made = None if can_log_prob else _distribution_of(flow)
    if made is not None:
        has_parts = callable(getattr(getattr(made, "transform", None), "call_and_ladj", None))
        return "zuko" if has_parts and hasattr(made, "base") else "distribution"
    if x is None:
        return "log_prob" if can_log_prob else "pair"
    if not can_log_prob:
        _asked(flow, flow, x)
        return "pair"
    _asked(flow, flow.log_prob, x)
    try:
        with torch.no_grad():
            z, ladj = pair("pair", flow, x)
    except Exception:  # its call is for something else, sampling or a loss
        return "log_prob"
    _check_agreement(flow, x, z, ladj)
    return "pair"


def check_condition(kind: str, flow: nn.Module, x: Tensor) -> None:
    """Refuse a conditional flow that would compute something without its condition.

    It is one if its call takes something more that may be left out, and parts of it have no part in log p then.

    Raises:
        FlowError: names what was left out.
    """
    doors = [getattr(flow, name, None) for name in ("forward", "log_prob", "inverse_and_log_det")]
    extra = dict.fromkeys(name for door in doors if callable(door) for name in _extras(door, None))
    named = [(name, p) for name, p in flow.named_parameters() if p.requires_grad]
    if not extra or not named:
        return
    with bound_to_train():
        total = log_px(kind, flow, x).sum()
        grads = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    idle = [name for (name, _), grad in zip(named, grads, strict=True) if grad is None]
    if idle:
        raise FlowError(
            f"expected a flow of x alone, got {type(flow).__name__}, which also takes {_quoted(extra)}: without it "
            f"{len(idle)} of its parameters have no part in log p (first: {idle[0]}). {_HOW_TO_BIND}"
        )


_HOW_TO_BIND = (
    "A conditional flow has a density for each condition: bind one in a module of your own, whose log_prob(x) calls "
    "flow.log_prob(x, condition), and give that; or remove the parameters that nothing uses"
)


def shows_latent(kind: str) -> bool:
    """Whether z is to be had."""
    return kind not in ("log_prob", "distribution")


def pair(kind: str, flow: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(z, ladj) as the flow gives them; several latents are flattened and joined."""
    if kind == "zuko":
        return flow().transform.call_and_ladj(x)
    if kind == "nflows":
        return flow._transform(x)
    if kind == "normflows":
        z, ladj = flow.inverse_and_log_det(x)
        return _joined(z), ladj
    if not shows_latent(kind):
        raise FlowError(
            f"expected a flow that shows z, got {type(flow).__name__}, which has log_prob only; scores on "
            "log p_Z need a module that returns (z, log_det)"
        )
    return _split(flow(x), flow)


def log_pz(kind: str, flow: nn.Module, x: Tensor, z: Tensor, ladj: Tensor) -> Tensor:
    """log p_Z(z) in nats, for z and ladj of `pair` on x."""
    if kind == "zuko":
        return flow().base.log_prob(z)
    if kind == "nflows":
        return flow._distribution.log_prob(z)
    if kind == "normflows":
        return log_px(kind, flow, x) - ladj
    if kind == "own_base":
        return flow.log_prob(x) - ladj
    return _standard_normal(z)


def log_px(kind: str, flow: nn.Module, x: Tensor) -> Tensor:
    """log p_X(x) in nats, as the flow gives it."""
    if kind == "pair":
        z, ladj = pair(kind, flow, x)
        return _standard_normal(z) + ladj
    if kind in ("zuko", "distribution"):
        return flow().log_prob(x)
    if kind == "normflows" and isinstance(flow.q0, nn.ModuleList | list | tuple):
        z, ladj = flow.inverse_and_log_det(x)  # its log_prob wants a label
        return ladj + sum(q.log_prob(part) for q, part in zip(flow.q0, z, strict=True))
    return flow.log_prob(x)


def _standard_normal(z: Tensor) -> Tensor:
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


def _distribution_of(flow: nn.Module) -> Any | None:
    """What calling the flow with nothing gives, if that has log_prob (zuko)."""
    try:
        inspect.signature(flow.forward).bind()
        made = flow()
    except Exception:
        return None
    return made if callable(getattr(made, "log_prob", None)) else None


def _asked(flow: nn.Module, call: Callable[[Tensor], Any], x: Tensor) -> None:
    """One trial call, for the message it gives."""
    name, door = type(flow).__name__, getattr(call, "forward", call)
    if needs := _extras(door, inspect.Parameter.empty):
        raise TypeError(
            f"expected a flow of x alone, got {name}, whose {door.__name__} also needs {_quoted(needs)}. {_HOW_TO_BIND}"
        )
    try:
        with torch.no_grad():
            call(x)
    except Exception as error:
        extra = _extras(door, None)
        hints = [
            *([f"without {_quoted(extra)}? {_HOW_TO_BIND}"] if extra else []),
            *(["does it take rows (b, d)? as_flow(..., flatten=True)"] if x.ndim > 2 else []),
        ]
        raise FlowError(
            f"expected {name} to take x shaped {tuple(x.shape)} of {x.dtype}, got {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}"
            + (f" ({'; '.join(hints)})" if hints else "; does it come from data of this shape?")
        ) from error


def _extras(door: Callable[..., Any], default: Any) -> list[str]:
    """Names of the arguments beyond x that have this default."""
    try:
        given = list(inspect.signature(door).parameters.values())
    except (TypeError, ValueError):  # compiled or traced
        return []
    by_name = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in by_name[1:] if p.default is default]


def _quoted(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _check_agreement(flow: nn.Module, x: Tensor, z: Tensor, ladj: Tensor) -> None:
    """A flow that offers both (z, log_det) and log_prob: do the two speak of one density?"""
    with torch.no_grad():
        said = flow.log_prob(x)
    if not isinstance(said, Tensor) or said.shape != ladj.shape or z.ndim < 1 or len(z) != len(x):
        return  # the shapes are looked at, and named, by the check
    normal = _standard_normal(z)

    def same(other: Tensor) -> bool:
        return bool(((said - other).abs() <= _TOLERANCE * said.abs().clamp_min(1)).all())

    if not torch.isfinite(said).all() or same(normal + ladj):
        return
    name = type(flow).__name__
    seen = (
        f"{name}(x) gives (z, log_det) and its log_prob(x) {said[0]:.5g} nats, but log N(z) + log_det is "
        f"{(normal + ladj)[0]:.5g}"
    )
    if same(normal):
        raise FlowError(f"expected one density, got two: {seen}; log_prob leaves the log-determinant out")
    if same(normal - ladj):
        raise FlowError(f"expected one density, got two: {seen}; log_prob takes the log-determinant off")
    raise FlowError(
        f"expected one density, got two: {seen}. Either z has a density of its own: say as_flow(flow, "
        f"kind='own_base'); or {name}(x) is the direction from z to x: say as_flow(flow, kind='log_prob')"
    )


def _split(out: Any, flow: nn.Module) -> tuple[Tensor, Tensor]:
    """(z, ladj) of what a module returned."""
    name = type(flow).__name__
    if isinstance(out, Tensor):
        raise FlowError(
            f"expected {name}(x) to return (z, log_det), got one tensor shaped {tuple(out.shape)}: the "
            "log-determinant is missing. Return it as the second value (in FrEIA leave jac=True), or give the "
            "module a method log_prob"
        )
    if not isinstance(out, tuple | list) or len(out) != 2:
        got = f"{len(out)} values" if isinstance(out, tuple | list) else type(out).__name__
        raise FlowError(
            f"expected {name}(x) to return (z, log_det), got {got}; drop what comes beyond the two"
        )
    z, ladj = _joined(out[0]), out[1]
    if not isinstance(z, Tensor) or not isinstance(ladj, Tensor):
        raise FlowError(
            f"expected tensors (z, log_det), got {type(z).__name__} and {type(ladj).__name__}; a log-det that is "
            "the number 0 means that a layer reports none"
        )
    return z, ladj


def _joined(z: Any) -> Any:
    if not isinstance(z, tuple | list):
        return z
    return torch.cat([part.flatten(1) for part in z], 1) if len(z) > 1 else z[0]
