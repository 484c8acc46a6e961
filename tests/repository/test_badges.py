"""Laws of the front door: one address everywhere, stamped from the remote; a lone notebook installs what it needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from flowood_core.system import paths
from workflow.publish import badges

ROOT = paths.repo_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def addresses(folder, suffix):
    return {
        p.stem: re.findall(r'REPO, REF = \\?"(.*?)\\?", \\?"(.*?)\\?"', p.read_text("utf-8"))
        for p in folder.glob(suffix)
    }


def test_all_notebooks_carry_the_one_address():
    found = addresses(ROOT / "nbs_src", "*.py")
    assert {home for pairs in found.values() for home, _ in pairs} == {PROJECT["urls"]["Repository"]}
    assert len({ref for pairs in found.values() for _, ref in pairs}) == 1
    assert all(len(pairs) == 1 for pairs in found.values()), found
    assert addresses(ROOT / "notebooks", "*.ipynb").items() <= found.items()


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/a/b",
        "https://github.com/a/b.git\n",
        "git@github.com:a/b.git",
        "ssh://git@github.com/a/b.git",
        "https://name:secret@github.com/a/b",
    ],
)
def test_every_spelling_of_a_remote_becomes_one_address(remote):
    assert badges.home_of(remote) == "https://github.com/a/b"


@pytest.mark.parametrize(
    "remote", ["/some/folder", "file:///some/folder", "../there", "https://github.com/", ""]
)
def test_what_nobody_can_reach_is_refused(remote):
    with pytest.raises(badges.BadgeError, match="expected a remote"):
        badges.home_of(remote)


@pytest.fixture
def checkout(tmp_path):
    shutil.copytree(ROOT / "nbs_src", tmp_path / "nbs_src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_stamping_writes_address_and_badge_and_can_be_repeated(checkout):
    home = "https://github.com/someone/flowood"
    assert badges.stamp(checkout, home, "v1")
    assert badges.stamp(checkout, home, "v1") == []
    for source in (checkout / "nbs_src").glob("*.py"):
        text = source.read_text("utf-8")
        assert text.count("colab-badge.svg") == 1
        assert f"github/someone/flowood/blob/v1/notebooks/{source.stem}.ipynb)" in text
        assert f'REPO, REF = "{home}", "v1"' in text
        title, badge = re.search(r'r?"""\n(# .*)\n(.*)\n', text).groups()
        assert title.startswith("# ") and badge.startswith("[![Open In Colab]"), "the title stays first"
    badges.stamp(checkout, "https://github.com/other/name", "v2")
    everything = "".join(p.read_text("utf-8") for p in checkout.rglob("*.*"))
    assert "someone" not in everything and 'Repository = "https://github.com/other/name"' in everything


def test_elsewhere_than_github_there_is_an_address_but_no_badge(checkout):
    badges.stamp(checkout, "https://example.org/a/b", "main")
    assert "colab-badge" not in (checkout / "README.md").read_text("utf-8")
    assert 'REPO, REF = "https://example.org/a/b", "main"' in (
        checkout / "nbs_src/00_start_here.py"
    ).read_text("utf-8")


def test_without_a_remote_it_fails_loudly(checkout):
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=checkout, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "workflow.publish.badges"],
        cwd=checkout, env=os.environ | {"FLOWOOD_ROOT": str(checkout)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0 and "git remote add origin" in done.stderr


def test_the_core_resolves_beside_a_hosted_notebook(tmp_path):
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed")
    command = [uv, "pip", "compile", "pyproject.toml", "--extra", "text", "-c", "tests/colab-constraints.txt"]
    command += ["--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_28", "-q", "--no-header"]
    try:
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "out.txt")],
            cwd=ROOT, env={"UV_SYSTEM_CERTS": "1"} | os.environ, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("the package index does not answer")
    if done.returncode and re.search(r"[Ff]ailed to fetch|dns|connect|timed out|certificate", done.stderr):
        pytest.skip("no network: " + done.stderr.splitlines()[0][:80])
    assert done.returncode == 0, done.stderr[-2000:]
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "tests/colab-constraints.txt").read_text(), re.M))
    made = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (tmp_path / "out.txt").read_text().lower(), re.M))
    assert made["freia"] and all(made[name] == pins[name] for name in made.keys() & pins.keys())


@pytest.mark.skipif(
    not os.environ.get("FLOWOOD_LONE"), reason="on demand: FLOWOOD_LONE=1; builds an environment"
)
def test_a_lone_notebook_installs_the_package_and_runs(tmp_path):
    """A copied notebook, an empty folder, an environment without this package: the bootstrap cell fetches it."""
    home = tmp_path / "home"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "flowood_core", "data/paper",
         "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, home / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=home, check=True)

    room = tmp_path / "empty"
    room.mkdir()
    notebook = json.loads((ROOT / "notebooks/02_2_synthetic_outliers.ipynb").read_text("utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = [
            badges.BOOTSTRAP.sub(f'REPO, REF = "file://{home}", "main"', line) for line in cell["source"]
        ]
    (room / "lone.ipynb").write_text(json.dumps(notebook))
    venv.create(tmp_path / "env", with_pip=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    here = next(p for p in map(Path, sys.path) if (p / "torch").is_dir())
    others = tmp_path / "dependencies"  # everything that is installed here, but for this package
    others.mkdir()
    for entry in here.iterdir():
        if not entry.name.startswith(("flowood", "_editable", "pip")) and entry.suffix != ".pth":
            (others / entry.name).symlink_to(entry)
    (site / "dependencies.pth").write_text(f"{others}\n")
    python = tmp_path / "env/bin/python"
    # a pip of before 2024 knows no git+file:///; hosted notebooks have a newer one
    upgrade = [python, "-m", "pip", "install", "-q", "-U", "pip"]
    if subprocess.run(upgrade, cwd=room, capture_output=True).returncode:
        pytest.skip("the package index does not answer")
    clean = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FLOWOOD_ROOT", "FLOWOOD_OUTPUTS")
    }
    without = subprocess.run([python, "-c", "import flowood_core"], cwd=room, env=clean, capture_output=True)
    assert without.returncode != 0, "the new environment has the package already"
    done = subprocess.run(
[python, "-m", "papermill", "lone.ipynb", "out.ipynb", "-k", "python3", "-p", "profile", "smoke"],
        cwd=room, env=clean | {"PIP_NO_BUILD_ISOLATION": "0", "FLOWOOD_PROGRESS": "none"},
        capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (site / "flowood_core" / "flow.py").is_file()
    assert list((room / "outputs/smoke/figures").glob("*.png"))
