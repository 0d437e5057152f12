"""Run one job on a device and say what came of it. A worker that dies is a result, not an exception."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType
from typing import Any

from kdedge import progress
from kdedge.devices.device import Device
from kdedge.devices.patience import state_of
from kdedge.devices.transport import Completed, Transport
from kdedge.errors import LOST
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.job import CRASH_FILE, Job, Result, read_result, write_job

WORKER = "kdedge.runtimes.worker"
LOG_FILE = "worker.log"

# Nothing phones home: OpenVINO's and NNCF's telemetry, ONNX Runtime's, Hugging Face's, and whoever honours the common switch.
_SILENT = {"CI": "true", "NNCF_CI": "1", "ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
_LINE_LENGTH = 300


def run_job(device: Device, job: Job, folder: Path, timeout: float, name: str = "") -> Result:
    """Run a worker for `job` on the device; `folder` then holds its outputs, samples and `worker.log`.

    `timeout` in seconds. `name`: which piece of a measurement it is, for a device that may have finished it already. A crash, a kill, a timeout
    or a lack of memory gives `Result(status="failed", reason=...)`.

    Raises:
        DeviceError: the device cannot be reached, or a file of the job cannot be placed on it.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in ("result.json", CRASH_FILE):
        (folder / stale).unlink(missing_ok=True)
    try:
        result = device.runner.run(job, folder, timeout, name) if device.runner is not None else _as_child(device, job, folder, timeout)
    except LOST as error:
        progress.device_is(state_of(error))
        raise
    progress.device_is(progress.WORKING)
    return checked(result, folder)


def _as_child(device: Device, job: Job, folder: Path, timeout: float) -> Result:
    write_job(str(folder), stage(device.transport, job, folder))
    # What a killed worker leaves among its temporary files lies in the job's folder and goes with it.
    variables = {**environment(job, device), "TMPDIR": str(folder)}
    completed = device.transport.run([device.python, "-m", WORKER, str(folder)], timeout, variables)
    return concluded(job, folder, completed, timeout)


def concluded(job: Job, folder: Path, completed: Completed, timeout: float) -> Result:
    """The result that a worker left in `folder`, or why there is none; what it said goes to `worker.log`."""
    (folder / LOG_FILE).write_text(completed.stdout + completed.stderr, encoding="utf-8")
    try:
        result = read_result(str(folder))
    except (RuntimeFailure, TypeError) as error:
        return Result(status="failed", reason=f"the worker's result cannot be read: {error}", runtime=job.runtime)
    return result or Result(status="failed", reason=explain(completed, timeout, folder), runtime=job.runtime)


def stage(transport: Transport, job: Job, folder: Path) -> Job:
    """Link the job's files into `folder`/files and return the job with paths relative to `folder`."""

    def place(path: str, where: str) -> str:
        # Relative paths in a job are relative to its folder.
        transport.push(folder / path, str(folder / where))
        return where

    return placed(job, place)


def placed(job: Job, place: Callable[[str, str], str]) -> Job:
    """The job with each of its paths replaced by what `place(path, where)` returns; `where`: `files/...`, unlike for each file.

    Files keep their names within a graph, since a runtime finds side files by them.
    """
    graphs = {
        name: [place(path, f"files/graph-{number}/{Path(path).name}") for path in paths] for number, (name, paths) in enumerate(job.graphs.items())
    }
    buckets = [
        {name: place(path, f"files/inputs-{number}/{position}.npy") for position, (name, path) in enumerate(bucket.items())}
        for number, bucket in enumerate(job.buckets)
    ]
    return replace(job, graphs=graphs, buckets=buckets)


def environment(job: Job, device: Device) -> dict[str, str]:
    """What the worker finds in its environment: thread counts within the job's (or the device's cores), idle threads that sleep, no telemetry."""
    asked = job.options.get("threads")
    threads = str(asked) if isinstance(asked, int) and asked > 0 else device.identity.fingerprint.get("cores", "1")
    return {
        **_SILENT,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",  # a file `torch.py` in the current folder must not become torch
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": "1",  # numpy's own: the worker does no algebra
    }


def explain(completed: Completed, timeout: float, folder: Path) -> str:
    """Why there is no result, in a sentence."""
    if completed.timed_out:
        return f"stopped after {timeout:g} s, the limit of this job{last_words(completed.stderr)}"
    if completed.returncode == -signal.SIGKILL:
        return f"killed (signal 9), probably out of memory{last_words(completed.stderr)}"
    if completed.returncode < 0:
        return f"signal {-completed.returncode} ({_signal_name(-completed.returncode)}){_place_of_crash(folder)}{last_words(completed.stderr)}"
    return f"the worker ended with exit code {completed.returncode} and no result{last_words(completed.stderr)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _place_of_crash(folder: Path) -> str:
    """The innermost Python frame that the crash handler saw."""
    path = folder / CRASH_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.search(r'most recent call first\):\s*File "([^"]+)", line (\d+) in (\S+)', text)
    return f" in {found.group(3)} ({Path(found.group(1)).name}, line {found.group(2)})" if found else ""


def last_words(text: str) -> str:
    """The last line that says something, behind a colon; "" where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:_LINE_LENGTH]}" if lines else ""


# What a field of a result may hold, by its annotation.
_FORMS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "Optional[int]": (int, NoneType),
    "Optional[float]": (float, int, NoneType),
    "List[Dict[str, str]]": (list,),
    "Dict[str, Any]": (dict,),
}


def _has_form(value: Any, annotation: str) -> bool:
    return isinstance(value, _FORMS[annotation]) and all(isinstance(each, dict) for each in (value if isinstance(value, list) else ()))


def checked(result: Result, folder: Path) -> Result:
    """Refuse a result that has not the form of one, or whose outputs lie outside the job's folder: it may come from a board that is not ours."""
    wrong = [each.name for each in fields(result) if not _has_form(getattr(result, each.name), str(each.type))]
    if result.status not in ("ok", "failed", "not-run"):
        wrong.append("status")
    if wrong or not all(isinstance(path, str) for bucket in result.outputs if isinstance(bucket, dict) for path in bucket.values()):
        return Result(status="failed", reason=f"the worker's result has no usable {', '.join(wrong) or 'outputs'}")
    for bucket in result.outputs:
        for name, path in bucket.items():
            if not (folder / path).resolve().is_relative_to(folder):
                return Result(status="failed", reason=f"output `{name}` lies outside the job's folder: {path}", runtime=result.runtime)
    return result
