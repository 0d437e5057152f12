"""Room for what can be made again: results of one kind of stage are held while a run uses them, and the least recently used go above a limit.

Beside the lock of a stage (`locks/NAME-KEY.lock`, held while it is made) there is one of its use (`locks/NAME-KEY.use.lock`): runs share it,
and what is removed must be had alone. A process that dies gives its locks back.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kdedge import progress
from kdedge.errors import WorkspaceError


def hold(root: Path, name: str) -> int:
    """Use the stage folder `name` of the workspace at `root`: nobody removes it until the returned handle is closed.

    It need not be there yet, so that it can be held before it is looked for.
    """
    handle = os.open(root / "locks" / f"{name}.use.lock", os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def touch(folder: Path) -> None:
    """Note that a stage's folder was used now."""
    with suppress(OSError):  # a workspace that may only be read is used all the same, and nothing is removed from it
        os.utime(folder)


def make_room(root: Path, kind: str, limit: float) -> None:
    """Remove the least recently used results of the stage `kind` until all together are at most `limit` bytes; none that a run holds.

    Where what is held exceeds the limit alone, a person is told so.
    """
    for leftover in (root / "partial").glob(f"{kind}-*.evicted"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed while it removed one
    sizes = {folder: size_of(folder) for folder in _by_use(root, kind)}
    total = sum(sizes.values())
    for folder, size in sizes.items():
        if total <= limit:
            return
        used = _last_use(folder)
        if _removed(root, folder):
            total -= size
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(used))
            progress.message(f"{folder.name}: removed ({_gigabytes(size)}, last used {day}); {kind} may hold {_gigabytes(limit)}")
    if total > limit:
        progress.message(f"{kind}: what is in use takes {_gigabytes(total)}, more than the limit of {_gigabytes(limit)}")


def check_size(folder: Path, kind: str, limit: float) -> None:
    """Refuse a result that is larger than all of its kind may be together.

    Raises:
        WorkspaceError: names both sizes.
    """
    size = size_of(folder)
    if size > limit:
        raise WorkspaceError(
            f"{folder.name} takes {_gigabytes(size)}, and all results of {kind} together may take {_gigabytes(limit)}: raise that limit, or make less"
        )


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, as far as another run does not remove them meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def _by_use(root: Path, kind: str) -> list[Path]:
    """The stage's folders, least recently used first."""
    return sorted((root / "stages").glob(f"{kind}-*"), key=lambda folder: (_last_use(folder), folder.name))


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another run removed it
        return 0.0


def _removed(root: Path, folder: Path) -> bool:
    """Whether the folder is gone: not where a run holds it or makes it."""
    with ExitStack() as locks:
        if not all(locks.enter_context(_had_alone(root / "locks" / f"{folder.name}{end}")) for end in (".use.lock", ".lock")):
            return False
        going = root / "partial" / f"{folder.name}.evicted"
        with suppress(FileNotFoundError):  # another run removed it
            # Whole or not at all: what is half removed must not be taken for a result.
            folder.rename(going)
        shutil.rmtree(going, ignore_errors=True)
    return True


@contextmanager
def _had_alone(lock: Path) -> Iterator[bool]:
    """Whether nobody else has the lock; it is held inside the block."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
