"""Speed on a GPU, side by side with what a user would otherwise write.

    make bench-gpu                                       all figures, about 8 minutes, no network
    python -m benchmarks.bench_gpu --figures rows,outliers --rounds 3
    python -m benchmarks.bench_gpu --device cpu --small  the same code, small, where there is no GPU

Ways take turns as in `benchmarks.bench`, and the clock is read when the device has finished. Compilation and capture
are done before; how long they take is printed beside the figures, since a training pays it once.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import baselines, bench
from flowood_core import flow, lipschitz, runs, train
from flowood_core.engine import compiled
from flowood_core.outliers import image as outliers
from flowood_core.train import loop, step

PAPER_STEPS = 500 * (50_000 // 128)  # 500 epochs of CIFAR-10 in batches of 128
FIGURES: dict[str, tuple[str, str, Callable[[], bench.Ways]]] = {}
SETTINGS = train.Settings(steps=10**9, batch_size=128, lr=1e-4)


@dataclasses.dataclass
class Scale:
    """Where and how much; `--small` makes it fit a processor."""

    device: str = "cuda"
    steps: int = 256
    slow_steps: int = 32
    images: int = 12_000
    gradients: int = 1_000
    hidden: int | None = None


HERE = Scale()


def figure(name: str, unit: str, title: str):
    def register(make: Callable[[], bench.Ways]) -> Callable[[], bench.Ways]:
        FIGURES[name] = (unit, title, make)
        return make

    return register


def finished(work: Callable[[], int]) -> Callable[[], int]:
    """The same work, returning when the device is through with it."""

    @functools.wraps(work)
    def whole() -> int:
        done = work()
        if HERE.device == "cuda":
            torch.cuda.synchronize()
        return done

    return whole


def resident() -> torch.Tensor:
    return bench.images(HERE.images).to(HERE.device)


# --- training ----------------------------------------------------------------------------------------------


def user_step(net: nn.Module, compute: Callable[[torch.Tensor], torch.Tensor]):
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def one(batch: torch.Tensor, flags: torch.Tensor) -> None:
        optimizer.zero_grad()
        lp = compute(batch)
        loss = torch.where(flags, nn.functional.softplus(lp), -lp).sum() / len(lp) / 3072
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return one


def ours(n_rows: int, squeeze: int, hidden: int, *, bf16: bool = False, compiled: bool = False):
    """Work of some steps of `n_rows` flows in one graph, as `train.fit_together` does it."""
    x = resident()
    began = time.perf_counter()
    settings = [dataclasses.replace(SETTINGS, bf16=bf16, seed=k) for k in range(n_rows)]
    flows = [flow.image_flow(squeeze=squeeze, hidden=hidden, seed=k).to(HERE.device) for k in range(n_rows)]
    methods = [outliers.ccm_gaussian, None, outliers.gaussian, outliers.ccm, outliers.ccm_gaussian]
    draws = [
        loop._Draws(x, method, 128, one, loop.STEPS_A_DRAW)
        for one, method in zip(settings, itertools.cycle(methods), strict=False)
    ]
    numbers = itertools.count()
    first = [of.batch(0) for of in draws]
    adams = [step.adam(f, one) for f, one in zip(flows, settings, strict=True)]
    take = step.Captured(flows, adams, settings, first, compiled=compiled)
    how = "compiled and captured" if compiled else "captured"
    print(f"  {n_rows} row(s), bf16 {bf16}: {how} in {time.perf_counter() - began:.1f} s", flush=True)

    def work() -> int:
        for k in itertools.islice(numbers, HERE.steps):
            take([of.batch(k) for of in draws], [1e-4] * n_rows)
        return HERE.steps * 128 * n_rows

    return work


def training(squeeze: int, hidden: int) -> bench.Ways:
    hidden = HERE.hidden or hidden
    x, steps = resident(), HERE.slow_steps
    eager, compiled = (baselines.freia_flow(squeeze, hidden).to(HERE.device) for _ in range(2))
    density = functools.partial(baselines.log_prob, compiled)
    mode = "reduce-overhead" if HERE.device == "cuda" else None
    by_eager = user_step(eager, functools.partial(baselines.log_prob, eager))
    by_compiled = user_step(compiled, torch.compile(density, mode=mode))

    def with_loader() -> int:
        loader = baselines.pil_loader(x[: steps * 128].cpu(), 128)
        for batch, flags in loader:
            by_eager(batch.to(HERE.device), flags.to(HERE.device))
        return len(loader) * 128

    def drawn(one) -> Callable[[], int]:
        def work() -> int:
            for k in range(steps):
                one(*train.draw_batch(x, outliers.ccm_gaussian, k, 128, SETTINGS))
            return steps * 128

        return work

    ways = {
        "FrEIA eager, PIL DataLoader": with_loader,
        "FrEIA eager, data resident": drawn(by_eager),
        "torch.compile(FrEIA, reduce-overhead), data resident": drawn(by_compiled),
        "flowood, captured, float32": ours(1, squeeze, hidden),
        "flowood, captured, bfloat16": ours(1, squeeze, hidden, bf16=True),
        "flowood, compiled and captured, float32": ours(1, squeeze, hidden, compiled=True),
        "flowood, compiled and captured, bfloat16": ours(1, squeeze, hidden, compiled=True, bf16=True),
    }
    return {name: finished(work) for name, work in ways.items()}


@figure(
    "training_direct", "images/s", "training the paper's flow: direct 3x32x32, h64, batch 128, CCM+Gaussian"
)
def _() -> bench.Ways:
    return training(squeeze=0, hidden=64)


@figure("training_squeezed", "images/s", "training a squeezed flow: 12x16x16, h128, batch 128, CCM+Gaussian")
def _() -> bench.Ways:
    return training(squeeze=1, hidden=128)


@figure(
    "rows",
    "images/s",
    "five rows of Table 2 (direct h64, batch 128), float32: one after another and together",
)
def _() -> bench.Ways:
    hidden = HERE.hidden or 64
    alone = [ours(1, 0, hidden) for _ in range(5)]
    ways = {
        "captured, one after another": lambda: sum(work() for work in alone),
        "captured, side by side": ours(5, 0, hidden),
    }
    if HERE.device == "cuda":
        ways["compiled and captured, side by side"] = ours(5, 0, hidden, compiled=True)
    return {name: finished(work) for name, work in ways.items()}


# --- outliers, gradients, scoring --------------------------------------------------------------------------


@figure("outliers", "images/s", "CCM+Gaussian outliers with Pillow's exact blur, dequantised, batch 128")
def _() -> bench.Ways:
    x = resident()
    on_host = x[:4096].cpu()

    def loader() -> int:
        return sum(len(batch.to(HERE.device)) for batch, _ in baselines.pil_loader(on_host, 128))

    def batches() -> int:
        return sum(
            len(train.draw_batch(x, outliers.ccm_gaussian, k, 128, SETTINGS)[0])
            for k in range(HERE.slow_steps)
        )

    def many() -> int:
        return train.draw_batches(x, outliers.ccm_gaussian, 0, loop.STEPS_A_DRAW, 128, SETTINGS)[1].numel()

    ways = {
        "PIL Dataset in a DataLoader, moved": loader,
        "flowood, a batch at a time": batches,
        f"flowood, {loop.STEPS_A_DRAW} batches at a time": many,
    }
    return {name: finished(work) for name, work in ways.items()}


@figure("gradients", "images/s", "norms of the gradient of log p_X (Table 4), direct h64")
def _() -> bench.Ways:
    hidden = HERE.hidden or 64
    x = flow.dequantise(resident()[: HERE.gradients])
    inn = baselines.freia_flow(0, hidden).to(HERE.device)
    mine = flow.image_flow(hidden=hidden).to(HERE.device)
    few = x[: max(len(x) // 10, 1)]
    ways = {
        "one backward pass per sample": lambda: len(baselines.gradient_norms_loop(inn, few)),
        "flowood, batched": lambda: sum(len(lipschitz.grad_logp(mine.log_prob, p)) for p in x.split(250)),
    }
    return {name: finished(work) for name, work in ways.items()}


@figure("scoring", "images/s", "scoring with the paper's flow (direct h64): log p_Z and log p_X")
def _() -> bench.Ways:
    hidden = HERE.hidden or 64
    x = resident()
    floats = flow.dequantise(x)
    inn, mine = (
        baselines.freia_flow(0, hidden).to(HERE.device),
        flow.image_flow(hidden=hidden).to(HERE.device),
    )

    def eager() -> int:
        for part in floats.split(128):
            baselines.log_prob(inn, part).cpu()
        return len(x)

    def with_ours(bf16: bool) -> Callable[[], int]:
        def work() -> int:
            with torch.autocast(HERE.device, torch.bfloat16, enabled=bf16):
                return len(flow.densities(mine, x)[0])

        return work

    ways = {
        "FrEIA eager, batch 128, gradients on": eager,
        "FrEIA eager, batch 128, inference mode": torch.inference_mode()(eager),
        "flowood, float32": with_ours(False),
        "flowood, bfloat16": with_ours(True),
    }
    return {name: finished(work) for name, work in ways.items()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--figures", default=",".join(FIGURES), help="comma-separated; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="tiny sizes: whether it runs, not how fast")
    parser.add_argument("--out", type=Path, default=bench.HERE / "results")
    chosen = parser.parse_args(arguments)
    names = chosen.figures.split(",")
    if unknown := set(names) - set(FIGURES):
        parser.error(f"unknown figures {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a CUDA GPU, found none; --device cpu --small shows that the code runs")
    HERE.device = chosen.device
    if chosen.small:
        HERE.steps, HERE.slow_steps, HERE.images, HERE.gradients, HERE.hidden = 2, 2, 512, 20, 8
    torch.manual_seed(0)
    np.random.seed(0)
    results = {"machine": bench.machine(), "rounds": chosen.rounds, "date": time.strftime("%Y-%m-%d")}
    results |= {"load": os.getloadavg()[0], "engine": compiled.status(), "small": chosen.small, "figures": {}}
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"{'small-' * chosen.small}{results['machine']}-{chosen.device}.json"
    for name in names:
        began = time.perf_counter()
        try:
            results["figures"][name] = bench.measure(name, chosen.rounds, FIGURES)
        except Exception as error:  # the other figures are worth having
            print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
            results.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}"[:2000]
            continue
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        results["provenance"] = runs.provenance()
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")  # kept if the rest is cut off
    if not results["figures"]:
        return 1
    print(bench.table(results))
    for name, found in results["figures"].items():
        if name.startswith("training"):
            for way, rate in found["ways"].items():
                seconds = PAPER_STEPS * 128 / rate["median"]
                print(f"500 epochs of CIFAR-10, {name}, {way}: {seconds:,.0f} s at this rate")
    if not chosen.small and chosen.out == bench.HERE / "results":
        bench.write_page()
    print(f"written to {path}")
    return int("failed" in results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
