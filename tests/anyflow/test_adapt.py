"""Laws of the door: every library's flow is one kind of object, and a flow that is no density does not come in."""

import math

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import numpy as np
import pytest
import torch
from torch import nn

from flowood_core import flow
from flowood_core.anyflow import adapt, correction

D = 4


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def moons(n=400):
    from sklearn.datasets import make_moons

    return torch.tensor(make_moons(n, noise=0.08, random_state=0)[0], dtype=torch.float32)


def subnet(c_in, c_out):
    return nn.Sequential(nn.Linear(c_in, 24), nn.ReLU(), nn.Linear(24, c_out))


def freia(d=2):
    torch.manual_seed(0)
    inn = Ff.SequenceINN(d)
    for _ in range(4):
        inn.append(Fm.AllInOneBlock, subnet_constructor=subnet)
    return inn


def zuko_nsf(d=2):
    zuko = pytest.importorskip("zuko", reason="zuko is not installed: on demand")
    torch.manual_seed(0)
    return zuko.flows.NSF(d, transforms=2, hidden_features=(24, 24))


def nflows_maf(d=2):
    pytest.importorskip("nflows", reason="nflows is not installed: on demand")
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
    from nflows.transforms.base import CompositeTransform
    from nflows.transforms.permutations import ReversePermutation

    torch.manual_seed(0)
    layers = [
        layer
        for _ in range(3)
        for layer in (
            ReversePermutation(d),
            MaskedAffineAutoregressiveTransform(features=d, hidden_features=24),
        )
    ]
    return Flow(CompositeTransform(layers), StandardNormal([d]))


