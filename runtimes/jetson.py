"""What an NVIDIA Jetson shows of itself in sysfs and by `nvpmodel`; nothing here needs root or a service.

Paths and meanings: NVIDIA Jetson Linux Developer Guide r36, "Platform Power and Performance"; the kernel's `Documentation/hwmon/ina3221.rst`
and `ina238.rst`; devfreq's names on Orin (`17000000.gpu`) and Thor (`gpu-gpc-0`, `gpu-nvd-0`). No board has run this yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from .reach import Reach, number_in, number_of, output_of, text_of

_RELEASE = "/etc/nv_tegra_release"
_COMPATIBLE = "/proc/device-tree/compatible"
_GPU_NAME = re.compile(r"gpu|gv11b|gp10b|gm20b|ga10b", re.IGNORECASE)
_OVER_CURRENT = "soctherm_oc"
_RAIL_CHIPS = ("ina3221", "ina238", "ina226", "ina228", "ina230")
# The INA3221's seventh channel is the sum of the three shunts' voltages, and NC is not connected: neither is a rail.
_NO_RAIL = re.compile(r"^(nc|sum of shunt voltages)$", re.IGNORECASE)


def is_jetson(reach: Reach) -> bool:
    """Whether the machine is one: its L4T release, or its device tree, says so."""
    return text_of(reach, _RELEASE) is not None or "nvidia,tegra" in (text_of(reach, _COMPATIBLE) or "")


def facts(reach: Reach) -> Dict[str, Any]:
    """What does not change during a job: `module`, `compatible`, the L4T release, the power mode."""
    found: Dict[str, Any] = {}
    module = text_of(reach, "/proc/device-tree/model")
    if module:
        found["module"] = module
    compatible = [name for name in (text_of(reach, _COMPATIBLE) or "").split("\0") if name]
    if compatible:
        found["compatible"] = compatible
    found.update(parse_release(text_of(reach, _RELEASE) or ""))
    mode = output_of(reach, ("nvpmodel", "-q"))
    if mode is not None:
        found.update(parse_nvpmodel(mode))
    return found


def parse_release(text: str) -> Dict[str, Any]:
    """`l4t`: "36.4.4" of `# R36 (release), REVISION: 4.4, GCID: ...`; empty where the text is of another shape."""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return {"l4t": "%s.%s" % match.groups()} if match else {}


def parse_nvpmodel(text: str) -> Dict[str, Any]:
    """`power_mode` and `power_mode_id` of `nvpmodel -q`; other lines in `unknown`."""
    found: Dict[str, Any] = {}
    unknown = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name = re.search(r"NV Power Mode:\s*(\S+)", line)
        if name:
            found["power_mode"] = name.group(1)
        elif number_in(line) is not None:
            found["power_mode_id"] = number_in(line)
        else:
            unknown.append(line)
    if unknown:
        found["unknown"] = unknown
    return found


def is_gpu(name: str) -> bool:
    """Whether a devfreq folder of that name is a GPU's: `17000000.gpu`, on JetPack 5 `17000000.ga10b`, on Thor `gpu-gpc-0`."""
    return _GPU_NAME.search(name) is not None


def gpu_clocks(reach: Reach) -> Dict[str, Dict[str, Any]]:
    """devfreq name -> `current_hz`, `minimum_hz`, `maximum_hz`, `governor`, as far as readable."""
    found = {}
    for path in reach.glob("/sys/class/devfreq/*/cur_freq"):
        folder = path.rsplit("/", 1)[0]
        name = folder.rsplit("/", 1)[1]
        if not is_gpu(name):
            continue
        clock: Dict[str, Any] = {
            "current_hz": number_of(reach, path),
            "minimum_hz": number_of(reach, folder + "/min_freq"),
            "maximum_hz": number_of(reach, folder + "/max_freq"),
            "governor": text_of(reach, folder + "/governor"),
        }
        found[name] = {key: value for key, value in clock.items() if value is not None}
    return found


