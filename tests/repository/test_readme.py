"""README is short, shows a picture, and its examples run as printed, except for the number of steps."""

import re

import pytest

from flowood_core.system import paths

README = (paths.repo_root() / "README.md").read_text("utf-8")
SECTION = README.partition("## Your own flow and data")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, re.S)


def test_it_is_read_in_a_minute_and_shows_what_it_is_about():
    assert len(README.splitlines()) <= 120
    (picture,) = re.findall(r"^!\[[^\]]+\]\(([^)]+)\)", README, re.M)
    assert (paths.repo_root() / picture).is_file()


@pytest.mark.parametrize(
    "page", ["README.md", "FINDINGS.md", "RESULTS.md", "DECISIONS.md", "workflow/README.md"]
)
def test_a_link_of_a_page_leads_somewhere(page):
    path = paths.repo_root() / page
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
    gone = [link for link in links if not (path.parent / link).exists()]
    assert not gone and (links or page == "DECISIONS.md")


def test_the_section_has_examples():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("block", BLOCKS, ids=["bias_report", "correct", "Detector"])
def test_an_example_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"hidden=32", "hidden=4", re.sub(r"steps=\d+", "steps=2", block)).replace("[:200]", "[:40]")
    few = few.replace("Detector(", "Detector(hidden=4, blocks=2, ")
    names = {}
    exec(few, names)
    assert capsys.readouterr().out or names["better"].correction
