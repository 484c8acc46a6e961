"""Laws of the correction: the threshold moves with the units, outliers by name, what does not fit is refused."""

import math

import numpy as np
import pytest
import torch

from flowood_core import correct, datasets, flow
from flowood_core.anyflow import adapt, correction
from flowood_core.outliers import vectors


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def small(d=3):
    return flow.vector_flow(d, blocks=2, hidden=8)


X = torch.randn(120, 3, generator=torch.Generator().manual_seed(1))
PICTURES = datasets.load("digits", "train").x[:80, :, ::2, ::2].contiguous()
HOW = {"steps": 4, "quiet": True}


def test_the_threshold_moves_with_the_units_of_the_data():
    """log p of s x is log p of x minus d log s: mean and threshold move alike, the distance between them not at all."""
    f = adapt.as_flow(_Normal())
    one = correction.choose_tau(f, X)
    thousand = correction.choose_tau(adapt.Adapted(_Normal(), "log_prob", scale=1000.0), 1000 * X)
    assert thousand.value == pytest.approx(one.value - 3 * math.log(1000), abs=1e-3)
    assert "arbitrary" in one.why and "3 standard deviations" in one.why


class _Normal(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(()))

    def log_prob(self, x):
        return torch.distributions.Normal(self.mean, 1).log_prob(x).sum(1)


def test_pixels_have_the_papers_threshold_and_a_given_one_is_kept():
    f = flow.image_flow((3, 16, 16), squeeze=1, blocks=2, hidden=4)
    assert correction.choose_tau(f, PICTURES).value == 0
    assert correction.choose_tau(f, PICTURES, tau=-7).value == -7
    with pytest.raises(ValueError, match="margin"):
        correction.choose_tau(small(), X, margin=-1)


def test_what_was_chosen_is_printed(capsys):
    correct(small(), X, steps=2)
    assert "tau = " in capsys.readouterr().out
    correct(small(), X, **HOW)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["gaussian", "ccm", "ccm_gaussian", "ccm_simplify", "ccm_graded", "auto"])
def test_images_are_corrected_with_every_outlier_by_name(name):
    f = flow.image_flow((3, 16, 16), squeeze=1, blocks=2, hidden=4)
    better = correct(f, PICTURES, name, **HOW)
    assert better.correction.outliers == ("ccm_gaussian" if name == "auto" else name)
    assert better is not f and not hasattr(f, "correction")
    assert "nats on ID" in str(better.correction)


def test_a_correction_says_how_the_determinant_was_checked():
    assert "checked against autograd's Jacobian" in str(
        correct(small(), X, objective="mle", **HOW).correction
    )
    f = flow.image_flow((3, 16, 16), squeeze=1, blocks=2, hidden=4)
    assert "checked against an estimate" in str(correct(f, PICTURES, **HOW).correction)


def test_in_place_means_in_place():
    f = small()
    assert correct(f, X, inplace=True, **HOW) is f


def test_a_pool_and_a_function_of_ones_own_serve_as_outliers():
    assert correct(small(), X, torch.full((5, 3), 9.0), **HOW).correction.outliers == "pool"
    assert correct(small(), X, lambda x, partner, *, rng: x + 9, objective="hinge", **HOW).correction
    with pytest.raises(ValueError, match="outliers like the ID samples"):
        correct(small(), X, torch.ones(5, 4), **HOW)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x: x, TypeError, r"a function \(x, partner, \*, rng\) -> x_out, got '<lambda>'"),
        (lambda x, partner, *, rng: x[:3], ValueError, r"one outlier per sample, \(4, 3\) .*, got \(3, 3\)"),
        (lambda x, partner, *, rng: x.double(), ValueError, "got .* of torch.float64"),
        (lambda x, partner, *, rng: x.numpy(), ValueError, "got ndarray"),
    ],
)
def test_a_function_that_makes_no_outliers_is_met_at_the_door(function, error, words):
    with pytest.raises(error, match=words):
        correct(small(), X, function, **HOW)


class Lengths:
    def encode(self, texts):
        return np.array([[len(t), t.count(" "), t.count("e")] for t in texts], float)


def test_texts_are_corrected_with_simpler_texts():
    words = ["quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "sleeps"]
    texts = [" ".join(np.random.default_rng(k).choice(words, 8)) + ". It was fine." for k in range(30)]
    better = correct(small(), texts, encoder=Lengths(), **HOW)
    assert better.correction.outliers == "text" and better.correction.n_id == 30


@pytest.mark.parametrize(
    ("data", "outliers", "words"),
    [
        (X, "ccm", "8-bit images for outliers='ccm'"),
        (X, "text", "a list of texts and encoder"),
        (PICTURES, "rows", "choose ccm_gaussian"),
        (X, "cmm", "outliers to be one of"),
        (X[:5], "rows", "at least 20 samples"),
    ],
)
def test_what_does_not_fit_is_refused(data, outliers, words):
    f = flow.image_flow((3, 16, 16), squeeze=1, blocks=2, hidden=4) if data is PICTURES else small()
    with pytest.raises(ValueError, match=words):
        correct(f, data, outliers, **HOW)


def test_an_unknown_objective_and_a_frozen_flow_are_refused():
    with pytest.raises(ValueError, match="softplus, hinge, mle"):
        correct(small(), X, objective="bce")
    with pytest.raises(ValueError, match="trainable"):
        correct(small().requires_grad_(False), X, **HOW)


def test_rows_are_made_of_real_values_or_lie_between():
    a, b = X[:60], X[60:]
    swapped = vectors.swap_columns(a, b, rng=rng())
    assert ((swapped == a) | (swapped == b)).all() and not (swapped == a).all()
    mixed = vectors.mixup_rows(a, b, rng=rng())
    assert (mixed <= torch.maximum(a, b) + 1e-6).all() and (mixed >= torch.minimum(a, b) - 1e-6).all()
    assert torch.equal(vectors.rows(a, b, rng=rng()), vectors.rows(a, b, rng=rng()))
