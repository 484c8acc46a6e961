"""Laws of the one switch that forbids downloads."""

import re
from pathlib import Path

import pytest

import flowood_core
from flowood_core.system import paths


@pytest.mark.parametrize(
    ("value", "offline"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)]
)
def test_offline_is_read_in_one_way(monkeypatch, value, offline):
    monkeypatch.delenv("FLOWOOD_OFFLINE", raising=False)
    if value is not None:
        monkeypatch.setenv("FLOWOOD_OFFLINE", value)
    assert paths.is_offline() is offline


def test_offline_is_read_in_one_place():
    package = Path(flowood_core.__file__).parent
    readers = [
        p.relative_to(package).as_posix()
        for p in package.rglob("*.py")
        if re.search(r'(environ|getenv).*"FLOWOOD_OFFLINE"', p.read_text(encoding="utf-8"))
    ]
    assert readers == ["system/paths.py"]
