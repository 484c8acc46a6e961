"""Laws of the images: bytes as stored, splits that share no pixel, errors that say what to do."""

import dataclasses
import hashlib
import io
import itertools
import pickle
import zipfile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from flowood_core import datasets
from flowood_core.complexity import image_complexity
from flowood_core.datasets import (
    ImageSet,
    MissingData,
    digest,
    embedded,
    load,
    load_prepared,
    mixed_pool,
    sets,
)
from flowood_core.datasets.embedded import CROPS_BPD

SPLITS = ("train", "test")
each_set = pytest.mark.parametrize("name", datasets.EMBEDDED)
each_split = pytest.mark.parametrize("split", SPLITS)


def image_set(n: int = 10, seed: int = 0, name: str = "toy", shape: tuple[int, ...] = (3, 4, 4)) -> ImageSet:
    rng = torch.Generator().manual_seed(seed)
    return ImageSet(name, "train", torch.randint(256, (n, *shape), generator=rng, dtype=torch.uint8), "noise")


def hashes(x: torch.Tensor) -> list[str]:
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in x]


# --- embedded sets ---------------------------------------------------------------------------------------


@each_set
@each_split
def test_embedded_images_are_32_by_32_bytes_that_vary(name, split):
    s = load(name, split)
    assert (s.name, s.split, s.source) == (name, split, datasets.EMBEDDED[name])
    assert s.x.dtype == torch.uint8 and s.x.shape == (len(s), 3, 32, 32) and s.x.is_contiguous()
    assert len(s) >= 100 and s.label == datasets.LABELS[name]
    assert s.x.float().flatten(1).std(1).median() > 1
    assert len(set(hashes(s.x))) > 0.95 * len(s), "many images occur twice"


@each_set
def test_train_and_test_share_no_image(name):
    assert not set(hashes(embedded(name, "train").x)) & set(hashes(embedded(name, "test").x))


@pytest.mark.parametrize("name", sorted(set(datasets.EMBEDDED) - {"smooth", "aliased"}))  # made as photo is
def test_an_embedded_set_is_the_same_each_time_it_is_made(name):
    made_anew = embedded.__wrapped__(name, "test")
    assert made_anew is not embedded(name, "test")
    assert made_anew.facts() == embedded(name, "test").facts()


@pytest.mark.parametrize(
    "simple, complex_",
    [("smooth", "photo"), ("digits", "photo"), ("enlarged", "photo"), ("photo", "aliased")],
)
def test_sets_are_ordered_by_complexity_as_the_papers_are(simple, complex_):
    low, high = (image_complexity(embedded(name, "test").x[:150]).mean() for name in (simple, complex_))
    assert low < high - 0.5  # bits per dimension; CIFAR-10 and SVHN are 1.7 apart


def found_in(picture: np.ndarray, crop: np.ndarray) -> tuple[int, int] | None:
    """Row and column at which a crop (h, w, 3) lies in a picture, by search."""
    h, w = crop.shape[:2]
    corner = (picture[: 1 - h, : 1 - w] == crop[0, 0]).all(-1)
    for row, column in np.argwhere(corner):
        if np.array_equal(picture[row : row + h, column : column + w], crop):
            return int(row), int(column)
    return None


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return [np.asarray(picture) for picture in load_sample_images().images]


def places(photographs, name: str, split: str, n: int) -> list[tuple[int, int, int]]:
    """Picture, row and column of the first n crops of a set in the photographs."""
    step = 2 if name == "aliased" else 1  # naive subsampling, in four phases
    phases = list(itertools.product(range(step), repeat=2))
    found = []
    for crop in embedded(name, split).x[:n].permute(0, 2, 3, 1).numpy():
        for k, picture in enumerate(photographs):
            at = [found_in(picture[i::step, j::step], crop) for i, j in phases]
            found += [(k, *place) for place in at if place is not None]
    return found


@pytest.mark.parametrize("name", CROPS_BPD)
def test_crops_are_real_pixels_and_those_of_test_are_in_no_training_crop(name, photographs):
    n = 10
    train, test = (places(photographs, name, split, n) for split in SPLITS)
    assert len(train) >= n and len(test) >= n, "a crop is nowhere in the photographs"
    for (k, row, column), (k_test, row_test, column_test) in itertools.product(train, test):
        assert k != k_test or abs(row - row_test) >= 32 or abs(column - column_test) >= 32


