"""What people have, brought to what a flow eats: uint8 images (n, c, h, w), or floats (n, ...).

A folder of images of any size and mode is read in batches and never held as a whole (`folders`); arrays, tensors, data
sets and loaders of torch, tables, texts and CSV columns become one tensor. Nothing is narrowed: floats of 64 bits stay,
what has fewer than 32 is widened. What can be read in two ways, or makes no sense, is refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowood_core.anyflow import ranges
from flowood_core.anyflow.folders import FITS, SUFFIXES, Folder, picture
from flowood_core.anyflow.items import stacked

__all__ = [
    "FITS",
    "LAYOUTS",
    "Folder",
    "batches",
    "check_samples",
    "count_duplicates",
    "csv_column",
    "embed",
    "folder_like",
    "folder_of",
    "narrowed",
    "picture",
    "sample_of",
    "texts_of",
    "to_tensor",
]

LEAST = 20  # ID samples below which neither a mean nor a threshold says anything
LAYOUTS = ("nchw", "nhwc", "nhw", "batches", "samples")
EXACT = 2**53  # whole numbers up to it are float64 numbers
WIDER = (torch.float16, torch.bfloat16)
SMALL = (torch.int8, torch.int16, torch.uint16, torch.bool)  # exact in float32
LOST = 1e-3  # of a standard deviation: the most that a change of precision may move a value


def to_tensor(
    data: Any, *, limit: int | None = None, encoder: Any = None, layout: str | None = None, name: str = "data"
) -> Tensor:
    """One tensor of what was given: uint8 images (n, c, h, w), or floats shaped (n, ...).

    Args:
        data: a tensor or NumPy array (uint8 images with channels first or last, or without channels; floats of
            any shape; whole numbers become floats that hold them), a `Folder`, the path of one or of an image file, a
            list of such paths, a torch data set or loader (the first entry of each item is taken), an iterator of
            batches, a pandas frame or column, an object with the images in `.x`, or texts together with an encoder:
            a list, a column, an array, an iterator.
        limit: at most so many samples, spread evenly.
        encoder: for texts: an object with `encode(texts)` that returns an array (or has it in `.x`).
        layout: where the shape does not tell: of uint8 images "nchw", "nhwc" or "nhw" (no channels); whether the items
            of an iterator are "batches" or "samples".
        name: how errors call the data.
    Raises:
        TypeError: none of these. FileNotFoundError: a path that is none.
        ValueError: nan or infinite rows, masked or complex values, no samples, a shape with two readings.

    >>> to_tensor(np.zeros((5, 32, 32, 3), np.uint8)).shape
    torch.Size([5, 3, 32, 32])
    """
    if layout is not None:
        ranges.one_of("layout", layout, LAYOUTS)
    if limit is not None:
        limit = ranges.whole("limit", limit, 1)
    folder = folder_of(data)
    if folder is not None:
        return folder.tensor(limit)
    texts = texts_of(data, name, is_wanted=encoder is not None)
    if texts is not None:
        if encoder is None:
            raise TypeError(
                f"expected an encoder for the texts of {name}, got none; pass encoder=..., an object with "
                "encode(texts) -> array, such as flowood_core.TfidfSvd().fit(texts)"
            )
        return embed(_evenly(texts, limit), encoder)
    x = _numeric(data, limit, layout, name)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"expected {name} with at least one sample, got shape {tuple(x.shape)}")
    x = _evenly(x, limit)
    if x.dtype == torch.uint8:
        return _channels_first(x, name, layout)
    _check_finite(x, name)
    return x


def batches(data: Any, batch_size: int = 64, *, encoder: Any = None, name: str = "data") -> Iterator[Tensor]:
    """The samples in batches: a `Folder` is streamed, everything else is split."""
    folder = folder_of(data)
    if folder is not None:
        yield from folder.batches(batch_size)
    else:
        yield from to_tensor(data, encoder=encoder, name=name).split(batch_size)


def sample_of(data: Any, n: int, *, encoder: Any = None, name: str = "data") -> Tensor:
    """At most n samples, spread evenly over the data."""
    return to_tensor(data, limit=n, encoder=encoder, name=name)


def folder_of(data: Any) -> Folder | None:
    """A `Folder`, the path of one or of an image file, or a list of paths of image files, as a `Folder`; else None.

    Raises:
        FileNotFoundError: a path, or text taken for one, where nothing lies.
    """
    if isinstance(data, Folder):
        return data
    if isinstance(data, str | os.PathLike):
        return Folder(data)
    if not isinstance(data, list | tuple) or not data:
        return None
    if all(isinstance(p, os.PathLike) for p in data):
        return Folder(data)
    are_images = all(
        isinstance(p, str) and len(p) < 4096 and Path(p).suffix.lower() in SUFFIXES for p in data
    )
    return Folder(data) if are_images else None


def folder_like(data: Any, shape: tuple[int, ...] | None, how: Mapping[str, Any] | None) -> Folder | None:
    """`folder_of`, read as an earlier folder was: a path at the size of its samples and with `Folder.how_again`.

    A `Folder` keeps its own size, mode and fit; its deep pictures share the earlier range, unless it names its own.
    """
    how = dict(how or {})
    if (found := folder_of(data)) is None:
        return None
    if isinstance(data, Folder):
        return found.in_range(how.get("top"))
    if shape is None or len(shape) != 3 or (found.shape == shape and not how):
        return found
    return Folder(data, size=shape[1:], **{"mode": "L" if shape[0] == 1 else "RGB"} | how)


def texts_of(data: Any, name: str = "data", *, is_wanted: bool = True) -> list[str] | None:
    """The texts of a list, column, array or (where texts are wanted) iterator; None for data that are no texts.

    Raises:
        TypeError: something else among texts, such as None or nan; says where.
    """
    values = _values_of(data, is_wanted)
    if not values or not any(isinstance(t, str) for t in values[:100]):
        return None
    wrong = next((k for k, t in enumerate(values) if not isinstance(t, str)), None)
    if wrong is not None:
        raise TypeError(
            f"expected texts in {name}, got {values[wrong]!r} ({type(values[wrong]).__name__}) at position {wrong}; "
            "drop missing texts or put '' in their place"
        )
    return [str(t) for t in values]


def _values_of(data: Any, is_wanted: bool) -> list[Any] | None:
    if isinstance(data, list | tuple):
        return list(data)
    if isinstance(data, Tensor | Mapping):
        return None
    if hasattr(data, "to_numpy"):
        data = data.to_numpy()
    if isinstance(data, np.ndarray):
        return data.tolist() if data.ndim == 1 and data.dtype.kind in "USOT" else None
    return list(data) if is_wanted and isinstance(data, Iterable) and not hasattr(data, "x") else None


def embed(texts: Sequence[str], encoder: Any) -> Tensor:
    """Vectors of texts by any object with `encode(texts)`, as float32 (n, d)."""
    if not callable(getattr(encoder, "encode", None)):
        raise TypeError(f"expected an encoder with encode(texts) -> array, got {type(encoder).__name__}")
    made = encoder.encode(list(texts))
    made = getattr(made, "x", made)
    made = made.detach().float().cpu() if isinstance(made, Tensor) else np.asarray(made)
    x = torch.as_tensor(made, dtype=torch.float32)
    if x.ndim != 2 or len(x) != len(texts):
        raise ValueError(
            f"expected one vector per text, ({len(texts)}, d), got {tuple(x.shape)} from the encoder"
        )
    _check_finite(x, "the encoded texts")
    return x


def csv_column(
    path: str | os.PathLike, column: str, *, encoding: str | None = None, delimiter: str = ","
) -> list[str]:
    """The texts of one column of a CSV file with a header line; empty cells are left out, and a warning counts them.

    Args:
        encoding: None: UTF-8, or UTF-16 where the file begins with its mark.
        delimiter: between cells.
    Raises:
        KeyError: no such column; the message lists those there are, and says if the delimiter seems another.
        ValueError: another encoding, or no CSV.
    """
    path = Path(path)
    content = path.read_bytes()
    found = encoding or ("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    try:
        text = content.decode(found)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected {path.name} in {found.removesuffix('-sig').upper()}, got the byte 0x{content[error.start]:02x} "
            f"at {error.start}; save it as UTF-8, or say encoding='cp1252' (Excel in Western Europe)"
        ) from error
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        fields = list(reader.fieldnames or [])
        if column not in fields:
            raise KeyError(_no_column(path.name, column, fields, delimiter))
        cells = [row[column] or "" for row in reader]
    except csv.Error as error:
        raise ValueError(f"expected CSV text (UTF-8) in {path.name}, got: {error}") from error
    finally:
        csv.field_size_limit(limit)
    kept = [cell for cell in cells if cell.strip()]
    if len(kept) < len(cells):
        warnings.warn(
            f"{len(cells) - len(kept)} of {len(cells)} cells of {column!r} are empty and left out",
            stacklevel=2,
        )
    return kept


def _no_column(file: str, column: str, fields: list[str], delimiter: str) -> str:
    said = f"expected a column {column!r} in {file}, got {', '.join(fields) or 'none'}"
    other = next((c for c in ";\t|," if c != delimiter and len(fields) == 1 and c in fields[0]), None)
    if other is not None:
        return f"{said}; its cells seem separated by {other!r}: say delimiter={other!r}"
    near = ranges.nearest(column, fields)
    return f"{said}; did you mean {near!r}?" if near else said


def check_samples(x: Tensor, least: int = LEAST, name: str = "ID data") -> Tensor:
    """x itself, if there are enough samples and they differ.

    Raises:
        ValueError: fewer than `least`, or all samples are the same.
    """
    if len(x) < least:
        raise ValueError(
            f"expected at least {least} samples as {name}, got {len(x)}; with fewer neither a mean nor a "
            "threshold says anything: collect more, or cut large images into patches"
        )
    if bool((x == x[:1]).all()):
        raise ValueError(f"expected {name} that varies, got {len(x)} times the same sample")
    return x


def narrowed(x: Tensor, dtype: torch.dtype, name: str = "data") -> Tensor:
    """x in the precision of a flow that does not standardise.

    Raises:
        ValueError: rounding would move values of a column by more than a thousandth of their standard deviation.

    >>> narrowed(torch.tensor([[1.5], [2.5]], dtype=torch.float64), torch.float32).dtype
    torch.float32
    """
    if x.dtype == torch.float64 and dtype != torch.float64 and len(x) > 1:
        flat = x.reshape(len(x), -1)
        sd = flat.std(0)
        rounding = torch.finfo(dtype).eps * flat.abs().amax(0)
        bad = (rounding > LOST * sd) & (sd > 0)
        if bad.any():
            k = int(bad.int().argmax())
            largest, spread = float(flat[:, k].abs().max()), float(sd[k])
            raise ValueError(
                f"expected {name} that {dtype}, in which the flow computes, can hold, got column {k} with values "
                f"up to {largest:.6g} and a standard deviation of {spread:.3g}; subtract the mean, give as_flow(flow, "
                "shift=..., scale=...), or take the flow that Detector builds, which standardises first"
            )
    return x.to(dtype)


def count_duplicates(a: Tensor, b: Tensor) -> int:
    """Samples of b that occur in a, to the byte: test samples that were trained on.

    >>> count_duplicates(torch.tensor([[1], [2]]), torch.tensor([[2], [2], [3]]))
    2
    """
    if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
        return 0
    known = {_hash(row) for row in a}
    return sum(_hash(row) in known for row in b)


def _hash(row: Tensor) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(row.cpu().numpy()).data, digest_size=16).digest()


def _evenly(data: Any, limit: int | None) -> Any:
    if limit is None or limit >= len(data):
        return data
    index = np.linspace(0, len(data) - 1, limit).astype(int)
    return [data[i] for i in index] if isinstance(data, list | tuple) else data[torch.from_numpy(index)]


# --- numbers ---------------------------------------------------------------------------------------------


def _numeric(data: Any, limit: int | None, layout: str | None, name: str) -> Tensor:
    """uint8 where images may be meant, else floats of 32 or 64 bits that hold every value."""
    is_table = False
    if isinstance(data, Mapping):
        raise TypeError(
            f"expected {name} as an array, a tensor, a folder, a torch data set or texts, got a dict with "
            f"{', '.join(map(repr, list(data)[:5]))}; give the entry that holds the samples"
        )
    if not isinstance(data, Tensor | np.ndarray):
        _check_dense(data, name)
        if hasattr(data, "to_numpy"):
            is_table, data = True, data.to_numpy()
        elif isinstance(getattr(data, "x", None), Tensor | np.ndarray):
            data = data.x
        elif hasattr(data, "__array__") and hasattr(data, "shape"):
            data = np.asarray(data)
    if not isinstance(data, Tensor | np.ndarray):
        data = stacked(data, limit, layout, name, lambda a: _numbers(a, name))
    if isinstance(data, np.ndarray):
        data = _numbers(data, name)
    if data.layout != torch.strided:
        raise TypeError(f"expected dense {name}, got a sparse tensor ({data.layout}); give {name}.to_dense()")
    return _held(data.detach(), is_table or data.ndim < 3, name)


def _check_dense(data: Any, name: str) -> None:
    if callable(getattr(data, "toarray", None)):
        raise TypeError(
            f"expected dense {name}, got a sparse {type(data).__name__}; give {name}.toarray(), and where that is too "
            "large, reduce its columns first (TruncatedSVD)"
        )


def _numbers(a: np.ndarray, name: str) -> Tensor:
    if isinstance(a, np.ma.MaskedArray):
        if np.ma.is_masked(a):
            raise ValueError(
                f"expected {name} without gaps, got a masked array with {int(np.ma.getmaskarray(a).sum())} values "
                "masked; drop those rows or fill them (.filled(value))"
            )
        a = a.data
    if a.dtype.kind in "mMV":
        raise TypeError(
            f"expected numbers in {name}, got an array of {a.dtype}; turn dates into a number of your unit, such as "
            "days since the first"
        )
    if a.dtype.kind in "OUST":
        try:
            a = a.astype(np.complex128 if _has_complex(a) else np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"expected numbers in {name}, got an array of {a.dtype}: {error}; encode categories first, or "
                "give a list of texts with encoder=... (argument must be a string or a real number)"
            ) from error
    if a.dtype.kind == "c":
        raise ValueError(
            f"Complex data not supported: expected real numbers in {name}, got {a.dtype}; give real and imaginary "
            "parts as columns"
        )
    if a.dtype.kind == "f" and a.dtype.itemsize not in (2, 4, 8):
        a = a.astype(np.float64)
    a = a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))
    a = np.ascontiguousarray(a)
    return torch.from_numpy(a if a.flags.writeable else a.copy())


def _has_complex(a: np.ndarray) -> bool:
    return a.dtype == object and any(isinstance(v, complex | np.complexfloating) for v in a.flat)


def _held(x: Tensor, is_table: bool, name: str) -> Tensor:
    """Floats that hold every value of x; uint8 as it is, unless it is a table."""
    if x.dtype == torch.uint8:
        return x.float() if is_table else x
    if x.is_complex():
        raise ValueError(
            f"expected real numbers in {name}, got {x.dtype}; give real and imaginary parts as columns"
        )
    if x.dtype in (torch.float32, torch.float64):
        return x
    if x.dtype in WIDER or x.dtype in SMALL:
        return x.float()
    if torch.is_floating_point(x) or x.is_quantized:
        raise TypeError(
            f"expected {name} of float32 or float64, got {x.dtype}; give x.float(), or dequantise it"
        )
    if x.numel() and (int(x.max()) > EXACT or int(x.min()) < -EXACT):
        raise ValueError(
            f"expected whole numbers up to 2**53 in {name}, which a float64 holds, got {int(x.abs().max())}; "
            "subtract an offset first, or leave identifiers out"
        )
    return x.double()


def _channels_first(x: Tensor, name: str, layout: str | None) -> Tensor:
    shape = tuple(x.shape)
    if x.ndim == 3 and layout != "nhw" and (shape[0] == 3 or shape[-1] in (1, 3)):
        raise ValueError(
            f"expected {name} as uint8 images (n, c, h, w) or (n, h, w, c), got {shape}: {shape[0]} grey images, or "
            "one image with channels? For one give x[None]; for grey ones x[:, None], or layout='nhw'"
        )
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        raise ValueError(f"expected {name} as uint8 images (n, c, h, w) or (n, h, w, c), got {shape}")
    is_first, is_last = shape[1] in (1, 3), shape[-1] in (1, 3)
    if is_first and is_last and layout not in ("nchw", "nhwc"):
        raise ValueError(
            f"expected {name} whose shape tells where the channels are, got {shape}: first or last? Say "
            "inputs.to_tensor(x, layout='nchw') or layout='nhwc'"
        )
    if layout == "nhwc" or (is_last and layout != "nchw" and not is_first):
        x = x.permute(0, 3, 1, 2).contiguous()
    if x.shape[1] not in (1, 3):
        raise ValueError(
            f"expected {name} with 1 or 3 channels, got {shape}; drop a transparency channel first"
        )
    return x


def _check_finite(x: Tensor, name: str) -> None:
    bad = ~torch.isfinite(x.reshape(len(x), -1)).all(1)
    if bad.any():
        first = int(bad.int().argmax())
        raise ValueError(
            f"expected finite numbers in {name}, got nan or infinity in {int(bad.sum())} of {len(x)} rows "
            f"(first: number {first}); drop or impute them, a flow has no density there"
        )
