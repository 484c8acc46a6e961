"""Laws of outliers of every grade of simplicity, and of what JPEG leaves of an image."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from flowood_core import datasets
from flowood_core.complexity import image_complexity
from flowood_core.engine import compiled
from flowood_core.outliers import graded, image, jpeg


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photo():
    return datasets.load("photo", "train").first(400).x


@pytest.fixture(scope="module")
def large():
    """Windows of 128 x 128 pixels of the photographs behind the embedded sets."""
    from sklearn.datasets import load_sample_images

    pictures = [
        torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in load_sample_images().images
    ]
    return torch.stack(
        [p[:, r : r + 128, c : c + 128] for p in pictures for r in (0, 150) for c in (0, 200, 400)]
    )


METHODS = [graded.graded, graded.ccm_graded]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 33, 20), (4, 2, 2), (3, 1, 7)])
def test_shape_type_and_input_are_kept(method, shape):
    x = torch.randint(256, (40, *shape), generator=seeded(1), dtype=torch.uint8)
    before = x.clone()
    out = method(x, x.roll(1, 0), rng=seeded())
    assert out.shape == x.shape and out.dtype == torch.uint8
    assert torch.equal(x, before)


@pytest.mark.parametrize("method", METHODS)
def test_the_generator_decides_and_nothing_else(method, photo):
    x, partner = photo[:40], photo[40:80]
    torch.manual_seed(0)
    a = method(x, partner, rng=seeded(3))
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(a, method(x, partner, rng=seeded(3)))
    assert not torch.equal(a, method(x, partner, rng=seeded(4)))


def test_each_image_is_treated_alone(photo):
    x, other = photo[:40], photo[40:80]
    mixed = torch.cat([x[:20], other[20:]])
    a, b = graded.graded(x, rng=seeded()), graded.graded(mixed, rng=seeded())
    assert torch.equal(a[:20], b[:20])


@pytest.mark.skipif(not compiled.status().startswith("engine"), reason="no compiled engine to compare with")
def test_all_engines_make_the_same_outliers(photo, monkeypatch):
    found = graded.ccm_graded(photo, photo.roll(1, 0), rng=seeded())
    monkeypatch.setenv("FLOWOOD_ENGINE", "torch")
    assert torch.equal(found, graded.ccm_graded(photo, photo.roll(1, 0), rng=seeded()))


def deciles(x, made, to):
    """How many outliers lie in each tenth of the way from a constant to ID, on average or to their own image."""
    low = image_complexity(torch.full_like(x[:1], 128)).item()
    way = (image_complexity(made) - low) / (to - low)
    return np.histogram(way.numpy(), bins=10, range=(0, 1))[0] / len(made)


def test_outliers_cover_the_whole_range_of_complexity(photo):
    to = image_complexity(photo).mean()
    share = deciles(photo, graded.ccm_graded(photo, photo.roll(1, 0), rng=seeded()), to)
    assert share.min() > 0.02
    narrow = deciles(photo, image.ccm_gaussian(photo, photo.roll(1, 0), rng=seeded()), to)
    assert (narrow < 0.02).sum() >= 3  # the paper's do not


def test_they_do_so_on_large_images_too(large):
    x = large.repeat(12, 1, 1, 1)
    radii = graded.blur_grades(large[::2])
    share = deciles(x, graded.graded(x, rng=seeded(), radii=radii), image_complexity(large).repeat(12))
    assert share.min() > 0.02


def test_blur_grades_are_evenly_spaced_in_complexity(large):
    radii = graded.blur_grades(large, 6)
    assert radii == sorted(radii)
    c = np.array([image_complexity(image.gaussian_blur(large, r)).mean() for r in radii])
    steps = -np.diff(c)
    assert (
        abs(steps - steps.mean()) < 0.5 * steps.mean()
    ).all()  # Pillow's blur jumps where a box grows by a pixel


def test_blur_grades_and_the_calibration_read_the_same_curve(photo):
    x = photo[:100]
    radii = graded.blur_grades(x, 3, weakest=0.8)
    assert radii[0] == pytest.approx(image.calibrate_blur(x, 0.8).radius, rel=0.05)


def test_radii_are_measured_on_large_images_only(photo, large):
    assert graded.for_images(photo) is graded.ccm_graded
    assert graded.for_images(large, n=4).keywords["radii"] == graded.blur_grades(large[:4])


def test_grey_images_keep_to_the_other_kinds():
    grey = torch.randint(256, (300, 1, 16, 16), generator=seeded(), dtype=torch.uint8)
    found = {list(graded.SHARES)[k] for k in graded._kinds(grey, graded.SHARES, seeded()).tolist()}
    assert found == set(graded.SHARES) - {"desaturate"}


@pytest.mark.parametrize("kind", list(graded.SHARES))
def test_a_share_is_the_probability_of_its_kind(kind, photo):
    shares = {k: 0.7 if k == kind else 0.075 for k in graded.SHARES}
    kinds = graded._kinds(photo.repeat(5, 1, 1, 1), shares, seeded())
    assert (kinds == list(graded.SHARES).index(kind)).double().mean() == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
def test_the_share_of_ccm_alone_is_what_was_asked_for(share, photo):
    """Nothing is graded there: with the same draws the outlier is CCM's."""
    x = photo.repeat(3, 1, 1, 1)
    rng = seeded(5)
    u = torch.rand(len(x), generator=rng)
    ccm = image.ccm(x, x.roll(1, 0), rng=rng)
    made = graded.ccm_graded(x, x.roll(1, 0), rng=seeded(5), ccm_only=share)
    only = u < share
    assert only.double().mean() == pytest.approx(share, abs=0.07)
    assert torch.equal(made[only], ccm[only])
    assert share == 1 or (made[~only] != x[~only]).flatten(1).any(1).double().mean() > 0.95


