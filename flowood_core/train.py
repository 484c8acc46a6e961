"""The only training loop: pixels, 2-D points, features and texts, with and without outliers.

One step is a pure function of (seed, step, weights, optimizer state): order, coins, outliers and
dequantisation noise come from generators seeded anew for each step. A run that was killed therefore
continues from its last checkpoint to the same bits, and nothing but the step number has to be kept.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowood_core import engine, objective
from flowood_core.flow import dequantise
from flowood_core.progress import track

__all__ = ["History", "NonFinite", "Settings", "fit"]

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
        log_every: steps between rows of the history.
        label: shown with the progress.
    Returns:
        History of loss, its two parts, bits per dimension of ID samples, gradient norm, seconds.
    Raises:
        NonFinite: the loss is not finite; names step and block. The last checkpoint stays good.
        ValueError: fewer samples than two, or steps < 1.
    """
    _check(x, settings)
    batch_size = min(settings.batch_size, len(x))
    trained = [p for p in flow.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    start, history, seconds = 0, History(), 0.0
    if state is not None:
        flow.load_state_dict(state["flow"])
        optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # else Adam's moments would be shared
        start, history, seconds = state["step"], History(list(state["history"])), state["seconds"]

    d = x[0].numel()
    levels = 256 if x.dtype == torch.uint8 else 1
    began = last_saved = time.monotonic()
    flow.train()
    with engine.fused(), track(settings.steps, label, start) as progress:
        for step in range(start, settings.steps):
            batch, is_outlier = draw_batch(x, outliers, step, batch_size, settings)
            optimizer.zero_grad(set_to_none=True)
            log_px = _backward(flow, batch, is_outlier, d, settings)
            if settings.clip:
                grad_norm = nn.utils.clip_grad_norm_(trained, settings.clip)
            else:
                grad_norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
            if not math.isfinite(grad_norm.item()):
                raise _non_finite(flow, batch, step)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr_at(step)
            optimizer.step()

            if step % log_every == 0 or step == settings.steps - 1:
                row = _measure(log_px, is_outlier, grad_norm, d, levels, settings)
                row |= {"step": step, "seconds": seconds + time.monotonic() - began}
                history.rows.append(row)
            progress.update(1, loss=history.rows[-1]["loss"], bpd=history.rows[-1]["bpd_id"])
            due = time.monotonic() - last_saved >= checkpoint_every_s
            if on_checkpoint is not None and (due or step == settings.steps - 1):
                on_checkpoint(_state(flow, optimizer, step + 1, history, seconds + time.monotonic() - began))
                last_saved = time.monotonic()
    flow.eval()
    return history


def draw_batch(
    x: Tensor, outliers: Outliers | None, step: int, batch_size: int, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Batch number `step`: samples of x, a share of them replaced by outliers, as floats, and the flags.

    Pure in (seed, step): every epoch is a fresh permutation, every step has its own generator.
    """
    n = len(x)
    per_epoch = max(n // batch_size, 1)
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(n, generator=_generator(x.device, settings.seed, 0, epoch), device=x.device)
    index = order[position * batch_size : (position + 1) * batch_size]
    batch = x.index_select(0, index)

    rng = _generator(x.device, settings.seed, 1, step)
    is_outlier = torch.zeros(len(batch), dtype=torch.bool, device=x.device)
    if outliers is not None:
        is_outlier = torch.rand(len(batch), generator=rng, device=x.device) < settings.outlier_prob
        # a partner is another sample of the data set, as when outliers are made while data is loaded
        partner = (index + torch.randint(1, n, (len(batch),), generator=rng, device=x.device)) % n
        (chosen,) = is_outlier.nonzero(as_tuple=True)
        if len(chosen):
            x_out = outliers(x.index_select(0, index[chosen]), x.index_select(0, partner[chosen]), rng=rng)
            batch.index_copy_(0, chosen, x_out)
    if batch.dtype == torch.uint8:
        batch = dequantise(batch, rng)
    return batch, is_outlier


def _backward(flow: nn.Module, batch: Tensor, is_outlier: Tensor, d: int, settings: Settings) -> Tensor:
    # the sum over the batch divided by its size (A12) is additive over micro-batches; dividing by D only
    # sets the size of a step (A1)
    log_px = []
    size = settings.micro_batch or len(batch)
    for part, flags in zip(batch.split(size), is_outlier.split(size), strict=True):
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=settings.bf16):
            lp = flow.log_prob(part)
        loss = objective.loss_total(lp, flags, tau=settings.tau, temperature=settings.temperature)
        (loss * (len(part) / len(batch) / d)).backward()
        log_px.append(lp.detach())
    return torch.cat(log_px)


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
