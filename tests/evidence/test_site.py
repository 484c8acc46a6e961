"""Laws of the site: the claim first, every page, links that are alive, a search, read in a browser."""

import html
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
import torch
from nbformat import v4
from PIL import Image

from flowood_core import runs
from flowood_core.__main__ import main
from flowood_core.evidence import claims, site
from flowood_core.evidence.site import front, render
from flowood_core.runs import grid
from flowood_core.system import paths, profiles


def executed(folder, name, *texts, outputs=()):
    cells = [v4.new_markdown_cell(t) for t in texts]
    cells.append(v4.new_code_cell("1 + 1", outputs=[v4.new_output("execute_result", {"text/plain": "2"})]))
    cells += [
        v4.new_code_cell("x = " + "1" * 300, outputs=[v4.new_output("display_data", o)]) for o in outputs
    ]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), folder / f"{name}.ipynb")


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    return tmp_path / "quick"


def left(outputs, name, seconds=1.0, **captions):
    """A manifest, as a finished notebook leaves it, of artefacts with captions."""
    artefacts = {
        f"tables/{stem}.csv" if "table" in stem else f"figures/{stem}.png": c for stem, c in captions.items()
    }
    manifest = {"notebook": name, "artefacts": list(artefacts), "captions": artefacts, "seconds": seconds}
    for kind in ("notebooks", "tables", "figures"):
        (outputs / kind).mkdir(parents=True, exist_ok=True)
    (outputs / "notebooks" / f"{name}.json").write_text(json.dumps(manifest))


def test_a_site_binds_what_was_executed(outputs):
    badge = "[![Open In Colab](https://elsewhere/x.svg)](https://elsewhere)"
    executed(outputs / "notebooks", "00_start_here", f"# Start here\n{badge}\n\nzebra </script> $x^2$")
    executed(outputs / "notebooks", "02_1_complexity_bias", "# 2.1 Bias & more", "okapi")
    left(outputs, "00_start_here")
    left(outputs, "02_1_complexity_bias")
    index = site.build("quick")
    pages = {p.name: p.read_text("utf-8") for p in index.parent.glob("*.html")}
    assert set(pages) == {"index.html", "status.html", "00_start_here.html", "02_1_complexity_bias.html"}
    for text in pages.values():
        assert all((index.parent / link).is_file() for link in re.findall(r'(?:href|src)="([^"#]+)"', text))
        assert "elsewhere" not in text and text.count("</html>") == 1
    assert "2.1 Bias &amp; more</a>" in pages["00_start_here.html"]
    script = (index.parent / "search.js").read_text("utf-8")
    found = json.loads(re.search(r"const PAGES = (.*);\n", script)[1])
    assert [p["file"] for p in found if "okapi" in p["text"]] == ["02_1_complexity_bias.html"]
    assert "</script" not in script.partition("\n")[0]


def test_a_claim_leads_to_its_evidence_and_the_executed_scoreboard_counts(outputs):
    left(outputs, "03_1_benchmark_images", table_2="AUROC")
    (outputs / "tables" / "table_2.csv").write_text("ood,auroc\nSVHN,91.25\n")
    listed = claims.printed().assign(verdict="not run", effect="")
    listed.loc[0, ["verdict", "effect"]] = ["holds", "CIFAR-10 +9.9"]
    listed.to_csv(outputs / "tables" / "claims.csv", index=False)
    front = site.build("quick").read_text("utf-8")
    assert all(html.escape(sentence) in front for sentence in listed.sentence)
    assert '<a href="03_1_benchmark_images.html">3.1, Table 2</a>' in front
    assert "+9.9" in front and "holds</span> 1" in front


def test_a_notebook_that_was_not_executed_here_shows_what_its_run_left_where_it_was_made(outputs):
    """A fresh clone has figures, tables and manifests of the sample profile, and perhaps no executed notebooks."""
    left(outputs, "02_4_ood_scoring", scores="giraffe", table_nobody_names="okapi")
    (outputs / "tables/table_nobody_names.csv").write_text("set,auroc\nSVHN,91.25\n")
    Image.new("RGB", (9, 9), "blue").save(outputs / "figures/scores.png")
    text = (site.build("quick").parent / "02_4_ood_scoring.html").read_text("utf-8")
    assert (
        text.index("save_figure")
        < text.index("giraffe</figcaption>")
        < text.index("Also made by this notebook")
    )
    assert "91.25" in text.split("Also made by this notebook")[1]


def test_rows_that_nobody_ran_become_one_line(outputs):
    left(outputs, "app_c_mvtec", table_10="AUROC of MVTec")
    rows = "set,paper,ours,verdict\nbottle,99.1,98.7,holds\n" + "".join(
        f"set{k},90,,not run\n" for k in range(9)
    )
    (outputs / "tables/table_10.csv").write_text(rows)
    text = site.build("quick").read_text("utf-8")
    table = text.split("AUROC of MVTec")[-1]
    assert "<td" in table and table.count("<tr") == 2 and "Not run under this profile: set0, set1" in table


