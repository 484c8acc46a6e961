"""Laws of C: the encoders agree, nothing is lost, and simple images and texts cost less."""

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from flowood_core import complexity
from flowood_core.complexity import codec_versions, image_complexity, jpeg2000_bytes, text_complexity

SHAPES = [(3, 32, 32), (1, 32, 32), (3, 28, 28), (1, 8, 8), (3, 20, 48), (3, 64, 33), (3, 1, 40), (1, 1, 1)]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def constant(value: int, *shape: int) -> np.ndarray:
    return np.full(shape, value, dtype=np.uint8)


def to_pixels(image: np.ndarray) -> np.ndarray:
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """48 crops, 3 x 32 x 32, of the two photographs that scikit-learn carries."""
    from sklearn.datasets import load_sample_image

    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)
    corners = [
        (rng.integers(photo.shape[0] - 32), rng.integers(photo.shape[1] - 32)) for photo in photos * 24
    ]
    cut = [photo[i : i + 32, j : j + 32] for photo, (i, j) in zip(photos * 24, corners, strict=True)]
    return np.stack(cut).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def glymur():
    """Skips only where glymur is not installed; an installed glymur must find its library."""
    pytest.importorskip("glymur")
    if sys.platform == "win32":
        pytest.skip("Pillow's wheel for Windows carries no separate OpenJPEG")
    return complexity._import_glymur()


# --- two encoders, one number ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("container", [True, False])
def test_glymur_writes_the_bytes_that_pillow_writes(glymur, shape, container):
    ours, check = (
        jpeg2000_bytes(noise(*shape), container=container, encoder=e) for e in ("pillow", "glymur")
    )
    assert len(ours) == len(check)
    if (
        glymur.version.openjpeg_version == codec_versions()["openjpeg"]
    ):  # the file names its encoder's version
        assert ours == check


@pytest.mark.parametrize("part", complexity.PARTS)
def test_glymur_agrees_on_photographs(glymur, crops, part):
    assert torch.equal(
        image_complexity(crops, part=part), image_complexity(crops, part=part, encoder="glymur")
    )


@pytest.mark.parametrize("image", [noise(3, 32, 32), noise(1, 28, 28), constant(7, 3, 20, 48)])
def test_options_spelled_out_are_pillows_defaults(image):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(to_pixels(image))).save(buffer, "JPEG2000")
    assert jpeg2000_bytes(image) == buffer.getvalue()


def test_glymur_leaves_the_environment_as_it_was(monkeypatch):
    for value in ("somewhere", None):
        if value is None:
            monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CONFIG_HOME", value)
        before = dict(os.environ)
        with complexity._glymurrc(Path("100%") / "libopenjp2.so"):
            assert (Path(os.environ["XDG_CONFIG_HOME"]) / "glymur" / "glymurrc").exists()
        assert dict(os.environ) == before


def test_missing_openjpeg_names_three_ways_out(monkeypatch):
    without = SimpleNamespace(
        version=SimpleNamespace(openjpeg_version="0.0.0", openjpeg_version_tuple=(0, 0, 0))
    )
    complexity._import_glymur.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(complexity, "_glymur_or_explain", lambda: without)
        patch.setattr(complexity, "_pillow_openjpeg", lambda: None)
        with pytest.raises(RuntimeError, match=r"got none.*encoder='pillow'.*install.*glymurrc"):
            image_complexity(noise(1, 3, 8, 8), encoder="glymur")
    complexity._import_glymur.cache_clear()


def test_missing_glymur_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "glymur", None)  # makes `import glymur` fail
    with pytest.raises(ImportError, match=r"pip install glymur packaging.*encoder='pillow'"):
        complexity._glymur_or_explain()


# --- what C measures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("container", [True, False])
def test_encoding_is_lossless(shape, container):
    image = noise(*shape)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg2000_bytes(image, container=container))))
    assert np.array_equal(decoded, to_pixels(image))


def test_photographs_decode_to_themselves(crops):
    for image in crops[:8]:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(jpeg2000_bytes(image)))), to_pixels(image))


def test_complexity_is_bits_of_the_file_per_dimension(crops):
    C = image_complexity(crops)
    assert C.dtype == torch.float64 and C.shape == (len(crops),)
    assert C.tolist() == [8 * len(jpeg2000_bytes(image)) / (3 * 32 * 32) for image in crops]


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_cost_the_header(value):
    C = image_complexity(constant(value, 1, 3, 32, 32)).item()
    assert C == 253 * 8 / 3072 == pytest.approx(0.659, abs=5e-4)


