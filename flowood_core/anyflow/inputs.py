"""What people have, brought to what a flow eats: uint8 images (n, c, h, w) or float rows (n, d).

A folder of images of any size and mode is read in batches and never held as a whole; arrays, tensors, data sets of
torch, texts and CSV columns become one tensor. What cannot be read is listed, what makes no sense is refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Folder",
    "batches",
    "check_samples",
    "count_duplicates",
    "csv_column",
    "embed",
    "picture",
    "sample_of",
    "to_tensor",
]

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2")
)
FITS = ("crop", "stretch", "pad")
LEAST = 20  # ID samples below which neither a mean nor a threshold says anything


# --- a folder of images ----------------------------------------------------------------------------------


class Folder:
    """A folder of image files as uint8 (b, c, size, size), read in batches: memory does not grow with the folder.

    Every file is brought to one size and mode, which `how` states. A file that cannot be read is left out and
    listed in `unreadable`; it stops nothing.

    Args:
        folder: searched with its subfolders for files with the suffix of an image.
        size: side of the square, or (height, width).
        mode: "RGB" or "L". Transparency is put on white, 16-bit grey is brought to 8 by its 0..65535 range.
        fit: how a picture of another shape comes to the size. "crop": scaled until the shorter side fits, middle
            cut out. "stretch": both sides scaled. "pad": scaled until the longer side fits, rest black.
    Raises:
        FileNotFoundError: no such folder, or no image in it.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for k in range(3):
    ...         Image.new("RGB", (50 + k, 40), "blue").save(f"{folder}/{k}.png")
    ...     pictures = Folder(folder, size=32)
    ...     [tuple(b.shape) for b in pictures.batches(2)]
    [(2, 3, 32, 32), (1, 3, 32, 32)]
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        size: int | tuple[int, int] = 32,
        mode: str = "RGB",
        fit: str = "crop",
    ):
        self.folder = Path(folder)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.mode, self.fit = mode, fit
        if mode not in ("RGB", "L"):
            raise ValueError(f"expected mode 'RGB' or 'L', got {mode!r}")
        if fit not in FITS:
            raise ValueError(f"expected fit to be one of {', '.join(FITS)}, got {fit!r}")
        if not self.folder.is_dir():
            raise FileNotFoundError(f"expected a folder of images, got {folder}; is the path right?")
        self.paths = sorted(
            p
            for p in self.folder.rglob("*")
            if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")
        )
        if not self.paths:
            raise FileNotFoundError(
                f"expected image files ({', '.join(sorted(SUFFIXES))}) below {folder}, found none"
            )
        self.unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        """Number of image files, the unreadable ones included."""
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every image that comes out."""
        return (3 if self.mode == "RGB" else 1, *self.size)

    @property
    def how(self) -> str:
        """One sentence: what was done to the pictures, for captions and records."""
        done = {
            "crop": "scaled until the shorter side fits and cropped in the middle",
            "stretch": "stretched",
            "pad": "scaled until the longer side fits and padded with black",
        }[self.fit]
        bad = f"; could not be read: {len(self.unreadable)}" if self.unreadable else ""
        return f"{len(self)} files, {done} to {self.size[0]}x{self.size[1]} {self.mode}{bad}"

    def batches(self, batch_size: int = 64) -> Iterator[Tensor]:
        """uint8 (b, c, h, w), file order."""
        for _, x in self.named_batches(batch_size):
            yield x

    def named_batches(self, batch_size: int = 64) -> Iterator[tuple[list[str], Tensor]]:
        """(names relative to the folder, images) of the readable files, in order."""
        names: list[str] = []
        images: list[np.ndarray] = []
        for path in self.paths:
            name = path.relative_to(self.folder).as_posix()
            image = self._read(path, name)
            if image is None:
                continue
            names.append(name)
            images.append(image)
            if len(names) == batch_size:
                yield names, torch.from_numpy(np.stack(images))
                names, images = [], []
        if names:
            yield names, torch.from_numpy(np.stack(images))

    def sample(self, limit: int | None = None) -> tuple[list[str], Tensor]:
        """Names and images, of all or of `limit` files spread evenly over the sorted folder, so over its subfolders."""
        paths = self.paths
        if limit is not None and limit < len(paths):
            paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).astype(int)]
        read = {p.relative_to(self.folder).as_posix(): p for p in paths}
        found = {name: image for name, p in read.items() if (image := self._read(p, name)) is not None}
        if not found:
            first = next(iter(self.unreadable.items()))
            raise ValueError(f"expected images that can be read, got none; the first: {first[0]}: {first[1]}")
        return list(found), torch.from_numpy(np.stack(list(found.values())))

    def tensor(self, limit: int | None = None) -> Tensor:
        """The images of `sample`."""
        return self.sample(limit)[1]

    def _read(self, path: Path, name: str) -> np.ndarray | None:
        try:
            return _read_picture(path, self.size, self.mode, self.fit)
        except Exception as error:  # Pillow raises about everything on a broken file
            self.unreadable[name] = f"{type(error).__name__}: {str(error).replace(str(self.folder), '.')}"
            return None


def picture(
    source: Any,
    *,
    size: int | tuple[int, int] = 32,
    mode: str = "RGB",
    fit: str = "crop",
    name: str = "picture",
) -> Tensor:
    """One picture as uint8 (c, h, w), brought to size and mode as `Folder` does.

    Args:
        source: path or bytes of an image file, or a tensor that is uint8 (c, h, w) already and comes back as it is.
    Raises:
        ValueError: Pillow cannot read it.
    """
    if isinstance(source, Tensor) and source.dtype == torch.uint8 and source.ndim == 3:
        return source
    size = (size, size) if isinstance(size, int) else tuple(size)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
        return torch.from_numpy(_read_picture(file, size, mode, fit))
    except Exception as error:
        raise ValueError(
            f"expected an image file that Pillow can read, got {name}: {type(error).__name__}; save it as PNG or JPEG"
        ) from error


def _read_picture(file: Any, size: tuple[int, int], mode: str, fit: str) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        made = _in_mode(ImageOps.exif_transpose(opened), mode)
        height, width = size
        resample = Image.Resampling.LANCZOS
        if made.size == (width, height):
            pass  # no resampling: the bytes stay as they are
        elif fit == "crop":
            made = ImageOps.fit(made, (width, height), resample)
        elif fit == "pad":
            made = ImageOps.pad(made, (width, height), resample)
        else:
            made = made.resize((width, height), resample)
        a = np.array(made)  # a copy: Pillow's own memory cannot be written to
    return np.ascontiguousarray(a[None] if a.ndim == 2 else a.transpose(2, 0, 1))


def _in_mode(picture: Any, mode: str) -> Any:
    from PIL import Image

    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        a = np.asarray(picture).astype(np.float64)
        a = a / 257 if picture.mode != "F" or a.max() > 255 else a  # 65535 -> 255
        picture = Image.fromarray(a.round().clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)


# --- everything else -------------------------------------------------------------------------------------


def to_tensor(data: Any, *, limit: int | None = None, encoder: Any = None, name: str = "data") -> Tensor:
    """One tensor of what was given: uint8 images (n, c, h, w), or floats shaped (n, ...).

    Args:
        data: a tensor or NumPy array (uint8 images with channels first or last, or without channels; floats of
            any shape; other numbers become float32), a `Folder` or the path of one, a torch data set (the
            first entry of each item is taken), a pandas frame, an object with the images in `.x`, or a list
            of texts together with an encoder.
        limit: at most so many samples, spread evenly.
        encoder: for texts: an object with `encode(texts)` that returns an array (or has it in `.x`).
        name: how errors call the data.
    Raises:
        TypeError: none of these. ValueError: nan or infinite rows, no samples.

    >>> to_tensor(np.zeros((5, 32, 32, 3), np.uint8)).shape
    torch.Size([5, 3, 32, 32])
    """
    if isinstance(data, str | os.PathLike) and Path(data).is_dir():
        data = Folder(data)
    if isinstance(data, Folder):
        return data.tensor(limit)
    if _are_texts(data):
        if encoder is None:
            raise TypeError(
                f"expected an encoder for the texts of {name}, got none; pass encoder=..., an object with "
                "encode(texts) -> array, such as flowood_core.features.encoders.TfidfSvd().fit(texts)"
            )
        return embed(_evenly(data, limit), encoder)
    if isinstance(getattr(data, "x", None), Tensor | np.ndarray):
        data = data.x
    elif hasattr(data, "to_numpy"):
        data = data.to_numpy()
    if not isinstance(data, Tensor | np.ndarray):
        data = _stacked(data, limit, name)
    x = (
        data.detach()
        if isinstance(data, Tensor)
        else torch.from_numpy(np.ascontiguousarray(_numbers(data, name)))
    )
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"expected {name} with at least one sample, got shape {tuple(x.shape)}")
    x = _evenly(x, limit)
    if x.dtype == torch.uint8:
        return _channels_first(x, name)
    x = x if torch.is_floating_point(x) and x.dtype != torch.float16 else x.float()
    x = x.float() if x.dtype == torch.float64 else x
    _check_finite(x, name)
    return x


def batches(data: Any, batch_size: int = 64, *, encoder: Any = None, name: str = "data") -> Iterator[Tensor]:
    """The samples in batches: a `Folder` is streamed, everything else is split."""
    if isinstance(data, str | os.PathLike) and Path(data).is_dir():
        data = Folder(data)
    if isinstance(data, Folder):
        yield from data.batches(batch_size)
    else:
        yield from to_tensor(data, encoder=encoder, name=name).split(batch_size)


def sample_of(data: Any, n: int, *, encoder: Any = None, name: str = "data") -> Tensor:
    """At most n samples, spread evenly over the data."""
    return to_tensor(data, limit=n, encoder=encoder, name=name)


def embed(texts: Sequence[str], encoder: Any) -> Tensor:
    """Vectors of texts by any object with `encode(texts)`, as float32 (n, d)."""
    if not callable(getattr(encoder, "encode", None)):
        raise TypeError(f"expected an encoder with encode(texts) -> array, got {type(encoder).__name__}")
    made = encoder.encode(list(texts))
    x = torch.as_tensor(np.asarray(getattr(made, "x", made)), dtype=torch.float32)
    if x.ndim != 2 or len(x) != len(texts):
        raise ValueError(
            f"expected one vector per text, ({len(texts)}, d), got {tuple(x.shape)} from the encoder"
        )
    _check_finite(x, "the encoded texts")
    return x


def csv_column(path: str | os.PathLike, column: str) -> list[str]:
    """The texts of one column of a CSV file with a header line; empty cells are left out.

    Raises:
        KeyError: no such column; the message lists those there are.
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f)
        if column not in (reader.fieldnames or []):
            raise KeyError(
                f"expected a column {column!r} in {Path(path).name}, got {', '.join(reader.fieldnames or ['none'])}"
            )
        return [row[column] for row in reader if (row[column] or "").strip()]


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


