"""Laws of Tables 2 and 3, Figs 3, 4 and 6 on committed runs, and of the readings below them."""

import pandas as pd
import pytest
from kill_driver import spec

from flowood_core import runs
from flowood_core.evidence import benchmark_readings, benchmark_tables, blur_tables, measured, tables
from flowood_core.notebook.reading import sentences
from flowood_core.runs import grid, machine
from flowood_core.system import paths


def read(table, **wanted):
    specs = grid.rows("sample", table)
    return [runs.Run.read(s) for s in specs if all(getattr(s, k) == v for k, v in wanted.items())]


@pytest.fixture
def committed(monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))


@pytest.fixture
def table_2(committed):
    return read("table_2", id="cifar10", seed=0)


def test_a_gain_is_the_difference_of_the_two_means(table_2):
    found = benchmark_tables.gains(tables.collect(table_2))
    assert len(found) == 2 * len(table_2[0].metrics["ood"])
    assert (found["ccm_gaussian"] - found["mle"]).to_numpy() == pytest.approx(
        found["gain"].to_numpy(), abs=1e-3
    )
    assert ((found["low"] <= found["gain"]) & (found["gain"] <= found["high"])).all()


def test_the_better_training_is_bold_and_a_gain_where_it_is_sure(table_2):
    found = benchmark_tables.gains(tables.collect(table_2))
    bold, shown = benchmark_tables.better(found), benchmark_tables.deciding(found)
    assert (
        bold.shape == shown.shape
        and (bold.columns == shown.columns).all()
        and (bold.index == shown.index).all()
    )
    for score in bold.columns.unique(0):
        assert (bold[score]["MLE"] != bold[score]["CCM+Gaussian"]).all()
        assert not (bold[score]["gain"] & bold[score]["MLE"]).any()


def test_fig_3_has_no_set_twice_and_none_is_its_own_ood(table_2):
    pair = benchmark_tables.pairs(table_2)["cifar10"]
    assert [r.spec.method for r in pair.values()] == ["mle", "ccm_gaussian"]
    assert benchmark_tables.sets_of_fig_3(pair, ["cifar10", "svhn"], ["isun"]) == ["cifar10", "svhn", "isun"]
    assert benchmark_tables.simpler(pair, ["cifar10", "svhn", "isun"]) == ["cifar10", "svhn"]
    assert benchmark_tables.simpler(pair, ["cifar10", "svhn"]) == []  # that is all sets
    assert set(benchmark_tables.bias(pair, ["cifar10", "svhn"])["sets"]) == {benchmark_tables.ALL}


def test_a_run_without_its_partner_makes_no_pair(table_2):
    assert benchmark_tables.pairs([r for r in table_2 if r.spec.method != "mle"]) == {}


def test_complexity_alone_is_compared_with_printed_pairs_only(table_2):
    ours = tables.over_seeds(tables.collect(table_2), benchmark_tables.CELL)
    found = benchmark_tables.alone_beside_printed(ours).set_index("ood")
    assert set(found.index) == {"svhn", "isun", "celeba"} and (found["lowest"] <= found["highest"]).all()
    assert "3 pairs" in sentences(benchmark_readings.alone(found.reset_index()))
    assert "None" in sentences(benchmark_readings.alone(found.iloc[:0].reset_index()))


def test_parts_that_nobody_ran_are_left_out(table_2):
    ours = tables.over_seeds(tables.collect(table_2), benchmark_tables.CELL)
    joined = benchmark_tables.beside_paper("table_2", ours, {})
    assert [about.split(":")[0] for about, _ in benchmark_tables.parts(joined)] == ["ID = CIFAR-10"] * 2


def test_celeba_is_the_papers_set_and_has_its_footnote(table_2):
    ours = tables.over_seeds(tables.collect(table_2), benchmark_tables.CELL)
    joined = benchmark_tables.beside_paper("table_2", ours, tables.absent(table_2))
    cells = joined[(joined["id"] == "cifar10") & (joined["ood"] == "celeba")]
    assert len(cells) == 20 and cells["verdict"].isin(["agrees", "higher", "lower", "cannot tell"]).all()
    assert measured.whose("cifar10", "celeba", "table_2") == ""
    assert "reduced copies" in sentences(benchmark_readings.footnote(table_2))
    assert sentences(benchmark_readings.footnote([])) == ""


def test_a_reading_gives_way_when_the_numbers_move():
    rows = [("cifar10", "svhn", s, g, g - 1, g + 1) for s, g in (("pz", -5.0), ("px", -5.0))]
    found = pd.DataFrame(rows, columns=["id", "ood", "score", "gain", "low", "high"])
    said = sentences(benchmark_readings.outlier_gains(found))
    assert "0 of 1 gains are surely above zero, 1 surely below" in said and "iSUN" not in said


def test_epochs_are_there_only_for_runs_that_kept_weights(outputs, monkeypatch):
    monkeypatch.setattr(machine, "KEPT_EPOCHS", (1, 2))
    kept, short = spec(epochs=4, ood=("digits",)), spec(epochs=2, method="mle")
    for s in (kept, short):
        runs.run_or_load(s)
    found = benchmark_tables.epochs([kept, short])
    assert set(found["method"]) == {"ccm_gaussian"} and sorted(set(found["epoch"])) == [1, 2, 4]
    assert benchmark_tables.epochs([short]).empty
    # a training on its way has no metrics yet and no last weights
    for name in ("metrics.json", "model.safetensors", "over_epochs.csv"):
        (kept.folder / name).unlink()
    assert sorted(set(benchmark_tables.epochs([kept])["epoch"])) == [1, 2]


def test_beside_a_curve_stand_the_printed_rows_of_its_cell_and_what_complexity_alone_has(committed, table_2):
    found = benchmark_tables.marks("cifar10", "svhn", table_2)
    assert (
        found["printed"]["mle"] == 44.3
        and found["printed"]["ccm_gaussian"] == 83.2
        and len(found["printed"]) == 5
    )
    assert found["alone"] == table_2[0].auroc("svhn", "comp_only")
    assert benchmark_tables.marks("isun", "svhn", table_2)["alone"] is None, "no run of this ID set"
    assert benchmark_tables.marks("photo", "digits", []) == {"printed": {}, "alone": None}


def test_only_radii_that_every_seed_has_are_drawn(committed):
    runs_ = read("fig_6", id="cifar10")
    kept = blur_tables.of_every_seed(runs_)
    by = pd.DataFrame([(r.spec.blur_radius, r.spec.seed) for r in kept]).groupby(0)[1].nunique()
    assert len(kept) < len(runs_) and by.nunique() == 1


def test_a_radius_is_not_compared_with_itself_and_the_difference_is_that_of_the_means(committed):
    kept = [r for r in read("fig_6", id="cifar100") if r.spec.blur_radius in (0, 1)]
    found = blur_tables.against(kept, ["svhn"], 1.0)
    assert set(found["other"]) == {0.0} and set(found["n_seeds"]) == {1}
    level = {r.spec.blur_radius: r.auroc("svhn", "pz") for r in kept}
    assert found.query("score == 'pz'")["value"].item() == pytest.approx(level[1] - level[0], abs=1e-3)
    assert blur_tables.against(kept[:1], ["svhn"], 3.0).empty
