"""Laws of the neighbours' scores: orientation, units that do not matter, and oracles where there is one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, spearmanr

from flowood_core import neighbours
from flowood_core.metrics import auroc

FITTED = {
    "typicality": neighbours.Typicality.fit,
    "gmm": neighbours.Gmm.fit,
    "ocsvm": neighbours.OneClass.fit,
    "fusion": lambda train: neighbours.Fusion.fit(train, drawn(7, log_px=-400.0, complexity=-1.0)),
}


def drawn(seed: int, n: int = 300, **shift: float) -> dict[str, np.ndarray]:
    """Samples whose three quantities are correlated as a flow's are, moved by `shift`."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=n)
    quantities = {
        "log_pz": -4000 + 100 * common + 60 * rng.normal(size=n),
        "log_px": 5000 - 300 * common + 200 * rng.normal(size=n),
        "complexity": 6.7 + 0.5 * common + 0.3 * rng.normal(size=n),
    }
    return {name: values + shift.get(name, 0.0) for name, values in quantities.items()}


@pytest.mark.parametrize("name", FITTED)
def test_far_from_id_is_higher(name):
    fitted = FITTED[name](drawn(0))
    far = drawn(2, log_pz=-1500, log_px=-6000, complexity=-3)
    assert auroc(fitted.score(drawn(1)), fitted.score(far)) > 0.95


@pytest.mark.parametrize("name", ["typicality", "gmm", "ocsvm"])
def test_a_likelihood_above_that_of_id_is_suspicious_as_well(name):
    fitted = FITTED[name](drawn(0))
    assert auroc(fitted.score(drawn(1)), fitted.score(drawn(2, log_pz=1500, log_px=6000))) > 0.95


@pytest.mark.parametrize("name", ["gmm", "ocsvm"])
@settings(max_examples=10, deadline=None)
@given(unit=st.floats(1e-4, 1e4), origin=st.floats(-1e4, 1e4))
def test_the_unit_of_a_quantity_does_not_matter(name, unit, origin):
    def rescaled(x):
        return {k: unit * v + origin for k, v in x.items()}

    fit = {"gmm": neighbours.Gmm.fit, "ocsvm": neighbours.OneClass.fit}[name]
    train, test = drawn(0), drawn(1)
    if name == "ocsvm":  # log-det is a difference of the two log-densities
        train, test = ({**x, "ladj": x["log_px"] - x["log_pz"]} for x in (train, test))
    plain, other = fit(train).score(test), fit(rescaled(train)).score(rescaled(test))
    assert spearmanr(plain, other).statistic > 0.999


@settings(max_examples=15, deadline=None)
@given(unit=st.floats(1e-3, 1e3), origin=st.floats(-1e3, 1e3), seed=st.integers(0, 5))
def test_the_fusion_does_not_depend_on_units(unit, origin, seed):
    def rescaled(x):
        return x | {"log_px": unit * x["log_px"] + origin}

    train, synthetic, test = drawn(seed), drawn(seed + 10, log_px=-300.0), drawn(seed + 20)
    a = neighbours.Fusion.fit(train, synthetic).score(test)
    b = neighbours.Fusion.fit(rescaled(train), rescaled(synthetic)).score(rescaled(test))
    assert np.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_typicality_is_the_distance_to_the_entropy():
    train = drawn(0)
    fitted = neighbours.Typicality.fit(train)
    assert fitted.entropy == pytest.approx(-train["log_px"].mean())
    at = {"log_px": np.array([-fitted.entropy, -fitted.entropy + 3, -fitted.entropy - 3])}
    assert np.allclose(fitted.score(at), [0, 3, 3])


def test_one_gaussian_is_the_normal_density_of_scipy():
    train, test = drawn(0), drawn(1)
    fitted = neighbours.Gmm.fit(train, components=1)
    columns = fitted.scale(train)
    oracle = multivariate_normal(columns.mean(0), np.cov(columns.T, bias=True))
    assert np.allclose(fitted.score(test), -oracle.logpdf(fitted.scale(test)), rtol=1e-3)


def test_the_ratio_of_a_flow_with_itself_is_zero_and_its_sign_is_that_of_the_background():
    log_px = drawn(0)["log_px"]
    assert not neighbours.likelihood_ratio(log_px, log_px).any()
    assert (neighbours.likelihood_ratio(log_px, log_px + 5) == 5).all()  # the background explains it better


def test_the_fusion_weighs_most_what_separates():
    train, synthetic = drawn(0, n=2000), drawn(1, n=2000, complexity=-2.0)
    weights = dict(
        zip(["log_pz", "log_px", "complexity"], neighbours.Fusion.fit(train, synthetic).weights, strict=True)
    )
    assert weights["complexity"] < 0  # low complexity speaks for OOD
    assert abs(weights["complexity"]) == max(map(abs, weights.values()))


def test_the_fusion_is_at_least_as_good_as_the_best_of_its_parts_on_what_it_was_fitted_on():
    train, synthetic = drawn(0, n=2000), drawn(1, n=2000, log_px=-300.0, complexity=-0.5)
    fused = neighbours.Fusion.fit(train, synthetic)
    parts = [auroc(-train[k], -synthetic[k]) for k in train]
    assert auroc(fused.score(train), fused.score(synthetic)) >= max(parts) - 0.005


def test_the_determinant_is_the_difference_of_the_two_densities():
    train, test = drawn(0), drawn(1)
    with_ladj = [{**x, "ladj": x["log_px"] - x["log_pz"]} for x in (train, test)]
    a = neighbours.OneClass.fit(train).score(test)
    assert np.array_equal(a, neighbours.OneClass.fit(with_ladj[0]).score(with_ladj[1]))


def test_errors_say_what_is_missing():
    without = {k: v for k, v in drawn(0).items() if k != "complexity"}
    with pytest.raises(ValueError, match="got no complexity"):
        neighbours.Gmm.fit(without)
    with pytest.raises(ValueError, match="at least 2 ID samples that differ"):
        neighbours.Gmm.fit({k: np.ones(9) for k in drawn(0)})
