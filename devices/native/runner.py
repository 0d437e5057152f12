"""Jobs on a device without Python, by programs that the user supplies: sent once, pinned to the strongest cores, run, read.

ROOT/native/HASH    a program with its libraries, or a model with its inputs, by the hash of all of it; sent once
ROOT/runs/ID        where a program stands while it runs; removed with its end

What was not used for two weeks is removed before a job, and so is what the runs of hosts that died left.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from kdedge.devices import sensors
from kdedge.devices.fingerprint import digest
from kdedge.devices.jobs import LOG_FILE
from kdedge.devices.lease import SECONDS as LEASE_SECONDS
from kdedge.devices.lease import Lease
from kdedge.devices.native import PROGRAMS
from kdedge.devices.native.bench import Bench
from kdedge.devices.setters import settings_on
from kdedge.devices.transport import Transport
from kdedge.errors import DeviceError
from kdedge.runtimes import evidence
from kdedge.runtimes.android import capacities, clusters
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.job import Job, Result

_ANSWER_SECONDS = 20.0
_DEFAULT_SHARE = 0.5
_KEPT_DAYS = 14


@dataclass(frozen=True)
class NativeRunner:
    """`name`: the device's. `programs`: name -> the program here, a file, or a folder with the program of that name and its libraries beside it.
    `wanted`: what is set for the time of a job (`setters.py`)."""

    name: str
    transport: Transport
    root: str
    programs: Mapping[str, Path]
    environment: Mapping[str, str]
    wanted: Mapping[str, Any] = field(default_factory=dict)

    def run(self, job: Job, folder: Path, timeout: float, name: str) -> Result:
        """Do one job by the first supplied program that takes it; its samples, outputs and log lie in `folder` then.

        `not-run` where no program takes it, `failed` for what goes wrong in the program.

        Raises:
            DeviceError: the device is lost, taken by another host, or a file cannot be placed there.
        """
        try:
            chosen = self._choose(job)
            # Nobody renews it while a program runs, so that it holds for all of the job.
            lease = Lease(self.transport, self.root, self.name, math.ceil(timeout) + LEASE_SECONDS)
            lease.take(uuid.uuid4().hex)
            try:
                # It undoes what a host that died left set as well.
                with settings_on(self.transport, self.root, self.wanted):
                    return replace(self._run(chosen, job, folder, timeout), runtime=job.runtime)
            finally:
                with contextlib.suppress(DeviceError):  # of a lost device it ends by itself
                    lease.give_back()
        except NotAvailable as error:
            return Result("not-run", str(error), runtime=job.runtime, facts={"launcher": "shell"})
        except RuntimeFailure as error:
            return Result("failed", str(error), runtime=job.runtime, facts={"launcher": "shell"})

    def _run(self, chosen: str, job: Job, folder: Path, timeout: float) -> Result:
        module = PROGRAMS[chosen]
        with tempfile.TemporaryDirectory(prefix="kdedge-native-") as temporary:
            content = Path(temporary) / "content"
            content.mkdir()
            module.stage(job, folder, content)
            there = self._place(content)
        source = self.programs[chosen]
        home = self._place(source)
        path = f"{home}/{chosen if source.is_dir() else source.name}"
        work = f"{self.root}/runs/{uuid.uuid4().hex}"
        reach = sensors.gathered(self.transport)
        mask, cores = mask_of(capacities(reach), job.options.get("threads"))
        if not self._ready(path, there, work):
            mask, cores = "", []
        variables = {"LD_LIBRARY_PATH": home, "ORT_DISABLE_TELEMETRY": "1", **self.environment}
        bench = Bench(self.transport, path, there, work, mask, variables, time.monotonic() + timeout, timeout)
        facts = {"launcher": "shell", "program": chosen, "program_sha256": digest(source), "cores": cores or None}
        try:
            before = evidence.machine(reach)
            result: Result = getattr(module, job.kind)(job, folder, bench)
            seen = {"before": before, "after": sensors.snapshot(self.transport), "machine": evidence.machine_facts(reach)}
        finally:
            (folder / LOG_FILE).write_text("\n".join(bench.log), encoding="utf-8")
            with contextlib.suppress(DeviceError):  # a lost device: what is left there is small, and the loss is what counts
                self.transport.run(["rm", "-rf", work], _ANSWER_SECONDS)
        return replace(result, facts={**facts, **result.facts}, evidence=seen)

    def _choose(self, job: Job) -> str:
        if len(job.graphs) != 1:
            raise RuntimeFailure(f"the job has {len(job.graphs)} graphs ({', '.join(job.graphs)}); a native program runs one")
        unknown = sorted(set(self.programs) - set(PROGRAMS))
        if unknown:
            raise RuntimeFailure(f"there is no native program `{unknown[0]}` (allowed under `runners`: {', '.join(PROGRAMS)})")
        takers = [name for name in PROGRAMS if job.runtime == PROGRAMS[name].RUNTIME]
        if not takers:
            raise NotAvailable(f"no native program runs {job.runtime} on a device without Python (those that kdedge knows run: {_runtimes()})")
        fitting = [name for name in takers if hasattr(PROGRAMS[name], job.kind)]
        if not fitting or job.sustained is not None:
            kind = "sustained launch" if job.sustained is not None else f"job of the kind `{job.kind}`"
            raise NotAvailable(f"a {kind} needs a Python on the device: no native program for {job.runtime} does it")
        supplied = [name for name in fitting if name in self.programs]
        if supplied:
            missing = self.programs[supplied[0]]
            if not (missing / supplied[0] if missing.is_dir() else missing).is_file():
                raise NotAvailable(f"the native program {supplied[0]} is not at {missing}")
            return supplied[0]
        others = [name for name in takers if name in self.programs]
        if others:
            raise NotAvailable(
                f"{' and '.join(others)} can do no {job.kind} job of {job.runtime}; supply {' or '.join(fitting)} for it under `runners`"
            )
        raise NotAvailable(f"a {job.kind} job of {job.runtime} without Python on the device needs {' or '.join(fitting)}: name it under `runners`")

    def _place(self, local: Path) -> str:
        """Send a file or folder to where its content has its name; what is there already is not sent again."""
        try:
            there = f"{self.root}/native/{digest(local)}"
        except OSError as error:
            raise DeviceError(f"device `{self.name}`: {local} cannot be read: {error.strerror or error}") from error
        self.transport.push(local, there if local.is_dir() else f"{there}/{local.name}")
        return there

    def _ready(self, program: str, content: str, work: str) -> bool:
        """Make the program executable and its work folder there, and remove what is old. Whether the device can pin it to cores."""
        home = str(PurePosixPath(program).parent)
        script = (
            f"chmod 755 {shlex.quote(program)} && mkdir -p {shlex.quote(work)} && touch {shlex.join([home, content])} || exit 1\n"
            f"cd {shlex.quote(self.root)} && find native runs -mindepth 1 -maxdepth 1 -mtime +{_KEPT_DAYS} -exec rm -rf {{}} + 2>/dev/null\n"
            "command -v taskset >/dev/null && echo yes; true"
        )
        done = self.transport.run(["sh", "-c", script], _ANSWER_SECONDS)
        if done.timed_out or done.returncode != 0:
            why = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
            raise DeviceError(f"{PurePosixPath(program).name} and its work folder cannot be made ready under {self.root}: {why}")
        return done.stdout.strip() == "yes"


def mask_of(strengths: Mapping[str, int], threads: Any) -> tuple[str, list[int]]:
    """The cores to pin to, as `taskset` takes them, and by number; ("", []) where nothing is known or all are equal.

    Whole clusters, the strongest first, until every thread has a core: a thread that wanders between kinds of core has two speeds. Without a
    number of threads: every cluster above half of the strongest core.
    """
    found = clusters(dict(strengths))
    if len(found) < 2:
        return "", []
    cores: list[int] = []
    for cluster in found:
        strong = cluster["strength"] > _DEFAULT_SHARE * found[0]["strength"]
        if cores and (len(cores) >= threads if isinstance(threads, int) else not strong):
            break
        cores += cluster["cores"]
    return f"{sum(1 << core for core in cores):x}", sorted(cores)


def _runtimes() -> str:
    return ", ".join(sorted({PROGRAMS[name].RUNTIME for name in PROGRAMS}))
