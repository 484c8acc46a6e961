"""Files from the network, whole and right or not at all: pooch keeps and checks them, a downloader of ours resumes.

pooch has the cache, the hashes and the place where a file grows; it cannot resume (HTTP Range), and 1.4 GB over a
line that drops needs that. So its downloader is `Resuming`; mirrors, several addresses and offline are loops around it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from flowood_core.datasets.registry import DataFile
from flowood_core.system import paths
from flowood_core.system.files import write_atomically
from flowood_core.system.progress import Progress

__all__ = ["DownloadError", "Fetched", "Resuming", "fetch", "hashes_of"]

CONNECT_S = 4.0  # a network that swallows packets must be noticed in seconds, not in the minutes of TCP
STALL_S = 30.0  # silence in the middle of a file
BACKOFF_S = (1.0, 3.0)  # waits between attempts that bring nothing; then the next address
FORGET_S = 60.0  # a host that could not be reached is not tried again for so long: six sets share few hosts
BLOCK = 1 << 18
MB = 1_000_000

_unreachable: dict[str, tuple[float, str]] = {}


class DownloadError(OSError):
    """No address gave the file; `tried` says per address why."""

    def __init__(self, message: str, tried: tuple[tuple[str, str], ...] = ()):
        super().__init__(message)
        self.tried = tried


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A file that is here, and what it is: for the record of a preparation."""

    path: Path
    source: str
    size: int
    md5: str
    sha256: str


class _GiveUp(Exception):
    """This address will not give the file, for this reason."""


class _Again(Exception):
    """The attempt broke off, for this reason; the same address may still give the file."""


def fetch(file: DataFile, folder: Path) -> Fetched:
    """The file in `folder`: as it lies there if it is right, else downloaded; two processes download once.

    A download grows as ``<file>.part`` and gets its name only when size and hash are right. A broken one is
    resumed (HTTP Range) if the server shows that it still has the same file, else begun anew. FLOWOOD_MIRROR
    names a base address where ``<filename>`` is looked for first. A file that lies there but has another hash
    is set aside as ``<file>.refused``, never used and never deleted: somebody put it there by hand.

    Raises:
        DownloadError: FLOWOOD_OFFLINE forbids it, or every address failed; the message says how each did.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f".{file.filename}.lock", file.filename):
        path = folder / file.filename
        _sweep(folder)
        tried: list[tuple[str, str]] = []
        if path.is_file():
            if (problem := _problem(file, *(found := hashes_of(path)))) is None:
                return Fetched(path, "file supplied in the archive folder", *found)
            os.replace(path, refused := path.with_name(path.name + ".refused"))
            tried.append((str(path), f"{problem}; set aside as {refused.name}"))
        for url in _addresses(file):
            if paths.is_offline():
                tried.append((url, "not tried: FLOWOOD_OFFLINE forbids downloads"))
                continue
            try:
                return Fetched(path, url, *_from_address(file, url, path))
            except _GiveUp as reason:
                tried.append((url, str(reason)))
        raise DownloadError(_failure(file, path, tried), tuple(tried))


def _sweep(folder: Path) -> None:
    """Empty files of temporary names, which a pooch that was killed leaves; one at work makes its own anew."""
    for left in folder.glob("tmp????????"):
        if left.is_file() and left.stat().st_size == 0:
            left.unlink(missing_ok=True)


def hashes_of(path: Path) -> tuple[int, str, str]:
    """Size in bytes, md5 and sha256 of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(BLOCK):
            md5.update(block)
            sha256.update(block)
        return f.tell(), md5.hexdigest(), sha256.hexdigest()


def _from_address(file: DataFile, url: str, path: Path) -> tuple[int, str, str]:
    """pooch's attempts at one address until the file is right; while megabytes come, a break costs no attempt."""
    import pooch

    part, waits, is_mended = path.with_name(path.name + ".part"), iter(BACKOFF_S), False
    known = f"sha256:{file.sha256}" if file.sha256 else f"md5:{file.md5}" if file.md5 else None
    pooch.get_logger().setLevel("ERROR")  # it tells of every file that it asks to write down the hash
    while True:
        before, resuming = _size(part), Resuming(part, file.size)
        try:
            pooch.retrieve(url, known, path.name, path.parent, downloader=resuming)
            found = hashes_of(path)
            if (problem := _problem(file, *found)) is None:
                return found
            path.unlink()
        except _Again as reason:
            if _size(part) - before >= MB:
                waits = iter(BACKOFF_S)
            if (wait := next(waits, None)) is None:
                raise _GiveUp(_with_rest(str(reason), part)) from None
            time.sleep(wait)
            continue
        except ValueError:  # pooch's word for another hash; what came is gone
            problem = _problem(file, *resuming.found) or "another hash"
        if is_mended or not resuming.is_resumed:
            raise _GiveUp(problem)
        is_mended = True  # the two halves may be of two versions of the file: once more, whole


