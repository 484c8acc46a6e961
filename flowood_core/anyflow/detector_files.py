"""A detector in a folder: weights as safetensors, the rest as JSON, no pickle. `Detector.save` and `Detector.load`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import nn

import flowood_core
from flowood_core.anyflow import adapt, building
from flowood_core.anyflow.join import Join
from flowood_core.anyflow.levels import FEATURES, NAMES, STATISTICS, FeatureLevel
from flowood_core.flow import Flow
from flowood_core.neighbours import Fusion
from flowood_core.scores import Threshold
from flowood_core.system.files import write_atomically

__all__ = ["FORMAT", "Stored", "read", "write"]

FORMAT = "flowood detector 1"
WITH_SIGHTS = "flowood detector 2"  # its join is not what a reader of the first format takes it for
WITH_STATISTICS = "flowood detector 3"  # a reader of the others would look for a level that it does not know
FORMATS = (FORMAT, WITH_SIGHTS, WITH_STATISTICS)
WEIGHTS, FACTS = "weights.safetensors", "detector.json"
ENTRIES = {STATISTICS: "level_statistics", FEATURES: "level"}
FILES = {STATISTICS: "level-statistics.safetensors", FEATURES: "level.safetensors"}


class Stored(NamedTuple):
    """What a folder holds of a detector.

    Attributes:
        flow: with its weights.
        plan: how it was built; None for a flow of your own.
        settings: the constructor's, as plain values.
        shape, dtype: of a sample.
        names: of the columns, where they have any.
        pictures: how files are read.
        levels: beside the pixels, by name.
        join: how the scores of several are joined; None without.
    """

    flow: nn.Module
    plan: dict[str, Any] | None
    settings: dict[str, Any]
    shape: tuple[int, ...]
    dtype: str
    kind: str
    threshold: Threshold
    fusion: Fusion | None
    names: list[str] | None = None
    pictures: dict[str, Any] | None = None
    levels: Mapping[str, FeatureLevel] = types.MappingProxyType({})
    join: Join | None = None


def write(folder: str | os.PathLike, stored: Stored) -> Path:
    """Write the facts, which are written last and name the hash of each other file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().cpu().clone().contiguous() for name, t in stored.flow.state_dict().items()}
    weights = safetensors.torch.save(state)
    plan = stored.plan or building.plan_of(stored.flow)
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in stored.settings.items()
    }
    facts = {
        "format": _format(stored),
        "orientation": "ood_score: higher = more OOD",
        "flow": plan or _described(stored.flow),
        "shape": list(stored.shape),
        "dtype": stored.dtype,
        "kind": stored.kind,
        "settings": {name: value for name, value in plain.items() if _is_plain(value)},
        "threshold": dataclasses.asdict(stored.threshold),
        "fusion": None if stored.fusion is None else stored.fusion.facts(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {"flowood": flowood_core.__version__, "torch": str(torch.__version__)},
    }
    facts |= {name: value for name in ("names", "pictures") if (value := getattr(stored, name)) is not None}
    for name, level in stored.levels.items():
        about, tensors = level.state()
        content = safetensors.torch.save(tensors)
        facts[ENTRIES[name]] = {"facts": about, "sha256": hashlib.sha256(content).hexdigest()}
        write_atomically(folder / FILES[name], content)
    if stored.levels:
        facts["join"] = None if stored.join is None else stored.join.facts()
    write_atomically(folder / WEIGHTS, weights)
    # last: it names the weights
    write_atomically(folder / FACTS, (json.dumps(facts, indent=2) + "\n").encode())
    return folder


def read(folder: str | os.PathLike, flow: nn.Module | None = None) -> Stored:
    """Read what `write` wrote.

    Args:
        flow: a flow of your own, made anew, where the detector holds one.
    Raises:
        FileNotFoundError, ValueError: as `Detector.load`.
    """
    folder = Path(folder)
    facts = _facts(folder)
    weights = _named(folder / WEIGHTS, facts["weights_sha256"])
    plan = facts["flow"]
    is_given = plan["type"] == "given"
    if is_given and flow is None:
        raise ValueError(
            f"expected flow=..., since this detector was made with a {plan['class']} of your own: make it anew and "
            "pass it, its weights will be replaced"
        )
    made = _filled(_given(flow, plan) if is_given else building.build(plan), safetensors.torch.load(weights))
    return Stored(
        flow=made,
        plan=None if is_given else plan,
        settings=facts["settings"],
        shape=tuple(facts["shape"]),
        dtype=facts["dtype"],
        kind=facts["kind"],
        threshold=Threshold(**facts["threshold"]),
        fusion=None if facts["fusion"] is None else Fusion.of_facts(facts["fusion"]),
        names=facts.get("names"),
        pictures=facts.get("pictures"),
        levels=_levels(folder, facts),
        join=None if facts.get("join") is None else Join.from_facts(facts["join"]),
    )


def _format(stored: Stored) -> str:
    if STATISTICS in stored.levels:
        return WITH_STATISTICS
    return FORMAT if stored.join is None else WITH_SIGHTS


def _levels(folder: Path, facts: dict[str, Any]) -> dict[str, FeatureLevel]:
    found = {name: facts.get(ENTRIES[name]) for name in NAMES if name in ENTRIES}
    return {
        name: FeatureLevel.from_state(
            of["facts"], safetensors.torch.load(_named(folder / FILES[name], of["sha256"]))
        )
        for name, of in found.items()
        if of is not None
    }


def _named(path: Path, sha256: str) -> bytes:
    """A file's content, if it is what the facts name."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"expected the weights that {FACTS} names, got other or damaged ones in {path}; copy all files of the "
            "folder again, they belong together"
        )
    return content


def _facts(folder: Path) -> dict[str, Any]:
    if not (folder / FACTS).is_file():
        raise FileNotFoundError(f"expected a folder written by Detector.save, found no {FACTS} in {folder}")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"expected a detector saved by Detector.save, got {folder / FACTS}: {error}"
        ) from error
    if not isinstance(facts, dict) or facts.get("format") not in FORMATS:
        got = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise ValueError(
            f"expected a detector of format {' or '.join(map(repr, FORMATS))}, got {got!r} in {folder / FACTS}; "
            "a later one needs a newer flowood"
        )
    return facts


def _given(flow: Any, plan: dict[str, Any]) -> nn.Module:
    flow, _ = adapt.bare(flow)
    options = (
        {} if isinstance(flow, Flow | adapt.Adapted) else {"kind": plan["kind"], "flatten": plan["flatten"]}
    )
    return adapt.as_flow(flow, **options)


def _filled(flow: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """The flow with these weights, in their precision."""
    for name in ("shift", "scale"):  # buffers whose shape came with the data
        if name in state and isinstance(flow, adapt.Adapted):
            setattr(flow, name, state[name])
    inner = flow.flow if isinstance(flow, adapt.Adapted) else flow
    floats = [
        t.dtype for name, t in state.items() if t.is_floating_point() and name not in ("shift", "scale")
    ]
    if floats:
        inner.to(floats[0])
    try:
        flow.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"expected a flow with the saved weights' names and shapes; {error}") from error
    return flow.eval()


def _described(flow: nn.Module) -> dict[str, Any]:
    inner = flow.flow if isinstance(flow, adapt.Adapted) else flow
    described = {"type": "given", "class": f"{type(inner).__module__}.{type(inner).__qualname__}"}
    return described | (
        {"kind": flow.kind, "flatten": flow.flatten}
        if isinstance(flow, adapt.Adapted)
        else {"kind": None, "flatten": False}
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
