"""A device: what it is, how it is reached, and who does jobs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from kdedge.devices.transport import Transport
from kdedge.errors import DeviceError
from kdedge.measured import DeviceIdentity
from kdedge.runtimes.job import Job, Result


@dataclass(frozen=True)
class DeviceSettings:
    """What the user says of a device, in its name (`ssh:orin.local`) or in `devices.yaml`.

    `address`: what stands behind the colon. `python`: full path of the interpreter there, "" for the transport's usual one. `root`: the folder
    there in which kdedge keeps files, jobs and its lease. `profile`: its entry in the catalog, "" to be found by its facts. `set`: what is set for
    the time of a measurement (power mode, clocks, governor) and undone after it. `runners`: native programs to push, by name. `environment`: more
    variables for the worker.
    """

    address: str = ""
    python: str = ""
    root: str = ""
    profile: str = ""
    set: Mapping[str, Any] = field(default_factory=dict)
    runners: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def refuse_others(name: str, settings: DeviceSettings, taken: Sequence[str], why: str) -> None:
    """Refuse settings that a kind of device does not follow: passed over, they would be taken for done. `why`: what to do instead.

    Raises:
        DeviceError: one is set that is not among `taken`.
    """
    asked = [each.name for each in fields(settings) if each.name not in ("address", "profile", *taken) and getattr(settings, each.name)]
    if asked:
        raise DeviceError(f"device `{name}`: {' and '.join(f'`{key}`' for key in asked)} cannot be set for it: {why}")


class Runner(Protocol):
    """Does jobs on a device."""

    def run(self, job: Job, folder: Path, timeout: float, name: str) -> Result:
        """Do one job and leave its outputs, samples and `worker.log` in `folder`, which is empty and on this machine.

        `timeout` in seconds for the job itself. `name` says which piece of a measurement it is ("launch-03"): a job of the same content and name that
        the device has finished already, for a host that was lost, is fetched instead of done again. Paths in the result are relative to `folder`.
        What goes wrong in the job is a result with `status="failed"`.

        Raises:
            DeviceError: the device cannot be reached (`Disconnected`, `DeviceGone`, `DeviceUnresponsive`), or another host has it (`DeviceTaken`).
        """


@dataclass(frozen=True)
class Device:
    """An opened device. `python`: the interpreter that runs the worker there, by full path. `runner`: who does jobs there; None: a child process of
    this one, in the job's own folder."""

    identity: DeviceIdentity
    transport: Transport
    python: str
    runner: Runner | None = None
