"""The contract between kdedge and a worker: a folder with `job.json`, which the worker turns into `result.json` and arrays.

    job.json                 what to do (`Job`)
    result.json              what came of it (`Result`); written last and atomically: where it is missing, the worker died
    outputs/BUCKET/NAME.npy  validate: outputs in the order of the inputs
    warmup_ns.npy, samples_ns.npy   launch, energy: every iteration, int64 ns of host time, synchronised
    executed.json            validate: list of {name, operator, dtype, provider}; `facts["executed"]` counts them by dtype
    crash.txt                where a worker that died was, if it could still say so

Paths inside `job.json` are relative to the job's folder or absolute. Python 3.8, standard library only.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional

from .errors import RuntimeFailure

SCHEMA = 1
# Where a crash handler writes in which call a worker died.
CRASH_FILE = "crash.txt"
KINDS = ("validate", "launch", "energy")


@dataclass(frozen=True)
class LaunchRule:
    """When a launch is warm and when it is done: both warm-up minima, then both timed minima or `max_seconds`."""

    warmup_seconds: float = 1.0
    warmup_iterations: int = 10
    min_seconds: float = 2.0
    min_iterations: int = 64
    max_seconds: float = 60.0


@dataclass(frozen=True)
class SustainedRule:
    """When a sustained launch is done: after `seconds`, or once the machine is as hot as it gets.

    It is that from `least_seconds` on, when the hottest zone's temperature, a straight line through its last `flat_seconds`, changes by less than
    `flat_c_per_minute`. A machine without readable temperatures runs for `seconds`. `observe_seconds`: how often temperature, clocks and throttle
    counters are read, between iterations.
    """

    seconds: float = 600.0
    least_seconds: float = 180.0
    flat_seconds: float = 120.0
    flat_c_per_minute: float = 0.5
    observe_seconds: float = 2.0


@dataclass(frozen=True)
class EnergyRule:
    """How energy is measured: supplies are read every `interval_seconds`, for `idle_seconds` before the warm-up and then over the timed window."""

    interval_seconds: float = 0.05
    idle_seconds: float = 5.0


@dataclass(frozen=True)
class Job:
    """One piece of work for one process.

    `graphs`: graph name -> files, the one that the runtime opens first. `buckets`: one dict a bucket, input name -> `.npy` of [n, ...];
    a launch uses the first `batch` examples of the first bucket. `batch`: examples a call; where the graph's batch is fixed, a ragged
    last batch is filled up with the last example and cut afterwards. `sustained`: a launch by that rule, which needs no warm-up. `energy`: of the
    kind `energy`, a launch whose supplies are sampled.
    """

    kind: str
    runtime: str
    graphs: Dict[str, List[str]]
    options: Dict[str, Any]
    buckets: List[Dict[str, str]]
    batch: int = 1
    fixed_batch: bool = True
    launch: LaunchRule = field(default_factory=LaunchRule)
    schema: int = SCHEMA
    sustained: Optional[SustainedRule] = None
    energy: EnergyRule = field(default_factory=EnergyRule)


@dataclass(frozen=True)
class Result:
    """What a worker says. `status`: ok | failed | not-run; `reason` is one sentence. Times in ms, memory in bytes."""

    status: str
    reason: str = ""
    runtime: str = ""
    runtime_version: str = ""
    load_ms: Optional[float] = None
    first_inference_ms: Optional[float] = None
    iterations: int = 0
    examples: int = 0
    loop_seconds: Optional[float] = None
    peak_memory_bytes: Optional[int] = None
    outputs: List[Dict[str, str]] = field(default_factory=list)
    facts: Dict[str, Any] = field(default_factory=dict)
    evidence: Dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def write_json(path: str, value: Any) -> None:
    """Write JSON so that a reader sees the whole file or none."""
    temporary = path + ".partial"
    with open(temporary, "w", encoding="utf-8") as handle:
        json.dump(value, handle, indent=1, sort_keys=True)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def write_job(folder: str, job: Job) -> None:
    """Write `job.json` into a folder that exists."""
    write_json(os.path.join(folder, "job.json"), asdict(job))


def read_job(folder: str) -> Job:
    """Read and check `job.json`.

    Raises:
        RuntimeFailure: the file is missing, is not JSON, or has another schema or an unknown kind or key.
    """
    path = os.path.join(folder, "job.json")
    values = _read(path)
    if values.get("kind") not in KINDS:
        raise RuntimeFailure("%s: kind is %r; allowed: %s" % (path, values.get("kind"), ", ".join(KINDS)))
    try:
        values["launch"] = LaunchRule(**values.get("launch", {}))
        values["sustained"] = SustainedRule(**values["sustained"]) if values.get("sustained") else None
        values["energy"] = EnergyRule(**values.get("energy", {}))
        return Job(**values)
    except TypeError as error:
        raise RuntimeFailure("%s: %s" % (path, error)) from error


def write_result(folder: str, result: Result) -> None:
    """Write `result.json`, last of all."""
    write_json(os.path.join(folder, "result.json"), asdict(result))


def read_result(folder: str) -> Optional[Result]:
    """The result, or None where the worker died before it could write one."""
    path = os.path.join(folder, "result.json")
    if not os.path.exists(path):
        return None
    return Result(**_read(path))


def _read(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as handle:
            values = json.load(handle)
    except (OSError, ValueError) as error:
        raise RuntimeFailure("%s cannot be read: %s" % (path, error)) from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise RuntimeFailure(
            "%s: schema %r; this worker reads schema %d" % (path, values.get("schema") if isinstance(values, dict) else None, SCHEMA)
        )
    return dict(values)
