"""Who else used the processors while iterations were timed, and whether they had to wait: read before the loop and after it, never in it.

The kernel counts for each thread how long it ran, and how long it was ready to run and did not (Linux, `Documentation/scheduler/sched-stats.rst`,
"/proc/<pid>/schedstat"). That tells a shared core from a busy neighbour; load averages and a core's ticks cannot.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, Optional

from .reach import Reach, number_of, text_of

_CPU = "/sys/devices/system/cpu/"
# Cores of one kind may be sold with slightly different highest clocks; the kinds of one chip differ by far more.
_ONE_KIND = 0.9


def moment(reach: Reach) -> Dict[str, Any]:
    """What is counted up to now, of this process and of the cores that it may use.

    Keys, where readable: `busy_ms` (all processes on those cores), `own_ms` (this process), `threads` (id -> `ran_ns`, `waited_ns`, `core`),
    `switches` (`voluntary`, `involuntary`), `migrations` (of the main thread) and `pressure_us` (while some task of the machine waited for a core).
    """
    readers: Dict[str, Callable[[], Any]] = {
        "threads": lambda: threads(reach),
        "own_ms": lambda: time.process_time_ns() / 1e6,
        "busy_ms": lambda: busy_ms(text_of(reach, "/proc/stat") or "", sorted(os.sched_getaffinity(0)), os.sysconf("SC_CLK_TCK")),
        "switches": context_switches,
        "migrations": lambda: migrations(text_of(reach, "/proc/self/sched") or ""),
        "pressure_us": lambda: pressure_us(text_of(reach, "/proc/pressure/cpu") or ""),
    }
    found = {}
    for name, read in readers.items():
        try:
            value = read()
        except (OSError, ValueError, AttributeError, ImportError):
            continue
        if value is not None and value != {}:
            found[name] = value
    return found


def loop(before: Dict[str, Any], after: Dict[str, Any], nanoseconds: int, reach: Reach) -> Dict[str, Any]:
    """Both moments with the time between them (`seconds`), how many cores the process may use (`cores`) and, where they differ, their kinds."""
    found: Dict[str, Any] = {"seconds": nanoseconds / 1e9, "before": before, "after": after}
    if hasattr(os, "sched_getaffinity"):
        found["cores"] = len(os.sched_getaffinity(0))
    kinds = core_kinds(reach)
    return dict(found, core_kinds=kinds) if len(set(kinds.values())) > 1 else found


def context_switches() -> Dict[str, int]:
    """How often this process gave its core up (`voluntary`) and how often it was taken away (`involuntary`)."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"voluntary": usage.ru_nvcsw, "involuntary": usage.ru_nivcsw}


def threads(reach: Reach) -> Dict[str, Dict[str, int]]:
    """Thread id -> nanoseconds that it ran and that it waited for a core, and the core that it was on last."""
    found = {}
    for path in reach.glob("/proc/self/task/[0-9]*/schedstat"):
        words = (text_of(reach, path) or "").split()
        if len(words) < 2:  # the thread has ended meanwhile
            continue
        one = {"ran_ns": int(words[0]), "waited_ns": int(words[1])}
        core = core_of(text_of(reach, path[: -len("schedstat")] + "stat") or "")
        found[path.split("/")[4]] = one if core is None else dict(one, core=core)
    return found


def core_of(stat: str) -> Optional[int]:
    """The core on which a thread ran last: field 39 of its `stat` (proc(5), `processor`). Its name, field 2, may hold blanks and brackets."""
    words = stat.rpartition(")")[2].split()
    return int(words[36]) if len(words) > 36 else None


def busy_ms(stat: str, cores: List[int], ticks_a_second: int) -> Optional[float]:
    """What all processes together used of these cores, from /proc/stat; None where a core is not in it. Idle, waiting for a disk and stolen are not
    in it; `guest` is in `user` already (proc(5))."""
    found = {}
    for line in stat.splitlines():
        words = line.split()
        if len(words) > 7 and words[0][:3] == "cpu" and words[0][3:].isdigit():
            user, nice, system, _, _, irq, softirq = (int(word) for word in words[1:8])
            found[int(words[0][3:])] = user + nice + system + irq + softirq
    # A sandbox that makes /proc/stat up has all zeros there.
    if not cores or any(not found.get(core) for core in cores):
        return None
    return sum(found[core] for core in cores) * 1000.0 / ticks_a_second


def migrations(sched: str) -> Optional[int]:
    """How often a thread changed cores, from its `sched` file, which not every kernel has."""
    for line in sched.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "se.nr_migrations" and value.strip().isdigit():
            return int(value)
    return None


def pressure_us(pressure: str) -> Optional[int]:
    """Microseconds in which some task waited for a core, of the whole machine (Linux, `Documentation/accounting/psi.rst`)."""
    for line in pressure.splitlines():
        words = line.split()
        if words[:1] == ["some"] and words[-1].startswith("total="):
            return int(words[-1][len("total=") :])
    return None


def core_kinds(reach: Reach) -> Dict[str, str]:
    """Core -> its kind, by the kernel's `cpu_capacity` (1024 is the strongest), else by the counters that hybrid Intel processors have for each
    kind; empty where the machine says neither."""
    capacities = {}
    for path in reach.glob(_CPU + "cpu[0-9]*/cpu_capacity"):
        value = number_of(reach, path)
        if value is not None:
            capacities[path.split("/")[5][3:]] = value
    if capacities:
        return _grouped(capacities)
    found = {}
    for kind in ("cpu_core", "cpu_atom"):
        for core in core_list(text_of(reach, "/sys/devices/%s/cpus" % kind) or ""):
            found[str(core)] = kind
    return found


def core_list(text: str) -> List[int]:
    """`0-3,8` as the kernel writes sets of cores; empty where it is none."""
    found: List[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            return []
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _grouped(capacities: Dict[str, int]) -> Dict[str, str]:
    """Cores by capacity, from the strongest down: what is within a tenth of a kind's strongest is of that kind."""
    found: Dict[str, str] = {}
    strongest = 0
    for core, capacity in sorted(capacities.items(), key=lambda item: -item[1]):
        if capacity < _ONE_KIND * strongest or not found:
            strongest = capacity
        found[core] = "capacity %d" % strongest
    return found
