"""The archives of section 3.2 as their authors packed them: which file goes where."""

import csv
import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from flowood_core.datasets.readers import BadArchive

__all__ = ["KONIQ_THRESHOLD", "MVTEC", "PLACES", "READERS", "SUFFIXES"]

PLACES = {"train": "train/good", "test": "test/good", "bad": "test/bad"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
KONIQ_THRESHOLD = 60.0  # z-scored mean opinion above it is ID (section 3.2)
MVTEC = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip

Found = Iterator[tuple[str, str, str, bytes]]  # set, place, file name, content


def _tested(key: str) -> bool:
    """A fifth of the keys, the same on every machine."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 5 == 0


def _is_picture(name: str) -> bool:
    file = PurePosixPath(name).name
    return file.lower().endswith(SUFFIXES) and not file.startswith("._") and "__MACOSX" not in name


def _tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if member.isfile() and _is_picture(member.name):
                yield member.name, archive.extractfile(member).read()


def read_chest_xray(files: Mapping[str, Path]) -> Found:
    """chest_xray/{train,test}/{NORMAL,PNEUMONIA}/*.jpeg."""
    (path,) = files.values()
    places = {("train", "NORMAL"): "train", ("test", "NORMAL"): "test", ("test", "PNEUMONIA"): "bad"}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(filter(_is_picture, archive.namelist())):
            place = places.get(PurePosixPath(name).parts[-3:-1])
            if place:
                yield "chest_xray", PLACES[place], PurePosixPath(name).name, archive.read(name)


def read_realblur(files: Mapping[str, Path]) -> Found:
    """RealBlur-J_ECC_IMCORR_centroid_itensity_ref/sceneNNN/{gt,blur}/*.png; RealBlur-R is left out."""
    (path,) = files.values()
    for name, content in _tar(path):
        parts = PurePosixPath(name).parts
        if len(parts) < 4 or not parts[-4].startswith("RealBlur-J_ECC") or parts[-2] not in ("gt", "blur"):
            continue
        scene, kind, file = parts[-3:]
        if kind == "gt" or _tested(scene):
            place = "bad" if kind == "blur" else "test" if _tested(scene) else "train"
            yield "realblur", PLACES[place], f"{scene}_{file}", content


def read_koniq10k(files: Mapping[str, Path]) -> Found:
    """512x384/*.jpg, and a table with image_name and MOS_zscore."""
    scores_path, pictures_path = files["koniq10k_scores_and_distributions.zip"], files["koniq10k_512x384.zip"]
    with zipfile.ZipFile(scores_path) as archive:
        tables = [n for n in archive.namelist() if n.endswith(".csv") and "__MACOSX" not in n]
        lines = (
            list(csv.DictReader(io.StringIO(archive.read(tables[0]).decode("utf-8-sig")))) if tables else []
        )
    if not lines or not {"image_name", "MOS_zscore"} <= set(lines[0]):
        columns = ", ".join(lines[0]) if lines else "no table"
        raise BadArchive(
            f"{scores_path.name}: expected a .csv with columns image_name and MOS_zscore, got {columns}"
        )
    score = {line["image_name"].strip('"'): float(line["MOS_zscore"]) for line in lines}
    with zipfile.ZipFile(pictures_path) as archive:
        for name in sorted(filter(_is_picture, archive.namelist())):
            file = PurePosixPath(name).name
            if file in score:
                good = score[file] > KONIQ_THRESHOLD
                place = "bad" if not good else "test" if _tested(file) else "train"
                yield "koniq10k", PLACES[place], file, archive.read(name)


def read_mvtec(files: Mapping[str, Path]) -> Found:
    """<category>/train/good, <category>/test/good, <category>/test/<defect>; the masks are left out."""
    (path,) = files.values()
    for name, content in _tar(path):
        found = re.search(rf"(?:^|/)({'|'.join(MVTEC)})/(train|test)/([^/]+)/([^/]+)$", name)
        if found is None:
            continue
        category, split, kind, file = found.groups()
        if kind == "good":
            yield f"mvtec_{category}", PLACES[split], file, content
        elif split == "test":
            yield f"mvtec_{category}", PLACES["bad"], f"{kind}_{file}", content


READERS: dict[str, Callable[[Mapping[str, Path]], Found]] = {
    function.__name__: function for function in (read_chest_xray, read_realblur, read_koniq10k, read_mvtec)
}
