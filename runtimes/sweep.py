"""`worker.pyz sweep ROOT SECONDS BYTES`: remove what kdedge has kept on a board for too long, or beyond its share of the disk.

Called by the host that holds the lease. Never removed: a job folder with a live supervisor, and files that a job folder uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from typing import Dict, List, Set, Tuple

from .supervise import ENDED, live_supervisor

# What was just sent is about to be linked into a job folder.
_YOUNG_SECONDS = 3600.0
# In a job folder: the names in the store that it was made of, one a line.
USES = "uses"


def sweep(root: str, oldest: str, most: str) -> int:
    """Remove job folders and stored files that are older than `oldest` seconds, and the oldest ones until the store holds at most `most` bytes.

    Prints how many of both were removed as JSON. Returns the exit code: 2 for numbers that are none. What cannot be removed is left.
    """
    try:
        age, size = float(oldest), int(most)
    except ValueError as error:
        sys.stderr.write("sweep: %s\n" % error)
        return 2
    jobs = _sweep_jobs(os.path.join(root, "jobs"), age)
    files, freed = _sweep_store(os.path.join(root, "store"), _used(os.path.join(root, "jobs")), age, size)
    print(json.dumps({"jobs": jobs, "files": files, "bytes": freed}))
    return 0


def _sweep_jobs(folder: str, age: float) -> int:
    removed = 0
    for name, status in _entries(folder):
        path = os.path.join(folder, name)
        if time.time() - _touched(path, status.st_mtime) > age and not live_supervisor(path):
            shutil.rmtree(path, ignore_errors=True)
            removed += not os.path.exists(path)
    return removed


def _touched(path: str, found: float) -> float:
    with contextlib.suppress(OSError):
        return max(found, os.stat(os.path.join(path, ENDED)).st_mtime)
    return found


def _used(jobs: str) -> Set[str]:
    """Names in the store that a job folder was made of: copies there do not show in the count of links."""
    used = set()
    for name, _ in _entries(jobs):
        with contextlib.suppress(OSError), open(os.path.join(jobs, name, USES), encoding="ascii", errors="replace") as handle:
            used.update(handle.read().split())
    return used


def _sweep_store(folder: str, used: Set[str], age: float, most: int) -> Tuple[int, int]:
    now = time.time()
    found: List[Tuple[float, str, int]] = sorted((status.st_mtime, name, status.st_size) for name, status in _entries(folder))
    total, removed, freed = sum(size for _, _, size in found), 0, 0
    for touched, name, size in found:  # the oldest first
        if name in used or now - touched < min(_YOUNG_SECONDS, age) or (now - touched <= age and total <= most):
            continue
        with contextlib.suppress(OSError):
            os.remove(os.path.join(folder, name))
            total, removed, freed = total - size, removed + 1, freed + size
    return removed, freed


def _entries(folder: str) -> List[Tuple[str, os.stat_result]]:
    found: Dict[str, os.stat_result] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                found[name] = os.stat(os.path.join(folder, name))
    return sorted(found.items())
