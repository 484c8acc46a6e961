"""Laws of eq. 4-6: orientation, units, and the promise a threshold makes."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from flowood_core.metrics import fpr95_id95
from flowood_core.scores import (
    Threshold,
    all_scores,
    bits_per_dim,
    nats_per_dim,
    score_comp,
    score_nll,
    score_nll_px,
)

D = 3 * 32 * 32
LOG_PZ = np.array([-4300.0, -4500.0, -4100.0])
LOG_PX = np.array([10600.0, 9000.0, 12000.0])
C = np.array([6.7, 8.2, 5.0])

values = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e9, 1e9))
sample = st.lists(values, min_size=1, max_size=50).map(np.array)
many = settings(max_examples=100, deadline=None)


# --- eq. 4 and 5 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [score_nll, score_nll_px])
def test_lower_density_means_higher_score(score):
    assert np.array_equal(score(LOG_PZ), -LOG_PZ)
    assert np.array_equal(np.argsort(score(LOG_PZ)), np.argsort(LOG_PZ)[::-1])


def test_a_uniform_density_codes_at_eight_bits():
    assert bits_per_dim([0.0], D) == 8  # p_X = 1 on [0, 1]^d
    assert bits_per_dim([0.0], D, levels=2) == 1 and bits_per_dim([0.0], D, levels=1) == 0


@many
@given(st.integers(1, 10), st.floats(-50, 50))
def test_bits_are_those_of_the_density_on_grey_levels(d, log_px):
    """Change of variables: y = 256 x has density p_X / 256^d, and bits are its -log2 per dimension."""
    log2_py = (log_px - d * math.log(256)) / math.log(2)
    assert bits_per_dim([log_px], d)[0] == pytest.approx(-log2_py / d, rel=1e-9, abs=1e-9)


def test_doubling_the_density_of_one_dimension_saves_one_bit():
    assert bits_per_dim([math.log(2)], 1)[0] == pytest.approx(7)


def test_nats_and_bits_per_dimension_differ_by_log_2_and_the_grey_levels():
    nats = nats_per_dim(score_nll_px(LOG_PX), D)
    np.testing.assert_allclose(bits_per_dim(LOG_PX, D), nats / math.log(2) + 8)


def test_score_comp_is_equation_5():
    nll = bits_per_dim(LOG_PX, D)
    np.testing.assert_allclose(score_comp(nll, C), nll - C)
    np.testing.assert_allclose(score_comp(nll, C, weight=0.5), nll - 0.5 * C)
    assert np.array_equal(score_comp(nll, C, weight=0), nll)


def test_of_two_equally_likely_images_the_simpler_is_more_ood():
    simple, complex_ = score_comp([5.0, 5.0], [3.0, 7.0])
    assert simple > complex_


def test_all_scores_are_the_scores_by_name():
    scores = all_scores(LOG_PZ, LOG_PX, C, D)
    assert list(scores) == ["pz", "px", "pz_comp", "px_comp", "comp_only"]
    np.testing.assert_array_equal(scores["pz"], score_nll(LOG_PZ))
    np.testing.assert_array_equal(scores["px"], score_nll_px(LOG_PX))
    np.testing.assert_allclose(scores["pz_comp"], -LOG_PZ / D - C)
    np.testing.assert_allclose(scores["px_comp"], bits_per_dim(LOG_PX, D) - C)
    np.testing.assert_array_equal(scores["comp_only"], -C)


def test_without_complexity_there_are_the_two_likelihoods():
    assert list(all_scores(LOG_PZ, LOG_PX, None, 768)) == ["pz", "px"]


def test_tensors_give_what_arrays_give():
    tensors = [torch.tensor(a, requires_grad=True) for a in (LOG_PZ, LOG_PX, C)]
    ours, theirs = all_scores(*tensors, D), all_scores(LOG_PZ, LOG_PX, C, D)
    for name in theirs:
        assert isinstance(ours[name], np.ndarray) and ours[name].dtype == np.float64
        assert np.array_equal(ours[name], theirs[name])
    assert score_nll(torch.ones(2, dtype=torch.bfloat16)).tolist() == [-1, -1]


# --- eq. 6 -----------------------------------------------------------------------------------------------


def test_a_score_at_gamma_is_ood():
    decided = Threshold(2.0).decide([1.9, 2.0, 2.1, np.inf, -np.inf])
    assert decided.dtype == bool and decided.tolist() == [False, True, True, True, False]
    assert Threshold(2.0).decide(torch.tensor([[1.0], [3.0]])).tolist() == [[False], [True]]


@many
@given(sample, st.floats(0.01, 1))
def test_quantile_keeps_what_it_promises_and_no_lower_gamma_does(id_scores, keep):
    threshold = Threshold.fit_quantile(id_scores, keep=keep)
    assert (~threshold.decide(id_scores)).mean() >= keep
    lower = np.nextafter(threshold.gamma, -np.inf)
    assert (id_scores < lower).mean() < keep
    assert (threshold.method, threshold.keep, threshold.n_id) == ("quantile", keep, len(id_scores))


@pytest.mark.parametrize(
    "keep, n, n_kept", [(0.95, 1000, 950), (0.95, 21, 20), (0.07, 100, 7), (1.0, 5, 5), (0.9, 10, 9)]
)
def test_quantile_counts_exactly(keep, n, n_kept):
    assert np.sum(~Threshold.fit_quantile(np.arange(n), keep=keep).decide(np.arange(n))) == n_kept


def test_quantile_of_one_value_keeps_it():
    assert not Threshold.fit_quantile(np.full(10, 3.5)).decide([3.5])[0]


@many
@given(sample, sample)
def test_what_passes_the_quantile_is_fpr95(id_scores, ood_scores):
    passed = (~Threshold.fit_quantile(id_scores).decide(ood_scores)).mean()
    assert passed == pytest.approx(fpr95_id95(id_scores, ood_scores), abs=1e-15)


@many
@given(sample, sample)
def test_f1_is_the_best_over_all_thresholds(id_scores, ood_scores):
    pooled = np.concatenate([id_scores, ood_scores])
    truth = np.repeat([False, True], [len(id_scores), len(ood_scores)])

    def f1(gamma):
        flagged = pooled >= gamma
        return 2 * np.sum(flagged & truth) / (np.sum(flagged) + np.sum(truth))

    best = max(map(f1, pooled))
    threshold = Threshold.fit_f1(id_scores, ood_scores)
    assert threshold.f1 == f1(threshold.gamma) == best
    assert threshold.gamma == max(gamma for gamma in pooled if f1(gamma) == best)
    assert (threshold.method, threshold.n_id, threshold.n_ood) == ("f1", len(id_scores), len(ood_scores))


def test_f1_agrees_with_sklearn():
    rng = np.random.default_rng(0)
    id_scores, ood_scores = rng.normal(0, 1, 200), rng.normal(1.5, 1, 100)
    threshold = Threshold.fit_f1(id_scores, ood_scores)
    decided = threshold.decide(np.concatenate([id_scores, ood_scores]))
    assert threshold.f1 == pytest.approx(f1_score(np.repeat([0, 1], [200, 100]), decided))


def test_separable_scores_reach_f1_of_one():
    threshold = Threshold.fit_f1([0, 1, 2], [3, 4])
    assert threshold.f1 == 1 and threshold.gamma == 3


# --- saved apart from the model --------------------------------------------------------------------------


@many
@given(sample, sample)
def test_saved_threshold_comes_back_to_the_last_bit(tmp_path_factory, id_scores, ood_scores):
    path = tmp_path_factory.mktemp("threshold") / "new" / "gamma.json"
    for threshold in (
        Threshold.fit_quantile(id_scores),
        Threshold.fit_f1(id_scores, ood_scores),
        Threshold(0.1),
    ):
        threshold.save(path)
        assert Threshold.load(path) == threshold
        assert list(path.parent.iterdir()) == [path]  # nothing unfinished is left


def test_the_file_says_what_it_is(tmp_path):
    Threshold.fit_quantile(np.arange(40.0), keep=0.9).save(tmp_path / "gamma.json")
    content = json.loads((tmp_path / "gamma.json").read_text())
    assert content["orientation"] == "higher = more OOD" and content["format"] == "flowood threshold"
    assert (content["method"], content["keep"], content["n_id"]) == ("quantile", 0.9, 40)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "gamma.json"
    Threshold(1.0).save(path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Threshold(2.0).save(path)
    assert Threshold.load(path).gamma == 1.0 and list(tmp_path.iterdir()) == [path]


GOOD = {"format": "flowood threshold", "orientation": "higher = more OOD", "gamma": 1.0}


@pytest.mark.parametrize(
    "text, message",
    [
        ("not json", "saved by Threshold.save, got .*gamma.json"),
        ("[1, 2]", "another JSON file"),
        ('{"gamma": 1.0}', "another JSON file"),
        (
            json.dumps(GOOD | {"orientation": "lower = more OOD"}),
            "'higher = more OOD', got 'lower = more OOD'",
        ),
        (json.dumps(GOOD | {"colour": "red"}), "this version of flowood.*colour"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "gamma"}), "this version of flowood.*gamma"),
        (json.dumps(GOOD | {"gamma": "high"}), "this version of flowood"),
        (json.dumps(GOOD | {"gamma": math.nan}), "finite gamma"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, text, message):
    (tmp_path / "gamma.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Threshold.load(tmp_path / "gamma.json")


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "gamma.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"saved by Threshold\.save"):
        Threshold.load(tmp_path / "gamma.json")


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bits_per_dim(LOG_PX, 0), "1 or more, got 0"),
        (lambda: nats_per_dim(LOG_PZ, -1), "1 or more, got -1"),
        (lambda: score_comp(LOG_PX, C[:2]), r"one C\(x\) per score, got \(3,\) scores and \(2,\)"),
        (lambda: all_scores(LOG_PZ, LOG_PX[:2], C, D), "one value per sample.*'log_px': \\(2,\\)"),
        (lambda: all_scores(LOG_PZ, LOG_PX, C[:1], D), "one value per sample.*'complexity': \\(1,\\)"),
        (lambda: Threshold(math.inf), "finite gamma, got inf"),
        (lambda: Threshold(1.0).decide([0.0, math.nan]), "got 1 nan of 2"),
        (lambda: Threshold.fit_quantile([]), "n of 1 or more"),
        (lambda: Threshold.fit_quantile([[1.0]]), r"shaped \(n,\)"),
        (lambda: Threshold.fit_quantile([1.0, math.nan]), "finite id_scores, got 1 of 2"),
        (lambda: Threshold.fit_quantile([1.0], keep=95), "keep above 0 and up to 1.*got 95"),
        (lambda: Threshold.fit_quantile([1.0], keep=0), "keep above 0"),
        (lambda: Threshold.fit_f1([1.0], []), "ood_scores shaped"),
        (lambda: Threshold.fit_f1([1.0], [math.inf]), "finite ood_scores, got 1 of 1"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
