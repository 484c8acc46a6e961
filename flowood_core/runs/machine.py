"""Trains what is missing: one run or several side by side, killed and continued, to the same result."""

import contextlib
import dataclasses
import functools
import gc
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from filelock import FileLock, Timeout

from flowood_core import datasets, train
from flowood_core.engine import compiled
from flowood_core.features.backbones import BackboneError
from flowood_core.features.encoders import MissingWeights
from flowood_core.flow import Flow
from flowood_core.runs.evaluate import evaluate, score_arrivals
from flowood_core.runs.folder import RunError, RunFolder
from flowood_core.runs.provenance import peak_memory_mb, provenance
from flowood_core.runs.run import Run
from flowood_core.runs.spec import FORMAT, Data, Spec, Training
from flowood_core.system import paths

__all__ = ["KEPT_EPOCHS", "NOT_HERE", "available", "device", "run_or_load", "run_together"]

CHECKPOINT_EVERY_S = 20.0
# of trainings longer than that; what a longer training buys can be read off them
KEPT_EPOCHS = (12, 50, 100, 200)
# what a machine may lack for one run and have for the next
NOT_HERE = (datasets.MissingData, MissingWeights, BackboneError)


def run_or_load(spec: Spec, *, device_name: str | None = None, train_missing: bool = True) -> Run:
    """The run of a spec: read when it is done, continued or trained when it is not.

    Two processes that want the same run do not train it twice: one holds the folder's lock, the other waits
    and reads. A killed run continues from its checkpoint, on a CPU to the same bits.

    Args:
        spec: what to train.
        device_name: "cpu", "cuda", ...; chosen by `device` when omitted.
        train_missing: False raises instead of training.
    Raises:
        RunError: the folder cannot be written, or the run is missing and `train_missing` is False.
        train.NonFinite: training diverged; the last good checkpoint stays.
    """
    if (done := Run.read(spec)) is not None:
        return _up_to_date(done)
    if not train_missing:
        raise RunError(
            f"expected the run {spec.run_id} in {spec.folder.parent}, found none; train it with\n"
            f"  papermill notebooks/train_one.ipynb out.ipynb -p profile {spec.profile} -r run_id {spec.run_id}"
        )
    folder = RunFolder(spec)
    folder.make()
    with folder.locked():
        if (done := Run.read(spec)) is not None:  # the process that held the lock has finished it
            return done
        _train_in_memory(spec, torch.device(device_name) if device_name else device())
    run = Run.read(spec)
    assert run is not None
    return run


def _up_to_date(run: Run) -> Run:
    """A finished run is scored on test sets that have arrived since, where its weights are here."""
    try:
        return score_arrivals(run)
    except RunError as error:
        warnings.warn(
            f"{run.spec.run_id} stays without scores of {', '.join(run.absent)}: {error}", stacklevel=3
        )
        return run


def available(specs: Iterable[Spec], *, train_missing: bool = True) -> tuple[list[Run], dict[str, str]]:
    """`run_or_load` for every spec whose data, and whose frozen network, are here.

    Returns:
        The runs; and by ID set, by encoder of texts, or by run where only that is missing, the first line of why there
        is none.
    Raises:
        RunError: a run is to be trained and its folder cannot be written.
        train.NonFinite: training diverged.
    """
    found: list[Run] = []
    absent: dict[str, str] = {}
    for spec in specs:
        try:
            if spec.id in absent and Run.read(spec) is None:  # a finished run needs no data
                continue
            found.append(run_or_load(spec, train_missing=train_missing))
        except datasets.MissingPool as error:
            absent[spec.run_id] = str(error).splitlines()[0]
        except datasets.MissingData as error:
            absent[spec.id] = str(error).splitlines()[0]
        except (MissingWeights, BackboneError) as error:
            absent[getattr(spec, "encoder", spec.run_id)] = str(error).splitlines()[0]
        except RunError as error:
            if train_missing:  # it could not be written
                raise
            absent[spec.run_id] = str(error).splitlines()[0]
    return found, absent


