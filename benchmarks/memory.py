"""Peak memory of one training step of FastFlow and CS-Flow at 256 pixels, by batch size.

    python -m benchmarks.memory                               batches of 4, 8 and 16, each in a process of its own
    python -m benchmarks.memory --batches 32 --models cs_flow
    python -m benchmarks.memory --device cuda --batches 32

On a processor it is the highest the process came to hold less what it held before the step; on a GPU, what torch
allocated at most. The backbones are the paper's, without weights, and the batches noise, half of them flagged as
outliers: memory depends on neither. The backbone runs within the step, as where outliers are fresh.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import bench
from flowood_core import runs, train
from flowood_core.features import backbones, cs_flow, map_flows
from flowood_core.train import step

HERE = Path(__file__).parent
SIZE = 256
MODELS = {
    "fastflow": lambda: map_flows.fast_flow(backbones.load("wide_resnet50_2:untrained"), SIZE, blocks=8),
    "cs_flow": lambda: cs_flow.cs_flow(backbones.load("efficientnet_b5:untrained"), SIZE),
}


def one_step(model: str, batch: int, device: str) -> dict[str, float]:
    """MB held before a training step and at its peak, in this process."""
    flow = MODELS[model]().to(device)
    settings = dataclasses.replace(train.Settings(steps=1), batch_size=batch)
    take = step.Step([flow], [step.adam(flow, settings)], [settings])
    x = torch.rand(batch, 3, SIZE, SIZE, device=device)
    flags = torch.arange(batch, device=device) % 2 == 1
    before = _held_mb(device)
    take([(x, flags)], [1e-4])
    return {"batch": batch, "before_mb": before, "peak_mb": _held_mb(device)}


def _held_mb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return runs.peak_memory_mb()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batches", nargs="*", type=int, default=[4, 8, 16])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "memory")
    parser.add_argument("--one", action="store_true", help="one model, one batch, in this process")
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(one_step(chosen.models[0], chosen.batches[0], chosen.device)))
        return 0
    found: dict[str, list[dict[str, float]]] = {}
    for model in chosen.models:
        for batch in chosen.batches:
            alone = ["--one", "--models", model, "--batches", str(batch), "--device", chosen.device]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.memory", *alone], capture_output=True, text=True
            )
            if done.returncode:
                why = (done.stderr.strip().splitlines() or ["killed, out of memory?"])[-1]
                print(f"{model}, batch {batch}: failed, {why}", flush=True)
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(model, []).append(row)
            step_mb = row["peak_mb"] - row["before_mb"]
            print(
                f"{model}, batch {batch}: {row['peak_mb']:,.0f} MB, of which the step {step_mb:,.0f}",
                flush=True,
            )
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"{bench.machine()}-{chosen.device}.json"
    path.write_text(
        json.dumps({"pixels": SIZE, "found": found, "provenance": runs.provenance()}, indent=1) + "\n"
    )
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
