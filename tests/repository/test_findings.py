"""FINDINGS.md reads easily, and a sentence that stops being true stops the writing."""

import re

import pytest

from flowood_core.intervals import Interval
from flowood_core.system import paths
from workflow.publish import facts, findings

TEMPLATE = findings.TEMPLATE.read_text(encoding="utf-8")
PAGE = (paths.repo_root() / "FINDINGS.md").read_text("utf-8")


def test_every_number_of_ours_is_filled_in_and_most_sentences_have_a_condition():
    sentences = [line for line in TEMPLATE.splitlines() if line.startswith("- **")]
    conditions = [line for line in TEMPLATE.splitlines() if line.startswith("%%")]
    assert len(conditions) >= len(sentences)
    typed = re.findall(r"[^0-9{\[.]\d\d\.\d", re.sub(r"\{[^}]*\}", "", TEMPLATE))  # like 83.2
    assert typed == []


def sentences():
    """Sentences of the prose, without what stands in brackets and without the line of counts."""
    prose = [
        line
        for line in PAGE.splitlines()
        if line and line[0] not in "#|" and "claims of the paper:" not in line
    ]
    bare = re.sub(r"\]\([^)]*\)|\[[^\]]*,[^\]]*\]", "", "\n".join(prose))
    bare = re.sub(r"\s+([.:;])(?=\s)", r"\1", bare)
    return [s for s in re.split(r"(?<=[a-z*)0-9%])[.:](?=\s)|\n|;", bare) if s.strip()]


def test_a_sentence_has_fewer_than_30_words_and_at_most_four_numbers_of_ours():
    long = [s for s in sentences() if len(s.split()) >= 30]
    # the paper's numbers are slanted, and belong to ours
    crowded = [
        s for s in sentences() if len(re.findall(r"[-+−]?\b\d+\.\d+\b", re.sub(r"\*[^*]*\*", "", s))) > 4
    ]
    assert not long and not crowded


def test_the_counts_stand_in_the_first_line():
    first = PAGE.splitlines()[2]
    assert "hold in part" in first and "cannot be told" in first and "agree" in first


def test_the_page_has_two_pages():
    assert len(PAGE.split()) < 1500


def given(value=1.0):
    interval = Interval(value, value - 1, value + 1, (value,))
    return {"at": lambda *_: interval, "claim": lambda _: "holds"}


def test_conditions_are_tried_and_left_out():
    condition = "%% at('x').low >= 0 and claim('bias') == 'holds'"
    template = f"A {{at('x y'):.1f}} and {{round(at('x').value):+d}}, {{braces}}.\n{condition}\nEnd"
    assert facts.render(template, given()) == "A 1.0 [0.0, 2.0] and +1, {braces}.\nEnd\n"
    assert facts.render("{1000 * (round(at('x').value) + 2):,} steps", given()) == "3,000 steps\n"


@pytest.mark.parametrize(
    "line, word",
    [("%% at('x').low > 2", "not so any more"), ("{unknown('z'):.1f}", "unknown"),
     ("%% at('x').low >", "invalid syntax"), ("{nothing()}", "nothing was run")],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(line, word):
    with pytest.raises(ValueError, match=rf"line 2, .*{word}"):
        facts.render(f"first\n{line}", given() | {"nothing": lambda: None})
