"""`worker.pyz probe`: what this machine is, as JSON. Facts that must be equal for two measurements to be comparable.

No host name, no serial number, no user: the facts go into reports.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import sys
from typing import Any, Dict, List

from . import ADAPTERS, adapter

SCHEMA = 1

_MACHINES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}
# Instruction sets that decide which kernels a runtime picks, and with that its speed and its results. First of x86, then of arm64.
_FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
_GPU_NODES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0", "/dev/dxg")


def probe() -> int:
    """Print the facts on standard output. Returns the exit code."""
    sys.stdout.write(json.dumps(facts(), sort_keys=True) + "\n")
    return 0


def facts(root: str = "/") -> Dict[str, Any]:
    """`machines`: the kinds that this machine is (x86_64, cuda). `fingerprint`: facts by name. `numpy`: whether it can be imported, without which
    no job can be done. `root`: where `proc`, `etc` and `dev` lie."""
    return {"schema": SCHEMA, "machines": machines(root), "fingerprint": fingerprint(root), "numpy": _has_numpy()}


def machines(root: str = "/") -> List[str]:
    """The kinds that this machine is, as a target names them."""
    found = [_machine()]
    if any(os.path.exists(os.path.join(root, node.lstrip("/"))) for node in _GPU_NODES):
        found.append("cuda")
    return found


def fingerprint(root: str = "/") -> Dict[str, str]:
    """Facts by name; a fact that cannot be read is absent."""

    def text(path: str) -> str:
        return _text(os.path.join(root, path))

    cpu = _cpu_facts(text("proc/cpuinfo"))
    found = {
        "machine": _machine(),
        "model": text("proc/device-tree/model").strip("\0\n "),
        "compatible": text("proc/device-tree/compatible").replace("\0", " ").strip(),
        "cpu": cpu.get("model", ""),
        "cpu_features": cpu.get("features", ""),
        "cpu_id": cpu.get("id", ""),
        "cpu_max_khz": _fastest(root),
        "cores": str(_cores()),
        "os": _os_name(text("etc/os-release")),
        "kernel": "%s %s" % (platform.system(), platform.release()),
        "libc": " ".join(platform.libc_ver()).strip(),
        "l4t": text("etc/nv_tegra_release").partition("\n")[0].strip("# "),
        "gpu": ", ".join(_gpu_names(root)),
        "gpu_driver": text("proc/driver/nvidia/version").partition("\n")[0].strip(),
        "governor": text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        "python": platform.python_version(),
    }
    if _has_numpy():
        found.update({runtime: adapter(runtime).version() for runtime in sorted(ADAPTERS)})
    return {name: value for name, value in found.items() if value}


def _has_numpy() -> bool:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True


def _machine() -> str:
    machine = platform.machine().lower()
    return _MACHINES.get(machine, machine)


def _cores() -> int:
    # What this process may use: a container often has fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_facts(text: str) -> Dict[str, str]:
    """Model and instruction sets from /proc/cpuinfo; arm64 gives numbers where x86 gives a name."""
    lines = [line.partition(":") for line in text.splitlines() if ":" in line]
    pairs = [(key.strip().lower(), value.strip()) for key, _, value in lines]
    first: Dict[str, str] = {}
    for key, value in pairs:
        first.setdefault(key, value)
    # A big.LITTLE board has several kinds of core: all of them count.
    parts = sorted({value for key, value in pairs if key == "cpu part"})
    arm = "arm implementer %s part %s" % (first["cpu implementer"], " ".join(parts)) if "cpu implementer" in first and parts else ""
    flags = set(first.get("flags", first.get("features", "")).split())
    numbers = [first.get(key, "") for key in ("vendor_id", "cpu family", "model")]
    return {
        "id": " ".join(numbers) if all(numbers) else "",
        "model": first.get("model name", arm),
        "features": " ".join(name for name in _FEATURES if name in flags),
    }


def _fastest(root: str) -> str:
    """The highest clock that a core may have, in kHz; "" where the kernel does not say."""
    pattern = os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq")
    found = [_text(path).strip() for path in glob.glob(pattern)]
    return str(max((int(text) for text in found if text.isdigit()), default="")) if found else ""


def _os_name(release: str) -> str:
    for line in release.splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip('"')
    return platform.system()


def _gpu_names(root: str) -> List[str]:
    names = []
    for path in sorted(glob.glob(os.path.join(glob.escape(root), "proc/driver/nvidia/gpus/*/information"))):
        names += [line.partition(":")[2].strip() for line in _text(path).splitlines() if line.startswith("Model:")]
    return names


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""
