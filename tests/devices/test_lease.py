"""Two hosts never both hold the lease of a board, and a host that was lost does not keep it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kdedge.devices import lease as module
from kdedge.devices.lease import Lease, holder
from kdedge.devices.local import LocalTransport
from kdedge.errors import DeviceError, DeviceTaken

transport = LocalTransport()


def lease(root: Path, seconds: int = 60) -> Lease:
    return Lease(transport, str(root), "board", seconds)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.01)


def test_a_second_host_is_told_who_has_the_board_and_until_when(tmp_path: Path) -> None:
    first = lease(tmp_path)
    first.take("run-1")
    who = rf"device `board` is taken by a kdedge process \(number {os.getpid()} on its host, since [-\d]+ [\d:]+\) until \d\d:\d\d:\d\d \(in \d+ s\)"
    with pytest.raises(DeviceTaken, match=who):
        lease(tmp_path).take("run-2")
    found = holder(transport, str(tmp_path), "board")
    assert found is not None
    assert (found.run, 50 < found.seconds <= 60) == ("run-1", True)


def test_nothing_in_it_tells_whose_host_it_is(tmp_path: Path) -> None:
    import getpass
    import socket

    lease(tmp_path).take("run-1")
    text = "".join(path.read_text() for path in (tmp_path / "lease").rglob("*") if path.is_file())
    assert socket.gethostname() not in text
    assert getpass.getuser() not in text.split()


def test_a_lease_that_was_given_back_is_free(tmp_path: Path) -> None:
    first, second = lease(tmp_path), lease(tmp_path)
    first.take("run-1")
    first.give_back()
    assert holder(transport, str(tmp_path), "board") is None
    second.take("run-2")
    first.give_back()  # it has nothing any more
    with pytest.raises(DeviceError, match="is taken by"):
        first.take("run-1")


def test_a_lease_runs_out_and_is_renewed_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_dead", lambda owner: False)  # as if of another host
    first, second = lease(tmp_path, 3), lease(tmp_path)
    first.take("run-1")
    for _ in range(5):
        time.sleep(1)
        first.renew("run-1")
        with pytest.raises(DeviceError, match="is taken by"):
            second.take("run-2")
    time.sleep(4)
    second.take("run-2")
    with pytest.raises(DeviceError, match="is taken by"):
        first.take("run-1")


def test_a_restart_of_the_board_ends_a_lease(tmp_path: Path) -> None:
    lease(tmp_path).take("run-1")
    owner = tmp_path / "lease/1/owner"
    words = owner.read_text().split()
    owner.write_text(owner.read_text().replace(words[2], "another-boot"))
    assert holder(transport, str(tmp_path), "board") is None
    lease(tmp_path).take("run-2")


def test_a_taker_that_died_in_the_middle_keeps_nobody_off_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UNOWNED_SECONDS", 0.3)
    (tmp_path / "lease/7").mkdir(parents=True)
    mine = lease(tmp_path)
    mine.take("run-1")
    assert [path.name for path in (tmp_path / "lease").iterdir()] == ["8"]


def test_the_lease_of_a_process_of_this_machine_that_died_is_free_at_once(tmp_path: Path) -> None:
    program = f"""
import time
from kdedge.devices.lease import Lease
from kdedge.devices.local import LocalTransport
Lease(LocalTransport(), {str(tmp_path)!r}, "board", 3600).take("run-1")
print("taken", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    with pytest.raises(DeviceError, match="is taken by"):
        lease(tmp_path).take("run-2")
    process.send_signal(signal.SIGKILL)
    process.wait()
    lease(tmp_path).take("run-2")


def running_job(root: Path, run: str) -> subprocess.Popen[bytes]:
    """A process that looks like the supervisor of that run."""
    folder = root / "jobs" / run
    folder.mkdir(parents=True)
    process = subprocess.Popen(["sh", "-c", "echo; read line", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    (folder / "claim-1").write_text(f"{process.pid} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}\n")
    return process


def test_a_job_that_outlives_the_lease_of_its_host_keeps_the_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_dead", lambda owner: False)
    lease(tmp_path, 0).take("run-1")
    job = running_job(tmp_path, "run-1")
    try:
        with pytest.raises(DeviceTaken, match=r"has lost its connection to the device, and its job run-1 still runs there"):
            lease(tmp_path).take("run-2")
        lease(tmp_path).take("run-1")  # who wants that very job may wait for it
    finally:
        job.kill()
        job.wait()


@pytest.mark.parametrize("whose", ["a dead process", "our own"])
def test_a_job_that_nobody_waits_for_any_more_is_ended(whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_dead", lambda owner: True)
    first = lease(tmp_path)
    first.take("run-1")
    job = running_job(tmp_path, "run-1")
    (first if whose == "our own" else lease(tmp_path)).take("run-2")
    assert job.wait(20) == -signal.SIGKILL


def test_of_many_that_want_the_board_one_has_it(tmp_path: Path) -> None:
    """Each takes and gives back as often as it can; whoever has it finds nobody else inside."""
    inside: list[int] = []
    wrong: list[str] = []
    taken: list[int] = []

    def contend(number: int) -> None:
        mine = lease(tmp_path)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            try:
                mine.take(f"run-{number}")
            except DeviceError:
                continue
            inside.append(number)
            if len(inside) != 1:
                wrong.append(f"{inside} at once")
            time.sleep(random.random() / 100)
            inside.remove(number)
            taken.append(number)
            mine.give_back()

    threads = [threading.Thread(target=contend, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(taken) > 4


def test_of_many_that_find_a_lease_run_out_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_dead", lambda owner: False)
    for round_ in range(6):
        root = tmp_path / str(round_)
        lease(root, 0).take("run-0")
        got: list[int] = []
        start = threading.Barrier(5)

        def contend(number: int, root: Path = root, got: list[int] = got, start: threading.Barrier = start) -> None:
            mine = lease(root)
            start.wait()
            try:
                mine.take(f"run-{number}")
            except DeviceError:
                return
            got.append(number)

        threads = [threading.Thread(target=contend, args=[number]) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1


def test_a_script_that_is_killed_at_any_moment_leaves_a_lease_that_can_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_dead", lambda owner: False)
    monkeypatch.setattr(module, "_UNOWNED_SECONDS", 0.1)
    chance = random.Random(0)
    for round_ in range(12):
        process = subprocess.Popen(["sh", "-c", module._TAKE, "kdedge", str(tmp_path), f"lost-{round_}", "0", "run", "text", "-", "-"], stdout=-1)
        time.sleep(chance.random() * 0.03)
        process.kill()
        process.communicate()
        mine = lease(tmp_path)
        mine.take("run-1")
        found = holder(transport, str(tmp_path), "board")
        assert found is not None
        assert found.run == "run-1"
        mine.give_back()
