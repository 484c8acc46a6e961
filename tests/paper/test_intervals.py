"""Laws of the interval over seeds and test draws: it covers, it shrinks, pairing narrows it, a redraw is a redraw."""

import numpy as np
import pytest
from scipy import stats

from flowood_core import intervals, metrics
from flowood_core.intervals import Interval, Sample

RNG = np.random.default_rng


def one_study(rng, *, seeds, n, gain=1.0, sd_seed=0.4, sd_noise=0.5, redraws=200):
    """AUROCs of several seeds on the same images: what an image is, what a seed is, and noise of both."""
    id_, ood = rng.normal(size=n), rng.normal(size=n)
    drawn = [
        np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(redraws)], 1).astype(
            np.float32
        )
        for _ in range(2)
    ]
    found = []
    for _ in range(seeds):
        a = id_ + sd_noise * rng.normal(size=n)
        b = ood + gain + sd_seed * rng.normal() + sd_noise * rng.normal(size=n)
        found.append(intervals.auroc(a, b, *drawn))
    return found


@pytest.mark.parametrize(("seeds", "sd_seed"), [(1, 0.0), (3, 0.4), (3, 0.02), (8, 0.4)])
def test_it_holds_the_expected_value_in_95_of_100_studies(seeds, sd_seed):
    rng, studies = RNG(0), 250
    # two images and a seed: the difference of two scores has this variance
    truth = stats.norm.cdf(1.0 / np.sqrt(2 + 2 * 0.5**2 + sd_seed**2))
    held = 0
    for _ in range(studies):
        e = intervals.over(one_study(rng, seeds=seeds, n=60, sd_seed=sd_seed))
        held += e.low <= truth <= e.high
    # three standard deviations of a count of hits at the nominal rate, and what is conservative is no error
    assert held / studies > 0.95 - 3 * np.sqrt(0.95 * 0.05 / studies)
    assert held / studies < 0.999


def test_redrawing_three_seeds_would_hold_it_too_seldom():
    rng, studies = RNG(1), 400
    held = 0
    for _ in range(studies):
        seeds = rng.normal(size=3)
        low, high = np.quantile(seeds[rng.integers(3, size=(1000, 3))].mean(1), (0.025, 0.975))
        held += low <= 0 <= high
    assert held / studies < 0.85


@pytest.mark.parametrize("more", [{"seeds": 12}, {"n": 600}])
def test_it_shrinks_with_seeds_and_with_images(more):
    usual = {"seeds": 3, "n": 60, "sd_seed": 0.1}
    widths = [
        np.mean([intervals.over(one_study(RNG(k), **(usual | m))).half_width for k in range(10)])
        for m in ({}, more)
    ]
    assert widths[1] < 0.8 * widths[0]


def test_pairing_narrows_a_difference():
    rng, n = RNG(2), 200
    id_, ood = rng.normal(size=n), rng.normal(size=n) + 1
    rows = [(id_ + 0.2 * rng.normal(size=n), ood + gain + 0.2 * rng.normal(size=n)) for gain in (0.0, 0.3)]
    same = [intervals.auroc(*row, intervals.of("id", row[0]), intervals.of("ood", row[1])) for row in rows]
    apart = [
        intervals.auroc(*row, intervals.of("id", row[0], stream=k), intervals.of("ood", row[1], stream=k))
        for k, row in enumerate(rows)
    ]
    paired, unpaired = (intervals.over([b - a]) for a, b in (same, apart))
    assert paired.value == unpaired.value
    assert paired.half_width < 0.6 * unpaired.half_width


