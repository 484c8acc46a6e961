"""Laws of a detector's levels by name: what they may be called, statistics of the surface among them, and files."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from flowood_core import Detector, datasets
from flowood_core.anyflow import explaining, levels
from flowood_core.anyflow.levels import FeatureLevel, names_of
from flowood_core.features.images import ImageEncoder
from flowood_core.outliers import graded, image

HOW = {"mle_steps": 8, "steps": 8, "blocks": 2, "hidden": 8}
FILE = "level-statistics.safetensors"


@pytest.fixture(scope="module")
def x():
    return datasets.load("photo", "train").x[:200]


@pytest.fixture(scope="module")
def held_out():
    return datasets.load("photo", "test").x[:200]


@pytest.fixture(scope="module")
def alone(x):
    return Detector(level="statistics", **HOW).fit(x)


@pytest.fixture(scope="module")
def two(x):
    return Detector(level="statistics+pixels", **HOW).fit(x)


@pytest.fixture(scope="module")
def three(x):
    return Detector(level="all", encoder=ImageEncoder("untrained", size=32), **HOW).fit(x)


def grey(x: torch.Tensor) -> torch.Tensor:
    return x.float().mean(1, keepdim=True).round().to(torch.uint8).expand_as(x).contiguous()


# ---- names


@pytest.mark.parametrize(
    ("level", "names"),
    [
        ("pixels", ("pixels",)),
        ("statistics", ("statistics",)),
        ("features", ("features",)),
        ("both", ("pixels", "features")),
        ("all", ("pixels", "statistics", "features")),
        ("statistics+pixels", ("pixels", "statistics")),
        ("features+statistics", ("statistics", "features")),
        ("features+pixels", ("pixels", "features")),
        ("features+pixels+statistics", ("pixels", "statistics", "features")),
    ],
)
def test_names_stand_in_one_order_however_they_were_written(level, names):
    assert names_of(level) == names


def test_every_choice_that_is_documented_is_one():
    assert all(names_of(level) for level in levels.LEVELS)


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("boht", "expected level to be one of pixels, .* got 'boht' .*did you mean 'both'"),
        ("statistic", "did you mean 'statistics'"),
        ("pixels+statistic", r"each part of level='pixels\+statistic' .*did you mean 'statistics'"),
        ("pixels+pixels", r"expected each name once in level, got 'pixels\+pixels'; say 'pixels'"),
        ("features+pixels+features", r"say 'pixels\+features'"),
        ("both+statistics", "to be one of pixels, statistics, features, got 'both'"),
        ("pixels+", "got ''"),
        ("", "got ''"),
        (None, "got None"),
        (("pixels", "statistics"), "got .*tuple"),
    ],
)
def test_other_names_are_refused_before_anything_is_trained(level, words, x):
    with pytest.raises(ValueError, match=words):
        Detector(level=level, mle_steps=10**9).fit(x)


# ---- scores


def test_statistics_alone_are_the_score_and_train_no_flow_on_pixels(alone, x):
    parts = alone.parts(x[:10])
    assert list(parts) == ["statistics", "ood_score"] and alone.join_ is None
    own = FeatureLevel.on_statistics(tuple(x.shape[1:]), seed=0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    own.fit(x[order[40:]], graded.ccm_graded)
    np.testing.assert_allclose(parts["statistics"], own.score(x[:10]))
    np.testing.assert_array_equal(parts["ood_score"], parts["statistics"])
    start = Detector(level="statistics", **HOW | {"mle_steps": 0, "steps": 0}).fit(x).flow_.state_dict()
    assert all(torch.equal(t, start[name]) for name, t in alone.flow_.state_dict().items())


def test_outliers_that_were_asked_for_are_those_of_the_level(x):
    found = Detector(level="statistics", outliers="ccm_gaussian", **HOW).fit(x)
    own = FeatureLevel.on_statistics(tuple(x.shape[1:]), seed=0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    own.fit(x[order[40:]], image.ccm_gaussian)
    np.testing.assert_allclose(found.ood_score(x[:10]), own.score(x[:10]))


def test_outliers_may_be_given_as_images(x, held_out):
    """A tensor has no truth value: a level has to be told by None alone that there are no outliers."""
    blurred = image.gaussian_blur(x, 3.0)
    detector = Detector(level="statistics", outliers=blurred, **HOW).fit(x)
    assert np.median(detector.ood_score(blurred)) > np.quantile(detector.ood_score(held_out), 0.95)


def test_without_outliers_a_level_is_trained_by_likelihood_alone(x):
    found = Detector(level="statistics", outliers=None, **HOW).fit(x)
    own = FeatureLevel.on_statistics(tuple(x.shape[1:]), seed=0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.ood_score(x[:10]), own.fit(x[order[40:]]).score(x[:10]))


def test_each_of_several_parts_is_the_score_of_that_level_alone(two, alone, x):
    parts = two.parts(x[:10])
    assert list(parts) == ["pixels", "statistics", "ood_score"]
    np.testing.assert_allclose(parts["statistics"], alone.ood_score(x[:10]))
    np.testing.assert_allclose(parts["pixels"], Detector(**HOW).fit(x).ood_score(x[:10]))
    of = {name: parts[name].to_numpy() for name in ("pixels", "statistics")}
    np.testing.assert_allclose(parts["ood_score"], sum(two.join_.worth(name, s) for name, s in of.items()))
    np.testing.assert_allclose(two.ood_score(x[:10]), parts["ood_score"])


def test_all_has_three_parts(three, x):
    assert list(three.parts(x[:6])) == ["pixels", "statistics", "features", "ood_score"]
    assert list(three.levels_) == ["statistics", "features"] and set(three.join_.tails) == set(
        names_of("all")
    )


@pytest.mark.parametrize("fitted", ["alone", "two"])
def test_grey_and_blurred_pictures_lie_beyond_id(fitted, held_out, request):
    detector = request.getfixturevalue(fitted)
    most_of_id = np.quantile(detector.ood_score(held_out), 0.95)
    for made in (grey(held_out), image.gaussian_blur(held_out, 2.0)):
        assert np.median(detector.ood_score(made)) > most_of_id
        assert (detector.predict(made) == -1).mean() > 0.9


def test_a_map_by_place_is_one_of_the_flow_on_pixels(alone, two, x):
    assert explaining.by_place(alone, x[:2]) is None
    maps = explaining.by_place(two, x[:2])
    np.testing.assert_allclose(maps.sum((1, 2)), two.parts(x[:2])["pixels"], rtol=1e-5)


@pytest.mark.parametrize("level", ["statistics", "pixels+statistics"])
def test_grey_pictures_of_one_channel_have_statistics(level, x, held_out):
    detector = Detector(level=level, **HOW).fit(x[:, :1])
    seen = held_out[:, :1]
    blurred = image.gaussian_blur(seen, 2.0)
    assert np.median(detector.ood_score(blurred)) > np.quantile(detector.ood_score(seen), 0.95)


def test_a_folder_of_pictures_is_scored_under_its_names(two, x, tmp_path):
    for k, picture in enumerate(x[:4]):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{k}.png")
    found = two.ood_score(tmp_path)
    assert list(found.index) == [f"{k}.png" for k in range(4)]
    np.testing.assert_allclose(found, two.ood_score(x[:4]))


# ---- what is refused


@pytest.mark.parametrize("level", ["statistics", "pixels+statistics", "all"])
def test_what_is_no_picture_is_refused_before_anything_is_trained(level):
    rows = np.random.default_rng(0).normal(size=(200, 3))
    with pytest.raises(ValueError, match=r"expected 8-bit images .*got torch\.float64"):
        Detector(level=level, mle_steps=10**9).fit(rows)


@pytest.mark.parametrize("shape", [(3, 3, 8), (1, 8, 2)])
def test_pictures_without_statistics_are_refused_before_anything_is_trained(shape):
    x = torch.randint(256, (200, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="expected images of one channel or three and of 4 pixels a side"):
        Detector(level="pixels+statistics", mle_steps=10**9).fit(x)


def test_several_levels_need_a_scale_and_one_does_not(x):
    with pytest.raises(ValueError, match=r"20 held out for level='pixels\+statistics', got 48 and 12"):
        Detector(level="pixels+statistics", mle_steps=10**9).fit(x[:60])
    assert np.isfinite(Detector(level="statistics", **HOW).fit(x[:60]).ood_score(x[:3])).all()


# ---- files


@pytest.mark.parametrize(
    ("fitted", "files"), [("alone", [FILE]), ("two", [FILE]), ("three", [FILE, "level.safetensors"])]
)
def test_a_detector_with_statistics_is_saved_and_loaded_to_the_same_scores(
    fitted, files, x, tmp_path, request
):
    detector = request.getfixturevalue(fitted)
    folder = detector.save(tmp_path / "saved")
    assert sorted(p.name for p in folder.iterdir()) == ["detector.json", *files, "weights.safetensors"]
    facts = json.loads((folder / "detector.json").read_text())
    assert facts["format"] == "flowood detector 3" and ("level" in facts) == (fitted == "three")
    again = Detector.load(folder)
    assert again.level == detector.level and list(again.levels_) == list(detector.levels_)
    np.testing.assert_array_equal(again.parts(x[:6]), detector.parts(x[:6]))
    np.testing.assert_array_equal(again.predict(x[:6]), detector.predict(x[:6]))


@pytest.mark.parametrize(
    ("level", "version"), [("pixels", 1), ("features", 1), ("both", 2), ("features+pixels", 2)]
)
def test_what_has_no_statistics_keeps_its_format_and_its_files(level, version, x, tmp_path):
    detector = Detector(level=level, encoder=ImageEncoder("untrained", size=32), **HOW).fit(x)
    folder = detector.save(tmp_path / "saved")
    facts = json.loads((folder / "detector.json").read_text())
    assert facts["format"] == f"flowood detector {version}" and "level_statistics" not in facts
    files = [] if level == "pixels" else ["level.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == ["detector.json", *files, "weights.safetensors"]
    if files:
        held = (folder / "level.safetensors").read_bytes()
        assert facts["level"]["sha256"] == hashlib.sha256(held).hexdigest()
    np.testing.assert_array_equal(Detector.load(folder).parts(x[:6]), detector.parts(x[:6]))


def test_a_later_format_is_refused(two, tmp_path):
    path = two.save(tmp_path / "saved") / "detector.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "flowood detector 4"}))
    with pytest.raises(ValueError, match=r"'flowood detector 3', got 'flowood detector 4'.*newer flowood"):
        Detector.load(path.parent)


@pytest.mark.parametrize("is_there", [True, False])
def test_damaged_or_missing_statistics_are_refused(two, tmp_path, is_there):
    path = two.save(tmp_path / "saved") / FILE
    held = path.read_bytes()
    path.unlink()
    if is_there:
        path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"other or damaged ones in .*level-statistics\.safetensors"):
        Detector.load(path.parent)
