"""Where a grid stands: ``python -m flowood_core status [profile]`` lists done, running, stopped and waiting runs."""

import json
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from flowood_core.runs import Spec, grid

__all__ = ["Standing", "describe", "line_of", "standing", "standings"]


@dataclass(frozen=True)
class Standing:
    """One run: state is done, running, stopped (killed; continues from its checkpoint) or waiting."""

    run_id: str
    state: str
    step: int = 0
    steps: int = 0
    loss: float = float("nan")
    bpd_id: float = float("nan")
    seconds: float = 0.0
    absent: tuple[str, ...] = ()

    @property
    def eta_s(self) -> float:
        """Seconds of training left at the pace so far; nan before the first checkpoint."""
        return self.seconds / self.step * (self.steps - self.step) if self.step else float("nan")


def standing(spec: Spec) -> Standing:
    """Read one run's folder; never waits."""
    folder = spec.folder
    if (metrics := _json(folder / "metrics.json")) is not None:
        bpd = metrics["id"]["bpd"]
        seconds = metrics["seconds"]["training"]
        steps, absent = metrics["steps"], spec.unscored(metrics)
        return Standing(spec.run_id, "done", steps, steps, bpd_id=bpd, seconds=seconds, absent=absent)
    seen = _json(folder / "progress.json") or {}
    facts = {k: seen[k] for k in ("step", "steps", "loss", "bpd_id", "seconds") if k in seen}
    if _is_locked(folder / ".lock"):
        return Standing(spec.run_id, "running", **facts)
    return Standing(spec.run_id, "stopped" if (folder / "spec.json").exists() else "waiting", **facts)


def standings(profile: str) -> list[Standing]:
    """Every run of the profile's grid."""
    return [standing(s) for s in grid.by_run_id(profile).values()]


def describe(profile: str) -> str:
    """The table that `make status` prints, with the time that is left for one worker."""
    rows = standings(profile)
    if not rows:
        return f"profile {profile}: its grid has no runs"
    width = max(len(r.run_id) for r in rows)
    lines = [
        f"{'run':{width}}  state    step          loss    bits/dim  time",
        *[line_of(r, width) for r in rows],
    ]
    counts = {
        state: sum(r.state == state for r in rows) for state in ("done", "running", "stopped", "waiting")
    }
    done = [r.seconds for r in rows if r.state == "done"]
    todo = [r for r in rows if r.state != "done"]
    each = sum(done) / len(done) if done else float("nan")
    left = sum(r.eta_s if r.step else each for r in todo)
    total = ", ".join(f"{n} {state}" for state, n in counts.items())
    if todo:
        known = (
            f"about {_minutes(left)} of training left"
            if left == left
            else "time left unknown until one is done"
        )
        total += f"; {known}, for one worker"
    lines.append(total)
    return "\n".join(lines)


def line_of(r: Standing, width: int = 0) -> str:
    """One row of the table; a run that was scored before a test set was here says so."""
    steps = f"{r.step}/{r.steps}" if r.steps else "-"
    spent = _minutes(r.seconds) if r.state == "done" else f"{_minutes(r.eta_s)} left"
    missing = f"  not scored yet on {', '.join(r.absent)}" if r.absent else ""
    return (
        f"{r.run_id:{width}}  {r.state:8} {steps:12} {_number(r.loss):>8} {_number(r.bpd_id):>9}  "
        f"{spent if r.step else '-'}{missing}"
    )


def _json(path: Any) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def _is_locked(path: Any) -> bool:
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"


def _minutes(seconds: float) -> str:
    if seconds != seconds:
        return "?"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
