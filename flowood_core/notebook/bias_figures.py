"""Complexity against likelihood, and against what a score makes of it: the pictures of the bias."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from flowood_core.notebook import labels
from flowood_core.notebook.labels import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, YELLOW

__all__ = [
    "METHOD_COLOURS",
    "SET_COLOURS",
    "colour_of",
    "colours_of",
    "draw_battery",
    "draw_bias",
    "draw_complexity_vs_likelihood",
    "draw_complexity_vs_radius",
    "draw_epochs",
    "draw_lengths",
    "draw_levels",
    "draw_likelihoods",
    "draw_ridges",
    "draw_scatter",
    "draw_sides",
]

METHOD_COLOURS = {id_: label.colour for id_, label in labels.METHODS.items()}
SET_COLOURS = {id_: label.colour for id_, label in labels.IMAGES.items()}
PAPER_EPOCHS = 500


def colour_of(name: str) -> str:
    """Colour of a data set or method by id; a blurred set has its original's, strangers are grey."""
    return SET_COLOURS.get(name.removesuffix("_blurred")) or METHOD_COLOURS.get(name) or "#777777"


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Colours of sets that may be anybody's: known ones keep theirs, the first stranger is blue, no two are alike."""
    names = list(names)
    colours = {n: colour_of(n) for n in names if n in SET_COLOURS or n in METHOD_COLOURS}
    free = [c for c in (BLUE, ORANGE, GREEN, PURPLE, YELLOW, BLACK, RED, SKY) if c not in colours.values()]
    return {n: colours.get(n) or (free.pop(0) if free else "#777777") for n in names}


