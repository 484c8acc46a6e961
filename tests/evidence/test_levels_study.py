"""Laws of the study of two levels: every score on the same images, and no sentence without its numbers."""

import numpy as np
import pandas as pd
import pytest

from flowood_core import metrics
from flowood_core.anyflow.levels import FeatureLevel
from flowood_core.evidence import two_levels
from flowood_core.features.images import ImageEncoder
from flowood_core.flow import densities, image_flow
from flowood_core.notebook.reading import sentences
from flowood_core.outliers import image

SMALL = {"components": 6, "blocks": 2, "hidden": 8, "mle_steps": 10, "steps": 10}


@pytest.fixture(scope="module")
def images():
    return two_levels.images_of("photo", ["digits", "lsun"], n_train=60, n_test=40)


@pytest.fixture(scope="module")
def found(images, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWOOD_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        flow = image_flow(blocks=2, hidden=4, seed=0)
        network = ImageEncoder("untrained", size=32, unit=False)
        third = FeatureLevel.on_statistics((3, 32, 32), **SMALL).fit(images.train)
        of = two_levels.scored(flow, network, images, image.ccm_gaussian, statistics=third, **SMALL)
        return flow, network, of, two_levels.lengths(network, images.judged)


def test_no_image_serves_two_purposes_and_a_missing_set_is_left_out(images):
    def rows(x):
        return {one.numpy().tobytes() for one in x}

    assert not rows(images.held) & rows(images.test) and not rows(images.train) & rows(images.test)
    assert list(images.judged) == ["ID", "digits"] and len(images.train) == 60 and len(images.test) == 40


def test_a_test_set_too_small_to_hold_any_out_is_refused():
    with pytest.raises(ValueError, match="more than 20"):
        two_levels.images_of("photo", [], n_train=30, n_test=0)


def test_every_score_is_of_every_image(found, images):
    _, _, of, _ = found
    assert set(of) == set(two_levels.LABELS)
    for by_set in of.values():
        assert {name: len(v) for name, v in by_set.items()} == {n: len(x) for n, x in images.judged.items()}
        assert all(np.isfinite(v).all() for v in by_set.values())


def test_the_level_of_pixels_is_the_flow_given(found, images):
    flow, _, of, _ = found
    np.testing.assert_array_equal(of["pixels"]["digits"], -densities(flow, images.ood["digits"])[1])


def test_the_level_that_is_joined_has_neighbours_beside_its_density(found, images):
    _, _, of, _ = found
    rest = np.concatenate([of["level"][name] - of["features"][name] for name in images.judged])
    distance = np.concatenate([of["knn"][name] for name in images.judged])
    assert np.corrcoef(rest, distance)[0, 1] > 0.999  # the bank is in half precision


def test_lengths_are_those_of_the_vectors_as_they_come(found, images):
    _, network, _, lengths = found
    own = np.linalg.norm(network.encode(images.test), axis=1)
    np.testing.assert_allclose(lengths[lengths["set"] == "ID"]["length"], own, rtol=1e-6)


def test_the_table_holds_the_aurocs_and_their_mean(found):
    _, _, of, _ = found
    table = two_levels.over_levels([of, of]).set_index(["score", "ood"])["value"]
    for score in two_levels.LABELS:
        direct = 100 * metrics.auroc(of[score]["ID"], of[score]["digits"])
        assert table[score, "digits"] == pytest.approx(direct) and table[score, "mean"] == pytest.approx(
            direct
        )


def cells(**means):
    values = dict.fromkeys(two_levels.LABELS, 80.0) | means
    rows = [(score, ood, v) for score, v in values.items() for ood in ("svhn", "mean")]
    return pd.DataFrame(rows, columns=["score", "ood", "value"])


@pytest.mark.parametrize(
    ("means", "rank", "says", "says_not"),
    [
        ({"raw": 50.0}, 0.7, "Unit length helps (+30.0", "does not help"),
        ({"raw": 80.0}, 0.7, "does not help", "Unit length helps"),
        ({}, 0.7, "inside the sets that is +0.10", "do not have shorter"),
        ({}, 0.0, "do not have shorter vectors", "inside the sets"),
        ({"features": 90.0}, 0.7, "does better than its neighbours", "is not needed"),
        ({"features": 80.0, "knn": 82.0}, 0.7, "is not needed", "does better"),
        ({"level": 85.0}, 0.7, "more than either by itself", "no more than"),
        ({"level": 81.0, "knn": 82.0}, 0.7, "no more than the better", "more than either"),
        ({"pixels": 95.0, "both": 90.0}, 0.7, "5.0 points below", "0.0 points below"),
        ({"all": 96.5}, 0.7, "as a third level it is 96.5", "96.4"),
    ],
)
def test_a_sentence_stands_under_its_condition(means, rank, says, says_not):
    text = sentences(two_levels.reading(cells(**means), rank, 0.1, is_pretrained=True))
    assert says in text and says_not not in text


def test_what_sets_differ_in_is_not_taken_for_what_images_do():
    c, falls = np.arange(20.0), -np.arange(20.0)
    parts = [
        pd.DataFrame({"set": s, "complexity": c + up, "length": falls + 2 * up})
        for s, up in (("a", 0), ("b", 90))
    ]
    over_all, inside = two_levels.ranks(pd.concat(parts))
    assert over_all > 0.3 and inside == pytest.approx(-1)


def test_an_untrained_network_says_nothing_of_features():
    assert "untrained" in sentences(two_levels.reading(cells(), 0.9, 0.1, is_pretrained=False))


def test_feature_levels_draw():
    from flowood_core.notebook import figures

    _, (left, right) = figures.figure("wide", columns=2)
    lengths = pd.DataFrame({"set": ["ID", "svhn"], "complexity": [6.0, 4.0], "length": [9.0, 5.0]})
    figures.draw_lengths(left, lengths, labels={"svhn": "SVHN"})
    figures.draw_levels(right, cells(raw=20.0), labels={"svhn": "SVHN"})
    assert [t.get_text() for t in right.get_yticklabels()] == ["SVHN", "mean"]
    assert left.get_legend_handles_labels()[1] == ["ID", "SVHN"]
