"""Laws of explaining a picture: the detector's own numbers, and where they stand among those of ID."""

import numpy as np
import pandas as pd
import pytest

from flowood_core import Detector, datasets, metrics
from flowood_core.anyflow import explaining
from flowood_core.complexity import image_complexity
from flowood_core.scores import Threshold


@pytest.fixture(scope="module")
def detector():
    small = {"mle_steps": 20, "steps": 20, "blocks": 2, "hidden": 8}
    return Detector(**small).fit(datasets.load("photo", "train").x[:120])


def test_the_numbers_are_those_of_detector_and_complexity(detector):
    held = datasets.load("photo", "test").x[:40]
    pictures = {"ID": held[0], "digit": datasets.load("digits", "test").x[0]}
    id_scores = detector.ood_score(held)
    rows = detector.explain(pictures, id_scores)
    assert list(rows.index) == ["ID", "digit"]
    x = np.stack([p.numpy() for p in pictures.values()])
    assert np.allclose(rows.ood_score, detector.ood_score(x)) and np.allclose(
        rows.complexity, image_complexity(x)
    )
    assert list(rows.verdict == "OOD") == list(detector.predict(x) == -1)
    assert (rows.gamma == detector.threshold_.gamma).all()


def test_beyond_id_is_the_share_of_id_with_a_lower_score(detector):
    x = datasets.load("photo", "test").x[:40]
    rows = detector.explain({str(k): p for k, p in enumerate(x)}, detector.ood_score(x))
    assert sorted(rows.beyond_id) == pytest.approx(np.arange(40) / 40)


def test_no_picture_is_refused(detector):
    with pytest.raises(ValueError, match="at least one picture"):
        detector.explain({}, np.zeros(3))


def test_a_set_is_told_by_the_scores_that_are_given():
    sets = pd.DataFrame(
        {"gap": [-1.0, 1.0], "auroc": 50.0, "auroc_low": 40.0, "auroc_high": 60.0}, index=["near", "far"]
    )
    rng = np.random.default_rng(0)
    scores = {"ID": rng.normal(size=80), "near": rng.normal(size=60), "far": rng.normal(9, size=60)}
    told = explaining.told_by(sets, scores)
    assert told["auroc"]["far"] == 100 and told["gap"].tolist() == [-1.0, 1.0]
    assert told["auroc"]["near"] == pytest.approx(100 * metrics.auroc(scores["ID"], scores["near"]))
    assert told["auroc_low"]["near"] < told["auroc"]["near"] < told["auroc_high"]["near"]
    assert (sets["auroc"] == 50).all()


@pytest.mark.parametrize("kind", ["px", "pz"])
def test_a_map_adds_up_to_the_score_of_its_picture(detector, kind):
    found = Detector.of_flow(detector.flow_, Threshold(0.0), kind=kind)
    x = datasets.load("photo", "test").x[:70]
    maps = explaining.by_place(found, x)
    assert maps.shape == (70, 32, 32) and np.allclose(maps.sum((1, 2)), found.ood_score(x), rtol=1e-5)
    assert (maps[:, ::2, ::2] == maps[:, 1::2, 1::2]).all(), "a place of the latent is two pixels wide"


def test_what_changes_in_a_corner_changes_the_map_there(detector):
    x = datasets.load("photo", "test").x[:1].clone()
    before = explaining.by_place(detector, x)
    x[..., :6, :6] = 255 - x[..., :6, :6]
    moved = np.abs(explaining.by_place(detector, x) - before)[0]
    # two blocks of two 3x3 convolutions see at most 2 * 2 * 2 pixels beyond it, at half the resolution
    assert moved[:6, :6].max() > 0 and moved[:, 16:].max() < 1e-3 and moved[16:].max() < 1e-3


def test_a_score_without_places_has_no_map(detector):
    rows = Detector(mle_steps=2, steps=0, blocks=2, hidden=8).fit(
        np.random.default_rng(0).normal(size=(60, 4))
    )
    assert explaining.by_place(rows, datasets.load("photo", "test").x[:2]) is None
