"""Correcting the bias of normalizing flows by synthetic outliers: the rooms that the notebooks use."""

__version__ = "0.1.0"
