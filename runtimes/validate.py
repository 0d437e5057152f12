"""The `validate` job: every example through the graph once, outputs in the order of the inputs, and what really ran read back."""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict
from typing import Any, Dict, List, Mapping, Sequence, Set

from .arrays import Bucket, OutputFile
from .errors import RuntimeFailure
from .executed import count_by_dtype
from .job import Job, Result, write_json
from .memory import peak_memory_bytes
from .session import Session

EXECUTED_FILE = "executed.json"
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")


def run(job: Job, folder: str, session: Session) -> Result:
    """Run all buckets, then read back what ran. Peak memory is read before that, because reading back may open the graph again.

    Raises:
        RuntimeFailure: inputs do not fit the graph, or an output has no batch dimension.
    """
    outputs: List[Dict[str, str]] = []
    examples = calls = 0
    seconds = 0.0
    for number, files in enumerate(job.buckets):
        with Bucket({name: os.path.join(folder, path) for name, path in files.items()}) as bucket:
            check_names(bucket.names, session.input_names)
            paths = _output_paths(session.output_names, number)
            os.makedirs(os.path.join(folder, "outputs", str(number)), exist_ok=True)
            seconds += run_bucket(bucket, session, job.batch, job.fixed_batch, {name: os.path.join(folder, path) for name, path in paths.items()})
            outputs.append(paths)
            examples += bucket.size
            calls += -(-bucket.size // job.batch)
    peak = peak_memory_bytes()
    layers = session.executed()
    write_json(os.path.join(folder, EXECUTED_FILE), [asdict(layer) for layer in layers])
    facts: Dict[str, Any] = dict(session.facts(), executed=count_by_dtype(layers))
    return Result(status="ok", iterations=calls, examples=examples, loop_seconds=seconds, peak_memory_bytes=peak, outputs=outputs, facts=facts)


def run_bucket(bucket: Bucket, session: Session, batch: int, fixed: bool, paths: Mapping[str, str]) -> float:
    """Send one bucket through a session and write its outputs (`paths`: output name -> file). Returns the seconds that it took.

    Raises:
        RuntimeFailure: an output has no batch dimension, or changes its shape or dtype.
    """
    writers = {name: OutputFile(name, path, bucket.size) for name, path in paths.items()}
    pairs = list(writers.items())
    start = time.perf_counter()
    try:
        for inputs, count in bucket.batches(batch, fixed):
            outputs = session.run(inputs)
            size = batch if fixed else count
            for name, writer in pairs:
                writer.append(outputs[name], size, count)
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.abandon()
    return time.perf_counter() - start


def check_names(given: Sequence[str], wanted: Sequence[str]) -> None:
    """Compare the inputs that a bucket gives with those that the graph takes.

    Raises:
        RuntimeFailure: one is missing or unknown.
    """
    if set(given) != set(wanted):
        raise RuntimeFailure("the job gives the inputs %s, the graph takes %s" % (", ".join(sorted(given)), ", ".join(sorted(wanted))))


def _output_paths(names: Sequence[str], bucket: int) -> Dict[str, str]:
    """Output name -> file, relative to the job's folder. A name comes from a graph that may be anyone's: it never steers the path."""
    paths: Dict[str, str] = {}
    taken: Set[str] = set()
    for number, name in enumerate(names):
        leaf = name if _SAFE_NAME.match(name) and name.lower() not in taken else "output-%d" % number
        taken.add(leaf.lower())
        paths[name] = "outputs/%d/%s.npy" % (bucket, leaf)
    return paths
