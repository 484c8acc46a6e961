"""Modules by the names they had before the package had folders: `flowood_core.inputs` is `flowood_core.anyflow.inputs`.

What people wrote against the flat package keeps running. A module is loaded once, whichever name asks for it.
"""

import importlib
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["MOVED", "follow"]

MOVED = {
    **{name: f"anyflow.{name}" for name in ("adapt", "bias", "correction", "detector", "inputs")},
    **{name: f"features.{name}" for name in ("backbones", "encoders")},
    **{
        name: f"datasets.{name}"
        for name in ("corpora", "download", "fingerprint", "highdim", "prepare", "registry")
    },
    **{name: f"system.{name}" for name in ("files", "paths", "progress")},
    **{name: f"runs.{name}" for name in ("grid", "status")},
    **{name: f"evidence.{name}" for name in ("claims", "tables")},
    "archives": "datasets.readers",
    "choices": "evidence.decisions",
    "feature_flows": "features.map_flows",
    "params": "notebook.params",
    "play": "notebook.widgets",
    "report": "notebook.figures",
}
"""Old name below the package: new name below the package."""


class _Moved:
    """Finder and loader of the old names, for `sys.meta_path`."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, old = name.rpartition(".")
        known = package == self.package and old in MOVED
        return importlib.machinery.ModuleSpec(name, self) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{self.package}.{MOVED[spec.name.rpartition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state  # the import system has just put the old name there


def follow(package: str) -> None:
    """Let the old names of a package's modules be imported; once is enough."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved(package))
