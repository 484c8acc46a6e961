"""Runs: one training with everything it leaves, so that nothing is lost, done twice or taken on trust.

A run is a `Spec` with a stable id and a folder ``outputs/<profile>/runs/<id>/``:

    spec.json          what was asked
    checkpoint.ckpt    where a killed run continues (and checkpoint.previous.ckpt behind it)
    model.safetensors  the trained flow, without pickles
    epoch_0012.safetensors, epoch_0050...   the flow on its way, of long trainings (`KEPT_EPOCHS`)
    history.csv        what training measured
    scores.npz         log p_Z, log p_X and C(x) of every test image, and of some training images ("train")
                       and outliers made of them ("synthetic"), on which scores and thresholds are fitted; of
                       texts, instead of C(x), their length and the bits per byte of each compressed alone
    metrics.json       metrics with intervals and provenance; written last, its presence means "done"
"""

import contextlib
import csv
import dataclasses
import functools
import gc
import hashlib
import io
import json
import os
import pickle
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_model

from flowood_core import (
    backbones,
    datasets,
    engine,
    feature_flows,
    features,
    highdim,
    metrics,
    paths,
    scores,
    train,
)
from flowood_core.complexity import codec_versions
from flowood_core.files import write_atomically
from flowood_core.flow import Flow, densities, dequantise, image_flow, vector_flow
from flowood_core.outliers import image as outliers
from flowood_core.outliers.simplify import ccm_simplify

__all__ = [
    "Run",
    "RunError",
    "Spec",
    "available",
    "build_flow",
    "device",
    "peak_memory_mb",
    "provenance",
    "run_or_load",
    "run_together",
    "text_data",
    "training_settings",
]

FORMAT = 1
FEATURE_METHODS = ("mle", "gaussian", "ccm", "ccm_gaussian")
CHECKPOINT_EVERY_S = 20.0
KEPT_EPOCHS = (
    12,
    50,
    100,
    200,
)  # of trainings longer than that; what a longer training buys can be read off them


class RunError(RuntimeError):
    """A run cannot be written or read; the message says what to do."""


