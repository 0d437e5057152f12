"""A job in the words of the page: files by number, onnxruntime-web's session options, and no path of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kdedge.devices.browser.options import web_options
from kdedge.errors import DeviceError
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.job import Job
from kdedge.runtimes.launch import check_rule


def describe(job: Job, folder: Path) -> dict[str, Any]:
    """What a page is told of a job, the files that it may fetch for it (`paths`), and the examples of each bucket (`rows`).

    Raises:
        RuntimeFailure: the job cannot be done by a page (NotAvailable where the runtime is another).
        DeviceError: a file cannot be read.
    """
    if job.runtime != "onnxruntime":
        raise NotAvailable(f"a browser runs files of `onnxruntime` (by onnxruntime-web), not of `{job.runtime}`")
    if job.kind not in ("validate", "launch"):
        raise NotAvailable(f"a browser tells nothing of what job `{job.kind}` measures: it takes validate and launch")
    if job.sustained is not None:
        raise NotAvailable("a browser tells neither temperatures nor clocks, which a sustained launch is judged by: it takes bursts")
    if len(job.graphs) != 1:
        raise RuntimeFailure(f"the job has {len(job.graphs)} graphs ({', '.join(job.graphs)}); a page runs one")
    if job.batch < 1:
        raise RuntimeFailure(f"the job's batch is {job.batch}; it must be at least 1")
    if not job.buckets:
        raise RuntimeFailure("the job has no bucket of inputs")
    check_rule(job.launch)
    options = web_options(job.options)
    paths: list[Path] = []

    def numbered(path: str) -> dict[str, Any]:
        full = folder / path
        if not full.is_file():
            raise DeviceError(f"the job's file {full} does not exist")
        paths.append(full)
        return {"file": len(paths) - 1, "name": full.name, "bytes": full.stat().st_size}

    graph = [numbered(path) for path in next(iter(job.graphs.values()))]
    buckets = job.buckets[:1] if job.kind == "launch" else job.buckets
    inputs = [{name: numbered(path) for name, path in bucket.items()} for bucket in buckets]
    rows = [_rows([folder / path for path in bucket.values()]) for bucket in buckets]
    told = {"kind": job.kind, "batch": job.batch, "fixed_batch": job.fixed_batch, "rule": asdict(job.launch), "graph": graph, "buckets": inputs}
    return {**told, **options, "paths": paths, "rows": rows}


def _rows(paths: Sequence[Path]) -> int:
    try:
        sizes = {len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in paths}
    except (OSError, ValueError, TypeError) as error:
        raise RuntimeFailure(f"an input cannot be read as .npy: {error}") from error
    if len(sizes) != 1 or 0 in sizes:
        raise RuntimeFailure(
            f"inputs of one bucket must have one number of examples, at least 1; they have {', '.join(map(str, sorted(sizes))) or 'none'}"
        )
    return sizes.pop()
