"""What the worker does once its Python is known to be new enough."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import sys
import time
import traceback
from typing import Any, Callable, Dict, Optional

from . import adapter, evidence, launch, power, validate
from .errors import NotAvailable, RuntimeFailure
from .job import CRASH_FILE, Job, Result, read_job, write_result
from .memory import peak_memory_bytes
from .parent import die_with_parent
from .session import Session

RUNNERS: Dict[str, Callable[[Job, str, Session], Result]] = {"validate": validate.run, "launch": launch.run, "energy": power.run}

_REASON_LENGTH = 600


def perform(folder: str) -> int:
    """Do the job in `folder` and write its result. Returns the exit code: 0 with a result, 2 where none could be written."""
    die_with_parent()
    crash = os.path.join(folder, CRASH_FILE)
    try:
        handle = open(crash, "w", encoding="utf-8")  # noqa: SIM115 - the crash handler writes to it until the process ends
    except OSError as error:
        sys.stderr.write("the job folder %s cannot be written: %s\n" % (folder, error))
        return 2
    faulthandler.enable(handle)
    try:
        result = attempt(folder)
        write_result(folder, result)
    except OSError as error:
        sys.stderr.write("result.json cannot be written: %s\n" % error)
        return 2
    finally:
        faulthandler.disable()
        handle.close()
    if os.path.getsize(crash) == 0:
        os.remove(crash)
    return 0


def attempt(folder: str) -> Result:
    """The job's result, whatever happened: `not-run` where the runtime is not available, `failed` for everything else that goes wrong."""
    job: Optional[Job] = None
    try:
        job = read_job(folder)
        return run_job(job, folder)
    except NotAvailable as error:
        return _unfinished("not-run", str(error), job, folder)
    except RuntimeFailure as error:
        return _unfinished("failed", str(error), job, folder)
    except MemoryError as error:
        return _unfinished("failed", "out of memory: %s" % (str(error) or "the process could not get what it asked for"), job, folder)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return _unfinished("failed", _sentence(error), job, folder)


def run_job(job: Job, folder: str) -> Result:
    """Open the session, run the job, close the session.

    Raises:
        NotAvailable: the runtime, or the hardware that it needs, is not here.
        RuntimeFailure: the job cannot be done.
    """
    runtime = adapter(job.runtime)
    started = {"memory_bytes_at_start": peak_memory_bytes(), "before": evidence.snapshot()}
    available = runtime.is_available()
    if not available.available:
        raise NotAvailable(available.reason)
    if len(job.graphs) != 1:
        raise RuntimeFailure("the job has %d graphs (%s); this worker runs one" % (len(job.graphs), ", ".join(job.graphs)))
    if job.batch < 1:
        raise RuntimeFailure("the job's batch is %d; it must be at least 1" % job.batch)
    paths = [os.path.join(folder, path) for path in next(iter(job.graphs.values()))]
    missing = [os.path.basename(path) for path in paths if not os.path.isfile(path)]
    if missing:
        raise RuntimeFailure("the job's file %s does not exist" % ", ".join(missing))

    import_ms = _milliseconds(getattr(runtime, "import_runtime", None))
    begin = time.perf_counter_ns()
    session = runtime.open_session(paths, job.options)
    load_ms = (time.perf_counter_ns() - begin) / 1e6
    try:
        result = RUNNERS[job.kind](job, folder, session)
    finally:
        session.close()
    return dataclasses.replace(
        result,
        runtime=job.runtime,
        runtime_version=runtime.version(),
        load_ms=load_ms,
        facts=dict(result.facts, import_ms=import_ms),
        evidence=dict(started, after=evidence.snapshot(), **evidence.conditions()),
    )


def _milliseconds(function: Optional[Callable[[], Any]]) -> Optional[float]:
    """How long a runtime's import took: Python's cost, kept out of the load time, which a program in another language has too."""
    if function is None:
        return None
    begin = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - begin) / 1e6


def _unfinished(status: str, reason: str, job: Optional[Job], folder: str) -> Result:
    for path in [path for paths in job.graphs.values() for path in paths] if job is not None else []:
        # A runtime's message names files where they happen to lie; the reader knows them by their names.
        reason = reason.replace(os.path.join(folder, path), os.path.basename(path))
    reason = reason.replace(os.path.join(folder, ""), "")
    if job is None:
        return Result(status=status, reason=reason[:_REASON_LENGTH])
    version = ""
    with contextlib.suppress(RuntimeFailure):  # the reason says already that there is no such runtime
        version = adapter(job.runtime).version()
    return Result(status=status, reason=reason[:_REASON_LENGTH], runtime=job.runtime, runtime_version=version, peak_memory_bytes=peak_memory_bytes())


def _sentence(error: BaseException) -> str:
    """The first line of a foreign exception, with its class. Runtimes put their own traces behind it; stderr keeps those."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    # C++ allocation failures reach Python as plain runtime errors.
    if "bad_alloc" in first or "bad allocation" in first:
        return "out of memory: %s" % first
    return "%s: %s" % (type(error).__name__, first)
