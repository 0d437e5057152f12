"""ExecuTorch's `executor_runner`: outputs of every example, and launches by builds that print every iteration.

Options and formats: pytorch/executorch, `examples/portable/executor_runner/executor_runner.cpp` at 018a3a5 (at fefc4a2 it had none of the options
but `--model_path`), `runtime/platform/default/android.cpp` at 0ae69ec. What matters of them:

- Its log goes to stderr, and on Android to the system's log, which is asked for this process alone.
- `Iteration I of N: X ms` is a newer line; without it there is only the sum of all executions, and a launch has no percentiles.
- `--output_file=BASE` writes BASE-N.bin, raw; the shape is printed behind `OutputX N`; the type is not, and four bytes are taken for a float.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.devices.native import batches
from kdedge.devices.native.bench import Bench
from kdedge.devices.native.phases import enough, runs, save_samples, warm
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.job import Job, Result
from kdedge.runtimes.launch import check_rule
from kdedge.runtimes.options import Option, read_options

RUNTIME = "executorch"
OPTIONS = {"threads": Option(int, "threads inside an operator", minimum=1)}
_TAG = "ExecuTorch"
_PRINTED = "printed.txt"
_LOADED = re.compile(r"Model loaded in ([\d.]+) ms")
_ITERATION = re.compile(r"Iteration (\d+) of (\d+): ([\d.]+) ms")
_TOTAL = re.compile(r"Model executed successfully (\d+) time\(s\) in ([\d.]+) ms")
_SIZES = re.compile(r"^Output(?:X)? (\d+): tensor\(sizes=\[([\d, ]*)\]", re.MULTILINE)
_BY_SIZE = {4: "float32", 2: "float16"}


stage = batches.stage


def launch(job: Job, folder: Path, bench: Bench) -> Result:
    """One launch: a first process tells how long an iteration is, and a second does as many as the rule wants where the first did too few.

    Raises:
        RuntimeFailure: the program failed, or printed no time at all.
    """
    check_rule(job.launch)
    argv = [*_common(job, bench), f"--inputs={_inputs(len(job.buckets[0]), bench.content)}"]
    count = 1 + runs(job.launch, 0.0)
    printed = _run(bench, [*argv, f"--num_executions={count}"])
    samples = read_iterations(printed)
    if samples is None:
        return _summary_only(printed, job, argv)
    if not enough(samples[1 + warm(samples[1:], job.launch) :], job.launch):
        count = 1 + runs(job.launch, float(samples[1:].mean()) / 1e9)
        printed = _run(bench, [*argv, f"--num_executions={count}"])
        samples = read_iterations(printed)
        if samples is None:
            return _summary_only(printed, job, argv)
    first, rest = samples[0], samples[1:]
    cut = warm(rest, job.launch)
    save_samples(folder, rest[:cut], rest[cut:])
    loaded = _LOADED.search(printed)
    return Result(
        status="ok",
        load_ms=float(loaded[1]) if loaded else None,
        first_inference_ms=float(first) / 1e6,
        iterations=len(rest) - cut,
        examples=job.batch,
        loop_seconds=float(rest[cut:].sum()) / 1e9,
        facts={"arguments": [*argv, f"--num_executions={count}"]},
    )


def validate(job: Job, folder: Path, bench: Bench) -> Result:
    """The outputs of every example, named output_0 and so on: the file knows no names.

    Raises:
        RuntimeFailure: the program failed, or does not say what it wrote.
    """
    common = _common(job, bench)

    def arguments(arrays: batches.Arrays, there: str, back: str) -> list[str]:
        return [*common, f"--inputs={_inputs(len(arrays), there)}", f"--output_file={back}/output", "--num_executions=1"]

    return batches.validate(job, folder, bench, arguments, lambda here, printed, rows: read_outputs(here, printed))


def read_iterations(printed: str) -> npt.NDArray[np.int64] | None:
    """Every iteration in ns, or None where not every single one was printed: a system log that is full forgets the oldest."""
    found = {int(number): (int(total), float(ms)) for number, total, ms in _ITERATION.findall(printed)}
    totals = {total for total, _ in found.values()}
    if len(totals) != 1 or sorted(found) != list(range(1, next(iter(totals)) + 1)) or len(found) < 2:
        return None
    return np.array([round(found[number][1] * 1e6) for number in sorted(found)], dtype=np.int64)


def read_outputs(here: Path, printed: str) -> dict[str, npt.NDArray[Any]]:
    """The outputs of one execution.

    Raises:
        RuntimeFailure: an output's file or shape is missing, or its numbers are of a size that is not a float's.
    """
    shapes = {int(number): tuple(int(size) for size in sizes.split(",") if size.strip()) for number, sizes in _SIZES.findall(printed)}
    files = {int(path.stem.rpartition("-")[2]): path for path in here.glob("output-*.bin")}
    if not files or set(files) != set(shapes):
        raise RuntimeFailure(
            f"executor_runner wrote {len(files)} outputs and printed the shapes of {len(shapes)}: its version may not know --output_file"
        )
    found = {}
    for number, path in sorted(files.items()):
        data, count = path.read_bytes(), int(np.prod(shapes[number]))
        dtype = _BY_SIZE.get(len(data) // count if count and len(data) % count == 0 else 0)
        if dtype is None:
            raise RuntimeFailure(f"executor_runner's output {number} has {len(data)} bytes for {list(shapes[number])}, which are no floats")
        found[f"output_{number}"] = np.frombuffer(data, dtype=dtype).reshape(shapes[number])
    return found


def _run(bench: Bench, argv: list[str]) -> str:
    """The program, and what the system's log holds of its process; `taskset` becomes the program, so that $! is its number."""
    script = (
        f"{bench.line(argv)} >{_PRINTED} 2>&1 </dev/null & p=$!; wait $p; c=$?\n"
        f"command -v logcat >/dev/null && logcat -d -v raw --pid=$p -s {_TAG} >>{_PRINTED} 2>/dev/null\n"
        f"tail -n 5 {_PRINTED}; exit $c"
    )
    bench.checked(script)
    printed = bench.written(_PRINTED)
    bench.log.append(printed)
    return printed


def _summary_only(printed: str, job: Job, argv: list[str]) -> Result:
    total = _TOTAL.search(printed)
    if total is None:
        raise RuntimeFailure("executor_runner printed no times")
    count, milliseconds = int(total[1]), float(total[2])
    return Result(
        status="not-run",
        reason=(
            f"this executor_runner tells no single times (newer ones print `Iteration I of N`), so that there are no percentiles; it tells {count} "
            f"executions with an average of {milliseconds / count:.4g} ms, the first one among them"
        ),
        iterations=count,
        examples=job.batch,
        facts={"summary": {"count": count, "total_ms": milliseconds}, "arguments": argv},
    )


def _common(job: Job, bench: Bench) -> list[str]:
    threads = read_options(RUNTIME, job.options, OPTIONS)["threads"]
    graph = f"--model_path={bench.content}/{Path(next(iter(job.graphs.values()))[0]).name}"
    return [graph] if threads is None else [graph, f"--cpu_threads={threads}"]


def _inputs(count: int, there: str) -> str:
    return ",".join(f"{there}/input-{position}.bin" for position in range(count))
