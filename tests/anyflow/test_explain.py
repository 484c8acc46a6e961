"""Laws of explaining a picture: the detector's own numbers, and where they stand among those of ID."""

import numpy as np
import pandas as pd
import pytest

from flowood_core import Detector, datasets, metrics
from flowood_core.anyflow import explaining
from flowood_core.complexity import image_complexity


@pytest.fixture(scope="module")
def detector():
    small = {"mle_steps": 20, "steps": 20, "blocks": 2, "hidden": 8}
    return Detector(**small).fit(datasets.load("photo", "train").x[:120])


def test_the_numbers_are_those_of_detector_and_complexity(detector):
    held = datasets.load("photo", "test").x[:40]
    pictures = {"ID": held[0], "digit": datasets.load("digits", "test").x[0]}
    id_scores = detector.ood_score(held)
    rows = detector.explain(pictures, id_scores)
    assert list(rows.index) == ["ID", "digit"]
    x = np.stack([p.numpy() for p in pictures.values()])
    assert np.allclose(rows.ood_score, detector.ood_score(x)) and np.allclose(
        rows.complexity, image_complexity(x)
    )
    assert list(rows.verdict == "OOD") == list(detector.predict(x) == -1)
    assert (rows.gamma == detector.threshold_.gamma).all()


def test_beyond_id_is_the_share_of_id_with_a_lower_score(detector):
    x = datasets.load("photo", "test").x[:40]
    rows = detector.explain({str(k): p for k, p in enumerate(x)}, detector.ood_score(x))
    assert sorted(rows.beyond_id) == pytest.approx(np.arange(40) / 40)


def test_no_picture_is_refused(detector):
    with pytest.raises(ValueError, match="at least one picture"):
        detector.explain({}, np.zeros(3))


def test_a_set_is_told_by_the_scores_that_are_given():
    sets = pd.DataFrame(
        {"gap": [-1.0, 1.0], "auroc": 50.0, "auroc_low": 40.0, "auroc_high": 60.0}, index=["near", "far"]
    )
    rng = np.random.default_rng(0)
    scores = {"ID": rng.normal(size=80), "near": rng.normal(size=60), "far": rng.normal(9, size=60)}
    told = explaining.told_by(sets, scores)
    assert told["auroc"]["far"] == 100 and told["gap"].tolist() == [-1.0, 1.0]
    assert told["auroc"]["near"] == pytest.approx(100 * metrics.auroc(scores["ID"], scores["near"]))
    assert told["auroc_low"]["near"] < told["auroc"]["near"] < told["auroc_high"]["near"]
    assert (sets["auroc"] == 50).all()
