"""Tables and labels as scikit-learn's users bring them to a detector."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from flowood_core.anyflow.folders import Folder

__all__ = ["is_table", "labelled"]


def is_table(X: Any) -> bool:
    """Whether scikit-learn's rules are for it: a frame, a sparse matrix, an array or nested lists of rows."""
    if isinstance(X, Tensor | str | os.PathLike | Folder | Mapping):
        return False
    if hasattr(X, "iloc") or callable(getattr(X, "toarray", None)):
        return True
    if isinstance(X, np.ndarray):
        return X.ndim < 3 and not isinstance(X, np.ma.MaskedArray)
    if isinstance(X, list | tuple) and len(X):
        return isinstance(X[0], list | tuple) and all(np.ndim(v) == 0 for v in X[0])
    return hasattr(X, "__array__") and not hasattr(X, "getbands")


def labelled(y: Any, n: int) -> np.ndarray | None:
    """Which samples y marks as ID, by +1 and -1; None for no labels, and for others, which are not used.

    Warns:
        UserWarning: other labels: they say nothing of ID and OOD, and scikit-learn's outlier detectors ignore them.
    Raises:
        ValueError: +1 and -1, but not one for each sample.
    """
    if y is None:
        return None
    y = np.asarray(y)
    if y.size and np.isin(y, (-1, 1)).all():
        if y.shape != (n,):
            raise ValueError(f"expected one label per sample, {n}, +1 for ID and -1 for OOD, got {y.shape}")
        return y == 1
    warnings.warn(
        f"labels other than +1 (ID) and -1 (OOD), here {np.unique(y.astype(str))[:3].tolist()}, are not used: all "
        "samples count as ID",
        stacklevel=4,
    )
    return None
