"""Pages of HTML that read offline: one style, tables with captions, figures as files or inside the page.

A page is one string without addresses elsewhere. It is read at a desk, on a phone, in the dark, on paper and aloud.
"""

import base64
import functools
import html
import importlib.resources
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["document", "embedded", "picture", "shown_table", "style", "words_apart"]

SHOWN_ROWS = 40
NOT_RUN = "not run"
# closed sections are printed too, and pictures nobody has scrolled to
SCRIPT = """addEventListener("beforeprint", () => { document.querySelectorAll("details").forEach(d => d.open = true);
  document.querySelectorAll("img").forEach(i => i.loading = "eager"); });"""


@functools.cache
def style() -> str:
    """The style sheet of every page."""
    return (importlib.resources.files("flowood_core.notebook") / "page.css").read_text(encoding="utf-8")


def document(title: str, body: str, *, head: str = "", kind: str = "", script: str = "") -> str:
    """A whole page: `body` between a title, the style and the scripts; `kind` is the class of the body."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}<style>{style()}</style></head>'
        f'<body class="{kind}">{body}<script>{SCRIPT}{script}</script></body></html>\n'
    )


def embedded(picture: Any) -> str:
    """A matplotlib figure or an array uint8 (c, h, w) as the address of a PNG inside the page."""
    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(buffer, format="png", metadata={"Software": None})
    else:
        from PIL import Image

        pixels = np.asarray(picture).transpose(1, 2, 0)
        Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(wide: str, narrow: str | None, alt: str) -> str:
    """A figure by its address; `narrow` is the same drawn for a phone, one panel below the other."""
    source = f'<source media="(max-width: 40rem)" srcset="{narrow}">' if narrow else ""
    return f'<picture>{source}<img src="{wide}" alt="{html.escape(alt)}"></picture>'


def shown_table(frame: pd.DataFrame, caption: str = "", *, rows: int | None = SHOWN_ROWS) -> str:
    """A frame as a table with a caption; rows that nobody ran become one line below it.

    Args:
        frame: read from CSV; its index is not shown.
        caption: HTML.
        rows: at most so many are shown, and the rest is counted; None: all.
    """
    empty = _not_run(frame)
    whole, left = frame[~empty], frame[empty]
    made = whole.head(rows or len(whole)).to_html(
        index=False, border=0, na_rep="", float_format="{:.4g}".format
    )
    made = made.replace("<thead>", f"<caption>{caption}</caption><thead>", 1) if caption else made
    notes = [f"First {rows} of {len(whole)} rows."] if rows and len(whole) > rows else []
    if len(left):
        names = list(dict.fromkeys(" ".join(_words_of(row)) for row in left.itertuples(index=False)))
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        notes.append(f"Not run under this profile: {html.escape(', '.join(names[:12]))}{more}.")
    below = "".join(f'<p class="note">{n}</p>' for n in notes)
    return (f'<div class="scroll">{words_apart(made)}</div>' if len(whole) else "") + below


def _not_run(frame: pd.DataFrame) -> pd.Series:
    """Rows that say so, or whose every number of ours is missing beside one of the paper's."""
    says = frame.apply(lambda row: any(isinstance(v, str) and v == NOT_RUN for v in row), axis=1)
    numbers = frame.select_dtypes("number")
    printed = [c for c in numbers if re.match(r"paper|printed|best", str(c))]
    ours = numbers.drop(columns=printed)
    nothing = (
        ours.isna().all(axis=1) if len(ours.columns) and printed else pd.Series(False, index=frame.index)
    )
    return (says.astype(bool) if len(frame) else nothing) | nothing


def _words_of(row: Sequence[Any]) -> list[str]:
    words = [str(v) for v in row if isinstance(v, str) and v != NOT_RUN]
    return words[:3] or [str(row[0])]


def words_apart(body: str) -> str:
    """Cells of tables that hold words stand left, and long ones may break; numbers stay as they are."""

    def marked(match: re.Match[str]) -> str:
        text = match.group(2)
        kind = "long" if len(text) > 40 else "words" if text[:1].isalpha() else ""
        return f'<td{match.group(1)} data-holds="{kind}">{text}</td>' if kind else match.group(0)

    return re.sub(r"<td([^>]*)>([^<]*)</td>", marked, body)
