"""A job as it lies on a board: which files it is made of, where they go, what it is known by, and what became of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from kdedge.devices import jobs
from kdedge.devices.jobs import placed
from kdedge.devices.transport import Completed
from kdedge.errors import DeviceError
from kdedge.runtimes.job import Job, Result
from kdedge.runtimes.supervise import STDERR, STDOUT, Ended

# A lease wants to be renewed, and one who waits to hear that a job died.
_LONGEST_QUIET = 10.0


def files_of(job: Job, folder: Path) -> list[Path]:
    """All files that a job names; paths in a job are relative to its folder."""
    named = [path for paths in job.graphs.values() for path in paths] + [path for bucket in job.buckets for path in bucket.values()]
    return [folder / path for path in named]


def staged_job(job: Job, folder: Path, digests: Mapping[Path, str]) -> tuple[Job, dict[str, str]]:
    """The job with paths as seen from its `work` folder on the board, and the names beside that folder -> hashes in the store.

    Files keep their names within a graph, since a runtime finds side files by them.
    """
    names: dict[str, str] = {}

    def place(path: str, where: str) -> str:
        names[where] = digests[folder / path]
        return f"../{where}"

    return placed(job, place), names


def run_id(
    job: Job, folder: Path, digests: Mapping[Path, str], name: str, timeout: float, environment: Mapping[str, str], python: str, worker: str
) -> str:
    """The hash of all that decides what comes of a job: content of its files and their names, options, environment, interpreter, worker."""
    staged, names = staged_job(job, folder, digests)
    told = [asdict(staged), names, name, timeout, dict(environment), python, worker]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def quiet_seconds(job: Job) -> float:
    """How long a job is left alone once it runs: a launch cannot end before its rule is met, and a look at it would take from what it measures."""
    return min(job.launch.warmup_seconds + job.launch.min_seconds, _LONGEST_QUIET) if job.kind == "launch" else 0.0


def read_ended(text: str, device: str) -> Ended:
    """What a supervisor wrote of the end of a job.

    Raises:
        DeviceError: it cannot be read.
    """
    try:
        ended = Ended(**json.loads(text))
        if not isinstance(ended.returncode, int) or not isinstance(ended.status, str):
            raise ValueError("a code or a status is none")
        return ended
    except (ValueError, TypeError) as error:
        raise DeviceError(f"device `{device}`: how the job ended cannot be read ({error}): {text[:200]!r}") from error


def concluded(job: Job, folder: Path, ended: Ended, timeout: float) -> Result:
    """The result that was fetched into `folder`, or why there is none; what the job said goes to `worker.log`."""
    said = Completed(ended.returncode, _taken(folder / STDOUT), _taken(folder / STDERR), ended.timed_out)
    result = jobs.concluded(job, folder, said, timeout)
    return replace(result, reason=f"the device's disk is full; {result.reason}") if ended.disk_full and result.status == "failed" else result


def _taken(path: Path) -> str:
    """The text of a file that is not kept."""
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    path.unlink()
    return text
