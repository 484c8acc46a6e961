"""Correcting the bias of normalizing flows by synthetic outliers: the rooms that the notebooks use."""

__version__ = "0.1.0"

_OFFERED = {  # what a practitioner needs, by the room it is in; loaded when asked for, since a room may import torch
    "BiasReport": "bias",
    "Detector": "detector",
    "Folder": "inputs",
    "as_flow": "adapt",
    "bias_report": "bias",
    "check_flow": "adapt",
    "correct": "correction",
}


def __getattr__(name: str):
    if name in _OFFERED:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_OFFERED[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])
