"""Data by name: benchmark images, high-dimensional pictures and texts, embedded, prepared or fetched."""

from flowood_core.datasets.images import (
    EMBEDDED,
    LABELS,
    NOT_SHOWN,
    SIDE,
    ImageSet,
    MissingData,
    complexity_of,
    digest,
    embedded,
    load,
    load_prepared,
    mixed_pool,
)

__all__ = [
    "EMBEDDED",
    "LABELS",
    "NOT_SHOWN",
    "SIDE",
    "ImageSet",
    "MissingData",
    "complexity_of",
    "digest",
    "embedded",
    "load",
    "load_prepared",
    "mixed_pool",
]
