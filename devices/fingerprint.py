"""What a machine is, as facts that must be equal for two measurements to be comparable. No host name, no serial number, no user."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from kdedge.measured import DeviceIdentity
from kdedge.runtimes import ADAPTERS, adapter

_MACHINES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}
# Instruction sets that decide which kernels a runtime picks, and with that its speed and its results. First of x86, then of arm64.
_FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
_GPU_NODES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0", "/dev/dxg")


def identify(name: str, kind: str, root: Path = Path("/")) -> DeviceIdentity:
    """Describe the machine that this process runs on. `root`: where `proc`, `etc` and `dev` lie (a test's own)."""
    machines = [_machine()]
    if any((root / node.lstrip("/")).exists() for node in _GPU_NODES):
        machines.append("cuda")
    return DeviceIdentity(name=name, kind=kind, machines=tuple(machines), fingerprint=fingerprint(root))


def fingerprint(root: Path = Path("/")) -> dict[str, str]:
    """Facts by name; a fact that cannot be read is absent."""
    cpu = _cpu_facts(_text(root / "proc/cpuinfo"))
    facts = {
        "machine": _machine(),
        "model": _text(root / "proc/device-tree/model").strip("\0\n "),
        "cpu": cpu.get("model", ""),
        "cpu_features": cpu.get("features", ""),
        "cores": str(_cores()),
        "os": _os_name(_text(root / "etc/os-release")),
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "l4t": _text(root / "etc/nv_tegra_release").partition("\n")[0].strip("# "),
        "gpu": ", ".join(_gpu_names(root)),
        "gpu_driver": _text(root / "proc/driver/nvidia/version").partition("\n")[0].strip(),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        "python": platform.python_version(),
    }
    facts |= {runtime: adapter(runtime).version() for runtime in sorted(ADAPTERS)}
    return {name: value for name, value in facts.items() if value}


def _machine() -> str:
    machine = platform.machine().lower()
    return _MACHINES.get(machine, machine)


def _cores() -> int:
    # What this process may use: a container often has fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_facts(text: str) -> dict[str, str]:
    """Model and instruction sets from /proc/cpuinfo; arm64 gives numbers where x86 gives a name."""
    lines = [line.partition(":") for line in text.splitlines() if ":" in line]
    pairs = [(key.strip().lower(), value.strip()) for key, _, value in lines]
    first: dict[str, str] = {}
    for key, value in pairs:
        first.setdefault(key, value)
    # A big.LITTLE board has several kinds of core: all of them count.
    parts = sorted({value for key, value in pairs if key == "cpu part"})
    arm = f"arm implementer {first['cpu implementer']} part {' '.join(parts)}" if "cpu implementer" in first and parts else ""
    flags = set(first.get("flags", first.get("features", "")).split())
    return {"model": first.get("model name", arm), "features": " ".join(name for name in _FEATURES if name in flags)}


def _os_name(release: str) -> str:
    for line in release.splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip('"')
    return platform.system()


def _gpu_names(root: Path) -> list[str]:
    names = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        names += [line.partition(":")[2].strip() for line in _text(path).splitlines() if line.startswith("Model:")]
    return names


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
