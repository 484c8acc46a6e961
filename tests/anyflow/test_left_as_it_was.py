"""What is handed in comes back as it was, and data are read the same way wherever they come in."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import IterableDataset

from flowood_core import Detector, bias_report, correct
from flowood_core.anyflow import adapt, inputs
from flowood_core.anyflow.folders import Folder
from flowood_core.flow import vector_flow
from flowood_core.scores import Threshold


class Dropping(nn.Module):
    """A density whose answers differ from call to call while it trains, with a layer that its owner froze."""

    def __init__(self, d=3):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(d))
        self.drop, self.frozen = nn.Dropout(0.5), nn.BatchNorm1d(d, affine=False).eval()

    def log_prob(self, x):
        x = self.frozen(x) + self.drop(torch.ones_like(x)) - 1
        return -0.5 * (x - self.loc).square().sum(1)


def rows(n=60, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def modes(flow):
    return [module.training for module in flow.modules()]


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize(
    "look",
    [
        lambda f: adapt.check_flow(f, rows(8)),
        lambda f: adapt.as_flow(f, rows(8)),
        lambda f: adapt.as_flow(f).log_prob(rows(8)),
        lambda f: adapt.log_px_of(f, rows(8)),
        lambda f: bias_report(f, rows(30), {"a": rows(30, seed=1)}, complexity=lambda x: x.abs().sum(1), n_boot=20),
        lambda f: Detector(f, mle_steps=2, steps=2).fit(rows()),
    ],
    ids=["check", "as_flow", "first", "log_px_of", "bias_report", "fit"],
)  # fmt: skip
def test_every_module_of_a_flow_keeps_its_mode(look, is_training):
    flow = Dropping().train(is_training)
    flow.frozen.eval()
    before = modes(flow)
    look(flow)
    assert modes(flow) == before


def test_a_flow_in_eval_mode_gives_the_same_densities_after_it_was_looked_at():
    flow, x = Dropping().eval(), rows(8)
    before = flow.log_prob(x)
    looked_at = adapt.as_flow(flow, x)
    assert torch.equal(flow.log_prob(x), before) and torch.equal(looked_at.log_prob(x), before)


def test_nothing_that_the_check_compares_leaves_the_device_of_the_flow(monkeypatch):
    def moved(tensor):
        raise AssertionError("a tensor went to the processor, and its partner stayed")

    monkeypatch.setattr(torch.Tensor, "cpu", moved)
    found = adapt.check_flow(vector_flow(200, blocks=2, hidden=8), rows(8, 200))
    assert found["determinant"] == "estimated"


# --- deep pictures -------------------------------------------------------------------------------------------


@pytest.fixture
def deep(tmp_path):
    """Two folders of 16 bits: ID up to 3000, new ones up to 900."""
    rng = np.random.default_rng(0)
    for name, top, n in (("id", 3000, 30), ("new", 900, 3)):
        (tmp_path / name).mkdir()
        for k in range(n):
            values = rng.integers(0, top + 1, (8, 8)).astype(np.uint16)
            values[0, 0] = top
            Image.fromarray(values).save(tmp_path / name / f"{k:02}.png")
    return tmp_path


def test_deep_pictures_are_read_in_the_range_of_fit_whatever_names_them(deep):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = Detector(mle_steps=5, steps=5, blocks=2, hidden=8).fit(Folder(deep / "id", size=8))
    by_path, by_folder = (detector.ood_score(x) for x in (str(deep / "new"), Folder(deep / "new", size=8)))
    assert (by_path == by_folder).all() and list(by_path.index) == list(by_folder.index)
    met = Folder(deep / "new", size=8)
    met.tensor()  # its own range is known by now
    assert (detector.ood_score(met) == by_path).all()
    stated = Folder(deep / "new", size=8, top=900)
    assert (detector.ood_score(stated) != by_path).any(), "a range that was given is kept"


def test_a_path_given_twice_is_two_samples(tmp_path):
    for k in range(2):
        Image.new("RGB", (8, 8), (100 * k, 0, 0)).save(tmp_path / f"{k}.png")
    paths = [tmp_path / f"{k}.png" for k in (0, 1, 0)]
    names, x = Folder(paths, size=8).sample()
    assert names == ["0.png", "1.png", "0.png"] and torch.equal(x[0], x[2])
    assert len(inputs.to_tensor(paths)) == 3


# --- what a detector says of extremes, and of samples it cannot take -------------------------------------------


def test_a_sample_beyond_what_floats_hold_is_ood_and_takes_nothing_from_the_others():
    detector = Detector(mle_steps=5, steps=5, blocks=2, hidden=8).fit(rows(100))
    x = np.array([[0.0, 0, 0], [1e20, 0, 0], [9.96e36, 0, 0]], dtype=np.float32)
    alone = detector.ood_score(x[:1])
    assert list(detector.predict(x)) == [1, -1, -1] and detector.ood_score(x)[0] == alone
    assert np.isposinf(detector.ood_score(x)[2]) and detector.decision_function(x)[2] < 0
    with pytest.raises(ValueError, match=r"nan or inf for 2 of 3 samples \(first: number 1\)"):
        detector.fit_threshold(x)
    with pytest.raises(ValueError, match="finite log-densities"):
        adapt.log_px_of(detector.flow_, x)


def test_samples_that_a_flow_refuses_do_not_say_what_it_is_given_next():
    flow = Dropping(4)
    detector = Detector.of_flow(flow, Threshold(5.0), dtype="float32")
    with pytest.raises((ValueError, RuntimeError)):
        detector.predict(rows(1, 5))
    assert detector.predict(rows(4, 4)).shape == (4,)


def test_grey_images_with_an_odd_side_are_told_what_to_do():
    with pytest.raises(ValueError, match=r"even sides.*27x27.*crop or pad"):
        Detector().fit(torch.arange(30 * 27 * 27).remainder(251).byte().view(30, 1, 27, 27))


# --- tables and outliers ---------------------------------------------------------------------------------------


def test_frames_of_other_columns_are_refused_by_the_report():
    frame = pd.DataFrame({"a": rows(40)[:, 0], "b": rows(40)[:, 1] + 10})
    flow, measure = vector_flow(2, blocks=2, hidden=8), lambda x: x.abs().sum(1)
    with pytest.raises(ValueError, match=r"expected turned with the columns of the ID data.*\['a', 'b'\]"):
        bias_report(flow, frame, {"turned": frame[["b", "a"]]}, complexity=measure)
    same = bias_report(flow, frame, {"same": frame}, complexity=measure, n_boot=20)
    assert same.frame.loc["same", "auroc"] == 50


def test_a_complexity_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="expected finite complexities of ID, got 1 of 30"):
        bias_report(
            vector_flow(3, blocks=2, hidden=8), rows(30), {"a": rows(30)},
            complexity=lambda x: torch.where(torch.arange(len(x)) == 2, torch.nan, x.sum(1)),
        )  # fmt: skip


def test_outliers_given_as_data_are_looked_at_before_the_first_step():
    flow, x = vector_flow(3, blocks=2, hidden=8), rows(40)
    with pytest.raises(ValueError, match=r"expected outliers like the ID samples, torch\.float32, got uint8"):
        correct(flow, x, torch.zeros(10, 3, dtype=torch.uint8), steps=2)
    with pytest.raises(ValueError, match="outliers"):
        correct(flow, x, torch.full((10, 3), torch.nan), steps=2)
    made = 9 * rows(20, seed=1)
    by_kind = [
        adapt.log_px_of(correct(flow, x, outliers, steps=3, quiet=True), x)
        for outliers in (made, made.numpy(), pd.DataFrame(made.numpy()))
    ]
    assert (by_kind[0] == by_kind[1]).all() and (by_kind[0] == by_kind[2]).all()
    detector = Detector(outliers=made.numpy(), mle_steps=2, steps=2, blocks=2, hidden=8).fit(x)
    assert np.isfinite(detector.ood_score(x)).all()


# --- readers ---------------------------------------------------------------------------------------------------


def test_a_picture_with_a_vector_for_its_label_is_not_taken_for_three_grey_ones():
    pictures = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    one_hot = torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    with pytest.raises(ValueError, match=r"that many grey pictures, or one picture.*layout='samples'"):
        inputs.to_tensor(zip(pictures, one_hot, strict=True))
    told = inputs.to_tensor(((x, y) for x, y in zip(pictures, one_hot, strict=True)), layout="samples")
    assert told.shape == (6, 3, 8, 8)
    grey = torch.zeros(11, 8, 8, dtype=torch.uint8)
    batches = ((grey[k : k + 4], torch.arange(len(grey[k : k + 4]))) for k in range(0, 11, 4))
    assert inputs.to_tensor(batches).shape == (11, 1, 8, 8), (
        "the last batch has three, as a picture has channels"
    )


class Stream(IterableDataset):
    def __len__(self):
        return 5

    def __iter__(self):
        return iter(rows(5))


def test_a_stream_that_knows_its_length_is_read_by_iterating():
    assert inputs.to_tensor(Stream(), layout="samples").shape == (5, 3)
