"""Laws of runs on feature maps: same folders, same resume, labelled backbone; ids of other runs unchanged."""

import numpy as np
import pytest
import torch

from flowood_core import runs, train
from flowood_core.notebook import figures
from flowood_core.runs import Maps, grid, machine

TINY = {
    "profile": "smoke", "id": "photo", "ood": ("digits",), "n_train": 24, "n_test": 10, "epochs": 2, "batch_size": 8,
    "image_size": 32, "blocks": 2, "hidden": 4, "data_init": True, "tau_from_start": True,
}  # fmt: skip


def spec(model="fastflow", method="ccm_gaussian", **fields):
    backbone = "untrained" if model == "fastflow" else "untrained_pyramid"
    return Maps(**TINY | {"model": model, "method": method, "backbone": backbone} | fields)


pytestmark = pytest.mark.usefixtures("outputs")


@pytest.mark.parametrize("frozen", [0, 2], ids=["exact", "frozen"])
@pytest.mark.parametrize("model", ["fastflow", "cs_flow"])
def test_a_run_scores_by_density_and_as_published(model, frozen):
    run = runs.run_or_load(spec(model, frozen_outliers=frozen))
    m = run.metrics
    assert {"pz", "px", "published", "comp_only"} <= set(m["ood"]["digits"])
    assert "untrained backbone" in m["backbone"]["label"] and m["backbone"]["sha256"]
    assert m["outliers"] == ("2 frozen per image" if frozen else "fresh, exact")
    assert m["d"] == run.flow().d and set(run.scores("digits")) == set(m["ood"]["digits"])
    stored = run.arrays["digits"]["published"]
    from flowood_core.datasets import highdim
    from flowood_core.features import map_flows

    again = map_flows.image_scores(run.flow(), highdim.load("digits", "test", 32).drawn(10, 0).x)
    assert stored == pytest.approx(again["published"], rel=1e-4)


def test_a_killed_run_on_a_bank_ends_in_the_same_bits(monkeypatch, tmp_path):
    whole = runs.run_or_load(spec(frozen_outliers=2))
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "second"))
    monkeypatch.setattr(machine, "CHECKPOINT_EVERY_S", 0)
    save, seen = runs.RunFolder.save_checkpoint, []

    def killed(of, state):
        save(of, state)
        seen.append(state["step"])
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs.RunFolder, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.run_or_load(spec(frozen_outliers=2))
    again = runs.run_or_load(spec(frozen_outliers=2))
    assert (whole.folder / "model.safetensors").read_bytes() == (
        again.folder / "model.safetensors"
    ).read_bytes()
    assert seen[:3] == [1, 2, 3]


def test_too_little_memory_halves_the_parts_of_a_batch(monkeypatch):
    fit, seen = train.fit_together, []

    def hungry(*a, **k):
        seen.append(k["settings"][0].micro_batch)
        if (seen[-1] or 8) > 2:
            raise torch.OutOfMemoryError("pretended")
        return fit(*a, **k)

    monkeypatch.setattr(train, "fit_together", hungry)
    with pytest.warns(UserWarning, match="ran out of memory"):
        run = runs.run_or_load(spec(epochs=1))
    assert seen == [None, 4, 2] and run.metrics["micro_batch"] == 2


def test_the_blur_is_calibrated_and_recorded():
    run = runs.run_or_load(spec(method="gaussian", blur_ratio=0.75, epochs=1))
    assert run.metrics["blur"]["ratio"] == pytest.approx(0.75, abs=0.041)
    assert 0.3 < run.metrics["blur"]["radius"] < 4


def test_tau_counts_from_the_untrained_flow(monkeypatch):
    seen = []
    fit = train.fit_together
    watched = lambda *a, **k: seen.append(k["settings"][0].tau) or fit(*a, **k)  # noqa: E731
    monkeypatch.setattr(train, "fit_together", watched)
    runs.run_or_load(spec(epochs=1))
    low = runs.run_or_load(spec(epochs=1, tau=-100.0))
    assert seen[1] == pytest.approx(seen[0] - 100) == low.metrics["tau_nats"]


def test_the_new_fields_leave_old_ids_alone():
    assert runs.Pixels(id="photo", method="mle").run_id == "photo-mle-s0-" + OLD
    assert spec().run_id != spec(frozen_outliers=1).run_id != spec(image_size=64).run_id


def test_a_name_of_the_grid_may_stand_for_the_id_set(monkeypatch):
    entry = {"id": ["chest_xray", "magnetic_tile"], "ood": ["{id}_bad"], "model": ["fastflow"], "method": ["mle"],
             "backbone": ["untrained"], "image_size": [32]}  # fmt: skip
    monkeypatch.setattr(grid, "preset", lambda profile: {"grid": {"table_5": entry}})
    assert [s.ood for s in grid.rows("smoke", "table_5")] == [("chest_xray_bad",), ("magnetic_tile_bad",)]


def test_heat_maps_share_one_scale():
    maps = np.zeros((2, 4, 4))
    maps[1, 0, 0] = 1.0
    over = figures.heat_over(np.zeros((2, 3, 4, 4), np.uint8), maps)
    assert over.shape == (2, 3, 4, 4) and over.dtype == np.uint8
    assert over[1, :, 0, 0].sum() > over[0].max() and (over[0] == over[0, :, :1, :1]).all()


OLD = "bd6acc7a"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": None}, "backbone"),
        ({"image_size": None}, "image_size"),
        ({"model": "pixels"}, "backbone"),
        ({"method": "ro"}, "method"),
        ({"encoder": "hashing"}, "image_size"),
        ({"squeeze": 1}, "squeeze"),
        ({"clamp": 1.0}, "clamp with the model cs_flow only"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        runs.read(TINY | {"model": "fastflow", "method": "mle", "backbone": "untrained"} | fields)


def test_a_run_whose_backbone_is_not_here_leaves_the_others_to_their_end(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    rows = [spec(backbone="wide_resnet50_2", epochs=1), spec(epochs=1)]
    with (
        pytest.warns(UserWarning, match=f"{rows[0].run_id} is left out"),
        pytest.raises(runs.NOT_HERE) as told,
    ):
        runs.run_together(rows)
    assert "What to do" in str(told.value) and runs.Run.read(rows[1]) is not None
    found, absent = runs.available(rows)
    assert [run.spec for run in found] == rows[1:] and list(absent) == [rows[0].run_id]
