"""Laws of the pages: they are what the committed runs say, and say what was not run."""

import re

import pytest

from flowood_core import runs
from flowood_core.evidence import tables
from flowood_core.runs import grid
from flowood_core.system import paths
from workflow.publish import __main__ as publish
from workflow.publish import long_runs, results
from workflow.publish.facts import Facts


@pytest.fixture(scope="module")
def committed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))
        yield publish.pages()


@pytest.mark.parametrize("name", ["README.md", "RESULTS.md", "FINDINGS.md"])
def test_a_page_is_what_the_committed_runs_say(committed, name):
    assert (paths.repo_root() / name).read_text("utf-8") == committed[name], "stale: make readme"


@pytest.mark.parametrize("name", ["README.md", "RESULTS.md", "FINDINGS.md"])
def test_no_page_shows_an_expression_that_should_have_been_filled_in(committed, name):
    assert re.findall(r"\{[^{}\\]*\w\(.{0,40}", committed[name]) == []


def test_without_runs_a_table_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    assert "not run" in results.images_table(Facts("sample"), "cifar10")
    assert not list(tmp_path.rglob("metrics.json"))


def test_a_long_training_has_its_number_when_it_is_done_and_none_before(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))
    done = {r.spec.method: r for r in grid.finished("paper", "table_3")}
    lines = long_runs.long_table(Facts("sample"), "isun").splitlines()[2:]
    assert len(lines) == 6 and done
    for method, line in zip(long_runs.PRINTED, lines, strict=False):
        if method in done:
            assert f"{done[method].auroc('svhn', 'pz'):.1f} [" in line
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    assert long_runs.long_table(Facts("sample"), "isun").count("not run") == 6 * 4
    kept = (
        next(s for s in grid.rows("paper", "table_3") if s.method == "ro").folder / "epoch_0012.safetensors"
    )
    kept.parent.mkdir(parents=True)
    kept.touch()
    table = long_runs.long_table(Facts("sample"), "isun")
    assert table.count("on its way") == 4 and table.count("not run") == 5 * 4


def test_missing_rows_stay_out_and_ours_stand_with_their_interval(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    wanted = [s for s in grid.rows("smoke", "table_2") if s.method in ("mle", "gaussian")]
    made = {s.method: runs.run_or_load(s) for s in wanted}
    lines = [line for line in results.images_table(Facts("smoke"), "photo").splitlines() if line[:2] == "| "]
    assert [line.split(" | ")[0] for line in lines[1:]] == ["| MLE", "| Gaussian", "| *−C(x) alone, no flow*"]
    sample = tables.sample(made["gaussian"], "digits")
    assert f"{sample.value:.1f}" in lines[2] and "[" in lines[2]


def test_every_cell_of_the_printed_tables_has_one_verdict(committed):
    cells = Facts("sample").cells
    for name, part in cells.groupby("table"):
        assert len(part) == len(tables.printed(name)) and part["verdict"].notna().all()


@pytest.mark.parametrize("readme", ["no markers", results.END + results.BEGIN])
def test_a_page_without_its_markers_is_refused(readme):
    with pytest.raises(ValueError, match="put them back"):
        results.updated(readme, "x")
