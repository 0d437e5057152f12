"""This machine as a device: files are linked, commands are child processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import kdedge
from kdedge.devices.device import Device, DeviceSettings, refuse_others
from kdedge.devices.fingerprint import identify
from kdedge.devices.transport import Completed, end_of
from kdedge.errors import DeviceError
from kdedge.runtimes.parent import PARENT_VARIABLE

_LONGEST_POLL_MS = 2**31 - 1

# What a command sees of the user's environment: where things lie. The rest (thread counts, library switches, credentials) would change what is
# measured or leak.
_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "KDEDGE_ENGINE_CACHE",
    "XDG_CACHE_HOME",
)


def open_device(name: str, settings: DeviceSettings) -> Device:
    """The machine that kdedge runs on, with the interpreter that runs kdedge.

    Raises:
        DeviceError: the settings ask for what this device has not.
    """
    refuse_others(name, settings, (), "settings are for boards and phones; this machine can be reached as one by ssh:localhost")
    return Device(identify(name, kind="local"), LocalTransport(), sys.executable)


class LocalTransport:
    """Files by hard link (by copy across file systems), commands as process groups of their own."""

    def push(self, local: Path, remote: str) -> int:
        """Place a file or folder at `remote`; what is there already is left. Returns 0: nothing is sent.

        Raises:
            DeviceError: it does not exist, or cannot be placed.
        """
        source, target = local.resolve(), Path(remote)
        try:
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                for child in sorted(source.iterdir()):
                    self.push(child, str(target / child.name))
            else:
                _place(source, target)
        except OSError as error:
            raise DeviceError(f"device `local`: {local} cannot be placed at {remote}: {error.strerror or error}") from error
        return 0

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file or folder to `local`.

        Raises:
            DeviceError: it does not exist, or cannot be copied.
        """
        source = Path(remote)
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, local, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, local)
        except OSError as error:
            raise DeviceError(f"device `local`: {remote} cannot be copied to {local}: {error.strerror or error}") from error

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """Run a command in a clean environment with `env` on top, at most `timeout` seconds; then its whole process group is killed.

        Raises:
            DeviceError: the command cannot be started.
        """
        environment = {PARENT_VARIABLE: str(os.getpid()), **_environment(env)}
        # Files, not pipes: a grandchild that outlives the command would keep a pipe open and the reader waiting.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            try:
                process = subprocess.Popen(
                    list(argv), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
                )
            except OSError as error:
                raise DeviceError(f"device `local`: {argv[0]} cannot be started: {error.strerror or error}") from error
            try:
                timed_out = not _ends_within(process, timeout)
            finally:  # also when the user interrupts
                _kill_group(process)
            return Completed(process.returncode, end_of(stdout), end_of(stderr), timed_out)

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        """Start a command in a session of its own, which outlives this process.

        Raises:
            DeviceError: the command cannot be started, or the log not be written.
        """
        try:
            with Path(log).open("wb") as output:
                subprocess.Popen(
                    list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment(env), start_new_session=True, cwd="/"
                )
        except OSError as error:
            raise DeviceError(f"device `local`: {argv[0]} cannot be started: {error.strerror or error}") from error

    def read_text(self, remote: str) -> str:
        """A small text file.

        Raises:
            DeviceError: it cannot be read.
        """
        try:
            return Path(remote).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DeviceError(f"device `local`: {remote} cannot be read: {error.strerror or error}") from error

    def alive(self) -> bool:
        """This machine answers."""
        return True

    def close(self) -> None:
        """There is no connection."""


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end of a process, asleep until it comes: `Popen.wait` with a limit wakes up 20 times a second, beside what is being timed, and
    sees the end late."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, a kernel before 5.3, or no descriptor is left
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode is not None
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(min(1000 * seconds, _LONGEST_POLL_MS)))
    finally:
        os.close(descriptor)


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    return {**{name: os.environ[name] for name in _INHERITED if name in os.environ}, "PYTHONPATH": _python_path(), **(env or {})}


def _python_path() -> str:
    """The user's, and where kdedge lies: it may run from a checkout that is not installed."""
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(kdedge.__file__).parents[1])]))


def _place(source: Path, target: Path) -> None:
    if target.exists() and (source.samefile(target) or _same_content(source, target)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # another file system, one without links, or a file of another user
        shutil.copyfile(source, partial)
    partial.replace(target)


def _same_content(source: Path, target: Path) -> bool:
    if source.stat().st_size != target.stat().st_size:
        return False
    digests = []
    for path in (source, target):
        with path.open("rb") as handle:
            digests.append(hashlib.file_digest(handle, "sha256").digest())
    return digests[0] == digests[1]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group: the command itself if it still runs, and children that it left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
