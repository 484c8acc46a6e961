"""Laws of the book: claims first, all pages, links that are alive, a search that knows the text, read in a browser."""

import json
import os
import re
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
import nbformat
import pytest
from nbformat import v4
from PIL import Image

from flowood_core.evidence import book, claims
from flowood_core.system import paths


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    return tmp_path / "quick"


def executed(folder, name, *texts, outputs=()):
    cells = [v4.new_markdown_cell(t) for t in texts]
    cells.append(v4.new_code_cell("1 + 1", outputs=[v4.new_output("execute_result", {"text/plain": "2"})]))
    cells += [
        v4.new_code_cell("x = " + "1" * 300, outputs=[v4.new_output("display_data", o)]) for o in outputs
    ]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), folder / f"{name}.ipynb")


def test_a_book_binds_what_was_executed(outputs):
    badge = "[![Open In Colab](https://elsewhere/x.svg)](https://elsewhere)"
    executed(outputs / "notebooks", "00_start_here", f"# Start here\n{badge}\n\nzebra </script> $x^2$")
    executed(outputs / "notebooks", "02_1_complexity_bias", "# 2.1 Bias & more", "okapi")
    executed(outputs / "notebooks", "train_one", "# one run")
    index = book.bind_book("quick")
    pages = {p.name: p.read_text("utf-8") for p in index.parent.glob("*.html")}
    assert set(pages) == {"index.html", "00_start_here.html", "02_1_complexity_bias.html"}
    for text in pages.values():
        assert all((index.parent / link).is_file() for link in re.findall(r'(?:href|src)="([^"#]+)"', text))
        assert "elsewhere" not in text and text.count("</html>") == 1 and "2.1 Bias &amp; more</a>" in text
    script = (index.parent / "search.js").read_text("utf-8")
    found = json.loads(re.search(r"const PAGES = (.*);\n", script)[1])
    assert [p["file"] for p in found if "okapi" in p["text"]] == ["02_1_complexity_bias.html"]
    assert "</script" not in script.partition("\n")[0]


def test_the_front_page_is_the_scoreboard_of_claims(outputs):
    executed(outputs / "notebooks", "03_1_benchmark_images", "# 3.1 Benchmark images")
    manifest = {"notebook": "03_1_benchmark_images", "artefacts": ["tables/table_2.csv"], "captions": {}}
    (outputs / "notebooks" / "03_1_benchmark_images.json").write_text(json.dumps(manifest))
    front = book.bind_book("quick").read_text("utf-8")
    assert all(sentence in front for sentence in claims.printed().sentence.str.replace("'", "&#x27;"))
    assert '<a href="03_1_benchmark_images.html">3.1, Table 2</a>' in front, "a claim leads to its evidence"
    (outputs / "tables").mkdir()
    found = claims.evaluate("quick").head(1).assign(verdict="holds", effect="CIFAR-10 +9.9")
    found.to_csv(outputs / "tables" / "claims.csv", index=False)
    front = book.bind_book("quick").read_text("utf-8")
    assert "+9.9" in front and "holds</span> 1" in front, "the executed scoreboard counts, where there is one"


def test_a_notebook_that_was_not_executed_here_shows_what_its_run_left(outputs):
    """A fresh clone has figures, tables and manifests of the sample profile, and no executed notebooks."""
    manifest = {
        "notebook": "02_4_ood_scoring",
        "artefacts": ["tables/scores.csv"],
        "captions": {"tables/scores.csv": "giraffe"},
    }
    (outputs / "notebooks").mkdir(parents=True)
    (outputs / "tables").mkdir()
    (outputs / "tables/scores.csv").write_text("set,auroc\nSVHN,91.25\n")
    (outputs / "notebooks/02_4_ood_scoring.json").write_text(json.dumps(manifest))
    text = (book.bind_book("quick").parent / "02_4_ood_scoring.html").read_text("utf-8")
    assert "2.4 OOD scoring" in text and "giraffe" in text and "91.25" in text


def test_without_executed_notebooks_it_says_what_to_do(outputs):
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=quick"):
        book.bind_book("quick")


# --- in a real browser -------------------------------------------------------------------------------------


