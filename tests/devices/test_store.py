"""What is on a device is not sent again, and a name there is a hash that is true."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kdedge.devices.local import LocalTransport
from kdedge.devices.store import Store
from kdedge.devices.transport import Completed
from kdedge.errors import DeviceError


class Copying(LocalTransport):
    """Copies as a line would, and counts bytes and commands. `damage` changes what arrives."""

    def __init__(self, damage: bytes | None = None) -> None:
        self.bytes = 0
        self.commands = 0
        self._damage = damage

    def push(self, local: Path, remote: str) -> int:
        content = local.read_bytes() if self._damage is None else self._damage
        Path(remote).write_bytes(content)
        self.bytes += len(content)
        return len(content)

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        self.commands += 1
        return super().run(argv, timeout, env)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "board"


def test_fifty_megabytes_that_are_there_send_no_byte(root: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.onnx"
    big.write_bytes(b"weights!" * 6_250_000)
    assert Store(Copying(), str(root), "board").sent([big]) == 50_000_000
    again = tmp_path / "the same under another name"
    shutil.copy(big, again)
    transport = Copying()
    assert Store(transport, str(root), "board").sent([big, again]) == 0
    assert (transport.bytes, transport.commands) == (0, 1)


def test_a_file_that_was_changed_is_sent_again(root: Path, tmp_path: Path) -> None:
    store = Store(Copying(), str(root), "board")
    (tmp_path / "a").write_bytes(b"first")
    assert store.keep([tmp_path / "a"]) == {tmp_path / "a": sha256(b"first")}
    (tmp_path / "a").write_bytes(b"other")
    assert store.keep([tmp_path / "a"]) == {tmp_path / "a": sha256(b"other")}
    assert {path.name for path in Path(store.folder).iterdir()} == {sha256(b"first"), sha256(b"other")}


def test_equal_files_are_sent_once(root: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"same")
    assert Store(Copying(), str(root), "board").sent([tmp_path / "a", tmp_path / "b"]) == 4


def test_what_arrives_changed_is_refused_and_not_kept(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"true")
    store = Store(Copying(damage=b"fals"), str(root), "board")
    with pytest.raises(DeviceError, match=r"device `board`: 1 files arrived changed"):
        store.keep([tmp_path / "a"])
    assert list(Path(store.folder).iterdir()) == []
    assert Store(Copying(), str(root), "board").sent([tmp_path / "a"]) == 4


def test_a_half_of_a_file_under_its_full_name_is_replaced(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"whole")
    (root / "store").mkdir(parents=True)
    (root / "store" / sha256(b"whole")).write_bytes(b"wh")
    assert Store(Copying(), str(root), "board").sent([tmp_path / "a"]) == 5
    assert (root / "store" / sha256(b"whole")).read_bytes() == b"whole"


def test_a_link_to_the_users_own_file_does_not_stay_in_the_store(root: Path, tmp_path: Path) -> None:
    """The local transport links; what the user then writes into the file must not change the store."""
    (tmp_path / "a").write_bytes(b"first")
    store = Store(LocalTransport(), str(root), "board")
    digest = store.keep([tmp_path / "a"])[tmp_path / "a"]
    with (tmp_path / "a").open("r+b") as handle:
        handle.write(b"other")
    assert Path(store.path(digest)).read_bytes() == b"first"


def test_files_get_their_names_in_one_command(root: Path, tmp_path: Path) -> None:
    transport = Copying()
    store = Store(transport, str(root), "board")
    names = {}
    for number in range(20):
        path = tmp_path / f"file {number}"
        path.write_bytes(b"%d" % number)
        names[f"files/it's {number}/model"] = store.keep([path])[path]
    transport.commands = 0
    store.link(str(root / "jobs/run"), names)
    assert transport.commands == 1
    for number in range(20):
        placed = root / f"jobs/run/files/it's {number}/model"
        assert placed.read_bytes() == b"%d" % number
        assert placed.samefile(store.path(names[f"files/it's {number}/model"]))
    assert (root / "jobs/run/uses").read_text().split() == list(names.values())


def test_hundreds_of_files_are_parted_into_commands_that_any_shell_takes(root: Path, tmp_path: Path) -> None:
    class Narrow(Copying):
        def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
            assert sum(len(word) + 3 for word in argv) < 26_000
            return super().run(argv, timeout, env)

    (tmp_path / "a").write_bytes(b"a")
    store = Store(Narrow(), str(root), "board")
    digest = store.keep([tmp_path / "a"])[tmp_path / "a"]
    store.link(str(root / "jobs/run"), {f"files/inputs-{number}/0.npy": digest for number in range(300)})
    assert len(list((root / "jobs/run/files").iterdir())) == 300


def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs /dev/shm as another file system")
    with tempfile.TemporaryDirectory(dir=other) as root:
        (tmp_path / "a").write_bytes(b"a")
        store = Store(Copying(), root, "board")
        store.link(str(tmp_path / "jobs"), {"files/a": store.keep([tmp_path / "a"])[tmp_path / "a"]})
    assert (tmp_path / "jobs/files/a").read_bytes() == b"a"


def test_a_file_that_is_not_in_the_store_is_named(root: Path) -> None:
    with pytest.raises(DeviceError, match=r"the job's files cannot be placed: .*0000.*No such file"):
        Store(Copying(), str(root), "board").link(str(root / "jobs/run"), {"a": "0000"})


# ---- sweeping -------------------------------------------------------------------------------------------------------------

DAY = 24 * 3600.0


def stored(root: Path, name: str, size: int, days: float) -> Path:
    path = root / "store" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    age(path, days)
    return path


def age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY, time.time() - days * DAY))


def job_of(root: Path, name: str, days: float, *uses: str) -> Path:
    folder = root / "jobs" / name
    folder.mkdir(parents=True)
    (folder / "uses").write_text("\n".join(uses))
    age(folder, days)
    return folder


def sweep(root: Path, days: float, most: int) -> dict[str, int]:
    command = [sys.executable, "-m", "kdedge.runtimes.worker", "sweep", str(root), str(days * DAY), str(most)]
    found: dict[str, int] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def test_old_files_and_jobs_go_and_what_a_job_uses_stays(root: Path) -> None:
    stored(root, "old", 10, 20)
    stored(root, "used", 10, 20)
    stored(root, "new", 10, 1)
    job_of(root, "young", 1, "used")
    job_of(root, "forgotten", 20)
    assert sweep(root, 14, 1 << 30) == {"jobs": 1, "files": 1, "bytes": 10}
    assert sorted(path.name for path in (root / "store").iterdir()) == ["new", "used"]
    assert [path.name for path in (root / "jobs").iterdir()] == ["young"]


def test_beyond_its_share_the_oldest_go_first_and_what_just_came_stays(root: Path) -> None:
    for name, days in {"three": 3, "two": 2, "one": 1, "now": 0}.items():
        stored(root, name, 100, days)
    assert sweep(root, 14, 250) == {"jobs": 0, "files": 2, "bytes": 200}
    assert sorted(path.name for path in (root / "store").iterdir()) == ["now", "one"]
    assert sweep(root, 14, 50) == {"jobs": 0, "files": 1, "bytes": 100}
    assert [path.name for path in (root / "store").iterdir()] == ["now"]


def test_an_old_job_that_still_runs_stays(root: Path) -> None:
    folder = job_of(root, "0123456789abcdef", 20)
    process = subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", str(folder)], stdin=-1, stdout=-1)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (folder / "claim-1").write_text(f"{process.pid} {boot}\n")
        age(folder, 20)
        assert sweep(root, 14, 1 << 30)["jobs"] == 0
    finally:
        process.kill()
        process.wait()
    age(folder, 20)
    assert sweep(root, 14, 1 << 30)["jobs"] == 1


def test_there_is_nothing_to_sweep_where_nothing_was_kept(root: Path) -> None:
    assert sweep(root, 14, 1) == {"jobs": 0, "files": 0, "bytes": 0}


def test_two_hosts_that_send_the_same_file_at_once_do_not_disturb_each_other(root: Path, tmp_path: Path) -> None:
    """Both found it missing, and the other was quicker; their processes may have the same number."""

    class Slow(Copying):
        def push(self, local: Path, remote: str) -> int:
            sent = super().push(local, remote)
            if not others:
                others.append(Store(Copying(), str(root), "board").sent([model]))
            return sent

    others: list[int] = []
    model = tmp_path / "model.onnx"
    model.write_bytes(b"weights")
    assert Store(Slow(), str(root), "board").sent([model]) == 7
    assert others == [7]
    assert [path.read_bytes() for path in (root / "store").iterdir()] == [b"weights"]


def test_a_board_that_answers_something_else_is_a_sentence(root: Path, tmp_path: Path) -> None:
    class Talking(Copying):
        def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
            done = super().run(argv, timeout, env)
            return Completed(done.returncode, "Welcome!\n" + done.stdout, done.stderr)

    (tmp_path / "model.onnx").write_bytes(b"weights")
    with pytest.raises(DeviceError, match="what it says of its files cannot be understood: 'Welcome!"):
        Store(Talking(), str(root), "board").keep([tmp_path / "model.onnx"])
