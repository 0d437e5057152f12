"""What an Android phone shows to `adb shell` without root: its cores, its thermal service, its battery.

Formats: AOSP `ThermalManagerService.java` and `BatteryService.java` (their dumps), Linux `cpufreq-stats.rst`, the arm64 `cpu_capacity`
attribute (`Documentation/ABI/testing/sysfs-devices-system-cpu`). No phone has run this yet.
"""

from __future__ import annotations

import math
import re
from typing import Any, Dict, List

from .reach import Reach, number_in, number_of, output_of, text_of

# android.os.PowerManager.THERMAL_STATUS_*; from `moderate` on the system slows work down that people notice.
THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
THERMAL = ("dumpsys", "thermalservice")
BATTERY = ("dumpsys", "battery")
_CHARGING = {1: "unknown", 2: "charging", 3: "discharging", 4: "not charging", 5: "full"}  # android.os.BatteryManager.BATTERY_STATUS_*


def is_android(reach: Reach) -> bool:
    """Whether the machine is one: it has the program that Android starts every app with."""
    return bool(reach.glob("/system/bin/app_process*"))


def capacities(reach: Reach) -> Dict[str, int]:
    """Core -> capacity, 1024 for the strongest; by the highest clock (kHz) where the kernel tells no capacity."""
    for leaf in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        found = {}
        for path in reach.glob("/sys/devices/system/cpu/cpu[0-9]*/" + leaf):
            value = number_of(reach, path)
            if value is not None:
                found[path.split("/")[5]] = value
        if found:
            return found
    return {}


def clusters(strengths: Dict[str, int]) -> List[Dict[str, Any]]:
    """Cores of one strength together, the strongest first: `cores` (numbers), `strength`, and the `mask` that `taskset` takes."""
    found = []
    for strength in sorted(set(strengths.values()), reverse=True):
        cores = sorted(int(name[3:]) for name, value in strengths.items() if value == strength)
        found.append({"cores": cores, "strength": strength, "mask": "%x" % sum(1 << core for core in cores)})
    return found


def parse_thermal(text: str) -> Dict[str, Any]:
    """`thermal_status` (0 to 6), `thermal_status_name`, `temperatures_c` (name -> C) and `throttling` (name -> status, where not 0).

    What the hardware says now comes before what the service has cached. Thresholds and cooling devices are passed over; `unknown` holds lines
    that look like a temperature and are none.
    """
    found: Dict[str, Any] = {}
    sections: Dict[str, Dict[str, Dict[str, Any]]] = {}
    unknown = []
    section = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        status = re.match(r"Thermal Status:\s*(\d+)$", line)
        if status:
            found["thermal_status"] = int(status.group(1))
        elif line.endswith(":"):
            section = line[:-1]
        elif line.startswith("Temperature{"):
            reading = _temperature(line)
            if reading is None:
                unknown.append(line)
            else:
                sections.setdefault(section, {})[reading["name"]] = reading
    readings = sections.get("Current temperatures from HAL") or sections.get("Cached temperatures") or {}
    # Shares and voltages stand in the same list, as types of their own (BCL_VOLTAGE 6, BCL_CURRENT 7, BCL_PERCENTAGE 8): no temperatures.
    real = {name: reading for name, reading in readings.items() if reading["type"] not in (6, 7, 8)}
    if real:
        found["temperatures_c"] = {name: reading["celsius"] for name, reading in real.items()}
        hot = {name: reading["status"] for name, reading in real.items() if reading["status"]}
        if hot:
            found["throttling"] = hot
    if "thermal_status" in found:
        status_number = found["thermal_status"]
        found["thermal_status_name"] = THERMAL_STATUS[status_number] if status_number < len(THERMAL_STATUS) else "unknown"
    if unknown:
        found["unknown"] = unknown
    return found


def parse_battery(text: str) -> Dict[str, Any]:
    """`battery_percent`, `battery_c`, `battery_millivolts`, `charge_uah`, `charging` (status by name), `powered_by` (list); the rest in `unknown`."""
    found: Dict[str, Any] = {"powered_by": []}
    unknown = []
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    scale = next((number_in(line[len("scale:") :]) for line in lines if line.startswith("scale:")), 100)
    for line in lines:
        name, _, value = line.partition(":")
        value = value.strip()
        number = number_in(value)
        if name.endswith(" powered"):
            if value == "true":
                found["powered_by"].append(name[: -len(" powered")])
        elif name == "level" and number is not None:
            found["battery_percent"] = 100.0 * number / (scale or 100)
        elif name == "temperature" and number is not None:
            found["battery_c"] = number / 10.0
        elif name == "voltage" and number is not None:
            found["battery_millivolts"] = number
        elif name == "Charge counter" and number is not None:
            found["charge_uah"] = number
        elif name == "status" and number is not None:
            found["charging"] = _CHARGING.get(number, str(number))
        elif name not in ("scale", "Current Battery Service state"):
            unknown.append(line)
    if unknown:
        found["unknown"] = unknown
    return found if len(found) > 1 + bool(unknown) else {}


def power_supply(reach: Reach) -> Dict[str, Any]:
    """The battery by sysfs, where the shell may read it: `battery_percent`, `battery_c`, `battery_microvolts`, `battery_microamperes`."""
    folder = "/sys/class/power_supply/battery/"
    names = {"battery_percent": "capacity", "battery_microvolts": "voltage_now", "battery_microamperes": "current_now"}
    found: Dict[str, Any] = {}
    for name, leaf in names.items():
        value = number_of(reach, folder + leaf)
        if value is not None:
            found[name] = value
    tenths = number_of(reach, folder + "temp")
    if tenths is not None:
        found["battery_c"] = tenths / 10.0
    return found


def state(reach: Reach) -> Dict[str, Any]:
    """What may change during a job: thermal status, temperatures, battery."""
    found: Dict[str, Any] = {}
    thermal, battery = output_of(reach, THERMAL), output_of(reach, BATTERY)
    found.update(parse_thermal(thermal) if thermal else {})
    found.update(power_supply(reach))
    found.update({name: value for name, value in (parse_battery(battery) if battery else {}).items() if name != "unknown"})
    found.pop("unknown", None)
    return found


def facts(reach: Reach) -> Dict[str, Any]:
    """What does not change: the clusters of cores."""
    found = clusters(capacities(reach))
    driver = text_of(reach, "/sys/devices/system/cpu/cpufreq/policy0/scaling_driver")
    return dict({"clusters": found} if found else {}, **({"cpufreq_driver": driver} if driver else {}))


def _temperature(line: str) -> Any:
    pairs = dict(re.findall(r"m(Value|Type|Name|Status)=([^,}]*)", line))
    kind, status = number_in(pairs.get("Type", "")), number_in(pairs.get("Status", ""))
    try:
        celsius = float(pairs.get("Value", ""))
    except ValueError:
        return None
    # A sensor that is not there reads NaN.
    known = kind is not None and status is not None and "Name" in pairs and math.isfinite(celsius)
    return {"celsius": celsius, "type": kind, "name": pairs["Name"], "status": status} if known else None
