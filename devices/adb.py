"""A phone or tablet by adb: `adb:SERIAL`, or `adb:` for the only one that is plugged in. Nothing is installed and no root is needed."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from kdedge import progress
from kdedge.devices.adb_client import ANSWER_SECONDS, AdbClient, broken, find_adb, last_line, reason_in
from kdedge.devices.android_identity import ABI_PROPERTY, PROBE, identity_of
from kdedge.devices.device import Device, DeviceSettings, refuse_others
from kdedge.devices.fingerprint import as_set
from kdedge.devices.transport import Completed
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected

# The folder in which Android's shell user may write and execute.
ROOT = "/data/local/tmp/kdedge"
# The slowest link that is waited for: USB 2 at the worst hour, or a poor wireless network.
_BYTES_A_SECOND = 500_000
_FILES_A_CALL = 50
_DAMAGED = 45

Value = TypeVar("Value")


def open_device(name: str, settings: DeviceSettings) -> Device:
    """The phone that is meant, what it is, and who does jobs there: Python where the settings name one, else programs that the user supplies.

    Raises:
        MissingExtra: there is no adb program.
        DeviceGone: there is no such phone, several where one was meant, or it does not trust this computer.
        Disconnected, DeviceUnresponsive: it is offline, or does not answer.
    """
    if settings.python:
        refuse_others(name, settings, ("python", "root", "set", "environment"), "its `python` does all jobs; leave that out to have native programs")
    client = AdbClient(find_adb(), settings.address)
    if settings.address:
        if settings.address not in [listed.serial for listed in client.devices()]:
            client.connect()
    else:
        client.serial = _only(client)
    transport = AdbTransport(client)
    identity = identity_of(name, transport.run(["sh", "-c", PROBE], ANSWER_SECONDS).stdout)
    if not identity.machines:
        raise DeviceError(f"device `{name}`: it does not say what kind of processor it has ({ABI_PROPERTY})")
    root = settings.root or ROOT
    if settings.python:
        from kdedge.devices.board import open_board

        board = open_board(name, "adb", transport, settings.python, root, settings)
        # What Android says of itself comes before what a Python on its kernel can see.
        return replace(board, identity=replace(board.identity, fingerprint={**board.identity.fingerprint, **identity.fingerprint}))
    from kdedge.devices.native.runner import NativeRunner

    runner = NativeRunner(name, transport, root, settings.runners, settings.environment, settings.set)
    return Device(as_set(identity, settings), transport, "", runner)


class AdbTransport:
    """Files and processes of one phone.

    `check`: how files are compared, sha256 where the phone can compute it, else "size", which takes files of equal length for equal.
    """

    def __init__(self, client: AdbClient) -> None:
        self.client = client
        self.check = "sha256"

    def push(self, local: Path, remote: str) -> int:
        """Copy a file or folder to the phone under another name, compare, and rename; what is there with the same hash is not sent again.

        Returns the bytes that were sent.

        Raises:
            DeviceError: a file cannot be read here or written there (disk full), or arrived damaged.
            Disconnected, DeviceGone, DeviceUnresponsive: the phone is lost. A broken connection is tried once more.
        """
        try:
            files = dict(_files(local, remote))
            hashes = {path: _sha256(source) for path, source in files.items()}
            sizes = {path: source.stat().st_size for path, source in files.items()}
        except OSError as error:
            raise DeviceError(f"{self._what()}: {local} cannot be sent: {error.strerror or error}") from error
        missing = self._missing(hashes, sizes)
        folders = sorted({remote if local.is_dir() else os.path.dirname(remote)} | {os.path.dirname(path) for path in missing})  # noqa: PTH120
        if missing or not files:
            self._again(lambda: self._do(f"mkdir -p {shlex.join(folders)}", f"the folder of {remote} cannot be made"))
        for path in missing:
            self._again(partial(self._send, files[path], path, hashes[path], sizes[path]))
        return sum(sizes[path] for path in missing)

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file or folder from the phone under another name, compare, and rename.

        Raises:
            DeviceError: it is not there, cannot be written here, or arrived damaged.
            Disconnected, DeviceGone, DeviceUnresponsive: the phone is lost. A broken connection is tried once more.
        """
        self._again(lambda: self._fetch(remote, local))

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """Run a command on the phone in `/`, at most `timeout` seconds; then all of its processes are killed.

        Raises:
            Disconnected, DeviceGone, DeviceUnresponsive: the phone is lost. It is not tried again: the command may have done its work.
        """
        return self.client.shell(f"cd /; {_command(argv, env)} </dev/null", timeout)

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        """Start a command in a session of its own, which goes on without the connection.

        Raises:
            DeviceError: there is no such program, or the log cannot be written.
        """
        program, log = shlex.quote(argv[0]), shlex.quote(log)
        script = (
            f"command -v {program} >/dev/null || {{ echo {program}: there is no such program >&2; exit 127; }}\n"
            f": >{log} || exit 1\n"
            # An old phone may lack one of them; a command behind & and without our files outlives the connection all the same.
            "S=$(command -v setsid); N=$(command -v nohup)\n"
            f"cd /; {_variables(env)}$S $N {shlex.join(argv)} </dev/null >{log} 2>&1 &"
        )
        self._do(script, f"{argv[0]} cannot be started")

    def read_text(self, remote: str) -> str:
        """A small text file.

        Raises:
            DeviceError: it cannot be read.
        """
        return self._again(lambda: self._do(f"cat {shlex.quote(remote)}", f"{remote} cannot be read")).stdout

    def alive(self) -> bool:
        """Whether the phone answers."""
        return self.client.answers()

    def close(self) -> None:
        """Nothing is held: every call is a connection of its own, and the adb server is the user's."""

    def _what(self) -> str:
        return f"device `adb:{self.client.serial}`"

    def _again(self, action: Callable[[], Value]) -> Value:
        """Once more after a broken connection; only for what may be done twice."""
        try:
            return action()
        except Disconnected:
            progress.device_is(progress.RETRYING)
            done = action()
            progress.device_is(progress.WORKING)
            return done

    def _do(self, script: str, otherwise: str, timeout: float = ANSWER_SECONDS) -> Completed:
        return self._judge(self.client.shell(script, timeout), otherwise, timeout)

    def _judge(self, done: Completed, otherwise: str, timeout: float) -> Completed:
        if done.timed_out or done.returncode != 0:
            said = last_line(done.stderr) or last_line(done.stdout) or f"exit code {done.returncode}"
            why = f"no end after {timeout:g} s" if done.timed_out else said
            raise DeviceError(f"{self._what()}: {otherwise}: {why}")
        return done

    def _missing(self, hashes: Mapping[str, str], sizes: Mapping[str, int]) -> list[str]:
        paths = list(hashes)
        there: dict[str, str] = {}
        for start in range(0, len(paths), _FILES_A_CALL):
            part = paths[start : start + _FILES_A_CALL]
            there |= self._again(partial(self._marks, part, sum(sizes[path] for path in part)))
        return [path for path in paths if there.get(path) not in (hashes[path], f"size:{sizes[path]}")]

    def _marks(self, paths: Sequence[str], size: int) -> dict[str, str]:
        """What each file there is known by: its hash, or `size:BYTES` where the phone cannot hash."""
        quoted = shlex.join(paths)
        script = (
            f"if command -v sha256sum >/dev/null; then sha256sum {quoted} 2>/dev/null; true\n"
            f'else for f in {quoted}; do [ -f "$f" ] && echo "size:$(wc -c <"$f" | tr -d " ")  $f"; done; true; fi'
        )
        output = self._do(script, "files there cannot be compared", _seconds(size)).stdout
        found = {path: mark for mark, path in re.findall(r"^([0-9a-f]{64}|size:\d+) [ *](.+)$", output, re.MULTILINE)}
        if any(mark.startswith("size:") for mark in found.values()):
            self.check = "size"
        return found

    def _send(self, source: Path, remote: str, digest: str, size: int) -> None:
        arriving = f"{remote}.{os.getpid()}.partial"
        try:
            sent = self.client.call(["push", str(source), arriving], _seconds(size))
            if sent.returncode != 0:
                raise self._file_error(sent, f"{source} cannot be written to {remote}")
            there, target = shlex.quote(arriving), shlex.quote(remote)
            script = (
                f'if command -v sha256sum >/dev/null; then case "$(sha256sum <{there})" in {digest}*) ;; *) exit {_DAMAGED};; esac\n'
                f'else [ "$(wc -c <{there})" -eq {size} ] || exit {_DAMAGED}; fi\n'
                f"mv -f {there} {target}"
            )
            placed = self.client.shell(script, _seconds(size))
            if placed.returncode == _DAMAGED:
                raise DeviceError(f"{self._what()}: {source} arrived damaged at {remote}")
            self._judge(placed, f"{remote} cannot be written", _seconds(size))
        except DeviceError as error:
            if not isinstance(error, DeviceGone | Disconnected | DeviceUnresponsive):
                self.client.shell(f"rm -f {shlex.quote(arriving)}", ANSWER_SECONDS)
            raise

    def _fetch(self, remote: str, local: Path) -> None:
        quoted = shlex.quote(remote)
        script = f"if [ -d {quoted} ]; then echo folder; elif [ -f {quoted} ]; then wc -c <{quoted}; else echo there is no such file; exit 1; fi"
        kind = self._do(script, f"{remote} cannot be read")
        folder = kind.stdout.strip() == "folder"
        size = self._do(f"find {quoted} -type f -exec wc -c {{}} +", f"{remote} cannot be read").stdout if folder else kind.stdout
        seconds = _seconds(sum(int(number) for number in re.findall(r"^\s*(\d+)", size, re.MULTILINE)))
        arriving = local.with_name(f"{local.name}.{os.getpid()}.partial")
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            pulled = self.client.call(["pull", remote, str(arriving)], seconds)
            if pulled.returncode != 0:
                raise self._file_error(pulled, f"{remote} cannot be copied to {local}")
            self._compare(remote, arriving, folder, seconds)
            if folder:
                shutil.copytree(arriving, local, dirs_exist_ok=True)
            else:
                arriving.replace(local)
        except OSError as error:
            raise DeviceError(f"{self._what()}: {remote} cannot be copied to {local}: {error.strerror or error}") from error
        finally:
            if arriving.is_dir():
                shutil.rmtree(arriving, ignore_errors=True)
            arriving.unlink(missing_ok=True)

    def _compare(self, remote: str, here: Path, folder: bool, seconds: float) -> None:
        """Every file that was fetched against its hash there; a file that is still being written there is damaged by that."""
        files = {remote: here}
        if folder:
            files = {f"{remote}/{path.relative_to(here).as_posix()}": path for path in sorted(here.rglob("*")) if path.is_file()}
        paths = list(files)
        for start in range(0, len(paths), _FILES_A_CALL):
            part = paths[start : start + _FILES_A_CALL]
            marks = self._marks(part, int(seconds * _BYTES_A_SECOND))
            for path in part:
                if marks.get(path) not in (_sha256(files[path]), f"size:{files[path].stat().st_size}"):
                    raise DeviceError(f"{self._what()}: {path} arrived damaged, or changed while it was copied")

    def _file_error(self, done: Completed, otherwise: str) -> DeviceError:
        said = done.stderr + done.stdout
        if broken(said):
            return self.client.lost(said)
        return DeviceError(f"{self._what()}: {otherwise}: {reason_in(said) or f'adb ended with exit code {done.returncode}'}")


