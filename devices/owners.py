"""Who this process is to a board, and whether a process of this machine that held one is dead.

Each process that took a lease holds a lock on a file of its own, which the system lets go when it dies, however it dies. An owner without such a
file is of another machine, and only time tells.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import secrets
import time
from functools import cache
from itertools import count
from pathlib import Path

_users = count(1)


def own_id() -> str:
    """A new id of a user of a board in this process: unique, and nothing in it tells whose machine this is."""
    return f"{_process_id(os.getpid())}-{next(_users)}"


def own_text() -> str:
    """What people read: it names the process, not the host or the user."""
    return f"a kdedge process (number {os.getpid()} on its host, since {_started()})"


def is_dead(owner: str) -> bool:
    """Whether that was a process of this machine and is not there any more."""
    process = owner.partition("-")[0]
    if not process.isalnum():
        return False
    try:
        with (_folder() / process).open("r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, RuntimeError):  # not of this machine, or held by the living; or there is no home
        return False
    return True


@cache
def _process_id(process: int) -> str:
    """By process number: a fork is another process."""
    name = secrets.token_hex(8)
    with contextlib.suppress(OSError, RuntimeError):  # without a home, only time tells that this process died
        _folder().mkdir(parents=True, exist_ok=True)
        path = _folder() / name
        handle = path.open("wb")  # open, and with it the lock, for as long as the process lives
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held.append(handle)
        atexit.register(path.unlink, missing_ok=True)
    return name


_held: list[object] = []


@cache
def _started() -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdedge" / "owners"
