"""The folder of a run: whole files or none, a lock, and checkpoints that tell a torn file from a good one.

spec.json          what was asked
checkpoint.ckpt    where a killed run continues (and checkpoint.previous.ckpt behind it)
model.safetensors  the trained flow, without pickles
epoch_0012.safetensors, epoch_0050...   the flow on its way, of long trainings (`machine.KEPT_EPOCHS`)
history.csv        what training measured
scores.npz         log p_Z, log p_X and C(x) of every test image, and of some training images ("train")
                   and outliers made of them ("synthetic"), on which scores and thresholds are fitted; of
                   texts, instead of C(x), their length and the bits per byte of each compressed alone
metrics.json       metrics with intervals and provenance; written last, its presence means "done"
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
import pickle
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock, Timeout

from flowood_core.runs.spec import FORMAT, Spec
from flowood_core.system.files import write_atomically

__all__ = ["RunError", "RunFolder", "write"]

LATEST, PREVIOUS = "checkpoint.ckpt", "checkpoint.previous.ckpt"
ELSEWHERE = "point FLOWOOD_OUTPUTS at a folder you may write"


class RunError(RuntimeError):
    """A run cannot be written or read; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Everything that is written of one run.

    Every method that writes raises RunError where it cannot; a reader sees the old file or the whole new one.
    """

    spec: Spec

    @property
    def path(self) -> Path:
        return self.spec.folder

    def is_done(self) -> bool:
        return (self.path / "metrics.json").is_file()

    def make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise RunError(f"cannot make {self.path}: {e}; {ELSEWHERE}") from e

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """The folder's lock; without waiting, False where another process holds it."""
        lock, held = FileLock(self.path / ".lock"), True
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if held := wait:
                print(
                    f"{self.spec.run_id}: another process is training it, waiting for its result", flush=True
                )
                lock.acquire()
        except OSError as e:
            raise RunError(f"cannot lock {self.path}: {e}; {ELSEWHERE}") from e
        try:
            yield held
        finally:
            if held:
                lock.release()

    def write_json(self, name: str, content: Any) -> None:
        write(self.path / name, json.dumps(content, indent=1, allow_nan=True).encode())

    def write_weights(self, name: str, state: Mapping[str, torch.Tensor]) -> None:
        whole = {key: tensor.cpu().contiguous() for key, tensor in state.items()}
        write(self.path / name, safetensors.torch.save(whole))

    def write_history(self, rows: list[dict[str, float]]) -> None:
        out = io.StringIO()
        fields = ["step", *[k for k in rows[0] if k != "step"]]
        writer = csv.DictWriter(out, fieldnames=fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write(self.path / "history.csv", out.getvalue().encode())

    def write_scores(self, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{f"{n}/{q}": a for n, of in arrays.items() for q, a in of.items()})
        write(self.path / "scores.npz", buffer.getvalue())

    def write_progress(self, state: dict[str, Any], steps: int) -> None:
        last = state["history"][-1]
        facts = {"step": state["step"], "steps": steps, "loss": last["loss"], "bpd_id": last["bpd_id"]}
        self.write_json("progress.json", facts | {"seconds": state["seconds"], "time": time.time()})

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "run_id": self.spec.run_id, "state": state}, buffer)
        content = buffer.getvalue()
        if (self.path / LATEST).exists():
            os.replace(self.path / LATEST, self.path / PREVIOUS)
        # the digest tells a torn file from a whole one
        write(self.path / LATEST, content + hashlib.sha256(content).digest())

    def load_checkpoint(self, on: torch.device) -> dict[str, Any] | None:
        """The latest state that is whole and of this run; None where there is none."""
        for path in (self.path / LATEST, self.path / PREVIOUS):
            if not path.exists():
                continue
            try:
                return self._state(path.read_bytes(), on)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as e:
                warnings.warn(f"{path} cannot be used: {e}; falling back to the one before", stacklevel=3)
        return None

    def _state(self, content: bytes, on: torch.device) -> dict[str, Any]:
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError("it is torn or was changed")
        loaded = torch.load(io.BytesIO(content[:-32]), map_location=on, weights_only=True)
        if loaded["run_id"] != self.spec.run_id or loaded["format"] != FORMAT:
            raise ValueError(f"it belongs to the run {loaded['run_id']}")
        return loaded["state"]

    def forget_checkpoints(self) -> None:
        for name in (LATEST, PREVIOUS):
            (self.path / name).unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Whole or not at all.

    Raises:
        RunError: the disk is full or the folder read-only.
    """
    try:
        write_atomically(path, content)
    except OSError as e:
        raise RunError(
            f"cannot write {path}: {e}; free some space or point FLOWOOD_OUTPUTS elsewhere. Nothing half-written "
            "counts as a result, and the run continues from its last checkpoint"
        ) from e
