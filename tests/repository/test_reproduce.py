"""Laws of `make reproduce`: one command, copies of a warm process, killed anywhere and continued."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from joblib import Parallel, delayed

from flowood_core.runs import grid
from flowood_core.system import paths
from workflow import warm

ROOT = paths.repo_root()
RUN = list(grid.by_run_id("smoke"))
needs_fork = pytest.mark.skipif(not warm.can_fork(), reason="copies of a process need Linux and no GPU")


def environment(outputs):
    names = {"FLOWOOD_OUTPUTS": str(outputs), "FLOWOOD_PROGRESS": "lines", "FLOWOOD_OFFLINE": "1"}
    return os.environ | names | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def begun(outputs):
    command = [sys.executable, "-m", "workflow.reproduce", "smoke", "local"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(outputs),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in found] + [p for child in found for p in children(int(child))]


@needs_fork
def test_a_head_and_a_worker_killed_lose_nothing_and_the_page_is_there_at_the_end(tmp_path):
    folder = tmp_path / "smoke"
    head = begun(tmp_path)
    deadline = time.monotonic() + 400
    while len(list(folder.glob("runs/*/metrics.json"))) < 4:
        assert time.monotonic() < deadline and head.poll() is None
        time.sleep(0.1)
    beside = children(head.pid)
    head.kill()
    head.communicate()
    while any(
        Path(f"/proc/{pid}").exists() for pid in beside
    ):  # each notices by itself that the head is gone
        assert time.monotonic() < deadline, "a copy outlives its head"
        time.sleep(0.1)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/metrics.json")}

    head = begun(tmp_path)
    victim = None
    while victim is None:
        assert time.monotonic() < deadline and head.poll() is None
        locked = [p for p in children(head.pid) if _trains(p, folder)]
        victim = locked[0] if locked else None
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    said, _ = head.communicate(timeout=900)
    assert head.returncode == 0, said
    after = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/metrics.json")}
    # what was at work when the head was killed ends on its own, but the grid takes it for incomplete: one a core
    assert sum(after[p] != made for p, made in before.items()) <= 2
    assert {p.parent.name for p in folder.glob("runs/*/metrics.json")} == set(RUN)
    assert (
        said.splitlines()[-1] == f"Report: {folder / 'site' / 'index.html'}" and "First figure after" in said
    )
    assert "search.js" in (folder / "site" / "index.html").read_text()
    # as on a cluster, one run went through its notebook
    assert [p.parent.name for p in folder.glob("runs/*/train_one.ipynb")] == [RUN[-1]]


def _trains(pid: int, folder: Path) -> bool:
    """Whether a process holds the lock of a run."""
    try:
        return any(os.readlink(f).startswith(f"{folder}/runs") for f in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


@needs_fork
def test_an_error_names_the_log_and_the_reason(tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "runs").write_text("a file where a folder should be")
    head = begun(tmp_path)
    said, _ = head.communicate(timeout=400)
    assert head.returncode != 0
    assert str(tmp_path / "smoke" / "reproduce.log") in said and "Error" in said.split("reproduce.log")[1]


def warm_server(folder, monkeypatch=None, run=None):
    """A warm process with no grid before it, and the end of the pipe that keeps it alive."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "warm"))
    listener.listen()
    lifeline, ours = os.pipe()
    if run is not None:
        monkeypatch.setattr(warm, "_run", run)
    if (server := os.fork()) == 0:
        os.close(ours)
        warm.serve(listener, lifeline, "none")
        os._exit(0)
    listener.close()
    os.close(lifeline)
    return server, ours


def asked(folder, *command, **how):
    return subprocess.Popen(
        [sys.executable, "-IS", "workflow/ask.py", *command], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=environment(folder) | {"FLOWOOD_WARM": str(folder / "warm")}, **how,
    )  # fmt: skip


@needs_fork
@pytest.mark.parametrize("has_one", [False, True])
def test_the_processes_of_a_pool_end_with_their_job(tmp_path, monkeypatch, has_one):
    if has_one:  # that of whoever is copied is none of the copy's
        assert Parallel(2)(delayed(abs)(i) for i in (-1, -2)) == [1, 2]

    def with_a_pool(command, _):
        return sum(Parallel(2)(delayed(abs)(i) for i in (-1, -2)))

    server, ours = warm_server(tmp_path, monkeypatch, with_a_pool)
    job = asked(tmp_path, "any")
    job.communicate(timeout=120)  # a pool waits 300 s for more work, and holds the pipe as long
    os.close(ours)
    assert (job.returncode, os.waitpid(server, 0)[1]) == (3, 0)


@needs_fork
def test_a_kernel_ends_with_whoever_waits_for_its_notebook(tmp_path):
    cell = f"import pathlib, time; pathlib.Path({str(tmp_path / 'begun')!r}).touch(); time.sleep(600)"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), tmp_path / "long.ipynb")
    server, ours = warm_server(tmp_path)
    job = asked(
        tmp_path, "papermill", str(tmp_path / "long.ipynb"), str(tmp_path / "out.ipynb"), "-k", "python3"
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.1)
    beside = children(server)
    assert len(beside) >= 2  # the copy and its kernel
    job.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in beside):
        assert time.monotonic() < deadline, "a kernel outlives its notebook"
        time.sleep(0.1)
    job.communicate()
    os.close(ours)
    assert os.waitpid(server, 0)[1] == 0


@needs_fork
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["python", "-m", "flowood_core", "site", "nosuch"], 1),
        (["python", "-m", "flowood_core", "status", "smoke"], 0),
        (["cat", "README.md"], 1),
        (["papermill", "nosuch.ipynb", "out.ipynb", "-p", "profile", "smoke"], 1),
    ],
)
def test_a_copy_tells_the_exit_code_and_the_process_ends_with_its_head(tmp_path, command, code):
    server, ours = warm_server(tmp_path)
    job = asked(tmp_path, *command)
    job.communicate()
    os.close(ours)
    assert (job.returncode, os.waitpid(server, 0)[1]) == (code, 0)


def test_a_command_without_a_warm_process_is_the_command_itself(tmp_path):
    told = {"FLOWOOD_WARM": str(tmp_path / "nobody listens"), "PATH": os.environ["PATH"]}
    command = [
        sys.executable,
        "-IS",
        "workflow/ask.py",
        sys.executable,
        "-c",
        "import sys; print('here'); sys.exit(3)",
    ]
    for env in (told, {"PATH": os.environ["PATH"]}):
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (3, "here\n")


def test_what_papermill_is_given_is_read_as_papermill_reads_it():
    command = ["papermill", "a.ipynb", "-k", "k", "-p", "profile", "smoke", "-r", "run_id", "x-1"]
    assert dict(warm._given(command)) == {"profile": "smoke", "run_id": "x-1"}
