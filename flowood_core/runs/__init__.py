"""Trainings with everything they leave: three kinds of run, the machine that trains them, the grid they stand in."""

from flowood_core.runs.evaluate import score_arrivals
from flowood_core.runs.folder import RunError, RunFolder
from flowood_core.runs.kinds import Kind, read
from flowood_core.runs.machine import NOT_HERE, available, device, run_or_load, run_together
from flowood_core.runs.maps import Maps
from flowood_core.runs.pixels import Pixels
from flowood_core.runs.provenance import peak_memory_mb, provenance
from flowood_core.runs.run import Run
from flowood_core.runs.spec import Spec
from flowood_core.runs.texts import Texts

__all__ = [
    "NOT_HERE",
    "Kind",
    "Maps",
    "Pixels",
    "Run",
    "RunError",
    "RunFolder",
    "Spec",
    "Texts",
    "available",
    "device",
    "peak_memory_mb",
    "provenance",
    "read",
    "run_or_load",
    "run_together",
    "score_arrivals",
]
