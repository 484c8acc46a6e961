"""Laws of progress in a log: it is told often at first, rarely later, and never not at all."""

import itertools
import re

import pytest

from flowood_core.system import progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(("seconds", "most"), [(4, 0), (60, 12), (3_600, 45), (36_000, 160)])
def test_the_log_of_a_long_task_stays_short(monkeypatch, capsys, seconds, most):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setenv("FLOWOOD_PROGRESS", "lines")
    told = [clock.now]
    with progress.track(seconds, "long") as task:
        for _ in range(seconds):
            clock.now += 1.0
            task.update(1, loss=0.5)
            if capsys.readouterr().out:
                told.append(clock.now)
    pauses = [b - a for a, b in itertools.pairwise(told)]
    assert len(pauses) <= most and (seconds < 5 or len(pauses) > 4)
    assert all(progress.LINE_EVERY_S <= p <= progress.LINE_AT_LEAST_EVERY_S + 1 for p in pauses)


def test_a_line_tells_how_far_and_how_long(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setenv("FLOWOOD_PROGRESS", "lines")
    with progress.track(40, "task", start=20) as task:
        clock.now += 10.0
        task.update(10, loss=0.25)
    assert re.fullmatch(r"task:\s+75% \(30/40\) loss 0\.25 eta 10 s\n", capsys.readouterr().out)


def test_an_unknown_way_is_refused(monkeypatch):
    monkeypatch.setenv("FLOWOOD_PROGRESS", "loud")
    with pytest.raises(ValueError, match="bar, lines or none, got 'loud'"):
        progress.Progress(1, "x")
