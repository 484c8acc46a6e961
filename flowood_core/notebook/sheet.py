"""What one execution of a notebook leaves: figures, tables, and a note of how it was made; and how it shows them."""

import hashlib
import html
import inspect
import io
import json
import re
import textwrap
import time
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler
from PIL import Image as Picture

from flowood_core.notebook.labels import labelled
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["LABELS", "SAVED_DPI", "SCREEN_DPI", "Sheet", "show_source", "show_table"]

SCREEN_DPI, SAVED_DPI = 110, 160  # of a figure in the notebook, and in its file
UNSEEN = 0.1  # levels of 255 by which fewer colours may move a figure, in the mean

LABELS = {
    "smoke": "smoke profile: a test of the machinery, no number means anything",
    "quick": "quick profile: embedded data, not comparable with the paper's numbers",
    "sample": "sample profile: real subsets and few epochs, not the paper's training",
}

UNPRINTED = ("quick", "smoke")  # profiles of embedded data: a page shows their figures, no paper prints them


class Sheet:
    """What one execution of a notebook leaves: figures, tables, and a manifest written last.

    The folder is ``outputs/<profile>/``; the manifest ``notebooks/<notebook>.json`` names every artefact and
    is what a grid waits for.
    """

    def __init__(self, notebook: str, params: dict[str, Any], label: str | None = None):
        self.notebook, self.params, self._label = notebook, params, label
        self.folder = paths.profile_dir(params["profile"])
        self.began = time.monotonic()
        self.artefacts: list[str] = []
        self.captions: dict[str, str] = {}

    @property
    def label(self) -> str:
        """What has to stand beside every number that is not the paper's setting."""
        profile = self.params["profile"]
        return self._label or LABELS.get(profile, f"{profile} profile")

    def save_figure(self, fig: Any, name: str, caption: str = "", *, label: str | None = None) -> None:
        """Save under ``figures/``, byte-stable, and leave it displayed: as PNG, and as PDF where it may be printed.

        `label` replaces that of the sheet below this figure; "" where no number depends on a training.
        """
        label = self.label if label is None else label
        fig.text(0.995, -0.01, label, ha="right", va="top", fontsize=6, color="0.45")
        kinds = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}
        for suffix in kinds if self.params["profile"] not in UNPRINTED else [".png"]:
            path = self._path("figures", name + suffix)
            buffer = io.BytesIO()
            fig.savefig(buffer, format=suffix[1:], metadata=kinds[suffix])
            # laid out once: it is drawn up to twice more, here and by the notebook
            fig.set_layout_engine("none")
            write_atomically(path, _small(buffer) if suffix == ".png" else buffer.getvalue())
            if suffix == ".png":
                self._note(path, caption)

    def save_table(self, frame: pd.DataFrame, name: str, caption: str = "", index: bool = False) -> None:
        """Save as CSV under ``tables/``; a column ``measured`` (of `tables.collect`) holds runs and stays behind."""
        path = self._path("tables", f"{name}.csv")
        text = frame.drop(columns="measured", errors="ignore").to_csv(
            index=index, float_format="%.6g", lineterminator="\n"
        )
        write_atomically(path, text.encode())
        self._note(path, caption)

    def table(
        self,
        frame: pd.DataFrame,
        name: str,
        caption: str = "",
        *,
        formats: Mapping[str, str] | str = "{:.1f}",
    ) -> None:
        """Show a table with printed names, save it with ids, under one caption; an index that has names is saved."""
        self.save_table(frame, name, caption, index=any(n is not None for n in frame.index.names))
        show_table(labelled(frame.drop(columns="measured", errors="ignore")), caption, formats)

    def keep(self, name: str, caption: str, why: str) -> bool:
        """A figure or table that cannot be made here stays as an earlier run left it, and is shown with the reason.

        Args:
            name: below the folder of the profile, such as "figures/fig_9.png" or "tables/table_9.csv".
        Returns:
            Whether it is there. Where it is not, only the reason is printed.
        """
        path = self.folder / name
        print(f"{why} {'What an earlier run left is shown.' if path.is_file() else 'Nothing is shown.'}")
        if path.is_file():
            self._note(path, caption)
            _show_kept(path, caption)
        return path.is_file()

    def finish(self, **facts: Any) -> None:
        """Write the manifest: parameters, artefacts with captions, seconds, and what the notebook adds."""
        manifest = {
            "notebook": self.notebook,
            "params": self.params,
            "artefacts": self.artefacts,
            "captions": self.captions,
            "seconds": round(time.monotonic() - self.began, 1),
            **facts,
        }
        path = self._path("notebooks", f"{self.notebook}.json")
        write_atomically(path, json.dumps(manifest, indent=1, default=str).encode())
        print(f"{len(self.artefacts)} artefacts below {self.folder}, {manifest['seconds']} s:")
        for name in self.artefacts:
            print(" ", name)

    def _note(self, path: Path, caption: str) -> None:
        name = path.relative_to(self.folder).as_posix()
        if name not in self.artefacts:
            self.artefacts.append(name)
        self.captions[name] = caption

    def _path(self, kind: str, name: str) -> Path:
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


