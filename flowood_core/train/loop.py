"""The only training loop: pixels, 2-D points, features and texts, with and without outliers.

One step is a pure function of (seed, step, weights, optimizer state): order, coins, outliers and
dequantisation noise come from generators seeded anew for each step. A run that was killed therefore
continues from its last checkpoint to the same bits, and nothing but the step number has to be kept.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowood_core import objective
from flowood_core.engine import compiled
from flowood_core.flow import dequantise
from flowood_core.system.progress import track
from flowood_core.train import step as step_of

__all__ = ["History", "NonFinite", "Settings", "fit", "fit_together"]

STEPS_A_DRAW = 64  # on a GPU, where a draw costs launches rather than work

Outliers = Callable[..., Tensor]
"""(x, partner, *, rng) -> x_out, all shaped alike; see `flowood_core.outliers`."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the paper's (section 3.1), deviations are named.

    Args:
        steps: optimizer steps; `Settings.epochs_to_steps` converts.
        batch_size: 128 in the paper.
        lr, weight_decay: Adam, 1e-3 and 1e-5 (as L2) in the paper.
        schedule: "constant" as in the paper, or "cosine" (down to zero), which short trainings want.
        clip: largest gradient norm; not in the paper, 0 switches it off (A34).
        outlier_prob: probability that a sample of the batch is replaced by an outlier (0.5, A13).
        tau, temperature: hidden threshold and temperature of eq. (3), in nats (A1).
        bf16: subnets in bfloat16; log-densities stay in float32.
        micro_batch: split of the batch that fits a processor's cache; changes sums only by rounding.
        seed: of order, coins, outliers and noise. The flow has its own.
    """

    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-5
    schedule: str = "constant"
    clip: float = 1.0
    outlier_prob: float = 0.5
    tau: float = 0.0
    temperature: float = 1.0
    bf16: bool = False
    micro_batch: int | None = None
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    @staticmethod
    def epochs_to_steps(epochs: float, n: int, batch_size: int) -> int:
        """An epoch is one pass without the incomplete last batch."""
        return round(epochs * max(n // min(batch_size, n), 1))


@dataclasses.dataclass
class History:
    """What each logged step measured; nats are per sample, `bpd_id` is bits per dimension of pixels or features."""

    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])


class NonFinite(FloatingPointError):
    """The loss is nan or infinite; says at which step and in which block it began."""

    def __init__(self, message: str, step: int, block: int | None):
        super().__init__(message)
        self.step, self.block = step, block


def fit(
    flow: nn.Module,
    x: Tensor,
    outliers: Outliers | None = None,
    *,
    settings: Settings,
    state: dict[str, Any] | None = None,
    on_checkpoint: Callable[[dict[str, Any]], None] | None = None,
    checkpoint_every_s: float = 30.0,
    checkpoint_at: Collection[int] = (),
    log_every: int = 10,
    label: str = "training",
) -> History:
    """Minimise L_total = L_ID + L_OOD, eq. (2) and (3), over batches in which outliers replace ID samples.

    Args:
        flow: anything with `log_prob(x) -> (b,)` in nats; trained in place.
        x: ID samples, uint8 (dequantised here, afresh each step) or float (taken as they are), on the
            device of the flow. They stay where they are: no loader, no copy.
        outliers: x' from ID samples, `(x, partner, *, rng) -> x_out`; None is maximum likelihood.
        settings: see `Settings`.
        state: what `on_checkpoint` received, to continue a run.
        on_checkpoint: called with the full state every `checkpoint_every_s` seconds and at the end. Its tensors
            are those in training: write them to a file, or copy them, before returning.
        checkpoint_at: numbers of finished steps after which `on_checkpoint` is called whatever the time.
        log_every: steps between rows of the history.
        label: shown with the progress.
    Returns:
        History of loss, its two parts, bits per dimension of ID samples, gradient norm, seconds.
    Raises:
        NonFinite: the loss is not finite; names step and block. The last checkpoint stays good.
        ValueError: fewer samples than two, or steps < 1.
    """
    (history,) = fit_together(
        [flow],
        x,
        [outliers],
        settings=[settings],
        states=[state],
        on_checkpoint=None if on_checkpoint is None else lambda _, state: on_checkpoint(state),
        checkpoint_every_s=checkpoint_every_s,
        checkpoint_at=checkpoint_at,
        log_every=log_every,
        label=label,
    )
    return history


def fit_together(
    flows: Sequence[nn.Module],
    x: Tensor,
    outliers: Sequence[Outliers | None],
    *,
    settings: Sequence[Settings],
    states: Sequence[dict[str, Any] | None] | None = None,
    on_checkpoint: Callable[[int, dict[str, Any]], None] | None = None,
    checkpoint_every_s: float = 30.0,
    checkpoint_at: Collection[int] = (),
    log_every: int = 10,
    label: str = "training",
) -> list[History]:
    """`fit` for several flows on the same samples at once: rows or seeds of a table. Nothing is shared but x.

    On a GPU a small flow leaves most of the chip idle, and their steps run side by side in one graph (`step`); on a
    processor they take turns. The result of each is that of `fit` alone. A flow that diverges ends them all.

    Args:
        flows, outliers, settings, states: one a flow; the settings agree in steps and batch_size, the states in step.
        on_checkpoint: called with the number of the flow and its state.
        x, checkpoint_every_s, checkpoint_at, log_every, label: as in `fit`.
    Returns:
        One history a flow.
    Raises:
        NonFinite, ValueError: as in `fit`; settings or states that do not agree.
    """
    for one in settings:
        _check(x, one)
    states = list(states or [None] * len(flows))
    _check_agreement(flows, outliers, settings, states)
    shared = settings[0]
    batch_size = min(shared.batch_size, len(x))
    optimizers = [step_of.adam(flow, one) for flow, one in zip(flows, settings, strict=True)]
    start, seconds = 0, 0.0
    histories = [History() for _ in flows]
    for flow, optimizer, state, history in zip(flows, optimizers, states, histories, strict=True):
        if state is not None:
            flow.load_state_dict(state["flow"])
            step_of.load_adam(optimizer, state["optimizer"])
            start, seconds = state["step"], state["seconds"]
            history.rows.extend(state["history"])

    d = x[0].numel()
    levels = 256 if x.dtype == torch.uint8 else 1
    on_gpu = x.device.type == "cuda"
    began = last_saved = time.monotonic()
    for flow in flows:
        flow.train()
    with compiled.fused(), track(shared.steps, label, start) as progress:
        at_once = STEPS_A_DRAW if on_gpu else 1
        draws = [_Draws(x, of, batch_size, one, at_once) for of, one in zip(outliers, settings, strict=True)]
        take = None
        for step in range(start, shared.steps):
            batches = [of.batch(step) for of in draws]
            take = take or step_of.step_for(flows, optimizers, settings, batches)
            results = take(batches, [one.lr_at(step) for one in settings])

            logs = step % log_every == 0 or step == shared.steps - 1
            due = time.monotonic() - last_saved >= checkpoint_every_s or step == shared.steps - 1
            due = due or step + 1 in checkpoint_at
            if logs or due or not on_gpu:  # a look at a value makes a GPU wait
                for k, flow in enumerate(flows):
                    if take.is_broken(k):
                        raise _non_finite(flow, batches[k][0], step)
            now = seconds + time.monotonic() - began
            if logs:
                for k, (log_px, grad_norm) in enumerate(results):
                    row = _measure(log_px, batches[k][1], grad_norm, d, levels, settings[k])
                    histories[k].rows.append(row | {"step": step, "seconds": now})
            last = histories[0].rows[-1]
            progress.update(1, loss=last["loss"], bpd=last["bpd_id"])
            if on_checkpoint is not None and due:
                for k, (flow, optimizer) in enumerate(zip(flows, optimizers, strict=True)):
                    on_checkpoint(k, _state(flow, optimizer, step + 1, histories[k], now))
                last_saved = time.monotonic()
    for flow in flows:
        flow.eval()
    return histories


class _Draws:
    """The batches of a training by number, `at_once` of them drawn together."""

    def __init__(
        self, x: Tensor, outliers: Outliers | None, batch_size: int, settings: Settings, at_once: int
    ):
        self.what, self.settings, self.at_once = (x, outliers), settings, at_once
        self.batch_size, self.first, self.drawn = batch_size, 0, None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        if self.drawn is None or not self.first <= step < self.first + self.at_once:
            # drawn anew from the same first step by a run that continues in the middle
            self.first = step - step % self.at_once
            n = min(self.at_once, self.settings.steps - self.first)
            self.drawn = draw_batches(*self.what, self.first, n, self.batch_size, self.settings)
        batches, flags = self.drawn
        return batches[step - self.first], flags[step - self.first]


def draw_batch(
    x: Tensor, outliers: Outliers | None, step: int, batch_size: int, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Batch number `step`: samples of x, a share of them replaced by outliers, as floats, and the flags."""
    batches, flags = draw_batches(x, outliers, step, 1, batch_size, settings)
    return batches[0], flags[0]


