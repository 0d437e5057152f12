"""The adb program as kdedge calls it: one phone, every call with a limit, every failure with a name.

Android's own client does the talking (platform-tools; also inside the package adbutils). Its server belongs to the user and to other programs: it
is started when it is not there, and never stopped. Which server is the user's choice (`ANDROID_ADB_SERVER_PORT`, `ANDROID_ADB_SERVER_ADDRESS`).
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kdedge.devices.transport import Completed
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected, MissingExtra

# Seconds for a question to the server or a short command on the phone; a phone that wakes up needs a few.
ANSWER_SECONDS = 20.0
# How long a lost phone may take to come back before that is somebody else's decision.
RETURN_SECONDS = 15.0
_TRY_SECONDS = 2.0
_KEPT_BYTES = 1 << 20
_HEAD_BYTES = 4096

# Parts of what adb prints (adb/client/commandline.cpp and adb/transport.cpp of Android's platform-tools) -> what became of the phone.
_UNAUTHORIZED = ("unauthorized", "still authorizing", "no permissions", "insufficient permissions")
_AWAY = ("not found", "no devices/emulators found")
_BROKEN = ("offline", "error: closed", "protocol fault", "connection reset", "still connecting", "transport", "broken pipe", "read failed", "eof")
_NO_SERVER = ("cannot connect to daemon", "failed to start daemon", "failed to check server version")


@dataclass(frozen=True)
class Listed:
    """A phone that the adb server knows. `state`: device, offline, unauthorized, ..."""

    serial: str
    state: str


def find_adb() -> str:
    """The adb program: the one on the PATH, else the one that the package adbutils carries.

    Raises:
        MissingExtra: there is none.
    """
    found = shutil.which("adb")
    if found:
        return found
    package = importlib.util.find_spec("adbutils")
    carried = Path(package.origin).parent / "binaries" / "adb" if package is not None and package.origin else None
    if carried is not None and os.access(carried, os.X_OK):
        return str(carried)
    raise MissingExtra("adbutils", "devices", "reaching a phone by adb, with no `adb` on the PATH,")


class AdbClient:
    """One phone by its serial number. `seen` says that it has answered before, so that it may come back."""

    def __init__(self, program: str, serial: str, return_seconds: float = RETURN_SECONDS) -> None:
        self.program = program
        self.serial = serial
        self.seen = False
        self.return_seconds = return_seconds

    def devices(self) -> list[Listed]:
        """Every phone that the server knows.

        Raises:
            DeviceUnresponsive: the adb server does not answer, or cannot be started.
        """
        done = self.call(["devices"], ANSWER_SECONDS, anyone=True)
        rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
        return [Listed(row[0], row[1].strip()) for row in rows]

    def connect(self, timeout: float = ANSWER_SECONDS) -> None:
        """Connect to a phone on the network, whose serial number is HOST:PORT. One at a cable needs none."""
        if re.fullmatch(r".+:\d+", self.serial):
            self._call(["connect", self.serial], timeout, anyone=True)

    def call(self, arguments: Sequence[str], timeout: float, anyone: bool = False) -> Completed:
        """One call of adb to its end. `anyone`: it is about no phone in particular. The exit code is the caller's to judge.

        Raises:
            DeviceUnresponsive: no end after `timeout` seconds, or there is no server to talk to.
            DeviceError: adb cannot be started.
        """
        done = self._call(arguments, timeout, anyone)
        if done.timed_out:
            raise DeviceUnresponsive(f"{self._what()} did not answer `adb {arguments[0]}` within {timeout:g} s")
        if done.returncode != 0 and any(part in done.stderr.lower() for part in _NO_SERVER):
            raise self.lost(done.stderr)
        return done

    def shell(self, script: str, timeout: float) -> Completed:
        """Run a script by the phone's own shell, at most `timeout` seconds; then all of its processes there are killed.

        The exit code is printed by the phone behind the output, which phones without the shell protocol need and which tells an exit from a
        broken connection on all of them. A shell's 128 + n is signal n: `returncode` is -n.

        Raises:
            Disconnected: the connection broke before the end. What was left running is killed if the phone comes back at once.
            DeviceGone, DeviceUnresponsive: it is away, refuses us, or does not answer.
        """
        token = secrets.token_hex(8)
        # adbd gives every shell a session of its own, so that $$ is its process group. The parentheses keep an `exit` inside.
        done = self._call(["shell", "-n", f"echo {token}:$$\n({script}\n)\necho {token}:$?"], timeout, token=token)
        head, _, rest = done.stdout.partition("\n")
        group = _group(head, token)
        if done.timed_out:
            if not group:
                raise DeviceUnresponsive(f"{self._what()} did not answer within {timeout:g} s")
            self._kill(group, token)
            return Completed(-signal.SIGKILL, _plain(rest, head), done.stderr, timed_out=True)
        body, found, code = rest.rpartition(f"{token}:")
        if not found or not code.strip().isdigit():
            # Once the script has begun, what is said is the script's.
            raise self.lost("" if group else done.stderr, group, token)
        self.seen = True
        return Completed(_signed(int(code)), _plain(body, head), done.stderr)

    def lost(self, said: str, group: str = "", token: str = "") -> DeviceError:
        """Why a call failed that does not blame the file or the command: the error to raise. Waits once, and not for long, for the phone's return.

        `group`: the process group that is perhaps still running there; `token`: a word of its script, where the group was not told any more.
        """
        text = said.lower()
        if any(part in text for part in _NO_SERVER):
            return DeviceUnresponsive(f"the adb server cannot be reached or started: {last_line(said)}")
        if any(part in text for part in _UNAUTHORIZED):
            return DeviceGone(
                f"{self._what()} does not trust this computer ({last_line(said)}): unlock it and accept the dialogue about USB debugging; "
                "on Linux a udev rule for the phone may be missing"
            )
        if any(part in text for part in _AWAY) and not self.seen:
            return DeviceGone(f"{self._what()} is not there: plug it in, turn on USB debugging and look for it in `adb devices`")
        if self._returns():
            if group or token:
                self._kill(group, token)
            return Disconnected(f"{self._what()}: the connection broke ({last_line(said) or 'no reason given'}) and is there again")
        if any(part in text for part in _AWAY) or self._state() == "":
            return DeviceGone(
                f"{self._what()} went away and did not come back within {self.return_seconds:g} s: look at its cable or network and at `adb devices`"
            )
        return Disconnected(f"{self._what()}: the connection broke ({last_line(said) or 'no reason given'}) and is not back yet")

    def answers(self) -> bool:
        """Whether a command on the phone ends."""
        try:
            return self.shell("true", ANSWER_SECONDS).returncode == 0
        except DeviceError:
            return False

    def _returns(self) -> bool:
        # Only phones that are offline are touched: others on the same server go on.
        self._call(["reconnect", "offline"], ANSWER_SECONDS, anyone=True)
        deadline = time.monotonic() + self.return_seconds
        while (left := deadline - time.monotonic()) > 0:
            # A connection that is just breaking still counts as one, so that a phone on the network is asked for again and again.
            self.connect(min(left, ANSWER_SECONDS))
            waited = self._call(["wait-for-device"], min(left, _TRY_SECONDS))
            if not waited.timed_out and waited.returncode == 0 and self._state() == "device":
                return True
        return False

    def _state(self) -> str:
        done = self._call(["get-state"], ANSWER_SECONDS)
        return done.stdout.strip() if done.returncode == 0 else "offline" if "offline" in done.stderr else ""

    def _kill(self, group: str, token: str) -> None:
        script = f"kill -9 -{group}"
        if not group:
            # By the word in its command line, in two halves here so that this search does not find itself.
            script = (
                f"t={token[:8]}; for f in /proc/[0-9]*/cmdline; do if tr '\\000' ' ' <$f 2>/dev/null | grep -q ${{t}}{token[8:]}; then "
                "p=${f#/proc/}; kill -9 -${p%%/*} 2>/dev/null; fi; done"
            )
        killed = self._call(["shell", "-n", script], ANSWER_SECONDS)
        if killed.timed_out:
            raise DeviceUnresponsive(f"{self._what()} does not answer: the command that was at its limit may still run there")

    def _call(self, arguments: Sequence[str], timeout: float, anyone: bool = False, token: str = "") -> Completed:
        """adb's process. `token`: what stands before the process group in the first line of a script's output."""
        argv = [self.program, *([] if anyone or not self.serial else ["-s", self.serial]), *arguments]
        # Files, not pipes: a server that adb starts would keep a pipe open.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            try:
                process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True)
            except (OSError, ValueError) as error:  # ValueError: a NUL among the arguments
                raise DeviceError(f"{self._what()}: adb cannot be started: {error}") from error
            timed_out = False
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
            except BaseException:  # the user interrupts: nothing is left running there either
                if token:
                    self._kill(_group(_text(stdout, True).partition("\n")[0], token), token)
                raise
            finally:
                if process.poll() is None:
                    process.kill()  # this client alone: a server that it started is in the same session
                process.wait()
            return Completed(process.returncode, _text(stdout, bool(token)), _text(stderr, False), timed_out)

    def _what(self) -> str:
        return f"device `adb:{self.serial}`"


def last_line(text: str) -> str:
    """The last line that says something, without adb's own prefix."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("* daemon")]
    return re.sub(r"^(adb: )?(error: )?", "", lines[-1])[:300] if lines else ""


