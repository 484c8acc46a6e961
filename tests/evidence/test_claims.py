"""Laws of the scoreboard of claims: a verdict follows from the effects, and what was not run says so."""

import re

import numpy as np
import pytest

from flowood_core import runs
from flowood_core.evidence import claims
from flowood_core.runs import grid


@pytest.mark.parametrize(
    ("effects", "word"),
    [
        ({}, "not run"),
        ({"a": np.array([])}, "not run"),
        ({"a": np.array([1.0, 2.0])}, "holds"),
        ({"a": np.array([1.0]), "b": np.array([0.1, 0.2])}, "holds"),
        ({"a": np.array([3.0, -1.0])}, "holds partly"),
        ({"a": np.array([1.0]), "b": np.array([-1.0])}, "holds partly"),
        ({"a": np.array([-1.0, -2.0])}, "does not hold"),
        ({"a": np.array([0.0])}, "does not hold"),
    ],
)
def test_a_verdict_follows_from_the_signs(effects, word):
    assert claims.judge(effects).word == word


def test_an_effect_is_shown_with_its_seeds():
    shown = claims.judge({"SVHN": np.array([10.0, 11.0, 12.0])}).effects
    assert shown == "SVHN +11.0 (3 seeds: +10.0 to +12.0)"
    assert claims.judge({"x": np.array([0.5])}).effects == "x +0.50"


def test_every_sentence_has_a_test_and_every_test_a_sentence():
    printed = claims.printed()
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
    bpd = [pair[m].metrics["id"]["bpd"] for m in ("mle", "ccm_gaussian")]
    assert found.loc["id_kept", "effect"] == f"photo crops {bpd[0] - bpd[1]:+.2f}"
    assert found.loc["id_kept", "verdict"] == ("holds" if bpd[0] > bpd[1] else "does not hold")
    assert found.loc["matches_real", "verdict"] == "not run"


@pytest.mark.parametrize(("invariant", "word"), [(False, "does not hold"), (True, "holds")])
def test_a_claim_about_units_would_hold_for_an_objective_without_units(
    tmp_path, monkeypatch, invariant, word
):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    run = runs.run_or_load(next(s for s in grid.rows("smoke", "table_2") if s.method == "mle"))
    run.metrics["id"]["log_px_mean"] = 4000.0  # nats, as of a trained flow; smoke trains for one epoch only
    runs.RunFolder(run.spec).write_json("metrics.json", run.metrics)
    if invariant:
        monkeypatch.setattr(claims.objective, "penalty", lambda log_px: log_px)
    assert claims.judge(claims.TESTS["no_threshold"]("smoke")).word == word


@pytest.mark.parametrize(("rho", "word"), [(-0.5, "holds"), (-0.02, "does not hold"), (0.5, "does not hold")])
def test_a_correlation_that_is_not_clear_supports_nothing(tmp_path, monkeypatch, rho, word):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    folder = tmp_path / "smoke" / "tables"
    folder.mkdir(parents=True)
    (folder / "hypothesis_1.csv").write_text(f"method,side,spearman_with_C,n\nMLE,f,{rho},192\n")
    assert claims.judge(claims.TESTS["hypothesis_1"]("smoke")).word == word
