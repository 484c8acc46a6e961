"""Laws of the simple battery: what each kind is, that a seed decides it, and what the table says of it."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import ndimage

from flowood_core import datasets, metrics
from flowood_core.anyflow import battery, correction
from flowood_core.anyflow import battery as battery_module
from flowood_core.anyflow.battery import KINDS, battery_table, is_made_by, kinds_for
from flowood_core.anyflow.detector import Detector
from flowood_core.complexity import image_complexity
from flowood_core.flow import densities, image_flow
from flowood_core.notebook import figures
from flowood_core.outliers import jpeg
from flowood_core.system import paths

FROM_NOTHING = ("constant", "linear_gradient", "radial_gradient", "stripes_4", "checkerboard_4", "noise")
ALL = {kind.name: kind for kind in KINDS}


@pytest.fixture(scope="module")
def photo():
    return datasets.load("photo", "test").first(60).x


def made(name, x, seed=0):
    return battery.battery(x, seed=seed, kinds=[name])[name]


def mean_complexity(x, **options):
    return image_complexity(x, **options).mean().item()


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 33, 20), (1, 5, 3), (3, 64, 64)])
def test_every_kind_keeps_shape_and_type_and_leaves_the_input_alone(shape):
    x = torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    before = x.clone()
    sets = battery.battery(x)
    assert list(sets) == [kind.name for kind in kinds_for(x)]
    assert all(out.shape == x.shape and out.dtype == torch.uint8 for out in sets.values())
    assert torch.equal(x, before)


def test_grey_images_have_no_colour_to_lose():
    grey = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert {k.name for k in KINDS} - set(battery.battery(grey)) == {"grey", "half_saturated"}


def test_a_seed_decides_and_nothing_else(photo):
    x = photo[:6]
    torch.manual_seed(0)
    first = battery.battery(x, seed=3)
    torch.manual_seed(1)
    np.random.seed(1)
    again = battery.battery(x, seed=3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = battery.battery(x, seed=4, kinds=FROM_NOTHING)
    assert not any(torch.equal(first[name], other[name]) for name in FROM_NOTHING)


def test_what_a_kind_makes_does_not_depend_on_the_other_kinds(photo):
    x = photo[:6]
    whole = battery.battery(x)
    assert all(
        torch.equal(whole[name], made(name, x)) for name in ("noise", "magnified_4", "stripes_8", "aliased")
    )


def test_two_kinds_do_not_share_their_colours(photo):
    sets = battery.battery(photo, kinds=["constant", "stripes_2", "stripes_4"])
    stripes = [sets[f"stripes_{k}"].amax((2, 3)) for k in (2, 4)]
    assert not torch.equal(stripes[0], stripes[1])


# --- what the kinds are ----------------------------------------------------------------------------------


CHAINS = [
    [f"blur_{r}" for r in ("16", "8", "4", "2", "1", "0.5")],
    [f"resampled_{k}" for k in (16, 8, 4, 2)],
    [f"nearest_{k}" for k in (16, 8, 4, 2)],
    [f"magnified_{k}" for k in (8, 4, 2)],
    [f"jpeg_{q}" for q in (10, 20, 30, 40, 50)],
    ["contrast_0.1", "contrast_0.3"],
    ["posterised_2", "posterised_4", "posterised_8"],
    ["median_5", "median_3"],
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0])
def test_complexity_grows_along_a_family_and_ends_below_id(chain, photo):
    found = [mean_complexity(made(name, photo)) for name in chain]
    assert found == sorted(found) and len(set(found)) == len(found)
    assert found[-1] < mean_complexity(photo)


@pytest.mark.parametrize("name", ["noise", "salt_and_pepper", "aliased"])
def test_the_complex_side_is_more_complex(name, photo):
    assert mean_complexity(made(name, photo)) > mean_complexity(photo)


def test_complexity_does_not_see_grey_unless_the_channels_are_coded_together(photo):
    grey = made("grey", photo)
    assert abs(mean_complexity(grey) - mean_complexity(photo)) < 0.15
    both = [mean_complexity(x, colour_transform=True) for x in (grey, photo)]
    assert both[0] < 0.6 * both[1]


def test_a_constant_image_has_one_colour(photo):
    out = made("constant", photo)
    assert (out == out[..., :1, :1]).all()
    assert len(out[:, :, 0, 0].unique(dim=0)) > 50


def test_a_linear_gradient_rises_by_the_same_amount_everywhere(photo):
    out = made("linear_gradient", photo).double()
    for dim in (2, 3):
        steps = out.diff(dim=dim).flatten(2)
        assert ((steps - steps.mean(-1, keepdim=True)).abs() < 1.01).all()  # rounded at both ends
    assert out.diff(dim=3).abs().amax() > 0


def turns(values):
    """How often a sequence changes between rising and falling."""
    signs = values.diff().sign()
    return int((signs[signs != 0].diff() != 0).sum())


def test_a_radial_gradient_ends_in_a_corner_and_turns_once_at_most_along_an_edge():
    x = torch.zeros(20, 1, 33, 33, dtype=torch.uint8)
    out = made("radial_gradient", x)[:, 0].double()
    steep = [level for level in out if (level.max() - level.min()) >= 60]  # others are too flat to tell
    assert len(steep) > 8
    for level in steep:
        corners = torch.stack([level[0, 0], level[0, -1], level[-1, 0], level[-1, -1]])
        assert level.min() in corners or level.max() in corners  # the farthest point is a corner
        assert all(turns(edge) <= 1 for edge in (level[0], level[-1], level[:, 0], level[:, -1]))


@pytest.mark.parametrize("period", [2, 4, 8])
def test_patterns_repeat_after_their_period(period, photo):
    stripes = made(f"stripes_{period}", photo)
    assert torch.equal(stripes, stripes.roll((period, period), (2, 3)))
    along = [(stripes == stripes.roll(1, dim)).flatten(1).all(1) for dim in (2, 3)]
    assert (along[0] | along[1]).all() and along[0].any() and along[1].any()  # both directions occur
    board = made(f"checkerboard_{period}", photo)
    half = period // 2
    assert torch.equal(board, board.roll((half, half), (2, 3)))  # and so after the period, too
    assert not torch.equal(board, board.roll(half, 2))


@pytest.mark.parametrize("levels,bits", [(2, 1), (4, 2), (8, 3)])
def test_posterised_values_are_pillows_and_half_an_interval(levels, bits, photo):
    out = made(f"posterised_{levels}", photo)
    theirs = np.stack(
        [np.asarray(ImageOps.posterize(Image.fromarray(a), bits)) for a in photo.permute(0, 2, 3, 1).numpy()]
    )
    assert np.array_equal(out.permute(0, 2, 3, 1).numpy(), theirs + 128 // levels)


@pytest.mark.parametrize("size", [3, 5])
def test_the_median_is_scipys(size, photo):
    expected = ndimage.median_filter(photo.numpy(), size=(1, 1, size, size), mode="nearest")
    assert np.array_equal(made(f"median_{size}", photo).numpy(), expected)


def test_grey_is_pillows_luminance(photo):
    out = made("grey", photo)
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])
    theirs = np.stack(
        [np.asarray(Image.fromarray(a).convert("L")) for a in photo.permute(0, 2, 3, 1).numpy()]
    )
    assert np.abs(out[:, 0].numpy().astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("quality", [10, 30, 50])
def test_jpeg_is_what_the_cosines_say(quality, photo):
    expected = jpeg.compress(photo, torch.full((len(photo),), quality))
    assert (made(f"jpeg_{quality}", photo).float() - expected.float()).abs().mean() < 1


@pytest.mark.parametrize("factor", [2, 4])
def test_nearest_pixels_are_the_means_of_blocks(factor, photo):
    blocks = photo.unfold(2, factor, factor).unfold(3, factor, factor).double().mean((-2, -1))
    expected = blocks.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    assert ((made(f"nearest_{factor}", photo) - expected).abs() <= 0.5 + 1e-4).all()


def test_the_smoothest_crop_is_smoother_than_any_other(photo):
    smooth, anywhere = (made(name, photo).double() for name in ("smooth_crop", "magnified_4"))
    assert (smooth.var((2, 3)).sum(1) <= anywhere.var((2, 3)).sum(1) + 1).float().mean() > 0.9


def test_aliased_images_hold_pixels_of_their_own_image_in_the_first_quarter(photo):
    assert torch.equal(made("aliased", photo)[..., :16, :16], photo[..., ::2, ::2])


# --- the table -------------------------------------------------------------------------------------------


def minus_complexity(x):
    return -image_complexity(x).numpy()


@pytest.fixture(scope="module")
def whole_table(photo):
    return battery_table(minus_complexity, photo[:20], outliers="ccm_gaussian", n_boot=50)


def test_scored_by_minus_complexity_the_table_agrees_with_its_own_baseline(photo):
    table = battery_table(minus_complexity, photo, kinds=["constant", "blur_2", "grey", "noise"], n_boot=0)
    assert np.allclose(table.auroc, table.complexity_only)
    assert list(table.complexity) == sorted(table.complexity)


def test_sides_are_measured(photo):
    kinds = ["constant", "blur_1", "grey", "salt_and_pepper", "noise"]
    others = datasets.load("photo", "test").x[60:160]
    table = battery_table(minus_complexity, photo, kinds=kinds, more={"other": others}, n_boot=0)
    sides = table.set_index("kind").side
    assert sides.to_dict() == {
        "constant": "simple", "blur_1": "simple", "grey": "simple", "other": "equal", "noise": "complex",
        "salt_and_pepper": "complex",
    }  # fmt: skip


def test_intervals_hold_their_value_and_widen_with_fewer_images(photo):
    def width(x):
        table = battery_table(lambda x: x.double().mean((1, 2, 3)), x, kinds=["blur_1", "noise"], n_boot=400)
        assert (table.low <= table.auroc).all() and (table.auroc <= table.high).all()
        assert (table.n == len(x)).all()
        return (table.high - table.low).mean()

    assert width(photo[:15]) > 1.4 * width(photo)


def test_a_flow_is_scored_by_both_densities(photo):
    flow = image_flow((3, 32, 32), blocks=2, hidden=4, seed=0).eval()
    table = battery_table(flow, photo, kinds=["blur_2"], n_boot=0).set_index("score")
    both = [densities(flow, x) for x in (photo, made("blur_2", photo))]
    for name, k in (("pz", 0), ("px", 1)):
        assert table.auroc[name] == pytest.approx(100 * metrics.auroc(-both[0][k], -both[1][k]))


def test_a_shipped_detector_is_scored_by_its_own_score(photo):
    detector = Detector.load(paths.repo_root() / "models" / "cifar10-flowood")
    table = battery_table(detector, photo, kinds=["noise"], n_boot=0)
    scores = detector.ood_score(photo), detector.ood_score(made("noise", photo))
    assert list(table.score) == ["detector"]
    assert table.auroc[0] == pytest.approx(100 * metrics.auroc(*scores))


def test_every_outlier_function_leaves_four_simple_kinds_unseen(whole_table):
    simple = [ALL[name] for name in whole_table.kind[whole_table.side == "simple"]]
    for outliers in [None, *battery.MADE_BY]:
        assert len({kind.family for kind in simple if not is_made_by(kind, outliers)}) >= 4


def test_what_outliers_make_is_said_of_outliers_and_kinds_that_exist():
    assert set(battery.MADE_BY) <= set(correction.OUTLIERS)
    known = {kind.name for kind in KINDS} | {kind.family for kind in KINDS}
    assert all(set(names) <= known for names in battery.MADE_BY.values())
    assert is_made_by(ALL["blur_1"], "ccm_gaussian") and not is_made_by(ALL["blur_2"], "ccm_gaussian")
    assert not is_made_by(ALL["blur_1"], "a function of my own")


def test_names_and_labels_are_unique():
    assert len(ALL) == len(KINDS) == len({kind.label for kind in KINDS})


def test_the_figure_shows_every_kind_and_which_were_seen(whole_table):
    table = whole_table
    _, ax = figures.figure("single")
    figures.draw_battery(ax, table, before=table.assign(auroc=50.0), id_complexity=6.0)
    places = {(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if len(line.get_xdata()) == 1}
    assert places >= set(zip(table.complexity, table.auroc, strict=True))
    filled = [c for c in ax.containers if c.lines[0].get_markerfacecolor() != "white"]
    assert len(ax.containers) == len(table) and len(filled) == table.seen.sum() == 1
    figures.plt.close("all")


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x,options,error,message",
    [
        (torch.zeros(2, 3, 8, 8), {}, TypeError, "uint8"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), {}, ValueError, "1 or 3"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {"kinds": ["blurred"]}, ValueError, "blur_1"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), {"kinds": ["grey"]}, ValueError, "constant"),
    ],
)
def test_what_has_no_battery_is_refused(x, options, error, message):
    with pytest.raises(error, match=message):
        battery.battery(x, **options)


def test_scores_that_are_not_one_an_image_are_refused(photo):
    with pytest.raises(ValueError, match="one score per image"):
        battery_table(lambda x: np.zeros(3), photo, kinds=["noise"])
    with pytest.raises(TypeError, match="ood_score"):
        battery_table("a name", photo, kinds=["noise"])


def test_a_battery_is_kept_for_the_next_flow_and_a_large_one_is_not(photo, monkeypatch):
    monkeypatch.setattr(battery_module, "_MADE", {})
    first = battery_module._kept(photo[:4], 0, ["noise", "blur_1"])
    assert battery_module._kept(photo[:4].clone(), 0, iter(["noise", "blur_1"])) is first
    assert (
        battery_module._kept(photo[4:8], 0, ["noise", "blur_1"]) is not first
        and len(battery_module._MADE) == 1
    )
    monkeypatch.setattr(battery_module, "KEPT_BYTES", 10)
    large = battery_module._kept(photo[:4], 0, ["noise"])
    assert set(large) == {"noise"} and not battery_module._MADE