def run_together(
    specs: Sequence[Spec], *, device_name: str | None = None, at_once: int | None = None
) -> list[Run]:
    """`run_or_load` for many runs. Those that share data, flow and length train side by side on a GPU.

    A run that diverges, or whose data or frozen network are not here, does not keep the others from their end.

    Args:
        specs: in any order.
        device_name: as in `run_or_load`.
        at_once: how many to train side by side; 8 on a GPU and 1 on a processor, which is busy with one.
    Raises:
        As `run_or_load`; `train.NonFinite` and what `NOT_HERE` names only after all other runs are done, that of the
        first run which could not be made.
    """
    on = torch.device(device_name) if device_name else device()
    at_once = at_once or (8 if on.type == "cuda" else 1)
    missing: dict[tuple[Any, ...], list[Spec]] = {}
    for spec in dict.fromkeys(specs):
        if Run.read(spec) is None and (key := spec.together_key()) is not None:
            missing.setdefault(key, []).append(spec)
    for alike in missing.values() if at_once > 1 else ():
        for k in range(0, len(alike), at_once):
            for spec in alike[k : k + at_once]:
                RunFolder(spec).make()
            _train_side_by_side(alike[k : k + at_once], on)
    found: dict[Spec, Run] = {}
    left: list[Exception] = []
    for spec in dict.fromkeys(specs):
        try:
            found[spec] = run_or_load(spec, device_name=device_name)
        except train.NonFinite as error:
            warnings.warn(f"{spec.run_id} diverged: {error}", stacklevel=2)
            left.append(error)
        except NOT_HERE as error:
            warnings.warn(f"{spec.run_id} is left out: {str(error).splitlines()[0]}", stacklevel=2)
            left.append(error)
    if left:
        raise left[0]
    return [found[spec] for spec in specs]


