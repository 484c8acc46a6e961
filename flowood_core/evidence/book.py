"""The book: the scoreboard of claims and every executed notebook of a profile as one static site, readable offline.

``python -m flowood_core book quick`` writes ``outputs/<profile>/book/index.html``. No server, no address outside.
"""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from flowood_core.evidence import claims, page
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["bind_book"]

FRONT = "The paper's claims"
WORDS = {
    "holds": "yes",
    "holds partly": "partly",
    "does not hold": "no",
    "not run": "open",
}  # verdict: its colour
STYLE = """
@media (min-width: 70rem) { body { margin-left: 17rem; } #contents { position: fixed; left: 0; top: 0; bottom: 0;
  width: 15rem; overflow-y: auto; } }
@media (max-width: 70rem) { #contents { margin: -1rem -1rem 1rem; } }
#contents { padding: .8rem; background: #f6f6f6; font-size: .9rem; } #contents b { margin-right: .5rem; }
#contents a { display: block; margin: 0; padding: .2rem 0; white-space: normal; text-decoration: none; }
#contents a.here { font-weight: bold; color: #222; }
#contents input { box-sizing: border-box; width: 100%; margin: .4rem 0; padding: .3rem; font: inherit; }
#found { padding-left: 1rem; margin: 0; } #found small { color: #555; display: block; overflow-wrap: anywhere; }
.verdict { padding: .1rem .5rem; border-radius: .6rem; white-space: nowrap; font-size: .85rem; color: #222; }
.yes { background: #b3d4ea; } .partly { background: #d9ecf7; }
.no { background: #f7d79a; } .open { background: #e4e4e4; }
.claims, .claims tbody, .claims tr, .claims td { display: block; }
.claims tr { display: grid; grid-template-columns: 8rem 1fr; gap: .2rem 1rem; padding: .7rem 0;
  border-top: 1px solid #ddd; }
.claims td { border: 0; padding: 0; text-align: left; white-space: normal; font-size: 1rem; }
.claims p { margin: .2rem 0 0; font-size: .85rem; color: #555; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .claims tr { grid-template-columns: 1fr; } }
"""
SCRIPT = """
const field = document.getElementById("search"), found = document.getElementById("found");
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\\s+/).filter(w => w.length > 1);
  found.replaceChildren();
  if (!words.length) return;
  for (const p of PAGES) {
    const at = p.text.toLowerCase().indexOf(words[0]);
    if (!words.every(w => p.text.toLowerCase().includes(w))) continue;
    const [item, link, more] = ["li", "a", "small"].map(name => document.createElement(name));
    link.href = p.file; link.textContent = p.title;
    more.textContent = "… " + p.text.slice(Math.max(0, at - 40), at + 80) + " …";
    item.append(link, more); found.append(item);
  }
  if (!found.children.length) found.textContent = "nothing found";
});
// on a phone the page itself comes first, the list of pages when asked for
if (matchMedia("(max-width: 70rem)").matches) document.querySelector("#contents details").open = false;
"""


def bind_book(profile: str) -> Path:
    """Write the book of a profile and return its first page, the scoreboard of claims.

    A notebook whose results are here but not its executed copy, as in a fresh clone, is bound as text and code,
    with the figures and tables it left after them.

    Raises:
        FileNotFoundError: no notebook of this profile has been executed yet.
    """
    folder = paths.profile_dir(profile)
    executed = {p.stem: p for p in (folder / "notebooks").glob("*.ipynb") if p.stem != "train_one"}
    manifests = {p.stem: json.loads(p.read_text("utf-8")) for p in (folder / "notebooks").glob("*.json")}
    if not executed and not manifests:
        raise FileNotFoundError(
            f"expected executed notebooks in {folder / 'notebooks'}, found none; run `make reproduce PROFILE={profile}`"
        )
    out = folder / "book"
    shutil.rmtree(out, ignore_errors=True)
    (out / "files").mkdir(parents=True)
    sheets = {"index": (FRONT, _scoreboard(profile, manifests))}
    for name in sorted({*executed, *manifests}):
        title, body = (
            page.render(executed[name]) if name in executed else _unexecuted(manifests[name], folder, out)
        )
        sheets[name] = (title or name, body)
    pages = [{"file": f"{n}.html", "title": t, "text": _words(body)} for n, (t, body) in sheets.items()]
    # inside a script a closing tag in the text would end it
    index = json.dumps(pages, ensure_ascii=False).replace("<", "\\u003c")
    (out / "search.js").write_text(f"const PAGES = {index};\n{SCRIPT}", encoding="utf-8")
    titles = {name: title for name, (title, _) in sheets.items()}
    for name, (title, body) in sheets.items():
        whole = f'{_contents(titles, name, profile)}{body}<script src="search.js"></script>'
        text = page.document(f"{title} · flowood", whole, page.NOTEBOOK_STYLE + STYLE)
        write_atomically(out / f"{name}.html", text.encode())
    return out / "index.html"


