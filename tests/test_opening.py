"""Several devices are opened side by side, and one that is away when a run begins costs its own cells alone."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from board_world import QUICK
from small_recipes import refused, run, write

from kdedge import devices, fleet, progress
from kdedge.devices.board import open_board
from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.faults import Fault, FaultyTransport, Kind
from kdedge.devices.local import LocalTransport
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected
from kdedge.fleet import abreast, open_devices
from kdedge.measured import DeviceIdentity

FOR_EVER = 10**6
AWAY: tuple[tuple[Kind, str, str], ...] = (
    ("cut", progress.LOST, "the connection broke"),
    ("gone", progress.GONE, "the device is gone"),
    ("unresponsive", progress.SILENT, "the device does not answer"),
)


class Boards:
    """The boards `pi-a`, `pi-b` and `nano` of the user, each this machine behind a transport with faults. `asked`: how often each was opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: dict[str, list[Fault]] = {}
        self.asked: dict[str, int] = {}
        self.before: Callable[[str], None] = lambda name: None

    def open(self, name: str, settings: DeviceSettings) -> Device:
        self.asked[name] = self.asked.get(name, 0) + 1
        self.before(name)
        script = self.faults.get(name, [])
        transport = FaultyTransport(LocalTransport(), script) if script else LocalTransport()
        return open_board(name, "ssh", transport, sys.executable, str(self.root / name), settings)


class Listening(progress.Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.tables: list[list[tuple[str, int, str]]] = []

    def message(self, text: str) -> None:
        self.said.append(text)

    def devices(self, rows: Sequence[progress.DeviceRow]) -> None:
        self.tables.append([(row.name, row.done, row.state) for row in rows])


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boards]:
    made = Boards(tmp_path / "boards")
    (tmp_path / "devices.yaml").write_text("".join(f"{name}: {{transport: 'ssh:{name}.local'}}\n" for name in ("pi-a", "pi-b", "nano")))
    monkeypatch.setenv("KDEDGE_DEVICES", str(tmp_path / "devices.yaml"))
    monkeypatch.setattr("kdedge.devices.ssh.open_device", made.open)
    monkeypatch.setattr(fleet, "_PATIENCE", replace(QUICK, outage=0.3))
    yield made
    devices.close_devices()


@pytest.mark.parametrize(("fault", "state", "words"), AWAY)
def test_a_board_that_is_away_at_the_start_is_told_by_the_class_of_its_loss_and_the_others_are_there(
    fault: Kind, state: str, words: str, boards: Boards
) -> None:
    boards.faults["pi-b"] = [Fault(1, fault, lasting=FOR_EVER)]
    listener = Listening()
    with progress.listening(listener):
        local, here, away = open_devices(["local", "pi-*"])
    assert (local.name, local.kind, local.away) == ("local", "local", "")
    assert (here.name, here.kind, here.away) == ("pi-a", "ssh", "")
    assert here.fingerprint
    assert (away.name, away.kind, away.machines, away.fingerprint, away.away) == ("pi-b", "ssh", (), {}, state)
    assert f"({state})" in away.reason
    assert words in away.reason
    assert [line for line in listener.said if "go on without it" in line] == [f"pi-b: {away.reason}; the others go on without it"]


def test_a_board_whose_connection_comes_back_in_time_is_as_good_as_any(boards: Boards) -> None:
    def starting(name: str) -> None:
        if name == "pi-a" and boards.asked[name] < 4:
            raise Disconnected("device `pi-a`: the connection is lost or cannot be made (Connection refused)")

    boards.before = starting
    listener = Listening()
    with progress.listening(listener):
        found = open_devices(["pi-a", "pi-b"])
    assert [device.away for device in found] == ["", ""]
    assert boards.asked == {"pi-a": 4, "pi-b": 1}
    reason = "not reached when the run began (lost): device `pi-a`: the connection is lost or cannot be made (Connection refused)"
    assert listener.said == [f"pi-a: {reason}; it is tried again for 0.3 s"]


def test_only_a_broken_connection_is_tried_again(boards: Boards) -> None:
    def gone(name: str) -> None:
        if name != "pi-a":
            raise (DeviceGone if name == "pi-b" else DeviceUnresponsive)(f"device `{name}`: away")

    boards.before = gone
    assert [device.away for device in open_devices(["pi-a", "pi-b", "nano"])] == ["", progress.GONE, progress.SILENT]
    assert boards.asked == {"pi-a": 1, "pi-b": 1, "nano": 1}


def test_boards_are_opened_at_the_same_time(boards: Boards) -> None:
    together = threading.Barrier(3, timeout=60)

    def meet(name: str) -> None:
        together.wait()  # breaks unless all three are here

    boards.before = meet
    assert [device.name for device in open_devices(["pi-a", "pi-b", "nano"])] == ["pi-a", "pi-b", "nano"]


@pytest.mark.parametrize("wanted", ["pi-b", "ssh:pi-b", "pi-[b]"])
def test_the_only_device_that_is_meant_is_an_error_of_its_own_at_once(wanted: str, boards: Boards) -> None:
    def away(name: str) -> None:
        raise Disconnected(f"device `{name}`: the connection cannot be made")

    boards.before = away
    with pytest.raises(Disconnected, match=r"^device `(ssh:)?pi-b`: the connection cannot be made$"):
        open_devices([wanted])
    assert sum(boards.asked.values()) == 1


