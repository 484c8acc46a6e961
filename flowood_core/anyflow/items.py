"""Samples that come one by one or in batches: data sets, loaders, iterators, lists. One tensor of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

__all__ = ["stacked"]

Numbers = Callable[[np.ndarray], Tensor]


def stacked(data: Any, limit: int | None, layout: str | None, name: str, numbers: Numbers) -> Tensor:
    """One tensor of the samples in a data set, a list, a loader, or an iterator.

    An item may be (sample, label), a tuple, or a list of arrays as loaders make them: its first entry counts. Whether
    an iterator yields batches is told by its items: by a label for each row, or by a shape that no sample has.

    Args:
        layout: "batches" or "samples" for iterators.
        numbers: array to tensor, or a refusal.
    Raises:
        TypeError: no such thing, or items that are dicts. ValueError: shapes that differ, or two readings.
    """
    items, are_batches = _items(data, limit, layout, name)
    is_loose = isinstance(data, list | tuple)
    rows: list[Tensor] = []
    for item in items:
        sample, label = _parts(item, is_loose, name)
        x = sample if isinstance(sample, Tensor) else numbers(_array(sample, name))
        if are_batches is None:
            # the first item tells for all: a last batch may be as short as a picture has channels
            are_batches = _is_batch(x, label, name)
        rows.extend(x) if are_batches else rows.append(x)
    if not rows:
        raise ValueError(f"expected {name} with at least one sample, got an empty {type(data).__name__}")
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"expected samples of one shape in {name}, got {len(shapes)} shapes such as "
            f"{', '.join(map(str, sorted(shapes)[:3]))}; resize them, or point flowood_core.Folder at the files"
        )
    return torch.stack(rows)


def _items(data: Any, limit: int | None, layout: str | None, name: str) -> tuple[Iterator[Any], bool | None]:
    """The items, and whether each is a batch; None where they must tell."""
    if isinstance(data, DataLoader):
        return iter(data), data.batch_sampler is not None
    asked = {"batches": True, "samples": False}.get(layout or "")
    is_indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if is_indexed and not isinstance(data, IterableDataset):
        n = len(data)
        index = range(n) if limit is None or limit >= n else np.linspace(0, n - 1, limit).astype(int).tolist()
        return (data[i] for i in index), asked or False
    if isinstance(data, Iterable):
        return iter(data), asked
    one = "; for one picture give a list that holds it" if hasattr(data, "__array_interface__") else ""
    raise TypeError(
        f"expected {name} as an array, a tensor, a folder, a torch data set or texts, got {type(data).__name__}{one}"
    )


def _parts(item: Any, is_loose: bool, name: str) -> tuple[Any, Any]:
    """(sample, label or None) of an item."""
    if isinstance(item, Mapping):
        raise TypeError(
            f"expected samples or (sample, label) as items of {name}, got a dict with "
            f"{', '.join(map(repr, list(item)[:5]))}; give the entry that holds the samples, such as "
            f"(item[{next(iter(item), 'image')!r}] for item in {name})"
        )
    if not isinstance(item, tuple | list) or not item:
        return item, None
    first, rest = item[0], item[1:]
    if _is_array(first):
        if (
            is_loose
            and rest
            and all(_is_array(r) and np.shape(r) == np.shape(first) and np.ndim(r) for r in rest)
        ):
            raise ValueError(
                f"expected items of {name} that are samples or (sample, label), got {len(item)} arrays shaped "
                f"{tuple(np.shape(first))} in each: rows of one sample (give one array), or a sample and its target "
                "(give the samples alone)?"
            )
        return first, rest[0] if rest else None
    if isinstance(first, Mapping):
        return _parts(first, is_loose, name)
    if isinstance(item, tuple) and len(item) == 2 and np.ndim(first) and not np.ndim(rest[0]):
        return first, rest[0]
    return item, None


def _is_batch(x: Tensor, label: Any, name: str) -> bool:
    """Whether an iterator's items are batches, by the first of them."""
    if label is not None:
        labels = np.shape(label)
        if x.ndim == 3 and len(x) in (1, 3) and labels == (len(x),):
            raise ValueError(
                f"expected an iterator over {name} whose items tell what they are, got {tuple(x.shape)} with "
                f"{len(x)} labels: that many grey pictures, or one picture and a vector for its label? Say "
                "inputs.to_tensor(data, layout='batches') or layout='samples'"
            )
        return len(labels) > 0 and x.ndim > 1 and labels[0] == len(x)
    if x.ndim < 2 or (x.ndim == 2 and x.dtype == torch.uint8):
        return False
    if x.ndim == 3 and x.dtype == torch.uint8 and (x.shape[0] in (1, 3) or x.shape[-1] in (1, 3)):
        return False
    if x.ndim == 3 and x.dtype != torch.uint8:
        raise ValueError(
            f"expected an iterator over {name} whose items tell what they are, got floats shaped {tuple(x.shape)}: a "
            "batch of matrices, or one sample? Say inputs.to_tensor(data, layout='batches') or layout='samples'"
        )
    return True


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) or _is_picture(value)


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getbands") and hasattr(value, "mode")


def _array(sample: Any, name: str) -> np.ndarray:
    if _is_picture(sample):
        if sample.mode not in ("RGB", "L"):
            raise ValueError(
                f"expected pictures of mode RGB or L in {name}, got {sample.mode}; give picture.convert('RGB'), or "
                "point flowood_core.Folder at the files"
            )
        return np.array(sample)
    try:
        return np.asanyarray(sample)
    except ValueError as error:
        raise ValueError(f"expected samples of one shape in {name}, got: {error}") from error
