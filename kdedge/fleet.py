"""Several devices at once: one worker thread a machine, results in the order of the devices, names by pattern."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from kdedge.devices import own_devices
from kdedge.errors import DeviceError
from kdedge.measured import DeviceIdentity

T = TypeVar("T")

# Kinds of device whose work is done by this machine's own cores: side by side they would disturb each other's times.
_HERE = frozenset({"local", "emulated", "simulated"})
ALL = "all"


def named_devices(wanted: Sequence[str]) -> list[str]:
    """Device names, each once. `all` is this machine and what stands in the user's `devices.yaml`; a pattern (`jetson-*`) is what it matches of them.

    Raises:
        DeviceError: a pattern matches nothing.
    """
    found: list[str] = []
    for name in wanted:
        if name == ALL:
            found += own_devices()
        elif any(sign in name for sign in "*?["):
            matched = fnmatch.filter(own_devices(), name)
            if not matched:
                raise DeviceError(f"no device matches `{name}` (there is: {', '.join(own_devices())})")
            found += matched
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def abreast(devices: Sequence[DeviceIdentity], work: Callable[[DeviceIdentity], T]) -> list[T]:
    """`work` for each device, side by side where they are machines of their own; the results in the order of `devices`.

    An exception of one lets the others finish what they have begun with, and is raised then: what they made is in the workspace.
    """
    lanes: dict[str, list[int]] = {}
    for place, device in enumerate(devices):
        lanes.setdefault("here" if device.kind in _HERE else device.name, []).append(place)
    if len(lanes) < 2:
        return [work(device) for device in devices]
    results: dict[int, T] = {}
    stopped = threading.Event()

    def run(places: Sequence[int]) -> None:
        for place in places:
            if stopped.is_set():
                return
            try:
                results[place] = work(devices[place])
            except BaseException:
                stopped.set()
                raise

    with ThreadPoolExecutor(max_workers=len(lanes), thread_name_prefix="device") as pool:
        # Each thread with who listens to progress here.
        futures = [pool.submit(copy_context().run, run, places) for places in lanes.values()]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stopped.set()
            raise
    return [results[place] for place in range(len(devices))]