class Spec(pydantic.BaseModel):
    """One row of the grid: data, method, flow and training. Defaults are the paper's (section 3.1).

    Anything that changes a result is a field; the id of the run is made of them all. A misspelt field is
    refused.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    profile: str = "quick"
    id: str
    method: Literal["mle", "ro", "gaussian", "ccm", "ccm_gaussian", "ccm_simplify", "text"]
    seed: pydantic.NonNegativeInt = 0
    ood: tuple[str, ...] = ()
    n_train: pydantic.PositiveInt | None = None
    n_test: pydantic.PositiveInt | None = None

    squeeze: pydantic.NonNegativeInt = 0
    blocks: int = 8
    hidden: int = 64
    permute_soft: bool = False
    data_init: bool = False

    epochs: pydantic.PositiveFloat = 500
    batch_size: pydantic.PositiveInt = 128
    lr: pydantic.PositiveFloat = 1e-3
    weight_decay: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float = 1.0
    bf16: bool = False
    micro_batch: pydantic.PositiveInt | None = None

    outlier_prob: float = pydantic.Field(0.5, ge=0, le=1)
    tau: float = 0.0
    temperature: float = pydantic.Field(1.0, ge=0)
    blur_radius: float = pydantic.Field(1.0, ge=0)
    alpha: pydantic.PositiveFloat = 1.0
    combine: Literal["at_least_one", "always_both", "independent"] = "at_least_one"
    ro_pool: tuple[str, ...] = ()
    ro_share: float = 0.1
    mutation: float = pydantic.Field(0.0, ge=0, le=1)

    # texts (section 3.3): with an encoder the sets are corpora and the flow is one on feature vectors
    encoder: str | None = None
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    max_length: pydantic.PositiveInt = 512
    components: pydantic.PositiveInt | None = None
    layers: pydantic.PositiveInt = 3
    max_words: pydantic.PositiveInt = 20
    synonyms: Literal["wordnet", "none", "auto"] = "wordnet"
    kinds: tuple[str, ...] = ("text",)

    # feature maps (section 3.2): with a model other than pixels the flow stands on a frozen backbone, the sets are
    # folders of pictures, frozen_outliers > 0 trains on that many stored outliers per image (0: fresh ones, exact),
    # and tau counts from the mean log p of ID images under the untrained flow. blur_ratio replaces blur_radius by
    # the radius that leaves this share of the complexity. clamp bounds CS-Flow's log-scales; at 0 it is additive
    model: Literal["pixels", "fastflow", "cs_flow"] = "pixels"
    backbone: str | None = None
    image_size: pydantic.PositiveInt | None = None
    hidden_ratio: pydantic.PositiveFloat = 1.0
    clamp: pydantic.NonNegativeFloat = 3.0
    frozen_outliers: pydantic.NonNegativeInt = 0
    tau_from_start: bool = False
    blur_ratio: float | None = pydantic.Field(None, gt=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _images_or_texts(self) -> "Spec":
        on_texts = self.encoder is not None
        if (on_texts and self.method not in ("mle", "text")) or (not on_texts and self.method == "text"):
            raise ValueError(
                "expected an encoder with the method text, and with no other than mle and text, got "
                f"method {self.method} with encoder {self.encoder}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _pixels_or_feature_maps(self) -> "Spec":
        on_maps = self.model != "pixels"
        if on_maps != (self.backbone is not None) or on_maps != (self.image_size is not None):
            raise ValueError(
                "expected a backbone and an image_size with the models fastflow and cs_flow, and with no other, got "
                f"model {self.model} with backbone {self.backbone} and image_size {self.image_size}"
            )
        if on_maps and (self.encoder is not None or self.mutation or self.method not in FEATURE_METHODS):
            raise ValueError(
                f"expected one of the methods {', '.join(FEATURE_METHODS)} on feature maps, without encoder and "
                f"mutation, got method {self.method}"
            )
        if not on_maps and (self.frozen_outliers or self.tau_from_start or self.blur_ratio is not None):
            raise ValueError(
                "expected frozen_outliers, tau_from_start and blur_ratio on feature maps only (fastflow, cs_flow)"
            )
        if self.clamp != 3.0 and self.model != "cs_flow":
            raise ValueError(
                f"expected clamp with the model cs_flow only, got {self.clamp:g} with {self.model}"
            )
        return self

    @property
    def run_id(self) -> str:
        """Readable part and a hash of the fields: the same spec has the same id on any machine.

        Fields at their default stay out, so that a field added later leaves the ids of finished runs alone;
        a default that is changed later is noticed when a run is read, by its whole spec.
        """
        fields = self.model_dump(mode="json", exclude_defaults=True)
        canonical = json.dumps({"format": FORMAT, **fields}, sort_keys=True)
        return f"{self.id}-{self.method}-s{self.seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> Path:
        return paths.profile_dir(self.profile) / "runs" / self.run_id


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    spec: Spec
    folder: Path
    metrics: dict[str, Any]

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Columns of history.csv; see `train.History`."""
        with (self.folder / "history.csv").open(newline="") as f:
            rows = list(csv.DictReader(f))
        return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}

    @functools.cached_property
    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """Per test set: log_pz and log_px in nats, complexity in bits per dimension, one value per image."""
        with np.load(self.folder / "scores.npz", allow_pickle=False) as f:
            arrays: dict[str, dict[str, np.ndarray]] = {}
            for key in f.files:
                name, quantity = key.rsplit("/", 1)
                arrays.setdefault(name, {})[quantity] = f[key]
        return arrays

    def scores(self, name: str) -> dict[str, np.ndarray]:
        """Every score of one test set by name (`scores.all_scores`); higher is more OOD."""
        a = self.arrays[name]
        found = scores.all_scores(a["log_pz"], a["log_px"], a.get("complexity"), self.metrics["d"])
        return found | ({"published": a["published"]} if "published" in a else {})

    def complexity_gap(self, ood: str) -> float:
        """Mean complexity of OOD minus that of ID, bits per dimension; negative where OOD is simpler."""
        c = self.metrics["complexity"]
        return c[ood]["mean"] - c[self.spec.id]["mean"]

    def flow(self) -> Flow | feature_flows.FeatureFlow:
        """The trained flow, in eval mode on the CPU.

        Raises:
            RunError: the weights are not here (those of large flows are not committed with their results), or
                another version of this package wrote them.
        """
        weights = self.folder / "model.safetensors"
        again = (
            "remove the folder and train it again:\n  papermill notebooks/train_one.ipynb out.ipynb "
            f"-p profile {self.spec.profile} -r run_id {self.spec.run_id}"
        )
        if not weights.is_file():
            raise RunError(f"expected the trained flow at {weights}, found its results only; {again}")
        flow = build_flow(self.spec, tuple(self.metrics["shape"]))
        try:
            load_model(flow, str(weights))
        except RuntimeError as error:
            problem = str(error).splitlines()[-1].strip()
            raise RunError(f"{weights} does not fit the flow of this version: {problem}; {again}") from error
        return flow.eval()


