"""`browser` as a device: attached to a server in another process, or with one of its own."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_client import FACTS, PageClient

import kdedge.devices.browser as browser
from kdedge import progress
from kdedge.cli import serving
from kdedge.devices.browser import fetch
from kdedge.devices.browser.control import Control, RunningDesk, running_desk, socket_path
from kdedge.devices.device import DeviceSettings
from kdedge.devices.jobs import run_job
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, MissingExtra
from kdedge.runtimes.job import write_job


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="kdedge-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    yield folder
    browser.close_own_server()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def control(world: Any, short: Path) -> Iterator[Control]:
    started = Control(world.desk, "1.2.3")
    yield started
    started.close()


def settings_of(name: str) -> DeviceSettings:
    return DeviceSettings(address=name.partition(":")[2])


def test_a_running_server_is_used_and_does_the_job(world: Any, control: Control) -> None:
    page = world.page()
    device = browser.open_device("browser", settings_of("browser"))
    assert device.identity.machines == ("browser",)
    assert device.identity.fingerprint == {
        **{name: str(value) for name, value in FACTS.items()},
        "machine": "browser",
        "onnxruntime-web": "1.2.3",
    }
    assert device.transport.alive()
    waiting = world.pool.submit(run_job, device, world.job("launch"), world.folder / "mine", 20, "launch-00")
    job = page.next()
    page.samples(job, [1_000_000, 2_000_000])
    page.finish(job)
    result = waiting.result(20)
    assert (result.status, result.iterations, result.runtime_version) == ("ok", 2, "1.2.3")
    assert np.load(world.folder / "mine" / "samples_ns.npy").tolist() == [1_000_000, 2_000_000]


def test_the_socket_is_the_users_alone(control: Control) -> None:
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(control.path.parent.stat().st_mode) == 0o700
    assert control.path == socket_path()


def test_a_second_server_is_refused_and_a_dead_ones_socket_is_replaced(world: Any, short: Path) -> None:
    first = Control(world.desk, "1")
    with pytest.raises(DeviceError, match="runs already"):
        Control(world.desk, "1")
    first.close()
    assert running_desk() is None
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(socket_path()))
    dead.close()
    assert running_desk() is None
    Control(world.desk, "2").close()


def test_a_path_too_long_for_a_socket_is_a_sentence(world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with pytest.raises(DeviceError, match="set XDG_RUNTIME_DIR to a shorter folder"):
        Control(world.desk, "1")


def test_what_goes_wrong_at_the_server_is_the_same_error_here(world: Any, control: Control) -> None:
    desk = running_desk()
    assert desk is not None
    world.desk.patience = 0.1
    with pytest.raises(DeviceError, match="no page has been open for") as caught:
        desk.run(world.job(), world.folder, 5, "")
    assert type(caught.value).__name__ == "Disconnected"
    with pytest.raises(DeviceGone, match="does not answer"):
        RunningDesk(world.folder / "none", "1").pages()
    for question in (b"x\n", b"{}\n", b'{"ask": "run"}\n', b'{"ask": "run", "folder": "/nowhere", "timeout": 1, "wanted": ""}\n', b"[]\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(control.path))
            connection.sendall(question)
            assert "cannot be read" in json.loads(connection.makefile().readline())["message"]


def test_a_host_that_went_away_leaves_no_job_behind(world: Any, control: Control) -> None:
    page = world.page()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(control.path))
        write_job(str(world.folder), world.job())
        question = {"ask": "run", "folder": str(world.folder), "timeout": 60, "wanted": ""}
        connection.sendall(json.dumps(question).encode() + b"\n")
        job = page.next()
        assert page.at(job, "beat").status == 200
    assert _eventually(lambda: page.at(job, "beat").status == 410)


def test_a_server_of_ones_own_says_its_address_and_waits_for_a_page(short: Path, tmp_path: Path) -> None:
    for name in fetch.FILES:
        fetch.cache_folder().mkdir(parents=True, exist_ok=True)
        (fetch.cache_folder() / name).write_text("x")
    said: list[str] = []

    class Listener(progress.Silent):
        def message(self, text: str) -> None:
            said.append(text)

    def open_it() -> Any:
        with progress.listening(Listener()):
            return browser.open_device("browser", settings_of("browser"))

    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_it)
        assert _eventually(lambda: said)
        address = re.search(r"http://\S+", said[0])
        assert address is not None
        page = PageClient.opened(address.group())
        device = opening.result(20)
    assert device.identity.fingerprint["onnxruntime-web"] == fetch.VERSION
    # Opened again (every stage of a run opens its device), it is the same page of the same server, and nobody is asked to open it again.
    again = open_it()
    assert (again.identity, len(said)) == (device.identity, 1)
    PageClient.opened(browser.server_address())
    with pytest.raises(DeviceError, match="several pages are open: say which, as browser:chrome-pixel-8, browser:chrome-pixel-8-2"):
        browser.open_device("browser", settings_of("browser"))
    assert browser.open_device("browser:chrome-pixel-8-2", settings_of("browser:chrome-pixel-8-2")).transport.alive()
    acts: list[Callable[[], Any]] = [
        lambda: device.transport.push(tmp_path, "/x"),
        lambda: device.transport.pull("/x", tmp_path),
        lambda: device.transport.read_text("/proc/cpuinfo"),
        lambda: device.transport.run(["ls"], 1),
        lambda: device.transport.spawn(["ls"], "/x"),
    ]
    for act in acts:
        with pytest.raises(DeviceError, match=r"device `browser:chrome-pixel-8`: a browser has no (files|processes)"):
            act()
    device.transport.close()
    assert page.reload() == "chrome-pixel-8"


def test_nobody_opening_the_page_is_a_sentence(short: Path, world: Any, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "WAIT", 0.1)
    with pytest.raises(DeviceUnresponsive, match=r"device `browser`: no page was opened within 0\.1 s: open the address"):
        browser.open_device("browser", settings_of("browser"))
    world.page()
    with pytest.raises(DeviceUnresponsive, match=r"no page `tablet` was opened within 0\.1 s \(open are: chrome-pixel-8\)"):
        browser.open_device("browser:tablet", settings_of("browser:tablet"))


def test_without_onnxruntime_web_the_device_says_how_to_get_it(short: Path) -> None:
    with pytest.raises(DeviceError, match="kdedge devices serve --fetch"):
        browser.open_device("browser", settings_of("browser"))


class Served:
    """`kdedge devices serve` in a thread, and what it prints."""

    def __init__(self, **options: Any) -> None:
        self.out, self._stop = io.StringIO(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.ending = self._pool.submit(serving.serve, port=0, until=self._stop.is_set, out=self.out, **options)

    def __enter__(self) -> Served:
        assert _eventually(lambda: "Ctrl-C ends it" in self.out.getvalue() or self.ending.done())
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def addresses(self) -> list[str]:
        return re.findall(r"https?://\S+/open/\S+", self.out.getvalue())


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    for name in fetch.FILES:
        (folder / name).write_text("x")
    return folder


def test_serve_prints_an_address_tells_of_pages_and_gives_a_new_address_for_the_next(short: Path, runtime: Path) -> None:
    with Served(runtime_folder=runtime) as served:
        (address,) = served.addresses()
        assert address.startswith("http://127.0.0.1:")
        assert "adb reverse tcp:" in served.out.getvalue()
        PageClient.opened(address)
        assert _eventually(lambda: "open: chrome-pixel-8 (measure on it with --on browser:chrome-pixel-8)" in served.out.getvalue())
        assert _eventually(lambda: len(served.addresses()) == 2)
        assert len(set(served.addresses())) == 2
        assert browser.open_device("browser:chrome-pixel-8", settings_of("browser:chrome-pixel-8")).identity.kind == "browser"
        assert browser.server_address() == ""  # attached, without a server of its own
    assert served.ending.result() == 0
    assert not socket_path().exists()


def test_a_network_address_comes_with_a_code_to_scan_and_a_warning(short: Path, runtime: Path) -> None:
    pytest.importorskip("segno", reason="segno is not installed, which draws the QR code")
    with Served(runtime_folder=runtime, bind="0.0.0.0") as served:
        assert len(served.addresses()) == 1
        assert "0.0.0.0" not in served.addresses()[0]
        assert "▄" in served.out.getvalue()
        assert "plain http: who can read this network can read the models" in served.out.getvalue()


def test_what_serve_cannot_do_is_a_sentence_before_anything_listens(short: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="--certificate and --key belong together"):
        serving.serve(certificate=runtime)
    with pytest.raises(DeviceError, match="kdedge devices serve --fetch"):
        serving.serve()
    monkeypatch.setitem(sys.modules, "segno", None)
    with pytest.raises(MissingExtra, match=r"the QR code of `kdedge devices serve --bind` needs `segno`.*kdedge\[devices\]"):
        serving.serve(bind="0.0.0.0", runtime_folder=runtime)
    assert not socket_path().exists()


def _eventually(condition: Any) -> bool:
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.05)
    return False
