"""Tables and readings of section 3.3: laws on small frames."""

import types

import numpy as np
import pandas as pd
import pytest

from flowood_core import runs
from flowood_core.evidence import text_readings, text_tables
from flowood_core.notebook.reading import sentences
from flowood_core.runs import grid


@pytest.fixture
def first():
    return grid.rows("smoke", "table_6")[0]


def test_a_row_is_named_by_what_it_changes(first):
    assert text_tables.training_label(first, first) == "without outliers"
    changed = first.model_copy(update={"method": "text", "kinds": ("joined",), "tau": -700.0})
    said = text_tables.training_label(changed, first)
    assert said == "with outliers (two texts by turns, threshold -700 nats)"


def run_of(first, rng):
    n = rng.integers(10, 500, size=60).astype(float)
    arrays = {"n_tokens": n, "log_px": np.log(n), "bits_per_byte": 1 / n}
    every = {name: {q: v.copy() for q, v in arrays.items()} for name in (first.id, *first.ood)}
    return types.SimpleNamespace(spec=first, arrays=every, metrics={"encoder": {}})


def test_length_and_shortness_are_two_sides_of_one_score(first):
    ways = text_tables.both_ways([run_of(first, np.random.default_rng(0))], first)
    value = ways.set_index(["score", "ood"])["value"]
    for ood in first.ood:
        assert value[text_tables.LENGTH, ood] + value["shortness alone", ood] == pytest.approx(100)


def test_changes_are_differences_to_px(first):
    ways = text_tables.both_ways([run_of(first, np.random.default_rng(1))], first)
    change = text_tables.changes(ways, ways["encoder"].iloc[0])
    value = ways.set_index(["score", "ood"])["value"]
    for score, ood in ((s, o) for s in change.index for o in change):
        assert change.loc[score, ood] == pytest.approx(value[score, ood] - value["px", ood])


def test_rank_correlation_sees_order_alone(first):
    table = text_tables.rank_correlations({"any": run_of(first, np.random.default_rng(2))}, [first.id])
    assert table["rank correlation"].tolist() == pytest.approx([1, -1])


def test_originals_that_repeat_are_no_simpler_in_print():
    both = text_tables.outliers_and_originals("imdb", ["a text of some words"] * 50, 9.0)
    assert "not simpler" in sentences(text_readings.simpler(both))
    assert "simpler than" in sentences(text_readings.simpler(both.assign(ours=[4.0, 3.0])))


def test_over_fitting_is_said_only_where_it_is_seen():
    curve = pd.DataFrame({"epochs": [1, 4, 10], "train": [-5.0, -4, -3], "test": [-5.0, -4.5, -6]})
    assert "past that peak" in sentences(text_readings.over_fitting(curve, 10))
    rising = curve.assign(test=[-5.0, -4.5, -4])
    assert "no over-fitting" in sentences(text_readings.over_fitting(rising, 10))


def test_a_missing_encoder_leaves_the_other_runs_and_says_why(first, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    nobody = first.model_copy(update={"encoder": "package:no_such_package/model"})
    found, absent = runs.available([nobody, first])
    assert [run.spec for run in found] == [first]
    assert list(absent) == [nobody.encoder] and "no_such_package" in absent[nobody.encoder]