def test_a_growing_site_reloads_itself_and_the_whole_one_does_not(outputs):
    growing = site.build("quick", is_growing=True)
    text = growing.read_text("utf-8")
    assert 'http-equiv="refresh"' in text and "not run yet" in text and "search.js" not in text
    left(outputs, "02_4_ood_scoring")
    site.build("quick", is_growing=True)
    assert not (growing.parent / "search.js").exists(), "it is what the grid waits for"
    text = site.build("quick").read_text("utf-8")
    assert "refresh" not in text and (growing.parent / "search.js").is_file()
    assert not [p for p in growing.parent.iterdir() if p.name.startswith(".")]


def test_a_growing_site_that_comes_too_late_does_not_undo_the_whole_one(outputs):
    for source in (paths.repo_root() / "notebooks").glob("*.ipynb"):
        left(outputs, source.stem)
    index = site.build("quick")
    whole = index.read_bytes()
    site.build("quick", is_growing=True)
    assert index.read_bytes() == whole and (index.parent / "search.js").is_file()


def test_without_executed_notebooks_it_says_what_to_do(outputs, capsys):
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=quick"):
        site.build("quick")
    assert main(["site", "quick"]) == 1 and "make reproduce PROFILE=quick" in capsys.readouterr().err


def test_the_status_page_can_be_written_before_anything_has_run(outputs):
    text = site.build_status("smoke").read_text()
    assert f"{len(grid.by_run_id('smoke'))} waiting" in text and "index.html" not in text


def test_the_first_figure_comes_with_the_first_two_runs(outputs):
    assert not site.can_draw_first("smoke")
    pair = site.first_pair("smoke")
    assert [s.method for s in pair] == ["mle", "ccm_gaussian"] and {s.seed for s in pair} == {0}
    torch.set_num_threads(1)
    for spec in pair:
        runs.run_or_load(spec)
    assert site.can_draw_first("smoke")
    text = site.build("smoke", is_growing=True).read_text("utf-8")
    assert site.first_figure("smoke").is_file()
    assert "files/start_bias_and_cure.png" in text and "The paper, Table 2" in text and "44.3" in text
    narrow = site.first_figure("smoke").parents[1] / "site" / "files" / front.NARROW
    with Image.open(narrow) as phone, Image.open(site.first_figure("smoke")) as desk:
        assert phone.width < desk.width and phone.height > phone.width, "panels stand below one another"
    assert f'srcset="files/{front.NARROW}"' in text


@pytest.mark.parametrize("profile", profiles.profiles())
def test_every_profile_has_a_first_figure(profile):
    assert len(site.first_pair(profile)) == 2 and site.label(profile)


@pytest.mark.parametrize(
    ("latex", "wanted"),
    [
        ("$a$", "<math"),
        (r"$$\frac{1}{2} \tag{3}$$", "(3)"),
        ("`$a$`", "`$a$`"),
        ("5 $ and no formula", "5 $ and"),
    ],
)
def test_formulas_become_mathml_and_code_stays(latex, wanted):
    assert wanted in render.mathml(latex)


# --- in a real browser -------------------------------------------------------------------------------------


READ = """(async () => {
  const shown = e => e.getClientRects().length > 0;
  document.querySelectorAll("main details").forEach(d => d.open = true);
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
                    i["natural"] and i["shown"] > 0.15 * min(i["natural"], width) for i in seen["images"]
                ), where
                assert all(link.startswith("file:") for link in seen["links"]), (
                    f"{where}: nothing from elsewhere"
                )
                links = [(Path(unquote(urlsplit(a).path)), urlsplit(a).fragment) for a in seen["links"]]
                dead = [str(a) for a, _ in links if not a.is_file()]
                dead += [b for a, b in links if b and a == path and b not in seen["anchors"]]
                assert not dead, (where, dead)
            page.go(index.as_uri())
            assert page.js("document.querySelector('h1').innerText") == front.TITLE
            assert page.js("document.querySelector('.claim').getBoundingClientRect().bottom") < 900
            assert page.js(
                "[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1]).every("
                "(level, k, all) => level <= (k ? all[k - 1] : 0) + 1)"
            ), "no level of headings is skipped"
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
    left(outputs, "02_1_complexity_bias")
    assert len(reads_well(site.build("quick"), tmp_path)) == 3


@needs_browser
@pytest.mark.skipif(
    not os.environ.get("FLOWOOD_SITE"), reason="on demand: FLOWOOD_SITE=sample reads that profile's site"
)
def test_a_browser_reads_the_site_of_a_profile(tmp_path, monkeypatch):
    profile = os.environ["FLOWOOD_SITE"]
    (tmp_path / profile).mkdir()
    for entry in paths.profile_dir(profile).iterdir():
        if entry.name != "site":
            (tmp_path / profile / entry.name).symlink_to(entry)
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    assert len(reads_well(site.build(profile), tmp_path)) > 2