@functools.cache
def device() -> torch.device:
    """A GPU of one's own when there is one, else the CPU.

    Several processes on one machine with several GPUs each take the first free one and hold it as long as
    they live; the operating system frees the lock of a killed process.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    n = torch.cuda.device_count()
    if n == 1 or os.environ.get("CUDA_VISIBLE_DEVICES"):
        return torch.device("cuda")
    slots = paths.outputs_root() / ".gpu"
    slots.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        lock = FileLock(slots / f"{k}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _HELD.append(lock)
        return torch.device("cuda", k)
    return torch.device("cuda", os.getpid() % n)


_HELD: list[FileLock] = []


def _train_in_memory(spec: Spec, on: torch.device) -> None:
    """Trains; where the device has too little memory, again from the last checkpoint with half the micro-batch.

    The batch of a step stays whole, so the result moves by rounding only.
    """
    # what fits a processor's cache only slows a GPU down
    micro_batch = spec.micro_batch if on.type == "cpu" else None
    while True:
        try:
            return _train([spec], on, micro_batch)
        except torch.OutOfMemoryError:
            whole = min(micro_batch or spec.batch_size, spec.batch_size)
            if whole == 1:
                raise
            micro_batch = whole // 2
            warnings.warn(
                f"{spec.run_id}: {on} ran out of memory; going on from the last checkpoint with parts of "
                f"{micro_batch} samples of each batch",
                stacklevel=3,
            )
        _forget(on)


def _forget(on: torch.device) -> None:
    """Free what a failed attempt held, before the next begins."""
    gc.collect()
    if on.type == "cuda":
        torch.cuda.empty_cache()


def _train_side_by_side(specs: Sequence[Spec], on: torch.device) -> None:
    """Trains the runs that no other process holds; in halves where memory is short or one cannot go with them."""
    with contextlib.ExitStack() as held:
        mine = [
            s for s in specs if held.enter_context(RunFolder(s).locked(wait=False)) and Run.read(s) is None
        ]
        if len(mine) > 1:
            try:
                return _train(mine, on, mine[0].micro_batch if on.type == "cpu" else None)
            except torch.OutOfMemoryError:
                warnings.warn(f"{on} has no memory for {len(mine)} runs at once; halving", stacklevel=2)
            except train.NonFinite as error:
                warnings.warn(f"one of {len(mine)} runs diverged; halving to part it from the others: {error}",
                              stacklevel=2)  # fmt: skip
            except NOT_HERE:
                pass  # said by `run_together` once the others are done
    if len(mine) > 1:
        _forget(on)
        for half in (mine[: len(mine) // 2], mine[len(mine) // 2 :]):
            _train_side_by_side(half, on)


@dataclasses.dataclass
class _Job:
    """One run in training: what `train.fit_together` needs of it, and what its results are made of."""

    spec: Spec
    data: Data
    training: Training
    state: dict[str, Any] | None

    @classmethod
    def of(cls, spec: Spec, on: torch.device, micro_batch: int | None) -> "_Job":
        folder = RunFolder(spec)
        folder.write_json("spec.json", spec.model_dump(mode="json"))
        data = spec.data()
        x = data.train.x.to(on)
        flow = spec.flow(tuple(x.shape[1:])).to(on)
        if micro_batch and isinstance(flow, Flow) and compiled.takes(flow.blocks, x[:1].float()):
            micro_batch = None  # the engine keeps one image in cache at a time, and every part costs calls
        settings = dataclasses.replace(spec.settings(len(x)), micro_batch=micro_batch)
        return cls(
            spec, data, spec.ready(flow, x, spec.outliers(data, on), settings), folder.load_checkpoint(on)
        )

    @property
    def kept(self) -> dict[int, int]:
        """Finished steps after which the weights are kept, and the epoch that ends there."""
        spec, n = self.spec, len(self.training.x)
        if spec.epochs <= KEPT_EPOCHS[1]:
            return {}
        return {
            train.Settings.epochs_to_steps(e, n, spec.batch_size): e for e in KEPT_EPOCHS if e < spec.epochs
        }

    def save(self, state: dict[str, Any]) -> None:
        folder = RunFolder(self.spec)
        if epoch := self.kept.get(state["step"]):
            folder.write_weights(f"epoch_{epoch:04d}.safetensors", state["flow"])
        folder.save_checkpoint(state)
        folder.write_progress(state, self.training.settings.steps)

    def finish(self, history: train.History, facts: dict[str, Any]) -> None:
        """Weights, history, scores and, last, metrics.json."""
        folder, settings, flow = RunFolder(self.spec), self.training.settings, self.training.trained.eval()
        folder.write_history(history.rows)
        folder.write_weights("model.safetensors", flow.state_dict())
        result = evaluate(self.spec, self.data, flow) | self.training.facts
        result |= {
            "n_parameters": flow.n_parameters,
            "steps": settings.steps,
            "micro_batch": settings.micro_batch,
        }
        spec = self.spec.model_dump(mode="json")
        folder.write_json("metrics.json", {"format": FORMAT, "spec": spec, **result, **facts})
        folder.forget_checkpoints()


def _train(specs: Sequence[Spec], on: torch.device, micro_batch: int | None) -> None:
    """Trains runs on the same samples; several of them side by side, those that stand at the same step."""
    began = time.monotonic()
    jobs = [_Job.of(spec, on, micro_batch) for spec in specs]
    by_step: dict[int, list[_Job]] = {}
    for job in jobs:
        by_step.setdefault(0 if job.state is None else job.state["step"], []).append(job)
    for group in by_step.values():
        first = group[0].spec
        trainings = [job.training for job in group]
        histories = train.fit_together(
            [of.flow for of in trainings],
            trainings[0].x,
            [of.outliers for of in trainings],
            settings=[of.settings for of in trainings],
            states=[job.state for job in group],
            on_checkpoint=lambda k, state, group=group: group[k].save(state),
            checkpoint_every_s=CHECKPOINT_EVERY_S,
            checkpoint_at=group[0].kept,
            log_every=max(10, trainings[0].settings.steps // 2000),
            label=f"{first.id} {first.method} s{first.seed}" + f" + {len(group) - 1}" * (len(group) > 1),
        )
        for job, history in zip(group, histories, strict=True):
            seconds = {"training": history.rows[-1]["seconds"], "this_process": time.monotonic() - began}
            facts = {
                "trained_together": len(group),
                "seconds": seconds,
                "peak_memory_mb": peak_memory_mb(),
                "device": str(on),
                "provenance": provenance(),
            }
            job.finish(history, facts)
