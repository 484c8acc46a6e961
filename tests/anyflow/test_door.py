"""Laws of the door, family by family: what people bring comes in right, or is refused by name before work is done."""

import copy
import io
import math
import pickle
import re
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from FrEIA import framework, modules
from PIL import Image
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from flowood_core import Detector, Folder, as_flow, bias_report, check_flow, correct, metrics
from flowood_core.anyflow import inputs, ranges
from flowood_core.anyflow.check import FlowError
from flowood_core.datasets import decode
from flowood_core.features import backbones, map_flows
from flowood_core.flow import image_flow, vector_flow
from flowood_core.scores import Threshold

SMALL = {"mle_steps": 2, "steps": 2, "blocks": 2, "hidden": 8}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n=60, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def bytes_of(n=40, side=8, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), generator=rng(seed), dtype=torch.uint8)


class Own(nn.Module):
    """z = x exp(a), by hand."""

    def __init__(self, d=4, a=0.3):
        super().__init__()
        self.a = nn.Parameter(torch.full((d,), a))

    def forward(self, x):
        return x * self.a.exp(), self.a.sum().expand(len(x))


def normal(z):
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)


# --- 1 asked, not guessed ---------------------------------------------------------------------------------


class MaybeX(Own):
    def forward(self, x=None, reverse=False):
        return super().forward(x)


class Star(Own):
    def forward(self, *args):
        return super().forward(*args)


class Both(Own):
    """(z, log_det) and log_prob, which agree."""

    def log_prob(self, x):
        z, ladj = self(x)
        return normal(z) + ladj


class Traceable(Own):
    """No length of a batch is frozen into the trace."""

    def forward(self, x):
        return x * self.a.exp(), (self.a * torch.ones_like(x)).sum(1)


class Parts(Own):
    """A latent in two parts."""

    def forward(self, x):
        z, ladj = super().forward(x)
        return [z[:, :1], z[:, 1:]], ladj


WRAPPED = {
    "compiled": lambda: torch.compile(Own(), backend="eager"),
    "parallel": lambda: nn.DataParallel(Own()),
    "compiled and parallel": lambda: torch.compile(nn.DataParallel(Own()), backend="eager"),
    "traced": lambda: torch.jit.trace(Traceable(), torch.randn(2, 4), check_trace=False),
    "x=None": MaybeX,
    "*args": Star,
    "both": Both,
    "parts": Parts,
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_flow_comes_in_however_it_is_wrapped(how):
    x = torch.randn(8, 4, generator=rng())
    flow = as_flow(WRAPPED[how](), x)
    assert torch.allclose(flow.log_prob(x), Both().log_prob(x), atol=1e-5)
    assert check_flow(flow, x)["determinant"] == "dense"


@pytest.mark.parametrize("how", ["compiled", "parallel"])
def test_what_is_taken_off_is_said_and_the_weights_are_shared(how):
    wrapped = WRAPPED[how]()
    made = correct(wrapped, rows(), steps=1, inplace=True, quiet=True)
    assert made.flow is (wrapped._orig_mod if how == "compiled" else wrapped.module)
    assert "taken out of" in str(made.correction)


class Forgot(Both):
    def log_prob(self, x):
        return normal(self(x)[0])


class Sampling(Own):
    """The call goes from z to x; log_prob is right."""

    def log_prob(self, x):
        return normal(x * (-self.a).exp()) - self.a.sum()


class NoDeterminant(Both):
    def forward(self, x):
        return x * self.a.exp(), torch.zeros(len(x))


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        (Forgot, "log_prob leaves the log-determinant out"),
        (Sampling, r"kind='own_base'.*kind='log_prob'"),
        (NoDeterminant, "it is zero"),
    ],
)
def test_a_flow_with_two_doors_must_say_one_thing(flow, words):
    with pytest.raises(FlowError, match=words):
        as_flow(flow(), torch.randn(8, 4, generator=rng()))


def test_the_caller_settles_what_is_ambiguous():
    x = torch.randn(8, 4, generator=rng())
    made = as_flow(Sampling(), x, kind="log_prob")
    assert not made.has_latent and torch.equal(made.log_prob(x), Sampling().log_prob(x))


class Needs(Own):
    def forward(self, x, context):
        return super().forward(x)


