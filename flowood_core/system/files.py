"""Files that are whole or not there: written beside their place, flushed to disk, then moved."""

import os
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write so that a reader sees the old file or the whole new one, whenever the writer is killed.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file stays, nothing half-written does.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        with temporary.open("wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
