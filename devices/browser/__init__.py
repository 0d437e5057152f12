"""Any phone by its browser: a page with onnxruntime-web that takes jobs from a server of this machine.

`browser` is the one page that is open, `browser:NAME` the one of that name. A server that `kdedge devices serve` started is used where it runs;
otherwise one is started on loopback, for a browser on this machine or a phone behind `adb reverse`.

A launch is a fresh load of the page and a fresh instance of the WebAssembly module in a worker of its own. The browser's process may be the same
and may have the module compiled already, as on a second visit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from kdedge import progress
from kdedge.devices.browser import fetch
from kdedge.devices.browser.control import RunningDesk, running_desk
from kdedge.devices.browser.desk import Desk
from kdedge.devices.browser.facts import device_name, identity
from kdedge.devices.browser.server import PageServer, start
from kdedge.devices.device import Device, DeviceSettings, refuse_others
from kdedge.devices.transport import Completed
from kdedge.errors import DeviceError, DeviceUnresponsive
from kdedge.runtimes.job import Job, Result

# Seconds that `open_device` waits for a person to open the page.
WAIT = 120.0

_own_lock = Lock()
_own: list[tuple[Desk, PageServer, str]] = []


def open_device(name: str, settings: DeviceSettings) -> Device:
    """The page that is open in a browser.

    Raises:
        DeviceError: onnxruntime-web is not here, or several pages are open and none is named.
        DeviceUnresponsive: nobody opened the page in time.
    """
    refuse_others(name, settings, (), "a browser lets nobody set anything")
    desk, version = _desk()
    page, facts = _wait_for_page(desk, settings.address)
    # By the name that it has now: another page, which may open later, is not the machine of this identity.
    return Device(identity(name, facts, version), BrowserTransport(desk, page), python="", runner=BrowserRunner(desk, page))


@dataclass(frozen=True)
class BrowserRunner:
    """Hands jobs to the desk of the server."""

    desk: Desk | RunningDesk
    page: str

    def run(self, job: Job, folder: Path, timeout: float, name: str) -> Result:
        """As `Runner.run`. A page keeps nothing, so a job is always done anew.

        Raises:
            Disconnected: no page is open any more.
            DeviceGone: the server has ended.
        """
        result = self.desk.run(job, folder, timeout, self.page)
        (folder / "worker.log").write_text(f"{name}: {result.status} {result.reason}\n", encoding="utf-8")
        return result


@dataclass(frozen=True)
class BrowserTransport:
    """A browser has jobs and nothing else: whatever wants files or processes there is told so."""

    desk: Desk | RunningDesk
    page: str

    def push(self, local: Path, remote: str) -> int:
        """Raises DeviceError."""
        raise self._without("files")

    def pull(self, remote: str, local: Path) -> None:
        """Raises DeviceError."""
        raise self._without("files")

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """Raises DeviceError."""
        raise self._without("processes")

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        """Raises DeviceError."""
        raise self._without("processes")

    def read_text(self, remote: str) -> str:
        """Raises DeviceError."""
        raise self._without("files")

    def alive(self) -> bool:
        """Whether the page is open."""
        try:
            return any(self.page in ("", name) for name, _ in _open_pages(self.desk))
        except DeviceError:
            return False

    def close(self) -> None:
        """The server goes on: the page would have to be opened again by hand."""

    def _without(self, what: str) -> DeviceError:
        return DeviceError(
            f"device `{device_name(self.page)}`: a browser has no {what} that could be reached; it takes jobs (run, validate, profile) only"
        )


def _desk() -> tuple[Desk | RunningDesk, str]:
    """The desk of a running server, else of one that this process starts once and keeps to its end, since a page is opened by hand."""
    with _own_lock:
        if not _own:
            running = running_desk()
            if running is not None:
                return running, running.version
            runtime = fetch.obtain()
            desk = Desk(runtime.version)
            _own.append((desk, start(desk, runtime), runtime.version))
        desk, server, version = _own[0]
    if not desk.pages():
        progress.message(f"open this address in a browser on this machine: {server.address()}")
    return desk, version


def close_own_server() -> None:
    """End the server that this process started, if any."""
    with _own_lock:
        while _own:
            _own.pop()[1].close()


def _wait_for_page(desk: Desk | RunningDesk, wanted: str) -> tuple[str, Mapping[str, str]]:
    end = time.monotonic() + WAIT
    while True:
        pages = _open_pages(desk)
        fitting = [(name, facts) for name, facts in pages if wanted in ("", name)]
        if len(fitting) > 1:
            raise DeviceError(f"device `browser`: several pages are open: say which, as {', '.join(f'browser:{name}' for name, _ in pages)}")
        if fitting:
            return fitting[0]
        if time.monotonic() > end:
            there = f" (open are: {', '.join(name for name, _ in pages)})" if pages else ""
            raise DeviceUnresponsive(
                f"device `{device_name(wanted)}`: no {f'page `{wanted}`' if wanted else 'page'} was opened within {WAIT:g} s{there}: "
                "open the address that kdedge printed, or start `kdedge devices serve` first"
            )
        time.sleep(0.2)


def _open_pages(desk: Desk | RunningDesk) -> list[tuple[str, Mapping[str, str]]]:
    if isinstance(desk, RunningDesk):
        return [(page["name"], page["facts"]) for page in desk.pages()]
    return [(page.name, page.facts) for page in desk.pages()]


def server_address() -> str:
    """The address that the next page may use of the server that this process started, "" where there is none."""
    with _own_lock:
        return _own[0][1].address() if _own else ""