class Resuming:
    """A downloader for pooch that keeps what came in a ``.part`` file and goes on there.

    Args:
        part: where the file grows; ``.part.json`` beside it says what server and version it is of.
        size: in bytes, where it is known beforehand.

    Attributes:
        is_resumed: whether the file was put together of more than one answer.
        found: size, md5 and sha256 of what came.
    """

    def __init__(self, part: Path, size: int | None = None):
        self.part, self.size, self.is_resumed, self.found = part, size, False, (0, "", "")

    def __call__(self, url: str, output_file: str, pooch: Any = None, check_only: bool = False) -> None:
        """Fetch `url` into `output_file`.

        Raises:
            _Again: the line broke; the same address may still give the rest.
            _GiveUp: this address will not give the file.
        """
        record = _resumable(self.part, url)
        start = _size(self.part) if record else 0
        headers = {"User-Agent": "flowood-core", "Accept-Encoding": "identity"}
        if record:
            headers |= {"Range": f"bytes={start}-", "If-Range": record["validator"]}
        try:
            with _asked(url, headers) as response:
                start, total = self._begun(response, url, start, record)
                self._receive(response, start, total)
        except _GiveUp:
            if _size(self.part) == 0:
                _remove(self.part)
            raise
        self.found = hashes_of(self.part)
        os.replace(self.part, output_file)
        _remove(self.part)

    def _begun(self, response: Any, url: str, start: int, record: dict | None) -> tuple[int, int | None]:
        """From which byte the answer goes on, and how long the whole file is."""
        if "html" in response.headers.get("Content-Type", ""):
            raise _GiveUp(_page_sentence(response.raw.read1(BLOCK, decode_content=False)))
        if start and response.status_code == 206:
            if not _continues(response, start, record):
                _remove(self.part)
                raise _Again("the server continues another file or place; begun anew")
            self.is_resumed = True
            return start, record["total"]
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if self.size is not None and total is not None and total != self.size:
            raise _GiveUp(f"expected {self.size:,} bytes, the server announces {total:,}")
        _remove(self.part)  # the server has another version of the file, or knows no ranges
        _remember(self.part, url, response.headers, total)
        return 0, total

    def _receive(self, response: Any, start: int, total: int | None) -> None:
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        room, size = shutil.disk_usage(self.part.parent).free, start
        if total is not None and total - start > room:
            raise _GiveUp(
                f"expected {(total - start) // MB} MB of free disk, got {room // MB}; free some first"
            )
        # without an announced length there is nothing to count towards
        bar = (
            Progress((total or 0) // MB, f"downloading {self.part.stem} (MB)", start // MB) if total else None
        )
        try:
            with self.part.open("ab") as f:
                # what has come, not a whole block: a broken line leaves every byte of it
                while block := response.raw.read1(BLOCK, decode_content=False):
                    if size == 0 and _is_page(block):
                        raise _GiveUp(_page_sentence(block))
                    f.write(block)
                    f.flush()
                    if bar is not None:
                        bar.update((size + len(block)) // MB - size // MB)
                    size += len(block)
        except ReadTimeoutError:
            raise _Again(f"nothing came for {STALL_S:g} s after {size:,} bytes") from None
        except (HTTPError, OSError) as error:
            if total is None:
                raise _Again(f"the line broke after {size:,} bytes ({_reason(error)})") from None
        finally:
            if bar is not None:
                bar.close()
        if total is not None and size < total:
            raise _Again(f"expected {total:,} bytes, the line ended after {size:,}")


@contextlib.contextmanager
def _asked(url: str, headers: dict[str, str]) -> Iterator[Any]:
    """The server's answer, where it is one; a host that cannot be reached is not asked again for a while."""
    import requests

    host = urlsplit(url).netloc
    since, reason = _unreachable.get(host, (0.0, ""))
    if reason and time.monotonic() - since < FORGET_S:
        raise _GiveUp(reason)
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_S, STALL_S)) as response:
            code = response.status_code
            if code in (408, 425, 429) or code >= 500:
                raise _Again(f"the server answers {code} {response.reason}")
            if code not in (200, 206, 416):
                raise _GiveUp(f"the server answers {code} {response.reason}")
            yield response
    except requests.exceptions.ReadTimeout:
        raise _Again(f"connected, but no answer within {STALL_S:g} s") from None
    except (requests.exceptions.ConnectTimeout, requests.exceptions.ConnectionError) as error:
        reason = f"cannot be reached ({_reason(error)})"
        _unreachable[host] = (time.monotonic(), reason)
        raise _GiveUp(reason) from None
    except (requests.exceptions.RequestException, ValueError) as error:
        raise _GiveUp(f"not an address: {error}") from None


