"""Laws of the registry and of the fingerprint: published facts, and no stand-in accepted."""

import dataclasses
import io
import re

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageFilter

from flowood_core import datasets
from flowood_core.complexity import image_complexity
from flowood_core.datasets import embedded, fingerprint, readers, registry
from flowood_core.datasets.fingerprint import check
from flowood_core.datasets.registry import SETS, expected
from flowood_core.system import paths

each_set = pytest.mark.parametrize("name", SETS)


def test_the_six_sets_of_the_paper_are_there():
    assert list(SETS) == ["cifar10", "cifar100", "svhn", "lsun", "isun", "celeba"]
    assert all(datasets.LABELS[name] for name in SETS)
    assert not set(SETS) & set(datasets.EMBEDDED)


@each_set
def test_an_entry_is_complete(name):
    entry = SETS[name]
    assert entry.name == name and entry.licence and entry.citation and entry.reader in readers.READERS
    assert set(entry.counts) == {"train", "test"} and expected(name) is not None
    names = [file.filename for file in entry.files]
    assert len(names) == len(set(names)) > 0
    for file in entry.files:
        assert file.urls and len(set(file.urls)) == len(file.urls)
        assert all(re.fullmatch(r"https?://[^/\s]+/\S+", url) for url in file.urls)
        assert file.md5 is None or re.fullmatch("[0-9a-f]{32}", file.md5)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.md5 or file.sha256, "nothing to hold the file to"


def test_hashes_are_those_of_torchvision():
    sets = torchvision.datasets
    assert SETS["cifar10"].files[0].md5 == sets.CIFAR10.tgz_md5
    assert SETS["cifar100"].files[0].md5 == sets.CIFAR100.tgz_md5
    assert {f.filename: f.md5 for f in SETS["svhn"].files} == {
        filename: md5 for _, filename, md5 in (sets.SVHN.split_list[split] for split in ("train", "test"))
    }
    celeba = {filename: (number, md5) for number, md5, filename in sets.CelebA.file_list}
    for file in SETS["celeba"].files:
        number, md5 = celeba[file.filename]
        assert file.md5 == md5 and f"id={number}&" in file.urls[0]


def test_the_printed_fingerprints_are_read_from_table_7(monkeypatch, tmp_path):
    assert (expected("cifar10").mean, expected("cifar10").sd) == (6.74, 0.66)
    assert (expected("isun", blurred=True).mean, expected("lsun", blurred=True)) == (5.43, None)
    folder = tmp_path / "data" / "paper"
    folder.mkdir(parents=True)
    (folder / "table_7.csv").write_text("set,mean,sd\ncifar10,1.5,0.25\n")
    monkeypatch.setenv("FLOWOOD_ROOT", str(tmp_path))
    assert expected("cifar10") == registry.Expected(1.5, 0.25) and expected("cifar100") is None
    with pytest.raises(ValueError, match=r"cifar10, .*celeba.*got 'mnist'"):
        expected("mnist")


def test_the_page_of_the_data_shows_the_registry():
    page = (paths.repo_root() / "data" / "README.md").read_text(encoding="utf-8")
    assert registry.markdown_table() in page, "put the output of registry.markdown_table() there"
    for entry in SETS.values():
        assert all(file.filename in page for file in entry.files) and entry.licence in page


# --- the fingerprint -------------------------------------------------------------------------------------


@pytest.fixture
def printed(monkeypatch, tmp_path):
    """Sets what Table 7 prints: printed(cifar10=(mean, sd), ...)."""
    folder = tmp_path / "data" / "paper"
    folder.mkdir(parents=True)
    monkeypatch.setenv("FLOWOOD_ROOT", str(tmp_path))

    def write(**rows: tuple[float, float]) -> None:
        lines = [f"{name},{mean},{sd}\n" for name, (mean, sd) in rows.items()]
        (folder / "table_7.csv").write_text("set,mean,sd\n" + "".join(lines))

    return write


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return embedded("photo", "train").drawn(220, 0).x


def moments(x: torch.Tensor) -> tuple[float, float]:
    """An independent measurement."""
    bpd = np.asarray(image_complexity(x))
    return float(bpd.mean()), float(bpd.std())


def test_a_fingerprint_is_mean_and_sd_of_a_seeded_draw(photos):
    got = fingerprint.fingerprint(photos)
    assert (got.mean, got.sd) == pytest.approx(moments(photos)) and got.n == 220 and got.blurred_mean is None
    drawn = fingerprint.fingerprint(photos, n=50, seed=3)
    assert (
        drawn
        == fingerprint.fingerprint(photos, n=50, seed=3)
        != fingerprint.fingerprint(photos, n=50, seed=4)
    )
    soft = fingerprint.fingerprint(photos[:20], blurred=True)
    blurred = np.stack([pillow_blur(image) for image in photos[:20]])
    assert (soft.blurred_mean, soft.blurred_sd) == pytest.approx(moments(torch.from_numpy(blurred)))


