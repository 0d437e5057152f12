"""Where a worker runs: transports, and what a device is."""

from __future__ import annotations

import importlib

from kdedge.devices.device import Device, DeviceSettings
from kdedge.errors import DeviceError

# Scheme of a device's name (what stands before its colon) -> the module whose `open_device(name, settings)` opens it.
DEVICES = {
    "local": "kdedge.devices.local",
}


def scheme_of(name: str) -> str:
    """The row of `DEVICES` that a device belongs to.

    Raises:
        DeviceError: there is no device of that name.
    """
    scheme = name.partition(":")[0]
    if scheme not in DEVICES:
        raise DeviceError(f"there is no device `{name}` (there is: {', '.join(sorted(DEVICES))})")
    return scheme


def open_device(name: str) -> Device:
    """Open a device by its name.

    Raises:
        DeviceError: there is no device of that name, or it cannot be reached.
    """
    scheme = scheme_of(name)
    opened: Device = importlib.import_module(DEVICES[scheme]).open_device(name, DeviceSettings(address=name.partition(":")[2]))
    return opened