def over_current(reach: Reach) -> Dict[str, Dict[str, Any]]:
    """oc1 (under-voltage), oc2 (average over-current), oc3 (instantaneous) -> `events` since the start, and whether they `throttle`."""
    found: Dict[str, Dict[str, Any]] = {}
    for path in reach.glob("/sys/class/hwmon/hwmon*/name"):
        if text_of(reach, path) != _OVER_CURRENT:
            continue
        folder = path.rsplit("/", 1)[0]
        for counter in reach.glob(folder + "/oc[0-9]*_event_cnt"):
            name = counter.rsplit("/", 1)[1].split("_", 1)[0]
            events, enabled = number_of(reach, counter), number_of(reach, "%s/%s_throt_en" % (folder, name))
            if events is not None:
                found[name] = {"events": events}
                if enabled is not None:
                    found[name]["throttles"] = enabled != 0
    return found


@dataclass(frozen=True)
class Rail:
    """One measured supply. `power` in µW, where the chip tells it; else `millivolts` and `milliamperes`: paths, one to be read after the other."""

    label: str
    chip: str
    millivolts: str
    milliamperes: str
    power: str = ""
    averaging: Optional[Dict[str, int]] = None


def rails(reach: Reach) -> List[Rail]:
    """The supplies that the board measures, in the order of their chips."""
    found = []
    for path in reach.glob("/sys/class/hwmon/hwmon*/name"):
        chip = text_of(reach, path) or ""
        if chip not in _RAIL_CHIPS:
            continue
        folder = path.rsplit("/", 1)[0]
        found += _ina3221(reach, folder) if chip == "ina3221" else _one_channel(reach, folder, chip)
    return found


def milliwatts(reach: Reach, rail: Rail) -> float:
    """What a rail carries now.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    if rail.power:
        return int(reach.read(rail.power)) / 1000.0
    return int(reach.read(rail.millivolts)) * int(reach.read(rail.milliamperes)) / 1000.0


def _ina3221(reach: Reach, folder: str) -> List[Rail]:
    averaging = {name: number_of(reach, "%s/%s" % (folder, name)) for name in ("update_interval", "samples")}
    known = {name: value for name, value in averaging.items() if value is not None}
    found = []
    for path in reach.glob(folder + "/in[0-9]*_label"):
        number = re.sub(r"\D", "", path.rsplit("/", 1)[1])
        label = text_of(reach, path) or ""
        volts, amperes = "%s/in%s_input" % (folder, number), "%s/curr%s_input" % (folder, number)
        if label and not _NO_RAIL.match(label) and number_of(reach, volts) is not None and number_of(reach, amperes) is not None:
            found.append(Rail(label, "ina3221", volts, amperes, averaging=known or None))
    return found


def _one_channel(reach: Reach, folder: str, chip: str) -> List[Rail]:
    """The INA238 and its kin: in1 is the bus voltage (in0 that of the shunt), power1 in µW."""
    label = text_of(reach, folder + "/label") or text_of(reach, folder + "/in1_label") or folder.rsplit("/", 1)[1]
    volts, amperes, power = folder + "/in1_input", folder + "/curr1_input", folder + "/power1_input"
    if number_of(reach, power) is not None:
        return [Rail(label, chip, volts, amperes, power)]
    if number_of(reach, volts) is not None and number_of(reach, amperes) is not None:
        return [Rail(label, chip, volts, amperes)]
    return []


def state(reach: Reach) -> Dict[str, Any]:
    """What may change during a job: `gpu_hz` by clock, `over_current` by counter."""
    clocks = {name: clock["current_hz"] for name, clock in gpu_clocks(reach).items() if "current_hz" in clock}
    counters = over_current(reach)
    found: Dict[str, Any] = {}
    if clocks:
        found["gpu_hz"] = clocks
    if counters:
        found["over_current"] = counters
    return found
