"""Laws of the study of surfaces: a score is its level's own, a table its scores', and a sentence has its numbers."""

import numpy as np
import pandas as pd
import pytest

from flowood_core import metrics
from flowood_core.anyflow import battery
from flowood_core.evidence import surface, two_levels
from flowood_core.features.distances import Mahalanobis
from flowood_core.features.statistics import ImageStatistics
from flowood_core.flow import densities, image_flow
from flowood_core.notebook.reading import sentences
from flowood_core.outliers import graded

SMALL = {"blocks": 2, "hidden": 8, "mle_steps": 20, "steps": 20, "n_outliers": 100}


@pytest.fixture(scope="module")
def images():
    return two_levels.images_of("photo", ["digits", "lsun"], n_train=200, n_test=40)


@pytest.fixture(scope="module")
def fitted(images):
    flow = image_flow(blocks=2, hidden=4, seed=0)
    return surface.Surface.fit(flow, images, graded.ccm_graded, **SMALL)


@pytest.fixture(scope="module")
def judged(fitted, images):
    return fitted.judged(images)


def test_each_score_is_that_of_its_own_level(fitted, images):
    x = images.ood["digits"]
    of = fitted.scores(x)
    np.testing.assert_array_equal(of["pixels"], -densities(fitted.flow, x)[1])
    np.testing.assert_array_equal(of["statistics"], fitted.level.score(x))
    encoder = ImageStatistics((3, 32, 32))
    own = Mahalanobis.fit(encoder.encode(images.train)).score(encoder.encode(x))
    np.testing.assert_allclose(of["mahalanobis"], own)
    both = {name: of[name] for name in ("pixels", "statistics")}
    np.testing.assert_array_equal(of["joined"], fitted.join(both))


def test_the_flow_on_pixels_enters_no_level_on_statistics(fitted, images):
    other = surface.Surface.fit(image_flow(blocks=2, hidden=4, seed=7), images, graded.ccm_graded, **SMALL)
    assert other.level is fitted.level and other.join != fitted.join  # fitted once for all of them
    x = images.test[:10]
    for name in ("mahalanobis", "plain", "statistics"):
        np.testing.assert_array_equal(other.scores(x)[name], fitted.scores(x)[name])


def test_the_table_of_sets_holds_the_aurocs_of_every_training(judged):
    table = surface.over_sets({"one": [judged, judged], "two": [judged]})
    cells = table.set_index(["training", "score", "ood"])["value"]
    for score, of in judged.items():
        for training in ("one", "two"):
            own = 100 * metrics.auroc(of["ID"], of["digits"])
            assert cells[training, score, "digits"] == pytest.approx(own) == cells[training, score, "mean"]


def test_a_battery_of_several_scores_is_that_of_each_score(fitted, images):
    x = images.test[:20]
    kinds = ["constant", "grey", "blur_1"]
    table = battery.battery_table(fitted.scores, x, kinds=kinds, n_boot=20)
    assert set(table["score"]) == set(surface.LABELS)
    for name in surface.LABELS:
        alone = battery.battery_table(lambda x, name=name: fitted.scores(x)[name], x, kinds=kinds, n_boot=20)
        one = table[table["score"] == name].set_index("kind")["auroc"]
        pd.testing.assert_series_equal(one, alone.set_index("kind")["auroc"][one.index])


def test_a_wide_battery_has_simple_kinds_alone_the_worst_first(fitted, images):
    long = battery.battery_table(fitted.scores, images.test[:20], n_boot=20)
    wide = surface.battery_wide(long)
    assert list(wide) == ["complexity", *surface.LABELS] and wide["joined"].is_monotonic_increasing
    assert set(wide.index) == set(long[long["side"] == "simple"]["label"])


def test_no_other_set_gives_no_row():
    assert surface.other_sets("smoke", [], n_train=40, n_test=20).empty


def test_another_set_is_judged_by_its_own_flows(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    table = surface.other_sets("smoke", ["photo"], n_train=60, n_test=20)
    assert set(table["id"]) == {"photo"} and set(table["score"]) == set(surface.SETS_LABELS)
    assert "mean" in set(table["ood"]) and table["value"].between(0, 100).all()


def numbers(**changed):
    wide = {score: {"grey": 99.0, "blur": 99.0} for score in surface.LABELS}
    mean = dict.fromkeys(surface.SETS_LABELS, 80.0)
    for name, value in changed.items():
        score, _, kind = name.partition("_on_")
        if kind:
            wide[score][kind] = value
        else:
            mean[score] = value
    sets = pd.DataFrame(
        [("ours", score, o, v) for score, v in mean.items() for o in ("svhn", "mean")],
        columns=["training", "score", "ood", "value"],
    )
    return pd.DataFrame(wide), sets


@pytest.mark.parametrize(
    ("changed", "says", "says_not"),
    [
        ({"pixels_on_grey": 20.0}, "leaves 1 of 2 simple kinds", "grey 20"),
        ({"joined_on_grey": 20.0}, "both flows together 1: grey 20", "both flows together 0"),
        ({"plain_on_grey": 9.0}, "outliers raise grey by 90 points, to 99", "move no kind"),
        ({}, "Outliers move no kind by more than 5", "the same cure works"),
        ({"statistics": 80.5}, "no flow is needed", "the flow has 80.5"),
        (
            {"statistics": 85.0},
            "the flow has 85.0 on average, Mahalanobis distance 80.0",
            "no flow is needed",
        ),
        ({"joined": 88.0}, "joined with the statistics 88.0", "joined with the statistics 80.0"),
    ],
)
def test_the_reading_follows_the_numbers(changed, says, says_not):
    text = sentences(surface.reading(*numbers(**changed), "ours"))
    assert says in text and says_not not in text
