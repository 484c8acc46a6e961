"""Texts by name: prose embedded in installed packages (quick profile), and prepared files on disk.

A corpus of the registry that is not here is downloaded and prepared, once, when it is first asked for. Texts
are strings as stored: nothing is lower-cased, no markup removed.
"""

import collections
import dataclasses
import functools
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock

from flowood_core.datasets import MissingData, download, readers, registry
from flowood_core.notebook import labels as printed_names
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["EMBEDDED", "FILES", "LABELS", "Corpus", "embedded", "load", "prepare"]

EMBEDDED = {
    "stdlib_docs": "docstrings of Python's standard library (the most complex; the ID corpus of the quick profile)",
    "help_pages": "paragraphs of Python's help pages on its grammar (simpler than stdlib_docs)",
    "numpy_docs": "docstrings of NumPy (simpler)",
    "licences": "licence texts of the installed packages (the simplest: they repeat one another)",
}

FILES = {  # corpus: split: prepared file below text/
    "imdb": {"train": "imdb_train", "test": "imdb_test"},
    "movie_reviews": {"test": "movie_reviews"},
    "ag_news": {"train": "ag_news_train", "test": "ag_news_test"},
    "sst2": {"train": "sst2_train", "test": "sst2_dev"},
    "wikitext2": {"test": "wikitext2_test"},
}

LABELS = printed_names.names(printed_names.CORPORA)

MIN_WORDS = 30  # of an embedded paragraph


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A named split of texts.

    Attributes:
        name, split: what it is; `split` is train or test.
        texts: as stored.
        labels: one per text, None where the source has none.
        source: where it came from, for the provenance of a run.
        left_out: entries of the file that are no text, by reason.
    """

    name: str
    split: str
    texts: tuple[str, ...]
    labels: tuple[int | None, ...]
    source: str
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def label(self) -> str:
        return LABELS.get(self.name, self.name)

    def drawn(self, n: int | None, seed: int) -> "Corpus":
        """n texts drawn without replacement, seeded, in the drawn order (all when n is None or too large)."""
        if n is None or n >= len(self):
            return self
        at = np.random.default_rng(seed).permutation(len(self))[:n]
        return dataclasses.replace(
            self, texts=tuple(self.texts[i] for i in at), labels=tuple(self.labels[i] for i in at)
        )

    def facts(self) -> dict[str, object]:
        """Count, source and content hash: what a run records about its data."""
        return {
            "name": self.name,
            "split": self.split,
            "n": len(self),
            "source": self.source,
            "left_out": self.left_out,
            "sha256": hashlib.sha256(json.dumps(self.texts).encode()).hexdigest(),
        }


def load(name: str, split: str) -> Corpus:
    """Texts of a corpus by name: embedded, else prepared under FLOWOOD_DATA (or data/), else fetched and prepared.

    Args:
        name: an id such as ``stdlib_docs`` or ``imdb``; `EMBEDDED` lists what needs no file, `registry.TEXTS` what
            can be fetched. Any other name is looked for as ``text/<name>_<split>.jsonl.gz``.
        split: ``train`` or ``test``. SST-2's test is GLUE's dev, of Movie Reviews all texts are test.
    Raises:
        MissingData: no such corpus here; the message lists what was tried and what to do.
        ValueError: unknown split, or a file that is not gzipped JSON lines with "text".
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
    if name in EMBEDDED:
        return embedded(name, split)
    stem = FILES.get(name, {"train": f"{name}_train", "test": f"{name}_test"}).get(split)
    if stem is None:
        raise MissingData(f"expected a split of {name!r} out of {', '.join(FILES[name])}, got {split!r}")
    path, why = _prepared(stem), ""
    if path is None and name in registry.TEXTS and stem in registry.TEXTS[name].counts:
        try:
            prepare(name)
        except (download.DownloadError, readers.BadArchive, OSError) as error:
            why = f"{type(error).__name__}: {error}"
        path = _prepared(stem)
    if path is None:
        raise MissingData(_missing(name, stem, why))
    texts, labels, left_out = _read(path)
    return Corpus(name, split, texts, labels, f"prepared file {path.name}", left_out)


def prepare(name: str) -> Path:
    """Fetch a corpus of the registry, read it and write ``text/<file>.jsonl.gz``; the folder of the files.

    Beside them ``text/<name>.json`` records hashes and counts. A file that is here is never overwritten. A second
    process waits for the first.

    Raises:
        ValueError: no such corpus.
        download.DownloadError, archives.BadArchive: not to be had, broken, or with other counts than published.
    """
    if name not in registry.TEXTS:
        raise ValueError(f"expected a corpus of the registry ({', '.join(registry.TEXTS)}), got {name!r}")
    entry, root = registry.TEXTS[name], paths.data_roots()[-1]
    folder = root / "text"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        wanted = [stem for stem in entry.counts if not (folder / f"{stem}.jsonl.gz").is_file()]
        if not wanted:
            return folder
        sources = {f.filename: download.fetch(f, root / "archives" / name) for f in entry.files}
        read = readers.TEXT_READERS[entry.reader](entry, {f: got.path for f, got in sources.items()})
        counts = {stem: len(read[stem]) for stem in entry.counts}
        if counts != dict(entry.counts):
            raise readers.BadArchive(f"expected {dict(entry.counts)} texts of {name}, got {counts}")
        record = {
            "name": name, "counts": counts, "licence": entry.licence, "citation": entry.citation,
            "sources": [
                {"file": f, "from": s.source, "bytes": s.size, "md5": s.md5, "sha256": s.sha256}
                for f, s in sources.items()
            ],
        }  # fmt: skip
        write_atomically(folder / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())
        for stem in wanted:
            lines = [json.dumps({"text": t, "label": y}, ensure_ascii=False) + "\n" for t, y in read[stem]]
            # no time stamp inside: the same texts give the same file
            content = gzip.compress("".join(lines).encode(), mtime=0)
            write_atomically(folder / f"{stem}.jsonl.gz", content)
    return folder


