"""Laws of the outliers that are simpler in more than one way, and of the mutation of a background flow."""

import numpy as np
import pytest
import torch

from flowood_core import datasets
from flowood_core.complexity import image_complexity
from flowood_core.outliers import image, simplify


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photo():
    return datasets.load("photo", "train").first(200).x


METHODS = [simplify.simplify, simplify.ccm_simplify]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 33, 20), (4, 2, 2)])
def test_shape_type_and_input_are_kept(method, shape):
    x = torch.randint(256, (6, *shape), generator=seeded(1), dtype=torch.uint8)
    before = x.clone()
    out = method(x, x.roll(1, 0), rng=seeded())
    assert out.shape == x.shape and out.dtype == torch.uint8
    assert torch.equal(x, before)


@pytest.mark.parametrize("method", METHODS)
def test_the_generator_decides_and_nothing_else(method, photo):
    x, partner = photo[:20], photo[20:40]
    torch.manual_seed(0)
    a = method(x, partner, rng=seeded(3))
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(a, method(x, partner, rng=seeded(3)))
    assert not torch.equal(a, method(x, partner, rng=seeded(4)))


def test_nearly_every_image_becomes_simpler(photo):
    before, after = image_complexity(photo), image_complexity(simplify.simplify(photo, rng=seeded()))
    assert (after < before).float().mean() > 0.97
    assert after.std() > image_complexity(image.gaussian_blur(photo, 1)).std()  # in more ways than by blur


def test_a_constant_image_stays_as_it_is():
    x = torch.full((16, 3, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(simplify.simplify(x, rng=seeded()), x)


def test_the_mean_colour_is_kept(photo):
    out = simplify.simplify(photo, rng=seeded())
    assert ((out.float() - photo.float()).mean((1, 2, 3)).abs() < 3).all()


def test_each_image_is_treated_alone(photo):
    """What one image becomes depends on its own pixels and draws: changing the others changes nothing."""
    x, other = photo[:8], photo[8:16]
    mixed = torch.cat([x[:1], other[1:]])
    a, b = simplify.simplify(x, rng=seeded()), simplify.simplify(mixed, rng=seeded())
    assert torch.equal(a[0], b[0])


def test_a_third_is_augmented_only(photo):
    x = photo.repeat(5, 1, 1, 1)
    augmented, simpler = image.coins("at_least_one", len(x), seeded(), x.device)
    assert abs((augmented & ~simpler).float().mean() - 1 / 3) < 0.06
    assert (augmented | simpler).all()


def test_sides_of_one_pixel_are_refused():
    with pytest.raises(ValueError, match="at least 2 pixels"):
        simplify.simplify(torch.zeros(1, 3, 1, 8, dtype=torch.uint8), rng=seeded())
    with pytest.raises(TypeError, match="uint8"):
        simplify.simplify(torch.zeros(1, 3, 8, 8), rng=seeded())


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_mutation_replaces_the_share_it_says(photo, rate):
    out = image.mutate(photo, rate, rng=seeded())
    changed = (out != photo).float().mean().item()
    assert changed == pytest.approx(rate * 255 / 256, abs=0.01)  # one draw in 256 hits the old value
    assert out.dtype == torch.uint8 and torch.equal(out, image.mutate(photo, rate, rng=seeded()))


def test_mutation_refuses_what_is_no_rate(photo):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        image.mutate(photo, 1.5, rng=seeded())
