"""What is set for a measurement took, and is undone: at the end, after an error, after a lost connection, after a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from board_in_a_folder import BoardInAFolder, settable, standing

from kdedge.devices.setters import UNDO_FILE, settings_on, undo_left_over
from kdedge.devices.transport import Completed
from kdedge.errors import DeviceError, Disconnected

TESTS = Path(__file__).parents[1]
EVERYTHING: dict[str, Any] = {"power_mode": "MODE_15W", "governor": "performance", "min_khz": 729600, "lock_clocks": True, "stay_awake": True}


@pytest.fixture(name="board")
def _board(tmp_path: Path) -> BoardInAFolder:
    return settable(tmp_path / "board")


def root_of(board: BoardInAFolder) -> str:
    return str(board.folder.parent / "kdedge")


def test_everything_is_set_for_the_block_and_stands_as_before_after_it(board: BoardInAFolder) -> None:
    before = standing(board.folder)
    with settings_on(board, root_of(board), EVERYTHING) as said:
        inside = standing(board.folder)
        assert said[0] == "power_mode: 0 -> 2"
        assert "governor of policy4: schedutil -> performance" in said
        assert (board.folder.parent / "kdedge" / UNDO_FILE).is_file()
    assert inside["mode"] == "2"
    assert inside["setting"] == "7"
    assert inside["sys/class/devfreq/17000000.gpu/min_freq"] == "1020000000"
    assert {inside[f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_governor"] for number in (0, 4)} == {"performance"}
    assert standing(board.folder) == before
    assert not (board.folder.parent / "kdedge" / UNDO_FILE).exists()


def test_what_stands_so_already_is_neither_set_nor_undone(board: BoardInAFolder) -> None:
    with settings_on(board, root_of(board), {"power_mode": 0, "governor": "schedutil", "stay_awake": False}) as said:
        assert said == ()
    assert not any("nvpmodel -m" in command or "echo" in command for command in board.commands if "for file" not in command)


def test_the_mode_of_number_zero_can_be_set(board: BoardInAFolder) -> None:
    (board.folder / "mode").write_text("2\n")
    with settings_on(board, root_of(board), {"power_mode": 0}) as said:
        assert said == ("power_mode: 2 -> 0",)
        assert standing(board.folder)["mode"] == "0"
    assert standing(board.folder)["mode"] == "2"


class _LinuxLimits(BoardInAFolder):
    """Its policies keep the limits that were asked for, and show them as Linux makes them agree: the lower one never above the upper one."""

    asked: dict[Path, int]

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        policies = sorted((self.folder / "sys/devices/system/cpu/cpufreq").glob("policy*"))
        files = [policy / f"scaling_{end}_freq" for policy in policies for end in ("min", "max")]
        shown = {file: int(file.read_text()) for file in files}
        self.asked = {**shown, **getattr(self, "asked", {})}
        done = super().run(argv, timeout, env)
        written = [file for file in files if f"> {file}".replace(str(self.folder), "") in " ".join(argv)]
        self.asked |= {file: int(file.read_text()) for file in written}
        for policy in policies:
            lower, upper = policy / "scaling_min_freq", policy / "scaling_max_freq"
            lower.write_text(f"{min(self.asked[lower], self.asked[upper])}\n")
            upper.write_text(f"{self.asked[upper]}\n")
        return done


@pytest.mark.parametrize(
    ("stands", "wanted"),
    [
        ((1_000_000, 1_728_000), (729_600, 900_000)),
        ((729_600, 900_000), (1_000_000, 1_728_000)),
        ((729_600, 1_500_000), (800_000, 900_000)),
    ],
)
def test_limits_of_clocks_come_back_whichever_way_they_went(stands: tuple[int, int], wanted: tuple[int, int], tmp_path: Path) -> None:
    board = _LinuxLimits(settable(tmp_path / "board").folder)
    for file in (board.folder / "sys").rglob("scaling_*_freq"):
        file.write_text(f"{stands['max' in file.name]}\n")
    before = standing(board.folder)
    with settings_on(board, root_of(board), {"max_khz": wanted[1], "min_khz": wanted[0]}):
        inside = standing(board.folder)
        assert {inside[f"sys/devices/system/cpu/cpufreq/policy4/scaling_{end}_freq"] for end in ("min", "max")} == {str(wanted[0]), str(wanted[1])}
    assert standing(board.folder) == before


def test_an_error_in_the_block_undoes_everything_and_goes_on(board: BoardInAFolder) -> None:
    before = standing(board.folder)
    with pytest.raises(ZeroDivisionError), settings_on(board, root_of(board), EVERYTHING):
        raise ZeroDivisionError
    assert standing(board.folder) == before


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"fan": 255}, r"set\.fan: there is no such setting \(allowed: power_mode, governor"),
        ({"power_mode": "TURBO"}, r"no power mode `TURBO` \(allowed: MAXN, MODE_15W\)"),
        ({"governor": "ondemand"}, r"policy0 does not take `ondemand` \(allowed: schedutil, performance, powersave\)"),
        ({"max_khz": 9_000_000}, r"does not take `9000000` \(allowed: 729600 to 1728000 kHz\)"),
        ({"min_khz": "fast"}, r"does not take `fast`"),
        ({"min_khz": 900_000, "max_khz": 800_000}, r"set\.min_khz: 900000 is above set\.max_khz, 800000"),
        ({"lock_clocks": "yes"}, r"set\.lock_clocks: `yes` \(allowed: true\)"),
        ({"power_mode": 9}, r"power_mode: was set to 9, and the device still says 0"),
    ],
)
def test_what_cannot_be_set_is_a_sentence(wanted: dict[str, Any], sentence: str, board: BoardInAFolder) -> None:
    before = standing(board.folder)
    with pytest.raises(DeviceError, match=sentence), settings_on(board, root_of(board), wanted):
        raise AssertionError("the block must not run")
    assert standing(board.folder) == before


def test_a_second_setting_that_fails_undoes_the_first(board: BoardInAFolder) -> None:
    (board.folder / "bin" / "jetson_clocks").write_text("#!/bin/sh\necho 'clocks are not yours' >&2\nexit 1\n")
    with (
        pytest.raises(DeviceError, match=r"lock_clocks: `sudo -n jetson_clocks --store .*` failed on the device: clocks are not yours"),
        settings_on(board, root_of(board), {"power_mode": 2, "lock_clocks": True}),
    ):
        raise AssertionError("the block must not run")
    assert standing(board.folder)["mode"] == "0"
    assert undo_left_over(board, root_of(board)) == ()


def test_a_device_that_knows_no_such_setting_says_so(tmp_path: Path) -> None:
    bare = BoardInAFolder(tmp_path)
    for wanted in ({"power_mode": 1}, {"governor": "performance"}, {"lock_clocks": True}, {"stay_awake": True}):
        with (
            pytest.raises(DeviceError, match=r"it is no Jetson|its clocks cannot be set|it is no Android phone"),
            settings_on(bare, str(tmp_path), wanted),
        ):
            raise AssertionError("the block must not run")


def test_what_a_killed_host_left_set_is_undone_when_the_device_is_next_opened(board: BoardInAFolder) -> None:
    before = standing(board.folder)
    program = f"""