def test_every_featureless_grey_costs_within_nine_bytes_of_black():
    C = image_complexity(np.stack([constant(value, 3, 32, 32) for value in range(256)]))
    n_bytes = (C * 3072 / 8).round()
    assert n_bytes.argmin() == 128 and n_bytes.min() == 244 and n_bytes.max() == 259


def test_noise_costs_more_than_the_bits_it_is_stored_in():
    C = image_complexity(noise(32, 3, 32, 32))
    assert C.mean().item() == pytest.approx(9.96, abs=0.02)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (3, 28, 28), (1, 64, 96)])
def test_container_is_85_bytes_more_than_codestream(shape):
    x = np.stack([noise(*shape), constant(128, *shape), constant(9, *shape)])
    container, codestream = (image_complexity(x, part=part) for part in ("container", "codestream"))
    n_bytes = (container - codestream) * np.prod(shape) / 8
    torch.testing.assert_close(n_bytes, torch.full_like(n_bytes, 85.0))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 64, 64)])
def test_payload_counts_from_black(shape):
    x = np.stack([constant(0, *shape), noise(*shape)])
    container, payload = (image_complexity(x, part=part) for part in ("container", "payload"))
    torch.testing.assert_close(payload, container - container[0])
    assert payload[0] == 0


def test_payload_at_32_is_253_bytes_less(crops):
    difference = image_complexity(crops) - image_complexity(crops, part="payload")
    torch.testing.assert_close(difference, torch.full_like(difference, 253 * 8 / 3072))


def test_blur_lowers_complexity(crops):
    def blurred(radius: float) -> np.ndarray:
        pictures = [Image.fromarray(to_pixels(x)).filter(ImageFilter.GaussianBlur(radius)) for x in crops]
        return np.stack([np.asarray(picture) for picture in pictures]).transpose(0, 3, 1, 2)

    means = [image_complexity(x).mean().item() for x in (crops, blurred(1), blurred(2), blurred(4))]
    assert means == sorted(means, reverse=True) and means[0] - means[1] > 0.5


def test_permuting_the_batch_permutes_the_values(crops):
    order = np.random.default_rng(1).permutation(len(crops))
    assert torch.equal(image_complexity(crops[order]), image_complexity(crops)[order])


def test_grey_as_rgb_costs_about_the_same_per_dimension():
    grey = image_complexity(noise(8, 1, 64, 64)).mean()
    rgb = image_complexity(np.repeat(noise(8, 1, 64, 64), 3, axis=1)).mean()
    assert (
        abs(grey - rgb) < 0.4
    )  # the header is shared by three channels; no colour transform finds them equal


def test_torch_numpy_and_strided_views_agree(crops):
    C = image_complexity(crops)
    assert torch.equal(C, image_complexity(torch.from_numpy(crops.copy())))
    channel_last = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 2, 3, 1)))
    assert torch.equal(C, image_complexity(channel_last.permute(0, 3, 1, 2)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_every_small_size_is_encoded_without_loss(h, w, c, seed):
    image = noise(c, h, w, seed=seed)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg2000_bytes(image))))
    assert np.array_equal(decoded, to_pixels(image))
    assert image_complexity(image[None]).item() == 8 * len(jpeg2000_bytes(image)) / image.size


# --- workers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", complexity.PARTS)
def test_parallel_equals_serial(crops, part):
    assert torch.equal(image_complexity(crops, part=part), image_complexity(crops, part=part, workers=2))


def test_all_workers_and_a_bar_change_nothing(crops, capsys):
    assert torch.equal(image_complexity(crops[:5]), image_complexity(crops[:5], workers="all", progress=True))
    assert "5/5" in capsys.readouterr().err


def test_importing_the_room_does_not_import_torch():
    code = "import sys, flowood_core.complexity; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x, error, message",
    [
        (
            torch.zeros(1, 3, 8, 8),
            TypeError,
            "uint8.*got torch.float32.*normalised image is another quantity",
        ),
        (np.zeros((1, 3, 8, 8)), TypeError, "uint8.*got float64"),
        ([[1]], TypeError, "got list"),
        (noise(3, 8, 8), ValueError, r"\(b, c, h, w\), got \(3, 8, 8\).*x\[None\]"),
        (noise(8, 8), ValueError, r"got \(8, 8\)"),
        (noise(2, 8, 8, 3), ValueError, r"c = 1 or 3.*permute\(0, 3, 1, 2\)"),
        (noise(2, 4, 8, 8), ValueError, r"c = 1 or 3, got \(2, 4, 8, 8\)$"),
        (noise(0, 3, 8, 8), ValueError, "at least one image"),
        (noise(2, 3, 0, 8), ValueError, "at least one pixel"),
    ],
)
def test_wrong_images_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        image_complexity(x)


