"""A transport that fails when it is told to: how the rest is shown to survive a cut cable, a rebooted board, a full disk, a killed worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from kdedge.devices.transport import Completed, Transport
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected

T = TypeVar("T")
Operation = Literal["", "push", "pull", "run", "spawn", "read_text", "alive"]
Kind = Literal["cut", "cut-after", "gone", "unresponsive", "disk-full", "act"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the `at`-th operation (from 1) of the kind `operation`, "" counting all kinds together.

    `cut`: the connection breaks before anything is done; `cut-after`: it is done there, and the answer is lost. `gone`, `unresponsive`: the errors
    of those names. `disk-full`: nothing more can be written (push, spawn); other operations go on. `act`: `action` is called with the inner
    transport, which may kill a worker or reboot a board, and the operation goes on. The fault lasts for `lasting` operations of that kind.
    """

    at: int
    kind: Kind
    operation: Operation = ""
    lasting: int = 1
    action: Callable[[Transport], None] | None = None


class FaultyTransport:
    """Any transport, with a script of faults. `log` holds the operations that were asked for, in order; `struck` the faults that happened."""

    def __init__(self, inner: Transport, script: Sequence[Fault]) -> None:
        for fault in script:
            if fault.at < 1 or fault.lasting < 1 or (fault.kind == "act") != (fault.action is not None):
                raise DeviceError(f"a fault needs at >= 1, lasting >= 1, and an action exactly where it acts; got {fault}")
        self._inner = inner
        self._script = tuple(script)
        self._counts: dict[str, int] = {}
        self.log: list[str] = []
        self.struck: list[Fault] = []

    def push(self, local: Path, remote: str) -> int:
        """See `Transport`."""
        return self._do("push", lambda: self._inner.push(local, remote))

    def pull(self, remote: str, local: Path) -> None:
        """See `Transport`."""
        self._do("pull", lambda: self._inner.pull(remote, local))

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """See `Transport`."""
        return self._do("run", lambda: self._inner.run(argv, timeout, env))

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        """See `Transport`."""
        self._do("spawn", lambda: self._inner.spawn(argv, log, env))

    def read_text(self, remote: str) -> str:
        """See `Transport`."""
        return self._do("read_text", lambda: self._inner.read_text(remote))

    def alive(self) -> bool:
        """See `Transport`: false while a fault keeps the device away."""
        try:
            return self._do("alive", self._inner.alive)
        except DeviceError:
            return False

    def close(self) -> None:
        """See `Transport`; letting go never fails."""
        self._inner.close()

    def _do(self, operation: str, action: Callable[[], T]) -> T:
        self.log.append(operation)
        for name in (operation, ""):
            self._counts[name] = self._counts.get(name, 0) + 1
        lost = None
        for fault in self._script:
            if fault.operation not in (operation, "") or not fault.at <= self._counts[fault.operation] < fault.at + fault.lasting:
                continue
            if fault.kind == "disk-full" and operation not in ("push", "spawn"):
                continue
            self.struck.append(fault)
            if fault.action is not None:
                fault.action(self._inner)
            elif fault.kind == "cut-after":
                lost = fault
            else:
                raise _error(fault.kind, operation)
        result = action()
        if lost is not None:
            raise _error("cut", operation)
        return result


def _error(kind: Kind, operation: str) -> DeviceError:
    if kind == "gone":
        return DeviceGone(f"the device is gone (`{operation}`, a scripted fault)")
    if kind == "unresponsive":
        return DeviceUnresponsive(f"the device does not answer (`{operation}`, a scripted fault)")
    if kind == "disk-full":
        return DeviceError(f"no space left on the device (`{operation}`, a scripted fault)")
    return Disconnected(f"the connection broke (`{operation}`, a scripted fault)")
