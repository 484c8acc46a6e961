"""Tables in Markdown, and the names that pages give to sets."""

import re
from collections.abc import Iterable, Sequence

from flowood_core import datasets

__all__ = ["kinds_of", "label", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: bool = False) -> str:
    """A Markdown table; all columns but the first stand right, or left where they hold words."""
    lines = [_line(head), "|---|" + ("---|" if words else "--:|") * (len(head) - 1), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def label(name: str) -> str:
    """A data set as pages call it."""
    return datasets.LABELS.get(name, name)


def kinds_of(worst: str) -> list[tuple[str, str, str]]:
    """Kinds of simple pictures, AUROC and a mark of those not trained on, out of a cell of `battery_below`."""
    return re.findall(r"(\S.*?) (\d+)( \(not trained on\))?(?:, (?!nearest)|$)", worst)
