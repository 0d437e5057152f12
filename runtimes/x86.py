"""What an x86 machine shows: turbo, and the energy counters of its packages (RAPL). Governor and throttle counts are every Linux's.

Linux: `Documentation/admin-guide/pm/intel_pstate.rst`, `Documentation/admin-guide/pm/cpufreq.rst`, `Documentation/power/powercap/powercap.rst`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from .reach import Reach, number_of, text_of


def turbo(reach: Reach) -> Optional[bool]:
    """Whether clocks above the base clock are allowed; None where the machine does not say."""
    forbidden = number_of(reach, "/sys/devices/system/cpu/intel_pstate/no_turbo")
    if forbidden is not None:
        return forbidden == 0
    allowed = number_of(reach, "/sys/devices/system/cpu/cpufreq/boost")
    return None if allowed is None else allowed != 0


@dataclass(frozen=True)
class Counter:
    """An energy counter: µJ since some time, which starts over at `range_uj`."""

    name: str
    path: str
    range_uj: int


def packages(reach: Reach) -> List[Counter]:
    """The counters of whole processor packages that this user may read. Often only root may (the kernel's default since 2020)."""
    found = []
    for path in reach.glob("/sys/class/powercap/intel-rapl:[0-9]*/energy_uj"):
        folder = path.rsplit("/", 1)[0]
        name, limit = text_of(reach, folder + "/name") or "", number_of(reach, folder + "/max_energy_range_uj")
        # `core` and its like are parts of a package, and `psys`, the platform, has packages in it: together they would count twice.
        if name.startswith("package") and limit and number_of(reach, path) is not None:
            found.append(Counter(name, path, limit))
    return found


def facts(reach: Reach) -> Dict[str, Any]:
    """What does not change during a job: `turbo`."""
    allowed = turbo(reach)
    return {} if allowed is None else {"turbo": allowed}
