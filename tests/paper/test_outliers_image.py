"""Laws of the image outliers: blur is Pillow's, pixels come from where they should, draws are our own."""

import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import stats

from flowood_core.engine import compiled
from flowood_core.outliers import bytes as draws
from flowood_core.outliers import image
from flowood_core.outliers.blur import BlurCalibration, calibrate_blur, gaussian_blur
from flowood_core.outliers.image import (
    METHOD_LABELS,
    ccm,
    ccm_gaussian,
    count_near_identity,
    cutmix,
    cutpaste,
    gaussian,
    mixup,
    real_outliers,
)

ENGINES = ["auto", "tensor", "pillow"] + ["compiled"] * compiled.status().startswith("engine")
RADII = [0.3, 0.5, 0.7, 1, 1.3, 1.5, 2, 2.5, 3, 4, 5, 7, 8, 20]
SHAPES = [(3, 32, 32), (1, 32, 32), (3, 28, 28), (4, 16, 16), (3, 20, 48), (1, 64, 9), (2, 1, 40), (1, 1, 1)]
ROWS = {"gaussian": gaussian, "ccm": ccm, "ccm_gaussian": ccm_gaussian}  # of Table 2, made of ID images
DRAWING = {"cutpaste": cutpaste, "cutmix": cutmix, "mixup": mixup, "ccm": ccm, "ccm_gaussian": ccm_gaussian}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)