def text_data(spec: Spec) -> features.TextData:
    """What a text run trains and tests on; also encodes texts that come later. Read from the caches when it can."""
    if spec.encoder is None:
        raise ValueError(f"expected a run on texts, with an encoder, got {spec.run_id}")
    return features.text_data(
        spec.id,
        spec.ood,
        encoder=spec.encoder,
        pooling=spec.pooling,
        max_length=spec.max_length,
        components=spec.components,
        n_train=spec.n_train,
        n_test=spec.n_test,
        max_words=spec.max_words,
        synonyms=spec.synonyms,
        kinds=spec.kinds,
        seed=spec.seed,
    )


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
    if (done := _read(spec)) is not None:
        return done
    if not train_missing:
        raise RunError(
            f"expected the run {spec.run_id} in {spec.folder.parent}, found none; train it with\n"
            f"  papermill notebooks/train_one.ipynb out.ipynb -p profile {spec.profile} -r run_id {spec.run_id}"
        )
    _make_folder(spec)
    with _locked(spec):
        if (done := _read(spec)) is not None:  # the process that held the lock has finished it
            return done
        _train_in_memory(spec, torch.device(device_name) if device_name else device())
    run = _read(spec)
    assert run is not None
    return run


def available(specs: Iterable[Spec], *, train_missing: bool = True) -> tuple[list[Run], dict[str, str]]:
    """`run_or_load` for every spec whose data are here.

    Returns:
        The runs; and by ID set, or by run where only that is missing, the first line of why there is none.
    Raises:
        RunError: a run is to be trained and its folder cannot be written.
        train.NonFinite: training diverged.
    """
    found: list[Run] = []
    absent: dict[str, str] = {}
    for spec in specs:
        if spec.id in absent:
            continue
        try:
            found.append(run_or_load(spec, train_missing=train_missing))
        except datasets.MissingData as error:
            absent[spec.id] = str(error).splitlines()[0]
        except RunError as error:
            if train_missing:  # it could not be written
                raise
            absent[spec.run_id] = str(error).splitlines()[0]
    return found, absent


def run_together(
    specs: Sequence[Spec], *, device_name: str | None = None, at_once: int | None = None
) -> list[Run]:
    """`run_or_load` for many runs. Those that share data, flow and length train side by side on a GPU.

    A run that diverges does not keep the others from their end.

    Args:
        specs: in any order.
        device_name: as in `run_or_load`.
        at_once: how many to train side by side; 8 on a GPU and 1 on a processor, which is busy with one.
    Raises:
        As `run_or_load`; `train.NonFinite`, of the first run that diverged, after all others are done.
    """
    on = torch.device(device_name) if device_name else device()
    at_once = at_once or (8 if on.type == "cuda" else 1)
    missing: dict[tuple[Any, ...], list[Spec]] = {}
    for spec in dict.fromkeys(specs):
        if _read(spec) is None and spec.model == "pixels" and spec.encoder is None and not spec.mutation:
            shared = (spec.profile, spec.id, spec.n_train, spec.epochs, spec.batch_size, spec.micro_batch)
            missing.setdefault((*shared, spec.squeeze, spec.blocks, spec.hidden), []).append(spec)
    for alike in missing.values() if at_once > 1 else ():
        for k in range(0, len(alike), at_once):
            for spec in alike[k : k + at_once]:
                _make_folder(spec)
            _train_side_by_side(alike[k : k + at_once], on)
    found: dict[Spec, Run] = {}
    diverged: list[train.NonFinite] = []
    for spec in dict.fromkeys(specs):
        try:
            found[spec] = run_or_load(spec, device_name=device_name)
        except train.NonFinite as error:
            warnings.warn(f"{spec.run_id} diverged: {error}", stacklevel=2)
            diverged.append(error)
    if diverged:
        raise diverged[0]
    return [found[spec] for spec in specs]


