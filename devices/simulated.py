"""`simulated:SCENARIO`: a device whose answers are right and whose times are made up, for everything that must be seen to work without hardware.

`validate` jobs are done for real, as on `local`. `launch` jobs, but for sustained ones, get times drawn from a scenario (`simulation.py`) on a
virtual clock that starts when the device is opened. Its identity is of kind and machine `simulated`, which no target is for: its latency is a
proxy's and never counts.

Settings (`set` in `devices.yaml`): `seed`; `milliseconds`, what an iteration takes on the undisturbed device: one number for every model, or a
mapping of sha256 (or its beginning) to number; any field of `Scenario`. Without `milliseconds` the model is run here, and the fastest iteration
is taken, so that the slower of two models is slower there as well.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdedge.devices.device import Device, DeviceSettings, refuse_others
from kdedge.devices.fingerprint import identify
from kdedge.devices.jobs import run_job
from kdedge.devices.local import LocalTransport
from kdedge.devices.simulation import DrawnLaunch, Scenario, draw_launch, scenario_of
from kdedge.devices.transport import Transport
from kdedge.errors import DeviceError, Disconnected
from kdedge.runtimes.job import Job, LaunchRule, Result

KIND = "simulated"

# Enough to see the fastest iteration of this machine, again in a second process.
_REAL_RULE = LaunchRule(warmup_seconds=0.1, warmup_iterations=3, min_seconds=0.3, min_iterations=20, max_seconds=5.0)
_REAL_LAUNCHES = 2


def open_device(name: str, settings: DeviceSettings, transport: Transport | None = None) -> Device:
    """A simulated device by its scenario's name. `transport`: how this machine is reached, for tests of faults.

    Raises:
        DeviceError: there is no such scenario, or a setting means nothing.
    """
    refuse_others(name, settings, ("python", "set"), "it is imagined")
    given = dict(settings.set)
    seed, milliseconds = given.pop("seed", 0), given.pop("milliseconds", None)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise DeviceError(f"device `{name}`: the seed is a whole number, not {seed!r}")
    scenario = scenario_of(settings.address, **given)
    local = identify(name, kind=KIND)
    marked = {**local.fingerprint, "simulated": json.dumps({"seed": seed, **asdict(scenario)}, sort_keys=True)}
    identity = replace(local, machines=(KIND,), fingerprint=marked)
    here = Device(identity, transport or LocalTransport(), settings.python or sys.executable)
    return replace(here, runner=SimulatedRunner(here, scenario, seed, _checked(name, milliseconds)))


class SimulatedRunner:
    """Does `validate` jobs as a child process here and invents what `launch` jobs take. `clock_seconds`: how far the virtual clock is."""

    def __init__(self, here: Device, scenario: Scenario, seed: int, milliseconds: float | Mapping[str, float] | None) -> None:
        self._here = here
        self._scenario = scenario
        self._seed = seed
        self._milliseconds = milliseconds
        self._real: dict[str, Result] = {}
        self._launches = 0
        self.clock_seconds = 0.0

    def run(self, job: Job, folder: Path, timeout: float, name: str) -> Result:
        """Do a job, as `kdedge.devices.device.Runner` says. The same jobs in the same order get the same times.

        Raises:
            Disconnected: the scenario says so.
            DeviceError: a file of the job cannot be read.
        """
        if job.kind == "validate":
            return run_job(self._here, job, folder, timeout, name)
        if job.kind != "launch" or job.sustained is not None:
            what = "a sustained launch" if job.kind == "launch" else f"a job of the kind `{job.kind}`"
            return Result("not-run", f"{what} cannot be simulated: a scenario makes up the times of bursts, no energy and no heat", job.runtime)
        described = self._undisturbed(job, folder, timeout)
        if described.status != "ok":
            return described
        base_ms = float(described.facts["simulated_base_ms"])
        drawn = draw_launch(self._scenario, (self._seed, self._launches), self.clock_seconds, base_ms, job.launch)
        self._launches += 1
        self.clock_seconds += min(drawn.seconds, timeout)
        if drawn.fate == "disconnected":
            raise Disconnected(f"device `{self._here.identity.name}`: the connection broke in launch {self._launches}, as its scenario says")
        if drawn.fate == "failed":
            return replace(described, status="failed", reason=f"signal 9 (SIGKILL), as the scenario `{self._scenario.name}` says")
        if drawn.seconds > timeout:
            return replace(described, status="failed", reason=f"stopped after {timeout:g} s, the limit of this job")
        return self._written(described, drawn, job, folder)

    def _written(self, described: Result, drawn: DrawnLaunch, job: Job, folder: Path) -> Result:
        np.save(folder / "warmup_ns.npy", drawn.warmup_ns)
        np.save(folder / "samples_ns.npy", drawn.samples_ns)
        simulated = {"scenario": self._scenario.name, "seed": self._seed, "launch": self._launches, "clock_seconds": self.clock_seconds}
        return replace(
            described,
            load_ms=drawn.load_ms,
            first_inference_ms=drawn.first_ms,
            iterations=drawn.samples_ns.size,
            examples=job.batch,
            loop_seconds=float(drawn.samples_ns.sum()) / 1e9,
            evidence={**drawn.evidence, "simulated": simulated},
        )

    def _undisturbed(self, job: Job, folder: Path, timeout: float) -> Result:
        """A result whose fact `simulated_base_ms` says what an iteration takes: given, or measured here once for each model and way to run it."""
        here = _absolute(job, folder)
        digest = _digest(here)
        given = _given(self._milliseconds, digest)
        if given is not None:
            return Result("ok", runtime=job.runtime, facts={"simulated_base_ms": given})
        key = json.dumps([digest, job.runtime, job.options, job.batch], sort_keys=True, default=str)
        if key not in self._real:
            self._real[key] = self._measured(here, folder, timeout)
        return self._real[key]

    def _measured(self, job: Job, folder: Path, timeout: float) -> Result:
        fastest = []
        for _ in range(_REAL_LAUNCHES):
            work = folder / "undisturbed"
            try:
                result = run_job(self._here, replace(job, launch=_REAL_RULE), work, timeout)
                if result.status != "ok":
                    return result
                fastest.append(float(np.load(work / "samples_ns.npy", allow_pickle=False).min()) / 1e6)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return replace(result, facts={"simulated_base_ms": min(fastest)})


def _checked(name: str, milliseconds: Any) -> float | dict[str, float] | None:
    given = milliseconds if isinstance(milliseconds, Mapping) else {} if milliseconds is None else {"": milliseconds}
    for value in given.values():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise DeviceError(f"device `{name}`: `milliseconds` is a positive number, or a mapping of sha256 to such; got {value!r}")
    if milliseconds is None:
        return None
    return {str(key): float(value) for key, value in given.items()} if isinstance(milliseconds, Mapping) else float(milliseconds)


def _given(milliseconds: float | Mapping[str, float] | None, digest: str) -> float | None:
    if milliseconds is None or isinstance(milliseconds, float):
        return milliseconds
    return next((value for beginning, value in milliseconds.items() if beginning and digest.startswith(beginning.lower())), None)


def _digest(job: Job) -> str:
    """The sha256 of the job's files; of a single file it is that file's own."""
    digests = []
    for path in [path for paths in job.graphs.values() for path in paths]:
        try:
            with Path(path).open("rb") as handle:
                digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
        except OSError as error:
            raise DeviceError(f"the job's file {path} cannot be read: {error.strerror or error}") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _absolute(job: Job, folder: Path) -> Job:
    """The same job for another folder: its paths are relative to its own."""
    return replace(
        job,
        graphs={name: [str(folder / path) for path in paths] for name, paths in job.graphs.items()},
        buckets=[{name: str(folder / path) for name, path in bucket.items()} for bucket in job.buckets],
    )
