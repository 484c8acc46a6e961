"""Ids, printed names and colours: of data sets, corpora, methods, models and scores, once for everything.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; ID is always blue. Strangers are grey.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

__all__ = [
    "CORPORA",
    "IMAGES",
    "METHODS",
    "MODELS",
    "PICTURES",
    "SCORES",
    "Label",
    "labelled",
    "names",
    "text_of",
]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#222222",
)  # fmt: skip


class Label(NamedTuple):
    """What an id is called in print, and its colour."""

    text: str
    colour: str = "#777777"


IMAGES = {
    "photo": Label("photo crops", BLUE),
    "enlarged": Label("enlarged crops", GREEN),
    "smooth": Label("smooth crops", PURPLE),
    "digits": Label("digits", ORANGE),
    "aliased": Label("aliased crops", RED),
    "cifar10": Label("CIFAR-10", BLUE),
    "cifar100": Label("CIFAR-100", SKY),
    "svhn": Label("SVHN", ORANGE),
    "lsun": Label("LSUN", PURPLE),
    "isun": Label("iSUN", RED),
    "celeba": Label("CelebA", BLACK),  # not that of the faces, beside which it may stand
    "scenes_tinyimagenet": Label("scenes (Tiny-ImageNet, not LSUN)", PURPLE),
    "faces_rmfd": Label("faces (RMFD, not CelebA)", YELLOW),
}
CORPORA = {
    "stdlib_docs": Label("standard library"),
    "help_pages": Label("help pages"),
    "numpy_docs": Label("NumPy"),
    "licences": Label("licences"),
    "imdb": Label("IMDb"),
    "movie_reviews": Label("Movie Reviews"),
    "ag_news": Label("AG News"),
    "sst2": Label("SST-2"),
    "wikitext2": Label("WikiText-2"),
}
PICTURES = {
    "chest_xray": Label("Chest X-ray"),
    "chest_xray_full": Label("Chest X-ray, files of original size"),
    "realblur": Label("RealBlur"),
    "koniq10k": Label("KonIQ-10k"),
    "magnetic_tile": Label("magnetic tiles (not MVTec-AD)"),
}
METHODS = {
    "mle": Label("MLE", BLACK),
    "ro": Label("RO", PURPLE),
    "gaussian": Label("Gaussian", SKY),
    "ccm": Label("CCM", ORANGE),
    "ccm_gaussian": Label("CCM+Gaussian", GREEN),
}
MODELS = {"fastflow": Label("FastFlow"), "cs_flow": Label("CS-Flow")}
SCORES = {
    "pz": Label("−log p(z), eq. (4)"),
    "px": Label("−log p(x)"),
    "pz_comp": Label("eq. (5) with p(z)"),
    "px_comp": Label("eq. (5) with p(x)"),
    "comp_only": Label("−C(x), no flow"),
    "published": Label("published score"),
}
ALL = IMAGES | CORPORA | PICTURES | METHODS | MODELS | SCORES


def names(table: Mapping[str, Label]) -> dict[str, str]:
    """Printed name by id."""
    return {id_: label.text for id_, label in table.items()}


def text_of(value: object) -> object:
    """The printed name of an id, also of a blurred or a bad set's; anything else as it is."""
    if not isinstance(value, str):
        return value
    for suffix, before, after in (("", "", ""), ("_blurred", "blurred ", ""), ("_bad", "", ", bad")):
        original = value.removesuffix(suffix)
        if value.endswith(suffix) and original in ALL:
            return before + ALL[original].text + after
    return value


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame for reading: ids among its cells, rows and columns become printed names."""
    return frame.map(text_of).rename(index=text_of, columns=text_of)
