"""The outputs of every example by a program that takes raw input files and writes raw output files, one process a batch.

Batches go to the device in portions: one transfer there, one script that calls the program for each of them, one transfer back.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.devices.native.bench import Bench, link_graph
from kdedge.runtimes.arrays import Bucket, OutputFile
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.job import Job, Result

Arrays = Mapping[str, npt.NDArray[Any]]
# Input name -> array, the folder there with `input-N.bin`, the folder there for what the program writes -> its arguments.
Arguments = Callable[[Arrays, str, str], Sequence[str]]
# The folder here with what the program wrote, and what it printed -> its outputs by name.
Outputs = Callable[[Path, str, int], Arrays]

_PORTION_CALLS = 200
_PORTION_BYTES = 64 << 20
_LOG = "printed.txt"


def stage(job: Job, folder: Path, content: Path) -> None:
    """The model, and for a launch the first `batch` examples as raw files.

    Raises:
        RuntimeFailure: a file is missing, or the job has no inputs.
    """
    link_graph(next(iter(job.graphs.values())), folder, content)
    if not job.buckets:
        raise RuntimeFailure(f"a {job.kind} job needs a bucket of inputs; this job has none")
    if job.kind == "launch":
        with Bucket({name: str(folder / path) for name, path in job.buckets[0].items()}) as bucket:
            for position, array in enumerate(bucket.first(job.batch).values()):
                (content / f"input-{position}.bin").write_bytes(array.tobytes())


def validate(job: Job, folder: Path, bench: Bench, arguments: Arguments, outputs: Outputs) -> Result:
    """Send every bucket through the program and write its outputs as the worker does. `loop_seconds` is not told: the host waits for transfers.

    Raises:
        RuntimeFailure: the program failed, or wrote outputs that do not fit the batch.
        DeviceError: the device is lost.
    """
    paths: list[dict[str, str]] = []
    examples = calls = 0
    for number, files in enumerate(job.buckets):
        with Bucket({name: str(folder / path) for name, path in files.items()}) as bucket:
            writer = _Writer(folder, number, bucket.size)
            portion: list[tuple[Arrays, int]] = []
            for inputs, count in bucket.batches(job.batch, job.fixed_batch):
                portion.append((inputs, count))
                if len(portion) >= min(_PORTION_CALLS, max(1, _PORTION_BYTES // max(1, sum(array.nbytes for array in inputs.values())))):
                    _run(portion, bench, arguments, outputs, writer)
                    calls += len(portion)
                    portion = []
            if portion:
                _run(portion, bench, arguments, outputs, writer)
                calls += len(portion)
            paths.append(writer.close())
            examples += bucket.size
    return Result(status="ok", iterations=calls, examples=examples, outputs=paths)


def _run(portion: Sequence[tuple[Arrays, int]], bench: Bench, arguments: Arguments, outputs: Outputs, writer: _Writer) -> None:
    there, back = f"{bench.work}/inputs", f"{bench.work}/outputs"
    lines = [f"cd {shlex.quote(bench.work)} || exit 1"]
    with tempfile.TemporaryDirectory(prefix="kdedge-native-") as name:
        here = Path(name)
        for call, (inputs, _) in enumerate(portion):
            (here / f"inputs/{call}").mkdir(parents=True)
            for position, array in enumerate(inputs.values()):
                (here / f"inputs/{call}/input-{position}.bin").write_bytes(np.ascontiguousarray(array).tobytes())
            line = bench.line(arguments(inputs, f"{there}/{call}", f"{back}/{call}"))
            log = shlex.quote(f"{back}/{call}/{_LOG}")
            # What a program printed last says why it failed, and is the last line of this script's own output.
            lines.append(f"mkdir -p {shlex.quote(f'{back}/{call}')} && {line} >{log} 2>&1 || {{ code=$?; cat {log}; exit $code; }}")
        (here / "inputs/run.sh").write_text("\n".join(lines) + "\n")
        bench.transport.push(here / "inputs", there)
        bench.checked(f"sh {shlex.quote(f'{there}/run.sh')}")
        bench.transport.pull(back, here / "outputs")
        bench.checked(f"rm -rf {shlex.join([there, back])}")
        for call, (inputs, count) in enumerate(portion):
            rows = len(next(iter(inputs.values())))
            printed = (here / f"outputs/{call}" / _LOG).read_text(encoding="utf-8", errors="replace")
            writer.append(outputs(here / f"outputs/{call}", printed, rows), rows, count)


class _Writer:
    """The outputs of one bucket, whose names are known with the first batch."""

    def __init__(self, folder: Path, number: int, rows: int) -> None:
        self._folder, self._number, self._rows = folder, number, rows
        self._files: dict[str, OutputFile] = {}
        self._paths: dict[str, str] = {}

    def append(self, arrays: Arrays, rows: int, count: int) -> None:
        if not self._files:
            (self._folder / f"outputs/{self._number}").mkdir(parents=True, exist_ok=True)
            # A name comes from a model that may be anyone's: it never steers the path.
            self._paths = {name: f"outputs/{self._number}/output-{position}.npy" for position, name in enumerate(arrays)}
            self._files = {name: OutputFile(name, str(self._folder / path), self._rows) for name, path in self._paths.items()}
        if set(arrays) != set(self._files):
            raise RuntimeFailure(f"the outputs changed from {', '.join(self._files)} to {', '.join(arrays)} between batches")
        for name, file in self._files.items():
            file.append(np.asarray(arrays[name]), rows, count)

    def close(self) -> dict[str, str]:
        for file in self._files.values():
            file.close()
        return self._paths