def test_of_what_is_graded_every_second_begins_with_ccm(photo):
    """Shares of blur alone, of a radius that changes nothing: what differs from the image is CCM's."""
    x = photo.repeat(3, 1, 1, 1)
    made = graded.ccm_graded(x, x.roll(1, 0), rng=seeded(), ccm_only=0, shares={"blur": 1}, radii=[0.0])
    assert (made != x).flatten(1).any(1).double().mean() == pytest.approx(0.5, abs=0.07)


# --- magnified patches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 5, 16, 20])
def test_a_magnified_square_is_torchs_bilinear_enlargement_of_it(side):
    x = torch.randint(256, (30, 3, 20, 26), generator=seeded(2), dtype=torch.uint8)
    across, along = torch.rand(2, 30, generator=seeded(3), dtype=torch.float64)
    out = graded.magnify(x, torch.full((30,), side), across, along)
    for image_, u, v, found in zip(x, across, along, out, strict=True):
        top, left = int(v * (21 - side)), int(u * (27 - side))
        patch = image_[None, :, top : top + side, left : left + side].double()
        expected = F.interpolate(patch, size=(20, 26), mode="bilinear")[0]
        assert ((found - expected).abs() < 0.5 + 0.15).all()  # weights lie on a grid of 1/4096


def test_a_square_of_one_pixel_is_one_colour_of_the_image(photo):
    u = torch.rand(2, len(photo), generator=seeded(), dtype=torch.float64)
    out = graded.magnify(photo, torch.ones(len(photo), dtype=torch.long), *u)
    assert (out == out[..., :1, :1]).all()
    assert all((c[:, None] == x.flatten(1)).all(0).any() for c, x in zip(out[:, :, 0, 0], photo, strict=True))


def test_sides_go_from_one_pixel_to_half_the_image():
    u = torch.rand(5000, generator=seeded(), dtype=torch.float64)
    sides = graded._sides(u, 32)
    assert sides.min() == 1 and sides.max() == 16
    assert (sides <= 3).double().mean() == pytest.approx(np.log(4) / np.log(17), abs=0.03)  # log-uniform


# --- contrast and colour ---------------------------------------------------------------------------------------


def test_without_contrast_one_colour_is_left_the_mean(photo):
    out = graded.fade(photo, torch.zeros(len(photo))).double()
    assert (out == out[..., :1, :1]).all()
    assert ((out[..., 0, 0] - photo.double().mean((2, 3))).abs() <= 0.5).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_contrast_is_the_share_of_the_spread_that_is_left(share, photo):
    out = graded.fade(photo, torch.full((len(photo),), share)).double()
    before = photo.double().std((2, 3))
    wide = before > 20  # where rounding is small beside it
    assert wide.double().mean() > 0.5
    assert ((out.std((2, 3)) / before)[wide] - share).abs().max() < 0.02
    assert torch.equal(graded.fade(photo, torch.ones(len(photo))), photo)