# --- the front page ----------------------------------------------------------------------------------------


def _scoreboard(profile: str, manifests: dict[str, Any]) -> str:
    """Every claim with its verdict: those of notebook 05 where it has run, else computed now."""
    table = paths.profile_dir(profile) / "tables" / "claims.csv"
    found = pd.read_csv(table, keep_default_na=False) if table.is_file() else claims.evaluate(profile)
    counts = found["verdict"].value_counts()
    summary = " ".join(f"{_verdict(word)} {counts.get(word, 0)}" for word in WORDS)
    rows = "".join(
        f"<tr><td>{_verdict(c.verdict)}</td><td>{html.escape(c.sentence)}"
        f"<p>{_source(c.section, manifests)}{html.escape(_effect(c))}</p></td></tr>"
        for c in found.itertuples()
    )
    return (
        f"<h1>{FRONT}</h1><p>“Correcting the bias of normalizing flows by synthetic outliers for improving "
        "out-of-distribution detection”, claim by claim. Every verdict is computed from runs, none is typed.</p>"
        f'<p class="label">{html.escape(page.label(profile))}</p><p>{summary}</p>'
        f'<table class="claims">{rows}</table>'
        '<p class="note">Effects are signed: positive is what the paper says; mean, lowest and highest seed. '
        "<em>Holds</em>: in every part and seed. <em>Holds partly</em>: some part on average.</p>"
    )


def _verdict(word: str) -> str:
    return f'<span class="verdict {WORDS[word]}">{word}</span>'


def _effect(claim: Any) -> str:
    return f" · {claim.effect} [{claim.unit}]" if claim.effect else ""


def _source(section: str, manifests: dict[str, Any]) -> str:
    """Where the paper says it, as a link to the notebook that made that table or figure, if one did."""
    named = re.search(r"(Table|Fig)\D* (\d+)", section)
    stem = f"{named[1].lower()}_{named[2]}" if named else None
    home = next(
        (n for n, m in sorted(manifests.items()) if stem in {Path(a).stem for a in m["artefacts"]}), None
    )
    return f'<a href="{home}.html">{html.escape(section)}</a>' if home else html.escape(section)


# --- the other pages ---------------------------------------------------------------------------------------


def _unexecuted(manifest: dict[str, Any], folder: Path, out: Path) -> tuple[str, str]:
    """Text and code as committed, then what the executed notebook left."""
    name = manifest["notebook"]
    source = paths.repo_root() / "notebooks" / f"{name}.ipynb"
    title, body = page.render(source) if source.is_file() else (name, f"<h1>{name}</h1>")
    left = page.exhibits(manifest, folder, out)
    return title, f'{body}<h2 id="results">Figures and tables of this notebook</h2>{left}'


def _contents(titles: dict[str, str], here: str, profile: str) -> str:
    links = "".join(
        f'<a href="{name}.html"{" class=here" if name == here else ""}>{html.escape(title)}</a>'
        for name, title in titles.items()
    )
    field = '<input id="search" type="search" placeholder="search" aria-label="search"><ul id="found"></ul>'
    return (
        f'<nav id="contents" aria-label="contents"><b>flowood</b> {profile} profile{field}'
        f"<details open><summary>Contents</summary>{links}</details></nav>"
    )


def _words(body: str) -> str:
    """Visible text of a page, for the search."""
    text = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", body, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()[:60_000]