# --- resuming --------------------------------------------------------------------------------------------


def _beside(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, url: str, headers: Any, total: int | None) -> None:
    """What tells later whether the server still has the same file. A weak ETag does not promise equal bytes."""
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    if validator and total is not None:
        write_atomically(
            _beside(part), json.dumps({"url": url, "validator": validator, "total": total}).encode()
        )


def _resumable(part: Path, url: str) -> dict | None:
    try:
        record = json.loads(_beside(part).read_text(encoding="utf-8"))
        right = (
            record["url"] == url
            and 0 < _size(part) < record["total"]
            and isinstance(record["validator"], str)
        )
        return record if right else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _continues(response: Any, start: int, record: dict) -> bool:
    total, headers = record["total"], response.headers
    same = record["validator"] in (headers.get("ETag"), headers.get("Last-Modified"))
    return same and headers.get("Content-Range") == f"bytes {start}-{total - 1}/{total}"


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)


# --- what came, in words ---------------------------------------------------------------------------------


def _problem(file: DataFile, size: int, md5: str, sha256: str) -> str | None:
    """Why these are not the bytes of the file, or None."""
    if file.size is not None and size != file.size:
        return f"expected {file.size:,} bytes, got {size:,}"
    if file.sha256 is not None and sha256 != file.sha256:
        return f"expected sha256 {file.sha256}, got {sha256}"
    if file.md5 is not None and md5 != file.md5:
        return f"expected md5 {file.md5}, got {md5} ({size:,} bytes)"
    return None


def _is_page(block: bytes) -> bool:
    return block[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def _page_sentence(block: bytes) -> str:
    """Dropbox and Google Drive answer with a page: to confirm, to log in, or because of too many downloads."""
    match = re.search(rb"<title[^>]*>(.*?)</title", block, re.IGNORECASE | re.DOTALL)
    title = " ".join(match[1].decode("utf-8", "replace").split())[:80] if match else "no title"
    return (
        f"expected the file, got a web page ('{title}'): the host wants a confirmation or a log-in, has too many "
        "downloads of it, or no longer has it; open the address in a browser"
    )


def _with_rest(reason: str, part: Path) -> str:
    """Megabytes are kept for the next attempt; less is not worth a file that looks like an answer."""
    if _size(part) >= MB and _beside(part).exists():
        return f"{reason}; what came is kept for the next attempt"
    _remove(part)
    return reason


def _failure(file: DataFile, path: Path, tried: list[tuple[str, str]]) -> str:
    lines = [f"{file.filename}: expected it from one of {len(_addresses(file))} addresses, got none:"]
    lines += [f"  {where}: {why}" for where, why in tried]
    known = file.sha256 or file.md5
    lines.append(f"To supply it by hand, put it at {path}" + (f" ({known})" if known else ""))
    return "\n".join(lines)


def _reason(error: BaseException) -> str:
    """The innermost words of an error of requests, which wraps those of urllib3."""
    text = str(error)
    if "timed out" in text:
        return f"no answer within {CONNECT_S:g} s"
    inner = re.search(r"\[Errno -?\d+\] ([^'\")]*)", text)
    return inner[1] if inner else text


def _addresses(file: DataFile) -> tuple[str, ...]:
    mirror = os.environ.get("FLOWOOD_MIRROR", "").rstrip("/")
    return (*([f"{mirror}/{file.filename}"] if mirror else []), *file.urls)


@contextlib.contextmanager
def _lock(path: Path, name: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=2)
    except Timeout:
        print(f"another process is fetching {name}; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
