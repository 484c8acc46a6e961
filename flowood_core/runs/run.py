"""A finished run, read from its folder."""

import csv
import dataclasses
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from safetensors.torch import load_model
from torch import nn

from flowood_core import scores
from flowood_core.runs import kinds
from flowood_core.runs.folder import RunError
from flowood_core.runs.spec import Spec

__all__ = ["Run"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    spec: Spec
    folder: Path
    metrics: dict[str, Any]

    @classmethod
    def read(cls, spec: Spec) -> "Run | None":
        """The run of a spec, or None where it is not done.

        Raises:
            RunError: the folder holds another spec.
        """
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
        return cls(spec, spec.folder, content)

    @property
    def absent(self) -> tuple[str, ...]:
        """Test sets that it is not scored on yet; see `Spec.unscored`."""
        return self.spec.unscored(self.metrics)

    def auroc(self, ood: str, score: str) -> float:
        """AUROC of a test set by a score's name, in percent; above 50, OOD scores higher than ID."""
        return 100 * self.metrics["ood"][ood][score]["auroc"][0]

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

    def flow(self) -> nn.Module:
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
        flow = self.spec.flow(tuple(self.metrics["shape"]))
        try:
            load_model(flow, str(weights))
        except RuntimeError as error:
            problem = str(error).splitlines()[-1].strip()
            raise RunError(f"{weights} does not fit the flow of this version: {problem}; {again}") from error
        return flow.eval()


def _same(stored: Any, spec: Spec) -> bool:
    # a field that did not exist when the run was made has its default
    try:
        return kinds.read(stored) == spec
    except (pydantic.ValidationError, AttributeError):
        return False
