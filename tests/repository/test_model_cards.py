"""Published models: they load, score as the run's flow does, and their pages say what the runs say."""

import numpy as np
import pytest

from flowood_core import datasets, runs
from flowood_core.anyflow.detector import Detector
from flowood_core.flow import densities
from flowood_core.runs import grid
from flowood_core.system import paths
from workflow.publish import model_cards

MODELS = paths.repo_root() / "models"


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))


def published():
    return sorted(p.name for p in MODELS.iterdir() if p.is_dir())


@pytest.mark.parametrize("name", published())
def test_a_published_model_is_its_run(name):
    run = model_cards.models()[name]
    detector = Detector.load(MODELS / name)
    x = datasets.load("photo", "test").x[:30]
    expected = -densities(run.flow(), x)[0]
    assert np.allclose(detector.ood_score(x), expected, rtol=1e-5)
    kept = run.scores("train")["pz"] < detector.threshold_.gamma
    assert kept.mean() == pytest.approx(0.95, abs=0.002)


@pytest.mark.parametrize("name", published())
def test_its_page_says_what_the_run_says(name):
    page = (MODELS / name / "README.md").read_text(encoding="utf-8")
    assert page == model_cards.card(name, model_cards.models()[name])
    assert f'Detector.load("models/{name}")' in page


@pytest.mark.parametrize("name", published())
def test_a_published_model_is_small(name):
    assert sum(p.stat().st_size for p in (MODELS / name).iterdir()) < 1e6


def test_a_card_names_the_sets_it_cannot_tell_apart():
    run = next(iter(model_cards.models().values()))
    page, weak = (
        model_cards.card("x", run),
        [o for o, by in run.metrics["ood"].items() if by["pz"]["auroc"][0] < 0.7],
    )
    assert weak and all(datasets.LABELS.get(o, o) in page.split("Use and limits")[1] for o in weak)


def test_nothing_is_published_where_nothing_was_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    assert model_cards.models() == {} and model_cards.main() == 1 and "found none" in capsys.readouterr().err


def test_a_model_of_the_smoke_profile_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    run = runs.run_or_load(next(iter(grid.rows("smoke", model_cards.TABLE))))
    folder = model_cards.write(tmp_path, "small", run)
    assert Detector.load(folder).predict(datasets.load("photo", "test").x[:3]).shape == (3,)
