"""Figures: arrays and an axis in, the axis out.

The only room that knows matplotlib. `sheet` has what a notebook shows and leaves beside them, offered here too.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowood_core.notebook.bias_figures import (
    METHOD_COLOURS,
    SET_COLOURS,
    colour_of,
    colours_of,
    draw_battery,
    draw_bias,
    draw_complexity_vs_likelihood,
    draw_complexity_vs_radius,
    draw_epochs,
    draw_lengths,
    draw_levels,
    draw_likelihoods,
    draw_ridges,
    draw_scatter,
    draw_sides,
)
from flowood_core.notebook.labels import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, YELLOW, labelled
from flowood_core.notebook.reading import read
from flowood_core.notebook.sheet import LABELS, SAVED_DPI, SCREEN_DPI, Sheet, show_source, show_table

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "LABELS",
    "METHOD_COLOURS",
    "ORANGE",
    "PURPLE",
    "RED",
    "SET_COLOURS",
    "SKY",
    "YELLOW",
    "Sheet",
    "colour_of",
    "colours_of",
    "draw_battery",
    "draw_bias",
    "draw_boxes",
    "draw_complexity_vs_likelihood",
    "draw_complexity_vs_radius",
    "draw_counts",
    "draw_curve",
    "draw_density",
    "draw_differences",
    "draw_epochs",
    "draw_gallery",
    "draw_heat",
    "draw_heat_rows",
    "draw_histograms",
    "draw_lengths",
    "draw_levels",
    "draw_likelihoods",
    "draw_ridges",
    "draw_scatter",
    "draw_score",
    "draw_sides",
    "draw_signs",
    "figure",
    "heat_bar",
    "heat_ends",
    "heat_over",
    "legend_below",
    "read",
    "second_axis",
    "show_figure",
    "show_source",
    "show_table",
    "start",
]

SIZES = {"single": (4.6, 3.2), "wide": (9.2, 3.2), "tall": (9.2, 6.0), "square": (4.2, 4.2)}


def start(notebook: str, params: Any, *, label: str | None = None) -> "Sheet":
    """Open the notebook's sheet: sets the plotting style and starts the clock.

    Args:
        notebook: file name without suffix.
        params: what `flowood_core.notebook.params.check` returned; its `profile` chooses the folder.
        label: stands below every figure; None says what the profile says (`LABELS`).
    """
    use_style()
    return Sheet(notebook, params.asdict(), label)


def use_style() -> None:
    """One look for all figures: white, light grid, 9 pt, no box."""
    sns.set_theme(context="notebook", style="whitegrid", font_scale=0.85)
    mpl.rcParams.update(
        {"figure.dpi": SCREEN_DPI, "savefig.dpi": SAVED_DPI, "savefig.bbox": "tight", "axes.spines.top": False,
         "axes.spines.right": False, "axes.titlesize": "medium", "grid.linewidth": 0.5, "legend.frameon": False}
    )  # fmt: skip


def figure(
    kind: str = "single", *, rows: int = 1, columns: int = 1, height: float | None = None, **options: Any
) -> tuple[Figure, Any]:
    """A figure of a house size (`SIZES`) and its axis or array of axes, laid out without overlaps.

    `height` in inches replaces that of the size, for galleries with few or many rows.
    """
    if kind not in SIZES:
        raise ValueError(f"expected a figure kind of {', '.join(SIZES)}, got {kind!r}")
    width, usual = SIZES[kind]
    return plt.subplots(rows, columns, figsize=(width, height or usual), layout="constrained", **options)


def show_figure(fig: Figure) -> None:
    """Show a figure now, inside a cell or below a slider, and close it."""
    from IPython.display import display

    display(fig)
    plt.close(fig)


def legend_below(ax: Axes, *, columns: int = 3, size: float = 6, below: float = 0.22) -> None:
    """The legend of one axis below it, where no point lies; its handles opaque, so that colours can be told apart.

    Args:
        below: distance to the axis, in its heights.
    """
    legend = ax.legend(loc="upper center", bbox_to_anchor=(0.5, -below), ncols=columns, fontsize=size)
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def draw_gallery(axes: Sequence[Axes], rows: Mapping[str, Any]) -> None:
    """One row of pictures per label: axes shaped (rows, n), images uint8 (n, c, h, w)."""
    for line, (label, images) in zip(np.atleast_2d(np.asarray(axes)), rows.items(), strict=True):
        for ax, image in zip(line, images, strict=False):
            ax.imshow(np.asarray(image).transpose(1, 2, 0), interpolation="nearest")
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")


def heat_over(
    images: Any, maps: Any, share: float = 0.6, ends: tuple[float, float] | None = None
) -> np.ndarray:
    """Anomaly maps laid over their images, as pictures for `draw_gallery`; one colour scale for all of them.

    Args:
        images: uint8 (n, 3, h, w).
        maps: floats (n, h, w), higher is more OOD.
        share: of the colour against the picture.
        ends: of the scale, such as `heat_ends` of the maps of several rows; those of these maps where omitted.
    Returns:
        uint8 (n, 3, h, w).
    """
    values = np.asarray(maps, np.float64)
    low, high = heat_ends([values]) if ends is None else ends
    shown = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
    colours = mpl.colormaps["inferno"](shown)[..., :3]
    mixed = share * 255 * colours.transpose(0, 3, 1, 2) + (1 - share) * np.asarray(images)
    return mixed.round().astype(np.uint8)


def heat_ends(maps: Iterable[Any], quantiles: tuple[float, float] = (0.01, 0.99)) -> tuple[float, float]:
    """Ends of one colour scale for several anomaly maps; single elements do not set them."""
    values = np.concatenate([np.asarray(m, np.float64).ravel() for m in maps])
    low, high = np.quantile(values, quantiles)
    return float(low), float(high)


def draw_heat_rows(
    fig: Figure, axes: Any, pictures: Any, maps: Mapping[str, Mapping[str, Any]], *, label: str
) -> None:
    """Pictures on top, and under them the anomaly maps laid over them, a row for each map.

    The rows of a model share one scale, which ends at the 1 % and 99 % quantile of their values and stands as a
    colour bar beside them: the same colour is the same value, and one element cannot make the others black.

    Args:
        axes: (1 + number of rows, n).
        pictures: uint8 (n, 3, h, w). label: of the first row.
        maps: model: row: floats (n, h, w), higher is more OOD.
    """
    axes = np.atleast_2d(np.asarray(axes))
    draw_gallery(axes[:1], {label: pictures})
    row = 1
    for model, of in maps.items():
        ends = heat_ends(of.values())
        rows = {f"{model}\n{name}": heat_over(pictures, values, ends=ends) for name, values in of.items()}
        draw_gallery(axes[row : row + len(of)], rows)
        heat_bar(fig, axes[row : row + len(of)], ends, label=f"{model}: anomaly, higher is more OOD")
        row += len(of)


def heat_bar(fig: Figure, axes: Any, ends: tuple[float, float], *, label: str) -> None:
    """The colour bar of `heat_over` beside its pictures."""
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(*ends), "inferno")
    fig.colorbar(scale, ax=axes, label=label, shrink=0.8, extend="both")


def draw_curve(
    ax: Axes,
    points: pd.DataFrame,
    *,
    x: str,
    colour: str,
    label: str,
    level: float | None = None,
    each: pd.DataFrame | None = None,
) -> Axes:
    """Fig. 6: value with its interval against a column, and a dashed level to compare with.

    Args:
        points: columns `x`, value, low, high (nan where there is no interval), in the order to join.
        each: columns `x` and value, a row per seed. Where a point has several they are drawn in place of its
            interval: over two seeds that is too wide to be seen in the same frame.
    """
    reach = np.stack([points["value"] - points["low"], points["high"] - points["value"]])
    bars = np.nan_to_num(reach).clip(0)
    if each is not None and each[x].duplicated().any():
        bars = None
        ax.plot(each[x], each["value"], "o", ms=3.5, mfc="white", mec=colour, mew=0.9, zorder=3)
    ax.errorbar(
        points[x], points["value"], bars, fmt="o-", ms=4, lw=1.4, capsize=2, color=colour, label=label
    )
    if level is not None:
        ax.axhline(level, color=colour, lw=1, ls="--", label=f"{label}, without outliers")
    return ax


def second_axis(ax: Axes, x: Sequence[float], values: Sequence[float], *, label: str) -> Axes:
    """A second quantity over the same x, in grey on the right, behind the first."""
    right = ax.twinx()
    right.plot(x, values, "s:", ms=3, lw=1, color="0.6", zorder=0, label=label.partition(" [")[0])
    right.set_ylabel(label, color="0.45")
    right.tick_params(axis="y", colors="0.45")
    right.spines["right"].set_visible(True)
    right.grid(False)
    return right


def draw_counts(ax: Axes, counts: pd.Series) -> Axes:
    """One stacked bar of counts, labelled; from good news (blue) to none (grey)."""
    colours = [BLUE, SKY, ORANGE, "0.8"]
    left = 0.0
    for (name, n), colour in zip(counts.items(), itertools.cycle(colours)):
        ax.barh([0], [n], left=left, color=colour, edgecolor="white", label=f"{name}: {n:.0f}")
        left += n
    ax.set(yticks=[], xlabel="number of claims")
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.legend(ncols=len(counts), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
    return ax


def draw_signs(ax: Axes, parts: pd.DataFrame, *, row: str, sign: str) -> Axes:
    """One bar per row of the frame's `row`: how many parts are against (left), hold (right), and are open (grey).

    Args:
        parts: one row per part; `sign` is -1, 0 or 1.
    """
    names = list(dict.fromkeys(parts[row]))
    counts = pd.crosstab(parts[row], parts[sign]).reindex(index=names, columns=[-1, 0, 1], fill_value=0)
    rows = np.arange(len(names))
    ax.barh(rows, -counts[-1], height=0.6, color=ORANGE, label="against")
    ax.barh(rows, counts[1], height=0.6, color=BLUE, label="holds")
    ax.barh(rows, counts[0], left=counts[1], height=0.6, color="0.85", label="open: the interval holds zero")
    ax.axvline(0, color="0.3", lw=0.8)
    ax.set(yticks=rows, yticklabels=names, xlabel="parts of the claim", ylim=(len(names) - 0.5, -0.5))
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.xaxis.set_major_formatter(lambda v, _: f"{abs(v):.0f}")
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
    return ax


def draw_differences(
    ax: Axes, frame: pd.DataFrame, *, row: str, value: str = "difference", colour: str = BLUE
) -> Axes:
    """One line per row of the frame's `row`: a dot per seed, a bar from zero to their mean; zero is no difference."""
    names = list(dict.fromkeys(frame[row]))
    for k, name in enumerate(names):
        found = frame.loc[frame[row] == name, value].to_numpy()
        ax.barh(k, found.mean(), height=0.55, color=colour, alpha=0.35)
        ax.plot(found, np.full(len(found), k), "o", ms=3.5, color=colour)
    ax.axvline(0, color="0.3", lw=0.8)
    ax.set(yticks=range(len(names)), yticklabels=names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    return ax


def draw_heat(ax: Axes, frame: pd.DataFrame, *, label: str) -> Axes:
    """A table of AUROCs as colours, white at chance, with the numbers in the cells; empty cells stay blank.

    Ids among its rows and columns are printed by their names, broken before "eq." and "with" to fit a column.
    """
    shown = labelled(frame).rename(columns=lambda name: re.sub(r",? (eq\. \(4\)|with )", r"\n\1", name))
    sns.heatmap(
        shown, ax=ax, annot=True, fmt=".0f", cmap="PuOr_r", center=50, vmin=0, vmax=100, linewidths=1,
        cbar_kws={"label": label}, annot_kws={"size": 8},
    )  # fmt: skip
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="both", length=0)
    return ax


