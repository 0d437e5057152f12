"""A real browser for the tests of the report: Chromium, driven through its debugging pipe with the standard library alone."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str:
    """The program; skips the test where no Chromium is installed."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no Chromium is installed (looked for {', '.join(NAMES)})")


@dataclass
class Opened:
    """A page that was loaded at one width: what it asked for, what it complained of, and where it can be looked at further."""

    browser: Browser
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.browser.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, path: Path, *, whole: bool = True) -> Path:
        """A PNG of the page, whole or its first screen."""
        answer = self.browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path


class Browser:
    """One headless Chromium with a profile of its own that ends with it."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.mkdtemp()
        to_browser, from_browser = os.pipe(), os.pipe()
        # Out of the way of 3 and 4, which are the descriptors that Chromium reads from and writes to.
        theirs = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (to_browser[0], from_browser[1])]
        self._output, self._input = os.fdopen(from_browser[0], "rb"), os.fdopen(to_browser[1], "wb")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
        flags += ["--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={self._profile}", "--remote-debugging-pipe"]

        def hand_over() -> None:
            for theirs_now, number in zip(theirs, (3, 4), strict=True):
                os.dup2(theirs_now, number)

        self._process = subprocess.Popen(
            [program, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=hand_over
        )
        for descriptor in (to_browser[0], from_browser[1], *theirs):
            os.close(descriptor)
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        self._rest = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, path: Path, width: int, height: int = 900, *, dark: bool = False) -> Opened:
        """Load a file at a width in CSS pixels, as a phone does (below 600) or as a desktop does."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self._events.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        self._wait_for("Page.loadEventFired")
        time.sleep(0.2)  # what the page would load late
        self.call("Runtime.evaluate", expression="document.readyState")
        opened = Opened(self)
        for event in self._events:
            parameters = event.get("params", {})
            if event["method"] == "Network.requestWillBeSent":
                opened.requests.append(parameters["request"]["url"])
            elif event["method"] == "Network.loadingFailed":
                opened.failures.append(parameters["errorText"])
            elif event["method"] == "Runtime.exceptionThrown":
                opened.complaints.append(str(parameters["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                opened.complaints.append(parameters["entry"]["text"])
        return opened

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the DevTools protocol and return its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._input.write(json.dumps(message).encode() + b"\0")
        self._input.flush()
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _wait_for(self, method: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not any(event.get("method") == method for event in self._events):
            assert time.monotonic() < deadline, f"the browser never sent {method}"
            self._events.append(self._read())

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._output.fileno(), 1 << 16)
            assert block, "the browser has ended"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


def main(page: str, picture: str, width: str, height: str = "900", *options: str) -> None:
    """Look at a page oneself: `python tests/headless_browser.py report.html picture.png 390 [HEIGHT] [whole] [dark]`."""
    with Browser(find_chromium()) as browser:
        browser.open(Path(page), int(width), int(height), dark="dark" in options).picture(Path(picture), whole="whole" in options)


if __name__ == "__main__":
    main(*sys.argv[1:])
