"""Laws of the scoreboard of claims: a verdict follows from the effects, and what was not run says so."""

import re

import numpy as np
import pytest

from flowood_core import runs
from flowood_core.evidence import claims, measured, verdicts
from flowood_core.intervals import Interval
from flowood_core.runs import grid
from flowood_core.system import paths


def part(value, low=None, high=None, **more):
    low, high = (np.nan, np.nan) if low is None else (low, high)
    return verdicts.Part("x", Interval(value, low, high, (value,), drawn=bool(np.isfinite(low))), **more)


YES, NO, OPEN = part(2, 1, 3), part(-2, -3, -1), part(1, -1, 3)


@pytest.mark.parametrize(
    ("parts", "needs", "word", "said"),
    [
        ([], "all", "not run", ""),
        ([YES, YES], "all", "holds", "holds in 2 of 2 parts"),
        ([YES, OPEN], "all", "holds partly", "holds in 1 of 2 parts"),
        ([YES, NO], "all", "holds partly", "holds in 1 of 2 parts, 1 against"),
        ([YES, NO], "some", "holds", "holds in 1 of 2 parts, 1 against"),
        ([OPEN, NO], "some", "does not hold", "holds in 0 of 2 parts, 1 against"),
        ([OPEN, OPEN], "all", "cannot tell", "holds in 0 of 2 parts"),
        ([part(0.5)], "all", "holds", "holds in 1 of 1 part"),  # a fact about data has no interval
        ([part(0.0)], "all", "cannot tell", "holds in 0 of 1 part"),
    ],
)
def test_a_verdict_follows_from_the_intervals(parts, needs, word, said):
    found = verdicts.judge(parts, needs)
    assert (found.word, found.parts) == (word, said)


def test_what_is_apart_does_not_decide_and_is_told():
    found = verdicts.judge([YES, *[part(-2, -3, -1, apart="by log p_X")] * 2])
    assert found.word == "holds" and found.n == 1 and found.apart == "by log p_X: 0 of 2"


def test_another_backbone_gives_no_verdict():
    found = verdicts.judge([part(2, 1, 3, setting="other backbone")])
    assert found.word == "other setting" and found.parts == "holds in 1 of 1 part"
    both = verdicts.judge([part(2, 1, 3, setting="other backbone"), YES])
    assert both.word == "holds"


def test_the_best_and_the_worst_part_are_shown_with_their_intervals():
    found = verdicts.judge([YES, NO])
    assert found.best == "x +2.0 [+1.0, +3.0]" and found.worst == "x -2.0 [-3.0, -1.0]"
    assert verdicts.judge([part(0.5)]).effects == "holds in 1 of 1 part; x +0.50"


@pytest.mark.parametrize(
    ("pair", "apart"),
    [(("cifar10", "svhn"), ""), (("photo", "digits"), ""), (("cifar10", "scenes_tinyimagenet"), claims.OTHER_SETS),
     (("cifar10", "cifar100"), claims.OTHER_SETS), (("isun", "cifar100"), "")],
)  # fmt: skip
def test_one_rule_says_whose_sets_they_are(pair, apart):
    assert measured.whose(*pair, "table_2", "table_3") == apart


def test_no_part_of_a_claim_is_counted_twice_on_the_committed_runs(monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))
    found = claims.frame(claims.effects("sample"))
    assert not found.duplicated(["claim", "part", "apart"]).any()
    counted = found[found["apart"] == ""]
    assert not counted.duplicated(["claim", "value", "low", "high"]).any()


def test_every_sentence_has_a_test_and_every_test_a_sentence():
    printed = claims.printed()
    assert set(printed["wording"]) == {"the paper's", "ours"} and set(printed["needs"]) == {"all", "some"}
    assert sorted(printed["test"]) == sorted(claims.TESTS)
    assert printed["claim"].is_unique and (printed["sentence"].str.len() > 20).all()
    assert all(re.search(r"\d|^[A-D]", where) for where in printed["section"])


def test_with_nothing_run_every_claim_says_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    assert set(claims.evaluate("sample")["verdict"]) == {"not run"}
    assert not list(tmp_path.rglob("metrics.json"))


def test_claims_are_judged_by_the_runs_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    pair = {
        s.method: runs.run_or_load(s)
        for s in grid.rows("smoke", "table_2")
        if s.method in ("mle", "ccm_gaussian")
    }
    found = claims.evaluate("smoke").set_index("claim")
    level = [pair[m].metrics["id"]["log_pz_mean"] for m in ("mle", "ccm_gaussian")]
    gained = (level[1] - level[0]) / np.log(2) / pair["mle"].metrics["d"]
    parts = claims.frame(claims.effects("smoke")).set_index(["claim", "apart"])
    assert parts.loc[("id_kept", ""), "value"].item() == pytest.approx(gained)
    bpd = [pair[m].metrics["id"]["bpd"] for m in ("mle", "ccm_gaussian")]
    assert parts.loc[("id_kept", claims.BY_PX), "value"].item() == pytest.approx(bpd[0] - bpd[1])
    assert found.loc["id_kept", "seeds"] == "1"
    assert found.loc["matches_real", "verdict"] == "not run"


@pytest.mark.parametrize(
    ("moved", "sign"), [((-1, -2, 1), 1), ((-20, -30, -10), -1), ((-8, -20, 4), 0), ((3, -7, 13), 0)]
)
def test_that_nothing_moves_is_claimed_of_the_whole_interval(moved, sign):
    value, low, high = moved
    found = claims._within(Interval(value, low, high, (value,)), 5)
    assert verdicts.Part("x", found).sign == sign and found.low <= found.value <= found.high


@pytest.mark.parametrize(("rho", "word"), [(-0.5, "holds"), (-0.02, "cannot tell"), (0.5, "does not hold")])
def test_a_correlation_that_is_not_clear_supports_nothing(tmp_path, monkeypatch, rho, word):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    folder = tmp_path / "smoke" / "tables"
    folder.mkdir(parents=True)
    (folder / "hypothesis_1.csv").write_text(
        "id,method,side,spearman_with_C,low,high,n_seeds,n,pooled\n"
        f"isun,MLE,inverse of f,{rho},{rho - 0.2},{rho + 0.2},1,16,0.3\n"
        "isun,CCM+Gaussian,f,-0.9,-1,-0.8,1,16,0.3\n"
    )
    assert verdicts.judge(claims.TESTS["hypothesis_1"](measured.Evidence("smoke"))).word == word


def test_a_correlation_inside_the_sets_is_judged_by_its_own_interval(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    folder = tmp_path / "smoke" / "tables"
    folder.mkdir(parents=True)
    row = "isun,MLE,inverse of f,-0.4,-0.6,-0.2,1,16,0.3\n"
    (folder / "hypothesis_1.csv").write_text(
        "id,method,side,spearman_with_C,low,high,n_seeds,n,pooled\n" + row
    )
    (part,) = claims.TESTS["hypothesis_1"](measured.Evidence("smoke"))
    assert part.sign == 1 and part.effect.low == 0.2 and part.name == "iSUN, MLE, inverse of f"
