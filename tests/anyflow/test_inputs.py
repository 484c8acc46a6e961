"""Laws of what people have: folders, arrays, data sets, texts."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from flowood_core import datasets
from flowood_core.anyflow import inputs


def write(folder, name, size=(50, 40), mode="RGB", colour=None, seed=0):
    rng = np.random.default_rng(seed)
    bands = len(Image.new(mode, (1, 1)).getbands())
    a = rng.integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    picture = Image.new(mode, size, colour) if colour is not None else Image.fromarray(a.squeeze(), mode=None)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def test_a_folder_of_any_size_and_mode_becomes_one_shape(tmp_path):
    for k, (mode, size) in enumerate(
        [("RGB", (50, 40)), ("L", (32, 32)), ("RGBA", (20, 90)), ("LA", (33, 31))]
    ):
        write(tmp_path, f"sub{k}/a.png", size, mode, seed=k)
    Image.new("P", (64, 64), 3).save(tmp_path / "palette.gif")
    Image.fromarray(np.full((40, 40), 65535, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "notes.txt").write_text("no image")
    folder = inputs.Folder(tmp_path, size=32)
    parts = list(folder.batches(4))
    assert [tuple(p.shape) for p in parts] == [(4, 3, 32, 32), (2, 3, 32, 32)]
    assert all(p.dtype == torch.uint8 for p in parts) and not folder.unreadable
    assert (parts[0][0] == 255).all(), "16 bits are brought to 8 by their range"
    assert "cropped in the middle to 32x32 RGB" in folder.how


def test_an_image_of_the_right_size_keeps_its_bytes(tmp_path):
    path = write(tmp_path, "a.png", (32, 32))
    kept = inputs.Folder(tmp_path, size=32).tensor()[0]
    assert (kept.permute(1, 2, 0).numpy() == np.asarray(Image.open(path))).all()


def test_transparency_is_put_on_black_and_said(tmp_path):
    Image.new("RGBA", (32, 32), (255, 255, 255, 0)).save(tmp_path / "a.png")
    folder = inputs.Folder(tmp_path)
    assert (folder.tensor() == 0).all() and "transparency laid on black" in folder.how


@pytest.mark.parametrize("fit", inputs.FITS)
def test_every_fit_gives_the_size_asked_for(tmp_path, fit):
    write(tmp_path, "a.png", (90, 20))
    assert inputs.Folder(tmp_path, size=(24, 16), mode="L", fit=fit).tensor().shape == (1, 1, 24, 16)


def test_unreadable_files_are_listed_and_stop_nothing(tmp_path):
    write(tmp_path, "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    whole = write(tmp_path, "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    folder = inputs.Folder(tmp_path)
    with pytest.warns(UserWarning, match="2 of 3 files could not be read"):
        names = [n for part, _ in folder.named_batches() for n in part]
    assert names == ["good.png"]
    assert set(folder.unreadable) == {"broken.jpg", "cut.png"}
    assert str(tmp_path) not in str(folder.unreadable)
    assert "could not be read: 2" in folder.how


def test_a_folder_without_images_or_none_at_all_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected image files"):
        inputs.Folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        inputs.Folder(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="images that can be read"):
        inputs.Folder(tmp_path).tensor()


def test_memory_does_not_grow_with_the_folder(tmp_path):
    one = write(tmp_path, "0.png", (64, 64)).read_bytes()

    def peak(n):
        for k in range(n):
            (tmp_path / f"{k}.png").write_bytes(one)
        folder = inputs.Folder(tmp_path, size=64)
        tracemalloc.start()
        for part in folder.batches(16):
            assert len(part)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    small, large = peak(40), peak(400)
    assert large < 1.5 * small + 100_000  # ten times the files; the whole would be 4.9 MB


CASES = {
    "channels last": (np.zeros((5, 32, 32, 3), np.uint8), (5, 3, 32, 32), torch.uint8),
    "channels first": (np.zeros((5, 3, 8, 8), np.uint8), (5, 3, 8, 8), torch.uint8),
    "no channels": (np.zeros((5, 8, 8), np.uint8), (5, 1, 8, 8), torch.uint8),
    "float64 rows": (np.zeros((5, 4)), (5, 4), torch.float64),
    "float32 rows": (np.zeros((5, 4), np.float32), (5, 4), torch.float32),
    "whole numbers": (np.zeros((5, 4), int), (5, 4), torch.float64),
    "tensor": (torch.zeros(5, 4), (5, 4), torch.float32),
    "frame": (pd.DataFrame({"a": [1.0, 2], "b": [3, 4]}), (2, 2), torch.float64),
    "list of rows": ([[1.0, 2.0], [3.0, 4.0]], (2, 2), torch.float64),
    "torch data set": (
        torch.utils.data.TensorDataset(torch.zeros(5, 4), torch.zeros(5)),
        (5, 4),
        torch.float32,
    ),
    "list of pictures": ([Image.new("RGB", (8, 8))] * 3, (3, 3, 8, 8), torch.uint8),
}


@pytest.mark.parametrize("case", CASES)
def test_everything_people_have_becomes_one_tensor(case):
    data, shape, dtype = CASES[case]
    x = inputs.to_tensor(data)
    assert tuple(x.shape) == shape and x.dtype == dtype


def test_an_image_set_and_a_loader_are_read_too():
    digits = datasets.load("digits", "test")
    assert torch.equal(
        inputs.to_tensor(digits, limit=7), digits.x[np.linspace(0, len(digits) - 1, 7).astype(int)]
    )
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.ones(5, 4), torch.ones(5)), batch_size=2
    )
    assert inputs.to_tensor(loader).shape == (5, 4)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (np.array([[1.0, np.nan], [1, 2], [np.inf, 3]]), ValueError, "2 of 3 rows .first: number 0"),
        (np.array([["a", "b"]]), TypeError, "expected numbers"),
        (np.zeros((0, 4)), ValueError, "at least one sample"),
        (np.zeros((4, 32, 32, 4), np.uint8), ValueError, "1 or 3 channels"),
        (["some", "texts"], TypeError, "expected an encoder"),
        ([torch.zeros(2), torch.zeros(3)], ValueError, "samples of one shape"),
        (3, TypeError, "an array, a tensor, a folder"),
    ],
)
def test_what_makes_no_sense_is_refused(data, error, words):
    with pytest.raises(error, match=words):
        inputs.to_tensor(data)


class Encoder:
    """Duck-typed: text lengths."""

    def encode(self, texts):
        return np.array([[len(t), t.count(" ")] for t in texts])


def test_texts_and_a_csv_column_go_through_any_encoder(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,review\n1,"good, really"\n2,\n3,bad\n', encoding="utf-8")
    with pytest.warns(UserWarning, match="1 of 3 cells of 'review' are empty"):
        texts = inputs.csv_column(path, "review")
    assert texts == ["good, really", "bad"]
    assert inputs.to_tensor(texts, encoder=Encoder()).tolist() == [[12, 1], [3, 0]]
    with pytest.raises(KeyError, match="id, review"):
        inputs.csv_column(path, "text")
    with pytest.raises(TypeError, match=r"expected an encoder with encode\(texts\)"):
        inputs.embed(texts, object())


def test_too_few_or_equal_samples_are_refused():
    with pytest.raises(ValueError, match="at least 20 samples as ID data, got 3"):
        inputs.check_samples(torch.randn(3, 2))
    with pytest.raises(ValueError, match="30 times the same"):
        inputs.check_samples(torch.ones(30, 2))


def test_duplicates_are_counted_to_the_byte():
    x = datasets.load("digits", "train").x
    assert inputs.count_duplicates(x[:50], x[40:60]) == 10
    assert inputs.count_duplicates(x[:5], x[:5, :, ::2]) == 0


@pytest.mark.parametrize(("mode", "fit"), [("RGB", "crop"), ("L", "pad"), ("RGB", "stretch")])
def test_one_picture_comes_out_as_from_a_folder(tmp_path, mode, fit):
    path = write(tmp_path, "a.png", (50, 40), "RGBA")
    (expected,) = inputs.Folder(tmp_path, size=(16, 24), mode=mode, fit=fit).tensor()
    for source in (path, path.read_bytes(), memoryview(path.read_bytes())):
        assert torch.equal(inputs.picture(source, size=(16, 24), mode=mode, fit=fit), expected)
    assert inputs.picture(expected) is expected


def test_a_picture_that_is_none_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Pillow can read, got notes\.txt"):
        inputs.picture(b"no picture", name="notes.txt")


def test_one_picture_and_a_file_of_an_array_are_told_what_to_do(tmp_path):
    with pytest.raises(TypeError, match=r"got Image; for one picture give a list"):
        inputs.to_tensor(Image.new("RGB", (8, 8)), name="X")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"x\.npy; open it with numpy\.load"):
        inputs.to_tensor(str(tmp_path / "x.npy"), name="X")
