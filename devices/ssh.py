"""A board over ssh, by the system's own OpenSSH: the user's config, keys, agent, jump hosts and known hosts apply as they do by hand.

One connection is kept open and shared by all commands (ControlMaster). Host keys are checked and nothing is asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from kdedge.devices.board import open_board
from kdedge.devices.device import Device, DeviceSettings, refuse_others
from kdedge.devices.ssh_command import Said, complaint, read_said, remote_line
from kdedge.devices.store import judged
from kdedge.devices.transport import Completed, end_of
from kdedge.devices.unpack import unpack
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected

# Another ssh config than the user's own (`ssh -F`).
CONFIG_VARIABLE = "KDEDGE_SSH_CONFIG"

_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": "120",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}
# A Unix socket's path holds 107 characters, and ssh appends 17 while it makes it.
_LONGEST_FOLDER = 70
_QUICK_SECONDS = 30.0
_KILL_SECONDS = 10.0
_CONNECT_SECONDS = 20.0
# A slow link, with a fixed part for the connection.
_BYTES_PER_SECOND = 100e3

# $1: where, $2: size, $3: hash. Says `same` where it is there.
_COMPARE = """
[ -f "$1" ] && [ "$(wc -c <"$1")" -eq "$2" ] && sum=$(sha256sum <"$1") && [ "${sum%% *}" = "$3" ] && echo same
exit 0
"""
# $1: where, $2: size. A connection that breaks ends the input as a whole file would, hence the size.
_RECEIVE = """
mkdir -p "$(dirname "$1")" || exit 1
partial=$1.$$.partial
cat >"$partial" && [ "$(wc -c <"$partial")" -eq "$2" ] && mv -f "$partial" "$1" && exit 0
rm -f "$partial"
exit 1
"""
_SEND = 'tar -C "$(dirname "$1")" -cf - "$(basename "$1")"'
# $1: log. The rest is the command. It says by an empty line that it is in a session of its own: what is not by then is killed with this script.
_SPAWN = """
log=$1
shift
: >"$log" || exit 1
{ setsid sh -c 'echo; exec "$@" </dev/null >"$0" 2>&1' "$log" "$@" & } | read -r _
"""


def open_device(name: str, settings: DeviceSettings) -> Device:
    """Connect, find a Python, send the worker and ask what the board is.

    Raises:
        DeviceError: the address is none, the board cannot be reached or does not let us in, or it has no Python that runs the worker.
    """
    refuse_others(name, settings, ("python", "root", "set", "environment"), "native programs are for phones; here the worker runs by Python")
    transport = SshTransport(name, settings.address)
    try:
        _refuse_a_login_that_talks(transport, name)
        python = settings.python or _find(
            transport, name, 'python3 -c "import sys; print(sys.executable)"', "it has no `python3` on its PATH: name one by `python` in devices.yaml"
        )
        root = settings.root or _find(transport, name, 'echo "${XDG_CACHE_HOME:-$HOME/.cache}/kdedge"', "it does not say where its home is")
        if not root.startswith("/"):
            raise DeviceError(f"device `{name}`: its root `{root}` is no full path")
        return open_board(name, "ssh", transport, python, root, settings)
    except BaseException:
        transport.close()
        raise


def _refuse_a_login_that_talks(transport: SshTransport, name: str) -> None:
    """What a login's own files print would stand in every answer, and in every file that is fetched."""
    printed = transport.run(["true"], _QUICK_SECONDS).stdout.strip()
    if printed:
        raise DeviceError(
            f"device `{name}`: its login prints {printed[:60]!r} before every command: let it print that at a terminal only "
            "(`[ -t 1 ] && ...` in its .bashrc)"
        )


def _find(transport: SshTransport, name: str, question: str, otherwise: str) -> str:
    answered = transport.run(["sh", "-c", question], _QUICK_SECONDS)
    answer = answered.stdout.strip()
    if answered.timed_out:
        raise DeviceUnresponsive(f"device `{name}`: no answer within {_QUICK_SECONDS:.0f} s")
    if answered.returncode or not answer:
        raise DeviceError(f"device `{name}`: {otherwise}")
    return answer


