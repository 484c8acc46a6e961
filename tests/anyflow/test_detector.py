"""Laws of the detector: orientations, scikit-learn's and pytorch-ood's habits, files that bring scores back."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from flowood_core import Detector, datasets, flow
from flowood_core.anyflow.detector import PytorchOod
from flowood_core.scores import Threshold
from flowood_core.system import paths

ROOT = paths.repo_root()
SMALL = {"mle_steps": 20, "steps": 20, "blocks": 2, "hidden": 8}


def rows(n=200, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 3)) * [1, 50, 0.01] + [0, 1000, 5]
    far = rng.normal(size=(n // 2, 3)) * [1, 50, 0.01] + [9, 1000, 5.1]
    return a, far


@pytest.fixture(scope="module")
def fitted():
    return Detector(**SMALL).fit(rows()[0])


@pytest.fixture(scope="module")
def on_images():
    return Detector(kind="fusion", **SMALL).fit(datasets.load("digits", "train").x[:120])


def test_the_orientations_are_as_stated(fitted):
    x, far = rows(seed=1)
    assert np.median(fitted.ood_score(far)) > np.median(fitted.ood_score(x))
    assert (fitted.score_samples(x) == -fitted.ood_score(x)).all()
    assert np.allclose(fitted.decision_function(x), fitted.score_samples(x) - fitted.offset_)
    assert ((fitted.decision_function(x) > 0) == (fitted.predict(x) == 1)).all()
    assert (fitted.predict(far) == -1).mean() > 0.9 > 0.2 > (fitted.predict(x) == -1).mean()
    assert fitted.score(np.r_[x, far], np.repeat([1, -1], [200, 100])) > 0.95


def test_the_density_is_one_in_the_units_of_the_data(fitted):
    """Standardisation is part of the flow: its determinant counts."""
    x = torch.tensor(rows()[0], dtype=torch.float32)
    inner = fitted.flow_.flow.log_prob(((x - fitted.flow_.shift) / fitted.flow_.scale).float())
    expected = -(inner - fitted.flow_.scale.log().sum())
    assert np.allclose(fitted.ood_score(x), expected.detach().numpy(), atol=1e-3)


def test_the_threshold_is_apart_and_can_be_fitted_anew(fitted):
    x, _ = rows(seed=2)
    other = clone(fitted).set_params(**SMALL).fit(rows()[0])
    before = other.ood_score(x)
    other.fit_threshold(x, keep=0.5)
    assert (other.predict(x) == 1).mean() == pytest.approx(0.5, abs=0.01)
    assert (other.ood_score(x) == before).all()
    other.threshold_ = Threshold(1e9)
    assert (other.predict(x) == 1).all()


def test_it_has_the_habits_of_scikit_learn(fitted):
    assert fitted.get_params()["steps"] == 20
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() and not hasattr(copy, "flow_")
    x, far = rows()
    pipeline = make_pipeline(StandardScaler(), Detector(**SMALL)).fit(x)
    assert set(pipeline.predict(far)) <= {1, -1} and pipeline.score_samples(x).shape == (200,)
    y = np.repeat([1, -1], [len(x), len(far)])
    found = cross_val_score(
        Detector(**SMALL), np.r_[x, far], y, cv=StratifiedKFold(2, shuffle=True, random_state=0)
    )
    assert found.shape == (2,) and (found > 0.9).all()


def test_two_fits_give_the_same_scores(fitted):
    x, _ = rows(seed=1)
    assert (Detector(**SMALL).fit(rows()[0]).ood_score(x) == fitted.ood_score(x)).all()


SCORE_AGAIN = """
import sys, numpy as np, torch
from flowood_core import Detector
folder, names = sys.argv[1], sys.argv[2:]
for name in names:
    d, x = Detector.load(f"{folder}/{name}"), np.load(f"{folder}/{name}.npy")
    np.savez(f"{folder}/{name}_out", s=d.ood_score(x), p=d.predict(x))