def _are_texts(data: Any) -> bool:
    return isinstance(data, list | tuple) and len(data) > 0 and all(isinstance(t, str) for t in data[:100])


def _evenly(data: Any, limit: int | None) -> Any:
    if limit is None or limit >= len(data):
        return data
    index = np.linspace(0, len(data) - 1, limit).astype(int)
    return [data[i] for i in index] if isinstance(data, list | tuple) else data[torch.from_numpy(index)]


def _numbers(a: np.ndarray, name: str) -> np.ndarray:
    if a.dtype == object or a.dtype.kind in "USO":
        try:
            a = a.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"expected numbers in {name}, got an array of {a.dtype}: {error}; encode categories first, or "
                "give a list of texts with encoder=..."
            ) from error
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def _stacked(data: Any, limit: int | None, name: str) -> Tensor:
    """A torch data set (length and items), a list of arrays, or a loader."""
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, list | tuple):
        n = len(data)
        index = range(n) if limit is None or limit >= n else np.linspace(0, n - 1, limit).astype(int).tolist()
        items: Any = (data[i] for i in index)
    elif hasattr(data, "__iter__"):
        items = iter(data)
    else:
        raise TypeError(
            f"expected {name} as an array, a tensor, a folder, a torch data set or texts, got {type(data).__name__}"
        )
    rows, loader = [], type(data).__name__.endswith("DataLoader")
    for item in items:
        # a data set's item is (sample, label); a plain list of numbers is a sample itself
        item = item[0] if isinstance(item, tuple | list) and np.ndim(item[0]) else item
        row = item if isinstance(item, Tensor) else torch.from_numpy(_numbers(np.array(item), name))
        rows.extend(row) if loader else rows.append(row)
    if not rows:
        raise ValueError(f"expected {name} with at least one sample, got an empty {type(data).__name__}")
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"expected samples of one shape in {name}, got {len(shapes)} shapes such as "
            f"{', '.join(map(str, sorted(shapes)[:3]))}; resize them, or point inputs.Folder at the files"
        )
    return torch.stack(rows)


def _channels_first(x: Tensor, name: str) -> Tensor:
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        raise ValueError(
            f"expected {name} as uint8 images (n, c, h, w) or (n, h, w, c), got {tuple(x.shape)}"
        )
    if x.shape[1] not in (1, 3) and x.shape[-1] in (1, 3):
        x = x.permute(0, 3, 1, 2).contiguous()
    if x.shape[1] not in (1, 3):
        raise ValueError(
            f"expected {name} with 1 or 3 channels, got {tuple(x.shape)}; drop a transparency channel first"
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
