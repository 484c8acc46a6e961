"""Laws of the neighbours' table: a cell is the metric of its arrays, and a best row is the best."""

import numpy as np
import pandas as pd
import pytest

from flowood_core import metrics
from flowood_core.evidence import beyond


def test_a_measured_cell_is_the_auroc_with_redraws_around_it():
    rng = np.random.default_rng(0)
    id_, ood = rng.normal(size=300), rng.normal(0.8, size=200)
    sample = beyond._Measured(("cifar10", "svhn"), id_, ood).sample
    assert sample.value == pytest.approx(100 * metrics.auroc(id_, ood))
    low, high = np.quantile(sample.redraws, [0.025, 0.975])
    assert low < sample.value < high < low + 12


def test_the_best_row_of_each_set_stands_beside_the_papers():
    rows = [
        ("MLE", "pz", "svhn", 40.0),
        ("CCM+Gaussian", "pz", "svhn", 80.0),
        ("flowood", "px", "svhn", 97.0),
        ("MLE", "pz", "isun", 99.0),
        ("CCM+Gaussian", "pz", "isun", 98.0),
        ("flowood", "px", "isun", 97.0),
    ]
    best = beyond.best_cells(pd.DataFrame(rows, columns=["training", "score", "ood", "value"]))
    assert best.loc["svhn"].tolist() == ["flowood", "px", 97.0, 80.0, 3]
    assert best.loc["isun"].tolist() == ["MLE", "pz", 99.0, 98.0, 3]


@pytest.fixture
def kinds():
    about = {
        "score": "pz",
        "family": "f",
        "complexity": 2.0,
        "complexity_colour": 2.0,
        "complexity_only": 90.0,
    }
    rows = [
        about | {"training": t, "seed": s, "kind": k, "label": k, "seen": seen, "side": side, "auroc": a + s, "low": a,
                 "high": a + 2}
        for t, a in (("MLE", 50.0), ("flowood", 96.4))
        for s in (0, 1)
        for k, seen, side in (("constant", True, "simple"), ("median", False, "simple"), ("noise", False, "complex"))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_kinds_below_a_level_are_counted_on_the_simple_side_alone(kinds):
    mean = beyond.battery_mean(kinds)
    assert mean.set_index(["training", "kind"]).auroc["flowood", "median"] == pytest.approx(96.9)
    below = beyond.battery_below(mean, 97.0).set_index("training")
    assert below["below"].to_dict() == {"MLE": 2, "flowood": 2} and (below["of"] == 2).all()
    assert "median 97 (not trained on)" in below.worst["flowood"] and "noise" not in below.worst["MLE"]
    assert beyond.battery_below(mean, 96.0).set_index("training")["below"].to_dict() == {
        "MLE": 2,
        "flowood": 0,
    }


def test_the_wide_battery_has_a_row_a_kind(kinds):
    wide = beyond.battery_wide(beyond.battery_mean(kinds))
    assert wide.loc["simple", "constant"][["MLE", "flowood", "complexity_only"]].tolist() == [
        50.5,
        96.9,
        90.0,
    ]
    assert len(wide) == 3
