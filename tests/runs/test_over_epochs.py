"""Laws of the curve over epochs: a point for every kept file, the last one being the run itself, measured once."""

import numpy as np
import pytest
from kill_driver import spec

from flowood_core import runs
from flowood_core.runs import machine, over_epochs


@pytest.fixture
def long_run(outputs, monkeypatch):
    monkeypatch.setattr(machine, "KEPT_EPOCHS", (1, 2, 4))
    return runs.run_or_load(spec(epochs=6, ood=("digits", "smooth")))


def test_weights_are_kept_at_the_named_epochs_and_at_the_end(long_run):
    assert list(over_epochs.kept(long_run.spec)) == [1, 2, 4, 6]


def test_a_training_of_few_epochs_keeps_none(outputs):
    run = runs.run_or_load(spec(epochs=2, method="mle"))
    assert list(over_epochs.kept(run.spec)) == [2]


def test_the_last_point_is_what_the_run_says_of_itself(long_run):
    found = over_epochs.measured(long_run.spec).query("epoch == 6").set_index(["quantity", "ood"])["value"]
    for ood in ("digits", "smooth"):
        for kind in ("pz", "px", "pz_comp"):
            assert found[f"auroc {kind}", ood] == pytest.approx(long_run.auroc(ood, kind))
    assert found["bpd", ""] == pytest.approx(long_run.metrics["id"]["bpd"])
    assert found["grad_logp", ""] > 0


def test_the_first_point_is_another_flow(long_run):
    bpd = over_epochs.measured(long_run.spec).query("quantity == 'bpd'").set_index("epoch")["value"]
    assert len(bpd) == 4 and bpd.nunique() == 4 and bpd[6] < bpd[1]


def test_what_was_measured_is_not_measured_again(long_run, monkeypatch):
    first = over_epochs.measured(long_run.spec)
    monkeypatch.setattr(over_epochs, "_at", lambda *_: pytest.fail("measured again"))
    again = over_epochs.measured(long_run.spec)
    assert again.shape == first.shape and np.allclose(again["value"], first["value"])
    monkeypatch.undo()


def test_an_epoch_that_lacks_a_quantity_is_measured_again(long_run):
    whole, path = over_epochs.measured(long_run.spec), long_run.spec.folder / over_epochs.FILE
    whole[whole["quantity"] != "bpd median"].to_csv(path, index=False)
    again = over_epochs.measured(long_run.spec)
    assert again.shape == whole.shape and np.allclose(again["value"], whole["value"])
    of_id = again.query("ood == ''").set_index(["quantity", "epoch"])["value"]
    mean, median = of_id["bpd", 6], of_id["bpd median", 6]
    assert median != mean and median == pytest.approx(mean, rel=0.2)


def test_only_what_is_new_is_measured_and_an_unfinished_run_has_points_too(outputs, monkeypatch):
    monkeypatch.setattr(machine, "KEPT_EPOCHS", (1, 2, 4))
    save, unfinished = runs.RunFolder.save_checkpoint, spec(epochs=6)

    def killed(folder, state):
        save(folder, state)
        if state["step"] == 8:  # epoch 2 of 4 steps each
            raise KeyboardInterrupt

    monkeypatch.setattr(runs.RunFolder, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.run_or_load(unfinished)
    assert sorted(set(over_epochs.measured(unfinished)["epoch"])) == [1, 2]
    monkeypatch.setattr(runs.RunFolder, "save_checkpoint", save)
    runs.run_or_load(unfinished)
    assert sorted(set(over_epochs.measured(unfinished)["epoch"])) == [1, 2, 4, 6]


def test_intervals_hold_their_value(long_run):
    found = over_epochs.measured(long_run.spec)
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
