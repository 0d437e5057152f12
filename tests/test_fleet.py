"""Devices are named by pattern, work side by side where they are machines of their own, and keep their order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdedge import progress
from kdedge.errors import DeviceError, MeasurementError
from kdedge.fleet import abreast, named_devices
from kdedge.measured import DeviceIdentity


def identity(name: str, kind: str = "ssh") -> DeviceIdentity:
    return DeviceIdentity(name, kind, ("aarch64",), {})


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text("".join(f"{name}: {{transport: 'ssh:{name}.local'}}\n" for name in ("jetson-a", "jetson-b", "pi")))
    monkeypatch.setenv("KDEDGE_DEVICES", str(file))


@pytest.mark.usefixtures("own")
def test_all_is_this_machine_and_the_users_own_and_a_pattern_what_it_matches() -> None:
    assert named_devices(["all"]) == ["local", "jetson-a", "jetson-b", "pi"]
    assert named_devices(["jetson-*", "local"]) == ["jetson-a", "jetson-b", "local"]
    assert named_devices(["pi", "all", "ssh:elsewhere"]) == ["pi", "local", "jetson-a", "jetson-b", "ssh:elsewhere"]


@pytest.mark.usefixtures("own")
def test_a_pattern_that_matches_nothing_lists_what_there_is() -> None:
    with pytest.raises(DeviceError, match=r"no device matches `thor-\*` \(there is: local, jetson-a, jetson-b, pi\)"):
        named_devices(["thor-*"])


def test_machines_of_their_own_work_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=20)

    def work(device: DeviceIdentity) -> str:
        together.wait()  # breaks unless all three are here
        return device.name

    assert abreast([identity("a"), identity("b"), identity("c")], work) == ["a", "b", "c"]


def test_what_this_machine_computes_never_runs_side_by_side() -> None:
    busy = threading.Lock()

    def work(device: DeviceIdentity) -> str:
        if device.kind == "ssh":
            return device.name
        assert busy.acquire(blocking=False), "two jobs share this machine's cores"
        threading.Event().wait(0.02)
        busy.release()
        return device.name

    devices = [identity("x", "local"), identity("board"), identity("y", "emulated"), identity("z", "simulated")]
    assert abreast(devices, work) == ["x", "board", "y", "z"]


def test_the_first_that_goes_wrong_lets_the_others_finish_what_they_have_begun() -> None:
    finished, begun = [], threading.Event()

    def work(device: DeviceIdentity) -> str:
        if device.name == "bad":
            begun.wait(20)
            raise MeasurementError("the board burns")
        begun.set()
        finished.append(device.name)
        return device.name

    with pytest.raises(MeasurementError, match="the board burns"):
        abreast([identity("good"), identity("bad")], work)
    assert finished == ["good"]


def test_progress_of_each_device_reaches_who_listens_here() -> None:
    class Listener(progress.Silent):
        def __init__(self) -> None:
            self.said: list[str] = []

        def message(self, text: str) -> None:
            self.said.append(text)

    listener = Listener()
    with progress.listening(listener):
        abreast([identity("a"), identity("b")], lambda device: progress.message(device.name))
    assert sorted(listener.said) == ["a", "b"]


@pytest.mark.parametrize("while_they_start", [False, True])
def test_ctrl_c_ends_every_device_as_it_would_end_alone(while_they_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python raises it in the main thread only, and a device may be at work for hours."""
    together, ended = threading.Barrier(2, timeout=20), []
    start = threading.Thread.start

    def slow_to_return(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "device-b":
            time.sleep(10)  # Ctrl-C is heard here

    if while_they_start:
        monkeypatch.setattr(threading.Thread, "start", slow_to_return)

    def work(device: DeviceIdentity) -> str:
        try:
            together.wait()
            if device.name == "a":
                signal.raise_signal(signal.SIGINT)
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            ended.append(device.name)
            raise

    with pytest.raises(KeyboardInterrupt):
        abreast([identity("a"), identity("b")], work)
    assert sorted(ended) == ["a", "b"]


class _Watching(progress.Silent):
    """Keeps every table that it was told, as (name, done, state)."""

    def __init__(self) -> None:
        self.tables: list[list[tuple[str, int, str]]] = []

    def devices(self, rows: Sequence[progress.DeviceRow]) -> None:
        assert {row.total for row in rows} <= {1, 3}
        self.tables.append([(row.name, row.done, row.state) for row in rows])


def test_the_table_of_devices_says_of_each_what_is_done_and_how_it_fares() -> None:
    watching = _Watching()

    def work(device: DeviceIdentity) -> None:
        progress.device_is(progress.RETRYING)
        progress.cell_done(lost=device.name == "b")
        progress.cell_done(lost=False)

    with progress.listening(watching):
        abreast([identity("a", "local"), identity("b", "local")], work, cells=3)
    assert watching.tables == [
        [("a", 0, "waiting"), ("b", 0, "waiting")],
        [("a", 0, "working"), ("b", 0, "waiting")],
        [("a", 0, "retrying"), ("b", 0, "waiting")],
        [("a", 1, "working"), ("b", 0, "waiting")],
        [("a", 2, "working"), ("b", 0, "waiting")],
        [("a", 2, "done"), ("b", 0, "waiting")],
        [("a", 2, "done"), ("b", 0, "working")],
        [("a", 2, "done"), ("b", 0, "retrying")],
        [("a", 2, "done"), ("b", 1, "lost")],
        [("a", 2, "done"), ("b", 2, "working")],
        [("a", 2, "done"), ("b", 2, "done")],
        [],
    ]


@pytest.mark.parametrize("how", [progress.LOST, progress.GONE, progress.SILENT])
def test_a_device_that_was_lost_last_stays_so_in_the_table_by_the_class_of_its_loss(how: str) -> None:
    watching = _Watching()

    def work(device: DeviceIdentity) -> None:
        if device.name == "b":
            progress.device_is(how)
            progress.cell_done(lost=True)

    with progress.listening(watching):
        abreast([identity("a"), identity("b")], work, cells=3)
    assert watching.tables[-2] == [("a", 0, "done"), ("b", 1, how)]


def test_a_device_whose_work_went_wrong_is_stopped_and_the_table_ends() -> None:
    watching = _Watching()

    def work(device: DeviceIdentity) -> None:
        raise MeasurementError("the board burns")

    with pytest.raises(MeasurementError), progress.listening(watching):
        abreast([identity("a", "local"), identity("b", "local")], work)
    assert watching.tables[-2:] == [[("a", 0, "stopped"), ("b", 0, "waiting")], []]


def test_one_device_alone_has_no_table_and_who_knows_of_none_hears_of_none() -> None:
    watching = _Watching()
    with progress.listening(watching):
        abreast([identity("a")], lambda device: progress.cell_done(lost=False))
    assert watching.tables == []
    with progress.listening(progress.Silent()):
        abreast([identity("a"), identity("b")], lambda device: progress.device_is(progress.RETRYING))
