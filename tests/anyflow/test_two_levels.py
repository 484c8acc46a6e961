"""Laws of a detector on two levels: each part is a level's own score, the sum sees what either sees, and it travels."""

import json

import numpy as np
import pytest
import torch

from flowood_core import Detector, Folder, datasets
from flowood_core.features.images import ImageEncoder

HOW = {"mle_steps": 8, "steps": 8, "blocks": 2, "hidden": 8}


@pytest.fixture(scope="module")
def encoder():
    return ImageEncoder(
        "untrained", size=32
    )  # the machinery; what a trained network sees is not at stake here


@pytest.fixture(scope="module")
def x():
    return datasets.load("photo", "train").x[:160]


@pytest.fixture(scope="module")
def both(x, encoder):
    return Detector(level="both", encoder=encoder, **HOW).fit(x)


def test_the_parts_are_the_levels_own_scores(both, x):
    parts = both.parts(x[:10])
    assert list(parts) == ["pixels", "features", "ood_score"] and len(parts) == 10
    assert np.allclose(parts["pixels"], both._pixel_score(x[:10]))
    assert np.allclose(parts["features"], both.levels_["features"].score(x[:10]))
    assert np.allclose(parts["ood_score"], both.ood_score(x[:10]))


def test_the_sum_rises_with_each_part(both):
    less, more = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])
    at = {name: np.quantile(np.array(tail.knots), [0.2, 0.9]) for name, tail in both.join_.tails.items()}
    of = {n: lo + (hi - lo) * v for (n, (lo, hi)), v in zip(at.items(), (less, more), strict=True)}
    assert (np.diff(both.join_(of)) > 0).all()


def test_the_threshold_keeps_its_share_of_id(both, x):
    held_out = datasets.load("photo", "test").x[:100]
    assert (both.predict(held_out) == 1).mean() > 0.6
    assert (both.predict(torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)) == -1).mean() > 0.5


def test_the_pixel_level_is_that_of_a_detector_on_pixels(both, x):
    alone = Detector(level="pixels", **HOW).fit(x)
    assert np.allclose(both.parts(x[:5])["pixels"], alone.ood_score(x[:5]))


def test_features_alone_train_no_flow_on_pixels(x, encoder):
    detector = Detector(level="features", encoder=encoder, **HOW).fit(x)
    assert list(detector.parts(x[:3])) == ["features", "ood_score"]
    assert np.allclose(detector.ood_score(x[:3]), detector.levels_["features"].score(x[:3]))


def test_it_is_saved_and_loaded_to_the_same_scores(both, x, tmp_path, monkeypatch):
    folder = both.save(tmp_path / "two")
    assert sorted(p.name for p in folder.iterdir()) == [
        "detector.json",
        "level.safetensors",
        "weights.safetensors",
    ]
    again = Detector.load(folder)
    assert np.allclose(again.parts(x[:6]), both.parts(x[:6]), rtol=1e-6) and again.level == "both"


def test_one_saved_before_there_were_sights_keeps_its_sum(both, x, tmp_path):
    path = both.save(tmp_path / "two") / "detector.json"
    facts = json.loads(path.read_text())
    facts |= {"format": "flowood detector 1", "join": facts["join"]["tails"]}
    path.write_text(json.dumps(facts))
    parts = Detector.load(tmp_path / "two").parts(x[:6])
    own = sum(tail(parts[name].to_numpy()) for name, tail in both.join_.tails.items())
    assert np.allclose(parts["ood_score"], own)


def test_a_damaged_level_is_refused(both, tmp_path):
    folder = both.save(tmp_path / "two")
    path = folder / "level.safetensors"
    held = path.read_bytes()
    path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"other or damaged ones in .*level\.safetensors"):
        Detector.load(folder)


def test_parts_of_a_folder_bear_the_names_of_its_files(both, tmp_path, x):
    from PIL import Image

    for k, image in enumerate(x[:4]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"picture {k}.png")
    parts = both.parts(Folder(tmp_path, size=32))
    assert list(parts.index) == [f"picture {k}.png" for k in range(4)]
    assert np.allclose(parts["ood_score"], both.ood_score(x[:4]))


@pytest.mark.parametrize("level", ["features", "both"])
def test_what_is_no_picture_is_refused_before_anything_is_trained(level):
    with pytest.raises(ValueError, match=rf"expected 8-bit images .* for level='{level}', got torch.float64"):
        Detector(level=level, mle_steps=10**9).fit(np.random.default_rng(0).normal(size=(200, 3)))


def test_too_few_held_out_and_a_misspelt_level_are_refused_at_once(x, encoder):
    with pytest.raises(ValueError, match=r"20 held out for level='both', got 48 and 12"):
        Detector(level="both", encoder=encoder, mle_steps=10**9).fit(x[:60])
    with pytest.raises(ValueError, match="did you mean 'both'"):
        Detector(level="boht").fit(x)