def pillow_blur(image: torch.Tensor) -> np.ndarray:
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(1))
    return np.asarray(picture).transpose(2, 0, 1)


def test_the_right_images_are_accepted_and_the_tolerance_is_three_standard_errors_and_a_bit(printed, photos):
    mean, sd = moments(photos)
    printed(svhn=(mean, sd))
    verdict = check("svhn", photos)
    assert verdict.accepted and verdict.distance < 1e-6
    assert verdict.tolerance == pytest.approx(3 * sd / 220**0.5 + 0.05)
    assert all(f"{value:.3f}" in verdict.sentence for value in (mean, sd)) and "accepted" in verdict.sentence


@pytest.mark.parametrize("off, accepted", [(0.9, True), (-0.9, True), (1.1, False), (-1.1, False)])
def test_a_mean_outside_the_tolerance_is_refused(printed, photos, off, accepted):
    mean, sd = moments(photos)
    printed(svhn=(mean + off * (3 * sd / 220**0.5 + 0.05), sd))
    verdict = check("svhn", photos)
    assert verdict.accepted == accepted and verdict.distance == pytest.approx(abs(off))
    assert ("accepted" if accepted else "refused") in verdict.sentence


@pytest.mark.parametrize("factor, accepted", [(1.1, True), (1 / 1.1, True), (1.2, False), (1 / 1.2, False)])
def test_another_spread_is_refused_where_the_mean_agrees(printed, photos, factor, accepted):
    mean, sd = moments(photos)
    printed(svhn=(mean, sd * factor))
    assert check("svhn", photos).accepted == accepted


def test_blurred_images_are_judged_where_the_paper_prints_them(printed, photos):
    got = fingerprint.fingerprint(photos, blurred=True)
    plain, soft = (got.mean, got.sd), (got.blurred_mean, got.blurred_sd)
    printed(svhn=plain, svhn_blurred=soft)
    assert check("svhn", photos).accepted
    printed(svhn=plain, svhn_blurred=(soft[0] + 0.5, soft[1]))
    refused = check("svhn", photos)
    assert not refused.accepted and "blurred" in refused.sentence


def test_few_images_and_unprinted_sets_are_never_accepted(printed, photos):
    printed(svhn=moments(photos[:100]))
    assert not check("svhn", photos[:100]).accepted and "too few" in check("svhn", photos[:100]).sentence
    verdict = check("cifar10", photos)
    assert not verdict.accepted and verdict.expected is None and "prints none" in verdict.sentence


def treated(x: torch.Tensor, how) -> torch.Tensor:
    images = [how(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in x]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


TREATMENTS = {
    "a JPEG copy": jpeg,
    "made small and large again": lambda image: image.resize((24, 24)).resize((32, 32)),
    "enlarged": lambda image: image.crop((4, 4, 28, 28)).resize((32, 32), Image.Resampling.BICUBIC),
    "enhanced": lambda image: Image.blend(image, Image.new("RGB", (32, 32)), 0.5),
}


@pytest.mark.parametrize("how", TREATMENTS)
def test_the_same_pictures_treated_otherwise_are_refused(printed, photos, how):
    printed(svhn=moments(photos))
    assert check("svhn", photos).accepted
    assert not check("svhn", treated(photos, TREATMENTS[how])).accepted


REAL = [  # a prepared file, the set it is taken for, the verdict
    ("cifar10_test", "cifar10", True),
    ("cifar100_test", "cifar100", True),
    ("isun_test", "isun", True),
    ("svhn_test", "svhn", True),
    ("scenes_tinyimagenet_test", "lsun", False),
    ("faces_rmfd_test", "celeba", False),
    ("faces_rmfd_test", "cifar10", False),
    ("svhn_test", "cifar10", False),
    ("cifar10_test", "isun", False),
]


@pytest.mark.parametrize("file, name, accepted", REAL)
def test_real_sets_are_accepted_and_stand_ins_refused(file, name, accepted):
    """On the data that is here: point FLOWOOD_DATA at it."""
    try:
        x = datasets.load_prepared(*file.rsplit("_", 1)).x
    except datasets.MissingData:
        pytest.skip(f"no {file}.npz below the data root")
    verdict = check(name, x)
    assert verdict.accepted == accepted, verdict.sentence


def test_an_entry_without_a_hash_or_a_size_says_so(monkeypatch):
    entry = SETS["isun"]
    bare = dataclasses.replace(entry.files[0], md5=None, size=None)
    monkeypatch.setitem(SETS, "isun", dataclasses.replace(entry, files=(bare,)))
    (row,) = (line for line in registry.markdown_table().splitlines() if line.startswith("| `isun`"))
    assert "none published" in row and "not known" in row
