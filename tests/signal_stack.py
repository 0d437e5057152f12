"""The stack on which this thread handles signals: OpenVINO may leave one that is gone (2026.4, after a Concat of signed integers), and then the next
signal that Python hears, as Ctrl-C or a test's SIGTERM, ends the process."""

from __future__ import annotations

import ctypes
import sys


class Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def read() -> Stack | None:
    """The stack as it is now; None where the system has no such thing."""
    if sys.platform != "linux":
        return None
    found = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found


def put_back(before: Stack | None) -> None:
    """Make it again what `read` said, where it has become another one."""
    now = read()
    if before is not None and now is not None and now.pointer != before.pointer:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
