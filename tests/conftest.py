"""One thread each: the tests' tensors are tiny, and waiting for a second thread costs more than it saves."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for every process a test starts
# no test asks the internet; those of the download serve themselves
os.environ.setdefault("FLOWOOD_OFFLINE", "1")


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A folder of results of the test's own, without progress bars."""
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    return tmp_path
