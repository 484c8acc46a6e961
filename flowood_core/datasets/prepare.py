"""From the registry to the prepared arrays, exactly once: fetch, read, judge, write.

Run as ``python -m flowood_core data cifar10 svhn``, or without names to see what is here.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock

import flowood_core
from flowood_core.complexity import codec_versions
from flowood_core.datasets import download, fingerprint, registry
from flowood_core.datasets.readers import READERS, SPLITS, BadArchive, Refused, Split, channels_first
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["PrepareError", "archive_folder", "prepare", "state", "status_lines"]


class PrepareError(RuntimeError):
    """A set could not be prepared; the message says why and what to do."""


def prepare(name: str, *, anyway: bool = False) -> Path:
    """Fetch, read, judge and write a set of the registry, unless it is here; the folder of its arrays.

    Files: ``images/<name>_{train,test}.npz`` (x, and y where the source has labels) and ``images/<name>.json``,
    the record: hashes of the sources, counts, choices, fingerprints, versions. A second process waits for the
    first. Files of the same set that were not prepared here are never overwritten, and never completed by a
    split from elsewhere: the halves could share images.

    Args:
        name: a set of `registry.SETS`.
        anyway: write images whose fingerprint or counts are refused; the record says so.
    Raises:
        ValueError: no such set.
        PrepareError: not to be had, broken, or refused.
    """
    if name not in registry.SETS:
        raise ValueError(f"expected a set of the registry ({', '.join(registry.SETS)}), got {name!r}")
    entry = registry.SETS[name]
    roots = paths.data_roots()
    for root in roots:
        found = state(name, root)
        if found in ("prepared", "supplied"):
            return root / "images"
        if found == "half supplied":
            (there,) = (f"{name}_{split}.npz" for split in SPLITS if _array(root, name, split).is_file())
            raise PrepareError(
                f"expected both splits of {name!r} or none in {root / 'images'}, got {there} alone, not prepared by "
                "this command; the other split, made from the originals, could share images with it. Move it "
                "away, or point FLOWOOD_DATA at another folder"
            )
    images = roots[-1] / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
        with FileLock(images / f".{name}.lock"):
            if state(name, roots[-1]) != "prepared":
                _prepare(entry, roots[-1], anyway)
    except OSError as error:
        raise PrepareError(
            f"expected to write {name!r} below {images}, got {type(error).__name__}: {error}; "
            "point FLOWOOD_DATA at a folder that can be written"
        ) from error
    return images


def state(name: str, root: Path) -> str:
    """``prepared`` (by this command), ``interrupted``, ``supplied`` or ``half supplied`` by hand, ``missing``."""
    here = sum(_array(root, name, split).is_file() for split in SPLITS)
    if _record(root, name).is_file():
        return "prepared" if here == len(SPLITS) else "interrupted"
    return ("missing", "half supplied", "supplied")[here]


def archive_folder(name: str) -> Path:
    """Where the archives of a set lie, downloaded or put there by hand."""
    return paths.data_roots()[-1] / "archives" / name


def _prepare(entry: registry.DataSet, root: Path, anyway: bool) -> None:
    sources = []
    for file in _held_to_record(entry, root):
        try:
            sources.append((file.filename, download.fetch(file, root / "archives" / entry.name)))
        except download.DownloadError as error:
            raise PrepareError(str(error)) from error
    try:
        read = READERS[entry.reader](entry, {filename: got.path for filename, got in sources}, anyway)
    except BadArchive as error:
        raise PrepareError(f"{error}\nLoad the set again to fetch the file anew.") from error
    except Refused as error:
        raise PrepareError(_refusal(entry.name, [str(error)])) from error
    verdict = fingerprint.check(entry.name, channels_first(read.splits["test"].x))
    counts = {split: len(read.splits[split].x) for split in SPLITS}
    print(verdict.sentence, flush=True)
    problems = [] if verdict.accepted else [verdict.sentence]
    if counts != dict(entry.counts):
        problems.append(f"{entry.name}: expected {dict(entry.counts)} images, got {counts}")
    if problems and not anyway:
        raise PrepareError(_refusal(entry.name, problems))
    record = {
        "name": entry.name,
        "flowood_core": flowood_core.__version__,
        "sources": [
            {"file": f, "from": s.source, "bytes": s.size, "md5": s.md5, "sha256": s.sha256}
            for f, s in sources
        ],
        "counts": counts,
        "choices": read.choices,
        "accepted": not problems,
        "fingerprint": {
            "expected": verdict.expected and dataclasses.asdict(verdict.expected),
            "test": dataclasses.asdict(verdict.got),
            "train": dataclasses.asdict(fingerprint.fingerprint(channels_first(read.splits["train"].x))),
            "tolerance_of_the_mean": verdict.tolerance,
            "sentence": verdict.sentence,
        },
        "sha256_of_x": {split: hashlib.sha256(read.splits[split].x).hexdigest() for split in SPLITS},
        "versions": {**codec_versions(), "numpy": np.__version__, "libjpeg": _libjpeg()},
        "licence": entry.licence,
        "citation": entry.citation,
    }
    # the record comes first: arrays without one count as supplied by hand and would never be completed
    write_atomically(_record(root, entry.name), (json.dumps(record, indent=1) + "\n").encode())
    for split in SPLITS:
        _write(_array(root, entry.name, split), read.splits[split])


def _refusal(name: str, problems: list[str]) -> str:
    return "\n".join(
        [
            *problems,
            "These are not the images of the paper, or they were treated otherwise. Nothing was written.",
            f"To use them all the same: python -m flowood_core data --anyway {name}",
        ]
    )


def _write(path: Path, split: Split) -> None:
    buffer = io.BytesIO()
    # uncompressed: photographs shrink little, and every run reads the file again
    np.savez(buffer, x=split.x, **({} if split.y is None else {"y": split.y}))
    write_atomically(path, buffer.getbuffer())


def _held_to_record(entry: registry.DataSet, root: Path) -> list[registry.DataFile]:
    """The files, and for one without a published hash ours, recorded when the fingerprint was first right."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(_record(root, entry.name).read_text(encoding="utf-8"))
        ours = {source["file"]: source["sha256"] for source in record["sources"] if record["accepted"]}
        return [
            f if f.md5 or f.sha256 else dataclasses.replace(f, sha256=ours.get(f.filename))
            for f in entry.files
        ]
    return list(entry.files)


