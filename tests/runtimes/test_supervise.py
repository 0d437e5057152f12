"""A supervisor does one job in one folder, alone, and leaves word of how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from board_world import begun, fake_job, fake_worker

from kdedge.devices.board_job import staged_job
from kdedge.runtimes import supervise as module
from kdedge.runtimes.job import write_job
from kdedge.runtimes.supervise import DONE, TAKEN, UNUSABLE, boot_id, claim, live_supervisor


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_worker(tmp_path_factory.mktemp("worker"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "0123456789abcdef"


def staged(folder: Path, **options: object) -> Path:
    job = fake_job(folder.parent, **options)
    work = folder / "work"
    work.mkdir(parents=True)
    made, names = staged_job(job, folder.parent, {Path(path): path for path in (job.graphs["main"][0], job.buckets[0]["image"])})
    for name, path in names.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).symlink_to(path)
    write_job(str(work), made)
    return folder


def start(archive: Path, folder: Path, seconds: float = 60) -> subprocess.Popen[str]:
    command = [sys.executable, str(archive), "supervise", str(folder), f"{seconds:g}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "ended.json").read_text())
    return found


def eventually(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within 20 s")


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_finished_job_leaves_its_result_and_word_of_its_end(archive: Path, folder: Path) -> None:
    staged(folder)
    assert start(archive, folder).wait() == DONE
    found = ended(folder)
    assert (found["returncode"], found["timed_out"], found["status"], found["disk_full"]) == (0, False, "ok", False)
    assert json.loads((folder / "heartbeat").read_text())["uptime"] > 0
    assert sorted(path.name for path in folder.iterdir()) == ["claim-1", "ended.json", "files", "heartbeat", "work"]


def test_a_finished_job_is_not_done_again(archive: Path, folder: Path) -> None:
    staged(folder, count=str(folder.parent / "count"))
    assert start(archive, folder).wait() == start(archive, folder).wait() == DONE
    assert begun(folder.parent / "count") == 1


@pytest.mark.parametrize(("what", "code", "status"), [("segfault", -11, ""), ("be killed", -9, ""), ("exit", 7, ""), ("raise", 0, "failed")])
def test_an_end_is_a_code_or_a_signal(what: str, code: int, status: str, archive: Path, folder: Path) -> None:
    staged(folder, do=what)
    assert start(archive, folder).wait() == DONE
    assert (ended(folder)["returncode"], ended(folder)["status"], ended(folder)["timed_out"]) == (code, status, False)


def test_a_job_at_its_limit_dies_with_its_group(archive: Path, folder: Path) -> None:
    staged(folder, do="hang")
    supervisor = start(archive, folder, 8)
    eventually(lambda: (folder / "work/stderr.log").exists() and (folder / "work/stderr.log").read_text())
    job = children(supervisor.pid)
    assert supervisor.wait() == DONE
    assert (ended(folder)["returncode"], ended(folder)["timed_out"]) == (-9, True)
    assert len(job) == 1
    eventually(lambda: not runs(job[0]))


def test_of_two_supervisors_that_start_at_once_one_does_the_job(archive: Path, folder: Path) -> None:
    staged(folder, count=str(folder.parent / "count"), until=str(folder.parent / "go"))
    started = [start(archive, folder) for _ in range(4)]
    eventually(lambda: sum(each.poll() is not None for each in started) == 3)
    (folder.parent / "go").touch()
    codes = sorted(each.wait() for each in started)
    assert codes == [DONE, TAKEN, TAKEN, TAKEN]
    assert begun(folder.parent / "count") == 1
    assert ended(folder)["status"] == "ok"
    assert [path.name for path in folder.glob("claim-*")] == ["claim-1"]


def test_a_job_dies_with_its_supervisor_and_the_next_one_begins_anew(archive: Path, folder: Path) -> None:
    count = folder.parent / "count"
    staged(folder, count=str(count), until=str(folder.parent / "go"))
    first = start(archive, folder)
    eventually(lambda: begun(count))
    assert live_supervisor(str(folder))
    job = children(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    eventually(lambda: not runs(job[0]))
    assert not live_supervisor(str(folder))
    (folder / "work" / "samples_ns.npy").write_text("half of an earlier attempt")
    (folder.parent / "go").touch()
    assert start(archive, folder).wait() == DONE
    assert (begun(count), ended(folder)["status"]) == (2, "ok")
    assert sorted(path.name for path in folder.glob("claim-*")) == ["claim-1", "claim-2"]
    assert not (folder / "work" / "samples_ns.npy").exists()


def test_a_claim_from_before_a_restart_holds_nobody_off(folder: Path) -> None:
    folder.mkdir()
    (folder / "claim-1").write_text(f"{os.getpid()} another-boot\n")
    assert claim(str(folder))
    assert (folder / "claim-2").read_text().split() == [str(os.getpid()), boot_id()]


def test_a_process_that_took_the_number_of_a_dead_supervisor_is_not_taken_for_it(folder: Path) -> None:
    folder.mkdir()
    (folder / "claim-1").write_text(f"{os.getpid()} {boot_id()}\n")  # this process has not the folder in its command line
    assert claim(str(folder))


def test_a_claim_that_is_just_being_written_holds_others_off(folder: Path) -> None:
    folder.mkdir()
    (folder / "claim-1").touch()
    assert not claim(str(folder))
    os.utime(folder / "claim-1", (time.time() - 60, time.time() - 60))  # its writer died
    assert claim(str(folder))


def test_a_job_whose_supervisors_die_again_and_again_is_given_up(folder: Path) -> None:
    folder.mkdir()
    for number in range(1, 10):
        (folder / f"claim-{number}").write_text("1 another-boot\n")
    with pytest.raises(OSError, match="its supervisor died 9 times"):
        claim(str(folder))


def test_of_endless_words_the_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "stderr.log"
    path.write_bytes(b"x" * 3_000_000 + b"the reason")
    module._shorten(str(path))
    assert path.stat().st_size == 1 << 20
    assert path.read_bytes().endswith(b"the reason")


def test_a_full_disk_is_said(archive: Path, folder: Path, tmp_path: Path) -> None:
    small = Path(tempfile.mkdtemp(prefix="kdedge-test-"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True, check=False).returncode:
        small.rmdir()
        pytest.skip("needs the right to mount a small file system")
    try:
        inside = staged(small / "0123456789abcdef", count=str(tmp_path / "count"), until=str(tmp_path / "go"))
        supervisor = start(archive, inside)
        eventually(lambda: begun(tmp_path / "count"))
        subprocess.run(["sh", "-c", 'cat /dev/zero >"$1"', "sh", str(small / "filler")], capture_output=True, check=False)
        (tmp_path / "go").touch()
        assert supervisor.wait() == DONE
        assert (ended(inside)["status"], ended(inside)["disk_full"]) == ("", True)
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
        small.rmdir()


def test_a_folder_without_a_job_is_refused(archive: Path, folder: Path) -> None:
    folder.mkdir()
    supervisor = start(archive, folder)
    assert supervisor.wait() == UNUSABLE
    assert supervisor.stderr is not None
    assert supervisor.stderr.read() == f"there is no work/job.json in {folder}\n"