READ = """(async () => {
  const shown = e => e.getClientRects().length > 0;
  const images = [...document.querySelectorAll("img")];
  for (const i of images) { i.loading = "eager"; await i.decode().catch(() => {}); }
  return {
    width: Math.max(document.documentElement.scrollWidth, innerWidth),
    text: document.body.innerText.length,
    images: images.map(i => ({alt: i.alt, natural: i.naturalWidth, shown: shown(i) ? i.width : -1})),
    links: [...document.querySelectorAll("a[href]")].map(a => a.href),
    anchors: [...document.querySelectorAll("[id]")].map(e => e.id),
    small: [...document.querySelectorAll("p, td, li")].filter(shown)
      .filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).length,
  };
})()"""
SEARCH = """(words => { const field = document.getElementById("search"); field.value = words;
  field.dispatchEvent(new Event("input")); return document.getElementById("found").innerText; })(%s)"""


def reads_well(index, folder):
    """Every page at the width of a desk and of a phone: nothing complains, figures are there, links are alive."""
    pages = sorted(index.parent.glob("*.html"))
    with browser.opened(folder) as page:
        for width in (1280, 390):
            page.resize(width)
            for path in pages:
                page.go(path.as_uri())
                seen = page.js(READ)
                where = f"{path.name} at {width} px"
                assert not page.complaints, f"{where}: {page.complaints[:3]}"
                assert seen["width"] == width, f"{where} is {seen['width']} px wide"
                assert seen["text"] > 100 and not seen["small"], where
                assert all(
                    i["natural"] and i["shown"] > 0.5 * min(i["natural"], width) for i in seen["images"]
                ), where
                assert all(link.startswith("file:") for link in seen["links"]), (
                    f"{where}: nothing from elsewhere"
                )
                links = [(Path(unquote(urlsplit(a).path)), urlsplit(a).fragment) for a in seen["links"]]
                dead = [str(a) for a, _ in links if not a.is_file()]
                dead += [b for a, b in links if b and a == path and b not in seen["anchors"]]
                assert not dead, (where, dead)
            page.go(index.as_uri())
            assert page.js("document.querySelector('h1').innerText") == book.FRONT
            assert page.js("document.querySelector('.verdict').getBoundingClientRect().bottom") < 900
            assert page.js(SEARCH % "'qqqqxx'") == "nothing found"
        title = page.js("PAGES.at(-1).title")
        assert title in page.js(SEARCH % json.dumps(title)), "the search finds the last page by its title"
    return pages


needs_browser = pytest.mark.skipif(
    not browser.found(), reason="no Chromium: install one, or name it in FLOWOOD_BROWSER"
)


@needs_browser
def test_a_browser_reads_it_at_a_desk_and_on_a_phone(outputs, tmp_path):
    pytest.importorskip("websocket", reason="websocket-client comes with the extra [lab]")
    picture = BytesIO()
    Image.new("RGB", (900, 300), "blue").save(picture, "PNG")
    wide = "<table><tr>" + "<td>12.3 [10.1, 14.5]</td>" * 20 + "</tr></table>"
    executed(
        outputs / "notebooks", "02_1_complexity_bias", "# 2.1 Complexity", r"$$C(\mathbf x) = L / d \tag{1}$$",
        outputs=[{"image/png": b64encode(picture.getvalue()).decode()}, {"text/html": wide}],
    )  # fmt: skip
    assert len(reads_well(book.bind_book("quick"), tmp_path)) == 2


@needs_browser
@pytest.mark.skipif(
    not os.environ.get("FLOWOOD_BOOK"), reason="on demand: FLOWOOD_BOOK=sample reads that profile's book"
)
def test_a_browser_reads_the_book_of_a_profile(tmp_path, monkeypatch):
    profile = os.environ["FLOWOOD_BOOK"]
    (tmp_path / profile).mkdir()
    for entry in paths.profile_dir(profile).iterdir():
        if entry.name not in ("book", "report"):
            (tmp_path / profile / entry.name).symlink_to(entry)
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    assert len(reads_well(book.bind_book(profile), tmp_path)) > 2
