"""Laws of what a notebook cannot make here: an earlier result stays to the byte and is shown with the reason."""

import io

import pandas as pd
import pytest
from PIL import Image

from flowood_core.notebook.sheet import Sheet


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    return Sheet("some_notebook", {"profile": "smoke"})


def test_an_earlier_table_stays_and_is_listed(sheet, capsys):
    sheet.save_table(pd.DataFrame({"a": [1.5]}), "kept", "an earlier table")
    path = sheet.folder / "tables" / "kept.csv"
    before = path.read_bytes()
    later = Sheet("some_notebook", {"profile": "smoke"})
    assert later.keep("tables/kept.csv", "a table", "The weights are not here.")
    assert path.read_bytes() == before and later.artefacts == ["tables/kept.csv"]
    assert "The weights are not here. What an earlier run left is shown." in capsys.readouterr().out


def test_an_earlier_figure_is_shown_at_the_size_of_a_new_one(sheet, monkeypatch):
    path, shown = sheet.folder / "figures" / "kept.png", []
    path.parent.mkdir(parents=True)
    Image.new("RGB", (320, 160)).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("IPython.display.display", shown.append)
    assert sheet.keep("figures/kept.png", "a figure", "The weights are not here.")
    with Image.open(io.BytesIO(shown[0].data)) as small:
        assert small.size == (220, 110)
    assert path.read_bytes() == before


def test_where_nothing_was_left_the_reason_alone_is_printed(sheet, capsys):
    assert not sheet.keep("figures/none.png", "a figure", "The weights are not here.")
    assert sheet.artefacts == [] and "Nothing is shown." in capsys.readouterr().out
