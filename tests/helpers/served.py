"""A web server in a thread that serves files well or badly, for the tests of downloads."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>?</body></html>"
)


class Server:
    """Files by name, each served in a manner (see `_Handler`); `asked` lists (name, Range header or None)."""

    def __init__(self, address: str):
        self.address = address
        self.files: dict[str, tuple[bytes, str]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ended = threading.Event()

    def put(self, name: str, content: bytes, manner: str = "well") -> str:
        """The address of a file served so."""
        self.files[name] = (content, manner)
        return f"{self.address}/{name}"

    def count(self, name: str) -> int:
        return sum(asked == name for asked, _ in self.asked)


class _Handler(BaseHTTPRequestHandler):
    """Manners; those that end in `once` are well from the second request on.

    well: with ETag and ranges. no ranges, weak, dated: half, then all, with neither, a weak ETag alone, or
    ranges by Last-Modified. truncated: the length announced, half of it sent. stalls: half, then silence.
    corrupt: other bytes. short: half the bytes, announced so. page, page as file: HTML. 404, 503. wrong range:
    another part than asked for. continues anything: If-Range is not understood. changed: half of one version,
    then only another. unannounced: no length. drips: 20 kB, then slowly.
    """

    def log_message(self, *_):
        pass

    def do_GET(self):
        server: Server = self.server.state
        name, wanted = self.path.strip("/").split("?")[0], self.headers.get("Range")
        server.asked.append((name, wanted))
        content, manner = server.files.get(name, (b"", "404"))
        if manner.endswith(" once"):
            manner = manner.removesuffix(" once") if server.count(name) == 1 else "well"
        with contextlib.suppress(ConnectionError):
            self.answer(server, name, content, manner, wanted)

    def answer(self, server: Server, name: str, content: bytes, manner: str, wanted: str | None) -> None:
        half = len(content) // 2
        if manner in ("404", "503"):
            return self.send_error(int(manner))
        if manner.startswith("page"):
            kind = "text/html; charset=utf-8" if manner == "page" else "application/octet-stream"
            return self.send(200, PAGE, {"Content-Type": kind})
        if manner == "corrupt":
            content = content[:half] + bytes(b ^ 255 for b in content[half:])
        if manner == "short":
            content = content[:half]
        if manner == "unannounced":
            return self.send(200, content, {"Content-Length": None})
        tags = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        if manner == "changed":
            if server.count(name) == 1:
                return self.send(200, bytes(half), {"ETag": '"old"', "Content-Length": str(len(content))})
            manner = "well"
        if manner == "dated":
            tags = {"Last-Modified": "Thu, 01 Jan 2015 00:00:00 GMT"}
        if manner in ("weak", "no ranges"):
            tags = {"ETag": 'W/"1"'} if manner == "weak" else {}
        if manner in ("dated", "weak", "no ranges") and server.count(name) == 1:
            return self.send(200, content[:half], tags | {"Content-Length": str(len(content))})
        start = 0
        same = self.headers.get("If-Range") in (None, *tags.values()) or manner == "continues anything"
        if wanted and manner in ("well", "dated", "weak", "wrong range", "continues anything") and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            tags["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if manner == "wrong range":
                tags["Content-Range"] = f"bytes 0-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        sent = rest[:half] if manner in ("truncated", "stalls", "wrong range") else rest
        if manner == "drips":
            sent = rest[:20_000]
        self.send(206 if start else 200, sent, tags | {"Content-Length": str(len(rest))})
        if manner == "stalls":
            server.ended.wait(5)
        for place in range(20_000, len(rest), 2_000) if manner == "drips" else ():
            if server.ended.is_set():
                return None
            time.sleep(0.05)
            self.wfile.write(rest[place : place + 2_000])
            self.wfile.flush()
        return None

    def send(self, status: int, body: bytes, headers: dict[str, str | None]) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))} | headers
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server on this machine, on a free port, while the block lasts."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    http.state = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield http.state
    finally:
        http.state.ended.set()
        http.shutdown()
        http.server_close()
        thread.join()
