"""High-dimensional sets (section 3.2, Appendix C): folders of pictures, from the authors' archives to byte arrays.

A prepared set is ``highdim/<name>/{train/good,test/good,test/bad}`` below the data root. `load` reads one of its
folders into uint8 (n, 3, s, s) and names every file that it had to leave out. The sets of `SETS` are fetched
and prepared when first asked for; any other name is a folder of yours. Run as
``python -m flowood_core data chest_xray``.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from flowood_core import datasets
from flowood_core.datasets import ImageSet, MissingData, decode, download, registry
from flowood_core.datasets.highdim_archives import MVTEC, PLACES, READERS, SUFFIXES
from flowood_core.datasets.readers import BadArchive
from flowood_core.datasets.registry import DataFile, DataSet
from flowood_core.notebook import labels
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["LABELS", "MVTEC", "PRINTED_AS", "SETS", "Folder", "expected", "load", "prepare"]

SIDE = 256  # of prepared pictures; "All images are resized to 256 x 256" (section 3.2)
MENDELEY = "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/{}/file_downloaded"
KONIQ = "https://datasets.vqa.mmsp-kn.de/archives/"

SETS: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        DataSet(
            name="chest_xray",
            label="Chest X-ray",
            kind="highdim",
            reader="read_chest_xray",
            files=(
                DataFile("ChestXRay2017.zip", (MENDELEY.format("f12eaf6d-6023-432f-acc9-80c9d7393433"),)),
            ),
            counts={"train": 1_349, "test": 234, "bad": 390},
            licence="CC BY 4.0",
            citation="Kermany et al. (2018), Identifying Medical Diagnoses and Treatable Diseases.",
            table="table_8",
            row="chest_xray",
            notes="ID is NORMAL, OOD is PNEUMONIA of the official test folder. Counts are of version 2.",
        ),
        DataSet(
            name="realblur",
            label="RealBlur",
            kind="highdim",
            reader="read_realblur",
            files=(
                DataFile("RealBlur.tar.gz", (registry.DRIVE.format("17v5Dj0M2WExgxJgsGpEWc-6UyhK1IWWK"),)),
            ),
            counts={},
            licence="none stated; cite",
            citation="Rim et al. (2020), Real-World Blur Dataset for Learning and Benchmarking Deblurring.",
            table="table_8",
            row="realblur",
            notes=(
                "RealBlur-J. ID is the sharp picture, OOD the blurred one. The paper gives no split: a fifth of the "
                "scenes, by the hash of the scene's name, tests, so that no scene is on both sides."
            ),
        ),
        DataSet(
            name="koniq10k",
            label="KonIQ-10k",
            kind="highdim",
            reader="read_koniq10k",
            files=(
                DataFile("koniq10k_512x384.zip", (KONIQ + "koniq10k_512x384.zip",)),
                DataFile(
                    "koniq10k_scores_and_distributions.zip",
                    (KONIQ + "koniq10k_scores_and_distributions.zip",),
                ),
            ),
            counts={},
            licence="none stated; cite",
            citation="Hosu et al. (2020), KonIQ-10k: An Ecologically Valid Database for Deep Learning of BIQA.",
            table="table_8",
            row="koniq10k",
            notes="ID is a z-scored mean opinion above 60. A fifth of the ID pictures, by the hash of the name, tests.",
        ),
        DataSet(
            name="mvtec",
            label="MVTec-AD",
            kind="highdim",
            reader="read_mvtec",
            files=(
                DataFile(
                    "mvtec_anomaly_detection.tar.xz",
                    (
                        "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
                        "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
                    ),
                    sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
                ),
            ),
            counts={},
            licence="CC BY-NC-SA 4.0",
            citation="Bergmann et al. (2019), MVTec AD: A Comprehensive Real-World Dataset.",
            table="table_8",
            row="mvtec",
            notes="Prepared as fifteen sets, mvtec_bottle to mvtec_zipper; official split.",
        ),
    )
}

LABELS = {
    **labels.names(labels.PICTURES),
    **{f"mvtec_{c}": f"MVTec-AD {c.replace('_', ' ')}" for c in MVTEC},
    **datasets.LABELS,
}


@dataclasses.dataclass(frozen=True)
class Folder(ImageSet):
    """Pictures of one folder, square.

    Attributes:
        skipped: files that are no usable picture, each with the reason.
        resize: how the pictures became square.
    """

    skipped: tuple[str, ...] = ()
    resize: str = ""

    @property
    def label(self) -> str:
        base, bad = _base(self.name)
        return LABELS.get(base, base) + (" (OOD)" if bad else "")

    def facts(self) -> dict[str, object]:
        return super().facts() | {"resize": self.resize, "skipped": list(self.skipped)}


def load(name: str, split: str, size: int = SIDE) -> ImageSet:
    """Pictures of a set by name, as uint8 (n, 3, size, size); grey is repeated, nothing is cropped.

    Decoded and resized once; the bytes are kept below the outputs folder and are read again from there.

    Args:
        name: a folder below ``highdim/``; ``<name>_bad`` is its OOD part. An embedded set of `datasets` (32 x 32)
            serves the quick profile.
        split: ``train`` or ``test``; ``<name>_bad`` has only ``test``.
        size: side in pixels; pictures are resized to the square, as the paper does.
    Raises:
        MissingData: no such folder, or none of its files is a picture; says what to do.
        ValueError: unknown split, or a size that an embedded set does not have.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
    base, bad = _base(name)
    if base in datasets.EMBEDDED:
        if size != datasets.SIDE:
            raise ValueError(f"expected size {datasets.SIDE} for the embedded set {base!r}, got {size}")
        if bad:
            raise MissingData(
                f"the embedded set {base!r} has no OOD part; name another set, such as 'digits'"
            )
        return datasets.load(base, split)
    if bad and split == "train":
        raise ValueError(
            f"expected split 'test' for the OOD part {name!r}, got 'train': it is never trained on"
        )
    home = _folder(base)
    folder = home / PLACES["bad" if bad else split]
    x, skipped = _cached(_files(folder), size, [p for place in PLACES.values() for p in _files(home / place)])
    if len(x) == 0:
        raise MissingData(
            f"expected pictures ({', '.join(SUFFIXES)}) in {folder}, found none that can be read"
            + (f"; left out: {'; '.join(skipped[:5])}" if skipped else "")
            + ". A set needs train/good, test/good and test/bad"
        )
    source = f"folder highdim/{base}/{PLACES['bad' if bad else split]}"
    resize = f"whole picture to {size} x {size}, Pillow {decode.FILTER}, grey repeated to three channels"
    return Folder(name, split, x, source, tuple(skipped), resize)