def draw_batches(
    x: Tensor, outliers: Outliers | None, first: int, n: int, batch_size: int, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Batches number `first` to `first + n - 1`, (n, b, ...), and the flags, (n, b).

    Pure in (seed, first, n): every epoch is a fresh permutation, every draw has its own generator.
    """
    per_epoch = max(len(x) // batch_size, 1)
    orders: dict[int, Tensor] = {}
    indices = []
    for step in range(first, first + n):
        epoch, position = divmod(step, per_epoch)
        if epoch not in orders:
            rng = _generator(x.device, settings.seed, 0, epoch)
            orders[epoch] = torch.randperm(len(x), generator=rng, device=x.device)
        indices.append(orders[epoch][position * batch_size : (position + 1) * batch_size])
    index = torch.cat(indices)
    batch = x.index_select(0, index)

    rng = _generator(x.device, settings.seed, 1, first)
    is_outlier = torch.zeros(len(batch), dtype=torch.bool, device=x.device)
    if outliers is not None:
        is_outlier = torch.rand(len(batch), generator=rng, device=x.device) < settings.outlier_prob
        # a partner is another sample of the data set, as when outliers are made while data is loaded
        shift = torch.randint(1, len(x), (len(batch),), generator=rng, device=x.device)
        partner = (index + shift) % len(x)
        (chosen,) = is_outlier.nonzero(as_tuple=True)
        if len(chosen):
            x_out = outliers(x.index_select(0, index[chosen]), x.index_select(0, partner[chosen]), rng=rng)
            batch.index_copy_(0, chosen, x_out)
    if batch.dtype == torch.uint8:
        batch = dequantise(batch, rng)
    return batch.view(n, -1, *x.shape[1:]), is_outlier.view(n, -1)


def _measure(
    log_px: Tensor, is_outlier: Tensor, grad_norm: Tensor, d: int, levels: int, settings: Settings
) -> dict[str, float]:
    loss = objective.loss_total(log_px, is_outlier, tau=settings.tau, temperature=settings.temperature)
    id_nats, out_nats = log_px[~is_outlier].mean().item(), log_px[is_outlier].mean().item()
    return {
        "loss": loss.item() / d,
        "log_px_id": id_nats,
        "log_px_out": out_nats,  # nan without outliers
        "bpd_id": -id_nats / (d * math.log(2)) + math.log2(levels),
        "grad_norm": grad_norm.item(),
    }


def _state(
    flow: nn.Module, optimizer: torch.optim.Optimizer, step: int, history: History, seconds: float
) -> dict[str, Any]:
    return {
        "flow": flow.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "history": copy.deepcopy(history.rows),
        "seconds": seconds,
    }


def _generator(device: torch.device, *key: int) -> torch.Generator:
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(seed)


@torch.no_grad()
def _non_finite(flow: nn.Module, batch: Tensor, step: int) -> NonFinite:
    """Find where it began, by one more pass with a hook on every block."""
    first: list[int] = []

    def watch(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, out: Any) -> None:
            values = [t for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t)]
            if not first and not all(torch.isfinite(t).all() for t in values):
                first.append(index)

        return hook

    blocks = getattr(flow, "blocks", [])
    handles = [block.register_forward_hook(watch(k)) for k, block in enumerate(blocks)]
    try:
        flow.log_prob(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not torch.isfinite(batch).all():
        first.clear()  # no block is to blame
        where = "the batch itself holds nan or inf; check the data or the outlier function"
    elif first:
        where = f"first in block {first[0]} of {len(blocks)}"
    else:
        where = "the density is finite but its gradient is not"
    return NonFinite(
        f"expected a finite loss, got nan or inf at step {step}: {where}. Lower lr, keep clip on, or check that x "
        "is scaled to [0, 1] or standardised; the last checkpoint is good",
        step,
        first[0] if first else None,
    )


def _check_agreement(
    flows: Sequence[nn.Module],
    outliers: Sequence[Outliers | None],
    settings: Sequence[Settings],
    states: Sequence[dict[str, Any] | None],
) -> None:
    if not len(flows) == len(outliers) == len(settings) == len(states) > 0:
        counts = f"{len(flows)}, {len(outliers)}, {len(settings)} and {len(states)}"
        raise ValueError(f"expected one of flows, outliers, settings and states a row, got {counts}")
    for name in ("steps", "batch_size"):
        if len(values := {getattr(one, name) for one in settings}) > 1:
            raise ValueError(f"expected the same {name} in flows trained together, got {sorted(values)}")
    if len(starts := {0 if state is None else state["step"] for state in states}) > 1:
        raise ValueError(f"expected states of the same step, got steps {sorted(starts)}")


def _check(x: Tensor, settings: Settings) -> None:
    if len(x) < 2:
        raise ValueError(f"expected at least 2 samples to train on, got {len(x)}")
    if settings.steps < 1:
        raise ValueError(f"expected steps >= 1, got {settings.steps}")
    if settings.batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {settings.batch_size}")
    if settings.micro_batch is not None and settings.micro_batch < 1:
        raise ValueError(f"expected micro_batch >= 1 or None for the whole batch, got {settings.micro_batch}")
    if settings.schedule not in ("constant", "cosine"):
        raise ValueError(f"expected schedule 'constant' or 'cosine', got {settings.schedule!r}")
    if not 0 <= settings.outlier_prob <= 1:
        raise ValueError(f"expected outlier_prob in [0, 1], got {settings.outlier_prob}")
