"""Laws of runs: nothing is lost, nothing is done twice, nothing half-written is taken for a result."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kill_driver import spec
from safetensors.torch import load_file, save_file

from flowood_core import datasets, runs, train
from flowood_core.__main__ import main
from flowood_core.engine import compiled
from flowood_core.evidence import tables
from flowood_core.flow import densities
from flowood_core.runs import grid, machine, status
from flowood_core.runs.images import Images
from flowood_core.system import profiles

DRIVER = Path(__file__).parents[1] / "helpers" / "kill_driver.py"
KILLS = int(os.environ.get("FLOWOOD_KILLS", "20"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One run that nothing happened to, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWOOD_OUTPUTS", str(tmp_path_factory.mktemp("undisturbed")))
        patch.setenv("FLOWOOD_PROGRESS", "none")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the driver: sums depend on the number of threads
        yield runs.run_or_load(spec())
        torch.set_num_threads(threads)


def numbers(run):
    """What must not depend on how often a run was killed."""
    return {k: v for k, v in run.metrics.items() if k not in ("seconds", "peak_memory_mb", "provenance")}


def environment(outputs):
    return os.environ | {"FLOWOOD_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "1", "FLOWOOD_PROGRESS": "none"}


def test_a_run_killed_again_and_again_ends_in_the_same_bits(undisturbed, tmp_path):
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(KILLS), "0"],
        env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert int(re.search(r"killed (\d+) times", done.stdout)[1]) >= 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
        survivor = runs.run_or_load(spec(), train_missing=False)
    assert numbers(survivor) == numbers(undisturbed)
    a, b = (load_file(r.folder / "model.safetensors") for r in (survivor, undisturbed))
    assert all(torch.equal(a[k], b[k]) for k in a | b)
    assert np.array_equal(survivor.history["loss"], undisturbed.history["loss"])


def test_two_processes_on_one_folder_train_once(tmp_path):
    done = subprocess.run(
        [sys.executable, str(DRIVER), "pair"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.count("TRAINED") == 1, done.stdout + done.stderr
    assert done.stdout.count("exit 0") == 2, done.stdout + done.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 1


def test_a_finished_run_is_read_and_not_trained(undisturbed, monkeypatch):
    monkeypatch.setattr(train, "fit_together", lambda *a, **k: pytest.fail("trained again"))
    assert runs.run_or_load(undisturbed.spec).metrics == undisturbed.metrics


def test_a_finished_run_holds_what_its_scores_say(undisturbed):
    scores = {name: undisturbed.scores(name) for name in ("photo", "digits")}
    flow = undisturbed.flow()
    x = datasets.load("photo", "test").drawn(40, 0).x
    _, log_px = densities(flow, x)
    assert np.allclose(-log_px, scores["photo"]["px"], rtol=1e-6)
    from sklearn.metrics import roc_auc_score

    both = np.concatenate([scores["photo"]["px"], scores["digits"]["px"]])
    auroc = roc_auc_score(np.repeat([0, 1], [len(scores["photo"]["px"]), len(scores["digits"]["px"])]), both)
    assert undisturbed.metrics["ood"]["digits"]["px"]["auroc"][0] == pytest.approx(auroc)


def test_results_without_weights_are_read_and_the_flow_says_how_to_get_it(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    shutil.copytree(undisturbed.folder, undisturbed.spec.folder)
    (undisturbed.spec.folder / "model.safetensors").unlink()
    run = runs.run_or_load(undisturbed.spec, train_missing=False)
    assert run.metrics == undisturbed.metrics
    with pytest.raises(runs.RunError, match="train it again"):
        run.flow()


def test_provenance_names_commit_versions_machine_and_data(undisturbed):
    made, data = undisturbed.metrics["provenance"], undisturbed.metrics["data"]
    assert {"commit", "dirty", "python", "packages", "codec", "machine"} <= set(made)
    assert made["packages"]["torch"] == torch.__version__.split("+")[0] or made["packages"]["torch"]
    assert [(d["name"], d["split"], d["n"]) for d in data] == [
        ("photo", "train", 64),
        ("photo", "test", 40),
        ("digits", "test", 40),
    ]
    assert all(re.fullmatch(r"[0-9a-f]{64}", d["sha256"]) for d in data)


def test_a_run_counts_test_images_that_it_was_trained_on(undisturbed):
    assert undisturbed.metrics["test_images_seen_in_training"] == {"photo": 0, "digits": 0}
    x = datasets.load("photo", "train").first(5)
    leaky = Images(x, {"photo": x.first(3), "digits": datasets.load("digits", "test").first(2)}, [])
    assert leaky.seen() == {"photo": 3, "digits": 0}


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"method": "mle"}, {"lr": 2e-3}, {"hidden": 9}, {"ood": ["smooth"]}, {"tau": 1.0}]
)
def test_anything_that_changes_a_result_changes_the_id(change):
    assert spec(**change).run_id != spec().run_id


def test_the_id_is_the_same_on_every_machine():
    assert spec().run_id == "photo-ccm_gaussian-s0-" + spec().run_id[-8:]
    assert runs.read(json.loads(spec().model_dump_json())).run_id == spec().run_id


def test_a_misspelt_field_is_refused():
    with pytest.raises(ValueError, match="hiden"):
        spec(hiden=3)
    with pytest.raises(ValueError, match="method"):
        spec(method="gauss")


# --- checkpoints -----------------------------------------------------------------------------------------------


def checkpointed(outputs):
    """A run stopped after two checkpoints, as a kill would leave it."""
    runs_spec = spec()
    runs_spec.folder.mkdir(parents=True)
    data, states = runs_spec.data(), []
    outliers = runs_spec.outliers(data, torch.device("cpu"))
    ready = runs_spec.ready(runs_spec.flow((3, 32, 32)), data.train.x, outliers, runs_spec.settings(64))

    def stop(state):
        runs.RunFolder(runs_spec).save_checkpoint(state)
        states.append(state["step"])
        if len(states) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.fit(
            ready.flow,
            ready.x,
            ready.outliers,
            settings=ready.settings,
            on_checkpoint=stop,
            checkpoint_every_s=0,
        )
    return runs_spec, states


def test_a_torn_checkpoint_is_recognised_and_the_previous_one_used(outputs):
    stopped, steps = checkpointed(outputs)
    latest = stopped.folder / "checkpoint.ckpt"
    latest.write_bytes(latest.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="torn"):
        state = runs.RunFolder(stopped).load_checkpoint(torch.device("cpu"))
    assert state["step"] == steps[0]


def test_a_flipped_bit_is_recognised(outputs):
    stopped, steps = checkpointed(outputs)
    latest = stopped.folder / "checkpoint.ckpt"
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    latest.write_bytes(content)
    with pytest.warns(UserWarning, match="torn or was changed"):
        assert runs.RunFolder(stopped).load_checkpoint(torch.device("cpu"))["step"] == steps[0]


def test_a_foreign_checkpoint_is_refused(outputs):
    stopped, _ = checkpointed(outputs)
    other = spec(seed=7)
    other.folder.mkdir(parents=True)
    (other.folder / "checkpoint.ckpt").write_bytes((stopped.folder / "checkpoint.ckpt").read_bytes())
    with pytest.warns(UserWarning, match="belongs to the run photo-ccm_gaussian-s0"):
        assert runs.RunFolder(other).load_checkpoint(torch.device("cpu")) is None


def test_a_pickle_that_runs_code_is_not_run(outputs):

    class Bomb:
        def __reduce__(self):
            return (Path(outputs / "exploded").touch, ())

    buffer = io.BytesIO()
    torch.save({"format": 1, "run_id": spec().run_id, "state": Bomb()}, buffer)
    content = buffer.getvalue()
    spec().folder.mkdir(parents=True)
    (spec().folder / "checkpoint.ckpt").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.warns(UserWarning, match="cannot be used"):
        assert runs.RunFolder(spec()).load_checkpoint(torch.device("cpu")) is None
    assert not (outputs / "exploded").exists()


# --- a folder that cannot be written ----------------------------------------------------------------------


def test_a_full_disk_is_explained_and_leaves_no_result(outputs, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(runs.RunError, match=r"No space left.*FLOWOOD_OUTPUTS"):
        runs.run_or_load(spec(method="mle", epochs=1))
    monkeypatch.undo()
    assert not list(outputs.rglob("metrics.json")) and not list(outputs.rglob("*.part*"))


def test_an_outputs_root_that_is_a_file_is_explained(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "file"))
    with pytest.raises(runs.RunError, match="FLOWOOD_OUTPUTS"):
        runs.run_or_load(spec())


def test_half_a_metrics_file_is_no_result(outputs):
    spec().folder.mkdir(parents=True)
    (spec().folder / "metrics.json").write_text('{"format": 1, "spe')
    with pytest.warns(UserWarning, match="never finished"), pytest.raises(runs.RunError, match="train_one"):
        runs.run_or_load(spec(), train_missing=False)


def test_divergence_stops_the_run_and_leaves_the_last_checkpoint(outputs):
    bad = spec(method="mle", lr=1e12, clip=0.0, epochs=50)
    with pytest.raises(train.NonFinite, match=r"step \d+"):
        runs.run_or_load(bad)
    assert not (bad.folder / "metrics.json").exists()


def test_every_process_on_a_machine_with_gpus_takes_a_free_one(outputs, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine, "_HELD", [])
    chosen = runs.device.__wrapped__
    assert [chosen(), chosen()] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    machine._HELD[0].release()
    assert chosen() == torch.device("cuda", 0)
    for lock in machine._HELD:
        lock.release()


# --- grid, status, tables ----------------------------------------------------------------------------------


def test_status_tells_done_stopped_and_waiting_apart(outputs, monkeypatch):
    stopped, steps = checkpointed(outputs)
    folder = runs.RunFolder(stopped)
    folder.write_json("spec.json", {})
    folder.write_progress(
        {"step": steps[-1], "history": [{"loss": 1.0, "bpd_id": 7.0}], "seconds": 2.0}, steps=48
    )
    waiting = spec(seed=5)
    done = runs.run_or_load(spec(method="mle", epochs=1)).spec
    monkeypatch.setattr(grid, "by_run_id", lambda profile: {s.run_id: s for s in (done, stopped, waiting)})
    states = {s.run_id: s.state for s in status.standings("quick")}
    assert states == {done.run_id: "done", stopped.run_id: "stopped", waiting.run_id: "waiting"}
    assert "1 done, 0 running, 1 stopped, 1 waiting" in status.describe("quick")


def test_a_locked_run_is_running(outputs):
    code = (
        "import sys; sys.path.insert(0, 'tests/helpers'); from kill_driver import spec; "
        "from flowood_core.runs import status; "
        "print(status.standing(spec()).state)"
    )
    spec().folder.mkdir(parents=True)
    with runs.RunFolder(spec()).locked():
        seen = subprocess.run(
            [sys.executable, "-c", code], env=environment(outputs), capture_output=True, text=True
        )
    assert seen.stdout.strip() == "running"


def test_every_profile_has_a_grid_of_runs_that_can_be():
    for profile in profiles.profiles():
        found = grid.by_run_id(profile)
        assert found and all(s.profile == profile for s in found.values())
        for table in grid.tables(profile):
            assert grid.rows(profile, table)


def test_the_tables_of_a_profile_share_their_runs():
    shared = {s.run_id for s in grid.rows("quick", "table_1")} & {
        s.run_id for s in grid.rows("quick", "table_2")
    }
    assert shared, "the MLE row of Table 2 is a cell of Table 1"


def test_a_typo_in_the_grid_is_refused_with_the_field_names():
    with pytest.raises(grid.GridError, match=r"hiden.*Fields: .*hidden"):
        grid.spec("quick", "photo", method="mle", hiden=3)
    with pytest.raises(grid.GridError, match="table_1"):
        grid.rows("quick", "table_99")


def test_tables_hold_every_metric_of_a_run_in_percent(undisturbed):
    frame = tables.collect([undisturbed])
    cell = frame.query("ood == 'digits' and score == 'px' and metric == 'auroc'").iloc[0]
    assert cell["value"] == pytest.approx(100 * undisturbed.metrics["ood"]["digits"]["px"]["auroc"][0])
    assert set(frame["score"]) == {"pz", "px", "pz_comp", "px_comp", "comp_only"}


def test_what_is_available_is_told_from_what_is_not(undisturbed, outputs, monkeypatch):
    shutil.copytree(undisturbed.folder, spec().folder)
    monkeypatch.setenv("FLOWOOD_DATA", str(outputs / "empty"))
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    nowhere = spec(id="svhn", ood=("digits",))
    found, absent = runs.available([nowhere, spec(), nowhere], train_missing=True)
    assert [run.spec for run in found] == [spec()] and list(absent) == ["svhn"] and "svhn" in absent["svhn"]
    found, absent = runs.available([spec(), spec(seed=5)], train_missing=False)
    assert len(found) == 1 and list(absent) == [spec(seed=5).run_id]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_run_whose_outliers_are_not_here_does_not_keep_the_others_from_their_end(
    outputs, monkeypatch, at_once
):
    monkeypatch.setenv("FLOWOOD_DATA", str(outputs / "empty"))
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    rows = [spec(epochs=1, method="mle"), spec(epochs=1, method="ro", ro_pool=("svhn",)), spec(epochs=1)]
    with (
        pytest.warns(UserWarning, match=f"{rows[1].run_id} is left out"),
        pytest.raises(datasets.MissingPool) as told,
    ):
        runs.run_together(rows, at_once=at_once)
    assert "row RO" in str(told.value) and "ro_pool" in str(told.value) and "What to do" in str(told.value)
    assert [runs.Run.read(s) is not None for s in rows] == [True, False, True]
    found, absent = runs.available(rows)
    assert len(found) == 2 and list(absent) == [rows[1].run_id], "its ID set is here"


def test_weights_of_another_version_are_explained(undisturbed, outputs):
    shutil.copytree(undisturbed.folder, spec().folder)
    path = spec().folder / "model.safetensors"
    held = load_file(path)
    name = next(k for k in held if held[k].dim() == 4)
    save_file(held | {name: held[name][:, :1].contiguous()}, path)
    with pytest.raises(
        runs.RunError, match=r"does not fit the flow of this version: size mismatch.*train it again"
    ):
        runs.run_or_load(spec()).flow()


# --- several runs at once ------------------------------------------------------------------------------------


def rows_of_a_table():
    return [spec(), spec(seed=1), spec(method="mle")]


def test_runs_trained_together_are_those_trained_alone(undisturbed, outputs):
    torch.set_num_threads(1)
    together = runs.run_together([*rows_of_a_table(), spec()], at_once=2)
    assert [run.spec for run in together] == [*rows_of_a_table(), spec()]
    assert [run.metrics["trained_together"] for run in together[:3]] == [2, 2, 1]
    ours, alone = numbers(together[0]), numbers(undisturbed)
    assert ours.pop("trained_together") == 2 and alone.pop("trained_together") == 1 and ours == alone
    a, b = (load_file(run.folder / "model.safetensors") for run in (together[0], undisturbed))
    assert all(torch.equal(a[k], b[k]) for k in a | b)
    assert not list(outputs.rglob("*.ckpt"))


def test_runs_together_continue_from_where_each_was_killed(outputs):
    torch.set_num_threads(1)
    stopped, steps = checkpointed(outputs)
    others = [s for s in rows_of_a_table() if s != stopped]
    found = runs.run_together([stopped, *others], at_once=4)
    assert steps[-1] > 0 and found[0].metrics["trained_together"] == 1  # it alone stood at that step
    assert {run.metrics["trained_together"] for run in found[1:]} == {len(others)}


def test_a_run_that_another_process_trains_is_left_to_it(outputs):
    torch.set_num_threads(1)
    runs.RunFolder(spec()).make()
    with runs.RunFolder(spec()).locked():
        machine._train_side_by_side([spec(), spec(method="mle"), spec(seed=1)], torch.device("cpu"))
    assert [runs.Run.read(s) is not None for s in rows_of_a_table()] == [False, True, True]


def test_runs_that_do_not_fit_into_memory_together_are_trained_in_halves(outputs, monkeypatch):
    fit, seen = train.fit_together, []

    def hungry(flows, *a, **k):
        seen.append(len(flows))
        if len(flows) > 1:
            raise torch.OutOfMemoryError("pretended")
        return fit(flows, *a, **k)

    monkeypatch.setattr(train, "fit_together", hungry)
    with pytest.warns(UserWarning, match="no memory for 3 runs at once"):
        found = runs.run_together(rows_of_a_table(), at_once=3)
    assert seen == [3, 2, 1, 1, 1] and len(found) == 3


def test_a_run_that_diverges_does_not_keep_the_others_from_their_end(outputs, monkeypatch):
    torch.set_num_threads(1)
    rows = [*rows_of_a_table(), spec(seed=2, lr=1e30)]
    with pytest.warns(UserWarning) as warned, pytest.raises(train.NonFinite):
        runs.run_together(rows, at_once=4)
    said = [str(w.message) for w in warned]
    assert any("one of 4 runs diverged" in text for text in said) and any(rows[-1].run_id in t for t in said)
    assert [runs.Run.read(s) is not None for s in rows] == [True, True, True, False]
    assert [runs.Run.read(s).metrics["trained_together"] for s in rows[:2]] == [2, 2]


def test_the_command_trains_what_is_missing_and_explains_what_cannot_be(outputs, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(runs, "run_together", lambda specs, at_once: asked.append((list(specs), at_once)))
    assert main(["train", "quick", "--tables", "table_2", "--at-once", "5"]) == 0
    rows = {s.run_id: s for s in grid.rows("quick", "table_2")}
    assert asked == [(list(rows.values()), 5)] and f"{len(rows)} to train" in capsys.readouterr().out
    known = "expected a profile out of smoke, quick"
    for wrong, word in ([["nosuch"], known], [["quick", "--tables", "table_99"], "table_99"]):
        assert main(["train", *wrong]) == 1 and word in capsys.readouterr().err


@pytest.mark.parametrize("engine", [False, True])
def test_a_batch_is_cut_into_parts_only_where_the_engine_does_not_take_it(outputs, monkeypatch, engine):
    monkeypatch.setattr(compiled, "takes", lambda blocks, x: engine)
    run = runs.run_or_load(spec(epochs=1, micro_batch=4))
    assert run.metrics["micro_batch"] == (None if engine else 4)