@pytest.mark.parametrize("name", ["auroc", "aupr_out", "aupr_in", "fpr95_id95", "fpr95_ood95"])
@pytest.mark.parametrize("digits", [1, 9])
def test_a_redraw_is_the_metric_of_the_images_drawn(name, digits):
    rng = RNG(3)
    a, b = rng.normal(size=90).round(digits), (rng.normal(size=70) + 0.5).round(digits)
    drawn = intervals.counts("a", 90, redraws=8), intervals.counts("b", 70, redraws=8)
    found = intervals.metric(name, a, b, *drawn)
    assert found.value == getattr(metrics, name)(a, b)
    for k in range(8):
        again = [np.repeat(v, c[:, k].astype(int)) for v, c in zip((a, b), drawn, strict=True)]
        assert found.redraws[k] == pytest.approx(getattr(metrics, name)(*again), abs=1e-12)


def test_means_and_correlations_are_those_of_the_images_drawn():
    rng = RNG(4)
    x = {name: rng.normal(size=n) for name, n in (("a", 40), ("b", 25))}
    y = {name: v + rng.normal(size=len(v)) + 3 for name, v in x.items()}
    drawn = [intervals.counts(name, len(v), redraws=5) for name, v in x.items()]
    mean, r = intervals.mean(x["a"], drawn[0]), intervals.correlation(x, y, drawn)
    assert r.value == pytest.approx(
        np.corrcoef(np.concatenate([*x.values()]), np.concatenate([*y.values()]))[0, 1]
    )
    for k in range(5):
        often = [c[:, k].astype(int) for c in drawn]
        one, two = (
            np.concatenate([np.repeat(v, o) for v, o in zip(of.values(), often, strict=True)])
            for of in (x, y)
        )
        assert r.redraws[k] == pytest.approx(np.corrcoef(one, two)[0, 1])
        assert mean.redraws[k] == pytest.approx(np.repeat(x["a"], often[0]).mean())


def test_an_image_is_drawn_as_often_for_everybody_who_asks():
    a, b = intervals.counts("svhn", 30, redraws=20), intervals.of("svhn", np.zeros(30))
    assert (a.sum(0) == 30).all() and b.shape == (30, intervals.REDRAWS)
    assert (intervals.counts("svhn", 30) == b).all()
    assert (intervals.counts("isun", 30) != b).any()


def test_an_interval_says_what_it_is_over_and_how_it_reads():
    draws = Sample(50.0, np.linspace(40, 60, 1001))
    one, two = intervals.over([draws]), intervals.over([draws, draws.shifted(4)])
    assert one.kind == "test draws" and f"{one:.1f}" == "50.0 [40.5, 59.5]"
    assert two.kind == "seeds and test draws" and two.range() == "50.0–54.0" and one.range() == "50.0"
    assert two.half_width > one.half_width
    bare = intervals.over([Sample(1.0), Sample(2.0), Sample(6.0)])
    student = stats.ttest_1samp([1, 2, 6], 0).confidence_interval()
    assert bare.kind == "seeds" and (bare.low, bare.high) == pytest.approx(tuple(student))
    alone = intervals.over([Sample(1.0)])
    assert alone.kind == "nothing" and f"{alone:+.2f}" == "+1.00"


def test_a_percentage_ends_at_its_bounds():
    wide = intervals.over([Sample(60.0), Sample(99.0)], bounds=(0, 100))
    assert (wide.low, wide.high) == (0, 100)


@pytest.mark.parametrize("samples", [[], [Sample(float("nan"))]])
def test_what_is_no_number_has_no_interval(samples):
    with pytest.raises(ValueError, match="finite"):
        intervals.over(samples)


def test_arithmetic_of_samples_is_that_of_their_redraws():
    a, b = Sample(1.0, np.array([1.0, 2.0])), Sample(3.0, np.array([2.0, 5.0]))
    assert ((b - a).value, (b - a).redraws.tolist()) == (2.0, [1.0, 3.0])
    average = Sample.average([a, b])
    assert (average.value, average.redraws.tolist()) == (2.0, [1.5, 3.5])
    assert (a - Sample(1.0)).redraws is None
    assert isinstance(intervals.over([a]), Interval)