def test_where_none_of_several_is_there_nothing_is_begun(boards: Boards) -> None:
    boards.faults = {name: [Fault(1, "gone", lasting=FOR_EVER)] for name in ("pi-a", "pi-b")}
    with pytest.raises(DeviceError, match=r"none of the 2 devices can be reached: .*\(gone\).*; .*\(gone\)"):
        open_devices(["pi-*"])


def test_what_the_user_has_to_mend_ends_it_before_any_board_is_waited_for(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_PATIENCE", replace(QUICK, outage=3600.0))

    def wrong(name: str) -> None:
        if name == "pi-a":
            raise DeviceError("device `pi-a`: its Python has no numpy")
        raise Disconnected(f"device `{name}`: away")

    boards.before = wrong
    with pytest.raises(DeviceError, match="has no numpy"):
        open_devices(["pi-a", "pi-b"])
    assert boards.asked.get("pi-b", 0) <= 1


def test_a_name_that_is_unknown_is_told_before_any_board_is_asked(boards: Boards) -> None:
    with pytest.raises(DeviceError, match="there is no device `pi-c`"):
        open_devices(["pi-a", "pi-c"])
    assert boards.asked == {}


def test_the_table_shows_a_device_that_is_away_by_the_class_of_its_loss_from_the_first_line_on() -> None:
    listener = Listening()
    away = DeviceIdentity("b", "local", (), {}, progress.GONE, "device `b`: gone")
    with progress.listening(listener):
        abreast([DeviceIdentity("a", "local", ("x86_64",), {}), away], lambda device: progress.cell_done(lost=bool(device.away)), cells=1)
    states = [{name: state for name, _, state in rows}["b"] for rows in listener.tables if rows]
    assert list(dict.fromkeys(states)) == [progress.WAITING, progress.GONE]
    assert listener.tables[-2] == [("a", 1, progress.DONE), ("b", 1, progress.GONE)]


# ---- a whole run -----------------------------------------------------------------------------------------------------------


def test_a_run_on_all_measures_what_is_there_and_a_later_run_the_board_that_was_away(boards: Boards, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    boards.faults["pi-b"] = [Fault(1, "gone", lasting=FOR_EVER)]
    recipe = write(tmp_path / "recipe", gate={"size": "<= 1 MB"})
    ended = run(recipe, "--json", "--on", "all")
    assert "Traceback" not in ended.err + ended.out
    assert ended.code == 4, ended.err + ended.out  # what is there passes, and not all could be measured
    told = json.loads(ended.out.splitlines()[-1])
    assert told["verdict"] == "pass"
    cells = {cell["device"]: cell for cell in told["artifacts"]}
    assert {name: cell["status"] for name, cell in cells.items()} == {"local": "ok", "pi-a": "ok", "pi-b": "failed", "nano": "ok"}
    assert "not reached when the run began (gone): the device is gone" in cells["pi-b"]["reason"]
    assert "pi-b: not reached when the run began (gone): the device is gone" in ended.err
    assert "pi-b: gone, 0 of 1 cells done" in ended.err
    report = Path(told["report"]).read_text(encoding="utf-8")
    assert report.count("not reached when the run began (gone): the device is gone") == 2  # its cell, and its row among the devices
    assert "nano (x86_64" in report  # its facts
    assert "pi-b (" not in report

    boards.faults.clear()
    later = run(recipe, "--json", "--on", "all")
    assert later.code == 0, later.err + later.out
    found = {cell["device"]: cell for cell in json.loads(later.out.splitlines()[-1])["artifacts"]}
    assert found["pi-b"]["status"] == "ok"
    assert found["pi-b"]["latency_median"] is not None
    took = {line.split(" on ")[1].split()[0]: line.split()[-1] for line in later.err.splitlines() if line.startswith("validate.")}
    assert {name for name, time in took.items() if time == "cached"} == {"local", "pi-a", "nano"}


def test_a_run_on_one_board_that_is_away_ends_before_anything_is_trained(boards: Boards, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    boards.faults["pi-b"] = [Fault(1, "gone", lasting=FOR_EVER)]
    recipe = write(tmp_path / "recipe")
    refused(run(recipe, "--on", "pi-b"), "the device is gone")
    assert list((tmp_path / "recipe/workspace/stages").glob("*")) == []


def test_what_is_wrong_with_a_recipe_is_told_before_any_board_is_asked(boards: Boards, tmp_path: Path) -> None:
    """One that is switched off may be waited for, minutes long."""
    pytest.importorskip("torch")
    recipe = write(tmp_path / "recipe", gate={"acuracy": ">= 0.9"})
    refused(run(recipe, "--on", "pi-*"), "did you mean `accuracy`?")
    assert boards.asked == {}


def test_devices_of_the_recipe_itself_are_opened_in_the_same_way(boards: Boards, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    boards.faults = {name: [Fault(1, "unresponsive", lasting=FOR_EVER)] for name in ("pi-a", "nano")}
    recipe = write(tmp_path / "recipe", devices=["pi-a", "nano"])
    refused(run(recipe, command="validate"), "none of the 2 devices can be reached", "(does not answer)")
    assert list((tmp_path / "recipe/workspace/stages").glob("*")) == []
