"""Laws of the cells to play with: a slider where somebody looks, a still picture everywhere else."""

import re
import sys
from datetime import datetime

import pytest

from flowood_core.notebook import widgets
from flowood_core.system import progress

SIGNS = ("JPY_SESSION_NAME", "VSCODE_PID", "FLOWOOD_STILL")


@pytest.fixture(autouse=True)
def headless(monkeypatch):
    for sign in SIGNS:
        monkeypatch.delenv(sign, raising=False)


def test_headless_it_draws_once_with_the_middle_values():
    seen = []
    widgets.play(lambda **chosen: seen.append(chosen), radius=[0, 1, 2], n=[10, 20])
    assert seen == [{"radius": 1, "n": 20}]


def test_where_somebody_looks_there_are_sliders(monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets")
    made = []
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    monkeypatch.setattr(ipywidgets, "interact", lambda draw, **sliders: made.append(sliders))
    widgets.play(print, radius=[0, 1, 2])
    assert made[0]["radius"].options == (0, 1, 2) and made[0]["radius"].value == 1


def test_without_ipywidgets_it_draws_and_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setenv("VSCODE_PID", "1")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    widgets.play(lambda radius: print("radius", radius), radius=[3])
    assert capsys.readouterr().out == "pip install ipywidgets, and this cell can be played with\nradius 3\n"


def test_it_can_be_told_to_keep_still(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert progress.is_watched()
    monkeypatch.setenv("FLOWOOD_STILL", "1")
    assert not progress.is_watched()


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(ValueError, match="got none for radius"):
        widgets.play(print, radius=[])


# --- something of one's own --------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    """What a watched page shows."""
    pytest.importorskip("ipywidgets")
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    made = []
    monkeypatch.setattr(widgets, "_show", made.append)
    return made


def test_headless_all_examples_are_drawn_and_the_text_is_the_example():
    seen = []
    widgets.pick(seen.append, {"a": 1, "b": 2})
    widgets.ask(seen.append, "a text")
    assert seen == [{"a": 1, "b": 2}, "a text"]


def test_an_example_is_picked_and_a_file_uploaded(shown):
    seen = []
    widgets.pick(seen.append, {"a": 1, "b": 2})
    choice, upload = shown[0].children[0].children
    choice.value = "b"
    upload.value = (
        {
            "name": "c.png",
            "content": memoryview(b"xy"),
            "type": "",
            "size": 2,
            "last_modified": datetime.now(),
        },
    )
    assert seen == [{"a": 1}, {"b": 2}, {"c.png": b"xy"}]


def test_a_file_of_a_hosted_notebook_is_the_same():
    assert widgets._uploaded({"c.png": {"metadata": {}, "content": b"xy"}}) == {"c.png": b"xy"}


def test_what_cannot_be_read_is_said_and_the_cell_lives_on(shown, capsys):
    def draw(things):
        if "b" in things:
            raise ValueError("expected a picture")
        print("drawn")

    widgets.pick(draw, {"a": 1, "b": 2})
    choice = shown[0].children[0].children[0]
    choice.value = "b"
    choice.value = "a"
    assert re.findall(r"[a-z ]{5,}", capsys.readouterr().out) == ["drawn", "expected a picture", "drawn"]


def test_a_typed_text_is_drawn_on_a_click(shown):
    seen = []
    widgets.ask(seen.append, "before")
    box, button, _ = shown[0].children
    box.value = "after"
    button.click()
    assert seen == ["before", "after"]


def test_no_example_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        widgets.pick(print, {})
