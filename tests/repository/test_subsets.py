"""The listings name the images of the committed runs, and the images can be found again by them."""

import numpy as np
import pytest
import torch

from flowood_core import datasets
from flowood_core.system import paths
from workflow.publish import subsets

LISTINGS = sorted((paths.repo_root() / "outputs" / "sample" / "subsets").glob("*.csv.gz"))


def some(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, 4, 4), dtype=np.uint8))


def test_images_are_found_again_among_others_and_in_order():
    x = some(30)
    wanted = x[[7, 3, 21, 3]]
    found = subsets.rebuild(x[torch.randperm(30)], subsets.fingerprints(wanted))
    assert datasets.digest(found) == datasets.digest(wanted)


def test_images_that_are_not_there_are_counted():
    x = some(30)
    with pytest.raises(ValueError, match="2 are not"):
        subsets.rebuild(x[:10], subsets.fingerprints(x[8:12]))


@pytest.mark.parametrize("path", LISTINGS, ids=lambda p: p.name)
def test_a_listing_has_the_images_that_the_runs_recorded(path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    name, _, split = path.name.removesuffix(".csv.gz").rpartition("_")
    sha256, run = subsets.recorded()[name, split]
    found = subsets.read(path)
    sizes = {d["n"] for d in run.metrics["data"] if (d["name"], d["split"]) == (name, split)}
    assert len(found) in sizes and found["fingerprint"].str.fullmatch("[0-9a-f]{16}").all()
    assert sha256 in (path.parent / "README.md").read_text("utf-8")
    try:
        whole = datasets.load(name, split).x
    except datasets.MissingData:
        return  # the listing was checked where the images were
    assert datasets.digest(subsets.rebuild(whole, list(found["fingerprint"]))) == sha256


def test_there_is_a_listing_of_every_set_of_the_benchmark():
    assert {p.name.removesuffix(".csv.gz") for p in LISTINGS} >= {
        f"{name}_{split}" for name in ("cifar10", "cifar100", "isun") for split in ("train", "test")
    } | {"svhn_test"}
