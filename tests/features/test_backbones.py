"""Laws of the backbones: frozen, deterministic, honest about their weights, and clear about what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowood_core.features import backbones
from flowood_core.features.backbones import FIRE, SQUEEZENET_FILE, BackboneError
from flowood_core.flow import dequantise


def squeezenet_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {"conv1.weight": rng.normal(0, 0.01, (96, 3, 7, 7)), "conv1.bias": rng.normal(0, 0.1, 96)}
    for n, (c, s, e) in FIRE.items():
        for part, shape in (
            ("squeeze", (s, c, 1, 1)),
            ("expand1x1", (e, s, 1, 1)),
            ("expand3x3", (e, s, 3, 3)),
        ):
            arrays[f"fire{n}.{part}.weight"] = rng.normal(0, 0.1, shape)
            arrays[f"fire{n}.{part}.bias"] = rng.normal(0, 0.1, shape[0])
    return {key: a.astype(np.float32) for key, a in arrays.items()}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty models/ below FLOWOOD_DATA, and nothing in torchvision's cache."""
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("untrained", 32, [(8, 16, 16), (12, 8, 8), (16, 4, 4)]),
        ("untrained_pyramid", 32, [(16, 8, 8), (16, 4, 4), (16, 2, 2)]),
        ("resnet18:untrained", 64, [(64, 16, 16), (128, 8, 8), (256, 4, 4)]),
        ("efficientnet_b5:untrained", 128, [(304, 4, 4), (304, 2, 2), (304, 1, 1)]),
    ],
)
def test_maps_have_the_published_shapes_and_the_label_says_untrained(name, size, shapes):
    backbone = backbones.load(name)
    assert backbone.shapes(size) == shapes
    assert "untrained backbone" in backbone.label
    assert not any(p.requires_grad for p in backbone.parameters()) and not backbone.train().training


def test_the_same_name_gives_the_same_features():
    a, b = backbones.load("untrained"), backbones.load("untrained")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert a.sha256 == b.sha256
    assert all(torch.equal(p, q) for p, q in zip(a(x), b(x), strict=True))


def test_a_backbone_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    backbones.load("resnet18:untrained")
    assert torch.equal(torch.rand(3), expected)


def test_squeezenet_is_the_network_of_its_definition(models):
    weights = squeezenet_weights()
    np.savez(models / SQUEEZENET_FILE, **weights)
    w = {key: torch.from_numpy(a) for key, a in weights.items()}
    u8 = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    def conv(x, key, **kw):
        return F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], **kw).relu()

    bgr = u8.float()[:, [2, 1, 0]] - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
    x, wanted = F.max_pool2d(conv(bgr, "conv1", stride=2), 3, 2, ceil_mode=True), {}
    for n in FIRE:
        s = conv(x, f"fire{n}.squeeze")
        x = torch.cat([conv(s, f"fire{n}.expand1x1"), conv(s, f"fire{n}.expand3x3", padding=1)], 1)
        wanted[n] = x
        if n in (4, 8):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    backbone = backbones.load("squeezenet:fire4+fire8+fire9")
    for got, n in zip(backbone(dequantise(u8)), (4, 8, 9), strict=True):
        torch.testing.assert_close(got, wanted[n], rtol=1e-4, atol=1e-2)
    assert "ImageNet-trained" in backbone.label


def test_the_pyramid_of_squeezenet_halves(models):
    np.savez(models / SQUEEZENET_FILE, **squeezenet_weights())
    assert backbones.load("squeezenet_pyramid:fire5").shapes(128) == [(256, 16, 16), (256, 8, 8), (256, 4, 4)]


def test_absent_weights_are_explained_and_never_made_up(models, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    with pytest.raises(BackboneError, match=r"(?s)wide_resnet50_2.*put .*\.pth.*wide_resnet50_2:untrained"):
        backbones.load("wide_resnet50_2")
    with pytest.raises(BackboneError, match="FLOWOOD_DATA"):
        backbones.load("squeezenet")


def test_a_local_file_of_weights_is_used(models, monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    net = resnet18(weights=None)
    torch.save(net.state_dict(), models / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1])
    backbone = backbones.load("resnet18")
    assert torch.equal(backbone.net.stem[0].weight, net.conv1.weight) and "ImageNet-trained" in backbone.label


def test_broken_weights_are_explained(models):
    (models / SQUEEZENET_FILE).write_bytes(b"PK no zip")
    with pytest.raises(BackboneError, match="copy the file again"):
        backbones.load("squeezenet")


@pytest.mark.parametrize("name", ["vgg", "squeezenet:fire1", "squeezenet_pyramid:fire5+fire8", "untrained:x"])
def test_an_unknown_name_or_option_is_refused(name, models):
    with pytest.raises(BackboneError, match="expected"):
        backbones.load(name)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 30, 30), "the next valid size is 32"),
        (torch.zeros(1, 1, 32, 32), "repeat a grey channel"),
        (torch.zeros(1, 3, 32, 40), "square"),
    ],
)
def test_wrong_images_are_refused_by_name(x, message):
    with pytest.raises(ValueError, match=message):
        backbones.load("untrained")(x)


def test_bytes_are_refused():
    with pytest.raises(TypeError, match="dequantise"):
        backbones.load("untrained")(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
