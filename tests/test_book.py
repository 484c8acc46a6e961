"""Laws of the book: all pages, links that are alive, nothing from elsewhere, a search that knows the text."""

import json
import re

import nbformat
import pytest
from nbformat import v4

from flowood_core import book


def executed(folder, name, *texts):
    cells = [v4.new_markdown_cell(t) for t in texts]
    cells.append(v4.new_code_cell("1 + 1", outputs=[v4.new_output("execute_result", {"text/plain": "2"})]))
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), folder / f"{name}.ipynb")


def test_a_book_binds_what_was_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    badge = "[![Open In Colab](https://elsewhere/x.svg)](https://elsewhere)"
    executed(tmp_path / "quick/notebooks", "00_start_here", f"# Start here\n{badge}\n\nzebra </script> $x^2$")
    executed(tmp_path / "quick/notebooks", "02_1_complexity_bias", "# 2.1 Bias & more", "okapi")
    executed(tmp_path / "quick/notebooks", "train_one", "# one run")
    index = book.bind_book("quick")
    pages = {p.name: p.read_text("utf-8") for p in index.parent.glob("*.html")}
    assert set(pages) == {"index.html", "00_start_here.html", "02_1_complexity_bias.html"}
    assert pages["index.html"] == pages["00_start_here.html"]
    for text in pages.values():
        assert all((index.parent / link).is_file() for link in re.findall(r'(?:href|src)="([^"#]+)"', text))
        assert "elsewhere" not in text and text.count("</html>") == 1 and "2.1 Bias &amp; more</a>" in text
    script = (index.parent / "search.js").read_text("utf-8")
    found = json.loads(re.search(r"const PAGES = (.*);\n", script)[1])
    assert [p["file"] for p in found if "okapi" in p["text"]] == ["02_1_complexity_bias.html"]
    assert "</script" not in script.partition("\n")[0]


def test_without_executed_notebooks_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=quick"):
        book.bind_book("quick")
