"""Laws of corpora: originals read in their own formats, bad entries counted, nothing made up where a corpus lacks."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile

import pytest

from flowood_core import datasets
from flowood_core.complexity import text_complexity
from flowood_core.datasets import corpora, readers, registry


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    return tmp_path


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return buffer.getvalue()


def tarred(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            file.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


REVIEWS = {f"aclImdb/{s}/{y}/{n}_{9 if y == 'pos' else 2}.txt": f"{s} {y} {n}<br />é" for s in ("train", "test")
           for y in ("neg", "pos") for n in (10, 2)}  # fmt: skip
ORIGINALS = {  # name: files as distributed, the texts and labels they must give
    "imdb": (
        {"aclImdb_v1.tar.gz": tarred(REVIEWS | {"aclImdb/train/unsup/0_0.txt": "no", "aclImdb/README": "no"})},
        {f"imdb_{s}": [(f"{s} {y} {n}<br />é", int(y == "pos")) for y in ("neg", "pos") for n in (2, 10)]
         for s in ("train", "test")},
    ),
    "movie_reviews": (
        {"movie_reviews.zip": zipped({
            "movie_reviews/pos/cv000_1.txt": "films adapted \n", "movie_reviews/neg/cv001_2.txt": "the happy\n",
            "movie_reviews/neg/cv000_9.txt": "plot : two", "movie_reviews/README": "no"})},
        {"movie_reviews": [("plot : two", 0), ("the happy\n", 0), ("films adapted \n", 1)]},
    ),
    "ag_news": (
        {"train.csv": b'"3","Wall St. ""Bears""","Short-sellers, again\\\\band"\n',
         "test.csv": b'"1","A","B"\n"4","C","D"\n'},
        {"ag_news_train": [('Wall St. "Bears" Short-sellers, again\\\\band', 2)],
         "ag_news_test": [("A B", 0), ("C D", 3)]},
    ),
    "sst2": (
        {"SST-2.zip": zipped({
            "SST-2/train.tsv": 'sentence\tlabel\nhide new "secretions \t0\n',
            "SST-2/dev.tsv": "sentence\tlabel\na charm\t1\n",
            "SST-2/test.tsv": "index\tsentence\n0\tuneasy\n"})},
        {"sst2_train": [('hide new "secretions', 0)], "sst2_dev": [("a charm", 1)]},
    ),
    "wikitext2": (
        {"wikitext-2-v1.zip": zipped({"wikitext-2/wiki.test.tokens": " \n = Title = \n \n " + "word @-@ <unk> " * 7
                                      + "\n too short \n = = Part = = \n" + " x" * 20 + " \n"})},
        {"wikitext2_test": [(("word @-@ <unk> " * 7).strip(), None), (("x " * 20).strip(), None)]},
    ),
}  # fmt: skip


def supplied(name, root, monkeypatch, files=None):
    """The files in the archive folder, and an entry of the registry that expects these."""
    files = files or ORIGINALS[name][0]
    folder = root / "archives" / name
    folder.mkdir(parents=True)
    for filename, content in files.items():
        (folder / filename).write_bytes(content)
    entry = registry.TEXTS[name]
    known = tuple(
        registry.DataFile(f.filename, f.urls, sha256=hashlib.sha256(files[f.filename]).hexdigest())
        for f in entry.files
    )
    counts = {stem: len(rows) for stem, rows in ORIGINALS[name][1].items()}
    fields = {f: getattr(entry, f) for f in entry.__dataclass_fields__} | {"files": known, "counts": counts}
    monkeypatch.setitem(registry.TEXTS, name, registry.DataSet(**fields))


