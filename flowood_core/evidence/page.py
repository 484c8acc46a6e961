"""The report of a profile: one page with every figure and table, and each executed notebook beside it.

``python -m flowood_core report quick`` reads the manifests that notebooks left and writes
``outputs/<profile>/report/index.html``. Everything is relative and local: it reads offline.
"""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from flowood_core.runs import status
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["bind", "bind_status", "document", "exhibits", "label", "mathml", "render"]

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; color: #222; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
nav a { margin-right: 1rem; white-space: nowrap; } a { color: #0072B2; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; }
figcaption, .note { color: #555; font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { text-align: left; background: #f6f6f6; } td:first-child { text-align: left; }
td[data-holds] { text-align: left; } td[data-holds=long] { white-space: normal; min-width: 16rem; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
.label { background: #fff3d6; padding: .5rem .8rem; border-left: 4px solid #E69F00; }
"""
SHOWN_ROWS = 40
WIDGET = "application/vnd.jupyter.widget-view+json"


def bind(profile: str) -> Path:
    """Write the report of a profile and return its path.

    Raises:
        FileNotFoundError: no notebook of this profile has been executed yet.
    """
    folder = paths.profile_dir(profile)
    manifests = [json.loads(p.read_text()) for p in sorted((folder / "notebooks").glob("*.json"))]
    if not manifests:
        raise FileNotFoundError(
            f"expected manifests of executed notebooks in {folder / 'notebooks'}, found none; "
            f"run `make reproduce PROFILE={profile}`"
        )
    out = folder / "report"
    shutil.rmtree(out, ignore_errors=True)
    (out / "files").mkdir(parents=True)
    bind_status(profile)
    body = [_head(profile, manifests), *[_section(m, folder, out) for m in manifests], _runs(profile)]
    whole = document(f"flowood: {profile} profile", "\n".join(body))
    (out / "index.html").write_text(whole, encoding="utf-8")
    return out / "index.html"


def bind_status(profile: str) -> Path:
    """Write ``report/status.html``, where a grid stands now, and return its path; works while the grid runs."""
    path = paths.profile_dir(profile) / "report" / "status.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = '<nav><a href="index.html">report</a></nav>' if (path.parent / "index.html").exists() else ""
    body = f"<h1>flowood</h1>{report}{_runs(profile)}"
    write_atomically(path, document(f"flowood: {profile} profile, status", body).encode())
    return path


def label(profile: str) -> str:
    """What the numbers of a profile are worth, in a sentence."""
    return {
        "smoke": "Smoke profile: a test of the machinery; no number means anything.",
        "quick": "Quick profile: images embedded in installed packages, minutes on a CPU. It shows the bias and its "
        "cure on real photographs; its numbers are not comparable with the paper's.",
        "sample": "Sample profile: subsets of the paper's data and reduced epochs.",
    }.get(profile, "The paper's data and settings.")


def _head(profile: str, manifests: list[dict[str, Any]]) -> str:
    made = next((m["provenance"] for m in manifests if m.get("provenance")), {})
    machine = made.get("machine", {})
    facts = [
        f"commit {str(made.get('commit'))[:10]}{' (with local changes)' if made.get('dirty') else ''}",
        f"Python {made.get('python')}",
        *[f"{k} {v}" for k, v in made.get("packages", {}).items()],
        f"{machine.get('processor')}, {machine.get('cores')} cores" if machine else "",
        str(machine.get("gpu") or "no GPU"),
        f"notebooks took {sum(m['seconds'] for m in manifests):.0f} s",
    ]
    links = " ".join(f'<a href="#{m["notebook"]}">{m["notebook"]}</a>' for m in manifests)
    return (
        f"<h1>flowood</h1><p>Correcting the bias of normalizing flows by synthetic outliers: {profile} profile.</p>"
        f'<p class="label">{html.escape(label(profile))}</p><nav>{links} <a href="#runs">runs</a></nav>'
        f'<p class="note">{html.escape(" · ".join(f for f in facts if f))}</p>'
    )


def _section(manifest: dict[str, Any], folder: Path, out: Path) -> str:
    name = manifest["notebook"]
    parts = [f'<h2 id="{name}">{name}</h2>']
    executed = folder / "notebooks" / f"{name}.ipynb"
    if executed.exists():
        title, body = render(executed)
        back = '<nav><a href="index.html">report</a></nav>'
        (out / f"{name}.html").write_text(document(title, back + body, NOTEBOOK_STYLE), encoding="utf-8")
        parts = [f'<h2 id="{name}">{html.escape(title or name)}</h2>']
        parts.append(f'<p><a href="{name}.html">{name}, executed</a> · {manifest["seconds"]:.0f} s</p>')
    return "\n".join([*parts, exhibits(manifest, folder, out)])


def exhibits(manifest: dict[str, Any], folder: Path, out: Path) -> str:
    """The figures and tables a notebook left, copied below `out`, as HTML."""
    parts = []
    for artefact in manifest["artefacts"]:
        caption = html.escape(manifest["captions"].get(artefact, ""))
        source = folder / artefact
        target = out / "files" / f"{manifest['notebook']}-{source.name}"
        shutil.copy(source, target)
        link = f"files/{target.name}"
        if source.suffix == ".png":
            picture = f'<img src="{link}" alt="{caption}" loading="lazy">'
            parts.append(f"<figure>{picture}<figcaption>{source.stem}: {caption}</figcaption></figure>")
        else:
            parts.append(_table(source, caption, link))
    return "\n".join(parts)


def _table(source: Path, caption: str, link: str) -> str:
    frame = pd.read_csv(source)
    summary = f"{source.stem}: {caption} ({len(frame)} rows, <a href='{link}'>CSV</a>)"
    shown = frame.head(SHOWN_ROWS).to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format)
    shown = _words_apart(shown)
    more = f"<p class='note'>first {SHOWN_ROWS} of {len(frame)} rows</p>" if len(frame) > SHOWN_ROWS else ""
    opened = " open" if len(frame) <= 16 else ""
    return f"<details{opened}><summary>{summary}</summary><div class='scroll'>{shown}</div>{more}</details>"


def _runs(profile: str) -> str:
    return f'<h2 id="runs">Runs</h2><pre>{html.escape(status.describe(profile))}</pre>'


def render(executed: Path) -> tuple[str, str]:
    """Title and body of a notebook as HTML. Formulas become MathML, which needs no script."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(executed, as_version=4)
    # how the package gets onto another machine is nothing to read
    notebook.cells = [c for c in notebook.cells if "bootstrap" not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = mathml(_without_badge(cell.source))
        cell.outputs = [o for o in cell.get("outputs", []) if _is_still(o)]
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    title = next((re.sub(r"^#+\s*", "", c.source.splitlines()[0]) for c in notebook.cells if c.source), "")
    return title, _words_apart(body)


def _is_still(output: dict[str, Any]) -> bool:
    """Whether a page can show it: a slider needs a kernel, and the kernel's remark on its port is no result."""
    return WIDGET not in output.get("data", {}) and "TCP without encryption" not in output.get("text", "")


def _words_apart(body: str) -> str:
    """Cells of tables that hold words stand left, and long ones may break; numbers stay as they are."""

    def marked(match: re.Match[str]) -> str:
        text = match.group(2)
        kind = "long" if len(text) > 40 else "words" if text[:1].isalpha() else ""
        return f'<td{match.group(1)} data-holds="{kind}">{text}</td>' if kind else match.group(0)

    return re.sub(r"<td([^>]*)>([^<]*)</td>", marked, body)


def _without_badge(markdown: str) -> str:
    """A picture from elsewhere has no place on a page that reads offline."""
    return re.sub(r"^\[!\[Open In Colab\].*\n?", "", markdown, flags=re.MULTILINE)


def mathml(markdown: str) -> str:
    """Replace $…$ and $$…$$ outside code by MathML; what cannot be converted stays as it is."""
    from latex2mathml.converter import convert

    def replaced(match: re.Match[str]) -> str:
        display, inline = match.group(2), match.group(3)
        latex = display if display is not None else inline
        if latex is None:  # code
            return match.group(0)
        tag = re.search(r"\\tag\{(.*?)\}", latex)
        latex = re.sub(r"\\tag\{.*?\}", "", latex).replace(r"\lvert", "|").replace(r"\rvert", "|")
        # in braces the converter writes the letter of that alphabet, else a style that browsers pass over
        latex = re.sub(r"\\(mathcal|mathbf|mathbb) (\w)", r"\\\1{\2}", latex)
        try:
            made = convert(latex.strip(), display="block" if display is not None else "inline")
        except Exception:  # a formula the converter does not know reads better as LaTeX than not at all
            return match.group(0)
        made = re.sub(r"\s*\n\s*", "", made)
        return f'<span class="equation">{made}<span>({tag.group(1)})</span></span>' if tag else made

    return re.sub(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", replaced, markdown, flags=re.DOTALL)


NOTEBOOK_STYLE = """
.cell { margin: .8rem 0; } .highlight pre, .output_area pre { margin: 0; }
.output_text pre { background: none; border-left: 3px solid #ddd; padding: .2rem .8rem; white-space: pre-wrap; }
.output_subarea, .text_cell_render { overflow-x: auto; } .output_area img { max-width: 100%; height: auto; }
/* on a phone a wide figure is moved sideways in its box, rather than shrunk until nobody can read it */
@media (max-width: 40rem) { .output_area img { max-width: 36rem; } }
table { margin: .5rem 0; } thead th { white-space: normal; vertical-align: bottom; }
caption { text-align: left; color: #555; padding: .2rem 0; white-space: nowrap; }
.text_cell_render td { white-space: normal; min-width: 7rem; text-align: left; vertical-align: top; }
.equation { display: flex; align-items: center; } .equation math { flex: 1; }
blockquote { border-left: 3px solid #ccc; margin-left: 0; padding-left: 1rem; color: #555; }
.anchor-link { display: none; }
.highlight .k, .highlight .kn, .highlight .ow { color: #0072B2; } .highlight .s1, .highlight .s2, .highlight .sa,
.highlight .sd { color: #7a4a00; } .highlight .c1 { color: #666; font-style: italic; } .highlight .mi,
.highlight .mf { color: #009E73; }
"""


def document(title: str, body: str, style: str = "") -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>'
        f"<body>{body}</body></html>\n"
    )
