"""Laws of sheets and pages: what a notebook makes is named, labelled, byte-stable and readable offline."""

import io
import json
import re
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

mpl.use("Agg")


from flowood_core import objective
from flowood_core.notebook import figures


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    return figures.start("demo", SimpleNamespace(asdict=lambda: {"profile": "quick", "seed": 0}))


def figure():
    fig, ax = figures.figure("single")
    ax.plot([0, 1], [0, 1])
    return fig


def test_a_manifest_names_every_artefact_and_is_written_last(sheet, tmp_path):
    sheet.save_figure(figure(), "fig_x", "a line")
    sheet.save_table(pd.DataFrame({"a": [1.0]}), "table_x", "one number")
    manifest = tmp_path / "quick" / "notebooks" / "demo.json"
    assert not manifest.exists()
    sheet.finish(extra=3)
    said = json.loads(manifest.read_text())
    assert said["artefacts"] == ["figures/fig_x.png", "tables/table_x.csv"] and said["extra"] == 3
    assert all((tmp_path / "quick" / a).exists() for a in said["artefacts"])
    assert not list(tmp_path.rglob("*.part*")) and not list(tmp_path.rglob(".*.part*"))


def test_the_same_figure_is_the_same_to_the_byte(sheet, tmp_path):
    png = tmp_path / "quick" / "figures" / "fig_x.png"
    sheet.save_figure(figure(), "fig_x")
    first = png.read_bytes()
    sheet.save_figure(figure(), "fig_x")
    assert png.read_bytes() == first and sheet.artefacts == ["figures/fig_x.png"]


def test_a_drawing_has_few_colours_and_a_photograph_all(sheet, tmp_path):
    drawing, photograph = figure(), figure()
    x = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    photograph.axes[0].imshow(x, extent=(0, 1, 0, 1), interpolation="bilinear")
    for name, fig, modes in (("a", drawing, "P"), ("b", photograph, "RGBA")):
        sheet.save_figure(fig, name)
        as_drawn = io.BytesIO()
        fig.savefig(as_drawn, format="png")
        with (
            Image.open(as_drawn) as wanted,
            Image.open(tmp_path / "quick" / "figures" / f"{name}.png") as got,
        ):
            assert got.mode == modes and got.size == wanted.size and got.info["dpi"] == wanted.info["dpi"]
            moved = np.asarray(got.convert("RGB"), int) - np.asarray(wanted.convert("RGB"), int)
        assert np.abs(moved).mean() <= (0.1 if name == "a" else 0)


def test_a_quick_figure_says_that_it_is_quick(sheet):
    fig = figure()
    sheet.save_figure(fig, "fig_x")
    assert any("quick" in text.get_text() for text in fig.texts)


def test_a_notebook_may_say_what_its_figures_show_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    params = SimpleNamespace(asdict=lambda: {"profile": "quick"})
    sheet = figures.start("demo", params, label="your own images")
    first, second = figure(), figure()
    sheet.save_figure(first, "fig_x")
    sheet.save_figure(second, "fig_y", label="an exact curve")
    assert [t.get_text() for t in first.texts] == ["your own images"]
    assert [t.get_text() for t in second.texts] == ["an exact curve"]


def test_an_image_far_out_does_not_squeeze_a_histogram():
    rng = np.random.default_rng(0)
    values = {"photo": np.append(rng.normal(size=1000), 1e4), "digits": rng.normal(3, 1, size=1000)}
    fig, axes = figures.figure(columns=2)
    for ax, quantiles in zip(axes, ((0, 1), (0.005, 0.995)), strict=True):
        figures.draw_histograms(ax, values, colours=figures.colours_of(values), quantiles=quantiles)
    assert axes[0].get_xlim()[1] > 1e4 and axes[1].get_xlim()[1] < 10
    figures.plt.close(fig)


def test_the_first_set_is_the_upper_box_also_where_panels_share_the_axis():
    values = {"photo": np.arange(9.0), "digits": np.arange(9.0)}
    fig, axes = figures.figure(columns=2, sharey=True)
    for ax in axes:
        figures.draw_boxes(ax, values)
    bottom, top = axes[0].get_ylim()
    assert top < bottom and list(axes[0].get_yticks()) == [1, 2]
    figures.plt.close(fig)


def test_an_unknown_figure_size_lists_the_known_ones():
    with pytest.raises(ValueError, match="single, wide"):
        figures.figure("huge")


@pytest.mark.parametrize(("score", "marker"), [(0.5, "line"), (1e6, ">"), (-1e6, "<")])
def test_a_score_far_from_id_becomes_an_arrow_at_the_edge(score, marker):
    id_scores = np.random.default_rng(0).normal(size=500)
    fig, ax = figures.figure()
    figures.draw_score(ax, id_scores, score, gamma=1.6)
    low, high = ax.get_xlim()
    assert low < -2 and 2 < high < 10, "ID and the threshold stay readable"
    marks = [line.get_marker() for line in ax.lines if line.get_color() == figures.RED]
    assert marks == [marker if marker != "line" else "None"]
    figures.plt.close(fig)


def test_the_regression_line_of_fig_3_is_least_squares():
    rng = np.random.default_rng(0)
    c = rng.uniform(2, 8, 50)
    _, ax = figures.figure()
    figures.draw_complexity_vs_likelihood(ax, {"photo": (c, 3 * c + 1)})
    line = ax.get_lines()[0]
    slope = np.ptp(line.get_ydata()) / np.ptp(line.get_xdata())
    assert slope == pytest.approx(3)