@pytest.mark.parametrize("name", ORIGINALS)
def test_originals_become_prepared_files(name, root, monkeypatch):
    supplied(name, root, monkeypatch)
    for split, stem in corpora.FILES[name].items():
        corpus = corpora.load(name, split)
        assert list(zip(corpus.texts, corpus.labels, strict=True)) == ORIGINALS[name][1][stem]
    record = json.loads((root / "text" / f"{name}.json").read_text())
    assert record["sources"][0]["sha256"] and record["licence"]
    before = {f: f.read_bytes() for f in (root / "text").glob("*.gz")}
    for file in before:
        file.unlink()
    corpora.prepare(name)
    assert before == {f: f.read_bytes() for f in (root / "text").glob("*.gz")}


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_broken_original_is_set_aside_and_said(name, root, monkeypatch):
    supplied(name, root, monkeypatch, {f: c[: len(c) // 2] for f, c in ORIGINALS[name][0].items()})
    if name == "ag_news":  # half of a csv is a csv
        pytest.skip("told apart by its hash alone")
    with pytest.raises(datasets.MissingData, match=r"refused"):
        corpora.load(name, "test")
    assert list((root / "archives" / name).glob("*.refused")) and not list((root / "text").glob("*.gz"))


def test_other_counts_than_published_are_refused(root, monkeypatch):
    supplied("sst2", root, monkeypatch)
    entry = registry.TEXTS["sst2"]
    fields = {f: getattr(entry, f) for f in entry.__dataclass_fields__} | {
        "counts": registry.TEXTS["sst2"].counts | {"sst2_dev": 5}
    }
    monkeypatch.setitem(registry.TEXTS, "sst2", registry.DataSet(**fields))
    with pytest.raises(readers.BadArchive, match=r"'sst2_dev': 5.* got .*'sst2_dev': 1"):
        corpora.prepare("sst2")


def test_an_unsafe_name_is_refused(root, monkeypatch):
    supplied("sst2", root, monkeypatch, {"SST-2.zip": zipped({"../SST-2/dev.tsv": "sentence\tlabel\n"})})
    with pytest.raises(datasets.MissingData, match="inside the archive's folder"):
        corpora.load("sst2", "test")


def test_the_registry_of_texts_is_complete():
    assert list(registry.TEXTS) == list(corpora.FILES)
    for name, entry in registry.TEXTS.items():
        assert (
            entry.kind == "text" and entry.reader in readers.TEXT_READERS and entry.licence and entry.citation
        )
        assert set(corpora.FILES[name].values()) >= set(entry.counts) - {"sst2_train"}
        assert corpora.LABELS[name] == entry.label and entry.table == "table_9"
        assert all(f.md5 and len(f.md5) == 32 and f.urls for f in entry.files)


def test_a_corpus_that_lacks_says_what_to_do(root):
    with pytest.raises(datasets.MissingData) as caught:
        corpora.load("imdb", "train")
    for part in (
        "imdb_train.jsonl.gz",
        "aclImdb_v1.tar.gz",
        "FLOWOOD_OFFLINE",
        "profile=quick",
        "stdlib_docs",
    ):
        assert part in str(caught.value), caught.value
    with pytest.raises(datasets.MissingData, match="can be fetched: imdb"):
        corpora.load("my_texts", "test")
    with pytest.raises(datasets.MissingData, match="split of 'movie_reviews' out of test"):
        corpora.load("movie_reviews", "train")
    with pytest.raises(ValueError, match="'train' or 'test'"):
        corpora.load("imdb", "dev")


def write(root, name, lines):
    (root / "text").mkdir(exist_ok=True)
    (root / "text" / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def test_entries_that_are_no_text_are_counted(root):
    odd = [
        '{"text": "one", "label": 1}',
        '{"text": ""}',
        '{"text": null}',
        '{"text": 7}',
        "",
        '{"text": "\\ud800 x"}',
    ]
    write(root, "mine_test", odd)
    corpus = corpora.load("mine", "test")
    assert corpus.texts == ("one", "? x") and corpus.labels == (1, None)
    assert corpus.left_out == {"empty": 1, "not a text": 2} == corpus.facts()["left_out"]
    write(root, "mine_test", ['{"text": "one"}', "not json"])
    with pytest.raises(ValueError, match="in line 2 of mine_test"):
        corpora.load("mine", "test")
    (root / "text" / "mine_test.jsonl.gz").write_bytes(b"\x1f\x8b\x08 cut")
    with pytest.raises(ValueError, match="gzipped JSON lines"):
        corpora.load("mine", "test")


def test_draws_are_seeded_and_facts_name_the_content(root):
    write(root, "mine_test", [json.dumps({"text": f"text {i}", "label": i}) for i in range(50)])
    corpus = corpora.load("mine", "test")
    one, two, other = corpus.drawn(10, 0), corpus.drawn(10, 0), corpus.drawn(10, 1)
    assert one == two != other and len(set(one.texts)) == 10
    assert all(text == f"text {label}" for text, label in zip(one.texts, one.labels, strict=True))
    assert one.facts()["sha256"] == two.facts()["sha256"] != other.facts()["sha256"]
    assert corpus.drawn(None, 0) is corpus and corpus.drawn(99, 0) is corpus


def test_embedded_prose_is_real_disjoint_and_ordered_by_complexity():
    sets = {name: (corpora.load(name, "train"), corpora.load(name, "test")) for name in corpora.EMBEDDED}
    for train, test in sets.values():
        assert len(train) >= 150 and len(test) >= 120 and not set(train.texts) & set(test.texts)
        assert min(len(text.split()) for text in (*train.texts, *test.texts)) >= corpora.MIN_WORDS
    assert set(corpora.EMBEDDED) < set(corpora.LABELS)
    C = {name: text_complexity(test.texts[:120]) for name, (_, test) in sets.items()}
    assert max(C, key=C.get) == "stdlib_docs" and min(C, key=C.get) == "licences", C
