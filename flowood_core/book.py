"""The book: every executed notebook of a profile as one static site with navigation and search, readable offline.

``python -m flowood_core.book quick`` writes ``outputs/<profile>/book/index.html``. No server, no address outside.
"""

import argparse
import html
import json
import re
import shutil
from pathlib import Path

from flowood_core import page, params, paths
from flowood_core.files import write_atomically

__all__ = ["bind_book"]

FRONT = ("05_scoreboard", "00_start_here")  # the scoreboard of claims opens the book, where it was executed
STYLE = """
@media (min-width: 70rem) { body { margin-left: 17rem; } #contents { position: fixed; left: 0; top: 0; bottom: 0;
  width: 15rem; overflow-y: auto; } }
#contents { padding: .8rem; background: #f6f6f6; font-size: .9rem; } #contents a { display: block; margin: .2rem 0;
  white-space: normal; } #contents a.here { font-weight: bold; color: #222; } #contents input { width: 95%; }
#found { padding-left: 1rem; } #found small { color: #555; display: block; }
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
"""


def bind_book(profile: str) -> Path:
    """Write the book of a profile and return its first page.

    Raises:
        FileNotFoundError: no notebook of this profile has been executed yet.
    """
    folder = paths.profile_dir(profile)
    executed = sorted(p for p in (folder / "notebooks").glob("*.ipynb") if p.stem != "train_one")
    if not executed:
        raise FileNotFoundError(
            f"expected executed notebooks in {folder / 'notebooks'}, found none; run `make reproduce PROFILE={profile}`"
        )
    out = folder / "book"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    titles = {p.stem: page._render(p, out / f"{p.stem}.html") or p.stem for p in executed}
    pages = [{"file": f"{n}.html", "title": t, "text": _words(out / f"{n}.html")} for n, t in titles.items()]
    # inside a script a closing tag in the text would end it
    index = json.dumps(pages, ensure_ascii=False).replace("<", "\\u003c")
    (out / "search.js").write_text(f"const PAGES = {index};\n{SCRIPT}", encoding="utf-8")
    for name in titles:
        path = out / f"{name}.html"
        text = path.read_text(encoding="utf-8").replace('<nav><a href="index.html">report</a></nav>', "")
        text = text.replace("</style>", f"{STYLE}</style>", 1).replace(
            "<body>", f"<body>{_contents(titles, name)}", 1
        )
        write_atomically(path, text.replace("</body>", '<script src="search.js"></script></body>').encode())
    first = next((name for name in FRONT if name in titles), next(iter(titles)))
    shutil.copy(out / f"{first}.html", out / "index.html")
    return out / "index.html"


def _contents(titles: dict[str, str], here: str) -> str:
    links = "".join(
        f'<a href="{name}.html"{" class=here" if name == here else ""}>{html.escape(title)}</a>'
        for name, title in titles.items()
    )
    field = '<input id="search" type="search" placeholder="search" aria-label="search"><ul id="found"></ul>'
    return f'<nav id="contents" aria-label="contents"><b>flowood</b>{field}{links}</nav>'


def _words(path: Path) -> str:
    """Visible text of a page, for the search."""
    text = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", path.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()[:60_000]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", nargs="?", default="quick", choices=params.profiles())
    print(bind_book(parser.parse_args().profile))


if __name__ == "__main__":
    main()
