"""The site of a profile: a first page, every notebook with its figures in their places, search. Readable offline.

``python -m flowood_core site sample`` writes ``outputs/sample/site/``, which any static host serves as it is: no
server, no script but the search, no address outside. ``index.html`` also opens from the disk.
"""

import html
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from flowood_core import datasets
from flowood_core.evidence.site import front, render
from flowood_core.evidence.site.front import first_pair, label
from flowood_core.notebook import pages
from flowood_core.runs import Run, RunFolder
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["build", "build_status", "can_draw_first", "first_figure", "first_pair", "label"]

RELOAD = '<meta http-equiv="refresh" content="15">'
LOCK = ".site.lock"
KEPT = ".rendered"  # what a growing site need not make anew
THUMBNAILS = {  # where the first figure of a notebook is not its best
    "00_start_here": "start_bias_and_cure.png", "02_1_complexity_bias": "fig_5.png",
    "04_your_own_flow": "bias_after.png", "03_1_benchmark_images": "fig_3.png",
}  # fmt: skip


def build(profile: str, *, is_growing: bool = False) -> Path:
    """Write the site of a profile and return its first page.

    Args:
        profile: of the results.
        is_growing: while the grid goes on: what is not there yet is left out, the pages reload themselves, and
            there is no search; ``search.js`` is written last, by the whole site.
    Raises:
        FileNotFoundError: nothing of this profile was made yet.
    """
    out = paths.profile_dir(profile) / "site"
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out.parent / LOCK):  # the whole site waits for a growing one that is being written
        _build(profile, out, is_growing)
    return out / "index.html"


def _build(profile: str, out: Path, is_growing: bool) -> None:
    folder = out.parent
    _draw_first(profile, out / "files")
    manifests = {m["notebook"]: m for m in map(_read, sorted((folder / "notebooks").glob("*.json")))}
    if not manifests and not is_growing:
        raise FileNotFoundError(
            f"expected what notebooks left in {folder / 'notebooks'}, found nothing; "
            f"run `make reproduce PROFILE={profile}`"
        )
    for made in (out / "files", out / KEPT):
        made.mkdir(parents=True, exist_ok=True)
    if first_figure(profile).is_file():
        shutil.copy(first_figure(profile), out / "files" / front.FIGURE)
    sources = {p.stem: p for p in _notebooks(folder, manifests)}
    if is_growing and sources.keys() <= manifests.keys():
        return  # the whole site comes now, and must not be overwritten
    bodies = {name: _body(source, manifests.get(name), folder, out) for name, source in sources.items()
              if name in manifests}  # fmt: skip
    titles = {name: render.title_of(source) for name, source in sources.items()}
    cards = [_card(name, titles[name], sources[name], manifests.get(name), folder) for name in sources]
    everything = "".join(_left(m, titles.get(n, n), folder, out) for n, m in manifests.items())
    sheets = {"index": ("flowood", front.front(profile, cards, everything, list(manifests.values())))}
    sheets |= {name: (titles[name], body) for name, body in bodies.items()}
    for name, (title, body) in sheets.items():
        write_atomically(out / f"{name}.html", _page(profile, sheets, name, title, body, is_growing).encode())
    build_status(profile)
    _finish(out, sheets, is_growing)


def build_status(profile: str) -> Path:
    """Write ``site/status.html``, where a grid stands now, and return its path; works while the grid runs."""
    path = paths.profile_dir(profile) / "site" / "status.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    back = '<nav><a href="index.html">First page</a></nav>' if (path.parent / "index.html").exists() else ""
    title = f"<h1>Where profile {html.escape(profile)} stands</h1>"
    body = f"{back}<main>{title}{front.runs_section(profile, is_open=True)}</main>"
    write_atomically(path, pages.document(f"flowood: {profile} profile, status", body).encode())
    return path


# --- the first figure ----------------------------------------------------------------------------------------


def first_figure(profile: str) -> Path:
    """Where the first figure lies: the bias, before and after."""
    return paths.profile_dir(profile) / "figures" / front.FIGURE


def can_draw_first(profile: str) -> bool:
    """Whether its two runs are done."""
    pair = first_pair(profile)
    return len(pair) == 2 and all(RunFolder(s).is_done() for s in pair)


def _draw_first(profile: str, out: Path) -> None:
    """Draw it where notebook 00 has not yet, so that something can be seen before the grid has ended.

    Below `out` stands the same one panel below the other, for phones.
    """
    if not can_draw_first(profile):
        return
    if not first_figure(profile).is_file():
        _save_first(profile, first_figure(profile), {"columns": 2, "sharey": True})
    narrow, newest = (
        out / front.NARROW,
        max((s.folder / "metrics.json").stat().st_mtime for s in first_pair(profile)),
    )
    if not narrow.is_file() or narrow.stat().st_mtime < newest:
        _save_first(profile, narrow, {"kind": "single", "rows": 2})


def _save_first(profile: str, path: Path, shape: Mapping[str, Any]) -> None:
    from flowood_core.notebook import figures

    runs = [run for s in first_pair(profile) if (run := Run.read(s)) is not None]
    sets = [runs[0].spec.id, *runs[0].metrics["ood"]]
    figures.use_style()
    height = (1.2 + 0.3 * len(sets)) * shape.get("rows", 1)
    fig, axes = figures.figure(**{"kind": "wide", "height": height} | dict(shape))
    for run, ax, title in zip(runs, axes, ("maximum likelihood", "CCM+Gaussian outliers"), strict=True):
        values = {s: run.arrays[s]["log_px"] / 1000 for s in sets if s in run.arrays}
        figures.draw_boxes(ax, values, labels=datasets.LABELS)
        ax.set(xlabel=r"$\log p_{\mathcal{X}}(\mathbf{x})$ [1000 nats]", title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, metadata={"Software": None})
    figures.plt.close(fig)


