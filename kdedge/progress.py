"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


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