class SshTransport:
    """Files and commands over one shared connection, which is made again whenever it is missing."""

    def __init__(self, name: str, address: str) -> None:
        """`name`: the device's, for messages. `address`: host or user@host, as after `ssh`.

        Raises:
            DeviceError: there is no ssh here, or the address is none.
        """
        if not re.fullmatch(r"[A-Za-z0-9_.\[\]:%][A-Za-z0-9_.\[\]:%@+-]*", address):
            raise DeviceError(f"device `{name}`: `{address}` is no address; it is a host as after `ssh`: orin.local, or user@192.0.2.7")
        program = shutil.which("ssh")
        if program is None:
            raise DeviceError(f"device `{name}`: there is no `ssh` on this machine; install OpenSSH's client")
        self._name = name
        self._connected = self._was_connected = False
        # Private, and short: the socket's path has a limit.
        base = tempfile.gettempdir()
        self._folder = Path(tempfile.mkdtemp(prefix="kdedge-", dir=base if len(base) < _LONGEST_FOLDER else "/tmp"))
        config = os.environ.get(CONFIG_VARIABLE, "")
        options = {**_OPTIONS, "ControlPath": str(self._folder / "s")}
        self._ssh = [program, *(["-F", config] if config else []), "-T"]
        self._ssh += [word for option, value in options.items() for word in ("-o", f"{option}={value}")]
        self._address = address

    def push(self, local: Path, remote: str) -> int:
        """Copy a file or folder there; see `Transport.push`."""
        try:
            if local.is_dir():
                return sum(self.push(child, f"{remote}/{child.name}") for child in sorted(local.iterdir()))
            with local.open("rb") as handle:
                digest, size = hashlib.file_digest(handle, "sha256").hexdigest(), local.stat().st_size
                if self._script(_COMPARE, [remote, str(size), digest], size / 2e6, f"{remote} cannot be looked at").stdout.strip() == "same":
                    return 0
                handle.seek(0)
                self._script(_RECEIVE, [remote, str(size)], size / _BYTES_PER_SECOND, f"{local} cannot be placed at {remote}", handle)
                return size
        except OSError as error:
            raise DeviceError(f"device `{self._name}`: {local} cannot be read: {error.strerror or error}") from error

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file or folder from there; see `Transport.pull`."""
        with tempfile.TemporaryFile() as archive:
            self._script(_SEND, [remote], 3600.0, f"{remote} cannot be copied from it", output=archive)
            archive.seek(0)
            unpack(archive, local, self._name)

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """Run a command in a clean environment with `env` on top; see `Transport.run`."""
        return self._run(argv, timeout, env)

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        """Start a command in a session of its own; see `Transport.spawn`."""
        self._script(_SPAWN, [log, *argv], 0.0, f"{argv[0]} cannot be started", env=env)

    def read_text(self, remote: str) -> str:
        """A small text file; see `Transport.read_text`."""
        return self._script('cat "$1"', [remote], 0.0, f"{remote} cannot be read").stdout

    def alive(self) -> bool:
        """Whether a command runs there."""
        try:
            return self.run(["true"], _QUICK_SECONDS).returncode == 0
        except DeviceError:
            return False

    def close(self) -> None:
        """End the shared connection; what was spawned goes on."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [*self._ssh, "-O", "exit", self._address], stdin=subprocess.DEVNULL, capture_output=True, timeout=_KILL_SECONDS, check=False
            )
        shutil.rmtree(self._folder, ignore_errors=True)

    def _script(
        self,
        script: str,
        words: Sequence[str],
        more_seconds: float,
        what: str,
        given: IO[bytes] | None = None,
        output: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        completed = self._run(["sh", "-c", script, "kdedge", *words], _QUICK_SECONDS + more_seconds, env, given, output)
        return judged(completed, self._name, what, _QUICK_SECONDS + more_seconds)

    def _run(
        self,
        argv: Sequence[str],
        timeout: float,
        env: Mapping[str, str] | None = None,
        given: IO[bytes] | None = None,
        output: IO[bytes] | None = None,
    ) -> Completed:
        # Files, not pipes: the shared connection may keep a pipe open and the reader waiting.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self._started(remote_line(argv, env), given, output or stdout, stderr)
            try:
                process.wait(timeout + (0.0 if self._connected else _CONNECT_SECONDS))
            except subprocess.TimeoutExpired:
                self._kill(read_said(_head(stderr)))
                return Completed(-signal.SIGKILL, end_of(stdout), read_said(end_of(stderr)).stderr, timed_out=True)
            finally:  # also when the user interrupts
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            said = read_said(end_of(stderr))
            if said.code is None:
                raise self._failure(process.returncode, said)
            self._connected = self._was_connected = True
            return Completed(said.code, "" if output else end_of(stdout), said.stderr)

    def _started(self, line: str, given: IO[bytes] | None, stdout: IO[bytes], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self._ssh, self._address, line],
                stdin=given or subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "LC_ALL": "C"},  # its complaints are read
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"device `{self._name}`: ssh cannot be started: {error.strerror or error}") from error

    def _kill(self, said: Said) -> None:
        """End a command that reached its limit, with all its children.

        Raises:
            DeviceUnresponsive: that cannot be told to the device.
        """
        if said.group:
            killer = subprocess.Popen(
                [*self._ssh, self._address, f"sh -c 'kill -9 -{said.group}'"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                if killer.wait(_KILL_SECONDS) == 0:
                    return
            except subprocess.TimeoutExpired:
                killer.kill()
                killer.wait()
        self._connected = False
        raise DeviceUnresponsive(f"device `{self._name}`: it does not answer, and a command there that reached its limit could not be ended")

    def _failure(self, code: int, said: Said) -> DeviceError:
        """ssh ended without the command's end: 255 is its own code; another one is that of a login that runs something else."""
        self._connected = False
        if said.group:  # it had begun, and what is said may be its own: it was killed there, or the connection is lost
            self._was_connected = True
            return Disconnected(f"device `{self._name}`: the connection is lost, or the device restarts: a command there did not come to its end")
        found = complaint(self._name, said.stderr, self._was_connected)
        if code not in (255, -signal.SIGKILL) and type(found) is Disconnected:
            return DeviceGone(f"device `{self._name}`: it runs no commands for us: {said.stderr.strip() or f'exit code {code}'}")
        return found


def _head(handle: IO[bytes]) -> str:
    handle.seek(0)
    return handle.read(4096).decode("utf-8", errors="replace")