# --- the pages -----------------------------------------------------------------------------------------------


def _notebooks(folder: Path, manifests: Mapping[str, Any]) -> list[Path]:
    """Every notebook of the project in reading order: executed where it has been, else as committed."""
    committed = {p.stem: p for p in (paths.repo_root() / "notebooks").glob("*.ipynb")}
    executed = {p.stem: p for p in (folder / "executed").glob("*.ipynb")}  # as committed; run here goes first
    executed |= {p.stem: p for p in (folder / "notebooks").glob("*.ipynb") if p.stem in manifests}
    names = sorted({*committed, *executed} - {"train_one"}, key=lambda n: (n.startswith("app"), n))
    return [executed.get(n) or committed[n] for n in names]


def _body(source: Path, manifest: Mapping[str, Any] | None, folder: Path, out: Path) -> str:
    """The rendered notebook; made once per version of its source."""
    kept, stamp = out / KEPT / f"{source.stem}.html", f"{source}{source.stat().st_mtime_ns}"
    if kept.is_file() and (text := kept.read_text(encoding="utf-8")).startswith(stamp + "\n"):
        return text[len(stamp) + 1 :]
    left = None
    if manifest is not None and source.parent != folder / "notebooks":
        left = {Path(a).stem: made for a, made in _exhibits(manifest, folder, out).items()}
    body = render.rendered(source, left)
    kept.write_text(f"{stamp}\n{body}", encoding="utf-8")
    return body


def _exhibits(manifest: Mapping[str, Any], folder: Path, out: Path) -> dict[str, str]:
    name, captions = manifest["notebook"], manifest["captions"]
    return {
        a: render.exhibit(folder / a, captions.get(a, ""), out, name)
        for a in manifest["artefacts"]
        if (folder / a).is_file()
    }


def _left(manifest: Mapping[str, Any], title: str, folder: Path, out: Path) -> str:
    made = _exhibits(manifest, folder, out)
    counts = [sum(a.endswith(end) for a in made) for end in (".png", ".csv")]
    said = ", ".join(
        f"{n} {w}{'s' * (n != 1)}" for n, w in zip(counts, ("figure", "table"), strict=True) if n
    )
    return (
        f'<details id="{manifest["notebook"]}"><summary><h3>{html.escape(title)}</h3> · {said}</summary>'
        f"{''.join(made.values())}</details>"
    )


def _card(name: str, title: str, source: Path, manifest: Mapping[str, Any] | None, folder: Path) -> str:
    sentence = f"<p>{html.escape(render.sentence_of(source))}</p>"
    if manifest is None:
        return f'<li class="card"><h3>{html.escape(title)}</h3>{sentence}<p class="note">not run yet</p></li>'
    shown = [a for a in manifest["artefacts"] if a.endswith(".png") and (folder / a).is_file()]
    best = next((a for a in shown if Path(a).name == THUMBNAILS.get(name)), shown[0] if shown else None)
    picture = f'<img src="files/{name}-{Path(best).name}" alt="" loading="lazy">' if best else ""
    return (
        f'<li class="card"><h3><a href="{name}.html">{html.escape(title)}</a></h3>{sentence}'
        f'<p class="note">ran in {manifest["seconds"]:.0f} s</p>{picture}</li>'
    )


def _page(
    profile: str, sheets: Mapping[str, tuple[str, str]], name: str, title: str, body: str, is_growing: bool
) -> str:
    whole = (
        f'<a class="skip" href="#page">to the page</a>{_contents(profile, sheets, name, is_growing)}'
        f'<main id="page">{body}</main>' + ("" if is_growing else '<script src="search.js"></script>')
    )
    return pages.document(
        f"{title} · flowood" if name != "index" else f"flowood: {profile} profile",
        whole, head=RELOAD if is_growing else "", kind="has-contents",
    )  # fmt: skip


def _contents(profile: str, sheets: Mapping[str, tuple[str, str]], here: str, is_growing: bool) -> str:
    links = "".join(
        f'<a href="{name}.html"{" aria-current=page" if name == here else ""}>{html.escape(title)}</a>'
        for name, (title, _) in [("index", ("First page", "")), *[(n, s) for n, s in sheets.items() if n != "index"]]
    )  # fmt: skip
    field = '<input id="search" type="search" placeholder="search" aria-label="search"><ul id="found"></ul>'
    growing = '<p class="note">The grid is still running; this page reloads itself.</p>'
    return (
        f'<nav id="contents" aria-label="contents"><b>flowood</b> · {html.escape(profile)} profile'
        f"{growing if is_growing else field}<details open><summary>Contents</summary>{links}</details></nav>"
    )


def _finish(out: Path, sheets: Mapping[str, tuple[str, str]], is_growing: bool) -> None:
    """The search, last: its file says that the site is whole. Pages of an earlier build go."""
    script = out / "search.js"
    if is_growing:
        script.unlink(missing_ok=True)
        return
    for page in out.glob("*.html"):
        if page.stem not in (*sheets, "status"):
            page.unlink()
    shutil.rmtree(out / KEPT)
    found = [{"file": f"{n}.html", "title": t, "text": _words(body)} for n, (t, body) in sheets.items()]
    # inside a script a closing tag in the text would end it
    index = json.dumps(found, ensure_ascii=False).replace("<", "\\u003c")
    source = Path(__file__).with_name("search.js").read_text(encoding="utf-8")
    write_atomically(script, f"const PAGES = {index};\n{source}".encode())


def _words(body: str) -> str:
    """Visible text of a page, for the search."""
    text = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", body, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()[:60_000]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
