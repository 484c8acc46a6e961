"""One optimizer step of one or several flows; on a GPU, captured once and replayed.

The paper's flow is small: a step is some hundreds of kernels of a few microseconds each, and on a GPU launching them
one by one takes longer than running them. `Captured` records the whole step (forward, both losses, backward, clip,
Adam) as one CUDA graph; flows trained together are branches of it that run side by side. The numbers are those of
`Step`, which is the same code, called.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowood_core import objective

__all__ = ["Captured", "Step", "adam", "load_adam", "step_for"]

COMPILE_FROM = 5_000  # steps; a compilation takes about a minute
WARM_UP = 3  # steps before capture: kernels are chosen, libraries loaded and memory is found

Batch = tuple[Tensor, Tensor]
"""Samples (b, ...) and, True for outliers, their flags (b,)."""


def adam(flow: nn.Module, settings: Any) -> torch.optim.Adam:
    """Adam as in section 3.1 over what is trained, fused; on a GPU with a learning rate that a graph can read."""
    trained = [p for p in flow.parameters() if p.requires_grad]
    rate: dict[str, Any] = {"lr": settings.lr}
    if trained and trained[0].is_cuda:
        rate = {
            "lr": torch.tensor(settings.lr, dtype=torch.float32, device=trained[0].device),
            "capturable": True,
        }
    return torch.optim.Adam(trained, weight_decay=settings.weight_decay, fused=True, **rate)


def load_adam(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """The moments of a checkpoint, copied, whichever device wrote it; how the steps are made stays ours."""
    groups = [
        {**theirs, **{name: mine[name] for name in ("lr", "capturable", "fused", "foreach")}}
        for theirs, mine in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    moments = {k: {name: t.clone() for name, t in of.items()} for k, of in state["state"].items()}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


class Step:
    """Forward, L_ID + L_OOD, backward, clip and Adam for each of several rows; rows share nothing.

    Args:
        flows, optimizers, settings: one of each a row; see `adam` and `train.Settings`.
    """

    def __init__(
        self, flows: Sequence[nn.Module], optimizers: Sequence[torch.optim.Adam], settings: Sequence[Any]
    ):
        self.flows, self.optimizers, self.settings = list(flows), list(optimizers), list(settings)
        self.trained = [[p for group in o.param_groups for p in group["params"]] for o in self.optimizers]
        self.log_probs: list[Callable[[Tensor], Tensor]] = [flow.log_prob for flow in self.flows]
        # fused Adam wants float32, whatever the default is
        devices = [trained[0].device for trained in self.trained]
        self._broken = [torch.zeros((), dtype=torch.float32, device=device) for device in devices]
        for optimizer, broken in zip(self.optimizers, self._broken, strict=True):
            optimizer.found_inf = broken  # fused Adam leaves everything as it is where this is 1

    def __call__(self, batches: Sequence[Batch], rates: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
        """Per row log p of its batch before the step, in nats, and the norm of its gradient before the clip."""
        self._set_rates(rates)
        return [self._row(k, *batch) for k, batch in enumerate(batches)]

    def is_broken(self, k: int) -> bool:
        """Whether a gradient of row k was nan or infinite; its weights have not moved since."""
        return bool(self._broken[k])

    def _row(self, k: int, batch: Tensor, is_outlier: Tensor) -> tuple[Tensor, Tensor]:
        settings, trained = self.settings[k], self.trained[k]
        log_px = self._backward(k, batch, is_outlier)
        if settings.clip:
            grad_norm = nn.utils.clip_grad_norm_(trained, settings.clip)
        else:
            grad_norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        self._broken[k].copy_(torch.maximum(self._broken[k], (~torch.isfinite(grad_norm)).float()))
        self.optimizers[k].step()
        return log_px, grad_norm

    def _backward(self, k: int, batch: Tensor, is_outlier: Tensor) -> Tensor:
        # the sum over the batch divided by its size (A12) is additive over micro-batches; dividing by D only
        # sets the size of a step (A1)
        settings, trained, d = self.settings[k], self.trained[k], batch[0].numel()
        log_px, first = [], True
        size = settings.micro_batch or len(batch)
        for part, flags in zip(batch.split(size), is_outlier.split(size), strict=True):
            with torch.autocast(
                batch.device.type, dtype=torch.bfloat16, enabled=settings.bf16, cache_enabled=False
            ):
                lp = self.log_probs[k](part)
            loss = objective.loss_total(lp, flags, tau=settings.tau, temperature=settings.temperature)
            # not backward(): it would add on a stream of its own choice, which a capture forbids
            grads = torch.autograd.grad(loss * (len(part) / len(batch) / d), trained, allow_unused=True)
            taken: set[int] = set()
            for p, g in zip(trained, grads, strict=True):
                if g is None:
                    p.grad = None if first else p.grad
                    continue
                # fused Adam walks through memory, whatever the strides; and parameters that enter as a sum get
                # one tensor for both, which the clip would scale twice
                if g.stride() != p.stride() or g.untyped_storage().data_ptr() in taken:
                    g = torch.empty_like(p).copy_(g)
                taken.add(g.untyped_storage().data_ptr())
                p.grad = g if first or p.grad is None else p.grad.add_(g)
            log_px.append(lp.detach())
            first = False
        return torch.cat(log_px)

    def _set_rates(self, rates: Sequence[float]) -> None:
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                if torch.is_tensor(group["lr"]):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate


class Captured(Step):
    """The same step, recorded once and replayed; outputs are overwritten by the next call.

    On a processor nothing can be recorded and the recorded function is called instead, so that all but the
    recording itself is tested there.

    Args:
        batches: one per row; their shapes are those of all that follow.
        compiled: `torch.compile` the density first: fewer and larger kernels, after a minute.
    """

    def __init__(
        self,
        flows: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Adam],
        settings: Sequence[Any],
        batches: Sequence[Batch],
        *,
        compiled: bool = False,
    ):
        super().__init__(flows, optimizers, settings)
        if compiled:
            import torch._dynamo as dynamo

            # one compilation a row; beyond the limit rows would silently stay as they are
            dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, 64)
            self.log_probs = [torch.compile(flow.log_prob) for flow in self.flows]
        self.inputs = [(x.clone(), flags.clone()) for x, flags in batches]
        with self._unchanged():
            self._warm_up()
            self._replay, self._outputs = self._record()

    def __call__(self, batches: Sequence[Batch], rates: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
        self._set_rates(rates)
        for (x, flags), (new_x, new_flags) in zip(self.inputs, batches, strict=True):
            x.copy_(new_x)
            flags.copy_(new_flags)
        self._replay()
        return self._outputs

    def _all_rows(self) -> list[tuple[Tensor, Tensor]]:
        return [self._row(k, *inputs) for k, inputs in enumerate(self.inputs)]

    def _warm_up(self) -> None:
        if not self.inputs[0][0].is_cuda:
            self._all_rows()
            return
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._all_rows()
        torch.cuda.current_stream().wait_stream(aside)

    def _record(self) -> tuple[Callable[[], None], list[tuple[Tensor, Tensor]]]:
        if not self.inputs[0][0].is_cuda:
            outputs = self._all_rows()

            def call() -> None:
                outputs[:] = self._all_rows()

            return call, outputs
        outputs, graph = [], torch.cuda.CUDAGraph()
        branches = [torch.cuda.Stream() for _ in self.inputs]
        with torch.cuda.graph(graph):
            trunk = torch.cuda.current_stream()
            for k, branch in enumerate(branches):
                branch.wait_stream(trunk)
                with torch.cuda.stream(branch):
                    outputs.append(self._row(k, *self.inputs[k]))
            for branch in branches:
                trunk.wait_stream(branch)
        return graph.replay, outputs

    @contextlib.contextmanager
    def _unchanged(self):
        """Weights and moments afterwards as before, in the same memory: recording takes steps that do not count."""
        tensors = [t for flow in self.flows for t in (*flow.parameters(), *flow.buffers())] + self._broken
        kept = [t.detach().clone() for t in tensors]
        moments = [
            {p: {name: t.clone() for name, t in o.state[p].items()} for p in o.state} for o in self.optimizers
        ]
        try:
            yield
        finally:  # a recording that failed leaves no trace either: the steps are then called
            with torch.no_grad():
                for t, was in zip(tensors, kept, strict=True):
                    t.copy_(was)
                for o, of in zip(self.optimizers, moments, strict=True):
                    for p, state in o.state.items():
                        for name, t in state.items():
                            t.copy_(of[p][name]) if p in of else t.zero_()


def step_for(
    flows: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Adam],
    settings: Sequence[Any],
    batches: Sequence[Batch],
) -> Step:
    """The fastest step that works here: captured on a GPU (and compiled for long trainings), called elsewhere.

    FLOWOOD_ENGINE=torch calls it everywhere; FLOWOOD_ENGINE=graph captures without compiling.
    """
    wanted = os.environ.get("FLOWOOD_ENGINE", "")
    if not batches[0][0].is_cuda or wanted == "torch":
        return Step(flows, optimizers, settings)
    long = settings[0].steps >= COMPILE_FROM
    for compiled in [True, False] if long and wanted != "graph" else [False]:
        try:
            return Captured(flows, optimizers, settings, batches, compiled=compiled)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler or a driver may raise; the slower ways remain
            how = "compiled and captured" if compiled else "captured"
            warnings.warn(f"the training step could not be {how} and runs slower: {error}", stacklevel=3)
    return Step(flows, optimizers, settings)
