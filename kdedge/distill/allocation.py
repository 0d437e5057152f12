"""What becomes of memory that a step frees: it stays with the process, for the next step.

Every training step frees all of its activations and takes as much again. glibc hands freed memory at the end of its heap back to the system as
soon as that is twice the largest block that was freed so far, so each step gets its pages anew, zeroed, one page fault each: an eighth of the time of
a small network's step, and more the more processes share the machine (`benchmarks/freed_memory.py`). At the end of training it is handed back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h; mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1
# Blocks of this size and more glibc asks the system for one by one. From 2.35 on it takes any number here, before that no more than 32 MiB.
_LARGE_BLOCKS = (2**30, 2**25)
# What glibc's own rule, which goes by the blocks that were freed so far, arrives at when large ones were: there is no way back to the rule itself.
_USUAL_LARGE, _USUAL_TRIM = 2**25, 2**26
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

_blocks_inside = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside the block (of the process, not only of this thread) freed memory is kept for what is asked for next, and handed back at its end.

    Does nothing with another C library than glibc, and where the user has set malloc's thresholds.
    """
    global _blocks_inside
    library = _glibc()
    if library is None or any(name in os.environ for name in _OWN_SETTINGS):
        yield
        return
    if _blocks_inside == 0:
        _set(library, _LARGE_BLOCKS, _NEVER)
    _blocks_inside += 1
    try:
        yield
    finally:
        _blocks_inside -= 1
        if _blocks_inside == 0:
            _set(library, (_USUAL_LARGE,), _USUAL_TRIM)
            library.malloc_trim(0)


def _set(library: ctypes.CDLL, large: tuple[int, ...], trim: int) -> None:
    any(library.mallopt(_MMAP_THRESHOLD, size) for size in large)
    library.mallopt(_TRIM_THRESHOLD, trim)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # TypeError: Windows, where a library needs a name
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
