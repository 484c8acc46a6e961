"""Laws of FastFlow and CS-Flow: bijections with the right determinant, sample by sample, behind one interface."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowood_core import train
from flowood_core.features import backbones
from flowood_core.features.bank import FeatureBank, OnBank
from flowood_core.features.cs_flow import CrossScaleCoupling, CSFlow, cs_flow
from flowood_core.features.map_flows import (
    AllInOne,
    FastFlow,
    _fast_flow_blocks,
    fast_flow,
    image_scores,
)
from flowood_core.flow import Block, densities, dequantise
from flowood_core.outliers.image import gaussian
from flowood_core.subnets import conv3x3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def shaken(flow, size=0.3):
    """Weights away from their start, where CS-Flow is the identity."""
    g = rng(3)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(size * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return flow


def fast(size=16, **kw):
    return FastFlow(backbones.load("untrained"), size, **kw)


def cs(size=16, **kw):
    return CSFlow(backbones.load("untrained_pyramid"), size, hidden=6, kernels=(3, 5), **kw)


both = pytest.mark.parametrize("make", [fast, cs], ids=["fastflow", "cs_flow"])
IMAGES = torch.randint(0, 256, (6, 3, 16, 16), generator=rng(1), dtype=torch.uint8)


def bijection(flow):
    return (flow.from_normalised if isinstance(flow, FastFlow) else flow.transform), flow.invert


def given(flow, n=2):
    return [torch.randn(n, *shape, generator=rng(2), dtype=torch.float64) for shape in flow.maps]


@both
def test_inverse_undoes_the_transform(make):
    flow = shaken(make().double())
    forward, back = bijection(flow)
    h = given(flow)
    for a, b in zip(back(forward(h)[0]), h, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_maps", [1, 3])
@both
def test_log_det_is_the_jacobians(make, n_maps):
    flow = shaken(make().double())
    if isinstance(flow, FastFlow):  # small maps: 4 channels on 2 x 2, and 2 x 1
        flow.maps = [(4, 2, 2), (4, 1, 2), (5, 1, 1)][:n_maps]
        small = FastFlow.__new__(FastFlow)
        small.__dict__.update(flow.__dict__)
        small.norms = torch.nn.ModuleList(torch.nn.LayerNorm(s) for s in flow.maps)
        small.flows = torch.nn.ModuleList(
            _fast_flow_blocks(s[0], 4, 1.0, (3, 1), 2.0, np.random.default_rng(0)) for s in flow.maps
        )
        flow = shaken(small.double())
    forward, _ = bijection(flow)
    h = given(flow, 1)
    sizes, shapes = [m.numel() for m in h], [m.shape for m in h]

    def flat(v):
        parts = [p.view(s) for p, s in zip(v.split(sizes), shapes, strict=True)]
        return torch.cat([m.flatten() for m in forward(parts)[0]])

    jacobian = torch.autograd.functional.jacobian(flat, torch.cat([m.flatten() for m in h]))
    torch.testing.assert_close(forward(h)[1][0], torch.linalg.slogdet(jacobian)[1], rtol=1e-8, atol=1e-8)


@both
def test_a_sample_does_not_see_the_batch(make):
    flow = shaken(make().double(), 0.1)
    x = dequantise(IMAGES).double()
    together = flow.log_prob(x)
    alone = torch.cat([flow.log_prob(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(flow.published_score(x)[2:3], flow.published_score(x[2:3]))


@both
def test_log_prob_is_the_change_of_variables_with_its_constant(make):
    flow = shaken(make().double(), 0.1)
    x = dequantise(IMAGES).double()
    z, ladj = flow(x)
    assert z.shape == (6, flow.d) and ladj.shape == (6,)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1).log_prob(z).sum(1)
    torch.testing.assert_close(flow.log_prob(x), normal + ladj)
    log_pz, log_px = densities(flow.float(), IMAGES)
    torch.testing.assert_close(
        torch.from_numpy(log_px - log_pz).double(), ladj.detach(), rtol=1e-5, atol=1e-3
    )


def test_a_block_is_freias(seed=0):
    theirs = Block([(6, 5, 4)], subnet_constructor=conv3x3(7), permute_soft=False)
    shaken(theirs, 0.1)
    w = torch.zeros(6, 6)
    p = torch.randperm(6, generator=rng(4))
    w[torch.arange(6), p] = 1.0
    theirs.w_perm.data.copy_(w.view_as(theirs.w_perm))
    ours = AllInOne(6, theirs.subnet, p.numpy())
    with torch.no_grad():
        ours.global_scale.copy_(theirs.global_scale)
        ours.global_offset.copy_(theirs.global_offset)
    x = torch.randn(3, 6, 5, 4, generator=rng(5))
    (y,), ladj = theirs((x,))
    got, got_ladj = ours(x)
    torch.testing.assert_close(got, y)
    torch.testing.assert_close(got_ladj, ladj)


def test_a_fresh_block_does_not_scale():
    block = AllInOne(4, torch.nn.Conv2d(2, 4, 1), [1, 0, 3, 2])
    torch.testing.assert_close(block._scale(), torch.ones(1, 4, 1, 1))


def test_a_fresh_coupling_of_cs_flow_only_permutes():
    c = CrossScaleCoupling(4, 5, 3, [[1, 0, 3, 2]] * 3)
    x = [torch.randn(2, 4, n, n, generator=rng(n)) for n in (8, 4, 2)]
    y, ladj = c(x)
    assert all(torch.equal(a, b[:, [1, 0, 3, 2]]) for a, b in zip(y, x, strict=True)) and (ladj == 0).all()


def test_every_scale_of_cs_flow_hears_its_neighbours():
    flow = shaken(cs().double())
    h = given(flow, 1)
    base = flow.transform(h)[0]
    for k in range(3):
        moved = [m + (j == k) for j, m in enumerate(h)]
        assert all(not torch.allclose(a, b) for a, b in zip(flow.transform(moved)[0], base, strict=True)), k


def test_without_log_scales_cs_flow_is_additive_and_its_determinant_constant():
    flow = shaken(cs_flow(backbones.load("untrained_pyramid"), 16, blocks=2, hidden=6, clamp=0.0).double())
    forward, back = bijection(flow)
    h = given(flow)
    z, ladj = forward(h)
    assert (ladj == 0).all() and not torch.allclose(z[0], h[0])
    for a, b in zip(back(z), h, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_log_scales_are_clamped():
    c = CrossScaleCoupling(4, 5, 3, [[0, 1, 2, 3]] * 3, clamp=3.0)
    s = torch.full((1, 2, 1, 1), 1e9)
    log_scale, _ = c._log_scale(torch.cat([s, s], 1), s)
    torch.testing.assert_close(log_scale, torch.full_like(s, 3.0))


def test_published_scores_are_those_of_the_equations():
    x = dequantise(IMAGES)
    flow = shaken(fast(), 0.1)
    z, _ = flow.transform(flow.features(x))
    maps = [
        F.interpolate(-torch.exp(-0.5 * (m**2).mean(1, keepdim=True)), size=(16, 16), mode="bilinear")
        for m in z
    ]
    expected = torch.stack(maps).mean(0)[:, 0]
    torch.testing.assert_close(flow.score_maps(x), expected)
    torch.testing.assert_close(flow.published_score(x), expected.flatten(1).max(1).values)
    flow = shaken(cs(), 0.1)
    z, _ = flow(x)
    torch.testing.assert_close(flow.published_score(x), (z**2 / 2).mean(1))
    torch.testing.assert_close(flow.score_maps(x).mean((1, 2)), flow.published_score(x))
    got = image_scores(flow, IMAGES, batch_size=4)
    torch.testing.assert_close(torch.from_numpy(got["published"]).float(), (z**2 / 2).mean(1).detach())


def test_the_norm_counts_unless_the_published_loss_is_asked_for():
    counted, published = fast(), fast(count_norm=False)
    with torch.no_grad():
        for flow in (counted, published):
            for norm in flow.norms:
                norm.weight.fill_(0.5)
    x = dequantise(IMAGES)
    difference = counted(x)[1] - published(x)[1]
    torch.testing.assert_close(difference, torch.full((6,), counted.d * math.log(0.5)), rtol=1e-4, atol=1e-2)


def test_initialise_standardises_every_element_of_cs_flow():
    flow = cs().initialise(dequantise(IMAGES), batch_size=4)
    for m in flow.features(dequantise(IMAGES)):
        assert m.mean(0).abs().max() < 1e-4
        assert m.std(0, correction=0).max() < 1 and m.square().mean() > 0.25


def test_an_element_that_never_fires_stays_finite():
    flow = cs().initialise(dequantise(IMAGES[:1].expand(4, -1, -1, -1)))
    assert torch.isfinite(flow.log_prob(dequantise(IMAGES))).all()


def test_initialise_starts_fast_flows_layer_norm_at_the_mean_and_sd_of_every_element():
    flow = fast().initialise(dequantise(IMAGES), batch_size=4)
    features = flow.normalised(flow.features(dequantise(IMAGES)))
    for m, norm in zip(features, flow.norms, strict=True):
        h = m * norm.weight + norm.bias
        assert h.mean(0).abs().max() < 1e-4
        assert h.std(0, correction=0).max() < 1 and h.square().mean() > 0.25
    untouched = fast()
    assert flow.log_prob(dequantise(IMAGES)).mean() > untouched.log_prob(dequantise(IMAGES)).mean()


@both
def test_the_backbone_is_neither_trained_nor_stored_but_moves_along(make):
    flow = make()
    before = flow.backbone.sha256
    stored = sum(t.numel() for t in flow.state_dict().values())
    held = sum(t.numel() for t in (*flow.parameters(), *flow.buffers()))
    assert stored == held and not any(key.startswith("net") for key in flow.state_dict())
    settings = train.Settings(steps=2, batch_size=4)
    train.fit(flow, IMAGES, gaussian_1, settings=settings)
    assert flow.backbone.sha256 == before
    assert next(flow.double().backbone.parameters()).dtype == torch.float64


def gaussian_1(x, partner=None, *, rng):
    return gaussian(x, partner, rng=rng, radius=1.0)


@both
def test_training_raises_id_density_and_lowers_outliers(make):
    flow = make().initialise(dequantise(IMAGES))
    outliers = gaussian_1(IMAGES, rng=rng())
    gap = lambda: (flow.log_prob(dequantise(IMAGES)) - flow.log_prob(dequantise(outliers))).mean().item()  # noqa: E731
    with torch.no_grad():
        before, level = gap(), flow.log_prob(dequantise(IMAGES)).mean().item()
    settings = train.Settings(steps=40, batch_size=6, lr=3e-3, tau=level)
    history = train.fit(flow, IMAGES, gaussian_1, settings=settings, log_every=1)
    with torch.no_grad():
        assert gap() > before
    assert history.column("log_px_id")[-1] > history.column("log_px_id")[0]


@both
def test_a_bank_holds_the_features_of_images_and_their_outliers(make):
    flow = make().initialise(dequantise(IMAGES))
    bank = FeatureBank(flow, IMAGES, gaussian_1, 2, batch_size=4)
    index = bank.indices()
    assert index.shape == IMAGES.shape and index[4].unique().tolist() == [4]
    on_bank = OnBank(flow, bank)
    torch.testing.assert_close(
        on_bank.log_prob(index), flow.log_prob(dequantise(IMAGES)), rtol=2e-3, atol=1.0
    )
    blurred = gaussian_1(IMAGES, rng=rng())  # the blur draws nothing: every draw of the bank is this
    drawn = bank.outliers(index[:5], rng=rng(1))
    assert set(((drawn - index[:5]) // 6).unique().tolist()) <= {1, 2}
    torch.testing.assert_close(
        on_bank.log_prob(drawn), flow.log_prob(dequantise(blurred[:5])), rtol=2e-3, atol=1.0
    )


def test_training_on_a_bank_trains_the_flow():
    flow = fast().initialise(dequantise(IMAGES))
    bank = FeatureBank(flow, IMAGES, gaussian_1, 2)
    before = flow.log_prob(dequantise(IMAGES)).mean().item()
    history = train.fit(
        OnBank(flow, bank), bank.indices(), bank.outliers, settings=train.Settings(steps=20, batch_size=4)
    )
    assert flow.log_prob(dequantise(IMAGES)).mean().item() > before
    assert math.isfinite(history.rows[-1]["log_px_out"])


def test_the_same_seed_gives_the_same_weights_and_leaves_global_state_alone():
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    a, b, c = fast(seed=1), fast(seed=1), fast(seed=2)
    assert torch.equal(torch.rand(2), expected)
    key = "flows.0.0.subnet.0.weight"
    assert torch.equal(a.state_dict()[key], b.state_dict()[key])
    assert not torch.equal(a.state_dict()[key], c.state_dict()[key])


def test_published_kernels_follow_the_backbone():
    kernels = lambda f: [b.subnet[0].kernel_size[0] for b in f.flows[0]]  # noqa: E731
    assert kernels(fast_flow(backbones.load("untrained"), 16)) == [3, 1] * 4
    assert kernels(fast_flow(backbones.load("resnet18:untrained"), 32, blocks=2)) == [3, 3]
    flow = cs_flow(backbones.load("untrained_pyramid"), 16, hidden=4)
    assert [c.of_first.same[0].kernel_size[0] for c in flow.couplings] == [3, 3, 3, 5]


def test_maps_that_do_not_fit_cs_flow_are_refused():
    with pytest.raises(ValueError, match="squeezenet_pyramid"):
        cs_flow(backbones.load("untrained"), 16)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(1, 3, 24, 24), ValueError, "16 x 16"),
        (torch.zeros(1, 3, 20, 20), ValueError, "next valid size is 24"),
        (torch.zeros(0, 3, 16, 16), ValueError, "empty batch"),
        (IMAGES, TypeError, "dequantise"),
    ],
)
def test_wrong_inputs_are_refused_by_name(x, error, message):
    with pytest.raises(error, match=message):
        fast().log_prob(x)


def test_nan_is_reported_with_the_image():
    flow = fast()
    with torch.no_grad():
        flow.norms[0].weight[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="6 of 6"):
        image_scores(flow, IMAGES)