print(torch.__version__)
"""


def scored_elsewhere(python, folder, data):
    """Largest relative difference of the scores in a fresh process, whether all verdicts agree, its torch version."""
    for name, (detector, x) in data.items():
        detector.save(folder / name)
        np.save(folder / f"{name}.npy", x)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, "-c", SCORE_AGAIN, str(folder), *data],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    gaps, same = [], True
    for name, (detector, x) in data.items():
        made, here = np.load(folder / f"{name}_out.npz"), detector.ood_score(x)
        gaps.append(np.abs(made["s"] / here - 1).max())
        same &= bool((made["p"] == detector.predict(x)).all())
    return max(gaps), same, done.stdout.strip()


def test_a_fresh_process_brings_the_scores_back(fitted, on_images, tmp_path):
    images = datasets.load("digits", "test").x[:20].numpy()
    gap, same, version = scored_elsewhere(
        sys.executable, tmp_path, {"rows": (fitted, rows(seed=1)[0]), "images": (on_images, images)}
    )
    assert gap <= 1e-9 and same and version == str(torch.__version__)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pt", ".pkl", ".pickle")]


@pytest.mark.skipif(
    not os.environ.get("FLOWOOD_OTHER_PYTHON"),
    reason="on demand: FLOWOOD_OTHER_PYTHON=python of an environment with another torch and the same dependencies",
)
def test_another_version_of_torch_brings_the_scores_back(fitted, on_images, tmp_path):
    """Scores agree to 1e-6 of their size, verdicts exactly: the file holds numbers, and nothing of torch.

    Done with 2.15.0+cu132 and 2.6.0+cu124, Python 3.11.7, on one CPU: the same bits, in both directions.
    """
    digits, photo = (datasets.load(name, "test").x[:100].numpy() for name in ("digits", "photo"))
    wide = Detector(mle_steps=60, steps=60).fit(datasets.load("photo", "train").x[:400])
    data = {
        "rows": (fitted, rows(seed=1)[0]),
        "fusion": (on_images, digits),
        "wide": (wide, np.concatenate([photo, digits])),
    }
    gap, same, version = scored_elsewhere(os.environ["FLOWOOD_OTHER_PYTHON"], tmp_path, data)
    print(f"torch {torch.__version__} -> {version}: largest relative difference {gap:.1e}")
    assert version != str(torch.__version__), f"expected another torch, got {version} on both sides"
    assert gap <= 1e-6 and same


def test_foreign_and_damaged_files_are_refused(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"detector\.json"):
        Detector.load(tmp_path)
    fitted.save(tmp_path / "a")
    weights = tmp_path / "a" / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-4] + b"oops")
    with pytest.raises(ValueError, match="other or damaged"):
        Detector.load(tmp_path / "a")
    weights.write_bytes(good)
    facts = tmp_path / "a" / "detector.json"
    facts.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(ValueError, match="expected a detector of format"):
        Detector.load(tmp_path / "a")
    facts.write_text("no json")
    with pytest.raises(ValueError, match="saved by Detector"):
        Detector.load(tmp_path / "a")


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return x * self.s.exp(), self.s.sum().expand(len(x))


def test_a_flow_of_ones_own_is_copied_saved_and_given_again(tmp_path):
    x = rows()[0] - [0, 1000, 5]
    mine = Own()
    detector = Detector(mine, mle_steps=10, steps=10).fit(x)
    assert (mine.s == 0).all(), "a copy is trained"
    detector.save(tmp_path)
    with pytest.raises(ValueError, match="of your own: make it anew"):
        Detector.load(tmp_path)
    assert (Detector.load(tmp_path, flow=Own()).ood_score(x) == detector.ood_score(x)).all()
    with pytest.raises(ValueError, match="names and shapes"):
        Detector.load(tmp_path, flow=flow.vector_flow(3, blocks=2))


@pytest.mark.parametrize("layers", [2, 3])
def test_a_flow_made_here_is_built_anew_from_the_file(layers, tmp_path):
    x = rows()[0] - [0, 1000, 5]
    mine = flow.vector_flow(3, blocks=3, hidden=12, layers=layers, seed=7)
    detector = Detector(mine, mle_steps=5, steps=0).fit(x)
    assert (Detector.load(detector.save(tmp_path)).ood_score(x) == detector.ood_score(x)).all()


@pytest.mark.parametrize("kind", ["px", "pz"])
def test_a_trained_flow_becomes_a_detector_as_it_is(kind, tmp_path):
    x = rows()[0] - [0, 1000, 5]
    trained = flow.vector_flow(3, blocks=2, hidden=8, seed=1)
    with torch.no_grad():
        log_pz, log_px = trained.log_densities(torch.tensor(x, dtype=torch.float32))
    expected = -{"px": log_px, "pz": log_pz}[kind].numpy()
    gamma = Threshold.fit_quantile(expected, 0.9)
    made = Detector.of_flow(trained, gamma, dtype="float32", kind=kind)
    np.testing.assert_allclose(made.ood_score(x), expected, rtol=1e-5)
    assert (made.predict(x) == np.where(gamma.decide(expected), -1, 1)).all()
    assert (Detector.load(made.save(tmp_path)).ood_score(x) == made.ood_score(x)).all()


def test_a_fusion_cannot_be_made_of_a_trained_flow():
    with pytest.raises(ValueError, match="'px' or 'pz', got 'fusion'; a fusion has to be fitted"):
        Detector.of_flow(flow.vector_flow(3, blocks=2), Threshold(0.0), kind="fusion")


def test_a_folder_is_scored_as_its_images_are(on_images, tmp_path):
    from PIL import Image

    x = datasets.load("digits", "test").x[:70]
    for k, image in enumerate(x):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{k:03}.png")
    assert np.allclose(on_images.ood_score(tmp_path), on_images.ood_score(x), atol=1e-4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((3, 2)), "minimum of 4 is required"),
        (np.random.default_rng(0).random((30, 3, 8, 8)), "8-bit images"),
        (np.random.default_rng(0).random((30, 1)), "minimum of 2 is required"),
        (np.full((30, 2), np.nan), "nan or infinity in 30 of 30"),
    ],
)
def test_what_cannot_be_fitted_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        Detector(**SMALL).fit(data)


def test_other_shapes_and_labels_are_refused(fitted):
    with pytest.raises(ValueError, match="expecting 3 features"):
        fitted.predict(np.zeros((5, 4)))
    with pytest.raises(ValueError, match="like those of fit"):
        fitted.predict(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"one label per sample, 200, \+1 for ID"):
        fitted.score(rows()[0], np.ones(199))
    with pytest.raises(ValueError, match="kind to be one of"):
        Detector(kind="comp").fit(rows()[0])


@pytest.mark.parametrize("call", ["predict", "decision_function", "score_samples"])
def test_without_fit_it_says_so(call):
    with pytest.raises(NotFittedError):
        getattr(Detector(), call)(rows()[0])


def test_it_serves_behind_the_interface_of_pytorch_ood():
    x, far = (torch.tensor(a, dtype=torch.float32) for a in rows())
    data = torch.utils.data.TensorDataset(torch.cat([x, far]), torch.tensor([0] * len(x) + [-1] * len(far)))
    adapter = PytorchOod(Detector(**SMALL))
    with pytest.raises(Exception, match="fit"):
        adapter.predict(x)
    adapter.fit(torch.utils.data.DataLoader(data, batch_size=64)).to("cpu")
    scores = adapter(far)
    assert scores.shape == (len(far),) and scores.mean() > adapter.predict_features(x).mean()


def test_the_real_pytorch_ood_measures_it():
    api, metrics = pytest.importorskip("pytorch_ood.api"), pytest.importorskip("pytorch_ood.metrics")
    x, far = (torch.tensor(a, dtype=torch.float32) for a in rows())
    adapter = PytorchOod(Detector(**SMALL))
    assert isinstance(adapter, api.Detector)
    with pytest.raises(api.RequiresFittingException):
        adapter.predict(x)
    adapter.fit_features(x, torch.zeros(len(x)))
    measured = metrics.OODMetrics()
    measured.update(adapter(x), torch.zeros(len(x)))
    measured.update(adapter(far), -torch.ones(len(far)))
    assert float(measured.compute()["AUROC"]) > 0.95
