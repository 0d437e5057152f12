"""A device: a transport, what it is, and the sensors that it has."""

from __future__ import annotations

from dataclasses import dataclass

from kdedge.devices.transport import Transport
from kdedge.measured import DeviceIdentity


@dataclass(frozen=True)
class Device:
    """An opened device. `python`: the interpreter that runs the worker there, by full path."""

    identity: DeviceIdentity
    transport: Transport
    python: str
