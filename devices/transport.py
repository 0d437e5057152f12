"""How kdedge reaches a device: one contract for a local process, a board over ssh, a phone over adb, an emulator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol


@dataclass(frozen=True)
class Completed:
    """A finished command. `returncode` is negative for a signal; `timed_out` says that it was killed at its limit."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


# A runaway command may write for ever; what explains its end stands last.
_KEPT_BYTES = 1 << 20


def end_of(written: IO[bytes]) -> str:
    """The end of what a command wrote into a file."""
    size = written.seek(0, os.SEEK_END)
    written.seek(max(0, size - _KEPT_BYTES))
    return written.read().decode("utf-8", errors="replace")


class Transport(Protocol):
    """Files and processes on a device. All paths on the device are absolute strings.

    Raises, all of them:
        Disconnected: the connection broke or could not be made, and may come back.
        DeviceGone: there is no such device, or it refuses us: trying again is useless.
        DeviceUnresponsive: it is connected and does not answer in time.
        DeviceError: what was asked cannot be done there (no such file, disk full).
    """

    def push(self, local: Path, remote: str) -> int:
        """Copy a file or folder to the device, each file whole or not at all; a file that is there with the same hash is not sent again.

        Returns the bytes that were sent.
        """

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file or folder from the device."""

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """Run a command to its end, at most `timeout` seconds; then its whole process group is killed."""

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        """Start a command that goes on when the connection, or this process, ends. Its standard output and error go to the file `log` there."""

    def read_text(self, remote: str) -> str:
        """A small text file (sysfs, a log)."""

    def alive(self) -> bool:
        """Whether the device answers."""

    def close(self) -> None:
        """Let go of the connection; what was spawned goes on."""
