"""Every code that a docstring, a notebook or a page cites stands in DECISIONS.md."""

import re

import pytest

from flowood_core.system import paths

ROOT = paths.repo_root()
CODE = r"\b[AB]\d{1,2}[a-c]?\b"
DECIDED = set(re.findall(rf"^\| ({CODE}) \|", (ROOT / "DECISIONS.md").read_text("utf-8"), re.M))
CITING = [
    *(ROOT / "flowood_core").rglob("*.py"),
    *(ROOT / "flowood_core").rglob("*.yaml"),
    *(ROOT / "nbs_src").glob("*.py"),
    *ROOT.glob("*.md"),
    *(ROOT / "data" / "paper").glob("*"),
    *(ROOT / "workflow").rglob("*.md"),
]


def test_the_page_has_each_code_once_and_in_order():
    page = (ROOT / "DECISIONS.md").read_text("utf-8")
    codes = re.findall(rf"^\| ({CODE}) \|", page, re.M)
    assert len(codes) == len(set(codes)) > 30
    assert codes == sorted(codes, key=lambda c: (c[0], int(re.findall(r"\d+", c)[0]), c))


@pytest.mark.parametrize("path", CITING, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_code_that_is_cited_is_decided(path):
    # EfficientNet-B5 and colours such as #0072B2 are no codes
    text = re.sub(r"(?i)efficientnet[-_ ]?b\d|#[0-9A-F]{6}", "", path.read_text("utf-8"))
    cited = set(re.findall(CODE, text))
    assert not cited - DECIDED
