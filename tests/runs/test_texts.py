"""Laws of text runs: the same loop, folder and resume as images; old ids stay; wrong combinations are refused."""

import json

import numpy as np
import pytest
import torch

from flowood_core import runs
from flowood_core.datasets import corpora
from flowood_core.flow import densities
from flowood_core.runs import Pixels, Texts, machine, text_features

pytest.importorskip("nltk", reason="texts need the extra [text]")

SMALL = {
    "id": "stdlib_docs", "ood": ("help_pages", "licences"), "encoder": "tfidf:8", "synonyms": "none", "blocks": 2,
    "hidden": 8, "n_train": 80, "n_test": 40, "epochs": 4, "batch_size": 16, "data_init": True, "profile": "smoke",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("outputs")


def test_ids_of_image_runs_are_those_before_there_were_texts():
    assert Pixels(id="photo", method="ccm_gaussian").run_id == "photo-ccm_gaussian-s0-16e73793"
    spec = Pixels(profile="sample", id="cifar10", method="mle", seed=1, n_train=12000, squeeze=1)
    assert spec.run_id == "cifar10-mle-s1-fbdfa04d"
    assert Texts(**SMALL, method="mle").run_id != Texts(**SMALL | {"max_words": 10}, method="mle").run_id


@pytest.mark.parametrize("fields", [{"method": "text"}, {"method": "ccm", "encoder": "tfidf"}])
def test_texts_and_images_do_not_mix(fields):
    with pytest.raises(ValueError, match="method"):
        runs.read({"id": "photo", **fields})


@pytest.mark.parametrize(
    ("method", "kinds"), [("mle", ("text",)), ("text", ("text",)), ("text", tuple(text_features.KINDS))]
)
def test_a_text_run_leaves_what_an_image_run_leaves(method, kinds):
    run = runs.run_or_load(Texts(**SMALL, method=method, kinds=kinds))
    for name in ("spec.json", "metrics.json", "history.csv", "model.safetensors", "scores.npz"):
        assert (run.folder / name).stat().st_size > 0
    assert set(run.metrics["ood"]) == {"help_pages", "licences"}
    assert set(run.metrics["ood"]["licences"]) == {"pz", "px"}  # features have no complexity
    assert set(run.arrays) == {"stdlib_docs", "help_pages", "licences", "train", "synthetic"}
    assert len(run.scores("licences")["px"]) == 40 == len(run.arrays["licences"]["n_tokens"])
    assert run.metrics["outliers"]["kinds"] == list(kinds) and run.metrics["encoder"]["d"] == 8
    assert run.metrics["text_complexity"].keys() == {"stdlib_docs", "help_pages", "licences"}
    assert set(run.metrics["test_texts_seen_in_training"].values()) == {0}
    data = run.spec.data()
    log_px = densities(run.flow(), data.encode(data.test["licences"].corpus.texts))[1]
    assert np.allclose(log_px, run.arrays["licences"]["log_px"], rtol=1e-5)
    assert runs.run_or_load(run.spec, train_missing=False).metrics == run.metrics


def test_a_text_run_that_breaks_off_continues_to_the_same_bits(tmp_path, monkeypatch):
    spec = Texts(**SMALL, method="text", kinds=("text", "mixup"))
    whole = runs.run_or_load(spec)
    weights = (whole.folder / "model.safetensors").read_bytes()
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "again"))
    monkeypatch.setattr(machine, "CHECKPOINT_EVERY_S", 0.0)
    save, calls = runs.RunFolder.save_checkpoint, []

    def breaks(*args):
        save(*args)
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs.RunFolder, "save_checkpoint", breaks)
    with pytest.raises(KeyboardInterrupt):
        runs.run_or_load(spec)
    assert not (spec.folder / "metrics.json").exists()
    again = runs.run_or_load(spec)
    assert len(calls) < 7 + 20 and (again.folder / "model.safetensors").read_bytes() == weights
    assert json.loads((again.folder / "spec.json").read_text())["encoder"] == "tfidf:8"


def test_outliers_are_of_their_kind_and_seeded():
    fields = {"id": "stdlib_docs", "method": "text", "encoder": "tfidf:8", "synonyms": "none"}
    data = Texts(
        **fields, ood=("licences",), n_train=60, n_test=20, kinds=("text", "sentence", "joined")
    ).data()
    x = data.train.x
    partner = x.roll(1, 0)

    def make(kinds, seed=0):
        return data.outliers(kinds)(x, partner, rng=torch.Generator().manual_seed(seed))

    for kind in ("text", "sentence", "joined"):
        assert all((data.pools[kind] == row).all(1).any() for row in make((kind,)))
    mixed = make(("mixup",))
    assert (mixed >= torch.minimum(x, partner) - 1e-5).all() and (
        mixed <= torch.maximum(x, partner) + 1e-5
    ).all()
    cut = make(("cutmix",))
    assert ((cut == x) | (cut == partner)).all()
    every = tuple(text_features.KINDS)
    assert torch.equal(make(every), make(every)) and not torch.equal(make(every), make(every, 1))
    assert torch.allclose(x.mean(0), torch.zeros(8), atol=1e-4) and torch.allclose(
        x.std(0, correction=0), torch.ones(8), atol=1e-3
    )
    assert len(data.pools["text"]) == len(corpora.load("stdlib_docs", "train").drawn(60, 0))
    with pytest.raises(ValueError, match=r"kinds of outliers out of text, .*got words"):
        Texts(**fields, kinds=("words",)).data()
