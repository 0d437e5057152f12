"""The `launch` job: one fresh process that warms a session up and times it.

Load time, first inference, warm-up and timed iterations are kept apart. A sample is the host's time around one finished inference, in
nanoseconds of a monotonic clock. Percentiles are computed elsewhere, from the raw samples.
"""

from __future__ import annotations

import gc
import os
import time
from array import array
from dataclasses import replace
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from . import contention, sustained
from .arrays import Bucket
from .errors import RuntimeFailure
from .job import Job, LaunchRule, Result
from .memory import peak_memory_bytes
from .reach import here
from .session import Session
from .validate import check_names

WARMUP_FILE = "warmup_ns.npy"
SAMPLES_FILE = "samples_ns.npy"

# Storage for samples is made before the loop, in blocks, so that no iteration pays for it.
_BLOCK = 1 << 14


def run(job: Job, folder: str, session: Session) -> Result:
    """Time the first `batch` examples of the first bucket; by the job's sustained rule where it has one.

    Raises:
        RuntimeFailure: the job has no bucket, its inputs do not fit the graph, or its rule can never be met.
    """
    check_rule(job.launch)
    inputs = inputs_of(job, folder, session)
    if job.sustained is None:
        first, warmup, samples, loop = time_session(session, inputs, job.launch)
        result = finished(job, folder, session, first, warmup, samples)
        return replace(result, facts=dict(result.facts, loop=loop))
    first, samples, watched = sustained.time_session(session, inputs, job.sustained)
    result = finished(job, folder, session, first, np.empty(0, np.int64), samples)
    return replace(result, facts=dict(result.facts, sustained=watched))


def inputs_of(job: Job, folder: str, session: Session) -> Dict[str, np.ndarray]:
    """The first `batch` examples of the first bucket, which every iteration takes.

    Raises:
        RuntimeFailure: the job has no bucket, or its inputs do not fit the graph.
    """
    if not job.buckets:
        raise RuntimeFailure("a launch needs a bucket of inputs; this job has none")
    with Bucket({name: os.path.join(folder, path) for name, path in job.buckets[0].items()}) as bucket:
        check_names(bucket.names, session.input_names)
        return bucket.first(job.batch)


def finished(job: Job, folder: str, session: Session, first: int, warmup: np.ndarray, samples: np.ndarray) -> Result:
    """Keep the samples and say what was timed."""
    np.save(os.path.join(folder, WARMUP_FILE), warmup)
    np.save(os.path.join(folder, SAMPLES_FILE), samples)
    return Result(
        status="ok",
        first_inference_ms=first / 1e6,
        iterations=len(samples),
        examples=job.batch,
        loop_seconds=float(samples.sum()) / 1e9,
        peak_memory_bytes=peak_memory_bytes(),
        facts=session.facts(),
    )


def time_session(session: Session, inputs: Dict[str, np.ndarray], rule: LaunchRule) -> Tuple[int, np.ndarray, np.ndarray, Dict[str, Any]]:
    """First inference in ns, then warm-up samples, then timed samples (both int64 [n], ns), and who else used the processors during the latter."""
    run_session, reach = session.run, here()

    def call() -> Any:
        return run_session(inputs)

    start = time.perf_counter_ns()
    call()
    first = time.perf_counter_ns() - start
    warmup = timed(call, rule.warmup_iterations, rule.warmup_seconds, rule.max_seconds)
    before = contention.moment(reach)
    start = time.perf_counter_ns()
    samples = timed(call, rule.min_iterations, rule.min_seconds, rule.max_seconds)
    spent = time.perf_counter_ns() - start
    return first, warmup, samples, contention.loop(before, contention.moment(reach), spent, reach)


def timed(call: Callable[[], Any], min_iterations: int, min_seconds: float, max_seconds: float) -> np.ndarray:
    """Call until both minima are met, or `max_seconds` are over; at least once. Returns int64 [n], ns.

    The garbage collector rests meanwhile: a collection inside an iteration is Python's time, not the runtime's.
    """
    clock = time.perf_counter_ns
    blocks: List[array[int]] = []
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        begin = clock()
        latest = begin + int(max_seconds * 1e9)
        earliest = min(begin + int(min_seconds * 1e9), latest)
        missing = min_iterations
        done = False
        while not done:
            block = array("q", bytes(8 * _BLOCK))
            blocks.append(block)
            for index in range(_BLOCK):
                before = clock()
                call()
                after = clock()
                block[index] = after - before
                if after >= earliest and (index + 1 >= missing or after >= latest):
                    del block[index + 1 :]
                    done = True
                    break
            missing -= _BLOCK
    finally:
        if collecting:
            gc.enable()
    return np.concatenate([np.frombuffer(block, dtype=np.int64) for block in blocks])


def check_rule(rule: LaunchRule) -> None:
    """Refuse a rule that means nothing.

    Raises:
        RuntimeFailure: a count below its least value, a negative time, or a limit that is not positive.
    """
    if rule.warmup_iterations < 0 or rule.warmup_seconds < 0 or rule.min_iterations < 1 or rule.min_seconds < 0 or rule.max_seconds <= 0:
        raise RuntimeFailure("the launch rule needs min_iterations >= 1, max_seconds > 0 and nothing negative; it is %s" % (rule,))
