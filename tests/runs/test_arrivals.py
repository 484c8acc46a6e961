"""Laws of absent test sets: they keep no run from being made, and are scored from its weights once they are here."""

import json

import numpy as np
import pytest
from kill_driver import spec

from flowood_core import datasets, runs, train
from flowood_core.runs import status

ABSENT = ("digits", "holiday")  # a set of somebody's own, as a prepared file that is not here yet


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def arrive(data, n=30):
    x = datasets.load("smooth", "test").x[:n].permute(0, 2, 3, 1).numpy()
    (data / "images").mkdir(parents=True)
    np.savez(data / "images" / "holiday_test.npz", x=x)


@pytest.fixture
def half(outputs, data):
    return runs.run_or_load(spec(ood=ABSENT))


def test_a_missing_test_set_never_keeps_a_run_from_being_made(half):
    assert half.absent == ("holiday",) and set(half.metrics["ood"]) == {"digits"}
    assert "holiday" not in json.dumps(half.metrics["data"])
    assert runs.run_or_load(half.spec, train_missing=False).metrics == half.metrics


def test_a_set_that_arrives_is_scored_from_the_weights_without_training(half, data, monkeypatch):
    weights = (half.folder / "model.safetensors").read_bytes()
    arrive(data)
    monkeypatch.setattr(train, "fit_together", lambda *a, **k: pytest.fail("trained again"))
    later = runs.run_or_load(half.spec)
    assert later.absent == () and later.folder == half.folder
    assert later.metrics["ood"]["digits"] == half.metrics["ood"]["digits"]
    assert (half.folder / "model.safetensors").read_bytes() == weights
    assert later.metrics["scored_later"]["holiday"]["packages"]["torch"]
    monkeypatch.undo()


def test_scored_later_is_scored_as_if_it_had_been_here(half, data, monkeypatch, tmp_path):
    arrive(data)
    later = runs.run_or_load(half.spec)
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "whole"))
    whole = runs.run_or_load(half.spec)
    for key in ("ood", "complexity", "absent"):
        assert later.metrics[key] == whole.metrics[key]
    assert all(
        np.array_equal(later.arrays["holiday"][q], whole.arrays["holiday"][q])
        for q in ("log_px", "complexity")
    )


def test_without_weights_the_run_stays_as_it_is_and_says_so(half, data):
    arrive(data)
    (half.folder / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"stays without scores of holiday: expected the trained flow"):
        assert runs.run_or_load(half.spec).absent == ("holiday",)


def test_the_id_set_is_not_to_be_missing(outputs, data):
    with pytest.raises(datasets.MissingData, match="holiday"):
        runs.run_or_load(spec(id="holiday"))


def test_status_tells_not_scored_from_not_trained(half):
    standing = status.standing(half.spec)
    assert standing.state == "done" and standing.absent == ("holiday",)
    assert "not scored yet on holiday" in status.line_of(standing)
