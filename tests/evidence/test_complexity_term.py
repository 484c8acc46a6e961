"""Laws of the other readings of eq. (5): ours is among them, and what has no unit does not depend on units."""

import numpy as np
import pytest

from flowood_core import runs
from flowood_core.evidence import complexity_term
from flowood_core.runs import grid
from flowood_core.system import paths


@pytest.fixture
def committed(monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))
    rows = [s for s in grid.rows("sample", "table_2") if s.id == "cifar10" and s.seed == 0]
    return [runs.Run.read(s) for s in rows]


def drawn(seed=0, n=200):
    rng = np.random.default_rng(seed)
    return rng.normal(3, 1, n), rng.normal(6, 1, n), rng.normal(4, 2, n), rng.normal(5, 1, n)


def test_our_reading_of_eq_5_is_the_score_of_the_runs(committed):
    found = complexity_term.readings(committed[:1])
    (ours,) = found[found.reading.str.contains("as we read it") & (found.ood == "svhn")]["value"]
    assert ours == pytest.approx(committed[0].auroc("svhn", "pz_comp"), abs=1e-6)


def test_weight_one_is_our_reading_and_a_large_weight_is_complexity_alone(committed):
    found = (
        complexity_term.weights(committed[:1], values=(1.0, 1e6)).query("ood == 'svhn'").set_index("weight")
    )
    assert found.loc[1.0, "value"] == pytest.approx(committed[0].auroc("svhn", "pz_comp"), abs=1e-6)
    assert found.loc[1e6, "value"] == pytest.approx(committed[0].auroc("svhn", "comp_only"), abs=0.2)


def test_a_clip_above_everything_changes_nothing():
    four = drawn()
    clipped, plain = complexity_term._clipped(1e6)(*four), complexity_term._per_dimension(*four)
    assert all(np.allclose(a, b) for a, b in zip(clipped, plain, strict=True))


@pytest.mark.parametrize(
    "name", [n for n in complexity_term.READINGS if "together" in n or "standardised" in n]
)
def test_scaled_readings_do_not_depend_on_units(name):
    nll_id, c_id, nll, c = drawn()
    read = complexity_term.READINGS[name]
    one, other = read(nll_id, c_id, nll, c), read(7 * nll_id + 2, c_id / 3, 7 * nll + 2, c / 3)
    assert all(np.allclose(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", list(complexity_term.READINGS))
def test_every_reading_rises_with_nll_and_falls_with_complexity(name):
    read = complexity_term.READINGS[name]
    nll_id, c_id, _, _ = drawn()
    low, high = np.array([2.5, 3.5]), np.array([5.5, 6.5])
    by_nll = read(nll_id, c_id, low, np.array([6.0, 6.0]))[1]
    by_c = read(nll_id, c_id, np.array([3.0, 3.0]), high)[1]
    assert by_nll[1] > by_nll[0] and by_c[1] < by_c[0]


def test_the_table_counts_every_printed_cell_that_was_run(committed):
    found = complexity_term.against_paper(complexity_term.readings(committed))
    assert set(found["reading"]) == set(complexity_term.READINGS)
    assert set(found["n_cells"]) == {3 * len(committed)}  # SVHN, iSUN and CelebA of five trainings
    assert found["error"].is_monotonic_increasing and (found["isun_lowest"] <= found["isun_highest"]).all()
