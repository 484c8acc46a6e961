"""Progress of long work: a bar where somebody watches, plain lines where the output is a log."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

__all__ = ["Progress", "is_watched", "track"]

LINE_EVERY_S = 5.0
LINE_AT_LEAST_EVERY_S = 300.0


class Progress:
    """Counts steps of a task; `update(n, **facts)` shows them with the time left.

    Under papermill and on pipes a redrawn bar would be lost, so lines are printed: every five seconds at first, then
    ever more rarely, so that the log of an hour is still a page, but at least every five minutes.
    `FLOWOOD_PROGRESS` = bar | lines | none overrides the choice.
    """

    def __init__(self, total: int, label: str, start: int = 0):
        self.total, self.label, self.n, self.start = total, label, start, start
        self.began = self.last = time.monotonic()
        watched = is_watched() if "ipykernel" in sys.modules else sys.stderr.isatty()
        self.mode = os.environ.get("FLOWOOD_PROGRESS") or ("bar" if watched else "lines")
        if self.mode not in ("bar", "lines", "none"):
            raise ValueError(f"expected FLOWOOD_PROGRESS to be bar, lines or none, got {self.mode!r}")
        self.bar = tqdm(total=total, initial=start, desc=label, leave=False) if self.mode == "bar" else None

    def update(self, n: int = 1, **facts: float) -> None:
        self.n += n
        if self.bar is not None:
            self.bar.update(n)
            if facts:
                self.bar.set_postfix({k: f"{v:.4g}" for k, v in facts.items()}, refresh=False)
        elif self.mode == "lines" and time.monotonic() - self.last >= self._pause():
            self._line(facts)

    def _pause(self) -> float:
        since = self.last - self.began
        return min(max(LINE_EVERY_S, 0.2 * since), LINE_AT_LEAST_EVERY_S)

    def eta_s(self) -> float:
        """Seconds left at the pace so far; nan before the first step."""
        done = self.n - self.start
        return float("nan") if done == 0 else (time.monotonic() - self.began) / done * (self.total - self.n)

    def say(self, text: str) -> None:
        """Print a remark, above the bar where there is one; not at all where progress is switched off."""
        if self.bar is not None:
            self.bar.write(text)
        elif self.mode == "lines":
            print(text, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _line(self, facts: dict[str, float]) -> None:
        self.last = time.monotonic()
        shown = " ".join(f"{k} {v:.4g}" for k, v in facts.items())
        share = self.n / max(self.total, 1)
        left = f"eta {eta:.0f} s" if (eta := self.eta_s()) == eta else "eta unknown"
        print(f"{self.label}: {share:4.0%} ({self.n}/{self.total}) {shown} {left}", flush=True)


@contextmanager
def track(total: int, label: str, start: int = 0) -> Iterator[Progress]:
    """`with track(100, "training") as progress: progress.update()`."""
    progress = Progress(total, label, start)
    try:
        yield progress
    finally:
        progress.close()


def is_watched() -> bool:
    """Whether the kernel was started by a page that can show a slider: Jupyter, Colab or VS Code.

    papermill and nbconvert start kernels of their own and leave none of these signs. FLOWOOD_STILL=1 says no.
    """
    if os.environ.get("FLOWOOD_STILL"):
        return False
    return "google.colab" in sys.modules or any(v in os.environ for v in ("JPY_SESSION_NAME", "VSCODE_PID"))
