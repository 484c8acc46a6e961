"""Laws of the cells to play with: a slider where somebody looks, a still picture everywhere else."""

import sys

import pytest

from flowood_core import play

SIGNS = ("JPY_SESSION_NAME", "VSCODE_PID", "FLOWOOD_STILL")


@pytest.fixture(autouse=True)
def headless(monkeypatch):
    for sign in SIGNS:
        monkeypatch.delenv(sign, raising=False)


def test_headless_it_draws_once_with_the_middle_values():
    seen = []
    play.play(lambda **chosen: seen.append(chosen), radius=[0, 1, 2], n=[10, 20])
    assert seen == [{"radius": 1, "n": 20}]


def test_where_somebody_looks_there_are_sliders(monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    made = []
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    monkeypatch.setattr(widgets, "interact", lambda draw, **sliders: made.append(sliders))
    play.play(print, radius=[0, 1, 2])
    assert made[0]["radius"].options == (0, 1, 2) and made[0]["radius"].value == 1


def test_without_ipywidgets_it_draws_and_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setenv("VSCODE_PID", "1")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    play.play(lambda radius: print("radius", radius), radius=[3])
    assert capsys.readouterr().out == "pip install ipywidgets, and this cell has sliders\nradius 3\n"


def test_it_can_be_told_to_keep_still(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert play.is_watched()
    monkeypatch.setenv("FLOWOOD_STILL", "1")
    assert not play.is_watched()


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(ValueError, match="got none for radius"):
        play.play(print, radius=[])
