"""Laws of figures in rows: heat maps of a model share one scale, ridges one set of bins."""

import numpy as np
import pytest
import torch

from flowood_core.notebook import figures


def test_one_element_does_not_make_the_other_rows_black_and_each_model_has_a_bar():
    rng = np.random.default_rng(0)
    pictures = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    plain, corrected = rng.random((2, 3, 16, 16))
    corrected[0, 0, 0] = 1e6
    fig, axes = figures.figure("wide", rows=4, columns=3)
    maps = {"FastFlow": {"plain": plain, "corrected": corrected}, "CS-Flow": {"plain": plain}}
    figures.draw_heat_rows(fig, axes, pictures, maps, label="ID")
    shown = [np.asarray(row[1].images[0].get_array(), float) for row in axes[1:]]
    assert all(s.std() > 0.01 * s.max() for s in shown)
    np.testing.assert_allclose(shown[0].std(), shown[1].std(), rtol=0.3)
    assert len(fig.axes) == axes.size + len(maps)


def test_ridges_name_their_sets_from_the_top_and_mark_the_printed_mean():
    values = {"cifar10": np.linspace(6, 7, 50), "svhn": np.linspace(4, 6, 50)}
    _, ax = figures.figure("wide")
    figures.draw_ridges(ax, values, labels={"svhn": "SVHN"}, printed={"svhn": 5.1})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cifar10", "SVHN"]
    means = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    assert means == pytest.approx([6.5, 5.0])
    assert any(list(line.get_xdata()) == [5.1] for line in ax.lines)
