"""Files from the network, whole and right or not at all: resumed, checked while they stream, tried elsewhere.

Of the libraries at hand pooch checks hashes but cannot resume, and 1.4 GB over a line that drops needs it; so
this is the standard library's urllib.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from flowood_core.datasets.registry import DataFile
from flowood_core.system.files import write_atomically
from flowood_core.system.progress import Progress

__all__ = ["DownloadError", "Fetched", "fetch", "hashes_of", "is_offline"]

CONNECT_S = 4.0  # a network that swallows packets must be noticed in seconds, not in the minutes of TCP
STALL_S = 30.0  # silence in the middle of a file
BACKOFF_S = (1.0, 3.0)  # waits between attempts that bring nothing; then the next address
FORGET_S = 60.0  # a host that could not be reached is not tried again for so long: six sets share few hosts
BLOCK = 1 << 18
MB = 1_000_000
SIZE_CAP = 1 << 36  # 64 GB: no file of ours is near, and a server that never stops must not fill the disk

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


class _Stale(Exception):
    """What we have cannot be continued."""


def is_offline() -> bool:
    """Whether FLOWOOD_OFFLINE forbids downloads."""
    return os.environ.get("FLOWOOD_OFFLINE", "") not in ("", "0")


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
        tried: list[tuple[str, str]] = []
        if path.is_file():
            found = hashes_of(path)
            problem = _mismatch(file, *found)
            if problem is None:
                return Fetched(path, "file supplied in the archive folder", *found)
            refused = path.with_name(path.name + ".refused")
            os.replace(path, refused)
            tried.append((str(path), f"{problem}; set aside as {refused.name}"))
        if is_offline():
            tried += [(url, "not tried: FLOWOOD_OFFLINE forbids downloads") for url in _addresses(file)]
            raise DownloadError(_failure(file, path, tried), tuple(tried))
        for url in _addresses(file):
            try:
                return _from_address(file, url, path)
            except _GiveUp as reason:
                tried.append((url, str(reason)))
                part = path.with_name(path.name + ".part")
                if _size(part) == 0:
                    _remove(part)
        raise DownloadError(_failure(file, path, tried), tuple(tried))


def hashes_of(path: Path) -> tuple[int, str, str]:
    """Size in bytes, md5 and sha256 of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(BLOCK):
            md5.update(block)
            sha256.update(block)
        return f.tell(), md5.hexdigest(), sha256.hexdigest()


# --- one address -----------------------------------------------------------------------------------------


def _from_address(file: DataFile, url: str, path: Path) -> Fetched:
    """Attempts at one address until the file is right; as long as megabytes come, a break costs no attempt."""
    part = path.with_name(path.name + ".part")
    waits = iter(BACKOFF_S)
    mended = False
    while True:
        before = _size(part)
        try:
            resumed, found = _stream(file, url, part)
        except _Again as reason:
            if _size(part) - before >= MB:
                waits = iter(BACKOFF_S)
            if (wait := next(waits, None)) is None:
                keep = _size(part) >= MB and _resumable(part, url) is not None
                if not keep:
                    _remove(part)
                fate = "kept for the next attempt" if keep else "removed"
                raise _GiveUp(f"{reason}; {len(BACKOFF_S) + 1} attempts, what came is {fate}") from None
            time.sleep(wait)
            continue
        problem = _mismatch(file, *found)
        if problem is None:
            os.replace(part, path)
            _remove(part)
            return Fetched(path, url, *found)
        _remove(part)
        if not resumed or mended:
            raise _GiveUp(f"{problem}; removed")
        mended = True  # the two halves may be of two versions of the file: once more, whole


