"""Several devices at once: names by pattern, opened side by side, one worker thread a machine, results in the order of the devices."""

from __future__ import annotations

import ctypes
import fnmatch
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import replace
from typing import TypeVar

from kdedge import progress
from kdedge.devices import open_device, own_devices, scheme_of
from kdedge.devices.patience import Patience, patiently, state_of
from kdedge.errors import LOST, DeviceError
from kdedge.measured import DeviceIdentity

T = TypeVar("T")

# Kinds of device whose work is done by this machine's own cores: side by side they would disturb each other's times.
_HERE = frozenset({"local", "emulated", "simulated"})
ALL = "all"
# For a device that is not there at once: as in the middle of a run.
_PATIENCE = Patience()
# After Ctrl-C; a thread that waits inside a C function hears of it afterwards, and ends with the process at the latest.
_INTERRUPT_SECONDS = 15.0
_LOOK_SECONDS = 0.5


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


def open_devices(wanted: Sequence[str]) -> list[DeviceIdentity]:
    """What the devices of these names are, opened side by side. One of several that cannot be reached ends no run: its identity says how it is
    `away`, and the others are measured.

    Each is asked once, so that what only the user can mend is told at once; then those whose connection cannot be made are waited for.

    Raises:
        DeviceError: a pattern matches nothing, there is no device of a name, what is set for one is wrong, or none of the devices is there.
    """
    names = named_devices(wanted)
    if len(names) < 2:
        return [open_device(name).identity for name in names]
    asked = _in_lanes([DeviceIdentity(name, scheme_of(name), (), {}) for name in names], _asked_once)
    found = _in_lanes(asked, _waited_for)
    away = [device for device in found if device.away]
    if len(away) == len(found):
        raise DeviceError(f"none of the {len(found)} devices can be reached: {'; '.join(device.reason for device in away)}")
    for device in away:
        progress.message(f"{device.name}: {device.reason}; the others go on without it")
    return found


def _asked_once(device: DeviceIdentity) -> DeviceIdentity:
    try:
        return open_device(device.name).identity
    except LOST as error:
        return _away(device, error)


def _waited_for(device: DeviceIdentity) -> DeviceIdentity:
    if device.away != progress.LOST:
        return device
    progress.message(f"{device.name}: {device.reason}; it is tried again for {_PATIENCE.outage:g} s")
    try:
        return patiently(lambda: open_device(device.name).identity, _PATIENCE)
    except LOST as error:
        return _away(device, error)


def _away(device: DeviceIdentity, error: DeviceError) -> DeviceIdentity:
    how = state_of(error)
    return replace(device, away=how, reason=f"not reached when the run began ({how}): {error}")


def abreast(devices: Sequence[DeviceIdentity], work: Callable[[DeviceIdentity], T], cells: int = 1) -> list[T]:
    """`work` for each device, side by side where they are machines of their own; the results in the order of `devices`.

    Who listens to progress is told of several as a table; `cells` is how often `work` calls `progress.cell_done`. An exception of one lets the others
    finish what they have begun with, and is raised then: what they made is in the workspace. Ctrl-C ends all of them at once, each as it would
    end alone.
    """
    if len(devices) < 2:
        return [work(device) for device in devices]
    table = progress.DeviceTable([device.name for device in devices], cells)
    try:
        return _in_lanes(devices, lambda device: _told(table, device, work))
    finally:
        table.close()


def _told(table: progress.DeviceTable, device: DeviceIdentity, work: Callable[[DeviceIdentity], T]) -> T:
    """`work` for a device, with its row in the table."""
    with progress.on_device(table, device.name):
        progress.device_is(device.away or progress.WORKING)
        try:
            result = work(device)
        except BaseException:
            progress.device_is(progress.STOPPED)
            raise
        if table.row(device.name).state in (progress.WORKING, progress.RETRYING):
            progress.device_is(progress.DONE)
        return result


def _in_lanes(devices: Sequence[DeviceIdentity], work: Callable[[DeviceIdentity], T]) -> list[T]:
    lanes: dict[str, list[int]] = {}
    for place, device in enumerate(devices):
        lanes.setdefault("here" if device.kind in _HERE else device.name, []).append(place)
    if len(lanes) < 2:
        return [work(device) for device in devices]
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    stopped = threading.Event()

    def run(places: Sequence[int], ended: threading.Event) -> None:
        try:
            for place in places:
                if not stopped.is_set():
                    results[place] = work(devices[place])
        except BaseException as error:
            errors.append(error)
            stopped.set()
        finally:
            ended.set()

    # Not by `join`: in Python 3.11 a thread whose `join` was interrupted counts as ended.
    running: dict[threading.Thread, threading.Event] = {}
    for name, places in lanes.items():
        ended = threading.Event()
        # Each with who listens to progress here.
        running[threading.Thread(target=copy_context().run, args=(run, places, ended), name=f"device-{name}", daemon=True)] = ended
    try:
        for thread in running:
            thread.start()
        for ended in running.values():
            while not ended.wait(_LOOK_SECONDS):  # a wait without an end may not hear of Ctrl-C
                pass
    except BaseException as interrupt:
        stopped.set()
        _interrupt(running, type(interrupt))
        raise
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(devices))]


def _interrupt(running: Mapping[threading.Thread, threading.Event], kind: type[BaseException]) -> None:
    """Python tells the main thread alone of Ctrl-C: raise the same in the others, so that workers are killed and nothing half done is left."""
    told = []
    for thread, ended in running.items():
        if not ended.is_set() and thread.ident is not None:  # without an identity it has not begun, and will find that it need not
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(kind))
            told.append(ended)
    deadline = time.monotonic() + _INTERRUPT_SECONDS
    for ended in told:
        ended.wait(max(0.0, deadline - time.monotonic()))
