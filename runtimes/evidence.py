"""What the machine was doing while something was measured: recorded before and after, judged elsewhere.

Every fact is optional. A board, a container or a phone hides some of them; what cannot be read is absent and nothing fails.
"""

from __future__ import annotations

import glob
import os
import platform
import sys
from typing import Any, Callable, Dict, List, Optional

import numpy as np

# Variables that change how fast a runtime runs. They are part of what was measured.
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME", "LD_PRELOAD")


def snapshot() -> Dict[str, Any]:
    """The state now.

    Keys, where readable: `load_average` (1, 5, 15 min), `cpu_khz` (by core), `governors`, `temperatures_c` (by zone), `throttle_events`
    (cumulative), `context_switches` and `page_faults` of this process (cumulative), `affinity`, `steal_ticks` (time that a hypervisor gave
    to others, cumulative), `cgroup_throttled_us` (cumulative), `memory_available_bytes`.
    """
    readers: Dict[str, Callable[[], Any]] = {
        "load_average": lambda: list(os.getloadavg()),
        "cpu_khz": lambda: _numbers_by_core("cpufreq/scaling_cur_freq"),
        "governors": lambda: sorted(set(_texts("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))),
        "temperatures_c": _temperatures,
        "throttle_events": _throttle_events,
        "context_switches": _context_switches,
        "page_faults": _page_faults,
        "affinity": lambda: sorted(os.sched_getaffinity(0)),
        "steal_ticks": _steal_ticks,
        "cgroup_throttled_us": lambda: _field("/sys/fs/cgroup/cpu.stat", "throttled_usec"),
        "memory_available_bytes": _memory_available,
    }
    found = {}
    for name, read in readers.items():
        try:
            value = read()
        except (OSError, ValueError, IndexError, AttributeError, ImportError):
            continue
        if value is not None and value != [] and value != {}:
            found[name] = value
    return found


def conditions() -> Dict[str, Any]:
    """What does not change during a job: interpreter, numpy, and the environment variables that matter."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "numpy": np.__version__,
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read().strip()


def _texts(pattern: str) -> List[str]:
    found = []
    for path in sorted(glob.glob(pattern)):
        try:
            found.append(_read(path))
        except OSError:
            continue
    return found


def _numbers_by_core(leaf: str) -> Dict[str, int]:
    found = {}
    for path in glob.glob("/sys/devices/system/cpu/cpu[0-9]*/" + leaf):
        try:
            found[path.split("/")[5]] = int(_read(path))
        except (OSError, ValueError):
            continue
    return found


def _temperatures() -> Dict[str, float]:
    found = {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        try:
            # Two zones may have the same type, so the zone's own name is part of the key.
            found["%s:%s" % (os.path.basename(zone), _read(zone + "/type"))] = int(_read(zone + "/temp")) / 1000.0
        except (OSError, ValueError):
            continue
    return found


def _throttle_events() -> Optional[int]:
    counts = _texts("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(int(count) for count in counts) if counts else None


def _context_switches() -> Dict[str, int]:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"voluntary": usage.ru_nvcsw, "involuntary": usage.ru_nivcsw}


def _page_faults() -> Dict[str, int]:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"minor": usage.ru_minflt, "major": usage.ru_majflt}


def _steal_ticks() -> int:
    # /proc/stat, first line: cpu user nice system idle iowait irq softirq steal ...
    return int(_read("/proc/stat").split("\n", 1)[0].split()[8])


def _field(path: str, name: str) -> Optional[int]:
    for line in _read(path).splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return None


def _memory_available() -> Optional[int]:
    kib = _field("/proc/meminfo", "MemAvailable:")
    return None if kib is None else kib * 1024
