"""Laws of the download: whole and right or not at all, whatever the server does."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from served import serving

from flowood_core.datasets import download
from flowood_core.datasets.download import DownloadError, fetch
from flowood_core.datasets.registry import DataFile

CONTENT = np.random.default_rng(0).bytes(60_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("FLOWOOD_OFFLINE", "0")
    monkeypatch.delenv("FLOWOOD_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "STALL_S", 0.3)
    monkeypatch.setattr(download, "BACKOFF_S", (0.01, 0.02))
    download._unreachable.clear()
    with serving() as running:
        yield running


def data_file(*urls: str, **known) -> DataFile:
    return DataFile("set.tar.gz", urls, **({"md5": MD5} | known))


def left_in(folder) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def is_whole(folder) -> bool:
    return (folder / "set.tar.gz").read_bytes() == CONTENT and left_in(folder) == {"set.tar.gz"}


def test_a_file_is_downloaded_once_and_known_by_size_and_hashes(server, tmp_path):
    file = data_file(server.put("a", CONTENT), size=len(CONTENT), sha256=SHA256)
    got = fetch(file, tmp_path / "new" / "folder")
    assert (got.size, got.md5, got.sha256, got.source) == (len(CONTENT), MD5, SHA256, file.urls[0])
    assert got.path.parent == tmp_path / "new" / "folder" and is_whole(got.path.parent)
    again = fetch(file, got.path.parent)
    assert server.count("a") == 1 and (again.path, again.sha256) == (got.path, SHA256)


@pytest.mark.parametrize("manner", ["truncated once", "stalls once", "dated"])
def test_a_broken_download_goes_on_where_it_broke(server, tmp_path, manner):
    fetch(data_file(server.put("a", CONTENT, manner)), tmp_path)
    assert server.asked == [("a", None), ("a", f"bytes={len(CONTENT) // 2}-")]
    assert is_whole(tmp_path)


@pytest.mark.parametrize("manner", ["no ranges", "weak", "changed", "503 once"])
def test_what_cannot_be_resumed_is_begun_anew(server, tmp_path, manner):
    fetch(data_file(server.put("a", CONTENT, manner)), tmp_path)
    assert server.count("a") == 2 and is_whole(tmp_path)
    assert {wanted for _, wanted in server.asked} <= {None, "bytes=30000-"} and server.asked[0][1] is None
    if manner in ("no ranges", "weak"):
        assert server.asked[1][1] is None, (
            "nothing to recognise the file by, so no part of it may be asked for"
        )


def test_a_part_that_the_server_continues_elsewhere_is_thrown_away(server, tmp_path):
    good = server.put("good", CONTENT)
    fetch(data_file(server.put("a", CONTENT, "wrong range"), good), tmp_path)
    assert [wanted for name, wanted in server.asked if name == "a"][:3] == [None, "bytes=30000-", None]
    assert is_whole(tmp_path)


def test_two_halves_of_two_versions_are_found_out_and_mended(server, tmp_path):
    """The server lies about the version: only the hash can tell."""
    url = server.put("a", CONTENT)
    (tmp_path / "set.tar.gz.part").write_bytes(bytes(30_000))
    record = {"url": url, "validator": f'"{MD5}"', "total": len(CONTENT)}
    (tmp_path / "set.tar.gz.part.json").write_text(json.dumps(record))
    fetch(data_file(url), tmp_path)
    assert server.asked == [("a", "bytes=30000-"), ("a", None)] and is_whole(tmp_path)


def test_a_server_that_continues_another_version_is_found_out_without_a_hash_too(server, tmp_path):
    url = server.put("a", CONTENT, "continues anything")
    (tmp_path / "set.tar.gz.part").write_bytes(bytes(30_000))
    record = {"url": url, "validator": '"another"', "total": len(CONTENT)}
    (tmp_path / "set.tar.gz.part.json").write_text(json.dumps(record))
    fetch(data_file(url, md5=None), tmp_path)
    assert server.asked == [("a", "bytes=30000-"), ("a", None)] and is_whole(tmp_path)


def test_megabytes_that_came_are_kept_for_the_next_attempt(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MB", 10_000)
    file = data_file(server.put("a", CONTENT, "stalls"))
    with pytest.raises(DownloadError, match="what came is kept"):
        fetch(file, tmp_path)
    server.put("a", CONTENT)
    server.asked.clear()
    fetch(file, tmp_path)
    assert server.asked == [("a", "bytes=30000-")] and is_whole(tmp_path)


@pytest.mark.parametrize("record", ["", "[]", '{"url": 1}', "{"])
def test_a_part_of_unknown_origin_is_not_continued(server, tmp_path, record):
    (tmp_path / "set.tar.gz.part").write_bytes(b"who knows")
    (tmp_path / "set.tar.gz.part.json").write_text(record)
    fetch(data_file(server.put("a", CONTENT)), tmp_path)
    assert server.asked == [("a", None)] and is_whole(tmp_path)


BAD = {  # manner of the first address: what is said of it
    "truncated": "expected 60,000 bytes, the line ended after",
    "stalls": "nothing came for 0.3 s after",
    "corrupt": f"expected md5 {MD5}, got",
    "short": f"expected md5 {MD5}, got",
    "page": "got a web page ('Google Drive - Virus scan warning')",
    "page as file": "got a web page",
    "404": "the server answers 404",
    "503": "the server answers 503",
}


@pytest.mark.parametrize("manner", BAD)
def test_a_bad_address_is_left_for_the_next_one(server, tmp_path, manner):
    bad, good = server.put("bad", CONTENT, manner), server.put("good", CONTENT)
    assert fetch(data_file(bad, good), tmp_path).source == good
    assert server.count("good") == 1 and is_whole(tmp_path)


@pytest.mark.parametrize("manner", BAD)
def test_where_every_address_fails_nothing_stays_and_each_reason_is_told(server, tmp_path, manner):
    bad, absent = server.put("bad", CONTENT, manner), f"{server.address}/absent"
    with pytest.raises(DownloadError) as caught:
        fetch(data_file(bad, absent), tmp_path)
    message = str(caught.value)
    assert f"{bad}: " in message and BAD[manner] in message and f"{absent}: the server answers 404" in message
    assert f"by hand, put it at {tmp_path / 'set.tar.gz'} ({MD5})" in message
    assert [url for url, _ in caught.value.tried] == [bad, absent]
    assert left_in(tmp_path) == set()


def test_a_size_that_is_announced_wrong_is_not_even_begun(server, tmp_path):
    with pytest.raises(DownloadError, match="expected 7 bytes, the server announces 60,000"):
        fetch(data_file(server.put("a", CONTENT), size=7), tmp_path)
    assert left_in(tmp_path) == set()


def test_a_file_without_an_announced_length_is_held_to_its_hash(server, tmp_path):
    fetch(data_file(server.put("a", CONTENT, "unannounced")), tmp_path)
    assert is_whole(tmp_path)


def test_a_host_that_refuses_is_left_at_once_and_not_asked_again(server, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        gone = f"http://127.0.0.1:{taken.getsockname()[1]}/set.tar.gz"
        good = server.put("good", CONTENT)
        assert fetch(data_file(gone, good), tmp_path / "1").source == good
        download._unreachable[gone.split("/")[2]] = (time.monotonic(), "remembered")
        with pytest.raises(DownloadError, match="remembered"):
            fetch(data_file(gone), tmp_path / "2")


def test_a_name_that_does_not_exist_is_told(server, tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match=r"cannot be reached .*Name or service not known"):
        fetch(data_file("https://nowhere.test/a"), tmp_path)


def test_a_mirror_of_ones_own_is_asked_first(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_MIRROR", server.address + "/mine/")
    server.put("mine/set.tar.gz", CONTENT)
    assert fetch(data_file(server.put("a", CONTENT)), tmp_path).source == f"{server.address}/mine/set.tar.gz"
    assert server.count("a") == 0
    server.put("mine/set.tar.gz", CONTENT, "404")
    assert fetch(data_file(server.put("a", CONTENT)), tmp_path / "2").source.endswith("/a")


@pytest.mark.parametrize("mirror", ["nowhere", "file:///tmp", "http://", "http://a b", "http://[::1"])
def test_a_mirror_that_is_no_address_is_told_and_passed_over(server, tmp_path, monkeypatch, mirror):
    monkeypatch.setenv("FLOWOOD_MIRROR", mirror)
    assert fetch(data_file(server.put("a", CONTENT)), tmp_path).source.endswith("/a")
    with pytest.raises(DownloadError, match="address"):
        fetch(data_file(server.put("a", CONTENT, "404")), tmp_path / "2")


@pytest.mark.parametrize("value", ["1", "yes"])
def test_offline_asks_nobody_but_takes_what_is_there(server, tmp_path, monkeypatch, value):
    monkeypatch.setenv("FLOWOOD_OFFLINE", value)
    file = data_file(server.put("a", CONTENT))
    with pytest.raises(DownloadError, match="FLOWOOD_OFFLINE forbids"):
        fetch(file, tmp_path)
    (tmp_path / "set.tar.gz").write_bytes(CONTENT)
    assert fetch(file, tmp_path).md5 == MD5 and server.asked == []


def test_a_wrong_file_supplied_by_hand_is_set_aside_not_used_and_not_lost(server, tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(b"mine")
    fetch(data_file(server.put("a", CONTENT)), tmp_path)
    assert (tmp_path / "set.tar.gz").read_bytes() == CONTENT
    assert (tmp_path / "set.tar.gz.refused").read_bytes() == b"mine"
    (tmp_path / "set.tar.gz").write_bytes(b"mine again")
    with pytest.raises(DownloadError, match=r"expected md5 .*set aside as set.tar.gz.refused"):
        fetch(data_file(server.put("a", CONTENT, "404")), tmp_path)


PROGRAM = """
import sys
from pathlib import Path
from flowood_core.datasets.download import fetch
from flowood_core.datasets.registry import DataFile
print(fetch(DataFile("set.tar.gz", (sys.argv[1],), md5=sys.argv[2]), Path(sys.argv[3])).source)
"""


def other_process(url: str, folder) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, url, MD5, str(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "FLOWOOD_PROGRESS": "none"}
    )


def until(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_process_killed_in_the_middle_is_continued_by_the_next(server, tmp_path):
    url = server.put("a", CONTENT, "drips once")
    process = other_process(url, tmp_path)
    part = tmp_path / "set.tar.gz.part"
    until(lambda: (part.exists() and part.stat().st_size > 0) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    had = part.stat().st_size
    assert 0 < had < len(CONTENT) and not (tmp_path / "set.tar.gz").exists()
    fetch(data_file(url), tmp_path)
    assert server.asked[1:] == [("a", f"bytes={had}-")] and is_whole(tmp_path)


def test_two_processes_download_once(server, tmp_path):
    url = server.put("a", CONTENT, "drips")
    both = [other_process(url, tmp_path) for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0].strip().splitlines()[-1] for process in both)
    assert said == ["file supplied in the archive folder", url]
    assert server.count("a") == 1 and is_whole(tmp_path)
