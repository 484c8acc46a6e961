"""Laws of the kinds of runs: every committed run is read, by its kind, under the id that its folder bears."""

import json

import pytest

from flowood_core import runs
from flowood_core.runs.kinds import KINDS, kind_of
from flowood_core.system import paths

SPECS = sorted((paths.repo_root() / "outputs").glob("*/runs/*/spec.json"))


def test_every_committed_spec_derives_the_name_of_its_folder():
    assert len(SPECS) >= 216
    wrong = [p.parent.name for p in SPECS if runs.read(json.loads(p.read_text())).run_id != p.parent.name]
    assert not wrong


def test_committed_runs_are_of_every_kind():
    assert {kind_of(json.loads(p.read_text())) for p in SPECS} == set(KINDS)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"method": "mle"}, runs.Pixels),
        ({"method": "mle", "model": "pixels", "encoder": None}, runs.Pixels),
        ({"method": "text", "encoder": "tfidf:8"}, runs.Texts),
        ({"method": "ccm", "model": "cs_flow", "backbone": "untrained", "image_size": 32}, runs.Maps),
    ],
)
def test_the_fields_tell_the_kind(fields, kind):
    assert type(runs.read({"id": "photo", **fields})) is kind


@pytest.mark.parametrize("silent", [{"squeeze": 0}, {"kinds": ["text"]}, {"backbone": None}, {"clamp": 3.0}])
def test_a_field_of_another_kind_that_says_nothing_is_dropped(silent):
    fields = {"id": "photo", "method": "text", "encoder": "tfidf:8"}
    assert runs.read(fields | silent) == runs.read(fields)


@pytest.mark.parametrize(
    "loud", [{"squeeze": 1}, {"mutation": 0.2}, {"backbone": "untrained"}, {"nonsense": 1}]
)
def test_a_field_of_another_kind_that_says_something_is_refused(loud):
    with pytest.raises(ValueError, match=next(iter(loud))):
        runs.read({"id": "stdlib_docs", "method": "text", "encoder": "tfidf:8"} | loud)
