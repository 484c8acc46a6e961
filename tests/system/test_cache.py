"""Laws of remembered rows: what was added is found to the bit, by anybody, and nothing broken is ever handed out."""

import hashlib

import numpy as np

from flowood_core.system.cache import RowCache


def key(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()


def rows(n: int) -> list[tuple]:
    rng = np.random.default_rng(n)
    return [(key(i), rng.normal(size=3).astype(np.float32), i) for i in range(n)]


def test_what_was_added_is_found_by_another(tmp_path):
    added = RowCache(tmp_path, x=(3,), n=()).add(rows(4))
    found = RowCache(tmp_path, x=(3,), n=()).find([key(1), key(3), key(9)])
    assert set(found) == {key(1), key(3)}
    for k, (x, n) in found.items():
        np.testing.assert_array_equal(x, added[k][0])
        assert n == added[k][1]


def test_rows_added_later_are_found_by_a_cache_that_looked_before(tmp_path):
    cache = RowCache(tmp_path, x=(3,), n=())
    assert cache.find([key(0)]) == {}
    RowCache(tmp_path, x=(3,), n=()).add(rows(1))
    assert set(cache.find([key(0)])) == {key(0)}


def test_broken_foreign_and_nan_files_are_passed_over(tmp_path):
    cache = RowCache(tmp_path, x=(3,), n=())
    cache.add([(key(0), np.array([1, np.nan, 0], np.float32), 1)])
    RowCache(tmp_path, x=(2,), n=()).add([(key(1), np.zeros(2, np.float32), 1)])
    RowCache(tmp_path, y=(3,)).add([(key(2), np.zeros(3, np.float32))])
    (tmp_path / "zz.npz").write_bytes(b"PK no zip")
    for _ in range(2):
        assert cache.find([key(0), key(1), key(2)]) == {}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = RowCache(tmp_path / "file" / "below", x=(3,), n=())
    assert len(cache.add(rows(2))) == 2
    assert cache.find([key(0)]) == {}
