"""Reads the files that the authors of a set distribute, in their own formats, into arrays and texts.

Archives are read in memory and never unpacked to disk; a pickle is read without running it; what is broken or
unsafe is set aside and said in words. Where the paper leaves open how pictures become 32x32, the fingerprint
decides.
"""

import contextlib
import csv
import dataclasses
import io
import os
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from flowood_core.datasets import fingerprint, registry
from flowood_core.system.progress import track

__all__ = ["READERS", "TEXT_READERS", "BadArchive", "Read", "Refused", "Split", "channels_first"]

SIDE = 32
SPLITS = ("train", "test")
N_TEST_DRAWN = 1000  # of sets without an official split (A22)
FILTERS = ("bicubic", "bilinear", "lanczos", "box", "nearest")  # in this order where two fit equally well
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class BadArchive(Exception):
    """The file is not what its name says: cut short, altered, or unsafe."""


class Refused(Exception):
    """No way to 32x32 gives images with the printed fingerprint; known from a sample, before all are read."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of one split, uint8 (n, h, w, c) as on disk, and labels where the source has them."""

    x: np.ndarray
    y: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Read:
    """What a reader returns: the splits, and the choices it made, for the record."""

    splits: dict[str, Split]
    choices: dict[str, object] = dataclasses.field(default_factory=dict)


def channels_first(x: np.ndarray) -> torch.Tensor:
    """Arrays as on disk, (n, h, w, c), as the tensors that the rest of the house works with."""
    return torch.from_numpy(x).permute(0, 3, 1, 2)


# --- CIFAR -----------------------------------------------------------------------------------------------

_CIFAR = {  # files of the splits, and the key of the labels
    "cifar10": (tuple(f"data_batch_{k}" for k in range(1, 6)), ("test_batch",), b"labels"),
    "cifar100": (("train",), ("test",), b"fine_labels"),
}


def read_cifar(entry: registry.DataSet, files: Mapping[str, Path], anyway: bool = False) -> Read:
    """The python version of CIFAR-10 or CIFAR-100: Python 2 pickles in a tar.gz, official splits and order."""
    (path,) = files.values()
    train, test, key = _CIFAR[entry.name]
    with _explained(path):
        batches = {}
        for name, content in _tar_members(path, lambda name: name.rsplit("/", 1)[-1] in (*train, *test)):
            batches[name.rsplit("/", 1)[-1]] = _cifar_batch(name, content, key)
        if missing := [name for name in (*train, *test) if name not in batches]:
            raise BadArchive(
                f"expected {', '.join((*train, *test))} in the archive, missing {', '.join(missing)}"
            )

    def joined(names: tuple[str, ...]) -> Split:
        parts = [batches[name] for name in names]
        return Split(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))

    return Read({"train": joined(train), "test": joined(test)}, {"split": "official"})


def _cifar_batch(name: str, content: bytes, key: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = _SafeUnpickler(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(batch, dict):
        raise BadArchive(f"expected a dictionary in {name}, got {type(batch).__name__}")
    batch = {k.encode() if isinstance(k, str) else k: v for k, v in batch.items()}
    x, y = batch.get(b"data"), batch.get(key)
    shape = getattr(x, "shape", None)
    if getattr(x, "dtype", None) != np.uint8 or len(shape) != 2 or shape[1] != 3 * SIDE * SIDE:
        raise BadArchive(f"expected 'data' of {name} as uint8 (n, 3072), got {type(x).__name__} {shape}")
    if not isinstance(y, list) or len(y) != len(x):
        raise BadArchive(f"expected {len(x)} labels under {key.decode()!r} in {name}, found none or others")
    images = x.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(y, dtype=np.int64)


class _SafeUnpickler(pickle.Unpickler):
    """Builds numpy arrays, dictionaries, lists, strings and numbers; whatever else a pickle asks for is refused.

    A pickle is a program: read the usual way it may call any function of any module before anything is checked.
    """

    _reconstruct = np.zeros(1).__reduce__()[0]
    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # as numpy 1 spells it
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}, which no CIFAR file does; not run"
            )
        return self.ALLOWED[module, name]


# --- SVHN ------------------------------------------------------------------------------------------------


def read_svhn(entry: registry.DataSet, files: Mapping[str, Path], anyway: bool = False) -> Read:
    """The cropped digits: Matlab files with X (32, 32, 3, n) and y (n, 1), where the digit 0 is labelled 10."""
    splits = {split: _svhn_split(files[f"{split}_32x32.mat"]) for split in SPLITS}
    return Read(splits, {"split": "official", "labels": "digit 0 is 0"})


