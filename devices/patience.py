"""How long a device is waited for, and trying again while its connection is broken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kdedge import progress
from kdedge.errors import DeviceError, DeviceGone, DeviceTaken, Disconnected

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long things are waited for, in seconds.

    `wait`, `longest_wait`: between two attempts to reach a device whose connection broke; `outage`: how long one outage may take. `poll`,
    `longest_poll`: between two looks at a job. `start`: until a job must have started; `slack`: beyond its limit, until it must have ended.
    `restarts`: how often a job is begun anew whose supervisor died (the device restarted, or something killed it).
    """

    wait: float = 0.2
    longest_wait: float = 10.0
    outage: float = 180.0
    poll: float = 0.03
    longest_poll: float = 1.0
    start: float = 60.0
    slack: float = 60.0
    restarts: int = 2


def patiently(operation: Callable[[], T], patience: Patience) -> T:
    """Do something that may be done twice, again and again while the connection is broken; who watches progress sees that it is tried again.

    Raises:
        Disconnected: the outage is longer than `patience.outage`.
        DeviceError: whatever else went wrong, at once.
    """
    wait, begin = patience.wait, time.monotonic()
    while True:
        try:
            done = operation()
            progress.device_is(progress.WORKING)
            return done
        except Disconnected as error:
            spent = time.monotonic() - begin
            if spent + wait > patience.outage:
                raise Disconnected(f"{error} (tried for {spent:.0f} s)") from error
        progress.device_is(progress.RETRYING)
        time.sleep(wait)
        wait = min(wait * 2, patience.longest_wait)


def state_of(loss: DeviceError) -> str:
    """How a device is after an error of `kdedge.errors.LOST`, as progress names it."""
    states = {Disconnected: progress.LOST, DeviceGone: progress.GONE, DeviceTaken: progress.TAKEN}
    return next((state for kind, state in states.items() if isinstance(loss, kind)), progress.SILENT)