def coordinates(b: int, h: int, w: int) -> torch.Tensor:
    """Images (b, 3, h, w) that hold their own index, row and column, to see where a pixel came from."""
    index, row, column = torch.meshgrid(torch.arange(b), torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([index, row, column], 1).to(torch.uint8)


def blur_by_pillow(x: torch.Tensor, radius: float) -> torch.Tensor:
    """The oracle: one image and one channel at a time, in the plainest way."""
    blur = ImageFilter.GaussianBlur(radius)
    planes = [np.array(Image.fromarray(plane).filter(blur)) for plane in x.flatten(0, 1).numpy()]
    return torch.from_numpy(np.stack(planes)).view(x.shape)


def jpeg2000_bits(x: torch.Tensor) -> torch.Tensor:
    """C(x) in the fewest lines, so that these tests need no other room."""

    def bits(one: np.ndarray) -> float:
        file = io.BytesIO()
        Image.fromarray(one).save(file, "JPEG2000")
        return 8 * len(file.getvalue()) / one.size

    return torch.tensor([bits(one) for one in x.permute(0, 2, 3, 1).contiguous().numpy()])


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A photograph that scikit-learn carries, (3, 427, 640)."""
    from sklearn.datasets import load_sample_image

    return torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1).contiguous()


@pytest.fixture(scope="module")
def crops(photo: torch.Tensor) -> torch.Tensor:
    """48 textured crops, (48, 3, 32, 32)."""
    tiles = photo.unfold(1, 32, 32).unfold(2, 32, 32).flatten(1, 2).transpose(0, 1)
    return tiles[tiles.float().std((1, 2, 3)).argsort(descending=True)[:48]].contiguous()


# --- blur ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("radius", RADII)
def test_blur_equals_pillow(radius: float, engine: str, crops: torch.Tensor) -> None:
    for x in (crops, *(noise(4, *shape) for shape in SHAPES)):
        assert torch.equal(gaussian_blur(x, radius, engine=engine), blur_by_pillow(x, radius))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(1, 3, 256, 256), (1, 1, 300, 40), (1, 1, 33, 257)])
def test_blur_equals_pillow_on_large_images(shape: tuple[int, ...], engine: str, photo: torch.Tensor) -> None:
    for x in (noise(*shape), photo[None, : shape[1], : shape[2], : shape[3]]):
        for radius in (1, 6.5):
            assert torch.equal(gaussian_blur(x, radius, engine=engine), blur_by_pillow(x, radius))


def test_blur_equals_pillow_on_colour_images(crops: torch.Tensor) -> None:
    x = crops[0].permute(1, 2, 0).contiguous()
    blurred = np.array(Image.fromarray(x.numpy()).filter(ImageFilter.GaussianBlur(1)))
    assert torch.equal(gaussian_blur(crops[:1], 1)[0].permute(1, 2, 0), torch.from_numpy(blurred))


@settings(max_examples=150, deadline=None)
@given(
    radius=st.floats(0, 60, allow_subnormal=False) | st.floats(0, 3, allow_subnormal=False),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 24), st.integers(1, 24)),
    seed=st.integers(0, 2**32),
    levels=st.sampled_from([2, 16, 256]),
)
def test_blur_equals_pillow_at_any_radius(
    radius: float, shape: tuple[int, ...], seed: int, levels: int
) -> None:
    # few levels spread over 0..255 make large steps and many ties
    x = noise(*shape, seed=seed) // (256 // levels) * (255 // (levels - 1))
    expected = blur_by_pillow(x, radius)
    assert torch.equal(gaussian_blur(x, radius, engine="tensor"), expected)
    assert torch.equal(gaussian_blur(x, radius, engine="pillow"), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_blur_of_a_batch_is_blur_of_each(engine: str) -> None:
    x = noise(5, 3, 16, 24)
    each = torch.cat([gaussian_blur(one[None], 1.5, engine=engine) for one in x])
    assert torch.equal(gaussian_blur(x, 1.5, engine=engine), each)


@pytest.mark.parametrize("engine", ENGINES)
def test_blur_sees_values_not_memory_layout(engine: str) -> None:
    x = noise(4, 3, 16, 24)
    expected = gaussian_blur(x, 1, engine=engine)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    every_second = torch.stack([x, x], -1).flatten(-2)[..., ::2]
    assert torch.equal(gaussian_blur(channels_last, 1, engine=engine), expected)
    assert torch.equal(gaussian_blur(every_second, 1, engine=engine), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_blur_keeps_constants(engine: str) -> None:
    x = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 9, 7)
    for radius in RADII:
        assert torch.equal(gaussian_blur(x, radius, engine=engine), x)


def test_blur_is_the_same_along_both_axes() -> None:
    x = noise(3, 2, 20, 20)
    # not bit for bit: the passes along x are rounded before those along y
    difference = gaussian_blur(x, 1.5).int() - gaussian_blur(x.mT, 1.5).mT.int()
    assert difference.abs().max() <= 2


def test_blur_with_radius_zero_is_identity() -> None:
    x = noise(2, 3, 8, 8)
    assert torch.equal(gaussian_blur(x, 0), x)


def test_blur_lowers_complexity(crops: torch.Tensor) -> None:
    complexities = [jpeg2000_bits(gaussian_blur(crops, radius)).mean() for radius in (0, 0.5, 1, 2, 4)]
    assert complexities == sorted(complexities, reverse=True)
    assert (jpeg2000_bits(gaussian_blur(crops, 1)) < jpeg2000_bits(crops)).all()


# --- augmentations -------------------------------------------------------------------------------------


def test_mixup_with_lambda_one_is_identity() -> None:
    x, partner = noise(8, 3, 8, 8), noise(8, 3, 8, 8, seed=1)
    assert torch.equal(image._mix(x, partner, torch.ones(8)), x)
    assert torch.equal(image._mix(x, partner, torch.zeros(8)), partner)


def test_mixup_rounds_the_mixture() -> None:
    x, partner = noise(64, 3, 8, 8), noise(64, 3, 8, 8, seed=1)
    lam = torch.rand(64, generator=seeded())
    exact = lam.double().view(-1, 1, 1, 1) * (x.double() - partner.double()) + partner.double()
    assert (image._mix(x, partner, lam).double() - exact).abs().max() <= 0.5 + 1e-4


def test_mixup_of_an_image_with_itself_is_identity() -> None:
    x = noise(64, 3, 8, 8)
    assert torch.equal(mixup(x, x, rng=seeded()), x)


def test_cutmix_pixels_come_from_x_or_partner() -> None:
    x, partner = noise(64, 3, 16, 20) // 2, noise(64, 3, 16, 20, seed=1) // 2 + 128
    x_out = cutmix(x, partner, rng=seeded())
    from_partner = (x_out >= 128).any(1, keepdim=True)
    assert torch.equal(x_out, torch.where(from_partner, partner, x))


def test_cutmix_replaces_a_rectangle() -> None:
    b, h, w = 256, 16, 20
    x = torch.zeros(b, 1, h, w, dtype=torch.uint8)
    mask = cutmix(x, torch.ones_like(x), rng=seeded())[:, 0].bool()
    rows, columns = mask.any(2), mask.any(1)
    assert torch.equal(mask, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):  # and without gaps: it is entered at most once
        assert ((line.int().diff(prepend=torch.zeros(b, 1).int(), dim=1) == 1).sum(1) <= 1).all()


def test_cutmix_share_is_that_of_the_definition() -> None:
    # centre uniform, clipped: along each axis a rectangle of relative length s covers s - s^2 / 4 of the
    # image on average, so the share is E (s - s^2 / 4)^2 with s^2 = 1 - lambda uniform: 1/2 - 1/5 + 1/48
    x = torch.zeros(4096, 1, 64, 64, dtype=torch.uint8)
    share = cutmix(x, torch.ones_like(x), rng=seeded()).float().mean().item()
    assert share == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)


def test_cut_is_clipped_at_the_border() -> None:
    x, partner = torch.zeros(1, 1, 6, 8, dtype=torch.uint8), torch.ones(1, 1, 6, 8, dtype=torch.uint8)
    top, left, height, width = (torch.tensor([v]) for v in (-2, 5, 4, 9))
    expected = torch.zeros(1, 1, 6, 8, dtype=torch.uint8)
    expected[:, :, :2, 5:] = 1
    assert torch.equal(image._cut(x, partner, top, left, height, width), expected)


def test_cutpaste_moves_one_rectangle_of_the_same_image() -> None:
    b, h, w = 128, 32, 40
    x = coordinates(b, h, w)
    x_out = cutpaste(x, rng=seeded())
    assert torch.equal(x_out[:, 0], x[:, 0])  # every pixel is still one of its own image
    shift = (x_out.int() - x.int())[:, 1:]
    for one in shift:
        moved = one.flatten(1)[:, one.any(0).flatten()]
        assert len(moved.unique(dim=1).T) == 1  # one patch, moved as a whole, and never onto itself


def test_cutpaste_pixels_come_from_the_image_itself() -> None:
    x = noise(32, 1, 16, 16)
    for before, after in zip(x, cutpaste(x, rng=seeded()), strict=True):
        assert set(after.flatten().tolist()) <= set(before.flatten().tolist())


@pytest.fixture
def pasted(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Rectangles that CutPaste drew for 4,096 images of 32 x 32."""
    drawn: dict[str, torch.Tensor] = {}

    def record(x: torch.Tensor, *box: torch.Tensor) -> torch.Tensor:
        drawn.update(zip(("top", "left", "to_top", "to_left", "height", "width"), box, strict=True))
        return x

    monkeypatch.setattr(image, "_paste", record)
    cutpaste(torch.zeros(4096, 1, 32, 32, dtype=torch.uint8), rng=seeded())
    return drawn


def test_cutpaste_area_and_aspect_are_within_bounds(pasted: dict[str, torch.Tensor]) -> None:
    height, width = pasted["height"].float(), pasted["width"].float()
    # sides are rounded to integers, each by half a pixel at most
    assert ((height + 0.5) * (width + 0.5) >= 0.02 * 32**2).all()
    assert ((height - 0.5) * (width - 0.5) <= 0.15 * 32**2).all()
    assert ((height - 0.5) / (width + 0.5) <= 1 / 0.3).all()
    assert ((width - 0.5) / (height + 0.5) <= 1 / 0.3).all()
    assert (height * width).mean().item() == pytest.approx(0.085 * 32**2, rel=0.03)
    tall, wide = (height > width).float().mean().item(), (height < width).float().mean().item()
    assert tall == pytest.approx(wide, abs=0.05)


def test_cutpaste_rectangles_lie_inside_and_reach_every_border(pasted: dict[str, torch.Tensor]) -> None:
    for start, side in (("top", "height"), ("left", "width"), ("to_top", "height"), ("to_left", "width")):
        assert pasted[start].min() == 0
        assert (pasted[start] + pasted[side]).max() == 32


def test_cutpaste_never_pastes_in_place(pasted: dict[str, torch.Tensor]) -> None:
    in_place = (pasted["top"] == pasted["to_top"]) & (pasted["left"] == pasted["to_left"])
    assert not in_place.any()


def test_cutpaste_of_the_whole_image_is_identity() -> None:
    x = noise(8, 3, 6, 9)
    assert torch.equal(cutpaste(x, rng=seeded(), area=(1, 1), aspect=(6 / 9, 6 / 9)), x)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2)])