def _svhn_split(path: Path) -> Split:
    from scipy.io import loadmat

    with _explained(path):
        try:
            content = loadmat(path, variable_names=["X", "y"])
        except Exception as error:  # scipy raises a dozen kinds on broken files
            raise BadArchive(f"expected a Matlab file, got {type(error).__name__}: {error}") from error
        x, y = content.get("X"), content.get("y")
        if x is None or y is None or x.dtype != np.uint8 or x.shape[:3] != (SIDE, SIDE, 3):
            raise BadArchive(f"expected X uint8 (32, 32, 3, n) and y, got {sorted(content)}")
        if y.size != x.shape[3]:
            raise BadArchive(f"expected {x.shape[3]} labels, got {y.size}")
        return Split(np.ascontiguousarray(x.transpose(3, 0, 1, 2)), y.astype(np.int64).ravel() % 10)


# --- ODIN's archives -------------------------------------------------------------------------------------


def read_isun(entry: registry.DataSet, files: Mapping[str, Path], anyway: bool = False) -> Read:
    """iSUN: 32x32 JPEGs, split by a seeded draw."""
    (path,) = files.values()
    images = _pictures(path, "iSUN_patches/")
    if sizes := {image.size for image in images} - {(SIDE, SIDE)}:
        raise _set_aside(path, f"expected images of 32x32, got {sorted(sizes)[:3]}")
    return _drawn_split(images, _Candidate("as stored", None), {})


def read_lsun(entry: registry.DataSet, files: Mapping[str, Path], anyway: bool = False) -> Read:
    """LSUN (crop), the pictures of LSUN/test; how they become 32x32 is decided by the fingerprint."""
    (path,) = files.values()
    images = _pictures(path, "LSUN/test/")
    if all(image.size == (SIDE, SIDE) for image in images):
        return _drawn_split(images, _Candidate("as stored", None), {})
    candidates = [_Candidate(f"{name} resize", None, name) for name in FILTERS] + [
        _Candidate("centre 32", SIDE)
    ]
    first = np.random.default_rng(0).permutation(len(images))[:N_TEST_DRAWN]
    return _drawn_split(images, *_chosen(entry.name, candidates, [images[i] for i in first], anyway))


def _drawn_split(images: list[Image.Image], candidate: "_Candidate", choices: dict) -> Read:
    """1,000 images of the archive's order, drawn with seed 0, test; the rest train."""
    n_test = N_TEST_DRAWN
    if len(images) <= n_test:
        raise BadArchive(f"expected more than {n_test:,} pictures in the archive, got {len(images):,}")
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"test": np.sort(order[:n_test]), "train": np.sort(order[n_test:])}
    splits = {split: Split(np.stack([candidate(images[i]) for i in at])) for split, at in parts.items()}
    drawn = f"{n_test} of {len(images)} drawn with numpy's default_rng(0) for test, the rest train"
    return Read(splits, {"split": drawn, "size": candidate.label, **choices})


def _pictures(path: Path, folder: str) -> list[Image.Image]:
    """The decoded pictures of one folder of a tar.gz, in the order of the numbers in their names."""

    def wanted(name: str) -> bool:
        file = name.rsplit("/", 1)[-1]
        return f"/{folder}" in f"/{name}" and file.lower().endswith(SUFFIXES) and not file.startswith("._")

    with _explained(path):
        found = sorted(_tar_members(path, wanted), key=lambda member: _by_number(member[0]))
        if not found:
            raise BadArchive(f"expected pictures in {folder} of the archive, found none")
        return [_picture(content) for _, content in found]


def _by_number(name: str) -> tuple[int, str]:
    numbers = re.findall(r"\d+", name.rsplit("/", 1)[-1])
    return (int(numbers[-1]) if numbers else -1, name)


# --- CelebA ----------------------------------------------------------------------------------------------


