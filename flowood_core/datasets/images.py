"""Images by name: sets embedded in installed packages (quick profile), and prepared arrays on disk.

A set of the registry that is not here is downloaded and prepared, once, when it is first asked for.

Everything is uint8, shaped (n, c, h, w), as stored on disk and never normalised: complexity and
Pillow-exact blur are defined on bytes.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from flowood_core.datasets import prepare, registry
from flowood_core.datasets.embedded import EMBEDDED, embedded
from flowood_core.datasets.sets import ImageSet, MissingData
from flowood_core.system import paths

__all__ = ["load", "load_prepared", "mixed_pool"]


def load(name: str, split: str) -> ImageSet:
    """Images of a set by name: embedded, else prepared under FLOWOOD_DATA (or data/), else fetched and prepared.

    A download goes below the data root, or below ``data/`` where the data root is read-only. FLOWOOD_OFFLINE=1
    forbids it, FLOWOOD_MIRROR names an address of your own to try first.

    Args:
        name: an id such as ``photo`` or ``cifar10``; `EMBEDDED` lists what needs no file, `registry.SETS` what
            can be fetched.
        split: ``train`` or ``test``.
    Raises:
        MissingData: no such set here; the message lists paths and addresses tried and what to do.
        ValueError: unknown split, or a file whose arrays are not uint8 images.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
    if name in EMBEDDED:
        return embedded(name, split)
    if name in registry.SETS and _prepared_path(name, split) is None:
        try:
            prepare.prepare(name)
        except prepare.PrepareError as error:
            raise MissingData(_missing(name, split, str(error))) from error
    return load_prepared(name, split)


def load_prepared(name: str, split: str) -> ImageSet:
    """Read ``images/<name>_<split>.npz`` (key x: uint8 (n, h, w, c)) below the data root; fetches nothing."""
    path = _prepared_path(name, split)
    if path is None:
        raise MissingData(_missing(name, split))
    return ImageSet(name, split, _read_npz(path), f"prepared file {path.name}")


def mixed_pool(sets: list[ImageSet], n: int, seed: int = 0) -> UInt8[Tensor, "n c h w"]:
    """Real outliers of the RO row: n images, equal shares of each set, drawn without replacement (A18).

    The paper's RO uses 10 % of the number of ID samples. Give the non-test splits.

    Raises:
        ValueError: no sets, or a set smaller than its share.
    """
    if not sets:
        raise ValueError("expected at least one set of real outliers, got none")
    shares = [n // len(sets) + (k < n % len(sets)) for k in range(len(sets))]
    for s, share in zip(sets, shares, strict=True):
        if len(s) < share:
            raise ValueError(
                f"expected at least {share} images of {s.name}/{s.split} for the pool, got {len(s)}"
            )
    return torch.cat([s.drawn(share, seed).x[:share] for s, share in zip(sets, shares, strict=True)])


def _read_npz(path: Path) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as f:
            x = f["x"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as e:
        raise ValueError(
            f"expected a .npz file with an array 'x' at {path}, got {type(e).__name__}: {e}; "
            "the file may be truncated, copy or prepare it again"
        ) from e
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] not in (1, 3) or len(x) == 0:
        raise ValueError(
            f"expected 'x' of {path.name} as uint8 (n, h, w, c) with c 1 or 3 and n > 0, got {x.dtype} {x.shape}"
        )
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _prepared_path(name: str, split: str) -> Path | None:
    places = [root / "images" / f"{name}_{split}.npz" for root in paths.data_roots()]
    return next((path for path in places if path.is_file()), None)


def _missing(name: str, split: str, why: str = "") -> str:
    """What was looked for and where, why it could not be fetched, and the ways out."""
    first, *others = [root / "images" / f"{name}_{split}.npz" for root in paths.data_roots()]
    lines = [f"expected the {split} images of {name!r}, found no {first}."]
    lines += [f"  nor {path} (the data root is read-only)" for path in others]
    lines.append(f"  embedded sets (no file needed): {', '.join(EMBEDDED)}")
    found = sorted({stem for path in (first, *others) for stem in _prepared_names(path.parent)})
    lines.append(f"  prepared sets found here: {', '.join(found) or 'none'}")
    by_hand = (
        f"write the file yourself: numpy.savez({first.name!r}, x=array) with x uint8 shaped (n, h, w, c)"
    )
    if name in registry.SETS:
        lines += [f"  {line}" for line in why.splitlines()]
        archives = ", ".join(file.filename for file in registry.SETS[name].files)
        by_hand = f"put {archives} into {prepare.archive_folder(name)} and load again, or {by_hand}"
    else:
        lines.append(f"  sets that can be fetched: {', '.join(registry.SETS)}")
    return "\n".join(
        [
            *lines,
            "What to do, one of:",
            "  1. point FLOWOOD_DATA at a folder of prepared data (layout: data/README.md);",
            f"  2. {by_hand};",
            "  3. use profile=quick, which needs no data.",
        ]
    )


def _prepared_names(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.glob("*_*.npz")) if folder.is_dir() else []