PRINTED_AS = {"chest_xray_full": "chest_xray"}
"""Other files of a set of Table 8, by the name under which the paper prints it."""


def expected(name: str) -> registry.Expected | None:
    """The printed fingerprint of a set (Table 8), of ``<name>_bad`` for its OOD part; None where none is printed."""
    base, bad = _base(name)
    base = PRINTED_AS.get(base, base)
    with (paths.paper_root() / "table_8.csv").open(encoding="utf-8", newline="") as f:
        for line in csv.DictReader(f):
            if (line["dataset"], line["role"]) == (base, "ood" if bad else "id"):
                return registry.Expected(float(line["mean"]), float(line["sd"]))
    return None


# --- pictures ------------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))


def _cached(files: list[Path], size: int, of_set: list[Path]) -> tuple[torch.Tensor, list[str]]:
    """The pictures of one folder; deep ones in one range for the whole set, so that ID and OOD stay comparable."""
    facts = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in of_set]
    parent = str(files[0].parent) if files else ""
    key = hashlib.sha256(
        repr((parent, facts, size, decode.FILTER, "one range a set", Image.__version__)).encode()
    ).hexdigest()[:24]
    path = paths.outputs_root() / ".cache" / f"highdim-{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return torch.from_numpy(stored["x"]).permute(0, 3, 1, 2).contiguous(), list(
                map(str, stored["skipped"])
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    pictures, skipped = [], []
    top = decode.top_of_files(of_set)
    for file in files:
        try:
            pictures.append(decode.picture(file, (size, size), top=top))
        except ValueError as error:
            skipped.append(f"{file.name}: {str(error).replace(str(file), file.name)}")
    x = np.stack(pictures) if pictures else np.empty((0, size, size, 3), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, x=x, skipped=np.array(skipped, dtype=np.str_))
        write_atomically(path, buffer.getvalue())
    except OSError:
        pass  # a cache that cannot be written is no error
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), skipped


