"""FINDINGS.md says what the committed runs say, and a sentence that stops being true stops the writing."""

import re

import pytest

from flowood_core.system import paths
from workflow.publish import findings

TEMPLATE = findings.TEMPLATE.read_text(encoding="utf-8")


def test_the_page_is_what_the_committed_runs_say(monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(paths.repo_root() / "outputs"))
    assert findings.main(["--check"]) == 0, "make readme"


def test_every_number_of_ours_is_filled_in_and_most_sentences_have_a_condition():
    sentences = [line for line in TEMPLATE.splitlines() if line.startswith("- ")]
    conditions = [line for line in TEMPLATE.splitlines() if line.startswith("%%")]
    assert len(conditions) >= len(sentences)
    typed = re.findall(r"[^0-9{\[.]\d\d\.\d", re.sub(r"\{[^}]*\}", "", TEMPLATE))  # like 83.2
    assert typed == []


def test_numbers_are_shown_with_their_range():
    seeds = findings.Seeds.of([1, 2, 6])
    assert f"{seeds:.1f}" == "3.0 [1.0, 6.0]" and f"{findings.Seeds.of([2.04, 2.01]):.1f}" == "2.0"
    assert (seeds.mean, seeds.low, seeds.high, seeds.n) == (3, 1, 6, 3)


def test_conditions_are_tried_and_left_out():
    given = {"a": {"x y": findings.Seeds.of([1.0])}, "claim": {"bias": "holds"}}
    template = "A {a[x y]:.1f}.\n%% a['x y'].low > 0 and claim['bias'] == 'holds'\nEnd"
    assert findings.render(template, given) == "A 1.0.\nEnd\n"


@pytest.mark.parametrize(
    "line, word",
    [("%% a['x'].low > 2", "not so any more"), ("{a[z]:.1f}", "z"), ("%% a['x'].low >", "invalid syntax")],
)
def test_what_is_wrong_is_named_with_its_line(line, word):
    with pytest.raises(ValueError, match=rf"line 2, .*{word}"):
        findings.render(f"first\n{line}", {"a": {"x": findings.Seeds.of([1.0])}})
