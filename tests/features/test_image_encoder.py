"""Laws of image features: a function of the pixels alone, computed once, of one length, in the order given."""

import numpy as np
import pytest
import torch

from flowood_core.features import images
from flowood_core.features.images import ImageEncoder


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randint(
        0, 256, (7, 3, 40, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def encoder(**how) -> ImageEncoder:
    return ImageEncoder("untrained", **{"size": 32} | how)


def test_vectors_come_in_the_order_of_the_images_whatever_the_batches(x):
    order = torch.tensor([3, 3, 0, 6, 1])
    found = encoder(batch_size=2).encode(x[order])
    np.testing.assert_allclose(found, encoder().encode(x)[order], rtol=1e-5)
    assert found.dtype == np.float32 and found.shape == (5, 36)


def test_what_was_computed_is_not_computed_again(x, monkeypatch):
    first = encoder().encode(x[:5])
    other, seen = encoder(), []
    features = other._features
    monkeypatch.setattr(other, "_features", lambda part: seen.append(len(part)) or features(part))
    np.testing.assert_array_equal(other.encode(x)[:5], first)
    assert seen == [2]
    other.encode(x.flip(0))
    assert seen == [2]


def test_what_a_killed_call_left_is_used(x, monkeypatch):
    monkeypatch.setattr(images, "IMAGES_PER_SHARD", 2)
    one, calls = encoder(batch_size=2), []
    features = one._features

    def killed(part):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(part))
        return features(part)

    monkeypatch.setattr(one, "_features", killed)
    with pytest.raises(KeyboardInterrupt):
        one.encode(x)
    again, seen = encoder(), []
    features = again._features
    monkeypatch.setattr(again, "_features", lambda part: seen.append(len(part)) or features(part))
    again.encode(x)
    assert sum(seen) == len(x) - 4


@pytest.mark.parametrize("other", [{"size": 64}, {"precision": "bfloat16"}])
def test_another_encoder_reads_no_foreign_vectors(x, other):
    found = encoder(**other).encode(x[:2])
    encoder().encode(x[:2])
    np.testing.assert_array_equal(encoder(**other).encode(x[:2]), found)
    assert not np.array_equal(encoder().encode(x[:2]), found)


def test_equal_bytes_of_another_shape_are_another_image(x):
    assert not np.array_equal(encoder().encode(x[:1]), encoder().encode(x[:1].reshape(1, 3, 48, 40)))


def test_a_broken_cache_is_computed_anew(x, outputs):
    first = encoder().encode(x)
    for file in outputs.glob(".cache/*/*.npz"):
        file.write_bytes(b"PK")
    np.testing.assert_array_equal(encoder().encode(x), first)


def test_vectors_have_length_one_and_the_raw_ones_point_the_same_way(x):
    found, raw = encoder().encode(x), encoder(unit=False).encode(x)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-6)
    assert not images.unit(np.zeros((2, 3), np.float32)).any()


def test_a_grey_image_is_one_whose_channels_agree(x):
    grey = x[:, :1]
    np.testing.assert_array_equal(encoder().encode(grey), encoder().encode(grey.expand(-1, 3, -1, -1)))


def test_no_images_give_no_rows(x):
    assert encoder().encode(x[:0]).shape == (0, 36)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 8), TypeError, "uint8"),
        (np.zeros((1, 3, 8, 8), np.uint8), TypeError, "ndarray"),
        (torch.zeros(1, 4, 8, 8, dtype=torch.uint8), ValueError, "one channel or three"),
    ],
)
def test_what_is_no_image_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        encoder().encode(wrong)


@pytest.mark.parametrize("how", [{"precision": "float16"}, {"size": 8}, {"batch_size": 0}])
def test_settings_that_mean_nothing_are_refused(how):
    with pytest.raises(ValueError, match="expected"):
        encoder(**how)
    with pytest.raises(ValueError, match="efficientnet_lite0"):
        ImageEncoder("vgg")


@pytest.mark.parametrize(
    ("name", "d"),
    [
        ("efficientnet_lite0:untrained", 1280),
        ("resnet18:untrained", 512),
        ("efficientnet_b0:untrained", 1280),
    ],
)
def test_every_kind_of_network_gives_the_features_before_its_classifier(name, d, x):
    one = ImageEncoder(name, size=64)
    assert one.d == d == one.encode(x[:1]).shape[1]
    assert "untrained" in one.label and len(one.facts()["sha256_of_weights"]) == 64


def test_the_features_are_those_of_the_network(x):
    from flowood_core.features import efficientnet_lite

    net = efficientnet_lite.untrained("efficientnet_lite0")
    square = torch.nn.functional.interpolate(x.float(), size=(64, 64), mode="bilinear", antialias=True)
    with torch.inference_mode():
        expected = net.pooled((square - 127) / 128).numpy()
    found = ImageEncoder("efficientnet_lite0:untrained", size=64, unit=False).encode(x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
