"""The local transport links files, runs commands in a clean environment, and kills all of a command at its limit."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from kdedge.devices.local import LocalTransport
from kdedge.errors import DeviceError

transport = LocalTransport()


def python(program: str, timeout: float = 20.0, **env: str):  # type: ignore[no-untyped-def]
    return transport.run([sys.executable, "-c", program], timeout, env)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that waits for its reaper has)."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_pushed_file_is_a_link_and_is_not_placed_twice(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"weights")
    target = tmp_path / "device" / "model.onnx"
    transport.push(source, str(target))
    assert target.samefile(source)
    inode = target.stat().st_ino
    transport.push(source, str(target))
    assert target.stat().st_ino == inode


def test_a_file_that_is_there_with_the_same_hash_stays_and_one_with_another_is_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"new")
    inode = target.stat().st_ino
    transport.push(source, str(target))
    assert target.stat().st_ino == inode
    target.write_bytes(b"old")
    transport.push(source, str(target))
    assert target.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_file_is_copied_where_it_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"bytes")
    transport.push(tmp_path / "a", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"bytes"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_folders_travel_both_ways(tmp_path: Path) -> None:
    (tmp_path / "src" / "inner").mkdir(parents=True)
    (tmp_path / "src" / "inner" / "x").write_text("1")
    transport.push(tmp_path / "src", str(tmp_path / "dev"))
    transport.pull(str(tmp_path / "dev"), tmp_path / "back")
    assert (tmp_path / "back" / "inner" / "x").read_text() == "1"
    assert transport.read_text(str(tmp_path / "dev" / "inner" / "x")) == "1"
    assert transport.alive()


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(DeviceError, match=r"absent cannot be placed at .*: No such file"):
        transport.push(absent, str(tmp_path / "x"))
    with pytest.raises(DeviceError, match="absent cannot be copied"):
        transport.pull(str(absent), tmp_path / "x")
    with pytest.raises(DeviceError, match="absent cannot be read: No such file"):
        transport.read_text(str(absent))
    with pytest.raises(DeviceError, match="absent cannot be started: No such file"):
        transport.run([str(absent)], 1.0)


def test_a_finished_command_gives_its_code_and_what_it_said() -> None:
    done = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (done.returncode, done.stdout, done.stderr, done.timed_out) == (3, "out\n", "err\n", False)
    assert python("import os; os.kill(os.getpid(), 11)").returncode == -signal.SIGSEGV


def test_a_command_sees_none_of_the_users_environment_but_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    done = python("import os; print(sorted(os.environ))", GIVEN="1")
    assert "'GIVEN'" in done.stdout
    assert "'PATH'" in done.stdout
    assert "OMP_NUM_THREADS" not in done.stdout
    assert "SECRET" not in done.stdout


@pytest.mark.parametrize("name", ["KDEDGE_ENGINE_CACHE", "XDG_CACHE_HOME"])
def test_a_worker_keeps_its_engines_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.delenv("KDEDGE_ENGINE_CACHE", raising=False)
    monkeypatch.setenv(name, str(tmp_path / "place"))
    done = python("from kdedge.runtimes.tensorrt_engines import default_folder; print(default_folder())")
    assert done.stdout.startswith(str(tmp_path / "place"))


def test_a_command_at_its_limit_dies_with_all_its_children(tmp_path: Path) -> None:
    # The grandchild holds stdout open, which must not keep the transport waiting.
    program = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); print('started', flush=True); time.sleep(60)"
    )
    begin = time.monotonic()
    done = python(program, timeout=1.5)
    assert time.monotonic() - begin < 30
    assert done.timed_out
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "started\n"
    assert gone(int((tmp_path / "pid").read_text()))


def test_what_a_finished_command_left_behind_is_killed_too(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))"
    )
    assert python(program).returncode == 0
    assert gone(int((tmp_path / "pid").read_text()))


def test_of_endless_output_the_end_is_kept() -> None:
    done = python("import sys; sys.stderr.write('x' * 3_000_000 + 'the reason')")
    assert len(done.stderr) == 1 << 20
    assert done.stderr.endswith("the reason")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no descriptors of processes (Linux 5.3 has)")
def test_what_is_timed_is_not_disturbed_by_who_waits_for_it() -> None:
    def given_up() -> int:
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw  # how often this thread went to sleep

    before = given_up()
    done = python("import time; time.sleep(1)")
    assert (done.returncode, done.timed_out) == (0, False)
    assert given_up() - before < 12  # waiting in a loop sleeps 20 times in a second


def test_a_command_is_waited_for_where_the_system_has_no_descriptors_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert python("raise SystemExit(3)").returncode == 3
    assert python("import time; time.sleep(30)", timeout=0.3).timed_out