def draw_histograms(
    ax: Axes,
    values: Mapping[str, np.ndarray],
    *,
    colours: Mapping[str, str],
    bins: int = 50,
    quantiles: tuple[float, float] = (0.0, 1.0),
) -> Axes:
    """Several step histograms of area one with given colours, for scores under different models.

    The axis runs from the lowest to the highest of the `quantiles` of the sets; what lies outside is not drawn.
    """
    ends = [np.quantile(v, quantiles) for v in values.values()]
    shown = min(low for low, _ in ends), max(high for _, high in ends)
    edges = np.histogram_bin_edges([], bins, shown)
    for name, v in values.items():
        ax.hist(v, edges, density=True, histtype="stepfilled", alpha=0.25, color=colours[name])
        ax.hist(v, edges, density=True, histtype="step", color=colours[name], lw=1.2, label=name)
    ax.set_ylabel("density")
    return ax


def draw_score(ax: Axes, id_scores: np.ndarray, score: float, gamma: float) -> Axes:
    """One score (red) among those of ID (blue) and beside the threshold (dashed); higher is more OOD.

    The axis shows where ID and the threshold lie; an arrow at its edge says that the score is farther out.
    """
    low, high = np.quantile(id_scores, (0.01, 0.99))
    spread = high - low
    low, high = min(low, gamma) - 0.3 * spread, max(high, gamma) + 0.3 * spread
    ax.hist(id_scores, np.linspace(low, high, 60), color=BLUE, alpha=0.35)
    ax.axvline(gamma, color="0.3", ls="--", lw=1)
    if low <= score <= high:
        ax.axvline(score, color=RED, lw=2)
    else:
        edge, marker = (high, ">") if score > high else (low, "<")
        ax.plot([edge], [ax.get_ylim()[1] / 2], marker, color=RED, ms=9, clip_on=False)
    ax.set(xlim=(low, high), yticks=[])
    ax.spines["left"].set_visible(False)
    return ax


