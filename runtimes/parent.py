"""A process that must not outlive the one that started it: an orphan would go on computing and disturb the next measurement."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# Set by whoever starts a process on its own machine: its own process id.
PARENT_VARIABLE = "KDEDGE_PARENT"

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to kill this process when the one dies that started it and named itself in the environment; end at once where it is dead already.

    Does nothing elsewhere, or where nobody named itself: a process that was started by hand belongs to nobody.
    """
    named = os.environ.get(PARENT_VARIABLE, "")
    if not named.isdigit() or not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if _orphaned(int(named)):  # it died before the call, and nobody will be told
        os._exit(2)


def _orphaned(parent: int) -> bool:
    # Another parent alone proves nothing: a wrapper may have started Python. Who takes in orphans is not always process 1.
    adopted_by = os.getppid()
    return adopted_by != parent and (adopted_by == 1 or not _runs(parent))


def _runs(process: int) -> bool:
    try:
        with open("/proc/%d/stat" % process, encoding="ascii", errors="replace") as handle:
            state = handle.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")  # dead, and nobody has asked for its exit code yet
