"""What a user wants set on a board is set for its jobs, under the lease, and stands as before when it is closed or after a host that died."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from board_in_a_folder import TOOLS, BoardInAFolder, settable, standing
from board_world import IDENTITY, QUICK, fake_job, fake_worker

from kdedge import progress
from kdedge.devices import local
from kdedge.devices.board import BoardRunner, open_board
from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.emulated import open_device as open_emulated
from kdedge.devices.jobs import run_job
from kdedge.devices.lease import holder
from kdedge.devices.local import LocalTransport
from kdedge.devices.setters import UNDO_FILE
from kdedge.devices.transport import Completed
from kdedge.errors import DeviceError, DeviceTaken, Disconnected

GOVERNOR = "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"


class Settable(LocalTransport):
    """This machine, but that settings are those of a board in a folder. Notes how the governor stood when a job was started."""

    def __init__(self, board: BoardInAFolder) -> None:
        self.board = board
        self.governors: list[str] = []

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        of_settings = argv[0] in TOOLS or any("/sys/devices/" in word or "/sys/class/" in word for word in argv)
        return self.board.run(argv, timeout, env) if of_settings else super().run(argv, timeout, env)

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        self.governors.append(standing(self.board.folder)[GOVERNOR])
        super().spawn(argv, log, env)


@pytest.fixture(name="archive", scope="module")
def _archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_worker(tmp_path_factory.mktemp("worker"))


def board(transport: Settable, root: Path, archive: Path, wanted: Mapping[str, Any]) -> Device:
    made = BoardRunner(IDENTITY, transport, sys.executable, str(root), wanted=wanted, archive=archive, patience=QUICK)
    return Device(IDENTITY, transport, sys.executable, made)


def test_settings_stand_from_the_first_job_until_the_board_is_closed(archive: Path, tmp_path: Path) -> None:
    transport = Settable(settable(tmp_path / "board"))
    before = standing(transport.board.folder)
    device = board(transport, tmp_path / "root", archive, {"governor": "performance"})
    assert standing(transport.board.folder) == before
    for name in ("first", "second"):
        assert run_job(device, fake_job(tmp_path), tmp_path / name, 60, name).status == "ok"
    assert transport.governors == ["performance", "performance"]
    assert isinstance(device.runner, BoardRunner)
    device.runner.close()
    assert standing(transport.board.folder) == before
    assert not (tmp_path / "root" / UNDO_FILE).exists()


def test_what_a_host_that_died_left_set_is_undone_by_the_next_that_wants_nothing(archive: Path, tmp_path: Path) -> None:
    transport = Settable(settable(tmp_path / "board"))
    before = standing(transport.board.folder)
    died = board(transport, tmp_path / "root", archive, {"governor": "powersave"})
    run_job(died, fake_job(tmp_path), tmp_path / "died", 60, "died")
    assert isinstance(died.runner, BoardRunner)
    died.runner._lease.give_back()
    assert standing(transport.board.folder) != before
    after = board(transport, tmp_path / "root", archive, {})
    assert run_job(after, fake_job(tmp_path), tmp_path / "after", 60, "after").status == "ok"
    assert standing(transport.board.folder) == before
    assert transport.governors == ["powersave", "schedutil"]
    assert isinstance(after.runner, BoardRunner)
    after.runner.close()


def test_a_setting_that_the_board_refuses_runs_no_job(archive: Path, tmp_path: Path) -> None:
    transport = Settable(settable(tmp_path / "board"))
    device = board(transport, tmp_path / "root", archive, {"governor": "warp"})
    with pytest.raises(DeviceError, match="does not take `warp`"):
        run_job(device, fake_job(tmp_path), tmp_path / "job", 60)
    assert transport.governors == []
    assert isinstance(device.runner, BoardRunner)
    device.runner.close()


def test_another_power_mode_is_another_environment(archive: Path, tmp_path: Path) -> None:
    settings = DeviceSettings(set={"power_mode": "15W", "lock_clocks": True})
    wanted = open_board("orin", "ssh", LocalTransport(), sys.executable, str(tmp_path / "root"), settings, archive)
    plain = open_board("orin", "ssh", LocalTransport(), sys.executable, str(tmp_path / "root"), DeviceSettings(), archive)
    assert wanted.identity.fingerprint["set"] == "lock_clocks True, power_mode 15W"
    assert "set" not in plain.identity.fingerprint


def test_this_machine_is_never_set_by_the_way() -> None:
    with pytest.raises(DeviceError, match="`set` cannot be set for it: settings are for boards and phones"):
        local.open_device("local", DeviceSettings(set={"governor": "performance"}))
    with pytest.raises(DeviceError, match="`set` cannot be set for it: it runs on this machine"):
        open_emulated("emulated:cortex-a76", DeviceSettings(address="cortex-a76", set={"governor": "performance"}))


def test_a_lease_that_ran_out_in_between_has_everything_set_again(archive: Path, tmp_path: Path) -> None:
    """Another host had the board meanwhile: it undid what was set, and left it so."""
    transport = Settable(settable(tmp_path / "board"))
    device = board(transport, tmp_path / "root", archive, {"governor": "performance"})
    assert run_job(device, fake_job(tmp_path), tmp_path / "first", 60, "first").status == "ok"
    assert isinstance(device.runner, BoardRunner)
    lease = tmp_path / "root/lease" / device.runner._lease._number
    (lease / "released").touch()  # as if it had run out
    other = board(transport, tmp_path / "root", archive, {})
    assert run_job(other, fake_job(tmp_path), tmp_path / "other", 60, "other").status == "ok"
    assert isinstance(other.runner, BoardRunner)
    other.runner.close()
    assert run_job(device, fake_job(tmp_path), tmp_path / "second", 60, "second").status == "ok"
    assert transport.governors == ["performance", "schedutil", "performance"]
    device.runner.close()
    assert standing(transport.board.folder)[GOVERNOR] == "schedutil"


@pytest.mark.parametrize("others", [{}, {"governor": "powersave"}])
def test_a_board_that_another_host_has_now_is_closed_without_a_touch(others: dict[str, str], archive: Path, tmp_path: Path) -> None:
    transport = Settable(settable(tmp_path / "board"))
    late = board(transport, tmp_path / "root", archive, {"governor": "performance"})
    assert run_job(late, fake_job(tmp_path), tmp_path / "late", 60, "late").status == "ok"
    assert isinstance(late.runner, BoardRunner)
    (tmp_path / "root/lease" / late.runner._lease._number / "released").touch()  # as if it had run out
    other = board(transport, tmp_path / "root", archive, others)
    assert run_job(other, fake_job(tmp_path), tmp_path / "other", 60, "other").status == "ok"
    amid = standing(transport.board.folder)
    late.runner.close()
    assert standing(transport.board.folder) == amid
    held = holder(transport, str(tmp_path / "root"), "orin")
    assert held is not None
    assert isinstance(other.runner, BoardRunner)
    assert held.id == other.runner._lease._id
    other.runner.close()
    assert standing(transport.board.folder)[GOVERNOR] == "schedutil"


def test_another_interpreter_and_other_variables_are_another_environment_and_tell_no_path(archive: Path, tmp_path: Path) -> None:
    def facts(**changes: Any) -> dict[str, str]:
        settings = DeviceSettings(**changes)
        return open_board("pi", "ssh", LocalTransport(), sys.executable, str(tmp_path / "root"), settings, archive).identity.fingerprint

    plain = facts()
    changed = [facts(python="/home/ann/venv/bin/python"), facts(environment={"TOKEN": "hunter2"}), facts(environment={"TOKEN": "hunter3"})]
    assert len({str(each) for each in (plain, *changed)}) == 4
    assert facts(environment={"TOKEN": "hunter2"}) == changed[1]
    assert not any(word in str(changed) for word in ("ann", "hunter"))


def test_a_board_is_asked_what_it_is_with_the_variables_of_its_jobs(archive: Path, tmp_path: Path) -> None:
    class Noting(LocalTransport):
        def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
            if argv[-1] == "probe":
                noted.append(dict(env or {}))
            return super().run(argv, timeout, env)

    noted: list[dict[str, str]] = []
    settings = DeviceSettings(environment={"LD_LIBRARY_PATH": "/opt/lib"})
    open_board("pi", "ssh", Noting(), sys.executable, str(tmp_path / "root"), settings, archive)
    assert [each["LD_LIBRARY_PATH"] for each in noted] == ["/opt/lib"]


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("local", DeviceSettings(python="/usr/bin/python3"), "`python` cannot be set for it: settings are for boards"),
        ("local", DeviceSettings(environment={"A": "b"}, root="/data"), "`root` and `environment` cannot be set"),
        ("emulated", DeviceSettings("cortex-a76", python="/usr/bin/python3"), "`python` cannot be set for it: it runs on this machine"),
        ("simulated", DeviceSettings("quiet", environment={"A": "b"}), "`environment` cannot be set for it: it is imagined"),
        ("browser", DeviceSettings(set={"governor": "performance"}), "`set` cannot be set for it: a browser"),
        ("ssh", DeviceSettings("pi", runners={"benchmark_model": Path("b")}), "`runners` cannot be set for it: native programs are for phones"),
        (
            "adb",
            DeviceSettings("x", python="/p", runners={"benchmark_model": Path("b")}),
            "`runners` cannot be set for it: its `python` does all jobs",
        ),
    ],
)
def test_a_setting_that_a_device_does_not_follow_is_refused(name: str, settings: DeviceSettings, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        importlib.import_module(f"kdedge.devices.{name}").open_device(name, settings)


class _CutOnce(Settable):
    """Its connection breaks once, before the command that many commands ahead; never where that is negative."""

    ahead = -1
    struck = False

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        self.ahead -= 1
        if self.ahead == -1:
            self.struck = True
            raise Disconnected("the connection broke")
        return super().run(argv, timeout, env)


def test_a_connection_that_breaks_while_a_board_is_closed_leaves_nothing_set_and_no_lease(archive: Path, tmp_path: Path) -> None:
    for moment in range(100):
        transport, root = _CutOnce(settable(tmp_path / f"board-{moment}")), str(tmp_path / f"root-{moment}")
        before = standing(transport.board.folder)
        made = BoardRunner(IDENTITY, transport, sys.executable, root, wanted={"governor": "performance"}, archive=archive, patience=QUICK)
        made._lease.take("run")
        made._prepare()
        made._unfinished = "run"
        assert standing(transport.board.folder) != before
        transport.ahead = moment
        made.close()
        transport.ahead = -1
        assert standing(transport.board.folder) == before, f"command {moment}"
        assert holder(transport, root, "board") is None, f"command {moment}"
        if not transport.struck:
            break
    assert moment > 5  # else nothing was tested


def test_a_connection_that_breaks_while_a_board_is_set_is_tried_again(archive: Path, tmp_path: Path) -> None:
    for moment in range(100):
        transport, root = _CutOnce(settable(tmp_path / f"board-{moment}")), str(tmp_path / f"root-{moment}")
        before = standing(transport.board.folder)
        made = BoardRunner(IDENTITY, transport, sys.executable, root, wanted={"governor": "performance"}, archive=archive, patience=QUICK)
        made._lease.take("run")
        transport.ahead = moment
        made._prepare()
        transport.ahead = -1
        assert standing(transport.board.folder)[GOVERNOR] == "performance", f"command {moment}"
        made.close()
        assert standing(transport.board.folder) == before, f"command {moment}"
        if not transport.struck:
            break
    assert moment > 5  # else nothing was tested


def test_an_outage_while_a_board_is_set_anew_is_waited_for_as_any_other(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as where the board is let go: the job still needs it."""
    monkeypatch.setattr("kdedge.devices.board._FAREWELL_SECONDS", 0.0)
    for moment in range(100):
        transport = _CutOnce(settable(tmp_path / f"board-{moment}"))
        device = board(transport, tmp_path / f"root-{moment}", archive, {"governor": "performance"})
        assert run_job(device, fake_job(tmp_path), tmp_path / f"first-{moment}", 60, "first").status == "ok"
        assert isinstance(device.runner, BoardRunner)
        (tmp_path / f"root-{moment}/lease" / device.runner._lease._number / "released").touch()  # as if it had run out
        transport.ahead = moment
        assert run_job(device, fake_job(tmp_path), tmp_path / f"second-{moment}", 60, "second").status == "ok", f"command {moment}"
        transport.ahead = -1
        assert transport.governors == ["performance", "performance"]
        device.runner.close()
        assert standing(transport.board.folder)[GOVERNOR] == "schedutil"
        if not transport.struck or moment > 12:
            break


