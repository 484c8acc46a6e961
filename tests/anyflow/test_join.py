"""Laws of the join: one scale for every level, and a level that sees nothing costs the other little."""

import json

import numpy as np
import pytest
import scipy.stats

from flowood_core import metrics
from flowood_core.anyflow.join import SIGHTS, Join, Sight, Tail

# ---- surprise of one level


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_t"])
def test_surprise_is_the_log_of_the_share_of_id_that_scores_as_high(rng, draw):
    def scores(n):
        return rng.standard_t(4, n) if draw == "standard_t" else getattr(rng, draw)(size=n)

    e = Tail.fit(scores(2000))(scores(20_000))
    for share in (0.8, 0.5, 0.2, 0.05, 0.02):
        assert (e >= -np.log(share)).mean() == pytest.approx(share, rel=0.25)


def test_surprise_rises_strictly_from_one_end_to_the_other(rng):
    e = Tail.fit(rng.normal(size=600))(np.linspace(-9, 40, 5000))
    assert (np.diff(e) > 0).all() and (e > 0).all() and np.isfinite(e).all()


def test_the_unit_of_a_score_does_not_count(rng):
    held, s = rng.normal(size=300), rng.normal(size=50) * 4
    np.testing.assert_allclose(Tail.fit(held * 50 - 7)(s * 50 - 7), Tail.fit(held)(s), rtol=1e-9)


def test_ties_are_borne(rng):
    e = Tail.fit(np.round(rng.normal(size=300)))(np.array([-1.0, 0, 1, 2, 9]))
    assert (np.diff(e) > 0).all()


@pytest.mark.parametrize("wrong", [np.arange(10.0), np.ones(50), np.array([*range(30), np.nan])])
def test_scores_from_which_nothing_follows_are_refused(wrong):
    with pytest.raises(ValueError, match="expected at least 20"):
        Tail.fit(wrong)


# ---- what a surprise is worth


@pytest.mark.parametrize("sight", [Sight(0.3, 0.05), Sight(1.0, 0.2), *SIGHTS.values()])
def test_worth_rises_from_nothing_to_a_line(sight):
    e = np.linspace(0, 200, 4001)
    worth = sight(e)
    assert (np.diff(worth) > 0).all()
    assert np.diff(worth[-2:])[0] / (e[1] - e[0]) == pytest.approx(1 - sight.shape, rel=1e-6)
    assert (np.diff(worth, 2) > -1e-9).all()  # what is said in the ordinary range of ID counts least


@pytest.mark.parametrize("sight", [Sight(0.3, 0.05), *SIGHTS.values()])
def test_worth_is_the_log_likelihood_ratio_of_ood_against_id(sight):
    """Integrated over ID's density exp(-e) the likelihood ratio is one."""
    e = np.linspace(0, 400, 400_001)
    assert np.trapezoid(np.exp(sight(e) - e), e) == pytest.approx(1, abs=1e-3)


def test_a_sight_is_found_again_from_what_it_sees(rng):
    true = Sight(0.4, 0.1)
    sees = rng.random(20_000) < true.chance
    found = Sight.fit(rng.exponential(np.where(sees, 1 / true.shape, 1.0)))
    assert found.chance == pytest.approx(true.chance, abs=0.03)
    assert found.shape == pytest.approx(true.shape, abs=0.01)


@pytest.mark.parametrize("wrong", [(0.0, 0.5), (1.1, 0.5), (0.5, 0.0), (0.5, 1.0)])
def test_a_sight_outside_its_range_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a chance"):
        Sight(*wrong)


@pytest.mark.parametrize("wrong", [np.empty(0), np.array([1.0, np.nan]), np.array([-1.0, 1.0])])
def test_surprises_from_which_no_sight_follows_are_refused(wrong):
    with pytest.raises(ValueError, match="expected finite surprises"):
        Sight.fit(wrong)


# ---- the join


@pytest.fixture
def held(rng) -> dict[str, np.ndarray]:
    return {"pixels": rng.normal(size=600) * 80 + 6000, "features": rng.gamma(3, size=600)}


@pytest.fixture
def join(held) -> Join:
    return Join.fit(held)


def test_a_join_rises_with_each_level(join):
    pixels, features = np.meshgrid(np.linspace(5500, 7000, 60), np.linspace(0, 40, 60))
    joined = join({"pixels": pixels, "features": features})
    assert (np.diff(joined, axis=0) > 0).all() and (np.diff(joined, axis=1) > 0).all()


