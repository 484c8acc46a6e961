"""Laws of the high-dimensional sets: original archives to folders, folders to arrays, and nothing silently lost."""

import dataclasses
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from flowood_core.datasets import MissingData, highdim


def png(colour=(10, 20, 30), size=(20, 12), mode="RGB", form="PNG", **options) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, form, **options)
    return out.getvalue()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def archive(root, name, filename, members):
    folder = root / "archives" / name
    folder.mkdir(parents=True, exist_ok=True)
    if filename.endswith(".zip"):
        with zipfile.ZipFile(folder / filename, "w") as f:
            for member, content in members.items():
                f.writestr(member, content)
        return
    with tarfile.open(folder / filename, "w:" + filename.rsplit(".", 1)[1]) as f:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            f.addfile(info, io.BytesIO(content))


def counts(root, name):
    return {
        key: len(list((root / "highdim" / name / place).glob("*.png")))
        for key, place in highdim.PLACES.items()
    }


def test_chest_xray_in_its_original_layout(root):
    kinds = {"train/NORMAL": 3, "train/PNEUMONIA": 2, "test/NORMAL": 2, "test/PNEUMONIA": 1}
    members = {
        f"chest_xray/{kind}/im{i}.jpeg": png(90, mode="L", form="JPEG")
        for kind, n in kinds.items()
        for i in range(n)
    }
    members["__MACOSX/chest_xray/train/NORMAL/._im0.jpeg"] = b"resource fork"
    archive(root, "chest_xray", "ChestXRay2017.zip", members)
    x = highdim.load("chest_xray", "train", 32)
    assert counts(root, "chest_xray") == {"train": 3, "test": 2, "bad": 1}
    assert x.x.shape == (3, 3, 32, 32) and x.x.dtype.is_floating_point is False
    assert len(highdim.load("chest_xray_bad", "test", 32)) == 1
    assert Image.open(next((root / "highdim/chest_xray/test/bad").iterdir())).size == (256, 256)


def test_realblur_in_its_original_layout_keeps_scenes_apart(root):
    members = {}
    for n in range(1, 21):
        for kind in ("gt", "blur"):
            for version in (
                "RealBlur-J_ECC_IMCORR_centroid_itensity_ref",
                "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref",
            ):
                members[f"{version}/scene{n:03}/{kind}/{kind}_1.png"] = png()
    archive(root, "realblur", "RealBlur.tar.gz", members)
    highdim.prepare("realblur")
    places = {
        p: {f.name.split("_")[0] for f in (root / "highdim/realblur" / place).glob("*.png")}
        for p, place in highdim.PLACES.items()
    }
    assert places["test"] == places["bad"] and not places["train"] & places["test"]
    assert len(places["train"] | places["test"]) == 20 and places["test"]


def test_koniq_is_split_by_its_score(root):
    names = [f"{n}.jpg" for n in range(30)]
    table = "image_name,MOS,MOS_zscore\n" + "".join(
        f'"{n}",3,{60.0 if i < 10 else 60.1}\n' for i, n in enumerate(names)
    )
    archive(
        root,
        "koniq10k",
        "koniq10k_scores_and_distributions.zip",
        {"koniq10k_scores_and_distributions.csv": table.encode()},
    )
    archive(root, "koniq10k", "koniq10k_512x384.zip", {f"512x384/{n}": png(form="JPEG") for n in names})
    highdim.prepare("koniq10k")
    found = counts(root, "koniq10k")
    assert found["bad"] == 10 and found["train"] + found["test"] == 20 and found["test"]


def test_koniq_without_its_column_is_refused(root):
    archive(
        root, "koniq10k", "koniq10k_scores_and_distributions.zip", {"s.csv": b"image_name,MOS\na.jpg,3\n"}
    )
    archive(root, "koniq10k", "koniq10k_512x384.zip", {"512x384/a.jpg": png(form="JPEG")})
    with pytest.raises(MissingData, match="MOS_zscore"):
        highdim.load("koniq10k", "train")


def test_mvtec_makes_fifteen_sets_once_its_hash_is_right(root, monkeypatch):
    members = {}
    for c in highdim.MVTEC:
        for place in ("train/good", "test/good", "test/scratch", "ground_truth/scratch"):
            members[f"{c}/{place}/000.png"] = png()
    archive(root, "mvtec", "mvtec_anomaly_detection.tar.xz", members)
    with pytest.raises(MissingData, match="FLOWOOD_OFFLINE"):  # set aside: the hash is another
        highdim.load("mvtec_bottle", "train", 32)
    assert (root / "archives/mvtec/mvtec_anomaly_detection.tar.xz.refused").is_file()
    entry = highdim.SETS["mvtec"]
    bare = dataclasses.replace(entry.files[0], sha256=None)
    monkeypatch.setitem(highdim.SETS, "mvtec", dataclasses.replace(entry, files=(bare,)))
    archive(root, "mvtec", "mvtec_anomaly_detection.tar.xz", members)
    assert len(highdim.load("mvtec_zipper_bad", "test", 32)) == 1
    assert all(counts(root, f"mvtec_{c}") == {"train": 1, "test": 1, "bad": 1} for c in highdim.MVTEC)


