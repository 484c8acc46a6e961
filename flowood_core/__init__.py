"""Correcting the bias of normalizing flows by synthetic outliers: the paper's method, and its use on any flow."""

from flowood_core.system import moved

__version__ = "0.1.0"

moved.follow(__name__)

_OFFERED = {  # what a practitioner needs, and where it lies; loaded when asked for, since that may import torch
    "BiasReport": "anyflow.bias",
    "Detector": "anyflow.detector",
    "Folder": "anyflow.inputs",
    "PytorchOod": "anyflow.detector",
    "TfidfSvd": "features.encoders",
    "as_flow": "anyflow.adapt",
    "bias_report": "anyflow.bias",
    "check_flow": "anyflow.adapt",
    "correct": "anyflow.correction",
}


def __getattr__(name: str):
    if name in _OFFERED:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_OFFERED[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])
