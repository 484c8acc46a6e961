"""Outliers for fitting pair different images, and what is not here is said in one way."""

from types import SimpleNamespace

import pytest
import torch

from flowood_core import datasets
from flowood_core.datasets import ImageSet, highdim
from flowood_core.outliers import image
from flowood_core.runs import evaluate
from flowood_core.runs.images import Images, fitting_images
from flowood_core.runs.texts import Texts


@pytest.mark.parametrize("n_test", [None, 60, 50])
def test_no_image_is_its_own_partner_however_few_there_are(n_test):
    x = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Images(ImageSet("a", "train", x, ""), {}, [])
    made = fitting_images(SimpleNamespace(n_test=n_test, seed=0), data, image.mixup)
    same = (made["synthetic"] == made["train"]).flatten(1).all(1)
    assert same.float().mean() < 0.1


def test_a_corpus_that_is_still_not_here_is_no_error_when_a_finished_run_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    spec = Texts(
        id="stdlib_docs", method="mle", encoder="tfidf:8", synonyms="none", ood=("help_pages", "imdb"),
        n_train=60, n_test=20, profile="nosuch",
    )  # fmt: skip
    assert spec.data().absent == ["imdb"]
    with pytest.raises(datasets.MissingData, match="imdb"):
        spec.test_set("imdb")
    assert evaluate._arrived(spec, "imdb") is None


def test_an_embedded_set_has_no_ood_part():
    with pytest.raises(datasets.MissingData, match="'photo' has no OOD part"):
        highdim.load("photo_bad", "test", 32)
