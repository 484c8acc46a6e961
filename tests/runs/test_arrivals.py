"""Laws of absent test sets: they keep no run from being made, and are scored from its weights once they are here."""

import gzip
import json
import shutil

import numpy as np
import pytest
from kill_driver import spec

from flowood_core import datasets, runs, train
from flowood_core.__main__ import main
from flowood_core.datasets import corpora
from flowood_core.runs import grid, status
from flowood_core.system import profiles

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


def test_texts_that_arrive_leave_what_they_would_have_left(outputs, data, monkeypatch, tmp_path):
    pytest.importorskip("nltk", reason="texts need the extra [text]")
    of = runs.Texts(
        id="stdlib_docs", method="mle", encoder="tfidf:8", synonyms="none", ood=("licences", "holiday"), blocks=2,
        hidden=8, n_train=80, n_test=40, epochs=2, batch_size=16, data_init=True, profile="smoke",
    )  # fmt: skip
    half = runs.run_or_load(of)
    assert half.absent == ("holiday",)
    (data / "text").mkdir(parents=True)
    lines = [json.dumps({"text": text}) for text in corpora.load("help_pages", "test").texts[:30]]
    (data / "text" / "holiday_test.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    later = runs.run_or_load(of)
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "whole"))
    whole = runs.run_or_load(of)
    for key in ("ood", "absent", "text_complexity"):
        assert later.metrics[key] == whole.metrics[key]
    assert later.arrays["holiday"].keys() == whole.arrays["holiday"].keys() >= {"n_tokens", "bits_per_byte"}
    for name, found in later.arrays["holiday"].items():
        assert np.array_equal(found, whole.arrays["holiday"][name])


def test_without_weights_the_run_stays_as_it_is_and_says_so(half, data):
    arrive(data)
    (half.folder / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"stays without scores of holiday: expected the trained flow"):
        assert runs.run_or_load(half.spec).absent == ("holiday",)


def test_the_id_set_is_not_to_be_missing(outputs, data):
    with pytest.raises(datasets.MissingData, match="holiday"):
        runs.run_or_load(spec(id="holiday"))


def test_a_finished_run_is_there_whatever_became_of_its_data(outputs, data):
    arrive(data)
    test = data / "images" / "holiday_test.npz"
    test.with_name("holiday_train.npz").write_bytes(test.read_bytes())
    done, never = (spec(id="holiday", ood=("digits",), epochs=1, seed=seed) for seed in (0, 1))
    runs.run_or_load(done)
    shutil.rmtree(data)
    found, absent = runs.available([never, done, never])
    assert [run.spec for run in found] == [done] and list(absent) == ["holiday"]


def test_status_tells_not_scored_from_not_trained(half):
    standing = status.standing(half.spec)
    assert standing.state == "done" and standing.absent == ("holiday",)
    assert "not scored yet on holiday" in status.line_of(standing)


# --- sets that a profile names when its runs are made -----------------------------------------------------


@pytest.fixture
def named(monkeypatch):
    """Profile quick with one more set to test photo crops on."""
    whole = profiles.preset("quick") | {"scored_later": {"photo": ["digits", "holiday"]}}
    for module in (profiles, grid):
        monkeypatch.setattr(module, "preset", lambda profile: whole)


@pytest.fixture
def made(outputs, data):
    return runs.run_or_load(spec())


def test_a_set_named_later_leaves_the_run_and_its_scores_alone(made, data, named, monkeypatch):
    before, arrays, weights = made.metrics, made.arrays, (made.folder / "model.safetensors").read_bytes()
    assert made.absent == ("holiday",) and "not scored yet on holiday" in status.line_of(
        status.standing(spec())
    )
    arrive(data)
    monkeypatch.setattr(train, "fit_together", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(grid, "by_run_id", lambda profile: {made.spec.run_id: made.spec})
    assert main(["score", "quick"]) == 0
    later = runs.Run.read(spec())
    assert later.folder == made.folder and later.absent == () == status.standing(spec()).absent
    assert {**later.metrics["ood"], "holiday": None} == {**before["ood"], "holiday": None}
    assert {"id", "spec", "provenance"} <= {k for k in before if before[k] == later.metrics[k]}
    for name, of in arrays.items():
        assert all(np.array_equal(later.arrays[name][q], of[q]) for q in of)
    assert (made.folder / "model.safetensors").read_bytes() == weights
    assert [s["name"] for s in later.metrics["data"]][-1] == "holiday"


def test_scoring_later_is_the_same_each_time_and_as_in_a_run_made_afterwards(
    made, data, named, monkeypatch, tmp_path
):
    arrive(data)
    kept = {f: (made.folder / f).read_bytes() for f in ("metrics.json", "scores.npz")}
    first = runs.run_or_load(spec())
    written = (made.folder / "scores.npz").read_bytes()
    for f, content in kept.items():
        (made.folder / f).write_bytes(content)
    again = runs.run_or_load(spec())
    assert (made.folder / "scores.npz").read_bytes() == written
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "afterwards"))
    whole = runs.run_or_load(spec())
    assert first.metrics["ood"] == again.metrics["ood"] == whole.metrics["ood"]
    assert "scored_later" not in whole.metrics and "holiday" in whole.metrics["ood"]


def test_without_weights_scoring_later_is_refused(made, data, named, monkeypatch, capsys):
    monkeypatch.setattr(grid, "by_run_id", lambda profile: {made.spec.run_id: made.spec})
    assert main(["score", "quick"]) == 0 and "nothing new" in capsys.readouterr().out  # it is not here yet
    arrive(data)
    (made.folder / "model.safetensors").unlink()
    kept = (made.folder / "metrics.json").read_bytes()
    with pytest.raises(runs.RunError, match="expected the trained flow"):
        runs.score_arrivals(made)
    assert main(["score", "quick"]) == 1 and "expected the trained flow" in capsys.readouterr().err
    assert (made.folder / "metrics.json").read_bytes() == kept


def test_a_set_named_later_is_no_field_and_no_pool_of_real_outliers(named):
    found = grid.spec("quick", "photo", method="ro")
    assert "holiday" in found.tested and "holiday" not in {*found.ood, *found.ro_pool}
    assert found.run_id == found.model_copy().run_id and "holiday" not in json.dumps(found.model_dump())


@pytest.mark.parametrize("profile", profiles.profiles())
def test_every_set_named_later_is_for_an_id_set_of_the_grid(profile):
    ids = {s.id for s in grid.by_run_id(profile).values()}
    assert set(profiles.preset(profile).get("scored_later", {})) <= ids
