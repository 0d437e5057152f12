"""Where a worker runs: transports, and what a device is."""

from __future__ import annotations

import contextlib
import importlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.inventory import nearest, read_inventory
from kdedge.errors import DeviceError
from kdedge.measured import DeviceIdentity

if TYPE_CHECKING:
    from kdedge.devices.catalog import Profile

# Scheme of a device's name (what stands before its colon) -> the module whose `open_device(name, settings)` opens it.
DEVICES = {
    "local": "kdedge.devices.local",
    "ssh": "kdedge.devices.ssh",
    "adb": "kdedge.devices.adb",
    "browser": "kdedge.devices.browser",
    "emulated": "kdedge.devices.emulated",
    "simulated": "kdedge.devices.simulated",
}

# Devices that do jobs by a runner of their own, by name: to connect and to ask what they are takes long, and a measurement has many jobs.
_opened: dict[str, Device] = {}
_opening: dict[str, threading.Lock] = {}


def own_devices() -> list[str]:
    """Names that can be opened as they stand: this machine, and those in the user's `devices.yaml`.

    Raises:
        DeviceError: that file is wrong.
    """
    return ["local", *read_inventory(DEVICES)]


def scheme_of(name: str) -> str:
    """The row of `DEVICES` that a device belongs to.

    Raises:
        DeviceError: there is no device of that name.
    """
    return _found(name)[0]


def profile_of(device: DeviceIdentity) -> Profile | None:
    """The entry in the catalog: the one that the user named for the device, else the one that its facts belong to; None where there is none.

    Raises:
        DeviceError: there is no device of that name, or no entry of the name that the user gave.
    """
    from kdedge.devices.catalog import detect, find_profile

    named = _found(device.name)[1].profile
    return find_profile(named) if named else detect(device.fingerprint)


def open_device(name: str) -> Device:
    """Open a device by its name: `local`, a scheme and an address (`ssh:orin.local`), or a name in the user's `devices.yaml`.

    A device that has a runner of its own is opened once per process.

    Raises:
        DeviceError: there is no device of that name, or it cannot be reached.
    """
    scheme, settings = _found(name)
    if settings.profile:
        from kdedge.devices.catalog import find_profile

        find_profile(settings.profile)  # before hours of measuring
    with _opening.setdefault(name, threading.Lock()):
        if name in _opened:
            return _opened[name]
        device: Device = importlib.import_module(DEVICES[scheme]).open_device(name, settings)
        if device.runner is not None:
            _opened[name] = device
        return device


def close_devices() -> None:
    """Let go of all devices that this process has opened: leases are given back, connections end."""
    with contextlib.ExitStack() as closing:  # each of them, even where another cannot
        while _opened:
            _, device = _opened.popitem()
            closing.callback(getattr(device.runner, "close", device.transport.close))


def _found(name: str) -> tuple[str, DeviceSettings]:
    """Scheme and settings of a device."""
    scheme, _, address = name.partition(":")
    if scheme in DEVICES:
        return scheme, DeviceSettings(address=address)
    own = read_inventory(DEVICES)
    if name not in own:
        known = [*DEVICES, *own]
        raise DeviceError(f"there is no device `{name}`{nearest(name if name == scheme else scheme, known)} (there is: {', '.join(sorted(known))})")
    scheme, _, address = own[name].transport.partition(":")
    return scheme, replace(own[name].settings, address=address)