@pytest.mark.parametrize("name", DRAWING)
def test_thin_images_are_allowed(name: str, shape: tuple[int, int]) -> None:
    x = noise(16, 3, *shape)
    assert DRAWING[name](x, rng=seeded()).shape == x.shape


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.0, 8.0])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    lam = draws.beta(alpha, 20_000, seeded(), torch.device("cpu")).double().numpy()
    cdf = stats.beta(alpha, alpha).cdf
    if alpha >= 0.5:
        assert stats.kstest(lam, cdf).pvalue > 0.001
    # the lower half by itself: near 1, unlike near 0, float32 has no room for what a small alpha draws
    assert stats.kstest(lam[lam < 0.5], lambda q: 2 * cdf(q)).pvalue > 0.001
    assert (lam < 0.5).mean() == pytest.approx(0.5, abs=0.015)


def test_lambda_of_a_tiny_alpha_is_a_coin() -> None:
    lam = draws.beta(1e-4, 20_000, seeded(), torch.device("cpu"))
    for end in (0, 1):
        assert ((lam - end).abs() < 1e-3).float().mean().item() == pytest.approx(0.5, abs=0.015)


def test_bounded_draws_are_uniform() -> None:
    n = torch.full((30_000,), 6)
    counts = draws.randint(n, seeded()).bincount()
    assert len(counts) == 6
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


