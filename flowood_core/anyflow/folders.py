"""Picture files as uint8 batches of one size, read when asked for: a folder, one file, or a list of files."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowood_core.anyflow import ranges
from flowood_core.datasets import decode

__all__ = ["FITS", "SUFFIXES", "Folder", "picture"]

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2")
)
FITS = tuple(decode.FITS)
MODES = ("RGB", "L")


class Folder:
    """A folder of image files as uint8 (b, c, size, size), read in batches: memory does not grow with the folder.

    Every file is brought to one size and mode, which `how` states, with what else was done. A file that cannot be
    read is left out, listed in `unreadable`, and a warning says so; it stops nothing, unless none can be read.

    Args:
        folder: searched with its subfolders, links followed, for files with the suffix of an image; hidden files and
            folders (".ipynb_checkpoints", ".Trash") are left out. Or the path of one file, or a list of paths, which
            are taken as they are and in their order.
        size: side of the square, or (height, width).
        mode: "RGB" or "L". Transparency is laid on black.
        fit: how a picture of another shape comes to the size. "crop": scaled until the shorter side fits, middle
            cut out. "stretch": both sides scaled. "pad": scaled until the longer side fits, rest black.
        top: value that becomes 255 in pictures of more than 8 bits or floats; None: one range for the folder, 0..1 for
            floats up to 1, else what 8, 10, 12, 14 or 16 bits hold. Give it where another folder is to be read alike.
    Attributes:
        paths, names: files in order, sorted for a folder; names are relative to the folder.
        unreadable: name: reason, of those met so far.
    Raises:
        FileNotFoundError: no such folder or file, or no image in it. ValueError: an empty name, or a parameter out of
            its range.

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
        folder: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        size: int | tuple[int, int] = 32,
        mode: str = "RGB",
        fit: str = "crop",
        top: float | None = None,
    ):
        self.size = ranges.size(size)
        self.mode, self.fit = ranges.one_of("mode", mode, MODES), ranges.one_of("fit", fit, FITS)
        self.top = None if top is None else ranges.number("top", top, above=0)
        self.n_hidden, self.n_others = 0, 0
        self.folder, self.paths = self._found(folder)
        self.names = [self._name(path) for path in self.paths]
        self.unreadable: dict[str, str] = {}
        self._notes: set[str] = set()
        self._range: float | None = self.top

    def __len__(self) -> int:
        """Number of image files, the unreadable ones included."""
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every image that comes out."""
        return (3 if self.mode == "RGB" else 1, *self.size)

    @property
    def how(self) -> str:
        """One sentence: what was done to the pictures, and left out so far, for captions and records."""
        parts = [f"{len(self)} files, {decode.FITS[self.fit]} to {self.size[0]}x{self.size[1]} {self.mode}"]
        parts += sorted(self._notes)
        counts = {
            "hidden, left out": self.n_hidden,
            "no image by their suffix, left out": self.n_others,
            "could not be read": len(self.unreadable),
        }
        return "; ".join([*parts, *(f"{name}: {n}" for name, n in counts.items() if n)])

    def how_again(self) -> dict[str, Any]:
        """The parameters, size excepted, that read another folder as this one was read; its range if it needed one."""
        return {"mode": self.mode, "fit": self.fit, "top": self.top or self._range or None}

    def in_range(self, top: float | None) -> Folder:
        """The same files, their deep pictures in the range of another folder (`how_again`), unless `top` was given."""
        if top is None or self.top is not None:
            return self
        alike = copy.copy(self)  # what could not be read is noted in both
        alike.top = alike._range = top
        return alike

    def batches(self, batch_size: int = 64) -> Iterator[Tensor]:
        """uint8 (b, c, h, w), file order."""
        for _, x in self.named_batches(batch_size):
            yield x

    def named_batches(self, batch_size: int = 64) -> Iterator[tuple[list[str], Tensor]]:
        """(names, images) of the readable files, in order.

        Warns:
            UserWarning: names what could not be read, at the end.
        Raises:
            ValueError: no file can be read.
        """
        names: list[str] = []
        images: list[np.ndarray] = []
        n = 0
        for path, name in zip(self.paths, self.names, strict=True):
            image = self._read(path, name)
            if image is None:
                continue
            names.append(name)
            images.append(image)
            n += 1
            if len(names) == batch_size:
                yield names, torch.from_numpy(np.stack(images))
                names, images = [], []
        if names:
            yield names, torch.from_numpy(np.stack(images))
        self._say(self.names, n)

    def sample(self, limit: int | None = None) -> tuple[list[str], Tensor]:
        """Names and images, of all or of `limit` files spread evenly over the sorted folder, so over its subfolders.

        Warns and raises as `named_batches`.
        """
        index = range(len(self))
        if limit is not None and limit < len(self):
            index = np.linspace(0, len(self) - 1, limit).astype(int)
        names = [self.names[i] for i in index]
        read = [(name, self._read(self.paths[i], name)) for i, name in zip(index, names, strict=True)]
        found = [(name, image) for name, image in read if image is not None]
        self._say(names, len(found))
        return [name for name, _ in found], torch.from_numpy(np.stack([image for _, image in found]))

    def tensor(self, limit: int | None = None) -> Tensor:
        """The images of `sample`."""
        return self.sample(limit)[1]

    def _say(self, names: Sequence[str], n_read: int) -> None:
        bad = [f"{name}: {self.unreadable[name]}" for name in names if name in self.unreadable]
        if not n_read:
            raise ValueError(f"expected images that can be read, got none; the first: {bad[0]}")
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            warnings.warn(
                f"{len(bad)} of {len(names)} files could not be read and are left out: {'; '.join(bad[:3])}{more}",
                stacklevel=3,
            )

    def _read(self, path: Path, name: str) -> np.ndarray | None:
        if self._range is None:  # before the first picture: deep ones share a range
            self._range = decode.top_of_files(self.paths) or 0.0
        try:
            made = decode.picture(
                path,
                self.size,
                mode=self.mode,
                fit=self.fit,
                top=self._range or None,
                least=1,
                notes=self._notes,
            )
        except Exception as error:  # Pillow raises about everything on a broken file
            self.unreadable[name] = str(error).replace(str(self.folder), ".") or type(error).__name__
            return None
        return _channels_first(made)

    def _found(self, given: Any) -> tuple[Path, list[Path]]:
        if not isinstance(given, str | os.PathLike):
            paths = [_file(path) for path in given]
            if not paths:
                raise FileNotFoundError("expected at least one path of an image file, got an empty list")
            return Path(os.path.commonpath([p.parent for p in paths])), paths
        if not str(given).strip():
            raise ValueError("expected a folder of images, got an empty name; '.' is the working folder")
        folder = Path(given).expanduser()
        if folder.is_file():
            return folder.parent, [_file(folder)]
        if not folder.is_dir():
            raise FileNotFoundError(
                f"expected a folder of images, got {given}; is the path right?{_near(folder)}"
            )
        paths = self._searched(folder)
        if not paths:
            raise FileNotFoundError(
                f"expected image files ({', '.join(sorted(SUFFIXES))}) below {folder}, found none"
                + (f"; {self.n_hidden} are hidden" if self.n_hidden else "")
            )
        return folder, paths

    def _searched(self, folder: Path) -> list[Path]:
        found, seen = [], set()
        for top, folders, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(top)
            if real in seen:  # a link to a folder above or beside it
                folders.clear()
                continue
            seen.add(real)
            hidden = any(part.startswith(".") for part in Path(top).relative_to(folder).parts)
            folders.sort()
            for file in files:
                is_image = Path(file).suffix.lower() in SUFFIXES
                self.n_others += not is_image and not hidden and not file.startswith(".")
                self.n_hidden += is_image and (hidden or file.startswith("."))
                if is_image and not hidden and not file.startswith("."):
                    found.append(Path(top) / file)
        return sorted(found)

    def _name(self, path: Path) -> str:
        return (path.relative_to(self.folder) if path.is_relative_to(self.folder) else path).as_posix()


def picture(
    source: Any,
    *,
    size: int | tuple[int, int] = 32,
    mode: str = "RGB",
    fit: str = "crop",
    top: float | None = None,
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
    how = {"mode": ranges.one_of("mode", mode, MODES), "fit": ranges.one_of("fit", fit, FITS), "top": top}
    try:
        return torch.from_numpy(_channels_first(decode.picture(source, ranges.size(size), **how, least=1)))
    except Exception as error:
        raise ValueError(
            f"expected an image file that Pillow can read, got {name}: {str(error) or type(error).__name__}; save it "
            "as PNG or JPEG"
        ) from error


def _channels_first(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a[None] if a.ndim == 2 else a.transpose(2, 0, 1))


def _file(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike) or not str(path).strip():
        raise ValueError(f"expected the path of an image file, got {path!r}")
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(f"expected an image file, got {path}; is the path right?{_near(found)}")
    if found.suffix.lower() not in SUFFIXES:
        hint = "; open it with numpy.load and give the array" if found.suffix in (".npy", ".npz") else ""
        raise ValueError(f"expected an image file ({', '.join(sorted(SUFFIXES))}), got {path}{hint}")
    return found


def _near(path: Path) -> str:
    known = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    found = ranges.nearest(path.name, known)
    return f" There is {found!r} beside it." if found else ""
