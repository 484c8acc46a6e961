"""Which images the committed runs were made of, so that somebody with the original files can rebuild the subsets.

``make subsets`` writes ``outputs/sample/subsets/<set>_<split>.csv.gz``: one line per image in the order of the runs,
with its position in the original where it is known and the first digits of the sha256 of its bytes. `rebuild` finds the
images again among any others. A listing is written only if its images are, byte for byte, those that a run recorded.
"""

import gzip
import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from flowood_core import datasets, runs
from flowood_core.datasets import images
from flowood_core.runs import grid
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["fingerprints", "folder", "listing", "main", "read", "rebuild", "recorded"]

TABLES = ("table_2", "table_3")
OLDER = (None, 2000)  # lengths of prepared arrays that runs were made with: today's, and an earlier one


def folder(profile: str = "sample") -> Path:
    return paths.profile_dir(profile) / "subsets"


def fingerprints(x: Tensor) -> list[str]:
    """The first 16 hexadecimal digits of the sha256 of each image's bytes, channels first."""
    return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16] for image in x.numpy()]


def rebuild(x: Tensor, wanted: Sequence[str]) -> Tensor:
    """The images of a listing, in its order, out of any images that hold them.

    Args:
        x: uint8 (n, c, h, w), such as a whole original data set.
        wanted: fingerprints, from `read`.
    Raises:
        ValueError: some are not among them; says how many.
    """
    place = {mark: k for k, mark in reversed(list(enumerate(fingerprints(x))))}
    gone = [mark for mark in wanted if mark not in place]
    if gone:
        raise ValueError(
            f"expected all {len(wanted)} images of the listing among the {len(x)} given, {len(gone)} are not; give the "
            "whole original set, as uint8 (n, 3, 32, 32) without resizing or re-encoding"
        )
    return x[[place[mark] for mark in wanted]]


def recorded(profile: str = "sample") -> dict[tuple[str, str], tuple[str, runs.Run]]:
    """sha256 of every set and split that the runs were made of, and a run that says so."""
    found = {}
    for table in TABLES:
        for run in grid.finished(profile, table):
            for facts in run.metrics["data"]:
                found.setdefault((facts["name"], facts["split"], facts["n"]), (facts["sha256"], run))
    # a pool of real outliers is a whole training set; what trains is its first n
    largest: dict[tuple[str, str], tuple[int, tuple[str, runs.Run]]] = {}
    for (name, split, n), of in found.items():
        if n >= largest.get((name, split), (0, None))[0]:
            largest[name, split] = (n, of)
    return {key: of for key, (_, of) in largest.items()}


def listing(name: str, split: str, sha256: str, n: int | None) -> pd.DataFrame:
    """Position and fingerprint of the images of one set, in the order of the runs.

    Raises:
        datasets.MissingData: the set is not here.
        ValueError: what is here is not what the runs recorded.
    """
    whole = datasets.load(name, split)
    positions = _positions(name, split, len(whole))
    for x, place in _candidates(whole, positions, split, n):
        if datasets.digest(x) == sha256:
            return pd.DataFrame({"position": place, "fingerprint": fingerprints(x)})
    raise ValueError(f"the {split} images of {name} that are here are not those that the runs recorded")


def _candidates(
    whole: datasets.ImageSet, positions: np.ndarray, split: str, n: int | None
) -> Iterator[tuple[Tensor, np.ndarray]]:
    for length in OLDER:
        first = whole.first(length)
        if split == "train":
            yield first.first(n).x, positions[: len(first.first(n))]
        else:
            order = np.random.default_rng(0).permutation(len(first))[:n]
            drawn = first.drawn(n, 0)
            yield drawn.x, positions[: len(first)][order if n and n < len(first) else slice(None)]


def _positions(name: str, split: str, n: int) -> np.ndarray:
    """Position in the original, where the prepared file knows it; else the row of that file."""
    with np.load(images._prepared_path(name, split), allow_pickle=False) as f:
        return f["index"] if "index" in f.files else np.arange(n)


def read(path: Path) -> pd.DataFrame:
    """A listing: position, fingerprint."""
    return pd.read_csv(path, dtype={"fingerprint": str})


def _write(path: Path, frame: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as f:  # the same bytes each time
        f.write(frame.to_csv(index=False, lineterminator="\n").encode())
    write_atomically(path, buffer.getvalue())


PAGE = """# The images of profile `{profile}`

One line per image, in the order in which the committed runs trained on it or were tested: its position in the original
(the row of the prepared file where the original's is not known), and the first 16 digits of the sha256 of its bytes
(uint8, channels first, 32x32). `workflow.publish.subsets.rebuild` finds the images in any array that holds them.
The whole listing is checked against the sha256 that the runs recorded. Written by `make subsets`.

| listing | images | position | sha256 of the array, as the runs recorded it |
|---|--:|---|---|
{rows}
"""
KNOWN = {
    "celeba": "CelebA's file number",
    "cifar10": "in the official split",
    "isun": "file number in ODIN's iSUN",
    "cifar100": "row here; the split was drawn anew",
    "svhn": "row here; the first images of SVHN's training file, in order",
}


def main(profile: str = "sample") -> int:
    rows = []
    for (name, split), (sha256, run) in sorted(recorded(profile).items()):
        n = run.spec.n_test if split == "test" else None
        sizes = {d["n"] for d in run.metrics["data"] if (d["name"], d["split"]) == (name, split)}
        try:
            found = listing(name, split, sha256, n if split == "test" else max(sizes))
        except (datasets.MissingData, ValueError) as error:
            print(f"{name} {split}: {str(error).splitlines()[0]}")
            continue
        path = folder(profile) / f"{name}_{split}.csv.gz"
        _write(path, found)
        print(f"{path.name}: {len(found):,} images")
        rows.append(f"| `{path.name}` | {len(found):,} | {KNOWN.get(name, 'row here')} | `{sha256}` |")
    if rows:
        text = PAGE.format(profile=profile, rows="\n".join(rows))
        write_atomically(folder(profile) / "README.md", text.encode())
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
