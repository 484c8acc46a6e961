"""Laws of the tables of section 3.2 and Appendix C: counts, shares and cells of small frames."""

import numpy as np
import pandas as pd
import pytest

from flowood_core.datasets import highdim
from flowood_core.evidence import feature_tables, readings, tables
from flowood_core.features import map_flows
from flowood_core.notebook.reading import sentences


@pytest.fixture
def deltas():
    rows = [
        ("published", "fastflow", "chest_xray_bad", "ccm", 6.1, -0.1, 12.5),
        ("published", "fastflow", "chest_xray_bad", "gaussian", 4.4, 2.1, 6.9),
        ("published", "fastflow", "magnetic_tile_bad", "gaussian", 0.3, -2.0, 2.0),
        ("published", "cs_flow", "chest_xray_bad", "gaussian", -6.9, -14.1, -0.1),
        ("px", "cs_flow", "chest_xray_bad", "gaussian", 2.7, 0.4, 4.9),
    ]
    return pd.DataFrame(rows, columns=["score", "model", "ood", "method", "value", "low", "high"])


def test_a_gain_counts_where_its_whole_interval_lies_on_one_side(deltas):
    counts = feature_tables.gain_counts(deltas).set_index(["score", "model"])
    assert counts.loc[("published", "fastflow")].tolist() == [3, 1, 0, 0.3, 6.1]
    assert counts.loc[("published", "cs_flow")].tolist() == [1, 0, 1, -6.9, -6.9]


def test_the_reading_of_gains_follows_the_counts(deltas):
    said = sentences(readings.feature_gains(feature_tables.gain_counts(deltas), deltas))
    assert "FastFlow gains with 1 of 3 rows for sure, all of them on the chest X-rays" in said
    assert "CS-Flow: 0 of 1 rows with outliers lie above their plain row" in said
    assert "CCM alone raises FastFlow on the chest X-rays here, by +6.1" in said and "holds zero" in said
    sure = deltas.assign(low=deltas["value"] - 0.1, high=deltas["value"] + 0.1)
    said = sentences(readings.feature_gains(feature_tables.gain_counts(sure), sure))
    assert "for sure, all of them" not in said and "3 of 3 rows with outliers lie above" in said


def levels(outliers: float, threshold: float = -1.0):
    rows = [("chest", "FastFlow", "plain", 0.5, 0.2, 0.1, 0.0, np.nan),
            ("chest", "FastFlow", "+ CCM", 0.5, 0.2, outliers, -0.5, threshold)]  # fmt: skip
    columns = ["set", "model", "method", "ID trained on", "ID unseen", "outliers", "OOD", "threshold"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3])


@pytest.mark.parametrize(
    ("outliers", "says"), [(-2.0, "well below the threshold"), (-0.9, "does not push all")]
)
def test_the_reading_of_levels_compares_outliers_with_their_threshold(outliers, says):
    assert says in sentences(readings.feature_levels(levels(outliers)))


def test_table_10_gains_are_recomputed_from_the_printed_cells():
    joined = feature_tables.table_10([], list(highdim.MVTEC))
    gains = feature_tables.mvtec_gains(joined)
    printed = tables.printed("table_10").query("category != 'mean'")
    by = printed[printed["model"] == "cs_flow"].pivot(index="category", columns="method", values="paper")
    own = (by["ccm_gaussian"] - by["plain"]).mean()
    assert gains["printed gain"][map_flows.LABELS["cs_flow"]] == pytest.approx(own)
    assert gains["our gain"].isna().all() and (joined["verdict"] == "not run").all()


def test_a_cell_of_table_10_that_nobody_ran_says_so():
    titles = {"fastflow": "FastFlow", "cs_flow": "CS-Flow"}
    cells = feature_tables.mvtec_cells(feature_tables.table_10([], ["bottle"]), titles)
    assert cells.map(lambda c: c.endswith("| not run")).all(axis=None) and "FastFlow+CCM+Gaussian" in cells
