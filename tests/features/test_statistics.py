"""Laws of the statistics of an image's surface, and the numbers against scipy and against loops in numpy."""

import itertools

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowood_core import datasets
from flowood_core.anyflow.levels import FeatureLevel
from flowood_core.features.statistics import EDGES, ImageStatistics
from flowood_core.outliers import graded, image


def pictures(n: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Smooth random pictures with noise: some detail at every frequency."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=rng) * 255
    smooth = image.gaussian_blur(x.to(torch.uint8), 2.0).float()
    return (smooth + 0.1 * (x - 128)).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return datasets.load("photo", "train").x


# ---- against others


def test_the_bands_are_scipys_cosine_transform():
    x = pictures(5, (3, 24, 32))
    rgb = x.double().numpy()
    rows = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    energy = scipy.fft.dctn(np.einsum("ij,njhw->nihw", rows, rgb), axes=(2, 3), norm="ortho") ** 2
    higher = np.maximum(np.arange(24)[:, None] / 24, np.arange(32)[None] / 32)
    bands = [
        np.log(energy[:, :, is_in].mean(-1) + 1 / 12)
        for low, high in itertools.pairwise(EDGES)
        if (is_in := (higher >= low) & (higher < high)).any()
    ]
    found = ImageStatistics((3, 24, 32)).encode(x)
    np.testing.assert_allclose(found[:, : 3 * len(bands)], np.concatenate(bands, 1), rtol=1e-3, atol=1e-3)


def test_shares_are_what_a_loop_counts():
    """A grey picture of 4 x 4, small enough for no block: steps, turns and extrema counted pixel by pixel."""
    x = torch.tensor([[10, 12, 11, 11], [10, 10, 40, 11], [9, 10, 10, 14], [200, 10, 10, 10]])
    values = x.numpy().astype(int)
    across = [values[i, j + 1] - values[i, j] for i in range(4) for j in range(3)]
    down = [values[i + 1, j] - values[i, j] for i in range(3) for j in range(4)]
    expected = [np.mean(np.abs(steps) <= most) for steps in (across, down) for most in (0, 1, 3)]
    expected = np.log((np.array(expected) + 0.01) / (1 - np.array(expected) + 0.01))
    found = ImageStatistics((1, 4, 4)).encode(x[None, None].to(torch.uint8))[0]
    at = next(i for i in range(len(found)) if np.isclose(found[i], expected[0], atol=1e-5))
    np.testing.assert_allclose(found[at : at + 6], expected, atol=1e-5)

    inner = [(i, j) for i in (1, 2) for j in (1, 2)]
    around = {p: [values[p[0] + a, p[1] + b] for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))] for p in inner}
    extremes = np.mean([values[p] > max(around[p]) or values[p] < min(around[p]) for p in inner])
    turns = np.mean(
        [(values[i, j + 1] - values[i, j]) * (values[i, j + 2] - values[i, j + 1]) < 0
         for i in range(4) for j in range(2)]
    )  # fmt: skip
    for share in (extremes, turns):
        assert np.isclose(found, np.log((share + 0.01) / (1 - share + 0.01)), atol=1e-5).any()


# ---- laws


@settings(max_examples=25, deadline=None)
@given(c=st.sampled_from([1, 3]), h=st.integers(4, 70), w=st.integers(4, 70), seed=st.integers(0, 99))
def test_any_size_gives_finite_numbers_and_as_many_as_announced(c, h, w, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (3, c, h, w), generator=rng, dtype=torch.uint8)
    x[1] = x[1, :, :1, :1]  # one colour
    x[2] = 255 * (x[2] > 127).to(torch.uint8)
    encoder = ImageStatistics((c, h, w))
    found = encoder.encode(x)
    assert found.shape == (3, encoder.d) and found.dtype == np.float32 and np.isfinite(found).all()


def test_a_mirror_changes_nothing():
    x = pictures(6, (3, 32, 32))
    encoder = ImageStatistics((3, 32, 32))
    for turned in (x.flip(3), x.flip(2), x.rot90(2, (2, 3))):
        np.testing.assert_allclose(encoder.encode(turned), encoder.encode(x), atol=2e-3)


def test_an_image_does_not_depend_on_the_batch_it_comes_in():
    x = pictures(300, (3, 8, 8))
    encoder = ImageStatistics((3, 8, 8))
    np.testing.assert_allclose(encoder.encode(x)[290:], encoder.encode(x[290:]), rtol=1e-5, atol=1e-5)
    assert encoder.encode(x[:0]).shape == (0, encoder.d)


def test_noise_of_any_size_has_the_same_numbers():
    """None has a unit that grows with the image."""
    rng = torch.Generator().manual_seed(0)
    small, large = (torch.randint(256, (40, 3, s, s), generator=rng, dtype=torch.uint8) for s in (32, 128))
    a, b = (ImageStatistics(tuple(x.shape[1:])).encode(x).mean(0) for x in (small, large))
    np.testing.assert_allclose(a[15:], b[15:], atol=0.25)
    np.testing.assert_allclose(
        a[:15], b[:15], atol=0.6
    )  # logarithms of means of few: 1 to 20 cosines at 32 pixels


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 32, 32), "uint8 tensor 0..255, got torch.float32"),
        (
            torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
            r"expected images \(n, 3, 32, 32\), got \(2, 1, 32, 32\)",
        ),
    ],
)
def test_other_images_are_refused(x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ImageStatistics((3, 32, 32)).encode(x)


@pytest.mark.parametrize("shape", [(2, 32, 32), (3, 3, 32)])
def test_shapes_that_have_no_surface_are_refused(shape):
    with pytest.raises(ValueError, match="one channel or three and of 4 pixels a side or more"):
        ImageStatistics(shape)


# ---- the level


@pytest.fixture(scope="module")
def level(photo):
    return FeatureLevel.on_statistics(tuple(photo.shape[1:]), n_outliers=600).fit(
        photo[:600], graded.ccm_graded
    )


def test_what_deceives_a_flow_on_pixels_lies_outside(level, photo):
    x = photo[600:800]
    id_ = np.quantile(level.score(x), 0.95)
    for simple in (image.gaussian_blur(x, 1.0), graded.desaturate(x, torch.zeros(len(x))),
                   x[:, :, :1, :1].expand_as(x).contiguous()):  # fmt: skip
        assert np.median(level.score(simple)) > id_


def test_the_level_comes_back_and_refuses_other_numbers(level, photo):
    facts, tensors = level.state()
    np.testing.assert_array_equal(
        FeatureLevel.from_state(facts, tensors).score(photo[600:640]), level.score(photo[600:640])
    )
    facts["encoder"] = facts["encoder"] | {"version": 0}
    with pytest.raises(ValueError, match="its features differ"):
        FeatureLevel.from_state(facts, tensors)
