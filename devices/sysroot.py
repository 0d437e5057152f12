"""An arm64 Debian system with Python and the runtimes that this machine has, unpacked into the user's cache for qemu's user mode.

Neither root nor a chroot is needed: apt-get fetches and checks the packages with a state of its own, from the sources that this machine is set up
with; dpkg-deb unpacks them; pip fetches the aarch64 wheels of the versions that are installed here.

CACHE/emulated/KEY/          KEY: the packages, the wheels and their versions, the release of this machine
    root/                    the unpacked system, wheels among its packages
    views/                   the system as each CPU sees it (`emulated_cpus.py`)
    sysroot.json             what is in it (`Sysroot`); written last, and the folder is renamed into place when it is whole
CACHE/emulated/KEY.lock      held by who builds
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from kdedge import progress
from kdedge.devices.emulated_cpus import view_of
from kdedge.errors import DeviceError
from kdedge.runtimes import adapter

# What Python, numpy and the runtimes link to. `base-files` says which system it is.
PACKAGES = ("base-files", "libgomp1", "libpython3-stdlib", "libstdc++6", "python3-minimal")
RUNTIMES = ("onnxruntime", "openvino")
# What runs here runs on all of them.
OLDEST_CPU = "cortex-a53"
# Raised when the layout of the folder changes.
LAYOUT = 1
# The finished folder takes 300 MB, packages and wheels on their way as much again.
ROOM = 800_000_000
# No single step should take a minute; a connection that hangs must end.
STEP_SECONDS = 600.0

_QEMUS = ("qemu-aarch64-static", "qemu-aarch64")
_RECORD = "sysroot.json"
_WORKER_IMPORTS = "import ctypes, faulthandler, glob, hashlib, json, platform, resource, tempfile, traceback, zipfile, numpy.lib.format"
_WHAT = "setting up the emulated arm64 system"
_STEPS = 4

# Hooks of the machine's own apt (package kits, docker's cleaning) must not run for a private state. `#clear` is apt.conf's way to empty a list.
_APT = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "0";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}";
"""


@dataclass(frozen=True)
class Sysroot:
    """A finished system. `folder`: the KEY of the cache. `python`: the interpreter below `folder`/root. `packages` and `wheels`: versions by name.
    `seconds`: how long it took to build."""

    folder: Path
    python: str
    packages: Mapping[str, str]
    wheels: Mapping[str, str]
    seconds: float

    @property
    def root(self) -> Path:
        """The unpacked system."""
        return self.folder / "root"


def cache_folder() -> Path:
    """Where kdedge keeps what can be made again, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdedge"


def find_qemu() -> str:
    """qemu's user mode for arm64, by full path.

    Raises:
        DeviceError: it is not installed.
    """
    found = next((path for path in map(shutil.which, _QEMUS) if path), None)
    if found is None:
        raise DeviceError("an emulated device needs qemu-aarch64-static, which is not installed; Debian and Ubuntu have it in `qemu-user-static`")
    return found


def wheels_here() -> dict[str, str]:
    """numpy and the runtimes of this environment with their versions, which are those of the emulated system too."""
    found = {"numpy": version("numpy"), **{runtime: adapter(runtime).version() for runtime in RUNTIMES}}
    return {name: number.partition("+")[0] for name, number in found.items() if number}


def key_of(wheels: Mapping[str, str]) -> str:
    """The name of the folder: the same parts are never built twice, others never mixed up."""
    parts = [LAYOUT, PACKAGES, sorted(wheels.items()), _release()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def find_sysroot(cache: Path, wheels: Mapping[str, str] | None = None) -> Sysroot | None:
    """The system that fits this environment, None where it was not built yet."""
    folder = cache / "emulated" / key_of(wheels_here() if wheels is None else wheels)
    try:
        return Sysroot(folder=folder, **json.loads((folder / _RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def obtain_sysroot(cache: Path, refresh: bool = False) -> Sysroot:
    """The system that fits this environment: from the cache, or built now, from the network (100 MB), in less than a minute.

    `refresh` builds it anew, with the packages of today. Two processes that ask at once get the same one.

    Raises:
        DeviceError: a tool is missing, a package or wheel cannot be had, or the disk is full.
    """
    wheels = wheels_here()
    if not refresh and (found := find_sysroot(cache, wheels)) is not None:
        return found
    find_qemu()
    _require_tools()
    folder = cache / "emulated" / key_of(wheels)
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        asked = time.time()
        with _alone(folder.with_name(f"{folder.name}.lock")):
            found = find_sysroot(cache, wheels)
            # Who waited for another process takes what that one made.
            if found is not None and (not refresh or (folder / _RECORD).stat().st_mtime >= asked):
                return found
            _check_room(folder.parent)
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            try:
                _build(partial, wheels)
                _put_in_place(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    built = find_sysroot(cache, wheels)
    if built is None:
        raise DeviceError(f"{folder} was built and is gone again: another process cleans the cache")
    return built


def _build(folder: Path, wheels: Mapping[str, str]) -> None:
    started = time.monotonic()
    root = folder / "root"
    root.mkdir(parents=True)
    progress.advance(_WHAT, 0, _STEPS, "package lists")
    archives = _fetch_packages(folder / "apt")
    progress.advance(_WHAT, 1, _STEPS, "unpacking")
    # base-files first: in newer releases it holds the links /lib -> /usr/lib, through which the others are unpacked.
    for archive in sorted(archives, key=lambda path: (not path.name.startswith("base-files_"), path.name)):
        _run(["dpkg-deb", "-x", str(archive), str(root)], f"{archive.name} cannot be unpacked")
    packages = dict(_name_and_version(archive) for archive in archives)
    python = _interpreter(root)
    progress.advance(_WHAT, 2, _STEPS, "wheels")
    _fetch_wheels(root / "usr/local/lib" / python.name / "dist-packages", python.name, packages["libc6"], wheels)
    shutil.rmtree(folder / "apt")
    progress.advance(_WHAT, 3, _STEPS, "first imports")
    inside = str(python.relative_to(root))
    _import_once(folder, inside, wheels)
    found = {"python": inside, "packages": packages, "wheels": dict(wheels), "seconds": round(time.monotonic() - started, 1)}
    (folder / _RECORD).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    progress.advance(_WHAT, _STEPS, _STEPS, f"{found['seconds']:.0f} s")


def _fetch_packages(folder: Path) -> list[Path]:
    """Packages and all that they depend on, with lists and a status of their own: this machine's system is neither read nor changed."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    settings = folder / "apt.conf"
    settings.write_text(_APT.format(folder=folder), encoding="utf-8")
    apt = ["apt-get", "-c", str(settings), "-q", "-y"]
    _run([*apt, "update"], "the lists of arm64 packages cannot be fetched")
    # A list that failed is only warned about, and shows here.
    _run(
        [*apt, "--download-only", "install", *PACKAGES],
        "the arm64 packages cannot be fetched: either there is no network, or the apt sources of this machine offer no arm64",
    )
    return sorted((folder / "cache/archives").glob("*.deb"))