def _small(png: io.BytesIO) -> bytes:
    """A figure in 256 colours, a third of the bytes, where nobody can see it: photographs stay as they are."""
    whole = Picture.open(png)
    if whole.mode != "RGBA" or whole.getchannel("A").getextrema()[0] < 255:
        return png.getvalue()
    few, found = whole.convert("RGB").quantize(256, dither=Picture.Dither.NONE), io.BytesIO()
    change = np.asarray(few.convert("RGB"), np.int16) - np.asarray(whole.convert("RGB"), np.int16)
    if np.abs(change).mean() > UNSEEN:
        return png.getvalue()
    few.save(found, "PNG", optimize=True, dpi=whole.info.get("dpi"))
    return found.getvalue()


def _show_kept(path: Path, caption: str) -> None:
    from IPython.display import Image, display

    if path.suffix == ".csv":
        show_table(pd.read_csv(path), caption, "{:.4g}", folded=True)
    else:
        display(Image(data=_for_screen(path)))


def _for_screen(path: Path) -> bytes:
    """A saved figure at the resolution of one that is drawn anew, so that a notebook which keeps it is no larger."""
    shrink, small = SCREEN_DPI / SAVED_DPI, io.BytesIO()
    with Picture.open(path) as whole:
        size = tuple(round(side * shrink) for side in whole.size)
        whole.convert("RGB").resize(size, Picture.Resampling.LANCZOS).save(small, "PNG", optimize=True)
    return small.getvalue()


def show_source(function: Callable[..., Any], *, doc: bool = False) -> None:
    """Show the code of a function in the page, instead of restating it; the docstring stays out unless asked."""
    from IPython.display import Markdown, display

    source = textwrap.dedent(inspect.getsource(function))
    if not doc and function.__doc__:
        head, _, rest = source.partition('"""')
        _, _, body = rest.partition('"""')
        source = head.rstrip() + body if head.strip().endswith(":") else source
    display(Markdown(f"```python\n{source.strip()}\n```"))


def show_table(
    frame: pd.DataFrame,
    caption: str = "",
    formats: Mapping[str, str] | str = "{:.1f}",
    *,
    best: str | pd.DataFrame | None = None,
    folded: bool = False,
) -> None:
    """Show a frame with numbers formatted and missing cells as an en dash.

    Args:
        best: "highest" or "lowest" sets the best number of each column in bold; a text cell counts by the number it
            begins with, "83.2 [80.1, 86.0]" as 83.2. Columns without numbers have none. A frame of the same shape
            says cell by cell what is bold, where the best is not that of a column.
        folded: only the caption is seen until the reader opens it; for what stands behind a deciding table.
    """
    from IPython.display import HTML, display

    if isinstance(formats, str):
        one = formats
        # text cells stay as they are: a table may mix numbers with "83.2 [80.1, 86.0]"
        shown: Any = lambda v: v if isinstance(v, str) else one.format(v)  # noqa: E731
    else:
        shown = dict(formats)
    # named by what it shows: a notebook that is run again has the same page
    name = hashlib.sha256(f"{caption}{frame.to_csv()}".encode()).hexdigest()[:8]
    styler = Styler(frame, uuid=name, cell_ids=False).format(shown, na_rep="–")
    styler = styler.set_table_attributes('class="flowood"')
    if best is not None:
        styler = styler.apply(lambda _: _bold(frame, best), axis=None)
    if caption and not folded:
        styler = styler.set_caption(html.escape(caption))
    made = styler.to_html()
    if folded:
        made = f"<details><summary>{html.escape(caption)}</summary>{made}</details>"
    display(HTML(made))


def _bold(frame: pd.DataFrame, best: str | pd.DataFrame) -> pd.DataFrame:
    """The style of every cell: the best of each column in bold, ties all of them."""
    if isinstance(best, pd.DataFrame):
        return best.replace({True: "font-weight: bold", False: ""})
    if best not in ("highest", "lowest"):
        raise ValueError(f"expected best to be 'highest' or 'lowest', got {best!r}")
    values = frame.map(_number)
    wanted = values.max() if best == "highest" else values.min()
    return (values == wanted).replace({True: "font-weight: bold", False: ""})


def _number(cell: object) -> float:
    """A number, or the one that a text begins with; nan where there is none."""
    found = _LEADING.match(cell) if isinstance(cell, str) else None
    if isinstance(cell, str):
        return float(found[0].replace("−", "-")) if found else float("nan")
    return float(cell) if isinstance(cell, Real) else float("nan")


_LEADING = re.compile(r"[+\-−]?\d+(\.\d+)?")