@pytest.mark.parametrize("image", [noise(1, 3, 8, 8), noise(8, 8), [[1]]])
def test_one_image_is_one_image(image):
    with pytest.raises(ValueError, match=r"one image shaped \(c, h, w\)"):
        jpeg2000_bytes(image)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"part": "header"}, "'container', 'codestream', 'payload', got 'header'"),
        ({"encoder": "opencv"}, "'pillow', 'glymur', got 'opencv'"),
        ({"workers": 0}, "1 or more, or 'all', got 0"),
        ({"workers": "many"}, "1 or more, or 'all', got 'many'"),
        ({"workers": 1.5}, "1 or more, or 'all', got 1.5"),
    ],
)
def test_unknown_options_are_refused_with_the_valid_ones(options, message):
    with pytest.raises(ValueError, match=message):
        image_complexity(noise(1, 3, 8, 8), **options)


def test_versions_are_recorded():
    versions = codec_versions()
    assert versions["mct"] is False and versions["container"] == "jp2" and versions["lossless"] is True
    assert versions["openjpeg"] and versions["pillow"] and versions["zlib"]


# --- text ------------------------------------------------------------------------------------------------

SENTENCES = [
    "The plot is a puzzle that the film never means to solve.",
    "Nobody in this story listens, and it shows in every scene.",
    "A quiet, patient work; its last ten minutes are the finest of the year.",
]


def test_text_complexity_is_gzip_bits_per_utf8_byte():
    for texts in (SENTENCES, ["naïve café"], ["", "a"]):
        corpus = " ".join(texts).encode("utf-8")
        assert text_complexity(texts) == 8 * len(gzip.compress(corpus, 9, mtime=0)) / len(corpus)


def test_gzip_member_of_the_corpus_gives_it_back():
    corpus = " ".join(SENTENCES).encode()
    assert gzip.decompress(gzip.compress(corpus, 9, mtime=0)) == corpus


def test_text_complexity_does_not_depend_on_how_the_corpus_is_cut():
    words = " ".join(SENTENCES).split(" ")
    assert text_complexity(SENTENCES) == text_complexity(words) == text_complexity([" ".join(words)])
    assert text_complexity(iter(SENTENCES)) == text_complexity(tuple(SENTENCES))


def test_text_complexity_is_the_same_every_time(monkeypatch):
    first = text_complexity(SENTENCES)
    monkeypatch.setattr("time.time", lambda: 2e9)  # gzip would write the hour into its header
    assert text_complexity(SENTENCES) == first


def test_repetition_is_simple_and_noise_is_not():
    letters = "".join(chr(c) for c in np.random.default_rng(0).integers(32, 127, 20_000))
    repeated = text_complexity(SENTENCES * 200)
    assert repeated < 0.2 < text_complexity(SENTENCES) < 8
    assert text_complexity([letters]) == pytest.approx(np.log2(95), abs=0.2)  # its entropy per byte


@pytest.mark.parametrize("joiner", ["", " ", "\n\n"])
def test_joiner_is_part_of_the_corpus(joiner):
    assert text_complexity(SENTENCES, joiner=joiner) == text_complexity([joiner.join(SENTENCES)])


@pytest.mark.parametrize(
    "texts, options, error, message",
    [
        ("a bare string", {}, TypeError, r"list of texts, got one str; .*\[text\]"),
        (b"bytes", {}, TypeError, "list of texts, got one bytes"),
        (["fine", 3], {}, TypeError, "got int at position 1"),
        ([b"bytes"], {}, TypeError, "got bytes at position 0"),
        ([], {}, ValueError, "at least one text.*got 0 texts"),
        (["", ""], {"joiner": ""}, ValueError, "got 2 texts of 0 bytes"),
        (["fine"], {"level": 0}, ValueError, "from 1 to 9, got 0"),
    ],
)
def test_wrong_texts_are_refused(texts, options, error, message):
    with pytest.raises(error, match=message):
        text_complexity(texts, **options)