import os
from pathlib import Path
from board_in_a_folder import BoardInAFolder
from kdedge.devices.setters import make_settings
make_settings(BoardInAFolder(Path({str(board.folder)!r})), {root_of(board)!r}, {EVERYTHING!r})
os._exit(9)
"""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    assert subprocess.run([sys.executable, "-c", program], env=variables, check=False).returncode == 9
    assert standing(board.folder)["mode"] == "2"
    undone = undo_left_over(board, root_of(board))
    assert undone[-1] == "power_mode: back to 0"
    assert standing(board.folder) == before
    assert undo_left_over(board, root_of(board)) == ()


def test_wherever_the_connection_breaks_the_next_session_finds_the_way_back(board: BoardInAFolder) -> None:
    before = standing(board.folder)
    wanted = {"power_mode": 2, "lock_clocks": True}
    with settings_on(board, root_of(board), wanted):
        pass
    whole = len(board.commands)
    left_set = 0
    for moment in range(whole):
        with pytest.raises(Disconnected), settings_on(BoardInAFolder(board.folder, dies_at=moment), root_of(board), wanted):
            pass
        left_set += standing(board.folder) != before
        undo_left_over(BoardInAFolder(board.folder), root_of(board))
        assert standing(board.folder) == before, f"the connection broke at command {moment}: {board.commands[moment]}"
    assert left_set > whole / 4  # else nothing was tested


def test_a_new_session_undoes_what_was_left_before_it_reads_how_things_stand(board: BoardInAFolder) -> None:
    before = standing(board.folder)
    dying = BoardInAFolder(board.folder)
    with pytest.raises(Disconnected), settings_on(dying, root_of(board), {"power_mode": 2}):
        dying.dies_at = 0
    with settings_on(board, root_of(board), {"governor": "performance"}):
        assert standing(board.folder)["mode"] == "0"
    assert standing(board.folder) == before


def test_what_cannot_be_undone_is_named_stays_noted_and_the_rest_is_undone(board: BoardInAFolder) -> None:
    tool = board.folder / "bin" / "nvpmodel"
    working = tool.read_text()
    with pytest.raises(DeviceError, match="power_mode: was put back to 0, and the device still says 2"):  # noqa: SIM117
        with settings_on(board, root_of(board), {"power_mode": 2, "governor": "performance"}):
            tool.write_text(working.replace('[ "$2" = 9 ]', "true"))
    noted = json.loads((board.folder.parent / "kdedge" / UNDO_FILE).read_text())
    assert [change["name"] for change in noted["changes"]] == ["power_mode"]
    assert standing(board.folder)["sys/devices/system/cpu/cpufreq/policy0/scaling_governor"] == "schedutil"
    tool.write_text(working)
    assert undo_left_over(board, root_of(board)) == ("power_mode: back to 0",)


@pytest.mark.parametrize("text", ["", "{", '{"schema": 2, "changes": []}', '{"schema": 1, "changes": [{"name": "x"}]}', "[]"])
def test_a_note_that_cannot_be_read_is_no_reason_to_guess(text: str, board: BoardInAFolder) -> None:
    note = board.folder.parent / "kdedge" / UNDO_FILE
    note.parent.mkdir()
    note.write_text(text)
    with pytest.raises(DeviceError, match="put the device's settings back by hand"):
        undo_left_over(board, root_of(board))


def test_a_gpu_of_jetpack_5_is_read_back_like_one_of_jetpack_6(board: BoardInAFolder) -> None:
    """Its devfreq folder is called by the chip (17000000.ga10b), not `gpu`."""
    (board.folder / "sys/class/devfreq/17000000.gpu").rename(board.folder / "sys/class/devfreq/17000000.ga10b")
    (board.folder / "bin" / "jetson_clocks").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(DeviceError, match="lock_clocks: was set to 1020000000"), settings_on(board, root_of(board), {"lock_clocks": True}):
        raise AssertionError("the block must not run")


@pytest.mark.parametrize("wanted", [{"power_mode": 2}, {"lock_clocks": True}, {"governor": "performance"}])
@pytest.mark.parametrize("said", ["sudo: a password is required", "Sorry, user ada is not allowed to execute '/usr/sbin/nvpmodel' as root on orin."])
def test_missing_rights_say_what_to_let_the_user_do(wanted: dict[str, Any], said: str, board: BoardInAFolder) -> None:
    before = standing(board.folder)
    (board.folder / "bin" / "sudo").write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    with pytest.raises(DeviceError, match=r"root's rights are missing.*NOPASSWD.*sudoers\.d"), settings_on(board, root_of(board), wanted):
        raise AssertionError("the block must not run")
    assert standing(board.folder) == before
    assert not (board.folder.parent / "kdedge" / UNDO_FILE).exists()


def test_a_mode_that_wants_a_restart_is_refused_in_the_boards_own_words(board: BoardInAFolder) -> None:
    tool = board.folder / "bin" / "nvpmodel"
    tool.write_text(tool.read_text().replace('[ "$2" = 9 ]', 'echo "NVPM WARN: Reboot required for changing to this power mode: $2"; true'))
    with (
        pytest.raises(DeviceError, match="the device still says 0: NVPM WARN: Reboot required"),
        settings_on(board, root_of(board), {"power_mode": 2}),
    ):
        raise AssertionError("the block must not run")


def test_locking_clocks_asks_root_for_nothing_but_jetson_clocks(board: BoardInAFolder) -> None:
    """So that a board may allow its user these two programs alone."""
    with settings_on(board, root_of(board), {"power_mode": 2, "lock_clocks": True}):
        pass
    asked = {command.split()[2] for command in board.commands if command.startswith("sudo -n ")}
    assert asked == {"nvpmodel", "jetson_clocks"}