def test_without_saturation_an_image_is_pillows_grey(photo):
    out = graded.desaturate(photo, torch.zeros(len(photo)))
    theirs = np.stack(
        [np.asarray(Image.fromarray(a).convert("L")) for a in photo.permute(0, 2, 3, 1).numpy()]
    )
    assert np.abs(out.numpy().astype(int) - theirs[:, None]).max() <= 1
    assert torch.equal(out[:, 0], out[:, 2])


def test_with_all_of_it_the_image_stays(photo):
    assert torch.equal(graded.desaturate(photo, torch.ones(len(photo))), photo)


def test_half_saturated_lies_in_the_middle(photo):
    half = graded.desaturate(photo, torch.full((len(photo),), 0.5)).double()
    ends = [graded.desaturate(photo, torch.full((len(photo),), s)).double() for s in (0.0, 1.0)]
    assert ((half - (ends[0] + ends[1]) / 2).abs() <= 0.51).all()


# --- JPEG ----------------------------------------------------------------------------------------------------


def by_pillow(picture, quality):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize("quality", [1, 5, 10, 24, 49, 50, 75, 95, 100])
def test_the_steps_are_those_in_pillows_files(quality):
    tables = by_pillow(np.zeros((8, 8, 3), np.uint8), quality).quantization
    for k, table in enumerate((jpeg.LUMINANCE, jpeg.CHROMINANCE)):
        assert jpeg.quantisation(torch.tensor([quality]), table)[0].tolist() == list(tables[k])


@pytest.mark.parametrize("shape", [(32, 32, 3), (24, 40, 3), (33, 21, 3), (32, 32)])
@pytest.mark.parametrize("quality", [5, 10, 30, 50])
def test_the_pixels_are_nearly_pillows(quality, shape, large):
    """Decoders round in between and differ among themselves; half a level on average is nothing beside what is lost."""
    x = large[:, :, : shape[0], : shape[1]]
    x = x if len(shape) == 3 else x[:, :1]
    pictures = x.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
    theirs = np.stack([np.asarray(by_pillow(p, quality)) for p in pictures]).reshape(len(x), *shape[:2], -1)
    ours = jpeg.compress(x, torch.full((len(x),), quality)).permute(0, 2, 3, 1).numpy()
    apart = np.abs(ours.astype(float) - theirs).mean()
    lost = np.abs(theirs - x.permute(0, 2, 3, 1).numpy().astype(float)).mean()
    assert apart < 0.8 and apart < 0.2 * lost


def test_each_image_has_its_own_quality(photo):
    x = photo[:6]
    mixed = jpeg.compress(x, torch.tensor([5, 20, 40, 60, 80, 100]))
    for k, quality in enumerate((5, 20, 40, 60, 80, 100)):
        assert torch.equal(mixed[k : k + 1], jpeg.compress(x[k : k + 1], torch.tensor([quality])))


def test_lower_quality_loses_more(photo):
    lost = [
        (jpeg.compress(photo, torch.full((400,), q)).float() - photo).abs().mean()
        for q in (5, 10, 20, 40, 80)
    ]
    assert lost == sorted(lost, reverse=True)


def test_a_middle_grey_image_survives_any_quality():
    x = torch.full((3, 3, 17, 9), 128, dtype=torch.uint8)
    assert torch.equal(jpeg.compress(x, torch.tensor([1, 50, 100])), x)


# --- refusals ------------------------------------------------------------------------------------------------


def test_what_cannot_be_graded_is_refused(photo):
    with pytest.raises(TypeError, match="uint8"):
        graded.graded(photo.float(), rng=seeded())
    with pytest.raises(ValueError, match="ccm_only"):
        graded.ccm_graded(photo, rng=seeded(), ccm_only=1.5)
    with pytest.raises(ValueError, match="shares of blur, magnify"):
        graded.graded(photo, rng=seeded(), shares={"noise": 1})
    with pytest.raises(ValueError, match="one of them above"):
        graded.graded(photo, rng=seeded(), shares={"blur": 0})
    with pytest.raises(ValueError, match="at least one radius"):
        graded.graded(photo, rng=seeded(), shares={"blur": 1}, radii=[])