def _array(root: Path, name: str, split: str) -> Path:
    return root / "images" / f"{name}_{split}.npz"


def _record(root: Path, name: str) -> Path:
    return root / "images" / f"{name}.json"


def _libjpeg() -> str | None:
    from PIL import features

    return features.version("libjpeg_turbo") or features.version("jpg")


# --- command line ----------------------------------------------------------------------------------------


def status_lines() -> list[str]:
    """Per set of the registry: state, counts, fingerprint, licence, size of the download."""
    lines = []
    for name, entry in registry.SETS.items():
        root = next((r for r in paths.data_roots() if state(name, r) != "missing"), paths.data_roots()[-1])
        known = [f.size for f in entry.files if f.size is not None]
        size = f"{sum(known):,} bytes" if len(known) == len(entry.files) else "size not known"
        lines.append(f"{name:9} {state(name, root):13} {_counts(root, name)}".rstrip())
        lines.append(f"          {_fingerprint_sentence(root, name)}")
        lines.append(f"          licence: {entry.licence}; download: {len(entry.files)} file(s), {size}")
    lines.append(f"looked in: {', '.join(str(root / 'images') for root in paths.data_roots())}")
    return lines


def _counts(root: Path, name: str) -> str:
    counts = []
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    for split in SPLITS:
        with (
            contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
            zipfile.ZipFile(_array(root, name, split)) as file,
            file.open("x.npy") as x,  # its header alone: no array is read
        ):
            shape, *_ = headers[np.lib.format.read_magic(x)](x)
            counts.append(f"{split} {shape[0]:,}")
    return ", ".join(counts)


def _fingerprint_sentence(root: Path, name: str) -> str:
    """As recorded when the set was prepared, or measured now where it was supplied by hand."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return json.loads(_record(root, name).read_text(encoding="utf-8"))["fingerprint"]["sentence"]
    split = next((s for s in reversed(SPLITS) if _array(root, name, s).is_file()), None)
    if split is None:
        printed = registry.expected(name)
        return "" if printed is None else f"expected C(x) {printed.mean:.2f} ± {printed.sd:.2f}"
    try:
        with np.load(_array(root, name, split), allow_pickle=False) as file:
            return fingerprint.check(name, channels_first(file["x"])).sentence
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        return f"the file of the {split} split cannot be read: {error}"
