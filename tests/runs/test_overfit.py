"""Law of the over-fitting curve: a training that stops to be looked at is the training that does not."""

import numpy as np

from flowood_core.runs import grid


def test_looking_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    spec = grid.rows("smoke", "table_6")[0]
    data = spec.data()
    often, once = (spec.likelihood_curve(data, epochs) for epochs in ([1, 2, 4], [4]))
    assert list(often["epochs"]) == [1, 2, 4] and np.isfinite(often[["train", "test"]]).all().all()
    assert (often.iloc[-1] == once.iloc[-1]).all() and often["train"].nunique() == 3