def _only(client: AdbClient) -> str:
    listed = client.devices()
    if len(listed) == 1:
        return listed[0].serial
    if not listed:
        raise DeviceGone("device `adb:`: there is no phone: plug one in, turn on USB debugging and look for it in `adb devices`")
    names = ", ".join(f"adb:{device.serial} ({device.state})" for device in listed)
    raise DeviceGone(f"device `adb:`: there are {len(listed)} phones; name the one that is meant: {names}")


def _command(argv: Sequence[str], env: Mapping[str, str] | None) -> str:
    # Quoted once: what stands behind `adb shell` goes to the phone's shell as it is.
    return _variables(env) + shlex.join(argv)


def _variables(env: Mapping[str, str] | None) -> str:
    strange = [name for name in env or {} if not re.fullmatch(r"[A-Za-z_]\w*", name)]
    if strange:
        raise DeviceError(f"`{strange[0]}` cannot be the name of a variable of the environment")
    return "".join(f"{name}={shlex.quote(value)} " for name, value in (env or {}).items())


def _files(local: Path, remote: str) -> Iterator[tuple[str, Path]]:
    source = local.resolve(strict=True)
    if not source.is_dir():
        yield remote, source
        return
    for path in sorted(source.rglob("*")):
        if path.is_file():
            yield f"{remote}/{path.relative_to(source).as_posix()}", path.resolve()


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _seconds(size: int) -> float:
    return ANSWER_SECONDS + size / _BYTES_A_SECOND