def _stream(file: DataFile, url: str, part: Path) -> tuple[bool, tuple[int, str, str]]:
    """Append what the server sends to the part. Returns whether it was resumed, and size and hashes."""
    record = _resumable(part, url)
    request = _request(url)
    start = 0
    if record is not None:
        start = _size(part)
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", record["validator"])
    try:
        with _opened(request) as response:
            if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
                page = b""
                with contextlib.suppress(OSError, http.client.HTTPException):
                    page = response.read(BLOCK)
                raise _GiveUp(_page_sentence(page))
            total = _length(response)
            if start and response.status == 206:
                _check_range(response, start, record)
                total = record["total"]
            elif response.status != 200:
                raise _Stale(f"expected status 200, or 206 for a part, got {response.status}")
            elif file.size is not None and total is not None and total != file.size:
                raise _GiveUp(f"expected {file.size:,} bytes, the server announces {total:,}")
            else:  # the server has another version of the file, or knows no ranges: from the beginning
                start = 0
                _remove(part)
                _remember(part, url, response, total)
            return start > 0, _receive(response, part, start, total, file.filename)
    except _Stale as reason:
        _remove(part)
        raise _Again(f"{reason}; begun anew") from None


def _receive(
    response: http.client.HTTPResponse, part: Path, start: int, total: int | None, name: str
) -> tuple[int, str, str]:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    if total is not None:
        room = shutil.disk_usage(part.parent).free
        if total - start > room:
            raise _GiveUp(
                f"expected {(total - start) // MB} MB of free disk, got {room // MB}; free some first"
            )
    with part.open("ab") as f:
        if start:
            with part.open("rb") as begun:
                while block := begun.read(BLOCK):
                    md5.update(block)
                    sha256.update(block)
        size = start
        with _bar(name, start, total) as bar:
            while True:
                try:
                    block = response.read1(BLOCK)
                except TimeoutError:
                    raise _Again(f"nothing came for {STALL_S:g} s after {size:,} bytes") from None
                except (OSError, http.client.HTTPException) as error:
                    raise _Again(f"the line broke after {size:,} bytes ({_reason(error)})") from None
                if not block:
                    break
                if size == 0 and _is_page(block):
                    raise _GiveUp(_page_sentence(block))
                f.write(block)
                md5.update(block)
                sha256.update(block)
                if bar is not None:
                    bar.update((size + len(block)) // MB - size // MB)
                size += len(block)
                if size > SIZE_CAP:
                    raise _GiveUp(f"expected at most {SIZE_CAP:,} bytes, got more")
        f.flush()
        os.fsync(f.fileno())
    if total is not None and size < total:
        raise _Again(f"expected {total:,} bytes, the line ended after {size:,}")
    return size, md5.hexdigest(), sha256.hexdigest()


def _request(url: str) -> urllib.request.Request:
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("expected it to begin with http:// or https://")
        return urllib.request.Request(
            url, headers={"User-Agent": "flowood-core", "Accept-Encoding": "identity"}
        )
    except ValueError as error:
        raise _GiveUp(f"not an address: {error}") from None


@contextlib.contextmanager
def _opened(request: urllib.request.Request) -> Iterator[http.client.HTTPResponse]:
    host = urlsplit(request.full_url).netloc
    since, reason = _unreachable.get(host, (0.0, ""))
    if reason and time.monotonic() - since < FORGET_S:
        raise _GiveUp(reason)
    try:
        response = _opener().open(request, timeout=STALL_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Again(f"the server answers {error.code} {error.reason}") from None
        if error.code == 416:
            raise _Stale("the server has fewer bytes than we have") from None
        raise _GiveUp(f"the server answers {error.code} {error.reason}") from None
    except _NoConnection as error:
        raise _gone(host, error) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, _NoConnection):
            raise _gone(host, error.reason) from None
        raise _Again(_reason(error)) from None
    except TimeoutError:
        raise _Again(f"connected, but no answer within {STALL_S:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Again(_reason(error)) from None
    except ValueError as error:  # http.client.InvalidURL and its like
        raise _GiveUp(f"not an address: {error}") from None
    with response:
        yield response


def _gone(host: str, error: OSError) -> _GiveUp:
    """No connection: waiting would not mend it, and the other files of this host need not learn it anew."""
    reason = f"cannot be reached ({_reason(error)})"
    _unreachable[host] = (time.monotonic(), reason)
    return _GiveUp(reason)


class _NoConnection(OSError):
    """Name not found, refused, no route, or silence while connecting."""


class _ShortConnect:
    """A connection that waits CONNECT_S for the other side, and the longer timeout only for its data."""

    def connect(self) -> None:
        wait, self.timeout = self.timeout, CONNECT_S
        self._create_connection = _connected  # where http.client keeps it for such a change
        try:
            super().connect()
        except ssl.SSLCertVerificationError as error:
            raise _NoConnection(f"certificate not accepted: {error.verify_message}") from error
        except OSError as error:
            raise _NoConnection(_reason(error)) from error
        self.timeout = wait
        self.sock.settimeout(wait)


def _connected(address: tuple[str, int], timeout: float, source_address=None) -> socket.socket:
    """A socket to a host within `timeout`, all its numeric addresses together: some have eight."""
    deadline, last = time.monotonic() + timeout, OSError("no address")
    for *_, (host, port, *_) in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            return socket.create_connection((host, port), max(left, 0.1), source_address)
        except OSError as error:
            last = error
    raise last


class _Http(_ShortConnect, http.client.HTTPConnection):
    pass


class _Https(_ShortConnect, http.client.HTTPSConnection):
    pass


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_Http, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_Https, request, context=ssl.create_default_context())


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_HttpHandler, _HttpsHandler)  # with the proxies of the environment


