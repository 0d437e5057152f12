"""Where a worker runs: transports, and what a device is."""

from __future__ import annotations

from kdedge.devices.device import Device
from kdedge.errors import DeviceError

# Name or scheme of a device -> the module whose `open_device(name)` opens it.
_KINDS = {"local": "kdedge.devices.local"}


def open_device(name: str) -> Device:
    """Open a device by its name.

    Raises:
        DeviceError: there is no device of that name, or it cannot be reached.
    """
    if name not in _KINDS:
        raise DeviceError(f"there is no device `{name}` (there is: {', '.join(sorted(_KINDS))})")
    import importlib

    opened: Device = importlib.import_module(_KINDS[name]).open_device(name)
    return opened
