"""Laws of the tables of section 3.2 and Appendix C: counts, shares and cells of small frames."""

import numpy as np
import pandas as pd
import pytest

from flowood_core import runs
from flowood_core.datasets import highdim
from flowood_core.evidence import feature_tables, readings, tables
from flowood_core.features import map_flows
from flowood_core.notebook.reading import sentences
from flowood_core.runs import grid


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


def table_10(ours: dict[str, float]) -> pd.DataFrame:
    """Table 10 of two categories, FastFlow, plain and corrected; ours by category, nan elsewhere."""
    rows = [
        (c, "fastflow", method, paper, ours.get(c, np.nan) + gain)
        for c in ("screw", "zipper", "mean")
        for method, paper, gain in (("plain", 92.0, 0.0), ("ccm_gaussian", 94.3, 1.5))
    ]
    return pd.DataFrame(rows, columns=["category", "model", "method", "paper", "ours"])


def test_categories_that_nobody_ran_are_named_apart():
    ran, rest = feature_tables.split_by_run(table_10({"screw": 70.0}))
    assert set(ran["category"]) == {"screw"} and rest == ["zipper"]
    whole, rest = feature_tables.split_by_run(table_10({}))
    assert len(whole) == 6 and rest == []


@pytest.mark.parametrize(
    ("ours", "says"), [(70.0, "71.5 at best; the paper"), (93.0, "at or above the paper's plain")]
)
def test_the_reading_of_a_category_compares_with_the_printed_plain_row(ours, says):
    alone = pd.DataFrame(
        [["x", "kNN", "all maps", 80.0, 70.0, 90.0, 1]], columns=list(feature_tables.NO_SCORES)
    )
    said = sentences(readings.mvtec_categories(table_10({"screw": ours}), alone))
    assert (
        says in said
        and "Outliers add +1.5, in the paper +2.3" in said
        and "kNN (all maps) reaches 80.0" in said
    )
    assert not sentences(readings.mvtec_categories(table_10({}), alone))


@pytest.mark.parametrize(
    ("value", "says"),
    [(93.0, "level with the paper's best flow"), (80.0, "reaches 80.0; the paper's best flow")],
)
def test_the_reading_of_the_papers_size_judges_by_the_trained_score(value, says):
    rows = [("ccm", "px", value), ("mle", "px", 60.0), ("mle", "published", 99.0), ("mle", "pz", 95.0)]
    auroc = pd.DataFrame([("fastflow", *row) for row in rows], columns=["model", "method", "score", "value"])
    auroc = auroc.assign(low=auroc["value"] - 3, high=auroc["value"] + 3)
    moved = [("px", 1.0, 0.5, 2.0), ("px", -1.0, -3.0, 1.0), ("published", -0.5, -2.0, 1.0)]
    gains = pd.DataFrame(moved, columns=["score", "value", "low", "high"]).assign(model="fastflow")
    said = sentences(readings.feature_size(auroc, feature_tables.NO_SCORES, gains))
    assert (
        says in said
        and "1 of 2 rows with outliers lie at or above" in said
        and "no interval leaves zero" in said
    )
    assert readings.feature_size(auroc.iloc[:0], feature_tables.NO_SCORES, gains) == []


def test_a_cell_of_table_10_on_another_backbone_is_no_verdict():
    ran = grid.finished("sample", "table_10")
    joined = feature_tables.table_10(ran, ["screw", "zipper"])
    found = joined[joined["category"] == "screw"]
    assert {run.spec.model for run in ran} == set(map_flows.LABELS)
    assert (found["verdict"] == "other backbone").all() and found["ours"].notna().all()
    assert (joined.loc[joined["category"] == "zipper", "verdict"] == "not run").all()


def test_the_reading_of_the_papers_size_tells_the_models_apart():
    rows = [("mle", "px", 60.0), ("ccm", "px", 61.0), ("mle", "pz", 70.0), ("ccm", "pz", 72.0)]
    auroc = pd.DataFrame(
        [(model, *row) for model in map_flows.LABELS for row in rows],
        columns=["model", "method", "score", "value"],
    )
    auroc = auroc.assign(low=auroc["value"] - 3, high=auroc["value"] + 3)
    moved = [("fastflow", "px", -1.0, -2.0, -0.5), ("cs_flow", "px", 1.0, 0.5, 2.0)]
    gains = pd.DataFrame(moved, columns=["model", "score", "value", "low", "high"])
    said = sentences(readings.feature_size(auroc, feature_tables.NO_SCORES, gains))
    assert "FastFlow: by −log p 0 of 1 rows with outliers lie at or above" in said
    assert "CS-Flow: by −log p every row with outliers is at or above its plain row, 1 of 1 for sure" in said


@pytest.mark.usefixtures("outputs")
def test_scores_without_a_flow_stand_beside_a_run():
    run = runs.run_or_load(runs.Maps(
        profile="smoke", id="photo", ood=("digits",), n_train=24, n_test=10, epochs=1, batch_size=8, image_size=32,
        blocks=2, data_init=True, model="fastflow", method="mle", backbone="untrained",
    ))  # fmt: skip
    alone = feature_tables.without_flow(run)
    n_maps = len(run.metrics["maps"])
    assert list(alone["model"]) == ["−C(x)", *["Mahalanobis"] * (n_maps + 1), "kNN"]
    assert (alone["ood"] == "digits").all() and alone["value"].between(0, 100).all()
    assert alone["value"].iloc[0] == pytest.approx(run.auroc("digits", "comp_only"))
    values = tables.over_seeds(
        feature_tables.collected([run]).query("metric == 'auroc'"), ["model", "method", "score"]
    )
    table = feature_tables.with_and_without_flow(values, alone)
    assert list(table) == ["−log p", "published score", "eq. (4)", "no flow"]
    assert table["no flow"].notna().sum() == len(alone) and len(table) == len(alone) + 1
