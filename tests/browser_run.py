"""Real onnxruntime-web in a real Chromium, for the end-to-end tests of the browser device and for the picture in docs:

python tests/browser_run.py docs/browser.png
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from headless_browser import Browser, Opened, find_chromium
from playwright.sync_api import Error as PlaywrightError
from runtime_models import write_images, write_net

from kdedge.devices.browser import fetch, server
from kdedge.devices.browser.desk import Desk
from kdedge.errors import DeviceError
from kdedge.runtimes.job import Job, LaunchRule


def web_runtime() -> fetch.WebRuntime:
    """onnxruntime-web, fetched once into a folder of temporary files; skips the test where npm cannot bring it."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / f"kdedge-tests-{os.getuid()}")
    try:
        return fetch.obtain(fetch=True)
    except DeviceError as error:
        pytest.skip(f"onnxruntime-web cannot be fetched: {error}")
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        os.environ |= {} if before is None else {"XDG_CACHE_HOME": before}


@dataclass
class RealPage:
    """A server, and a Chromium that has its page open at a phone's width."""

    desk: Desk
    server: server.PageServer
    opened: Opened

    def evaluate(self, expression: str) -> Any:
        return self.opened.evaluate(expression)

    def shows(self, expression: str) -> bool:
        return self.opened.shows(expression)

    def reload(self) -> None:
        """As its user would; it may be doing so itself, as before every job, and between two documents Chromium has no page to reload."""

        def begun() -> bool:
            try:
                self.opened.tools.send("Page.reload")
            except PlaywrightError as error:
                if "Not attached to an active page" not in str(error):
                    raise
                return False
            return True

        self.eventually(begun)

    def complaints(self) -> list[str]:
        """What the page threw or the browser logged since the last look, but for the missing GPU."""
        self.evaluate("1")
        found = [each for each in self.opened.complaints if "No available adapters" not in each]
        self.opened.complaints.clear()
        return found

    def eventually(self, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.05)
        return found


@contextmanager
def real_page(runtime: fetch.WebRuntime) -> Iterator[RealPage]:
    program = find_chromium()
    desk = Desk(runtime.version)
    started = server.start(desk, runtime)
    try:
        with Browser(program) as browser:
            page = RealPage(desk, started, browser.blank(390, 844))
            page.opened.page.goto(started.address())
            page.eventually(desk.pages)
            yield page
    finally:
        started.close()


def picture(target: str) -> None:
    """The page in the middle of a launch, after a few jobs."""
    folder = Path(tempfile.mkdtemp())
    write_images(folder / "x.npy", 5)
    files = {"main": [str(write_net(folder / "digits-fp32.onnx"))]}
    job = Job("validate", "onnxruntime", files, {"threads": 1}, [{"image": str(folder / "x.npy")}], batch=2)
    short, long = LaunchRule(0.1, 3, 0.2, 10, 5.0), LaunchRule(0.1, 3, 6.0, 10, 10.0)
    with real_page(web_runtime()) as page, ThreadPoolExecutor(1) as pool:
        for number, (kind, rule) in enumerate([("validate", short), ("launch", short), ("launch", short), ("launch", long)]):
            (folder / str(number)).mkdir()
            waiting = pool.submit(page.desk.run, Job(**{**vars(job), "kind": kind, "launch": rule}), folder / str(number), 60.0, "")
            if rule is short:
                assert waiting.result(60).status == "ok"
        timing = "document.getElementById('note').textContent.startsWith('timing') && document.getElementById('bar').value > .3"
        page.eventually(lambda: page.shows(timing))
        page.opened.picture(Path(target))
        waiting.result(60)
    shutil.rmtree(folder)


if __name__ == "__main__":
    picture(sys.argv[1])
