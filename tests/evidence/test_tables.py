"""Laws of the tables: ours beside the paper's is a join, and a missing cell says so."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flowood_core import metrics, runs
from flowood_core.evidence import tables
from flowood_core.runs import grid

KEYS = ["id", "method", "score", "ood", "metric"]


def ours(**values):
    row = {
        "id": "cifar10",
        "method": "mle",
        "score": "nll",
        "ood": "svhn",
        "metric": "auroc",
        "value": 45.0,
        "low": 43.0,
        "high": 47.0,
        "n_seeds": 3,
    }
    return pd.DataFrame([row | values])


@pytest.mark.parametrize("n", range(1, 12))
def test_every_table_of_the_paper_can_be_read(n):
    assert len(tables.printed(f"table_{n}"))


def test_a_table_that_is_not_there_says_where_it_was_sought():
    with pytest.raises(FileNotFoundError, match="table_12"):
        tables.printed("table_12")


def test_every_printed_cell_keeps_its_row_and_only_run_cells_have_a_number():
    joined = tables.paper_vs_ours(tables.printed("table_2"), ours(), KEYS)
    assert len(joined) == len(tables.printed("table_2"))
    assert (joined["verdict"] != "not run").sum() == 1 == joined["ours"].notna().sum()
    cell = joined.dropna(subset="ours").iloc[0]
    assert cell["paper"] == 44.3 and cell["difference"] == pytest.approx(0.7) and cell["verdict"] == "agrees"


@pytest.mark.parametrize(
    ("value", "low", "high", "word"),
    [
        (np.nan, np.nan, np.nan, "not run"),
        (44.9, np.nan, np.nan, "cannot tell"),  # nobody knows how sure it is
        (44.9, 44.5, 45.3, "agrees"),  # within one point
        (49.0, 44.2, 53.8, "agrees"),
        (49.0, 43.0, 55.0, "cannot tell"),  # inside, but too wide
        (80.0, 60.0, 100.0, "higher"),  # wide, and yet the printed number lies outside
        (50.0, 48.0, 52.0, "higher"),
        (30.0, 28.0, 32.0, "lower"),
    ],
)
def test_a_verdict_is_two_sided_and_admits_what_it_cannot_tell(value, low, high, word):
    assert tables.verdict(44.3, value, low, high) == word


def test_a_measurement_in_another_setting_is_no_verdict_on_the_paper():
    joined = tables.paper_vs_ours(tables.printed("table_2"), ours(), KEYS, setting="other backbone")
    assert set(joined["verdict"]) == {"other backbone", "not run"}


def test_a_set_that_came_later_is_told_from_one_that_nobody_ran():
    run = SimpleNamespace(absent=("lsun",))
    joined = tables.paper_vs_ours(tables.printed("table_2"), ours(), KEYS, absent=tables.absent([run]))
    mine = (joined["id"] == "cifar10") & (joined["method"] == "mle")  # the one row that has been trained
    words = joined[mine].groupby("ood")["verdict"].agg(set)
    assert words["lsun"] == {"trained, not scored on it yet"} and "not run" in words["celeba"]
    assert set(joined[~mine]["verdict"]) == {"not run"}


def test_rows_of_a_notebooks_own_making_enter_over_seeds_alone():
    one = tables.over_seeds(ours(seed=0), KEYS).iloc[0]
    assert (one["low"], one["high"], one["interval"]) == (43.0, 47.0, "test draws")
    three = tables.over_seeds(pd.concat([ours(value=v) for v in (44.0, 45.0, 46.0)]), KEYS).iloc[0]
    assert three["value"] == 45.0 and three["n_seeds"] == 3 and three["interval"] == "seeds"
    assert three["high"] - three["value"] == pytest.approx(4.302652729749464 / np.sqrt(3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWOOD_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        patch.setenv("FLOWOOD_PROGRESS", "none")
        specs = grid.rows("smoke", "table_2")
        yield [runs.run_or_load(s) for s in specs if s.method in ("mle", "ccm_gaussian")]


def test_runs_enter_over_seeds_and_test_draws(trained):
    mle = next(r for r in trained if r.spec.method == "mle")
    long = tables.collect([mle]).query("metric == 'auroc'")
    found = tables.over_seeds(long, ["ood", "score"]).set_index(["ood", "score"])
    id_, ood = (mle.scores(name)["pz"] for name in ("photo", "digits"))
    assert found.loc[("digits", "pz"), "value"] == pytest.approx(100 * metrics.auroc(id_, ood))
    assert set(found["interval"]) == {"test draws"}
    # a second seed that is the same run adds nothing; one that differs widens it
    twice = pd.concat([long, long.assign(seed=1)])
    again = tables.over_seeds(twice, ["ood", "score"]).set_index(["ood", "score"])
    assert again.loc[("digits", "pz"), "high"] == found.loc[("digits", "pz"), "high"]


def test_a_difference_of_runs_is_taken_on_the_same_images(trained):
    long = tables.collect(trained).query("metric == 'auroc' and score == 'comp_only'")
    found = tables.over_base(long, ["ood", "score"]).set_index("ood")
    # complexity alone knows no flow: the rows are equal image by image, and so is every redraw
    assert (found[["value", "low", "high"]] == 0).all().all() and set(found["method"]) == {"ccm_gaussian"}


def test_wide_keeps_the_order_of_the_frame_and_names_what_is_missing():
    frame = pd.concat([ours(method=m, ood=o) for m in ("ro", "mle") for o in ("svhn", "isun")])
    frame.loc[(frame.method == "mle") & (frame.ood == "isun"), "value"] = np.nan
    table = tables.wide(frame, ["method"], ["ood"])
    assert list(table.index) == ["ro", "mle"] and list(table.columns) == ["svhn", "isun"]
    assert table.loc["mle", "isun"] == "not run" and table.loc["ro", "svhn"] == "45.0 [43.0, 47.0]"


def test_wide_groups_by_the_first_level():
    frame = pd.concat([ours(method=m, score=s) for m in ("mle", "ro") for s in ("pz", "px")])
    table = tables.wide(frame, ["score", "method"], ["ood"])
    assert list(table.index) == [("pz", "mle"), ("pz", "ro"), ("px", "mle"), ("px", "ro")]


def test_beside_keeps_every_printed_row_in_its_order_and_says_what_was_not_run():
    printed = tables.printed("table_2").query("id == 'cifar10' and metric == 'auroc'")
    joined = tables.paper_vs_ours(printed, ours(), KEYS)
    table = tables.beside(joined, ["score", "method"], "ood")
    assert list(table.index) == list(
        dict.fromkeys(printed[["score", "method"]].itertuples(index=False, name=None))
    )
    assert list(table.columns.get_level_values(0)[::3]) == list(dict.fromkeys(printed.ood))
    assert list(table.loc[("nll", "mle"), "svhn"]) == ["44.3", "45.0 [43.0, 47.0]", "agrees"]
    assert (table["celeba"]["ours"] == "–").all() and (table["celeba"]["verdict"] == "not run").all()
    assert (table["celeba"]["paper"].astype(float) > 0).all()


def test_an_interval_of_a_rate_ends_at_0_and_100():
    two = tables.over_seeds(pd.concat([ours(value=v) for v in (68.0, 98.0)]), KEYS).iloc[0]
    assert (two["value"], two["low"], two["high"]) == (83.0, 0.0, 100.0)


def test_a_score_that_no_seed_enters_keeps_the_interval_over_test_draws():
    rows = pd.DataFrame(
        {"score": ["a", "a", "b", "b"], "value": [95.0, 95.0, 60.0, 70.0], "low": 94.0, "high": 96.0}
    )
    found = tables.over_seeds(rows, ["score"]).set_index("score")
    assert tuple(found.loc["a", ["value", "low", "high", "n_seeds"]]) == (95.0, 94.0, 96.0, 2)
    assert found.loc["a", "interval"] == "test draws" and found.loc["b", "interval"] == "seeds"
    assert found.loc["b", "low"] < 60 and found.loc["b", "high"] > 70


def test_differences_cancel_what_a_seed_does_to_both():
    rng = np.random.default_rng(0)
    seeds = rng.normal(60, 20, 4)
    long = pd.DataFrame(
        [
            {"ood": ood, "method": method, "seed": k, "value": of_seed + gain}
            for ood in ("a", "b")
            for k, of_seed in enumerate(seeds)
            for method, gain in (("mle", 0.0), ("ccm", 3.0), ("ro", -1.0))
            if not (ood == "b" and method == "mle" and k)  # there seed 0 alone has a base
        ]
    )
    found = tables.over_base(long, ["ood"]).set_index(["ood", "method"])
    for ood, n in (("a", 4), ("b", 1)):
        assert (
            found.loc[(ood, "ccm"), "value"] == pytest.approx(3) and found.loc[(ood, "ccm"), "n_seeds"] == n
        )
        assert found.loc[(ood, "ro"), "value"] == pytest.approx(-1)
    assert found.loc[("a", "ccm"), "high"] - found.loc[("a", "ccm"), "low"] < 1e-6
    assert np.isnan(found.loc[("b", "ccm"), "low"])