def read_celeba(entry: registry.DataSet, files: Mapping[str, Path], anyway: bool = False) -> Read:
    """The aligned faces, 178x218, in the official split; crop and filter are decided by the fingerprint."""
    archive, partition = files["img_align_celeba.zip"], files["list_eval_partition.txt"]
    with _explained(partition):
        rows = [line.split() for line in partition.read_text(encoding="ascii").splitlines() if line.strip()]
        if not rows or any(len(row) != 2 or row[1] not in "012" for row in rows):
            raise BadArchive("expected lines like '000001.jpg 0' with 0 train, 1 validation, 2 test")
    names = {
        split: [row[0] for row in rows if row[1] == code] for split, code in (("train", "0"), ("test", "2"))
    }
    candidates = [
        _Candidate(f"{crop}, {name}", side, name)
        for crop, side in (("whole 178x218", None), ("centre 140", 140), ("centre 148", 148))
        for name in FILTERS
    ]
    first = np.random.default_rng(0).permutation(len(names["test"]))[:N_TEST_DRAWN]
    with _explained(archive), zipfile.ZipFile(archive) as file:
        for member in file.namelist():
            _check_safe(member)
        sample = [_face(file, names["test"][i]) for i in first]
    best, choices = _chosen(entry.name, candidates, sample, anyway)
    splits = {}
    with _explained(archive), zipfile.ZipFile(archive) as file:
        for split in SPLITS:
            x = np.empty((len(names[split]), SIDE, SIDE, 3), np.uint8)
            with track(len(x), f"reading celeba {split}") as progress:
                for i, name in enumerate(names[split]):
                    x[i] = best(_face(file, name))
                    progress.update()
            splits[split] = Split(x)
    return Read(splits, {"split": "official; validation is not used", "size": best.label, **choices})


def _face(file: zipfile.ZipFile, name: str) -> Image.Image:
    return _picture(file.read(f"img_align_celeba/{name}"))


