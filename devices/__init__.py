"""Where a worker runs: transports, and what a device is."""

from __future__ import annotations

import importlib

from kdedge.devices.device import Device
from kdedge.errors import DeviceError

# Name or scheme of a device -> the module whose `open_device(name)` opens it.
DEVICES = {"local": "kdedge.devices.local"}


def open_device(name: str) -> Device:
    """Open a device by its name.

    Raises:
        DeviceError: there is no device of that name, or it cannot be reached.
    """
    if name not in DEVICES:
        raise DeviceError(f"there is no device `{name}` (there is: {', '.join(sorted(DEVICES))})")
    opened: Device = importlib.import_module(DEVICES[name]).open_device(name)
    return opened
