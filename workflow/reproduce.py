"""`make reproduce`: the grid of a profile on an executor, with one bar over all of it and something to see at once.

Snakemake leads the grid and writes to a log. Beside it a copy of this process draws the bar, the first figure as
soon as its two flows are trained, and the page anew whenever a notebook is done. On one machine without a GPU the
jobs are copies of this process too (`workflow.warm`); elsewhere each is a process of its own, as on a cluster.
"""

import contextlib
import json
import os
import re
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from workflow import warm

__all__ = ["main"]

LOOKS_EVERY_S, GROWS_EVERY_S = 0.5, 15.0  # the page reloads itself as often as it grows
SHARE = {"runs": 0.75, "notebooks": 0.25}  # of the time, before anything is known
TOLD_LINES = 14


def main(profile: str, executor: str) -> int:
    """Run the grid; 0 where all of it was made, and then the page's path is the last line printed."""
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from flowood_core.runs import grid
    from flowood_core.system import paths

    folder = paths.profile_dir(profile)
    log = folder / "reproduce.log"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        (lifeline, ours), copies = os.pipe(), []
        if executor == "local" and warm.can_fork():
            warm.preload(profile)
            scratch = held.enter_context(tempfile.TemporaryDirectory(prefix="flowood-"))
            os.environ["FLOWOOD_WARM"] = f"{scratch}/warm"
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(os.environ["FLOWOOD_WARM"])
            listener.listen(64)
            last = list(grid.by_run_id(profile))[-1]
            copies.append(_copy(lambda: warm.serve(listener, lifeline, last), closing=ours))
            listener.close()
        copies.append(_copy(lambda: _watch(profile, lifeline, began), closing=ours))
        code = _snakemake(profile, executor, log)
        os.close(ours)
        for copy in copies:
            os.waitpid(copy, 0)
    _take_away_empty_logs(folder)
    page = folder / "site" / "index.html"
    if code or not page.is_file():
        print(f"The grid ended with an error. Its log: {log}\n{_told(log)}", file=sys.stderr)
        return code or 1
    print(f"Done in {time.monotonic() - began:.0f} s. Log: {log}\nReport: {page}")
    return 0


def _copy(work: Callable[[], None], closing: int | None = None) -> int:
    """Do some work in a copy of this process, which ends with it; returns its id."""
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            if closing is not None:
                os.close(closing)
            work()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def _snakemake(profile: str, executor: str, log: Path) -> int:
    """Snakemake in this process, its lines in the log."""
    from snakemake.cli import main as snakemake

    from flowood_core.evidence import site

    streams = [os.dup(1), os.dup(2)]
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    command = ["--snakefile", "workflow/Snakefile", "--workflow-profile", f"workflow/profiles/{executor}"]
    if executor != "kubernetes":  # there a result has another name for Snakemake
        command += ["--prioritize", *(str(s.folder / "metrics.json") for s in site.first_pair(profile))]
    try:
        snakemake([*command, "--config", f"profile={profile}"])
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream, number)


def _take_away_empty_logs(folder: Path) -> None:
    """Snakemake makes the log of each job, here a notebook; a training without a kernel leaves nothing in it."""
    for log in folder.glob("runs/*/train_one.ipynb"):
        if not log.stat().st_size:
            log.unlink()


def _told(log: Path) -> str:
    """The lines of the log that name an error; else its end."""
    lines = [x for x in log.read_text(errors="replace").splitlines() if x.strip()]
    named = [x for x in lines if re.search(r"\b[A-Za-z]*(Error|Exception)\b|No space left|Killed", x)]
    return "\n".join((named or lines)[-TOLD_LINES:])


# --- beside the grid -----------------------------------------------------------------------------------------


def _watch(profile: str, lifeline: int, began: float) -> None:
    """Draw the bar and keep the page fresh until the head has ended."""
    from flowood_core.evidence import site
    from flowood_core.runs import grid
    from flowood_core.system import paths
    from flowood_core.system.progress import Progress

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder, first = paths.profile_dir(profile), site.first_figure(profile)
    runs = [spec.folder for spec in grid.by_run_id(profile).values()]
    bar = Progress(100, f"profile {profile}", start=_percent(folder, runs)[0])
    seen, drawing, drawn, is_told = None, 0, began - GROWS_EVERY_S, False
    while not select.select([lifeline], [], [], LOOKS_EVERY_S)[0]:
        percent, facts = _percent(folder, runs)
        made = facts["notebooks"]
        bar.update(percent - bar.n, **facts)
        if drawing and os.waitpid(drawing, os.WNOHANG)[0]:
            drawing = 0
        if not is_told and first.is_file() and not drawing:
            page = folder / "site" / "index.html"
            bar.say(
                f"First figure after {time.monotonic() - began:.0f} s: {first}\nPage, which grows: {page}"
            )
            is_told = True
        is_due = seen != made and time.monotonic() - drawn >= GROWS_EVERY_S
        if not drawing and is_due and site.can_draw_first(profile):
            drawing, seen = _copy(lambda: site.build(profile, is_growing=True)), made
            drawn = time.monotonic()
    if drawing:
        os.waitpid(drawing, 0)
    bar.close()


def _percent(folder: Path, runs: Sequence[Path]) -> tuple[int, dict[str, int]]:
    """How much of the grid is done, and how many runs and notebooks."""
    from flowood_core.system import paths

    done = [_share_of_run(run) for run in runs]
    made = sum(p.stem != "train_one" for p in (folder / "notebooks").glob("*.json"))
    wanted = sum(p.stem != "train_one" for p in (paths.repo_root() / "notebooks").glob("*.ipynb"))
    share = SHARE["runs"] * sum(done) / max(len(runs), 1) + SHARE["notebooks"] * made / max(wanted, 1)
    return int(100 * share), {"runs": sum(d == 1 for d in done), "notebooks": made}


def _share_of_run(folder: Path) -> float:
    if (folder / "metrics.json").is_file():
        return 1.0
    try:
        seen = json.loads((folder / "progress.json").read_text())
        return seen["step"] / seen["steps"]
    except (OSError, ValueError, KeyError):
        return 0.0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