def _base(name: str) -> tuple[str, bool]:
    return (name.removesuffix("_bad"), True) if name.endswith("_bad") else (name, False)


def _folder(base: str) -> Path:
    roots = paths.data_roots()
    found = next((r / "highdim" / base for r in roots if (r / "highdim" / base).is_dir()), None)
    if found is not None:
        return found
    group = "mvtec" if base.startswith("mvtec_") else base
    why = "It is no set of the registry."
    if group in SETS:
        try:
            prepare(group)
            return roots[-1] / "highdim" / base
        except (download.DownloadError, BadArchive) as error:
            why = str(error)
    tried = " nor ".join(str(r / "highdim" / base) for r in roots)
    raise MissingData(
        f"expected the pictures of {base!r} in {tried}, found no folder.\n{why}\nWhat to do, one of:\n"
        "  1. point FLOWOOD_DATA at a folder of prepared data (layout: data/README.md);\n"
        f"  2. put pictures into highdim/{base}/train/good, test/good and test/bad of it yourself;\n"
        "  3. use profile=quick, which needs no data."
    )


# --- archives ------------------------------------------------------------------------------------------------


def prepare(name: str) -> list[Path]:
    """Fetch an archive of `SETS` and write its pictures, resized to 256 x 256, as PNG; the folders of its sets.

    Nothing is there before everything is: the folders appear at the end. `record.json` beside them says
    sources, hashes, counts and filter. The counts are not enforced: for these sets none is certain.

    Raises:
        ValueError: no such set.
        download.DownloadError: the archive is not to be had.
        BadArchive: it is broken, unsafe, or holds no such pictures.
    """
    if name not in SETS:
        raise ValueError(f"expected a set out of {', '.join(SETS)}, got {name!r}")
    entry, root = SETS[name], paths.data_roots()[-1]
    target = root / "highdim"
    target.mkdir(parents=True, exist_ok=True)
    names = [f"mvtec_{c}" for c in MVTEC] if name == "mvtec" else [name]
    with FileLock(target / f".{name}.lock"):
        if all((target / n).is_dir() for n in names):
            return [target / n for n in names]
        fetched = {f.filename: download.fetch(f, root / "archives" / name) for f in entry.files}
        work = target / f".{name}.partial"
        shutil.rmtree(work, ignore_errors=True)
        counts, skipped = _write(entry, {f: got.path for f, got in fetched.items()}, work)
        missing = [
            f"{n}/{place}" for n in names for place in PLACES.values() if not counts.get(f"{n}/{place}")
        ]
        if missing:
            shutil.rmtree(work, ignore_errors=True)
            raise BadArchive(f"{name}: expected pictures for {', '.join(missing)}, found none in the archive")
        record = {
            "sources": [{"file": f, "from": g.source, "bytes": g.size, "md5": g.md5, "sha256": g.sha256}
                        for f, g in fetched.items()],
            "counts": counts, "expected_counts": dict(entry.counts), "skipped": skipped, "size": SIDE,
            "filter": decode.FILTER, "licence": entry.licence, "citation": entry.citation, "notes": entry.notes,
        }  # fmt: skip
        for n in names:
            (work / n / "record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            if not (target / n).is_dir():
                os.replace(work / n, target / n)
        shutil.rmtree(work, ignore_errors=True)
    return [target / n for n in names]


def _write(entry: DataSet, files: Mapping[str, Path], work: Path) -> tuple[dict[str, int], list[str]]:
    counts: dict[str, int] = {}
    skipped: list[str] = []
    try:
        for name, place, file, content in READERS[entry.reader](files):
            try:
                picture = decode.picture(content, (SIDE, SIDE))
            except ValueError as error:
                skipped.append(f"{place}/{file}: {error}")
                continue
            folder = work / name / place
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / (PurePosixPath(file).stem + ".png"))
            counts[f"{name}/{place}"] = counts.get(f"{name}/{place}", 0) + 1
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        UnicodeDecodeError,
    ) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise BadArchive(
            f"{', '.join(files)}: expected whole archives, got {type(error).__name__}: {error}; "
            "they seem cut short or altered: delete them and load the set again"
        ) from error
    return counts, skipped