def test_the_line_of_fig_3_stays_in_its_frame_and_the_simpler_sets_have_their_own():
    rng = np.random.default_rng(0)
    c, n = rng.uniform(4, 8, 200), rng.normal(size=200)
    sets = {"cifar10": (c, n), "svhn": (c - 2, n - 3), "isun": (c + 2, n - 1e4)}
    _, ax = figures.figure()
    figures.draw_complexity_vs_likelihood(ax, sets, simpler=["cifar10", "svhn"])
    solid, dashed = ax.get_lines()
    low, high = ax.get_ylim()
    assert low < solid.get_ydata().min() and solid.get_ydata().max() < high
    assert np.diff(solid.get_ydata()) < 0 < np.diff(dashed.get_ydata()) and dashed.get_linestyle() == "--"


def test_two_seeds_are_drawn_in_place_of_their_interval_and_one_keeps_its_bar():
    points = pd.DataFrame(
        {"radius": [1, 2], "value": [70.0, 60.0], "low": [0.0, 0.0], "high": [100.0, 100.0]}
    )
    two = pd.DataFrame({"radius": [1, 2, 1, 2], "value": [60.0, 50.0, 80.0, 70.0]})
    _, (left, right) = figures.figure("wide", columns=2)
    figures.draw_curve(left, points, x="radius", colour="k", label="SVHN", level=50.0, each=two)
    figures.draw_curve(right, points, x="radius", colour="k", label="SVHN", each=two[:2])
    assert not left.collections and right.collections  # error bars
    assert sorted(left.lines[0].get_ydata()) == [50.0, 60.0, 70.0, 80.0]
    assert "SVHN, without outliers" in left.get_legend_handles_labels()[1]


def test_a_curve_over_epochs_has_a_line_for_each_method():
    rows = [(e, m, v, v - 1, v + 1) for e, v in ((1, 40.0), (10, 60.0)) for m in ("mle", "ro")]
    _, ax = figures.figure()
    figures.draw_epochs(ax, pd.DataFrame(rows, columns=["epoch", "method", "value", "low", "high"]))
    assert ax.get_legend_handles_labels()[1] == ["mle", "ro"] and ax.get_xscale() == "log"
    shown = [t.get_text() for t in ax.get_xticklabels(which="both")]
    assert shown == ["1", "10"], "the epochs that were measured, and no powers of ten that cover each other"


def test_beside_a_curve_over_epochs_stand_the_papers_value_and_complexity_alone():
    rows = pd.DataFrame(
        [(12, "mle", 40.0, 39.0, 41.0), (50, "mle", 30.0, 29.0, 31.0)],
        columns=["epoch", "method", "value", "low", "high"],
    )
    _, ax = figures.figure()
    figures.draw_epochs(ax, rows, printed={"mle": 44.3, "ro": 90.0}, alone=95.5)
    diamonds = [line for line in ax.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert [tuple(line.get_xydata()[0]) for line in diamonds] == [(500, 44.3)], "none for a row nobody ran"
    assert [list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == "--"] == [[95.5, 95.5]]
    assert ax.get_xticklabels()[-1].get_text() == "500"


def test_show_source_shows_the_code_without_its_docstring(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda x: shown.append(x.data))
    figures.show_source(objective.loss_id)
    assert "return -log_px.mean()" in shown[0] and "eq. (2)" not in shown[0]
    figures.show_source(objective.loss_id, doc=True)
    assert "eq. (2)" in shown[1]


def test_a_frame_says_what_is_bold(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda x: shown.append(x.data))
    frame = pd.DataFrame({"MLE": ["70.0"], "gain": ["-3.0"]})
    figures.show_table(frame, best=pd.DataFrame({"MLE": [True], "gain": [False]}))
    assert shown[0].count("font-weight: bold") == 1


def test_numbers_are_formatted_and_text_cells_kept(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda x: shown.append(x.data))
    figures.show_table(pd.DataFrame({"a": [1.23456, np.nan], "b": ["83.2 [80.1, 86.0]", "not run"]}))
    assert "1.2<" in shown[0] and "–" in shown[0] and "83.2 [80.1, 86.0]" in shown[0]


def shown_tables(monkeypatch, *args, **options):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda x: shown.append(x.data))
    figures.show_table(*args, **options)
    return shown[0]


def test_the_best_of_each_column_is_bold_also_where_cells_are_texts(monkeypatch):
    frame = pd.DataFrame({"a": [1.0, 3.0], "b": ["83.2 [80.1, 86.0]", "9.1"], "c": ["x", "y"]})
    made = shown_tables(monkeypatch, frame, best="highest")
    styles = made[: made.index("</style>")]
    assert "row1_col0" in styles and "row0_col1" in styles and "col2" not in styles
    assert "row0_col0" in shown_tables(monkeypatch, frame, best="lowest")
    with pytest.raises(ValueError, match="highest"):
        figures.show_table(frame, best="most")


def test_a_table_shown_again_is_the_same_page(monkeypatch):
    frame = pd.DataFrame({"a": [1.0, 3.0]})
    first, again = (shown_tables(monkeypatch, frame, "rows", best="highest") for _ in range(2))
    other = shown_tables(monkeypatch, frame * 2, "rows", best="highest")
    name = re.search(r'id="(T_\w+)"', first)[1]
    assert first == again and f"#{name}_row1_col0" in first and f'id="{name}_row1_col0"' in first
    assert name not in other, "styles of two tables of one page stay apart"


def test_a_folded_table_shows_its_caption_alone(monkeypatch):
    made = shown_tables(monkeypatch, pd.DataFrame({"a": [1.0]}), "all rows", folded=True)
    assert made.startswith("<details><summary>all rows</summary>") and "<caption>" not in made
