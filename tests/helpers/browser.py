"""A headless Chromium for tests of pages, spoken to by its own protocol (no driver to install)."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def found() -> str | None:
    """The browser to use: FLOWOOD_BROWSER, else the first of the usual names; None where there is none."""
    return os.environ.get("FLOWOOD_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def opened(folder: Path, width: int = 1280, height: int = 900):
    """A `Page` of a new browser, which keeps its profile below `folder`."""
    import websocket

    port = folder / "browser" / "DevToolsActivePort"
    command = [
        found(),
        "--headless",
        "--disable-gpu",
        "--no-sandbox",
        "--no-first-run",
        "--disable-extensions",
    ]
    command += ["--remote-debugging-port=0", f"--user-data-dir={port.parent}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not (port.is_file() and port.read_text().count("\n")):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"expected {command[0]} to open a port, got exit code {process.poll()}")
            time.sleep(0.05)
        number, path = port.read_text().split()
        link = websocket.create_connection(f"ws://127.0.0.1:{number}{path}", timeout=60, suppress_origin=True)
        yield Page(link, width, height)
        link.send(json.dumps({"id": 0, "method": "Browser.close"}))
        link.close()
        process.wait(20)
    finally:
        process.kill()
        process.wait()


class Page:
    """One tab. `complaints` are the errors of the page since it was opened: console, exceptions, failed requests."""

    def __init__(self, link, width, height):
        self.link, self.session, self.n, self.loaded, self.complaints = link, None, 0, False, []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        self.resize(width, height)

    def resize(self, width, height=900):
        """A narrow page is a phone's: its viewport tag counts, and wide content widens the page."""
        phone = width < 600
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )

    def go(self, url):
        """Open an address and wait until it has loaded."""
        self.loaded, self.complaints = False, []
        self._ask("Page.navigate", url=url)
        while not self.loaded:
            self._take()

    def js(self, expression):
        """The value of a JavaScript expression, awaited if it is a promise."""
        made = self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in made:
            raise RuntimeError(made["exceptionDetails"]["exception"]["description"])
        return made["result"].get("value")

    def screenshot(self, path):
        """The whole page as PNG."""
        import base64

        made = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(made["data"]))

    def _ask(self, method, **parameters):
        self.n += 1
        asked = {"id": self.n, "method": method, "params": parameters}
        self.link.send(json.dumps(asked | ({"sessionId": self.session} if self.session else {})))
        while (message := self._take()).get("id") != asked["id"]:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def _take(self):
        message = json.loads(self.link.recv())
        event, facts = message.get("method"), message.get("params", {})
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(facts["exceptionDetails"]["exception"].get("description", "exception"))
        elif event == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning"):
            self.complaints.append(str([a.get("value") for a in facts["args"]]))
        elif event == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
        elif event == "Network.loadingFailed" and not facts.get("canceled"):
            self.complaints.append(facts["errorText"])
        return message
