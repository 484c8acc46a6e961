"""What a trained flow is worth: every test set scored, and those that arrive later."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from flowood_core import datasets, metrics, scores
from flowood_core.runs.folder import RunFolder
from flowood_core.runs.provenance import provenance
from flowood_core.runs.run import Run
from flowood_core.runs.spec import Data, Spec

__all__ = ["evaluate", "score_arrivals"]

Arrays = Mapping[str, Mapping[str, np.ndarray]]


def evaluate(spec: Spec, data: Data, flow: nn.Module) -> dict[str, Any]:
    """Scores of every set, written to scores.npz, and their metrics: AUROC and FPR95 with intervals, per score."""
    arrays = {name: spec.measure(flow, s.x) for name, s in data.test.items()}
    fitting = {name: spec.measure(flow, x) for name, x in spec.fitting(data).items()}
    known = {name: spec.known(s) for name, s in (data.test | {"train": data.train}).items()}
    RunFolder(spec).write_scores({n: of | known.get(n, {}) for n, of in (arrays | fitting).items()})
    return {
        "d": flow.d,
        "shape": list(flow.shape),
        "ood": _metrics(spec, arrays, flow.d),
        "id": _id_facts(spec, arrays[spec.id], fitting["train"], flow.d),
        "absent": data.absent,
        "data": data.facts(),
    } | spec.facts(data, arrays)


def score_arrivals(run: Run) -> Run:
    """The run with those test sets scored that it lacks (`Run.absent`) and that are here now; nothing is trained.

    Scores that it has, those of the ID set among them, stay as they are.

    Raises:
        RunError: the weights are not here, or the folder cannot be written.
    """
    arrived = {name: s for name in run.absent if (s := _arrived(run.spec, name)) is not None}
    if not arrived:
        return run
    folder, flow = RunFolder(run.spec), run.flow()
    arrays = dict(run.arrays) | {name: run.spec.measure(flow, s.x) for name, s in arrived.items()}
    content = dict(run.metrics)
    new = {name: arrays[name] for name in (run.spec.id, *arrived)}
    content["ood"] = content["ood"] | _metrics(run.spec, new, content["d"])
    if "complexity" in content:
        content["complexity"] = content["complexity"] | {
            n: _moments(arrays[n]["complexity"]) for n in arrived
        }
    if "text_complexity" in content:
        content["text_complexity"] = content["text_complexity"] | {
            n: s.complexity() for n, s in arrived.items()
        }
    content["data"] = [*content["data"], *[s.facts() for s in arrived.values()]]
    content["absent"] = [name for name in run.absent if name not in arrived]
    content["scored_later"] = content.get("scored_later", {}) | dict.fromkeys(arrived, provenance())
    folder.write_scores(arrays | {n: arrays[n] | run.spec.known(s) for n, s in arrived.items()})
    folder.write_json("metrics.json", content)
    return Run.read(run.spec)


def _arrived(spec: Spec, name: str) -> Any:
    try:
        return spec.test_set(name)
    except datasets.MissingData:
        return None


def _id_facts(
    spec: Spec, id_: Mapping[str, np.ndarray], train: Mapping[str, np.ndarray], d: int
) -> dict[str, float]:
    return {
        "bpd": float(scores.bits_per_dim(id_["log_px"], d, levels=spec.levels).mean()),
        "log_pz_mean": float(id_["log_pz"].mean()),
        "log_px_mean": float(id_["log_px"].mean()),
        "log_px_mean_train": float(train["log_px"].mean()),
    }


def _metrics(spec: Spec, arrays: Arrays, d: int) -> dict[str, Any]:
    by_score = {name: _by_score(of, d) for name, of in arrays.items()}
    id_ = by_score.pop(spec.id)
    return {
        name: {kind: metrics.evaluate(id_[kind], of[kind], rng=0) for kind in of}
        for name, of in by_score.items()
    }


def _by_score(of: Mapping[str, np.ndarray], d: int) -> dict[str, np.ndarray]:
    found = scores.all_scores(of["log_pz"], of["log_px"], of.get("complexity"), d)
    return found | ({"published": of["published"]} if "published" in of else {})


def _moments(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=1)), "n": len(values)}
