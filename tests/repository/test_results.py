"""Laws of the README's result table: it is what the committed runs say, and says what was not run."""

import pytest

from flowood_core import runs
from flowood_core.system import paths
from workflow.publish import results


def test_the_readme_shows_what_the_committed_runs_say(monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))
    readme = (paths.repo_root() / "README.md").read_text(encoding="utf-8")
    assert results.updated(readme, results.block()) == readme, "stale: make readme"


def test_without_runs_the_table_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    assert "not run" in results.markdown("sample", "cifar10")
    assert not list(tmp_path.rglob("metrics.json"))


def test_every_printed_row_has_its_line_and_missing_ones_say_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    spec = next(s for s in results.grid.rows("smoke", "table_2") if s.method == "gaussian")
    run = runs.run_or_load(spec)
    text = results.markdown("smoke", "photo")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 10 + 1  # head, the paper's rows, complexity alone
    ours = next(line for line in lines if line.startswith("| Gaussian |"))
    value = 100 * run.metrics["ood"]["digits"]["pz"]["auroc"][0]
    assert f" {value:.1f} |" in ours
    assert "not run" in next(line for line in lines if line.startswith("| MLE |"))


@pytest.mark.parametrize("readme", ["no markers", results.END + results.BEGIN])
def test_a_page_without_its_markers_is_refused(readme):
    with pytest.raises(ValueError, match="put them back"):
        results.updated(readme, "x")