def draw_likelihoods(
    ax: Axes,
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    labels: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """Any quantity against log-likelihood, several sets, the first of them ID; readable where OOD lies far down.

    Trained outliers can lie a hundred times farther down than ID reaches. Points below the first set's lower
    tail by three times its spread are drawn at the lower edge as triangles, and counted in the legend.
    """
    floor, below = _floor(sets), 0
    for name, (x, lp) in sets.items():
        colour = (colours or {}).get(name) or colour_of(name)
        x, lp = np.asarray(x), np.asarray(lp)
        low = lp < floor
        below += int(low.sum())
        label = (labels or {}).get(name, name)
        ax.scatter(x[~low], lp[~low], s=7, alpha=0.45, linewidths=0, color=colour, label=label)
        ax.scatter(x[low], np.full(low.sum(), floor), s=9, marker="v", alpha=0.45, linewidths=0, color=colour)
    if below:
        ax.scatter([], [], marker="v", s=9, color="0.4", label=f"farther down: {below} points")
        top = max(np.max(lp) for _, lp in sets.values())
        ax.set_ylim(floor - 0.04 * (top - floor), top + 0.04 * (top - floor))
    return ax


def _floor(sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> float:
    q = np.quantile(np.asarray(next(iter(sets.values()))[1]), (0.01, 0.25, 0.75))
    return float(q[0] - 3 * (q[2] - q[1]))


def draw_complexity_vs_likelihood(
    ax: Axes,
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    labels: Mapping[str, str] | None = None,
    quantity: str = r"$\log p_{\mathcal{Z}}(\mathbf{z})$ [nats]",
    colours: Mapping[str, str] | None = None,
    n_shown: int | None = None,
    simpler: Sequence[str] = (),
) -> Axes:
    """Fig. 3: complexity C(x) against log-likelihood for several sets, with the regression line over all points.

    A line through points a hundred times farther down than ID would leave the frame and say nothing of what is in it.
    So the lines are those of the points as drawn: what lies below the lower edge counts as lying on it.

    Args:
        n_shown: points drawn per set, the first ones; the line is that of all.
        simpler: the ID set and the sets simpler than it, which get a line of their own, dashed.
    """
    drawn = {name: (c[:n_shown], lp[:n_shown]) for name, (c, lp) in sets.items()}
    draw_likelihoods(ax, drawn, labels=labels, colours=colours)
    frame = ax.get_ylim()
    _regression(ax, list(sets.values()), _floor(drawn), "all sets" if simpler else "regression", "-")
    if simpler:
        _regression(ax, [sets[name] for name in simpler], _floor(drawn), "ID and simpler", "--")
    ax.set(xlabel=r"complexity $C(\mathbf{x})$ [bits/dim]", ylabel=quantity, ylim=frame)
    return ax


def _regression(
    ax: Axes, sets: Sequence[tuple[np.ndarray, np.ndarray]], floor: float, name: str, style: str
) -> None:
    c, lp = (np.concatenate([np.asarray(s[k]) for s in sets]) for k in (0, 1))
    slope, intercept = np.polyfit(c, np.maximum(lp, floor), 1)
    ends = np.array([c.min(), c.max()])
    label = f"{name}: {slope:+.0f} per bit/dim"
    ax.plot(ends, slope * ends + intercept, style, color="0.15", lw=1.8, label=label)


def draw_epochs(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    labels: Mapping[str, str] | None = None,
    printed: Mapping[str, float] | None = None,
    alone: float | None = None,
) -> Axes:
    """One quantity against the epochs of a training, on a log scale: a line with its intervals for each method.

    Args:
        frame: rows of `benchmark_tables.epochs` of one quantity: epoch, method, value, low, high.
        printed: the paper's value for each method, a hollow diamond at its 500 epochs.
        alone: what -C(x) has without a flow, a dashed line.
    """
    colours = colours_of(frame["method"].unique())
    for name, part in frame.sort_values("epoch").groupby("method", sort=False):
        reach = np.stack([part["value"] - part["low"], part["high"] - part["value"]]).clip(0)
        ax.errorbar(
            part["epoch"], part["value"], reach, fmt="o-", ms=3.5, lw=1.3, capsize=2, color=colours[name],
            label=(labels or {}).get(name, name),
        )  # fmt: skip
        if name in (printed or {}):
            ax.plot(PAPER_EPOCHS, printed[name], "D", ms=6, mfc="none", mec=colours[name], mew=1.4)
    if printed:
        ax.plot([], [], "D", ms=6, mfc="none", mec="0.3", label="the paper")
    if alone is not None:
        ax.axhline(alone, color="0.45", lw=1.1, ls="--", label=r"$-C(\mathbf{x})$ alone")
    ax.set_xscale("log")
    measured = sorted(set(frame["epoch"]) | ({PAPER_EPOCHS} if printed else set()))
    ax.set_xticks(measured, [f"{epoch:g}" for epoch in measured], fontsize=6)
    ax.set_xticks([], minor=True)
    ax.set_xlabel("epochs")
    return ax


def draw_bias(
    ax: Axes,
    cells: pd.DataFrame,
    *,
    labels: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
    ids: Iterable[str] | None = None,
) -> Axes:
    """AUROC against the gap in complexity; simple OOD taken for ID lies left and below. Shape: ID, colour: OOD.

    Args:
        cells: one row per pair: id, ood, gap [bits/dim], value, low, high [percent; nan for no interval].
        ids: the ID sets of all panels of a figure, so that each has one shape in all of them.
    """
    names = labels or {}
    markers = dict(zip(dict.fromkeys([*(ids or ()), *cells["id"]]), itertools.cycle("os^DvP")))

    def colour(name: str) -> str:
        return (colours or {}).get(name) or colour_of(name)

    ax.axhline(50, color="0.6", lw=0.8)
    ax.axvline(0, color="0.6", lw=0.8)
    for id_, part in cells.groupby("id", sort=False):
        marker = markers[id_]
        if len(markers) > 1:  # with one ID set its shape says nothing
            ax.scatter([], [], marker=marker, color="0.4", s=25, label=f"ID: {names.get(id_, id_)}")
        for p in part.itertuples():
            reach = [[p.value - p.low], [p.high - p.value]] if np.isfinite(p.low) else None
            ax.errorbar(p.gap, p.value, reach, fmt=marker, ms=5.5, lw=1.2, color=colour(p.ood))
    for ood in cells["ood"].unique():
        ax.scatter([], [], marker="_", lw=4, color=colour(ood), s=50, label=f"OOD: {names.get(ood, ood)}")
    ax.set(xlabel=r"$\bar{C}_{\mathrm{OOD}} - \bar{C}_{\mathrm{ID}}$ [bits/dim]", ylim=(-6, 106))
    ax.margins(x=0.12)
    return ax


FAMILIES = {
    "constant": "one colour", "nearest": "resampled, nearest", "resampled": "resampled, smooth",
    "contrast": "less contrast", "posterised": "fewer levels", "jpeg": "JPEG", "colour": "less colour",
}  # fmt: skip


def draw_battery(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    before: pd.DataFrame | None = None,
    id_complexity: float | None = None,
    complexity: str = "complexity",
) -> Axes:
    """AUROC against complexity, a point for each kind of simple picture: a detector without the bias stays at the top.

    Filled points are kinds that training has seen, hollow ones are not; a colour is a family.

    Args:
        frame: rows of `battery.battery_table` of one score.
        before: the same kinds by another score or flow, joined to these by grey lines.
        id_complexity: mean C(x) of ID in bits per dimension, a dashed line.
        complexity: column for the axis, "complexity" or "complexity_colour".
    """
    families = list(dict.fromkeys(frame["family"]))
    colours = dict(zip(families, sns.color_palette("husl", len(families)), strict=True))
    ax.axhline(50, color="0.6", lw=0.8)
    if id_complexity is not None:
        ax.axvline(id_complexity, color=BLUE, lw=0.8, ls="--", label="ID")
    if before is not None:
        other = before.set_index("kind")["auroc"]
        for p in frame[frame["kind"].isin(other.index)].itertuples():
            at = getattr(p, complexity)
            ax.plot([at, at], [other[p.kind], p.auroc], "-", color="0.7", lw=0.8, zorder=1)
            ax.plot(at, other[p.kind], "x", color="0.55", ms=4, zorder=1)
    for p in frame.itertuples():
        reach = [[p.auroc - p.low], [p.high - p.auroc]] if np.isfinite(p.low) else None
        colour = colours[p.family]
        ax.errorbar(getattr(p, complexity), p.auroc, reach, fmt="o", ms=5, lw=1, color=colour,
                    mfc=colour if p.seen else "white")  # fmt: skip
    for family in families:
        ax.scatter([], [], marker="o", s=20, color=[colours[family]], label=FAMILIES.get(family, family))
    ax.scatter([], [], marker="o", s=20, facecolors="white", edgecolors="0.4", label="kind not trained on")
    ax.set(xlabel=r"mean complexity $\bar{C}$ of the kind [bits/dim]", ylabel="AUROC [%]", ylim=(-4, 104))
    return ax


def draw_complexity_vs_radius(
    ax: Axes, radii: Sequence[float], values: Sequence[np.ndarray], *, colour: str = BLUE
) -> Axes:
    """Complexity C(x) of blurred images against the radius: the mean, and the band of 80 % of the images."""
    low, high = np.quantile(np.stack([np.asarray(v) for v in values]), (0.1, 0.9), axis=1)
    ax.fill_between(radii, low, high, color=colour, alpha=0.2, lw=0, label="80 % of the images")
    ax.plot(radii, [np.mean(v) for v in values], "o-", color=colour, ms=4, label="mean")
    ax.set(xlabel="radius of the blur [pixels]", ylabel=r"$C(\mathbf{x}')$ [bits/dim]")
    return ax


def draw_lengths(ax: Axes, frame: pd.DataFrame, *, labels: Mapping[str, str] | None = None) -> Axes:
    """Length of the feature vectors against complexity, a point an image: short is simple.

    Args:
        frame: set, complexity [bits/dim], length, as `evidence.two_levels.lengths` gives it; the set "ID" is blue.
    """
    names = labels or {}
    for name, of in frame.groupby("set", sort=False):
        colour = BLUE if name == "ID" else colour_of(name)
        ax.scatter(
            of["complexity"], of["length"], s=5, lw=0, alpha=0.5, color=colour, label=names.get(name, name)
        )
    ax.set(xlabel=r"$C(\mathbf{x})$ [bits/dim]", ylabel=r"$\Vert h(\mathbf{x}) \Vert_2$")
    return ax


LEVEL_MARKS = {
    "raw": ("features as they come", "x", "0.45"), "unit": ("unit features", "o", "white"),
    "level": ("with outliers and neighbours", "o", GREEN), "pixels": ("pixels", "^", ORANGE),
    "both": ("pixels and features", "D", BLACK), "all": ("and statistics", "s", BLUE),
}  # fmt: skip


def draw_levels(ax: Axes, frame: pd.DataFrame, *, labels: Mapping[str, str] | None = None) -> Axes:
    """AUROC of each level on each OOD set, one line a set.

    Args:
        frame: score, ood, value [percent], as `evidence.two_levels.over_levels` gives it.
    """
    names, sets = labels or {}, list(dict.fromkeys(frame["ood"]))
    at = {name: len(sets) - i for i, name in enumerate(sets)}
    ax.axvline(50, color="0.6", lw=0.8)
    for score, (text, marker, face) in LEVEL_MARKS.items():
        of = frame[frame["score"] == score]
        edge = {} if marker == "x" else {"edgecolors": GREEN if face == "white" else face}
        ax.scatter(of["value"], of["ood"].map(at), marker=marker, s=28, c=face, label=text, zorder=3, **edge)
    ax.set_yticks(list(at.values()), [names.get(name, name) for name in at])
    ax.grid(axis="y", lw=0.5, color="0.9")
    ax.set(xlabel="AUROC [%]", xlim=(-2, 102))
    return ax


def draw_scatter(
    ax: Axes, frame: pd.DataFrame, *, x: str, y: str, labels: Mapping[str, str] | None = None
) -> Axes:
    """Two columns against each other, a colour for each value of the column "set"; y in powers of ten."""
    for name, part in frame.groupby("set", sort=False):
        label = (labels or {}).get(name, name)
        ax.scatter(part[x], part[y], s=8, alpha=0.6, linewidths=0, color=colour_of(name), label=label)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    return ax


def draw_ridges(
    ax: Axes,
    values: Mapping[str, np.ndarray],
    *,
    labels: Mapping[str, str] | None = None,
    printed: Mapping[str, float] | None = None,
    bins: int = 80,
) -> Axes:
    """Fig. 5: one row per set, the first on top: its distribution, its mean (line) and the printed mean (triangle).

    All rows have the same bins and one scale of density, so that areas are alike. A blurred set is hollow.
    """
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(v) for v in values.values()]), bins)
    centres = (edges[1:] + edges[:-1]) / 2
    heights = {name: np.histogram(v, edges, density=True)[0] for name, v in values.items()}
    top = max(h.max() for h in heights.values())
    for row, (name, height) in enumerate(heights.items()):
        colour, floor = colour_of(name), -row
        outline = floor + 0.88 * height / top
        is_blurred = name.endswith("_blurred")
        ax.fill_between(
            centres, floor, outline, step="mid", color=colour, alpha=0.0 if is_blurred else 0.45, lw=0
        )
        ax.step(centres, outline, where="mid", color=colour, lw=1.2, ls="--" if is_blurred else "-")
        mean = float(np.mean(values[name]))
        ax.plot([mean, mean], [floor, floor + 0.55], color="0.15", lw=1.4)
        if name in (printed or {}):
            ax.plot(printed[name], floor, "^", ms=6, mfc="white", mec="0.15", clip_on=False, zorder=5)
    ax.set_yticks([-row for row in range(len(values))], [(labels or {}).get(n, n) for n in values])
    ax.set_ylim(-len(values) + 0.8, 1)
    ax.grid(axis="y", visible=False)
    ax.plot([], [], color="0.15", lw=1.4, label="our mean")
    if printed:
        ax.plot([], [], "^", ms=6, mfc="white", mec="0.15", ls="", label="printed mean (Table 7)")
    ax.set_xlabel(r"complexity $C(\mathbf{x})$ [bits/dim]")
    return ax


def draw_sides(ax: Axes, by_training: Mapping[str, pd.DataFrame]) -> Axes:
    """Both sides of the first step of eq. (1) against the radius of the ball, medians over points; dashed: M(x).

    Args:
        by_training: "without" and "with": columns epsilon (latent units), left and spread (squared units of x), as
            `evidence.toy_tables.eq_1_by_epsilon` gives them.
    """
    medians = {how: of.groupby("epsilon")[["left", "spread"]].median() for how, of in by_training.items()}
    for (how, of), colour in zip(medians.items(), (BLACK, GREEN), strict=False):
        ax.plot(of.index, of["left"], color=colour, label=f"left side, trained {how} outliers")
        ax.plot(of.index, of["spread"], color=colour, ls="--", label=rf"$M(\mathbf{{x}})$, {how}")
    lowest, highest = (
        min(of["left"].max() for of in medians.values()),
        max(of["spread"].max() for of in medians.values()),
    )
    ax.set(xscale="log", yscale="log", ylim=(1e-4 * lowest, 3 * highest))
    ax.set(xlabel=r"radius of the ball, $\epsilon$", ylabel=r"squared units of $\mathbf{x}$")
    return ax
