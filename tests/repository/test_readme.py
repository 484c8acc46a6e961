"""The README's examples run as printed, except for the number of steps."""

import re

import pytest

from flowood_core.system import paths

README = (paths.repo_root() / "README.md").read_text("utf-8")
SECTION = README.partition("## I have a flow and data of my own")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, re.S)


def test_the_section_has_examples():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("block", BLOCKS, ids=["bias_report", "correct", "Detector"])
def test_an_example_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"hidden=32", "hidden=4", re.sub(r"steps=\d+", "steps=2", block)).replace("[:200]", "[:40]")
    few = few.replace("Detector(", "Detector(hidden=4, blocks=2, ")
    exec(few, {})
    assert capsys.readouterr().out
