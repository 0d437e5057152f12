"""`onnx_test_runner`: whether ONNX Runtime there gives the outputs that ONNX Runtime here gives. It writes no outputs, so a job stays not run.

Options and formats: microsoft/onnxruntime, `onnxruntime/test/onnx/` (`main.cc` at 16058a8, `TestCase.cc` at 008eeb9, `TestResultStat.cc` at
1e8d108). What matters of them: every folder beside the model is a case with `input_N.pb` and `output_N.pb`, found by their names; `config.txt`
holds the tolerances in all versions; a case that differs makes the exit code 255.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdedge.devices import local
from kdedge.devices.device import DeviceSettings
from kdedge.devices.jobs import run_job
from kdedge.devices.native.batches import Arrays
from kdedge.devices.native.bench import OPTIMIZATION_LEVELS, Bench, link_graph
from kdedge.devices.native.tensor_proto import tensor_proto
from kdedge.runtimes.arrays import Bucket
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.job import Job, Result
from kdedge.runtimes.onnxruntime import OPTIONS
from kdedge.runtimes.options import read_options

RUNTIME = "onnxruntime"
# main.cc's own default for both. Float graphs keep it on every processor; integer graphs round otherwise on x86 than on arm64.
TOLERANCE = 1e-3
_CASES = 16
_SECONDS = 600.0
_COUNTS = {
    "cases": r"Total test cases: *(\d+)",
    "equal": r"Succeeded: *(\d+)",
    "not_implemented": r"Not implemented: *(\d+)",
    "different": r"Result differs: *(\d+)",
}


def stage(job: Job, folder: Path, content: Path) -> None:
    """The model, and the first batches with the outputs that this machine's ONNX Runtime gives for them.

    Raises:
        NotAvailable: ONNX Runtime does not run here.
        RuntimeFailure: a file is missing, or an array cannot be written as a protobuf.
    """
    link_graph(next(iter(job.graphs.values())), folder, content)
    if not job.buckets:
        raise RuntimeFailure(f"a {job.kind} job needs a bucket of inputs; this job has none")
    (content / "config.txt").write_text(
        f"per_sample_tolerance: {TOLERANCE:g}\nrelative_per_sample_tolerance: {TOLERANCE:g}\npost_processing: false\n"
    )
    with Bucket({name: str(folder / path) for name, path in job.buckets[0].items()}) as bucket:
        batches = [inputs for inputs, _ in itertools.islice(bucket.batches(job.batch, job.fixed_batch), _CASES)]
        outputs = _expected(job, folder, {name: np.concatenate([inputs[name] for inputs in batches]) for name in bucket.names})
    for number, inputs in enumerate(batches):
        case = content / f"test_data_set_{number}"
        case.mkdir()
        rows = slice(number * job.batch, (number + 1) * job.batch)
        _write(case, "input", inputs)
        _write(case, "output", {name: array[rows] for name, array in outputs.items()})


def validate(job: Job, folder: Path, bench: Bench) -> Result:
    """How many batches give there what they give here. The status is `not-run`: without outputs there is no fidelity.

    Raises:
        RuntimeFailure: the program failed, or printed no counts.
    """
    level = OPTIMIZATION_LEVELS[read_options(RUNTIME, job.options, OPTIONS)["optimization"]]
    completed = bench.run(bench.line(["-e", "cpu", "-j", "1", "-c", "1", "-o", level, bench.content]))
    found = read_counts(completed.stdout)
    if not found.get("cases") or completed.returncode not in (0, 255):
        raise RuntimeFailure(f"onnx_test_runner compared nothing (exit code {completed.returncode}){bench.last_words(completed)}")
    return Result(
        status="not-run",
        reason=(
            "onnx_test_runner compares outputs and does not write them, so that fidelity is not known; "
            f"{found.get('equal', 0)} of {found['cases']} batches equal those of ONNX Runtime on this machine within {TOLERANCE:g}"
        ),
        iterations=found["cases"],
        facts={"compared": {**found, "tolerance": TOLERANCE}},
    )


def read_counts(printed: str) -> dict[str, int]:
    """The counts of its report by name; one that is not printed is absent."""
    matches = {name: re.search(pattern, printed) for name, pattern in _COUNTS.items()}
    return {name: int(match[1]) for name, match in matches.items() if match}


def _expected(job: Job, folder: Path, inputs: Arrays) -> Arrays:
    """What ONNX Runtime on this machine gives for the same batches."""
    graphs = {name: [str((folder / path).resolve()) for path in paths] for name, paths in job.graphs.items()}
    with tempfile.TemporaryDirectory(prefix="kdedge-native-") as temporary:
        work = Path(temporary)
        files = {name: str(work / f"{position}.npy") for position, name in enumerate(inputs)}
        for name, path in files.items():
            np.save(path, inputs[name])
        result = run_job(local.open_device("local", DeviceSettings()), replace(job, graphs=graphs, buckets=[files]), work / "job", _SECONDS)
        if result.status != "ok":
            raise NotAvailable(f"there is nothing to compare with: ONNX Runtime on this machine says: {result.reason}")
        return {name: np.load(work / "job" / path, allow_pickle=False) for name, path in result.outputs[0].items()}


def _write(case: Path, kind: str, arrays: Arrays) -> None:
    for number, (name, array) in enumerate(arrays.items()):
        (case / f"{kind}_{number}.pb").write_bytes(tensor_proto(name, array))
