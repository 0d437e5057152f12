"""The emulated system is whole or not there, is built once, and what is missing on a machine is said in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from emulated_board import board, run_python

from kdedge.devices import sysroot
from kdedge.devices.sysroot import find_sysroot, key_of, obtain_sysroot
from kdedge.errors import DeviceError

WHEELS = {"numpy": "2.0.0", "onnxruntime": "1.20.0"}


def write_system(folder: Path, wheels: Mapping[str, str]) -> None:
    """What a build leaves, without the downloads."""
    (folder / "root").mkdir(parents=True)
    found = {"python": "usr/bin/python3.11", "packages": {"libc6": "2.36"}, "wheels": dict(wheels), "seconds": 1.0}
    (folder / "sysroot.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that holds only what a test puts there, and an emulator."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sysroot, "wheels_here", lambda: dict(WHEELS))
    command(folder, "qemu-aarch64-static", "exit 0")
    return folder


def command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_other_versions_are_another_system() -> None:
    assert key_of(WHEELS) == key_of(dict(reversed(WHEELS.items())))
    assert key_of(WHEELS) != key_of({**WHEELS, "onnxruntime": "1.20.1"})


def test_a_damaged_record_is_no_system(tmp_path: Path) -> None:
    folder = tmp_path / "emulated" / key_of(WHEELS)
    write_system(folder, WHEELS)
    found = find_sysroot(tmp_path, WHEELS)
    assert found is not None
    assert (found.root, found.wheels, found.packages["libc6"]) == (folder / "root", WHEELS, "2.36")
    (folder / "sysroot.json").write_text('{"python": ', encoding="utf-8")
    assert find_sysroot(tmp_path, WHEELS) is None
    (folder / "sysroot.json").write_text('{"interpreter": "x"}', encoding="utf-8")
    assert find_sysroot(tmp_path, WHEELS) is None


def test_a_missing_tool_is_named_with_its_package(tools: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"needs `apt-get` \(package `apt`\)"):
        obtain_sysroot(tmp_path / "cache")
    (tools / "qemu-aarch64-static").unlink()
    with pytest.raises(DeviceError, match=r"qemu-aarch64-static, which is not installed; .* `qemu-user-static`"):
        obtain_sysroot(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


NO_PACKAGE = 'case "$*" in *update) exit 0 ;; esac\necho "E: Unable to locate package python3" >&2\nexit 100'
NO_NETWORK = 'echo "W: ignored" >&2\necho "E: Could not resolve the host" >&2\nexit 100'
NO_SPACE = 'echo "E: Write error - write (28: No space left on device)"\necho "E: IO Error" >&2\nexit 100'
REFUSALS = {
    NO_PACKAGE: "offer no arm64: E: Unable to locate package python3",
    NO_NETWORK: "arm64 packages cannot be fetched: E: Could not resolve the host",
    NO_SPACE: "No space left on device",
}


@pytest.mark.parametrize(("script", "sentence"), REFUSALS.items(), ids=["package", "network", "disk"])
def test_what_apt_says_is_the_reason_and_nothing_is_left_behind(tools: Path, tmp_path: Path, script: str, sentence: str) -> None:
    command(tools, "apt-get", script)
    command(tools, "dpkg-deb", "exit 0")
    with pytest.raises(DeviceError) as caught:
        obtain_sysroot(tmp_path / "cache")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache/emulated").iterdir()] == [".lock"]


def test_a_disk_without_room_is_said_before_anything_is_fetched(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tools, "apt-get", "exit 1")
    command(tools, "dpkg-deb", "exit 1")
    monkeypatch.setattr(sysroot, "ROOM", 1 << 60)
    with pytest.raises(DeviceError, match=r"has \d+ MB left; the emulated arm64 system needs \d+ MB"):
        obtain_sysroot(tmp_path / "cache")


def test_an_unwritable_cache_is_a_sentence(tools: Path, tmp_path: Path) -> None:
    command(tools, "apt-get", "exit 1")
    command(tools, "dpkg-deb", "exit 1")
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(DeviceError, match=r"cannot be built in .*: Not a directory"):
        obtain_sysroot(tmp_path / "cache")


@pytest.fixture
def builds(tools: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Builds that take a moment and download nothing, as they happen."""
    command(tools, "apt-get", "exit 1")
    command(tools, "dpkg-deb", "exit 1")
    happened: list[Path] = []

    def build(folder: Path, wheels: Mapping[str, str]) -> None:
        happened.append(folder)
        time.sleep(0.2)
        write_system(folder, wheels)

    monkeypatch.setattr(sysroot, "_build", build)
    return happened


def test_two_who_ask_at_once_get_one_system_that_was_built_once(builds: list[Path], tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(obtain_sysroot(tmp_path).folder)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "emulated" / key_of(WHEELS)] * 3
    assert len(builds) == 1


def test_what_is_in_the_cache_is_not_built_again_unless_it_is_asked_for(builds: list[Path], tmp_path: Path) -> None:
    first = obtain_sysroot(tmp_path)
    (first.folder / "mark").touch()
    assert obtain_sysroot(tmp_path) == first
    assert (len(builds), (first.folder / "mark").exists()) == (1, True)
    assert obtain_sysroot(tmp_path, refresh=True).folder == first.folder
    assert (len(builds), (first.folder / "mark").exists()) == (2, False)
    assert sorted(path.name for path in (tmp_path / "emulated").iterdir()) == [first.folder.name, f"{first.folder.name}.lock"]


def test_what_a_killed_build_left_is_no_system_and_does_not_hinder_the_next(builds: list[Path], tmp_path: Path) -> None:
    partial = tmp_path / "emulated" / f"{key_of(WHEELS)}.partial"
    (partial / "root").mkdir(parents=True)
    assert find_sysroot(tmp_path, WHEELS) is None
    assert obtain_sysroot(tmp_path).root.is_dir()
    assert not partial.exists()


def test_the_real_system_has_the_versions_that_are_installed_here() -> None:
    found = board()
    script = "import json, importlib.metadata as known, platform; print(json.dumps([platform.machine(), {n: known.version(n) for n in %r}]))"
    machine, versions = json.loads(run_python("cortex-a53", "-c", script % list(found.wheels)))
    assert machine == "aarch64"
    assert versions == sysroot.wheels_here() == dict(found.wheels)
    assert not list(found.folder.glob("apt*"))


def test_importing_the_module_starts_nothing() -> None:
    """`kdedge devices list` must stay quick."""
    code = "import sys, kdedge.devices.sysroot; print([name for name in ('numpy', 'onnxruntime', 'openvino') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