def reason_in(text: str) -> str:
    """What adb says went wrong; where it sends faster than the phone refuses, it says last how many files were pushed all the same."""
    return last_line("\n".join(line for line in text.splitlines() if line.startswith(("adb: ", "error: "))) or text)


def broken(text: str) -> bool:
    """Whether what adb printed is about the connection and not about a file. Only its own lines count, without the names of files in them."""
    own = "\n".join(line for line in text.lower().splitlines() if line.startswith(("adb: ", "error: ")))
    plain = re.sub(r"'[^']*'", "", re.sub(r"device '[^']*' not found", "device not found", own))
    return any(part in plain for part in ("device not found", "no devices/emulators found", *_BROKEN, *_UNAUTHORIZED))


def _group(head: str, token: str) -> str:
    """The process group that a script told in its first line, "" where it did not get so far."""
    group = head.strip().partition(f"{token}:")[2]
    return group if group.isdigit() else ""


def _signed(code: int) -> int:
    return 128 - code if 128 < code <= 128 + 64 else code


def _plain(text: str, head: str) -> str:
    # Phones before the shell protocol answer through a terminal, which ends lines with CR LF.
    return text.replace("\r\n", "\n") if head.endswith("\r") else text


def _text(handle: IO[bytes], with_head: bool) -> str:
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    if size <= _KEPT_BYTES + _HEAD_BYTES:
        return handle.read().decode("utf-8", errors="replace")
    head = handle.read(_HEAD_BYTES).partition(b"\n")[0] + b"\n" if with_head else b""
    handle.seek(size - _KEPT_BYTES)
    return (head + handle.read()).decode("utf-8", errors="replace")