class _CutForGood(_CutOnce):
    """Its connection breaks that many commands ahead, and stays broken."""

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        self.struck = self.struck or self.ahead == 0
        if self.struck:
            raise Disconnected("the connection broke")
        return super().run(argv, timeout, env)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_board_that_is_lost_before_it_is_closed_has_told_what_is_still_set(at: int, archive: Path, tmp_path: Path) -> None:
    class Said(progress.Silent):
        def message(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    transport = _CutForGood(settable(tmp_path / "board"))
    made = BoardRunner(
        IDENTITY,
        transport,
        sys.executable,
        str(tmp_path / "root"),
        wanted={"governor": "performance"},
        archive=archive,
        patience=replace(QUICK, outage=0.05),
    )
    made._lease.take("run")
    made._prepare()
    transport.ahead = at
    with progress.listening(Said()):
        made.close()
    assert [text.split(":")[:2] for text in said] == [["board", " what was set for the measurement is still set"]]


@pytest.mark.parametrize(("error", "told"), [(DeviceError("its lease cannot be read"), 1), (DeviceTaken("another host has it"), 0)])
def test_a_lease_that_cannot_be_read_is_told_and_a_board_that_another_has_is_left_to_it(
    error: DeviceError, told: int, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Said(progress.Silent):
        def message(self, text: str) -> None:
            said.append(text)

    def refuse(run: str) -> bool:
        raise error

    made = BoardRunner(
        IDENTITY,
        settable(tmp_path / "board"),
        sys.executable,
        str(tmp_path / "root"),
        wanted={"governor": "performance"},
        archive=archive,
        patience=QUICK,
    )
    made._lease.take("run")
    made._prepare()
    monkeypatch.setattr(made._lease, "take", refuse)
    with progress.listening(Said()):
        made.close()
    assert [text.endswith(f"is still set: {error}") for text in said] == [True] * told