@pytest.mark.parametrize("broken", ["cut", "empty"])
def test_a_broken_archive_leaves_nothing(root, broken):
    archive(root, "chest_xray", "ChestXRay2017.zip", {"chest_xray/train/NORMAL/a.jpeg": png(form="JPEG")})
    if broken == "cut":
        path = root / "archives/chest_xray/ChestXRay2017.zip"
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(MissingData, match=r"cut short|expected pictures"):
        highdim.load("chest_xray", "train")
    assert not (root / "highdim" / "chest_xray").exists()


def folder(root, files, place="train/good", name="mine"):
    target = root / "highdim" / name / place
    target.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (target / file).write_bytes(content)


def deep_png(brightest):
    values = np.full((16, 16), 800, np.uint16)
    values[0, 0] = brightest
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


def test_one_grey_level_is_one_value_in_every_part_of_a_set(root):
    for place, brightest in (("train/good", 3000), ("test/good", 2000), ("test/bad", 900)):
        folder(root, {"a.png": deep_png(brightest)}, place)
    parts = [
        highdim.load("mine", "train", 16),
        highdim.load("mine", "test", 16),
        highdim.load("mine_bad", "test", 16),
    ]
    assert {part.x[0, 0, 8, 8].item() for part in parts} == {round(800 * 255 / 4095)}
    folder(root, {"b.png": deep_png(60_000)}, "test/bad")  # the range of the set grows, and no cache hides it
    again = highdim.load("mine", "train", 16)
    assert again.x[0, 0, 8, 8].item() == round(800 * 255 / 65535)


def test_every_kind_of_picture_becomes_rgb(root):
    deep = io.BytesIO()
    Image.fromarray(np.full((16, 16), 65535 // 2, np.uint16)).save(deep, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left half must end up on top
    turned = np.zeros((16, 16, 3), np.uint8)
    turned[:, :8] = 200
    buffer = io.BytesIO()
    Image.fromarray(turned).save(buffer, "PNG", exif=exif)
    folder(root, {
        "a_grey.png": png(70, mode="L"), "b_deep.png": deep.getvalue(),
        "c_cmyk.jpg": png((0, 255, 255, 0), mode="CMYK", form="JPEG"),
        "d_palette.gif": png(0, mode="P", form="GIF"), "e_turned.png": buffer.getvalue(),
        "f_alpha.png": png((255, 0, 0, 0), mode="RGBA"),
    })  # fmt: skip
    x = highdim.load("mine", "train", 16)
    assert not x.skipped and x.x.shape == (6, 3, 16, 16)
    grey, deep, cmyk, _, turned, alpha = x.x
    assert (grey == 70).all() and (deep == 127).all()
    assert cmyk[0].min() > 200 and cmyk[1].max() < 60
    assert (turned[:, :8] == 200).all() and (turned[:, 8:] == 0).all()
    assert (alpha == 0).all()


def test_what_is_no_picture_is_left_out_and_named(root):
    folder(
        root,
        {
            "good.png": png(),
            "cut.png": png(size=(64, 64))[:60],
            "tiny.png": png(size=(3, 3)),
            "notes.txt": b"hello",
        },
    )
    for _ in range(2):  # read, then from the cache
        x = highdim.load("mine", "train", 16)
        assert len(x) == 1
        assert [s.split(":")[0] for s in x.skipped] == ["cut.png", "notes.txt", "tiny.png"]
        assert x.facts()["skipped"] == list(x.skipped) and str(root) not in str(x.facts())


def test_a_changed_folder_is_read_anew(root):
    folder(root, {"a.png": png()})
    assert len(highdim.load("mine", "train", 16)) == 1
    folder(root, {"b.png": png((200, 0, 0))})
    assert len(highdim.load("mine", "train", 16)) == 2


def test_missing_sets_and_empty_folders_are_explained(root):
    with pytest.raises(MissingData, match=r"(?s)'mvtec_bottle'.*What to do"):
        highdim.load("mvtec_bottle", "train")
    with pytest.raises(MissingData, match="no set of the registry"):
        highdim.load("strange", "train")
    folder(root, {"notes.txt": b"x"})
    with pytest.raises(MissingData, match="train/good, test/good and test/bad"):
        highdim.load("mine", "train")
    with pytest.raises(ValueError, match="never trained on"):
        highdim.load("mine_bad", "train")


def test_embedded_sets_serve_the_quick_profile():
    assert highdim.load("photo", "test", 32).x.shape[1:] == (3, 32, 32)
    with pytest.raises(ValueError, match="size 32"):
        highdim.load("photo", "test", 64)


def test_the_printed_fingerprints_are_read_from_table_8():
    assert (highdim.expected("chest_xray").mean, highdim.expected("chest_xray_bad").sd) == (3.40, 0.29)
    assert highdim.expected("chest_xray_full_bad") == highdim.expected("chest_xray_bad")
    assert highdim.expected("magnetic_tile") is None