def test_digits_are_scikit_learns_enlarged():
    x = torch.cat([embedded("digits", split).x for split in SPLITS])
    assert len(x) == len(load_digits().images) and (x[:, 0] == x[:, 1]).all() and (x[:, 0] == x[:, 2]).all()
    shrunk = torch.nn.functional.avg_pool2d(x[:, :1].float(), 4)[:, 0].numpy() * 16 / 255
    assert np.corrcoef(shrunk.ravel(), load_digits().images.ravel())[0, 1] > 0.95


# --- prepared files --------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty root of prepared data."""
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path))
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_prepared_file_is_read_with_channels_first(root, save, channels):
    x = np.random.default_rng(0).integers(256, size=(7, 5, 6, channels), dtype=np.uint8)
    save(root / "svhn_test.npz", x=x, y=np.arange(7))
    s = load("svhn", "test")
    assert (s.name, s.split, s.label) == ("svhn", "test", "SVHN") and "svhn_test.npz" in s.source
    assert s.x.dtype == torch.uint8 and s.x.shape == (7, channels, 5, 6) and s.x.is_contiguous()
    for i, row, column, c in np.ndindex(x.shape):
        assert s.x[i, c, row, column] == x[i, row, column, c]


def test_embedded_names_need_no_file(root):
    assert len(load("digits", "test")) > 0