def test_the_unit_of_a_level_does_not_count(held, join, rng):
    s = {"pixels": rng.normal(size=50) * 300 + 6000, "features": rng.gamma(9, size=50)}
    other = Join.fit(held | {"pixels": held["pixels"] * 0.01 - 7})
    np.testing.assert_allclose(other(s | {"pixels": s["pixels"] * 0.01 - 7}), join(s), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("silent", "other"), [("pixels", "features"), ("features", "pixels")])
def test_a_silent_level_leaves_the_order_of_the_other(join, silent, other):
    loud = np.linspace(join.tails[other].knots[0], join.tails[other].knots[-1] * 2, 50)
    quiet = np.full(50, join.tails[silent].knots[0] - 1e9)
    added = join({silent: quiet, other: loud}) - join.worth(other, loud)
    np.testing.assert_allclose(added, added[0], atol=1e-9)


def lost(rng, pixels: float, features: float, n: int = 20_000) -> float:
    """Points of AUROC lost against the better level, for levels whose AUROCs on independent surprises are given."""
    of_id, of_ood = (
        {"pixels": rng.exponential(rate(pixels), n), "features": rng.exponential(rate(features), n)}
        for rate in (lambda _: 1.0, lambda auroc: auroc / (1 - auroc))  # Beta(a, 1): AUROC = 1 / (1 + a)
    )
    joined = [sum(SIGHTS[name](e) for name, e in of.items()) for of in (of_id, of_ood)]
    better = max(metrics.auroc(of_id[name], of_ood[name]) for name in of_id)
    return 100 * (better - metrics.auroc(*joined))


@pytest.mark.parametrize("features", [0.7, 0.8, 0.9, 0.98])
@pytest.mark.parametrize(("pixels", "most"), [(0.4, 2), (0.5, 1), (0.6, 1)])
def test_pixels_that_are_blind_or_wrong_cost_little(rng, pixels, most, features):
    """Fisher's sum loses 3 points at 0.5 and 0.8."""
    assert lost(rng, pixels, features) < most


@pytest.mark.parametrize("pixels", [0.9, 0.96, 0.99])
def test_features_that_see_a_little_do_not_hide_what_pixels_see(rng, pixels):
    assert lost(rng, pixels, 0.8) < 1


def test_blind_features_cost_their_price(rng):
    """The rule counts on features to see something; where they see nothing, pixels are heard less."""
    assert 1 < lost(rng, 0.96, 0.5) < 6


def test_without_sights_independent_levels_add_up_as_fisher_has_it(rng):
    """Twice the sum is chi-squared with four degrees of freedom on ID."""
    join = Join.fit({"a": rng.normal(size=3000), "b": rng.gamma(2, size=3000)}, {})
    fresh = join({"a": rng.normal(size=20_000), "b": rng.gamma(2, size=20_000)})
    for share in (0.5, 0.2, 0.05, 0.02):
        assert (2 * fresh >= scipy.stats.chi2.isf(share, 4)).mean() == pytest.approx(share, rel=0.2)


def test_two_levels_that_agree_to_be_loud_are_louder_than_one(join):
    loud = {name: tail.knots[-1] + 5 * tail.excess for name, tail in join.tails.items()}
    typical = {name: tail.knots[20] for name, tail in join.tails.items()}
    both = join({name: np.array([s]) for name, s in loud.items()})
    for name in loud:
        assert (
            join({name: np.array([loud[name]])} | {o: np.array([typical[o]]) for o in loud if o != name})
            < both
        )


def test_a_join_comes_back_from_its_facts_to_the_same_bit(join, rng):
    s = {"pixels": rng.normal(size=50) * 300 + 6000, "features": rng.gamma(9, size=50)}
    np.testing.assert_array_equal(Join.from_facts(json.loads(json.dumps(join.facts())))(s), join(s))


def test_facts_of_the_first_format_are_fishers_sum(join, rng):
    s = {"pixels": rng.normal(size=50) * 300 + 6000, "features": rng.gamma(9, size=50)}
    old = Join.from_facts(json.loads(json.dumps(join.facts()["tails"])))
    np.testing.assert_array_equal(old(s), sum(join.tails[name](s[name]) for name in join.tails))
    assert Join.from_facts(old.facts()) == old


def test_facts_of_a_later_format_are_refused(join):
    with pytest.raises(ValueError, match="take a newer flowood"):
        Join.from_facts(join.facts() | {"format": "flowood join 9"})


def test_levels_that_do_not_match_are_refused(join):
    with pytest.raises(ValueError, match="pixels, features"):
        join({"pixels": np.zeros(3)})
    with pytest.raises(ValueError, match="one score per image"):
        join({"pixels": np.zeros(3), "features": np.zeros(4)})
