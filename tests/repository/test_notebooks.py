"""Every notebook runs top to bottom, headless, and leaves what it promises (profile smoke: seconds, no meaning)."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from flowood_core import datasets
from flowood_core.evidence import site
from flowood_core.system import paths

ROOT = paths.repo_root()
NAMES = sorted(p.stem for p in (ROOT / "nbs_src").glob("*.py"))
TABLES = [name for name in NAMES if name != "train_one"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All notebooks, two at a time: name -> (return code, messages), and the folder they wrote to."""
    outputs = tmp_path_factory.mktemp("notebooks")
    environment = os.environ | {"FLOWOOD_OUTPUTS": str(outputs), "FLOWOOD_PROGRESS": "none"}
    (outputs / "smoke" / "notebooks").mkdir(parents=True)

    def execute(name):
        out = outputs / "smoke" / "notebooks" / f"{name}.ipynb"
        command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", str(out), "-k", "python3"]
        done = subprocess.run(
            [*command, "-p", "profile", "smoke", "--no-progress-bar"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        return name, (done.returncode, done.stderr)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(execute, NAMES)), outputs


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_top_to_bottom(executed, name):
    code, messages = executed[0][name]
    assert code == 0, messages[-3000:]


@pytest.mark.parametrize("name", TABLES)
def test_a_notebook_leaves_a_manifest_and_what_it_names(executed, name):
    folder = executed[1] / "smoke"
    manifest = json.loads((folder / "notebooks" / f"{name}.json").read_text())
    assert manifest["artefacts"], "a notebook without figure or table makes nothing"
    for artefact in manifest["artefacts"]:
        assert (folder / artefact).stat().st_size > 0
        assert manifest["captions"][artefact], f"{artefact} has no caption"


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_warns_or_names_a_folder_of_this_machine(executed, name):
    """Warnings in an executed notebook are read by everybody; a path in one is nobody's business."""
    notebook = json.loads((executed[1] / "smoke" / "notebooks" / f"{name}.ipynb").read_text())
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("text", []))
            assert "Warning" not in text, text
            assert "site-packages" not in text, text


def test_your_own_flow_runs_on_a_folder_of_sixty_images(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    for n, x in enumerate(datasets.load("photo", "train").x[:60]):
        Image.fromarray(x.permute(1, 2, 0).contiguous().numpy()).save(folder / f"{n}.png")
    out, outputs = tmp_path / "out.ipynb", tmp_path / "outputs"
    command = [sys.executable, "-m", "papermill", "notebooks/04_your_own_flow.ipynb", str(out)]
    done = subprocess.run(
        [*command, "-k", "python3", "-p", "profile", "smoke", "-p", "id_folder", str(folder)],
        cwd=ROOT, env=os.environ | {"FLOWOOD_OUTPUTS": str(outputs), "FLOWOOD_PROGRESS": "none"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (outputs / "smoke" / "tables" / "scores.csv").exists()


def test_the_site_binds_them_all(executed, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(executed[1]))
    index = site.build("smoke")
    text = index.read_text()
    assert all(
        f'href="{name}.html"' in text and Path(index.parent / f"{name}.html").exists() for name in TABLES
    )
