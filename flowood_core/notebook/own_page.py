"""The page a practitioner sends on: what a detector says of a folder of pictures, in one file that reads offline.

One sentence of verdict, one of advice, the threshold, the pictures to look at, the score of every file.
"""

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowood_core.notebook import figures, pages
from flowood_core.system.files import write_atomically

__all__ = [
    "Judged",
    "advice",
    "borderline",
    "draw_overview",
    "heat_of",
    "most_suspicious",
    "verdict",
    "write",
]

SHOWN = 10
FEW = 500  # training images; below, a flow on pixels has seen too little to be trusted far from them
HEAT = (
    "Beside each picture: which part of the score of the flow on pixels comes from where. The parts add up to that "
    "score. The brightest colour stands for what one place in a hundred of your held-out pictures reaches, and for all "
    "beyond. Bright is what the flow finds unlikely, which need not be a defect."
)
NO_HEAT = "This detector has no heat maps: its score does not come apart by place."
SCRIPT = """
for (const button of document.querySelectorAll("th[data-sort] button")) button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0], n = head.cellIndex;
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => { const text = row.cells[n].dataset.value ?? row.cells[n].textContent;
    return text !== "" && isFinite(text) ? Number(text) : text.toLowerCase(); };
  const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  [...body.rows].sort((a, b) => order(key(a), key(b)) * (down ? -1 : 1)).forEach(row => body.append(row));
});
"""


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a detector says of pictures.

    Attributes:
        files: one row per picture: image (its name), set, ood_score (higher = more OOD), complexity [bits/dim].
        gamma: the threshold of eq. (6), in the unit of the score; a score that reaches it is OOD.
        kept: share of held-out ID pictures below it.
        n_train: ID pictures trained on.
        picture: name -> uint8 (c, h, w) as the flow sees it.
        heat: name -> the same picture with a heat map laid over it, see `heat_of`; None where the model has none.
        unreadable: names of files that are no pictures.
        unit: of the score.
    """

    files: pd.DataFrame
    gamma: float
    kept: float
    n_train: int
    picture: Callable[[str], Any]
    heat: Callable[[str], Any] | None = None
    unreadable: Sequence[str] = ()
    unit: str = "nats"

    @property
    def flagged(self) -> pd.Series:
        """Which pictures reach the threshold."""
        return self.files["ood_score"] >= self.gamma


def most_suspicious(judged: Judged, n: int = SHOWN) -> pd.DataFrame:
    """The pictures with the highest scores, highest first."""
    return judged.files.sort_values("ood_score", ascending=False, kind="stable").head(n)


def borderline(judged: Judged, n: int = SHOWN) -> pd.DataFrame:
    """The pictures nearest to the threshold, on either side, highest score first."""
    distance = (judged.files["ood_score"] - judged.gamma).abs()
    nearest = distance.sort_values(kind="stable").head(n).index
    return judged.files.loc[nearest].sort_values("ood_score", ascending=False, kind="stable")


def heat_of(
    by_place: Callable[[Any], Any], picture: Callable[[str], Any], held: Any
) -> Callable[[str], Any] | None:
    """`Judged.heat`: which part of its score each place of a picture has.

    Args:
        by_place: pictures uint8 (n, c, h, w) to maps (n, h, w), higher = more OOD, as `explaining.by_place` makes
            them; None for a detector whose score does not come apart by place.
        picture: as in `Judged`.
        held: held-out ID pictures: the colours of all maps run from the 1 % to the 99 % quantile of theirs.
    Returns:
        None where there are no maps.
    """
    maps = by_place(held[:200])
    if maps is None:
        return None
    ends = figures.heat_ends([maps])

    def heat(name: str) -> Any:
        shown = picture(name)[None]
        return figures.heat_over(shown, by_place(shown), ends=ends)[0]

    return heat


def verdict(judged: Judged, sets: pd.DataFrame) -> str:
    """One sentence: how many are flagged, and which set is told best and worst.

    Args:
        judged: the pictures.
        sets: of `bias_report(...).frame`: one row per set with auroc in percent.
    """
    n, of = int(judged.flagged.sum()), len(judged.files)
    best, worst = sets.auroc.idxmax(), sets.auroc.idxmin()
    told = f"it tells “{best}” from your images with an AUROC of {sets.auroc[best]:.0f} %"
    if worst != best:
        told += f", “{worst}” with {sets.auroc[worst]:.0f} %"
    share = f"{n} of {of} pictures as out-of-distribution ({n / max(of, 1):.0%})"
    return f"The detector flags {share}; {told}, where 50 % is chance."


def advice(judged: Judged, sets: pd.DataFrame) -> str:
    """What to do next: which score, whether ID pictures are too few, whether a set is as near as ID itself.

    Args:
        judged, sets: as for `verdict`; `sets` also with complexity_only, auroc_low, auroc_high and eq5 (helps, harms).
    """
    helps, harms = (list(sets.index[sets.eq5 == word]) for word in ("helps", "harms"))
    beaten = list(sets.index[sets.complexity_only > sets.auroc_high])
    said = []
    if len(beaten) > len(sets) / 2:
        said.append(f"use complexity alone, without a flow: it does better on {_names(beaten)}")
    elif len(helps) > len(harms):
        said.append(f"score with the complexity term, eq. (5): it helps on {_names(helps)}")
    else:
        said.append("score with the flow’s likelihood as it is")
        if beaten:
            said.append(f"look at complexity too, which alone does better on {_names(beaten)}")
    if near := [name for name in sets.index if sets.auroc_high[name] < 50]:
        said.append(
            f"do not trust it on {_names(near)}, nearer to your training images than held-out ones are"
        )
    if unsure := [name for name in sets.index if sets.auroc_low[name] < 50 <= sets.auroc_high[name]]:
        said.append(f"take nothing from it on {_names(unsure)}, which it cannot tell from held-out images")
    if judged.n_train < FEW:
        said.append(f"collect more than these {judged.n_train} training images")
    sentence = "; ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _names(names: Sequence[str]) -> str:
    quoted = [f"“{n}”" for n in names[:3]]
    return ", ".join(quoted) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def draw_overview(samples: pd.DataFrame, sets: pd.DataFrame, *, is_narrow: bool = False) -> Any:
    """Complexity against log-likelihood, and the AUROC of every set beside that of complexity alone.

    The frame is that of the ID set: what lies below it is drawn at its edge and counted, and the line is that of the
    points inside it.

    Args:
        samples: set, complexity, log_px; the first set is ID.
        sets: as for `advice`, also with gap [bits/dim].
        is_narrow: one below the other, as a phone wants them.
    """
    names = list(dict.fromkeys(samples["set"]))
    palette = (figures.ORANGE, figures.GREEN, figures.PURPLE, figures.RED, figures.YELLOW, figures.BLACK)
    colours = dict(zip(names, (figures.BLUE, *palette, *["#777777"] * len(names)), strict=False))
    shape = {"rows": 2, "height": 7.6} if is_narrow else {"columns": 2, "height": 4.2}
    fig, (left, right) = figures.figure("single" if is_narrow else "wide", **shape)
    by_set = {n: part for n, part in samples.groupby("set", sort=False)}
    points = {n: (p.complexity.to_numpy(), p.log_px.to_numpy()) for n, p in by_set.items()}
    figures.draw_likelihoods(left, points, colours=colours)
    low, high = left.get_ylim()
    inside = samples[samples.log_px.between(low, high)]
    if inside.complexity.nunique() > 1:
        slope, start = np.polyfit(inside.complexity, inside.log_px, 1)
        ends = np.array([inside.complexity.min(), inside.complexity.max()])
        left.plot(
            ends, slope * ends + start, color="0.15", lw=1.6, label=f"line: {slope:+.0f} nats per bit/dim"
        )
    left.set(xlabel=r"complexity $C(\mathbf{x})$ [bits/dim]", ylabel=r"$\log p_{\mathcal{X}}(\mathbf{x})$ [nats]",
             ylim=(low, high))  # fmt: skip
    _draw_aurocs(right, sets, colours)
    figures.legend_below(left, size=8)
    return fig


def _draw_aurocs(ax: Any, sets: pd.DataFrame, colours: Mapping[str, str]) -> None:
    at = np.arange(len(sets))[::-1]
    for y, (name, row) in zip(at, sets.iterrows(), strict=True):
        reach = [[row.auroc - row.auroc_low], [row.auroc_high - row.auroc]]
        ax.errorbar(row.auroc, y, xerr=reach, fmt="o", ms=6, lw=1.4, color=colours.get(str(name), "#777777"))
    ax.scatter(sets.complexity_only, at, marker="x", color="0.35", zorder=3, label="complexity alone")
    ax.axvline(50, color="0.6", lw=0.8)
    ax.set(yticks=at, yticklabels=list(sets.index), xlim=(-3, 103), ylim=(-0.7, len(sets) - 0.3))
    ax.set_xlabel(r"AUROC of $-\log p_{\mathcal{X}}$ [%]; 50: chance")
    figures.legend_below(ax, size=8)


def write(
    path: Path, judged: Judged, stages: Mapping[str, tuple[str, pd.DataFrame, pd.DataFrame]], label: str = ""
) -> Path:
    """Write the page and return its path.

    Args:
        path: of the file; folders are made.
        judged: what the detector says.
        stages: title -> (verdict of the diagnosis, samples, sets), in order; the last is that of the detector.
        label: what the data and the model are.
    Raises:
        ValueError: no picture or no stage.
    """
    if not len(judged.files) or not stages:
        raise ValueError(
            f"expected pictures and a diagnosis, got {len(judged.files)} and {len(stages)}; run the cells above"
        )
    sets = list(stages.values())[-1][2]
    body = "".join(
        [
            f'<main><h1>What the detector says</h1><p class="note">{html.escape(label)}</p><div class="verdicts">',
            f"<p>{html.escape(verdict(judged, sets))}</p>",
            f"<p><strong>Advice.</strong> {html.escape(advice(judged, sets))}</p></div>",
            _threshold(judged),
            f'<p class="note">{HEAT if judged.heat else NO_HEAT}</p>',
            _pictures("The most suspicious pictures", most_suspicious(judged), judged),
            _pictures("The borderline pictures, nearest to the threshold", borderline(judged), judged),
            "<h2>The diagnosis</h2>", *[_stage(title, *of) for title, of in stages.items()],
            _table(judged), _unreadable(judged.unreadable), "</main>",
        ]
    )  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, pages.document("What the detector says", body, script=SCRIPT).encode())
    return path


def _threshold(judged: Judged) -> str:
    shares = judged.flagged.groupby(judged.files["set"], sort=False).agg(["sum", "count"])
    table = pd.DataFrame(
        {"set": shares.index, "flagged": shares["sum"], "of": shares["count"],
         "share": [f"{share:.0%}" for share in shares["sum"] / shares["count"]]}
    )  # fmt: skip
    level = f"{_number(judged.gamma)} {html.escape(judged.unit)}"
    return (
        f"<h2>The threshold</h2><p>A picture is flagged from a score of {level} on; "
        f"higher is more suspicious. It keeps {judged.kept:.1%} of held-out images of your own.</p>"
        f"{pages.shown_table(table, rows=None)}"
    )


def _pictures(title: str, shown: pd.DataFrame, judged: Judged) -> str:
    return f'<h2>{title}</h2><ol class="pictures">{"".join(_picture(r, judged) for r in shown.itertuples())}</ol>'


def _picture(row: Any, judged: Judged) -> str:
    name, is_ood = html.escape(str(row.image)), row.ood_score >= judged.gamma
    images = f'<img src="{pages.embedded(judged.picture(row.image))}" alt="{name}">'
    if judged.heat is not None:
        heat = f'<img src="{pages.embedded(judged.heat(row.image))}" alt="heat map of {name}">'
        images = f'<div class="two">{images}{heat}</div>'
    said = '<span class="ood">OOD</span>' if is_ood else "ID"
    return f"<li>{images}<br>{name}<br>{said} · score&nbsp;{_number(row.ood_score)} · C&nbsp;{row.complexity:.2f}</li>"


def _stage(title: str, said: str, samples: pd.DataFrame, sets: pd.DataFrame) -> str:
    figures.use_style()
    addresses = []
    for is_narrow in (False, True):
        fig = draw_overview(samples, sets, is_narrow=is_narrow)
        addresses.append(pages.embedded(fig))
        figures.plt.close(fig)  # a notebook shows what is left open
    alt = "complexity against log-likelihood, and AUROC of each set"
    heads = {
        "n": "pictures", "gap": "complexity against yours [bits/dim]", "auroc": "AUROC [%]", "auroc_low": "from",
        "auroc_high": "to", "complexity_only": "complexity alone [%]", "eq5": "eq. (5)",
    }  # fmt: skip
    table = sets[list(heads)].rename(columns=heads).reset_index(names="set")
    shown = table.map(lambda v: f"{v:.1f}" if isinstance(v, float) else v)
    return (
        f"<h3>{html.escape(title)}</h3><p>{html.escape(said)}</p>"
        f"<figure>{pages.picture(*addresses, alt)}</figure>"
        f"{pages.shown_table(shown, 'AUROC with 95 % interval', rows=None)}"
    )


def _table(judged: Judged) -> str:
    heads = {
        "image": "file",
        "set": "set",
        "ood_score": f"score [{judged.unit}]",
        "complexity": "complexity [bits/dim]",
    }
    top = "".join(
        f'<th data-sort scope="col"><button type="button">{html.escape(h)} ⇅</button></th>'
        for h in heads.values()
    )
    top += '<th data-sort scope="col"><button type="button">verdict ⇅</button></th>'
    rows = "".join(
        f"<tr><td>{html.escape(str(r.image))}</td><td data-holds=words>{html.escape(str(r.set))}</td>"
        f'<td data-value="{r.ood_score}">{_number(r.ood_score)}</td><td>{r.complexity:.3f}</td>'
        f"<td>{'OOD' if r.ood_score >= judged.gamma else 'ID'}</td></tr>"
        for r in most_suspicious(judged, len(judged.files)).itertuples()
    )
    return (
        f"<h2>All {len(judged.files)} pictures</h2><p class=note>A click on a head sorts.</p>"
        f'<div class="files"><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _unreadable(names: Sequence[str]) -> str:
    if not names:
        return '<p class="note">Every file could be read.</p>'
    listed = "".join(f"<li>{html.escape(n)}</li>" for n in names)
    return f"<h2>Could not be read: {len(names)}</h2><ul>{listed}</ul>"


def _number(score: float) -> str:
    """A score in as many digits as tell two apart: thousands of nats of a flow on pixels, a few of a joined one."""
    return f"{score:,.0f}" if abs(score) >= 1000 else f"{score:,.4g}"
