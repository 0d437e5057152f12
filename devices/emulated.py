"""An arm64 board that is emulated on this machine (`emulated:cortex-a76`): the aarch64 builds of the runtimes on a CPU of one's choice, by qemu.

It answers whether an artifact is right there and in which precision its layers run there. How fast it runs says nothing about any device, so it is
no machine of any target: what is measured on it is a proxy, whose latency never counts.

CACHE/emulated/KEY                    the system (`sysroot.py`), set up by `kdedge devices emulate`
CACHE/emulated/boards/CPU-PROCESS-X   the board's folder, as on a real one; each process has its own: two runs need not wait for each other
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from kdedge.devices.board import open_board
from kdedge.devices.device import Device, DeviceSettings, refuse_others
from kdedge.devices.emulated_cpus import CPUS, cpu_named, qemu_version, view_of
from kdedge.devices.local import LocalTransport
from kdedge.devices.sysroot import cache_folder, find_qemu, find_sysroot
from kdedge.errors import DeviceError
from kdedge.measured import DeviceIdentity

KIND = "emulated"
# As in `Target.machines`: of no target.
MACHINE = "emulated-aarch64"
# Facts of the machine below, which the emulator lets through.
_OF_THE_HOST = ("kernel", "governor", "gpu", "gpu_driver", "l4t", "model", "compatible", "cpu_max_khz")


def open_device(name: str, settings: DeviceSettings) -> Device:
    """The emulated CPU that stands behind the colon. Nothing is downloaded.

    Raises:
        DeviceError: there is no such CPU, the emulator is not installed, or the system was not set up yet.
    """
    cpu = settings.address
    cpu_named(cpu)
    refuse_others(name, settings, ("root", "environment"), "it runs on this machine, with an interpreter of its own")
    qemu = find_qemu()
    system = find_sysroot(cache_folder())
    if system is None:
        raise DeviceError(
            f"device `{name}` is not set up for the numpy and the runtimes that are installed here: kdedge devices emulate --cpu {cpu} does it "
            "(it downloads 100 MB)"
        )
    python = str(view_of(system.folder, system.python, cpu, qemu) / "python")
    found = open_board(name, KIND, LocalTransport(), python, settings.root or _own_folder(cpu), settings)
    return replace(found, identity=identity_of(found.identity, cpu, qemu_version(qemu)))


def identity_of(probed: DeviceIdentity, cpu: str, emulator: str) -> DeviceIdentity:
    """What the emulated machine says of itself, without what is the host's, and with what it is emulated by."""
    facts = {fact: value for fact, value in probed.fingerprint.items() if fact not in _OF_THE_HOST}
    facts |= {"cpu": f"{cpu} (emulated)", "emulator": f"qemu {emulator}, -cpu {CPUS[cpu].model}"}
    return replace(probed, machines=(MACHINE,), fingerprint=facts)


def _own_folder(cpu: str) -> str:
    """This process's folder for a board, removed when it ends; those of processes that were killed are removed now."""
    boards = cache_folder() / "emulated" / "boards"
    try:
        boards.mkdir(parents=True, exist_ok=True)
        for folder in boards.iterdir():
            process = folder.name.split("-")[-2:][0]
            if process.isdigit() and not Path("/proc", process).exists():
                shutil.rmtree(folder, ignore_errors=True)
        own = tempfile.mkdtemp(prefix=f"{cpu}-{os.getpid()}-", dir=boards)  # what follows has no hyphen
    except OSError as error:
        raise DeviceError(f"a folder for the emulated board cannot be made in {boards}: {error.strerror or error}") from error
    # Registered before the board's own farewell, which needs the folder: the last comes first.
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own
