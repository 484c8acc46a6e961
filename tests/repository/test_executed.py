"""Laws of the committed executed notebooks: they ran to their end, and say nothing of the machine that made them."""

import json
from pathlib import Path

import nbformat
import pytest

from flowood_core.system import paths
from workflow.publish import executed

ROOT = paths.repo_root()
COMMITTED = sorted((ROOT / "outputs" / "sample" / "executed").glob("*.ipynb"))


def cell(source, outputs=(), count=1, tags=()):
    made = nbformat.v4.new_code_cell(source, outputs=list(outputs), execution_count=count)
    made.metadata = {"papermill": {"duration": 3}, "tags": list(tags)}
    return made


def notebook(*cells):
    return nbformat.v4.new_notebook(
        cells=list(cells),
        metadata={
            "papermill": {"output_path": "/somewhere/x"},
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
        },
    )


def test_paths_times_and_warnings_go_and_outputs_stay():
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output(
            "stream", name="stdout", text="3 artefacts below /home/me/flowood/outputs/sample"
        ),
        nbformat.v4.new_output("display_data", {"text/plain": "'/home/me/flowood/x'", "image/png": "aGk="}),
    ]
    made = executed.cleaned(notebook(cell("1", outputs, tags=["imports"])), Path("/home/me/flowood"))
    text = json.dumps(made)
    assert "/home/me" not in text and "papermill" not in text and "a warning" not in text
    assert "3 artefacts below outputs/sample" in text and "aGk=" in text
    assert made.cells[0].metadata == {"tags": ["imports"]}
    nbformat.validate(made)


def test_half_a_notebook_is_refused():
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
    with pytest.raises(ValueError, match="cell 1"):
        executed.cleaned(notebook(cell("1"), cell("2", [error])), ROOT)
    with pytest.raises(ValueError, match="cell 0 was not"):
        executed.cleaned(notebook(cell("1", count=None)), ROOT)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_a_committed_notebook_is_clean_small_and_has_the_code_of_its_source(path):
    found = nbformat.read(path, 4)
    assert json.dumps(executed.cleaned(found, ROOT)) == json.dumps(found)
    assert path.stat().st_size <= executed.LARGEST
    source = nbformat.read(ROOT / "notebooks" / path.name, 4)
    ran = [c.source for c in found.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    assert ran == [c.source for c in source.cells]


def test_running_a_notebook_again_changes_no_committed_file_and_half_of_one_is_left_out(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    folder = tmp_path / "sample" / "notebooks"
    folder.mkdir(parents=True)
    nbformat.write(notebook(cell("1")), folder / "00_start_here.ipynb")
    nbformat.write(notebook(cell("1", count=None)), folder / "05_scoreboard.ipynb")
    assert executed.main([]) == 0
    assert [p.name for p in (tmp_path / "sample" / "executed").iterdir()] == ["00_start_here.ipynb"]
    assert "05_scoreboard.ipynb: left out" in capsys.readouterr().out
    assert "papermill" in (folder / "00_start_here.ipynb").read_text()


def test_prose_is_todays_where_the_code_is_and_as_it_was_elsewhere():
    def told(prose, code):
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), cell(code)])

    assert executed.with_prose(told("old", "1"), told("new", "1")).cells[0].source == "new"
    assert executed.with_prose(told("old", "1"), told("new", "2")).cells[0].source == "old"
    assert executed.with_prose(told("old", "1"), notebook(cell("1"))).cells[0].source == "old"
