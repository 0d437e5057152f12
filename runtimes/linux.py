"""What every Linux shows of its processors, its heat and its memory; phones and boards among them."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from .reach import Reach, number_in, number_of, text_of

_CPUS = "/sys/devices/system/cpu/cpu[0-9]*/"
# A Jetson's zone reads this while the part that it measures is switched off (NVIDIA, "Platform Power and Performance", r36: -256 C).
SWITCHED_OFF_C = -256.0


def temperatures(reach: Reach) -> Dict[str, float]:
    """Thermal zones in degrees Celsius, keyed `thermal_zone0:TYPE` since two zones may be of one type; zones that are off are left out."""
    found = {}
    for path in reach.glob("/sys/class/thermal/thermal_zone*/temp"):
        zone = path.rsplit("/", 1)[0]
        kind, value = text_of(reach, zone + "/type"), number_of(reach, path)
        if kind is None or value is None or value / 1000.0 <= SWITCHED_OFF_C:
            continue
        found["%s:%s" % (zone.rsplit("/", 1)[1], kind)] = value / 1000.0
    return found


def cpu_khz(reach: Reach) -> Dict[str, int]:
    """The clock of each core that has a scaled one, in kHz."""
    return _by_core(reach, "cpufreq/scaling_cur_freq")


def governors(reach: Reach) -> List[str]:
    """The frequency governors in use, each once."""
    found = [text_of(reach, path) for path in reach.glob(_CPUS + "cpufreq/scaling_governor")]
    return sorted({name for name in found if name})


def throttle_events(reach: Reach) -> Optional[int]:
    """How often heat throttled a core since the start (x86), all cores together; None where it is not counted."""
    counts = list(_by_core(reach, "thermal_throttle/core_throttle_count").values())
    return sum(counts) if counts else None


def ticks_by_khz(reach: Reach) -> Dict[str, Dict[str, int]]:
    """Policy -> kHz -> time spent there since the start, in units of 10 ms (Linux, `Documentation/cpu-freq/cpufreq-stats.rst`)."""
    found = {}
    for path in reach.glob("/sys/devices/system/cpu/cpufreq/policy*/stats/time_in_state"):
        ticks = parse_time_in_state(text_of(reach, path) or "")
        if ticks:
            found[path.split("/")[6]] = ticks
    return found


def parse_time_in_state(text: str) -> Dict[str, int]:
    """kHz -> ticks of 10 ms; lines of another shape are passed over."""
    found = {}
    for line in text.splitlines():
        khz, _, ticks = line.strip().partition(" ")
        spent = number_in(ticks)
        if spent is not None and number_in(khz) is not None:
            found[khz] = spent
    return found


def residency(before: Dict[str, int], after: Dict[str, int]) -> Dict[str, float]:
    """The share of the time between two readings of `time_in_state` at each clock (kHz); empty where no time passed."""
    spent = {khz: after[khz] - before.get(khz, 0) for khz in after}
    total = sum(spent.values())
    return {khz: ticks / total for khz, ticks in spent.items() if ticks > 0} if total > 0 else {}


def steal_ticks(reach: Reach) -> Optional[int]:
    """Time that a hypervisor gave to others, in ticks, all cores together."""
    # /proc/stat, first line: cpu user nice system idle iowait irq softirq steal ...
    words = (text_of(reach, "/proc/stat") or "").split("\n", 1)[0].split()
    return number_in(words[8]) if len(words) > 8 and words[0] == "cpu" else None


def field_of(reach: Reach, path: str, name: str) -> Optional[int]:
    """The number behind a name in a file of `name number` lines."""
    for line in (text_of(reach, path) or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return number_in(words[1])
    return None


def memory_bytes(reach: Reach, name: str) -> Optional[int]:
    """A row of /proc/meminfo such as `MemAvailable`."""
    kib = field_of(reach, "/proc/meminfo", name + ":")
    return None if kib is None else kib * 1024


def state(reach: Reach) -> Dict[str, Any]:
    """All of the above that this machine shows, by the names of `evidence.snapshot`."""
    found: Dict[str, Any] = {
        "cpu_khz": cpu_khz(reach),
        "governors": governors(reach),
        "temperatures_c": temperatures(reach),
        "throttle_events": throttle_events(reach),
        "ticks_by_khz": ticks_by_khz(reach),
        "steal_ticks": steal_ticks(reach),
        "cgroup_throttled_us": field_of(reach, "/sys/fs/cgroup/cpu.stat", "throttled_usec"),
        "memory_available_bytes": memory_bytes(reach, "MemAvailable"),
        "memory_total_bytes": memory_bytes(reach, "MemTotal"),
    }
    return {name: value for name, value in found.items() if value is not None and value != {} and value != []}


def _by_core(reach: Reach, leaf: str) -> Dict[str, int]:
    found = {}
    for path in reach.glob(_CPUS + leaf):
        value = number_of(reach, path)
        if value is not None:
            found[path.split("/")[5]] = value
    return found