def draw_boxes(
    ax: Axes, values: Mapping[str, np.ndarray], *, labels: Mapping[str, str] | None = None
) -> Axes:
    """One horizontal box per set (median, quartiles, 5 to 95 %); the first set's median goes through all rows.

    The axis ends on the left one and a half spreads (5 to 95 %) of the first set below it, so that a set pushed a
    hundred times farther down does not flatten the others; an arrow stands where a box or its whisker goes on.
    """
    names = list(values)
    boxes = ax.boxplot(
        [np.asarray(v) for v in values.values()], orientation="horizontal", whis=(5, 95), showfliers=False,
        widths=0.6, patch_artist=True, medianprops={"color": "white"}, manage_ticks=False,
    )  # fmt: skip
    ax.set_yticks(range(1, len(names) + 1), [(labels or {}).get(n, n) for n in names])
    for name, box in zip(names, boxes["boxes"], strict=True):
        box.set(facecolor=colour_of(name), edgecolor=colour_of(name))
    ax.axvline(float(np.median(values[names[0]])), color=colour_of(names[0]), lw=1, ls="--", zorder=0)
    low, high = np.quantile(np.asarray(values[names[0]]), (0.05, 0.95))
    left, spread = low - 1.5 * (high - low), high - low
    if min(np.quantile(np.asarray(v), 0.05) for v in values.values()) < left:
        right = max(np.quantile(np.asarray(v), 0.95) for v in values.values())
        ax.set_xlim(left - 0.2 * spread, right + 0.3 * spread)
        for row, name in enumerate(names, 1):
            if np.quantile(np.asarray(values[name]), 0.05) < left:
                ax.plot(left, row, marker="<", color="white", markeredgecolor="0.2", zorder=5)
    ax.set_ylim(len(names) + 0.5, 0.5)  # the first set on top, also where panels share the axis
    ax.grid(axis="y", visible=False)
    return ax


def draw_density(
    ax: Axes,
    log_p: np.ndarray,
    extent: tuple[float, float, float, float],
    *,
    vmax: float | None = None,
    id_points: np.ndarray | None = None,
    outliers: np.ndarray | None = None,
) -> Any:
    """Fig. 2: a density on a grid (log_p shaped (ny, nx), nats), redder is likelier, with some samples on top.

    Colours follow the square root of the density, which shows thin bridges, and saturate at `vmax`.
    """
    shown = ax.imshow(
        np.exp(log_p),
        extent=extent,
        origin="lower",
        cmap="RdYlBu_r",
        norm=mpl.colors.PowerNorm(0.5, vmin=0, vmax=vmax),
        aspect="equal",
        interpolation="bilinear",
    )
    if id_points is not None:
        ax.scatter(*id_points.T, s=5, color="black", alpha=0.5, linewidths=0, label="ID samples")
    if outliers is not None:  # white on black, to be seen on pale and on dark colours
        ax.scatter(*outliers.T, s=14, color="black", marker="x", linewidths=1.4)
        ax.scatter(*outliers.T, s=12, color="white", marker="x", linewidths=0.6, label="outliers")
    ax.grid(False)
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel="$x_1$", ylabel="$x_2$")
    return shown
