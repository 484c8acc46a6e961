"""Laws of the grid: a killed worker is run again, what is done is not redone, and a typo stops before the start."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowood_core.runs import grid
from flowood_core.system import paths

ROOT = paths.repo_root()
BIN = Path(sys.executable).parent


def command(*targets, config="profile=smoke", dry=False):
    return [
        sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--workflow-profile",
        "workflow/profiles/local", "--config", config, *(["--dry-run"] if dry else []), "--", *map(str, targets),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("grid")
    return os.environ | {"FLOWOOD_OUTPUTS": str(outputs), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def workers(outputs: str) -> list[int]:
    """Processes of papermill that train below this folder."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = cmdline.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(a.endswith("papermill") for a in said) and any(
            a.startswith(f"{outputs}/smoke/runs") for a in said
        ):
            found.append(int(cmdline.parent.name))
    return found


def started(environment, target):
    """A head that works on the target, and the workers seen so far."""
    head = subprocess.Popen(
        command(target),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not (found := workers(environment["FLOWOOD_OUTPUTS"])) and head.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return head, found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the workers in /proc")
def test_a_killed_head_and_a_killed_worker_lose_nothing(environment):
    outputs = environment["FLOWOOD_OUTPUTS"]
    manifest = Path(outputs) / "smoke" / "notebooks" / "02_4_ood_scoring.json"
    head, orphans = started(environment, manifest)
    time.sleep(2)
    head.kill()
    for orphan in orphans:  # what a reboot would do; left alone, they would finish and the runs be read
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    head.communicate()
    assert not manifest.exists()

    head, victims = started(environment, manifest)
    time.sleep(2)
    for victim in victims[:1]:
        os.kill(victim, signal.SIGKILL)
    said, _ = head.communicate(timeout=400)
    assert head.returncode == 0, said
    assert "Trying to restart" in said
    assert manifest.exists()
    runs = {s.run_id for s in grid.rows("smoke", "table_4")}  # MLE and CCM+Gaussian
    made = {p.parent.name for p in (Path(outputs) / "smoke" / "runs").glob("*/metrics.json")}
    assert made == runs

    # a second call finds nothing to do; without one result, only that run and what depends on it
    folder = Path(outputs) / "smoke" / "runs"
    targets = [manifest, *(folder / run / "metrics.json" for run in runs)]

    def plan():
        dry = command(*targets, dry=True)
        done = subprocess.run(dry, cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    assert "Nothing to be done" in plan()
    (folder / sorted(made)[0] / "metrics.json").unlink()
    said = plan()
    assert re.search(r"^train +1$", said, re.M) and re.search(r"^notebook +1$", said, re.M), said


@pytest.mark.parametrize(
    ("config", "message"),
    [("profile=quik", "quik.*smoke, quick"), ("profil=quick", r"profil' was unexpected")],
)
def test_a_typo_in_the_configuration_stops_before_anything_starts(environment, config, message):
    done = subprocess.run(
        command("all", config=config, dry=True), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert re.search(message, done.stdout + done.stderr), done.stdout + done.stderr


def test_every_notebook_of_the_grid_exists_and_every_notebook_is_in_it():
    text = (ROOT / "workflow" / "Snakefile").read_text()
    sources = {p.stem for p in (ROOT / "nbs_src").glob("*.py")}
    listed = {name for name in sources if f'"{name}": [' in text}
    assert listed == sources - {"train_one"}


def test_a_table_may_be_a_list_of_products(monkeypatch):
    entries = [{"id": ["photo"], "ood": ["digits"], "method": ["mle"], "seed": [0, 1, 2]},
               {"id": ["smooth"], "ood": ["aliased"], "method": ["mle", "ccm"], "seed": [0]}]  # fmt: skip
    monkeypatch.setattr(grid, "preset", lambda profile: {"grid": {"table_2": entries}})
    found = [(s.id, s.method, s.seed, s.ood) for s in grid.rows("smoke", "table_2")]
    assert found == [("photo", "mle", seed, ("digits",)) for seed in range(3)] + [
        ("smooth", m, 0, ("aliased",)) for m in ("mle", "ccm")
    ]