class Drops(Both):
    """Without its condition it computes another density, without a word."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)

    def forward(self, x, context=None):
        return super().forward(x if context is None else x + self.embed(context))

    def log_prob(self, x, context=None):
        z, ladj = self(x, context)
        return normal(z) + ladj


@pytest.mark.parametrize(("flow", "error"), [(Needs, TypeError), (Drops, FlowError)])
def test_a_conditional_flow_is_refused_with_the_way_to_bind_it(flow, error):
    with pytest.raises(error, match=r"`context`.*bind one in a module of your own"):
        as_flow(flow(), torch.randn(8, 4))


def test_conditional_flows_of_the_libraries_are_never_scored_without_the_condition():
    import zuko
    from nflows import distributions, flows, transforms

    made = transforms.MaskedAffineAutoregressiveTransform(4, 8, context_features=3)
    for flow in (flows.Flow(made, distributions.StandardNormal([4])), zuko.flows.NSF(4, context=3)):
        with pytest.raises((FlowError, TypeError, RuntimeError, ValueError)):
            as_flow(flow, torch.randn(8, 4))


def test_a_bound_condition_comes_in():
    class Bound(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow, self.c = Drops(), torch.ones(1, 3)

        def log_prob(self, x):
            return self.flow.log_prob(x, self.c)

    assert as_flow(Bound(), torch.randn(8, 4)).log_prob(torch.randn(5, 4)).shape == (5,)


def glow():
    import normflows as nf

    torch.manual_seed(0)
    q0, merges, flows = [], [], []
    for i in range(2):
        flows += [
            [nf.flows.GlowBlock(3 * 2 ** (3 - i), 8, split_mode="channel", scale=True), nf.flows.Squeeze()]
        ]
        merges += [nf.flows.Merge()] if i else []
        q0 += [nf.distributions.DiagGaussian((6, 4, 4) if i else (24, 2, 2))]
    return nf.MultiscaleFlow(q0, flows, merges, class_cond=False)


def test_the_image_model_of_normflows_comes_in_and_is_corrected():
    torch.manual_seed(0)
    x, flow = bytes_of(), glow()
    flow.log_prob(x[:8].float() / 256, None)  # its ActNorm measures the first batch
    made = as_flow(flow, x)
    assert made.kind == "normflows"
    few = x[:5].float() / 256
    assert torch.allclose(made.log_prob(few), flow.log_prob(few, None), rtol=1e-4)
    log_pz, log_px = made.log_densities(few)
    assert log_pz.shape == (5,) and not torch.allclose(log_pz, log_px)
    assert correct(flow, x, steps=1, quiet=True).log_prob(few).shape == (5,)


def test_the_flows_on_features_of_this_package_show_their_latent():
    flow = map_flows.fast_flow(backbones.load("untrained"), 32)
    x = bytes_of(30, 32)
    detector = Detector(flow, kind="pz", mle_steps=0, steps=0).fit(x)
    with torch.no_grad():
        expected = flow.eval().log_densities((x[:4].float() + 0.5) / 256)[0]
    np.testing.assert_allclose(detector.ood_score(x[:4]), -expected.numpy(), rtol=1e-5)
    assert check_flow(flow, x)["determinant"] == "on features"


def test_any_flow_becomes_a_detector_as_it_is_and_is_checked_on_what_it_scores():
    x = torch.randn(6, 4, generator=rng())
    for flow in (Own(), as_flow(Own())):
        made = Detector.of_flow(flow, Threshold(8.0), dtype="float32")
        np.testing.assert_allclose(made.ood_score(x), -Both().log_prob(x).detach(), rtol=1e-5)
    with pytest.raises(FlowError, match="it is zero"):
        Detector.of_flow(NoDeterminant(), Threshold(8.0), dtype="float32").predict(x)
    with pytest.raises(TypeError, match=r"expected a scores\.Threshold, got float"):
        Detector.of_flow(Own(), 8.0, dtype="float32")


class Shard(torch.utils.data.DataLoader):
    """A loader by another name."""


class Wrapper:
    def __init__(self, of):
        self.of = of

    def __iter__(self):
        return iter(self.of)

    def __len__(self):
        return len(self.of)


PAIRS = torch.utils.data.TensorDataset(torch.arange(48.0).view(12, 4), torch.zeros(12))
LOADER = torch.utils.data.DataLoader(PAIRS, 5)
STREAMS = {
    "loader": lambda: LOADER,
    "subclass": lambda: Shard(PAIRS, 5),
    "wrapper": lambda: Wrapper(LOADER),
    "batches": lambda: (x for x, _ in LOADER),
    "samples with labels": lambda: ((x, int(y)) for x, y in PAIRS),
    "bare samples": lambda: (x for x, _ in PAIRS),
    "loader of samples": lambda: torch.utils.data.DataLoader(PAIRS, batch_size=None),
    "nested lists": lambda: PAIRS.tensors[0].tolist(),
    "list of pairs": lambda: [(x, y) for x, y in PAIRS],
}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_batch_is_no_sample_by_whatever_name_it_comes(stream):
    assert torch.equal(inputs.to_tensor(STREAMS[stream]()).float(), PAIRS.tensors[0])


def test_a_nested_list_is_read_whole():
    data = np.arange(24.0).reshape(3, 2, 4)
    assert (inputs.to_tensor(data.tolist()).numpy() == data).all()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([{"image": np.zeros((8, 8, 3), np.uint8), "label": 1}] * 3, TypeError, r"dict with 'image'.*item\['image'\]"),
        ({"x": np.zeros((5, 2))}, TypeError, "got a dict with 'x'"),
        (iter([torch.zeros(5, 4, 4)] * 2), ValueError, "layout='batches'. or layout='samples'"),
        ([[np.zeros(3), np.ones(3)]] * 4, ValueError, "rows of one sample.*or a sample and its target"),
        (np.zeros((3, 32, 32), np.uint8), ValueError, "3 grey images, or one image"),
        (np.zeros((32, 32, 3), np.uint8), ValueError, "32 grey images, or one image"),
        (np.zeros((5, 3, 9, 3), np.uint8), ValueError, "first or last"),
        ([Image.new("P", (8, 8))] * 3, ValueError, "got P; give picture.convert"),
        ([Image.new("RGBA", (8, 8))] * 3, ValueError, "got RGBA; give picture.convert"),
    ],
)  # fmt: skip
def test_what_has_two_readings_is_refused_with_both(data, error, words):
    with pytest.raises(error, match=words):
        inputs.to_tensor(data)


def test_the_caller_says_the_layout():
    x = torch.arange(5 * 3 * 9 * 3, dtype=torch.uint8).view(5, 3, 9, 3)
    assert torch.equal(inputs.to_tensor(x, layout="nchw"), x)
    assert torch.equal(inputs.to_tensor(x, layout="nhwc"), x.permute(0, 3, 1, 2))
    assert inputs.to_tensor(x[:3, 0], layout="nhw").shape == (3, 1, 9, 3)
    assert inputs.to_tensor(iter([torch.zeros(5, 4, 4)] * 2), layout="batches").shape == (10, 4, 4)
    with pytest.raises(ValueError, match="did you mean 'nchw'"):
        inputs.to_tensor(x, layout="nchv")


class Lengths:
    def encode(self, texts):
        return np.array([[len(t), t.count("a")] for t in texts], np.float32)


TEXTS = ["a film", "banana", "", "no"]
COLUMNS = {
    "list": list,
    "tuple": tuple,
    "Series": pd.Series,
    "string dtype": lambda t: pd.Series(t, dtype="string"),
    "array": np.array,
    "object array": lambda t: np.array(t, object),
    "generator": lambda t: (x for x in t),
    "column": lambda t: pd.DataFrame({"t": t})["t"],
}


@pytest.mark.parametrize("column", COLUMNS)
def test_texts_come_in_any_column(column):
    x = inputs.to_tensor(COLUMNS[column](TEXTS), encoder=Lengths())
    assert x.tolist() == [[6, 1], [6, 3], [0, 0], [2, 0]]


@pytest.mark.parametrize("gap", [None, float("nan"), 3, pd.NA])
def test_a_missing_text_is_named_by_its_place(gap):
    for make in (list, pd.Series):
        with pytest.raises(TypeError, match="at position 4"):
            inputs.to_tensor(make([*TEXTS, gap]), encoder=Lengths())


# --- 2 nothing is narrowed in silence ----------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1.7e9, 1e12, -3e7])
def test_a_large_offset_changes_no_score(offset):
    x = rows(80, 2)
    how = {"mle_steps": 20, "steps": 10, "blocks": 2, "hidden": 8}
    plain, far = Detector(**how).fit(x), Detector(**how).fit(x + np.array([offset, 0]))
    np.testing.assert_allclose(far.ood_score(x + np.array([offset, 0])), plain.ood_score(x), atol=0.05)


def test_a_flow_that_cannot_hold_an_offset_refuses_it():
    with pytest.raises(ValueError, match=r"column 0 with values up to 1\.7e\+09.*shift"):
        correct(vector_flow(2, blocks=2, hidden=8), rows(60, 2) + np.array([1.7e9, 0]), steps=1, quiet=True)
    shifted = as_flow(Own(2), shift=torch.tensor([1.7e9, 0.0], dtype=torch.float64))
    assert correct(shifted, rows(60, 2) + np.array([1.7e9, 0]), steps=1, quiet=True).correction.n_id == 60


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32, torch.uint8])
def test_a_type_of_numbers_is_no_other_kind_of_data(dtype):
    x = torch.randint(0, 50, (60, 4), generator=rng()).to(dtype)
    fitted = Detector(**SMALL).fit(x)
    np.testing.assert_allclose(fitted.ood_score(x.double()), fitted.ood_score(x), rtol=1e-4)
    assert Detector(**SMALL).fit(x.float()).ood_score(x).shape == (60,)
    assert correct(vector_flow(4, blocks=2, hidden=8), x, steps=1, quiet=True).correction.n_id == 60
    report = bias_report(
        vector_flow(4, blocks=2, hidden=8),
        x,
        {"o": x.float()[:30]},
        complexity=lambda v: v.float().sum(1),
        n_boot=5,
    )
    assert len(report.frame) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.ma.masked_greater(np.arange(60.0).reshape(30, 2), 50), "8 values masked|9 values masked"),
        (np.ones((30, 2), complex), "Complex data not supported"),
        (torch.ones(30, 2, dtype=torch.complex64), "real numbers"),
        (np.full((30, 2), 2**60), r"2\*\*53"),
        (np.ones((30, 2), "datetime64[s]"), "turn dates into a number"),
        (torch.ones(30, 2).to_sparse(), r"to_dense\(\)"),
        (sp.random(30, 3, 0.5, "csr"), r"toarray\(\)"),
    ],
)
def test_values_that_would_be_lost_are_refused(data, words):
    with pytest.raises((TypeError, ValueError), match=words):
        inputs.to_tensor(data)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_a_sparse_matrix_is_refused_with_the_way_out(kind):
    with pytest.raises(TypeError, match=r"dense.*toarray"):
        Detector(**SMALL).fit(sp.random(60, 5, 0.5, kind, random_state=0))


RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))
DEEP = {
    "float.tif": (RAMP.astype(np.float32), 1),
    "10 bits.tif": ((1023 * RAMP).astype(np.uint16), 1023),
    "12 bits.png": ((4095 * RAMP).astype(np.uint16), 4095),
    "16 bits.png": ((65535 * RAMP).astype(np.uint16), 65535),
    "int32.tif": ((255 * RAMP).astype(np.int32), None),
}


@pytest.mark.parametrize("name", DEEP)
def test_pictures_of_other_depths_keep_their_grey_levels_and_the_range_is_said(name, tmp_path):
    a, top = DEEP[name]
    Image.fromarray(a).save(tmp_path / name)
    folder = Folder(tmp_path, size=64)
    x = folder.tensor()[0, 0]
    np.testing.assert_allclose(x[0].numpy(), 255 * RAMP[0], atol=1)
    assert (f"values of the range 0..{top:g} scaled" in folder.how) == (top is not None) if top else True


def test_deep_pictures_of_one_folder_share_a_range(tmp_path):
    for name, peak in {"dark": 900, "bright": 4095}.items():
        Image.fromarray(np.full((40, 40), peak, np.uint16)).save(tmp_path / f"{name}.png")
    bright, dark = (int(x.max()) for x in Folder(tmp_path).tensor())
    assert (bright, dark) == (255, round(900 * 255 / 4095))
    assert int(Folder(tmp_path / "dark.png", top=4095).tensor().max()) == dark


def test_negative_values_are_no_grey(tmp_path):
    Image.fromarray(np.full((40, 40), -5, np.int32)).save(tmp_path / "ct.tif")
    with pytest.raises(ValueError, match="negative values, down to -5"):
        Folder(tmp_path).tensor()


def test_there_is_one_decoder(tmp_path):
    """A prepared set and a folder of yours see the same pixels."""
    rgba = np.random.default_rng(0).integers(0, 256, (50, 41, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    set_of = decode.picture(tmp_path / "a.png", (32, 32))
    mine = Folder(tmp_path, size=32, fit="stretch").tensor()[0].permute(1, 2, 0).numpy()
    assert (set_of == mine).all()


# --- 3 folders ---------------------------------------------------------------------------------------------


def save(path, seed=0, side=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def test_hidden_folders_are_left_out_and_links_are_followed(tmp_path):
    for name in (
        "in/good/a.png",
        "in/good/.ipynb_checkpoints/a-checkpoint.png",
        "in/.Trash/b.png",
        "far/c.png",
    ):
        save(tmp_path / name)
    (tmp_path / "in/linked").symlink_to(tmp_path / "far", target_is_directory=True)
    (tmp_path / "in/round").symlink_to(tmp_path / "in", target_is_directory=True)
    folder = Folder(tmp_path / "in")
    assert folder.names == ["good/a.png", "linked/c.png"]
    assert "hidden, left out: 2" in folder.how


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("", ValueError, "empty name"),
        ("  ", ValueError, "empty name"),
        ("nowhere", FileNotFoundError, "is the path right"),
        ("goud", FileNotFoundError, "There is 'good' beside it"),
        ([], FileNotFoundError, "empty list"),
        (["good/a.png", "good/b.png"], FileNotFoundError, "got good/b.png"),
    ],
)
def test_a_path_that_is_none_is_refused_by_name(given, error, words, tmp_path, monkeypatch):
    save(tmp_path / "good/a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        Folder(given)
    if given:
        with pytest.raises(error, match=words):
            inputs.to_tensor(given)


@pytest.fixture(scope="module")
def on_images():
    return Detector(**SMALL).fit(bytes_of(40, 32))


def test_scores_of_files_carry_their_names(on_images, tmp_path):
    for k in range(5):
        save(tmp_path / f"sub/{k}.png", seed=k)
    (tmp_path / "sub/1.png").write_bytes(b"")
    folder = Folder(tmp_path)
    with pytest.warns(UserWarning, match=r"1 of 5 files could not be read and are left out: sub/1\.png"):
        scores = on_images.ood_score(folder)
    assert list(scores.index) == [f"sub/{k}.png" for k in (0, 2, 3, 4)]
    one = on_images.ood_score(tmp_path / "sub/3.png")
    assert one["3.png"] == pytest.approx(scores["sub/3.png"])
    files = [tmp_path / "sub/4.png", tmp_path / "sub/0.png"]
    listed = on_images.predict(files)
    assert list(listed.index) == ["4.png", "0.png"] and set(listed) <= {1, -1}
    assert on_images.decision_function(files).loc["4.png"] == pytest.approx(
        on_images.threshold_.gamma - scores["sub/4.png"]
    )


def test_where_nothing_can_be_read_the_first_file_is_named(on_images, tmp_path):
    (tmp_path / "a.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"a\.png"):
        on_images.predict(tmp_path)


def test_a_folder_to_score_is_read_as_the_folder_that_was_fitted(tmp_path):
    for k in range(30):
        save(tmp_path / f"{k:02}.png", seed=k, side=20 + k)
    fitted = Detector(**SMALL).fit(Folder(tmp_path, size=16, fit="stretch"))
    again = Detector.load(fitted.save(tmp_path / "saved"))
    for k in (3, 20):
        file = tmp_path / f"{k:02}.png"
        expected = fitted.ood_score(Folder(file, size=16, fit="stretch"))
        assert (fitted.ood_score(file) == expected).all() and (again.ood_score(str(file)) == expected).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text\ncafé\n".encode("cp1252"), "expected a.csv in UTF-8.*encoding="),
        (b"id;text\n1;hello\n", "separated by ';': say delimiter=';'"),
        (b"id\ttext\n1\thello\n", "separated by .*: say delimiter="),
        (b"id,txet\n1,hello\n", "did you mean 'txet'"),
    ],
)
def test_a_csv_of_another_kind_says_what_to_say(content, words, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises((KeyError, ValueError), match=words):
        inputs.csv_column(tmp_path / "a.csv", "text")


def test_a_csv_of_excel_and_long_texts_are_read(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes("text\ncafé\n".encode("utf-16"))
    assert inputs.csv_column(file, "text") == ["café"]
    file.write_bytes("text\ncafé\n".encode("cp1252"))
    assert inputs.csv_column(file, "text", encoding="cp1252") == ["café"]
    file.write_bytes(b"id;text\n1;" + b"x" * 200_000 + b"\n")
    assert len(inputs.csv_column(file, "text", delimiter=";")[0]) == 200_000


# --- 4 parameters in their ranges --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("keep", 95, "expected keep above 0 and up to 1, got 95; 95 percent is 0.95"),
        ("keep", 0, "above 0"),
        ("tau", "0", "expected tau as a number"),
        ("seed", None, "expected seed as a whole number"),
        ("seed", -1, "expected seed from 0"),
        ("lr", "1e-3", "expected lr as a number above 0, got '1e-3' .str."),
        ("lr", math.nan, "expected lr above 0"),
        ("holdout", 1.0, "below 1"),
        ("steps", 2.5, "expected steps as a whole number"),
        ("blocks", 1, "2 or more"),
        ("batch_size", True, "as a whole number"),
        ("kind", "PX", "did you mean 'px'"),
        ("outliers", "gausian", "did you mean 'gaussian'"),
        ("outliers", "ccm", "8-bit images"),
        ("kind", "fusion", "8-bit images for kind='fusion'"),
    ],
)
def test_a_parameter_out_of_range_is_named_before_anything_is_trained(name, value, words, monkeypatch):
    from flowood_core.train import loop

    trained = []
    monkeypatch.setattr(loop, "fit_together", lambda *a, **k: trained.append(1))
    with pytest.raises(ValueError, match=words):
        Detector(**{"mle_steps": 5, "steps": 5, "blocks": 2, "hidden": 8} | {name: value}).fit(rows())
    assert not trained


@pytest.mark.parametrize("name", ["seed", "hidden", "blocks", "steps", "mle_steps", "batch_size"])
def test_integers_of_numpy_are_integers(name, tmp_path):
    plain = Detector(**SMALL | {name: 2}).fit(rows())
    numpy = Detector(**SMALL | {name: np.int64(2)}).fit(rows())
    assert (plain.ood_score(rows()) == numpy.ood_score(rows())).all()
    assert getattr(Detector.load(numpy.save(tmp_path)), name) == 2


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"size": 0}, "expected size from 1"),
        ({"size": 32.0}, "expected size as a whole number"),
        ({"size": (8, 8, 8)}, "one side or .height, width."),
        ({"mode": "rgb"}, "did you mean 'RGB'"),
        ({"fit": "corp"}, "did you mean 'crop'"),
        ({"top": 0}, "expected top above 0"),
    ],
)
def test_a_folder_checks_its_parameters(how, words, tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=words):
        Folder(tmp_path, **how)
    assert Folder(tmp_path, size=np.int64(16)).tensor().shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"objective": "MLE"}, "did you mean 'mle'"),
        ({"schedule": "linear"}, "constant, cosine"),
        ({"outlier_prob": 1.5}, "below 1"),
        ({"margin": -1}, "0 or more"),
        ({"steps": 0}, "1 or more"),
        ({"limit": 0}, "1 or more"),
    ],
)
def test_the_correction_checks_its_parameters(how, words):
    with pytest.raises(ValueError, match=words):
        correct(vector_flow(4, blocks=2, hidden=8), rows(), quiet=True, **how)


def test_every_parameter_of_the_detector_has_a_range():
    own = {"flow", "outliers", "kind", "level", "encoder"}
    assert set(Detector().get_params()) - own <= set(ranges.CHECKS)


# --- 5 objects that travel ---------------------------------------------------------------------------------


def freia():
    torch.manual_seed(0)
    inn = framework.SequenceINN(4)
    for kind in ("SIGMOID", "SOFTPLUS", "EXP"):
        inn.append(
            modules.AllInOneBlock, subnet_constructor=lambda a, b: nn.Linear(a, b), global_affine_type=kind
        )
    return inn


TRAVELLERS = {
    "a pipeline": lambda: make_pipeline(StandardScaler(), Detector(**SMALL)).fit(rows()),
    "a detector with a flow of FrEIA": lambda: Detector(freia(), **SMALL).fit(rows()),
    "a detector as it is shipped": lambda: Detector.load("models/isun-flowood"),
    "a corrected flow": lambda: correct(vector_flow(4, blocks=2, hidden=8), rows(), steps=1, quiet=True),
}
WAYS = {
    "pickle": lambda o: pickle.loads(pickle.dumps(o)),
    "joblib": lambda o: through(o, joblib.dump, joblib.load),
    "torch.save": lambda o: through(o, torch.save, lambda f: torch.load(f, weights_only=False)),
    "copy": copy.deepcopy,
}


def through(o, dump, load):
    buffer = io.BytesIO()
    dump(o, buffer)
    buffer.seek(0)
    return load(buffer)


def asked(o):
    if isinstance(o, nn.Module):
        return o.log_prob(torch.tensor(rows(), dtype=torch.float32)).detach().numpy()
    x = bytes_of(3, 32) if getattr(o, "dtype_", "") == "uint8" else rows()
    return o.score_samples(x)


@pytest.mark.parametrize("what", TRAVELLERS)
def test_what_was_fitted_travels_and_says_the_same(what, monkeypatch):
    from flowood_core.system import paths

    monkeypatch.chdir(paths.repo_root())
    made = TRAVELLERS[what]()
    for way, travel in WAYS.items():
        assert (asked(travel(made)) == asked(made)).all(), way


def test_a_copy_of_a_freia_block_computes_with_its_own_parts():
    a = freia()
    b = copy.deepcopy(a)
    assert b.module_list[1].global_scale_activation.__closure__[0].cell_contents is b.module_list[1]
    x = torch.randn(5, 4, generator=rng())
    assert torch.equal(a(x)[0], b(x)[0]) and torch.equal(a(x)[1], b(x)[1])


def test_another_process_unpickles(tmp_path):
    made = Detector(**SMALL).fit(rows())
    joblib.dump(made, tmp_path / "d.joblib")
    code = "import joblib, sys, numpy as np; print(repr(joblib.load(sys.argv[1]).predict(np.zeros((1, 4)))))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "d.joblib")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == repr(made.predict(np.zeros((1, 4))))


# --- 6 paths with blanks and quotes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["My Drive", "it's", 'a "b"'])
def test_a_path_is_one_word_for_make(name, tmp_path):
    import shlex
    import shutil

    from flowood_core.system import paths

    checkout = tmp_path / name
    checkout.mkdir()
    shutil.copy(paths.repo_root() / "Makefile", checkout)
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.ok", "readme"], cwd=checkout, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if "workflow.publish" in line]
    assert shlex.split(line)[0] == f"FLOWOOD_OUTPUTS={checkout.resolve()}/outputs"


def test_every_path_of_the_grid_is_quoted():
    from flowood_core.system import paths

    source = (paths.repo_root() / "workflow" / "Snakefile").read_text(encoding="utf-8")
    shells = re.findall(r"\{(input|output|log)\.?(\w*)(:q)?\}", source)
    assert shells and all(quoted for *_, quoted in shells), shells


# --- 7 precision and autograd state ------------------------------------------------------------------------


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_everything_runs_with_double_as_the_default(double_by_default, tmp_path):
    fitted = Detector(**SMALL).fit(rows())
    scores = fitted.ood_score(rows())
    fitted.save(tmp_path)
    torch.set_default_dtype(torch.float32)
    assert (Detector.load(tmp_path).ood_score(rows()) == scores).all(), (
        "the weights come back in their precision"
    )


@pytest.mark.parametrize("make", [lambda: vector_flow(4, blocks=2, hidden=8), Own, freia])
def test_a_flow_in_double_is_corrected_and_diagnosed(make):
    flow = make().double()
    better = correct(flow, rows(), steps=1, quiet=True)
    assert better.log_prob(torch.tensor(rows())).dtype == torch.float64
    found = bias_report(flow, rows(), {"o": rows()[:30]}, complexity=lambda v: v.abs().sum(1), n_boot=5)
    assert len(found.frame) == 1


def test_an_image_flow_in_double_takes_bytes():
    flow = image_flow((3, 8, 8), squeeze=1, blocks=2, hidden=8).double()
    assert correct(flow, bytes_of(), steps=1, quiet=True).correction.n_id == 40


@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode])
def test_a_fit_switches_gradients_on_for_itself(state):
    expected = Detector(**SMALL).fit(rows()).ood_score(rows())
    with state():
        x = torch.tensor(rows())
        found = Detector(**SMALL).fit(x).ood_score(x)
        assert correct(Own(), x, steps=1, quiet=True).correction.steps == 1
        assert not torch.is_grad_enabled()
    assert (found == expected).all()


def test_a_tensor_that_needs_grad_is_data():
    x = torch.tensor(rows(), requires_grad=True)
    fitted = Detector(**SMALL).fit(x)
    assert fitted.predict(x).shape == (60,) and x.grad is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu_are_data():
    x = torch.tensor(rows(), device="cuda")
    np.testing.assert_allclose(
        Detector(**SMALL).fit(x).ood_score(x), Detector(**SMALL).fit(x.cpu()).ood_score(x.cpu())
    )
    flow = vector_flow(4, blocks=2, hidden=8).cuda()
    assert Detector(flow, **SMALL).fit(rows()).ood_score(x).shape == (60,)


# --- peers' own tests --------------------------------------------------------------------------------------


def test_the_checks_of_scikit_learn_pass_whole():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(Detector(**SMALL), on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed and sum(r["status"] == "passed" for r in results) > 40


def frame(n=60):
    a = rows(n, 3)
    return pd.DataFrame({"weight": 70 + 10 * a[:, 0], "height": 1.7 + a[:, 1] / 10, "age": 40 + 9 * a[:, 2]})


@pytest.mark.parametrize(
    "other",
    [
        lambda f: f[["age", "height", "weight"]],
        lambda f: f.rename(columns={"age": "income"}),
        lambda f: f.assign(more=1.0),
    ],
)
def test_columns_of_another_order_or_name_are_refused(other, tmp_path):
    fitted = Detector(**SMALL).fit(frame())
    for detector in (fitted, Detector.load(fitted.save(tmp_path))):
        assert list(detector.feature_names_in_) == ["weight", "height", "age"]
        with pytest.raises(ValueError, match="feature names should match"):
            detector.predict(other(frame()))


def test_labels_that_say_nothing_of_ood_are_not_used_and_that_is_said():
    y = np.arange(60) % 3
    with pytest.warns(UserWarning, match=r"here \['0', '1', '2'\], are not used"):
        fitted = Detector(**SMALL).fit(rows(), y)
    assert (fitted.ood_score(rows()) == Detector(**SMALL).fit(rows()).ood_score(rows())).all()


def test_the_measures_of_pytorch_ood_agree_with_ours():
    """AUPR to half a percent: theirs joins the points of the curve by lines, ours by steps."""
    theirs = pytest.importorskip("pytorch_ood.metrics").OODMetrics()
    fitted = Detector(**SMALL).fit(rows())
    id_, ood = fitted.ood_score(rows(600, seed=1)), fitted.ood_score(rows(600, seed=2) + 0.9)
    theirs.update(torch.tensor(np.r_[id_, ood]), torch.tensor(np.repeat([0, -1], 600)))
    found = {name: float(value) for name, value in theirs.compute().items()}
    assert metrics.auroc(id_, ood) == pytest.approx(found["AUROC"], abs=1e-6)
    assert metrics.fpr95_ood95(id_, ood) == pytest.approx(found["FPR95TPR"], abs=1e-6)
    assert metrics.aupr_in(id_, ood) == pytest.approx(found["AUPR-IN"], abs=5e-3)
    assert metrics.aupr_out(id_, ood) == pytest.approx(found["AUPR-OUT"], abs=5e-3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("inputs", "anyflow.inputs"), ("detector", "anyflow.detector"), ("backbones", "features.backbones"),
        ("feature_flows", "features.map_flows"), ("encoders", "features.encoders"), ("paths", "system.paths"),
    ],
)  # fmt: skip
def test_the_names_of_before_the_folders_still_import_the_same_modules(old, new):
    import importlib

    made = importlib.import_module(f"flowood_core.{old}")
    assert (
        made is importlib.import_module(f"flowood_core.{new}") and made.__spec__.name == f"flowood_core.{new}"
    )