def build_flow(spec: Spec, shape: tuple[int, ...]) -> Flow | feature_flows.FeatureFlow:
    """The untrained flow of a spec, seeded: on pixels, on a backbone's maps, or on feature vectors of an encoder."""
    if spec.model != "pixels":
        backbone = backbones.load(spec.backbone)
        shared = {"blocks": spec.blocks, "seed": spec.seed}
        if spec.model == "fastflow":
            return feature_flows.fast_flow(
                backbone, spec.image_size, hidden_ratio=spec.hidden_ratio, **shared
            )
        return feature_flows.cs_flow(
            backbone, spec.image_size, hidden=spec.hidden, clamp=spec.clamp, **shared
        )
    if spec.encoder is not None:
        (d,) = shape
        return vector_flow(
            d,
            blocks=spec.blocks,
            hidden=spec.hidden,
            layers=spec.layers,
            permute_soft=spec.permute_soft,
            seed=spec.seed,
        )
    return image_flow(
        shape,
        squeeze=spec.squeeze,
        blocks=spec.blocks,
        hidden=spec.hidden,
        permute_soft=spec.permute_soft,
        seed=spec.seed,
    )


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


def provenance() -> dict[str, Any]:
    """Commit, versions and machine: what a number needs to be believed."""
    packages = ["torch", "torchvision", "FrEIA", "numpy", "scipy", "pillow"]
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "codec": codec_versions(),
        "engine": engine.status(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def write_json(path: Path, content: Any) -> None:
    """Atomically: a reader sees the old file or the whole new one."""
    _write(path, json.dumps(content, indent=1, allow_nan=True).encode())


# --- training ----------------------------------------------------------------------------------------------


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
    """Trains the runs that no other process holds; in halves where memory is short or one of them diverges."""
    with contextlib.ExitStack() as held:
        mine = [s for s in specs if held.enter_context(_locked(s, wait=False)) and _read(s) is None]
        if len(mine) > 1:
            try:
                return _train(mine, on, mine[0].micro_batch if on.type == "cpu" else None)
            except torch.OutOfMemoryError:
                warnings.warn(f"{on} has no memory for {len(mine)} runs at once; halving", stacklevel=2)
            except train.NonFinite as error:
                warnings.warn(f"one of {len(mine)} runs diverged; halving to part it from the others: {error}",
                              stacklevel=2)  # fmt: skip
    if len(mine) > 1:
        _forget(on)
        for half in (mine[: len(mine) // 2], mine[len(mine) // 2 :]):
            _train_side_by_side(half, on)


@dataclasses.dataclass
class _Job:
    """One run in training: what `train.fit_together` needs of it, and what its results are made of."""

    spec: Spec
    data: Any
    flow: Any
    x: torch.Tensor
    method: Callable[..., torch.Tensor] | None
    settings: train.Settings
    state: dict[str, Any] | None
    facts: dict[str, Any]

    @classmethod
    def of(cls, spec: Spec, on: torch.device, micro_batch: int | None) -> "_Job":
        write_json(spec.folder / "spec.json", spec.model_dump(mode="json"))
        data = _Data.of(spec) if spec.encoder is None else text_data(spec)
        x = data.train.x.to(on)
        flow = build_flow(spec, tuple(x.shape[1:])).to(on)
        settings = dataclasses.replace(training_settings(spec, len(x)), micro_batch=micro_batch)
        state = _load_checkpoint(spec, on)
        method, facts = _method(spec, data, on), {}
        if spec.model != "pixels":
            flow, x, method, settings, facts = _on_maps(spec, flow, x, method, settings)
        elif state is None and spec.data_init:
            flow.initialise(dequantise(x[:512]) if x.dtype == torch.uint8 else x[:512])
        return cls(spec, data, flow, x, method, settings, state, facts)

    def kept(self) -> dict[int, int]:
        """Finished steps after which the weights are kept, and the epoch that ends there."""
        spec, n = self.spec, len(self.x)
        steps = {
            train.Settings.epochs_to_steps(e, n, spec.batch_size): e for e in KEPT_EPOCHS if e < spec.epochs
        }
        return steps if spec.epochs > KEPT_EPOCHS[1] else {}

    def save(self, state: dict[str, Any]) -> None:
        if epoch := self.kept().get(state["step"]):
            _write(self.spec.folder / f"epoch_{epoch:04d}.safetensors", _weights(state["flow"]))
        _save_checkpoint(self.spec, state)
        last = state["history"][-1]
        write_json(
            self.spec.folder / "progress.json",
            {
                "step": state["step"],
                "steps": self.settings.steps,
                "loss": last["loss"],
                "bpd_id": last["bpd_id"],
                "seconds": state["seconds"],
                "time": time.time(),
            },
        )

    def finish(self, history: train.History, facts: dict[str, Any]) -> None:
        """Weights, history, scores and, last, metrics.json."""
        spec, flow, folder = self.spec, self.flow, self.spec.folder
        _write(folder / "history.csv", _csv(history.rows))
        if isinstance(flow, feature_flows.OnBank):
            flow = flow.flow
        _write(folder / "model.safetensors", _weights(flow.eval().state_dict()))
        evaluate = _evaluate if spec.encoder is None else _evaluate_texts
        result = evaluate(spec, self.data, flow) | self.facts | {"n_parameters": flow.n_parameters}
        result |= {"steps": self.settings.steps, "micro_batch": self.settings.micro_batch} | facts
        write_json(
            folder / "metrics.json", {"format": FORMAT, "spec": spec.model_dump(mode="json"), **result}
        )
        for name in ("checkpoint.ckpt", "checkpoint.previous.ckpt"):
            (folder / name).unlink(missing_ok=True)


def _train(specs: Sequence[Spec], on: torch.device, micro_batch: int | None) -> None:
    """Trains runs on the same samples; several of them side by side, those that stand at the same step."""
    began = time.monotonic()
    jobs = [_Job.of(spec, on, micro_batch) for spec in specs]
    by_step: dict[int, list[_Job]] = {}
    for job in jobs:
        by_step.setdefault(0 if job.state is None else job.state["step"], []).append(job)
    for group in by_step.values():
        first = group[0].spec
        histories = train.fit_together(
            [job.flow for job in group],
            group[0].x,
            [job.method for job in group],
            settings=[job.settings for job in group],
            states=[job.state for job in group],
            on_checkpoint=lambda k, state, group=group: group[k].save(state),
            checkpoint_every_s=CHECKPOINT_EVERY_S,
            checkpoint_at=group[0].kept(),
            log_every=max(10, group[0].settings.steps // 2000),
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


@dataclasses.dataclass(frozen=True)
class _Data:
    train: datasets.ImageSet
    test: dict[str, datasets.ImageSet]
    absent: list[str]
    pool: torch.Tensor | None
    pool_facts: list[dict[str, object]]

    @classmethod
    def of(cls, spec: Spec) -> "_Data":
        load = datasets.load if spec.model == "pixels" else _pictures_of(spec)
        x = load(spec.id, "train").first(spec.n_train)
        if spec.mutation:
            rng = torch.Generator().manual_seed(spec.seed)
            x = dataclasses.replace(x, x=outliers.mutate(x.x, spec.mutation, rng=rng))
        test, absent = {spec.id: load(spec.id, "test").drawn(spec.n_test, 0)}, []
        for name in spec.ood:  # training does not depend on them: one that is not here is said to be absent
            try:
                test[name] = load(name, "test").drawn(spec.n_test, 0)
            except datasets.MissingData:
                absent.append(name)
        pool, facts = None, []
        if spec.method == "ro":
            sets = [datasets.load(name, "train") for name in spec.ro_pool]
            pool = datasets.mixed_pool(sets, round(spec.ro_share * len(x)), seed=spec.seed)
            facts = [s.facts() for s in sets]
        return cls(x, test, absent, pool, facts)

    def seen(self) -> dict[str, int]:
        """Per test set, how many images are byte for byte among those trained on, as ID or as real outliers."""
        trained = {image.tobytes() for x in (self.train.x, self.pool) if x is not None for image in x.numpy()}
        return {name: sum(i.tobytes() in trained for i in s.x.numpy()) for name, s in self.test.items()}


def _method(
    spec: Spec, data: _Data | features.TextData, on: torch.device
) -> Callable[..., torch.Tensor] | None:
    if spec.method == "mle":
        return None
    if spec.method == "text":
        return data.outliers(spec.kinds)
    if spec.method == "ro":
        return outliers.real_outliers(data.pool.to(on))
    radius = spec.blur_radius if spec.blur_ratio is None else _blur(spec.blur_ratio, data.train)["radius"]
    if spec.method == "gaussian":
        return functools.partial(outliers.gaussian, radius=radius)
    if spec.method == "ccm":
        return functools.partial(outliers.ccm, alpha=spec.alpha)
    if spec.method == "ccm_simplify":
        return functools.partial(ccm_simplify, alpha=spec.alpha, mode=spec.combine)
    return functools.partial(outliers.ccm_gaussian, radius=radius, alpha=spec.alpha, mode=spec.combine)


def _pictures_of(spec: Spec) -> Callable[[str, str], datasets.ImageSet]:
    return lambda name, split: highdim.load(name, split, spec.image_size)


def _blur(ratio: float, of: datasets.ImageSet) -> dict[str, float]:
    """The calibrated radius (A15), measured on at most 60 ID images; remembered, since every seed asks again."""
    x = of.drawn(60, 0).x
    key = (ratio, datasets.digest(x))
    if key not in _BLURS:
        # Pillow's blur jumps where a box grows by a pixel: the ratio of some sets steps by .07 there
        _BLURS[key] = dataclasses.asdict(outliers.calibrate_blur(x, ratio, tolerance=0.04))
    return _BLURS[key]


_BLURS: dict[tuple[float, str], dict[str, float]] = {}


def _on_maps(
    spec: Spec,
    flow: feature_flows.FeatureFlow,
    x: torch.Tensor,
    method: Callable[..., torch.Tensor] | None,
    settings: train.Settings,
) -> tuple[Any, torch.Tensor, Callable[..., torch.Tensor] | None, train.Settings, dict[str, Any]]:
    """What `train.fit` gets where the flow stands on a backbone; pure in the spec, so that a killed run continues."""
    if spec.data_init:
        flow.initialise(dequantise(x[:512]))
    if spec.tau_from_start:
        level = float(feature_flows.image_scores(flow, x[:64])["log_px"].mean())
        settings = dataclasses.replace(settings, tau=spec.tau + level)
    facts = {
        "backbone": flow.backbone.facts(),
        "maps": [list(shape) for shape in flow.maps],
        "tau_nats": settings.tau,
        "outliers": f"{spec.frozen_outliers} frozen per image" if spec.frozen_outliers else "fresh, exact",
    }
    if spec.frozen_outliers:
        bank = feature_flows.FeatureBank(flow, x, method, spec.frozen_outliers, seed=spec.seed)
        flow, x = feature_flows.OnBank(flow, bank), bank.indices()
        method = None if method is None else bank.outliers
    return flow, x, method, settings, facts


def training_settings(spec: Spec, n: int) -> train.Settings:
    """How a spec trains on n samples, in steps."""
    shared = {f.name for f in dataclasses.fields(train.Settings)} & set(Spec.model_fields)
    steps = train.Settings.epochs_to_steps(spec.epochs, n, spec.batch_size)
    return train.Settings(steps=steps, **{name: getattr(spec, name) for name in shared})


def _evaluate(spec: Spec, data: _Data, flow: Flow) -> dict[str, Any]:
    def measure(x: torch.Tensor) -> dict[str, np.ndarray]:
        complexity = {"complexity": datasets.complexity_of(x).numpy()}
        if spec.model != "pixels":
            return feature_flows.image_scores(flow, x) | complexity
        log_pz, log_px = densities(flow, x)
        return {"log_pz": log_pz, "log_px": log_px} | complexity

    arrays = {name: measure(s.x) for name, s in data.test.items()}
    fitting = {name: measure(x) for name, x in _fitting_images(spec, data).items()}
    _write_scores(spec, arrays | fitting)
    by_score = {
        n: scores.all_scores(a["log_pz"], a["log_px"], a["complexity"], flow.d)
        | ({"published": a["published"]} if "published" in a else {})
        for n, a in arrays.items()
    }
    levels = 256 if spec.model == "pixels" else 1  # features have no bins: bits per dimension of a density
    id_ = arrays[spec.id]
    return {
        "d": flow.d,
        "shape": list(flow.shape),
        "ood": _all_metrics(spec, by_score),
        "id": {
            "bpd": float(scores.bits_per_dim(id_["log_px"], flow.d, levels=levels).mean()),
            "log_pz_mean": float(id_["log_pz"].mean()),
            "log_px_mean": float(id_["log_px"].mean()),
        },
        "complexity": {
            name: {
                "mean": float(a["complexity"].mean()),
                "sd": float(a["complexity"].std(ddof=1)),
                "n": len(a["complexity"]),
            }
            for name, a in arrays.items()
        },
        "test_images_seen_in_training": data.seen(),
        "absent": data.absent,
        "data": [data.train.facts(), *[s.facts() for s in data.test.values()], *data.pool_facts],
    } | ({} if spec.blur_ratio is None else {"blur": _blur(spec.blur_ratio, data.train)})


def _evaluate_texts(spec: Spec, data: features.TextData, flow: Flow) -> dict[str, Any]:
    def measure(x: torch.Tensor) -> dict[str, np.ndarray]:
        log_pz, log_px = densities(flow, x)
        return {"log_pz": log_pz, "log_px": log_px}

    arrays = {name: measure(s.x) for name, s in data.test.items()}
    lengths = {
        name: {"n_tokens": s.n_tokens, "bits_per_byte": s.bits_per_byte()}
        for name, s in (data.test | {"train": data.train}).items()
    }
    fitting = {"train": measure(data.train.x), "synthetic": measure(data.pools["text"])}
    _write_scores(spec, {n: of | lengths.get(n, {}) for n, of in (arrays | fitting).items()})
    by_score = {n: scores.all_scores(a["log_pz"], a["log_px"], None, flow.d) for n, a in arrays.items()}
    return {
        "d": flow.d,
        "shape": list(flow.shape),
        "ood": _all_metrics(spec, by_score),
        "id": {
            "bpd": float(scores.bits_per_dim(arrays[spec.id]["log_px"], flow.d, levels=1).mean()),
            "log_pz_mean": float(arrays[spec.id]["log_pz"].mean()),
            "log_px_mean": float(arrays[spec.id]["log_px"].mean()),
            "log_px_mean_train": float(fitting["train"]["log_px"].mean()),
        },
        "text_complexity": data.complexity(),
        "encoder": data.encoder_facts,
        "outliers": data.outlier_facts,
        "test_texts_seen_in_training": data.seen(),
        "data": [data.train.facts(), *[s.facts() for s in data.test.values()]],
    }


def _write_scores(spec: Spec, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{f"{n}/{q}": a for n, of in arrays.items() for q, a in of.items()})
    _write(spec.folder / "scores.npz", buffer.getvalue())


def _all_metrics(spec: Spec, by_score: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    id_ = by_score[spec.id]
    return {
        name: {kind: metrics.evaluate(id_[kind], of[kind], rng=0) for kind in of}
        for name, of in by_score.items()
        if name != spec.id
    }


def _fitting_images(spec: Spec, data: _Data) -> dict[str, torch.Tensor]:
    x = data.train.drawn(spec.n_test or 1000, 1).x
    partner = data.train.drawn(spec.n_test or 1000, 2).x
    rng = torch.Generator().manual_seed(spec.seed)
    method = _method(spec, data, torch.device("cpu"))
    if spec.method in (
        "mle",
        "ro",
    ):  # they make no outliers of ID images; real ones are not for fitting scores
        method = outliers.ccm_gaussian
    return {"train": x, "synthetic": method(x, partner, rng=rng)}


# --- files ---------------------------------------------------------------------------------------------------


def _read(spec: Spec) -> Run | None:
    path = spec.folder / "metrics.json"
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError:
        warnings.warn(
            f"{path} is not whole JSON and is taken for a run that was never finished", stacklevel=3
        )
        return None
    if not _same(content.get("spec"), spec):
        raise RunError(f"{path} belongs to another spec; move the folder away and start again")
    return Run(spec, spec.folder, content)


def _same(stored: Any, spec: Spec) -> bool:
    # a field that did not exist when the run was made has its default
    try:
        return Spec.model_validate(stored) == spec
    except pydantic.ValidationError:
        return False


def _make_folder(spec: Spec) -> None:
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(
            f"cannot make {spec.folder}: {e}; point FLOWOOD_OUTPUTS at a folder you may write"
        ) from e


@contextmanager
def _locked(spec: Spec, *, wait: bool = True) -> Iterator[bool]:
    """The folder's lock; without waiting, False where another process holds it."""
    lock, held = FileLock(spec.folder / ".lock"), True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if held := wait:
            print(f"{spec.run_id}: another process is training it, waiting for its result", flush=True)
            lock.acquire()
    except OSError as e:
        raise RunError(
            f"cannot lock {spec.folder}: {e}; point FLOWOOD_OUTPUTS at a folder you may write"
        ) from e
    try:
        yield held
    finally:
        if held:
            lock.release()


def _save_checkpoint(spec: Spec, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "run_id": spec.run_id, "state": state}, buffer)
    content = buffer.getvalue()
    latest, previous = spec.folder / "checkpoint.ckpt", spec.folder / "checkpoint.previous.ckpt"
    if latest.exists():
        os.replace(latest, previous)
    _write(
        latest, content + hashlib.sha256(content).digest()
    )  # the digest tells a torn file from a whole one


def _load_checkpoint(spec: Spec, on: torch.device) -> dict[str, Any] | None:
    for name in ("checkpoint.ckpt", "checkpoint.previous.ckpt"):
        path = spec.folder / name
        if not path.exists():
            continue
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[:-32]).digest() != content[-32:]:
                raise ValueError("it is torn or was changed")
            loaded = torch.load(io.BytesIO(content[:-32]), map_location=on, weights_only=True)
            if loaded["run_id"] != spec.run_id or loaded["format"] != FORMAT:
                raise ValueError(f"it belongs to the run {loaded['run_id']}")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as e:
            warnings.warn(f"{path} cannot be used: {e}; falling back to the one before", stacklevel=3)
            continue
        return loaded["state"]
    return None


def _weights(state: dict[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in state.items()})


def _write(path: Path, content: bytes) -> None:
    with _explained(path):
        write_atomically(path, content)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise RunError(
            f"cannot write {path}: {e}; free some space or point FLOWOOD_OUTPUTS elsewhere. Nothing half-written "
            "counts as a result, and the run continues from its last checkpoint"
        ) from e


def _csv(rows: list[dict[str, float]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(
        out, fieldnames=["step", *[k for k in rows[0] if k != "step"]], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def peak_memory_mb() -> float:
    """MB that this process came to hold at most, on any system."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *args], cwd=paths.repo_root(), capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
