"""Laws of the pairs: notebooks/*.ipynb is what `make notebooks` makes of nbs_src/*.py, to the byte.

Compared by content, never by time stamps: in a fresh clone those are the order of the checkout.
"""

import ast
import re
import shutil
import subprocess
import sys

import jupytext
import pytest
from jupytext.cli import jupytext as jupytext_cli
from jupytext.compare import compare_notebooks

from flowood_core.notebook import params
from flowood_core.system import paths, profiles

ROOT = paths.repo_root()
SOURCES = sorted((ROOT / "nbs_src").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)

HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---"""


def test_there_are_notebooks():
    assert SOURCES, "nbs_src/ is empty, so nothing here was tested"


def test_every_source_has_a_notebook_and_every_notebook_a_source():
    made, wanted = {p.stem for p in NOTEBOOKS}, {p.stem for p in SOURCES}
    assert not wanted - made, f"run `make notebooks`; missing: {sorted(wanted - made)}"
    assert not made - wanted, f"no source in nbs_src/ for {sorted(made - wanted)}"


@each_notebook
def test_a_notebook_says_what_its_source_says(notebook):
    source = ROOT / "nbs_src" / f"{notebook.stem}.py"
    compare_notebooks(jupytext.read(notebook), jupytext.read(source), fmt="py:percent")


@each_notebook
def test_a_notebook_is_committed_without_outputs_and_with_counted_cells(notebook):
    cells = jupytext.read(notebook).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert [cell.id for cell in cells] == [str(n) for n in range(len(cells))]


@each_notebook
def test_a_notebook_runs_on_the_kernel_every_environment_has(notebook):
    kernel = jupytext.read(notebook).metadata.get("kernelspec", {})
    assert kernel.get("name") == "python3", f"begin nbs_src/{notebook.stem}.py with\n{HEADER}"


@each_source
def test_a_source_has_one_parameters_cell_which_the_next_code_cell_checks(source):
    code = [cell for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    tagged = [n for n, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", ())]
    assert len(tagged) == 1, f'expected one cell `# %% tags=["parameters"]`, got {len(tagged)}'
    declared = params.declared_in(code[tagged[0]].source)
    assert declared["profile"] == params.Declared("str", "quick")
    calls = [n for n in ast.walk(ast.parse(code[tagged[0] + 1].source)) if isinstance(n, ast.Call)]
    check = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "params.check"]
    assert check == [f"params.check(globals(), notebook={source.stem!r})"]


@each_source
def test_the_manual_page_of_a_notebook_lists_every_parameter(source):
    """papermill --help-notebook reads one line per parameter and knows no `int | None`."""
    cell = next(c for c in jupytext.read(source).cells if "parameters" in c.metadata.get("tags", ()))
    for name, declared in params.declared_in(cell.source).items():
        assert "|" not in declared.type_text, (
            f"{name}: write Optional[...]; papermill's help drops {declared.type_text}"
        )
        line = next(line for line in cell.source.splitlines() if line.startswith(f"{name}:"))
        assert line.split("#")[0].count("=") <= 1, f"{name}: papermill's help drops a line with two `=`"


@each_source
def test_cell_metadata_is_what_jupytext_keeps(source):
    for cell in jupytext.read(source).cells:
        # the last two are jupytext's memory of how the source is spaced
        extra = set(cell.metadata) - {"tags", "cellView", "title", "cell_marker", "lines_to_next_cell"}
        assert not extra, f'tags are written `# %% tags=["..."]`; got {dict(cell.metadata)}'


@each_source
def test_no_magic_is_indented(source):
    """jupytext leaves an indented magic a comment in the notebook: it would silently do nothing."""
    for cell in jupytext.read(source).cells:
        if cell.cell_type == "code":
            assert not re.search(r"^[ \t]+(# )?[%!][a-z]", cell.source, flags=re.M), cell.source


def test_notebooks_made_anew_are_the_same_to_the_byte(tmp_path):
    shutil.copy(ROOT / "jupytext.toml", tmp_path)
    (tmp_path / "nbs_src").mkdir()
    (tmp_path / "notebooks").mkdir()
    for source in SOURCES:
        copy = shutil.copy(source, tmp_path / "nbs_src")
        made = tmp_path / "notebooks" / f"{source.stem}.ipynb"
        jupytext_cli(["--quiet", "--to", "ipynb", "--output", str(made), str(copy)])
    made = sorted((tmp_path / "notebooks").glob("*.ipynb"))
    assert made
    subprocess.run([sys.executable, "-m", "nbstripout", *map(str, made)], check=True)
    committed = {p.name: p.read_bytes() for p in NOTEBOOKS}
    stale = [p.stem for p in made if p.read_bytes() != committed.get(p.name)]
    assert not stale, f"run `make notebooks`; changed: {stale}"


@pytest.mark.parametrize("profile", profiles.profiles())
@each_source
def test_every_profile_gives_every_notebook_all_its_parameters(source, profile):
    cell = next(c for c in jupytext.read(source).cells if "parameters" in c.metadata.get("tags", ()))
    namespace = {"In": [cell.source]}
    exec(cell.source, namespace)
    namespace["profile"] = profile
    assert params.check(namespace, notebook=source.stem).profile == profile