def test_missing_data_names_what_there_is_and_three_ways_out(root):
    np.savez(root / "svhn_train.npz", x=np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(MissingData) as caught:
        load("cifar10", "test")
    message = str(caught.value)
    assert str(root / "cifar10_test.npz") in message
    assert all(name in message for name in datasets.EMBEDDED) and "svhn_train" in message
    assert all(f"  {k}. " in message for k in (1, 2, 3)) and "  4. " not in message
    assert "FLOWOOD_DATA" in message and "numpy.savez" in message and "profile=quick" in message
    assert isinstance(caught.value, FileNotFoundError)


def test_missing_data_is_told_where_there_is_no_folder_either(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(MissingData, match="prepared sets found here: none"):
        load_prepared("cifar10", "train")


def test_a_name_that_is_not_embedded_lists_those_that_are():
    with pytest.raises(MissingData, match=r"photo.*digits.*got 'cifar10'"):
        embedded("cifar10", "test")


@pytest.mark.parametrize("name", ["photo", "cifar10"])
@pytest.mark.parametrize("split", ["val", "", "Train"])
def test_splits_are_train_and_test(name, split):
    with pytest.raises(ValueError, match="expected split 'train' or 'test'"):
        load(name, split)


def stored(save=np.savez, **arrays) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(256, size=(50, 8, 8, 3), dtype=np.uint8)
GOOD, SMALL = stored(x=NOISE), stored(np.savez_compressed, x=NOISE)
BAD_FILES = {
    "cut short": (GOOD[: len(GOOD) // 2], "truncated"),
    "cut by a byte": (GOOD[:-1], "truncated"),
    "flipped bytes": (SMALL[:2000] + bytes(200) + SMALL[2200:], "truncated"),
    "empty": (b"", "truncated"),
    "text": (b"<html>404 not found</html>", "truncated"),
    "no x": (stored(images=NOISE), "array 'x'"),
    "a bare array": (npy(NOISE), "array 'x'"),
    "an array cut short": (zipped("x.npy", npy(NOISE)[:500]), "truncated"),
    "objects": (stored(x=np.array([[1], [2, 3]], dtype=object)), "allow_pickle=False"),
    "a pickle": (pickle.dumps({"x": NOISE}), "truncated"),
    "floats": (stored(x=NOISE / 255), r"uint8 \(n, h, w, c\) with c 1 or 3 and n > 0, got float64"),
    "integers": (stored(x=NOISE.astype(int)), "got int64"),
    "channels first": (stored(x=NOISE.transpose(0, 3, 1, 2)), r"got uint8 \(50, 3, 8, 8\)"),
    "no channels": (stored(x=NOISE[..., 0]), r"got uint8 \(50, 8, 8\)"),
    "alpha": (stored(x=NOISE[..., [0, 1, 2, 0]]), r"got uint8 \(50, 8, 8, 4\)"),
    "none": (stored(x=NOISE[:0]), r"got uint8 \(0, 8, 8, 3\)"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_used_is_named_and_why(root, case):
    content, why = BAD_FILES[case]
    (root / "cifar10_train.npz").write_bytes(content)
    with pytest.raises(ValueError, match=why) as caught:
        load("cifar10", "train")
    assert "cifar10_train.npz" in str(caught.value)


# --- subsets, pools, facts -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 7, 30])
def test_drawn_images_are_seeded_and_without_replacement(n):
    s = image_set(30)
    drawn = s.drawn(n, 3)
    assert len(drawn) == n and len(set(hashes(drawn.x))) == n
    assert set(hashes(drawn.x)) <= set(hashes(s.x))
    assert torch.equal(drawn.x, s.drawn(n, 3).x)
    assert (drawn.name, drawn.split, drawn.source) == (s.name, s.split, s.source)
    if n == 7:
        assert not torch.equal(drawn.x, s.drawn(n, 4).x) and not torch.equal(drawn.x, s.x[:7])
        assert torch.equal(drawn.x, s.drawn(20, 3).x[:7]), "a smaller draw begins like a larger one"


@pytest.mark.parametrize("n", [None, 30, 99])
def test_all_images_are_taken_where_too_many_or_none_are_asked_for(n):
    s = image_set(30)
    assert torch.equal(s.drawn(n, 3).x, s.x) and torch.equal(s.first(n).x, s.x)


def test_the_first_images_are_the_first():
    assert torch.equal(image_set(30).first(4).x, image_set(30).x[:4])


@pytest.mark.parametrize("n, shares", [(9, [3, 3, 3]), (10, [4, 3, 3]), (11, [4, 4, 3]), (2, [1, 1, 0])])
def test_a_pool_has_equal_shares_without_repetition(n, shares):
    sets = [image_set(20, seed=k, name=f"set {k}") for k in range(3)]
    pool = mixed_pool(sets, n, seed=5)
    assert pool.dtype == torch.uint8 and pool.shape == (n, 3, 4, 4)
    found = set(hashes(pool))
    assert len(found) == n
    assert [len(found & set(hashes(s.x))) for s in sets] == shares
    assert torch.equal(pool, mixed_pool(sets, n, seed=5))
    if n > 3:
        assert not torch.equal(pool, mixed_pool(sets, n, seed=6))


def test_a_pool_leaves_no_set_short():
    assert len(mixed_pool([image_set(5, seed=0), image_set(5, seed=1)], 10)) == 10
    with pytest.raises(ValueError, match="at least 6 images of short/train"):
        mixed_pool([image_set(9), image_set(5, name="short")], 12)
    with pytest.raises(ValueError, match="at least one set"):
        mixed_pool([], 4)


def test_facts_say_what_a_run_saw():
    s = image_set(6)
    assert s.facts() == {
        "name": "toy",
        "split": "train",
        "n": 6,
        "shape": [3, 4, 4],
        "source": "noise",
        "sha256": digest(s.x),
    }


def test_the_digest_changes_with_any_byte_and_with_the_shape():
    x = image_set(3).x
    seen = {digest(x), digest(x.view(3, 4, 3, 4)), digest(x[:2]), digest(x.to(torch.int8))}
    for place in ((0, 0, 0, 0), (1, 2, 3, 0), (2, 2, 3, 3)):
        other = x.clone()
        other[place] += 1
        seen.add(digest(other))
    assert len(seen) == 7
    assert digest(x) == digest(x.clone()) == digest(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))


def test_remembered_complexity_is_what_would_be_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    x = datasets.load("digits", "test").x[:5]
    first = datasets.complexity_of(x)
    (remembered,) = (tmp_path / ".cache").glob("*.npy")
    monkeypatch.setattr(sets, "image_complexity", lambda _: pytest.fail("measured again"))
    assert torch.equal(datasets.complexity_of(x), first)
    monkeypatch.undo()
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    remembered.write_bytes(remembered.read_bytes()[:40])  # a torn cache file is measured anew
    assert torch.equal(datasets.complexity_of(x), first)
    assert len(datasets.complexity_of(255 - x)) == 5 and len(list((tmp_path / ".cache").glob("*.npy"))) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "file"))
    assert len(datasets.complexity_of(datasets.load("digits", "test").x[:2])) == 2


def test_pictures_of_identifiable_people_are_never_shown():
    shown = datasets.load("digits", "test")
    assert torch.equal(shown.pictures, shown.x)
    faces = dataclasses.replace(shown, name="faces_rmfd")
    with pytest.raises(PermissionError, match="never shown"):
        _ = faces.pictures
