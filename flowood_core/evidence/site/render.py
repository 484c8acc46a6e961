"""Notebooks and what they left, as HTML: executed ones as they are, others with their figures put in their places."""

import html
import itertools
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flowood_core.notebook import pages

__all__ = ["exhibit", "mathml", "rendered", "sentence_of", "title_of"]

WIDGET = "application/vnd.jupyter.widget-view+json"


def rendered(notebook: Path, left: Mapping[str, str] | None = None) -> str:
    """The body of a notebook as HTML. Formulas become MathML, which needs no script.

    Args:
        notebook: executed, or as committed.
        left: where it was not executed here, the HTML of what its run left, by the name under which a cell
            saved it; each stands behind its cell, and behind the text what no cell names.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    book = nbformat.read(notebook, as_version=4)
    # how the package gets onto another machine is nothing to read
    book.cells = [c for c in book.cells if "bootstrap" not in c.metadata.get("tags", [])]
    rest = dict(left or {})
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = mathml(_without_badge(cell.source))
        else:
            cell.outputs = [o for o in cell.get("outputs", []) if _is_still(o)] + [
                nbformat.v4.new_output("display_data", {"text/html": rest.pop(name)})
                for name in re.findall(r'"(\w+)"', cell.source)
                if name in rest
            ]
    book.cells = _folded(book.cells)
    hides = Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": {"sets-up"}})
    exporter = HTMLExporter(
        config=hides, template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True
    )
    body, _ = exporter.from_notebook_node(book)
    if rest:
        body += "<h2>Also made by this notebook</h2>" + "".join(rest.values())
    return pages.words_apart(body)


def _folded(cells: Sequence[Any]) -> list[Any]:
    """Parameters and imports stay at hand without standing before the first sentence; their outputs stay."""
    import nbformat

    shown: list[Any] = []
    for is_setup, group in itertools.groupby(cells, lambda c: c.cell_type == "code" and _sets_up(c)):
        together = list(group)
        if is_setup:
            code = html.escape("\n\n".join(c.source for c in together)).replace(
                "\n", "&#10;"
            )  # no empty line
            fold = f"<details><summary>parameters and imports</summary><pre>{code}</pre></details>"
            shown.append(nbformat.v4.new_markdown_cell(fold))
            for cell in together:
                cell.metadata["tags"] = ["sets-up"]
            together = [c for c in together if c.outputs]
        shown += together
    return shown


def _sets_up(cell: Any) -> bool:
    is_tagged = any("parameters" in tag for tag in cell.metadata.get("tags", []))
    return is_tagged or "params.check(" in cell.source


def title_of(notebook: Path) -> str:
    """The first heading of a notebook."""
    lines = _first_text(notebook).splitlines()
    return re.sub(r"^#+\s*", "", lines[0]) if lines else notebook.stem


def sentence_of(notebook: Path) -> str:
    """The first sentence below its title, which says what the notebook is about."""
    below = " ".join(_first_text(notebook).splitlines()[1:])
    plain = re.sub(r"\*\*(Question|What it does|Answer)\.\*\*", "", below)
    plain = re.sub(r"\[!\[.*?\)\]\(.*?\)", "", plain)
    plain = re.sub(r"\$([^$]*)\$", lambda m: re.sub(r"\\[a-z]+|[{}\\]", "", m[1]), plain)
    plain = re.sub(r"[*`]|\((?=https?:)[^)]*\)", "", plain).strip()
    return re.split(r"(?<=[.?!])\s+(?=[A-Z])", plain)[0] if plain else ""


def _first_text(notebook: Path) -> str:
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    return next((c.source for c in cells if c.cell_type == "markdown" and c.source.strip()), "").strip()


def exhibit(source: Path, caption: str, out: Path, prefix: str) -> str:
    """A figure or table that a notebook left, copied below `out`, as HTML."""
    target = out / "files" / f"{prefix}-{source.name}"
    shutil.copy(source, target)
    link, caption = f"files/{target.name}", html.escape(caption)
    if source.suffix == ".png":
        picture = f'<a href="{link}"><img src="{link}" alt="{caption}" loading="lazy"></a>'
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
    frame = pd.read_csv(source)
    made = pages.shown_table(frame, f"{caption} (<a href='{link}'>CSV</a>)")
    return f"<details><summary>Table {source.stem}: {caption}</summary>{made}</details>"


def _is_still(output: Mapping[str, Any]) -> bool:
    """Whether a page can show it: a slider needs a kernel, and the kernel's remark on its port is no result."""
    return WIDGET not in output.get("data", {}) and "TCP without encryption" not in output.get("text", "")


def _without_badge(markdown: str) -> str:
    """A picture from elsewhere has no place on a page that reads offline."""
    return re.sub(r"^\[!\[Open In Colab\].*\n?", "", markdown, flags=re.MULTILINE)


def mathml(markdown: str) -> str:
    """Replace $…$ and $$…$$ outside code by MathML; what cannot be converted stays as it is."""
    from latex2mathml.converter import convert

    def replaced(match: re.Match[str]) -> str:
        display, inline = match.group(2), match.group(3)
        latex = display if display is not None else inline
        return match.group(0) if latex is None else _converted(match, latex, display is not None, convert)

    return re.sub(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", replaced, markdown, flags=re.DOTALL)


def _converted(match: re.Match[str], latex: str, is_display: bool, convert: Callable[..., str]) -> str:
    tag = re.search(r"\\tag\{(.*?)\}", latex)
    latex = re.sub(r"\\tag\{.*?\}", "", latex).replace(r"\lvert", "|").replace(r"\rvert", "|")
    # in braces the converter writes the letter of that alphabet, else a style that browsers pass over
    latex = re.sub(r"\\(mathcal|mathbf|mathbb) (\w)", r"\\\1{\2}", latex)
    try:
        made = convert(latex.strip(), display="block" if is_display else "inline")
    except Exception:  # a formula the converter does not know reads better as LaTeX than not at all
        return match.group(0)
    made = re.sub(r"\s*\n\s*", "", made)
    return f'<span class="equation">{made}<span>({tag.group(1)})</span></span>' if tag else made