@functools.lru_cache(maxsize=16)
def embedded(name: str, split: str) -> Corpus:
    """Prose of installed packages: paragraphs of at least 30 words, train and test disjoint.

    The same in every process of one environment; another version of Python or NumPy has other texts, and the
    content hash of a run tells.
    """
    if name not in EMBEDDED:
        raise MissingData(f"expected one of the embedded corpora {', '.join(EMBEDDED)}, got {name!r}")
    pages = {"stdlib_docs": _stdlib, "help_pages": _help_pages, "numpy_docs": _numpy, "licences": _licences}
    every = dict.fromkeys(text for page in pages[name]() for text in _paragraphs(page))
    texts = [text for text in every if _is_test(text) == (split == "test")]
    # neighbours are alike: shuffle once, so that the first n are spread over the pages
    order = np.random.default_rng(0).permutation(len(texts))
    return Corpus(name, split, tuple(texts[i] for i in order), (None,) * len(texts), EMBEDDED[name])


# --- files -------------------------------------------------------------------------------------------------


def _prepared(stem: str) -> Path | None:
    places = [root / "text" / f"{stem}.jsonl.gz" for root in paths.data_roots()]
    return next((path for path in places if path.is_file()), None)


def _read(path: Path) -> tuple[tuple[str, ...], tuple[int | None, ...], dict[str, int]]:
    texts, labels, left_out = [], [], collections.Counter()
    try:
        content = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"expected gzipped JSON lines in UTF-8 at {path}, got {type(error).__name__}: {error}; the file may be "
            "truncated, copy or prepare it again"
        ) from error
    for n, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            text = entry["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'expected {{"text": ..., "label": ...}} in line {n} of {path.name}, got {line[:60]!r}'
            ) from error
        if not isinstance(text, str):
            left_out["not a text"] += 1
        elif not text.strip():
            left_out["empty"] += 1
        else:
            texts.append(text.encode("utf-8", "replace").decode("utf-8"))  # no half surrogate pairs
            labels.append(entry.get("label"))
    if not texts:
        raise ValueError(f"expected texts in {path.name}, found none")
    return tuple(texts), tuple(labels), dict(left_out)


def _missing(name: str, stem: str, why: str) -> str:
    first, *others = [root / "text" / f"{stem}.jsonl.gz" for root in paths.data_roots()]
    lines = [f"expected the texts of {name!r}, found no {first}."]
    lines += [f"  nor {path} (the data root is read-only)" for path in others]
    lines.append(f"  embedded corpora (no file needed): {', '.join(EMBEDDED)}")
    lines += [f"  {line}" for line in why.splitlines()]
    by_hand = f'write {first.name} yourself: gzipped lines {{"text": ..., "label": ...}}'
    if name in registry.TEXTS:
        files = ", ".join(f.filename for f in registry.TEXTS[name].files)
        by_hand = (
            f"put {files} into {paths.data_roots()[-1] / 'archives' / name} and load again, or {by_hand}"
        )
    else:
        lines.append(f"  corpora that can be fetched: {', '.join(registry.TEXTS)}")
    return "\n".join(
        [
            *lines,
            "What to do, one of:",
            "  1. point FLOWOOD_DATA at a folder of prepared data (layout: data/README.md);",
            f"  2. {by_hand};",
            "  3. use profile=quick, which needs no data.",
        ]
    )


# --- embedded prose ----------------------------------------------------------------------------------------


def _paragraphs(page: str) -> Iterator[str]:
    """Prose only: no code, lists, tables or headings."""
    for block in re.split(r"\n\s*\n", page):
        text = " ".join(block.split())
        if block.lstrip().startswith((">>>", "..", "-", "*", "|", "+", "=", ":")) or "-----" in block:
            continue
        plain = sum(c.isalpha() or c in " ,.'" for c in text) / max(len(text), 1)
        if plain > 0.9 and len(text.split()) >= MIN_WORDS:
            yield text


def _is_test(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % 5 < 2


def _docstrings(files: list[Path]) -> Iterator[str]:
    # whatever stands between triple quotes: parsing the code would take a hundred times as long
    for file in files:
        source = file.read_text(encoding="utf-8", errors="replace")
        yield "\n\n".join(re.findall(r'"""(.*?)"""', source, flags=re.S))


def _stdlib() -> Iterator[str]:
    return _docstrings(sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))


def _numpy() -> Iterator[str]:
    root = Path(importlib.util.find_spec("numpy").origin).parent
    folders = ("lib", "linalg", "ma", "polynomial", "fft")
    return _docstrings(sorted(file for folder in folders for file in (root / folder).glob("*.py")))


def _help_pages() -> Iterator[str]:
    import pydoc_data.topics

    return (page for _, page in sorted(pydoc_data.topics.topics.items()))


def _licences() -> Iterator[str]:
    for package in sorted(importlib.metadata.distributions(), key=lambda d: d.metadata["Name"] or ""):
        for file in sorted(package.files or (), key=str):
            if re.search(r"LICEN[CS]E|COPYING|NOTICE", file.name) and file.suffix in (
                "",
                ".txt",
                ".md",
                ".rst",
            ):
                place = Path(str(package.locate_file(file)))
                if place.is_file():
                    yield place.read_text(encoding="utf-8", errors="replace")