# --- rows of Table 2 -----------------------------------------------------------------------------------


def constant_of(value: int) -> Callable[..., torch.Tensor]:
    def method(x: torch.Tensor, partner: torch.Tensor | None = None, **_: object) -> torch.Tensor:
        return torch.full_like(x, value)

    return method


def test_ccm_uses_each_of_three_about_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, name in enumerate(("cutpaste", "cutmix", "mixup")):
        monkeypatch.setattr(image, name, constant_of(value))
    counts = ccm(noise(6000, 1, 1, 1), rng=seeded())[:, 0, 0, 0].int().bincount()
    assert len(counts) == 3
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("at_least_one", {"ccm": 1 / 3, "blur": 1 / 3, "both": 1 / 3}),
        ("independent", {"none": 1 / 4, "ccm": 1 / 4, "blur": 1 / 4, "both": 1 / 4}),
        ("always_both", {"both": 1.0}),
    ],
)
def test_ccm_gaussian_cases_have_the_probabilities_of_the_mode(
    mode: str, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "ccm", lambda x, *args, **kwargs: x + 1)
    monkeypatch.setattr(image, "gaussian_blur", lambda x, radius: x + 2)
    x = torch.zeros(6000, 1, 1, 1, dtype=torch.uint8)
    counts = ccm_gaussian(x, rng=seeded(), mode=mode).flatten().int().bincount(minlength=4)
    for n, case in zip(counts.tolist(), ("none", "ccm", "blur", "both"), strict=True):
        assert n / 6000 == pytest.approx(expected.get(case, 0.0), abs=0.025 if case in expected else 0.0)


def test_ccm_gaussian_never_leaves_none_none(crops: torch.Tensor) -> None:
    x = crops.repeat(8, 1, 1, 1)
    blur_changes_all = (gaussian_blur(x, 1) != x).flatten(1).any(1)
    assert blur_changes_all.all()
    untouched = (ccm_gaussian(x, rng=seeded()) == x).flatten(1).all(1)
    # what may remain identical is a CutMix or MixUp draw with lambda near 1; none-none would add 25 %
    assert untouched.float().mean() < 0.02


def test_ccm_gaussian_with_both_is_blur_of_ccm(crops: torch.Tensor) -> None:
    both = ccm_gaussian(crops, rng=seeded(), mode="always_both", radius=2)
    assert torch.equal(both, gaussian_blur(ccm(crops, rng=seeded()), 2))


def test_gaussian_ignores_partner_and_rng(crops: torch.Tensor) -> None:
    assert torch.equal(gaussian(crops), gaussian_blur(crops, 1.0))
    assert torch.equal(gaussian(crops, crops.flip(0), rng=seeded(), radius=2), gaussian_blur(crops, 2))


def test_gaussian_needs_no_second_image(crops: torch.Tensor) -> None:
    assert gaussian(crops[:1]).shape == (1, 3, 32, 32)


def test_real_outliers_come_from_the_pool() -> None:
    pool = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 8, 8)
    x_out = real_outliers(pool)(noise(2000, 3, 8, 8), rng=seeded())
    drawn = x_out[:, 0, 0, 0]
    assert torch.equal(x_out, drawn.view(-1, 1, 1, 1).expand(-1, 3, 8, 8))
    assert stats.chisquare(drawn.int().bincount().numpy()).pvalue > 0.001  # with replacement, all alike