# --- pictures to 32x32 -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """One way to 32x32: the centre square of `side` pixels (None: whole), then a resize with Pillow's filter."""

    label: str
    side: int | None
    filter: str | None = None

    def __call__(self, image: Image.Image) -> np.ndarray:
        if self.side is not None:
            left, top = ((n - self.side) // 2 for n in image.size)
            image = image.crop((left, top, left + self.side, top + self.side))
        if self.filter is not None:
            image = image.resize((SIDE, SIDE), Image.Resampling[self.filter.upper()])
        return np.asarray(image)


def _chosen(
    name: str, candidates: list[_Candidate], images: list[Image.Image], anyway: bool
) -> tuple[_Candidate, dict]:
    """The candidate whose fingerprint is nearest the printed one (A22), and how all of them fared.

    The best of many passes more easily than one alone; what holds the source to the truth is its hash.
    """
    verdicts = {}
    for candidate in candidates:
        if candidate.side is not None and any(min(image.size) < candidate.side for image in images):
            continue  # too small: the crop would be padded with black
        x = np.stack([candidate(image) for image in images])
        verdicts[candidate] = fingerprint.check(name, channels_first(x))
    best = min(verdicts, key=lambda c: verdicts[c].distance)
    if not (verdicts[best].accepted or anyway):
        means = "; ".join(f"{c.label}: {v.got.mean:.2f} ± {v.got.sd:.2f}" for c, v in verdicts.items())
        raise Refused(f"{verdicts[best].sentence} ({best.label}, the nearest of: {means})")
    fared = {
        c.label: {"mean": v.got.mean, "sd": v.got.sd, "distance": v.distance} for c, v in verdicts.items()
    }
    return best, {"candidates": fared}


def _picture(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


# --- texts -----------------------------------------------------------------------------------------------

Rows = list[tuple[str, int | None]]  # a text and its label, None where it has none
MIN_TOKENS = 20  # of a WikiText paragraph


def read_imdb(entry: registry.DataSet, files: Mapping[str, Path]) -> dict[str, Rows]:
    """aclImdb: one file per review, train and test, pos and neg; the unlabelled ones stay out."""
    (path,) = files.values()
    place = re.compile(r"(?:^|/)(train|test)/(pos|neg)/(\d+)_\d+\.txt$")
    found: dict[str, list[tuple[str, int, str]]] = {"train": [], "test": []}
    with _explained(path):
        for name, content in _tar_members(path, lambda name: place.search(name) is not None):
            split, label, number = place.search(name).groups()
            found[split].append((label, int(number), content.decode("utf-8")))
        _need(all(found.values()), "reviews in train and test of aclImdb")
    return {
        f"imdb_{split}": [(text, int(label == "pos")) for label, _, text in sorted(reviews)]
        for split, reviews in found.items()
    }


def read_movie_reviews(entry: registry.DataSet, files: Mapping[str, Path]) -> dict[str, Rows]:
    """NLTK's zip of polarity v2.0: neg/cv000_29416.txt ..., pos/...; in the order of the names, as NLTK's reader."""
    (path,) = files.values()
    rows: Rows = []
    with _explained(path), zipfile.ZipFile(path) as file:
        for name in sorted(_zip_names(file, r"movie_reviews/(pos|neg)/cv\d+_\d+\.txt$")):
            rows.append((file.read(name).decode("utf-8"), int("/pos/" in name)))
        _need(rows, "movie_reviews/neg/*.txt and movie_reviews/pos/*.txt")
    return {"movie_reviews": rows}


def read_ag_news(entry: registry.DataSet, files: Mapping[str, Path]) -> dict[str, Rows]:
    """Two csv files: class 1 to 4, title, description; labels count from 0."""
    splits = {}
    for split in SPLITS:
        path = files[f"{split}.csv"]
        with _explained(path), path.open(encoding="utf-8", newline="") as lines:
            rows: Rows = []
            for line in csv.reader(lines):
                _need(
                    len(line) == 3 and line[0] in "1234", f"class, title, description in line {len(rows) + 1}"
                )
                rows.append((f"{line[1]} {line[2]}", int(line[0]) - 1))
            _need(rows, "lines of class, title, description")
            splits[f"ag_news_{split}"] = rows
    return splits


def read_sst2(entry: registry.DataSet, files: Mapping[str, Path]) -> dict[str, Rows]:
    """GLUE's zip: train.tsv and dev.tsv with a header; quotation marks are ordinary characters."""
    (path,) = files.values()
    splits = {}
    with _explained(path), zipfile.ZipFile(path) as file:
        for split in ("train", "dev"):
            (name,) = _zip_names(file, rf"(^|/)SST-2/{split}\.tsv$") or [f"SST-2/{split}.tsv"]
            head, *lines = file.read(name).decode("utf-8").rstrip("\n").split("\n")
            _need(head.split("\t") == ["sentence", "label"], f"the header 'sentence<tab>label' in {name}")
            pairs = [line.split("\t") for line in lines]
            _need(
                all(len(p) == 2 and p[1] in ("0", "1") for p in pairs),
                f"a sentence and 0 or 1 per line of {name}",
            )
            splits[f"sst2_{split}"] = [(text.strip(), int(label)) for text, label in pairs]
    return splits


def read_wikitext2(entry: registry.DataSet, files: Mapping[str, Path]) -> dict[str, Rows]:
    """Paragraphs of wiki.test.tokens, as tokenised there (<unk>, @-@); headings and short ones are dropped."""
    (path,) = files.values()
    with _explained(path), zipfile.ZipFile(path) as file:
        (name,) = _zip_names(file, r"(^|/)wiki\.test\.tokens$") or ["wiki.test.tokens"]
        lines = [line.strip() for line in file.read(name).decode("utf-8").split("\n")]
        texts = [t for t in lines if not t.startswith("= ") and len(t.split()) >= MIN_TOKENS]
        _need(texts, f"paragraphs of at least {MIN_TOKENS} tokens in {name}")
    return {"wikitext2_test": [(text, None) for text in texts]}


def _zip_names(file: zipfile.ZipFile, pattern: str) -> list[str]:
    for name in file.namelist():
        _check_safe(name)
    return [name for name in file.namelist() if re.search(pattern, name)]


def _need(found: object, what: str) -> None:
    if not found:
        raise BadArchive(f"expected {what}, found none or others")


# --- archives --------------------------------------------------------------------------------------------


def _tar_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wanted files; every name is checked though nothing is unpacked."""
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            _check_safe(member.name)
            if not (member.isfile() or member.isdir()):
                raise BadArchive(f"expected files and folders only, got a link or device {member.name!r}")
            if member.isfile() and wanted(member.name):
                yield member.name, archive.extractfile(member).read()


def _check_safe(name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or (parts and ":" in parts[0]):
        raise BadArchive(f"expected names inside the archive's folder, got {name!r}")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever a broken archive raises, in words; the file is set aside, so that the next attempt is not it."""
    try:
        yield
    except BadArchive as error:
        raise _set_aside(path, str(error)) from error
    except pickle.UnpicklingError as error:
        raise _set_aside(path, f"expected plain arrays, but {error}") from error
    except KeyError as error:
        raise _set_aside(path, f"expected it to be whole, but {error}") from error
    except (EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, OSError, ValueError) as error:
        raise _set_aside(
            path, f"expected a whole file, got {type(error).__name__}: {error}; it seems cut short or altered"
        ) from error


def _set_aside(path: Path, why: str) -> BadArchive:
    refused = path.with_name(path.name + ".refused")
    with contextlib.suppress(OSError):
        os.replace(path, refused)
    return BadArchive(f"{path}: {why}. Set aside as {refused.name}")


READERS: dict[str, Callable[[registry.DataSet, Mapping[str, Path], bool], Read]] = {
    function.__name__: function for function in (read_cifar, read_svhn, read_isun, read_lsun, read_celeba)
}
TEXT_READERS: dict[str, Callable[[registry.DataSet, Mapping[str, Path]], dict[str, Rows]]] = {
    function.__name__: function
    for function in (read_imdb, read_movie_reviews, read_ag_news, read_sst2, read_wikitext2)
}
