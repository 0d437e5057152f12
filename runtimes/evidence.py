"""What the machine was doing while something was measured: recorded before and after, judged elsewhere.

Every fact is optional. A board, a container or a phone hides some of them; what cannot be read is absent and nothing fails.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from . import android, contention, jetson, linux, raspberry_pi, tegrastats, x86
from .reach import Reach, here

# Variables that change how fast a runtime runs. They are part of what was measured.
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME", "LD_PRELOAD")

# Kind of machine -> how it is told, what of it may change during a job, and what does not.
_KINDS: Dict[str, Any] = {
    "jetson": (jetson.is_jetson, jetson.state, jetson.facts),
    "raspberry-pi": (raspberry_pi.is_raspberry_pi, raspberry_pi.state, raspberry_pi.facts),
    "android": (android.is_android, android.state, android.facts),
}


def snapshot(reach: Optional[Reach] = None) -> Dict[str, Any]:
    """The state of this machine and process now.

    Keys, where readable: those of `machine`, and of this process `load_average` (1, 5, 15 min), `context_switches`, `page_faults` (cumulative)
    and `affinity`; of a Jetson `activity` (tegrastats.py), which takes too long to be asked within a job.
    """
    readers: Dict[str, Callable[[], Any]] = {
        "load_average": lambda: list(os.getloadavg()),
        "context_switches": contention.context_switches,
        "page_faults": _page_faults,
        "affinity": lambda: sorted(os.sched_getaffinity(0)),
    }
    reach = reach or here()
    found = machine(reach)
    activity = tegrastats.activity(reach) if jetson.is_jetson(reach) else {}
    if activity:
        found["activity"] = activity
    for name, read in readers.items():
        try:
            found[name] = read()
        except (OSError, ValueError, AttributeError, ImportError):
            continue
    return found


def machine(reach: Reach) -> Dict[str, Any]:
    """What a machine shows now, also one that runs no Python of ours.

    Keys, where readable: `cpu_khz` (by core), `governors`, `temperatures_c` (by zone), `throttle_events` (cumulative), `ticks_by_khz` (policy ->
    kHz -> cumulative time, 10 ms), `steal_ticks` (time that a hypervisor gave to others, cumulative), `cgroup_throttled_us` (cumulative),
    `memory_available_bytes`, `memory_total_bytes`; of a Jetson `gpu_hz`, `over_current` (counter -> cumulative `events`, and whether they
    `throttle`); of a Raspberry Pi `pi_throttled` (bits); of Android `thermal_status` (0 to 6), `throttling`, and its battery.
    """
    found = linux.state(reach)
    for kind in kinds(reach):
        for name, value in _KINDS[kind][1](reach).items():
            if name == "temperatures_c":  # a phone names them by its thermal service too
                value = {**found.get(name, {}), **value}
            found[name] = value
    return found


def kinds(reach: Reach) -> List[str]:
    """Which machines with sensors of their own this one is: some of `jetson`, `raspberry-pi`, `android`."""
    return [kind for kind, (told, _, _) in _KINDS.items() if told(reach)]


def machine_facts(reach: Reach) -> Dict[str, Any]:
    """What does not change during a job, of what changes speed: power mode, turbo, clusters of cores, the module's name."""
    found = x86.facts(reach)
    for kind in kinds(reach):
        found.update(_KINDS[kind][2](reach))
    return found


def conditions(reach: Optional[Reach] = None) -> Dict[str, Any]:
    """What does not change during a job: interpreter, numpy, the environment variables that matter, and `machine_facts` as `machine`."""
    found: Dict[str, Any] = {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "numpy": np.__version__,
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    facts = machine_facts(reach or here())
    return dict(found, machine=facts) if facts else found


def _page_faults() -> Dict[str, int]:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"minor": usage.ru_minflt, "major": usage.ru_majflt}
