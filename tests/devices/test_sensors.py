"""A device's sensors over its transport: one command a snapshot, and the same readers as on the device itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_in_a_folder import BoardInAFolder, recorded
from device_recordings import FIXTURES, laid_out

from kdedge.devices import sensors
from kdedge.devices.local import LocalTransport
from kdedge.errors import Disconnected
from kdedge.runtimes import evidence
from kdedge.runtimes.reach import Reach, in_folder, text_of

MACHINES = sorted(path.stem for path in FIXTURES.glob("*.txt") if "tegrastats" not in path.stem)


@pytest.mark.parametrize("name", MACHINES)
def test_a_snapshot_over_a_transport_is_one_command_and_equals_that_on_the_device(name: str, tmp_path: Path) -> None:
    board = recorded(name, tmp_path)
    on_the_device = laid_out(name, tmp_path)
    assert sensors.snapshot(board) == evidence.machine(on_the_device)
    assert len(board.commands) == 1
    assert sensors.facts(board) == evidence.machine_facts(on_the_device)


@pytest.mark.parametrize("name", MACHINES)
def test_one_question_at_a_time_gives_the_same(name: str, tmp_path: Path) -> None:
    board = recorded(name, tmp_path)
    assert evidence.machine(sensors.over(board)) == evidence.machine(laid_out(name, tmp_path))


def test_all_that_a_snapshot_reads_is_asked_for(tmp_path: Path) -> None:
    """A reader that learns a new file must add it to FILES: else phones would lack it, silently."""
    for name in MACHINES:
        laid_out(name, tmp_path / name)
        there = in_folder(str(tmp_path / name))
        asked: set[str] = set()

        def noting(path: str, there: Reach = there, asked: set[str] = asked) -> str:
            asked.add(path)
            return there.read(path)

        evidence.machine(Reach(noting, there.glob, there.run))
        gathered = sensors.gathered(recorded(name, tmp_path / name))
        assert [path for path in sorted(asked) if text_of(there, path) != text_of(gathered, path)] == []


def test_words_that_are_parted_by_nul_survive_the_shell(tmp_path: Path) -> None:
    board = recorded("constructed_jetson_orin_nano", tmp_path)
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"nvidia,p3768-0000\0nvidia,tegra234\0")
    assert sensors.facts(board)["compatible"] == ["nvidia,p3768-0000", "nvidia,tegra234"]


def test_a_star_does_not_cross_a_folder(tmp_path: Path) -> None:
    gathered = sensors.gathered(recorded("constructed_jetson_orin_nano", tmp_path))
    assert gathered.glob("/sys/class/*/name") == []
    assert gathered.glob("/sys/class/*/*/name") == [f"/sys/class/hwmon/hwmon{number}/name" for number in range(3)]


def test_what_a_probe_says_of_each_machine(tmp_path: Path) -> None:
    def said(name: str) -> dict[str, str]:
        return sensors.sensors(laid_out(name, tmp_path / name))

    orin = said("constructed_jetson_orin_nano")
    assert (orin["gpu clock"], orin["over-current"], orin["energy"]) == ("17000000.gpu", "oc1, oc2, oc3", "VDD_IN")
    phone = said("constructed_android_phone")
    assert phone["cpu clusters"] == "1 of 1024 + 3 of 620 + 4 of 160"
    assert phone["heat throttling"] == "the thermal service's status"
    assert "energy" not in phone
    assert said("constructed_raspberry_pi_5")["under-voltage"] == "vcgencmd get_throttled"
    assert said("constructed_x86_desktop")["turbo"] == "on"


def test_a_machine_without_sensors_has_none_and_nothing_fails(tmp_path: Path) -> None:
    assert sensors.snapshot(BoardInAFolder(tmp_path)) == {}
    assert sensors.sensors(sensors.over(BoardInAFolder(tmp_path))) == {}


def test_this_machine_is_read_over_its_transport_as_by_itself() -> None:
    over, here = sensors.snapshot(LocalTransport()), evidence.snapshot()
    assert {name for name in over if name != "ticks_by_khz"} == {name for name in here if name in over and name != "ticks_by_khz"}
    assert over.get("memory_total_bytes") == here.get("memory_total_bytes")


def test_a_lost_device_is_no_absent_fact(tmp_path: Path) -> None:
    with pytest.raises(Disconnected):
        sensors.snapshot(BoardInAFolder(tmp_path, dies_at=0))
    with pytest.raises(Disconnected):
        evidence.machine(sensors.over(BoardInAFolder(tmp_path, dies_at=0)))
