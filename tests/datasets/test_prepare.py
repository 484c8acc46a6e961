"""Laws of the preparation: archives in the authors' formats become the prepared arrays, once, if they are right."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from served import serving

from flowood_core import datasets
from flowood_core.__main__ import main
from flowood_core.complexity import image_complexity
from flowood_core.datasets import MissingData, download, prepare, readers, registry
from flowood_core.datasets.prepare import PrepareError
from flowood_core.system import paths

N_TRAIN, N_TEST = 10, 200


# --- archives in the exact form of the originals ---------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote it: every string is a byte string, numpy is spelled as it was."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        short = len(value) < 256
        self.write((b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value)
        self.memoize(value)

    def save_str(self, value: str) -> None:
        self.save_bytes(value.encode("ascii"))

    dispatch[bytes], dispatch[str] = save_bytes, save_str


def python2_pickle(value) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def tar_gz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        folder = tarfile.TarInfo(next(iter(members)).split("/")[0])
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def batch(x: np.ndarray, y: np.ndarray, key: bytes = b"labels") -> bytes:
    flat = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(len(x), 3072)
    names = [b"picture_%d.png" % k for k in range(len(x))]
    return python2_pickle({b"batch_label": b"batch", key: y.tolist(), b"data": flat, b"filenames": names})


def cifar10_archive(x: dict, y: dict) -> bytes:
    parts = np.array_split(np.arange(len(x["train"])), 5)
    members = {f"data_batch_{k + 1}": batch(x["train"][i], y["train"][i]) for k, i in enumerate(parts)}
    members |= {"test_batch": batch(x["test"], y["test"]), "readme.html": b"<html>"}
    meta = {b"num_cases_per_batch": 2, b"label_names": [b"airplane"], b"num_vis": 3072}
    # not in the order of their numbers: the archive's order must not matter
    members = {"batches.meta": python2_pickle(meta)} | dict(reversed(members.items()))
    return tar_gz({f"cifar-10-batches-py/{name}": content for name, content in members.items()})


def cifar100_archive(x: dict, y: dict) -> bytes:
    members = {split: batch(x[split], y[split], b"fine_labels") for split in ("train", "test")}
    members["meta"] = python2_pickle({b"fine_label_names": [b"apple"], b"coarse_label_names": [b"fruit"]})
    return tar_gz({f"cifar-100-python/{name}": content for name, content in members.items()})


def svhn_file(x: np.ndarray, y: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    digits = np.where(y == 0, 10, y)[:, None].astype(np.uint8)
    savemat(buffer, {"X": x.transpose(1, 2, 3, 0), "y": digits}, do_compression=True)
    return buffer.getvalue()


def picture(x: np.ndarray, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, form, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


# --- a laboratory ----------------------------------------------------------------------------------------


def noise(n: int, seed: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Smooth shapes and a little noise, of varying strength: C of about 4 ± 1."""
    rng = np.random.default_rng(seed)
    x = np.empty((n, *size, 3), np.uint8)
    for image in x:
        small = Image.fromarray(rng.integers(256, size=(6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC), dtype=float)
        image[:] = np.clip(smooth + rng.uniform(1, 12) * rng.normal(size=(*size, 3)), 0, 255)
    return x


X = {"train": noise(N_TRAIN, 0), "test": noise(N_TEST, 1)}
Y = {split: np.random.default_rng(2).integers(10, size=len(x)) for split, x in X.items()}
Y["test"][:3] = 0  # SVHN's label 10 must occur


class Lab:
    """A repository of its own with a server: what Table 7 prints and what the addresses serve is for the test."""

    def __init__(self, root: Path, server, monkeypatch):
        self.root, self.server, self.monkeypatch = root, server, monkeypatch
        self.images, self.archives = root / "data" / "images", root / "data" / "archives"
        self.table = root / "data" / "paper" / "table_7.csv"
        self.table.parent.mkdir(parents=True)

    def print_in_table(self, name: str, x: np.ndarray, shift: float = 0.0) -> None:
        bpd = np.asarray(image_complexity(x.transpose(0, 3, 1, 2)))
        self.table.write_text(f"set,mean,sd\n{name},{bpd.mean() + shift:.5f},{bpd.std():.5f}\n")

    def offer(
        self, name: str, contents: dict[str, bytes], counts=(N_TRAIN, N_TEST), manner="well", md5=True
    ) -> None:
        """Serve a set of the registry under its own file names."""
        files = tuple(
            registry.DataFile(
                file,
                (self.server.put(f"{name}/{file}", content, manner),),
                md5=hashlib.md5(content).hexdigest() if md5 else None,
            )
            for file, content in contents.items()
        )
        entry = dataclasses.replace(
            registry.SETS[name], files=files, counts=dict(zip(("train", "test"), counts, strict=True))
        )
        self.monkeypatch.setitem(registry.SETS, name, entry)

    def record(self, name: str) -> dict:
        return json.loads((self.images / f"{name}.json").read_text())

    def arrays(self, name: str, split: str) -> dict[str, np.ndarray]:
        with np.load(self.images / f"{name}_{split}.npz") as file:
            return {key: file[key] for key in file.files}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    for name in ("FLOWOOD_DATA", "FLOWOOD_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLOWOOD_ROOT", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_S", (0.01,))
    monkeypatch.setattr(download, "STALL_S", 0.3)
    download._unreachable.clear()
    with serving() as server:
        yield Lab(tmp_path, server, monkeypatch)


@pytest.fixture
def cifar10(lab):
    lab.print_in_table("cifar10", X["test"])
    lab.offer("cifar10", {"cifar-10-python.tar.gz": cifar10_archive(X, Y)})
    return lab


# --- formats ---------------------------------------------------------------------------------------------

FORMATS = {
    "cifar10": {"cifar-10-python.tar.gz": cifar10_archive(X, Y)},
    "cifar100": {"cifar-100-python.tar.gz": cifar100_archive(X, Y)},
    "svhn": {f"{split}_32x32.mat": svhn_file(X[split], Y[split]) for split in ("train", "test")},
}


@pytest.mark.parametrize("name", FORMATS)
def test_asking_for_a_set_fetches_and_prepares_it(lab, name):
    lab.print_in_table(name, X["test"])
    lab.offer(name, FORMATS[name])
    for split in ("train", "test"):
        assert torch.equal(datasets.load(name, split).x, torch.from_numpy(X[split]).permute(0, 3, 1, 2))
        stored = lab.arrays(name, split)
        assert set(stored) == {"x", "y"} and (stored["y"] == Y[split]).all()
    assert [lab.server.count(f"{name}/{file}") for file in FORMATS[name]] == [1] * len(FORMATS[name])
    record = lab.record(name)
    assert record["counts"] == {"train": N_TRAIN, "test": N_TEST} and record["accepted"]
    assert [source["file"] for source in record["sources"]] == list(FORMATS[name])
    for source, content in zip(record["sources"], FORMATS[name].values(), strict=True):
        assert source["sha256"] == hashlib.sha256(content).hexdigest() and source["bytes"] == len(content)
    assert record["fingerprint"]["test"]["n"] == N_TEST and "openjpeg" in record["versions"]
    assert record["sha256_of_x"]["test"] == hashlib.sha256(X["test"]).hexdigest()


def odin_archive(folder: str, x: np.ndarray, name: str = "{}.png") -> bytes:
    members = {f"{folder}/{name.format(k)}": picture(image) for k, image in enumerate(x)}
    backwards = dict(sorted(members.items(), reverse=True))
    return tar_gz(
        {f"{folder}/._{name.format(0)}": b"a Mac was here", "other/1.png": members[next(iter(members))]}
        | backwards
    )


def test_isun_is_split_by_a_seeded_draw_in_the_order_of_its_numbers(lab, monkeypatch):
    x = np.concatenate([X["test"], X["train"]])
    monkeypatch.setattr(readers, "N_TEST_DRAWN", N_TEST)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = x[np.sort(order[:N_TEST])], x[np.sort(order[N_TEST:])]
    lab.print_in_table("isun", test)
    lab.offer("isun", {"iSUN.tar.gz": odin_archive("iSUN/iSUN_patches", x)})
    prepare.prepare("isun")
    assert (lab.arrays("isun", "test")["x"] == test).all() and (
        lab.arrays("isun", "train")["x"] == train
    ).all()
    assert "default_rng(0)" in lab.record("isun")["choices"]["split"]


def resized(image: Image.Image, side: int | None, filter_: str | None) -> np.ndarray:
    if side is not None:
        w, h = image.size
        image = image.crop(((w - side) // 2, (h - side) // 2, (w + side) // 2, (h + side) // 2))
    if filter_ is not None:
        image = image.resize((32, 32), getattr(Image.Resampling, filter_))
    return np.asarray(image)


@pytest.mark.parametrize("label, side, filter_", [("centre 32", 32, None), ("box resize", None, "BOX")])
def test_how_lsun_becomes_32_by_32_is_decided_by_the_fingerprint(lab, monkeypatch, label, side, filter_):
    x = noise(N_TEST + N_TRAIN, 5, (40, 36))
    monkeypatch.setattr(readers, "N_TEST_DRAWN", N_TEST)
    ours = np.stack([resized(Image.fromarray(image), side, filter_) for image in x])
    order = np.random.default_rng(0).permutation(len(x))
    lab.print_in_table("lsun", ours[order[:N_TEST]])
    lab.offer("lsun", {"LSUN.tar.gz": odin_archive("LSUN/test", x, "scene_{:04d}.png")})
    prepare.prepare("lsun")
    assert (lab.arrays("lsun", "test")["x"] == ours[np.sort(order[:N_TEST])]).all()
    choices = lab.record("lsun")["choices"]
    assert choices["size"] == label and len(choices["candidates"]) == len(readers.FILTERS) + 1


def test_lsun_that_is_32_by_32_is_taken_as_stored(lab, monkeypatch):
    monkeypatch.setattr(readers, "N_TEST_DRAWN", N_TEST)
    x = np.concatenate([X["test"], X["train"]])
    lab.print_in_table("lsun", x)
    lab.offer("lsun", {"LSUN.tar.gz": odin_archive("LSUN/test", x)})
    prepare.prepare("lsun")
    assert lab.record("lsun")["choices"]["size"] == "as stored"


def celeba_files(pictures: list[bytes], codes: list[int], unsafe: str = "") -> dict[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("img_align_celeba/", b"")
        for k, content in enumerate(pictures):
            file.writestr(f"img_align_celeba/{k + 1:06d}.jpg", content)
        if unsafe:
            file.writestr(unsafe, b"")
    lines = "".join(f"{k + 1:06d}.jpg {code}\n" for k, code in enumerate(codes))
    return {"img_align_celeba.zip": buffer.getvalue(), "list_eval_partition.txt": lines.encode()}


def test_celebas_crop_and_filter_are_decided_by_the_fingerprint_in_the_official_split(lab):
    codes = [0] * N_TRAIN + [1] * 3 + [2] * N_TEST
    pictures = [picture(image, "JPEG", quality=95) for image in noise(len(codes), 6, (218, 178))]
    cut = np.stack([resized(opened(content), 148, "BILINEAR") for content in pictures])
    lab.print_in_table("celeba", cut[-N_TEST:])
    lab.offer("celeba", celeba_files(pictures, codes))
    prepare.prepare("celeba")
    assert (lab.arrays("celeba", "test")["x"] == cut[-N_TEST:]).all()
    assert (lab.arrays("celeba", "train")["x"] == cut[:N_TRAIN]).all()
    choices = lab.record("celeba")["choices"]
    assert choices["size"] == "centre 148, bilinear" and len(choices["candidates"]) == 15


def test_where_no_crop_fits_it_is_refused_before_all_faces_are_read(lab, monkeypatch):
    codes = [0] * N_TRAIN + [2] * N_TEST
    pictures = [picture(image, "JPEG") for image in X["train"][:1]] * len(codes)
    lab.print_in_table("celeba", X["test"], shift=2.0)
    lab.offer("celeba", celeba_files(pictures, codes))
    monkeypatch.setattr(readers, "track", lambda *_: pytest.fail("all were read"))
    monkeypatch.setattr(readers, "FILTERS", ("bilinear",))
    with pytest.raises(
        PrepareError, match=r"(?s)the nearest of: whole 178x218, bilinear: .*--anyway celeba"
    ) as caught:
        prepare.prepare("celeba")
    assert "centre 148" not in str(caught.value), "a face of 32x32 cannot be cropped to 148"
    assert not list(lab.images.glob("*.npz")) and not list((lab.archives / "celeba").glob("*.refused"))


# --- what is refused -------------------------------------------------------------------------------------


class Attack:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("function", [os.mkdir, eval, os.system, getattr, np.load])
def test_a_pickle_that_would_run_something_is_refused_unrun(lab, function):
    trap = lab.root / "trap"
    argument = f"__import__('os').mkdir({str(trap)!r})" if function is eval else str(trap)
    content = pickle.dumps({b"data": Attack(function, argument), b"labels": []}, 2)
    with pytest.raises(PrepareError, match=r"the pickle asks for .* not run"):
        lab.print_in_table("cifar10", X["test"])
        lab.offer(
            "cifar10", {"cifar-10-python.tar.gz": tar_gz({"cifar-10-batches-py/data_batch_1": content})}
        )
        prepare.prepare("cifar10")
    assert not trap.exists() and not list(lab.images.glob("*.npz"))


def cut(content: bytes) -> bytes:
    return content[: int(0.6 * len(content))]


def without_a_batch() -> bytes:
    return tar_gz(
        {f"cifar-10-batches-py/data_batch_{k}": batch(X["train"], Y["train"]) for k in (1, 2, 4, 5)}
    )


BROKEN = {  # set, its files, what is said
    "CIFAR cut": (
        "cifar10",
        {"cifar-10-python.tar.gz": cut(FORMATS["cifar10"]["cifar-10-python.tar.gz"])},
        "cut short",
    ),
    "no archive": ("cifar10", {"cifar-10-python.tar.gz": b"nothing like it"}, "cut short or altered"),
    "a batch too few": (
        "cifar10",
        {"cifar-10-python.tar.gz": without_a_batch()},
        "missing data_batch_3, test_batch",
    ),
    "CIFAR-100 as CIFAR-10": (
        "cifar10",
        {"cifar-10-python.tar.gz": cifar100_archive(X, Y)},
        "missing data_batch_1",
    ),
    "no labels": (
        "cifar100",
        {"cifar-100-python.tar.gz": tar_gz({"cifar-100-python/train": batch(X["train"], Y["train"])})},
        "fine_labels",
    ),
    "SVHN cut": ("svhn", {k: cut(v) for k, v in FORMATS["svhn"].items()}, "expected a Matlab file"),
    "outside": (
        "isun",
        {"iSUN.tar.gz": tar_gz({"iSUN/../../evil.png": b""})},
        r"inside the archive's folder, got",
    ),
    "absolute": ("isun", {"iSUN.tar.gz": tar_gz({"/etc/evil.png": b""})}, "inside the archive's folder"),
    "empty": ("isun", {"iSUN.tar.gz": tar_gz({"iSUN/readme": b""})}, "found none"),
    "larger": ("isun", {"iSUN.tar.gz": odin_archive("iSUN/iSUN_patches", noise(2, 0, (40, 40)))}, "of 32x32"),
    "no picture": (
        "isun",
        {"iSUN.tar.gz": tar_gz({"iSUN/iSUN_patches/1.png": b"?"})},
        "cut short or altered",
    ),
    "CelebA cut": (
        "celeba",
        {k: cut(v) if k.endswith("zip") else v for k, v in celeba_files([b"?"] * 3, [0, 1, 2]).items()},
        "cut short",
    ),
    "a face too few": ("celeba", celeba_files([picture(X["test"][0])], [0, 2]), "no item named"),
    "no partition": ("celeba", celeba_files([], []), "000001.jpg 0"),
    "a zip with a way out": (
        "celeba",
        celeba_files([picture(X["test"][0])] * 2, [0, 2], "../evil"),
        "'../evil'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_or_unsafe_archive_is_explained_and_set_aside(lab, case):
    """Without a hash that would have caught it."""
    name, contents, why = BROKEN[case]
    lab.print_in_table(name, X["test"])
    lab.offer(name, contents, md5=False)
    with pytest.raises(PrepareError, match=why):
        prepare.prepare(name)
    assert not list(lab.images.glob("*.npz")) and not list(lab.images.glob("*.json"))
    assert list((lab.archives / name).glob("*.refused")) and not list(lab.root.rglob("evil*"))


def test_a_link_in_an_archive_is_refused(lab):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("iSUN/iSUN_patches/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    lab.offer("isun", {"iSUN.tar.gz": buffer.getvalue()})
    with pytest.raises(PrepareError, match="got a link or device"):
        prepare.prepare("isun")


def test_a_stand_in_is_refused_unless_one_insists_and_the_record_says_so(cifar10):
    cifar10.print_in_table("cifar10", X["test"], shift=1.0)
    with pytest.raises(MissingData) as caught:
        datasets.load("cifar10", "test")
    assert "refused" in str(caught.value) and "--anyway cifar10" in str(caught.value)
    assert not list(cifar10.images.glob("*.npz")) and not list(cifar10.images.glob("*.json"))
    assert main(["data", "--anyway", "cifar10"]) == 0
    assert not cifar10.record("cifar10")["accepted"] and len(datasets.load("cifar10", "test")) == N_TEST
    assert cifar10.server.count("cifar10/cifar-10-python.tar.gz") == 1, "the archive is still there"


def test_another_number_of_images_is_refused(lab):
    lab.print_in_table("svhn", X["test"])
    lab.offer("svhn", FORMATS["svhn"], counts=(N_TRAIN, N_TEST + 1))
    with pytest.raises(PrepareError, match=r"expected .*'test': 201.* images, got .*'test': 200"):
        prepare.prepare("svhn")


# --- exactly once, and where -----------------------------------------------------------------------------


def test_two_at_once_fetch_and_prepare_once(cifar10, monkeypatch):
    written = []
    write = prepare._write
    monkeypatch.setattr(
        prepare, "_write", lambda path, split: (written.append(path.name), write(path, split))
    )
    threads = [threading.Thread(target=prepare.prepare, args=("cifar10",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert written == ["cifar10_train.npz", "cifar10_test.npz"]
    assert cifar10.server.count("cifar10/cifar-10-python.tar.gz") == 1


def test_a_preparation_cut_short_is_completed_without_a_second_download(cifar10, monkeypatch):
    write = prepare._write

    def dies_at_the_second(path, split):
        if "test" in path.name:
            raise KeyboardInterrupt
        write(path, split)

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "_write", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare("cifar10")
    assert prepare.state("cifar10", paths.data_root()) == "interrupted"
    assert len(datasets.load("cifar10", "test")) == N_TEST
    assert prepare.state("cifar10", paths.data_root()) == "prepared"
    assert cifar10.server.count("cifar10/cifar-10-python.tar.gz") == 1


def test_what_was_supplied_by_hand_is_neither_replaced_nor_completed(cifar10):
    cifar10.images.mkdir()
    np.savez(cifar10.images / "cifar10_test.npz", x=X["train"])
    assert len(datasets.load("cifar10", "test")) == N_TRAIN
    with pytest.raises(MissingData, match=r"got cifar10_test.npz alone.*could share images"):
        datasets.load("cifar10", "train")
    np.savez(cifar10.images / "cifar10_train.npz", x=X["test"])
    assert prepare.prepare("cifar10") == cifar10.images and len(datasets.load("cifar10", "train")) == N_TEST
    assert cifar10.server.asked == [] and not list(cifar10.images.glob("*.json"))


def test_a_read_only_root_is_read_and_the_download_goes_to_the_repository(cifar10, monkeypatch, tmp_path):
    common = tmp_path / "common"
    (common / "images").mkdir(parents=True)
    np.savez(common / "images" / "svhn_test.npz", x=X["train"])
    common.chmod(0o555)
    monkeypatch.setenv("FLOWOOD_DATA", str(common))
    try:
        assert paths.data_roots() == (common, cifar10.root / "data")
        assert (
            len(datasets.load("svhn", "test")) == N_TRAIN and len(datasets.load("cifar10", "test")) == N_TEST
        )
        assert (cifar10.images / "cifar10_test.npz").is_file()
        assert [p.name for p in (common / "images").iterdir()] == ["svhn_test.npz"]
        with pytest.raises(MissingData, match="the data root is read-only"):
            datasets.load("mnist", "test")
    finally:
        common.chmod(0o755)


def test_a_writable_root_is_the_only_one(lab, monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path / "not yet" / "there"))
    assert paths.data_roots() == (tmp_path / "not yet" / "there",)


# --- when nothing can be fetched -------------------------------------------------------------------------


def test_missing_data_tells_paths_addresses_reasons_and_ways_out(lab):
    lab.offer("svhn", FORMATS["svhn"], manner="404")
    with pytest.raises(MissingData) as caught:
        datasets.load("svhn", "test")
    message = str(caught.value)
    address = registry.SETS["svhn"].files[0].urls[0]
    assert str(lab.images / "svhn_test.npz") in message and f"{address}: the server answers 404" in message
    assert f"put train_32x32.mat, test_32x32.mat into {lab.archives / 'svhn'}" in message
    assert all(f"  {k}. " in message for k in (1, 2, 3)) and "numpy.savez" in message


def test_offline_only_what_is_here_is_prepared(cifar10, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    with pytest.raises(MissingData, match="FLOWOOD_OFFLINE forbids"):
        datasets.load("cifar10", "test")
    by_hand = cifar10.archives / "cifar10" / "cifar-10-python.tar.gz"
    by_hand.write_bytes(cifar10_archive(X, Y))
    registered = registry.SETS["cifar10"].files[0]
    if hashlib.md5(by_hand.read_bytes()).hexdigest() != registered.md5:  # gzip writes the time
        by_hand.write_bytes(cifar10.server.files["cifar10/cifar-10-python.tar.gz"][0])
    assert len(datasets.load("cifar10", "test")) == N_TEST and cifar10.server.asked == []
    assert cifar10.record("cifar10")["sources"][0]["from"] == "file supplied in the archive folder"


def test_loading_prepared_files_fetches_nothing(cifar10):
    with pytest.raises(MissingData):
        datasets.load_prepared("cifar10", "test")
    assert cifar10.server.asked == []


def test_our_hash_holds_a_file_that_has_no_published_one(lab):
    lab.print_in_table("svhn", X["test"])
    lab.offer("svhn", FORMATS["svhn"], md5=False)
    prepare.prepare("svhn")
    for path in (lab.images / "svhn_test.npz", *(lab.archives / "svhn").glob("*.mat")):
        path.unlink()
    other = svhn_file(X["test"], (Y["test"] + 1) % 10)
    lab.server.put("svhn/test_32x32.mat", other)
    ours = hashlib.sha256(FORMATS["svhn"]["test_32x32.mat"]).hexdigest()
    with pytest.raises(PrepareError, match=f"expected sha256 {ours}"):
        prepare.prepare("svhn")


# --- command line ----------------------------------------------------------------------------------------


def test_the_command_prepares_lists_and_fails_with_words(cifar10, capsys):
    assert main(["data", "cifar10"]) == 0 == main(["data"])
    out = capsys.readouterr().out
    assert f"cifar10: ready in {cifar10.images}" in out
    assert f"train {N_TRAIN}, test {N_TEST}" in out and "prepared" in out and "accepted" in out
    assert all(name in out for name in registry.SETS) and "missing" in out and "licence" in out
    cifar10.offer("isun", {"iSUN.tar.gz": b"gone"}, manner="404")
    assert main(["data", "isun"]) == 1 and "answers 404" in capsys.readouterr().err
    assert main(["data", "mnist"]) == 2
    err = capsys.readouterr().err
    assert (
        all(name in err for name in ("cifar10, cifar100", "koniq10k", "movie_reviews")) and "got mnist" in err
    )


def test_the_list_measures_what_was_supplied_by_hand(lab, capsys):
    lab.print_in_table("svhn", X["test"], shift=1.0)
    lab.images.mkdir()
    np.savez(lab.images / "svhn_test.npz", x=X["test"])
    assert main(["data"]) == 0
    out = capsys.readouterr().out
    assert "half supplied" in out and f"test {N_TEST}" in out and "over 200 images: refused" in out
