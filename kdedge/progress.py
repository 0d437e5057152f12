"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable


class Listener(Protocol):
    """Receives progress; the command line draws a bar, tests and the Python API may ignore it."""

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        """`done` of `total` steps of `what` are finished; `note` is one short line (loss, seconds)."""

    def message(self, text: str) -> None:
        """One line that a person should see, now."""


class Silent:
    """The listener that ignores everything."""

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


_SILENT = Silent()
_listener: ContextVar[Listener] = ContextVar("kdedge_progress", default=_SILENT)
_label: ContextVar[str] = ContextVar("kdedge_label", default="")


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send all progress inside the block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def advance(what: str, done: int, total: int, note: str = "") -> None:
    """Tell the current listener that `done` of `total` steps of `what` are finished."""
    _listener.get().advance(what, done, total, note)


def message(text: str) -> None:
    """Tell the current listener one line."""
    _listener.get().message(text)


@contextmanager
def labelled(text: str) -> Iterator[None]:
    """Say which of several like pieces of work is done inside the block (`generation 2 stage 1`)."""
    token = _label.set(text)
    try:
        yield
    finally:
        _label.reset(token)


def label() -> str:
    """Which of several like pieces of work this is; empty where there is one."""
    return _label.get()


# What becomes of one of several devices. A connection that broke and is tried again; the four kinds of loss (kdedge.errors.LOST); and an error
# that ended the work there.
WAITING, WORKING, RETRYING, LOST, GONE, SILENT, TAKEN, DONE, STOPPED = (
    "waiting", "working", "retrying", "lost", "gone", "does not answer", "taken", "done", "stopped",
)  # fmt: skip


@dataclass(frozen=True)
class DeviceRow:
    """How far one of several devices is: `done` of `total` cells are measured there."""

    name: str
    total: int
    done: int = 0
    state: str = WAITING


@runtime_checkable
class DeviceListener(Protocol):
    """What a listener may have besides: it then receives the table of all devices at each change, and an empty one at the end."""

    def devices(self, rows: Sequence[DeviceRow]) -> None:
        """The devices that work at once, in their order."""


class DeviceTable:
    """The rows of several devices, which threads change, each its own."""

    def __init__(self, names: Sequence[str], total: int) -> None:
        self._rows = {name: DeviceRow(name, total) for name in names}
        self._lock = threading.Lock()
        self._tell()

    def row(self, name: str) -> DeviceRow:
        """How a device stands."""
        return self._rows[name]

    def change(self, name: str, **changes: Any) -> None:
        """Change a row and tell the current listener, if it wants to know."""
        with self._lock:
            changed = replace(self._rows[name], **changes)
            if changed != self._rows[name]:
                self._rows[name] = changed
                self._tell()

    def close(self) -> None:
        """Tell that nobody works any more."""
        with self._lock:
            self._rows.clear()
            self._tell()

    def _tell(self) -> None:
        listener = _listener.get()
        if isinstance(listener, DeviceListener):
            listener.devices(tuple(self._rows.values()))


_device: ContextVar[tuple[DeviceTable, str] | None] = ContextVar("kdedge_device", default=None)


@contextmanager
def on_device(table: DeviceTable, name: str) -> Iterator[None]:
    """Inside the block this thread works for that row of the table."""
    token = _device.set((table, name))
    try:
        yield
    finally:
        _device.reset(token)


def device_name() -> str:
    """The device of several that this thread works for; empty where there is one alone."""
    found = _device.get()
    return found[1] if found else ""


def device_is(state: str) -> None:
    """Tell the state of the device that this thread works for, where it is one of several."""
    found = _device.get()
    if found:
        found[0].change(found[1], state=state)


def cell_done(lost: bool) -> None:
    """Tell that a cell came to its end on the device that this thread works for. `lost`: because the device was."""
    found = _device.get()
    if found:
        table, name = found
        row = table.row(name)
        kept = row.state if row.state in (LOST, GONE, SILENT, TAKEN) else LOST
        table.change(name, done=row.done + 1, state=kept if lost else WORKING)