def test_every_method_has_the_label_of_the_paper() -> None:
    assert list(METHOD_LABELS.values()) == ["MLE", "RO", "Gaussian", "CCM", "CCM+Gaussian"]
    assert set(ROWS) | {"mle", "ro"} == set(METHOD_LABELS)


# --- every method --------------------------------------------------------------------------------------


def every_method() -> dict[str, Callable[..., torch.Tensor]]:
    rows = ROWS
    return DRAWING | rows | {"ro": real_outliers(noise(20, 3, 12, 10, seed=9))}


@pytest.mark.parametrize("name", every_method())
def test_outliers_have_dtype_and_shape_of_x(name: str) -> None:
    x, partner = noise(7, 3, 12, 10), noise(7, 3, 12, 10, seed=1)
    before = x.clone()
    for other in (None, partner):
        x_out = every_method()[name](x, other, rng=seeded())
        assert x_out.dtype == torch.uint8
        assert x_out.shape == x.shape
    assert torch.equal(x, before)  # and x itself is left alone
    assert every_method()[name](x[:1], partner[:1], rng=seeded()).shape == (1, 3, 12, 10)


@pytest.mark.parametrize("name", [name for name in every_method() if name != "gaussian"])
def test_same_seed_same_outliers(name: str) -> None:
    x, method = noise(16, 3, 12, 10), every_method()[name]
    assert torch.equal(method(x, rng=seeded(3)), method(x, rng=seeded(3)))
    assert not torch.equal(method(x, rng=seeded(3)), method(x, rng=seeded(4)))


@pytest.mark.parametrize("name", every_method())
def test_global_randomness_is_untouched(name: str) -> None:
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    every_method()[name](noise(4, 3, 12, 10), rng=seeded(), **({"alpha": 0.7} if name in ALPHA else {}))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == legacy).all()


ALPHA = {"cutmix", "mixup", "ccm", "ccm_gaussian"}


@pytest.mark.parametrize("name", every_method())
def test_methods_can_be_pickled(name: str) -> None:
    x, method = noise(4, 3, 12, 10), every_method()[name]
    assert torch.equal(pickle.loads(pickle.dumps(method))(x, rng=seeded()), method(x, rng=seeded()))


@pytest.mark.parametrize("name", ["cutmix", "mixup"])
def test_without_partner_each_image_meets_the_one_before_it(name: str) -> None:
    x = noise(6, 3, 12, 10)
    assert torch.equal(DRAWING[name](x, rng=seeded()), DRAWING[name](x, x.roll(1, 0), rng=seeded()))


@pytest.mark.parametrize("name", DRAWING)
def test_each_image_has_its_own_draw(name: str) -> None:
    x, partner = noise(1, 3, 24, 24).repeat(6, 1, 1, 1), noise(1, 3, 24, 24, seed=1).repeat(6, 1, 1, 1)
    assert len(DRAWING[name](x, partner, rng=seeded()).unique(dim=0)) > 1


# --- calibration and near identity ---------------------------------------------------------------------


def test_calibrated_radius_meets_its_target(crops: torch.Tensor) -> None:
    for target in (0.75, 0.5):
        found = calibrate_blur(crops, target, complexity=jpeg2000_bits)
        ratio = jpeg2000_bits(gaussian_blur(crops, found.radius)).mean() / jpeg2000_bits(crops).mean()
        assert found.ratio == pytest.approx(ratio.item())
        assert abs(found.ratio - target) <= 0.005
        assert found == BlurCalibration(found.radius, found.ratio, target, n_images=48)


def test_calibration_uses_the_complexity_of_the_project(crops: torch.Tensor) -> None:
    pytest.importorskip("flowood_core.complexity")
    ours, plain = calibrate_blur(crops[:16]), calibrate_blur(crops[:16], complexity=jpeg2000_bits)
    assert ours.radius == plain.radius


def test_a_lower_target_needs_a_larger_radius(crops: torch.Tensor) -> None:
    radii = [calibrate_blur(crops, t, complexity=jpeg2000_bits).radius for t in (1.0, 0.9, 0.75, 0.6)]
    assert radii == sorted(radii)
    assert radii[0] == 0


def test_unreachable_target_says_what_can_be_reached(crops: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"expected target between 0\.\d{3} \(radius 16\) and 1 .* got 0\.05"
    ):
        calibrate_blur(crops, 0.05, complexity=jpeg2000_bits)
    with pytest.raises(ValueError, match=r"got 1\.2"):
        calibrate_blur(crops, 1.2, complexity=jpeg2000_bits)
    with pytest.raises(ValueError, match=r"between 1\.000"):
        calibrate_blur(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), complexity=jpeg2000_bits)


