"""Laws of the second level: a score of content that survives a file, and a density of the whole vector."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from flowood_core.anyflow.levels import FeatureLevel
from flowood_core.features.images import ImageEncoder
from flowood_core.outliers import image


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """160 pictures of few dimensions: two colours and a direction each."""
    rng = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 160, 3, 1, 1, generator=rng) * 200
    slope = torch.linspace(0, 1, 32).view(1, 1, 1, 32)
    noise = 20 * torch.rand(160, 3, 32, 32, generator=rng)
    return (a + (b - a) * slope + noise).clamp(0, 255).to(torch.uint8)


def level(**how) -> FeatureLevel:
    how = {"size": 32, "components": 8, "blocks": 2, "hidden": 16, "mle_steps": 60, "steps": 60} | how
    return FeatureLevel("untrained", **how)


@pytest.fixture(scope="module")
def fitted(x, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWOOD_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        return level().fit(x[:120], image.ccm_gaussian)


# ---- the level


def test_a_level_comes_back_from_its_state_to_the_same_bit(fitted, x, tmp_path):
    facts, tensors = fitted.state()
    safetensors.torch.save_file(tensors, tmp_path / "level.safetensors")
    again = FeatureLevel.from_state(
        json.loads(json.dumps(facts)), safetensors.torch.load_file(tmp_path / "level.safetensors")
    )
    np.testing.assert_array_equal(again.score(x[120:]), fitted.score(x[120:]))


def test_a_state_does_not_hold_the_network(fitted):
    facts, tensors = fitted.state()
    assert not any("w_perm" in name or name.startswith("encoder") for name in tensors)
    assert len(facts["encoder"]["sha256_of_weights"]) == 64


def test_another_encoder_another_format_and_foreign_tensors_are_refused(fitted):
    facts, tensors = fitted.state()
    with pytest.raises(ValueError, match=r"features\s+differ"):
        FeatureLevel.from_state(facts, tensors, encoder=ImageEncoder("untrained", size=64))
    with pytest.raises(ValueError, match="format"):
        FeatureLevel.from_state(facts | {"format": "another"}, tensors)
    with pytest.raises(ValueError, match="tensors of this level"):
        FeatureLevel.from_state(facts | {"hidden": 8}, tensors)


def test_fitting_is_pure_in_the_seed_and_leaves_the_global_one_alone(x):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (level(seed=s, steps=5, mle_steps=5).fit(x[:60], image.ccm) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(a.score(x), b.score(x))
    assert not np.array_equal(a.score(x), c.score(x))


def test_the_correction_makes_unseen_outliers_less_likely_against_id(rng):
    """Between two groups of features lies their mean, which a density fitted by eq. (2) alone calls likely."""
    side = np.where(np.arange(300) % 2, 3.0, -3.0)[:, None] * [1, 0, 0, 0]
    x, between = ((0.5 * rng.normal(size=(300, 4)) + at).astype(np.float32) for at in (side, 0))
    how = {"components": 4, "blocks": 4, "hidden": 32, "mle_steps": 60, "steps": 200, "lr": 1e-2}
    without, with_ = level(**how).fit_features(x[:200]), level(**how).fit_features(x[:200], between[:200])
    before, after = (
        one.score_features(between[200:]).mean() - one.score_features(x[200:]).mean()
        for one in (without, with_)
    )
    assert after > before + 1


def test_ready_made_outliers_do_as_well_as_a_function(x):
    made = image.gaussian_blur(x[:40], 2.0)
    one = level(steps=5).fit(x[:80], made)
    two = level(steps=5).fit_features(one.encoder.encode(x[:80]), one.encoder.encode(made))
    np.testing.assert_array_equal(one.score(x[80:]), two.score(x[80:]))


def test_components_are_bounded_by_the_images(x):
    assert level(components=500, mle_steps=2).fit(x[:40]).n_flow == 10
    with pytest.raises(ValueError, match="at least 25"):
        level().fit(x[:24])


def test_no_images_have_no_scores(fitted, x):
    assert fitted.score(x[:0]).shape == (0,)


# ---- the density of the whole vector


class Vectors:
    """An encoder that is given its vectors."""

    d = 40

    def encode(self, x, *, label=""):
        return np.asarray(x, np.float32)

    def facts(self):
        return {"encoder": "vectors", "d": self.d}


def test_few_images_are_told_from_what_leaves_their_span():
    rng = np.random.default_rng(0)
    rows = np.zeros((60, 40), np.float32)
    rows[:, :10] = rng.normal(size=(60, 10))
    rows[:, 10:] = 0.01 * rng.normal(size=(60, 30))
    beyond = rows[40:].copy()
    beyond[:, 10:] += 0.5 * rng.normal(size=(20, 30))  # as likely as ID in the directions in which ID varies
    how = {"components": 8, "blocks": 2, "hidden": 8, "mle_steps": 30, "neighbours": 0}
    fitted = FeatureLevel(Vectors(), **how).fit_features(rows[:40])
    assert fitted.score_features(beyond).min() > fitted.score_features(rows[40:]).max()


def test_a_shrunk_whitening_is_that_of_the_shrunk_covariance():
    from sklearn.covariance import ledoit_wolf

    from flowood_core.features.encoders import Standard

    x = np.random.default_rng(0).normal(size=(30, 50)) * np.linspace(0.5, 3, 50)
    standard = Standard.shrunk(x)
    own = np.square((x - x.mean(0)) @ standard.directions).sum(1)
    precision = np.linalg.inv(ledoit_wolf(x)[0])
    centred = x - x.mean(0)
    np.testing.assert_allclose(own, ((centred @ precision) * centred).sum(1), rtol=1e-9)
    lengths = np.linalg.norm(standard.directions, axis=0)
    assert (np.diff(lengths) >= -1e-12).all()  # the widest direction is scaled least


def test_the_score_is_a_density_of_the_whole_whitened_vector():
    x = np.random.default_rng(0).normal(size=(120, 40)).astype(np.float32)
    fitted = FeatureLevel(Vectors(), components=4, blocks=2, hidden=4, mle_steps=2).fit_features(x)
    white = torch.from_numpy(fitted.standard(x))
    flow = fitted.flow.log_prob(white[:, : fitted.n_flow]).detach().double()
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(white[:, fitted.n_flow :].double()).sum(1)
    np.testing.assert_allclose(fitted.density_score(x), -(flow + normal).numpy(), rtol=1e-5)


# ---- neighbours


def test_neighbours_are_added_in_the_unit_of_the_density(rng):
    x = rng.normal(size=(200, 40)).astype(np.float32)
    new = rng.normal(size=(50, 40)).astype(np.float32)
    fitted = FeatureLevel(Vectors(), components=4, blocks=2, hidden=4, mle_steps=2).fit_features(x)
    cosine = x / np.linalg.norm(x, axis=1, keepdims=True)
    to_others = np.sort(1 - cosine @ cosine.T, axis=1)[:, 5]  # place 0 is the image itself
    weight = fitted.density_score(x).std() / to_others.std()
    assert fitted.weight == pytest.approx(weight, rel=1e-2)
    distance = np.sort(1 - (new / np.linalg.norm(new, axis=1, keepdims=True)) @ cosine.T, axis=1)[:, 4]
    np.testing.assert_allclose(
        fitted.score_features(new), fitted.density_score(new) + weight * distance, rtol=2e-2
    )


def test_what_lies_between_two_kinds_of_id_has_no_near_neighbour(rng):
    kinds = np.eye(6)[rng.integers(0, 2, 300)]
    x = (kinds + 0.05 * rng.normal(size=(300, 6))).astype(np.float32)
    between = (np.array([0.5, 0.5, 0, 0, 0, 0]) + 0.05 * rng.normal(size=(100, 6))).astype(np.float32)
    how = {"components": 6, "blocks": 2, "hidden": 8, "mle_steps": 1, "lr": 1e-6}
    with_ = FeatureLevel(Vectors(), **how).fit_features(x[:200])
    found = {
        name: np.mean(score(between)[:, None] > score(x[200:])[None])
        for name, score in (("density", with_.density_score), ("both", with_.score_features))
    }
    assert found["density"] < 0.5 < 0.95 < found["both"]


def test_a_level_saved_before_there_were_neighbours_is_its_density(fitted, x):
    facts, tensors = fitted.state()
    older = {name: of for name, of in facts.items() if name not in ("neighbours", "weight")}
    tensors.pop("neighbours.bank")
    again = FeatureLevel.from_state(older | {"format": "flowood feature level 2"}, tensors)
    rows = fitted.encoder.encode(x[120:])
    np.testing.assert_array_equal(again.score(x[120:]), fitted.density_score(rows))


def test_as_many_neighbours_as_images_are_refused():
    with pytest.raises(ValueError, match="more ID features than neighbours, got 30 and 30; collect"):
        FeatureLevel(Vectors(), components=4, blocks=2, hidden=4, mle_steps=1, neighbours=30).fit_features(
            np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
        )
    with pytest.raises(ValueError, match="0 neighbours or more"):
        FeatureLevel(Vectors(), neighbours=-1)