def _fetch_wheels(site: Path, python: str, libc: str, wheels: Mapping[str, str]) -> None:
    # Wheels name the oldest glibc that they run with (PEP 600).
    found = re.match(r"2\.(\d+)", libc)
    newest = int(found.group(1)) if found else 17
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(newest, 16, -1)] + ["manylinux2014_aarch64"]
    pinned = [f"{name}=={number}" for name, number in wheels.items()]
    _run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--root-user-action=ignore"),
            *("--no-deps", "--no-compile", "--only-binary=:all:", "--implementation=cp"),
            f"--python-version={python.removeprefix('python')}",
            f"--target={site}",
            *(f"--platform={platform}" for platform in platforms),
            *pinned,
        ],
        f"the aarch64 wheels of {', '.join(pinned)} cannot be fetched",
    )


def _import_once(folder: Path, python: str, wheels: Mapping[str, str]) -> None:
    """Import what a worker imports: shows that the system works, and compiles what is used, for which the emulator would need seconds each time."""
    view = view_of(folder, python, OLDEST_CPU, find_qemu())
    silent = "import sys; sys.modules['openvino_telemetry'] = None"
    imports = "; ".join([silent, _WORKER_IMPORTS, *(f"import {name}" for name in wheels)])
    _run([str(view / "python"), "-c", imports], "the arm64 system was built and does not run", {"ORT_DISABLE_TELEMETRY": "1"})


def _interpreter(root: Path) -> Path:
    found = [path for path in (root / "usr/bin").glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name)]
    if len(found) != 1:
        raise DeviceError(f"the arm64 packages brought {len(found)} Python interpreters ({', '.join(path.name for path in found)}), not one")
    return found[0]


def _name_and_version(archive: Path) -> tuple[str, str]:
    name, number, _ = archive.name.removesuffix(".deb").split("_")
    return name, number.replace("%3a", ":")  # apt's way to write an epoch in a file's name


def _put_in_place(partial: Path, folder: Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _require_tools() -> None:
    for tool, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(tool) is None:
            raise DeviceError(f"the emulated arm64 system is made of Debian packages, which needs `{tool}` (package `{package}`) on this machine")
    if find_spec("pip") is None:
        raise DeviceError(f"the aarch64 wheels are fetched by pip, which {sys.executable} does not have: python -m ensurepip, or uv pip install pip")


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise DeviceError(f"{folder} has {free / 1e6:.0f} MB left; the emulated arm64 system needs {ROOM / 1e6:.0f} MB while it is built")


def _run(argv: Sequence[str], failed: str, more: Mapping[str, str] | None = None) -> None:
    """Run one step.

    Raises:
        DeviceError: `failed`, with the last words of the command.
    """
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(more or {})}
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=STEP_SECONDS, env=environment)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{failed}: {Path(argv[0]).name} was stopped after {STEP_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise DeviceError(f"{failed}: {_last_words(done)}")


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    full = next((line for line in lines if os.strerror(errno.ENOSPC) in line), "")
    said = [line for line in lines if re.match(r"(E|Err|ERROR|dpkg-deb|tar)\b", line)] or lines
    return full or (said[-1] if said else f"it ended with exit code {done.returncode}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.message("another process builds the emulated arm64 system: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing the file lets go of the lock


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = "; the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        where = f" ({error.filename})" if error.filename else ""
        raise DeviceError(f"the emulated arm64 system cannot be built in {folder}: {error.strerror or error}{where}{full}") from error


def _release() -> str:
    with suppress(OSError):
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
            if line.startswith("VERSION_CODENAME="):
                return line.partition("=")[2].strip('"')
    return ""
