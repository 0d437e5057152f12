"""A real browser for the tests of what people look at: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import CDPSession, Error, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str:
    """The program; skips the test where no Chromium is installed."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no Chromium is installed (looked for {', '.join(NAMES)})")


@dataclass
class Opened:
    """A page at one width: what it asked for, what it complained of, and where it can be looked at further."""

    page: Page
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.failures.append(f"{request.url}: {request.failure}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; in the next one, where the page goes elsewhere meanwhile."""
        while True:
            try:
                return self.page.evaluate(expression)
            except Error as error:
                if "context was destroyed" not in str(error):
                    raise
                self.page.wait_for_load_state()

    @cached_property
    def tools(self) -> CDPSession:
        """The DevTools protocol, for what Playwright has no word for."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("Page.enable")
        return session

    def shows(self, expression: str) -> bool:
        """Whether an expression is true now; in the middle of a reload nothing is."""
        try:
            return bool(self.evaluate(f"document.readyState === 'complete' && ({expression})"))
        except Error:
            return False

    def picture(self, path: Path, *, whole: bool = True) -> Path:
        """A PNG of the page, whole or its first screen."""
        self.page.screenshot(path=path, full_page=whole)
        return path


class Browser:
    """One headless Chromium. Playwright allows one at a time in a thread."""

    def __init__(self, program: str) -> None:
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=program, args=["--disable-gpu", "--disable-dev-shm-usage"])

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        self._chromium.close()
        self._playwright.stop()

    def blank(self, width: int, height: int = 900, *, dark: bool = False) -> Opened:
        """An empty page of a profile of its own, as wide in CSS pixels as a phone (below 600) or as a desktop."""
        context = self._chromium.new_context(
            viewport={"width": width, "height": height}, is_mobile=width < 600, color_scheme="dark" if dark else "light"
        )
        return Opened(context.new_page())

    def open(self, path: Path, width: int, height: int = 900, *, dark: bool = False) -> Opened:
        """Load a file, with what it would load late."""
        opened = self.blank(width, height, dark=dark)
        opened.page.goto(path.absolute().as_uri())
        opened.page.wait_for_load_state("networkidle")
        return opened


def main(page: str, picture: str, width: str, height: str = "900", *options: str) -> None:
    """Look at a page oneself: `python tests/headless_browser.py report.html picture.png 390 [HEIGHT] [whole] [dark]`."""
    with Browser(find_chromium()) as browser:
        browser.open(Path(page), int(width), int(height), dark="dark" in options).picture(Path(picture), whole="whole" in options)


if __name__ == "__main__":
    main(*sys.argv[1:])