def normflows_realnvp(d=2):
    nf = pytest.importorskip("normflows", reason="normflows is not installed: on demand")
    torch.manual_seed(0)
    layers = []
    for _ in range(4):
        layers += [nf.flows.AffineCouplingBlock(nf.nets.MLP([d // 2, 24, 24, d]), scale_map="sigmoid")]
        layers += [nf.flows.Permute(d, mode="swap")]
    return nf.NormalizingFlow(nf.distributions.base.DiagGaussian(d), layers)


class Density(nn.Module):
    """A density with log_prob and no z."""

    def __init__(self, d=2):
        super().__init__()
        self.log_sd = nn.Parameter(torch.zeros(d))

    def log_prob(self, x):
        return torch.distributions.Normal(0, self.log_sd.exp()).log_prob(x).sum(1)


LIBRARIES = {
    "FrEIA": (freia, "pair"),
    "zuko": (zuko_nsf, "zuko"),
    "nflows": (nflows_maf, "nflows"),
    "normflows": (normflows_realnvp, "normflows"),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_flow_of_a_library_is_recognised_and_checked(library):
    make, kind = LIBRARIES[library]
    made = adapt.as_flow(make(), moons())
    assert made.kind == kind
    found = adapt.check_flow(made, moons())
    assert found["determinant"] == "dense" and found["gap"] < 1e-3
    log_pz, log_px = made.log_densities(moons(10))
    assert torch.allclose(log_px, made.log_prob(moons(10)), atol=1e-5) and log_pz.shape == (10,)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_density_integrates_to_one(library):
    axis = torch.linspace(-30, 30, 401)
    points = torch.cartesian_prod(axis, axis)
    log_px = adapt.log_px_of(LIBRARIES[library][0](), points, batch_size=20000)
    assert np.exp(log_px).sum() * 0.15**2 == pytest.approx(1, abs=0.03)


def scattered(x, partner, *, rng):
    """An outlier function of one's own: points anywhere in a box around the moons."""
    low, high = torch.tensor([-2.0, -1.5]), torch.tensor([3.0, 2.0])
    return low + (high - low) * torch.rand(x.shape, generator=rng)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_flow_of_a_library_is_corrected(library):
    """Really trained: outliers lose more likelihood than held-out ID does."""
    x = moons(600)
    how = {"steps": 120, "lr": 3e-3, "quiet": True}
    plain = correction.correct(LIBRARIES[library][0](), x[:500], objective="mle", **how)
    better = correction.correct(plain, x[:500], scattered, **how)
    assert better.correction.outliers == "scattered" and better.correction.check["determinant"] == "dense"
    before = adapt.log_px_of(plain, x[:500])
    assert better.correction.tau.value == pytest.approx(before.mean() - 3 * before.std(), rel=1e-4)
    out = scattered(x[:200], None, rng=rng())
    lost = (adapt.log_px_of(plain, out) - adapt.log_px_of(better, out)).mean()
    kept = (adapt.log_px_of(plain, x[500:]) - adapt.log_px_of(better, x[500:])).mean()
    assert lost > kept + 0.3


def test_our_own_flow_is_passed_on():
    f = flow.vector_flow(D, blocks=2, hidden=8)
    assert adapt.as_flow(f) is f


def test_a_density_without_latent_serves_but_cannot_be_checked():
    made = adapt.as_flow(Density(), moons())
    assert adapt.check_flow(made, moons())["determinant"] == "not visible"
    with pytest.raises(adapt.FlowError, match="shows z"):
        made.log_densities(moons())
    better = correction.correct(made, moons(), steps=3, quiet=True)
    assert better.log_prob(moons(5)).shape == (5,)


def test_scaling_keeps_the_density_one_on_x():
    x = 5 + 3 * torch.randn(50, 2, generator=rng())
    made = adapt.as_flow(Density(), x, shift=5.0, scale=3.0)
    reference = torch.distributions.Normal(5.0, 3.0).log_prob(x).sum(1)
    assert torch.allclose(made.log_prob(x), reference, atol=1e-5)
    each = adapt.as_flow(Density(), x, shift=torch.tensor([5.0, 5.0]), scale=torch.tensor([3.0, 3.0]))
    assert torch.allclose(each.log_prob(x), reference, atol=1e-5)


def test_images_reach_a_flow_on_rows_when_flattened():
    x = torch.randint(0, 256, (8, 1, 2, 2), generator=rng(), dtype=torch.uint8)
    assert adapt.as_flow(Density(4), x, flatten=True).log_prob(flow.dequantise(x)).shape == (8,)


# --- flows that are no density ---------------------------------------------------------------------------


class Affine(nn.Module):
    """z = x exp(s), with a way to get the log-determinant wrong."""

    def __init__(self, answer, d=D):
        super().__init__()
        self.answer, self.s = answer, nn.Parameter(torch.linspace(0.2, 0.5, d))

    def forward(self, x):
        scale = self.s * (1 + torch.tanh(x.mean(0 if self.answer == "batch" else 1, keepdim=True)) * 0)
        z = x * scale.exp()
        ladj = scale.expand_as(x)
        return self.answers(z, ladj)[self.answer]

    def answers(self, z, ladj):
        good, d = ladj.sum(1), ladj.shape[1]
        return {
            "good": (z, good),
            "missing": z,
            "three": (z, good, good),
            "number": (z, 0.0),
            "scalar": (z, good.sum()),
            "mean": (z, good.mean()[None]),
            "column": (z, good[:, None]),
            "not summed": (z, ladj),
            "summed": (z, good.sum().expand(len(z))),
            "zeros": (z, torch.zeros(len(z))),
            "sign": (z, -good),
            "per dimension": (z, good / d),
            "no logarithm": (z, good.exp()),
            "bits": (z, good / math.log(2)),
            "squared": (z, 2 * good),
            "constant": (z, good + 0.7),
            "dropped": (z[:, :-1], good),
            "nan": (z * math.nan, good),
        }


WRONG = {
    "missing": "log-determinant is missing",
    "three": "got 3 values",
    "number": "a layer reports none",
    "scalar": "summed or averaged over the batch",
    "mean": "summed or averaged over the batch",
    "column": "squeeze",
    "not summed": "not yet summed over the dimensions",
    "summed": "it is summed over the batch",
    "zeros": "it is zero",
    "sign": "the sign is wrong",
    "per dimension": "divided by the number of dimensions",
    "no logarithm": "the logarithm is missing",
    "bits": "in bits",
    "squared": "a factor 2",
    "constant": "same gap for every sample",
    "dropped": "keeps every dimension",
    "nan": "expected finite log-densities",
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_flow_that_is_no_density_does_not_come_in(mistake):
    x = torch.randn(20, D, generator=rng())
    with pytest.raises(adapt.FlowError, match=WRONG[mistake]):
        adapt.as_flow(Affine(mistake), x)
    with pytest.raises(adapt.FlowError, match=WRONG[mistake]):
        correction.correct(Affine(mistake), x, steps=1, quiet=True)


def test_the_good_one_comes_in():
    assert adapt.check_flow(Affine("good"), torch.randn(20, D, generator=rng()))["gap"] < 1e-6


def test_a_dependence_on_the_batch_is_found():
    class Normed(nn.Module):
        def forward(self, x):
            sd = x.std(0) if len(x) > 1 else torch.ones(x.shape[1])
            return x / sd, -sd.log().sum().expand(len(x))

    with pytest.raises(adapt.FlowError, match="alone and in a batch"):
        adapt.as_flow(Normed(), 3 * torch.randn(20, D, generator=rng()))


@pytest.mark.parametrize(
    ("mistake", "words"), [("good", None), ("zeros", "it is zero"), ("sign", "sign is wrong")]
)
def test_in_many_dimensions_the_determinant_is_estimated(mistake, words):
    d = 300
    x = torch.randn(8, d, generator=rng())
    if words is None:
        found = adapt.check_flow(Affine(mistake, d), x)
        assert found["determinant"] == "estimated" and found["gap"] < 3
    else:
        with pytest.raises(adapt.FlowError, match=words):
            adapt.check_flow(Affine(mistake, d), x)


@pytest.mark.parametrize(("mistake", "refused"), [("good", False), ("zeros", True), ("per dimension", True)])
def test_an_ill_conditioned_flow_is_not_refused_for_it(mistake, refused):
    """The estimate comes from above, far above where scales differ by e^6: a trained image flow is like that."""
    d = 300
    f = Affine(mistake, d)
    with torch.no_grad():
        f.s.copy_(torch.linspace(-1, 5, d))
    x = torch.randn(8, d, generator=rng())
    if refused:
        with pytest.raises(adapt.FlowError, match="autograd finds"):
            adapt.check_flow(f, x)
    else:
        assert adapt.check_flow(f, x)["determinant"] == "estimated"


def test_an_image_flow_passes_the_estimate():
    f = flow.image_flow((3, 16, 16), squeeze=1, blocks=3, hidden=8)
    x = torch.randint(0, 256, (8, 3, 16, 16), generator=rng(), dtype=torch.uint8)
    assert adapt.check_flow(f, x)["determinant"] == "estimated"


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="nothing to train"):
        adapt.as_flow(torch.distributions.Normal(0, 1))


def test_the_check_leaves_the_flow_as_it_was():
    f = flow.vector_flow(D, blocks=2, hidden=8).train()
    before = {k: v.clone() for k, v in f.state_dict().items()}
    adapt.check_flow(f, torch.randn(8, D, generator=rng()))
    assert f.training and all(torch.equal(v, before[k]) for k, v in f.state_dict().items())
    assert all(p.grad is None for p in f.parameters())
