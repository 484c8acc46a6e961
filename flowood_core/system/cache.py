"""Rows that are dear to compute and remembered by the content they were computed from: features of texts, of images."""

import contextlib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from flowood_core.system.files import write_atomically

__all__ = ["RowCache"]

KEY_BYTES = 32  # a sha256


class RowCache:
    """Rows by key, in npz files below a folder; a file is whole or not there, and a broken one is passed over.

    What made the rows belongs into the folder's name: another encoder is another folder.

    Args:
        folder: need not exist; where it cannot be written nothing is remembered.
        columns: name of each column and the shape of one row in it; () is a number.

    >>> cache = RowCache(Path("/nowhere"), x=(2,))
    >>> cache.find([b"k" * 32])
    {}
    """

    def __init__(self, folder: Path, **columns: tuple[int, ...]):
        self.folder, self.columns = folder, columns
        self._keys: dict[Path, list[bytes]] = {}

    def find(self, keys: Collection[bytes]) -> dict[bytes, tuple[np.ndarray, ...]]:
        """The rows that are remembered: key -> one value per column."""
        wanted, found = set(keys), {}
        for file in sorted(self.folder.glob("*.npz")):
            hits = [(i, key) for i, key in enumerate(self._keys_of(file)) if key in wanted]
            if hits and (arrays := self._read(file)) is not None:
                found |= {key: tuple(a[i] for a in arrays) for i, key in hits}
        return found

    def add(self, made: Sequence[tuple]) -> dict[bytes, tuple[np.ndarray, ...]]:
        """Remember rows (key, one value per column); returns them as `find` does."""
        if not made:
            return {}
        keys = np.stack([np.frombuffer(key, np.uint8) for key, *_ in made])
        values = zip(*(values for _, *values in made), strict=True)
        buffer = io.BytesIO()
        np.savez(buffer, keys=keys, **{n: np.stack(v) for n, v in zip(self.columns, values, strict=True)})
        with contextlib.suppress(OSError):  # a cache that cannot be written is no error
            self.folder.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
            write_atomically(self.folder / f"{name}.npz", buffer.getvalue())
        return {key: tuple(values) for key, *values in made}

    def _keys_of(self, file: Path) -> list[bytes]:
        if file not in self._keys:
            with _passing_over_broken_files(), np.load(file, allow_pickle=False) as f:
                keys = f["keys"]
                if keys.ndim == 2 and keys.shape[1] == KEY_BYTES:
                    self._keys[file] = [key.tobytes() for key in keys]
        return self._keys.get(file, [])

    def _read(self, file: Path) -> list[np.ndarray] | None:
        with _passing_over_broken_files(), np.load(file, allow_pickle=False) as f:
            arrays = [f[name] for name in self.columns]
            n = len(self._keys[file])
            right = [a.shape == (n, *shape) for a, shape in zip(arrays, self.columns.values(), strict=True)]
            if all(right) and all(np.isfinite(a).all() for a in arrays):
                return arrays
        return None


def _passing_over_broken_files() -> contextlib.AbstractContextManager:
    return contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