# --- resuming --------------------------------------------------------------------------------------------


def _beside(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, url: str, response: http.client.HTTPResponse, total: int | None) -> None:
    """What tells later whether the server still has the same file. A weak ETag does not promise equal bytes."""
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    if validator and total is not None:
        record = {"url": url, "validator": validator, "total": total}
        write_atomically(_beside(part), json.dumps(record).encode())


def _resumable(part: Path, url: str) -> dict | None:
    try:
        record = json.loads(_beside(part).read_text(encoding="utf-8"))
        size = part.stat().st_size
        right = record["url"] == url and 0 < size < record["total"] and isinstance(record["validator"], str)
        return record if right else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_range(response: http.client.HTTPResponse, start: int, record: dict) -> None:
    sent, total = response.headers.get("Content-Range", ""), record["total"]
    same = record["validator"] in (response.headers.get("ETag"), response.headers.get("Last-Modified"))
    if sent != f"bytes {start}-{total - 1}/{total}" or not same:
        raise _Stale(
            f"expected bytes {start}-{total - 1}/{total} of the same file, got '{sent}' of another or none"
        )


def _length(response: http.client.HTTPResponse) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)


# --- what came, in words ---------------------------------------------------------------------------------


def _mismatch(file: DataFile, size: int, md5: str, sha256: str) -> str | None:
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


def _failure(file: DataFile, path: Path, tried: list[tuple[str, str]]) -> str:
    lines = [f"{file.filename}: expected it from one of {len(_addresses(file))} addresses, got none:"]
    lines += [f"  {where}: {why}" for where, why in tried]
    known = file.sha256 or file.md5
    lines.append(f"To supply it by hand, put it at {path}" + (f" ({known})" if known else ""))
    return "\n".join(lines)


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None) or error
    if isinstance(inner, TimeoutError):
        return f"no answer within {CONNECT_S:g} s"
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _addresses(file: DataFile) -> tuple[str, ...]:
    mirror = os.environ.get("FLOWOOD_MIRROR", "").rstrip("/")
    return (*([f"{mirror}/{file.filename}"] if mirror else []), *file.urls)


# --- watching and waiting --------------------------------------------------------------------------------


@contextlib.contextmanager
def _bar(name: str, start: int, total: int | None) -> Iterator[Progress | None]:
    """Megabytes received; without an announced length there is nothing to count towards."""
    if total is None:
        print(f"downloading {name} (size not announced)", flush=True)
        yield None
        return
    bar = Progress(total // MB, f"downloading {name} (MB)", start // MB)
    try:
        yield bar
    finally:
        bar.close()


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
