"""Data by name: benchmark images, high-dimensional pictures and texts, embedded, prepared or fetched."""

from flowood_core.datasets.embedded import EMBEDDED, SIDE, embedded
from flowood_core.datasets.images import load, load_prepared, mixed_pool
from flowood_core.datasets.sets import (
    LABELS,
    NOT_SHOWN,
    ImageSet,
    MissingData,
    MissingPool,
    complexity_of,
    digest,
)

__all__ = [
    "EMBEDDED",
    "LABELS",
    "NOT_SHOWN",
    "SIDE",
    "ImageSet",
    "MissingData",
    "MissingPool",
    "complexity_of",
    "digest",
    "embedded",
    "load",
    "load_prepared",
    "mixed_pool",
]
