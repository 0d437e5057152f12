"""What an Android device says it is, as facts that must be equal for two measurements to be comparable. No serial number, no user."""

from __future__ import annotations

import re

from kdedge.devices.fingerprint import printable
from kdedge.measured import DeviceIdentity

ABI_PROPERTY = "ro.product.cpu.abi"
# One question for all of it; each part behind a line that names it. `nproc` counts what this process may use.
_PARTS = {
    "properties": "getprop",
    "kernel": "uname -sr",
    "cores": "nproc",
    "governor": "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "cpuinfo": "cat /proc/cpuinfo",
}
_MARK = "-- kdedge "
PROBE = "; ".join(f"echo; echo '{_MARK}{name}'; {command} 2>/dev/null" for name, command in _PARTS.items())

# Names that Android gives (https://developer.android.com/ndk/guides/abis) -> those of `uname -m`, which targets use.
_MACHINES = {"arm64-v8a": "aarch64", "armeabi-v7a": "armv7l", "x86_64": "x86_64", "x86": "i686", "riscv64": "riscv64"}
_FEATURES = ("asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme")


def identity_of(name: str, said: str) -> DeviceIdentity:
    """The identity from the output of `PROBE`. `machines` is empty where the device does not tell its processor."""
    parts = dict(re.findall(rf"^{_MARK}(\w+)\n(.*?)(?=^{_MARK}|\Z)", said.replace("\r\n", "\n"), re.MULTILINE | re.DOTALL))
    properties = dict(re.findall(r"^\[([^\]]+)\]: \[(.*)\]$", parts.get("properties", ""), re.MULTILINE))
    abi = properties.get(ABI_PROPERTY, "")
    machine = _MACHINES.get(abi, abi)
    facts = {
        "machine": machine,
        "model": _joined(properties, "ro.product.manufacturer", "ro.product.model"),
        "soc": _joined(properties, "ro.soc.manufacturer", "ro.soc.model") or properties.get("ro.board.platform", ""),
        **_processor(parts.get("cpuinfo", "")),
        "cores": parts.get("cores", "").strip(),
        "os": f"Android {properties['ro.build.version.release']}" if "ro.build.version.release" in properties else "",
        "build": build_of(properties.get("ro.build.fingerprint", "")),
        "kernel": parts.get("kernel", "").strip(),
        "governor": parts.get("governor", "").strip(),
    }
    return DeviceIdentity(name, "adb", (machine,) if machine else (), {key: printable(value) for key, value in facts.items() if value})


def build_of(fingerprint: str) -> str:
    """The part of `ro.build.fingerprint` that says what software runs: `ID/INCREMENTAL:TYPE`.

    The whole is BRAND/PRODUCT/DEVICE:RELEASE/ID/INCREMENTAL:TYPE/TAGS (Android's Compatibility Definition, 3.2.2): brand and product differ
    between shops, and who signed it changes no speed.
    """
    found = re.fullmatch(r"[^:]*:[^/]*/([^/]+)/([^:]+):([^/]+)/.*", fingerprint)
    return f"{found[1]}/{found[2]}:{found[3]}" if found else fingerprint


def _joined(properties: dict[str, str], *names: str) -> str:
    return " ".join(properties[name] for name in names if properties.get(name))


def _processor(cpuinfo: str) -> dict[str, str]:
    pairs = [(key.strip().lower(), value.strip()) for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())]
    # Kinds of core differ in one phone: all of them count.
    makers, parts = sorted({value for key, value in pairs if key == "cpu implementer"}), sorted({value for key, value in pairs if key == "cpu part"})
    flags = {word for key, value in pairs if key == "features" for word in value.split()}
    names = [value for key, value in pairs if key == "model name"]
    cpu = f"arm implementer {' '.join(makers)} part {' '.join(parts)}" if makers and parts else names[0] if names else ""
    return {"cpu": cpu, "cpu_features": " ".join(name for name in _FEATURES if name in flags)}