def test_a_step_across_the_target_is_reported() -> None:
    def has_texture(x: torch.Tensor) -> torch.Tensor:
        return 1.0 + (x.float().std((1, 2, 3)) > 20)

    with pytest.raises(ValueError, match=r"got a step from 1\.0000 to 0\.5000 at radius"):
        calibrate_blur(noise(1, 1, 16, 16), complexity=has_texture)


def test_near_identity_is_a_share() -> None:
    x = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    x_out = x + torch.tensor([0, 1, 2, 0], dtype=torch.uint8).view(4, 1, 1, 1)
    x_out[3, :, :4] -= 1  # mean difference one half, downwards
    assert count_near_identity(x, x) == 1.0
    assert count_near_identity(x, x_out) == 0.5
    assert count_near_identity(x, x_out, max_abs=1.5) == 0.75
    assert count_near_identity(x, x_out, max_abs=0.0) == 0.0


# --- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", every_method())
def test_floats_are_refused(name: str) -> None:
    with pytest.raises(
        TypeError, match=r"expected uint8 images .*, got float32 .* convert with \(x \* 255\)"
    ):
        every_method()[name](torch.rand(4, 3, 12, 10), rng=seeded())


@pytest.mark.parametrize("name", every_method())
def test_arrays_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="got ndarray"):
        every_method()[name](noise(4, 3, 12, 10).numpy(), rng=seeded())


@pytest.mark.parametrize("name", every_method())
def test_other_shapes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"shaped \(b, c, h, w\), got \(3, 12, 10\)"):
        every_method()[name](noise(3, 12, 10), rng=seeded())


@pytest.mark.parametrize("name", every_method())
@pytest.mark.parametrize("shape", [(0, 3, 12, 10), (4, 3, 0, 10)])
def test_empty_batches_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected at least one image"):
        every_method()[name](torch.zeros(shape, dtype=torch.uint8), rng=seeded())


@pytest.mark.parametrize("name", sorted(ALPHA))
def test_partners_must_fit(name: str) -> None:
    x = noise(4, 3, 12, 10)
    with pytest.raises(ValueError, match=r"like x, \(4, 3, 12, 10\), got \(3, 3, 12, 10\)"):
        DRAWING[name](x, x[:3], rng=seeded())
    with pytest.raises(TypeError, match="got float32"):
        DRAWING[name](x, x.float(), rng=seeded())
    with pytest.raises(ValueError, match=r"at least 2 images .* got 1; pass partner="):
        DRAWING[name](x[:1], rng=seeded())


@pytest.mark.parametrize("name", sorted(ALPHA))
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(name: str, alpha: float) -> None:
    with pytest.raises(ValueError, match="expected alpha > 0"):
        DRAWING[name](noise(4, 3, 12, 10), rng=seeded(), alpha=alpha)


@pytest.mark.parametrize("radius", [-1.0, float("nan"), float("inf")])
def test_radius_must_be_finite_and_not_negative(radius: float) -> None:
    for blur in (gaussian_blur, gaussian):
        with pytest.raises(ValueError, match="expected a blur radius >= 0"):
            blur(noise(1, 1, 4, 4), radius=radius)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected mode to be one of .* got 'sometimes'"):
        ccm_gaussian(noise(2, 3, 4, 4), rng=seeded(), mode="sometimes")
    with pytest.raises(ValueError, match=r"expected engine to be one of .* got 'opencv'"):
        gaussian_blur(noise(2, 3, 4, 4), engine="opencv")


@pytest.mark.parametrize(
    "ranges", [{"area": (0.0, 0.1)}, {"area": (0.2, 0.1)}, {"area": (0.5, 1.5)}, {"aspect": (-1.0, 2.0)}]
)
def test_ranges_must_be_ordered_and_positive(ranges: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match=r"0 < low <= high"):
        cutpaste(noise(2, 3, 8, 8), rng=seeded(), **ranges)


def test_pool_must_fit() -> None:
    with pytest.raises(TypeError, match="got float32"):
        real_outliers(torch.rand(4, 3, 8, 8))
    with pytest.raises(
        ValueError, match=r"expected real outliers like x, \(3, 12, 10\) on cpu, got \(3, 8, 8\)"
    ):
        real_outliers(noise(4, 3, 8, 8))(noise(4, 3, 12, 10), rng=seeded())
