"""Which sensors a device has, and their state read over a transport, where no worker of ours runs.

Each question over adb or ssh costs tens of milliseconds, so that a snapshot asks everything in one command and reads the answer here.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Sequence
from typing import Any

from kdedge.devices.transport import Transport
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected
from kdedge.runtimes import android, evidence, jetson, linux, power, raspberry_pi, tegrastats, x86
from kdedge.runtimes.reach import Reach

_TIMEOUT = 20.0
_MARK = "@@kdedge"
_LOST = (Disconnected, DeviceGone, DeviceUnresponsive)

# What a snapshot reads; each pattern is one that a reader of kdedge.runtimes asks for.
FILES = (
    "/proc/device-tree/model",
    "/proc/device-tree/compatible",
    "/etc/nv_tegra_release",
    "/proc/stat",
    "/proc/meminfo",
    "/sys/fs/cgroup/cpu.stat",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "/sys/devices/system/cpu/cpu[0-9]*/cpu_capacity",
    "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count",
    "/sys/devices/system/cpu/cpufreq/policy*/stats/time_in_state",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_driver",
    "/sys/devices/system/cpu/cpufreq/boost",
    "/sys/devices/system/cpu/intel_pstate/no_turbo",
    "/sys/class/devfreq/*/cur_freq",
    "/sys/class/devfreq/*/min_freq",
    "/sys/class/devfreq/*/max_freq",
    "/sys/class/devfreq/*/governor",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt",
    "/sys/class/hwmon/hwmon*/oc[0-9]*_throt_en",
    "/sys/class/power_supply/battery/capacity",
    "/sys/class/power_supply/battery/temp",
    "/sys/class/power_supply/battery/voltage_now",
    "/sys/class/power_supply/battery/current_now",
)
# Of these it is enough that they are there: they are programs.
PROGRAMS = ("/system/bin/app_process*",)
COMMANDS: tuple[tuple[str, ...], ...] = (raspberry_pi.THROTTLED, android.THERMAL, android.BATTERY, ("nvpmodel", "-q"))


def over(transport: Transport) -> Reach:
    """A device by its transport, one question at a time.

    Raises, from each of its functions:
        OSError: what was asked is not there.
        DeviceError: the device is lost.
    """

    def run(argv: Sequence[str]) -> str:
        try:
            done = transport.run(list(argv), _TIMEOUT)
        except _LOST:
            raise
        except DeviceError as error:
            raise OSError(str(error)) from error
        if done.returncode != 0:
            raise OSError(f"{argv[0]} ended with exit code {done.returncode}")
        return done.stdout.strip("\0\n ")

    def matching(pattern: str) -> list[str]:
        # The pattern is not quoted: the shell there expands it. It comes from kdedge's own readers, and holds no blanks.
        script = f'for file in {pattern}; do if [ -e "$file" ]; then echo "$file"; fi; done'
        return sorted(run(["sh", "-c", script]).split("\n")) if pattern else []

    return Reach(lambda path: run(["cat", path]), lambda pattern: [path for path in matching(pattern) if path], run)


def gathered(transport: Transport) -> Reach:
    """All of `FILES` and `COMMANDS` at one moment, by one command on the device; what is not among them is not there.

    Raises:
        DeviceError: the device is lost, or has no shell.
    """
    done = transport.run(["sh", "-c", _script()], _TIMEOUT)
    files, outputs = _parsed(done.stdout)

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    def run(argv: Sequence[str]) -> str:
        command = " ".join(argv)
        if not outputs.get(command):
            raise FileNotFoundError(command)
        return outputs[command]

    return Reach(read, lambda pattern: sorted(path for path in files if fnmatch.fnmatchcase(path, pattern) and _as_deep(path, pattern)), run)


def snapshot(transport: Transport) -> dict[str, Any]:
    """What the device shows now, by the names of `kdedge.runtimes.evidence.machine`.

    Raises:
        DeviceError: the device is lost.
    """
    return evidence.machine(gathered(transport))


def facts(transport: Transport) -> dict[str, Any]:
    """What does not change during a job: power mode, turbo, clusters of cores.

    Raises:
        DeviceError: the device is lost.
    """
    return evidence.machine_facts(gathered(transport))


def sensors(reach: Reach) -> dict[str, str]:
    """Kind of sensor -> what it reads there, in words; for `kdedge devices probe`. What a device lacks is absent."""
    zones, gpu, counters = linux.temperatures(reach), jetson.gpu_clocks(reach), jetson.over_current(reach)
    supplies = power.supplies(reach)
    cores, events = linux.cpu_khz(reach), linux.throttle_events(reach)
    turbo, clusters = x86.turbo(reach), android.clusters(android.capacities(reach))
    kinds = evidence.kinds(reach)
    found = {
        "temperature": f"{len(zones)} thermal zones" if zones else "",
        "cpu clock": f"{len(cores)} cores, {', '.join(linux.governors(reach)) or 'governor unknown'}" if cores else "",
        "cpu clusters": " + ".join(f"{len(cluster['cores'])} of {cluster['strength']}" for cluster in clusters),
        "gpu clock": ", ".join(gpu),
        "heat throttling": "counted by the processor" if events is not None else "the thermal service's status" if "android" in kinds else "",
        "load of GPU, memory and engines": "tegrastats" if "jetson" in kinds and tegrastats.activity(reach) else "",
        "over-current": ", ".join(counters),
        "under-voltage": "vcgencmd get_throttled" if "raspberry-pi" in kinds else "",
        "turbo": "" if turbo is None else "on" if turbo else "off",
        "energy": " + ".join(supply.name for supply in supplies),
    }
    return {kind: text for kind, text in found.items() if text}


def _script() -> str:
    files = (
        f'for file in {" ".join(FILES)}; do if [ -f "$file" ] && [ -r "$file" ]; then echo "{_MARK} file $file"; '
        'head -c 65536 "$file" 2>/dev/null | tr "\\000" "\\001"; echo; fi; done'
    )
    programs = f'for file in {" ".join(PROGRAMS)}; do if [ -e "$file" ]; then echo "{_MARK} file $file"; fi; done'
    commands = [
        f'if command -v {command[0]} >/dev/null 2>&1; then echo "{_MARK} run {" ".join(command)}"; '
        f"{shlex.join(command)} 2>/dev/null </dev/null; echo; fi"
        for command in COMMANDS
    ]
    return "; ".join([files, programs, *commands, "true"])


def _parsed(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Files by path and outputs by command, of what the script printed. A NUL, which a shell loses, was written as \\1."""
    files: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for part in ("\n" + text).split(f"\n{_MARK} ")[1:]:
        head, _, body = part.partition("\n")
        kind, _, name = head.partition(" ")
        content = body.replace("\r\n", "\n").replace("\1", "\0").strip("\0\n ")
        (files if kind == "file" else outputs)[name.strip()] = content
    return files, outputs


def _as_deep(path: str, pattern: str) -> bool:
    """fnmatch's star crosses a slash; a shell's does not."""
    return path.count("/") == pattern.count("/")
